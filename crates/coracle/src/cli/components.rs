//! The other components alone.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::values::duration;

/// How a component reaches the API server.
#[derive(Clone, Debug, Args)]
pub struct ClientFlags {
    /// The kubeconfig by which the API server is reached.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Take part in leader election, so that one of several instances is active.
    #[arg(long, default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub leader_elect: bool,
}

/// Where a component alone tells how it is.
#[derive(Clone, Debug, Args)]
pub struct ServingFlags {
    /// The address to serve health and metrics on.
    #[arg(long, default_value = "127.0.0.1")]
    pub bind_address: IpAddr,
    /// The port there, with TLS; 0 serves nothing (default: 10257 the controllers, 10259 the scheduler).
    #[arg(long, value_name = "PORT")]
    pub secure_port: Option<u16>,
    /// The certificate to show (default: one that it makes for itself).
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
}

/// `coracle controller-manager`.
#[derive(Debug, Args)]
pub struct ControllerManager {
    /// How the API server is reached.
    #[command(flatten)]
    pub client: ClientFlags,
    /// Where health and metrics are.
    #[command(flatten)]
    pub serving: ServingFlags,
    /// Which controllers run: * for those on by default, name or -name for one.
    #[arg(long, value_delimiter = ',', default_value = "*")]
    pub controllers: Vec<String>,
    /// The authority published to each namespace, for pods to trust the API server (default: the kubeconfig's).
    #[arg(long, value_name = "FILE")]
    pub root_ca_file: Option<PathBuf>,
    /// The key that signs the ServiceAccount tokens in Secrets.
    #[arg(long, value_name = "FILE")]
    pub service_account_private_key_file: Option<PathBuf>,
    /// The authority that signs certificate requests.
    #[arg(long, value_name = "FILE", requires = "cluster_signing_key_file")]
    pub cluster_signing_cert_file: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "cluster_signing_cert_file")]
    pub cluster_signing_key_file: Option<PathBuf>,
    /// How long signed certificates last, such as 8760h0m0s; a request may ask for less.
    #[arg(long, value_name = "DURATION", default_value = "8760h0m0s", value_parser = duration)]
    pub cluster_signing_duration: Duration,
    /// How long a node may be silent before it counts as unreachable, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 50)]
    pub node_monitor_grace_period: u64,
    /// Where provisioned volumes lie (default: volumes in the data directory).
    #[arg(long, value_name = "DIR")]
    pub volume_dir: Option<PathBuf>,
    /// The addresses for Services of type LoadBalancer.
    #[arg(long, value_name = "CIDR", default_value = "10.112.0.0/24")]
    pub load_balancer_ip_range: String,
    /// Give nodes without a podCIDR one each.
    #[arg(long, default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub allocate_node_cidrs: bool,
    /// The addresses of all pods, one range a family, for --allocate-node-cidrs.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', default_value = "10.244.0.0/16")]
    pub cluster_cidr: Vec<String>,
    /// The length of a node's IPv4 podCIDR.
    #[arg(long, value_name = "BITS", default_value_t = 24)]
    pub node_cidr_mask_size_ipv4: u8,
    /// The length of a node's IPv6 podCIDR.
    #[arg(long, value_name = "BITS", default_value_t = 64)]
    pub node_cidr_mask_size_ipv6: u8,
    /// How replicas follow load.
    #[command(flatten)]
    pub autoscaler: AutoscalerFlags,
}

/// How the HorizontalPodAutoscaler controller works.
#[derive(Debug, Args)]
pub struct AutoscalerFlags {
    /// How many autoscalers are looked at at once.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub concurrent_horizontal_pod_autoscaler_syncs: usize,
    /// How often each autoscaler is looked at.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    pub horizontal_pod_autoscaler_sync_period: Duration,
    /// How long a recommendation holds against fewer replicas.
    #[arg(long, value_name = "DURATION", default_value = "5m0s", value_parser = duration)]
    pub horizontal_pod_autoscaler_downscale_stabilization: Duration,
    /// By which share of the target usage may differ from it.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub horizontal_pod_autoscaler_tolerance: f64,
    /// So long after a pod's start its CPU use counts only if measured while it was ready.
    #[arg(long, value_name = "DURATION", default_value = "5m0s", value_parser = duration)]
    pub horizontal_pod_autoscaler_cpu_initialization_period: Duration,
    /// A pod that was last ready so soon after its start counts as never ready.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub horizontal_pod_autoscaler_initial_readiness_delay: Duration,
}

/// `coracle scheduler`.
#[derive(Debug, Args)]
pub struct Scheduler {
    /// How the API server is reached.
    #[command(flatten)]
    pub client: ClientFlags,
    /// Where health and metrics are.
    #[command(flatten)]
    pub serving: ServingFlags,
    /// Only pods with this spec.schedulerName are scheduled.
    #[arg(long, default_value = "default-scheduler")]
    pub scheduler_name: String,
    /// A KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1): profiles, plugins, weights and arguments.
    #[arg(long, value_name = "FILE", conflicts_with = "scheduler_name")]
    pub config: Option<PathBuf>,
    /// Keep the traces of the last N decisions, for `coracle why`; 0 keeps none.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub explain_decisions: usize,
}

/// `coracle kubelet`.
#[derive(Debug, Args)]
pub struct Kubelet {
    /// The kubeconfig by which the API server is reached.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// The node's name (default: the host's).
    #[arg(long)]
    pub hostname_override: Option<String>,
    /// The node's address.
    #[arg(long, default_value = "127.0.0.1")]
    pub node_ip: IpAddr,
    /// The addresses of this node's pods.
    #[arg(long, default_value = "10.244.1.0/24")]
    pub pod_cidr: String,
    /// The addresses of all pods: the Docker network they share.
    #[arg(long, default_value = "10.244.0.0/16")]
    pub cluster_cidr: String,
    /// The Docker network of the pods; made if it is not there.
    #[arg(long, default_value = "coracle")]
    pub network: String,
    /// Where pods' files lie (default: the data directory).
    #[arg(long, value_name = "DIR")]
    pub root_dir: Option<PathBuf>,
    /// The cluster's DNS server.
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.10")]
    pub cluster_dns: Vec<String>,
    /// The cluster's domain.
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Labels of the node.
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE")]
    pub node_labels: Vec<String>,
    /// Greatest number of pods.
    #[arg(long, default_value_t = 110)]
    pub max_pods: u32,
    /// What pods may set of the kernel besides what is safe: names, or their beginnings with *.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub allowed_unsafe_sysctls: Vec<String>,
    /// The port of the kubelet's own server.
    #[arg(long, default_value_t = 10250)]
    pub port: u16,
    /// The authority whose client certificates the server takes.
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// The certificate the server shows.
    #[arg(long, value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE")]
    pub tls_private_key_file: Option<PathBuf>,
    /// Who runs containers: docker, or simulated (pods play by rules, nothing runs).
    #[arg(long, default_value = "docker")]
    pub container_runtime: ContainerRuntime,
}

/// Who runs containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ContainerRuntime {
    /// A Docker engine.
    Docker,
    /// Nobody: pods play by rules.
    Simulated,
}

/// `coracle proxy`.
#[derive(Debug, Args)]
pub struct Proxy {
    /// The kubeconfig by which the API server is reached.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// The nodes served from this host (default: all).
    #[arg(long, value_delimiter = ',')]
    pub hostname_override: Vec<String>,
    /// The addresses of all pods.
    #[arg(long, default_value = "10.244.0.0/16")]
    pub cluster_cidr: String,
    /// The ranges of Service addresses that are routed to the pods' bridge.
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.0/16,10.112.0.0/24")]
    pub service_ranges: Vec<String>,
    /// The pods' bridge.
    #[arg(long, default_value = "coracle0")]
    pub bridge: String,
    /// How Services are served.
    #[arg(long, default_value = "auto")]
    pub proxy_mode: ProxyMode,
    /// Where /healthz and /livez are; port 0 serves nothing.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10256")]
    pub healthz_bind_address: SocketAddr,
    /// Where /metrics is; port 0 serves nothing.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10249")]
    pub metrics_bind_address: SocketAddr,
}

/// How Services are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProxyMode {
    /// nftables where it may be used, else user space.
    Auto,
    /// By the kernel.
    Nftables,
    /// NodePorts and load balancers only.
    Userspace,
}
