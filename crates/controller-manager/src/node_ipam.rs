//! Node IPAM: each node's part of the pods' network.
//!
//! Watches nodes; a key is a node. One without `spec.podCIDR` gets the lowest free block of each of the cluster's
//! ranges: one of IPv4, one of IPv6, or one of each. Nodes that bring blocks of their own keep them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use coracle_client::{EventRecorder, EventType, Informer, ObjectKey, Requeue, WorkQueue, object_reference};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::context::{Context, enqueue_changes};
use crate::error::{Error, IgnoreNotFound, Result};

const NAME: &str = "node-ipam-controller";

/// An address as a number, and how many bits its family has.
fn number(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(v4) => (u32::from(v4).into(), 32),
        IpAddr::V6(v6) => (v6.into(), 128),
    }
}

/// A prefix as first address, length, and the family's bits.
fn parse(prefix: &str) -> Option<(u128, u8, u8)> {
    let (address, length) = prefix.split_once('/')?;
    let ((address, bits), length) = (number(address.parse().ok()?), length.parse().ok()?);
    let host = bits.checked_sub(length)?;
    Some((address.checked_shr(host.into()).unwrap_or(0).checked_shl(host.into()).unwrap_or(0), length, bits))
}

/// One range of the cluster, and who holds which of its blocks.
#[derive(Debug)]
struct Range {
    base: u128,
    length: u8,
    bits: u8,
    /// The length of a node's prefix.
    block: u8,
    held: BTreeMap<u128, String>,
}

impl Range {
    fn new(prefix: &str, block: u8) -> Option<Self> {
        let (base, length, bits) = parse(prefix)?;
        // As upstream: no more than 65,536 nodes.
        let fits = (length..=bits).contains(&block) && block - length <= 16;
        fits.then(|| Range { base, length, bits, block, held: BTreeMap::new() })
    }

    /// The block at an index.
    fn prefix(&self, index: u128) -> String {
        let first = self.base | index.checked_shl((self.bits - self.block).into()).unwrap_or(0);
        let address = match u32::try_from(first) {
            Ok(v4) if self.bits == 32 => IpAddr::V4(v4.into()),
            _ => IpAddr::V6(first.into()),
        };
        format!("{address}/{}", self.block)
    }

    /// Notes a prefix that a node has, if it is of this range.
    fn occupy(&mut self, prefix: &str, node: &str) {
        let Some((base, length, bits)) = parse(prefix).filter(|(_, _, bits)| *bits == self.bits) else { return };
        let index = |address: u128| address.checked_shr((bits - self.block).into()).unwrap_or(0);
        let (first, own) = (index(base), index(self.base));
        let inside = first.checked_sub(own).filter(|offset| *offset < 1 << (self.block - self.length));
        if let Some(first) = inside {
            let blocks = 1 << self.block.saturating_sub(length.max(self.length));
            self.held.extend((first..first + blocks).map(|index| (index, node.to_owned())));
        }
    }

    /// The block of a node: the one it holds, or the lowest free one.
    fn allocate(&mut self, node: &str) -> Option<String> {
        let held = self.held.iter().find(|(_, holder)| *holder == node).map(|(index, _)| *index);
        let mut all = 0..1 << (self.block - self.length);
        let index = held.or_else(|| all.find(|index| !self.held.contains_key(index)))?;
        self.held.insert(index, node.to_owned());
        Some(self.prefix(index))
    }
}

/// The prefixes a node has.
fn prefixes(node: &Node) -> &[String] {
    node.spec.as_ref().and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default()
}

/// Runs the controller, if there are ranges to allocate from.
pub(crate) async fn run(context: Context) {
    let ranges = &context.config.cluster_cidrs;
    let Some(mut ranges) = ranges.iter().map(|(prefix, block)| Range::new(prefix, *block)).collect::<Option<Vec<_>>>()
    else {
        tracing::warn!(?ranges, "no prefixes to give nodes blocks of; nodes get no podCIDR");
        return;
    };
    if ranges.is_empty() {
        return;
    }
    let queue = WorkQueue::new();
    let nodes: Informer<Node> = context.informer();
    nodes.wait_for_sync().await;
    for node in nodes.list() {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        prefixes(&node).iter().for_each(|prefix| ranges.iter_mut().for_each(|range| range.occupy(prefix, name)));
    }
    let (ranges, recorder) = (Mutex::new(ranges), context.recorder(NAME));
    enqueue_changes(&nodes, &queue);
    context.work(NAME, &queue, |key| sync(&context, &recorder, &nodes, &ranges, key)).await;
}

async fn sync(
    context: &Context,
    recorder: &EventRecorder,
    nodes: &Informer<Node>,
    ranges: &Mutex<Vec<Range>>,
    key: ObjectKey,
) -> Result<Requeue> {
    let node = nodes.get(&key);
    let blocks = {
        let mut ranges = ranges.lock().unwrap_or_else(PoisonError::into_inner);
        match node.as_deref().map(prefixes) {
            None => {
                ranges.iter_mut().for_each(|range| range.held.retain(|_, holder| *holder != key.name));
                return Ok(Requeue::Never);
            }
            Some([]) => ranges.iter_mut().map(|range| range.allocate(&key.name)).collect::<Option<Vec<_>>>(),
            Some(own) => {
                own.iter().for_each(|prefix| ranges.iter_mut().for_each(|range| range.occupy(prefix, &key.name)));
                return Ok(Requeue::Never);
            }
        }
    };
    let (Some(blocks), Some(node)) = (blocks, node) else {
        let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
        let about = nodes.get(&key).map(|node| object_reference(node.as_ref())).unwrap_or_default();
        recorder.event(&about, EventType::Normal, "CIDRNotAvailable", message);
        return Err(Error::Other("CIDR allocation failed; there are no remaining CIDRs left to allocate".into()));
    };
    let patch = json!({
        "metadata": { "uid": node.metadata.uid }, "spec": { "podCIDR": blocks[0], "podCIDRs": blocks },
    });
    let api: Api<Node> = Api::all(context.client.clone());
    api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await.ignore_not_found()?;
    Ok(Requeue::Never)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nodes_get_the_lowest_free_block_and_keep_it() {
        let mut range = Range::new("10.244.0.0/16", 24).unwrap();
        range.occupy("10.244.1.0/24", "own");
        range.occupy("10.244.2.128/25", "half");
        range.occupy("10.0.0.0/24", "elsewhere");
        range.occupy("fd00::/64", "v6");
        assert_eq!(range.allocate("a").as_deref(), Some("10.244.0.0/24"));
        assert_eq!(range.allocate("b").as_deref(), Some("10.244.3.0/24"));
        assert_eq!(range.allocate("a").as_deref(), Some("10.244.0.0/24"));
        assert_eq!(range.allocate("own").as_deref(), Some("10.244.1.0/24"));
        let mut six = Range::new("fd00:1::/56", 64).unwrap();
        six.occupy("fd00:1::/62", "four of them");
        assert_eq!(six.allocate("a").as_deref(), Some("fd00:1:0:4::/64"));
    }

    #[test]
    fn a_full_range_has_no_more_and_a_wrong_one_nothing() {
        let mut range = Range::new("10.244.0.0/30", 31).unwrap();
        let blocks: Vec<_> = ["a", "b", "c"].map(|node| range.allocate(node)).into();
        assert_eq!(blocks, [Some("10.244.0.0/31".to_owned()), Some("10.244.0.2/31".into()), None]);
        for (prefix, block) in [("10.244.0.0", 24), ("10.244.0.0/24", 16), ("10.0.0.0/8", 25), ("10.0.0.0/33", 33)] {
            assert!(Range::new(prefix, block).is_none(), "{prefix} {block}");
        }
    }

    proptest! {
        #[test]
        fn no_two_nodes_ever_share_a_block(steps in proptest::collection::vec((0..12u8, any::<bool>()), 0..60)) {
            let mut range = Range::new("10.244.0.0/21", 24).unwrap();
            let mut blocks: BTreeMap<String, String> = BTreeMap::new();
            for (node, comes) in steps {
                let node = node.to_string();
                if comes {
                    let before = blocks.get(&node).cloned();
                    match range.allocate(&node) {
                        Some(block) => {
                            prop_assert!(before.is_none_or(|before| before == block));
                            prop_assert!(blocks.iter().all(|(other, held)| *other == node || *held != block));
                            blocks.insert(node, block);
                        }
                        None => prop_assert_eq!(blocks.len(), 8),
                    }
                } else {
                    range.held.retain(|_, holder| *holder != node);
                    blocks.remove(&node);
                }
            }
        }
    }
}
