//! Node lifecycle: a node that is silent is taken for unreachable, and its state becomes taints.
//!
//! Watches nodes and their Leases; a key is a node. The kubelet renews the Lease every ten seconds; when neither it
//! nor the node's status has changed for the grace period (measured here, since nobody trusts another's clock), the
//! conditions become Unknown and the pods not ready. Taints follow the conditions: the scheduler avoids them, and
//! the taint eviction controller acts on those that say NoExecute.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coracle_client::{EventRecorder, EventType, Informer, ObjectKey, Requeue, WorkQueue, object_reference};
use coracle_clock::Instant;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::context::{Context, enqueue_changes};
use crate::error::{IgnoreNotFound, Result};
use crate::pods;

const NAME: &str = "node-controller";
const LEASES: &str = "kube-node-lease";
/// The index of pods by node.
pub(crate) const BY_NODE: &str = "node";
/// How long a new node may take to say anything at all.
const STARTUP_GRACE: Duration = Duration::from_secs(60);

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Which condition in which status gives which taint (NoSchedule).
const CONDITION_TAINTS: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// The conditions a silent kubelet leaves unknown.
const KUBELETS: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

fn ready_status(node: &Node) -> &str {
    condition(node, "Ready").map_or("Unknown", |condition| condition.status.as_str())
}

/// The conditions of a node that has been silent for too long; none if they say so already.
fn unknown_conditions(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let mut conditions = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut changed = false;
    for type_ in KUBELETS {
        match conditions.iter_mut().find(|condition| condition.type_ == *type_) {
            Some(condition) if condition.status == "Unknown" => {}
            Some(condition) => {
                condition.status = "Unknown".into();
                condition.reason = Some("NodeStatusUnknown".into());
                condition.message = Some("Kubelet stopped posting node status.".into());
                condition.last_transition_time = Some(Time(now));
                changed = true;
            }
            None => {
                conditions.push(NodeCondition {
                    type_: (*type_).into(),
                    status: "Unknown".into(),
                    reason: Some("NodeStatusNeverUpdated".into()),
                    message: Some("Kubelet never posted node status.".into()),
                    last_heartbeat_time: node.creation_timestamp(),
                    last_transition_time: Some(Time(now)),
                });
                changed = true;
            }
        }
    }
    changed.then_some(conditions)
}

/// The taints the node should have: those of others, and ours by its conditions. None if it has them already.
fn wanted_taints(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let present = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (type_, status, taint) in CONDITION_TAINTS {
        if condition(node, type_).is_some_and(|condition| condition.status == *status) {
            wanted.push((taint, "NoSchedule"));
        }
    }
    wanted.extend(unschedulable.then_some((UNSCHEDULABLE, "NoSchedule")));
    match condition(node, "Ready").map(|condition| condition.status.as_str()) {
        Some("False") => wanted.push((NOT_READY, "NoExecute")),
        Some("Unknown") => wanted.push((UNREACHABLE, "NoExecute")),
        _ => {}
    }
    let managed =
        |taint: &Taint| taint.key == UNSCHEDULABLE || CONDITION_TAINTS.iter().any(|(_, _, key)| *key == taint.key);
    let same = |taint: &Taint, (key, effect): &(&str, &str)| taint.key == *key && taint.effect == *effect;
    let mut taints: Vec<_> = present
        .iter()
        .filter(|taint| !managed(taint) || wanted.iter().any(|wanted| same(taint, wanted)))
        .cloned()
        .collect();
    for wanted in &wanted {
        if !taints.iter().any(|taint| same(taint, wanted)) {
            taints.push(Taint {
                key: wanted.0.into(),
                effect: wanted.1.into(),
                value: None,
                time_added: Some(Time(now)),
            });
        }
    }
    (taints != present).then_some(taints)
}

/// What a node last said, and when that was first seen here.
struct Heard {
    renewed: Option<MicroTime>,
    heartbeat: Option<Time>,
    at: Instant,
}

struct NodeController {
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods: Informer<Pod>,
    client: Client,
    recorder: EventRecorder,
    grace: Duration,
    pulse: Arc<dyn crate::Pulse>,
    heard: Mutex<BTreeMap<String, Heard>>,
}

/// Indexes pods by the node they are bound to.
pub(crate) fn index_by_node(pods: &Informer<Pod>) {
    pods.add_index(BY_NODE, |pod| vec![pods::node_name(pod).to_owned()]);
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let controller = NodeController {
        nodes: context.informer(),
        leases: context.informer(),
        pods: context.informer(),
        client: context.client.clone(),
        recorder: context.recorder(NAME),
        grace: context.config.node_monitor_grace_period,
        pulse: context.config.pulse.clone(),
        heard: Mutex::default(),
    };
    index_by_node(&controller.pods);
    enqueue_changes(&controller.nodes, &queue);
    let to = queue.clone();
    controller.leases.on_change(move |change| {
        let key = change.key();
        if key.namespace == LEASES {
            to.add(ObjectKey::new("", key.name));
        }
    });
    let to = queue.clone();
    controller.pulse.on_stop(Box::new(move |node| to.add(ObjectKey::new("", node))));
    controller.nodes.wait_for_sync().await;
    controller.leases.wait_for_sync().await;
    controller.pods.wait_for_sync().await;
    context.work(NAME, &queue, |key| controller.sync(key)).await;
}

const LOCK: &str = "no code panics while it holds what was heard";

impl NodeController {
    async fn sync(&self, key: ObjectKey) -> Result<Requeue> {
        let Some(node) = self.nodes.get(&key) else {
            if self.heard.lock().expect(LOCK).remove(&key.name).is_some() {
                tracing::info!(node = key.name, "node removed");
            }
            return Ok(Requeue::Never);
        };
        let (mut silence, is_new) = self.silence(&node);
        let pulse = self.pulse.last(&key.name);
        silence = pulse.map_or(silence, |(last, _)| silence.min(last.elapsed()));
        if is_new {
            let message = format!("Node {0} event: Registered Node {0} in Controller", key.name);
            self.recorder.event(&object_reference(node.as_ref()), EventType::Normal, "RegisteredNode", message);
        }
        let never_spoke = condition(&node, "Ready").is_none();
        let grace = if never_spoke { STARTUP_GRACE } else { self.grace };
        let mut node = node;
        let now = coracle_clock::now_seconds();
        if silence >= grace
            && let Some(conditions) = unknown_conditions(&node, now)
        {
            let mut changed = node.as_ref().clone();
            changed.status.get_or_insert_default().conditions = Some(conditions);
            let api: Api<Node> = Api::all(self.client.clone());
            node = Arc::new(api.replace_status(&key.name, &PostParams::default(), &changed).await?);
        }
        if let Some(taints) = wanted_taints(&node, now) {
            let mut changed = node.as_ref().clone();
            changed.spec.get_or_insert_default().taints = Some(taints);
            let api: Api<Node> = Api::all(self.client.clone());
            node = Arc::new(api.replace(&key.name, &PostParams::default(), &changed).await?);
        }
        if ready_status(&node) != "True" && !never_spoke {
            self.mark_pods(&node).await?;
        }
        let left = grace.saturating_sub(silence);
        let beats = pulse.is_some_and(|(_, beats)| beats);
        Ok(if left.is_zero() || beats { Requeue::Never } else { Requeue::After(left) })
    }

    /// For how long the node has said nothing new, and whether this is the first we hear of it.
    fn silence(&self, node: &Node) -> (Duration, bool) {
        let name = node.name_any();
        let lease = self.leases.get(&ObjectKey::new(LEASES, &name));
        let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.clone());
        let heartbeat = condition(node, "Ready").and_then(|condition| condition.last_heartbeat_time.clone());
        let mut all = self.heard.lock().expect(LOCK);
        let is_new = !all.contains_key(&name);
        let now = coracle_clock::instant();
        let fresh = || Heard { renewed: renewed.clone(), heartbeat: heartbeat.clone(), at: now };
        let heard = all.entry(name).or_insert_with(fresh);
        if heard.renewed != renewed || heard.heartbeat != heartbeat {
            *heard = fresh();
        }
        (heard.at.elapsed(), is_new)
    }

    /// The kubelet cannot say that its pods are not ready, so it is said for it: traffic goes elsewhere.
    async fn mark_pods(&self, node: &Node) -> Result<()> {
        let name = node.name_any();
        let pods: Vec<Arc<Pod>> = self.pods.by_index(BY_NODE, &name);
        let ready: Vec<_> = pods.into_iter().filter(|pod| pods::is_ready(pod) && !pods::is_finished(pod)).collect();
        if ready.is_empty() {
            return Ok(());
        }
        let message = format!("Node {name} status is now: NodeNotReady");
        self.recorder.event(&object_reference(node), EventType::Normal, "NodeNotReady", message);
        for pod in ready {
            let now = coracle_clock::now_seconds();
            let condition = json!({ "type": "Ready", "status": "False", "lastTransitionTime": Time(now) });
            let patch = json!({ "metadata": { "uid": pod.uid() }, "status": { "conditions": [condition] } });
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
            api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch))
                .await
                .ignore_not_found()?;
            let about = object_reference(pod.as_ref());
            self.recorder.event(&about, EventType::Warning, "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixed_point::rest;

    fn node(conditions: &[(&str, &str)], taints: &[(&str, &str)], unschedulable: bool) -> Node {
        let conditions: Vec<_> =
            conditions.iter().map(|(type_, status)| json!({ "type": type_, "status": status })).collect();
        let taints: Vec<_> = taints.iter().map(|(key, effect)| json!({ "key": key, "effect": effect })).collect();
        serde_json::from_value(json!({
            "metadata": { "name": "n1" },
            "spec": { "taints": taints, "unschedulable": unschedulable },
            "status": { "conditions": conditions },
        }))
        .unwrap()
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_silent_nodes_conditions_become_unknown_once() {
        let mut node = node(&[("Ready", "True"), ("MemoryPressure", "False")], &[], false);
        let conditions = unknown_conditions(&node, now()).unwrap();
        let reasons: Vec<_> = conditions.iter().map(|c| (c.type_.as_str(), c.reason.as_deref().unwrap())).collect();
        assert_eq!(
            reasons,
            [
                ("Ready", "NodeStatusUnknown"),
                ("MemoryPressure", "NodeStatusUnknown"),
                ("DiskPressure", "NodeStatusNeverUpdated"),
                ("PIDPressure", "NodeStatusNeverUpdated"),
            ]
        );
        node.status.as_mut().unwrap().conditions = Some(conditions);
        assert_eq!(unknown_conditions(&node, now()), None);
    }

    #[test]
    fn taints_follow_the_conditions_and_leave_those_of_others_alone() {
        for (conditions, taints, unschedulable, expected) in [
            (vec![("Ready", "True")], vec![], false, None),
            (vec![("Ready", "True")], vec![("mine", "NoExecute")], false, None),
            (
                vec![("Ready", "Unknown")],
                vec![("mine", "NoExecute"), (NOT_READY, "NoSchedule")],
                false,
                Some(vec![("mine", "NoExecute"), (UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
            ),
            (
                vec![("Ready", "True"), ("DiskPressure", "True")],
                vec![(UNREACHABLE, "NoExecute")],
                true,
                Some(vec![("node.kubernetes.io/disk-pressure", "NoSchedule"), (UNSCHEDULABLE, "NoSchedule")]),
            ),
        ] {
            let wanted = wanted_taints(&node(&conditions, &taints, unschedulable), now());
            let wanted = wanted.as_ref().map(|taints| {
                taints.iter().map(|taint| (taint.key.as_str(), taint.effect.as_str())).collect::<Vec<_>>()
            });
            assert_eq!(wanted, expected, "{conditions:?} {taints:?}");
        }
    }

    proptest! {
        #[test]
        fn from_any_conditions_and_taints_a_node_comes_to_rest(
            conditions in proptest::collection::btree_map("Ready|(Memory|Disk|PID)Pressure|NetworkUnavailable", "True|False|Unknown", 0..5),
            taints in proptest::collection::btree_set(("mine|node\\.kubernetes\\.io/(not-ready|unreachable|disk-pressure|unschedulable)", "NoSchedule|NoExecute"), 0..5),
            unschedulable: bool,
            silent: bool,
        ) {
            let conditions: Vec<_> = conditions.iter().map(|(type_, status)| (type_.as_str(), status.as_str())).collect();
            let before: Vec<_> = taints.iter().map(|(key, effect)| (key.as_str(), effect.as_str())).collect();
            let start = node(&conditions, &before, unschedulable);
            let (_, node) = rest((0, start), |(second, old)| {
                let (mut node, now) = (old.clone(), Timestamp::from_second(*second).unwrap());
                if let Some(conditions) = unknown_conditions(&node, now).filter(|_| silent) {
                    node.status.get_or_insert_default().conditions = Some(conditions);
                }
                if let Some(taints) = wanted_taints(&node, now) {
                    node.spec.get_or_insert_default().taints = Some(taints);
                }
                // Time passes only as long as something changes: what is at rest is so at any time.
                (if node == *old { *second } else { second + 1 }, node)
            });
            let taints: Vec<_> = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).map(|taint| (taint.key.as_str(), taint.effect.as_str())).collect();
            let has = |key: &str, effect: &str| taints.contains(&(key, effect));
            let ready = condition(&node, "Ready").map(|condition| condition.status.as_str());
            prop_assert!(!silent || ready == Some("Unknown"));
            for effect in ["NoSchedule", "NoExecute"] {
                prop_assert_eq!(has(UNREACHABLE, effect), ready == Some("Unknown"));
                prop_assert_eq!(has(NOT_READY, effect), ready == Some("False"));
                prop_assert_eq!(has("mine", effect), before.contains(&("mine", effect)));
            }
            prop_assert_eq!(has(UNSCHEDULABLE, "NoSchedule"), unschedulable);
            prop_assert_eq!(unknown_conditions(&node, now()).filter(|_| silent), None);
            prop_assert_eq!(wanted_taints(&node, now()), None);
        }
    }
}
