//! Which nodes are to have a daemon pod, and what a pod for one of them looks like.

use coracle_client::controller_reference;
use coracle_client::scheduling::{node_matches, tolerates};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, PodTemplateSpec, Taint, Toleration,
};
use kube::ResourceExt;

use crate::history::REVISION_LABEL;
use crate::pods;

const NODE_NAME: &str = "metadata.name";
/// What every daemon pod tolerates: a node in trouble, or cordoned, needs its daemons.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// And those on the host's network, a node whose pods have none.
const NETWORK_UNAVAILABLE: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

const GENERATION: &str = "deprecated.daemonset.template.generation";
/// Tells of which template a pod is, as it was told before revisions were kept.
const GENERATION_LABEL: &str = "pod-template-generation";

fn template_generation(set: &DaemonSet) -> Option<i64> {
    set.annotations().get(GENERATION)?.parse().ok()
}

/// Whether a pod is of the present template: by its revision, or else by its number.
pub(super) fn is_new(set: &DaemonSet, hash: &str, pod: &Pod) -> bool {
    let labelled = |key| pod.labels().get(key).map(String::as_str);
    let generation = template_generation(set).map(|generation| generation.to_string());
    labelled(REVISION_LABEL) == Some(hash)
        || generation.is_some() && labelled(GENERATION_LABEL) == generation.as_deref()
}

pub(super) fn template(set: &DaemonSet) -> PodTemplateSpec {
    set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default()
}

/// What a DaemonSet wants of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// A pod is to be started.
    pub(super) run: bool,
    /// One that is there may stay.
    pub(super) stay: bool,
}

/// What a DaemonSet whose template has this spec (with [`tolerations`]) wants of a node.
pub(super) fn wanted(spec: &PodSpec, node: &Node) -> Wanted {
    let elsewhere = spec.node_name.as_deref().is_some_and(|name| !name.is_empty() && name != node.name_any());
    if elsewhere || !node_matches(spec, node) {
        return Wanted { run: false, stay: false };
    }
    let keeps_away = |taint: &&Taint| !spec.tolerations.iter().flatten().any(|toleration| tolerates(toleration, taint));
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let effects: Vec<_> = taints.filter(keeps_away).map(|taint| taint.effect.as_str()).collect();
    let stay = !effects.contains(&"NoExecute");
    Wanted { run: stay && !effects.contains(&"NoSchedule"), stay }
}

/// A daemon pod's spec before it has a node: the template's, with the tolerations of all daemons.
pub(super) fn daemon_spec(set: &DaemonSet) -> PodSpec {
    let mut spec = template(set).spec.unwrap_or_default();
    let network = (spec.host_network == Some(true)).then_some(NETWORK_UNAVAILABLE);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.into_iter().chain(network) {
        let toleration = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Default::default()
        };
        // Instead of one that is the same but for the time.
        tolerations.retain(|other| Toleration { toleration_seconds: None, ..other.clone() } != toleration);
        tolerations.push(toleration);
    }
    spec
}

/// The daemon pod for a node, which the scheduler puts there.
pub(super) fn new_pod(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let mut pod = pods::from_template(&template(set), &set.name_any(), controller_reference(set));
    pod.labels_mut().insert(REVISION_LABEL.into(), hash.into());
    if let Some(generation) = template_generation(set) {
        pod.labels_mut().insert(GENERATION_LABEL.into(), generation.to_string());
    }
    let mut spec = daemon_spec(set);
    let this_node =
        NodeSelectorRequirement { key: NODE_NAME.into(), operator: "In".into(), values: Some(vec![node.into()]) };
    let term = NodeSelectorTerm { match_fields: Some(vec![this_node]), match_expressions: None };
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
    pod.spec = Some(spec);
    pod
}

/// The node a daemon pod is on, or is meant for.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    if !pods::node_name(pod).is_empty() {
        return Some(pods::node_name(pod));
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let mut names = fields.filter(|field| field.key == NODE_NAME && field.operator == "In");
    match names.next()?.values.as_deref()? {
        [name] => Some(name),
        _ => None,
    }
}
