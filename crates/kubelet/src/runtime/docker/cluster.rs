//! What is done for a cluster as a whole, over all its nodes on this engine.

use bollard::query_parameters::ListContainersOptions;
use futures::{TryStreamExt, stream};

use super::error::translate;
use super::{DockerRuntime, labels};
use crate::runtime::Result;

/// How many containers are stopped and removed at once. They stop by themselves: waiting for many costs nothing.
const REMOVE_CONCURRENCY: usize = 64;

impl DockerRuntime {
    /// Stops and removes every container and sandbox of the cluster, on all nodes. Each container was made with
    /// its pod's grace period, and has it. What carries no label of this cluster stays.
    pub async fn remove_containers(&self) -> Result<()> {
        let filter = format!("{}={}", labels::CLUSTER, self.config.cluster_id);
        let filters = Some([("label".to_string(), vec![filter])].into());
        let options = ListContainersOptions { all: true, filters, ..Default::default() };
        let containers = self.docker.list_containers(Some(options)).await;
        let containers = containers.map_err(|error| translate("containers", error))?;
        // Members go before the sandboxes whose namespaces they share.
        let is_sandbox = |container: &bollard::models::ContainerSummary| {
            container.labels.as_ref().and_then(|labels| labels.get(labels::KIND)).map(String::as_str)
                == Some(labels::KIND_SANDBOX)
        };
        let (sandboxes, members): (Vec<_>, Vec<_>) = containers.into_iter().partition(is_sandbox);
        for batch in [members, sandboxes] {
            let ids = batch.into_iter().filter_map(|container| container.id);
            let remove = |id: String| async move {
                // Already stopped or gone is as good; what cannot be stopped is removed by force.
                let _ = self.docker.stop_container(&id, None).await;
                self.remove(&id).await
            };
            stream::iter(ids.map(Ok)).try_for_each_concurrent(REMOVE_CONCURRENCY, remove).await?;
        }
        Ok(())
    }

    /// Removes the cluster from the engine: its containers, and the pods' network.
    pub async fn remove_cluster(&self) -> Result<()> {
        self.remove_containers().await?;
        self.remove_network(&self.config.network).await
    }
}
