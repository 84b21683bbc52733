//! Pods and containers for tests.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::observed::{ObservedPod, containers, init_containers};
use crate::plan::HASH_ANNOTATION;
use crate::runtime::{ContainerState, ContainerStatus, PodRef, SandboxState, SandboxStatus};
use crate::text::container_hash;

/// A pod in namespace `default` with this spec.
pub(crate) fn pod(name: &str, spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "default", "uid": format!("uid-{name}"), "generation": 1 },
        "spec": spec,
    }))
    .unwrap()
}

/// A moment, in seconds after the tests' beginning.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

/// The pod as a runtime shows it, built up container by container.
pub(crate) struct Seen<'a> {
    pod: &'a Pod,
    pub(crate) observed: ObservedPod,
}

impl<'a> Seen<'a> {
    /// Nothing yet.
    pub(crate) fn nothing(pod: &'a Pod) -> Seen<'a> {
        Seen { pod, observed: ObservedPod::default() }
    }

    /// A ready sandbox.
    pub(crate) fn sandbox(pod: &'a Pod) -> Seen<'a> {
        Seen::nothing(pod).with_sandbox(0, SandboxState::Ready)
    }

    /// One more sandbox.
    pub(crate) fn with_sandbox(mut self, attempt: u32, state: SandboxState) -> Seen<'a> {
        self.observed.sandboxes.push(SandboxStatus {
            id: format!("s{attempt}"),
            pod: self.pod_ref(),
            attempt,
            state,
            created_at: at(0),
            ip: (state == SandboxState::Ready).then(|| "10.244.1.2".parse().unwrap()),
            host_network: false,
            labels: Default::default(),
            annotations: Default::default(),
        });
        self
    }

    fn pod_ref(&self) -> PodRef {
        let meta = self.pod.metadata.clone();
        PodRef {
            namespace: meta.namespace.unwrap_or_default(),
            name: meta.name.unwrap_or_default(),
            uid: meta.uid.unwrap_or_default(),
        }
    }

    fn push(mut self, name: &str, attempt: u32, state: ContainerState, exit_code: i32, finished: Option<i64>) -> Self {
        let definition = containers(self.pod).iter().chain(init_containers(self.pod)).find(|c| c.name == name);
        let hash = definition.map(container_hash).unwrap_or_default();
        self.observed.containers.push(ContainerStatus {
            id: format!("{name}-{attempt}"),
            sandbox_id: self.observed.newest_sandbox().map(|s| s.id.clone()).unwrap_or_default(),
            pod: self.pod_ref(),
            name: name.into(),
            attempt,
            state,
            created_at: at(0),
            started_at: Some(at(0)),
            finished_at: finished.map(at),
            exit_code,
            reason: match (state, exit_code) {
                (ContainerState::Exited, 0) => "Completed".into(),
                (ContainerState::Exited, _) => "Error".into(),
                _ => String::new(),
            },
            message: String::new(),
            image: "busybox".into(),
            image_id: "sha256:1".into(),
            labels: Default::default(),
            annotations: [(HASH_ANNOTATION.to_owned(), hash)].into(),
        });
        self
    }

    /// A running container.
    pub(crate) fn running(self, name: &str, attempt: u32) -> Seen<'a> {
        self.push(name, attempt, ContainerState::Running, 0, None)
    }

    /// A container that ended at a moment.
    pub(crate) fn exited(self, name: &str, attempt: u32, exit_code: i32, finished: i64) -> Seen<'a> {
        self.push(name, attempt, ContainerState::Exited, exit_code, Some(finished))
    }
}
