//! What the scheduler knows: every node with the pods on it.
//!
//! A pod counts on its node from the moment the scheduler *assumes* it there, before the API server
//! has confirmed the binding, so that the next decision does not hand out the same room again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coracle_client::ObjectKey;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::ResourceClaim;

use crate::framework::Assumption;
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

/// The nodes and their pods, kept current by watches.
#[derive(Debug, Default)]
pub struct Cache {
    snapshot: Snapshot,
    /// Where each pod counts. A pod may name a node that is not there (yet).
    placed: BTreeMap<ObjectKey, (String, Arc<PodInfo>)>,
    /// The pods that count where the API server does not say so yet, and what was assumed with them.
    assumed: BTreeMap<ObjectKey, Vec<Assumption>>,
    /// For which pods room was made where.
    nominated: BTreeMap<ObjectKey, String>,
    /// Nodes that are not there, with pods.
    orphans: BTreeMap<String, BTreeSet<ObjectKey>>,
}

impl Cache {
    /// What is known now, to decide on.
    pub fn snapshot(&mut self) -> &Snapshot {
        self.snapshot.arrange();
        &self.snapshot
    }

    /// What is known besides nodes and pods, to be kept current.
    pub fn listed(&mut self) -> &mut Snapshot {
        &mut self.snapshot
    }

    /// A node came or changed.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let mut info = NodeInfo::new(node);
        for key in self.orphans.remove(&info.name).into_iter().flatten() {
            if let Some((_, pod)) = self.placed.get(&key) {
                info.add(pod.clone());
            }
        }
        self.snapshot.set_node(info);
    }

    /// A node went.
    pub fn remove_node(&mut self, name: &str) {
        let left = self.snapshot.node(name).into_iter().flat_map(|node| node.pods.keys().cloned());
        let left: BTreeSet<_> = left.collect();
        if !left.is_empty() {
            self.orphans.insert(name.to_owned(), left);
        }
        self.snapshot.remove_node(name);
    }

    /// The API server says that a pod is on a node.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.assumed.remove(&pod.key);
        self.drop_nomination(&pod.key);
        self.place(pod, node);
    }

    /// The scheduler decided to put a pod on a node, and what it will write for that.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str, with: Vec<Assumption>) {
        for assumption in &with {
            assumption.enter(&mut self.snapshot);
        }
        self.drop_nomination(&pod.key);
        self.place(pod.clone(), node);
        self.assumed.insert(pod.key.clone(), with);
    }

    /// The binding failed: the pod is not there after all.
    pub fn forget(&mut self, key: &ObjectKey) {
        let Some(with) = self.assumed.get(key) else { return };
        for assumption in with {
            assumption.leave(&mut self.snapshot);
        }
        self.remove_pod(key);
    }

    /// What was assumed with a pod has been written.
    pub fn confirm(&mut self, with: &[Assumption], written: Vec<Arc<ResourceClaim>>) {
        let ours = |assumed: &&Assumption| matches!(assumed, Assumption::ResourceClaim(_));
        with.iter().filter(ours).for_each(|assumed| assumed.leave(&mut self.snapshot));
        for claim in written {
            self.snapshot.resource_claims.confirm(ObjectKey::of(claim.as_ref()), claim);
        }
    }

    /// Whether the pod already counts on a node.
    pub fn holds(&self, key: &ObjectKey) -> bool {
        self.placed.contains_key(key)
    }

    /// Whether the pod counts where the API server does not say so yet.
    pub fn assumes(&self, key: &ObjectKey) -> bool {
        self.assumed.contains_key(key)
    }

    /// A pod went, or ended.
    pub fn remove_pod(&mut self, key: &ObjectKey) {
        self.assumed.remove(key);
        let Some((node, _)) = self.placed.remove(key) else { return };
        self.snapshot.remove_pod(&node, key);
        if let Some(orphans) = self.orphans.get_mut(&node) {
            orphans.remove(key);
            self.orphans.retain(|_, pods| !pods.is_empty());
        }
    }

    /// Room was made for a pod on a node.
    pub fn nominate(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.drop_nomination(&pod.key);
        self.nominated.insert(pod.key.clone(), node.to_owned());
        self.snapshot.nominated.entry(node.to_owned()).or_default().insert(pod.key.clone(), pod);
    }

    /// The pod has its node, or is gone, or shall look elsewhere.
    pub fn drop_nomination(&mut self, key: &ObjectKey) {
        let Some(node) = self.nominated.remove(key) else { return };
        if let Some(pods) = self.snapshot.nominated.get_mut(&node) {
            pods.remove(key);
            self.snapshot.nominated.retain(|_, pods| !pods.is_empty());
        }
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove_pod(&pod.key);
        if self.snapshot.node(node).is_some() {
            self.snapshot.add_pod(node, pod.clone());
        } else {
            self.orphans.entry(node.to_owned()).or_default().insert(pod.key.clone());
        }
        self.placed.insert(pod.key.clone(), (node.to_owned(), pod));
    }
}
