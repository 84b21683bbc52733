//! Services.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{each, join, list, report, text};
use crate::field::FieldErrors;
use crate::names::{
    check_cidr, check_dns_label, check_dns_subdomain, check_ip, check_port_name, check_port_number,
    check_qualified_name, check_special_ip,
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
        if name.is_empty() {
            errors.required("spec.externalName", "");
        } else {
            report(check_dns_subdomain(name.trim_end_matches('.')), "spec.externalName", name, errors);
        }
        for key in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            let given = !crate::rules::is_empty(&spec[key]);
            if given || key == "clusterIPs" && !text(spec, "clusterIP").is_empty() {
                errors.forbidden(&join("spec", key), "may not be set for ExternalName services");
            }
        }
    } else {
        cluster_ips(spec, errors);
    }
    let annotations = &object["metadata"]["annotations"];
    let [hints, mode] = ["service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode"]
        .map(|key| &annotations[key]);
    if hints.is_string() && mode.is_string() && hints != mode {
        errors.invalid(
            "metadata.annotations[service.kubernetes.io/topology-mode]",
            mode.clone(),
            "must match annotations[service.kubernetes.io/topology-aware-hints] when both are specified",
        );
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
        let range = range.trim();
        report(check_cidr(range), &format!("spec.LoadBalancerSourceRanges[{i}]"), range, errors);
    }
    let external = matches!(kind, "NodePort" | "LoadBalancer") || !list(spec, "externalIPs").is_empty();
    if !external && !text(spec, "externalTrafficPolicy").is_empty() {
        let why = "may only be set for externally-accessible services";
        errors.invalid("spec.externalTrafficPolicy", text(spec, "externalTrafficPolicy"), why);
    }
    if kind != "LoadBalancer" && spec["loadBalancerClass"].is_string() {
        errors.forbidden("spec.loadBalancerClass", "may only be used when `type` is 'LoadBalancer'");
    }
    if kind == "LoadBalancer" && !text(spec, "loadBalancerClass").is_empty() {
        let class = text(spec, "loadBalancerClass");
        report(check_qualified_name(class), "spec.loadBalancerClass", class, errors);
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

/// One address, or one of each family; the families are those that the Service names.
fn cluster_ips(spec: &Value, errors: &mut FieldErrors) {
    const PATH: &str = "spec.clusterIPs";
    let ips: Vec<&str> = list(spec, "clusterIPs").iter().filter_map(Value::as_str).collect();
    let mut refuse = |why: &str| errors.invalid(PATH, spec["clusterIPs"].clone(), why);
    let first = ips.first().copied().unwrap_or_default();
    if !ips.is_empty() && first != text(spec, "clusterIP") && !text(spec, "clusterIP").is_empty() {
        refuse("first value must match `clusterIP`");
    }
    if first == "None" && ips.len() > 1 {
        refuse("'None' must be the first and only value");
    }
    if ips.len() > 2 {
        refuse("may only hold up to 2 values");
    }
    let six: Vec<bool> = ips.iter().map(|ip| ip.contains(':')).collect();
    if ips.len() > 1 && first != "None" && ips.iter().all(|ip| check_ip(ip).is_empty()) && six[0] == six[1] {
        refuse("may specify no more than one IP for each IP family");
    }
    for (i, ip) in ips.iter().enumerate().filter(|(i, ip)| *i > 0 || **ip != "None") {
        let path = format!("{PATH}[{i}]");
        let problems = check_ip(ip);
        match list(spec, "ipFamilies").get(i).and_then(Value::as_str) {
            Some(family @ ("IPv4" | "IPv6")) if problems.is_empty() && (family == "IPv6") != six[i] => {
                errors.invalid(&path, *ip, format!("expected an {family} value as indicated by `ipFamilies[{i}]`"));
            }
            _ => report(problems, &path, ip, errors),
        }
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
        if node_port != 0 && kind == "ClusterIP" {
            errors.forbidden(&join(&path, "nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
        if node_port != 0 && !node_ports.insert((protocol, node_port)) {
            errors.duplicate(&join(&path, "nodePort"), node_port);
        }
    }
}

/// What a load balancer says of itself; the table says the rest.
fn balancer_status(status: &Value, kind: &str, errors: &mut FieldErrors) {
    if kind != "LoadBalancer" && !list(status, "ingress").is_empty() {
        let why = "may only be used when `spec.type` is 'LoadBalancer'";
        return errors.forbidden("status.loadBalancer.ingress", why);
    }
    for (path, ingress) in each(status, "status.loadBalancer", "ingress") {
        let (ip, mode, name) = (text(ingress, "ip"), &ingress["ipMode"], text(ingress, "hostname"));
        match (ip.is_empty(), mode.is_null()) {
            (false, true) => errors.required(&join(&path, "ipMode"), "must be specified when `ip` is set"),
            (true, false) => errors.forbidden(&join(&path, "ipMode"), "may not be specified when `ip` is not set"),
            _ => {}
        }
        if name.parse::<std::net::IpAddr>().is_ok() {
            errors.invalid(&join(&path, "hostname"), name, "must be a DNS name, not an IP address");
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
    let watched = |spec: &Value| text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local";
    if subresource.is_empty()
        && watched(spec)
        && watched(was)
        && spec["healthCheckNodePort"] != was["healthCheckNodePort"]
    {
        errors.forbidden("spec.healthCheckNodePort", super::IMMUTABLE);
    }
    if subresource == "status" {
        balancer_status(&new["status"]["loadBalancer"], text(spec, "type"), errors);
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
