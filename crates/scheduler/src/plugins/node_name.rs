//! NodeName: a pod that names its node goes there or nowhere.

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{ClusterEvent, Filter, Plugin, PreFilter, Refusal};

const REASON: &str = "node(s) didn't match the requested node name";

#[derive(Debug)]
pub(super) struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn unblocked_by(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeChanged]
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> PreFilter<'a> {
        let name = pod.spec().node_name.as_deref().filter(|name| !name.is_empty());
        Ok(name.map(|name| Box::new(Named(name)) as Box<dyn Filter>))
    }
}

struct Named<'a>(&'a str);

impl Filter for Named<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        if node.name == self.0 { Ok(()) } else { Err(Refusal::unresolvable(REASON)) }
    }
}
