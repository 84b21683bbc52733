//! What probes found, as far as plans and statuses need it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;

use crate::runtime::{ContainerState, ContainerStatus};

/// The present verdict of each kind of probe on one container instance; `None` while there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The startup probe's.
    pub startup: Option<bool>,
    /// The liveness probe's.
    pub liveness: Option<bool>,
    /// The readiness probe's.
    pub readiness: Option<bool>,
}

/// The verdicts on a pod's containers by the runtime's container id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts(pub BTreeMap<String, Verdict>);

impl Verdicts {
    /// The verdict on one container instance.
    pub fn of(&self, container_id: &str) -> Verdict {
        self.0.get(container_id).copied().unwrap_or_default()
    }

    /// Whether a container has started: it runs and its startup probe, if any, has succeeded.
    pub fn started(&self, container: &Container, status: &ContainerStatus) -> bool {
        status.state == ContainerState::Running
            && (container.startup_probe.is_none() || self.of(&status.id).startup == Some(true))
    }

    /// Whether a container is ready: it has started and its readiness probe, if any, succeeds.
    pub fn ready(&self, container: &Container, status: &ContainerStatus) -> bool {
        self.started(container, status)
            && (container.readiness_probe.is_none() || self.of(&status.id).readiness == Some(true))
    }
}
