//! What can go wrong in a runtime, told apart as far as a kubelet acts differently.

/// Why a runtime did not do what it was asked to.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RuntimeError {
    /// The engine does not answer. Everything may work again later.
    #[error("container runtime is down: {0}")]
    EngineDown(String),
    /// There is no such sandbox, container or exec.
    #[error("{0} not found")]
    NotFound(String),
    /// The image is not present locally (the kubelet's `ErrImageNeverPull` or a reason to pull).
    #[error("image {0:?} not found")]
    ImageNotFound(String),
    /// The registry refused or could not be reached (the kubelet's `ErrImagePull`).
    #[error("{0}")]
    ImagePull(String),
    /// The image reference cannot be parsed (the kubelet's `InvalidImageName`).
    #[error("couldn't parse image name {0:?}: invalid reference format")]
    InvalidImageName(String),
    /// The sandbox could not be made (the kubelet's `FailedCreatePodSandBox`).
    #[error("{0}")]
    SandboxFailed(String),
    /// The container could not be created (the kubelet's `CreateContainerError`).
    #[error("{0}")]
    CreateFailed(String),
    /// The container was created but its process could not be started (the kubelet's `RunContainerError`), for
    /// instance `… exec: "nope": executable file not found in $PATH` with exit code 127.
    #[error("{message}")]
    StartFailed {
        /// The engine's own words.
        message: String,
        /// What the container's status shows: 127 not found, 126 not executable, 128 anything else.
        exit_code: i32,
    },
    /// The container is not running, so there is nothing to connect to.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// The command did not finish in time.
    #[error("command timed out after {0:?}")]
    Timeout(std::time::Duration),
    /// The request contradicts something, such as a name or address in use.
    #[error("{0}")]
    Conflict(String),
    /// Anything else, in the engine's words.
    #[error("{0}")]
    Other(String),
}
