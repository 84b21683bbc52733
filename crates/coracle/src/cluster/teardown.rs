//! Taking a cluster off the engine and the host. Only what carries the cluster's label is touched.

use std::future::Future;

use bollard::Docker;
use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder};
use futures::future::join_all;

use crate::data_dir::ClusterConfig;

const CLUSTER_LABEL: &str = "io.coracle.cluster";
const KIND_LABEL: &str = "io.coracle.kind";

/// Stops and removes the cluster's containers: first the pods', all at once, then their sandboxes. Each pod's
/// container was made with its pod's grace period.
async fn remove_containers(docker: &Docker, id: &str) -> anyhow::Result<()> {
    let listed = list(docker, id).await?;
    let (sandboxes, containers): (Vec<_>, Vec<_>) = listed.into_iter().partition(|(_, kind)| kind == "sandbox");
    let remove = |id: String| async move {
        // Already stopped or gone is as good.
        let _ = docker.stop_container(&id, None).await;
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        if let Err(error) = docker.remove_container(&id, Some(options)).await {
            tracing::debug!(id, %error, "not removed");
        }
    };
    all(containers, remove).await;
    all(sandboxes, remove).await;
    Ok(())
}

async fn all<F: Future<Output = ()>>(listed: Vec<(String, String)>, remove: impl Fn(String) -> F) {
    join_all(listed.into_iter().map(|(id, _)| remove(id))).await;
}

#[allow(clippy::disallowed_types)] // bollard's filters are a HashMap; its order does not matter here
async fn list(docker: &Docker, id: &str) -> anyhow::Result<Vec<(String, String)>> {
    let filters = std::collections::HashMap::from([("label", vec![format!("{CLUSTER_LABEL}={id}")])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let listed = docker.list_containers(Some(options)).await?;
    Ok(listed
        .into_iter()
        .filter_map(|container| {
            let kind = container.labels.and_then(|mut labels| labels.remove(KIND_LABEL)).unwrap_or_default();
            Some((container.id?, kind))
        })
        .collect())
}

/// Removes containers, network and Services' rules.
pub async fn teardown(docker: &Docker, config: &ClusterConfig) -> anyhow::Result<()> {
    remove_containers(docker, &config.id).await?;
    if let Err(error) = docker.remove_network(&config.network()).await {
        tracing::debug!(%error, "network not removed");
    }
    if let Err(error) = coracle_proxy::remove(&config.table()).await {
        tracing::debug!(%error, "rules not removed");
    }
    Ok(())
}
