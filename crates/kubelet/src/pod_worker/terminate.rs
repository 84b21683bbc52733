//! The way out: `preStop` hooks, stopping in order, the last status, and removing what is left.

use std::time::Duration;

use coracle_client::EventType;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Container;

use super::{PodWorker, Stage};
use crate::hooks::run_hook;
use crate::observed::{init_containers, is_sidecar};
use crate::plan::{Role, find_container};
use crate::runtime::{ContainerState, ContainerStatus, RuntimeError};
use crate::volumes::tear_down;

/// A container gets at least this long to end by itself, whatever its hook has used up.
const GRACE_MIN: Duration = Duration::from_secs(2);

impl PodWorker {
    /// How long the pod's containers may take to end.
    pub(super) fn grace(&self) -> Duration {
        let spec = self.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
        let seconds = match self.pod.metadata.deletion_grace_period_seconds {
            Some(deletion) => deletion,
            // Gone without a deletion: by force, and at once.
            None if self.gone => 1,
            None => spec,
        };
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1))
    }

    /// Stops everything; a second deletion with a shorter grace period takes effect at once.
    pub(super) async fn terminate(&mut self) -> Result<(), String> {
        self.probes.clear();
        self.observe().await.map_err(|error| error.to_string())?;
        while self.observed.is_alive() {
            let grace = self.grace();
            let mut updates = self.updates.clone();
            let shorter = async {
                let shortened = |update: &super::PodUpdate| {
                    let now = update.pod.metadata.deletion_grace_period_seconds.and_then(|s| u64::try_from(s).ok());
                    update.gone || now.is_some_and(|now| Duration::from_secs(now.max(1)) < grace)
                };
                if self.gone || updates.wait_for(shortened).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                biased;
                result = self.stop_everything(grace) => result?,
                () = shorter => {}
            }
            self.take_update();
            self.observe_again().await.map_err(|error| error.to_string())?;
        }
        if !self.reported_over() {
            self.report(true).await?;
        }
        if let Some(ip) = self.ip.take() {
            self.shared.ips.release(ip);
        }
        self.stage = Stage::Terminated;
        Ok(())
    }

    /// Whether the API server was told the pod's end, after which nothing changes.
    fn reported_over(&self) -> bool {
        let finished = |status: &Option<k8s_openapi::api::core::v1::PodStatus>| {
            matches!(status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
        };
        finished(&self.pod.status) && self.failure.is_none()
    }

    /// Stops the pod's containers, sidecars after all others and in reverse order, then its sandboxes.
    pub(super) async fn stop_everything(&self, grace: Duration) -> Result<(), String> {
        let failed = |error: RuntimeError| error.to_string();
        let deadline = coracle_clock::instant() + grace;
        let sidecars: Vec<&str> =
            init_containers(&self.pod).iter().filter(|c| is_sidecar(c)).map(|c| c.name.as_str()).collect();
        let (mut last, first): (Vec<_>, Vec<_>) =
            self.observed.running().partition(|c| sidecars.contains(&c.name.as_str()));
        let stops = join_all(first.into_iter().map(|container| self.stop(container, grace))).await;
        stops.into_iter().collect::<Result<Vec<_>, _>>().map_err(failed)?;
        last.sort_by_key(|c| std::cmp::Reverse(sidecars.iter().position(|name| *name == c.name)));
        for container in last {
            let left = deadline.saturating_duration_since(coracle_clock::instant());
            self.stop(container, left).await.map_err(failed)?;
        }
        for sandbox in &self.observed.sandboxes {
            if sandbox.state == crate::runtime::SandboxState::Ready {
                self.shared.runtime.stop_sandbox(&sandbox.id).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    async fn stop(&self, status: &ContainerStatus, grace: Duration) -> Result<(), RuntimeError> {
        let message = format!("Stopping container {}", status.name);
        self.shared.container_event(&self.pod, &status.name, EventType::Normal, "Killing", message);
        let roles = [Role::Main, Role::Init, Role::Ephemeral];
        let container = roles.into_iter().find_map(|role| find_container(&self.pod, role, &status.name));
        self.stop_container(&status.id, &container.unwrap_or_default(), grace).await
    }

    /// Runs a container's `preStop` hook and stops it, all within `grace` (but for [`GRACE_MIN`]).
    pub(super) async fn stop_container(
        &self,
        id: &str,
        container: &Container,
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        let begin = coracle_clock::instant();
        if let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) {
            let ip = self.shared.pod_ip(&self.pod, &self.observed).unwrap_or(self.shared.config.node_ip);
            let (runtime, prober) = (&*self.shared.runtime, &*self.shared.prober);
            match coracle_clock::timeout(grace, run_hook(runtime, prober, container, id, hook, ip)).await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => {
                    tracing::debug!(pod = self.name(), container = container.name, why, "preStop hook failed");
                    let name = &container.name;
                    self.shared.container_event(
                        &self.pod,
                        name,
                        EventType::Warning,
                        "FailedPreStopHook",
                        "PreStopHook failed",
                    );
                }
                Err(_) => tracing::debug!(pod = self.name(), container = container.name, "preStop hook took too long"),
            }
        }
        let left = grace.saturating_sub(begin.elapsed());
        let left = if left < grace { left.max(GRACE_MIN) } else { left };
        match self.shared.runtime.stop_container(id, left).await {
            Err(RuntimeError::NotFound(_)) => Ok(()),
            result => result,
        }
    }

    /// Deletes the API object if that was asked for, and removes what is left. Whether the worker's job is done.
    pub(super) async fn clean_up(&mut self) -> Result<bool, String> {
        if !self.deleting() {
            return Ok(false);
        }
        if !self.gone && !self.deleted {
            self.delete_object().await?;
            self.deleted = true;
        }
        self.signals.runtime_changed.store(true, std::sync::atomic::Ordering::SeqCst);
        self.observe().await.map_err(|error| error.to_string())?;
        let failed = |error: RuntimeError| error.to_string();
        for container in &self.observed.containers {
            if container.state != ContainerState::Running {
                self.shared.runtime.remove_container(&container.id).await.map_err(failed)?;
            }
        }
        for sandbox in &self.observed.sandboxes {
            self.shared.runtime.remove_sandbox(&sandbox.id).await.map_err(failed)?;
        }
        self.observed = crate::observed::ObservedPod::default();
        if self.shared.config.on_disk {
            let dir = self.shared.pod_dir(&self.uid);
            tear_down(&dir).map_err(|error| format!("{} not removed: {error}", dir.display()))?;
        }
        self.shared.images.forget_pod(&self.uid);
        Ok(self.gone)
    }
}
