//! The conditions that are the kubelet's: what a pod has reached. Those of others are passed through.

use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{StatusInput, find, whole_seconds};
use crate::observed::{containers, init_containers, is_sidecar};

/// The kubelet's conditions, in the order in which they are shown.
pub(crate) const OWNED: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// The condition of a pod that somebody ends for no fault of its own.
const DISRUPTION_TARGET: &str = "DisruptionTarget";

/// A condition's value with reason and message.
struct Value {
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Value {
    fn yes() -> Value {
        Value { status: true, reason: None, message: None }
    }

    fn no(reason: &'static str, message: Option<String>) -> Value {
        Value { status: false, reason: Some(reason), message }
    }
}

pub(super) fn conditions(input: &StatusInput<'_>, status: &PodStatus, old: &PodStatus) -> Vec<PodCondition> {
    let ready_to_start = match input.observed.ready_sandbox() {
        Some(_) => Value::yes(),
        None => Value { status: false, reason: None, message: None },
    };
    let values = [
        ready_to_start,
        initialized(input, status),
        ready(input, status, old),
        containers_ready(input, status),
        Value::yes(),
    ];
    let previous = old.conditions.as_deref().unwrap_or_default();
    let mut all: Vec<PodCondition> =
        OWNED.iter().zip(values).map(|(type_, value)| condition(input, previous, type_, value)).collect();
    all.extend(foreign(old));
    if let Some(failure) = input.failure
        && let Some(since) = failure.disrupted
    {
        all.retain(|condition| condition.type_ != DISRUPTION_TARGET);
        all.push(PodCondition {
            type_: DISRUPTION_TARGET.to_owned(),
            status: "True".to_owned(),
            reason: Some("TerminationByKubelet".to_owned()),
            message: Some(failure.message.clone()),
            last_transition_time: Some(whole_seconds(since)),
            observed_generation: input.pod.metadata.generation,
            last_probe_time: None,
        });
    }
    all
}

/// The conditions that are others'.
pub(super) fn foreign(status: &PodStatus) -> Vec<PodCondition> {
    status.conditions.iter().flatten().filter(|c| !OWNED.contains(&c.type_.as_str())).cloned().collect()
}

fn condition(input: &StatusInput<'_>, previous: &[PodCondition], type_: &str, value: Value) -> PodCondition {
    let status = if value.status { "True" } else { "False" };
    let unchanged = previous.iter().find(|c| c.type_ == type_ && c.status == status);
    let since: Option<Time> = unchanged.and_then(|c| c.last_transition_time.clone());
    PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: value.reason.map(str::to_owned),
        message: value.message,
        last_transition_time: since.or_else(|| Some(whole_seconds(input.now))),
        observed_generation: input.pod.metadata.generation,
        last_probe_time: None,
    }
}

/// What is said of a pod that is over, instead of naming its containers.
fn over(status: &PodStatus) -> Option<Value> {
    match status.phase.as_deref() {
        Some("Succeeded") => Some(Value::no("PodCompleted", None)),
        Some("Failed") => Some(Value::no("PodFailed", None)),
        _ => None,
    }
}

fn listing(what: &str, names: &[&str]) -> Option<String> {
    Some(format!("containers with {what} status: [{}]", names.join(" ")))
}

fn initialized(input: &StatusInput<'_>, status: &PodStatus) -> Value {
    let begun = containers(input.pod).iter().any(|c| input.observed.latest(&c.name).is_some());
    let incomplete: Vec<&str> = init_containers(input.pod)
        .iter()
        .filter(|container| {
            let found = find(status.init_container_statuses.as_deref(), &container.name);
            let done = |s: &k8s_openapi::api::core::v1::ContainerStatus| {
                if is_sidecar(container) { s.started == Some(true) } else { s.ready }
            };
            !begun && !found.is_some_and(done)
        })
        .map(|container| container.name.as_str())
        .collect();
    match status.phase.as_deref() {
        Some("Succeeded") => Value { reason: Some("PodCompleted"), ..Value::yes() },
        _ if incomplete.is_empty() => Value::yes(),
        _ => Value::no("ContainersNotInitialized", listing("incomplete", &incomplete)),
    }
}

fn containers_ready(input: &StatusInput<'_>, status: &PodStatus) -> Value {
    if let Some(over) = over(status) {
        return over;
    }
    let sidecars = init_containers(input.pod).iter().filter(|c| is_sidecar(c));
    let unready: Vec<&str> = sidecars
        .map(|c| (c, status.init_container_statuses.as_deref()))
        .chain(containers(input.pod).iter().map(|c| (c, status.container_statuses.as_deref())))
        .filter(|(container, statuses)| !find(*statuses, &container.name).is_some_and(|s| s.ready))
        .map(|(container, _)| container.name.as_str())
        .collect();
    if unready.is_empty() { Value::yes() } else { Value::no("ContainersNotReady", listing("unready", &unready)) }
}

/// `Ready`: all containers are, and whoever the pod's readiness gates name agrees.
fn ready(input: &StatusInput<'_>, status: &PodStatus, old: &PodStatus) -> Value {
    let containers = containers_ready(input, status);
    if !containers.status {
        return containers;
    }
    let gates = input.pod.spec.as_ref().and_then(|s| s.readiness_gates.as_deref()).unwrap_or_default();
    let messages: Vec<String> = gates
        .iter()
        .filter_map(|gate| {
            let name = &gate.condition_type;
            match old.conditions.iter().flatten().find(|c| c.type_ == *name) {
                None => Some(format!("corresponding condition of pod readiness gate {name:?} does not exist.")),
                Some(c) if c.status != "True" => {
                    Some(format!("the status of pod readiness gate {name:?} is not \"True\", but {}", c.status))
                }
                Some(_) => None,
            }
        })
        .collect();
    if messages.is_empty() { Value::yes() } else { Value::no("ReadinessGatesNotReady", Some(messages.join(", "))) }
}
