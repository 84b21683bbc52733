//! What one Service needs, given what all others have: a pure function.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use coracle_api::{ApiError, ApiResult, FieldErrors};
use serde_json::{Value, json};

use super::cidr::Ipv4Cidr;

/// How a range says that it has nothing left.
pub(super) const NO_IP: &str = "failed to allocate a serviceIP: range is full";
pub(super) const NO_PORT: &str = "failed to allocate a nodePort: range is full";

/// Where addresses and ports come from.
#[derive(Clone, Debug)]
pub struct Ranges {
    /// Cluster IPs.
    pub cluster_ips: Vec<Ipv4Cidr>,
    /// NodePorts.
    pub node_ports: RangeInclusive<u16>,
}

/// What others have.
#[derive(Clone, Copy)]
pub struct Taken<'a> {
    /// Whether somebody has this cluster IP.
    pub ip: &'a dyn Fn(Ipv4Addr) -> bool,
    /// All NodePorts that somebody has; asked for only if there are to be any.
    pub ports: &'a dyn Fn() -> BTreeSet<u16>,
}

/// The addresses and ports of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Cluster IPs.
    pub ips: BTreeSet<Ipv4Addr>,
    /// NodePorts.
    pub ports: BTreeSet<u16>,
}

impl Used {
    /// Those a Service has.
    pub fn of(service: &Value) -> Used {
        let spec = &service["spec"];
        let ips = spec["clusterIPs"].as_array().into_iter().flatten().chain([&spec["clusterIP"]]);
        let ports = ports(service).map(|port| &port["nodePort"]).chain([&spec["healthCheckNodePort"]]);
        Used {
            ips: ips.filter_map(|ip| ip.as_str()?.parse().ok()).collect(),
            ports: ports.filter_map(port_number).collect(),
        }
    }

    pub(super) fn contains(&self, other: &Used) -> bool {
        self.ips.is_superset(&other.ips) && self.ports.is_superset(&other.ports)
    }
}

fn ports(service: &Value) -> impl Iterator<Item = &Value> {
    service["spec"]["ports"].as_array().into_iter().flatten()
}

fn port_number(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0)
}

fn kind(service: &Value) -> &str {
    service["spec"]["type"].as_str().unwrap_or("ClusterIP")
}

fn needs_cluster_ip(service: &Value) -> bool {
    service.is_object() && kind(service) != "ExternalName"
}

fn needs_node_ports(service: &Value) -> bool {
    match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

fn needs_health_check_port(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && service["spec"]["externalTrafficPolicy"] == "Local"
}

/// Which port of a Service this is, whatever its place in the list.
fn identity(port: &Value) -> (String, u64) {
    (port["protocol"].as_str().unwrap_or("TCP").to_owned(), port["port"].as_u64().unwrap_or(0))
}

/// Gives `service` the addresses and ports it needs and has not. `old` is what is stored of it, or null;
/// `taken` is what all others have.
pub fn assign(service: &mut Value, old: &Value, taken: Taken<'_>, ranges: &Ranges) -> ApiResult<()> {
    if !service["spec"].is_object() {
        return Ok(());
    }
    carry_over(service, old);
    drop_unneeded(service, old);
    let mut errors = FieldErrors::default();
    let held = if old.is_object() { Used::of(old) } else { Used::default() };
    if needs_cluster_ip(service) {
        families(service, &mut errors);
        cluster_ip(service, &held, taken.ip, &ranges.cluster_ips, &mut errors)?;
    }
    let external = needs_node_ports(service) || needs_health_check_port(service);
    if errors.0.is_empty() && external {
        let taken = (taken.ports)();
        if needs_node_ports(service) {
            node_ports(service, &held, &taken, &ranges.node_ports, &mut errors)?;
        }
        if errors.0.is_empty() && needs_health_check_port(service) {
            health_check_port(service, &held, &taken, &ranges.node_ports, &mut errors)?;
        }
    }
    if errors.0.is_empty() {
        return Ok(());
    }
    let name = service["metadata"]["name"].as_str().unwrap_or_default();
    Err(ApiError::invalid("", "Service", name, &errors.0))
}

/// An updater who leaves allocated values out wants to keep them.
fn carry_over(service: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && needs_cluster_ip(service) {
        for field in ["clusterIP", "clusterIPs"] {
            let missing = match &service["spec"][field] {
                Value::Null => true,
                Value::String(text) => text.is_empty(),
                Value::Array(list) => list.is_empty(),
                _ => false,
            };
            if missing && !old["spec"][field].is_null() {
                service["spec"][field] = old["spec"][field].clone();
            }
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if service["spec"][field].is_null() && !old["spec"][field].is_null() {
                service["spec"][field] = old["spec"][field].clone();
            }
        }
    }
    if needs_node_ports(old) && needs_node_ports(service) {
        let taken = Used::of(service).ports;
        let list = service["spec"]["ports"].as_array_mut();
        for port in list.into_iter().flatten().filter(|port| port_number(&port["nodePort"]).is_none()) {
            let same = ports(old).find(|other| identity(other) == identity(port));
            if let Some(number) = same.and_then(|other| port_number(&other["nodePort"])).filter(|n| !taken.contains(n))
            {
                port["nodePort"] = number.into();
            }
        }
    }
    if needs_health_check_port(old) && needs_health_check_port(service) {
        let (new, old) = (&mut service["spec"], &old["spec"]["healthCheckNodePort"]);
        if port_number(&new["healthCheckNodePort"]).is_none() && !old.is_null() {
            new["healthCheckNodePort"] = old.clone();
        }
    }
}

fn is_load_balancer(service: &Value) -> bool {
    kind(service) == "LoadBalancer"
}

fn is_external(service: &Value) -> bool {
    matches!(kind(service), "NodePort" | "LoadBalancer")
        || service["spec"]["externalIPs"].as_array().is_some_and(|ips| !ips.is_empty())
}

/// A field that only some Services need, and which.
type Dependent = (&'static str, fn(&Value) -> bool);

const DEPENDENT: [Dependent; 9] = [
    ("clusterIP", needs_cluster_ip),
    ("clusterIPs", needs_cluster_ip),
    ("ipFamilies", needs_cluster_ip),
    ("ipFamilyPolicy", needs_cluster_ip),
    ("internalTrafficPolicy", needs_cluster_ip),
    ("externalTrafficPolicy", is_external),
    ("healthCheckNodePort", needs_health_check_port),
    ("allocateLoadBalancerNodePorts", is_load_balancer),
    ("loadBalancerClass", is_load_balancer),
];

/// An updater who changes the type and leaves the rest wants what the old type needed to go.
fn drop_unneeded(service: &mut Value, old: &Value) {
    if !old.is_object() {
        return;
    }
    for (field, needs) in DEPENDENT {
        let same = service["spec"][field] == old["spec"][field];
        if needs(old)
            && !needs(service)
            && same
            && let Some(spec) = service["spec"].as_object_mut()
        {
            spec.remove(field);
        }
    }
    if needs_node_ports(old) && !needs_node_ports(service) {
        let before = Used::of(old).ports;
        for port in service["spec"]["ports"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            if port.get("nodePort").and_then(port_number).is_some_and(|number| before.contains(&number)) {
                port.remove("nodePort");
            }
        }
    }
}

/// Fills in address families: this cluster has IPv4 only.
fn families(service: &mut Value, errors: &mut FieldErrors) {
    let spec = &service["spec"];
    let headless = spec["clusterIP"] == "None" || spec["clusterIPs"][0] == "None";
    let selectorless = spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
    // Endpoints of a headless Service without selector are somebody else's, of any family.
    let any_family = headless && selectorless;
    if spec["ipFamilyPolicy"] == "RequireDualStack" && !any_family {
        errors.invalid(
            "spec.ipFamilyPolicy",
            "RequireDualStack",
            "this cluster is not configured for dual-stack services",
        );
    }
    let asked = spec["ipFamilies"].as_array().cloned().unwrap_or_default();
    if let (Some(index), false) = (asked.iter().position(|family| family != "IPv4"), any_family) {
        errors.invalid(&format!("spec.ipFamilies[{index}]"), asked[index].clone(), "not configured on this cluster");
    }
    let (policy, both) = if any_family && asked.is_empty() && spec["ipFamilyPolicy"].is_null() {
        ("RequireDualStack", json!(["IPv4", "IPv6"]))
    } else {
        ("SingleStack", json!(["IPv4"]))
    };
    if spec["ipFamilyPolicy"].is_null() {
        service["spec"]["ipFamilyPolicy"] = policy.into();
    }
    if asked.is_empty() {
        service["spec"]["ipFamilies"] = both;
    }
}

fn cluster_ip(
    service: &mut Value,
    held: &Used,
    taken: &dyn Fn(Ipv4Addr) -> bool,
    ranges: &[Ipv4Cidr],
    errors: &mut FieldErrors,
) -> ApiResult<()> {
    let asked = service["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    let list = service["spec"]["clusterIPs"].as_array().cloned().unwrap_or_default();
    if asked.is_empty() && !list.is_empty() {
        errors.invalid("spec.clusterIPs", list, "must be empty when `clusterIP` is not specified");
        return Ok(());
    }
    let ip = match asked.as_str() {
        "None" => "None".to_owned(),
        "" => {
            let chosen = ranges.iter().find_map(|range| {
                let size = range.size();
                let band = (size / 16).clamp(16.min(size), 256.min(size));
                choose(size, band, |index| !taken(range.address(index))).map(|index| range.address(index))
            });
            chosen.ok_or_else(|| ApiError::internal(NO_IP))?.to_string()
        }
        text => {
            // Text that is no address is for validation to refuse, which says it better.
            if let Ok(ip) = text.parse::<Ipv4Addr>()
                && !held.ips.contains(&ip)
            {
                let why = match () {
                    () if !ranges.iter().any(|range| range.contains(ip)) => {
                        "the provided network does not match the current range"
                    }
                    () if taken(ip) => "provided IP is already allocated",
                    () => "",
                };
                if !why.is_empty() {
                    errors.invalid("spec.clusterIPs", json!([text]), format!("failed to allocate IP {ip}: {why}"));
                }
            }
            text.to_owned()
        }
    };
    if list.is_empty() {
        service["spec"]["clusterIPs"] = json!([ip]);
    }
    service["spec"]["clusterIP"] = ip.into();
    Ok(())
}

/// A free index below `size`, at random; below `band` only when there is none above.
fn choose(size: u32, band: u32, free: impl Fn(u32) -> bool) -> Option<u32> {
    let scan = |from: u32, to: u32| {
        let length = to.checked_sub(from).filter(|length| *length > 0)?;
        let start = u32::try_from(coracle_clock::random_below(length as usize)).unwrap_or(0);
        (0..length).map(|step| from + (start + step) % length).find(|index| free(*index))
    };
    scan(band, size).or_else(|| scan(0, band))
}

fn choose_port(range: &RangeInclusive<u16>, taken: &BTreeSet<u16>) -> ApiResult<u16> {
    let size = u32::from(range.end().saturating_sub(*range.start())) + 1;
    let band = (size / 32).clamp(16.min(size), 128.min(size));
    let port = |index: u32| u16::try_from(u32::from(*range.start()) + index).unwrap_or(u16::MAX);
    let index = choose(size, band, |index| !taken.contains(&port(index)));
    index.map(port).ok_or_else(|| ApiError::internal(NO_PORT))
}

fn check_port(
    field: &str,
    port: u16,
    held: &Used,
    taken: &BTreeSet<u16>,
    range: &RangeInclusive<u16>,
    errors: &mut FieldErrors,
) {
    if held.ports.contains(&port) {
        return;
    }
    if !range.contains(&port) {
        let (start, end) = (range.start(), range.end());
        let why = format!("provided port is not in the valid range. The range of valid ports is {start}-{end}");
        errors.invalid(field, port, why);
    } else if taken.contains(&port) {
        errors.invalid(field, port, "provided port is already allocated");
    }
}

fn node_ports(
    service: &mut Value,
    held: &Used,
    others: &BTreeSet<u16>,
    range: &RangeInclusive<u16>,
    errors: &mut FieldErrors,
) -> ApiResult<()> {
    let mut taken: BTreeSet<u16> = others.union(&Used::of(service).ports).copied().collect();
    let list = service["spec"]["ports"].as_array_mut();
    for (index, port) in list.into_iter().flatten().enumerate() {
        match port_number(&port["nodePort"]) {
            Some(number) => check_port(&format!("spec.ports[{index}].nodePort"), number, held, others, range, errors),
            None => {
                let number = choose_port(range, &taken)?;
                taken.insert(number);
                port["nodePort"] = number.into();
            }
        }
    }
    Ok(())
}

fn health_check_port(
    service: &mut Value,
    held: &Used,
    others: &BTreeSet<u16>,
    range: &RangeInclusive<u16>,
    errors: &mut FieldErrors,
) -> ApiResult<()> {
    match port_number(&service["spec"]["healthCheckNodePort"]) {
        Some(number) => check_port("spec.healthCheckNodePort", number, held, others, range, errors),
        None => {
            let taken = others.union(&Used::of(service).ports).copied().collect();
            service["spec"]["healthCheckNodePort"] = choose_port(range, &taken)?.into();
        }
    }
    Ok(())
}
