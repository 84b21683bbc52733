//! What a runtime shows of one pod, and the questions that plans and statuses ask of it.

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::runtime::{ContainerState, ContainerStatus, SandboxState, SandboxStatus};

/// The sandboxes and containers of one pod, dead ones included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedPod {
    /// The sandboxes, newest first.
    pub sandboxes: Vec<SandboxStatus>,
    /// The containers in any order.
    pub containers: Vec<ContainerStatus>,
}

impl ObservedPod {
    /// Whether the runtime knows nothing of the pod.
    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }

    /// The newest sandbox.
    pub fn newest_sandbox(&self) -> Option<&SandboxStatus> {
        self.sandboxes.iter().max_by_key(|sandbox| sandbox.attempt)
    }

    /// The newest sandbox, if it can hold containers.
    pub fn ready_sandbox(&self) -> Option<&SandboxStatus> {
        self.newest_sandbox().filter(|sandbox| sandbox.state == SandboxState::Ready)
    }

    /// The instances of a container, newest first.
    pub fn instances(&self, name: &str) -> Vec<&ContainerStatus> {
        let mut all: Vec<_> = self.containers.iter().filter(|c| c.name == name).collect();
        all.sort_by_key(|c| std::cmp::Reverse((c.attempt, c.created_at)));
        all
    }

    /// The newest instance of a container.
    pub fn latest(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers.iter().filter(|c| c.name == name).max_by_key(|c| (c.attempt, c.created_at))
    }

    /// The newest instance of a container within one sandbox.
    pub fn latest_in(&self, sandbox_id: &str, name: &str) -> Option<&ContainerStatus> {
        self.latest(name).filter(|c| c.sandbox_id == sandbox_id)
    }

    /// The containers that run (or might).
    pub fn running(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.containers.iter().filter(|c| matches!(c.state, ContainerState::Running | ContainerState::Unknown))
    }

    /// Whether anything of the pod is alive: a container or a sandbox.
    pub fn is_alive(&self) -> bool {
        self.running().next().is_some() || self.sandboxes.iter().any(|s| s.state == SandboxState::Ready)
    }

    /// The attempt that the next instance of a container gets.
    pub fn next_attempt(&self, name: &str) -> u32 {
        self.latest(name).map_or(0, |c| c.attempt + 1)
    }
}

/// The main containers of a pod.
pub fn containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().map_or(&[], |spec| &spec.containers)
}

/// The init containers of a pod, sidecars included.
pub fn init_containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default()
}

/// Whether an init container is a sidecar (KEP-753): started in its turn, then kept running beside the pod.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// `spec.restartPolicy`.
pub fn pod_restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
}

/// Whether a main or ordinary init container that ended is to be started again: by its own rules (KEP-5307), else
/// its own policy, else the pod's. For an init container success is never a reason.
pub fn restarts_after(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    for rule in container.restart_policy_rules.iter().flatten() {
        let matches = rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
            if codes.operator == "NotIn" { !listed } else { listed }
        });
        if matches && rule.action == "Restart" {
            return true;
        }
    }
    match container.restart_policy.as_deref().unwrap_or_else(|| pod_restart_policy(pod)) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// Whether a main container is to be started, as its newest instance stands.
pub fn is_to_start(pod: &Pod, container: &Container, latest: Option<&ContainerStatus>) -> bool {
    match latest {
        None => true,
        Some(status) => match status.state {
            ContainerState::Running => false,
            ContainerState::Created | ContainerState::Unknown => true,
            ContainerState::Exited => restarts_after(pod, container, status.exit_code),
        },
    }
}
