//! Kinds that set rules: RBAC, storage classes, autoscaling, networking, admission.

use serde_json::{Value, json};

use super::{at, child, items, set, set_nonzero, set_text};

const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

/// A RoleBinding or ClusterRoleBinding: users and groups, and the role, are of the RBAC group.
pub fn role_binding(object: &mut Value) {
    set_text(child(object, "roleRef"), "apiGroup", RBAC_GROUP);
    for subject in items(object, "subjects") {
        if matches!(subject["kind"].as_str(), Some("User" | "Group")) {
            set_text(subject, "apiGroup", RBAC_GROUP);
        }
    }
}

/// A StorageClass: deletes its volumes, binds at once.
pub fn storage_class(object: &mut Value) {
    set(object, "reclaimPolicy", "Delete");
    set(object, "volumeBindingMode", "Immediate");
}

/// A PriorityClass: preempts.
pub fn priority_class(object: &mut Value) {
    set(object, "preemptionPolicy", "PreemptLowerPriority");
}

/// An autoscaling/v1 HorizontalPodAutoscaler: at least one.
pub fn hpa_v1(object: &mut Value) {
    set(child(object, "spec"), "minReplicas", 1);
}

/// An autoscaling/v2 HorizontalPodAutoscaler: at least one, by CPU at 80 % if it names no metric.
pub fn hpa_v2(object: &mut Value) {
    let spec = child(object, "spec");
    set(spec, "minReplicas", 1);
    if spec["metrics"].as_array().is_none_or(Vec::is_empty) {
        spec["metrics"] = json!([{
            "type": "Resource",
            "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 80 } },
        }]);
    }
}

/// A NetworkPolicy: about ingress, and about egress if it says anything on it.
pub fn network_policy(object: &mut Value) {
    let spec = child(object, "spec");
    if spec.get("policyTypes").is_none() {
        let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
        spec["policyTypes"] = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    }
    for direction in ["ingress", "egress"] {
        for rule in items(spec, direction) {
            for port in items(rule, "ports") {
                set(port, "protocol", "TCP");
            }
        }
    }
}

/// An IngressClass: its parameters are of the cluster.
pub fn ingress_class(object: &mut Value) {
    if let Some(parameters) = at(child(object, "spec"), "parameters") {
        set(parameters, "scope", "Cluster");
    }
}

fn webhooks(object: &mut Value, reinvocation: bool) {
    for webhook in items(object, "webhooks") {
        set(webhook, "failurePolicy", "Fail");
        set(webhook, "matchPolicy", "Equivalent");
        set(webhook, "namespaceSelector", json!({}));
        set(webhook, "objectSelector", json!({}));
        set(webhook, "timeoutSeconds", 10);
        if reinvocation {
            set(webhook, "reinvocationPolicy", "Never");
        }
        for rule in items(webhook, "rules") {
            set(rule, "scope", "*");
        }
        if let Some(service) = at(webhook, "clientConfig").and_then(|config| at(config, "service")) {
            set(service, "port", 443);
        }
    }
}

/// A ValidatingWebhookConfiguration.
pub fn validating_webhooks(object: &mut Value) {
    webhooks(object, false);
}

/// A MutatingWebhookConfiguration.
pub fn mutating_webhooks(object: &mut Value) {
    webhooks(object, true);
}

/// An APIService: its Service's port.
pub fn api_service(object: &mut Value) {
    if let Some(service) = at(child(object, "spec"), "service") {
        set(service, "port", 443);
    }
}

/// A CustomResourceDefinition: singular and list names from the kind, no conversion.
pub fn custom_resource_definition(object: &mut Value) {
    let spec = child(object, "spec");
    let names = child(spec, "names");
    let kind = names["kind"].as_str().unwrap_or_default().to_owned();
    set_text(names, "singular", &kind.to_lowercase());
    set_text(names, "listKind", &format!("{kind}List"));
    let conversion = child(spec, "conversion");
    set_text(conversion, "strategy", "None");
    if let Some(service) =
        at(conversion, "webhook").and_then(|w| at(w, "clientConfig")).and_then(|config| at(config, "service"))
    {
        set_nonzero(service, "port", 443);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_get_what_upstream_gives() {
        let mut object = json!({"roleRef": {"name": "r"}, "subjects": [{"kind": "User"}, {"kind": "ServiceAccount"}]});
        role_binding(&mut object);
        assert_eq!(object["roleRef"]["apiGroup"], RBAC_GROUP);
        assert_eq!(object["subjects"], json!([{"kind": "User", "apiGroup": RBAC_GROUP}, {"kind": "ServiceAccount"}]));

        let mut object = json!({"spec": {"podSelector": {}, "egress": [{}]}});
        network_policy(&mut object);
        assert_eq!(object["spec"]["policyTypes"], json!(["Ingress", "Egress"]));

        let mut object = json!({"spec": {"names": {"kind": "Widget", "plural": "widgets"}}});
        custom_resource_definition(&mut object);
        assert_eq!(
            object["spec"]["names"],
            json!({"kind": "Widget", "plural": "widgets", "singular": "widget", "listKind": "WidgetList"})
        );
    }
}
