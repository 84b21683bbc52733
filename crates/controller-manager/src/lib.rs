//! The controllers: one file (or folder) each, all of one shape.
//!
//! ```text
//! watch ──► key ──► work queue ──► reconcile(state) = actions ──► API
//!                      ▲                                           │
//!                      └────────────── watch ◄─────────────────────┘
//! ```
//!
//! Each file opens with what it watches and how a change becomes a key; in the middle stands a pure
//! function from state to actions, which the tests call with tables; below it a thin executor does
//! what it says. A controller knows only the API: it may be stopped at any line and started again.
//!
//! [`CONTROLLERS`] lists them by the names that `--controllers=*,-foo` takes.

mod claim;
mod context;
mod error;
mod expectations;
#[cfg(test)]
mod fixed_point;
mod hash;
mod history;
mod node_ipam;
mod node_lifecycle;
mod node_ttl;
mod pod_control;
mod pod_gc;
mod pods;
mod policy_status;
mod table;
mod taint_eviction;

mod bootstrap_tokens;
mod certificates;
mod cluster_role_aggregation;
mod cron_job;
mod daemon_set;
mod deployment;
mod discovery;
mod disruption;
mod endpoints;
mod garbage_collector;
mod horizontal_pod_autoscaler;
mod job;
mod legacy_tokens;
mod load_balancer;
mod namespace;
mod replica_set;
mod resource_claim;
mod resource_quota;
mod root_ca;
mod service_account;
mod service_account_token;
mod service_cidr;
mod stateful_set;
mod volumes;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

pub use certificates::authority::{Authority, AuthorityError};
use context::Context;
pub use error::Error;
pub use table::{CONTROLLERS, Controller, is_enabled};

/// What the controllers need to know. Start from [`Config::default`].
#[derive(Clone)]
pub struct Config {
    /// Which controllers run: `*` for those on by default, `name` or `-name` for one; upstream's names.
    pub controllers: Vec<String>,
    /// The cluster CA's certificate, PEM; published to each namespace as ConfigMap `kube-root-ca.crt`.
    pub cluster_ca: String,
    /// Signs approved certificate requests to Kubernetes' own signers; without it they stay unsigned.
    pub signer: Option<Arc<Authority>>,
    /// Makes a token of claims, for Secrets of ServiceAccounts; without it they stay empty.
    pub token_signer: Option<TokenSigner>,
    /// How long signed certificates last, unless a request asks for less.
    pub cluster_signing_duration: Duration,
    /// Provisioned volumes lie here, one directory each.
    pub volume_dir: PathBuf,
    /// How directories of deleted volumes are removed.
    pub volumes: Arc<dyn VolumeDirectory>,
    /// The addresses for Services of type LoadBalancer, as an IPv4 prefix such as `10.112.0.0/24`.
    pub load_balancer_pool: String,
    /// Where nodes' podCIDRs come from, and how long their prefixes are; empty if nodes bring their own.
    pub cluster_cidrs: Vec<(String, u8)>,
    /// How many objects each controller works on at once.
    pub concurrent_syncs: usize,
    /// How long a node may be silent before it is taken for unreachable.
    pub node_monitor_grace_period: Duration,
    /// Signs of nodes' life that are written nowhere.
    pub pulse: Arc<dyn Pulse>,
    /// So many finished pods are kept before the oldest are deleted.
    pub terminated_pod_gc_threshold: usize,
    /// How replicas follow load.
    pub autoscaler: Autoscaler,
    /// Told which controllers run.
    pub health: Arc<Health>,
}

/// How the HorizontalPodAutoscaler controller works; `--horizontal-pod-autoscaler-…`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Autoscaler {
    /// How many autoscalers are looked at at once.
    pub concurrent_syncs: usize,
    /// How often each autoscaler is looked at.
    pub sync_period: Duration,
    /// How long a recommendation holds against fewer replicas, unless a behaviour says otherwise.
    pub downscale_stabilization: Duration,
    /// By which share of the target usage may differ from it, unless a behaviour says otherwise.
    pub tolerance: f64,
    /// So long after a pod's start its processor use counts only if measured while it was ready.
    pub cpu_initialization_period: Duration,
    /// A pod that was last ready so soon after its start counts as never ready.
    pub initial_readiness_delay: Duration,
}

impl Default for Autoscaler {
    fn default() -> Self {
        Autoscaler {
            concurrent_syncs: 5,
            sync_period: Duration::from_secs(15),
            downscale_stabilization: Duration::from_secs(300),
            tolerance: 0.1,
            cpu_initialization_period: Duration::from_secs(300),
            initial_readiness_delay: Duration::from_secs(30),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            controllers: vec!["*".into()],
            cluster_ca: String::new(),
            signer: None,
            token_signer: None,
            cluster_signing_duration: Duration::from_secs(365 * 86_400),
            volume_dir: "/var/lib/coracle/volumes".into(),
            volumes: Arc::new(HostVolumes),
            load_balancer_pool: "10.112.0.0/24".into(),
            cluster_cidrs: Vec::new(),
            concurrent_syncs: 5,
            node_monitor_grace_period: Duration::from_secs(50),
            pulse: Arc::new(NoPulse),
            terminated_pod_gc_threshold: 12_500,
            autoscaler: Autoscaler::default(),
            health: Arc::default(),
        }
    }
}

/// Which controllers run: empty until this instance leads.
#[derive(Debug, Default)]
pub struct Health(Mutex<Vec<(&'static str, AbortHandle)>>);

impl Health {
    /// Their names. One that has nothing to do, such as a signer without a key, ends at once and is not among them.
    pub fn running(&self) -> Vec<&'static str> {
        let started = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        started.iter().filter(|(_, task)| !task.is_finished()).map(|(name, _)| *name).collect()
    }
}

/// Whether nodes live, for whoever knows that without reading it: because they are in the same process.
pub trait Pulse: Send + Sync {
    /// When a node gave its last sign of life, and whether more will follow until [`Pulse::on_stop`].
    fn last(&self, node: &str) -> Option<(coracle_clock::Instant, bool)>;
    /// Tells somebody, in place of whoever was told before, of each node of which no more signs follow.
    fn on_stop(&self, listener: Box<dyn Fn(&str) + Send>);
}

/// All signs of life are written.
struct NoPulse;

impl Pulse for NoPulse {
    fn last(&self, _: &str) -> Option<(coracle_clock::Instant, bool)> {
        None
    }

    fn on_stop(&self, _: Box<dyn Fn(&str) + Send>) {}
}

/// Signs the claims of a ServiceAccount token: whoever has the cluster's key provides it.
pub type TokenSigner = Arc<dyn Fn(&serde_json::Value) -> Result<String, String> + Send + Sync>;

/// The host's side of provisioned volumes. A simulation puts a memory of its own here.
pub trait VolumeDirectory: Send + Sync {
    /// Removes a volume's directory with all it holds; that there is none is success.
    fn remove(&self, path: &Path) -> std::io::Result<()>;
}

/// Volumes in this machine's file system.
#[derive(Clone, Copy, Debug)]
pub struct HostVolumes;

impl VolumeDirectory for HostVolumes {
    fn remove(&self, path: &Path) -> std::io::Result<()> {
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

/// Runs the enabled controllers until `shutdown`. Each is a task; informers are shared. If one panics, all end, to be
/// started anew.
pub async fn run(client: Client, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let enabled: Vec<_> = CONTROLLERS.iter().filter(|controller| is_enabled(controller, &config.controllers)).collect();
    let context = Context::new(client, config, shutdown);
    let mut tasks = JoinSet::new();
    let started = enabled.into_iter().map(|controller| {
        tracing::debug!(controller = controller.name, "starting");
        // Cut off at any point: what was begun is finished by whoever starts next.
        let (task, shutdown) = ((controller.start)(context.clone()), context.shutdown.clone());
        (controller.name, tasks.spawn(async move { shutdown.run_until_cancelled(task).await }))
    });
    let started = started.collect();
    *context.config.health.0.lock().unwrap_or_else(PoisonError::into_inner) = started;
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    Ok(())
}
