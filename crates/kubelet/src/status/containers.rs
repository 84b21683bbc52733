//! `containerStatuses`: each container's state, and the state before.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    PodStatus,
};

use super::{StatusInput, WaitingReason, exit_code, find, is_running, whole_seconds};
use crate::observed::{containers, init_containers, is_sidecar, is_to_start, restarts_after};
use crate::plan::{Role, find_container};
use crate::runtime;

pub(super) fn container_statuses(input: &StatusInput<'_>, old: &PodStatus, status: &mut PodStatus) {
    let pod = input.pod;
    let init = init_containers(pod);
    if !init.is_empty() {
        let all = init.iter().map(|c| one(input, old.init_container_statuses.as_deref(), c, Role::Init));
        status.init_container_statuses = Some(all.collect());
    }
    let main = containers(pod).iter().map(|c| one(input, old.container_statuses.as_deref(), c, Role::Main));
    let mut main: Vec<_> = main.collect();
    main.sort_by(|a, b| a.name.cmp(&b.name));
    status.container_statuses = Some(main);
    let ephemeral = pod.spec.as_ref().and_then(|s| s.ephemeral_containers.as_deref()).unwrap_or_default();
    if !ephemeral.is_empty() {
        let definitions = ephemeral.iter().filter_map(|c| find_container(pod, Role::Ephemeral, &c.name));
        let all = definitions.map(|c| one(input, old.ephemeral_container_statuses.as_deref(), &c, Role::Ephemeral));
        status.ephemeral_container_statuses = Some(all.collect());
    }
}

fn one(input: &StatusInput<'_>, old: Option<&[ContainerStatus]>, container: &Container, role: Role) -> ContainerStatus {
    let old = find(old, &container.name);
    let instances = input.observed.instances(&container.name);
    let mut status = match instances.first() {
        Some(latest) => from_runtime(input, container, latest),
        None => unseen(input, container, old),
    };
    if let Some(previous) = instances.get(1) {
        status.last_state = Some(state_of(input, previous)).filter(|state| state.terminated.is_some());
    }
    let latest = instances.first().copied();
    if let Some(reason) =
        input.waiting.get(&container.name).filter(|_| !input.terminal && waits(input, container, role, latest))
    {
        show_waiting(&mut status, reason);
    }
    if input.terminal && status.state.as_ref().is_none_or(|state| state.terminated.is_none()) {
        lost(input, role, &mut status);
    }
    readiness(input, container, role, latest, &mut status);
    // Upstream always writes it, and so does the server: without it, what comes back would look changed.
    status.last_state.get_or_insert_default();
    status
}

/// Whether a container is still to be started, so that a failure to do so is its state.
fn waits(
    input: &StatusInput<'_>,
    container: &Container,
    role: Role,
    latest: Option<&runtime::ContainerStatus>,
) -> bool {
    match role {
        Role::Init if is_sidecar(container) => latest.is_none_or(|s| s.state != runtime::ContainerState::Running),
        Role::Init => latest.is_none_or(|s| match s.state {
            runtime::ContainerState::Running => false,
            runtime::ContainerState::Exited => s.exit_code != 0 && restarts_after(input.pod, container, s.exit_code),
            _ => true,
        }),
        Role::Main => is_to_start(input.pod, container, latest),
        Role::Ephemeral => latest.is_none(),
    }
}

fn show_waiting(status: &mut ContainerStatus, reason: &WaitingReason) {
    if let Some(state) = status.state.take().filter(|state| state.terminated.is_some()) {
        status.last_state = Some(state);
    }
    status.state = Some(waiting(&reason.reason, Some(reason.message.clone())));
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    let reason = Some(reason.to_owned()).filter(|r| !r.is_empty());
    ContainerState { waiting: Some(ContainerStateWaiting { reason, message }), ..ContainerState::default() }
}

/// A container that the runtime does not have: not started yet, or its remains were removed.
fn unseen(input: &StatusInput<'_>, container: &Container, old: Option<&ContainerStatus>) -> ContainerStatus {
    if let Some(old) = old.filter(|old| exit_code(old.state.as_ref()).is_some()) {
        return old.clone();
    }
    let reason = if init_containers(input.pod).is_empty() { "ContainerCreating" } else { "PodInitializing" };
    // It ran when it was last seen: its end went unseen, and what is started now, if the pod goes on, is another.
    let vanished = old.is_some_and(|old| is_running(old.state.as_ref()));
    let ended = "The container could not be located when the pod was deleted.  The container used to be Running";
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        restart_count: old.map_or(0, |old| old.restart_count)
            + i32::from(vanished && input.pod.metadata.deletion_timestamp.is_none()),
        last_state: if vanished { Some(unknown_end(ended)) } else { old.and_then(|old| old.last_state.clone()) },
        state: Some(waiting(reason, None)),
        ..ContainerStatus::default()
    }
}

fn from_runtime(input: &StatusInput<'_>, container: &Container, latest: &runtime::ContainerStatus) -> ContainerStatus {
    let running = latest.state == runtime::ContainerState::Running;
    let resources = container.resources.clone().filter(|_| running);
    ContainerStatus {
        name: container.name.clone(),
        image: if latest.image.is_empty() { container.image.clone().unwrap_or_default() } else { latest.image.clone() },
        image_id: latest.image_id.clone(),
        container_id: Some(format!("{}://{}", input.runtime, latest.id)),
        restart_count: i32::try_from(latest.attempt).unwrap_or(i32::MAX),
        state: Some(state_of(input, latest)),
        allocated_resources: resources.as_ref().and_then(|r| r.requests.clone()),
        resources,
        ..ContainerStatus::default()
    }
}

fn state_of(input: &StatusInput<'_>, status: &runtime::ContainerStatus) -> ContainerState {
    let started_at = Some(whole_seconds(status.started_at.unwrap_or(status.created_at)));
    match status.state {
        runtime::ContainerState::Running | runtime::ContainerState::Unknown => {
            ContainerState { running: Some(ContainerStateRunning { started_at }), ..ContainerState::default() }
        }
        runtime::ContainerState::Created => waiting("ContainerCreating", None),
        runtime::ContainerState::Exited => ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: status.exit_code,
                reason: Some(status.reason.clone()).filter(|reason| !reason.is_empty()),
                message: Some(status.message.clone()).filter(|message| !message.is_empty()),
                started_at,
                finished_at: Some(whole_seconds(status.finished_at.unwrap_or(status.created_at))),
                container_id: Some(format!("{}://{}", input.runtime, status.id)),
                signal: None,
            }),
            ..ContainerState::default()
        },
    }
}

/// The pod is over but this container shows no end: it was never started, or its remains are gone. Only when the pod
/// had got as far as its main containers is that a failure of this one.
fn lost(input: &StatusInput<'_>, role: Role, status: &mut ContainerStatus) {
    let begun = containers(input.pod).iter().any(|c| input.observed.latest(&c.name).is_some());
    if role == Role::Main && begun || is_running(status.state.as_ref()) {
        status.state = Some(unknown_end("The container could not be located when the pod was terminated"));
    }
}

/// The end of a container whose end nobody saw.
fn unknown_end(message: &str) -> ContainerState {
    let terminated = ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".into()),
        message: Some(message.into()),
        ..ContainerStateTerminated::default()
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

fn readiness(
    input: &StatusInput<'_>,
    container: &Container,
    role: Role,
    latest: Option<&runtime::ContainerStatus>,
    status: &mut ContainerStatus,
) {
    let running = latest.filter(|_| is_running(status.state.as_ref()));
    let started = running.is_some_and(|latest| input.verdicts.started(container, latest));
    status.started = Some(started);
    status.ready = match role {
        Role::Init if !is_sidecar(container) => exit_code(status.state.as_ref()) == Some(0),
        Role::Ephemeral => false,
        _ => running.is_some_and(|latest| input.verdicts.ready(container, latest)),
    };
}
