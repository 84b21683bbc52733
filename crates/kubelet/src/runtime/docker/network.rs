//! The bridge network that all pods of a cluster share.
//!
//! Docker isolates bridge networks from one another, so the nodes of one machine share one bridge and own disjoint
//! slices of its subnet. Docker's own choice of addresses is confined to the first slice, which no node owns.

use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};

use super::error::{refusal, translate};
use super::{DockerRuntime, labels};
use crate::runtime::{Result, RuntimeError};

/// What the pods' network is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Docker's name for it.
    pub name: String,
    /// The addresses of all pods (`10.244.0.0/16`).
    pub subnet: String,
    /// The part of the subnet that Docker may hand out itself (`10.244.0.0/24`).
    pub docker_range: String,
    /// The bridge's own address (`10.244.0.1`).
    pub gateway: String,
    /// The name of the Linux bridge, at most 15 characters.
    pub interface: String,
}

impl DockerRuntime {
    /// Makes sure that the pods' network exists as it should, and answers whose it is: the id of the cluster that made
    /// it.
    pub async fn ensure_network(&self, config: &NetworkConfig) -> Result<String> {
        match self.docker.inspect_network(&config.name, None).await {
            Ok(network) => {
                let subnets = network.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
                if subnets.iter().any(|ipam| ipam.subnet.as_deref() == Some(&config.subnet)) {
                    return Ok(network.labels.and_then(|mut all| all.remove(labels::CLUSTER)).unwrap_or_default());
                }
                Err(RuntimeError::Conflict(format!(
                    "the Docker network {} exists with another subnet than {}; remove it with `docker network rm {}`",
                    config.name, config.subnet, config.name
                )))
            }
            Err(error) if refusal(&error).is_some_and(|(status, _)| status == 404) => self.create_network(config).await,
            Err(error) => Err(translate(&format!("network {}", config.name), error)),
        }
    }

    async fn create_network(&self, config: &NetworkConfig) -> Result<String> {
        let ipam = IpamConfig {
            subnet: Some(config.subnet.clone()),
            ip_range: Some(config.docker_range.clone()),
            gateway: Some(config.gateway.clone()),
            ..Default::default()
        };
        let options = [
            ("com.docker.network.bridge.name", config.interface.as_str()),
            ("com.docker.network.bridge.enable_icc", "true"),
            ("com.docker.network.bridge.enable_ip_masquerade", "true"),
        ];
        let request = NetworkCreateRequest {
            name: config.name.clone(),
            driver: Some("bridge".into()),
            ipam: Some(Ipam { config: Some(vec![ipam]), ..Default::default() }),
            options: Some(options.into_iter().map(|(name, value)| (name.into(), value.into())).collect()),
            labels: Some([(labels::CLUSTER.to_string(), self.config.cluster_id.clone())].into()),
            ..Default::default()
        };
        let created = self.docker.create_network(request).await;
        created.map_err(|error| translate(&format!("network {}", config.name), error))?;
        Ok(self.config.cluster_id.clone())
    }

    /// Removes the pods' network; does nothing when it is gone.
    pub async fn remove_network(&self, name: &str) -> Result<()> {
        let removed = super::error::ignore(&[404], self.docker.remove_network(name).await);
        removed.map_err(|error| translate(&format!("network {name}"), error))
    }
}
