//! NodePorts: two pods cannot take the same port of one node.

use coracle_client::scheduling::HostPort;

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{ClusterEvent, Filter, Plugin, PreFilter, Refusal};

const REASON: &str = "node(s) didn't have free ports for the requested pod ports";

#[derive(Debug)]
pub(super) struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn unblocked_by(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::AssignedPodRemoved, ClusterEvent::NodeChanged]
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> PreFilter<'a> {
        let wanted: Vec<_> = pod.host_ports().collect();
        Ok((!wanted.is_empty()).then(|| Box::new(Wanted(wanted)) as Box<dyn Filter>))
    }
}

struct Wanted<'a>(Vec<HostPort<'a>>);

impl Filter for Wanted<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        let mut taken = node.pods.values().flat_map(|pod| pod.host_ports());
        let collides = taken.any(|taken| self.0.iter().any(|wanted| wanted.collides(&taken)));
        if collides { Err(Refusal::unschedulable(REASON)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{TestPod, node, pod};

    fn taking(name: &str, ip: &str, protocol: &str, port: i32) -> TestPod {
        let port = json!([{ "containerPort": 80, "hostIP": ip, "protocol": protocol, "hostPort": port }]);
        pod(name).set("/spec/containers/0/ports", port)
    }

    #[test]
    fn a_port_is_taken_per_protocol_and_address() {
        let node = node("n").with(taking("x", "127.0.0.1", "TCP", 8080)).info();
        for (ip, protocol, port, fits) in [
            ("127.0.0.1", "TCP", 8080, false),
            ("", "TCP", 8080, false),
            ("0.0.0.0", "TCP", 8080, false),
            ("127.0.0.2", "TCP", 8080, true),
            ("127.0.0.1", "UDP", 8080, true),
            ("127.0.0.1", "TCP", 8081, true),
        ] {
            let pod = taking("p", ip, protocol, port).info();
            let snapshot = Snapshot::default();
            let filter = NodePorts.filter(&pod, &snapshot).unwrap().unwrap();
            assert_eq!(filter.filter(&node).is_ok(), fits, "{ip} {protocol} {port}");
        }
    }
}
