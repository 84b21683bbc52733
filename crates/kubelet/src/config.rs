//! What a kubelet is told.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use kube::runtime::watcher;

use crate::heartbeat::Heartbeats;

/// How often a kubelet asks again that need not.
const SELDOM: Duration = Duration::from_secs(24 * 3600);

/// A kubelet's configuration. [`Config::new`] fills in upstream's defaults.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name, under which it registers and by which pods are bound to it.
    pub node_name: String,
    /// The node's internal address, `status.hostIP` of its pods.
    pub node_ip: IpAddr,
    /// The addresses of this node's pods (`10.244.1.0/24`); the first is the node's own.
    pub pod_cidr: String,
    /// Where pods' files lie: `<data_dir>/pods/<uid>/…`.
    pub data_dir: PathBuf,
    /// Addresses of the cluster's DNS service, for pods with `dnsPolicy: ClusterFirst`.
    pub cluster_dns: Vec<String>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// Labels of the node besides the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// Taints that the node registers with.
    pub taints: Vec<Taint>,
    /// Greatest number of pods.
    pub max_pods: u32,
    /// What pods may set of the kernel besides what is safe: names, or their beginnings with `*`.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Processors to offer; those of the runtime when `None`.
    pub cpus: Option<u64>,
    /// Memory to offer in bytes; that of the runtime when `None`.
    pub memory_bytes: Option<u64>,
    /// What is kept back of the processors for the system, in thousandths.
    pub reserved_cpu_milli: u64,
    /// What is kept back of the memory for the system, in bytes.
    pub reserved_memory_bytes: u64,
    /// The port on which the kubelet's server listens (`status.daemonEndpoints`).
    pub port: u16,
    /// Whether volumes, `/etc/hosts` and the like are written to disk. Simulated containers need none.
    pub on_disk: bool,
    /// The host's resolver configuration, for pods with `dnsPolicy: Default`.
    pub resolv_conf: PathBuf,
    /// When the node's lease and status are written although nothing about them is new.
    pub heartbeats: Heartbeats,
    /// Whether what may have been missed is asked for again and again: watches, and what the runtime has. Where API server,
    /// kubelet and runtime are one process, nothing is lost between them.
    pub asks_again: bool,
}

impl Config {
    /// A configuration with upstream's defaults.
    pub fn new(node_name: &str, node_ip: IpAddr, pod_cidr: &str, data_dir: impl Into<PathBuf>) -> Config {
        Config {
            node_name: node_name.into(),
            node_ip,
            pod_cidr: pod_cidr.into(),
            data_dir: data_dir.into(),
            cluster_dns: vec!["10.96.0.10".into()],
            cluster_domain: "cluster.local".into(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            max_pods: 110,
            allowed_unsafe_sysctls: Vec::new(),
            cpus: None,
            memory_bytes: None,
            reserved_cpu_milli: 0,
            reserved_memory_bytes: 0,
            port: 10250,
            on_disk: true,
            resolv_conf: "/etc/resolv.conf".into(),
            heartbeats: Heartbeats::default(),
            asks_again: true,
        }
    }

    /// How objects are watched.
    pub(crate) fn watching(&self) -> watcher::Config {
        let config = watcher::Config::default();
        // Bookmarks are for whoever begins anew, and the timeout is for connections that break in silence.
        if self.asks_again { config } else { config.disable_bookmarks().timeout(SELDOM.as_secs() as u32) }
    }

    /// How often something is asked for again that otherwise is every so often.
    pub(crate) fn again(&self, every: Duration) -> Duration {
        if self.asks_again { every } else { SELDOM }
    }
}
