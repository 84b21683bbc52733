//! Sandboxes: what holds a pod's IP address and namespaces.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;

/// Which pod an object of the runtime belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodRef {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
}

/// How names are resolved: the lines of a `resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsConfig {
    /// Addresses of name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options such as `ndots:5`.
    pub options: Vec<String>,
}

/// A transport protocol of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TransportProtocol {
    /// TCP, the default.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the pod that the host publishes (`hostPort`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortMapping {
    /// The host's address to listen on; every address when `None`.
    pub host_ip: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
    /// The transport protocol.
    pub protocol: TransportProtocol,
}

/// What a new sandbox is to be like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxConfig {
    /// The pod.
    pub pod: PodRef,
    /// How many sandboxes the pod had before.
    pub attempt: u32,
    /// The hostname that all containers see.
    pub hostname: String,
    /// How the sandbox resolves names.
    pub dns: DnsConfig,
    /// The pod's address; the runtime chooses when `None`. Not used with `host_network`.
    pub ip: Option<IpAddr>,
    /// Share the host's network instead of having one.
    pub host_network: bool,
    /// Share the host's process namespace.
    pub host_pid: bool,
    /// Share the host's IPC namespace.
    pub host_ipc: bool,
    /// Kernel parameters of the pod's namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Ports that the host publishes.
    pub port_mappings: Vec<PortMapping>,
    /// Size of the shared `/dev/shm` in bytes; the engine's default when `None`.
    pub shm_size_bytes: Option<i64>,
    /// The control group the pod's containers belong under; the engine's default when empty.
    pub cgroup_parent: String,
    /// Labels of the caller's; those that say which pod this is are added by the runtime.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the caller's, returned unchanged.
    pub annotations: BTreeMap<String, String>,
}

/// Whether a sandbox can hold containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SandboxState {
    /// It runs.
    Ready,
    /// It never ran, was stopped or died.
    NotReady,
}

/// A sandbox as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxStatus {
    /// The runtime's id.
    pub id: String,
    /// The pod.
    pub pod: PodRef,
    /// How many sandboxes the pod had before.
    pub attempt: u32,
    /// Whether it can hold containers.
    pub state: SandboxState,
    /// When it was created.
    pub created_at: Timestamp,
    /// The pod's address; `None` with the host's network and when the sandbox does not run.
    pub ip: Option<IpAddr>,
    /// Whether it shares the host's network.
    pub host_network: bool,
    /// The caller's labels.
    pub labels: BTreeMap<String, String>,
    /// The caller's annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Which sandboxes to list; an empty filter passes all of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxFilter {
    /// Only those of this pod.
    pub pod_uid: Option<String>,
    /// Only those in this state.
    pub state: Option<SandboxState>,
}
