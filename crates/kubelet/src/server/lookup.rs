//! What the server asks of the kubelet: which container a request means.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;

/// Why a request's container cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// There is no such pod or container here (404): `pod does not exist`.
    #[error("{0}")]
    NotFound(String),
    /// It cannot be had in its present state (400):
    /// `container "x" in pod "y" is waiting to start: ContainerCreating`.
    #[error("{0}")]
    BadRequest(String),
    /// Anything else (500): `container not found ("x")`.
    #[error("{0}")]
    Internal(String),
}

/// Finds the runtime's objects of a node's pods. The pod manager implements it.
#[async_trait]
pub trait PodLookup: Send + Sync + 'static {
    /// The pods of this node with their current status.
    async fn pods(&self) -> Vec<Pod>;

    /// The id of the container whose log is asked for; with `previous` that of its life before the present one.
    async fn log_container(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        previous: bool,
    ) -> Result<String, LookupError>;

    /// The id of a running container, for exec and attach.
    async fn running_container(&self, namespace: &str, pod: &str, container: &str) -> Result<String, LookupError>;

    /// The id of a pod's running sandbox, for port-forward.
    async fn sandbox(&self, namespace: &str, pod: &str) -> Result<String, LookupError>;
}
