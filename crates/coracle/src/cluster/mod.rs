//! A cluster in one process: the components, joined only by API clients.
//!
//! ```text
//! store ─► API server ─┬─ TLS on 127.0.0.1 and on the pods' gateway
//!                      ├─ controller manager, scheduler, proxy, DNS   (clients in this process)
//!                      └─ one kubelet a node                          (clients in this process)
//! ```
//!
//! [`Cluster::start`] brings all of it up and returns when the API server is ready; nodes follow
//! within moments. A component that fails is started again, as everywhere in Kubernetes.

mod control_plane;
mod network;
mod node;
pub mod simulated;
mod teardown;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bollard::Docker;
use coracle_apiserver::pki::{CertKey, Pki};
use coracle_apiserver::{ApiServer, UserInfo};
use coracle_client::transport::{Identity, peer};
use coracle_controller_manager::Authority;
use coracle_etcd::EtcdServer;
use coracle_metrics_server::MetricsServer;
use coracle_scheduler::explain::Decisions;
use coracle_store::SharedStore;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::ClusterShape;
use crate::commands::component::{explain, token_signer};
use crate::data_dir::{ClusterConfig, DataDir, Lock, write_private};

pub use control_plane::ControlPlane;
pub use node::{NodeOptions, run_node, run_node_on};
pub use teardown::{remove_network, teardown};

/// How long a failed component rests before it is started again.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// The API server's port unless another is asked for.
pub const DEFAULT_PORT: u16 = 6443;
/// The number of nodes unless another is asked for.
pub const DEFAULT_NODES: u8 = 2;

/// So many of the scheduler's last decisions are kept, for `coracle why`.
const KEPT_DECISIONS: usize = 100;

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    /// What it is made with.
    pub config: ClusterConfig,
    /// Its API server.
    pub api: Arc<ApiServer>,
    store: SharedStore,
    shutdown: CancellationToken,
    components: JoinSet<()>,
    _lock: Lock,
}

impl Cluster {
    /// Starts the cluster of a data directory; makes it first if there is none.
    ///
    /// # Errors
    /// If the directory or the port is taken, no Docker engine answers, or the store is damaged.
    pub async fn start(dir: &DataDir, docker: Docker, shape: &ClusterShape) -> anyhow::Result<Self> {
        dir.create()?;
        let lock = dir.lock()?;
        let existing = dir.config()?;
        let port = shape.port.or(existing.as_ref().map(|config| config.port)).unwrap_or(DEFAULT_PORT);
        if port == 0 {
            bail!("--port must not be 0: clients need to know it");
        }
        // Binding the port comes first: if it is taken, nothing has been touched.
        let local = coracle_apiserver::serve::bind(SocketAddr::from(([127, 0, 0, 1], port))).await?;
        let mut config = match existing {
            Some(config) => config,
            None => network::claim(&docker).await?,
        };
        if shape.nodes.is_some_and(|nodes| nodes < config.nodes) {
            tracing::info!("fewer nodes than before: pods of the others are rescheduled once those count as lost");
        }
        config.nodes = shape.nodes.unwrap_or(config.nodes);
        config.port = port;
        // A store that is an etcd already answers as one, elsewhere.
        let etcd = if shape.store.is_etcd(dir)? { None } else { etcd_listener(shape.etcd_listen).await };
        config.etcd = etcd.as_ref().and_then(|listener| listener.local_addr().ok());
        dir.save(&config)?;
        let shutdown = CancellationToken::new();

        let pki_dir = dir.join("pki");
        let ips = [config.gateway().into(), config.kubernetes_ip().into()];
        let names: Vec<String> = rustix::system::uname().nodename().to_str().map(str::to_owned).into_iter().collect();
        let pki = Arc::new(tokio::task::spawn_blocking(move || Pki::ensure(&pki_dir, &names, &ips)).await??);
        let kubeconfig = pki.kubeconfig(&config.server_url(), pki.admin());
        write_private(&dir.kubeconfig(), kubeconfig.as_bytes())?;

        // The network and the images of sandboxes are Docker's work, the store is the disk's: side by side.
        let network = network::ensure(&config);
        let store = shape.store.open(dir);
        let pause = coracle_images::ensure_pause(&docker);
        let (network, store, pause) = tokio::join!(network, store, pause);
        let store = store?;
        pause.context("the image of sandboxes")?;
        let rights = network?;

        crate::store::compact(&store, shape.etcd_compaction_interval, &shutdown);
        let plane = ControlPlane::assemble(store.clone(), &config, &pki).await?;
        let mut components = JoinSet::new();
        plane.serve(local, &pki, &shutdown, &mut components)?;
        if let Some(gateway) = rights.gateway_listener(config.port).await {
            plane.serve(gateway, &pki, &shutdown, &mut components)?;
        }
        if let Some(listener) = etcd {
            components.spawn(serve_etcd(listener, store.clone(), &pki, shutdown.clone())?);
        }
        components.spawn(plane.keep_endpoints(&shutdown));
        let api = plane.api;
        let mut cluster = Cluster { config, api, store, shutdown, components, _lock: lock };
        cluster.start_components(dir, &pki, rights).await?;
        Ok(cluster)
    }

    /// A client that acts as the cluster's administrator.
    pub fn admin(&self) -> kube::Client {
        self.api.client_as(UserInfo::new("kubernetes-admin", &["kubeadm:cluster-admins"]))
    }

    async fn start_components(&mut self, dir: &DataDir, pki: &Arc<Pki>, rights: network::Rights) -> anyhow::Result<()> {
        let config = self.config.clone();
        let client = |user: &str, groups: &[&str]| self.api.client_as(UserInfo::new(user, groups));
        let mut components = JoinSet::new();

        let manager = coracle_controller_manager::Config {
            cluster_ca: pki.ca_pem().to_owned(),
            token_signer: Some(token_signer(pki.service_account_key())?),
            signer: Some(Arc::new(Authority::from_pem(pki.ca_pem(), &pki.ca_key_pem())?)),
            volume_dir: dir.join("volumes"),
            load_balancer_pool: rights.load_balancer_pool(&config),
            ..Default::default()
        };
        let user = client("system:kube-controller-manager", &[]);
        supervise(&mut components, &self.shutdown, "controller-manager", move |stop| {
            coracle_controller_manager::run(user.clone(), manager.clone(), stop)
        });

        let user = client("system:kube-scheduler", &[]);
        let decisions = Decisions::keep(KEPT_DECISIONS);
        explain(&self.api.config.pages, &decisions);
        let scheduler = coracle_scheduler::Config { decisions, ..Default::default() };
        supervise(&mut components, &self.shutdown, "scheduler", move |stop| {
            coracle_scheduler::run(user.clone(), scheduler.clone(), stop)
        });

        for number in 0..config.nodes {
            let name = config.node_name(number);
            let options = NodeOptions {
                kubelet: node::kubelet_config(&config, number, dir, rights),
                cluster_id: config.id.clone(),
                network: config.network(),
                certificate: Some(node::certificate(pki, &config, number, rights)?),
            };
            let user = client(&format!("system:node:{name}"), &["system:nodes"]);
            supervise(&mut components, &self.shutdown, "kubelet", move |stop| {
                run_node(user.clone(), options.clone(), stop)
            });
        }

        let (api, certificates) = (self.api.clone(), pki.clone());
        supervise(&mut components, &self.shutdown, "simulated-nodes", move |stop| {
            simulated::run(api.clone(), certificates.clone(), stop)
        });

        let (marked, stop) = (node::mark_control_plane(self.admin(), config.node_name(0)), self.shutdown.clone());
        components.spawn(async move { stop.run_until_cancelled(marked).await.unwrap_or_default() });

        let proxy = coracle_proxy::Config {
            mode: if rights.host_network { coracle_proxy::Mode::Auto } else { coracle_proxy::Mode::Userspace },
            nodes: Vec::new(),
            pod_cidr: config.pod_cidr(),
            service_ranges: vec![config.service_cidr(), config.load_balancer_cidr()],
            bridge: config.bridge(),
            table: config.table(),
            health: Arc::default(),
        };
        let user = client("system:kube-proxy", &[]);
        supervise(&mut components, &self.shutdown, "proxy", move |stop| {
            coracle_proxy::run(user.clone(), proxy.clone(), stop)
        });

        let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let dns = coracle_dns::Config {
            listen: SocketAddr::new(rights.pods_reach(&config).into(), 0),
            cluster_ip: config.dns_ip(),
            domain: "cluster.local".into(),
            upstream: coracle_dns::server::name_servers(&resolv_conf),
        };
        let user = client("system:kube-dns", &[]);
        supervise(&mut components, &self.shutdown, "dns", move |stop| {
            coracle_dns::run(user.clone(), dns.clone(), stop)
        });

        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
        let user = client(coracle_metrics_server::USER, &groups);
        let metrics = Arc::new(MetricsServer::new(user.clone()));
        self.api.config.aggregator.attach(
            coracle_metrics_server::NAMESPACE,
            coracle_metrics_server::SERVICE,
            move |parts| {
                let metrics = metrics.clone();
                async move { metrics.answer(&parts).await }
            },
        );
        let stop = self.shutdown.clone();
        components.spawn(async move {
            stop.run_until_cancelled(coracle_metrics_server::register(&user)).await.unwrap_or_default();
        });

        while let Some(component) = components.try_join_next() {
            component?;
        }
        self.components.spawn(async move { while components.join_next().await.is_some() {} });
        Ok(())
    }

    /// Stops the components, the store, the containers and the Services' rules.
    pub async fn stop_all(mut self) -> anyhow::Result<()> {
        self.stop_components().await?;
        // The lock is held until the last container is gone: whoever waits for the cluster's end waits for that.
        teardown(&self.config).await
    }

    async fn stop_components(&mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        let all = async { while self.components.join_next().await.is_some() {} };
        if coracle_clock::timeout(Duration::from_secs(10), all).await.is_err() {
            tracing::warn!("a component did not stop in time");
        }
        self.store.close().await.context("the store")
    }
}

/// The store's etcd API is for looking in: a cluster can do without.
async fn etcd_listener(address: SocketAddr) -> Option<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Some(listener),
        Err(error) => {
            tracing::warn!(%address, %error, "the store does not answer as an etcd (choose another --etcd-listen)");
            None
        }
    }
}

/// Serves the store as an etcd until shutdown.
pub fn serve_etcd(
    listener: TcpListener,
    store: SharedStore,
    pki: &Pki,
    shutdown: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + Send + use<>> {
    let CertKey { cert_pem, key_pem } = pki.etcd_server();
    let tls = peer::mutual_server_config(Identity { cert_pem, key_pem }, pki.etcd_ca_pem(), &["h2"])?;
    let server = EtcdServer::new(store, &format!("https://{}", listener.local_addr()?));
    Ok(coracle_apiserver::serve::serve(listener, tls, server.service(), shutdown))
}

/// Runs a component until shutdown; starts it again when it fails or ends.
fn supervise<F, Fut>(components: &mut JoinSet<()>, shutdown: &CancellationToken, name: &'static str, start: F)
where
    F: Fn(CancellationToken) -> Fut + Send + 'static,
    Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let shutdown = shutdown.clone();
    components.spawn(async move {
        while !shutdown.is_cancelled() {
            // A panic must not take the other components with it.
            let outcome = tokio::spawn(start(shutdown.child_token())).await;
            if shutdown.is_cancelled() {
                return;
            }
            match outcome {
                Ok(Ok(())) => tracing::warn!(component = name, "ended; starting it again"),
                Ok(Err(error)) => tracing::error!(component = name, "failed; starting it again: {error:#}"),
                Err(error) => tracing::error!(component = name, %error, "crashed; starting it again"),
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                () = coracle_clock::sleep(RESTART_DELAY) => {}
            }
        }
    });
}
