//! Starting one container: image, environment, mounts, create, start, `postStart`.

use std::time::Duration;

use coracle_client::EventType;
use k8s_openapi::api::core::v1::Container;

use super::PodWorker;
use crate::container::{ContainerInput, container_config};
use crate::env::environment;
use crate::hooks::run_hook;
use crate::images::{ImageEvent, credentials};
use crate::plan::{Role, Start, backoff_key, failed_at};
use crate::runtime::RuntimeError;
use crate::status::WaitingReason;

/// After a container could not be created; crashes have their own back-off.
const CREATE_RETRY: Duration = Duration::from_secs(10);

impl PodWorker {
    /// Starts a container instance. `false` when it could not be, which status and events then say.
    pub(super) async fn start(&mut self, start: &Start, container: &Container) -> Result<bool, String> {
        let key = backoff_key(container);
        if let Some(ended) = self.observed.latest(&container.name).and_then(failed_at) {
            self.backoff.tried(&key, ended, coracle_clock::now());
        }
        match self.create_and_start(start, container).await {
            Ok(()) => {
                self.waiting.remove(&container.name);
                self.restarting.remove(&container.name);
                Ok(true)
            }
            Err(StartFailure::Engine(why)) => Err(why),
            Err(StartFailure::Waiting(waiting)) => {
                self.waiting.insert(container.name.clone(), waiting);
                Ok(false)
            }
        }
    }

    async fn create_and_start(&mut self, start: &Start, container: &Container) -> Result<(), StartFailure> {
        let name = &container.name;
        let referenced = self.referenced().await.map_err(|why| self.config_error(name, why))?;
        let pull_secrets: Vec<_> = {
            let names = self.pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten());
            names.filter_map(|secret| referenced.secrets.get(&secret.name).cloned()).collect()
        };
        let auth = credentials(container.image.as_deref().unwrap_or_default(), &pull_secrets);
        let (shared, pod) = (self.shared.clone(), self.pod.clone());
        let tell = |event: ImageEvent| {
            let kind = if event.warning { EventType::Warning } else { EventType::Normal };
            shared.container_event(&pod, name, kind, event.reason, event.message);
        };
        let image = match shared.images.ensure(&self.uid, container, &auth, &tell).await {
            Ok(image) => image,
            Err(failure) => {
                match failure.retry_at {
                    Some(at) => self.wake_by(at),
                    None => self.wake_after(CREATE_RETRY),
                }
                return Err(StartFailure::Waiting(failure.waiting));
            }
        };
        let sandbox = self.observed.ready_sandbox().map(|s| s.id.clone());
        let sandbox = sandbox.ok_or_else(|| StartFailure::Engine("the sandbox has gone".into()))?;
        let services = shared.services.list();
        let facts = self.facts(shared.pod_ip(&pod, &self.observed));
        let env =
            environment(&pod, container, &services, &referenced, &facts).map_err(|why| self.config_error(name, why))?;
        let pod_dir = shared.pod_dir(&self.uid);
        let target = self.target_of(start);
        let config = container_config(ContainerInput {
            pod: &pod,
            container,
            attempt: start.attempt,
            image: &image,
            env: &env,
            volumes: self.volumes.as_ref().unwrap_or(&std::collections::BTreeMap::new()),
            pod_dir: shared.config.on_disk.then_some(pod_dir.as_path()),
            seccomp_root: &shared.config.data_dir.join("seccomp"),
            node_memory_bytes: shared.node_memory_bytes(),
            target: target.as_deref(),
        })
        .map_err(|why| self.config_error(name, why))?;
        let created = shared.runtime.create_container(&sandbox, &config).await;
        let id = created.map_err(|error| self.start_error(name, "CreateContainerError", error))?;
        shared.container_event(&pod, name, EventType::Normal, "Created", "Container created");
        let started = shared.runtime.start_container(&id).await;
        started.map_err(|error| self.start_error(name, "RunContainerError", error))?;
        shared.container_event(&pod, name, EventType::Normal, "Started", "Container started");
        self.post_start(container, &id).await
    }

    /// The container whose processes an ephemeral container sees.
    fn target_of(&self, start: &Start) -> Option<String> {
        if start.role != Role::Ephemeral {
            return None;
        }
        let spec = self.pod.spec.as_ref()?;
        let ephemeral = spec.ephemeral_containers.iter().flatten().find(|c| c.name == start.name)?;
        let target = ephemeral.target_container_name.as_deref()?;
        self.observed.latest(target).map(|c| c.id.clone())
    }

    async fn post_start(&mut self, container: &Container, id: &str) -> Result<(), StartFailure> {
        let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else { return Ok(()) };
        let ip = self.shared.pod_ip(&self.pod, &self.observed).unwrap_or(self.shared.config.node_ip);
        let result = run_hook(&*self.shared.runtime, &*self.shared.prober, container, id, hook, ip).await;
        let Err(why) = result else { return Ok(()) };
        tracing::debug!(pod = self.name(), container = container.name, why, "postStart hook failed");
        let name = &container.name;
        self.shared.container_event(&self.pod, name, EventType::Warning, "FailedPostStartHook", "PostStartHook failed");
        self.shared.container_event(&self.pod, name, EventType::Normal, "Killing", "FailedPostStartHook");
        let stopped = self.stop_container(id, container, self.grace()).await;
        stopped.map_err(|error| StartFailure::Engine(error.to_string()))?;
        self.restarting.insert(name.clone());
        Err(StartFailure::Waiting(WaitingReason { reason: "PostStartHookError".into(), message: why }))
    }

    fn config_error(&mut self, container: &str, why: String) -> StartFailure {
        self.shared.container_event(&self.pod, container, EventType::Warning, "Failed", format!("Error: {why}"));
        self.wake_after(CREATE_RETRY);
        StartFailure::Waiting(WaitingReason { reason: "CreateContainerConfigError".into(), message: why })
    }

    fn start_error(&mut self, container: &str, reason: &str, error: RuntimeError) -> StartFailure {
        if let RuntimeError::EngineDown(_) = error {
            return StartFailure::Engine(error.to_string());
        }
        let message = error.to_string();
        self.shared.container_event(&self.pod, container, EventType::Warning, "Failed", format!("Error: {message}"));
        self.wake_after(CREATE_RETRY);
        StartFailure::Waiting(WaitingReason { reason: reason.into(), message })
    }
}

/// Why a container was not started.
enum StartFailure {
    /// The engine or the API server failed; the whole sync is to be tried again.
    Engine(String),
    /// This container waits.
    Waiting(WaitingReason),
}
