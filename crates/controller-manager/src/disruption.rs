//! Disruption: how many of a PodDisruptionBudget's pods may be evicted now.
//!
//! Watches budgets, pods, and the workloads that pods belong to, whose scale says how many pods are expected. The
//! answer stands in the budget's status, where the eviction subresource reads it and notes the pods it evicts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::{
    EventRecorder, EventType, Informer, ObjectKey, Requeue, WorkQueue, controller_of, object_reference,
};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::PostParams;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, ResourceExt};

use crate::claim;
use crate::context::{Context, enqueue_changes};
use crate::error::{Error, Result};
use crate::pods;

const NAME: &str = "disruption-controller";
/// An evicted pod that is not being deleted after this long counts as not evicted.
const DELETION_TIMEOUT: Duration = Duration::from_secs(120);

/// How many pods there should be, as their workloads' scales say; the key is a workload's UID.
type Scales = BTreeMap<String, i32>;

/// A budget's new status, and when to look again.
fn status(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    scales: &Scales,
    now: Timestamp,
) -> (PodDisruptionBudgetStatus, Option<Duration>) {
    let spec = budget.spec.clone().unwrap_or_default();
    let old = budget.status.clone().unwrap_or_default();
    let (expected, desired) = expected_and_desired(&spec, count(pods.len()), scales.values().sum());
    // Pods whose eviction was granted count as gone, for a while.
    let mut disrupted = BTreeMap::new();
    let mut again = None;
    for pod in pods.iter().filter(|pod| !pods::is_terminating(pod)) {
        let Some(since) = old.disrupted_pods.as_ref().and_then(|pods| pods.get(&pod.name_any())) else { continue };
        let left = pods::until(since.0 + DELETION_TIMEOUT, now);
        if !left.is_zero() {
            again = Some(again.map_or(left, |again: Duration| again.min(left)));
            disrupted.insert(pod.name_any(), since.clone());
        }
    }
    let healthy =
        |pod: &&Arc<Pod>| !pods::is_terminating(pod) && !disrupted.contains_key(&pod.name_any()) && pods::is_ready(pod);
    let current = count(pods.iter().filter(healthy).count());
    // With no pods to expect, the first to appear are not yet counted: none may go.
    let allowed = if expected <= 0 { 0 } else { (current - desired).max(0) };
    let new = PodDisruptionBudgetStatus {
        current_healthy: Some(current),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: budget.metadata.generation,
        conditions: Some(vec![condition(&old, allowed, budget.metadata.generation, now)]),
    };
    (new, again)
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// How many pods count, and how many of them must stay healthy. Percentages, and all that may be unavailable, are of
/// the workloads' scales.
fn expected_and_desired(spec: &PodDisruptionBudgetSpec, pods: i32, scale: i32) -> (i32, i32) {
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => (scale, (scale - pods::scaled_value(Some(most), scale, true)).max(0)),
        (None, Some(IntOrString::Int(least))) => (pods, *least),
        (None, Some(least)) => (scale, pods::scaled_value(Some(least), scale, true)),
        (None, None) => (pods, 0),
    }
}

fn condition(old: &PodDisruptionBudgetStatus, allowed: i32, generation: Option<i64>, now: Timestamp) -> Condition {
    let (status, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let before = old.conditions.iter().flatten().find(|condition| condition.type_ == "DisruptionAllowed");
    let since = before.filter(|before| before.status == status).map(|before| before.last_transition_time.clone());
    Condition {
        type_: "DisruptionAllowed".into(),
        status: status.into(),
        reason: reason.into(),
        message: String::new(),
        observed_generation: generation,
        last_transition_time: since.unwrap_or(Time(now)),
    }
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let controller = DisruptionController {
        budgets: context.informer(),
        pods: context.informer(),
        replica_sets: context.informer(),
        replication_controllers: context.informer(),
        deployments: context.informer(),
        stateful_sets: context.informer(),
        client: context.client.clone(),
        recorder: context.recorder(NAME),
    };
    enqueue_changes(&controller.budgets, &queue);
    let (budgets, to) = (controller.budgets.clone(), queue.clone());
    controller.pods.on_change(move |change| {
        let states: Vec<_> = [change.old, change.new].into_iter().flatten().collect();
        for budget in budgets.list_namespace(&change.object().namespace().unwrap_or_default()) {
            if selector(&budget).is_ok_and(|selector| states.iter().any(|pod| claim::matches(&selector, pod.as_ref())))
            {
                to.add(ObjectKey::of(budget.as_ref()));
            }
        }
    });
    // A workload's scale moves the budgets of its namespace.
    macro_rules! follow {
        ($($informer:ident)*) => { $(
            let (budgets, to) = (controller.budgets.clone(), queue.clone());
            controller.$informer.on_change(move |change| {
                let scale = |object: &Arc<_>| replicas::$informer(object);
                if change.old.map(scale) != change.new.map(scale) {
                    let namespace = change.object().namespace().unwrap_or_default();
                    budgets.list_namespace(&namespace).iter().for_each(|budget| to.add(ObjectKey::of(budget.as_ref())));
                }
            });
            controller.$informer.wait_for_sync().await;
        )* };
    }
    follow!(replica_sets replication_controllers deployments stateful_sets);
    controller.budgets.wait_for_sync().await;
    controller.pods.wait_for_sync().await;
    context.work(NAME, &queue, |key| controller.sync(key)).await;
}

/// `spec.replicas` of each workload; unset means one.
mod replicas {
    use super::{Deployment, ReplicaSet, ReplicationController, StatefulSet};

    macro_rules! replicas {
        ($($name:ident: $kind:ty;)*) => { $(
            pub(super) fn $name(object: &$kind) -> i32 {
                object.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
            }
        )* };
    }

    replicas! {
        replica_sets: ReplicaSet;
        replication_controllers: ReplicationController;
        deployments: Deployment;
        stateful_sets: StatefulSet;
    }
}

fn selector(budget: &PodDisruptionBudget) -> Result<kube::core::Selector> {
    // Unlike an empty selector, which matches all pods, none at all matches none.
    match budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()) {
        Some(selector) => claim::selector(selector),
        None => Err(Error::Other("the budget has no selector".into())),
    }
}

struct DisruptionController {
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    replica_sets: Informer<ReplicaSet>,
    replication_controllers: Informer<ReplicationController>,
    deployments: Informer<Deployment>,
    stateful_sets: Informer<StatefulSet>,
    client: Client,
    recorder: EventRecorder,
}

impl DisruptionController {
    async fn sync(&self, key: ObjectKey) -> Result<Requeue> {
        let Some(budget) = self.budgets.get(&key) else { return Ok(Requeue::Never) };
        let about = object_reference(budget.as_ref());
        let matching: Vec<_> = match selector(&budget) {
            Ok(selector) => {
                let pods = self.pods.list_namespace(&key.namespace).into_iter();
                pods.filter(|pod| claim::matches(&selector, pod.as_ref())).collect()
            }
            Err(_) => Vec::new(),
        };
        if matching.is_empty() {
            self.recorder.event(&about, EventType::Normal, "NoPods", "No matching pods found");
        }
        let (scales, unmanaged) = self.scales(&key.namespace, &matching).await?;
        if !unmanaged.is_empty() && needs_scale(&budget) {
            let message = format!(
                "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
                describe(&budget)
            );
            self.recorder.event(&about, EventType::Warning, "UnmanagedPods", message);
        }
        let (status, again) = status(&budget, &matching, &scales, coracle_clock::now_seconds());
        if budget.status.as_ref() != Some(&status) {
            let mut changed = budget.as_ref().clone();
            changed.status = Some(status);
            let api: Api<PodDisruptionBudget> = Api::namespaced(self.client.clone(), &key.namespace);
            api.replace_status(&key.name, &PostParams::default(), &changed).await?;
        }
        Ok(again.map_or(Requeue::Never, Requeue::After))
    }

    /// The scales of the workloads that the pods belong to, and the names of pods that belong to none.
    async fn scales(&self, namespace: &str, pods: &[Arc<Pod>]) -> Result<(Scales, Vec<String>)> {
        let (mut scales, mut unmanaged) = (Scales::new(), Vec::new());
        let mut seen = BTreeMap::new();
        for pod in pods {
            let Some(owner) = controller_of(&pod.metadata) else {
                unmanaged.push(pod.name_any());
                continue;
            };
            if seen.insert(owner.uid.clone(), ()).is_some() {
                continue;
            }
            let key = ObjectKey::new(namespace, &owner.name);
            let found = match (owner.api_version.as_str(), owner.kind.as_str()) {
                ("apps/v1", "ReplicaSet") => self.replica_sets.get(&key).map(|set| self.of_replica_set(&set)),
                ("apps/v1", "StatefulSet") => {
                    self.stateful_sets.get(&key).map(|set| (owner.uid.clone(), replicas::stateful_sets(&set)))
                }
                ("v1", "ReplicationController") => self
                    .replication_controllers
                    .get(&key)
                    .map(|controller| (owner.uid.clone(), replicas::replication_controllers(&controller))),
                (version, kind) => self.scale(version, kind, &key).await?.map(|replicas| (owner.uid.clone(), replicas)),
            };
            match found {
                Some((uid, replicas)) => drop(scales.insert(uid, replicas)),
                None => unmanaged.push(pod.name_any()),
            }
        }
        Ok((scales, unmanaged))
    }

    /// A ReplicaSet's pods are its Deployment's, if it has one.
    fn of_replica_set(&self, set: &ReplicaSet) -> (String, i32) {
        let owner = controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment");
        let key = |name: &str| ObjectKey::new(set.namespace().unwrap_or_default(), name);
        let deployment = owner.and_then(|owner| self.deployments.get(&key(&owner.name)));
        match deployment {
            Some(deployment) => (deployment.uid().unwrap_or_default(), replicas::deployments(&deployment)),
            None => (set.uid().unwrap_or_default(), replicas::replica_sets(set)),
        }
    }

    /// What the scale subresource of any other workload says; none if it has none.
    async fn scale(&self, version: &str, kind: &str, key: &ObjectKey) -> Result<Option<i32>> {
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &key.namespace, &resource);
        match api.get_scale(&key.name).await {
            Ok(scale) => Ok(scale.spec.map(|spec| spec.replicas.unwrap_or_default())),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether the budget is a share of the workloads' scales.
fn needs_scale(budget: &PodDisruptionBudget) -> bool {
    let spec = budget.spec.clone().unwrap_or_default();
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

fn describe(budget: &PodDisruptionBudget) -> String {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let labels = selector.and_then(|selector| selector.match_labels.clone()).unwrap_or_default();
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::fixed_point::rest;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn budget(spec: &Value, disrupted: &Value) -> PodDisruptionBudget {
        let status = json!({ "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0,
            "disruptedPods": disrupted });
        serde_json::from_value(json!({ "metadata": { "generation": 3 }, "spec": spec, "status": status })).unwrap()
    }

    fn pods(ready: &[bool]) -> Vec<Arc<Pod>> {
        let pod = |(i, ready): (usize, &bool)| {
            let status = if *ready { "True" } else { "False" };
            let status = json!({ "conditions": [{ "type": "Ready", "status": status }] });
            Arc::new(
                serde_json::from_value(json!({ "metadata": { "name": format!("p{i}") }, "status": status })).unwrap(),
            )
        };
        ready.iter().enumerate().map(pod).collect()
    }

    #[test]
    fn a_budget_allows_what_leaves_enough_healthy_pods() {
        let all = [true, true, true, true];
        for (spec, ready, scale, expected, desired, allowed) in [
            (json!({ "minAvailable": 2 }), &all[..], 0, 4, 2, 2),
            (json!({ "minAvailable": 2 }), &[true, true, false], 3, 3, 2, 0),
            (json!({ "minAvailable": 5 }), &all, 4, 4, 5, 0),
            (json!({ "minAvailable": "50%" }), &all, 5, 5, 3, 1),
            (json!({ "maxUnavailable": 1 }), &all, 4, 4, 3, 1),
            (json!({ "maxUnavailable": "30%" }), &all, 4, 4, 2, 2),
            (json!({ "maxUnavailable": 1 }), &all, 5, 5, 4, 0),
            (json!({ "minAvailable": 0 }), &[], 0, 0, 0, 0),
        ] {
            let scales = Scales::from([("w".into(), scale)]);
            let (new, again) = status(&budget(&spec, &json!({})), &pods(ready), &scales, at(0));
            let found = (new.expected_pods, new.desired_healthy, new.disruptions_allowed);
            assert_eq!((found, again), ((Some(expected), Some(desired), Some(allowed)), None), "{spec} {ready:?}");
            assert_eq!(new.conditions.unwrap()[0].status == "True", allowed > 0);
            assert_eq!(new.observed_generation, Some(3));
        }
    }

    #[test]
    fn an_evicted_pod_counts_as_gone_for_two_minutes() {
        let noted = json!({ "p0": at(0), "other": at(0) });
        let budget = budget(&json!({ "minAvailable": 1 }), &noted);
        let (new, again) = status(&budget, &pods(&[true, true]), &Scales::new(), at(30));
        assert_eq!((new.current_healthy, new.disruptions_allowed), (Some(1), Some(0)));
        assert_eq!((new.disrupted_pods.unwrap().len(), again), (1, Some(Duration::from_secs(90))));
        let (new, again) = status(&budget, &pods(&[true, true]), &Scales::new(), at(120));
        assert_eq!((new.current_healthy, new.disrupted_pods, again), (Some(2), None, None));
    }

    proptest! {
        #[test]
        fn a_status_holds_until_something_changes(
            ready in proptest::collection::vec(any::<bool>(), 0..8), evicted in proptest::collection::vec(0..200i64, 0..8),
            scale in 0..10, field in "minAvailable|maxUnavailable", number in 0..10, percent: bool,
        ) {
            let amount = if percent { json!(format!("{number}0%")) } else { json!(number) };
            let evicted: Value = evicted.iter().enumerate().map(|(i, since)| (format!("p{i}"), json!(at(*since)))).collect();
            let budget = budget(&json!({ field: amount }), &evicted);
            let scales = Scales::from([("w".into(), scale)]);
            let status = |old: &_, now| super::status(&PodDisruptionBudget { status: Some(PodDisruptionBudgetStatus::clone(old)), ..budget.clone() }, &pods(&ready), &scales, at(now)).0;
            let found = rest(budget.status.clone().unwrap(), |old| status(old, 200));
            let (healthy, allowed) = (found.current_healthy.unwrap(), found.disruptions_allowed.unwrap());
            prop_assert!(allowed == 0 || healthy - allowed >= found.desired_healthy.unwrap());
            // In the end every eviction that came to nothing is forgotten.
            let found = rest(found, |old| status(old, 400));
            prop_assert_eq!(found.disrupted_pods, None);
        }
    }
}
