//! What is done for a cluster as a whole, over all its nodes on this engine.

use bollard::query_parameters::ListContainersOptions;
use futures::{TryStreamExt, stream};

use super::error::translate;
use super::{DockerRuntime, labels};
use crate::runtime::Result;

/// How many containers are removed at once.
const REMOVE_CONCURRENCY: usize = 8;

impl DockerRuntime {
    /// Removes every container and sandbox of the cluster by force, on all nodes, and the pods' network. What carries
    /// no label of this cluster stays.
    pub async fn remove_cluster(&self) -> Result<()> {
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
            stream::iter(ids.map(Ok))
                .try_for_each_concurrent(REMOVE_CONCURRENCY, |id| async move { self.remove(&id).await })
                .await?;
        }
        self.remove_network(&self.config.network).await
    }
}
