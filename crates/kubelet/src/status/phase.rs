//! The phase: one word for all of a pod's containers.

use k8s_openapi::api::core::v1::PodStatus;

use super::{StatusInput, exit_code, find, is_running};
use crate::observed::{containers, init_containers, is_sidecar, pod_restart_policy};

/// What of the main containers counts towards the phase.
#[derive(Default)]
struct Tally {
    running: usize,
    waiting: usize,
    stopped: usize,
    succeeded: usize,
}

pub(super) fn phase(input: &StatusInput<'_>, status: &PodStatus) -> &'static str {
    let policy = pod_restart_policy(input.pod);
    let (pending_init, failed_init) = init_progress(input, status);
    if failed_init && policy == "Never" {
        return "Failed";
    }
    let tally = tally(input, status);
    let all_succeeded = tally.stopped == tally.succeeded && tally.waiting == 0;
    if input.terminal {
        return if tally.stopped > 0 && all_succeeded { "Succeeded" } else { "Failed" };
    }
    if pending_init || tally.waiting > 0 {
        return "Pending";
    }
    match (tally.running, tally.stopped) {
        (1.., _) => "Running",
        (0, 1..) if policy == "Always" => "Running",
        (0, 1..) if all_succeeded => "Succeeded",
        (0, 1..) if policy == "Never" => "Failed",
        (0, 1..) => "Running",
        (0, 0) => "Pending",
    }
}

/// Whether init containers are yet to be done, and whether one has failed.
fn init_progress(input: &StatusInput<'_>, status: &PodStatus) -> (bool, bool) {
    let begun = containers(input.pod).iter().any(|c| input.observed.latest(&c.name).is_some());
    let (mut pending, mut failed) = (false, false);
    for container in init_containers(input.pod) {
        let found = find(status.init_container_statuses.as_deref(), &container.name);
        let started = found.is_some_and(|s| is_running(s.state.as_ref()) && s.started == Some(true));
        match found.and_then(|s| exit_code(s.state.as_ref())) {
            _ if is_sidecar(container) => pending |= !started && !begun,
            Some(0) => {}
            Some(_) => failed = true,
            None => {
                let failed_before = found.and_then(|s| exit_code(s.last_state.as_ref())).is_some_and(|code| code != 0);
                pending |= !begun;
                failed |= failed_before;
            }
        }
    }
    (pending || (failed && !begun), failed)
}

fn tally(input: &StatusInput<'_>, status: &PodStatus) -> Tally {
    let mut tally = Tally::default();
    for container in containers(input.pod) {
        let Some(found) = find(status.container_statuses.as_deref(), &container.name) else {
            tally.waiting += 1;
            continue;
        };
        match exit_code(found.state.as_ref()) {
            Some(code) => {
                tally.stopped += 1;
                tally.succeeded += usize::from(code == 0);
            }
            None if is_running(found.state.as_ref()) => tally.running += 1,
            // One that ran before and waits for its restart has stopped; one that never ran is still to come.
            None if exit_code(found.last_state.as_ref()).is_some() => tally.stopped += 1,
            None => tally.waiting += 1,
        }
    }
    tally
}
