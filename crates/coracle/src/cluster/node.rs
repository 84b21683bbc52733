//! A node: a kubelet on a Docker engine, with its server.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use coracle_apiserver::pki::Pki;
use coracle_kubelet::runtime::Runtime;
use coracle_kubelet::runtime::docker::{DockerConfig, DockerRuntime};
use coracle_kubelet::server::ServerCertificate;
use coracle_kubelet::{Config, Kubelet};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cluster::network::Rights;
use crate::data_dir::{ClusterConfig, DataDir};

/// How long to wait for a node to register before looking again.
const MARK_RETRY: Duration = Duration::from_millis(200);

/// What a node is made with.
#[derive(Clone)]
pub struct NodeOptions {
    /// The kubelet's own configuration.
    pub kubelet: Config,
    /// Tells this cluster's Docker objects from others'.
    pub cluster_id: String,
    /// The pods' Docker network.
    pub network: String,
    /// What the kubelet's server shows and whom it trusts; without it there is no server.
    pub certificate: Option<ServerCertificate>,
}

/// The configuration of node number `number`.
pub fn kubelet_config(config: &ClusterConfig, number: u8, dir: &DataDir, rights: Rights) -> Config {
    let ip = rights.node_ip(config, number);
    let mut kubelet = Config::new(&config.node_name(number), ip, &config.node_cidr(number), dir.path());
    kubelet.cluster_dns = vec![config.dns_ip().to_string()];
    kubelet.port = rights.kubelet_port(number);
    kubelet
}

/// Marks the node that the control plane runs on, once it is there: no kubelet may say that of itself.
pub async fn mark_control_plane(client: Client, name: String) {
    let nodes: Api<Node> = Api::all(client);
    let patch = json!({ "metadata": { "labels": { "node-role.kubernetes.io/control-plane": "" } } });
    while nodes.patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch)).await.is_err() {
        coracle_clock::sleep(MARK_RETRY).await;
    }
}

/// The certificate of node number `number`'s server.
pub fn certificate(pki: &Pki, config: &ClusterConfig, number: u8, rights: Rights) -> anyhow::Result<ServerCertificate> {
    let ips: Vec<IpAddr> = vec![rights.node_ip(config, number)];
    let pair = pki.node(&config.node_name(number), &ips)?;
    Ok(ServerCertificate { chain_pem: pair.cert_pem, key_pem: pair.key_pem, client_ca_pem: pki.ca_pem().into() })
}

/// Runs a node until shutdown.
pub async fn run_node(client: Client, options: NodeOptions, shutdown: CancellationToken) -> anyhow::Result<()> {
    let docker = DockerConfig::new(
        &options.cluster_id,
        &options.kubelet.node_name,
        &options.network,
        coracle_images::PAUSE_IMAGE,
    );
    let runtime: Arc<dyn Runtime> = Arc::new(DockerRuntime::new(docker)?);
    run_node_on(client, options, runtime, shutdown).await
}

/// Runs a node on any runtime until shutdown.
pub async fn run_node_on(
    client: Client,
    options: NodeOptions,
    runtime: Arc<dyn Runtime>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let address = SocketAddr::new(options.kubelet.node_ip, options.kubelet.port);
    let node = options.kubelet.node_name.clone();
    let kubelet = Kubelet::new(client, runtime, options.kubelet)?;
    let Some(certificate) = options.certificate else { return kubelet.run(shutdown).await };
    let listener = TcpListener::bind(address).await.with_context(|| format!("{node} cannot listen on {address}"))?;
    let serving = kubelet.server(certificate).serve(listener, shutdown.clone());
    let (served, ran) = tokio::join!(serving, kubelet.run(shutdown.clone()));
    served?;
    ran
}
