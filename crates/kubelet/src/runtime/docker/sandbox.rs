//! Sandboxes: containers of the pause image that hold a pod's address and namespaces.

use std::net::IpAddr;

use bollard::errors::Error;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, EndpointIpamConfig, EndpointSettings, HostConfig, NetworkingConfig,
    PortBinding,
};
use bollard::query_parameters::{CreateContainerOptions, ListContainersOptions, RemoveContainerOptions};
use futures::StreamExt;
use futures::stream;

use super::DockerRuntime;
use super::error::{ignore, is_engine_down, refusal, translate};
use super::labels::{self, Identity};
use crate::runtime::{
    ContainerFilter, PortMapping, Result, RuntimeError, SandboxConfig, SandboxFilter, SandboxState, SandboxStatus,
    TransportProtocol,
};

/// How many objects are inspected at once.
const INSPECT_CONCURRENCY: usize = 4;
/// Pause ends at once when asked to; the rest of this is for a loaded machine.
const STOP_GRACE_SECONDS: i32 = 10;

impl DockerRuntime {
    pub(super) async fn run_sandbox_impl(&self, config: &SandboxConfig) -> Result<String> {
        let name = labels::sandbox_name(config);
        let mut body = create_body(&self.config.pause_image, &self.config.network, config);
        body.labels = Some(self.owner.sandbox_labels(config).into_iter().collect());
        let id = self.create(&name, body).await.map_err(|error| match refusal(&error) {
            Some((404, _)) => RuntimeError::ImageNotFound(self.config.pause_image.clone()),
            Some((_, message)) => RuntimeError::SandboxFailed(message.into()),
            None => translate(&name, error),
        })?;
        if let Err(error) = self.docker.start_container(&id, None).await {
            let error = match refusal(&error) {
                Some((_, message)) if message.contains("Address already in use") => {
                    RuntimeError::Conflict(message.into())
                }
                Some((_, message)) => RuntimeError::SandboxFailed(message.into()),
                None => translate(&name, error),
            };
            // What could not be started is of no use, and its name is in the way of the next attempt.
            if let Err(error) = self.remove(&id).await {
                tracing::warn!(sandbox = id, %error, "could not remove a sandbox that did not start");
            }
            return Err(error);
        }
        Ok(id)
    }

    /// Creates a container. A dead one of ours in the way of the name, left by a kubelet that died in between, is
    /// removed first.
    pub(super) async fn create(&self, name: &str, body: ContainerCreateBody) -> std::result::Result<String, Error> {
        let options = || Some(CreateContainerOptions { name: Some(name.into()), ..Default::default() });
        match self.docker.create_container(options(), body.clone()).await {
            Err(error) if refusal(&error).is_some_and(|(status, _)| status == 409) => {
                let other = self.docker.inspect_container(name, None).await?;
                let running = other.state.as_ref().and_then(|state| state.running) == Some(true);
                let labels = other.config.and_then(|config| config.labels).unwrap_or_default();
                if running || labels.get(labels::CLUSTER) != Some(&self.owner.cluster) {
                    return Err(error);
                }
                let remove = RemoveContainerOptions { force: true, v: true, ..Default::default() };
                ignore(&[404], self.docker.remove_container(name, Some(remove)).await)?;
                Ok(self.docker.create_container(options(), body).await?.id)
            }
            created => Ok(created?.id),
        }
    }

    pub(super) async fn stop_sandbox_impl(&self, sandbox_id: &str) -> Result<()> {
        let members = ContainerFilter { sandbox_id: Some(sandbox_id.into()), ..Default::default() };
        for id in self.container_ids(&members).await? {
            self.stop(&id, 0).await?;
        }
        self.stop(sandbox_id, STOP_GRACE_SECONDS).await
    }

    pub(super) async fn remove_sandbox_impl(&self, sandbox_id: &str) -> Result<()> {
        let members = ContainerFilter { sandbox_id: Some(sandbox_id.into()), ..Default::default() };
        for id in self.container_ids(&members).await? {
            self.remove(&id).await?;
        }
        self.remove(sandbox_id).await
    }

    /// Removes a container or sandbox with its anonymous volumes, by force; does nothing when it is gone.
    pub(super) async fn remove(&self, id: &str) -> Result<()> {
        let options = RemoveContainerOptions { force: true, v: true, ..Default::default() };
        let mut removed = ignore(&[404], self.docker.remove_container(id, Some(options)).await);
        // 409: somebody else is removing it already.
        if removed.as_ref().is_err_and(|error| {
            refusal(error).is_some_and(|(status, message)| status == 409 && message.contains("already in progress"))
        }) {
            removed = Ok(());
        }
        removed.map_err(|error| translate(id, error))
    }

    pub(super) async fn sandbox_status_impl(&self, sandbox_id: &str) -> Result<SandboxStatus> {
        let inspected = self.docker.inspect_container(sandbox_id, None).await;
        Ok(status(&self.config.network, inspected.map_err(|error| translate(sandbox_id, error))?))
    }

    pub(super) async fn list_sandboxes_impl(&self, filter: &SandboxFilter) -> Result<Vec<SandboxStatus>> {
        let mut labels = self.owner.filter(Some(labels::KIND_SANDBOX));
        labels.extend(filter.pod_uid.iter().map(|uid| format!("{}={uid}", labels::POD_UID)));
        let ids = self.list_ids([("label".to_string(), labels)].into_iter()).await?;
        let inspected = self.inspect_all(ids).await?;
        let statuses = inspected.into_iter().map(|sandbox| status(&self.config.network, sandbox));
        Ok(statuses.filter(|sandbox| filter.state.is_none_or(|state| sandbox.state == state)).collect())
    }

    /// The ids of the containers that Docker's filters pass, newest first, running or not.
    pub(super) async fn list_ids(&self, filters: impl Iterator<Item = (String, Vec<String>)>) -> Result<Vec<String>> {
        let options = ListContainersOptions { all: true, filters: Some(filters.collect()), ..Default::default() };
        let listed = self.docker.list_containers(Some(options)).await;
        let listed = listed.map_err(|error| translate("containers", error))?;
        Ok(listed.into_iter().filter_map(|container| container.id).collect())
    }

    /// Inspects containers, leaving out those that vanish meanwhile.
    pub(super) async fn inspect_all(&self, ids: Vec<String>) -> Result<Vec<ContainerInspectResponse>> {
        let inspections = stream::iter(ids)
            .map(|id| async move { self.docker.inspect_container(&id, None).await })
            .buffered(INSPECT_CONCURRENCY);
        let mut inspected = Vec::new();
        for result in inspections.collect::<Vec<_>>().await {
            match result {
                Ok(container) => inspected.push(container),
                Err(error) if is_engine_down(&error) => return Err(translate("containers", error)),
                // Removed since it was listed (404), or being removed this moment (500).
                Err(error) => tracing::debug!(%error, "a container vanished while it was listed"),
            }
        }
        Ok(inspected)
    }
}

/// What Docker is asked for, except for labels.
fn create_body(pause_image: &str, network: &str, config: &SandboxConfig) -> ContainerCreateBody {
    let ports = config.port_mappings.iter().filter(|_| !config.host_network);
    let host = HostConfig {
        network_mode: Some(if config.host_network { "host".into() } else { network.into() }),
        ipc_mode: Some(if config.host_ipc { "host".into() } else { "shareable".into() }),
        pid_mode: config.host_pid.then(|| "host".into()),
        dns: Some(config.dns.servers.clone()).filter(|servers| !servers.is_empty()),
        dns_search: Some(config.dns.searches.clone()).filter(|searches| !searches.is_empty()),
        dns_options: Some(config.dns.options.clone()).filter(|options| !options.is_empty()),
        sysctls: Some(config.sysctls.clone().into_iter().collect()),
        port_bindings: Some(ports.clone().map(|port| (port_key(port), Some(vec![binding(port)]))).collect()),
        shm_size: config.shm_size_bytes,
        cgroup_parent: Some(config.cgroup_parent.clone()).filter(|parent| !parent.is_empty()),
        security_opt: Some(vec!["no-new-privileges".into()]),
        ..Default::default()
    };
    let endpoint = |ip: IpAddr| {
        let ipam = match ip {
            IpAddr::V4(ip) => EndpointIpamConfig { ipv4_address: Some(ip.to_string()), ..Default::default() },
            IpAddr::V6(ip) => EndpointIpamConfig { ipv6_address: Some(ip.to_string()), ..Default::default() },
        };
        let endpoint = EndpointSettings { ipam_config: Some(ipam), ..Default::default() };
        NetworkingConfig { endpoints_config: Some([(network.to_string(), endpoint)].into()) }
    };
    ContainerCreateBody {
        image: Some(pause_image.into()),
        hostname: Some(config.hostname.clone()).filter(|hostname| !hostname.is_empty()),
        exposed_ports: Some(ports.map(port_key).collect()),
        host_config: Some(host),
        networking_config: config.ip.filter(|_| !config.host_network).map(endpoint),
        ..Default::default()
    }
}

/// A port in Docker's notation, `80/tcp`.
fn port_key(port: &PortMapping) -> String {
    let protocol = match port.protocol {
        TransportProtocol::Tcp => "tcp",
        TransportProtocol::Udp => "udp",
        TransportProtocol::Sctp => "sctp",
    };
    format!("{}/{protocol}", port.container_port)
}

fn binding(port: &PortMapping) -> PortBinding {
    PortBinding { host_ip: port.host_ip.map(|ip| ip.to_string()), host_port: Some(port.host_port.to_string()) }
}

fn status(network: &str, sandbox: ContainerInspectResponse) -> SandboxStatus {
    let running = sandbox.state.and_then(|state| state.running) == Some(true);
    let networks = sandbox.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    let ip = networks.get(network).and_then(|endpoint| endpoint.ip_address.as_ref()?.parse().ok());
    let host_network = sandbox.host_config.and_then(|host| host.network_mode).as_deref() == Some("host");
    let identity = Identity::read(sandbox.config.and_then(|config| config.labels).unwrap_or_default());
    SandboxStatus {
        id: sandbox.id.unwrap_or_default(),
        pod: identity.pod,
        attempt: identity.attempt,
        state: if running { SandboxState::Ready } else { SandboxState::NotReady },
        created_at: sandbox.created.and_then(|created| created.parse().ok()).unwrap_or_default(),
        ip,
        host_network,
        labels: identity.labels,
        annotations: identity.annotations,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_gets_its_address_in_the_pods_network() {
        let config = SandboxConfig { ip: Some([10, 244, 1, 7].into()), hostname: "web".into(), ..Default::default() };
        let body = create_body("pause", "coracle", &config);
        let host = body.host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("coracle"));
        assert_eq!(host.ipc_mode.as_deref(), Some("shareable"));
        let endpoints = body.networking_config.unwrap().endpoints_config.unwrap();
        let address = endpoints["coracle"].ipam_config.clone().unwrap().ipv4_address;
        assert_eq!(address.as_deref(), Some("10.244.1.7"));
    }

    #[test]
    fn a_sandbox_on_the_host_network_has_no_address_and_publishes_nothing() {
        let port = PortMapping { host_port: 80, container_port: 80, ..Default::default() };
        let config = SandboxConfig {
            host_network: true,
            ip: Some([10, 244, 1, 7].into()),
            port_mappings: vec![port],
            ..Default::default()
        };
        let body = create_body("pause", "coracle", &config);
        assert!(body.networking_config.is_none());
        assert!(body.exposed_ports.unwrap().is_empty());
        assert_eq!(body.host_config.unwrap().network_mode.as_deref(), Some("host"));
    }
}
