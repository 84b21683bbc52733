//! What the allocator counts: `kube_apiserver_clusterip_allocator_…` and `kube_apiserver_nodeport_allocator_…`.
//!
//! The scope is `static` for what a Service names itself and `dynamic` for what is chosen for it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use coracle_api::ApiError;
use coracle_client::metrics::{Histogram, head, line};

use super::{Ipv4Cidr, Ranges, ServiceAllocator, Taken, Used, all_ports, cluster_ips, service};
use crate::rbac::cached;

const CLUSTER_IPS: &str = "kube_apiserver_clusterip_allocator";
const NODE_PORTS: &str = "kube_apiserver_nodeport_allocator";
/// Counters: of which allocator, their name and help.
const COUNTERS: [(&str, &str, &str); 4] = [
    (CLUSTER_IPS, "allocation_errors_total", "Number of errors trying to allocate Cluster IPs"),
    (CLUSTER_IPS, "allocation_total", "Number of Cluster IPs allocations"),
    (NODE_PORTS, "allocation_errors_total", "Number of errors trying to allocate NodePort"),
    (NODE_PORTS, "allocation_total", "Number of NodePort allocations"),
];
/// Upper bounds in seconds: Prometheus' own.
const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What was given and what could not be.
#[derive(Debug, Default)]
pub(super) struct Counts(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    /// By allocator and name, and by labels.
    totals: BTreeMap<(&'static str, &'static str), BTreeMap<String, u64>>,
    /// By range.
    took: BTreeMap<String, Histogram>,
}

/// What one Service wanted.
pub(super) struct Wish<'a> {
    /// What it named itself.
    pub asked: &'a Used,
    /// What it had before.
    pub held: &'a Used,
    pub taken: Taken<'a>,
    pub ranges: &'a Ranges,
}

fn range_of(ranges: &[Ipv4Cidr], ip: Ipv4Addr) -> Option<&Ipv4Cidr> {
    ranges.iter().find(|range| range.contains(ip))
}

impl Counts {
    /// Notes what became of a wish, and how long that took.
    pub(super) fn note(&self, wish: &Wish<'_>, outcome: Result<&Used, &ApiError>, took: Duration) {
        let Wish { asked, held, taken, ranges } = wish;
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut add = |allocator, name, range: Option<&Ipv4Cidr>, dynamic: bool| {
            let scope = if dynamic { "dynamic" } else { "static" };
            let labels = range.map(|range| format!("cidr=\"{range}\",")).unwrap_or_default();
            let totals = counted.totals.entry((allocator, name)).or_default();
            *totals.entry(format!("{labels}scope=\"{scope}\"")).or_default() += 1;
        };
        match outcome {
            Ok(given) => {
                for port in given.ports.difference(&held.ports) {
                    add(NODE_PORTS, "allocation_total", None, !asked.ports.contains(port));
                }
                for ip in given.ips.difference(&held.ips) {
                    let Some(range) = range_of(&ranges.cluster_ips, *ip) else { continue };
                    add(CLUSTER_IPS, "allocation_total", Some(range), !asked.ips.contains(ip));
                    let took_there = counted.took.entry(range.to_string());
                    took_there.or_insert_with(|| Histogram::new(&BOUNDS)).observe(took);
                    // One address a Service: there is no second to count.
                    break;
                }
            }
            Err(error) if error.message.ends_with(service::NO_IP) => {
                ranges
                    .cluster_ips
                    .iter()
                    .for_each(|range| add(CLUSTER_IPS, "allocation_errors_total", Some(range), true));
            }
            Err(error) if error.message.ends_with(service::NO_PORT) => {
                add(NODE_PORTS, "allocation_errors_total", None, true);
            }
            Err(_) => {
                for ip in asked.ips.difference(&held.ips).filter(|ip| (taken.ip)(**ip)) {
                    if let Some(range) = range_of(&ranges.cluster_ips, *ip) {
                        add(CLUSTER_IPS, "allocation_errors_total", Some(range), false);
                    }
                }
                let others = (taken.ports)();
                let wrong = |port: &&u16| !ranges.node_ports.contains(port) || others.contains(port);
                for _ in asked.ports.difference(&held.ports).filter(wrong) {
                    add(NODE_PORTS, "allocation_errors_total", None, false);
                }
            }
        }
    }

    fn render(&self, out: &mut String) {
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (allocator, name, help) in COUNTERS {
            let full = format!("{allocator}_{name}");
            head(out, &full, "counter", help);
            for (labels, count) in counted.totals.get(&(allocator, name)).into_iter().flatten() {
                line(out, &full, labels, count);
            }
        }
        let name = format!("{CLUSTER_IPS}_allocation_duration_seconds");
        head(out, &name, "histogram", "Duration in seconds to allocate a Cluster IP by ServiceCIDR");
        for (range, took) in &counted.took {
            took.render(out, &name, &format!("cidr=\"{range}\""));
        }
    }
}

impl ServiceAllocator {
    /// Its counters, and how much of each range is given.
    pub(super) fn render(&self, out: &mut String) {
        self.counts.render(out);
        let addresses = cached(&self.storage, super::NETWORKING, "ipaddresses", "");
        let addresses = addresses.iter().filter_map(|address| address["metadata"]["name"].as_str()?.parse().ok());
        let addresses: Vec<Ipv4Addr> = addresses.collect();
        let of_range = |range: &Ipv4Cidr| {
            let given = addresses.iter().filter(|address| range.contains(**address)).count();
            (format!("cidr=\"{range}\""), given, range.size() as usize)
        };
        let ips = cluster_ips(&self.storage, false).iter().map(of_range).collect();
        let given = all_ports(&self.storage, |_| true).iter().filter(|port| self.node_ports.contains(port)).count();
        let ports = vec![(String::new(), given, self.node_ports.len())];
        for (allocator, what, told, rows) in
            [(CLUSTER_IPS, "ips", "IPs", ips), (NODE_PORTS, "ports", "NodePorts", ports)]
        {
            for (state, free) in [("allocated", false), ("available", true)] {
                let name = format!("{allocator}_{state}_{what}");
                head(out, &name, "gauge", &format!("Gauge measuring the number of {state} {told} for Services"));
                for (labels, given, size) in &rows {
                    line(out, &name, labels, if free { size.saturating_sub(*given) } else { *given });
                }
            }
        }
    }
}
