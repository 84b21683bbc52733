//! What several controllers ask of pods.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use serde::Serialize;
use serde_json::json;

/// `status.phase`; empty when unset.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Whether the pod has run its course.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether somebody asked for its deletion.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether the pod counts for its controller: neither finished nor going.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

/// The name of the node it is bound to; empty when it is not.
pub(crate) fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// One of the pod's conditions.
pub(crate) fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

/// Since when the pod is ready, if it is. A pod without a recorded time has been ready since its creation.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|condition| condition.status == "True")?;
    let since = ready.last_transition_time.as_ref().or(pod.metadata.creation_timestamp.as_ref());
    Some(since.map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// Whether the pod's Ready condition holds.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

/// How long until a ready pod has been ready for `min_ready_seconds`: zero when it is available, none when it
/// is not ready.
pub(crate) fn available_in(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    let since = ready_since(pod)?;
    if min_ready_seconds <= 0 {
        return Some(Duration::ZERO);
    }
    let available_at = since + Duration::from_secs(min_ready_seconds.unsigned_abs().into());
    Some(until(available_at, now))
}

/// So many seconds after a time, or the end of all time. Users may ask for more seconds than there are.
pub(crate) fn later(at: Timestamp, seconds: i64) -> Timestamp {
    at.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// The time from `now` to `then`; zero when that has passed.
pub(crate) fn until(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or_default()
}

/// Whether the pod is ready and has been for `min_ready_seconds`.
pub(crate) fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    available_in(pod, min_ready_seconds, now) == Some(Duration::ZERO)
}

/// Whether two statuses say the same: servers leave out zeros, empty lists and empty texts, which absent fields mean.
pub(crate) fn same_status<S: Serialize>(a: &S, b: &S) -> bool {
    let said = |status: &S| {
        let mut value = serde_json::to_value(status).unwrap_or_default();
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|_, value| {
                *value != json!(null) && *value != json!(0) && *value != json!([]) && *value != json!("")
            });
        }
        value
    };
    said(a) == said(b)
}

/// A number, or a percentage of `total` rounded up or down. What is neither counts as 0.
pub(crate) fn scaled_value(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.strip_suffix('%').and_then(|number| number.parse().ok()).unwrap_or_default();
            let hundredfold = percent.saturating_mul(total.into());
            let value =
                if round_up { hundredfold.saturating_add(99).div_euclid(100) } else { hundredfold.div_euclid(100) };
            i32::try_from(value).unwrap_or(i32::MAX)
        }
    }
}

/// Restarts of the container that restarted most.
fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    statuses.iter().map(|status| status.restart_count).max().unwrap_or_default()
}

/// The pod of a template: named by `prefix` and a random suffix from the API server, owned by `owner`.
pub(crate) fn from_template(template: &PodTemplateSpec, prefix: &str, owner: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{prefix}-")),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The annotation by which a pod says how much it would be missed (default 0).
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Sorts pods so that those to be deleted first come first: not bound, not running, not ready, cheap to lose,
/// crowded with their kind on a node (`related_on_node`), ready or created recently, restarted often.
/// Ages are compared by magnitude, so that among equals chance (the UID) decides and not a second's difference.
pub(crate) fn sort_for_deletion(pods: &mut [Arc<Pod>], related_on_node: &BTreeMap<String, usize>, now: Timestamp) {
    pods.sort_by(|a, b| deletion_order(a, b, related_on_node, now));
}

fn deletion_order(a: &Pod, b: &Pod, related_on_node: &BTreeMap<String, usize>, now: Timestamp) -> Ordering {
    let phase_rank = |pod: &Pod| match phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let cost = |pod: &Pod| pod.annotations().get(DELETION_COST).and_then(|c| c.parse::<i32>().ok()).unwrap_or(0);
    let rank = |pod: &Pod| related_on_node.get(node_name(pod)).copied().unwrap_or_default();
    let created = |pod: &Pod| pod.creation_timestamp().map_or(now, |time| time.0);
    // Younger (a smaller magnitude of age) goes first; a pod without a time is the youngest of all.
    let magnitude = |at: Timestamp| now.duration_since(at).as_secs().max(0).checked_ilog2().map_or(0, |log| log + 1);
    let ready_age = |pod: &Pod| ready_since(pod).map(magnitude);
    (!node_name(a).is_empty())
        .cmp(&!node_name(b).is_empty())
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| rank(b).cmp(&rank(a)))
        .then_with(|| ready_age(a).cmp(&ready_age(b)))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| magnitude(created(a)).cmp(&magnitude(created(b))))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: &str, phase: &str, ready_at: Option<&str>, cost: &str) -> Arc<Pod> {
        let ready = ready_at.map(|at| json!({ "type": "Ready", "status": "True", "lastTransitionTime": at }));
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {
                    "name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z",
                    "annotations": { DELETION_COST: cost },
                },
                "spec": { "nodeName": node, "containers": [] },
                "status": { "phase": phase, "conditions": ready.into_iter().collect::<Vec<_>>() },
            }))
            .unwrap(),
        )
    }

    #[test]
    fn pods_that_are_missed_least_are_deleted_first() {
        let (noon, one) = (Some("2026-01-01T12:00:00Z"), Some("2026-01-01T13:00:00Z"));
        let mut pods = vec![
            pod("dear", "n1", "Running", noon, "10"),
            pod("ready-long", "n1", "Running", noon, "0"),
            pod("ready-new", "n1", "Running", one, "0"),
            pod("crowded", "n2", "Running", noon, "0"),
            pod("cheap", "n1", "Running", noon, "-5"),
            pod("unready", "n1", "Running", None, "0"),
            pod("pending", "n1", "Pending", None, "0"),
            pod("unbound", "", "Pending", None, "0"),
        ];
        let crowd = BTreeMap::from([("n1".to_owned(), 1), ("n2".to_owned(), 3)]);
        sort_for_deletion(&mut pods, &crowd, "2026-01-01T14:00:00Z".parse().unwrap());
        let order: Vec<_> = pods.iter().map(|pod| pod.name_any()).collect();
        assert_eq!(order, ["unbound", "pending", "unready", "cheap", "crowded", "ready-new", "ready-long", "dear"]);
    }

    #[test]
    fn a_pod_becomes_available_when_it_has_been_ready_long_enough() {
        let ready = pod("a", "n1", "Running", Some("2026-01-01T12:00:00Z"), "0");
        let now = "2026-01-01T12:00:04Z".parse().unwrap();
        assert_eq!(available_in(&ready, 10, now), Some(Duration::from_secs(6)));
        assert!(is_available(&ready, 0, now) && is_available(&ready, 4, now) && !is_available(&ready, 5, now));
        assert_eq!(available_in(&pod("b", "n1", "Running", None, "0"), 0, now), None);
    }
}
