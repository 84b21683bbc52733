//! A pod's status, as a function of its spec and of what the runtime and the probes show.
//!
//! [`pod_status`] gives what `pods/status` should say; the worker sends it when it differs from what the API server
//! has. Container states come first, the phase follows from them, and the conditions from both.

mod conditions;
mod containers;
mod phase;
#[cfg(test)]
mod tests;

pub(crate) use conditions::OWNED as OWNED_CONDITIONS;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, HostIP, Pod, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::observed::ObservedPod;
use crate::resources::qos_class;
use crate::verdicts::Verdicts;

/// Why a container waits: a machine-readable word and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingReason {
    /// `ErrImagePull`, `CrashLoopBackOff`, …
    pub reason: String,
    /// What happened.
    pub message: String,
}

/// What is told of a pod that made room.
pub(crate) const PREEMPTED: &str = "Preempted in order to admit critical pod";

/// A verdict of the kubelet on a whole pod, such as `DeadlineExceeded` or `Evicted`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFailure {
    /// `status.reason`.
    pub reason: String,
    /// `status.message`.
    pub message: String,
    /// The node did not take the pod, so that there is nothing to say of its containers.
    pub rejected: bool,
    /// Since when the pod has been ended for no fault of its own, which its condition `DisruptionTarget` tells.
    pub disrupted: Option<Timestamp>,
}

impl PodFailure {
    /// A failure of what has run.
    pub(crate) fn new(reason: &str, message: &str) -> PodFailure {
        PodFailure { reason: reason.into(), message: message.into(), rejected: false, disrupted: None }
    }

    /// The pod made room for one that matters more.
    pub(crate) fn preempted(now: Timestamp) -> PodFailure {
        PodFailure { disrupted: Some(now), ..PodFailure::new("Preempting", PREEMPTED) }
    }

    /// Why the node does not take a pod.
    pub(crate) fn rejected(reason: &str, message: &str) -> PodFailure {
        PodFailure { rejected: true, ..PodFailure::new(reason, message) }
    }
}

/// Everything that a status follows from.
#[derive(Clone, Copy, Debug)]
pub struct StatusInput<'a> {
    /// The pod's metadata and spec.
    pub pod: &'a Pod,
    /// Its last known status.
    pub old: &'a PodStatus,
    /// The pod as the runtime has it.
    pub observed: &'a ObservedPod,
    /// What probes found.
    pub verdicts: &'a Verdicts,
    /// Why containers could not be started, by name.
    pub waiting: &'a BTreeMap<String, WaitingReason>,
    /// The runtime's name, the scheme of container ids.
    pub runtime: &'a str,
    /// The node's addresses.
    pub host_ips: &'a [String],
    /// The pod is over: nothing runs and nothing will be started.
    pub terminal: bool,
    /// The kubelet has failed the pod.
    pub failure: Option<&'a PodFailure>,
    /// Wall time.
    pub now: Timestamp,
}

/// The status of a pod. See the [module](self).
pub fn pod_status(input: StatusInput<'_>) -> PodStatus {
    let old = input.old;
    let mut status = PodStatus {
        observed_generation: input.pod.metadata.generation,
        qos_class: Some(old.qos_class.clone().unwrap_or_else(|| qos_class(input.pod).to_owned())),
        start_time: old.start_time.clone().or(Some(whole_seconds(input.now))),
        nominated_node_name: old.nominated_node_name.clone(),
        resource_claim_statuses: old.resource_claim_statuses.clone(),
        extended_resource_claim_status: old.extended_resource_claim_status.clone(),
        ..PodStatus::default()
    };
    if let Some(rejection) = input.failure.filter(|failure| failure.rejected) {
        status.phase = Some("Failed".into());
        status.reason = Some(rejection.reason.clone());
        status.message = Some(format!("Pod was rejected: {}", rejection.message));
        status.conditions = Some(conditions::foreign(old)).filter(|conditions| !conditions.is_empty());
        return status;
    }
    addresses(&input, old, &mut status);
    containers::container_statuses(&input, old, &mut status);
    let old_phase = old.phase.as_deref().filter(|phase| matches!(*phase, "Succeeded" | "Failed"));
    let computed = phase::phase(&input, &status);
    if let Some(failure) = input.failure {
        status.reason = Some(failure.reason.clone());
        status.message = Some(failure.message.clone());
    } else if old_phase.is_some() {
        status.reason = old.reason.clone();
        status.message = old.message.clone();
    }
    // What has ended stays ended.
    let phase = match (old_phase, input.failure) {
        (Some(phase), _) => phase,
        (None, Some(_)) => "Failed",
        (None, None) => computed,
    };
    status.phase = Some(phase.to_owned());
    status.conditions = Some(conditions::conditions(&input, &status, old));
    status
}

fn addresses(input: &StatusInput<'_>, old: &PodStatus, status: &mut PodStatus) {
    status.host_ip = input.host_ips.first().cloned();
    status.host_ips = Some(input.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
    let sandbox = input.observed.newest_sandbox();
    let host_network = input.pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false);
    let ip = match sandbox {
        Some(_) if host_network => status.host_ip.clone(),
        // A stopped sandbox no longer shows its address, but a finished pod is still known under it.
        Some(sandbox) => sandbox.ip.map(|ip| ip.to_string()).or_else(|| old.pod_ip.clone()),
        None => old.pod_ip.clone(),
    };
    status.pod_ips = ip.clone().map(|ip| vec![PodIP { ip }]);
    status.pod_ip = ip;
}

/// `metav1.Time` knows whole seconds only.
fn whole_seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

fn is_running(state: Option<&ContainerState>) -> bool {
    state.is_some_and(|state| state.running.is_some())
}

fn exit_code(state: Option<&ContainerState>) -> Option<i32> {
    state?.terminated.as_ref().map(|terminated| terminated.exit_code)
}

fn find<'a>(statuses: Option<&'a [ContainerStatus]>, name: &str) -> Option<&'a ContainerStatus> {
    statuses?.iter().find(|status| status.name == name)
}
