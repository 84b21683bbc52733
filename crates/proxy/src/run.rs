//! The loop: watch, wait a moment for more, write once.

use std::time::Duration;

use coracle_client::Informers;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::host;
use crate::model::{Entry, build};
use crate::nft::{Parameters, Table, probe_forget};
use crate::userspace::Listeners;

/// How Services are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By the kernel, if that is allowed; else from user space, and a warning says what that cannot do.
    Auto,
    /// By the kernel or not at all.
    Nftables,
    /// NodePorts and load balancers only, from user space.
    Userspace,
}

/// What the proxy can be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// How Services are served.
    pub mode: Mode,
    /// The nodes that this proxy serves; `externalTrafficPolicy: Local` means pods on these.
    pub nodes: Vec<String>,
    /// The pods' network.
    pub pod_cidr: String,
    /// The ranges of Service addresses: ClusterIPs, load balancers.
    pub service_ranges: Vec<String>,
    /// The pods' bridge.
    pub bridge: String,
    /// The nftables table; one per cluster on a host.
    pub table: String,
    /// Where the proxy says how it is.
    pub health: Arc<Health>,
}

/// Changes that come within this time are written together.
const BATCH: Duration = Duration::from_millis(20);
/// After a failure it is tried again after this time.
const RETRY: Duration = Duration::from_secs(5);
/// What is not written so long after it changed makes the proxy unhealthy.
const LATE: SignedDuration = SignedDuration::from_secs(60);

/// Whether what changed is written.
#[derive(Debug, Default)]
pub struct Health(Mutex<Written>);

#[derive(Debug, Default)]
struct Written {
    at: Option<Timestamp>,
    /// The first change that is not.
    missing_since: Option<Timestamp>,
}

impl Health {
    /// Whether the proxy is healthy, and what its health endpoint says.
    pub fn report(&self) -> (bool, Value) {
        let (written, now) = (self.0.lock().unwrap_or_else(PoisonError::into_inner), coracle_clock::now());
        let late = written.missing_since.is_some_and(|since| now.duration_since(since) > LATE);
        let told = json!({ "lastUpdated": written.at.map(|at| at.to_string()), "currentTime": now.to_string() });
        (written.at.is_some() && !late, told)
    }

    fn note(&self, all_is_written: bool) {
        let (mut written, now) = (self.0.lock().unwrap_or_else(PoisonError::into_inner), coracle_clock::now());
        match all_is_written {
            true => *written = Written { at: Some(now), missing_since: None },
            false => {
                written.missing_since.get_or_insert(now);
            }
        }
    }
}

/// Serves Services until `shutdown`, then leaves the rules as they are, so that traffic flows on while the control
/// plane is away; [`remove`] takes them away.
///
/// # Errors
/// If [`Mode::Nftables`] was asked for and cannot be had.
pub async fn run(client: Client, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let informers = Informers::new(client, shutdown.clone());
    let (services, slices) = (informers.get::<Service>(), informers.get::<EndpointSlice>());
    let changed = Arc::new(Notify::new());
    let notify = changed.clone();
    services.on_change(move |_| notify.notify_one());
    let notify = changed.clone();
    slices.on_change(move |_| notify.notify_one());
    services.wait_for_sync().await;
    slices.wait_for_sync().await;

    let mut backend = Backend::choose(&config).await?;
    loop {
        let local = |node: &str| config.nodes.is_empty() || config.nodes.iter().any(|ours| ours == node);
        let entries = build(&services.list(), &slices.list(), local);
        config.health.note(false);
        let written = backend.write(&entries, &config).await;
        if let Err(error) = &written {
            tracing::warn!(%error, "Services not written; trying again");
        } else {
            config.health.note(true);
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            () = changed.notified() => coracle_clock::sleep(BATCH).await,
            () = coracle_clock::sleep(RETRY), if written.is_err() => {}
        }
    }
}

/// Takes the rules away.
///
/// # Errors
/// If nftables refuses.
pub async fn remove(table: &str) -> Result<(), host::HostError> {
    host::nft(&format!("add table ip {table}\ndelete table ip {table}\n")).await
}

enum Backend {
    Nftables { last: Option<Table>, forget: bool },
    Userspace(Listeners),
}

impl Backend {
    async fn choose(config: &Config) -> anyhow::Result<Self> {
        if config.mode == Mode::Userspace {
            return Ok(Backend::Userspace(Listeners::default()));
        }
        match host::nft_usable().await {
            Ok(()) => Ok(Backend::Nftables { last: None, forget: host::nft(&probe_forget()).await.is_ok() }),
            Err(error) if config.mode == Mode::Nftables => Err(error.into()),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "nftables cannot be used: NodePorts and load balancers are served from user space, ClusterIPs are not served"
                );
                Ok(Backend::Userspace(Listeners::default()))
            }
        }
    }

    async fn write(&mut self, entries: &[Entry], config: &Config) -> Result<(), host::HostError> {
        match self {
            Backend::Userspace(listeners) => {
                listeners.set(entries).await;
                Ok(())
            }
            Backend::Nftables { last, forget } => {
                let parameters = Parameters {
                    table: config.table.clone(),
                    pod_cidr: config.pod_cidr.clone(),
                    masquerade_all: !host::bridge_passes_netfilter(),
                    forget: *forget,
                };
                let mut table = Table::new(entries, &parameters);
                host::allow_hairpin(&config.bridge);
                // If anything fails, the next attempt begins with a table whose contents are known.
                let scripts = match last.take() {
                    Some(last) => table.change_from(last),
                    None => {
                        let ranges: Vec<_> = config.service_ranges.iter().map(String::as_str).collect();
                        host::route(&ranges, &config.bridge).await?;
                        host::pass_docker(&config.bridge).await;
                        vec![table.script()]
                    }
                };
                for script in &scripts {
                    host::nft(script).await?;
                }
                *last = Some(table);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_proxy_is_healthy_while_it_writes_what_changed() {
        let _world = coracle_clock::Simulation::start(1);
        let health = Health::default();
        assert!(!health.report().0, "nothing was written yet");
        health.note(false);
        health.note(true);
        let (healthy, told) = health.report();
        assert!(healthy && told["lastUpdated"] == told["currentTime"], "{told}");
        health.note(false);
        coracle_clock::sleep(Duration::from_secs(30)).await;
        health.note(false);
        assert!(health.report().0);
        coracle_clock::sleep(Duration::from_secs(31)).await;
        assert!(!health.report().0);
    }
}
