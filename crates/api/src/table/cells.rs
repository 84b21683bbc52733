//! Cells that are more than a value at a path.

use serde_json::Value;

use super::{Cell, at, human_duration, int_at, join, list, modes, or_none, pod, selector, since, str_at};

/// The code behind `*name` in the table.
pub(super) fn named(name: &str) -> Option<Cell> {
    Some(match name {
        "pod" => Cell::Several(pod::pod),
        "readiness_gates" => Cell::One(pod::readiness_gates),
        "job" => Cell::Several(job),
        "external_ip" => Cell::One(external_ip),
        "service_ports" => Cell::One(service_ports),
        "ingress_hosts" => Cell::One(ingress_hosts),
        "ingress_ports" => Cell::One(|o| if list(&o["spec"], "tls").is_empty() { "80" } else { "80, 443" }.into()),
        "load_balancer" => Cell::One(|o| load_balancer(o).join(",")),
        "class_parameters" => Cell::One(class_parameters),
        "ready_replicas" => {
            Cell::One(|o| format!("{}/{}", int_at(o, "status.readyReplicas"), int_at(o, "spec.replicas")))
        }
        "endpoints" => Cell::One(endpoints),
        "node_status" => Cell::One(node_status),
        "node_roles" => Cell::One(node_roles),
        "node_addresses" => Cell::Several(node_addresses),
        "event" => Cell::Several(event),
        "phase" => Cell::One(phase),
        "claim" => Cell::One(claim),
        "volume_class" => Cell::One(volume_class),
        "claim_capacity" => Cell::Several(claim_capacity),
        "component_status" => Cell::Several(component_status),
        "scale_target" => Cell::One(|o| {
            format!("{}/{}", str_at(o, "spec.scaleTargetRef.kind"), str_at(o, "spec.scaleTargetRef.name"))
        }),
        "scale_metrics" => Cell::One(scale_metrics),
        "role" => Cell::One(|o| format!("{}/{}", str_at(o, "roleRef.kind"), str_at(o, "roleRef.name"))),
        "subjects" => Cell::Several(subjects),
        "csr_condition" => Cell::One(csr_condition),
        "default_class" => Cell::One(default_class),
        "controller" => Cell::One(controller),
        "quota" => Cell::Several(quota),
        "slice_ports" => Cell::One(slice_ports),
        "slice_endpoints" => Cell::One(slice_endpoints),
        "param_kind" => Cell::One(param_kind),
        "param_ref" => Cell::One(param_ref),
        "dangling" => Cell::One(|o| condition(o, "Dangling").map_or("?", |c| str_at(c, "status")).into()),
        "claim_state" => Cell::One(claim_state),
        "parent_ref" => Cell::One(parent_ref),
        "api_service" => Cell::Several(api_service),
        _ => return None,
    })
}

/// The condition of that type in a status.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(&object["status"], "conditions").iter().find(|c| c["type"] == kind)
}

pub(super) fn is_true(condition: &Value) -> bool {
    condition["status"] == "True"
}

/// `head<separator>tail`, or the one there is.
fn with(head: &str, separator: &str, tail: &str) -> String {
    let separator = if head.is_empty() || tail.is_empty() { "" } else { separator };
    format!("{head}{separator}{tail}")
}

/// At most `most` of many, and how many more there are.
fn some_of(texts: &[String], most: usize, separator: &str) -> String {
    let shown = texts.iter().take(most).map(String::as_str).collect::<Vec<_>>().join(separator);
    if texts.len() > most { format!("{shown} + {} more...", texts.len() - most) } else { shown }
}

fn job(job: &Value) -> Vec<Value> {
    let has = |kind: &str| condition(job, kind).is_some_and(is_true);
    let status = match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if job["metadata"]["deletionTimestamp"].is_string() => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    };
    let succeeded = int_at(job, "status.succeeded");
    let completions = match (job["spec"]["completions"].as_i64(), int_at(job, "spec.parallelism")) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        // A work queue is done when one pod says so.
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let time = |key: &str| str_at(&job["status"], key).parse::<jiff::Timestamp>().ok();
    let duration = time("startTime").map(|start| {
        let end = time("completionTime").unwrap_or_else(coracle_clock::now);
        human_duration(end.as_second() - start.as_second())
    });
    vec![status.into(), completions.into(), duration.unwrap_or_default().into()]
}

/// The addresses of a load balancer, each once.
fn load_balancer(object: &Value) -> Vec<&str> {
    let ingress = list(&object["status"]["loadBalancer"], "ingress").iter();
    let given = ingress.map(|i| if str_at(i, "ip").is_empty() { str_at(i, "hostname") } else { str_at(i, "ip") });
    let mut given: Vec<&str> = given.filter(|text| !text.is_empty()).collect();
    given.sort_unstable();
    given.dedup();
    given
}

fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    let fixed = list(spec, "externalIPs").iter().filter_map(Value::as_str);
    match str_at(spec, "type") {
        "ExternalName" => str_at(spec, "externalName").to_owned(),
        "LoadBalancer" => {
            let all = join(load_balancer(service).into_iter().chain(fixed));
            if all.is_empty() { "<pending>".into() } else { all }
        }
        "ClusterIP" | "NodePort" => or_none(join(fixed)),
        _ => "<unknown>".into(),
    }
}

fn service_ports(service: &Value) -> String {
    let ports = list(&service["spec"], "ports").iter().map(|port| {
        let node = int_at(port, "nodePort");
        let node = if node > 0 { format!(":{node}") } else { String::new() };
        format!("{}{node}/{}", int_at(port, "port"), str_at(port, "protocol"))
    });
    or_none(ports.collect::<Vec<_>>().join(","))
}

fn ingress_hosts(ingress: &Value) -> String {
    let rules = list(&ingress["spec"], "rules");
    let mut hosts = Vec::new();
    let mut more = false;
    for rule in rules {
        more |= hosts.len() == 3;
        if !more && !str_at(rule, "host").is_empty() {
            hosts.push(str_at(rule, "host"));
        }
    }
    let text = if hosts.is_empty() { "*".to_owned() } else { hosts.join(",") };
    // As upstream counts: rules without a host are more, too.
    if more { format!("{text} + {} more...", rules.len() - 3) } else { text }
}

fn class_parameters(class: &Value) -> String {
    let parameters = &class["spec"]["parameters"];
    if parameters.is_null() {
        return "<none>".into();
    }
    let kind = with(str_at(parameters, "kind"), ".", str_at(parameters, "apiGroup"));
    format!("{kind}/{}", str_at(parameters, "name"))
}

fn endpoints(object: &Value) -> String {
    let subsets = list(object, "subsets");
    if subsets.is_empty() {
        return "<none>".into();
    }
    let mut all = Vec::new();
    for subset in subsets {
        let ips = || list(subset, "addresses").iter().map(|address| str_at(address, "ip"));
        let ports = list(subset, "ports");
        if ports.is_empty() {
            all.extend(ips().map(str::to_owned));
        }
        for port in ports {
            let host = |ip: &str| if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
            all.extend(ips().map(|ip| format!("{}:{}", host(ip), int_at(port, "port"))));
        }
    }
    some_of(&all, 3, ",")
}

fn slice_ports(slice: &Value) -> String {
    let ports = list(slice, "ports").iter().map(|port| match (port["port"].as_i64(), port["name"].as_str()) {
        (Some(number), _) => number.to_string(),
        (None, name) => name.unwrap_or("*").to_owned(),
    });
    or_unset(some_of(&ports.collect::<Vec<_>>(), 3, ","))
}

fn slice_endpoints(slice: &Value) -> String {
    let endpoints = list(slice, "endpoints").iter();
    let addresses = endpoints.flat_map(|endpoint| list(endpoint, "addresses")).filter_map(Value::as_str);
    or_unset(some_of(&addresses.map(str::to_owned).collect::<Vec<_>>(), 3, ","))
}

fn or_unset(text: String) -> String {
    if text.is_empty() { "<unset>".into() } else { text }
}

fn node_status(node: &Value) -> String {
    let ready = condition(node, "Ready").map_or("Unknown", |c| if is_true(c) { "Ready" } else { "NotReady" });
    with(ready, ",", if node["spec"]["unschedulable"] == true { "SchedulingDisabled" } else { "" })
}

/// Roles are labels: `node-role.kubernetes.io/<role>`, and the older `kubernetes.io/role=<role>`.
fn node_roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let mut roles: Vec<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            None if key == "kubernetes.io/role" => value.as_str(),
            role => role,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    or_none(roles.join(","))
}

fn node_addresses(node: &Value) -> Vec<Value> {
    let address = |kind: &str| {
        let found = list(&node["status"], "addresses").iter().find(|a| a["type"] == kind);
        found.map_or("<none>", |a| str_at(a, "address")).into()
    };
    vec![address("InternalIP"), address("ExternalIP")]
}

/// An Event of either group: in `events.k8s.io`, fields have other names.
fn event(event: &Value) -> Vec<Value> {
    let either = |keys: &[&str]| keys.iter().map(|key| at(event, key)).find(|v| !v.is_null()).unwrap_or(&Value::Null);
    let text = |keys: &[&str]| {
        keys.iter().map(|key| str_at(event, key)).find(|text| !text.is_empty()).unwrap_or_default().to_owned()
    };
    let first = since(either(&["firstTimestamp", "deprecatedFirstTimestamp", "eventTime"]));
    let last = either(&["series.lastObservedTime", "lastTimestamp", "deprecatedLastTimestamp"]);
    let count = either(&["series.count", "count", "deprecatedCount"]).as_i64().unwrap_or_default().max(1);
    let about = either(&["involvedObject", "regarding"]);
    let source = with(
        &text(&["source.component", "deprecatedSource.component", "reportingComponent", "reportingController"]),
        ", ",
        &text(&["source.host", "deprecatedSource.host", "reportingInstance"]),
    );
    vec![
        if last.is_null() { first.clone() } else { since(last) }.into(),
        str_at(event, "type").into(),
        str_at(event, "reason").into(),
        with(&str_at(about, "kind").to_lowercase(), "/", str_at(about, "name")).into(),
        str_at(about, "fieldPath").into(),
        source.into(),
        text(&["message", "note"]).trim().into(),
        first.into(),
        count.into(),
    ]
}

fn phase(object: &Value) -> String {
    let gone = object["metadata"]["deletionTimestamp"].is_string();
    if gone { "Terminating" } else { str_at(object, "status.phase") }.into()
}

fn claim(volume: &Value) -> String {
    let claim = &volume["spec"]["claimRef"];
    if claim.is_null() { String::new() } else { format!("{}/{}", str_at(claim, "namespace"), str_at(claim, "name")) }
}

/// The class of a volume or a claim; the annotation is older than the field.
fn volume_class(object: &Value) -> String {
    let older = object["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str();
    older.unwrap_or_else(|| str_at(object, "spec.storageClassName")).into()
}

/// The capacity and the modes of a claim's volume, once it has one.
fn claim_capacity(claim: &Value) -> Vec<Value> {
    if str_at(claim, "spec.volumeName").is_empty() {
        return vec!["".into(), "".into()];
    }
    let capacity = claim["status"]["capacity"]["storage"].as_str().unwrap_or("0");
    vec![capacity.into(), modes(&claim["status"]["accessModes"]).into()]
}

fn component_status(object: &Value) -> Vec<Value> {
    let healthy = list(object, "conditions").iter().find(|c| c["type"] == "Healthy");
    let status = healthy.map_or("Unknown", |c| if is_true(c) { "Healthy" } else { "Unhealthy" });
    let of = |key: &str| healthy.map(|c| str_at(c, key)).unwrap_or_default().into();
    vec![status.into(), of("message"), of("error")]
}

/// What a HorizontalPodAutoscaler goes by: `cpu: 10%/80%`, the value now and the target.
fn scale_metrics(hpa: &Value) -> String {
    let percent = |value: &Value| value.as_i64().map(|n| format!("{n}%"));
    if let Some(target) = percent(&hpa["spec"]["targetCPUUtilizationPercentage"]) {
        let now = percent(&hpa["status"]["currentCPUUtilizationPercentage"]);
        return format!("cpu: {}/{target}", now.as_deref().unwrap_or("<unknown>"));
    }
    let metrics = list(&hpa["spec"], "metrics").iter();
    let current = list(&hpa["status"], "currentMetrics");
    let texts: Vec<String> =
        metrics.enumerate().map(|(i, metric)| metric_text(metric, current.get(i).unwrap_or(&Value::Null))).collect();
    or_none(some_of(&texts, 2, ", "))
}

fn metric_text(metric: &Value, current: &Value) -> String {
    let sources = ["resource", "containerResource", "pods", "object", "external"];
    let Some(source) = sources.into_iter().find(|source| metric[*source].is_object()) else {
        return "<unknown type>".into();
    };
    let (spec, now) = (&metric[source], &current[source]["current"]);
    let of_resource = source.to_lowercase().ends_with("resource");
    let label = if of_resource { format!("{}: ", str_at(spec, "name")) } else { String::new() };
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let average = !spec["target"]["averageValue"].is_null();
    let (key, percent, suffix) = match (average, of_resource) {
        (true, _) => ("averageValue", "", if of_resource || source == "pods" { "" } else { " (avg)" }),
        (false, true) => ("averageUtilization", "%", ""),
        (false, false) => ("value", "", ""),
    };
    let show = |value: &Value, none: &str| {
        if value.is_null() { none.to_owned() } else { format!("{}{percent}", plain(value)) }
    };
    let (now, target) = (show(&now[key], "<unknown>"), show(&spec["target"][key], "<auto>"));
    format!("{label}{now}/{target}{suffix}")
}

fn subjects(binding: &Value) -> Vec<Value> {
    let of_kind = |kind: &str| {
        let names = list(binding, "subjects").iter().filter(|s| s["kind"] == kind).map(|s| {
            let namespace = if kind == "ServiceAccount" { str_at(s, "namespace") } else { "" };
            with(namespace, "/", str_at(s, "name"))
        });
        Value::from(names.collect::<Vec<_>>().join(", "))
    };
    ["User", "Group", "ServiceAccount"].map(of_kind).to_vec()
}

fn csr_condition(request: &Value) -> String {
    let has = |kind: &str| condition(request, kind).is_some();
    let decided = if has("Denied") { "Denied" } else { "Approved" };
    let decided = if has("Denied") || has("Approved") { decided } else { "Pending" };
    let issued = !str_at(request, "status.certificate").is_empty();
    format!("{decided}{}{}", if has("Failed") { ",Failed" } else { "" }, if issued { ",Issued" } else { "" })
}

/// A class's name; the default one is marked.
fn default_class(class: &Value) -> String {
    let marks = [
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
        "volumeattributesclass.alpha.kubernetes.io/is-default-class",
    ];
    let default = marks.iter().any(|mark| class["metadata"]["annotations"][*mark] == "true");
    with(str_at(class, "metadata.name"), " ", if default { "(default)" } else { "" })
}

fn controller(revision: &Value) -> String {
    let owner = list(&revision["metadata"], "ownerReferences").iter().find(|owner| owner["controller"] == true);
    owner.map_or("<none>".into(), |owner| {
        let (group, _) = str_at(owner, "apiVersion").split_once('/').unwrap_or_default();
        with(&with(str_at(owner, "kind"), ".", group).to_lowercase(), "/", str_at(owner, "name"))
    })
}

/// Used and hard of requests, and of limits.
fn quota(quota: &Value) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    let used = &quota["status"]["used"];
    for (resource, hard) in quota["status"]["hard"].as_object().into_iter().flatten() {
        let used = used[resource.as_str()].as_str().unwrap_or("0");
        let text = format!("{resource}: {used}/{}", hard.as_str().unwrap_or_default());
        if resource.starts_with("limits.") { limits.push(text) } else { requests.push(text) }
    }
    vec![requests.join(", ").into(), limits.join(", ").into()]
}

fn param_kind(policy: &Value) -> String {
    let kind = &policy["spec"]["paramKind"];
    if kind.is_null() { "<unset>".into() } else { format!("{}/{}", str_at(kind, "apiVersion"), str_at(kind, "kind")) }
}

fn param_ref(binding: &Value) -> String {
    let param = &binding["spec"]["paramRef"];
    match (str_at(param, "name"), str_at(param, "namespace")) {
        ("", _) if param["selector"].is_object() => selector(&param["selector"]),
        ("", _) => "<unset>".into(),
        (name, "") => format!("*/{name}"),
        (name, namespace) => format!("{namespace}/{name}"),
    }
}

fn claim_state(claim: &Value) -> String {
    let deleted = !claim["metadata"]["deletionTimestamp"].is_null();
    let allocated = !claim["status"]["allocation"].is_null();
    let states = [
        ("deleted", deleted),
        ("pending", !allocated && !deleted),
        ("allocated", allocated),
        ("reserved", allocated && !list(&claim["status"], "reservedFor").is_empty()),
    ];
    join(states.iter().filter(|(_, is)| *is).map(|(state, _)| *state))
}

fn parent_ref(address: &Value) -> String {
    let parent = &address["spec"]["parentRef"];
    if parent.is_null() {
        return "<none>".into();
    }
    let resource = with(str_at(parent, "resource"), ".", str_at(parent, "group")).to_lowercase();
    with(&with(&resource, "/", str_at(parent, "namespace")), "/", str_at(parent, "name"))
}

fn api_service(object: &Value) -> Vec<Value> {
    let service = &object["spec"]["service"];
    let service = if service.is_null() {
        "Local".into()
    } else {
        format!("{}/{}", str_at(service, "namespace"), str_at(service, "name"))
    };
    let available =
        condition(object, "Available").map_or("Unknown".into(), |c| match (str_at(c, "status"), str_at(c, "reason")) {
            (status @ "True", _) | (status, "") => status.into(),
            (status, reason) => format!("{status} ({reason})"),
        });
    vec![service.into(), available.into()]
}
