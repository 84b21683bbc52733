//! Services.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{each, join, list, report, required, text};
use crate::field::FieldErrors;
use crate::names::{
    check_cidr, check_dns_label, check_dns_subdomain, check_ip, check_port_name, check_port_number, check_special_ip,
};

/// The longest time for which a client sticks to a pod: a day.
const MAX_AFFINITY_SECONDS: i64 = 86_400;

/// A Service.
pub fn service(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    let kind = text(spec, "type");
    let headless = text(spec, "clusterIP") == "None";
    if list(spec, "ports").is_empty() && !headless && kind != "ExternalName" {
        errors.required("spec.ports", "");
    }
    if kind == "LoadBalancer" && headless {
        errors.invalid("spec.clusterIPs[0]", "None", "may not be set to 'None' for LoadBalancer services");
    }
    if kind == "NodePort" && headless {
        errors.invalid("spec.clusterIPs[0]", "None", "may not be set to 'None' for NodePort services");
    }
    if kind == "ExternalName" {
        let name = text(spec, "externalName");
        required(spec, "spec", "externalName", errors);
        if !name.is_empty() {
            report(check_dns_subdomain(name.trim_end_matches('.')), "spec.externalName", name, errors);
        }
        if !text(spec, "clusterIP").is_empty() && !headless {
            errors.forbidden("spec.clusterIPs", "may not be set when `type` is 'ExternalName'");
        }
    }
    let timeout = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"].as_i64();
    if let Some(seconds) = timeout.filter(|s| !(1..=MAX_AFFINITY_SECONDS).contains(s)) {
        let path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        errors.invalid(path, seconds, format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}"));
    }
    ports(spec, kind, errors);
    for (i, ip) in list(spec, "externalIPs").iter().filter_map(Value::as_str).enumerate() {
        report([check_ip(ip), check_special_ip(ip)].concat(), &format!("spec.externalIPs[{i}]"), ip, errors);
    }
    for (i, range) in list(spec, "loadBalancerSourceRanges").iter().filter_map(Value::as_str).enumerate() {
        report(check_cidr(range), &format!("spec.loadBalancerSourceRanges[{i}]"), range, errors);
    }
    let external = matches!(kind, "NodePort" | "LoadBalancer") || !list(spec, "externalIPs").is_empty();
    if !external && !text(spec, "externalTrafficPolicy").is_empty() {
        let why = "may only be set for externally-accessible services";
        errors.invalid("spec.externalTrafficPolicy", text(spec, "externalTrafficPolicy"), why);
    }
    if kind != "LoadBalancer" && spec["loadBalancerClass"].is_string() {
        errors.forbidden("spec.loadBalancerClass", "may only be used when `type` is 'LoadBalancer'");
    }
    if kind != "LoadBalancer" && spec["allocateLoadBalancerNodePorts"].is_boolean() {
        errors.forbidden("spec.allocateLoadBalancerNodePorts", "may only be used when `type` is 'LoadBalancer'");
    }
    let health = spec["healthCheckNodePort"].as_i64().unwrap_or_default();
    if health != 0 && !(kind == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local") {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.invalid("spec.healthCheckNodePort", health, why);
    }
    if text(spec, "sessionAffinity") == "None" && !spec["sessionAffinityConfig"].is_null() {
        let why = "must not be set when session affinity is None";
        errors.forbidden("spec.sessionAffinityConfig", why);
    }
    if kind != "LoadBalancer" && !list(spec, "loadBalancerSourceRanges").is_empty() {
        errors.forbidden("spec.LoadBalancerSourceRanges", "may only be used when `type` is 'LoadBalancer'");
    }
}

fn ports(spec: &Value, kind: &str, errors: &mut FieldErrors) {
    let several = list(spec, "ports").len() > 1;
    let (mut names, mut numbers, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (path, port) in each(spec, "spec", "ports") {
        let (name, protocol) = (text(port, "name"), text(port, "protocol"));
        if name.is_empty() {
            if several {
                errors.required(&join(&path, "name"), "");
            }
        } else {
            report(check_dns_label(name), &join(&path, "name"), name, errors);
            if !names.insert(name) {
                errors.duplicate(&join(&path, "name"), name);
            }
        }
        let number = port["port"].as_i64().unwrap_or_default();
        match &port["targetPort"] {
            Value::String(name) => report(check_port_name(name), &join(&path, "targetPort"), name, errors),
            Value::Number(target) => {
                for problem in check_port_number(target.as_i64().unwrap_or_default()) {
                    errors.invalid(&join(&path, "targetPort"), port["targetPort"].clone(), problem);
                }
            }
            _ => {}
        }
        if !numbers.insert((protocol, number)) {
            errors.duplicate(&path, port.clone());
        }
        let node_port = port["nodePort"].as_i64().unwrap_or_default();
        if node_port != 0 && matches!(kind, "ClusterIP" | "ExternalName") {
            errors.forbidden(&join(&path, "nodePort"), format!("may not be used when `type` is '{kind}'"));
        }
        if node_port != 0 && !node_ports.insert((protocol, node_port)) {
            errors.duplicate(&join(&path, "nodePort"), node_port);
        }
    }
}

/// A Service keeps its cluster IP unless its type goes to or comes from ExternalName.
pub fn service_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    let (spec, was) = (&new["spec"], &old["spec"]);
    if subresource.is_empty()
        && text(spec, "type") == "LoadBalancer"
        && text(was, "type") == "LoadBalancer"
        && spec["loadBalancerClass"] != was["loadBalancerClass"]
    {
        errors.invalid("spec.loadBalancerClass", spec["loadBalancerClass"].clone(), "may not change once set");
    }
    let external = text(spec, "type") == "ExternalName" || text(was, "type") == "ExternalName";
    if !subresource.is_empty() || external || text(was, "clusterIP").is_empty() {
        return;
    }
    if list(spec, "clusterIPs").first() != list(was, "clusterIPs").first() && !list(was, "clusterIPs").is_empty() {
        let why = "may not change once set";
        errors.invalid("spec.clusterIPs[0]", spec["clusterIPs"].clone(), why);
    } else if spec["clusterIP"] != was["clusterIP"] {
        errors.invalid("spec.clusterIP", spec["clusterIP"].clone(), super::IMMUTABLE);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate::told;

    #[test]
    fn what_people_get_wrong_is_named() {
        for (spec, expected) in [
            (json!({"ports": [{"port": 80}]}), vec![]),
            (json!({}), vec!["spec.ports: Required value"]),
            (json!({"clusterIP": "None"}), vec![]),
            (
                json!({"ports": [{"port": 0}]}),
                vec![
                    "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                    "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
                ],
            ),
            (
                json!({"ports": [{"port": 80}, {"port": 81}]}),
                vec!["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"],
            ),
            (
                json!({"type": "Nope", "ports": [{"port": 80}]}),
                vec![
                    "spec.type: Unsupported value: \"Nope\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
                ],
            ),
            (
                json!({"ports": [{"port": 80, "nodePort": 30_000}]}),
                vec!["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
            ),
        ] {
            assert_eq!(told("core.v1.Service", &json!({ "spec": spec })), expected);
        }
    }

    #[test]
    fn the_cluster_ip_stays() {
        let object = |ip: &str| json!({"spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip]}});
        let mut errors = FieldErrors::default();
        service_update(&object("10.96.0.2"), &object("10.96.0.1"), "", &mut errors);
        assert_eq!(
            errors.0[0].to_string(),
            r#"spec.clusterIPs[0]: Invalid value: ["10.96.0.2"]: may not change once set"#
        );
    }
}
