//! Names to answers, as the Kubernetes DNS specification (version 1.1.0) lays down.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;

/// How long answers may be kept, in seconds.
pub const TTL_SECONDS: u32 = 5;
/// The version of the specification, told under `dns-version`.
const SPECIFICATION: &str = "1.1.0";

/// What a question asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Addresses.
    A,
    /// Ports with names.
    Srv,
    /// The name of an address.
    Ptr,
    /// Text.
    Txt,
    /// An alias.
    Cname,
    /// Anything else; a name that exists has no such record.
    Other,
}

/// One record of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An address.
    A(Ipv4Addr),
    /// A port and the name it is found under.
    Srv {
        /// The port.
        port: u16,
        /// The full name.
        target: String,
        /// That name's address.
        address: Ipv4Addr,
    },
    /// A full name.
    Ptr(String),
    /// A text.
    Txt(String),
    /// A full name to ask for instead.
    Cname(String),
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The name exists; perhaps without records of that kind.
    Records(Vec<Record>),
    /// The name is ours and does not exist.
    NoSuchName,
    /// The name is not ours.
    NotOurs,
}

/// Everything names are answered from.
#[derive(Debug, Default)]
pub struct Zone {
    domain: String,
    services: BTreeMap<(String, String), Arc<Service>>,
    slices: BTreeMap<(String, String), Vec<Arc<EndpointSlice>>>,
    namespaces: std::collections::BTreeSet<String>,
    /// Full names of addresses.
    reverse: BTreeMap<Ipv4Addr, Vec<String>>,
}

/// A pod behind a headless Service.
struct Backend {
    ip: Ipv4Addr,
    label: String,
}

impl Zone {
    /// The zone of `domain` (such as `cluster.local`).
    pub fn new(
        domain: &str,
        services: Vec<Arc<Service>>,
        slices: Vec<Arc<EndpointSlice>>,
        namespaces: impl IntoIterator<Item = String>,
    ) -> Self {
        let mut zone = Zone {
            domain: domain.trim_matches('.').to_lowercase(),
            namespaces: namespaces.into_iter().collect(),
            ..Default::default()
        };
        for slice in slices.into_iter().filter(|slice| slice.address_type == "IPv4") {
            if let Some(service) = slice.labels().get("kubernetes.io/service-name").cloned() {
                zone.slices.entry((slice.namespace().unwrap_or_default(), service)).or_default().push(slice);
            }
        }
        for service in services {
            zone.services.insert((service.namespace().unwrap_or_default(), service.name_any()), service);
        }
        zone.reverse = zone.reverse_names();
        zone
    }

    fn reverse_names(&self) -> BTreeMap<Ipv4Addr, Vec<String>> {
        let mut reverse: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for ((namespace, name), service) in &self.services {
            let full = format!("{name}.{namespace}.svc.{}", self.domain);
            match cluster_ip(service) {
                Some(ip) => reverse.entry(ip).or_default().push(full),
                None => {
                    for backend in self.backends(namespace, name, service) {
                        reverse.entry(backend.ip).or_default().push(format!("{}.{full}", backend.label));
                    }
                }
            }
        }
        reverse
    }

    /// Answers a question about `name` (with or without the final dot).
    pub fn resolve(&self, name: &str, kind: Kind) -> Answer {
        let name = name.trim_end_matches('.').to_lowercase();
        if let Some(address) = name.strip_suffix(".in-addr.arpa") {
            return self.resolve_reverse(address, kind);
        }
        if name == self.domain {
            return Answer::Records(Vec::new());
        }
        let Some(inside) = name.strip_suffix(&format!(".{}", self.domain)) else { return Answer::NotOurs };
        let mut labels: Vec<&str> = inside.split('.').collect();
        let found = match labels.pop() {
            Some("svc") => self.resolve_service(&labels, kind),
            Some("pod") => self.resolve_pod(&labels, kind),
            Some("dns-version") if labels.is_empty() => Some(match kind {
                Kind::Txt => vec![Record::Txt(SPECIFICATION.into())],
                _ => Vec::new(),
            }),
            _ => None,
        };
        found.map_or(Answer::NoSuchName, Answer::Records)
    }

    fn resolve_reverse(&self, reversed: &str, kind: Kind) -> Answer {
        let address: Vec<&str> = reversed.split('.').rev().collect();
        let names = address.join(".").parse().ok().and_then(|ip: Ipv4Addr| self.reverse.get(&ip));
        match names {
            Some(names) if kind == Kind::Ptr => {
                Answer::Records(names.iter().map(|name| Record::Ptr(format!("{name}."))).collect())
            }
            Some(_) => Answer::Records(Vec::new()),
            // Somebody else may know the address.
            None => Answer::NotOurs,
        }
    }

    /// `labels` are what stands before `pod`: the dashed address and the namespace.
    fn resolve_pod(&self, labels: &[&str], kind: Kind) -> Option<Vec<Record>> {
        match labels {
            [] => Some(Vec::new()),
            [namespace] => self.namespaces.contains(*namespace).then(Vec::new),
            [address, namespace] if self.namespaces.contains(*namespace) => {
                let ip = address.replace('-', ".").parse().ok()?;
                Some(if kind == Kind::A { vec![Record::A(ip)] } else { Vec::new() })
            }
            _ => None,
        }
    }

    /// `labels` are what stands before `svc`.
    fn resolve_service(&self, labels: &[&str], kind: Kind) -> Option<Vec<Record>> {
        let (before, namespace, name) = match labels {
            [] => return Some(Vec::new()),
            [namespace] => return self.namespaces.contains(*namespace).then(Vec::new),
            [before @ .., name, namespace] => (before, *namespace, *name),
        };
        let service = self.services.get(&(namespace.to_owned(), name.to_owned()))?;
        let full = format!("{name}.{namespace}.svc.{}", self.domain);
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            let target = spec.external_name.as_deref()?.trim_end_matches('.');
            let wanted = matches!(kind, Kind::A | Kind::Cname | Kind::Other);
            return before
                .is_empty()
                .then(|| wanted.then(|| Record::Cname(format!("{target}."))).into_iter().collect());
        }
        let targets: Vec<(String, Ipv4Addr)> = match cluster_ip(service) {
            Some(ip) => vec![(full.clone(), ip)],
            None => {
                let backends = self.backends(namespace, name, service).into_iter();
                backends.map(|backend| (format!("{}.{full}", backend.label), backend.ip)).collect()
            }
        };
        match before {
            [] => Some(match kind {
                Kind::A => targets.into_iter().map(|(_, ip)| Record::A(ip)).collect(),
                Kind::Srv => {
                    let ports = self.ports(namespace, name, service, |_| true);
                    ports.iter().flat_map(|port| srv(*port, &targets)).collect()
                }
                _ => Vec::new(),
            })
            .filter(|_| cluster_ip(service).is_some() || !self.backends(namespace, name, service).is_empty()),
            [port, protocol] if port.starts_with('_') && protocol.starts_with('_') => {
                let wanted = (&port[1..], protocol[1..].to_uppercase());
                let ports =
                    self.ports(namespace, name, service, |(name, protocol)| (name, protocol.to_owned()) == wanted);
                (!ports.is_empty()).then(|| match kind {
                    Kind::Srv => ports.iter().flat_map(|port| srv(*port, &targets)).collect(),
                    _ => Vec::new(),
                })
            }
            [host] => {
                let prefix = format!("{host}.{full}");
                let matching = targets.iter().filter(|(target, _)| *target == prefix);
                let addresses: Vec<_> = matching.map(|(_, ip)| Record::A(*ip)).collect();
                (!addresses.is_empty()).then(|| if kind == Kind::A { addresses } else { Vec::new() })
            }
            _ => None,
        }
    }

    /// The ports of a Service that `wanted` (name, protocol) picks: its own, or for a headless one the pods'.
    fn ports(&self, namespace: &str, name: &str, service: &Service, wanted: impl Fn((&str, &str)) -> bool) -> Vec<u16> {
        let own = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let own = own.map(|p| (p.name.as_deref(), p.protocol.as_deref(), Some(p.port)));
        let slices = self.slices.get(&(namespace.to_owned(), name.to_owned()));
        let theirs = slices.into_iter().flatten().flat_map(|slice| slice.ports.iter().flatten());
        let theirs = theirs.map(|p| (p.name.as_deref(), p.protocol.as_deref(), p.port));
        let all: Vec<_> = if cluster_ip(service).is_some() { own.collect() } else { theirs.collect() };
        let mut ports: Vec<u16> = all
            .into_iter()
            .filter(|(name, protocol, _)| wanted((name.unwrap_or_default(), protocol.unwrap_or("TCP"))))
            .filter_map(|(_, _, port)| u16::try_from(port?).ok())
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    fn backends(&self, namespace: &str, name: &str, service: &Service) -> Vec<Backend> {
        let early = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
        let slices = self.slices.get(&(namespace.to_owned(), name.to_owned()));
        let endpoints = slices.into_iter().flatten().flat_map(|slice| slice.endpoints.iter().flatten());
        let mut backends = Vec::new();
        for endpoint in endpoints {
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false);
            if !ready && !early {
                continue;
            }
            for ip in endpoint.addresses.iter().filter_map(|ip| ip.parse::<Ipv4Addr>().ok()) {
                let label = endpoint.hostname.clone().filter(|name| !name.is_empty());
                backends.push(Backend { ip, label: label.unwrap_or_else(|| ip.to_string().replace('.', "-")) });
            }
        }
        backends
    }
}

fn cluster_ip(service: &Service) -> Option<Ipv4Addr> {
    service.spec.as_ref()?.cluster_ip.as_deref()?.parse().ok()
}

fn srv(port: u16, targets: &[(String, Ipv4Addr)]) -> Vec<Record> {
    targets.iter().map(|(name, address)| Record::Srv { port, target: format!("{name}."), address: *address }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn zone() -> Zone {
        let service = |name: &str, spec: Value| {
            let json = json!({ "metadata": { "name": name, "namespace": "default" }, "spec": spec });
            Arc::new(serde_json::from_value::<Service>(json).unwrap())
        };
        let http = json!([{ "name": "http", "port": 80, "protocol": "TCP" }]);
        let slice = json!({
            "metadata": { "name": "db-x", "namespace": "default", "labels": { "kubernetes.io/service-name": "db" } },
            "addressType": "IPv4",
            "ports": [{ "name": "mysql", "port": 3306, "protocol": "TCP" }],
            "endpoints": [
                { "addresses": ["10.244.1.2"], "hostname": "db-0", "conditions": { "ready": true } },
                { "addresses": ["10.244.1.3"], "conditions": { "ready": true } },
                { "addresses": ["10.244.1.4"], "conditions": { "ready": false } },
            ],
        });
        let services = vec![
            service("web", json!({ "clusterIP": "10.96.0.9", "ports": http })),
            service("db", json!({ "clusterIP": "None", "ports": [{ "name": "mysql", "port": 3306 }] })),
            service("empty", json!({ "clusterIP": "None", "ports": http })),
            service("world", json!({ "type": "ExternalName", "externalName": "example.org" })),
        ];
        Zone::new("cluster.local", services, vec![Arc::new(serde_json::from_value(slice).unwrap())], ["default".into()])
    }

    fn a(ip: &str) -> Record {
        Record::A(ip.parse().unwrap())
    }

    #[test]
    fn names_resolve_as_the_specification_says() {
        let srv =
            |port, target: &str, ip: &str| Record::Srv { port, target: target.into(), address: ip.parse().unwrap() };
        let zone = zone();
        for (name, kind, expected) in [
            ("web.default.svc.cluster.local.", Kind::A, Some(vec![a("10.96.0.9")])),
            ("WEB.Default.svc.cluster.local", Kind::A, Some(vec![a("10.96.0.9")])),
            ("web.default.svc.cluster.local", Kind::Other, Some(vec![])),
            ("db.default.svc.cluster.local", Kind::A, Some(vec![a("10.244.1.2"), a("10.244.1.3")])),
            ("db-0.db.default.svc.cluster.local", Kind::A, Some(vec![a("10.244.1.2")])),
            ("10-244-1-3.db.default.svc.cluster.local", Kind::A, Some(vec![a("10.244.1.3")])),
            ("10-244-1-4.db.default.svc.cluster.local", Kind::A, None),
            ("empty.default.svc.cluster.local", Kind::A, None),
            (
                "_http._tcp.web.default.svc.cluster.local",
                Kind::Srv,
                Some(vec![srv(80, "web.default.svc.cluster.local.", "10.96.0.9")]),
            ),
            (
                "_mysql._tcp.db.default.svc.cluster.local",
                Kind::Srv,
                Some(vec![
                    srv(3306, "db-0.db.default.svc.cluster.local.", "10.244.1.2"),
                    srv(3306, "10-244-1-3.db.default.svc.cluster.local.", "10.244.1.3"),
                ]),
            ),
            ("_http._udp.web.default.svc.cluster.local", Kind::Srv, None),
            ("world.default.svc.cluster.local", Kind::A, Some(vec![Record::Cname("example.org.".into())])),
            ("10-244-1-9.default.pod.cluster.local", Kind::A, Some(vec![a("10.244.1.9")])),
            ("10-244-1-9.elsewhere.pod.cluster.local", Kind::A, None),
            ("default.svc.cluster.local", Kind::A, Some(vec![])),
            ("nobody.default.svc.cluster.local", Kind::A, None),
            ("dns-version.cluster.local", Kind::Txt, Some(vec![Record::Txt("1.1.0".into())])),
            ("9.0.96.10.in-addr.arpa", Kind::Ptr, Some(vec![Record::Ptr("web.default.svc.cluster.local.".into())])),
            (
                "2.1.244.10.in-addr.arpa",
                Kind::Ptr,
                Some(vec![Record::Ptr("db-0.db.default.svc.cluster.local.".into())]),
            ),
        ] {
            let expected = expected.map_or(Answer::NoSuchName, Answer::Records);
            assert_eq!(zone.resolve(name, kind), expected, "{name} {kind:?}");
        }
    }

    #[test]
    fn other_names_are_for_others_to_answer() {
        for name in ["example.org", "cluster.local.example.org", "1.2.0.192.in-addr.arpa", "mycluster.local"] {
            assert_eq!(zone().resolve(name, Kind::A), Answer::NotOurs, "{name}");
        }
    }
}
