//! All that a decision may look at, as of one moment.
//!
//! The cache keeps one snapshot current and lends it to each cycle: nothing is copied, because nothing changes
//! while a decision is made.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use coracle_client::ObjectKey;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};

use crate::alike::{Alike, Alikes};
use crate::devices::{Devices, Held, Published};
use crate::node::{NodeInfo, REGION, ZONE};
use crate::pod::PodInfo;
use crate::topology::{Counts, Topology};

/// All that a decision may look at.
#[derive(Debug, Default)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    /// Where each node is in `nodes`.
    index: BTreeMap<String, usize>,
    /// In which order nodes are looked at: one of each zone in turn.
    order: Vec<usize>,
    /// Where in that order each is.
    turns: Vec<usize>,
    /// How many nodes hold each image.
    images: BTreeMap<String, usize>,
    /// The pods on nodes, as rules about other pods see them.
    alikes: Alikes,
    /// The labels that were counted by, until nodes come, go, or get other labels.
    topologies: Mutex<BTreeMap<String, Arc<Topology>>>,
    /// Labels of namespaces, for affinity terms with a namespace selector.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Pods for which room was made on a node, and which are not there yet.
    pub nominated: BTreeMap<String, BTreeMap<ObjectKey, Arc<PodInfo>>>,
    /// Claims.
    pub claims: Listed<PersistentVolumeClaim>,
    /// Volumes.
    pub volumes: Listed<PersistentVolume>,
    /// Storage classes.
    pub classes: Listed<StorageClass>,
    /// The CSI drivers on each node.
    pub csi_nodes: Listed<CSINode, VolumeLimits>,
    /// What CSI drivers say of themselves.
    pub csi_drivers: Listed<CSIDriver>,
    /// How much storage there is where.
    pub capacities: Listed<CSIStorageCapacity>,
    /// The volumes attached to nodes.
    pub attachments: Listed<VolumeAttachment, OfNodes>,
    /// How many pods must stay.
    pub budgets: Listed<PodDisruptionBudget>,
    /// Claims of devices, and what they have got.
    pub resource_claims: Listed<ResourceClaim, Held>,
    /// The devices that drivers publish.
    pub resource_slices: Listed<ResourceSlice, Published>,
    /// Sorts of devices.
    pub device_classes: Listed<DeviceClass>,
    /// Services: their pods are spread.
    pub services: Listed<Service>,
}

impl Snapshot {
    /// The nodes, in the order in which they are looked at.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.order.iter().map(|at| &self.nodes[*at])
    }

    /// The node that is looked at as the `turn`th; there are [`len`](Snapshot::len).
    pub fn nth(&self, turn: usize) -> &NodeInfo {
        &self.nodes[self.order[turn]]
    }

    /// As the how manyth a node is looked at.
    pub fn turn(&self, name: &str) -> Option<usize> {
        self.index.get(name).map(|place| self.turns[*place])
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// A node by its name.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.index.get(name).map(|at| &self.nodes[*at])
    }

    /// The node at a [place](NodeInfo::place).
    pub fn at(&self, place: usize) -> &NodeInfo {
        &self.nodes[place]
    }

    /// The pods on nodes, by what rules about other pods see in them.
    pub fn alikes(&self) -> impl Iterator<Item = &Alike> {
        self.alikes.iter()
    }

    /// To count by a label of nodes.
    pub fn counts(&self, key: &str) -> Counts {
        let mut known = self.topologies.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains_key(key) {
            known.insert(key.to_owned(), Arc::new(Topology::new(key, &self.nodes)));
        }
        Counts::new(known[key].clone())
    }

    /// The devices that drivers publish.
    pub fn devices(&self) -> &Devices {
        self.resource_slices.index().devices(self.resource_slices.iter().map(|(_, slice)| slice))
    }

    /// How many nodes hold an image, by its [name](crate::node::image_name).
    pub fn nodes_with_image(&self, name: &str) -> usize {
        self.images.get(name).copied().unwrap_or_default()
    }

    /// A node came, or another state of it; its pods stay.
    pub fn set_node(&mut self, mut node: NodeInfo) {
        let same_images = self.node(&node.name).is_some_and(|known| known.images == node.images);
        if !same_images {
            self.count_images(&node.name, false);
        }
        let name = node.name.clone();
        match self.index.get(&name).map(|at| &mut self.nodes[*at]) {
            Some(known) => {
                let same_labels = known.labels() == node.labels();
                let same_zone = same_labels || zone(known) == zone(&node);
                let old = std::mem::replace(known, node);
                known.succeed(old);
                if !same_labels {
                    self.forget_topologies();
                }
                if !same_zone {
                    self.order.clear();
                }
            }
            None => {
                node.place = self.nodes.len();
                self.index.insert(name.clone(), node.place);
                self.count_pods(&node, true);
                self.nodes.push(node);
                self.forget_topologies();
                self.order.clear();
            }
        }
        if !same_images {
            self.count_images(&name, true);
        }
    }

    /// A node went.
    pub fn remove_node(&mut self, name: &str) {
        self.count_images(name, false);
        let Some(place) = self.index.remove(name) else { return };
        let gone = self.nodes.swap_remove(place);
        self.count_pods(&gone, false);
        // The last one is in its place now.
        if let Some(mut moved) = self.nodes.get(place).cloned() {
            self.count_pods(&moved, false);
            moved.place = place;
            self.count_pods(&moved, true);
            self.index.insert(moved.name.clone(), place);
            self.nodes[place] = moved;
        }
        self.forget_topologies();
        self.order.clear();
    }

    /// A node has one more pod.
    pub fn add_pod(&mut self, node: &str, pod: Arc<PodInfo>) {
        let Some(place) = self.index.get(node).copied() else { return };
        self.alikes.add(&pod, place);
        self.nodes[place].add(pod);
    }

    /// A node has one pod less.
    pub fn remove_pod(&mut self, node: &str, key: &ObjectKey) {
        let Some(place) = self.index.get(node).copied() else { return };
        if let Some(pod) = self.nodes[place].remove(key) {
            self.alikes.remove(&pod, place);
        }
    }

    fn count_pods(&mut self, node: &NodeInfo, more: bool) {
        for pod in node.pods.values() {
            match more {
                true => self.alikes.add(pod, node.place),
                false => self.alikes.remove(pod, node.place),
            }
        }
    }

    fn forget_topologies(&mut self) {
        self.topologies.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Makes the order of nodes good again after nodes came or went; nothing else may be asked before.
    pub fn arrange(&mut self) {
        if self.order.len() == self.nodes.len() {
            return;
        }
        let mut zones: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for at in self.index.values() {
            zones.entry(zone(&self.nodes[*at])).or_default().push(*at);
        }
        let longest = zones.values().map(Vec::len).max().unwrap_or_default();
        self.order =
            (0..longest).flat_map(|turn| zones.values().filter_map(move |zone| zone.get(turn).copied())).collect();
        self.turns = vec![0; self.nodes.len()];
        for (turn, place) in self.order.iter().enumerate() {
            self.turns[*place] = turn;
        }
    }

    fn count_images(&mut self, node: &str, more: bool) {
        let Some(at) = self.index.get(node) else { return };
        for name in self.nodes[*at].images.keys() {
            let count = self.images.entry(name.clone()).or_default();
            *count = if more { *count + 1 } else { count.saturating_sub(1) };
        }
        self.images.retain(|_, count| *count > 0);
    }
}

fn zone(node: &NodeInfo) -> (Option<String>, Option<String>) {
    (node.labels().get(REGION).cloned(), node.labels().get(ZONE).cloned())
}

/// The objects of one kind, as last seen or as they are about to be written.
#[derive(Debug)]
pub struct Listed<K, I = ()> {
    seen: BTreeMap<ObjectKey, Arc<K>>,
    /// What the scheduler decided to write, until the API server shows a newer state.
    assumed: BTreeMap<ObjectKey, Assumed<K>>,
    /// What is kept of all of them, so that not all must be looked at.
    index: I,
}

/// Something known of all objects of a kind.
pub trait Index<K>: Default {
    /// An object came, became another, or went.
    fn replace(&mut self, old: Option<&Arc<K>>, new: Option<&Arc<K>>);
}

impl<K> Index<K> for () {
    fn replace(&mut self, _: Option<&Arc<K>>, _: Option<&Arc<K>>) {}
}

#[derive(Debug)]
struct Assumed<K> {
    object: Arc<K>,
    /// It takes several writes: newer states may only be on the way to it.
    in_flight: bool,
}

/// How many nodes can have so many volumes of a driver attached, by driver and that number.
#[derive(Debug, Default)]
pub struct VolumeLimits(BTreeMap<String, BTreeMap<usize, usize>>);

impl VolumeLimits {
    /// So many volumes of the driver every node can have; none if no node says how many.
    pub fn least(&self, driver: &str) -> Option<usize> {
        self.0.get(driver)?.first_key_value().map(|(limit, _)| *limit)
    }
}

/// How many volumes of which drivers a node can have attached, where it says so.
pub fn volume_limits(node: &CSINode) -> impl Iterator<Item = (&str, usize)> {
    let limit = |count| usize::try_from(count).unwrap_or(0);
    node.spec
        .drivers
        .iter()
        .filter_map(move |driver| Some((&driver.name[..], limit(driver.allocatable.as_ref()?.count?))))
}

impl Index<CSINode> for VolumeLimits {
    fn replace(&mut self, old: Option<&Arc<CSINode>>, new: Option<&Arc<CSINode>>) {
        for (driver, limit) in new.iter().flat_map(|node| volume_limits(node)) {
            *self.0.entry(driver.to_owned()).or_default().entry(limit).or_default() += 1;
        }
        for (driver, limit) in old.iter().flat_map(|node| volume_limits(node)) {
            let Some(nodes) = self.0.get_mut(driver) else { continue };
            if let Some(count) = nodes.get_mut(&limit) {
                *count -= 1;
            }
            nodes.retain(|_, count| *count > 0);
        }
    }
}

/// The attachments of each node.
#[derive(Debug, Default)]
pub struct OfNodes(BTreeMap<String, Vec<Arc<VolumeAttachment>>>);

impl OfNodes {
    /// A node's.
    pub fn of(&self, node: &str) -> &[Arc<VolumeAttachment>] {
        self.0.get(node).map_or(&[], Vec::as_slice)
    }
}

impl Index<VolumeAttachment> for OfNodes {
    fn replace(&mut self, old: Option<&Arc<VolumeAttachment>>, new: Option<&Arc<VolumeAttachment>>) {
        if let Some(old) = old
            && let Some(of_node) = self.0.get_mut(&old.spec.node_name)
        {
            of_node.retain(|attachment| !Arc::ptr_eq(attachment, old));
            self.0.retain(|_, attachments| !attachments.is_empty());
        }
        if let Some(new) = new {
            self.0.entry(new.spec.node_name.clone()).or_default().push(new.clone());
        }
    }
}

impl<K, I: Default> Default for Listed<K, I> {
    fn default() -> Self {
        Listed { seen: BTreeMap::new(), assumed: BTreeMap::new(), index: I::default() }
    }
}

fn version(object: &impl kube::Resource) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

impl<K: kube::Resource, I: Index<K>> Listed<K, I> {
    /// What is known of all.
    pub fn index(&self) -> &I {
        &self.index
    }

    /// One object.
    pub fn get(&self, key: &ObjectKey) -> Option<&Arc<K>> {
        self.assumed.get(key).map(|assumed| &assumed.object).or_else(|| self.seen.get(key))
    }

    /// The state that the API server shows of an object that is being written in several steps.
    pub fn in_flight(&self, key: &ObjectKey) -> Option<&Arc<K>> {
        self.assumed.get(key).filter(|assumed| assumed.in_flight).and_then(|_| self.seen.get(key))
    }

    /// One object of a kind without namespaces.
    pub fn named(&self, name: &str) -> Option<&Arc<K>> {
        self.get(&ObjectKey::new("", name))
    }

    /// All objects, by key; those that the API server does not show yet come last.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &Arc<K>)> {
        let new = self.assumed.iter().filter(|(key, _)| !self.seen.contains_key(key));
        self.seen
            .iter()
            .map(|(key, seen)| (key, self.or_assumed(key, seen)))
            .chain(new.map(|(key, a)| (key, &a.object)))
    }

    fn or_assumed<'a>(&'a self, key: &ObjectKey, seen: &'a Arc<K>) -> &'a Arc<K> {
        self.assumed.get(key).map_or(seen, |assumed| &assumed.object)
    }

    /// The objects of a namespace, by name.
    pub fn of_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<K>> {
        let from = ObjectKey::new(namespace, "");
        let own = self.seen.range(from..).take_while(move |(key, _)| key.namespace == namespace);
        own.map(|(key, seen)| self.or_assumed(key, seen))
    }

    /// What the API server shows now.
    pub fn set(&mut self, key: ObjectKey, now: Option<Arc<K>>) {
        self.change(key, |listed, key| {
            let Some(now) = now else {
                listed.assumed.remove(&key);
                listed.seen.remove(&key);
                return;
            };
            // What was decided on a state holds against that state and older ones.
            let holds =
                |assumed: &Assumed<K>| assumed.in_flight || version(now.as_ref()) <= version(assumed.object.as_ref());
            if listed.assumed.get(&key).is_some_and(|assumed| !holds(assumed)) {
                listed.assumed.remove(&key);
            }
            listed.seen.insert(key, now);
        });
    }

    /// What is about to be written, in one step or in several.
    pub fn assume(&mut self, key: ObjectKey, object: Arc<K>, in_flight: bool) {
        self.change(key, |listed, key| drop(listed.assumed.insert(key, Assumed { object, in_flight })));
    }

    /// It will not be written after all, or has been.
    pub fn forget(&mut self, key: &ObjectKey, object: &Arc<K>) {
        if self.assumed.get(key).is_some_and(|assumed| Arc::ptr_eq(&assumed.object, object)) {
            self.change(key.clone(), |listed, key| drop(listed.assumed.remove(&key)));
        }
    }

    /// Changes the state of one object, and what is known of all.
    fn change(&mut self, key: ObjectKey, change: impl FnOnce(&mut Self, ObjectKey)) {
        let old = self.get(&key).cloned();
        change(self, key.clone());
        let new = self.assumed.get(&key).map(|assumed| &assumed.object).or_else(|| self.seen.get(&key));
        self.index.replace(old.as_ref(), new);
    }

    /// What the API server answered to the last write, in case that it does not show it yet.
    pub fn confirm(&mut self, key: ObjectKey, object: Arc<K>) {
        let old = self.seen.get(&key).is_none_or(|seen| version(seen.as_ref()) < version(object.as_ref()));
        if old && !self.assumed.contains_key(&key) {
            self.assume(key, object, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::resource::v1::ResourceClaim;

    use super::*;

    fn claim(version: u64) -> Arc<ResourceClaim> {
        let mut claim = ResourceClaim::default();
        claim.metadata.resource_version = Some(version.to_string());
        Arc::new(claim)
    }

    #[test]
    fn an_assumption_ends_with_a_newer_state_and_one_in_flight_when_it_is_written() {
        let key = ObjectKey::new("default", "c");
        for (in_flight, shown, expected) in [
            (false, vec![], 5),
            (false, vec![4], 5),
            (false, vec![5], 5),
            (false, vec![6], 6),
            (true, vec![6], 5),
            (true, vec![6, 7], 5),
        ] {
            let (mut listed, assumed) = (Listed::<_>::default(), claim(5));
            listed.set(key.clone(), Some(claim(5)));
            listed.assume(key.clone(), assumed.clone(), in_flight);
            for version in &shown {
                listed.set(key.clone(), Some(claim(*version)));
            }
            assert_eq!(version(listed.get(&key).unwrap().as_ref()), expected, "{in_flight} {shown:?}");
            // The second of two writes made state 7.
            listed.forget(&key, &assumed);
            listed.confirm(key.clone(), claim(7));
            assert_eq!(version(listed.get(&key).unwrap().as_ref()), 7);
            listed.set(key.clone(), Some(claim(8)));
            assert_eq!(version(listed.get(&key).unwrap().as_ref()), 8);
            listed.set(key.clone(), None);
            assert!(listed.get(&key).is_none());
        }
    }
}
