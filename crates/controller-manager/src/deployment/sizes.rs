//! The arithmetic of rollouts: surge, unavailability, and who gets how many replicas.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, RollingUpdateDeployment};
use kube::ResourceExt;

use super::revision::{MAX_REPLICAS, noted};
use crate::pods::scaled_value;

/// `spec.replicas`, 1 when unset.
pub(super) fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Whether the strategy is RollingUpdate (the default).
pub(super) fn is_rolling(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref()?.type_.as_deref());
    strategy.is_none_or(|strategy| strategy == "RollingUpdate")
}

fn rolling_update(deployment: &Deployment) -> RollingUpdateDeployment {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.clone());
    strategy.and_then(|strategy| strategy.rolling_update).unwrap_or_default()
}

/// How many pods beyond `spec.replicas` a rolling update may have.
pub(super) fn max_surge(deployment: &Deployment) -> i32 {
    if !is_rolling(deployment) {
        return 0;
    }
    scaled_value(rolling_update(deployment).max_surge.as_ref(), replicas(deployment), true)
}

/// How many of `spec.replicas` may be unavailable. A rolling update with neither surge nor unavailability could
/// not move, so then it is 1.
pub(super) fn max_unavailable(deployment: &Deployment) -> i32 {
    let replicas = replicas(deployment);
    if !is_rolling(deployment) || replicas == 0 {
        return 0;
    }
    let unavailable = scaled_value(rolling_update(deployment).max_unavailable.as_ref(), replicas, false);
    let unavailable = if unavailable == 0 && max_surge(deployment) == 0 { 1 } else { unavailable };
    unavailable.min(replicas)
}

/// `spec.replicas` of a ReplicaSet.
pub(super) fn size(replica_set: &ReplicaSet) -> i32 {
    replica_set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// `status.availableReplicas` of a ReplicaSet.
pub(super) fn available(replica_set: &ReplicaSet) -> i32 {
    replica_set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or_default()
}

/// The size the new ReplicaSet may have now: as large as wanted, as far as the surge allows.
pub(super) fn new_size(deployment: &Deployment, all: &[ReplicaSet], present: i32) -> i32 {
    if !is_rolling(deployment) {
        return replicas(deployment);
    }
    let room = replicas(deployment).saturating_add(max_surge(deployment)) - all.iter().map(size).sum::<i32>();
    if room <= 0 { present } else { present + room.min(replicas(deployment) - present) }
}

/// The sizes of the old ReplicaSets after the next step of a rolling update: first pods that are not available
/// are given up, then as many available ones as `maxUnavailable` leaves. `old` is in order of creation.
pub(super) fn scale_down_old(deployment: &Deployment, old: &[ReplicaSet], new: Option<&ReplicaSet>) -> Vec<i32> {
    let mut sizes: Vec<_> = old.iter().map(size).collect();
    let min_available = replicas(deployment) - max_unavailable(deployment);
    let new_unavailable = new.map_or(0, |new| size(new) - available(new));
    let total = sizes.iter().sum::<i32>() + new.map_or(0, size);
    let mut may_go = total - min_available - new_unavailable;
    if may_go <= 0 {
        return sizes;
    }
    for (size, replica_set) in sizes.iter_mut().zip(old) {
        let unhealthy = (*size - available(replica_set)).clamp(0, may_go);
        *size -= unhealthy;
        may_go -= unhealthy;
    }
    // A ReplicaSet that was made smaller a moment ago still tells of pods that are about to go.
    let all_available =
        old.iter().chain(new).map(|replica_set| available(replica_set).min(size(replica_set))).sum::<i32>();
    let mut may_go = all_available - min_available;
    for size in &mut sizes {
        let gone = (*size).min(may_go).max(0);
        *size -= gone;
        may_go -= gone;
    }
    sizes
}

/// Whether the new ReplicaSet has all there is to have, so that the old ones may go to 0.
pub(super) fn is_saturated(deployment: &Deployment, new: &ReplicaSet) -> bool {
    let wanted = replicas(deployment);
    noted(new, super::revision::DESIRED_REPLICAS) == Some(wanted) && size(new) == wanted && available(new) == wanted
}

/// Sizes for the active ReplicaSets when the Deployment is scaled in the middle of a rollout: each grows or
/// shrinks in proportion to its share, and the largest takes what rounding leaves over.
/// Returns pairs of index into `active` and size.
pub(super) fn proportional(deployment: &Deployment, active: &[&ReplicaSet]) -> Vec<(usize, i32)> {
    let wanted = replicas(deployment);
    let allowed = if wanted > 0 { wanted.saturating_add(max_surge(deployment)) } else { 0 };
    let to_add = allowed - active.iter().map(|rs| size(rs)).sum::<i32>();
    let mut order: Vec<usize> = (0..active.len()).collect();
    // Largest first; among equals the newer when growing, the older when shrinking.
    order.sort_by(|&a, &b| {
        let age = active[a].creation_timestamp().cmp(&active[b].creation_timestamp());
        let age = if to_add > 0 { age.reverse() } else { age };
        size(active[b]).cmp(&size(active[a])).then(age)
    });
    let mut added = 0;
    let mut sizes = Vec::new();
    for index in order {
        let replica_set = active[index];
        let left = to_add - added;
        let share = if size(replica_set) == 0 || left == 0 { 0 } else { fraction(deployment, replica_set) };
        let share = if to_add > 0 { share.min(left) } else { share.max(left) };
        added += share;
        sizes.push((index, size(replica_set) + share));
    }
    if let Some((_, first)) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    sizes
}

/// By how much a ReplicaSet should change to keep its share of the Deployment.
fn fraction(deployment: &Deployment, replica_set: &ReplicaSet) -> i32 {
    let present = size(replica_set);
    if replicas(deployment) == 0 {
        return -present;
    }
    let total = f64::from(replicas(deployment)) + f64::from(max_surge(deployment));
    let status_replicas = deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or_default();
    let before = noted(replica_set, MAX_REPLICAS).unwrap_or(status_replicas);
    if before <= 0 {
        return 0;
    }
    #[allow(clippy::cast_possible_truncation)] // sizes are far within i32
    let size = (f64::from(present) * total / f64::from(before)).round() as i32;
    size - present
}
