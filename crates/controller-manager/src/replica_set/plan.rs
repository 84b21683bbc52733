//! The decisions of the ReplicaSet controller: how many pods to create, which to delete, what the status is.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::pods;

/// At most so many pods are created or deleted in one go.
const BURST: usize = 500;

/// What to do about the number of pods.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    Nothing,
    Create(usize),
    Delete(Vec<Arc<Pod>>),
}

/// Compares the active pods with the number wanted. `related_on_node` counts, per node, the pods of all
/// ReplicaSets of the same Deployment: pods are taken from where most of them are.
pub(super) fn plan(
    mut active: Vec<Arc<Pod>>,
    wanted: i32,
    related_on_node: impl FnOnce() -> BTreeMap<String, usize>,
    now: Timestamp,
) -> Plan {
    let wanted = usize::try_from(wanted).unwrap_or_default();
    if active.len() < wanted {
        return Plan::Create((wanted - active.len()).min(BURST));
    }
    let surplus = (active.len() - wanted).min(BURST);
    if surplus == 0 {
        return Plan::Nothing;
    }
    pods::sort_for_deletion(&mut active, &related_on_node(), now);
    active.truncate(surplus);
    Plan::Delete(active)
}

/// Whether a pod's change gives nothing to do: whose it is, whether it counts, and since when it is ready are as before.
/// That it was bound or started is told by two changes, and would have every pod of its ReplicaSet looked at twice.
pub(super) fn is_the_same(old: &Pod, new: &Pod) -> bool {
    old.metadata.owner_references == new.metadata.owner_references
        && old.metadata.labels == new.metadata.labels
        && pods::is_terminating(old) == pods::is_terminating(new)
        && pods::is_finished(old) == pods::is_finished(new)
        && pods::ready_since(old) == pods::ready_since(new)
}

/// What the status is made from.
pub(super) struct Observed<'a> {
    pub(super) active: &'a [Arc<Pod>],
    pub(super) terminating: usize,
    pub(super) wanted: i32,
    pub(super) min_ready_seconds: i32,
    pub(super) template_labels: BTreeMap<String, String>,
    pub(super) generation: Option<i64>,
    /// The message of what went wrong when the pods were changed.
    pub(super) failure: Option<String>,
}

/// The new status, from the old one (for its conditions) and what was observed.
pub(super) fn status(old: &ReplicaSetStatus, observed: &Observed, now: Timestamp) -> ReplicaSetStatus {
    let count = |test: &dyn Fn(&Pod) -> bool| to_i32(observed.active.iter().filter(|pod| test(pod)).count());
    let has_template_labels =
        |pod: &Pod| observed.template_labels.iter().all(|(key, value)| pod.labels().get(key) == Some(value));
    ReplicaSetStatus {
        replicas: to_i32(observed.active.len()),
        fully_labeled_replicas: Some(count(&has_template_labels)),
        ready_replicas: Some(count(&pods::is_ready)),
        available_replicas: Some(count(&|pod| pods::is_available(pod, observed.min_ready_seconds, now))),
        terminating_replicas: Some(to_i32(observed.terminating)),
        observed_generation: observed.generation,
        conditions: conditions(old, observed, now),
    }
}

fn conditions(old: &ReplicaSetStatus, observed: &Observed, now: Timestamp) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = old.conditions.clone().unwrap_or_default();
    match &observed.failure {
        None => conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
        Some(message) if conditions.iter().all(|condition| condition.type_ != "ReplicaFailure") => {
            let too_few = to_i32(observed.active.len()) < observed.wanted;
            conditions.push(ReplicaSetCondition {
                type_: "ReplicaFailure".into(),
                status: "True".into(),
                reason: Some(if too_few { "FailedCreate" } else { "FailedDelete" }.into()),
                message: Some(message.clone()),
                last_transition_time: Some(Time(now)),
            });
        }
        Some(_) => {}
    }
    (!conditions.is_empty()).then_some(conditions)
}

fn to_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::fixed_point::rest;

    #[test]
    fn what_a_change_of_a_pod_gives_to_do() {
        let ready =
            |at: &str| json!({ "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": at }] });
        for (field, value, same) in [
            ("/spec/nodeName", json!("n2"), true),
            ("/status/phase", json!("Running"), true),
            ("/status/phase", json!("Succeeded"), false),
            ("/metadata/resourceVersion", json!("7"), true),
            ("/metadata/labels/app", json!("y"), false),
            ("/metadata/ownerReferences", json!([]), false),
            ("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"), false),
            ("/status", ready("2026-01-01T00:00:00Z"), false),
        ] {
            let old = pod("a", false);
            let mut new = serde_json::to_value(old.as_ref()).unwrap();
            let (parent, name) = field.rsplit_once('/').unwrap();
            new.pointer_mut(parent).unwrap()[name] = value;
            assert_eq!(is_the_same(&old, &serde_json::from_value(new).unwrap()), same, "{field}");
        }
        let at = |time| serde_json::from_value::<Pod>(json!({ "metadata": {}, "status": ready(time) })).unwrap();
        assert!(!is_the_same(&at("2026-01-01T00:00:00Z"), &at("2026-01-01T00:00:01Z")), "ready anew");
    }

    fn pod(name: &str, ready: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        Arc::new(
            serde_json::from_value(json!({
                "metadata": { "name": name, "uid": name, "labels": { "app": "x" } },
                "spec": { "nodeName": "n1", "containers": [] },
                "status": { "phase": "Running", "conditions": [
                    { "type": "Ready", "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z" },
                ]},
            }))
            .unwrap(),
        )
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:05Z".parse().unwrap()
    }

    #[test]
    fn the_plan_makes_up_the_difference() {
        let active = vec![pod("a", true), pod("b", false), pod("c", true)];
        let none = BTreeMap::new;
        assert_eq!(plan(active.clone(), 5, none, now()), Plan::Create(2));
        assert_eq!(plan(active.clone(), 3, none, now()), Plan::Nothing);
        assert_eq!(plan(active.clone(), 2, none, now()), Plan::Delete(vec![pod("b", false)]));
        assert_eq!(plan(Vec::new(), 1000, none, now()), Plan::Create(BURST));
    }

    #[test]
    fn status_counts_ready_and_available_pods_and_reports_failures_once() {
        let active = [pod("a", true), pod("b", false)];
        let observed = |failure: Option<&str>, min_ready_seconds| Observed {
            active: &active,
            terminating: 1,
            wanted: 3,
            min_ready_seconds,
            template_labels: BTreeMap::from([("app".into(), "x".into())]),
            generation: Some(4),
            failure: failure.map(Into::into),
        };
        let failed = status(&ReplicaSetStatus::default(), &observed(Some("quota"), 10), now());
        assert_eq!((failed.replicas, failed.ready_replicas, failed.available_replicas), (2, Some(1), Some(0)));
        assert_eq!((failed.fully_labeled_replicas, failed.terminating_replicas), (Some(2), Some(1)));
        let condition = &failed.conditions.as_ref().unwrap()[0];
        assert_eq!((condition.reason.as_deref(), condition.message.as_deref()), (Some("FailedCreate"), Some("quota")));
        let again = status(&failed, &observed(Some("quota still"), 10), now());
        assert_eq!(again.conditions, failed.conditions);
        let well = status(&again, &observed(None, 0), now());
        assert_eq!((well.conditions, well.available_replicas), (None, Some(1)));
    }

    proptest! {
        #[test]
        fn from_any_number_of_pods_there_come_to_be_as_many_as_wanted(
            there in proptest::collection::vec(any::<bool>(), 0..12), wanted in 0..12i32, failure in proptest::option::of("quota"),
        ) {
            let there: Vec<_> = there.iter().enumerate().map(|(i, ready)| pod(&i.to_string(), *ready)).collect();
            let ready = |pods: &[Arc<Pod>]| pods.iter().filter(|pod| pods::is_ready(pod)).count();
            let most = ready(&there).min(usize::try_from(wanted).unwrap());
            let (active, status) = rest((there, ReplicaSetStatus::default()), |(active, old)| {
                let next = match plan(active.clone(), wanted, BTreeMap::new, now()) {
                    Plan::Nothing => active.clone(),
                    Plan::Create(more) => active.iter().cloned().chain((0..more).map(|i| pod(&format!("n{i}"), true))).collect(),
                    Plan::Delete(some) => active.iter().filter(|pod| !some.contains(pod)).cloned().collect(),
                };
                let (generation, failure) = (Some(1), failure.clone());
                let observed = Observed { active, terminating: 0, wanted, min_ready_seconds: 0, template_labels: BTreeMap::new(), generation, failure };
                (next, super::status(old, &observed, now()))
            });
            prop_assert_eq!((active.len(), status.replicas), (usize::try_from(wanted).unwrap(), wanted));
            prop_assert!(ready(&active) >= most, "one that serves went before one that does not");
            prop_assert_eq!(status.conditions.is_some(), failure.is_some());
        }
    }
}
