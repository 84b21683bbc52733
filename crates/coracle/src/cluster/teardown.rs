//! Taking a cluster off the engine and the host. Only what carries the cluster's label is touched.

use coracle_images::PAUSE_IMAGE;
use coracle_kubelet::runtime::docker::{DockerConfig, DockerRuntime};

use crate::data_dir::ClusterConfig;

fn runtime(config: &ClusterConfig) -> anyhow::Result<DockerRuntime> {
    Ok(DockerRuntime::new(DockerConfig::new(&config.id, "", &config.network(), PAUSE_IMAGE))?)
}

/// Removes the cluster's containers and its Services' rules. The pods' network stays: it keeps the address ranges,
/// which are part of the cluster's state, from being taken by another cluster.
pub async fn teardown(config: &ClusterConfig) -> anyhow::Result<()> {
    runtime(config)?.remove_containers().await?;
    if let Err(error) = coracle_proxy::remove(&config.table()).await {
        tracing::debug!(%error, "rules not removed");
    }
    Ok(())
}

/// Gives the address ranges back.
pub async fn remove_network(config: &ClusterConfig) -> anyhow::Result<()> {
    Ok(runtime(config)?.remove_network(&config.network()).await?)
}
