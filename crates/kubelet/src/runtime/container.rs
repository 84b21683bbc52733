//! Containers: what they are made from, how they are, what they use and what happens to them.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::PodRef;

/// An environment variable with its value resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvVar {
    /// The name.
    pub name: String,
    /// The value.
    pub value: String,
}

/// How mounts made later travel between host and container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MountPropagation {
    /// Not at all.
    #[default]
    Private,
    /// From the host into the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// A file or directory of the host that a container sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// The path on the host; it must exist.
    pub host_path: String,
    /// The path in the container.
    pub container_path: String,
    /// Whether writing is refused.
    pub read_only: bool,
    /// How mounts made later travel.
    pub propagation: MountPropagation,
}

/// A container's limits. `None` means no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Relative weight among containers, 1024 for one processor.
    pub cpu_shares: Option<i64>,
    /// Processor time per period, in microseconds.
    pub cpu_quota_us: Option<i64>,
    /// The period, in microseconds.
    pub cpu_period_us: Option<i64>,
    /// Memory limit in bytes.
    pub memory_bytes: Option<i64>,
    /// Greatest number of processes and threads.
    pub pids: Option<i64>,
    /// How readily the kernel kills the container when memory runs out (-1000 to 1000).
    pub oom_score_adj: Option<i64>,
}

/// Linux capabilities to add and drop, without the prefix `CAP_`; `ALL` is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// To add.
    pub add: Vec<String>,
    /// To drop.
    pub drop: Vec<String>,
}

/// Which system calls are let through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// The runtime's default profile.
    #[default]
    RuntimeDefault,
    /// All.
    Unconfined,
    /// The profile in this JSON text.
    Profile(String),
}

/// As whom and with which rights a container runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecurityContext {
    /// User id; the image's user when `None`.
    pub run_as_user: Option<i64>,
    /// Group id; the image's when `None`.
    pub run_as_group: Option<i64>,
    /// Further groups (`supplementalGroups` and `fsGroup`).
    pub supplemental_groups: Vec<i64>,
    /// Capabilities to add and drop.
    pub capabilities: Capabilities,
    /// All of the host's rights and devices.
    pub privileged: bool,
    /// The root file system cannot be written.
    pub read_only_root: bool,
    /// No gain of rights by setuid programs (`allowPrivilegeEscalation: false`).
    pub no_new_privileges: bool,
    /// Which system calls are let through.
    pub seccomp: Seccomp,
}

/// What a new container is to be like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerConfig {
    /// The pod.
    pub pod: PodRef,
    /// The container's name in the pod.
    pub name: String,
    /// How often the container was restarted before; together with pod and name it is unique.
    pub attempt: u32,
    /// The image, by reference or id.
    pub image: String,
    /// Replaces the image's entrypoint when not empty (a container's `command`).
    pub command: Vec<String>,
    /// Replaces the image's default arguments when not empty (a container's `args`).
    pub args: Vec<String>,
    /// The working directory; the image's when empty.
    pub working_dir: String,
    /// The environment, in order.
    pub env: Vec<EnvVar>,
    /// Files and directories of the host, `/etc/hosts` and `/etc/resolv.conf` among them.
    pub mounts: Vec<Mount>,
    /// Allocate a terminal.
    pub tty: bool,
    /// Keep standard input open.
    pub stdin: bool,
    /// Close standard input after the first attached client leaves.
    pub stdin_once: bool,
    /// Limits.
    pub resources: Resources,
    /// As whom and with which rights it runs.
    pub security: SecurityContext,
    /// Share one process namespace with the sandbox (`shareProcessNamespace`).
    pub share_pid: bool,
    /// Share the process namespace of this other container (an ephemeral container's target), by its id.
    pub target_container: Option<String>,
    /// Share the host's process namespace.
    pub host_pid: bool,
    /// The signal that asks it to stop (`SIGQUIT`); the image's when `None`.
    pub stop_signal: Option<String>,
    /// How long it may take to stop, in seconds, when the runtime stops it without being told how long.
    pub stop_timeout_seconds: Option<i64>,
    /// The control group it belongs under; the engine's default when empty.
    pub cgroup_parent: String,
    /// Labels of the caller's; those that say which container this is are added by the runtime.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the caller's, returned unchanged (a place for the hash of the container's spec).
    pub annotations: BTreeMap<String, String>,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerState {
    /// Created, not started.
    Created,
    /// Running.
    Running,
    /// Its process has ended.
    Exited,
    /// The runtime cannot tell.
    Unknown,
}

/// A container as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStatus {
    /// The runtime's id.
    pub id: String,
    /// The sandbox it lives in.
    pub sandbox_id: String,
    /// The pod.
    pub pod: PodRef,
    /// The container's name in the pod.
    pub name: String,
    /// How often the container was restarted before.
    pub attempt: u32,
    /// Where it is in its life.
    pub state: ContainerState,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its process was started.
    pub started_at: Option<Timestamp>,
    /// When its process ended.
    pub finished_at: Option<Timestamp>,
    /// What its process answered; meaningful when [`ContainerState::Exited`] (or failed to start: 127, 128).
    pub exit_code: i32,
    /// Why it ended, as `kubectl` shows it: `Completed`, `Error`, `OOMKilled`, `ContainerCannotRun` or `StartError`;
    /// empty while it runs.
    pub reason: String,
    /// Details to the reason, in the engine's words.
    pub message: String,
    /// The image as it was asked for.
    pub image: String,
    /// The image's id (or repository digest), for `containerStatuses[].imageID`.
    pub image_id: String,
    /// The caller's labels.
    pub labels: BTreeMap<String, String>,
    /// The caller's annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Which containers to list; an empty filter passes all of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerFilter {
    /// Only those of this pod.
    pub pod_uid: Option<String>,
    /// Only those in this sandbox.
    pub sandbox_id: Option<String>,
    /// Only those in this state.
    pub state: Option<ContainerState>,
}

/// One sample of what a container uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerStats {
    /// The runtime's id.
    pub id: String,
    /// The pod.
    pub pod: PodRef,
    /// The container's name in the pod.
    pub name: String,
    /// When the sample was taken.
    pub at: Timestamp,
    /// Processor time since start, in nanoseconds.
    pub cpu_usage_nanos: u64,
    /// The rate of that lately, in billionths of a processor; the kubelet fills it in once it has two samples.
    pub cpu_nano_cores: Option<u64>,
    /// Memory in use including caches, in bytes.
    pub memory_usage_bytes: u64,
    /// Memory that cannot be reclaimed at once (usage less inactive file cache), in bytes.
    pub memory_working_set_bytes: u64,
    /// Anonymous memory, in bytes.
    pub memory_rss_bytes: u64,
    /// Major and minor page faults since start.
    pub page_faults: u64,
    /// Page faults that needed the disk.
    pub major_page_faults: u64,
    /// Number of processes and threads.
    pub pids: u64,
}

/// What happened to a container or sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerEventKind {
    /// Its process was started.
    Started,
    /// Its process ended.
    Died,
    /// The kernel killed one of its processes for lack of memory.
    Oom,
    /// It was removed.
    Destroyed,
}

/// Something happened to a container or sandbox of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerEvent {
    /// The runtime's id of the container or sandbox.
    pub id: String,
    /// The pod.
    pub pod: PodRef,
    /// The container's name in the pod; `None` for the sandbox.
    pub container: Option<String>,
    /// What happened.
    pub kind: ContainerEventKind,
    /// What the process answered, when it ended.
    pub exit_code: Option<i32>,
}
