//! Pod workers: one task for each pod, which makes the runtime agree with the pod and the API server agree with the
//! runtime.
//!
//! ```text
//!           ┌──────────── new spec, runtime event, probe, timer ───────────┐
//!           ▼                                                              │
//! observe ─► plan ─► act (sandbox, volumes, images, containers) ─► status ─┘       syncing
//!           │ deleted, finished or failed
//!           ▼
//! preStop, stop all, sidecars last ─► last status                                  terminating
//!           ▼
//! delete the API object, remove containers and files                              terminated
//! ```
//!
//! Everything about one pod happens in its task, in order; nothing is lost when a sync is abandoned half way because
//! the pod is being deleted, for the next step begins by looking.

mod observe;
mod report;
mod start;
mod sync;
mod terminate;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coracle_client::EventType;
use coracle_clock::watch;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus, Secret};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::backoff::Backoff;
use crate::objects::Watch;
use crate::observed::ObservedPod;
use crate::probes::ProbeReport;
use crate::shared::Shared;
use crate::status::{PodFailure, WaitingReason};
use crate::verdicts::{Verdict, Verdicts};
use crate::volumes::TokenKey;

/// How often a pod is looked at when nothing happens: whatever can happen wakes its worker.
const RESYNC: Duration = Duration::from_secs(300);
/// After a failure of the runtime or the API server.
const RETRY: Duration = Duration::from_secs(2);

/// What a worker is told of its pod.
#[derive(Clone, Debug)]
pub(crate) struct PodUpdate {
    pub(crate) pod: Arc<Pod>,
    /// The API server no longer has it.
    pub(crate) gone: bool,
    /// It is to make room for another; cancelled when nothing of it runs any more.
    pub(crate) preempted: Option<CancellationToken>,
}

/// Wakes a worker from outside.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// Something is to be looked at.
    wake: Arc<Notify>,
    /// The runtime may show something else than when last asked.
    runtime_changed: AtomicBool,
    /// An object that the pod refers to has changed.
    objects_changed: Arc<Notify>,
    verdicts: Mutex<Verdicts>,
}

impl Signals {
    /// Something happened to the pod's containers.
    pub(crate) fn runtime_changed(&self) {
        self.runtime_changed.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }

    fn verdicts(&self) -> Verdicts {
        self.verdicts.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// How a worker is reached.
pub(crate) struct WorkerHandle {
    pub(crate) updates: watch::Sender<PodUpdate>,
    pub(crate) signals: Arc<Signals>,
    /// The node did not take the pod, or no longer wants it: there is no room for it to count.
    pub(crate) rejected: bool,
    pub(crate) _task: AbortOnDropHandle<()>,
}

/// A service account token in a volume.
struct Token {
    value: String,
    refresh_at: Timestamp,
}

/// Where the pod is in its life, as far as the worker is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Syncing,
    /// Everything is to be stopped.
    Terminating,
    /// Nothing runs any more; what is left is waiting for the object's deletion.
    Terminated,
}

pub(crate) struct PodWorker {
    shared: Arc<Shared>,
    signals: Arc<Signals>,
    updates: watch::Receiver<PodUpdate>,
    /// Where the end of the worker is announced.
    done: mpsc::UnboundedSender<String>,
    uid: String,
    pod: Arc<Pod>,
    gone: bool,
    /// Its object was deleted for good; what is left is to hear so.
    deleted: bool,
    stage: Stage,
    observed: ObservedPod,
    /// The status last sent, or seen since.
    status: PodStatus,
    /// The pod's version that holds the status last sent: older ones say nothing new.
    sent: u64,
    /// What the kubelet has failed the pod for.
    failure: Option<PodFailure>,
    waiting: BTreeMap<String, WaitingReason>,
    backoff: Backoff,
    /// The waits that were announced by an event.
    announced: BTreeMap<String, Timestamp>,
    restarting: BTreeSet<String>,
    probes: BTreeMap<String, AbortOnDropHandle<()>>,
    ip: Option<IpAddr>,
    volumes: Option<BTreeMap<String, PathBuf>>,
    volumes_stale: bool,
    volume_failures: u32,
    config_maps: BTreeMap<String, Watch<ConfigMap>>,
    secrets: BTreeMap<String, Watch<Secret>>,
    tokens: BTreeMap<TokenKey, Token>,
    wake_at: Option<Timestamp>,
}

/// Starts the worker of a pod. `fresh` says that the runtime cannot know the pod yet, `rejection` why it is to end
/// before it begins, `after` what it waits for.
pub(crate) fn start(
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    fresh: bool,
    rejection: Option<PodFailure>,
    after: Vec<CancellationToken>,
    done: mpsc::UnboundedSender<String>,
) -> WorkerHandle {
    let rejected = rejection.is_some();
    let signals = Arc::new(Signals { runtime_changed: AtomicBool::new(!fresh), ..Signals::default() });
    let (updates, receiver) = watch::channel(PodUpdate { pod: pod.clone(), gone: false, preempted: None });
    let worker = PodWorker {
        shared,
        signals: signals.clone(),
        updates: receiver,
        done,
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        status: pod.status.clone().unwrap_or_default(),
        sent: 0,
        pod,
        gone: false,
        deleted: false,
        stage: if rejection.is_some() { Stage::Terminating } else { Stage::Syncing },
        observed: ObservedPod::default(),
        failure: rejection,
        waiting: BTreeMap::new(),
        backoff: Backoff::default(),
        announced: BTreeMap::new(),
        restarting: BTreeSet::new(),
        probes: BTreeMap::new(),
        ip: None,
        volumes: None,
        volumes_stale: false,
        volume_failures: 0,
        config_maps: BTreeMap::new(),
        secrets: BTreeMap::new(),
        tokens: BTreeMap::new(),
        wake_at: None,
    };
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        for room in &after {
            room.cancelled().await;
        }
        worker.run().await;
    }));
    WorkerHandle { updates, signals, rejected, _task: task }
}

impl PodWorker {
    async fn run(mut self) {
        loop {
            self.take_update();
            self.wake_at = None;
            let acted_on = self.stage;
            match acted_on {
                Stage::Syncing => {
                    let mut updates = self.updates.clone();
                    tokio::select! {
                        biased;
                        () = must_stop(&mut updates) => {}
                        result = self.sync() => {
                            if let Err(why) = result {
                                tracing::debug!(pod = self.name(), why, "sync failed; trying again");
                                self.wake_after(RETRY);
                            }
                        }
                    }
                    self.take_update();
                }
                Stage::Terminating => {
                    if let Err(why) = self.terminate().await {
                        tracing::debug!(pod = self.name(), why, "termination failed; trying again");
                        self.wake_after(RETRY);
                    }
                }
                Stage::Terminated => {
                    if let Some(room) = &self.updates.borrow().preempted {
                        room.cancel();
                    }
                    match self.clean_up().await {
                        Ok(true) => break,
                        Ok(false) => {}
                        Err(why) => {
                            tracing::debug!(pod = self.name(), why, "clean-up failed; trying again");
                            self.wake_after(RETRY);
                        }
                    }
                }
            }
            if self.next_stage() == acted_on {
                self.rest().await;
            }
        }
        // The receiver is gone only when the kubelet itself is.
        let _ = self.done.send(self.uid);
    }

    fn name(&self) -> String {
        crate::text::pod_in_messages(&self.pod)
    }

    fn take_update(&mut self) {
        let update = self.updates.borrow_and_update().clone();
        if !Arc::ptr_eq(&update.pod, &self.pod) {
            let described = |pod: &Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
            self.volumes_stale |= described(&update.pod) != described(&self.pod);
            // What others have written is put right, but for an end that somebody decreed.
            if version(&update.pod) >= self.sent && !self.finished() {
                self.status = update.pod.status.clone().unwrap_or_default();
            }
        }
        self.pod = update.pod;
        self.gone = update.gone;
        if update.preempted.is_some() && !self.finished() {
            self.failure = Some(PodFailure::preempted(coracle_clock::now()));
        }
    }

    fn deleting(&self) -> bool {
        self.gone || self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Whether the pod has ended by itself.
    fn finished(&self) -> bool {
        self.failure.is_some() || is_over(&self.status)
    }

    fn next_stage(&mut self) -> Stage {
        if self.stage == Stage::Syncing && (self.deleting() || self.finished()) {
            self.stage = Stage::Terminating;
        }
        self.stage
    }

    /// Waits until there is something to look at.
    async fn rest(&mut self) {
        let now = coracle_clock::now();
        let until_wake = |at: Timestamp| Duration::try_from(at.duration_since(now)).unwrap_or_default();
        let resync = self.shared.config.again(RESYNC);
        let pause = self.wake_at.map_or(resync, |at| until_wake(at).min(resync));
        let end = coracle_clock::instant() + pause;
        let signals = self.signals.clone();
        loop {
            tokio::select! {
                biased;
                changed = self.updates.changed() => {
                    if changed.is_err() {
                        // The kubelet is going away; so does this task, which it owns.
                        std::future::pending::<()>().await;
                    }
                    if self.only_hears_itself() {
                        self.take_update();
                        continue;
                    }
                }
                () = signals.wake.notified() => {}
                () = signals.objects_changed.notified() => self.volumes_stale = true,
                () = coracle_clock::sleep_until(end) => {}
            }
            return;
        }
    }

    /// Whether the newest update tells nothing but the status last sent.
    fn only_hears_itself(&self) -> bool {
        let update = self.updates.borrow();
        let PodUpdate { pod, gone: false, preempted: None } = &*update else { return false };
        let (new, old) = (&pod.metadata, &self.pod.metadata);
        new.deletion_timestamp == old.deletion_timestamp
            && new.labels == old.labels
            && new.annotations == old.annotations
            && pod.spec == self.pod.spec
            && pod.status.as_ref() == Some(&self.status)
    }

    fn wake_after(&mut self, delay: Duration) {
        self.wake_by(coracle_clock::now() + delay);
    }

    fn wake_by(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// The version of a pod's object, as a number.
fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_ref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

fn is_over(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// Resolves when the pod is being deleted, is to make room, or was declared to be over.
async fn must_stop(updates: &mut watch::Receiver<PodUpdate>) {
    let stop = |update: &PodUpdate| {
        let PodUpdate { pod, gone, preempted } = update;
        *gone
            || preempted.is_some()
            || pod.metadata.deletion_timestamp.is_some()
            || pod.status.as_ref().is_some_and(is_over)
    };
    if updates.wait_for(stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Takes the findings of a pod's probes to its worker.
struct Report {
    shared: Arc<Shared>,
    signals: Arc<Signals>,
    pod: Arc<Pod>,
}

impl ProbeReport for Report {
    fn verdict(&self, container_id: &str, verdict: Verdict) {
        let mut verdicts = self.signals.verdicts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        verdicts.0.insert(container_id.to_owned(), verdict);
        drop(verdicts);
        self.signals.wake.notify_one();
    }

    fn unhealthy(&self, container: &str, message: String) {
        self.shared.container_event(&self.pod, container, EventType::Warning, "Unhealthy", message);
    }
}
