//! The scheduling framework: what a plugin is.
//!
//! A decision is made of small opinions. Each [`Plugin`] holds one and speaks where it has something to say:
//! the [`Point`]s of upstream's framework. A plugin looks at the pod and the [`Snapshot`] once per cycle
//! (PreFilter, PreScore) and returns a [`Filter`] or [`Score`] prepared for that pod, or none if it has no
//! opinion, which is then asked about every node.
//!
//! ```text
//!  PreEnqueue ─► QueueSort ─► PreFilter ─► Filter ─┬─► PreScore ─► Score ─► NormalizeScore ─► Reserve ─► Permit ─┐
//!  (may it        (whose                   (which  │                (how good)               (what will     │
//!   enter?)        turn?)                   nodes?)└─ none: PostFilter (make room?)            be written)    │
//!                                                              PostBind ◄─ Bind ◄─ PreBind (write it) ◄────────┘
//! ```

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use coracle_client::{EventRecorder, ObjectKey};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::Client;

use crate::cycle::FitError;
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::profile::Profile;
use crate::snapshot::Snapshot;
use crate::volumes::Volumes;

/// The best score a node can get from one plugin.
pub const MAX_NODE_SCORE: i64 = 100;

/// Where a plugin can speak, named as in `KubeSchedulerConfiguration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// Whether a pod may enter the queue.
    PreEnqueue,
    /// Whose turn it is.
    QueueSort,
    /// What to know of the pod before nodes are looked at.
    PreFilter,
    /// Whether a node is possible.
    Filter,
    /// What to do if none is.
    PostFilter,
    /// What to know before nodes are compared.
    PreScore,
    /// How good a node is.
    Score,
    /// What will be written for the pod besides its binding.
    Reserve,
    /// Whether the pod may be bound, and when.
    Permit,
    /// Writes what was reserved.
    PreBind,
    /// Binds the pod.
    Bind,
    /// The pod is bound.
    PostBind,
}

impl Point {
    /// All of them.
    pub const ALL: [Point; 12] = [
        Point::PreEnqueue,
        Point::QueueSort,
        Point::PreFilter,
        Point::Filter,
        Point::PostFilter,
        Point::PreScore,
        Point::Score,
        Point::Reserve,
        Point::Permit,
        Point::PreBind,
        Point::Bind,
        Point::PostBind,
    ];
}

/// Why a node is not possible, or a pod not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reasons, as FailedScheduling counts them: `Insufficient cpu`.
    pub reasons: Vec<Cow<'static, str>>,
    /// Whether the node stays impossible even if pods were removed from it.
    pub unresolvable: bool,
}

impl Refusal {
    /// A refusal that removing pods might lift.
    pub fn unschedulable(reason: impl Into<Cow<'static, str>>) -> Self {
        Refusal { reasons: vec![reason.into()], unresolvable: false }
    }

    /// A refusal that no removal of pods lifts.
    pub fn unresolvable(reason: impl Into<Cow<'static, str>>) -> Self {
        Refusal { reasons: vec![reason.into()], unresolvable: true }
    }

    /// The reasons in one line.
    pub fn message(&self) -> String {
        self.reasons.join(", ")
    }
}

/// A plugin's opinion on nodes, prepared for one pod.
pub trait Filter {
    /// Whether the pod could run on the node.
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal>;

    /// A copy that can be told of pods that come and go in thought; none if it knows of no node but the one that
    /// it is asked about.
    fn imagine(&self) -> Option<Box<dyn Filter + '_>> {
        None
    }

    /// In thought, a pod came to a node (`by` 1) or left it (-1). `node` is without it.
    fn moved(&mut self, _pod: &PodInfo, _node: &NodeInfo, _by: i64) {}
}

/// What a plugin prepared for a pod.
#[derive(Default)]
pub struct Prepared<'a> {
    /// Its opinion on nodes, if it has one.
    pub filter: Option<Box<dyn Filter + 'a>>,
    /// If so, only these nodes can be possible at all.
    pub only: Option<BTreeSet<String>>,
}

impl<'a> Prepared<'a> {
    /// An opinion on nodes.
    pub fn filter(filter: impl Filter + 'a) -> PreFilter<'a> {
        Ok(Prepared { filter: Some(Box::new(filter)), only: None })
    }

    /// No opinion.
    pub fn none() -> PreFilter<'a> {
        Ok(Prepared::default())
    }
}

/// What a plugin prepared for a pod, or a refusal of every node at once.
pub type PreFilter<'a> = Result<Prepared<'a>, Refusal>;

/// A plugin's preference among the possible nodes, prepared for one pod.
pub trait Score {
    /// How good the node is; any scale, higher is better.
    fn score(&self, node: &NodeInfo) -> i64;

    /// Brings all nodes' scores to 0..=[`MAX_NODE_SCORE`].
    fn normalize(&self, _scores: &mut [i64], _nodes: &[&NodeInfo]) {}
}

/// What happened in the cluster, as far as it can make a pod schedulable. The names are upstream's resource and action.
#[allow(missing_docs, reason = "the names say it")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClusterEvent {
    NodeAdd,
    NodeDelete,
    NodeAllocatableChange,
    NodeLabelChange,
    NodeTaintChange,
    AssignedPodAdd,
    AssignedPodLabelChange,
    AssignedPodScaleDown,
    AssignedPodDelete,
    /// The pod itself got other labels.
    PodLabelChange,
    /// The pod itself asks for less.
    PodScaleDown,
    /// The pod itself bears more taints.
    PodTolerationChange,
    /// The pod itself lost its last gate.
    PodSchedulingGatesEliminated,
    /// The pod itself got its generated claims.
    PodGeneratedResourceClaimChange,
    PersistentVolumeClaimAdd,
    PersistentVolumeClaimUpdate,
    PersistentVolumeAdd,
    PersistentVolumeUpdate,
    StorageClassAdd,
    StorageClassUpdate,
    CSINodeAdd,
    CSINodeUpdate,
    CSIDriverAdd,
    CSIDriverUpdate,
    CSIStorageCapacityAdd,
    CSIStorageCapacityUpdate,
    VolumeAttachmentDelete,
    ResourceClaimAdd,
    ResourceClaimUpdate,
    ResourceClaimDelete,
    ResourceSliceAdd,
    ResourceSliceUpdate,
    DeviceClassAdd,
    DeviceClassUpdate,
}

/// Of what object a [`Happening`] tells: its state before and after.
#[derive(Clone, Debug)]
pub enum Object {
    /// A node.
    Node(Option<Arc<Node>>, Option<Arc<Node>>),
    /// A pod on a node, or the pending pod itself.
    Pod(Option<Arc<PodInfo>>, Option<Arc<PodInfo>>),
    /// A claim.
    Claim(Option<Arc<PersistentVolumeClaim>>, Option<Arc<PersistentVolumeClaim>>),
    /// A claim of devices.
    ResourceClaim(Option<Arc<ResourceClaim>>, Option<Arc<ResourceClaim>>),
    /// Anything else; hints do not look into it.
    Other,
}

/// One change of one object, and which events it is.
#[derive(Clone, Debug)]
pub struct Happening {
    /// A change of a node may change its labels and its taints.
    pub events: Vec<ClusterEvent>,
    /// What changed.
    pub object: Object,
}

/// What will be written for a pod besides its binding; until the API server shows it, the cache shows it.
#[derive(Clone, Debug)]
pub enum Assumption {
    /// A claim, with the node that was selected for it.
    Claim(Arc<PersistentVolumeClaim>),
    /// A volume, with the claim that it is for.
    Volume(Arc<PersistentVolume>),
    /// A claim of devices, with what is allocated for it and to whom.
    ResourceClaim(Arc<ResourceClaim>),
}

impl Assumption {
    /// Shows it.
    pub(crate) fn enter(&self, snapshot: &mut Snapshot) {
        match self {
            Assumption::Claim(claim) => snapshot.claims.assume(ObjectKey::of(claim.as_ref()), claim.clone(), false),
            Assumption::Volume(volume) => {
                snapshot.volumes.assume(ObjectKey::of(volume.as_ref()), volume.clone(), false);
            }
            Assumption::ResourceClaim(claim) => {
                snapshot.resource_claims.assume(ObjectKey::of(claim.as_ref()), claim.clone(), true);
            }
        }
    }

    /// Shows it no longer.
    pub(crate) fn leave(&self, snapshot: &mut Snapshot) {
        match self {
            Assumption::Claim(claim) => snapshot.claims.forget(&ObjectKey::of(claim.as_ref()), claim),
            Assumption::Volume(volume) => snapshot.volumes.forget(&ObjectKey::of(volume.as_ref()), volume),
            Assumption::ResourceClaim(claim) => snapshot.resource_claims.forget(&ObjectKey::of(claim.as_ref()), claim),
        }
    }
}

/// A pod that fits nowhere, and all that is known about that.
pub struct Unfit<'a> {
    /// The plugins that decided.
    pub profile: &'a Profile,
    /// The pod.
    pub pod: &'a PodInfo,
    /// The cluster.
    pub snapshot: &'a Snapshot,
    /// Why it fits nowhere.
    pub error: &'a FitError,
    /// A number below another, at random.
    pub chance: fn(usize) -> usize,
}

/// A node made possible, and who must go.
#[derive(Clone, Debug)]
pub struct Nomination {
    /// The node.
    pub node: String,
    /// The pods to remove, most important first.
    pub victims: Vec<Arc<PodInfo>>,
}

/// PostFilter cannot help.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Declined {
    /// The words that end FailedScheduling's message.
    pub message: String,
    /// Whether it knows that the node on which it once made room will not do either.
    pub gives_up: bool,
    /// A claim that stands idle and in the way: it loses what was allocated for it.
    pub give_back: Option<Arc<ResourceClaim>>,
}

/// What PostFilter came to: room made, or why not.
pub type PostFilter = Result<Nomination, Declined>;

/// Work at the API server that a decision waits for.
pub type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A pod on its way to a node.
#[derive(Clone)]
pub struct Placement {
    /// To write by.
    pub client: Client,
    /// To tell of it by.
    pub recorder: EventRecorder,
    /// To wait for volumes by.
    pub volumes: Volumes,
    /// The pod.
    pub pod: Arc<PodInfo>,
    /// The node's name.
    pub node: String,
    /// What the plugins reserved.
    pub assumed: Vec<Assumption>,
}

/// One opinion on where pods should run.
pub trait Plugin: Debug + Send + Sync {
    /// Upstream's name of the plugin.
    fn name(&self) -> &'static str;

    /// Where it speaks.
    fn points(&self) -> &'static [Point];

    /// The events that can change a refusal by this plugin.
    fn events(&self) -> &'static [ClusterEvent] {
        &[]
    }

    /// Whether one of [those events](Plugin::events) may help this pod (upstream's queueing hint).
    fn hint(&self, _pod: &PodInfo, _happened: &Happening) -> bool {
        true
    }

    /// PreEnqueue: whether the pod may be considered at all.
    fn pre_enqueue(&self, _pod: &PodInfo, _snapshot: &Snapshot) -> Result<(), Refusal> {
        Ok(())
    }

    /// QueueSort: higher goes first; among equals who has waited longer.
    fn rank(&self, _pod: &PodInfo) -> i64 {
        0
    }

    /// PreFilter and Filter: the filter for a pod.
    fn filter<'a>(&'a self, _pod: &'a PodInfo, _snapshot: &'a Snapshot) -> PreFilter<'a> {
        Prepared::none()
    }

    /// PostFilter: what could be done for a pod that fits nowhere.
    fn post_filter(&self, _unfit: &Unfit<'_>) -> PostFilter {
        Err(Declined::default())
    }

    /// PreScore and Score: the score for a pod, among the nodes that are possible.
    fn score<'a>(
        &'a self,
        _pod: &'a PodInfo,
        _snapshot: &'a Snapshot,
        _nodes: &[&'a NodeInfo],
    ) -> Option<Box<dyn Score + 'a>> {
        None
    }

    /// Reserve: what will be written for the pod on this node.
    fn reserve(&self, _pod: &PodInfo, _node: &NodeInfo, _snapshot: &Snapshot) -> Result<Vec<Assumption>, Refusal> {
        Ok(Vec::new())
    }

    /// Permit: none lets the pod through; else it waits, as long as the work takes.
    fn permit(&self, _placement: &Placement) -> Option<Work<Result<(), Refusal>>> {
        None
    }

    /// PreBind: writes what was reserved; what took several writes is handed back as the API server has it then.
    fn pre_bind(&self, _placement: &Placement) -> Option<Work<anyhow::Result<Vec<Arc<ResourceClaim>>>>> {
        None
    }

    /// Bind: binds the pod; the first plugin that does, does.
    fn bind(&self, _placement: &Placement) -> Option<Work<anyhow::Result<()>>> {
        None
    }

    /// PostBind: the pod is bound.
    fn post_bind(&self, _placement: &Placement) {}
}

/// Scales scores so that the best is [`MAX_NODE_SCORE`]; with `reverse`, so that the lowest is.
pub fn default_normalize(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores.iter_mut() {
        *score = match (max, reverse) {
            (0, true) => MAX_NODE_SCORE,
            (0, false) => 0,
            (_, reverse) => {
                let scaled = *score * MAX_NODE_SCORE / max;
                if reverse { MAX_NODE_SCORE - scaled } else { scaled }
            }
        };
    }
}
