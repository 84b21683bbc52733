//! A Deployment's status and its conditions: Available, Progressing, ReplicaFailure.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::sizes;

/// Reasons of the Progressing condition.
pub(super) const PAUSED: &str = "DeploymentPaused";
pub(super) const RESUMED: &str = "DeploymentResumed";
pub(super) const FOUND_NEW: &str = "FoundNewReplicaSet";
pub(super) const CREATED_NEW: &str = "NewReplicaSetCreated";
pub(super) const CREATE_ERROR: &str = "ReplicaSetCreateError";
const NEW_AVAILABLE: &str = "NewReplicaSetAvailable";
const UPDATED: &str = "ReplicaSetUpdated";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

/// The progress deadline; none when the Deployment may take forever.
pub(super) fn deadline_seconds(deployment: &Deployment) -> Option<i64> {
    let seconds = deployment.spec.as_ref().and_then(|spec| spec.progress_deadline_seconds)?;
    (seconds != i32::MAX).then_some(i64::from(seconds))
}

/// One of the conditions.
pub(super) fn condition<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

/// The Progressing condition's reason; empty when there is none.
pub(super) fn progress_reason(status: &DeploymentStatus) -> &str {
    condition(status, "Progressing").and_then(|c| c.reason.as_deref()).unwrap_or_default()
}

/// Sets a condition. One with the same status and reason stays as it is; with the same status the transition
/// time stays.
pub(super) fn set_condition(
    status: &mut DeploymentStatus,
    (type_, value, reason, message): (&str, &str, &str, String),
    now: Timestamp,
) {
    let old = condition(status, type_).cloned();
    if old.as_ref().is_some_and(|old| old.status == value && old.reason.as_deref() == Some(reason)) {
        return;
    }
    let transition = old.filter(|old| old.status == value).and_then(|old| old.last_transition_time);
    remove_condition(status, type_);
    status.conditions.get_or_insert_default().push(DeploymentCondition {
        type_: type_.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: transition.or(Some(Time(now))),
    });
}

fn remove_condition(status: &mut DeploymentStatus, type_: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != type_);
    }
}

/// The counts over the ReplicaSets, and the Available condition. `new` is an index into `all`.
pub(super) fn counted(
    deployment: &Deployment,
    all: &[ReplicaSet],
    new: Option<usize>,
    now: Timestamp,
) -> DeploymentStatus {
    let old = deployment.status.clone().unwrap_or_default();
    let statuses = || all.iter().filter_map(|replica_set| replica_set.status.as_ref());
    let replicas = statuses().map(|status| status.replicas).sum::<i32>();
    let available = all.iter().map(sizes::available).sum::<i32>();
    let updated = new.and_then(|index| all[index].status.as_ref()).map_or(0, |status| status.replicas);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: Some(replicas),
        updated_replicas: Some(updated),
        ready_replicas: Some(statuses().filter_map(|status| status.ready_replicas).sum()),
        available_replicas: Some(available),
        unavailable_replicas: Some((replicas - available).max(0)),
        terminating_replicas: Some(statuses().filter_map(|status| status.terminating_replicas).sum()),
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let enough = available >= sizes::replicas(deployment) - sizes::max_unavailable(deployment);
    let condition = if enough {
        ("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.".into())
    } else {
        ("Available", "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.".into())
    };
    set_condition(&mut status, condition, now);
    status
}

/// [`counted`], with the Progressing and ReplicaFailure conditions of a rollout.
pub(super) fn of_rollout(
    deployment: &Deployment,
    all: &[ReplicaSet],
    new: Option<usize>,
    now: Timestamp,
) -> DeploymentStatus {
    let mut status = counted(deployment, all, new, now);
    if let Some(deadline) = deadline_seconds(deployment) {
        let finished = status.replicas == status.updated_replicas && progress_reason(&status) == NEW_AVAILABLE;
        if !finished {
            let subject = match new {
                Some(index) => format!("ReplicaSet {:?}", all[index].name_any()),
                None => format!("Deployment {:?}", deployment.name_any()),
            };
            progress(&mut status, deployment, &subject, deadline, now);
        }
    } else {
        remove_condition(&mut status, "Progressing");
    }
    let failure = all.iter().filter_map(|rs| rs.status.as_ref()?.conditions.as_ref()).flatten();
    match failure.into_iter().find(|condition| condition.type_ == "ReplicaFailure") {
        None => remove_condition(&mut status, "ReplicaFailure"),
        Some(failure) => {
            let (reason, message) = (failure.reason.clone().unwrap_or_default(), failure.message.clone());
            let condition = ("ReplicaFailure", failure.status.as_str(), reason.as_str(), message.unwrap_or_default());
            set_condition(&mut status, condition, now);
        }
    }
    status
}

fn progress(status: &mut DeploymentStatus, deployment: &Deployment, subject: &str, deadline: i64, now: Timestamp) {
    if is_complete(deployment, status) {
        let message = format!("{subject} has successfully progressed.");
        set_condition(status, ("Progressing", "True", NEW_AVAILABLE, message), now);
    } else if has_progressed(deployment, status) {
        // Each step renews the deadline, so the update time moves even if nothing else changes.
        let since = condition(status, "Progressing").filter(|c| c.status == "True").cloned();
        remove_condition(status, "Progressing");
        set_condition(status, ("Progressing", "True", UPDATED, format!("{subject} is progressing.")), now);
        let renewed = status.conditions.iter_mut().flatten().find(|c| c.type_ == "Progressing");
        if let (Some(renewed), Some(since)) = (renewed, since) {
            renewed.last_transition_time = since.last_transition_time;
        }
    } else if has_timed_out(status, deadline, now) {
        let message = format!("{subject} has timed out progressing.");
        set_condition(status, ("Progressing", "False", TIMED_OUT, message), now);
    }
}

/// Whether all pods are of the new template and available, and none is left of an old one.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = Some(sizes::replicas(deployment));
    status.updated_replicas.or(Some(0)) == wanted
        && status.replicas.or(Some(0)) == wanted
        && status.available_replicas.or(Some(0)) == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn has_progressed(deployment: &Deployment, new: &DeploymentStatus) -> bool {
    let old = deployment.status.clone().unwrap_or_default();
    let outdated = |s: &DeploymentStatus| s.replicas.unwrap_or(0) - s.updated_replicas.unwrap_or(0);
    new.updated_replicas.unwrap_or(0) > old.updated_replicas.unwrap_or(0)
        || outdated(new) < outdated(&old)
        || new.ready_replicas.unwrap_or(0) > old.ready_replicas.unwrap_or(0)
        || new.available_replicas.unwrap_or(0) > old.available_replicas.unwrap_or(0)
}

fn has_timed_out(status: &DeploymentStatus, deadline: i64, now: Timestamp) -> bool {
    match condition(status, "Progressing") {
        None => false,
        Some(condition) => match condition.reason.as_deref() {
            Some(NEW_AVAILABLE) => false,
            Some(TIMED_OUT) => true,
            _ => condition.last_update_time.as_ref().is_some_and(|at| now.duration_since(at.0).as_secs() > deadline),
        },
    }
}

/// When to look again whether a rollout has run into its deadline.
pub(super) fn deadline_at(deployment: &Deployment, status: &DeploymentStatus) -> Option<Timestamp> {
    let deadline = deadline_seconds(deployment)?;
    let condition = condition(status, "Progressing")?;
    let reason = condition.reason.as_deref().unwrap_or_default();
    if matches!(reason, NEW_AVAILABLE | TIMED_OUT | PAUSED) || is_complete(deployment, status) {
        return None;
    }
    let since = condition.last_update_time.as_ref()?.0;
    Some(since + std::time::Duration::from_secs(deadline.unsigned_abs() + 1))
}

/// The status when `spec.paused` was switched and the deadline's clock has to stop or start; none otherwise.
pub(super) fn of_pause(deployment: &Deployment, now: Timestamp) -> Option<DeploymentStatus> {
    deadline_seconds(deployment)?;
    let mut status = deployment.status.clone().unwrap_or_default();
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or_default();
    let condition = match (progress_reason(&status), paused) {
        (TIMED_OUT, _) | (PAUSED, true) => return None,
        (_, true) => ("Progressing", "Unknown", PAUSED, "Deployment is paused".to_owned()),
        (PAUSED, false) => ("Progressing", "Unknown", RESUMED, "Deployment is resumed".to_owned()),
        (_, false) => return None,
    };
    set_condition(&mut status, condition, now);
    Some(status)
}
