//! Kinds that set rules: RBAC, storage, networking, scheduling, admission, extension.

use serde_json::{Value, json};

use super::{
    AGE, ColumnRow, NAME, age, flag, human_duration, int_at, joined, list, name, number, or_none, selector, str_at,
    text, wide,
};

/// The columns of a RoleBinding or ClusterRoleBinding.
pub const BINDING_COLUMNS: &[ColumnRow] =
    &[NAME, text("Role"), AGE, wide("Users"), wide("Groups"), wide("ServiceAccounts")];

/// The cells of a RoleBinding or ClusterRoleBinding.
pub fn role_binding(object: &Value) -> Vec<Value> {
    let role = &object["roleRef"];
    let subjects = |kind: &str| {
        let of_kind = list(object, "subjects").iter().filter(|s| s["kind"] == kind);
        let names = of_kind.map(|s| match (kind, str_at(s, "namespace")) {
            ("ServiceAccount", namespace) => format!("{namespace}/{}", str_at(s, "name")),
            _ => str_at(s, "name").to_owned(),
        });
        Value::from(names.collect::<Vec<_>>().join(", "))
    };
    vec![
        name(object),
        format!("{}/{}", str_at(role, "kind"), str_at(role, "name")).into(),
        age(object),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}

/// The columns of a StorageClass.
pub const STORAGE_CLASS_COLUMNS: &[ColumnRow] =
    &[NAME, text("Provisioner"), text("ReclaimPolicy"), text("VolumeBindingMode"), text("AllowVolumeExpansion"), AGE];

/// The cells of a StorageClass; the default one is marked.
pub fn storage_class(object: &Value) -> Vec<Value> {
    let annotations = &object["metadata"]["annotations"];
    let marks = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    let default = marks.iter().any(|mark| annotations[*mark] == "true");
    let suffix = if default { " (default)" } else { "" };
    let or = |key: &str, default: &str| {
        let text = str_at(object, key);
        Value::from(if text.is_empty() { default } else { text })
    };
    vec![
        format!("{}{suffix}", str_at(object, "metadata.name")).into(),
        str_at(object, "provisioner").into(),
        or("reclaimPolicy", "Delete"),
        or("volumeBindingMode", "Immediate"),
        (object["allowVolumeExpansion"] == true).into(),
        age(object),
    ]
}

/// The columns of a VolumeAttachment.
pub const VOLUME_ATTACHMENT_COLUMNS: &[ColumnRow] =
    &[NAME, ("Attacher", "string", "name", 0), text("PV"), text("Node"), flag("Attached"), AGE];

/// The cells of a VolumeAttachment.
pub fn volume_attachment(object: &Value) -> Vec<Value> {
    vec![
        name(object),
        str_at(object, "spec.attacher").into(),
        str_at(object, "spec.source.persistentVolumeName").into(),
        str_at(object, "spec.nodeName").into(),
        (object["status"]["attached"] == true).into(),
        age(object),
    ]
}

/// The columns of a Lease.
pub const LEASE_COLUMNS: &[ColumnRow] = &[NAME, text("Holder"), AGE];

/// The cells of a Lease.
pub fn lease(object: &Value) -> Vec<Value> {
    vec![name(object), str_at(object, "spec.holderIdentity").into(), age(object)]
}

/// The columns of a PriorityClass.
pub const PRIORITY_CLASS_COLUMNS: &[ColumnRow] =
    &[NAME, number("Value"), flag("Global-Default"), AGE, wide("PreemptionPolicy")];

/// The cells of a PriorityClass.
pub fn priority_class(object: &Value) -> Vec<Value> {
    vec![
        name(object),
        int_at(object, "value").into(),
        (object["globalDefault"] == true).into(),
        age(object),
        str_at(object, "preemptionPolicy").into(),
    ]
}

/// The columns of a RuntimeClass.
pub const RUNTIME_CLASS_COLUMNS: &[ColumnRow] = &[NAME, text("Handler"), AGE];

/// The cells of a RuntimeClass.
pub fn runtime_class(object: &Value) -> Vec<Value> {
    vec![name(object), str_at(object, "handler").into(), age(object)]
}

/// The columns of a PodDisruptionBudget.
pub const BUDGET_COLUMNS: &[ColumnRow] =
    &[NAME, text("Min Available"), text("Max Unavailable"), number("Allowed Disruptions"), AGE];

/// The cells of a PodDisruptionBudget.
pub fn pod_disruption_budget(object: &Value) -> Vec<Value> {
    let bound = |key: &str| match &object["spec"][key] {
        Value::Null => Value::from("N/A"),
        Value::String(text) => text.as_str().into(),
        number => number.to_string().into(),
    };
    let allowed = int_at(object, "status.disruptionsAllowed");
    vec![name(object), bound("minAvailable"), bound("maxUnavailable"), allowed.into(), age(object)]
}

/// The columns of an Ingress.
pub const INGRESS_COLUMNS: &[ColumnRow] = &[NAME, text("Class"), text("Hosts"), text("Address"), text("Ports"), AGE];

/// The cells of an Ingress.
pub fn ingress(object: &Value) -> Vec<Value> {
    let spec = &object["spec"];
    let rules = list(spec, "rules");
    let hosts: Vec<&str> = rules.iter().map(|rule| str_at(rule, "host")).filter(|host| !host.is_empty()).collect();
    let hosts = if hosts.is_empty() {
        "*".to_owned()
    } else {
        let more = hosts.len().saturating_sub(3);
        let shown = hosts[..hosts.len() - more].join(",");
        if more > 0 { format!("{shown} + {more} more...") } else { shown }
    };
    let ingress = list(&object["status"]["loadBalancer"], "ingress").iter();
    let address: Vec<&str> =
        ingress.map(|i| if str_at(i, "ip").is_empty() { str_at(i, "hostname") } else { str_at(i, "ip") }).collect();
    let class = match str_at(spec, "ingressClassName") {
        "" => object["metadata"]["annotations"]["kubernetes.io/ingress.class"].as_str().unwrap_or_default(),
        class => class,
    };
    vec![
        name(object),
        or_none(class).into(),
        hosts.into(),
        address.join(",").into(),
        if list(spec, "tls").is_empty() { "80" } else { "80, 443" }.into(),
        age(object),
    ]
}

/// The columns of an IngressClass.
pub const INGRESS_CLASS_COLUMNS: &[ColumnRow] = &[NAME, text("Controller"), text("Parameters"), AGE];

/// The cells of an IngressClass.
pub fn ingress_class(object: &Value) -> Vec<Value> {
    let parameters = &object["spec"]["parameters"];
    let text = if parameters.is_object() {
        let kind = str_at(parameters, "kind");
        let group = str_at(parameters, "apiGroup");
        let dot = if group.is_empty() { "" } else { "." };
        format!("{kind}{dot}{group}/{}", str_at(parameters, "name"))
    } else {
        "<none>".to_owned()
    };
    vec![name(object), str_at(object, "spec.controller").into(), text.into(), age(object)]
}

/// The columns of a NetworkPolicy.
pub const NETWORK_POLICY_COLUMNS: &[ColumnRow] = &[NAME, text("Pod-Selector"), AGE];

/// The cells of a NetworkPolicy.
pub fn network_policy(object: &Value) -> Vec<Value> {
    vec![name(object), selector(&object["spec"]["podSelector"]), age(object)]
}

/// The columns of an IPAddress.
pub const IP_ADDRESS_COLUMNS: &[ColumnRow] = &[NAME, text("ParentRef")];

/// The cells of an IPAddress.
pub fn ip_address(object: &Value) -> Vec<Value> {
    let parent = &object["spec"]["parentRef"];
    let text = if parent.is_object() {
        let (group, namespace) = (str_at(parent, "group"), str_at(parent, "namespace"));
        let dot = if group.is_empty() { "" } else { "." };
        let slash = if namespace.is_empty() { "" } else { "/" };
        format!("{}{dot}{group}/{namespace}{slash}{}", str_at(parent, "resource"), str_at(parent, "name"))
    } else {
        "<none>".to_owned()
    };
    vec![name(object), text.into()]
}

/// The columns of a ServiceCIDR.
pub const SERVICE_CIDR_COLUMNS: &[ColumnRow] = &[NAME, text("CIDRs"), AGE];

/// The cells of a ServiceCIDR.
pub fn service_cidr(object: &Value) -> Vec<Value> {
    vec![name(object), joined(list(&object["spec"], "cidrs").iter().filter_map(Value::as_str)), age(object)]
}

/// The columns of a CertificateSigningRequest.
pub const CSR_COLUMNS: &[ColumnRow] =
    &[NAME, AGE, text("SignerName"), text("Requestor"), text("RequestedDuration"), text("Condition")];

/// The cells of a CertificateSigningRequest.
pub fn certificate_signing_request(object: &Value) -> Vec<Value> {
    let has = |kind: &str| list(&object["status"], "conditions").iter().any(|c| c["type"] == kind);
    let mut condition = match () {
        () if has("Denied") => "Denied".to_owned(),
        () if has("Approved") => "Approved".to_owned(),
        () => "Pending".to_owned(),
    };
    if has("Failed") {
        condition.push_str(",Failed");
    }
    if !str_at(object, "status.certificate").is_empty() {
        condition.push_str(",Issued");
    }
    let duration = object["spec"]["expirationSeconds"].as_i64().map_or_else(|| "<none>".to_owned(), human_duration);
    vec![
        name(object),
        age(object),
        str_at(object, "spec.signerName").into(),
        str_at(object, "spec.username").into(),
        duration.into(),
        condition.into(),
    ]
}

/// The columns of an APIService.
pub const API_SERVICE_COLUMNS: &[ColumnRow] = &[NAME, text("Service"), text("Available"), AGE];

/// The cells of an APIService.
pub fn api_service(object: &Value) -> Vec<Value> {
    let service = &object["spec"]["service"];
    let text = if service.is_object() {
        format!("{}/{}", str_at(service, "namespace"), str_at(service, "name"))
    } else {
        "Local".into()
    };
    let available = list(&object["status"], "conditions").iter().find(|c| c["type"] == "Available");
    let available = match available {
        Some(c) if c["status"] == "True" => "True".to_owned(),
        Some(c) => format!("{} ({})", str_at(c, "status"), str_at(c, "reason")),
        None => "Unknown".to_owned(),
    };
    vec![name(object), text.into(), available.into(), age(object)]
}

/// The columns of a webhook configuration.
pub const WEBHOOKS_COLUMNS: &[ColumnRow] = &[NAME, number("Webhooks"), AGE];

/// The cells of a webhook configuration.
pub fn webhooks(object: &Value) -> Vec<Value> {
    vec![name(object), list(object, "webhooks").len().into(), age(object)]
}

/// The columns of a ValidatingAdmissionPolicy.
pub const ADMISSION_POLICY_COLUMNS: &[ColumnRow] = &[NAME, number("Validations"), text("ParamKind"), AGE];

/// The cells of a ValidatingAdmissionPolicy.
pub fn admission_policy(object: &Value) -> Vec<Value> {
    let kind = &object["spec"]["paramKind"];
    let text = if kind.is_object() {
        format!("{}/{}", str_at(kind, "apiVersion"), str_at(kind, "kind"))
    } else {
        "<unset>".into()
    };
    vec![name(object), list(&object["spec"], "validations").len().into(), text.into(), age(object)]
}

/// The columns of a CSINode.
pub const CSI_NODE_COLUMNS: &[ColumnRow] = &[NAME, number("Drivers"), AGE];

/// The cells of a CSINode.
pub fn csi_node(object: &Value) -> Vec<Value> {
    vec![name(object), list(&object["spec"], "drivers").len().into(), age(object)]
}

/// The columns of a FlowSchema.
pub const FLOW_SCHEMA_COLUMNS: &[ColumnRow] =
    &[NAME, text("PriorityLevel"), number("MatchingPrecedence"), text("DistinguisherMethod"), AGE, text("MissingPL")];

/// The cells of a FlowSchema.
pub fn flow_schema(object: &Value) -> Vec<Value> {
    let dangling = list(&object["status"], "conditions").iter().find(|c| c["type"] == "Dangling");
    vec![
        name(object),
        str_at(object, "spec.priorityLevelConfiguration.name").into(),
        int_at(object, "spec.matchingPrecedence").into(),
        or_none(str_at(object, "spec.distinguisherMethod.type")).into(),
        age(object),
        dangling.map_or_else(|| json!("?"), |c| c["status"].clone()),
    ]
}

/// The columns of a PriorityLevelConfiguration.
pub const PRIORITY_LEVEL_COLUMNS: &[ColumnRow] = &[
    NAME,
    text("Type"),
    text("NominalConcurrencyShares"),
    text("Queues"),
    text("HandSize"),
    text("QueueLengthLimit"),
    AGE,
];

/// The cells of a PriorityLevelConfiguration.
pub fn priority_level(object: &Value) -> Vec<Value> {
    let limited = &object["spec"]["limited"];
    let number = |value: &Value| if value.is_number() { value.clone() } else { "<none>".into() };
    let queuing = |key: &str| number(&limited["limitResponse"]["queuing"][key]);
    vec![
        name(object),
        str_at(object, "spec.type").into(),
        number(&limited["nominalConcurrencyShares"]),
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
        age(object),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_read_as_kubectl_prints_them() {
        let class = json!({"metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
                           "provisioner": "coracle.io/hostpath"});
        assert_eq!(
            storage_class(&class)[..5],
            [
                json!("standard (default)"),
                json!("coracle.io/hostpath"),
                json!("Delete"),
                json!("Immediate"),
                json!(false)
            ]
        );
        let binding = json!({"roleRef": {"kind": "Role", "name": "r"},
                             "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "namespace": "n", "name": "s"}]});
        let row = role_binding(&binding);
        assert_eq!((&row[1], &row[3], &row[5]), (&json!("Role/r"), &json!("u"), &json!("n/s")));
        let budget = json!({"spec": {"minAvailable": 1}, "status": {"disruptionsAllowed": 2}});
        assert_eq!(pod_disruption_budget(&budget)[1..4], [json!("1"), json!("N/A"), json!(2)]);
    }
}
