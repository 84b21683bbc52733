//! The container runtime interface: everything a kubelet asks of whoever runs its containers.
//!
//! The shape is that of Kubernetes' CRI. A pod is a *sandbox* (the process that holds the pod's IP address and
//! namespaces) plus *containers* that join it; images are pulled and listed; logs, exec, attach and port-forward
//! are streams. The kubelet's pod workers drive this trait and know nothing of what is behind it:
//!
//! - [`docker`]: containers in a Docker Engine;
//! - [`simulated`]: containers that only pretend, for simulations in virtual time.
//!
//! # Contract
//!
//! - **Ids are the runtime's.** The kubelet finds its own objects again through [`PodRef`], container name and attempt,
//!   which every listing returns: a restarted kubelet adopts what runs instead of starting it anew.
//! - **Idempotent.** Stopping what is stopped and removing what is gone succeeds.
//! - **A dead sandbox takes its pod with it.** Its containers have lost their network; the caller stops them all and
//!   starts a new sandbox with the next attempt.
//! - **`/etc/hosts` and `/etc/resolv.conf` are the kubelet's.** It writes them under `<data>/pods/<uid>/etc-hosts` and
//!   `<data>/pods/<uid>/resolv.conf` and passes them to each container as ordinary [`Mount`]s; the runtime adds none.
//!   [`SandboxConfig::dns`] serves the sandbox itself and runtimes that need it. The hostname follows the sandbox.
//! - **The engine may go away.** Then calls fail with [`RuntimeError::EngineDown`] and the event stream ends; the
//!   caller subscribes again and relists.
//! - **Scope.** A runtime shows and touches only the objects of its own cluster and node.

mod container;
pub mod docker;
mod error;
mod image;
mod reference;
mod sandbox;
mod session;
pub mod simulated;

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

pub use container::{
    Capabilities, ContainerConfig, ContainerEvent, ContainerEventKind, ContainerFilter, ContainerState, ContainerStats,
    ContainerStatus, EnvVar, Mount, MountPropagation, Resources, Seccomp, SecurityContext,
};
pub use error::RuntimeError;
pub use image::{ImageInfo, ImageUser, RegistryAuth};
pub use reference::ImageReference;
pub use sandbox::{
    DnsConfig, PodRef, PortMapping, SandboxConfig, SandboxFilter, SandboxState, SandboxStatus, TransportProtocol,
};
pub use session::{
    ByteStream, ExecOptions, ExecOutput, LogChunk, LogOptions, OutputChunk, OutputStream, Session, TerminalSize,
};

/// The result of a call to a runtime.
pub type Result<T> = std::result::Result<T, RuntimeError>;

/// Who the runtime is and whether it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeVersion {
    /// The runtime's name, as it stands before `://` in container ids (`docker`).
    pub name: String,
    /// The runtime's own version (`20.10.24`).
    pub version: String,
    /// The kernel the containers run on.
    pub kernel: String,
    /// The operating system image, for `node.status.nodeInfo.osImage`.
    pub os_image: String,
    /// The machine's architecture by Go's name (`amd64`).
    pub architecture: String,
    /// The number of processors that containers may use.
    pub cpus: u64,
    /// The memory that containers may use, in bytes.
    pub memory_bytes: u64,
}

/// A container runtime. See the [module](self) for the contract.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Asks the engine who it is; succeeds only when it is up.
    async fn version(&self) -> Result<RuntimeVersion>;

    /// Creates and starts a sandbox, and answers its id.
    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String>;
    /// Stops a sandbox and with it whatever still runs inside.
    async fn stop_sandbox(&self, sandbox_id: &str) -> Result<()>;
    /// Removes a sandbox and the containers in it, stopping them by force.
    async fn remove_sandbox(&self, sandbox_id: &str) -> Result<()>;
    /// A sandbox's state; [`RuntimeError::NotFound`] when there is none with this id.
    async fn sandbox_status(&self, sandbox_id: &str) -> Result<SandboxStatus>;
    /// The sandboxes that pass the filter, newest first.
    async fn list_sandboxes(&self, filter: &SandboxFilter) -> Result<Vec<SandboxStatus>>;

    /// Creates a container in a sandbox without starting it, and answers its id. Its image must be present.
    async fn create_container(&self, sandbox_id: &str, config: &ContainerConfig) -> Result<String>;
    /// Starts a created container.
    async fn start_container(&self, container_id: &str) -> Result<()>;
    /// Asks a container to stop with its stop signal (SIGTERM unless the image says otherwise) and kills it after
    /// `grace`. Returns when it has exited.
    async fn stop_container(&self, container_id: &str, grace: Duration) -> Result<()>;
    /// Removes a container and its writable layer and logs, killing it first if it runs.
    async fn remove_container(&self, container_id: &str) -> Result<()>;
    /// A container's state; [`RuntimeError::NotFound`] when there is none with this id.
    async fn container_status(&self, container_id: &str) -> Result<ContainerStatus>;
    /// The containers (no sandboxes) that pass the filter, newest first.
    async fn list_containers(&self, filter: &ContainerFilter) -> Result<Vec<ContainerStatus>>;
    /// Changes a running container's limits in place.
    async fn update_resources(&self, container_id: &str, resources: &Resources) -> Result<()>;

    /// Runs a command in a container and collects its output. [`RuntimeError::Timeout`] when it takes longer than
    /// `timeout`; no limit when `None`.
    async fn exec_sync(&self, container_id: &str, command: &[String], timeout: Option<Duration>) -> Result<ExecOutput>;
    /// Runs a command in a container with its streams connected.
    async fn exec(&self, container_id: &str, options: &ExecOptions) -> Result<Session>;
    /// Connects to the streams of a container's own process. `options.command` is not used.
    async fn attach(&self, container_id: &str, options: &ExecOptions) -> Result<Session>;
    /// Opens a connection to a port inside a sandbox.
    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<Box<dyn ByteStream>>;

    /// A container's log, oldest first. With `follow` it ends when the container has exited.
    async fn logs(&self, container_id: &str, options: &LogOptions) -> Result<BoxStream<'static, Result<LogChunk>>>;
    /// One sample of what a container uses.
    async fn container_stats(&self, container_id: &str) -> Result<ContainerStats>;
    /// One sample for each running container of this node.
    async fn list_stats(&self) -> Result<Vec<ContainerStats>>;

    /// Fetches an image from its registry and answers its id.
    async fn pull_image(&self, image: &str, auth: Option<&RegistryAuth>) -> Result<String>;
    /// What is known of a local image; `None` when it is absent.
    async fn image_status(&self, image: &str) -> Result<Option<ImageInfo>>;
    /// All local images.
    async fn list_images(&self) -> Result<Vec<ImageInfo>>;
    /// Removes a local image.
    async fn remove_image(&self, image: &str) -> Result<()>;

    /// What happens to this node's containers and sandboxes from now on. Ends with an error when the engine goes away.
    async fn events(&self) -> Result<BoxStream<'static, Result<ContainerEvent>>>;
}
