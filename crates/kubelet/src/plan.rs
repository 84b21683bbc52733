//! The kubelet's decision: from what a pod should be and what it is, what to do next.
//!
//! [`plan`] is the whole of it, a pure function; the pod worker carries its [`Actions`] out and asks again. Nothing is
//! remembered between two calls except in what the runtime shows (and in the back-off), so a kubelet that was killed
//! at any line goes on where the pod stands:
//!
//! 1. no live sandbox: stop everything and make one, unless all that the pod had to do is done;
//! 2. init containers one after the other; a sidecar (`restartPolicy: Always`) counts as done once it has started,
//!    and is kept running from then on;
//! 3. main containers: start what is missing, restart what ended as its restart policy says, after a back-off; stop
//!    and restart what changed or failed its liveness or startup probe.

mod init;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::backoff::{Backoff, Waiting};
use crate::observed::{ObservedPod, containers, init_containers, is_to_start, pod_restart_policy, restarts_after};
use crate::runtime::{ContainerState, ContainerStatus};
use crate::text::container_hash;
use crate::verdicts::Verdicts;

/// The annotation under which a container carries the hash of its definition.
pub const HASH_ANNOTATION: &str = "io.kubernetes.container.hash";

/// Which list of the pod's spec a container stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// `spec.initContainers`.
    Init,
    /// `spec.containers`.
    Main,
    /// `spec.ephemeralContainers`.
    Ephemeral,
}

/// A container instance to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The list it stands in.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// How often it was restarted before.
    pub attempt: u32,
}

/// Why a single container is stopped while its pod goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    /// Its definition changed.
    Changed,
    /// Its startup probe failed.
    StartupProbe,
    /// Its liveness probe failed.
    LivenessProbe,
    /// The runtime does not know how it is.
    Unknown,
}

/// A container instance to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// The runtime's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: KillReason,
    /// The text of its `Killing` event.
    pub message: String,
    /// Whether it is then started again even if it ends with success.
    pub restart: bool,
}

/// What to do next about one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    /// Stop every container and the sandbox, before anything else.
    pub kill_pod: bool,
    /// Make a sandbox with this attempt. Everything that is started then follows from another plan.
    pub create_sandbox: Option<u32>,
    /// Containers to stop while the pod goes on.
    pub kill: Vec<Kill>,
    /// Containers to start, in order.
    pub start: Vec<Start>,
    /// Containers that would be started but wait after a crash.
    pub backing_off: BTreeMap<String, Waiting>,
}

impl Actions {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        !self.kill_pod && self.create_sandbox.is_none() && self.kill.is_empty() && self.start.is_empty()
    }

    /// When the first back-off ends, so that the pod must be looked at again.
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.backing_off.values().map(|wait| wait.until).min()
    }
}

/// Everything that a decision follows from.
#[derive(Clone, Copy, Debug)]
pub struct PlanInput<'a> {
    /// The pod as the API server has it.
    pub pod: &'a Pod,
    /// The pod as the runtime has it.
    pub observed: &'a ObservedPod,
    /// What probes found.
    pub verdicts: &'a Verdicts,
    /// The waits of crashed containers, by [`backoff_key`].
    pub backoff: &'a Backoff,
    /// Containers that were stopped in order to be started again, whatever they answered to that.
    pub restarting: &'a BTreeSet<String>,
    /// Wall time.
    pub now: Timestamp,
}

/// The key of a container's back-off: a changed definition starts from the beginning.
pub fn backoff_key(container: &Container) -> String {
    format!("{}/{}", container.name, container_hash(container))
}

/// Decides what to do next about a pod that is to run. See the [module](self).
pub fn plan(input: PlanInput<'_>) -> Actions {
    let mut actions = Actions::default();
    let Some(sandbox) = input.observed.ready_sandbox() else {
        plan_sandbox(&input, &mut actions);
        return actions;
    };
    let sandbox_id = sandbox.id.clone();
    plan_ephemeral(&input, &mut actions);
    if init::plan_init(&input, &sandbox_id, &mut actions) == init::Progress::Initialized {
        plan_main(&input, &mut actions);
    }
    actions
}

/// There is no sandbox that could hold containers: make one if something is left to run.
fn plan_sandbox(input: &PlanInput<'_>, actions: &mut Actions) {
    let PlanInput { pod, observed, .. } = *input;
    let attempt = observed.newest_sandbox().map_or(0, |sandbox| sandbox.attempt + 1);
    actions.kill_pod = observed.is_alive() || !observed.sandboxes.is_empty();
    let never_again = pod_restart_policy(pod) == "Never" && attempt != 0 && !observed.containers.is_empty();
    let left_to_run = containers(pod).iter().any(|c| is_to_start(pod, c, observed.latest(&c.name)));
    if left_to_run && !never_again {
        actions.create_sandbox = Some(attempt);
    } else {
        actions.kill_pod = true;
    }
}

/// Ephemeral containers are started once and never again.
fn plan_ephemeral(input: &PlanInput<'_>, actions: &mut Actions) {
    let spec = input.pod.spec.as_ref();
    for container in spec.and_then(|s| s.ephemeral_containers.as_deref()).unwrap_or_default() {
        if input.observed.latest(&container.name).is_none() {
            actions.start.push(Start { role: Role::Ephemeral, name: container.name.clone(), attempt: 0 });
        }
    }
}

fn plan_main(input: &PlanInput<'_>, actions: &mut Actions) {
    let before = actions.clone();
    let mut kept = 0;
    let mut started = 0;
    for container in containers(input.pod) {
        let latest = input.observed.latest(&container.name);
        match latest.filter(|status| status.state == ContainerState::Running) {
            None if is_to_start(input.pod, container, latest) || input.restarting.contains(&container.name) => {
                if let Some(unknown) = latest.filter(|status| status.state == ContainerState::Unknown) {
                    let message =
                        format!("Container {} is in unknown state, try killing it before restart", unknown.name);
                    actions.kill.push(kill(unknown, KillReason::Unknown, message, true));
                }
                started += 1;
                start_after_backoff(input, Role::Main, container, latest, actions);
            }
            None => {}
            Some(running) => match failure_of(input, container, running, "Container") {
                None => kept += 1,
                Some((reason, message)) => {
                    // A changed definition always takes effect; a failed probe restarts only if the policy lets it.
                    let restart = reason == KillReason::Changed || restarts_after(input.pod, container, 1);
                    let message = if restart { format!("{message}, will be restarted") } else { message };
                    started += usize::from(restart);
                    actions.kill.push(kill(running, reason, message, restart));
                    kept += usize::from(!restart);
                }
            },
        }
    }
    if kept == 0 && started == 0 {
        // All is done: sidecars must not keep the pod alive.
        *actions = Actions { kill_pod: true, ..before };
        actions.start.clear();
        actions.backing_off.clear();
    }
}

/// Why a running container must be stopped, with the text of the event.
fn failure_of(
    input: &PlanInput<'_>,
    container: &Container,
    running: &ContainerStatus,
    what: &str,
) -> Option<(KillReason, String)> {
    let name = &container.name;
    let verdict = input.verdicts.of(&running.id);
    let hash = running.annotations.get(HASH_ANNOTATION);
    if hash.is_some_and(|hash| *hash != container_hash(container)) {
        Some((KillReason::Changed, format!("{what} {name} definition changed")))
    } else if verdict.liveness == Some(false) {
        Some((KillReason::LivenessProbe, format!("{what} {name} failed liveness probe")))
    } else if verdict.startup == Some(false) {
        Some((KillReason::StartupProbe, format!("{what} {name} failed startup probe")))
    } else {
        None
    }
}

fn kill(status: &ContainerStatus, reason: KillReason, message: String, restart: bool) -> Kill {
    Kill { id: status.id.clone(), name: status.name.clone(), reason, message, restart }
}

/// The attempt that follows those of which the runtime knows nothing any more, since the machine was restarted.
fn forgotten_attempts(pod: &Pod, name: &str) -> u32 {
    let lists = pod.status.iter().flat_map(|s| [&s.container_statuses, &s.init_container_statuses]).flatten();
    // Whose end is told of without its id is counted already.
    let last = lists.flatten().find(|status| status.name == name);
    last.map_or(0, |last| u32::try_from(last.restart_count).unwrap_or(0) + u32::from(last.container_id.is_some()))
}

/// Starts a container, unless it ended so shortly ago that it has to wait.
fn start_after_backoff(
    input: &PlanInput<'_>,
    role: Role,
    container: &Container,
    latest: Option<&ContainerStatus>,
    actions: &mut Actions,
) {
    let waiting = latest
        .and_then(failed_at)
        .and_then(|failed_at| input.backoff.waiting(&backoff_key(container), failed_at, input.now));
    match waiting {
        Some(wait) => {
            actions.backing_off.insert(container.name.clone(), wait);
        }
        None => {
            let attempt = match latest {
                Some(_) => input.observed.next_attempt(&container.name),
                None => forgotten_attempts(input.pod, &container.name),
            };
            actions.start.push(Start { role, name: container.name.clone(), attempt });
        }
    }
}

/// When an instance ended, or failed to start; `None` while it runs.
pub fn failed_at(status: &ContainerStatus) -> Option<Timestamp> {
    match status.state {
        ContainerState::Exited => Some(status.finished_at.unwrap_or(status.created_at)),
        ContainerState::Created => Some(status.created_at),
        ContainerState::Running | ContainerState::Unknown => None,
    }
}

/// The container of this name in the given list of the pod's spec. Ephemeral containers are shown as ordinary ones.
pub fn find_container(pod: &Pod, role: Role, name: &str) -> Option<Container> {
    match role {
        Role::Init => init_containers(pod).iter().find(|c| c.name == name).cloned(),
        Role::Main => containers(pod).iter().find(|c| c.name == name).cloned(),
        Role::Ephemeral => {
            let spec = pod.spec.as_ref()?;
            let found = spec.ephemeral_containers.iter().flatten().find(|c| c.name == name)?;
            // An ephemeral container is a container with one more field and without the lifecycle ones.
            let mut fields = serde_json::to_value(found).ok()?;
            fields.as_object_mut()?.remove("targetContainerName");
            serde_json::from_value(fields).ok()
        }
    }
}
