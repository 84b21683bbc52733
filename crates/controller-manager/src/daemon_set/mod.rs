//! DaemonSet: a pod on every node, or on every node of a kind.
//!
//! Watches DaemonSets, pods (keyed by their controller) and nodes: a node that a DaemonSet wants more or less of
//! than before is a change of that DaemonSet. For each key: claim the revisions and the pods, plan one step
//! ([`plan`]), carry it out, write the status, forget old revisions. The scheduler binds the pods, each to the one
//! node that its affinity names.

mod nodes;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coracle_client::{EventType, Informer, ObjectKey, Requeue, WorkQueue, object_reference};
use coracle_clock::Instant;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use crate::claim;
use crate::context::{Context, enqueue_changes};
use crate::error::Result;
use crate::history::{History, REVISION_LABEL};
use crate::pod_control::PodControl;
use crate::pods;
use plan::{Plan, State};

const NAME: &str = "daemonset-controller";
/// At most so many pods are created or deleted in one go.
const BURST: usize = 250;
/// A failed pod is replaced at once; if that fails too, after this, and then after twice as long each time.
const BACKOFF: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(900);

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let controller = DaemonSetController {
        sets: context.informer(),
        pods: context.informer(),
        nodes: context.informer(),
        revisions: context.informer(),
        control: PodControl::new(context.client.clone(), context.recorder(NAME)),
        failures: Mutex::default(),
    };
    claim::index_by_controller(&controller.pods);
    claim::index_by_controller(&controller.revisions);
    enqueue_changes(&controller.sets, &queue);
    controller.control.follow(
        &controller.pods,
        &controller.sets,
        &queue,
        |_, _| false,
        |set, pod| {
            let selector = set.spec.as_ref().and_then(|spec| claim::selector(&spec.selector).ok());
            selector.is_some_and(|selector| claim::matches(&selector, pod))
        },
    );
    let (sets, to) = (controller.sets.clone(), queue.clone());
    controller.nodes.on_change(move |change| {
        for set in sets.list() {
            let spec = nodes::daemon_spec(&set);
            let wanted = |node: Option<&Arc<Node>>| node.map(|node| nodes::wanted(&spec, node));
            if wanted(change.old) != wanted(change.new) {
                to.add(ObjectKey::of(set.as_ref()));
            }
        }
    });
    controller.sets.wait_for_sync().await;
    controller.pods.wait_for_sync().await;
    controller.nodes.wait_for_sync().await;
    controller.revisions.wait_for_sync().await;
    context.work(NAME, &queue, |key| controller.sync(key)).await;
}

/// A DaemonSet at a generation, and a node.
type Place = (ObjectKey, Option<i64>, String);

/// When a pod last failed, and how long the next that fails must wait from then on.
#[derive(Clone, Copy)]
struct Failure {
    at: Instant,
    delay: Duration,
}

struct DaemonSetController {
    sets: Informer<DaemonSet>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    revisions: Informer<ControllerRevision>,
    control: PodControl,
    failures: Mutex<BTreeMap<Place, Failure>>,
}

impl DaemonSetController {
    async fn sync(&self, key: ObjectKey) -> Result<Requeue> {
        let set = self.sets.get(&key);
        let generation = set.as_ref().and_then(|set| set.metadata.generation);
        self.failures().retain(|(set, at, _), _| *set != key || *at == generation && generation.is_some());
        let Some(set) = set else {
            self.control.expectations.forget(&key);
            return Ok(Requeue::Never);
        };
        let Some(spec) = set.spec.as_ref().filter(|_| set.metadata.deletion_timestamp.is_none()) else {
            return Ok(Requeue::Never);
        };
        let (client, about) = (&self.control.client, object_reference(set.as_ref()));
        let selector = claim::selector(&spec.selector)?;
        if selector.selects_all() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.control.recorder.event(&about, EventType::Warning, "SelectingAll", message);
            return Ok(Requeue::Never);
        }
        let satisfied = self.control.expectations.satisfied(&key);
        let old = set.status.clone().unwrap_or_default();
        let wanted = (&spec.selector, &spec.template);
        let history =
            History::sync(client, set.as_ref(), wanted, REVISION_LABEL, old.collision_count, &self.revisions).await?;
        let pods = claim::claim(client, set.as_ref(), &selector, &self.pods).await?;
        let Plan { create, delete, ended, mut status, again } = plan::plan(&State {
            set: &set,
            nodes: &self.nodes.list(),
            pods: &pods,
            hash: history.update.labels().get(REVISION_LABEL).map(String::as_str).unwrap_or_default(),
            collisions: history.collisions,
            backoff: &|node| self.backoff(&(key.clone(), generation, node.to_owned())),
            now: coracle_clock::now(),
        });
        let mut done = Ok(());
        if satisfied {
            for (node, pod) in ended {
                self.note_end(&set, &node, &pod);
            }
            let hash = &history.update.labels()[REVISION_LABEL];
            let new = create.iter().take(BURST).map(|node| nodes::new_pod(&set, node, hash)).collect();
            done = self.control.create(&key, &about, new).await;
            let deleted = self.control.delete(&key, &about, &delete[..delete.len().min(BURST)]).await;
            done = done.and(deleted);
        } else {
            status.observed_generation = old.observed_generation;
        }
        self.write_status(&set, status).await?;
        done?;
        let in_use = |revision: &ControllerRevision| {
            let hash = revision.labels().get(REVISION_LABEL);
            pods.iter().any(|pod| pod.labels().get(REVISION_LABEL) == hash)
        };
        history.truncate(client, in_use, spec.revision_history_limit).await?;
        Ok(again.map_or(Requeue::Never, Requeue::After))
    }

    fn failures(&self) -> MutexGuard<'_, BTreeMap<Place, Failure>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much longer a failed pod must wait.
    fn backoff(&self, place: &Place) -> Duration {
        let failure = self.failures().get(place).copied();
        failure.map_or(Duration::ZERO, |failure| failure.delay.saturating_sub(failure.at.elapsed()))
    }

    /// A pod has ended, and is about to be replaced.
    fn note_end(&self, set: &DaemonSet, node: &str, pod: &Pod) {
        let (key, failed) = (ObjectKey::of(pod), pods::phase(pod) == "Failed");
        let (kind, reason, state, verb) = match failed {
            true => (EventType::Warning, "FailedDaemonPod", "failed", "kill"),
            false => (EventType::Normal, "SucceededDaemonPod", "succeeded", "delete"),
        };
        let message = format!("Found {state} daemon pod {key} on node {node}, will try to {verb} it");
        self.control.recorder.event(&object_reference(set), kind, reason, message);
        if failed {
            let place = (ObjectKey::of(set), set.metadata.generation, node.to_owned());
            let mut failures = self.failures();
            let recent = failures.get(&place).filter(|failure| failure.at.elapsed() <= BACKOFF_MAX * 2);
            let delay = recent.map_or(BACKOFF, |failure| (failure.delay * 2).min(BACKOFF_MAX));
            failures.insert(place, Failure { at: coracle_clock::instant(), delay });
        }
    }

    async fn write_status(&self, set: &DaemonSet, status: DaemonSetStatus) -> Result<()> {
        if set.status.as_ref().is_some_and(|old| pods::same_status(old, &status)) {
            return Ok(());
        }
        let changed = DaemonSet { status: Some(status), ..set.clone() };
        let api: Api<DaemonSet> = Api::namespaced(self.control.client.clone(), &set.namespace().unwrap_or_default());
        api.replace_status(&set.name_any(), &PostParams::default(), &changed).await?;
        Ok(())
    }
}
