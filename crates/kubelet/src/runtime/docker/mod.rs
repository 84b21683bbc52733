//! Containers in a Docker Engine, driven through its HTTP API (1.41 and later).
//!
//! | Kubernetes | Docker |
//! |---|---|
//! | the pods' network | one bridge network ([`NetworkConfig`]) for all nodes of the cluster on this machine |
//! | sandbox | a container of the pause image with a fixed address in that network |
//! | container | a container with `network` and `ipc` of its sandbox |
//! | who is whose | [`labels`] |
//!
//! The engine keeps all state: this module remembers nothing that cannot be asked again, so a restarted kubelet finds
//! everything by label. Where an engine lacks rights (`CAP_SYS_RESOURCE` is often missing inside virtual machines and
//! containers), privileged containers and protection from the out-of-memory killer are degraded with a warning
//! instead of refused.

mod cgroup;
mod cluster;
mod container;
mod error;
mod events;
mod exec;
mod image;
pub mod labels;
mod logs;
mod mount;
mod network;
mod port_forward;
mod rights;
mod sandbox;
mod stats;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bollard::Docker;
use futures::stream::BoxStream;
use tokio::sync::OnceCell;

use self::error::translate;
use self::labels::Owner;
use super::{
    ByteStream, ContainerConfig, ContainerEvent, ContainerFilter, ContainerStats, ContainerStatus, ExecOptions,
    ExecOutput, ImageInfo, LogChunk, LogOptions, RegistryAuth, Resources, Result, Runtime, RuntimeVersion,
    SandboxConfig, SandboxFilter, SandboxStatus, Session,
};

pub use network::NetworkConfig;

/// How long the engine may take to begin an answer. Calls that wait for containers use [`PATIENT_SECONDS`].
const TIMEOUT_SECONDS: u64 = 120;
/// For calls whose duration somebody else decides: stopping with a grace period, pulling, following.
const PATIENT_SECONDS: u64 = 24 * 3600;

/// What a Docker runtime needs to know.
#[derive(Clone, Debug)]
pub struct DockerConfig {
    /// Where the engine listens (`unix:///var/run/docker.sock`, `tcp://…`); by `DOCKER_HOST` or the default socket
    /// when `None`.
    pub host: Option<String>,
    /// The cluster's id: objects of other clusters are not seen.
    pub cluster_id: String,
    /// The node's name: objects of other nodes are not seen.
    pub node_name: String,
    /// The Docker network that sandboxes join.
    pub network: String,
    /// The image of sandboxes; it must be present.
    pub pause_image: String,
    /// When a container's log file is rotated, in Docker's notation (`10m`).
    pub log_max_size: String,
    /// How many log files of a container are kept.
    pub log_max_files: u32,
}

impl DockerConfig {
    /// A configuration with the kubelet's defaults for logs (5 files of 10 MiB) and the default engine.
    pub fn new(cluster_id: &str, node_name: &str, network: &str, pause_image: &str) -> DockerConfig {
        DockerConfig {
            host: None,
            cluster_id: cluster_id.into(),
            node_name: node_name.into(),
            network: network.into(),
            pause_image: pause_image.into(),
            log_max_size: "10m".into(),
            log_max_files: 5,
        }
    }
}

/// The runtime that keeps containers in a Docker Engine.
pub struct DockerRuntime {
    config: DockerConfig,
    owner: Owner,
    docker: Docker,
    /// The same engine for calls that may take long.
    patient: Docker,
    /// Whether the engine may give containers every right; found out when first needed.
    full_rights: OnceCell<bool>,
    /// How pods' statuses name an image, by its id. Never changes for an id in a way that matters.
    image_names: Mutex<BTreeMap<String, String>>,
}

impl DockerRuntime {
    /// Prepares to talk to an engine; does not do so yet.
    pub fn new(config: DockerConfig) -> Result<DockerRuntime> {
        let docker = match &config.host {
            Some(host) => Docker::connect_with_host(host),
            None => Docker::connect_with_defaults(),
        };
        let docker = docker.map_err(|error| translate("docker", error))?;
        Ok(DockerRuntime {
            owner: Owner { cluster: config.cluster_id.clone(), node: config.node_name.clone() },
            docker: docker.clone().with_timeout(Duration::from_secs(TIMEOUT_SECONDS)),
            patient: docker.with_timeout(Duration::from_secs(PATIENT_SECONDS)),
            full_rights: OnceCell::new(),
            image_names: Mutex::default(),
            config,
        })
    }
}

#[async_trait]
impl Runtime for DockerRuntime {
    async fn version(&self) -> Result<RuntimeVersion> {
        let engine = self.docker.version().await.map_err(|error| translate("docker", error))?;
        let info = self.docker.info().await.map_err(|error| translate("docker", error))?;
        Ok(RuntimeVersion {
            name: "docker".into(),
            version: engine.version.unwrap_or_default(),
            kernel: info.kernel_version.unwrap_or_default(),
            os_image: info.operating_system.unwrap_or_default(),
            architecture: engine.arch.unwrap_or_default(),
            cpus: info.ncpu.and_then(|cpus| cpus.try_into().ok()).unwrap_or_default(),
            memory_bytes: info.mem_total.and_then(|bytes| bytes.try_into().ok()).unwrap_or_default(),
        })
    }

    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String> {
        self.run_sandbox_impl(config).await
    }

    async fn stop_sandbox(&self, sandbox_id: &str) -> Result<()> {
        self.stop_sandbox_impl(sandbox_id).await
    }

    async fn remove_sandbox(&self, sandbox_id: &str) -> Result<()> {
        self.remove_sandbox_impl(sandbox_id).await
    }

    async fn sandbox_status(&self, sandbox_id: &str) -> Result<SandboxStatus> {
        self.sandbox_status_impl(sandbox_id).await
    }

    async fn list_sandboxes(&self, filter: &SandboxFilter) -> Result<Vec<SandboxStatus>> {
        self.list_sandboxes_impl(filter).await
    }

    async fn create_container(&self, sandbox_id: &str, config: &ContainerConfig) -> Result<String> {
        self.create_container_impl(sandbox_id, config).await
    }

    async fn start_container(&self, container_id: &str) -> Result<()> {
        self.start_container_impl(container_id).await
    }

    async fn stop_container(&self, container_id: &str, grace: Duration) -> Result<()> {
        self.stop_container_impl(container_id, grace).await
    }

    async fn remove_container(&self, container_id: &str) -> Result<()> {
        self.remove(container_id).await
    }

    async fn container_status(&self, container_id: &str) -> Result<ContainerStatus> {
        self.container_status_impl(container_id).await
    }

    async fn list_containers(&self, filter: &ContainerFilter) -> Result<Vec<ContainerStatus>> {
        self.list_containers_impl(filter).await
    }

    async fn update_resources(&self, container_id: &str, resources: &Resources) -> Result<()> {
        self.update_resources_impl(container_id, resources).await
    }

    async fn exec_sync(&self, container_id: &str, command: &[String], timeout: Option<Duration>) -> Result<ExecOutput> {
        self.exec_sync_impl(container_id, command, timeout).await
    }

    async fn exec(&self, container_id: &str, options: &ExecOptions) -> Result<Session> {
        self.exec_impl(container_id, options).await
    }

    async fn attach(&self, container_id: &str, options: &ExecOptions) -> Result<Session> {
        self.attach_impl(container_id, options).await
    }

    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<Box<dyn ByteStream>> {
        self.port_forward_impl(sandbox_id, port).await
    }

    async fn logs(&self, container_id: &str, options: &LogOptions) -> Result<BoxStream<'static, Result<LogChunk>>> {
        self.logs_impl(container_id, options).await
    }

    async fn container_stats(&self, container_id: &str) -> Result<ContainerStats> {
        self.container_stats_impl(container_id).await
    }

    async fn list_stats(&self) -> Result<Vec<ContainerStats>> {
        self.list_stats_impl().await
    }

    async fn pull_image(&self, image: &str, auth: Option<&RegistryAuth>) -> Result<String> {
        self.pull_image_impl(image, auth).await
    }

    async fn image_status(&self, image: &str) -> Result<Option<ImageInfo>> {
        self.image_status_impl(image).await
    }

    async fn list_images(&self) -> Result<Vec<ImageInfo>> {
        self.list_images_impl().await
    }

    async fn remove_image(&self, image: &str) -> Result<()> {
        self.remove_image_impl(image).await
    }

    async fn events(&self) -> Result<BoxStream<'static, Result<ContainerEvent>>> {
        self.events_impl().await
    }
}
