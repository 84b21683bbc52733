//! One round of making the runtime agree with the pod.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::EventType;
use k8s_openapi::api::core::v1::Probe;

use super::{PodWorker, Report, Stage, is_over};
use crate::container::sandbox_config;
use crate::observed::{containers, init_containers};
use crate::plan::{Actions, Kill, KillReason, PlanInput, Role, find_container, plan};
use crate::probes::{ProbeTarget, run_probes};
use crate::runtime::{ContainerState, RuntimeError};
use crate::status::{PodFailure, WaitingReason};
use crate::text::{go_duration, pod_in_messages};

/// So many plans may follow one another before others get their turn; a pod of twenty init containers needs as many.
const ROUNDS_MAX: usize = 64;
/// What takes longer to start is said to be starting: as long as upstream's kubelet takes to look again.
const MOMENT: Duration = Duration::from_secs(1);
/// After a sandbox could not be made.
const SANDBOX_RETRY: Duration = Duration::from_secs(5);

impl PodWorker {
    /// Looks, plans and acts until there is nothing to do, then reports.
    pub(super) async fn sync(&mut self) -> Result<(), String> {
        if is_over(&self.status) {
            self.stage = Stage::Terminating;
            return Ok(());
        }
        self.observe().await.map_err(|error| error.to_string())?;
        if self.past_deadline() {
            return Ok(());
        }
        self.check_tokens();
        if self.observed.ready_sandbox().is_some() {
            // Refreshes files, and finds an adopted pod's volumes again.
            self.ensure_volumes().await?;
        }
        let mut has_begun = false;
        for _ in 0..ROUNDS_MAX {
            let actions = self.plan();
            self.note_backoff(&actions);
            if actions.is_empty() {
                break;
            }
            let acted = match has_begun {
                true => self.act_and_report(&actions).await?,
                false => {
                    self.report(false).await?;
                    self.act(&actions).await?
                }
            };
            if !acted {
                break;
            }
            has_begun = actions.create_sandbox.is_some();
            self.keep_probes();
        }
        if self.stage != Stage::Syncing {
            // What is left of the pod (its sidecars) goes first; then its end is told.
            return Ok(());
        }
        self.keep_probes();
        self.report(false).await?;
        self.collect_garbage().await
    }

    /// Carries out a plan; if that takes its time, the status until then is sent meanwhile. That the sandbox of a pod is
    /// there need not be told if in the next moment its containers are.
    async fn act_and_report(&mut self, actions: &Actions) -> Result<bool, String> {
        let Some(news) = self.news(false) else { return self.act(actions).await };
        let (acted, sent) = {
            let mut act = std::pin::pin!(self.act(actions));
            match coracle_clock::timeout(MOMENT, &mut act).await {
                Ok(acted) => return acted,
                Err(_) => tokio::join!(act, news.send()),
            }
        };
        self.told(sent?);
        acted
    }

    /// Fails a pod that runs longer than `activeDeadlineSeconds`, or sees to it that it is looked at in time.
    fn past_deadline(&mut self) -> bool {
        let deadline = self.pod.spec.as_ref().and_then(|s| s.active_deadline_seconds);
        let (Some(seconds), Some(start)) = (deadline, self.status.start_time.as_ref()) else { return false };
        let ends = start.0 + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        if coracle_clock::now() < ends {
            self.wake_by(ends);
            return false;
        }
        let message = "Pod was active on the node longer than the specified deadline";
        self.shared.pod_event(&self.pod, EventType::Normal, "DeadlineExceeded", message);
        self.failure = Some(PodFailure::new("DeadlineExceeded", message));
        true
    }

    fn plan(&self) -> Actions {
        plan(PlanInput {
            pod: &self.pod,
            observed: &self.observed,
            verdicts: &self.signals.verdicts(),
            backoff: &self.backoff,
            restarting: &self.restarting,
            now: coracle_clock::now(),
        })
    }

    /// Shows and announces the waits of crashed containers.
    fn note_backoff(&mut self, actions: &Actions) {
        for (name, wait) in &actions.backing_off {
            let whom = pod_in_messages(&self.pod);
            let message = format!("back-off {} restarting failed container={name} pod={whom}", go_duration(wait.delay));
            self.waiting.insert(name.clone(), WaitingReason { reason: "CrashLoopBackOff".into(), message });
            if self.announced.insert(name.clone(), wait.until) != Some(wait.until) {
                let message = format!("Back-off restarting failed container {name} in pod {whom}");
                self.shared.container_event(&self.pod, name, EventType::Warning, "BackOff", message);
            }
        }
        if let Some(at) = actions.wake_at() {
            self.wake_by(at);
        }
    }

    /// Carries a plan out. `false` when it failed in a way that is for later.
    async fn act(&mut self, actions: &Actions) -> Result<bool, String> {
        let failed = |error: RuntimeError| error.to_string();
        if actions.kill_pod {
            if actions.create_sandbox.is_none() {
                // All is done: the ordered way out.
                self.stage = Stage::Terminating;
                return Ok(false);
            }
            if self.observed.newest_sandbox().is_some() {
                let message = "Pod sandbox changed, it will be killed and re-created.";
                self.shared.pod_event(&self.pod, EventType::Normal, "SandboxChanged", message);
            }
            self.probes.clear();
            self.stop_everything(self.grace()).await?;
            self.observe_again().await.map_err(failed)?;
        }
        if let Some(attempt) = actions.create_sandbox {
            let made = self.ensure_volumes().await? && self.create_sandbox(attempt).await?;
            if made {
                self.observe_again().await.map_err(failed)?;
            }
            return Ok(made);
        }
        // An adopted pod has its sandbox already.
        if !actions.start.is_empty() && !self.ensure_volumes().await? {
            return Ok(false);
        }
        for kill in &actions.kill {
            self.kill(kill).await.map_err(failed)?;
        }
        let mut all_started = true;
        for start in &actions.start {
            if let Some(container) = find_container(&self.pod, start.role, &start.name) {
                let started = self.start(start, &container).await?;
                all_started &= started;
                if !started && start.role == Role::Init {
                    break;
                }
            }
        }
        self.observe_again().await.map_err(failed)?;
        Ok(all_started)
    }

    async fn create_sandbox(&mut self, attempt: u32) -> Result<bool, String> {
        let host_network = self.pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        if let Some(old) = self.ip.take() {
            self.shared.ips.release(old);
        }
        let ip = match host_network {
            true => None,
            false => match self.shared.ips.allocate() {
                Ok(ip) => Some(ip),
                Err(error) => return Ok(self.sandbox_failed(&error.to_string())),
            },
        };
        self.ip = ip;
        let config = sandbox_config(&self.pod, attempt, ip, &self.shared.cluster_dns());
        match self.shared.runtime.run_sandbox(&config).await {
            Ok(_) => {}
            Err(error @ RuntimeError::EngineDown(_)) => return Err(error.to_string()),
            Err(error) => {
                // An address that somebody else turned out to have stays taken.
                if !matches!(error, RuntimeError::Conflict(_))
                    && let Some(ip) = self.ip.take()
                {
                    self.shared.ips.release(ip);
                }
                self.ip = None;
                return Ok(self.sandbox_failed(&error.to_string()));
            }
        }
        if self.shared.config.on_disk {
            let address = if host_network { Some(self.shared.config.node_ip) } else { ip };
            self.write_pod_files(address).map_err(|error| error.to_string())?;
        }
        Ok(true)
    }

    fn sandbox_failed(&mut self, why: &str) -> bool {
        let message = format!("Failed to create pod sandbox: {why}");
        self.shared.pod_event(&self.pod, EventType::Warning, "FailedCreatePodSandBox", message);
        self.wake_after(SANDBOX_RETRY);
        false
    }

    /// Stops one container while the pod goes on.
    async fn kill(&mut self, kill: &Kill) -> Result<(), RuntimeError> {
        self.probes.remove(&kill.id);
        self.shared.container_event(&self.pod, &kill.name, EventType::Normal, "Killing", kill.message.clone());
        let role = if containers(&self.pod).iter().any(|c| c.name == kill.name) { Role::Main } else { Role::Init };
        let container = find_container(&self.pod, role, &kill.name).unwrap_or_default();
        let of = |probe: Option<&Probe>| probe.and_then(|probe| probe.termination_grace_period_seconds);
        let own = match kill.reason {
            KillReason::LivenessProbe => of(container.liveness_probe.as_ref()),
            KillReason::StartupProbe => of(container.startup_probe.as_ref()),
            KillReason::Changed | KillReason::Unknown => None,
        };
        let grace = own.and_then(|s| u64::try_from(s).ok()).map_or_else(|| self.grace(), Duration::from_secs);
        self.stop_container(&kill.id, &container, grace).await?;
        if kill.restart {
            self.restarting.insert(kill.name.clone());
        }
        Ok(())
    }

    /// Has every running container probed, and no other.
    fn keep_probes(&mut self) {
        let Some(ip) = self.shared.pod_ip(&self.pod, &self.observed) else {
            self.probes.clear();
            return;
        };
        let running: Vec<_> = self.observed.running().filter(|c| c.state == ContainerState::Running).cloned().collect();
        let ids: BTreeSet<&str> = running.iter().map(|c| c.id.as_str()).collect();
        self.probes.retain(|id, _| ids.contains(id.as_str()));
        {
            let mut verdicts = self.signals.verdicts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            verdicts.0.retain(|id, _| ids.contains(id.as_str()));
        }
        for status in &running {
            let mut defined = containers(&self.pod).iter().chain(init_containers(&self.pod));
            let Some(container) = defined.find(|c| c.name == status.name) else { continue };
            let probed = container.startup_probe.is_some()
                || container.liveness_probe.is_some()
                || container.readiness_probe.is_some();
            if !probed || self.probes.contains_key(&status.id) {
                continue;
            }
            let target = ProbeTarget {
                container: container.clone(),
                container_id: status.id.clone(),
                ip,
                started_at: status.started_at.unwrap_or(status.created_at),
            };
            let report = Report { shared: self.shared.clone(), signals: self.signals.clone(), pod: self.pod.clone() };
            let probing = run_probes(target, self.shared.prober.clone(), Arc::new(report));
            let task = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(probing));
            self.probes.insert(status.id.clone(), task);
        }
    }

    /// Removes dead containers but the newest (whose log `kubectl logs -p` shows), and dead sandboxes left empty.
    async fn collect_garbage(&mut self) -> Result<(), String> {
        let failed = |error: RuntimeError| error.to_string();
        let mut removed = BTreeSet::new();
        for container in &self.observed.containers {
            let newer =
                self.observed.instances(&container.name).iter().filter(|c| c.attempt > container.attempt).count();
            if newer >= 2 && container.state != ContainerState::Running {
                self.shared.runtime.remove_container(&container.id).await.map_err(failed)?;
                removed.insert(container.id.clone());
            }
        }
        self.observed.containers.retain(|c| !removed.contains(&c.id));
        let newest = self.observed.newest_sandbox().map(|s| s.id.clone());
        let used: BTreeSet<_> = self.observed.containers.iter().map(|c| c.sandbox_id.clone()).collect();
        let old = |id: &String| Some(id) != newest.as_ref() && !used.contains(id);
        let dead: Vec<_> = self.observed.sandboxes.iter().map(|s| s.id.clone()).filter(old).collect();
        for id in dead {
            self.shared.runtime.remove_sandbox(&id).await.map_err(failed)?;
            self.observed.sandboxes.retain(|s| s.id != id);
        }
        Ok(())
    }
}
