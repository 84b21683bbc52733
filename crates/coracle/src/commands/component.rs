//! The components, each alone: `coracle apiserver`, `controller-manager`, `scheduler`, `kubelet`, `proxy`.
//!
//! They are the same libraries that `coracle up` joins in one process; alone, all but the API server
//! work against any Kubernetes API server, by its kubeconfig.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use coracle_apiserver::admission::AdmissionConfiguration;
use coracle_apiserver::assembly::assemble;
use coracle_apiserver::audit::file::{Keep, RotatingFile};
use coracle_apiserver::audit::policy::Policy;
use coracle_apiserver::audit::{self, Audit};
use coracle_apiserver::auth::front_proxy::RequestHeaders;
use coracle_apiserver::auth::jwt::TokenKey;
use coracle_apiserver::auth::static_token::StaticTokens;
use coracle_apiserver::component::{Answers, Component, serve_plain};
use coracle_apiserver::pages::Pages;
use coracle_apiserver::pki::{CertKey, FRONT_PROXY, Pki};
use coracle_apiserver::security::SecurityConfig;
use coracle_apiserver::{endpoints, metrics, render, serve};
use coracle_client::{LeaderElectionConfig, LeaderElector};
use coracle_controller_manager::{Authority, TokenSigner};
use coracle_kubelet::runtime::docker::{DockerConfig, DockerRuntime, NetworkConfig};
use coracle_kubelet::runtime::simulated::{SimulatedConfig, SimulatedRuntime};
use coracle_kubelet::server::ServerCertificate;
use coracle_scheduler::config::Configuration;
use coracle_scheduler::explain::Decisions;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::{self, ClientFlags, ServingFlags};
use crate::cluster::{NodeOptions, run_node, run_node_on};
use crate::commands::why::DECISIONS;
use crate::data_dir::DataDir;

/// A client by a kubeconfig; `agent` is the program it acts for.
pub async fn client(path: &Path, agent: &'static str) -> anyhow::Result<Client> {
    let context = || format!("kubeconfig {}", path.display());
    let kubeconfig = Kubeconfig::read_from(path).with_context(context)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    Ok(coracle_client::metrics::client(config.with_context(context)?, agent)?)
}

/// A token that is cancelled by SIGINT or SIGTERM.
pub fn shutdown_on_signal() -> anyhow::Result<CancellationToken> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        cancel.cancel();
    });
    Ok(token)
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_lowercase()
}

/// What `/configz` and `/healthz` show of a component.
struct Shown {
    config: Value,
    running: Arc<dyn Fn() -> Vec<&'static str> + Send + Sync>,
    pages: Pages,
}

/// Runs `work`, as the leader if that was asked for, beside a server of health and metrics.
async fn led<F, Fut>(
    name: &'static str,
    flags: &ClientFlags,
    serving: (&ServingFlags, u16),
    shown: Shown,
    work: F,
) -> anyhow::Result<()>
where
    F: FnOnce(Client, CancellationToken) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let client = client(&flags.kubeconfig, name).await?;
    let shutdown = shutdown_on_signal()?;
    let (serving, port) = (serving.0, serving.0.secure_port.unwrap_or(serving.1));
    if port != 0 {
        let component = Component {
            client: client.clone(),
            config: shown.config,
            running: shown.running,
            pages: shown.pages,
            shutdown: shutdown.clone(),
        };
        let certificate = match (&serving.tls_cert_file, &serving.tls_private_key_file) {
            (Some(certificate), Some(key)) => Some(CertKey { cert_pem: read(certificate)?, key_pem: read(key)? }),
            _ => None,
        };
        component.serve(SocketAddr::new(serving.bind_address, port), certificate).await?;
    }
    if !flags.leader_elect {
        return work(client, shutdown).await;
    }
    let identity = format!("{}_{}", hostname(), coracle_clock::uuid());
    LeaderElector::new(client, LeaderElectionConfig::new(name, identity)).run(shutdown, work).await
}

/// `coracle controller-manager`.
pub async fn controller_manager(data_dir: Option<PathBuf>, options: cli::ControllerManager) -> anyhow::Result<()> {
    let cluster_ca = match &options.root_ca_file {
        Some(path) => read(path)?,
        None => certificate_authority(&options.client.kubeconfig)?,
    };
    let volume_dir = match options.volume_dir {
        Some(dir) => dir,
        None => DataDir::new(data_dir)?.join("volumes"),
    };
    let signer = match (&options.cluster_signing_cert_file, &options.cluster_signing_key_file) {
        (Some(certificate), Some(key)) => Some(Arc::new(Authority::from_pem(&read(certificate)?, &read(key)?)?)),
        _ => None,
    };
    let token_signer = match &options.service_account_private_key_file {
        Some(path) => Some(token_signer(&read(path)?)?),
        None => None,
    };
    let (four, six) = (options.node_cidr_mask_size_ipv4, options.node_cidr_mask_size_ipv6);
    let with_mask = |cidr: String| if cidr.contains(':') { (cidr, six) } else { (cidr, four) };
    let cluster_cidrs = options.cluster_cidr.into_iter().filter(|_| options.allocate_node_cidrs).map(with_mask);
    let config = coracle_controller_manager::Config {
        token_signer,
        controllers: options.controllers,
        cluster_ca,
        signer,
        cluster_signing_duration: options.cluster_signing_duration,
        volume_dir,
        load_balancer_pool: options.load_balancer_ip_range,
        cluster_cidrs: cluster_cidrs.collect(),
        node_monitor_grace_period: Duration::from_secs(options.node_monitor_grace_period),
        autoscaler: coracle_controller_manager::Autoscaler {
            concurrent_syncs: options.autoscaler.concurrent_horizontal_pod_autoscaler_syncs,
            sync_period: options.autoscaler.horizontal_pod_autoscaler_sync_period,
            downscale_stabilization: options.autoscaler.horizontal_pod_autoscaler_downscale_stabilization,
            tolerance: options.autoscaler.horizontal_pod_autoscaler_tolerance,
            cpu_initialization_period: options.autoscaler.horizontal_pod_autoscaler_cpu_initialization_period,
            initial_readiness_delay: options.autoscaler.horizontal_pod_autoscaler_initial_readiness_delay,
        },
        ..Default::default()
    };
    let health = config.health.clone();
    let shown = json!({
        "kubecontrollermanager.config.k8s.io": {
            "Generic": { "Controllers": config.controllers, "LeaderElection": leader_election(&options.client) },
            "NodeLifecycleController": { "NodeMonitorGracePeriod": format!("{}s", options.node_monitor_grace_period) },
        },
    });
    let shown = Shown { config: shown, running: Arc::new(move || health.running()), pages: Pages::default() };
    led("kube-controller-manager", &options.client, (&options.serving, 10257), shown, |client, shutdown| {
        coracle_controller_manager::run(client, config, shutdown)
    })
    .await
}

/// Signs claims with a ServiceAccount key (PEM).
pub fn token_signer(pem: &str) -> anyhow::Result<TokenSigner> {
    let key = TokenKey::from_pem(pem)?;
    Ok(Arc::new(move |claims| key.sign(claims).map_err(|error| error.to_string())))
}

/// The authority in a kubeconfig's current cluster.
fn certificate_authority(path: &Path) -> anyhow::Result<String> {
    let config = Kubeconfig::read_from(path).with_context(|| format!("kubeconfig {}", path.display()))?;
    let cluster = config.clusters.iter().find_map(|cluster| cluster.cluster.as_ref());
    let Some(cluster) = cluster else { bail!("{} names no cluster", path.display()) };
    match (&cluster.certificate_authority_data, &cluster.certificate_authority) {
        (Some(data), _) => {
            use base64::Engine;
            let bytes = base64::engine::general_purpose::STANDARD.decode(data.trim())?;
            Ok(String::from_utf8(bytes)?)
        }
        (None, Some(file)) => read(Path::new(file)),
        (None, None) => Ok(String::new()),
    }
}

/// `coracle scheduler`.
pub async fn scheduler(options: cli::Scheduler) -> anyhow::Result<()> {
    let configuration = match &options.config {
        Some(path) => {
            Configuration::parse(&read(path)?).with_context(|| format!("scheduler configuration {}", path.display()))?
        }
        None => Configuration::named(&options.scheduler_name),
    };
    let decisions = Decisions::keep(options.explain_decisions);
    let names = configuration.scheduler_names().into_iter();
    let profiles: Vec<_> = names.map(|name| json!({ "schedulerName": name })).collect();
    let election = leader_election(&options.client);
    let config_shown = json!({ "componentconfig": { "leaderElection": election, "profiles": profiles } });
    let pages = Pages::default();
    explain(&pages, &decisions);
    let shown = Shown { config: config_shown, running: Arc::new(Vec::new), pages };
    let config = coracle_scheduler::Config { configuration, decisions };
    led("kube-scheduler", &options.client, (&options.serving, 10259), shown, |client, shutdown| {
        coracle_scheduler::run(client, config, shutdown)
    })
    .await
}

/// Shows a scheduler's decisions to `coracle why`, if it keeps them.
pub fn explain(pages: &Pages, decisions: &Decisions) {
    if decisions.is_on() {
        let decisions = decisions.clone();
        let page = move |pod: &str| -> Option<Value> {
            Some(decisions.of(pod).iter().map(|trace| json!(trace.as_ref())).collect())
        };
        pages.attach(DECISIONS, Arc::new(page));
    }
}

fn leader_election(flags: &ClientFlags) -> Value {
    json!({ "leaderElect": flags.leader_elect })
}

/// `coracle proxy`.
pub async fn proxy(options: cli::Proxy) -> anyhow::Result<()> {
    let client = client(&options.kubeconfig, "kube-proxy").await?;
    let config = coracle_proxy::Config {
        mode: match options.proxy_mode {
            cli::ProxyMode::Auto => coracle_proxy::Mode::Auto,
            cli::ProxyMode::Nftables => coracle_proxy::Mode::Nftables,
            cli::ProxyMode::Userspace => coracle_proxy::Mode::Userspace,
        },
        nodes: options.hostname_override,
        pod_cidr: options.cluster_cidr,
        service_ranges: options.service_ranges,
        table: options.bridge.clone(),
        bridge: options.bridge,
        health: Arc::default(),
    };
    let shutdown = shutdown_on_signal()?;
    let health = config.health.clone();
    let healthz: Answers = Arc::new(move |path| match path {
        "/healthz" | "/livez" => {
            let (healthy, told) = health.report();
            render::json_bytes(if healthy { 200 } else { 503 }, told.to_string())
        }
        _ => render::text(404, "404 page not found\n"),
    });
    let metrics: Answers = Arc::new(move |path| match path {
        "/healthz" => render::text(200, "ok"),
        "/metrics" => render::text(200, metrics::of_component()),
        _ => render::text(404, "404 page not found\n"),
    });
    for (address, answers) in [(options.healthz_bind_address, healthz), (options.metrics_bind_address, metrics)] {
        if address.port() != 0 {
            serve_plain(address, answers, shutdown.clone()).await?;
        }
    }
    coracle_proxy::run(client, config, shutdown).await
}

/// `coracle kubelet`.
pub async fn kubelet(data_dir: Option<PathBuf>, options: cli::Kubelet) -> anyhow::Result<()> {
    let client = client(&options.kubeconfig, "kubelet").await?;
    let name = options.hostname_override.unwrap_or_else(hostname);
    let root = match options.root_dir {
        Some(dir) => dir,
        None => DataDir::new(data_dir)?.path().to_owned(),
    };
    let mut kubelet = coracle_kubelet::Config::new(&name, options.node_ip, &options.pod_cidr, root);
    kubelet.cluster_dns = options.cluster_dns;
    kubelet.cluster_domain = options.cluster_domain;
    kubelet.max_pods = options.max_pods;
    kubelet.allowed_unsafe_sysctls = options.allowed_unsafe_sysctls;
    kubelet.port = options.port;
    kubelet.labels = labels(&options.node_labels)?;
    let certificate = match (&options.tls_cert_file, &options.tls_private_key_file, &options.client_ca_file) {
        (Some(certificate), Some(key), Some(ca)) => {
            Some(ServerCertificate { chain_pem: read(certificate)?, key_pem: read(key)?, client_ca_pem: read(ca)? })
        }
        (None, None, None) => None,
        _ => bail!("the kubelet's server needs --tls-cert-file, --tls-private-key-file and --client-ca-file together"),
    };
    let node = NodeOptions { kubelet, cluster_id: options.network.clone(), network: options.network, certificate };
    let shutdown = shutdown_on_signal()?;
    if options.container_runtime == cli::ContainerRuntime::Simulated {
        let mut node = node;
        node.kubelet.on_disk = false;
        return run_node_on(client, node, Arc::new(SimulatedRuntime::new(SimulatedConfig::default())), shutdown).await;
    }
    let docker = coracle_images::connect_engine().await?;
    coracle_images::ensure_pause(&docker).await?;
    let runtime =
        DockerRuntime::new(DockerConfig::new(&node.cluster_id, &name, &node.network, coracle_images::PAUSE_IMAGE))?;
    let network = NetworkConfig {
        name: node.network.clone(),
        subnet: options.cluster_cidr.clone(),
        docker_range: first_24(&options.cluster_cidr)?,
        gateway: first_address(&options.cluster_cidr)?.to_string(),
        interface: "coracle0".into(),
    };
    runtime.ensure_network(&network).await?;
    run_node(client, node, shutdown).await
}

fn first_address(cidr: &str) -> anyhow::Result<IpAddr> {
    let range: coracle_apiserver::allocate::Ipv4Cidr = cidr.parse()?;
    Ok(range.address(0).into())
}

/// The first 256 addresses of a range: no node's own.
fn first_24(cidr: &str) -> anyhow::Result<String> {
    let IpAddr::V4(first) = first_address(cidr)? else { bail!("{cidr} is not IPv4") };
    let [a, b, c, _] = first.octets();
    Ok(format!("{a}.{b}.{c}.0/24"))
}

fn labels(texts: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').with_context(|| format!("--node-labels: {text:?} is not key=value"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    texts.iter().map(pair).collect()
}

/// `coracle apiserver`.
pub async fn apiserver(data_dir: Option<PathBuf>, options: cli::Apiserver) -> anyhow::Result<()> {
    let data = DataDir::new(data_dir)?;
    let pki_dir = options.cert_dir.clone().unwrap_or_else(|| data.join("pki"));
    let service_range = options.service_cluster_ip_range.parse()?;
    let ips = [
        options.bind_address,
        options.advertise_address.into(),
        coracle_apiserver::allocate::service_ip(&service_range).into(),
    ];
    let pki = Pki::ensure(&pki_dir, &[hostname()], &ips)?;
    let listener = serve::bind(SocketAddr::new(options.bind_address, options.secure_port)).await?;
    let port = listener.local_addr()?.port();

    let key = match &options.service_account_key_file {
        Some(path) => read(path)?,
        None => pki.service_account_key().to_owned(),
    };
    let client_ca = match &options.client_ca_file {
        Some(path) => read(path)?,
        None => pki.ca_pem().to_owned(),
    };
    let mut security = SecurityConfig::new(TokenKey::from_pem(&key)?, service_range);
    security.node_ports = port_range(&options.service_node_port_range)?;
    security.anonymous_auth = options.anonymous_auth;
    security.authorization = options.authorization_mode.iter().map(|mode| mode.parse()).collect::<Result<_, _>>()?;
    if let Some(path) = &options.token_auth_file {
        let tokens = StaticTokens::parse(&read(path)?).with_context(|| format!("{}", path.display()))?;
        security.static_tokens = Some(tokens);
    }
    security.bootstrap_tokens = options.enable_bootstrap_token_auth;
    security.priority_and_fairness = options.enable_priority_and_fairness;
    security.max_requests_inflight = options.max_requests_inflight;
    security.max_mutating_requests_inflight = options.max_mutating_requests_inflight;
    if let (Some(policy), Some(log)) = (&options.audit_policy_file, &options.audit_log_path) {
        let keep = Keep {
            max_megabytes: options.audit_log_maxsize,
            max_backups: options.audit_log_maxbackup,
            max_days: options.audit_log_maxage,
        };
        security.audit = Some(audit(policy, log, options.audit_log_format, keep)?);
    }
    security.enable_admission = options.enable_admission_plugins;
    security.disable_admission = options.disable_admission_plugins;
    if let Some(path) = &options.admission_control_config_file {
        security.admission = AdmissionConfiguration::read(path)?;
    }
    security.kubelet_client = Some((pki.kubelet_client().clone(), pki.ca_pem().to_owned()));

    let mut front_proxy = RequestHeaders::new(pki.front_proxy_ca_pem(), FRONT_PROXY);
    if let Some(path) = &options.requestheader_client_ca_file {
        front_proxy.client_ca_pem = read(path)?;
        front_proxy.allowed_names = options.requestheader_allowed_names.clone();
    }
    front_proxy.username_headers = options.requestheader_username_headers.clone();
    front_proxy.uid_headers = options.requestheader_uid_headers.clone();
    front_proxy.group_headers = options.requestheader_group_headers.clone();
    front_proxy.extra_prefixes = options.requestheader_extra_headers_prefix.clone();
    let authorities = format!("{client_ca}\n{}", front_proxy.client_ca_pem);
    security.request_headers = Some(front_proxy);
    security.proxy_client = Some(match (&options.proxy_client_cert_file, &options.proxy_client_key_file) {
        (Some(certificate), Some(key)) => CertKey { cert_pem: read(certificate)?, key_pem: read(key)? },
        _ => pki.front_proxy_client().clone(),
    });

    let store = options.store.open(&data).await?;
    let advertise = (options.advertise_address, port);
    let api = assemble(store.clone(), security, advertise, Some(client_ca)).await?;
    let shown = match (&options.tls_cert_file, &options.tls_private_key_file) {
        (Some(certificate), Some(key)) => CertKey { cert_pem: read(certificate)?, key_pem: read(key)? },
        _ => pki.server().clone(),
    };
    let tls = serve::tls(&shown, &authorities)?;
    let shutdown = shutdown_on_signal()?;
    crate::store::compact(&store, options.etcd_compaction_interval, &shutdown);
    tracing::info!(address = %options.bind_address, port, certificates = %pki_dir.display(), "serving");
    let endpoints = endpoints::run(api.config.storage.clone(), advertise, shutdown.clone());
    tokio::join!(endpoints, serve::serve(listener, tls, api.service(), shutdown));
    store.close().await?;
    Ok(())
}

fn audit(policy: &Path, log: &Path, format: cli::AuditLogFormat, keep: Keep) -> anyhow::Result<Arc<Audit>> {
    let policy = Policy::parse(&read(policy)?).with_context(|| format!("{}", policy.display()))?;
    let out: Box<dyn std::io::Write + Send> = match log.to_str() {
        Some("-") => Box::new(std::io::stdout()),
        _ => Box::new(RotatingFile::open(log, keep).with_context(|| format!("cannot write {}", log.display()))?),
    };
    let format = match format {
        cli::AuditLogFormat::Json => audit::Format::Json,
        cli::AuditLogFormat::Legacy => audit::Format::Legacy,
    };
    Ok(Audit::new(policy, format, out))
}

fn port_range(text: &str) -> anyhow::Result<RangeInclusive<u16>> {
    let parse = || {
        let (first, last) = text.split_once('-')?;
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        (0 < first && first <= last).then_some(first..=last)
    };
    parse().with_context(|| format!("--service-node-port-range: {text:?} is not like 30000-32767"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_range_has_a_first_and_a_last_port() {
        assert_eq!(port_range("30000-32767").unwrap(), 30_000..=32_767);
        for bad in ["", "30000", "2-1", "0-5", "1-99999"] {
            assert!(port_range(bad).is_err(), "{bad}");
        }
    }
}
