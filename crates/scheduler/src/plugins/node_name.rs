//! NodeName: a pod that names its node goes there or nowhere.

use crate::framework::{ClusterEvent, Filter, Happening, Object, Plugin, Point, PreFilter, Prepared, Refusal};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

const REASON: &str = "node(s) didn't match the requested node name";

#[derive(Debug)]
pub(super) struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Filter]
    }

    fn events(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdd]
    }

    fn hint(&self, pod: &PodInfo, happened: &Happening) -> bool {
        let Object::Node(_, Some(node)) = &happened.object else { return true };
        wanted(pod).is_none_or(|name| node.metadata.name.as_deref() == Some(name))
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> PreFilter<'a> {
        wanted(pod).map_or_else(Prepared::none, |name| Prepared::filter(Named(name)))
    }
}

fn wanted(pod: &PodInfo) -> Option<&str> {
    pod.spec().node_name.as_deref().filter(|name| !name.is_empty())
}

struct Named<'a>(&'a str);

impl Filter for Named<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        if node.name == self.0 { Ok(()) } else { Err(Refusal::unresolvable(REASON)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{filtered, node, pod, snapshot};

    #[test]
    fn a_pod_that_names_its_node_goes_nowhere_else() {
        let nodes = snapshot(vec![node("a"), node("b")]);
        for (name, on, expected) in
            [("", "a", Ok(())), ("a", "a", Ok(())), ("b", "a", Err(Refusal::unresolvable(REASON)))]
        {
            let pod = pod("p").set("/spec/nodeName", name.into());
            assert_eq!(filtered(&NodeName, pod, &nodes, on), expected, "{name} {on}");
        }
    }
}
