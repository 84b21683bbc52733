//! A node as decisions see it, with the pods on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_client::ObjectKey;
use coracle_client::scheduling::resources::Resources;
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::ResourceExt;

use crate::pod::PodInfo;

/// The label that says which zone a node is in.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// The label that says which region a node is in.
pub const REGION: &str = "topology.kubernetes.io/region";
/// The label that is different on each node.
pub const HOSTNAME: &str = "kubernetes.io/hostname";

/// A node and the pods on it.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// The node.
    pub node: Arc<Node>,
    /// Its name.
    pub name: String,
    /// Where the [snapshot](crate::snapshot::Snapshot::at) holds it.
    pub place: usize,
    /// What keeps pods away from it.
    pub taints: Vec<Taint>,
    /// Whether it is cordoned.
    pub cordoned: bool,
    /// The pods on it, by key.
    pub pods: BTreeMap<ObjectKey, Arc<PodInfo>>,
    /// What it offers.
    pub allocatable: Resources,
    /// What its pods ask for.
    pub requested: Resources,
    /// CPU and memory of its pods as scores count them.
    pub nonzero: (i64, i64),
    /// How many of its pods use each claim.
    pub claims: BTreeMap<ObjectKey, usize>,
    /// The images it holds, by [name](image_name), with their bytes.
    pub images: Arc<BTreeMap<String, i64>>,
}

impl NodeInfo {
    /// A node without pods.
    pub fn new(node: Arc<Node>) -> Self {
        let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref()).map(Resources::from_list);
        let held = node.status.iter().flat_map(|status| status.images.iter().flatten());
        let images = held.flat_map(|image| {
            let bytes = image.size_bytes.unwrap_or_default();
            image.names.iter().flatten().map(move |name| (image_name(name), bytes))
        });
        NodeInfo {
            name: node.name_any(),
            place: 0,
            taints: taints(&node).to_vec(),
            cordoned: is_cordoned(&node),
            images: Arc::new(images.collect()),
            node,
            pods: BTreeMap::new(),
            allocatable: allocatable.unwrap_or_default(),
            requested: Resources::default(),
            nonzero: (0, 0),
            claims: BTreeMap::new(),
        }
    }

    /// The node's labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        labels(&self.node)
    }

    /// The place and the pods of an older state of the node.
    pub fn succeed(&mut self, old: NodeInfo) {
        self.place = old.place;
        (self.pods, self.requested, self.nonzero, self.claims) = (old.pods, old.requested, old.nonzero, old.claims);
    }

    /// The node with one more pod.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.remove(&pod.key);
        self.requested.add(&pod.requests);
        self.nonzero.0 += pod.nonzero.0;
        self.nonzero.1 += pod.nonzero.1;
        for (claim, _) in pod.claims() {
            *self.claims.entry(claim).or_default() += 1;
        }
        self.pods.insert(pod.key.clone(), pod);
    }

    /// The node with one pod less; that pod, if it was there.
    pub fn remove(&mut self, key: &ObjectKey) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(key)?;
        self.requested.subtract(&pod.requests);
        self.nonzero.0 -= pod.nonzero.0;
        self.nonzero.1 -= pod.nonzero.1;
        for (claim, _) in pod.claims() {
            self.claims.entry(claim).and_modify(|count| *count -= 1);
            self.claims.retain(|_, count| *count > 0);
        }
        Some(pod)
    }
}

/// A node's labels.
pub fn labels(node: &Node) -> &BTreeMap<String, String> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    node.metadata.labels.as_ref().unwrap_or(&NONE)
}

/// A node's taints.
pub fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

/// Whether a node is cordoned.
pub fn is_cordoned(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true)
}

/// `nginx` and `nginx:latest` are one image.
pub fn image_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') { image.to_owned() } else { format!("{image}:latest") }
}
