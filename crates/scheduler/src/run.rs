//! The loop: watch, decide, bind.
//!
//! One task holds the queue and the cache and decides; each binding is a task of its own, so a slow API server holds up
//! neither the next decision nor the order of things.

mod observe;
mod write;

use std::sync::Arc;

use coracle_client::{EventRecorder, EventType, Informers, object_reference};
use kube::Client;
use serde_json::{Value, json};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::config::Configuration;
use crate::cycle::{FitError, Search, schedule};
use crate::explain::{Decisions, Outcome, Trace};
use crate::framework::{
    Assumption, ClusterEvent, Declined, Happening, Nomination, Object, Placement, Point, PostFilter, Unfit,
};
use crate::pod::PodInfo;
use crate::profile::{Profile, Profiles};
use crate::queue::{Queue, RefusedBy};
use crate::snapshot::Snapshot;
use crate::volumes::Volumes;
use write::{Bound, Done, bind, scheduled_condition};

/// What the scheduler can be told.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Profiles and their plugins.
    pub configuration: Configuration,
    /// Where traces of decisions are kept, if they are.
    pub decisions: Decisions,
}

/// Schedules pods until `shutdown`.
///
/// # Errors
/// The configuration makes no sense. What fails later is tried again.
pub async fn run(client: Client, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let profiles = Profiles(config.configuration.build()?);
    let informers = Informers::new(client.clone(), shutdown.clone());
    let volumes = Volumes::new(informers.get());
    let mut changes = observe::changes(&informers).await;

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

impl Scheduler {
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
        let mut status = scheduled_condition(&pod.pod, "SchedulerError", message);
        status["nominatedNodeName"] = Value::Null;
        self.patch_status(&pod, status);
        self.queue.failed(&pod.key, RefusedBy::new(), &self.profiles, coracle_clock::instant());
        // What it held is free again.
        let events = vec![ClusterEvent::AssignedPodDelete];
        self.happened(Happening { events, object: Object::Pod(Some(pod), None) });
    }
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
