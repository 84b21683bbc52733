//! The kubelet itself: registers the node, keeps its lease, and has a worker for each pod bound to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coracle_client::{EventRecorder, EventType, Informable, Informer};
use coracle_clock::watch;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admission::{NODE_AFFINITY, admit};
use crate::config::Config;
use crate::images::ImageManager;
use crate::ips::IpPool;
use crate::lookup::Lookup;
use crate::node;
use crate::objects::ObjectCache;
use crate::pod_worker::{self, PodUpdate, WorkerHandle};
use crate::probes::{NetworkProber, Prober};
use crate::runtime::{ContainerFilter, Runtime, RuntimeError, SandboxFilter};
use crate::server::{Routes, Server, ServerCertificate};
use crate::shared::Shared;
use crate::status::{PREEMPTED, PodFailure};
use crate::volumes::tear_down;

/// How often a silent engine is asked whether it is still there.
const RUNTIME_CHECK: Duration = Duration::from_secs(10);
/// How often an engine that is down is asked whether it is back.
const RUNTIME_RETRY: Duration = Duration::from_secs(1);
/// How often the runtime is asked for all that it has, against events that were lost.
const RELIST: Duration = Duration::from_secs(60);

/// One node's agent.
pub struct Kubelet {
    shared: Arc<Shared>,
    pods: Informer<Pod>,
    node: Informer<Node>,
}

/// What the manager hears of.
enum Message {
    /// A pod of this node appeared, changed or went.
    Pod { old: Option<Arc<Pod>>, new: Option<Arc<Pod>> },
    /// Something happened to a container of the pod with this uid.
    Runtime(String),
    /// The engine answers (again), and events may have been missed.
    RuntimeUp,
}

impl Kubelet {
    /// A kubelet for one node. It does nothing until [`Kubelet::run`]. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The configuration makes no sense.
    pub fn new(client: Client, runtime: Arc<dyn Runtime>, config: Config) -> anyhow::Result<Kubelet> {
        let prober = Arc::new(NetworkProber::new(runtime.clone()));
        Kubelet::with_prober(client, runtime, prober, config)
    }

    /// As [`Kubelet::new`], with another way to probe containers.
    ///
    /// # Errors
    /// The configuration makes no sense.
    pub fn with_prober(
        client: Client,
        runtime: Arc<dyn Runtime>,
        prober: Arc<dyn Prober>,
        config: Config,
    ) -> anyhow::Result<Kubelet> {
        let only_mine = config.watching().fields(&format!("spec.nodeName={}", config.node_name));
        let pods = Informer::new(Api::all(client.clone()), only_mine);
        let only_me = config.watching().fields(&format!("metadata.name={}", config.node_name));
        let node = Informer::new(Api::all(client.clone()), only_me);
        let shared = Arc::new(Shared {
            recorder: EventRecorder::new(client.clone(), "kubelet", Some(&config.node_name)),
            images: ImageManager::new(runtime.clone()),
            config_maps: ObjectCache::new(client.clone(), config.watching()),
            secrets: ObjectCache::new(client.clone(), config.watching()),
            services: Informer::new(Api::<Service>::all(client.clone()), config.watching()),
            ips: IpPool::new(&config.pod_cidr)?,
            node: watch::Sender::new(None),
            machine: watch::Sender::new(None),
            config,
            client,
            runtime,
            prober,
        });
        Ok(Kubelet { shared, pods, node })
    }

    /// How the kubelet's server finds pods and containers.
    pub fn lookup(&self) -> Arc<Lookup> {
        Arc::new(Lookup::new(self.shared.clone(), self.pods.clone()))
    }

    /// The kubelet's HTTPS server, to be served on [`Config::port`] of the node's address.
    pub fn server(&self, certificate: ServerCertificate) -> Server {
        Server { certificate, routes: self.routes() }
    }

    /// What that server answers, for an API server in the same process.
    pub fn routes(&self) -> Routes {
        Routes {
            node: self.shared.config.node_name.clone(),
            pods: self.lookup(),
            runtime: self.shared.runtime.clone(),
            client: self.shared.client.clone(),
            meter: Arc::default(),
        }
    }

    /// Runs until `shutdown`. Containers are left running: the next kubelet of this node adopts them.
    ///
    /// # Errors
    /// None at present; what fails is tried again.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let (sender, mut messages) = mpsc::unbounded_channel();
        let of_pods = sender.clone();
        self.pods.on_change(move |change| {
            let message = Message::Pod { old: change.old.cloned(), new: change.new.cloned() };
            // The manager outlives the informer.
            let _ = of_pods.send(message);
        });
        let shared = self.shared.clone();
        self.node.on_change(move |change| {
            let offers = |node: &&Arc<Node>| node.status.as_ref().is_some_and(|status| status.allocatable.is_some());
            if let Some(node) = change.new.filter(offers) {
                shared.node.send_replace(Some(node.clone()));
            }
        });
        let (pods, node) = (self.pods.clone(), self.node.clone());
        let services = self.shared.services.clone();
        let manager = async {
            // Without what already runs, addresses would be given twice; without services, their variables be missing.
            self.shared.services.wait_for_sync().await;
            self.pods.wait_for_sync().await;
            // Nor is it known before then which pods there is room for.
            let _ = self.shared.node.subscribe().wait_for(Option::is_some).await;
            while self.reserve_addresses().await.is_err() {
                coracle_clock::sleep(RUNTIME_RETRY).await;
            }
            PodManager::new(self.shared.clone(), self.pods.clone()).run(&mut messages).await;
        };
        // Each a task, so that what wakes one of them does not wake all; they end with this one.
        let mut parts = JoinSet::new();
        keep(&mut parts, pods, &shutdown);
        keep(&mut parts, node.clone(), &shutdown);
        keep(&mut parts, services, &shutdown);
        parts.spawn(node::keep_status(self.shared.clone(), node));
        parts.spawn(node::keep_lease(self.shared.clone()));
        parts.spawn(watch_runtime(self.shared.clone(), sender));
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            Some(ended) = parts.join_next() => ended?,
            () = manager => {}
        }
        Ok(())
    }

    async fn reserve_addresses(&self) -> Result<(), RuntimeError> {
        let sandboxes = self.shared.runtime.list_sandboxes(&SandboxFilter::default()).await?;
        sandboxes.iter().filter_map(|sandbox| sandbox.ip).for_each(|ip| self.shared.ips.reserve(ip));
        Ok(())
    }
}

fn keep<K: Informable>(parts: &mut JoinSet<()>, informer: Informer<K>, shutdown: &CancellationToken) {
    let shutdown = shutdown.clone();
    parts.spawn(async move { informer.run(shutdown).await });
}

/// Asks the runtime who it is, and passes on what happens there, as long as it answers; then begins anew.
async fn watch_runtime(shared: Arc<Shared>, sender: mpsc::UnboundedSender<Message>) {
    loop {
        let up = shared.runtime.version().await.ok();
        let is_up = up.is_some();
        shared.machine.send_if_modified(|machine| {
            let changed = *machine != up;
            *machine = up;
            changed
        });
        if is_up && let Ok(mut events) = shared.runtime.events().await {
            let _ = sender.send(Message::RuntimeUp);
            loop {
                tokio::select! {
                    biased;
                    event = events.next() => match event {
                        Some(Ok(event)) => {
                            let _ = sender.send(Message::Runtime(event.pod.uid));
                        }
                        Some(Err(_)) | None => break,
                    },
                    () = coracle_clock::sleep(shared.config.again(RUNTIME_CHECK)) => {
                        if shared.runtime.version().await.is_err() {
                            break;
                        }
                    }
                }
            }
            continue;
        }
        coracle_clock::sleep(RUNTIME_RETRY).await;
    }
}

/// Gives each pod its worker.
struct PodManager {
    shared: Arc<Shared>,
    pods: Informer<Pod>,
    workers: BTreeMap<String, WorkerHandle>,
    /// What the runtime showed of each pod when it was last asked for all.
    listed: BTreeMap<String, BTreeSet<String>>,
    done: mpsc::UnboundedSender<String>,
    finished: mpsc::UnboundedReceiver<String>,
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

/// Tells a worker something new.
fn change(worker: &WorkerHandle, change: impl FnOnce(&mut PodUpdate)) {
    worker.updates.send_if_modified(|update| {
        change(update);
        true
    });
}

impl PodManager {
    fn new(shared: Arc<Shared>, pods: Informer<Pod>) -> PodManager {
        let (done, finished) = mpsc::unbounded_channel();
        PodManager { shared, pods, workers: BTreeMap::new(), listed: BTreeMap::new(), done, finished }
    }

    async fn run(mut self, messages: &mut mpsc::UnboundedReceiver<Message>) {
        // Of the pods that were here before, the oldest are let in first.
        let mut present: Vec<_> = std::iter::from_fn(|| messages.try_recv().ok()).collect();
        present.sort_by_key(|message| match message {
            Message::Pod { old: None, new: Some(pod) } => (false, pod.metadata.creation_timestamp.clone()),
            _ => (true, None),
        });
        for message in present {
            self.handle(message).await;
        }
        let every = self.shared.config.again(RELIST);
        let mut relist = coracle_clock::instant() + every;
        loop {
            tokio::select! {
                biased;
                Some(uid) = self.finished.recv() => drop(self.workers.remove(&uid)),
                message = messages.recv() => match message {
                    Some(message) => self.handle(message).await,
                    None => return,
                },
                () = coracle_clock::sleep_until(relist) => {
                    if let Err(error) = self.relist().await {
                        tracing::debug!(%error, "the runtime does not list what it has");
                    }
                    relist = coracle_clock::instant() + every;
                }
            }
        }
    }

    /// Asks the runtime for all it has, and tells the workers of those pods of which it shows something else than
    /// the last time: an event may have been lost.
    async fn relist(&mut self) -> Result<(), RuntimeError> {
        let runtime = &self.shared.runtime;
        let (sandboxes, containers) = futures::future::try_join(
            runtime.list_sandboxes(&SandboxFilter::default()),
            runtime.list_containers(&ContainerFilter::default()),
        )
        .await?;
        let mut listed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for sandbox in sandboxes {
            listed.entry(sandbox.pod.uid).or_default().insert(format!("{} {:?}", sandbox.id, sandbox.state));
        }
        for container in containers {
            listed.entry(container.pod.uid).or_default().insert(format!("{} {:?}", container.id, container.state));
        }
        for (uid, worker) in &self.workers {
            if listed.get(uid) != self.listed.get(uid) {
                worker.signals.runtime_changed();
            }
        }
        self.listed = listed;
        Ok(())
    }

    async fn handle(&mut self, message: Message) {
        match message {
            Message::Pod { old, new } => self.pod_changed(old, new).await,
            Message::Runtime(uid) => {
                if let Some(worker) = self.workers.get(&uid) {
                    worker.signals.runtime_changed();
                }
            }
            Message::RuntimeUp => {
                self.workers.values().for_each(|worker| worker.signals.runtime_changed());
                if let Err(error) = self.remove_orphans().await {
                    tracing::debug!(%error, "orphaned containers not removed");
                }
            }
        }
    }

    async fn pod_changed(&mut self, old: Option<Arc<Pod>>, new: Option<Arc<Pod>>) {
        let replaced = |old: &Arc<Pod>| new.as_ref().is_none_or(|new| uid(new) != uid(old));
        if let Some(old) = old.filter(replaced)
            && let Some(worker) = self.workers.get(&uid(&old))
        {
            change(worker, |update| (update.pod, update.gone) = (old, true));
        }
        let Some(new) = new else { return };
        match self.workers.get(&uid(&new)) {
            Some(worker) => {
                change(worker, |update| update.pod = new);
            }
            None => {
                // The first thing a kubelet does about a pod is to say when; before that, nothing of it can run.
                let fresh = new.status.as_ref().is_none_or(|status| status.start_time.is_none());
                let admitted = self.admit(&new).await;
                let (victims, rejection) = admitted.map_or_else(|failure| (vec![], Some(failure)), |pods| (pods, None));
                let room = victims.iter().filter_map(|victim| self.preempt(victim)).collect();
                let (shared, done) = (self.shared.clone(), self.done.clone());
                let worker = pod_worker::start(shared, new.clone(), fresh, rejection, room, done);
                self.workers.insert(uid(&new), worker);
            }
        }
    }

    /// Ends a pod for the sake of another. What is returned is cancelled when nothing of it runs any more.
    fn preempt(&mut self, victim: &Pod) -> Option<CancellationToken> {
        let worker = self.workers.get_mut(&uid(victim))?;
        worker.rejected = true;
        self.shared.pod_event(victim, EventType::Warning, "Preempting", PREEMPTED);
        let room = CancellationToken::new();
        change(worker, |update| update.preempted = Some(room.clone()));
        Some(room)
    }

    /// Which pods have to go for this one; why the node does not take it, if it does not. What is over or ending needs no
    /// room.
    async fn admit(&self, pod: &Pod) -> Result<Vec<Arc<Pod>>, PodFailure> {
        let is_over =
            |pod: &Pod| matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
        if is_over(pod) || pod.metadata.deletion_timestamp.is_some() {
            return Ok(vec![]);
        }
        let here = |other: &Pod| self.workers.get(&uid(other)).is_some_and(|worker| !worker.rejected);
        let others: Vec<_> = self.pods.list().into_iter().filter(|other| here(other) && !is_over(other)).collect();
        let Some(node) = self.shared.node.borrow().clone() else { return Ok(vec![]) };
        let allowed = &self.shared.config.allowed_unsafe_sysctls;
        let mut verdict = admit(pod, &node, &others, allowed);
        if verdict.as_ref().is_err_and(|failure| failure.reason == NODE_AFFINITY) {
            // The scheduler may have heard of the node's new labels before us.
            let api: Api<Node> = Api::all(self.shared.client.clone());
            if let Ok(node) = api.get(&self.shared.config.node_name).await {
                verdict = admit(pod, &node, &others, allowed);
            }
        }
        if let Err(failure) = &verdict {
            self.shared.pod_event(pod, EventType::Warning, &failure.reason, failure.message.clone());
        }
        verdict
    }

    /// Stops and removes what runs for pods that no longer exist.
    async fn remove_orphans(&self) -> Result<(), RuntimeError> {
        let runtime = &self.shared.runtime;
        let sandboxes = runtime.list_sandboxes(&SandboxFilter::default()).await?;
        let containers = runtime.list_containers(&ContainerFilter::default()).await?;
        // Asked only now: a pod whose containers were just listed had long been in the cache, if not with a worker.
        let known: BTreeSet<String> = self.pods.list().iter().map(|pod| uid(pod)).collect();
        let orphaned = |uid: &String| !known.contains(uid) && !self.workers.contains_key(uid);
        for container in containers.iter().filter(|c| orphaned(&c.pod.uid)) {
            tracing::info!(pod = container.pod.name, container = container.name, "removing an orphaned container");
            runtime.remove_container(&container.id).await?;
        }
        let mut uids = BTreeSet::new();
        for sandbox in sandboxes.iter().filter(|s| orphaned(&s.pod.uid)) {
            runtime.remove_sandbox(&sandbox.id).await?;
            sandbox.ip.into_iter().for_each(|ip| self.shared.ips.release(ip));
            uids.insert(sandbox.pod.uid.clone());
        }
        for uid in uids.iter().filter(|_| self.shared.config.on_disk) {
            if let Err(error) = tear_down(&self.shared.pod_dir(uid)) {
                tracing::debug!(uid, %error, "files of an orphaned pod not removed");
            }
        }
        Ok(())
    }
}
