//! Which address leads where: Services and EndpointSlices as a flat, ordered list of entries.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

/// A pod's address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The pod's address.
    pub ip: Ipv4Addr,
    /// Its port.
    pub port: u16,
}

/// One port of one Service: the addresses under which it is reached, and the pods that answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `namespace/service[/port]`, for people.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The Service's port.
    pub port: u16,
    /// Addresses inside the cluster.
    pub cluster_ips: Vec<Ipv4Addr>,
    /// Addresses for the world: load balancers' and external ones.
    pub external_ips: Vec<Ipv4Addr>,
    /// The port on every node, if any.
    pub node_port: Option<u16>,
    /// Who may come to the external addresses; empty means everybody.
    pub source_ranges: Vec<String>,
    /// How long a client stays with its pod, if it shall.
    pub affinity: Option<Duration>,
    /// Pods for clients inside the cluster.
    pub internal: BTreeSet<Endpoint>,
    /// Pods for clients from outside.
    pub external: BTreeSet<Endpoint>,
    /// Whether clients from outside keep their source address (`externalTrafficPolicy: Local`).
    pub keep_source: bool,
}

impl Entry {
    /// Whether it has an address that clients from outside use.
    pub fn is_external(&self) -> bool {
        self.node_port.is_some() || !self.external_ips.is_empty()
    }
}

const HEADLESS: &str = "None";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";

/// Builds the model. `local` tells whether a node is served by this proxy.
pub fn build(services: &[Arc<Service>], slices: &[Arc<EndpointSlice>], local: impl Fn(&str) -> bool) -> Vec<Entry> {
    let mut by_service: BTreeMap<(String, String), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        if let Some(service) = slice.labels().get(SERVICE_NAME) {
            by_service.entry((slice.namespace().unwrap_or_default(), service.clone())).or_default().push(slice);
        }
    }
    let mut entries = Vec::new();
    for service in services.iter().filter(|service| !service.labels().contains_key(OTHER_PROXY)) {
        let key = (service.namespace().unwrap_or_default(), service.name_any());
        let slices = by_service.get(&key).map(Vec::as_slice).unwrap_or_default();
        let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        entries.extend(ports.filter_map(|port| entry(service, port, slices, &local)));
    }
    entries
}

fn entry(
    service: &Service,
    port: &ServicePort,
    slices: &[&EndpointSlice],
    local: &impl Fn(&str) -> bool,
) -> Option<Entry> {
    let spec = service.spec.as_ref()?;
    let cluster_ip = spec.cluster_ip.as_deref().unwrap_or_default();
    if cluster_ip.is_empty() || cluster_ip == HEADLESS || spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let ips = |list: &mut dyn Iterator<Item = &String>| list.filter_map(|ip| ip.parse().ok()).collect::<Vec<_>>();
    let mut external_ips = ips(&mut spec.external_ips.iter().flatten());
    let ingress = service.status.iter().flat_map(|s| s.load_balancer.iter().flat_map(|lb| lb.ingress.iter().flatten()));
    external_ips.extend(ips(&mut ingress.filter_map(|ingress| ingress.ip.as_ref())));
    let (all, near) = endpoints(port, protocol, slices, local);
    let pick = |policy: &Option<String>| if policy.as_deref() == Some("Local") { near.clone() } else { all.clone() };
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        let seconds = config.and_then(|client_ip| client_ip.timeout_seconds).unwrap_or(10_800);
        Duration::from_secs(seconds.unsigned_abs().into())
    });
    Some(Entry {
        name: [service.namespace(), Some(service.name_any()), port.name.clone()]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("/"),
        protocol: protocol.to_lowercase(),
        port: u16::try_from(port.port).ok()?,
        cluster_ips: ips(&mut spec.cluster_ips.iter().flatten().chain(
            // Older objects have the single field only.
            spec.cluster_ip.iter().filter(|_| spec.cluster_ips.is_none()),
        )),
        external_ips,
        node_port: port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0),
        source_ranges: spec.load_balancer_source_ranges.clone().unwrap_or_default(),
        affinity,
        internal: pick(&spec.internal_traffic_policy),
        external: pick(&spec.external_traffic_policy),
        keep_source: spec.external_traffic_policy.as_deref() == Some("Local"),
    })
}

/// The pods behind a Service's port: all of them, and those on nodes of this proxy. Pods that are ready; if there
/// are none, pods that still serve while they terminate.
fn endpoints(
    port: &ServicePort,
    protocol: &str,
    slices: &[&EndpointSlice],
    local: &impl Fn(&str) -> bool,
) -> (BTreeSet<Endpoint>, BTreeSet<Endpoint>) {
    let (mut ready, mut terminating) = (Vec::new(), Vec::new());
    for slice in slices {
        let named = slice.ports.iter().flatten().find(|candidate| {
            candidate.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
                && candidate.protocol.as_deref().unwrap_or("TCP") == protocol
        });
        let number = named.and_then(|named| named.port).or(match &port.target_port {
            // A slice without port numbers means the Service's own.
            Some(IntOrString::Int(number)) if slice.ports.is_none() => Some(*number),
            _ => None,
        });
        let Some(number) = number.and_then(|number| u16::try_from(number).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let Some(ip) = endpoint.addresses.first().and_then(|ip| ip.parse().ok()) else { continue };
            let near = endpoint.node_name.as_deref().is_none_or(local);
            let found = (Endpoint { ip, port: number }, near);
            let conditions = endpoint.conditions.as_ref();
            if conditions.and_then(|c| c.ready) != Some(false) {
                ready.push(found);
            } else if conditions.and_then(|c| c.serving) == Some(true)
                && conditions.and_then(|c| c.terminating) == Some(true)
            {
                terminating.push(found);
            }
        }
    }
    let choose = |near_only: bool| {
        let pick = |list: &[(Endpoint, bool)]| {
            list.iter().filter(|(_, near)| *near || !near_only).map(|(endpoint, _)| *endpoint).collect::<BTreeSet<_>>()
        };
        let chosen = pick(&ready);
        if chosen.is_empty() { pick(&terminating) } else { chosen }
    };
    (choose(false), choose(true))
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(crate) fn service(spec: Value) -> Arc<Service> {
        let json = json!({
            "metadata": { "name": "web", "namespace": "default" },
            "spec": spec,
            "status": { "loadBalancer": { "ingress": [{ "ip": "10.112.0.1" }] } },
        });
        Arc::new(serde_json::from_value(json).unwrap())
    }

    /// A slice of endpoints `(address, node, ready, serving, terminating)`.
    pub(crate) fn slice(endpoints: &[(&str, &str, bool, bool, bool)]) -> Arc<EndpointSlice> {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|(ip, node, ready, serving, terminating)| {
                json!({ "addresses": [ip], "nodeName": node,
                        "conditions": { "ready": ready, "serving": serving, "terminating": terminating } })
            })
            .collect();
        let json = json!({
            "metadata": { "name": "web-abc", "namespace": "default", "labels": { SERVICE_NAME: "web" } },
            "addressType": "IPv4",
            "ports": [{ "name": "", "port": 8080, "protocol": "TCP" }],
            "endpoints": endpoints,
        });
        Arc::new(serde_json::from_value(json).unwrap())
    }

    fn ips(endpoints: &BTreeSet<Endpoint>) -> Vec<String> {
        endpoints.iter().map(|endpoint| endpoint.ip.to_string()).collect()
    }

    fn only(spec: Value, endpoints: &[(&str, &str, bool, bool, bool)]) -> Entry {
        let mut entries = build(&[service(spec)], &[slice(endpoints)], |node| node == "n1");
        assert_eq!(entries.len(), 1);
        entries.remove(0)
    }

    #[test]
    fn only_ready_pods_answer() {
        let spec = json!({ "clusterIP": "10.96.0.9", "ports": [{ "port": 80 }] });
        let entry = only(spec, &[("10.244.1.2", "n1", true, true, false), ("10.244.1.3", "n1", false, false, false)]);
        assert_eq!(ips(&entry.internal), ["10.244.1.2"]);
        assert_eq!(entry.internal.first().unwrap().port, 8080);
        assert_eq!((entry.port, entry.external_ips.len()), (80, 1));
    }

    #[test]
    fn when_no_pod_is_ready_those_that_still_serve_while_terminating_answer() {
        let spec = json!({ "clusterIP": "10.96.0.9", "ports": [{ "port": 80 }] });
        let entry = only(spec, &[("10.244.1.2", "n1", false, true, true), ("10.244.1.3", "n1", false, false, true)]);
        assert_eq!(ips(&entry.internal), ["10.244.1.2"]);
    }

    #[test]
    fn local_policy_keeps_clients_from_outside_on_near_pods() {
        let spec = json!({ "clusterIP": "10.96.0.9", "type": "LoadBalancer", "externalTrafficPolicy": "Local",
                           "ports": [{ "port": 80, "nodePort": 30080 }] });
        let entry = only(spec, &[("10.244.1.2", "n1", true, true, false), ("10.244.2.2", "n2", true, true, false)]);
        assert_eq!(ips(&entry.external), ["10.244.1.2"]);
        assert_eq!(ips(&entry.internal), ["10.244.1.2", "10.244.2.2"]);
        assert!(entry.keep_source);
    }

    #[test]
    fn headless_services_have_no_address_to_serve() {
        let spec = json!({ "clusterIP": "None", "ports": [{ "port": 80 }] });
        assert!(build(&[service(spec)], &[slice(&[])], |_| true).is_empty());
    }
}
