//! Counting by topology: per value of a node label, such as per zone.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::node::NodeInfo;

/// Which value of one label each node has, with values as small numbers.
#[derive(Debug)]
pub struct Topology {
    values: Vec<Option<usize>>,
    distinct: usize,
}

impl Topology {
    /// The values of a label; nodes are known by their [places](NodeInfo::place), which are those in the slice.
    pub fn new(key: &str, nodes: &[NodeInfo]) -> Topology {
        let mut known = BTreeMap::new();
        let number = |node: &NodeInfo| {
            let value = node.node.metadata.labels.as_ref()?.get(key)?.clone();
            let next = known.len();
            Some(*known.entry(value).or_insert(next))
        };
        Topology { values: nodes.iter().map(number).collect(), distinct: known.len() }
    }

    /// A node's value.
    pub fn value(&self, node: &NodeInfo) -> Option<usize> {
        self.values[node.place]
    }
}

/// A count per value of a label.
#[derive(Clone, Debug)]
pub struct Counts {
    topology: Arc<Topology>,
    /// None where nothing was counted, which is not the same as nothing found.
    counts: Vec<Option<i64>>,
    total: i64,
}

impl Counts {
    /// Nothing counted yet.
    pub fn new(topology: Arc<Topology>) -> Counts {
        Counts { counts: vec![None; topology.distinct], topology, total: 0 }
    }

    /// Whether the node has the label.
    pub fn knows(&self, node: &NodeInfo) -> bool {
        self.topology.value(node).is_some()
    }

    /// So many more at the node at a place, if it has the label. 0 says that there is something to count at all.
    pub fn add(&mut self, place: usize, by: i64) {
        if let Some(value) = self.topology.values[place] {
            *self.counts[value].get_or_insert(0) += by;
            self.total += by;
        }
    }

    /// The count of a node's value; none without the label, or where nothing was counted.
    pub fn at(&self, node: &NodeInfo) -> Option<i64> {
        self.counts[self.topology.value(node)?]
    }

    /// The sum over all values.
    pub fn total(&self) -> i64 {
        self.total
    }

    /// The counts of the values for which something was counted.
    pub fn iter(&self) -> impl Iterator<Item = i64> {
        self.counts.iter().filter_map(|count| *count)
    }
}
