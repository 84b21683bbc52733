//! What the scheduler knows: every node with the pods on it.
//!
//! A pod counts on its node from the moment the scheduler *assumes* it there, before the API server
//! has confirmed the binding, so that the next decision does not hand out the same room again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coracle_client::ObjectKey;
use coracle_client::scheduling::resources::{Resources, nonzero_requests, pod_requests};
use coracle_client::scheduling::{HostPort, host_ports};
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};
use kube::ResourceExt;

/// A pod, with what decisions ask of it worked out once.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Namespace and name.
    pub key: ObjectKey,
    /// What it asks for.
    pub requests: Resources,
    /// CPU (thousandths) and memory (bytes) as scores count them.
    pub nonzero: (i64, i64),
    /// Higher goes first and may push lower ones out.
    pub priority: i32,
    /// The UID of the controller that makes it one of a kind; none once it is being deleted.
    pub kind: Option<String>,
}

/// Whose pods are one kind without being asked.
const KINDS: [&str; 3] = ["ReplicaSet", "StatefulSet", "ReplicationController"];

impl PodInfo {
    /// Works out what decisions ask of a pod.
    pub fn new(pod: Arc<Pod>) -> Self {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        PodInfo {
            key: ObjectKey::of(pod.as_ref()),
            requests: pod_requests(spec),
            nonzero: nonzero_requests(spec),
            priority: spec.priority.unwrap_or_default(),
            kind: kind(&pod),
            pod: pod.clone(),
        }
    }

    /// The pod's spec; the API server keeps no pod without one.
    pub fn spec(&self) -> &PodSpec {
        static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
        self.pod.spec.as_ref().unwrap_or(&EMPTY)
    }

    /// The pod's UID.
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Whether it wants to be near other pods, or away from them.
    pub fn has_affinity(&self) -> bool {
        let affinity = self.spec().affinity.as_ref();
        affinity.is_some_and(|affinity| affinity.pod_affinity.is_some() || affinity.pod_anti_affinity.is_some())
    }

    /// The ports it takes on its node.
    pub fn host_ports(&self) -> impl Iterator<Item = HostPort<'_>> {
        host_ports(self.spec())
    }
}

fn kind(pod: &Pod) -> Option<String> {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    let owner = owners.find(|owner| owner.controller == Some(true) && KINDS.contains(&owner.kind.as_str()))?;
    pod.metadata.deletion_timestamp.is_none().then(|| owner.uid.clone())
}

/// A node and the pods on it.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// The node.
    pub node: Arc<Node>,
    /// Its name.
    pub name: String,
    /// The pods on it, by key.
    pub pods: BTreeMap<ObjectKey, Arc<PodInfo>>,
    /// What it offers.
    pub allocatable: Resources,
    /// What its pods ask for.
    pub requested: Resources,
    /// CPU and memory of its pods as scores count them.
    pub nonzero: (i64, i64),
    /// How many of its pods are of each [kind](PodInfo::kind).
    pub kinds: BTreeMap<String, i64>,
    /// Those of its pods that want to be near others, or away from them.
    pub with_affinity: BTreeMap<ObjectKey, Arc<PodInfo>>,
}

impl NodeInfo {
    /// A node without pods.
    pub fn new(node: Arc<Node>) -> Self {
        let allocatable = node.status.as_ref().and_then(|s| s.allocatable.as_ref()).map(Resources::from_list);
        NodeInfo {
            name: node.name_any(),
            node,
            pods: BTreeMap::new(),
            allocatable: allocatable.unwrap_or_default(),
            requested: Resources::default(),
            nonzero: (0, 0),
            kinds: BTreeMap::new(),
            with_affinity: BTreeMap::new(),
        }
    }

    /// The node's labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.node.metadata.labels.as_ref().unwrap_or(&NONE)
    }

    /// The node with one more pod.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.remove(&pod.key.clone());
        self.requested.add(&pod.requests);
        self.nonzero.0 += pod.nonzero.0;
        self.nonzero.1 += pod.nonzero.1;
        if let Some(kind) = &pod.kind {
            *self.kinds.entry(kind.clone()).or_default() += 1;
        }
        if pod.has_affinity() {
            self.with_affinity.insert(pod.key.clone(), pod.clone());
        }
        self.pods.insert(pod.key.clone(), pod);
    }

    /// The node with one pod less.
    pub fn remove(&mut self, key: &ObjectKey) {
        if let Some(pod) = self.pods.remove(key) {
            self.with_affinity.remove(key);
            self.requested.subtract(&pod.requests);
            self.nonzero.0 -= pod.nonzero.0;
            self.nonzero.1 -= pod.nonzero.1;
            if let Some(kind) = &pod.kind
                && let Some(count) = self.kinds.get_mut(kind)
            {
                *count -= 1;
                self.kinds.retain(|_, count| *count > 0);
            }
        }
    }
}

/// All nodes as of one moment; what a cycle decides on.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The nodes, by name.
    pub nodes: BTreeMap<String, Arc<NodeInfo>>,
    /// Labels of namespaces, for affinity terms with a namespace selector.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

/// The nodes and their pods, kept current by watches.
#[derive(Debug, Default)]
pub struct Cache {
    snapshot: Snapshot,
    /// Where each pod counts. A pod may name a node that is not there (yet).
    placed: BTreeMap<ObjectKey, (String, Arc<PodInfo>)>,
    assumed: BTreeSet<ObjectKey>,
}

impl Cache {
    /// What is known now. Cheap: nodes are shared until they change.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    /// A node came or changed.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let mut info = NodeInfo::new(node);
        match self.snapshot.nodes.get(&info.name).cloned() {
            Some(known) => known.pods.values().for_each(|pod| info.add(pod.clone())),
            None => {
                let name = info.name.clone();
                let on_it = self.placed.values().filter(|(on, _)| *on == name);
                on_it.for_each(|(_, pod)| info.add(pod.clone()));
            }
        }
        self.snapshot.nodes.insert(info.name.clone(), Arc::new(info));
    }

    /// A node went.
    pub fn remove_node(&mut self, name: &str) {
        self.snapshot.nodes.remove(name);
    }

    /// A namespace came or changed.
    pub fn set_namespace(&mut self, name: String, labels: BTreeMap<String, String>) {
        self.snapshot.namespaces.insert(name, labels);
    }

    /// A namespace went.
    pub fn remove_namespace(&mut self, name: &str) {
        self.snapshot.namespaces.remove(name);
    }

    /// The API server says that a pod is on a node.
    pub fn set_pod(&mut self, pod: Arc<Pod>, node: &str) {
        let info = Arc::new(PodInfo::new(pod));
        self.assumed.remove(&info.key);
        self.place(info, node);
    }

    /// The scheduler decided to put a pod on a node.
    pub fn assume(&mut self, pod: &PodInfo, node: &str) {
        self.assumed.insert(pod.key.clone());
        self.place(Arc::new(pod.clone()), node);
    }

    /// The binding failed: the pod is not there after all.
    pub fn forget(&mut self, key: &ObjectKey) {
        if self.assumed.contains(key) {
            self.remove_pod(key);
        }
    }

    /// Whether the pod already counts on a node.
    pub fn holds(&self, key: &ObjectKey) -> bool {
        self.placed.contains_key(key)
    }

    /// A pod went, or ended.
    pub fn remove_pod(&mut self, key: &ObjectKey) {
        self.assumed.remove(key);
        if let Some((node, _)) = self.placed.remove(key)
            && let Some(info) = self.snapshot.nodes.get_mut(&node)
        {
            Arc::make_mut(info).remove(key);
        }
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        let assumed = self.assumed.contains(&pod.key);
        self.remove_pod(&pod.key);
        if assumed {
            self.assumed.insert(pod.key.clone());
        }
        if let Some(info) = self.snapshot.nodes.get_mut(node) {
            Arc::make_mut(info).add(pod.clone());
        }
        self.placed.insert(pod.key.clone(), (node.to_owned(), pod));
    }
}
