//! The loop: watch, decide, bind.
//!
//! One task holds the queue and the cache and decides; bindings run beside it as futures of the same
//! task, so a slow API server holds up neither the next decision nor the order of things.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use coracle_client::{EventRecorder, EventType, Informers, ObjectKey, object_reference};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Binding, Namespace, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, PodInfo};
use crate::cycle::{FitError, schedule};
use crate::framework::{ClusterEvent, Profile};
use crate::plugins::{VolumeBinding, default_profile};
use crate::preemption::{Candidate, preempt};
use crate::queue::Queue;
use crate::volumes::Volumes;

/// What the scheduler can be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Only pods with this `spec.schedulerName` are ours.
    pub scheduler_name: String,
}

impl Default for Config {
    fn default() -> Self {
        Config { scheduler_name: "default-scheduler".into() }
    }
}

/// A change seen by an informer.
enum Change {
    Node { old: Option<Arc<Node>>, new: Option<Arc<Node>> },
    Pod { old: Option<Arc<Pod>>, new: Option<Arc<Pod>> },
    Namespace { old: Option<Arc<Namespace>>, new: Option<Arc<Namespace>> },
    Storage,
}

/// How a binding ended.
struct Bound {
    pod: Arc<PodInfo>,
    node: String,
    result: anyhow::Result<()>,
}

type Work = Pin<Box<dyn Future<Output = Option<Bound>> + Send>>;

/// Schedules pods until `shutdown`.
///
/// # Errors
/// None at present: what fails is tried again.
pub async fn run(client: Client, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let informers = Informers::new(client.clone(), shutdown.clone());
    let (sender, mut changes) = mpsc::unbounded_channel();
    let (pods, nodes, namespaces) = (informers.get::<Pod>(), informers.get::<Node>(), informers.get::<Namespace>());
    let volumes = Volumes::new(&informers);
    // Nodes before pods, so that the first pods find somewhere to go.
    nodes.wait_for_sync().await;
    namespaces.wait_for_sync().await;
    volumes.wait_for_sync().await;
    let tell = sender.clone();
    nodes.on_change(move |c| drop(tell.send(Change::Node { old: c.old.cloned(), new: c.new.cloned() })));
    let tell = sender.clone();
    namespaces.on_change(move |c| drop(tell.send(Change::Namespace { old: c.old.cloned(), new: c.new.cloned() })));
    pods.wait_for_sync().await;
    let tell = sender.clone();
    pods.on_change(move |c| drop(tell.send(Change::Pod { old: c.old.cloned(), new: c.new.cloned() })));
    let tell = sender.clone();
    volumes.claims.on_change(move |_| drop(tell.send(Change::Storage)));
    let tell = sender.clone();
    volumes.volumes.on_change(move |_| drop(tell.send(Change::Storage)));
    volumes.classes.on_change(move |_| drop(sender.send(Change::Storage)));

    let lookup = volumes.clone();
    let mut profile = default_profile();
    profile.plugins.push((Box::new(VolumeBinding { claims: Arc::new(move |key, owner| lookup.state(key, owner)) }), 0));
    let recorder = EventRecorder::new(client.clone(), &config.scheduler_name, None);
    let mut scheduler = Scheduler {
        client,
        config,
        profile,
        recorder,
        volumes,
        cache: Cache::default(),
        queue: Queue::default(),
        work: FuturesUnordered::new(),
    };
    loop {
        while let Ok(change) = changes.try_recv() {
            scheduler.observe(change);
        }
        if let Some(pod) = scheduler.queue.pop(coracle_clock::instant()) {
            scheduler.schedule(pod);
            // Let watches and bindings go on between two decisions.
            tokio::task::yield_now().await;
            while let Some(Some(done)) = futures::FutureExt::now_or_never(scheduler.work.next()) {
                scheduler.finished(done);
            }
            continue;
        }
        let due = scheduler.queue.next_due();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            Some(change) = changes.recv() => scheduler.observe(change),
            Some(done) = scheduler.work.next() => scheduler.finished(done),
            () = coracle_clock::sleep_until(due.unwrap_or_else(coracle_clock::instant)), if due.is_some() => {}
        }
    }
}

struct Scheduler {
    client: Client,
    config: Config,
    profile: Profile,
    recorder: EventRecorder,
    volumes: Volumes,
    cache: Cache,
    queue: Queue,
    work: FuturesUnordered<Work>,
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

fn has_ended(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

impl Scheduler {
    fn observe(&mut self, change: Change) {
        let now = coracle_clock::instant();
        match change {
            Change::Node { new: Some(node), old } => {
                let unchanged = old.is_some_and(|old| {
                    let offers = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
                    old.spec == node.spec
                        && old.metadata.labels == node.metadata.labels
                        && offers(&old) == offers(&node)
                });
                self.cache.set_node(node);
                // Heartbeats change nothing that a pod waits for.
                if !unchanged {
                    self.queue.happened(ClusterEvent::NodeChanged, now);
                }
            }
            Change::Node { old, new: None } => {
                self.cache.remove_node(old.and_then(|node| node.metadata.name.clone()).unwrap_or_default().as_str());
            }
            Change::Namespace { new: Some(namespace), .. } => {
                let labels = namespace.metadata.labels.clone().unwrap_or_default();
                self.cache.set_namespace(namespace.metadata.name.clone().unwrap_or_default(), labels);
            }
            Change::Namespace { old, new: None } => {
                let name = old.and_then(|namespace| namespace.metadata.name.clone());
                self.cache.remove_namespace(&name.unwrap_or_default());
            }
            Change::Pod { old, new } => self.observe_pod(old, new, now),
            Change::Storage => self.queue.happened(ClusterEvent::StorageChanged, now),
        }
    }

    fn observe_pod(&mut self, old: Option<Arc<Pod>>, new: Option<Arc<Pod>>, now: coracle_clock::Instant) {
        match new {
            Some(pod) if has_ended(&pod) => self.pod_gone(&ObjectKey::of(pod.as_ref()), now),
            Some(pod) => match node_of(&pod) {
                Some(node) => {
                    self.queue.remove(&ObjectKey::of(pod.as_ref()));
                    let newly = !old
                        .as_ref()
                        .is_some_and(|old| node_of(old).is_some() && old.metadata.labels == pod.metadata.labels);
                    self.cache.set_pod(pod.clone(), node);
                    if newly {
                        self.queue.happened(ClusterEvent::AssignedPodChanged, now);
                    }
                }
                None => self.observe_pending(old, pod, now),
            },
            None => {
                if let Some(old) = old {
                    self.pod_gone(&ObjectKey::of(old.as_ref()), now);
                }
            }
        }
    }

    fn observe_pending(&mut self, old: Option<Arc<Pod>>, pod: Arc<Pod>, now: coracle_clock::Instant) {
        let spec = pod.spec.as_ref();
        let ours = spec.and_then(|s| s.scheduler_name.as_deref()).unwrap_or("default-scheduler");
        if ours != self.config.scheduler_name {
            return;
        }
        let info = PodInfo::new(pod.clone());
        if pod.metadata.deletion_timestamp.is_some() {
            return self.queue.remove(&info.key);
        }
        // A status that we wrote ourselves is no reason to try again.
        let unchanged = old.is_some_and(|old| {
            old.spec == pod.spec && old.metadata.labels == pod.metadata.labels && old.metadata.uid == pod.metadata.uid
        });
        if unchanged {
            return self.queue.renew(Arc::new(info));
        }
        if self.cache.holds(&info.key) {
            return;
        }
        let gate = self.profile.plugins.iter().find_map(|(plugin, _)| plugin.pre_enqueue(&info).err());
        match gate {
            Some(message) => {
                self.queue.remove(&info.key);
                let condition = scheduled_condition(&pod, "SchedulingGated", message);
                self.patch_status(&info, condition);
            }
            None => self.queue.set(Arc::new(info), now),
        }
    }

    fn pod_gone(&mut self, key: &ObjectKey, now: coracle_clock::Instant) {
        self.queue.remove(key);
        if self.cache.holds(key) {
            self.cache.remove_pod(key);
            self.queue.happened(ClusterEvent::AssignedPodRemoved, now);
        }
    }

    fn schedule(&mut self, pod: Arc<PodInfo>) {
        let snapshot = self.cache.snapshot();
        match schedule(&self.profile, &pod, &snapshot, coracle_clock::random_below) {
            Ok(node) => {
                tracing::debug!(pod = %pod.key, node, "assumed");
                self.cache.assume(&pod, &node);
                self.work.push(self.bind(pod, node));
            }
            Err(error) => {
                let outcome = preempt(&self.profile, &pod, &snapshot, &error);
                self.refuse(&pod, &error, outcome);
            }
        }
    }

    /// Tells why the pod cannot run now, makes room if that helps, and puts it where events can find it.
    fn refuse(&mut self, pod: &Arc<PodInfo>, error: &FitError, outcome: Result<Candidate, String>) {
        let why_not = outcome.as_ref().err().cloned().unwrap_or_default();
        let message = match why_not.as_str() {
            "" => error.message(),
            why_not => format!("{} no new claims to deallocate, {why_not}", error.message()),
        };
        tracing::debug!(pod = %pod.key, message, "unschedulable");
        self.recorder.event(
            &object_reference(pod.pod.as_ref()),
            EventType::Warning,
            "FailedScheduling",
            message.clone(),
        );
        let mut status = scheduled_condition(&pod.pod, "Unschedulable", message);
        if let Ok(candidate) = outcome {
            status["nominatedNodeName"] = candidate.node.clone().into();
            for victim in &candidate.victims {
                let note = format!("Preempted by pod {} on node {}", pod.uid(), candidate.node);
                self.recorder.event(&object_reference(victim.pod.as_ref()), EventType::Normal, "Preempted", note);
                self.work.push(self.evict(victim.clone()));
            }
        }
        self.patch_status(pod, status);
        let plugins = error.plugins();
        let refused = self.profile.plugins.iter().filter(|(plugin, _)| plugins.contains(plugin.name()));
        let mut events: Vec<_> = refused.flat_map(|(plugin, _)| plugin.unblocked_by()).copied().collect();
        if events.is_empty() {
            // No plugin refused: there are no nodes.
            events.push(ClusterEvent::NodeChanged);
        }
        self.queue.failed(&pod.key, events, coracle_clock::instant());
    }

    fn bind(&self, pod: Arc<PodInfo>, node: String) -> Work {
        let (client, volumes) = (self.client.clone(), self.volumes.clone());
        Box::pin(async move {
            let result = async {
                volumes.bind(&client, &pod, &node).await?;
                let binding = Binding {
                    metadata: ObjectMeta {
                        name: Some(pod.key.name.clone()),
                        namespace: Some(pod.key.namespace.clone()),
                        uid: pod.pod.metadata.uid.clone(),
                        ..Default::default()
                    },
                    target: ObjectReference {
                        kind: Some("Node".into()),
                        name: Some(node.clone()),
                        ..Default::default()
                    },
                };
                let api: Api<Pod> = Api::namespaced(client, &pod.key.namespace);
                let _: Value =
                    api.create_subresource("binding", &pod.key.name, &PostParams::default(), &binding).await?;
                anyhow::Ok(())
            };
            let result = result.await;
            Some(Bound { pod, node, result })
        })
    }

    fn finished(&mut self, done: Option<Bound>) {
        let Some(Bound { pod, node, result }) = done else { return };
        let object = object_reference(pod.pod.as_ref());
        match result {
            Ok(()) => {
                self.queue.remove(&pod.key);
                let message = format!("Successfully assigned {} to {node}", pod.key);
                self.recorder.event(&object, EventType::Normal, "Scheduled", message);
            }
            Err(error) => {
                self.cache.forget(&pod.key);
                let gone = error
                    .downcast_ref::<kube::Error>()
                    .is_some_and(|e| matches!(e, kube::Error::Api(status) if status.code == 404));
                if gone {
                    return self.queue.remove(&pod.key);
                }
                tracing::debug!(pod = %pod.key, %error, "binding failed");
                let message = format!("binding rejected: {error}");
                self.recorder.event(&object, EventType::Warning, "FailedScheduling", message);
                self.queue.failed(&pod.key, Vec::new(), coracle_clock::instant());
            }
        }
    }

    fn evict(&self, victim: Arc<PodInfo>) -> Work {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &victim.key.namespace);
        let message = format!("{}: preempting to accommodate a higher priority pod", self.config.scheduler_name);
        Box::pin(async move {
            let status = json!({ "status": { "conditions": [{
                "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
                "message": message, "lastTransitionTime": Time(coracle_clock::now_seconds()),
            }] } });
            let _ = api.patch_status(&victim.key.name, &PatchParams::default(), &Patch::Strategic(&status)).await;
            let same = Preconditions { uid: victim.pod.metadata.uid.clone(), ..Default::default() };
            let parameters = DeleteParams { preconditions: Some(same), ..Default::default() };
            if let Err(error) = api.delete(&victim.key.name, &parameters).await {
                tracing::debug!(pod = %victim.key, %error, "victim not deleted");
            }
            None
        })
    }

    fn patch_status(&self, pod: &PodInfo, status: Value) {
        if says(&pod.pod, &status) {
            return;
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.key.namespace);
        let name = pod.key.name.clone();
        self.work.push(Box::pin(async move {
            let patch = json!({ "status": status });
            if let Err(error) = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
                tracing::debug!(name, %error, "status not written");
            }
            None
        }));
    }
}

/// The status part that says why a pod is not scheduled. The time of transition stays if only the words change.
fn scheduled_condition(pod: &Pod, reason: &str, message: String) -> Value {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let since = conditions
        .filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
        .find_map(|condition| condition.last_transition_time.clone())
        .unwrap_or_else(|| Time(coracle_clock::now_seconds()));
    json!({ "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": reason, "message": message, "lastTransitionTime": since,
    }] })
}

/// Whether the pod's status says so already.
fn says(pod: &Pod, status: &Value) -> bool {
    let said = serde_json::to_value(&pod.status).unwrap_or_default();
    let new = |condition: &Value| !said["conditions"].as_array().is_some_and(|all| all.contains(condition));
    let nominated = &status["nominatedNodeName"];
    !status["conditions"].as_array().is_some_and(|conditions| conditions.iter().any(new))
        && (nominated.is_null() || *nominated == said["nominatedNodeName"])
}
