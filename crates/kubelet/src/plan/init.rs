//! Init containers: one after the other, sidecars staying behind to run along.

use k8s_openapi::api::core::v1::Container;

use super::{Actions, KillReason, PlanInput, Role, failure_of, kill, start_after_backoff};
use crate::observed::{containers, init_containers, is_sidecar, restarts_after};
use crate::runtime::{ContainerState, ContainerStatus};

/// How far the init containers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Main containers have to wait (or will never come: `actions.kill_pod`).
    Pending,
    /// Main containers may run.
    Initialized,
}

/// Whether the next init container may begin.
enum Step {
    Next,
    Wait,
}

pub(super) fn plan_init(input: &PlanInput<'_>, sandbox_id: &str, actions: &mut Actions) -> Progress {
    let all = init_containers(input.pod);
    // A sandbox that has held a main container was initialized, whatever has become of its init containers since.
    let initialized = containers(input.pod).iter().any(|c| input.observed.latest_in(sandbox_id, &c.name).is_some());
    for container in all {
        let status = input.observed.latest_in(sandbox_id, &container.name);
        let step = if is_sidecar(container) {
            plan_sidecar(input, container, status, actions)
        } else if initialized {
            Step::Next
        } else {
            plan_ordinary(input, container, status, actions)
        };
        if matches!(step, Step::Wait) && !initialized {
            return Progress::Pending;
        }
    }
    Progress::Initialized
}

/// Keeps a sidecar running; the next may begin when this one has started.
fn plan_sidecar(
    input: &PlanInput<'_>,
    container: &Container,
    status: Option<&ContainerStatus>,
    actions: &mut Actions,
) -> Step {
    let latest = input.observed.latest(&container.name);
    let Some(status) = status else {
        start_after_backoff(input, Role::Init, container, latest, actions);
        return Step::Wait;
    };
    match status.state {
        ContainerState::Running => match failure_of(input, container, status, "Init container") {
            Some((reason, message)) => {
                actions.kill.push(kill(status, reason, format!("{message}, will be restarted"), true));
                Step::Wait
            }
            None if input.verdicts.started(container, status) => Step::Next,
            None => Step::Wait,
        },
        ContainerState::Unknown => {
            let message = format!("Init container {} is in unknown state, try killing it before restart", status.name);
            actions.kill.push(kill(status, KillReason::Unknown, message, true));
            Step::Wait
        }
        ContainerState::Created | ContainerState::Exited => {
            start_after_backoff(input, Role::Init, container, latest, actions);
            // Once it had started, those after it went on; they are not held up by its crash.
            if has_successor(input, container) { Step::Next } else { Step::Wait }
        }
    }
}

/// Whether an init container after this one has been started in the present sandbox.
fn has_successor(input: &PlanInput<'_>, container: &Container) -> bool {
    let sandbox = input.observed.ready_sandbox().map(|s| s.id.as_str()).unwrap_or_default();
    init_containers(input.pod)
        .iter()
        .skip_while(|c| c.name != container.name)
        .skip(1)
        .any(|c| input.observed.latest_in(sandbox, &c.name).is_some())
}

/// Runs an ordinary init container to success, as often as the pod's restart policy lets it.
fn plan_ordinary(
    input: &PlanInput<'_>,
    container: &Container,
    status: Option<&ContainerStatus>,
    actions: &mut Actions,
) -> Step {
    let latest = input.observed.latest(&container.name);
    match status {
        None => start_after_backoff(input, Role::Init, container, latest, actions),
        Some(status) => match status.state {
            ContainerState::Running => {}
            ContainerState::Exited if status.exit_code == 0 => return Step::Next,
            ContainerState::Exited if !restarts_after(input.pod, container, status.exit_code) => {
                *actions = Actions { kill_pod: true, ..Actions::default() };
            }
            ContainerState::Exited | ContainerState::Created => {
                start_after_backoff(input, Role::Init, container, latest, actions);
            }
            ContainerState::Unknown => {
                let message =
                    format!("Init container {} is in unknown state, try killing it before restart", status.name);
                actions.kill.push(kill(status, KillReason::Unknown, message, true));
            }
        },
    }
    Step::Wait
}
