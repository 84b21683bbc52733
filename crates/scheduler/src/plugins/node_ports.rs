//! NodePorts: two pods cannot take the same port of one node.

use coracle_client::scheduling::HostPort;

use crate::framework::{ClusterEvent, Filter, Happening, Object, Plugin, Point, PreFilter, Prepared, Refusal};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

const REASON: &str = "node(s) didn't have free ports for the requested pod ports";

#[derive(Debug)]
pub(super) struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn events(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::AssignedPodDelete, ClusterEvent::NodeAdd]
    }

    /// The pod that went must have had a port that this one wants.
    fn hint(&self, pod: &PodInfo, happened: &Happening) -> bool {
        let Object::Pod(Some(gone), None) = &happened.object else { return true };
        let wanted: Vec<_> = pod.host_ports().collect();
        gone.host_ports().any(|had| wanted.iter().any(|wanted| wanted.collides(&had)))
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> PreFilter<'a> {
        let wanted: Vec<_> = pod.host_ports().collect();
        if wanted.is_empty() { Prepared::none() } else { Prepared::filter(Wanted(wanted)) }
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
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::testing::{TestPod, filtered, node, pod, snapshot};

    fn taking(name: &str, ip: &str, protocol: &str, port: i32) -> TestPod {
        let port = json!([{ "containerPort": 80, "hostIP": ip, "protocol": protocol, "hostPort": port }]);
        pod(name).set("/spec/containers/0/ports", port)
    }

    #[test]
    fn a_port_is_taken_per_protocol_and_address() {
        let nodes = snapshot(vec![node("n").with(taking("x", "127.0.0.1", "TCP", 8080))]);
        for (ip, protocol, port, fits) in [
            ("127.0.0.1", "TCP", 8080, false),
            ("", "TCP", 8080, false),
            ("0.0.0.0", "TCP", 8080, false),
            ("127.0.0.2", "TCP", 8080, true),
            ("127.0.0.1", "UDP", 8080, true),
            ("127.0.0.1", "TCP", 8081, true),
            ("127.0.0.1", "TCP", 0, true),
        ] {
            let expected = if fits { Ok(()) } else { Err(Refusal::unschedulable(REASON)) };
            let pod = taking("p", ip, protocol, port);
            assert_eq!(filtered(&NodePorts, pod, &nodes, "n"), expected, "{ip} {protocol} {port}");
        }
    }

    #[test]
    fn only_a_pod_that_had_the_port_helps_by_going() {
        let gone = |port| Happening {
            events: vec![ClusterEvent::AssignedPodDelete],
            object: Object::Pod(Some(Arc::new(taking("x", "", "TCP", port).info())), None),
        };
        let waiting = taking("p", "", "TCP", 8080).info();
        assert!(NodePorts.hint(&waiting, &gone(8080)));
        assert!(!NodePorts.hint(&waiting, &gone(8081)));
    }
}
