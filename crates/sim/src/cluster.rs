//! The cluster: its parts, and what can befall them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use coracle_apiserver::assembly::assemble;
use coracle_apiserver::auth::jwt::TokenKey;
use coracle_apiserver::hooks::Connector;
use coracle_apiserver::security::SecurityConfig;
use coracle_apiserver::{ApiServer, UserInfo};
use coracle_controller_manager::Pulse;
use coracle_kubelet::Kubelet;
use coracle_kubelet::heartbeat::{Heartbeats, Watching};
use coracle_kubelet::runtime::simulated::{SimulatedConfig, SimulatedRuntime};
use coracle_metrics_server::MetricsServer;
use coracle_store::{MemoryStore, Revision, SharedStore};
use tokio_util::sync::CancellationToken;

use crate::builder::Builder;
use crate::faults::Link;
use crate::history::{Change, Recorder, dump};
use crate::kubelets::{CONNECTORS, Kubelets};
use crate::line::{Line, Process, Requests, Server, Switchboard};

/// How long nothing may have changed for a cluster to count as settled: longer than a backed-off pod waits in the
/// scheduler's queue, or a probe's period.
const QUIET: Duration = Duration::from_secs(15);
/// A cluster that has not settled by then never will.
const SETTLE_LIMIT: Duration = Duration::from_secs(3600);

/// A part of the cluster that can crash and be started again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// The API server. Its store survives.
    ApiServer,
    /// All controllers.
    ControllerManager,
    /// The scheduler.
    Scheduler,
    /// The kubelet of a node; the node's containers run on without it.
    Kubelet(String),
    /// A program of your own: whoever has the [client of that name](Cluster::client_for).
    Client(String),
}

/// A simulated cluster. Made by [`Builder::run`].
pub struct Cluster {
    pub(crate) store: SharedStore,
    recorder: Recorder,
    server: Switchboard,
    requests: Requests,
    admin: kube::Client,
    running: BTreeMap<Component, Process>,
    pub(crate) links: BTreeMap<Component, Link>,
    machines: BTreeMap<String, Machine>,
    kubelets: Kubelets,
    manager: coracle_controller_manager::Config,
    metrics: bool,
    pub(crate) heartbeats: Heartbeats,
    /// Held while heartbeats are to be written, because they may not arrive.
    pub(crate) written: Option<Watching>,
}

struct Machine {
    number: u16,
    config: SimulatedConfig,
    kubelet: coracle_kubelet::Config,
    runtime: SimulatedRuntime,
}

/// Tells the controllers of heartbeats that are not written.
struct Hearts(Heartbeats);

impl Pulse for Hearts {
    fn last(&self, node: &str) -> Option<(coracle_clock::Instant, bool)> {
        self.0.last(node)
    }

    fn on_stop(&self, listener: Box<dyn Fn(&str) + Send>) {
        self.0.on_stop(listener);
    }
}

/// The most machines there ever are: so many networks of pods lie between 10.244 and the Services' addresses.
const MACHINES_MAX: u16 = 30_000;

/// A machine's own address and the network of its pods: 10.244.1, 10.244.2, …, 10.244.255, 10.243.0, ….
fn addresses(number: u16) -> (Ipv4Addr, String) {
    let [high, third] = number.to_be_bytes();
    let second = 244 - high;
    (Ipv4Addr::new(10, second, third, 1), format!("10.{second}.{third}.0/24"))
}

impl Cluster {
    /// A description of a cluster with one node, all controllers and a scheduler.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) async fn start(builder: Builder) -> anyhow::Result<Cluster> {
        let store: SharedStore = MemoryStore::new();
        let recorder = Recorder::start(&store, builder.keep_history).await?;
        let (server, requests) = (Switchboard::default(), Requests::default());
        requests.lock().unwrap_or_else(PoisonError::into_inner).off = !builder.keep_history;
        let put_off = builder.heartbeats_when_looked_at;
        let heartbeats = if put_off { Heartbeats::when_looked_at() } else { Heartbeats::default() };
        let line = Line {
            server: server.clone(),
            user: UserInfo::new("kubernetes-admin", &["kubeadm:cluster-admins"]),
            requests: requests.clone(),
            process: Process::default(),
            link: Link::default(),
            heartbeats: heartbeats.clone(),
        };
        let mut manager = builder.manager;
        manager.pulse = Arc::new(Hearts(heartbeats.clone()));
        let mut cluster = Cluster {
            store,
            recorder,
            server,
            requests,
            admin: kube::Client::new(line, "default"),
            running: BTreeMap::new(),
            links: BTreeMap::new(),
            machines: BTreeMap::new(),
            kubelets: Kubelets::default(),
            manager,
            metrics: builder.metrics,
            heartbeats,
            written: None,
        };
        cluster.restart(&Component::ApiServer).await?;
        if !cluster.manager.controllers.is_empty() {
            cluster.restart(&Component::ControllerManager).await?;
        }
        if builder.scheduler {
            cluster.restart(&Component::Scheduler).await?;
        }
        for _ in 0..builder.nodes {
            cluster.add_node(builder.machine.clone()).await?;
        }
        if builder.real_time {
            cluster.until("the nodes are ready", Cluster::is_up).await?;
        } else {
            cluster.settle().await;
        }
        Ok(cluster)
    }

    /// A client that acts as the cluster's administrator.
    pub fn client(&self) -> kube::Client {
        self.admin.clone()
    }

    /// A client for a program of your own, with the rights of an administrator; the program can crash and be cut off as
    /// [`Component::Client`]. One that had the name before never gets another answer.
    pub fn client_for(&mut self, name: &str) -> kube::Client {
        let component = Component::Client(name.to_owned());
        self.crash(&component);
        self.running.insert(component.clone(), Process::default());
        self.component_client(&component, name, &["kubeadm:cluster-admins"])
    }

    /// The machine of a node: to crash containers on it, or to let their probes fail.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn machine(&self, node: &str) -> &SimulatedRuntime {
        &self.machines[node].runtime
    }

    /// All nodes' names.
    pub fn nodes(&self) -> Vec<String> {
        self.machines.keys().cloned().collect()
    }

    /// All of the cluster's components that can [crash](Cluster::crash), running or not.
    pub fn components(&self) -> Vec<Component> {
        let kubelets = self.machines.keys().cloned().map(Component::Kubelet);
        [Component::ApiServer, Component::ControllerManager, Component::Scheduler].into_iter().chain(kubelets).collect()
    }

    /// Starts another machine with a kubelet, which registers as a node. Its name.
    ///
    /// # Errors
    /// There are no addresses for more nodes.
    pub async fn add_node(&mut self, config: SimulatedConfig) -> anyhow::Result<String> {
        self.add_node_as(config, |_| {}).await
    }

    /// As [`Cluster::add_node`], with changes to what the kubelet is told: its name, labels, taints, reservations.
    ///
    /// # Errors
    /// There are no addresses for more nodes, or there is one of that name.
    pub async fn add_node_as(
        &mut self,
        config: SimulatedConfig,
        change: impl FnOnce(&mut coracle_kubelet::Config),
    ) -> anyhow::Result<String> {
        let number = self.machines.values().map(|machine| machine.number).max().unwrap_or_default() + 1;
        if number > MACHINES_MAX {
            bail!("no addresses for more nodes");
        }
        let (ip, pod_cidr) = addresses(number);
        let mut kubelet = coracle_kubelet::Config {
            on_disk: false,
            heartbeats: self.heartbeats.clone(),
            asks_again: !self.heartbeats.are_put_off(),
            ..coracle_kubelet::Config::new(&format!("coracle-{number}"), IpAddr::V4(ip), &pod_cidr, "/simulated")
        };
        change(&mut kubelet);
        let name = kubelet.node_name.clone();
        if self.machines.contains_key(&name) {
            bail!("there is a node {name}");
        }
        let runtime = SimulatedRuntime::new(config.clone());
        self.machines.insert(name.clone(), Machine { number, config, kubelet, runtime });
        self.restart(&Component::Kubelet(name.clone())).await?;
        Ok(name)
    }

    /// Takes a machine away for good: it is switched off, as by [`Cluster::power_off`], and its node deleted, as a cloud's
    /// node controller does.
    ///
    /// # Errors
    /// The API server's refusal; the machine is gone all the same.
    pub async fn remove_node(&mut self, node: &str) -> anyhow::Result<()> {
        let component = Component::Kubelet(node.to_owned());
        self.crash(&component);
        self.machines.remove(node);
        self.links.remove(&component);
        self.kubelets.remove(node);
        match self.get("nodes", node).await? {
            Some(_) => self.delete("nodes", node).await.map(drop),
            None => Ok(()),
        }
    }

    /// Switches a machine off: the kubelet dies, and every container with it. [`Cluster::restart`] of the kubelet is
    /// the machine's return, with nothing on it.
    pub fn power_off(&mut self, node: &str) {
        self.crash(&Component::Kubelet(node.to_owned()));
        if let Some(machine) = self.machines.get_mut(node) {
            machine.runtime = SimulatedRuntime::new(machine.config.clone());
        }
    }

    /// Kills a component, as `kill -9` would: whatever it is about to do next, it never does.
    pub fn crash(&mut self, component: &Component) {
        if let Some(process) = self.running.remove(component) {
            process.killed.cancel();
        }
        if *component == Component::ApiServer {
            self.written = Some(self.heartbeats.watched());
            *self.server.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// Lets a component die just when the API server has done its `writes`-th write from now, before it hears of that:
    /// the most awkward of moments. 0 calls that off. The API server itself writes nothing.
    pub fn crash_after(&mut self, component: &Component, writes: u64) {
        if let Some(process) = self.running.get(component) {
            process.writes_left.store(writes, std::sync::atomic::Ordering::SeqCst);
        }
    }

    /// Lets a component die as it is about to send its `requests`-th request from now, of whatever kind: it never
    /// arrives. 0 calls that off.
    pub fn crash_before(&mut self, component: &Component, requests: u64) {
        if let Some(process) = self.running.get(component) {
            process.requests_left.store(requests, std::sync::atomic::Ordering::SeqCst);
        }
    }

    /// Whether a component runs.
    pub fn is_running(&self, component: &Component) -> bool {
        self.running.get(component).is_some_and(|process| !process.killed.is_cancelled())
    }

    /// Starts a component, after killing it if it runs: what is left to [`Cluster::crash_after`] stays.
    ///
    /// # Errors
    /// It cannot start, or there is no such node.
    pub async fn restart(&mut self, component: &Component) -> anyhow::Result<()> {
        let before = self.running.get(component).cloned().unwrap_or_default();
        self.crash(component);
        if let Component::Client(name) = component {
            bail!("{name} is not the cluster's to start: ask for a new client");
        }
        let process = Process { killed: CancellationToken::new(), ..before };
        let killed = process.killed.clone();
        self.running.insert(component.clone(), process);
        match component {
            Component::ApiServer => {
                let mut security = SecurityConfig::new(TokenKey::generate()?, "10.96.0.0/12".parse()?);
                let connector = |name: &str| (name.to_owned(), Arc::new(self.kubelets.clone()) as Arc<dyn Connector>);
                security.connectors.extend(CONNECTORS.map(connector));
                let advertise = (Ipv4Addr::new(10, 244, 0, 1), 6443);
                let api = assemble(self.store.clone(), security, advertise, None).await.context("the API server")?;
                let server = Server { api: api.clone(), stopped: killed };
                *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
                if self.links.values().all(Link::is_well) {
                    self.written = None;
                }
                if self.metrics {
                    self.serve_metrics(&api);
                }
            }
            Component::ControllerManager => {
                let config = self.manager.clone();
                let client = self.component_client(component, "system:kube-controller-manager", &[]);
                spawn(component, killed.clone(), coracle_controller_manager::run(client, config, killed));
            }
            Component::Scheduler => {
                let client = self.component_client(component, "system:kube-scheduler", &[]);
                let run = coracle_scheduler::run(client, coracle_scheduler::Config::default(), killed.clone());
                spawn(component, killed, run);
            }
            Component::Client(_) => {}
            Component::Kubelet(node) => {
                let machine = self.machines.get(node).with_context(|| format!("no node {node}"))?;
                let (config, machine) = (machine.kubelet.clone(), machine.runtime.clone());
                let client = self.component_client(component, &format!("system:node:{node}"), &["system:nodes"]);
                let kubelet = Kubelet::with_prober(client, Arc::new(machine.clone()), Arc::new(machine), config)?;
                self.kubelets.add(node, kubelet.routes(), killed.clone());
                spawn(component, killed.clone(), kubelet.run(killed));
            }
        }
        Ok(())
    }

    /// metrics-server, which lives in the API server's process.
    fn serve_metrics(&mut self, api: &ApiServer) {
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
        let client = self.component_client(&Component::ApiServer, coracle_metrics_server::USER, &groups);
        let metrics = Arc::new(MetricsServer::new(client.clone()));
        api.config.aggregator.attach(
            coracle_metrics_server::NAMESPACE,
            coracle_metrics_server::SERVICE,
            move |parts| {
                let metrics = metrics.clone();
                async move { metrics.answer(&parts).await }
            },
        );
        tokio::spawn(async move { coracle_metrics_server::register(&client).await });
    }

    /// Lets every container of a pod use so much from now on: thousandths of a processor, and bytes.
    pub fn set_use(&self, namespace: &str, pod: &str, cpu_milli: u64, memory_bytes: u64) {
        self.machines.values().for_each(|machine| machine.runtime.set_use(namespace, pod, cpu_milli, memory_bytes));
    }

    fn component_client(&mut self, component: &Component, user: &str, groups: &[&str]) -> kube::Client {
        let (server, requests) = (self.server.clone(), self.requests.clone());
        let process = self.running[component].clone();
        let link = self.links.entry(component.clone()).or_default().clone();
        let (user, heartbeats) = (UserInfo::new(user, groups), self.heartbeats.clone());
        let line = Line { server, user, requests, process, link, heartbeats };
        kube::Client::new(line, "default")
    }

    pub(crate) fn asked(&self) -> Requests {
        self.requests.clone()
    }

    pub(crate) fn switchboard(&self) -> Switchboard {
        self.server.clone()
    }

    /// Lets time pass.
    pub async fn advance(&self, time: Duration) {
        coracle_clock::sleep(time).await;
    }

    /// Sets everybody's wall clock forward: in a moment more time has passed than anybody waits.
    pub fn set_clock_forward(&self, by: Duration) {
        coracle_clock::Simulation::set_forward(by);
    }

    /// Lets time pass until something holds: ten minutes at most.
    ///
    /// # Errors
    /// It does not come to hold, or looking failed.
    pub async fn until(
        &self,
        what: &str,
        mut holds: impl AsyncFnMut(&Cluster) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let start = coracle_clock::instant();
        while !holds(self).await.with_context(|| what.to_owned())? {
            if start.elapsed() > Duration::from_secs(600) {
                bail!("{what}: not in ten minutes");
            }
            coracle_clock::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Whether all nodes are ready, and pods may be made.
    async fn is_up(&self) -> anyhow::Result<bool> {
        let ready = |node: &serde_json::Value| {
            let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
            conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
        };
        let nodes = self.list("nodes", None).await?;
        let accounts = !self.manager.controllers.iter().any(|name| name == "*")
            || self.get("serviceaccounts", "default").await?.is_some();
        Ok(accounts && nodes.len() == self.machines.len() && nodes.iter().all(ready))
    }

    /// Lets time pass until no object has changed for 15 seconds, heartbeats (leases and nodes) and events aside.
    /// How long that took. What waits longer than that by design (a pod in `CrashLoopBackOff`, a CronJob) is not
    /// waited for, and a cluster that does not come to rest is left alone after an hour.
    pub async fn settle(&self) -> Duration {
        let (start, mut seen, mut quiet) = (coracle_clock::instant(), self.recorder.matters(), Duration::ZERO);
        const STEP: Duration = Duration::from_millis(500);
        while quiet < QUIET && start.elapsed() < SETTLE_LIMIT {
            coracle_clock::sleep(STEP).await;
            let now = self.recorder.matters();
            quiet = if now != seen { Duration::ZERO } else { quiet + STEP };
            seen = now;
        }
        start.elapsed()
    }

    /// Which request made each revision, in the form of [`Cluster::requests`]; those alone that were answered with the
    /// object (deletions of anything but pods are not).
    pub fn authors(&self) -> BTreeMap<Revision, String> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).authors.clone()
    }

    /// The store's revision.
    pub fn revision(&self) -> Revision {
        self.store.revision()
    }

    /// Every change since the beginning, in order.
    pub fn history(&self) -> Vec<Change> {
        self.recorder.changes()
    }

    /// The SHA-256 of every change since the beginning, in hexadecimal: what two runs with one seed have in common.
    pub fn history_hash(&self) -> String {
        self.recorder.hash()
    }

    /// Tells somebody of every change from now on, at the moment when it happens; there is one such listener at most.
    pub fn on_change(&self, listener: impl FnMut(&Change) + Send + 'static) {
        self.recorder.listen(Box::new(listener));
    }

    /// All that the store holds now, a line for each key.
    ///
    /// # Errors
    /// The store's.
    pub async fn store_dump(&self) -> anyhow::Result<String> {
        dump(&self.store).await
    }

    /// How many requests there were so far, by user, method and path.
    pub fn requests(&self) -> BTreeMap<String, u64> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).counts.clone()
    }
}

/// Runs a component until it is killed.
fn spawn(
    component: &Component,
    killed: CancellationToken,
    run: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) {
    let component = component.clone();
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = killed.cancelled() => {}
            result = run => tracing::error!(?component, ?result, "ended by itself"),
        }
    });
}
