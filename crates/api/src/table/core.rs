//! Core kinds besides pods and workloads.

use serde_json::Value;

use super::{AGE, ColumnRow, NAME, age, int_at, joined, labels, list, name, or_none, since, str_at, text, wide};

/// The columns of a Service.
pub const SERVICE_COLUMNS: &[ColumnRow] =
    &[NAME, text("Type"), text("Cluster-IP"), text("External-IP"), text("Port(s)"), AGE, wide("Selector")];

/// The cells of a Service.
pub fn service(object: &Value) -> Vec<Value> {
    let spec = &object["spec"];
    let ports = list(spec, "ports").iter().map(|port| {
        let protocol = str_at(port, "protocol");
        match int_at(port, "nodePort") {
            0 => format!("{}/{protocol}", int_at(port, "port")),
            node => format!("{}:{node}/{protocol}", int_at(port, "port")),
        }
    });
    let ports: Vec<String> = ports.collect();
    let ip = list(spec, "clusterIPs").first().and_then(Value::as_str).unwrap_or_else(|| str_at(spec, "clusterIP"));
    vec![
        name(object),
        str_at(spec, "type").into(),
        or_none(ip).into(),
        external_ip(object).into(),
        joined(ports.iter().map(String::as_str)),
        age(object),
        labels(&spec["selector"]),
    ]
}

fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    let fixed = list(spec, "externalIPs").iter().filter_map(Value::as_str);
    match str_at(spec, "type") {
        "ExternalName" => str_at(spec, "externalName").to_owned(),
        "LoadBalancer" => {
            let ingress = list(&service["status"]["loadBalancer"], "ingress").iter();
            let given =
                ingress.map(|i| if str_at(i, "ip").is_empty() { str_at(i, "hostname") } else { str_at(i, "ip") });
            let all: Vec<&str> = given.chain(fixed).collect();
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        _ => or_none(&fixed.collect::<Vec<_>>().join(",")).to_owned(),
    }
}

/// The columns of a Node.
pub const NODE_COLUMNS: &[ColumnRow] = &[
    NAME,
    text("Status"),
    text("Roles"),
    AGE,
    text("Version"),
    wide("Internal-IP"),
    wide("External-IP"),
    wide("OS-Image"),
    wide("Kernel-Version"),
    wide("Container-Runtime"),
];

/// The cells of a Node.
pub fn node(object: &Value) -> Vec<Value> {
    let ready = list(&object["status"], "conditions").iter().find(|c| c["type"] == "Ready");
    let mut status = match ready.map(|c| c["status"] == "True") {
        Some(true) => "Ready".to_owned(),
        Some(false) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if object["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    let address = |kind: &str| {
        let addresses = list(&object["status"], "addresses").iter();
        let found = addresses.filter(|a| a["type"] == kind).map(|a| str_at(a, "address")).next();
        Value::from(or_none(found.unwrap_or_default()))
    };
    let info = |key: &str| {
        let text = str_at(&object["status"]["nodeInfo"], key);
        Value::from(if text.is_empty() { "<unknown>" } else { text })
    };
    vec![
        name(object),
        status.into(),
        joined(roles(object)),
        age(object),
        str_at(object, "status.nodeInfo.kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

/// Roles are labels: `node-role.kubernetes.io/<role>`, and the older `kubernetes.io/role=<role>`.
fn roles(node: &Value) -> Vec<&str> {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let mut roles: Vec<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role),
            _ => value.as_str().filter(|role| key == "kubernetes.io/role" && !role.is_empty()),
        })
        .collect();
    roles.sort_unstable();
    roles.dedup();
    roles
}

/// The columns of a Namespace.
pub const NAMESPACE_COLUMNS: &[ColumnRow] = &[NAME, text("Status"), AGE];

/// The cells of a Namespace.
pub fn namespace(object: &Value) -> Vec<Value> {
    vec![name(object), str_at(object, "status.phase").into(), age(object)]
}

fn count(object: &Value, keys: &[&str]) -> Value {
    let of = |key: &&str| object[*key].as_object().map_or_else(|| list(object, key).len(), serde_json::Map::len);
    keys.iter().map(of).sum::<usize>().into()
}

/// The columns of a ConfigMap.
pub const CONFIG_MAP_COLUMNS: &[ColumnRow] = &[NAME, text("Data"), AGE];

/// The cells of a ConfigMap.
pub fn config_map(object: &Value) -> Vec<Value> {
    vec![name(object), count(object, &["data", "binaryData"]), age(object)]
}

/// The columns of a Secret.
pub const SECRET_COLUMNS: &[ColumnRow] = &[NAME, text("Type"), text("Data"), AGE];

/// The cells of a Secret.
pub fn secret(object: &Value) -> Vec<Value> {
    vec![name(object), str_at(object, "type").into(), count(object, &["data"]), age(object)]
}

/// The columns of a ServiceAccount.
pub const SERVICE_ACCOUNT_COLUMNS: &[ColumnRow] = &[NAME, text("Secrets"), AGE];

/// The cells of a ServiceAccount.
pub fn service_account(object: &Value) -> Vec<Value> {
    vec![name(object), count(object, &["secrets"]), age(object)]
}

/// At most three of many, and how many more there are.
fn some_of(texts: &[String]) -> Value {
    let shown = texts.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(",");
    match texts.len() {
        0 => "<none>".into(),
        n if n > 3 => format!("{shown} + {} more...", n - 3).into(),
        _ => shown.into(),
    }
}

/// The columns of Endpoints.
pub const ENDPOINTS_COLUMNS: &[ColumnRow] = &[NAME, text("Endpoints"), AGE];

/// The cells of Endpoints.
pub fn endpoints(object: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in list(object, "subsets") {
        for address in list(subset, "addresses") {
            let ip = str_at(address, "ip");
            let ports = list(subset, "ports");
            if ports.is_empty() {
                all.push(ip.to_owned());
            }
            let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
            all.extend(ports.iter().map(|port| format!("{host}:{}", int_at(port, "port"))));
        }
    }
    vec![name(object), some_of(&all), age(object)]
}

/// The columns of an EndpointSlice.
pub const ENDPOINT_SLICE_COLUMNS: &[ColumnRow] = &[NAME, text("AddressType"), text("Ports"), text("Endpoints"), AGE];

/// The cells of an EndpointSlice.
pub fn endpoint_slice(object: &Value) -> Vec<Value> {
    let unset = |key: &str| if list(object, key).is_empty() { Some(Value::from("<unset>")) } else { None };
    let ports: Vec<String> = list(object, "ports")
        .iter()
        .map(|port| match (port["port"].as_i64(), str_at(port, "name")) {
            (Some(number), _) => number.to_string(),
            (None, "") => "*".to_owned(),
            (None, name) => name.to_owned(),
        })
        .collect();
    let addresses: Vec<String> = list(object, "endpoints")
        .iter()
        .flat_map(|endpoint| list(endpoint, "addresses"))
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    vec![
        name(object),
        str_at(object, "addressType").into(),
        unset("ports").unwrap_or_else(|| some_of(&ports)),
        unset("endpoints").unwrap_or_else(|| some_of(&addresses)),
        age(object),
    ]
}

/// The columns of an Event.
pub const EVENT_COLUMNS: &[ColumnRow] = &[
    text("Last Seen"),
    text("Type"),
    text("Reason"),
    text("Object"),
    wide("Subobject"),
    wide("Source"),
    text("Message"),
    wide("First Seen"),
    wide("Count"),
    ("Name", "string", "name", 1),
];

/// The cells of a core/v1 Event.
pub fn event(object: &Value) -> Vec<Value> {
    let source = &object["source"];
    let component = str_at(source, "component");
    let component = if component.is_empty() { str_at(object, "reportingComponent") } else { component };
    let host = if str_at(source, "component").is_empty() {
        str_at(object, "reportingInstance")
    } else {
        str_at(source, "host")
    };
    event_row(
        object,
        &object["involvedObject"],
        component,
        host,
        &["firstTimestamp", "lastTimestamp", "count"],
        "message",
    )
}

/// The cells of an events.k8s.io/v1 Event.
pub fn event_v1(object: &Value) -> Vec<Value> {
    let (component, host) = (str_at(object, "reportingController"), str_at(object, "reportingInstance"));
    let fields = ["deprecatedFirstTimestamp", "deprecatedLastTimestamp", "deprecatedCount"];
    event_row(object, &object["regarding"], component, host, &fields, "note")
}

fn event_row(event: &Value, about: &Value, component: &str, host: &str, old: &[&str; 3], message: &str) -> Vec<Value> {
    let seen = |key: &str| {
        let time = if event[key].is_string() { &event[key] } else { &event["eventTime"] };
        since(time)
    };
    let first = seen(old[0]);
    let series = &event["series"];
    let (last, count) = if series.is_object() {
        (since(&series["lastObservedTime"]), int_at(series, "count"))
    } else {
        (if event[old[1]].is_string() { since(&event[old[1]]) } else { first.clone() }, int_at(event, old[2]).max(1))
    };
    let kind = str_at(about, "kind").to_lowercase();
    let object = if str_at(about, "name").is_empty() { kind } else { format!("{kind}/{}", str_at(about, "name")) };
    let source = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    vec![
        last.into(),
        str_at(event, "type").into(),
        str_at(event, "reason").into(),
        object.into(),
        str_at(about, "fieldPath").into(),
        source.into(),
        str_at(event, message).trim().into(),
        first.into(),
        count.to_string().into(),
        name(event),
    ]
}

/// `RWO,RWX`, sorted as upstream does.
fn access_modes(modes: &[Value]) -> String {
    let short =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let has = |long: &str| modes.iter().any(|mode| mode == long);
    short.iter().filter(|(long, _)| has(long)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

/// The columns of a PersistentVolume.
pub const PERSISTENT_VOLUME_COLUMNS: &[ColumnRow] = &[
    NAME,
    text("Capacity"),
    text("Access Modes"),
    text("Reclaim Policy"),
    text("Status"),
    text("Claim"),
    text("StorageClass"),
    text("VolumeAttributesClass"),
    text("Reason"),
    AGE,
    wide("VolumeMode"),
];

fn phase(object: &Value) -> &str {
    if object["metadata"]["deletionTimestamp"].is_string() { "Terminating" } else { str_at(object, "status.phase") }
}

fn or_unset(text: &str) -> &str {
    if text.is_empty() { "<unset>" } else { text }
}

/// The cells of a PersistentVolume.
pub fn persistent_volume(object: &Value) -> Vec<Value> {
    let spec = &object["spec"];
    let claim = &spec["claimRef"];
    let claim = if claim.is_object() {
        format!("{}/{}", str_at(claim, "namespace"), str_at(claim, "name"))
    } else {
        String::new()
    };
    vec![
        name(object),
        str_at(&spec["capacity"], "storage").into(),
        access_modes(list(spec, "accessModes")).into(),
        str_at(spec, "persistentVolumeReclaimPolicy").into(),
        phase(object).into(),
        claim.into(),
        str_at(spec, "storageClassName").into(),
        or_unset(str_at(spec, "volumeAttributesClassName")).into(),
        str_at(object, "status.reason").into(),
        age(object),
        or_unset(str_at(spec, "volumeMode")).into(),
    ]
}

/// The columns of a PersistentVolumeClaim.
pub const CLAIM_COLUMNS: &[ColumnRow] = &[
    NAME,
    text("Status"),
    text("Volume"),
    text("Capacity"),
    text("Access Modes"),
    text("StorageClass"),
    text("VolumeAttributesClass"),
    AGE,
    wide("VolumeMode"),
];

/// The cells of a PersistentVolumeClaim: capacity and modes are those of its volume, once it has one.
pub fn persistent_volume_claim(object: &Value) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let volume = str_at(spec, "volumeName");
    let bound = !volume.is_empty();
    let class = object["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    vec![
        name(object),
        phase(object).into(),
        volume.into(),
        if bound { str_at(&status["capacity"], "storage") } else { "" }.into(),
        if bound { access_modes(list(status, "accessModes")) } else { String::new() }.into(),
        class.unwrap_or_else(|| str_at(spec, "storageClassName")).into(),
        or_unset(str_at(spec, "volumeAttributesClassName")).into(),
        age(object),
        or_unset(str_at(spec, "volumeMode")).into(),
    ]
}

/// The columns of a ResourceQuota.
pub const QUOTA_COLUMNS: &[ColumnRow] = &[NAME, text("Request"), text("Limit"), AGE];

/// The cells of a ResourceQuota: used and hard of requests, and of limits.
pub fn resource_quota(object: &Value) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    let used = &object["status"]["used"];
    for (resource, hard) in object["status"]["hard"].as_object().into_iter().flatten() {
        let used = used[resource.as_str()].as_str().unwrap_or("0");
        let text = format!("{resource}: {used}/{}", hard.as_str().unwrap_or_default());
        if resource.starts_with("limits.") { limits.push(text) } else { requests.push(text) }
    }
    vec![name(object), requests.join(", ").into(), limits.join(", ").into(), age(object)]
}

/// The columns of a ComponentStatus.
pub const COMPONENT_STATUS_COLUMNS: &[ColumnRow] = &[NAME, text("Status"), text("Message"), text("Error")];

/// The cells of a ComponentStatus.
pub fn component_status(object: &Value) -> Vec<Value> {
    let healthy = list(object, "conditions").iter().find(|c| c["type"] == "Healthy");
    let status = match healthy.map(|c| str_at(c, "status")) {
        Some("True") => "Healthy",
        Some("False") => "Unhealthy",
        _ => "Unknown",
    };
    let of = |key: &str| healthy.map(|c| str_at(c, key)).unwrap_or_default();
    vec![name(object), status.into(), of("message").into(), of("error").into()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_services_row_shows_where_to_reach_it() {
        let object = |kind: &str, status: Value| {
            json!({"metadata": {"name": "s"}, "status": status,
                   "spec": {"type": kind, "clusterIP": "10.96.0.7", "ports": [{"port": 80, "nodePort": 30_080, "protocol": "TCP"}]}})
        };
        let pending = service(&object("LoadBalancer", json!({})));
        assert_eq!(
            pending[1..5],
            [json!("LoadBalancer"), json!("10.96.0.7"), json!("<pending>"), json!("80:30080/TCP")]
        );
        let given = service(&object("LoadBalancer", json!({"loadBalancer": {"ingress": [{"ip": "10.112.0.1"}]}})));
        assert_eq!(given[3], "10.112.0.1");
        assert_eq!(service(&object("ClusterIP", json!({})))[3], "<none>");
    }

    #[test]
    fn a_nodes_row_shows_its_state_and_roles() {
        let object = json!({
            "metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": "", "node-role.kubernetes.io/worker": ""}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.36.0"},
                       "addresses": [{"type": "InternalIP", "address": "10.244.1.1"}]},
        });
        let row = node(&object);
        assert_eq!(row[1..3], [json!("Ready,SchedulingDisabled"), json!("control-plane,worker")]);
        assert_eq!(row[5..8], [json!("10.244.1.1"), json!("<none>"), json!("<unknown>")]);
    }

    #[test]
    fn events_claims_and_endpoints_read_as_kubectl_prints_them() {
        let object = json!({
            "involvedObject": {"kind": "Pod", "name": "p"}, "reason": "Pulled", "type": "Normal", "message": "ok\n",
            "lastTimestamp": coracle_clock::now_seconds().to_string(), "count": 2,
            "source": {"component": "kubelet", "host": "n1"},
        });
        let row = event(&object);
        assert_eq!(row[1..4], [json!("Normal"), json!("Pulled"), json!("pod/p")]);
        assert_eq!((&row[5], &row[6], &row[8]), (&json!("kubelet, n1"), &json!("ok"), &json!("2")));

        let claim = json!({"metadata": {"name": "c"}, "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]},
                           "spec": {"volumeName": "pv", "storageClassName": "standard", "volumeMode": "Filesystem"}});
        assert_eq!(
            persistent_volume_claim(&claim)[1..7],
            [json!("Bound"), json!("pv"), json!("1Gi"), json!("RWO"), json!("standard"), json!("<unset>")]
        );
        let slice = json!({"addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["1"]}, {"addresses": ["2"]}, {"addresses": ["3"]}, {"addresses": ["4"]}]});
        assert_eq!(endpoint_slice(&slice)[2..4], [json!("80"), json!("1,2,3 + 1 more...")]);
    }
}
