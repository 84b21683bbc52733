//! The file: a `Scenario`, field by field. `docs/simulate.md` tells it for people.

use std::collections::BTreeMap;
use std::str::FromStr;

use coracle_kubelet::runtime::simulated::policy::PolicySpec;
use coracle_kubelet::runtime::simulated::{InstanceType, Span};
use serde::Deserialize;
use serde_json::Value;

use super::expect::Expectation;
use super::object::ObjectRef;
use super::place::{At, Block, Count, Number, Text};
use crate::Component;

/// A scenario's file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct File {
    /// `simulation.coracle.dev/v1`.
    pub api_version: At<Text>,
    /// `Scenario`.
    pub kind: At<Text>,
    /// Its name.
    pub metadata: Metadata,
    /// What it says.
    pub spec: Spec,
}

/// Who it is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// The scenario's name.
    pub name: At<Text>,
}

/// What a scenario says.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// What to look for, for people; the report begins with it.
    #[serde(default)]
    pub description: String,
    /// How long it takes in the cluster's time, from when the first nodes are ready.
    pub duration: At<Span>,
    /// From which number all chance follows; 0 unless said, here or on the command line.
    #[serde(default)]
    pub seed: u64,
    /// What the cluster is made of.
    pub cluster: ClusterSpec,
    /// What is applied at the beginning, in this order.
    #[serde(default)]
    pub manifests: Vec<Block<Manifest>>,
    /// By which rules pods live.
    #[serde(default)]
    pub policies: Vec<Block<Policy>>,
    /// Who asks what of Services.
    #[serde(default)]
    pub traffic: Vec<Block<Traffic>>,
    /// What happens, in order of time.
    #[serde(default)]
    pub events: Vec<Block<Event>>,
    /// What must hold.
    #[serde(default)]
    pub expect: Vec<At<Expectation>>,
}

/// The cluster's shape.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterSpec {
    /// Its nodes.
    pub node_groups: Vec<Block<NodeGroup>>,
    /// Lets the groups grow and shrink; without it they stay as they are.
    pub autoscaler: Option<AutoscalerSpec>,
}

/// Nodes of one kind.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeGroup {
    /// Its nodes are called `NAME-1`, `NAME-2`, ….
    pub name: At<Text>,
    /// Such as `m5.large`: processors, memory, pod limit and price.
    pub instance_type: At<InstanceType>,
    /// Nodes are spread over these; `a` unless said.
    #[serde(default)]
    pub zones: Vec<At<Text>>,
    /// How many nodes there are at the beginning.
    pub count: At<Count>,
    /// Fewer there never are, with an autoscaler; `count` unless said.
    pub min: Option<At<Count>>,
    /// More there never are; `count` unless said.
    pub max: Option<At<Count>>,
    /// USD per node and hour, if not the instance type's.
    pub price_per_hour: Option<At<Number>>,
    /// Whether the cloud may take its nodes back.
    #[serde(default)]
    pub spot: bool,
    /// Labels besides the well-known ones.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Taints, as `kubectl taint` takes them: `key=value:NoSchedule`.
    #[serde(default)]
    pub taints: Vec<At<Taint>>,
}

/// A taint as kubectl takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

impl FromStr for Taint {
    type Err = String;

    fn from_str(text: &str) -> Result<Taint, String> {
        let (key, effect) = text.split_once(':').unwrap_or((text, ""));
        let (key, value) = key.split_once('=').unwrap_or((key, ""));
        if key.is_empty() || !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
            return Err(format!("{text:?} is not a taint such as dedicated=batch:NoSchedule"));
        }
        Ok(Taint { key: key.into(), value: value.into(), effect: effect.into() })
    }
}

/// How the autoscaler works; its defaults are upstream's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AutoscalerSpec {
    /// How often it looks; 10s unless said.
    pub scan_interval: Option<Span>,
    /// From its decision until the new node's kubelet starts; 60s unless said.
    pub provision_delay: Option<Span>,
    /// For how long a node must be empty; 10m unless said.
    pub scale_down_after: Option<Span>,
}

/// Objects to apply: one of both.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// A file beside the scenario's, in YAML or JSON: manifests, or what `kubectl get -o yaml` printed.
    pub path: Option<At<Text>>,
    /// The objects themselves.
    #[serde(default)]
    pub objects: Vec<Value>,
}

/// Rules for pods: one of both.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// A file beside the scenario's, of kind `SimulationPolicy`.
    pub path: Option<At<Text>>,
    /// What such a file's `spec` says.
    pub spec: Option<PolicySpec>,
}

/// Requests to a Service.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Traffic {
    /// `service/web`, or `service/shop/web` in a namespace.
    pub service: At<ObjectRef>,
    /// The processor time that one request costs, such as `20ms`.
    pub cost: At<Span>,
    /// How many there are; straight lines between the points.
    pub curve: Vec<TrafficPoint>,
}

/// A point of a traffic curve.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrafficPoint {
    /// When.
    pub at: At<Span>,
    /// Requests per second.
    pub rps: At<Number>,
}

/// Something that happens: one of the actions, at a time or when something holds.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Event {
    /// When.
    pub at: Option<At<Span>>,
    /// As soon as this holds (an expectation without a time), once.
    pub when: Option<At<Expectation>>,
    /// All nodes of a zone lose their power.
    pub zone_outage: Option<ZoneOutage>,
    /// Nodes lose their power.
    pub node_crash: Option<Nodes>,
    /// The cloud takes spot nodes back: a notice, a drain, and they are gone.
    pub spot_reclaim: Option<Nodes>,
    /// Nodes are cordoned and their pods evicted, as `kubectl drain --ignore-daemonsets` does.
    pub drain: Option<Nodes>,
    /// Nodes take pods again.
    pub uncordon: Option<Nodes>,
    /// More nodes for a group, at once.
    pub add_nodes: Option<AddNodes>,
    /// Objects are applied.
    pub apply: Option<Manifest>,
    /// An object is deleted.
    pub delete: Option<At<ObjectRef>>,
    /// A target gets so many replicas.
    pub scale: Option<Scale>,
    /// A pod template gets another image.
    pub rollout: Option<Rollout>,
    /// A Deployment gets the template back that it had before, as by `kubectl rollout undo`.
    pub rollback: Option<At<ObjectRef>>,
    /// There are so many times as many requests.
    pub load_spike: Option<LoadSpike>,
    /// A component dies, and comes back.
    pub crash: Option<Crash>,
}

/// A zone without power.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneOutage {
    /// Which.
    pub zone: At<Text>,
    /// For how long; for good unless said.
    pub r#for: Option<Span>,
}

/// Nodes: one by its name, or some of a group by chance.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nodes {
    /// This node.
    pub node: Option<At<Text>>,
    /// Nodes of this group, or of every one.
    pub group: Option<At<Text>>,
    /// So many of the group; 1 unless said.
    pub count: Option<At<Count>>,
    /// For how long (`nodeCrash`); for good unless said.
    pub r#for: Option<Span>,
    /// How long before (`spotReclaim`) it is told; 2m unless said.
    pub notice: Option<Span>,
}

/// More nodes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddNodes {
    /// Of this group.
    pub group: At<Text>,
    /// So many.
    pub count: At<Count>,
}

/// Another size.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Such as `deployment/web`.
    pub target: At<ObjectRef>,
    /// So many.
    pub replicas: At<Count>,
}

/// Another image.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// Such as `deployment/web`.
    pub target: At<ObjectRef>,
    /// The new image.
    pub image: At<Text>,
    /// Of this container; the first unless said.
    pub container: Option<String>,
}

/// More traffic.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadSpike {
    /// To which Service.
    pub service: At<ObjectRef>,
    /// So many times as much.
    pub factor: At<Number>,
    /// For how long.
    pub r#for: At<Span>,
}

/// A component that dies.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crash {
    /// `apiserver`, `controller-manager` or `scheduler`.
    pub component: At<ComponentName>,
    /// After how long it is back.
    pub r#for: Span,
}

/// The name of a component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentName(pub Component);

impl FromStr for ComponentName {
    type Err = String;

    fn from_str(text: &str) -> Result<ComponentName, String> {
        match text {
            "apiserver" => Ok(ComponentName(Component::ApiServer)),
            "controller-manager" => Ok(ComponentName(Component::ControllerManager)),
            "scheduler" => Ok(ComponentName(Component::Scheduler)),
            _ => Err(format!("{text:?} is none of apiserver, controller-manager, scheduler")),
        }
    }
}
