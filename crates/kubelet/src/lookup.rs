//! How the kubelet's server finds the containers that requests mean.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_client::{Informer, ObjectKey};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};

use crate::runtime::{ContainerFilter, SandboxFilter, SandboxState};
use crate::server::{LookupError, PodLookup};
use crate::shared::Shared;

/// Finds a node's pods in its kubelet's cache, and their containers in the runtime.
pub struct Lookup {
    shared: Arc<Shared>,
    pods: Informer<Pod>,
}

impl Lookup {
    pub(crate) fn new(shared: Arc<Shared>, pods: Informer<Pod>) -> Lookup {
        Lookup { shared, pods }
    }

    fn pod(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, LookupError> {
        let found = self.pods.get(&ObjectKey::new(namespace, name));
        found.ok_or_else(|| LookupError::NotFound("pod does not exist".into()))
    }
}

fn uid(pod: &Pod) -> Option<String> {
    Some(pod.metadata.uid.clone().unwrap_or_default())
}

fn status_of<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    all.into_iter().flatten().flatten().find(|status| status.name == container)
}

/// The id within `docker://…` of the container that ended in `state`.
fn ended(state: Option<&ContainerState>) -> Option<String> {
    bare(state?.terminated.as_ref()?.container_id.as_deref())
}

fn bare(id: Option<&str>) -> Option<String> {
    id?.split_once("://").map(|(_, id)| id.to_owned()).filter(|id| !id.is_empty())
}

/// The id of the container instance whose log is meant, by the pod's status.
fn log_instance(pod: &Pod, name: &str, container: &str, previous: bool) -> Result<String, LookupError> {
    let refused = |why: String| LookupError::BadRequest(format!("container {container:?} in pod {name:?} {why}"));
    let Some(status) = status_of(pod, container) else {
        let defined = pod.spec.iter().flat_map(|spec| {
            let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| &c.name);
            let others = spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|c| &c.name);
            others.chain(ephemeral)
        });
        return if defined.into_iter().any(|defined| defined == container) {
            Err(refused("is not available".into()))
        } else {
            Err(LookupError::NotFound(format!("container {container:?} not found in pod {name:?}")))
        };
    };
    let last = ended(status.last_state.as_ref());
    if previous {
        return last.ok_or_else(|| {
            LookupError::BadRequest(format!("previous terminated container {container:?} in pod {name:?} not found"))
        });
    }
    let state = status.state.clone().unwrap_or_default();
    if state.running.is_some() || state.terminated.is_some() {
        let now = ended(Some(&state)).or_else(|| bare(status.container_id.as_deref()));
        return now.ok_or_else(|| refused("is not available".into()));
    }
    if let Some(last) = last {
        return Ok(last);
    }
    Err(refused(match state.waiting.and_then(|waiting| waiting.reason).as_deref() {
        None | Some("") => "is not available".into(),
        Some("ErrImagePull") => "is waiting to start: image can't be pulled".into(),
        Some("ImagePullBackOff") => "is waiting to start: trying and failing to pull image".into(),
        Some(reason) => format!("is waiting to start: {reason}"),
    }))
}

#[async_trait]
impl PodLookup for Lookup {
    async fn pods(&self) -> Vec<Pod> {
        self.pods.list().into_iter().map(Arc::unwrap_or_clone).collect()
    }

    async fn log_container(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        previous: bool,
    ) -> Result<String, LookupError> {
        log_instance(&*self.pod(namespace, pod)?, pod, container, previous)
    }

    async fn running_container(&self, namespace: &str, pod: &str, container: &str) -> Result<String, LookupError> {
        let pod = self.pod(namespace, pod)?;
        let state = Some(crate::runtime::ContainerState::Running);
        let filter = ContainerFilter { pod_uid: uid(&pod), state, sandbox_id: None };
        let running = self.shared.runtime.list_containers(&filter).await;
        let running = running.map_err(|error| LookupError::Internal(error.to_string()))?;
        let newest = running.into_iter().filter(|c| c.name == container).max_by_key(|c| c.attempt);
        newest.map(|c| c.id).ok_or_else(|| LookupError::Internal(format!("container not found ({container:?})")))
    }

    async fn sandbox(&self, namespace: &str, pod: &str) -> Result<String, LookupError> {
        let pod = self.pod(namespace, pod)?;
        let filter = SandboxFilter { pod_uid: uid(&pod), state: Some(SandboxState::Ready) };
        let ready = self.shared.runtime.list_sandboxes(&filter).await;
        let ready = ready.map_err(|error| LookupError::Internal(error.to_string()))?;
        let newest = ready.into_iter().max_by_key(|sandbox| sandbox.attempt);
        newest.map(|s| s.id).ok_or_else(|| LookupError::Internal("failed to find sandbox".into()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::pod;

    fn lookup(status: Value, container: &str, previous: bool) -> Result<String, String> {
        let mut pod = pod("p", json!({ "containers": [{ "name": "a" }] }));
        pod.status = Some(serde_json::from_value(json!({ "containerStatuses": [status] })).unwrap());
        log_instance(&pod, "p", container, previous).map_err(|error| error.to_string())
    }

    fn status(mut fields: Value) -> Value {
        for (key, value) in [
            ("name", json!("a")),
            ("image", json!("i")),
            ("imageID", json!("")),
            ("ready", json!(false)),
            ("restartCount", json!(0)),
        ] {
            fields[key] = value;
        }
        fields
    }

    #[test]
    fn a_log_is_that_of_the_instance_that_status_shows() {
        let running = || {
            status(
                json!({ "containerID": "docker://2", "state": { "running": {} }, "lastState": { "terminated": { "exitCode": 1, "containerID": "docker://1" } } }),
            )
        };
        assert_eq!(lookup(running(), "a", false).as_deref(), Ok("2"));
        assert_eq!(lookup(running(), "a", true).as_deref(), Ok("1"));
        let looping = status(
            json!({ "state": { "waiting": { "reason": "CrashLoopBackOff" } }, "lastState": { "terminated": { "exitCode": 1, "containerID": "docker://1" } } }),
        );
        assert_eq!(lookup(looping, "a", false).as_deref(), Ok("1"));
    }

    #[test]
    fn a_log_that_is_not_there_is_refused_as_upstream_does() {
        let waiting = |reason: &str| status(json!({ "state": { "waiting": { "reason": reason } } }));
        for (reason, why) in [("ContainerCreating", "ContainerCreating"), ("ErrImagePull", "image can't be pulled")] {
            let message = format!("container \"a\" in pod \"p\" is waiting to start: {why}");
            assert_eq!(lookup(waiting(reason), "a", false), Err(message));
        }
        let message = "previous terminated container \"a\" in pod \"p\" not found".to_owned();
        assert_eq!(lookup(waiting("ContainerCreating"), "a", true), Err(message));
        assert_eq!(lookup(waiting("x"), "b", false), Err("container \"b\" not found in pod \"p\"".into()));
    }
}
