//! The loop: watch, decide, bind.
//!
//! One task holds the queue and the cache and decides; each binding is a task of its own, so a slow API server holds up
//! neither the next decision nor the order of things.

use std::sync::Arc;

use coracle_client::scheduling::resources::Resources;
use coracle_client::{EventRecorder, EventType, Informers, ObjectKey, object_reference};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolumeClaim, Pod, Taint, Toleration};
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::config::Configuration;
use crate::cycle::{FitError, Search, schedule};
use crate::explain::{Decisions, Outcome, Trace};
use crate::framework::{
    Assumption, ClusterEvent, Declined, Happening, Nomination, Object, Placement, Point, PostFilter, Unfit, Work,
};
use crate::plugins::{PREEMPTED, is_for_extended};
use crate::pod::PodInfo;
use crate::profile::{Profile, Profiles};
use crate::queue::{Queue, RefusedBy};
use crate::snapshot::{Index, Listed, Snapshot};
use crate::volumes::Volumes;

/// What the scheduler can be told.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Profiles and their plugins.
    pub configuration: Configuration,
    /// Where traces of decisions are kept, if they are.
    pub decisions: Decisions,
}

/// An object's states before and after a change.
struct Delta<K> {
    old: Option<Arc<K>>,
    new: Option<Arc<K>>,
}

/// A change seen by an informer.
enum Change {
    Node(Delta<Node>),
    Pod(Delta<Pod>),
    Namespace(Delta<Namespace>),
    /// What is only listed: it knows itself where, and which event that is.
    Listed(SetListed),
}

type SetListed = Box<dyn FnOnce(&mut Snapshot) -> Option<Happening> + Send>;

/// How a binding ended.
struct Bound {
    placement: Placement,
    /// The claims of devices that were written on the way.
    result: anyhow::Result<Vec<Arc<ResourceClaim>>>,
}

/// What comes back from work at the API server.
enum Done {
    Bound(Box<Bound>),
    /// Room could not be made for this pod.
    Failed(ObjectKey),
    /// All victims but the last have been sent away for this pod.
    Evicted {
        preemptor: Arc<PodInfo>,
        last: Arc<PodInfo>,
    },
    Nothing,
}

/// Schedules pods until `shutdown`.
///
/// # Errors
/// The configuration makes no sense. What fails later is tried again.
pub async fn run(client: Client, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let profiles = Profiles(config.configuration.build()?);
    let informers = Informers::new(client.clone(), shutdown.clone());
    let (sender, mut changes) = mpsc::unbounded_channel();
    let (pods, nodes, namespaces) = (informers.get::<Pod>(), informers.get::<Node>(), informers.get::<Namespace>());
    let claims = informers.get::<PersistentVolumeClaim>();
    let volumes = Volumes::new(claims.clone());
    // Everything before pods, so that the first pods find somewhere to go.
    use ClusterEvent::*;
    listed(&informers, &sender, |s| &mut s.classes, Some((StorageClassAdd, StorageClassUpdate)), None).await;
    listed(&informers, &sender, |s| &mut s.volumes, Some((PersistentVolumeAdd, PersistentVolumeUpdate)), None).await;
    listed(&informers, &sender, |s| &mut s.csi_nodes, Some((CSINodeAdd, CSINodeUpdate)), None).await;
    listed(&informers, &sender, |s| &mut s.csi_drivers, Some((CSIDriverAdd, CSIDriverUpdate)), None).await;
    let capacity = Some((CSIStorageCapacityAdd, CSIStorageCapacityUpdate));
    listed(&informers, &sender, |s| &mut s.capacities, capacity, None).await;
    listed(&informers, &sender, |s| &mut s.attachments, None, Some(VolumeAttachmentDelete)).await;
    listed(&informers, &sender, |s| &mut s.budgets, None, None).await;
    listed(&informers, &sender, |s| &mut s.services, None, None).await;
    let slice = (ResourceSliceAdd, ResourceSliceUpdate);
    listed(&informers, &sender, |s| &mut s.resource_slices, Some(slice), None).await;
    listed(&informers, &sender, |s| &mut s.device_classes, Some((DeviceClassAdd, DeviceClassUpdate)), None).await;
    let devices = informers.get::<ResourceClaim>();
    devices.wait_for_sync().await;
    let tell = sender.clone();
    devices.on_change(move |change| {
        let (key, old, new) = (change.key(), change.old.cloned(), change.new.cloned());
        drop(tell.send(Change::Listed(Box::new(move |snapshot| {
            snapshot.resource_claims.set(key, new.clone());
            let event = match (&old, &new) {
                (_, None) => ResourceClaimDelete,
                (None, _) => ResourceClaimAdd,
                _ => ResourceClaimUpdate,
            };
            Some(Happening { events: vec![event], object: Object::ResourceClaim(old, new) })
        }))));
    });
    claims.wait_for_sync().await;
    let tell = sender.clone();
    claims.on_change(move |change| {
        let (key, old, new) = (change.key(), change.old.cloned(), change.new.cloned());
        drop(tell.send(Change::Listed(Box::new(move |snapshot| {
            snapshot.claims.set(key, new.clone());
            let event = if old.is_none() { PersistentVolumeClaimAdd } else { PersistentVolumeClaimUpdate };
            new.is_some().then(|| Happening { events: vec![event], object: Object::Claim(old, new) })
        }))));
    });
    namespaces.wait_for_sync().await;
    nodes.wait_for_sync().await;
    pods.wait_for_sync().await;
    let tell = sender.clone();
    namespaces
        .on_change(move |c| drop(tell.send(Change::Namespace(Delta { old: c.old.cloned(), new: c.new.cloned() }))));
    let tell = sender.clone();
    nodes.on_change(move |c| drop(tell.send(Change::Node(Delta { old: c.old.cloned(), new: c.new.cloned() }))));
    pods.on_change(move |c| drop(sender.send(Change::Pod(Delta { old: c.old.cloned(), new: c.new.cloned() }))));

    let names = config.configuration.scheduler_names();
    let recorder = EventRecorder::new(client.clone(), names.first().copied().unwrap_or_default(), None);
    let mut scheduler = Scheduler {
        client,
        queue: Queue::new(config.configuration.backoff()),
        decisions: config.decisions,
        profiles,
        recorder,
        volumes,
        cache: Cache::default(),
        search: Search { start: 0, tie_break: coracle_clock::random_below },
        work: JoinSet::new(),
    };
    loop {
        while let Ok(change) = changes.try_recv() {
            scheduler.observe(change);
        }
        if let Some((pod, attempt)) = scheduler.queue.pop(coracle_clock::instant()) {
            scheduler.schedule(pod, attempt);
            // Let watches and bindings go on between two decisions.
            tokio::task::yield_now().await;
            while let Some(done) = scheduler.work.try_join_next() {
                scheduler.finished(done);
            }
            continue;
        }
        let due = scheduler.queue.next_due();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            Some(change) = changes.recv() => scheduler.observe(change),
            Some(done) = scheduler.work.join_next() => scheduler.finished(done),
            () = coracle_clock::sleep_until(due.unwrap_or_else(coracle_clock::instant)), if due.is_some() => {}
        }
    }
}

/// Keeps a list of the snapshot current; its events are those of an object that comes or changes, and that goes.
async fn listed<K: coracle_client::Informable, I: Index<K> + 'static>(
    informers: &Informers,
    sender: &mpsc::UnboundedSender<Change>,
    list: fn(&mut Snapshot) -> &mut Listed<K, I>,
    set: Option<(ClusterEvent, ClusterEvent)>,
    gone: Option<ClusterEvent>,
) {
    let informer = informers.get::<K>();
    informer.wait_for_sync().await;
    let tell = sender.clone();
    informer.on_change(move |change| {
        let (key, new, is_new) = (change.key(), change.new.cloned(), change.old.is_none());
        drop(tell.send(Change::Listed(Box::new(move |snapshot| {
            let event = match &new {
                Some(_) => set.map(|(added, changed)| if is_new { added } else { changed }),
                None => gone,
            };
            list(snapshot).set(key, new);
            event.map(|event| Happening { events: vec![event], object: Object::Other })
        }))));
    });
}

struct Scheduler {
    client: Client,
    profiles: Profiles,
    decisions: Decisions,
    recorder: EventRecorder,
    volumes: Volumes,
    cache: Cache,
    queue: Queue,
    search: Search,
    work: JoinSet<Done>,
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

fn has_ended(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn scales_down(old: &Resources, new: &Resources) -> bool {
    old.iter().any(|(name, amount)| new.get(name) < amount)
}

impl Scheduler {
    fn observe(&mut self, change: Change) {
        match change {
            Change::Node(delta) => self.observe_node(delta),
            Change::Namespace(Delta { old, new }) => {
                let namespace =
                    new.as_ref().or(old.as_ref()).map(|namespace| namespace.metadata.clone()).unwrap_or_default();
                let (name, listed) = (namespace.name.unwrap_or_default(), &mut self.cache.listed().namespaces);
                match new {
                    Some(_) => drop(listed.insert(name, namespace.labels.unwrap_or_default())),
                    None => drop(listed.remove(&name)),
                }
            }
            Change::Pod(Delta { old, new }) => self.observe_pod(old, new),
            Change::Listed(set) => {
                if let Some(happening) = set(self.cache.listed()) {
                    self.happened(happening);
                }
            }
        }
    }

    fn happened(&mut self, happening: Happening) {
        for gated in self.queue.happened(happening, &self.profiles, coracle_clock::instant()) {
            self.enqueue(gated);
        }
    }

    fn observe_node(&mut self, Delta { old, new }: Delta<Node>) {
        let events = node_events(old.as_deref(), new.as_deref());
        match &new {
            Some(node) => self.cache.set_node(node.clone()),
            None => {
                let name = old.as_ref().and_then(|node| node.metadata.name.clone());
                self.cache.remove_node(&name.unwrap_or_default());
            }
        }
        // Heartbeats change nothing that a pod waits for.
        if !events.is_empty() {
            self.happened(Happening { events, object: Object::Node(old, new) });
        }
    }

    fn observe_pod(&mut self, old: Option<Arc<Pod>>, new: Option<Arc<Pod>>) {
        let Some(pod) = new.filter(|pod| !has_ended(pod)) else {
            return old.map_or((), |old| self.pod_gone(PodInfo::new(old)));
        };
        let Some(node) = node_of(&pod) else { return self.observe_pending(old, pod) };
        let info = Arc::new(PodInfo::new(pod.clone()));
        self.queue.remove(&info.key);
        self.cache.set_pod(info.clone(), node);
        let old = old.filter(|old| node_of(old).is_some());
        let same = old.as_ref().is_some_and(|old| old.spec == pod.spec && old.metadata.labels == pod.metadata.labels);
        if same {
            return;
        }
        let old = old.map(PodInfo::new);
        let mut events = Vec::new();
        match &old {
            None => events.push(ClusterEvent::AssignedPodAdd),
            Some(old) => {
                events.extend((old.labels() != info.labels()).then_some(ClusterEvent::AssignedPodLabelChange));
                let less = scales_down(&old.requests, &info.requests);
                events.extend(less.then_some(ClusterEvent::AssignedPodScaleDown));
            }
        }
        self.happened(Happening { events, object: Object::Pod(old.map(Arc::new), Some(info)) });
    }

    fn observe_pending(&mut self, old: Option<Arc<Pod>>, pod: Arc<Pod>) {
        let Some(profile) = self.profiles.of(&pod) else { return };
        let info = Arc::new(PodInfo::new(pod.clone()));
        if info.is_terminating() {
            self.cache.drop_nomination(&info.key);
            return self.queue.remove(&info.key);
        }
        if self.cache.assumes(&info.key) {
            return;
        }
        let had = old.as_ref().and_then(|old| old.status.as_ref()?.nominated_node_name.clone());
        match info.nominated_node() {
            Some(node) => self.cache.nominate(info.clone(), node),
            None if had.is_some() => self.cache.drop_nomination(&info.key),
            None => {}
        }
        match self.queue.gate(&info.key) {
            Some(None) => {
                let Some(old) = old else { return self.queue.renew(info) };
                let old = PodInfo::new(old);
                let events = own_events(&old, &info);
                // A status that we wrote ourselves is no reason to try again.
                if events.is_empty() {
                    return self.queue.renew(info);
                }
                let happening = Happening { events, object: Object::Pod(Some(Arc::new(old)), Some(info.clone())) };
                let rank = rank(profile, &info);
                self.queue.update(info, rank, &happening, &self.profiles, coracle_clock::instant());
            }
            _ => self.enqueue(info),
        }
    }

    /// Lets a new or gated pod in, unless a plugin keeps it out.
    fn enqueue(&mut self, pod: Arc<PodInfo>) {
        let Some(profile) = self.profiles.of(&pod.pod) else { return };
        let snapshot = self.cache.listed();
        let mut gates = profile.at(Point::PreEnqueue);
        let gate = gates.find_map(|plugin| Some((plugin.name(), plugin.pre_enqueue(&pod, snapshot).err()?)));
        drop(gates);
        let (by, name) = (gate.as_ref().map(|(plugin, _)| *plugin), profile.scheduler_name.clone());
        let known = self.queue.gate(&pod.key) == Some(by);
        self.queue.add(pod.clone(), rank(profile, &pod), by, coracle_clock::instant());
        if let Some((_, refusal)) = gate.filter(|_| !known) {
            self.gated(&pod, &name, refusal.message());
        }
    }

    fn gated(&mut self, pod: &Arc<PodInfo>, scheduler: &str, message: String) {
        if pod.spec().scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
            let text = "Scheduling is blocked due to non-empty scheduling gates".to_owned();
            self.patch_status(pod, scheduled_condition(&pod.pod, "SchedulingGated", text));
        }
        if self.decisions.is_on() {
            let trace = Trace { outcome: Outcome::Gated { message }, ..Trace::new(pod, scheduler, 0) };
            self.decisions.push(trace);
        }
    }

    fn pod_gone(&mut self, pod: PodInfo) {
        self.queue.remove(&pod.key);
        self.cache.drop_nomination(&pod.key);
        if self.cache.holds(&pod.key) {
            self.cache.remove_pod(&pod.key);
            let events = vec![ClusterEvent::AssignedPodDelete];
            self.happened(Happening { events, object: Object::Pod(Some(Arc::new(pod)), None) });
        }
    }

    fn schedule(&mut self, pod: Arc<PodInfo>, attempt: u32) {
        let Some(profile) = self.profiles.of(&pod.pod) else { return self.queue.remove(&pod.key) };
        let mut trace = self.decisions.is_on().then(|| Trace::new(&pod, &profile.scheduler_name, attempt));
        let snapshot = self.cache.snapshot();
        let decision = schedule(profile, &pod, snapshot, &mut self.search, trace.as_mut())
            .and_then(|node| Ok((reserve(profile, &pod, &node, snapshot)?, node)));
        match decision {
            Ok((assumed, node)) => {
                tracing::debug!(pod = %pod.key, node, "assumed");
                if let Some(trace) = &mut trace {
                    trace.outcome = Outcome::Scheduled { node: node.clone() };
                }
                let placement = Placement {
                    client: self.client.clone(),
                    recorder: self.recorder.clone(),
                    volumes: self.volumes.clone(),
                    pod: pod.clone(),
                    node: node.clone(),
                    assumed,
                };
                let work = bind(profile, placement.clone());
                self.cache.assume(pod, &node, placement.assumed);
                self.work.spawn(work);
            }
            Err(mut error) => {
                let outcome = post_filter(profile, &pod, snapshot, &error);
                if let Err(Declined { message, .. }) = &outcome {
                    error.post_filter = message.clone();
                }
                if let Some(trace) = &mut trace {
                    trace.outcome = unschedulable(profile, &error, &outcome);
                }
                self.refuse(&pod, &error, outcome);
            }
        }
        if let Some(trace) = trace {
            self.decisions.push(trace);
        }
    }

    /// Tells why the pod cannot run now, makes room if that helps, and puts it where events can find it.
    fn refuse(&mut self, pod: &Arc<PodInfo>, error: &FitError, outcome: PostFilter) {
        let message = error.message();
        tracing::debug!(pod = %pod.key, message, "unschedulable");
        self.tell_failure(pod, &message);
        let mut status = scheduled_condition(&pod.pod, "Unschedulable", message);
        let give_back = outcome.as_ref().err().and_then(|declined| declined.give_back.clone());
        match outcome {
            Ok(nomination) => {
                status["nominatedNodeName"] = nomination.node.clone().into();
                self.make_room(pod, nomination);
            }
            Err(Declined { gives_up: true, .. }) if pod.nominated_node().is_some() => {
                status["nominatedNodeName"] = Value::Null;
                self.cache.drop_nomination(&pod.key);
            }
            Err(_) => {}
        }
        if let Some(claim) = give_back {
            self.give_back(claim);
        }
        self.patch_status(pod, status);
        self.queue.failed(&pod.key, error.plugins(), &self.profiles, coracle_clock::instant());
    }

    /// Sends the victims away; less important pods for which room was made there look elsewhere.
    fn make_room(&mut self, pod: &Arc<PodInfo>, Nomination { node, victims }: Nomination) {
        let others = self.cache.listed().nominated.get(&node).into_iter().flat_map(|pods| pods.values());
        let others: Vec<_> = others.filter(|other| other.priority < pod.priority).cloned().collect();
        for other in others {
            self.cache.drop_nomination(&other.key);
            self.queue.activate(&other.key, coracle_clock::instant());
            self.patch_status(&other, json!({ "nominatedNodeName": null }));
        }
        self.cache.nominate(pod.clone(), &node);
        // One that goes already needs no telling.
        let mut victims: Vec<_> = victims.into_iter().filter(|victim| !victim.is_terminating()).collect();
        for victim in &victims {
            let note = format!("Preempted by pod {} on node {node}", pod.uid());
            self.recorder.event(&object_reference(victim.pod.as_ref()), EventType::Normal, "Preempted", note);
        }
        let Some(last) = victims.pop() else { return };
        if victims.is_empty() {
            let eviction = self.evict(pod, last);
            return drop(self.work.spawn(eviction));
        }
        // The pod has room only when all are gone; the last to go brings it back.
        self.queue.hold(&pod.key);
        let evictions: Vec<_> = victims.into_iter().map(|victim| self.evict(pod, victim)).collect();
        let preemptor = pod.clone();
        self.work.spawn(Box::pin(async move {
            let ended = futures::future::join_all(evictions).await;
            let failed = ended.into_iter().find(|done| matches!(done, Done::Failed(_)));
            failed.unwrap_or(Done::Evicted { preemptor, last })
        }));
    }

    /// Takes from a claim what was allocated for it; one that the scheduler made goes altogether.
    fn give_back(&mut self, claim: Arc<ResourceClaim>) {
        let key = ObjectKey::of(claim.as_ref());
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut idle = claim.as_ref().clone();
        idle.status = None;
        self.work.spawn(Box::pin(async move {
            let given_back = async {
                if !is_for_extended(&claim) {
                    return api.replace_status(&key.name, &PostParams::default(), &idle).await.map(drop);
                }
                let mut unprotected = claim.as_ref().clone();
                unprotected.metadata.finalizers = None;
                api.replace(&key.name, &PostParams::default(), &unprotected).await?;
                api.delete(&key.name, &DeleteParams::default()).await.map(drop)
            };
            if let Err(error) = given_back.await {
                tracing::debug!(claim = %key, %error, "claim not given back");
            }
            Done::Nothing
        }));
    }

    fn tell_failure(&self, pod: &PodInfo, message: &str) {
        // As long as upstream's event note may be.
        const LONGEST: usize = 1024;
        let text = match message.char_indices().nth(LONGEST) {
            None => message.to_owned(),
            Some(_) => message.chars().take(LONGEST - 4).chain(" ...".chars()).collect(),
        };
        let object = object_reference(pod.pod.as_ref());
        self.recorder.event(&object, EventType::Warning, "FailedScheduling", text);
    }

    fn finished(&mut self, done: Result<Done, JoinError>) {
        let done = done.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()));
        let Bound { placement, result } = match done {
            Done::Nothing => return,
            Done::Failed(key) => {
                self.queue.release(&key);
                return self.queue.activate(&key, coracle_clock::instant());
            }
            Done::Evicted { preemptor, last } => {
                self.queue.release(&preemptor.key);
                let eviction = self.evict(&preemptor, last);
                return drop(self.work.spawn(eviction));
            }
            Done::Bound(bound) => *bound,
        };
        // Another pod of the same name by now: what became of this one is no matter.
        if self.queue.uid(&placement.pod.key).is_some_and(|uid| uid != placement.pod.uid()) {
            return self.cache.confirm(&placement.assumed, Vec::new());
        }
        if result.is_ok()
            && let Some(profile) = self.profiles.of(&placement.pod.pod)
        {
            profile.at(Point::PostBind).for_each(|plugin| plugin.post_bind(&placement));
        }
        let Placement { pod, node, assumed, .. } = placement;
        let error = match result {
            Err(error) => error,
            Ok(written) => {
                let objects: Vec<_> =
                    written.iter().map(|claim| Object::ResourceClaim(None, Some(claim.clone()))).collect();
                self.cache.confirm(&assumed, written);
                // Others may wait for a claim that they share.
                for object in objects {
                    self.happened(Happening { events: vec![ClusterEvent::ResourceClaimUpdate], object });
                }
                self.queue.remove(&pod.key);
                let message = format!("Successfully assigned {} to {node}", pod.key);
                self.recorder.event(&object_reference(pod.pod.as_ref()), EventType::Normal, "Scheduled", message);
                return;
            }
        };
        self.cache.forget(&pod.key);
        let refused = error.downcast_ref::<kube::Error>().and_then(|error| match error {
            kube::Error::Api(status) => Some(status),
            _ => None,
        });
        if refused.is_some_and(|status| status.code == 404) {
            return self.queue.remove(&pod.key);
        }
        // Which plugin it was, and what the API server said to it.
        let message = refused.map_or_else(|| format!("{error:#}"), |status| format!("{error}: {}", status.message));
        tracing::debug!(pod = %pod.key, message, "binding failed");
        self.tell_failure(&pod, &message);
        self.patch_status(&pod, scheduled_condition(&pod.pod, "SchedulerError", message));
        self.queue.failed(&pod.key, RefusedBy::new(), &self.profiles, coracle_clock::instant());
        // What it held is free again.
        let events = vec![ClusterEvent::AssignedPodDelete];
        self.happened(Happening { events, object: Object::Pod(Some(pod), None) });
    }

    fn evict(&self, pod: &PodInfo, victim: Arc<PodInfo>) -> Work<Done> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &victim.key.namespace);
        let by = pod.spec().scheduler_name.clone().unwrap_or_default();
        let message = format!("{by}: preempting to accommodate a higher priority pod");
        let preemptor = pod.key.clone();
        Box::pin(async move {
            let status = json!({ "status": { "conditions": [{
                "type": "DisruptionTarget", "status": "True", "reason": PREEMPTED,
                "message": message, "lastTransitionTime": Time(coracle_clock::now_seconds()),
            }] } });
            let _ = api.patch_status(&victim.key.name, &PatchParams::default(), &Patch::Strategic(&status)).await;
            let same = Preconditions { uid: victim.pod.metadata.uid.clone(), ..Default::default() };
            let parameters = DeleteParams { preconditions: Some(same), ..Default::default() };
            match api.delete(&victim.key.name, &parameters).await {
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Done::Nothing,
                Err(error) => {
                    tracing::debug!(pod = %victim.key, %error, "victim not deleted");
                    Done::Failed(preemptor)
                }
                Ok(_) => Done::Nothing,
            }
        })
    }

    fn patch_status(&mut self, pod: &PodInfo, status: Value) {
        if says(&pod.pod, &status) {
            return;
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.key.namespace);
        let name = pod.key.name.clone();
        self.work.spawn(async move {
            let patch = json!({ "status": status });
            if let Err(error) = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
                tracing::debug!(name, %error, "status not written");
            }
            Done::Nothing
        });
    }
}

/// What upstream makes of a change of a node.
fn node_events(old: Option<&Node>, new: Option<&Node>) -> Vec<ClusterEvent> {
    let (Some(old), Some(new)) = (old, new) else {
        return vec![if new.is_some() { ClusterEvent::NodeAdd } else { ClusterEvent::NodeDelete }];
    };
    let offers = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    let taints =
        |node: &Node| -> (Vec<Taint>, bool) { (crate::node::taints(node).to_vec(), crate::node::is_cordoned(node)) };
    [
        (offers(old) != offers(new), ClusterEvent::NodeAllocatableChange),
        (old.metadata.labels != new.metadata.labels, ClusterEvent::NodeLabelChange),
        (taints(old) != taints(new), ClusterEvent::NodeTaintChange),
    ]
    .into_iter()
    .filter_map(|(changed, event)| changed.then_some(event))
    .collect()
}

/// What upstream makes of a change of a pending pod.
fn own_events(old: &PodInfo, new: &PodInfo) -> Vec<ClusterEvent> {
    let tolerations = |pod: &PodInfo| -> Vec<Toleration> { pod.tolerations().to_vec() };
    let claims = |pod: &PodInfo| pod.pod.status.as_ref().and_then(|status| status.resource_claim_statuses.clone());
    [
        (old.labels() != new.labels(), ClusterEvent::PodLabelChange),
        (scales_down(&old.requests, &new.requests), ClusterEvent::PodScaleDown),
        (tolerations(old) != tolerations(new), ClusterEvent::PodTolerationChange),
        (claims(old) != claims(new), ClusterEvent::PodGeneratedResourceClaimChange),
    ]
    .into_iter()
    .filter_map(|(changed, event)| changed.then_some(event))
    .collect()
}

/// QueueSort: higher goes first.
fn rank(profile: &Profile, pod: &PodInfo) -> i64 {
    profile.at(Point::QueueSort).map(|plugin| plugin.rank(pod)).next().unwrap_or_default()
}

/// Reserve: what all plugins will write for the pod on the node.
fn reserve(
    profile: &Profile,
    pod: &PodInfo,
    node: &str,
    snapshot: &Snapshot,
) -> Result<Vec<Assumption>, Box<FitError>> {
    let mut all = Vec::new();
    let Some(info) = snapshot.node(node) else { return Ok(all) };
    for plugin in profile.at(Point::Reserve) {
        all.extend(plugin.reserve(pod, info, snapshot).map_err(|refusal| FitError {
            nodes: snapshot.len(),
            before_nodes: Some(crate::cycle::Refused { plugin: plugin.name(), refusal }),
            ..Default::default()
        })?);
    }
    Ok(all)
}

/// PostFilter: the first plugin that makes room; or what all of them say.
fn post_filter(profile: &Profile, pod: &PodInfo, snapshot: &Snapshot, error: &FitError) -> PostFilter {
    let unfit = Unfit { profile, pod, snapshot, error, chance: coracle_clock::random_below };
    let mut said = Declined::default();
    if snapshot.is_empty() {
        return Err(said);
    }
    for plugin in profile.at(Point::PostFilter) {
        match plugin.post_filter(&unfit) {
            Ok(nomination) => return Ok(nomination),
            Err(declined) => {
                let separator = if said.message.is_empty() { "" } else { ", " };
                said.message = format!("{}{separator}{}", said.message, declined.message);
                said.gives_up |= declined.gives_up;
                said.give_back = said.give_back.or(declined.give_back);
            }
        }
    }
    Err(said)
}

/// What a trace says of a pod that must wait.
fn unschedulable(profile: &Profile, error: &FitError, outcome: &PostFilter) -> Outcome {
    let events = |plugin: &'static str| {
        let events = profile.plugin(plugin).map(|plugin| plugin.events()).unwrap_or_default();
        (plugin.to_owned(), events.iter().map(|event| format!("{event:?}")).collect())
    };
    let made = outcome.as_ref().ok();
    Outcome::Unschedulable {
        message: error.message(),
        unblocked_by: error.plugins().into_iter().map(events).collect(),
        nominated_node: made.map(|nomination| nomination.node.clone()),
        victims: made.iter().flat_map(|nomination| &nomination.victims).map(|victim| victim.key.to_string()).collect(),
    }
}

/// Permit, PreBind and Bind.
fn bind(profile: &Profile, placement: Placement) -> Work<Done> {
    let permits: Vec<_> = profile.at(Point::Permit).filter_map(|plugin| plugin.permit(&placement)).collect();
    let writes: Vec<_> =
        profile.at(Point::PreBind).filter_map(|plugin| Some((plugin.name(), plugin.pre_bind(&placement)?))).collect();
    let binding = profile.at(Point::Bind).find_map(|plugin| Some((plugin.name(), plugin.bind(&placement)?)));
    Box::pin(async move {
        let result = async {
            for permit in permits {
                permit.await.map_err(|refusal| anyhow::anyhow!(refusal.message()))?;
            }
            let mut written = Vec::new();
            for (plugin, write) in writes {
                let claims = write.await.map_err(|error| error.context(format!("running PreBind plugin {plugin:?}")));
                written.extend(claims?);
            }
            let Some((plugin, bind)) = binding else { anyhow::bail!("no plugin binds") };
            bind.await.map_err(|error| error.context(format!("running Bind plugin {plugin:?}")))?;
            Ok(written)
        };
        let result = result.await;
        Done::Bound(Box::new(Bound { placement, result }))
    })
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
    let nominated = status.get("nominatedNodeName");
    !status["conditions"].as_array().is_some_and(|conditions| conditions.iter().any(new))
        && nominated.is_none_or(|nominated| *nominated == said["nominatedNodeName"])
}
