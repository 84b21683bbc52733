//! The pods' network: one Docker bridge, and what the host must be given so that it reaches into it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, bail};
use bollard::Docker;
use bollard::query_parameters::ListNetworksOptionsBuilder;
use coracle_kubelet::runtime::docker::{DockerConfig, DockerRuntime, NetworkConfig};
use tokio::net::TcpListener;
use tokio::process::Command;

use super::{DEFAULT_NODES, DEFAULT_PORT};
use crate::data_dir::{ClusterConfig, MAX_CLUSTERS};

/// What this process may do on the host, found out once.
#[derive(Clone, Copy, Debug)]
pub struct Rights {
    /// Whether the bridge is on this host and addresses and rules may be set. Not so for ordinary users, nor where
    /// the engine lives in a virtual machine.
    pub host_network: bool,
    gateway: Ipv4Addr,
}

impl Rights {
    /// Where the node's kubelet listens, and what pods see as their host.
    pub fn node_ip(self, config: &ClusterConfig, node: u8) -> IpAddr {
        if self.host_network { config.node_ip(node).into() } else { Ipv4Addr::LOCALHOST.into() }
    }

    /// The kubelet's port: the usual one where each node has an address of its own.
    pub fn kubelet_port(self, node: u8) -> u16 {
        if self.host_network { 10_250 } else { 10_250 + u16::from(node) }
    }

    /// The address by which pods reach servers of this process.
    pub fn pods_reach(self, config: &ClusterConfig) -> Ipv4Addr {
        if self.host_network { config.gateway() } else { Ipv4Addr::LOCALHOST }
    }

    /// Where Services of type LoadBalancer get their addresses; without rights on the host, loopback ones, on which
    /// the user-space proxy can listen.
    pub fn load_balancer_pool(self, config: &ClusterConfig) -> String {
        if self.host_network { config.load_balancer_cidr() } else { format!("127.112.{}.0/24", config.index) }
    }

    /// The API server's listener for pods.
    pub async fn gateway_listener(self, port: u16) -> Option<TcpListener> {
        if !self.host_network {
            return None;
        }
        match coracle_apiserver::serve::bind(SocketAddr::new(self.gateway.into(), port)).await {
            Ok(listener) => Some(listener),
            Err(error) => {
                tracing::warn!("pods cannot reach the API server: {error}");
                None
            }
        }
    }
}

/// A new cluster, with the first number whose address ranges no Docker network uses. The pods' network is made at
/// once: the engine, which lets no two networks overlap, decides between clusters that are made at the same moment.
pub async fn claim(docker: &Docker) -> anyhow::Result<ClusterConfig> {
    let id = format!("{:08x}", coracle_clock::random_u64() as u32);
    let cluster = |index| ClusterConfig { id: id.clone(), index, port: DEFAULT_PORT, nodes: DEFAULT_NODES, etcd: None };
    let mut refusal = None;
    for index in 0..MAX_CLUSTERS {
        let config = cluster(index);
        if subnets(docker).await?.contains(&config.pod_cidr()) {
            continue;
        }
        match ensure_network(&config).await {
            Ok(()) => return Ok(config),
            Err(error) => refusal = Some(error),
        }
    }
    match refusal {
        Some(error) => Err(error),
        None => bail!(
            "there are {MAX_CLUSTERS} clusters on this Docker engine; remove one with `coracle down --purge`, \
             or a lost one's network (`docker network ls --filter label=io.coracle.cluster`)"
        ),
    }
}

/// The address ranges of all Docker networks.
async fn subnets(docker: &Docker) -> anyhow::Result<BTreeSet<String>> {
    let networks = docker.list_networks(Some(ListNetworksOptionsBuilder::new().build())).await?;
    let ranges = networks.into_iter().filter_map(|network| network.ipam?.config).flatten();
    Ok(ranges.filter_map(|range| range.subnet).collect())
}

/// Makes the pods' network unless it is there.
///
/// # Errors
/// If its addresses, or its name, are another's.
async fn ensure_network(config: &ClusterConfig) -> anyhow::Result<()> {
    let runtime =
        DockerRuntime::new(DockerConfig::new(&config.id, "", &config.network(), coracle_images::PAUSE_IMAGE))?;
    let network = NetworkConfig {
        name: config.network(),
        subnet: config.pod_cidr(),
        docker_range: config.docker_range(),
        gateway: config.gateway().to_string(),
        interface: config.bridge(),
    };
    let owner = runtime.ensure_network(&network).await.context("the pods' network")?;
    if owner != config.id {
        bail!(
            "the Docker network {} belongs to another cluster ({owner}); remove that one with `coracle down --purge`",
            network.name
        );
    }
    Ok(())
}

/// Makes sure of the bridge, and gives the host the nodes' addresses on it.
pub async fn ensure(config: &ClusterConfig) -> anyhow::Result<Rights> {
    ensure_network(config).await?;
    let mut host_network = std::path::Path::new("/sys/class/net").join(config.bridge()).exists();
    for node in 0..config.nodes {
        host_network = host_network && add_address(config.node_ip(node), &config.bridge()).await;
    }
    if !host_network {
        tracing::warn!(
            "no rights on the host's network: NodePorts and load balancers are served from user space; \
             ClusterIPs, pods' access to the API server and cluster DNS need root on Linux"
        );
    }
    Ok(Rights { host_network, gateway: config.gateway() })
}

async fn add_address(ip: Ipv4Addr, bridge: &str) -> bool {
    let output = Command::new("ip").args(["address", "replace", &format!("{ip}/32"), "dev", bridge]).output().await;
    match output {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            tracing::debug!(%ip, error = %String::from_utf8_lossy(&output.stderr), "address not added");
            false
        }
        Err(error) => {
            tracing::debug!(%ip, %error, "ip could not be run");
            false
        }
    }
}
