//! One step of a DaemonSet: from nodes and pods to the pods to be created and deleted now.
//!
//! First each node for itself: it gets a pod if it has none, loses those it should not have. Only when all nodes have
//! what they should does an update go on: it deletes old pods as far as `maxUnavailable` allows, and lets the next
//! look create new ones; or, with `maxSurge`, it creates new pods beside the old and deletes those later.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;

use super::nodes::{self, Wanted};
use crate::pods;

/// What a DaemonSet's next step depends on.
pub(super) struct State<'a> {
    pub(super) set: &'a DaemonSet,
    pub(super) nodes: &'a [Arc<Node>],
    pub(super) pods: &'a [Arc<Pod>],
    /// The hash of the present template's revision.
    pub(super) hash: &'a str,
    pub(super) collisions: i32,
    /// How long a failed pod on a node must wait before it may be replaced.
    pub(super) backoff: &'a dyn Fn(&str) -> Duration,
    pub(super) now: Timestamp,
}

/// The next step.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Nodes that are to get a pod.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Those to be deleted that have ended, and on which node.
    pub(super) ended: Vec<(String, Arc<Pod>)>,
    pub(super) status: DaemonSetStatus,
    /// When to look again.
    pub(super) again: Option<Duration>,
}

/// A node with its daemon pods: bound ones first, the oldest first.
struct Place<'a> {
    name: &'a str,
    wanted: Wanted,
    pods: Vec<&'a Arc<Pod>>,
}

pub(super) fn plan(state: &State) -> Plan {
    let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in state.pods {
        if let Some(node) = nodes::node_of(pod) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    for pods in by_node.values_mut() {
        pods.sort_by_key(|pod| (pods::node_name(pod).is_empty(), pod.creation_timestamp(), pod.name_any()));
    }
    let spec = nodes::daemon_spec(state.set);
    let mut places: Vec<_> = state
        .nodes
        .iter()
        .map(|node| {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            Place { name, wanted: nodes::wanted(&spec, node), pods: by_node.remove(name).unwrap_or_default() }
        })
        .collect();
    let mut step = Step { state, plan: Plan { status: status(state, &places), ..Default::default() } };
    for place in &places {
        step.keep(place);
    }
    // Pods for nodes that are gone: bound ones are the pod garbage collector's.
    let unbound = by_node.into_values().flatten().filter(|pod| pods::node_name(pod).is_empty());
    step.plan.delete.extend(unbound.filter(|pod| !pods::is_terminating(pod)).cloned());
    if step.plan.create.is_empty() && step.plan.delete.is_empty() && is_rolling(state.set) {
        places.retain(|place| !place.pods.is_empty());
        step.roll(&places);
    }
    let waits = state.pods.iter().filter_map(|pod| pods::available_in(pod, min_ready_seconds(state.set), state.now));
    step.plan.again = step.plan.again.into_iter().chain(waits.filter(|wait| !wait.is_zero())).min();
    step.plan
}

struct Step<'a> {
    state: &'a State<'a>,
    plan: Plan,
}

impl Step<'_> {
    fn is_new(&self, pod: &Pod) -> bool {
        is_new(self.state, pod)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        is_available(self.state, pod)
    }

    fn delete<'p>(&mut self, pods: impl IntoIterator<Item = &'p Arc<Pod>>) {
        self.plan.delete.extend(pods.into_iter().filter(|pod| !pods::is_terminating(pod)).cloned());
    }

    /// Sees to it that a node has the pods it should.
    fn keep(&mut self, place: &Place) {
        if !place.wanted.stay {
            return self.delete(place.pods.iter().copied());
        }
        if place.pods.is_empty() {
            if place.wanted.run {
                self.plan.create.push(place.name.into());
            }
            return;
        }
        let mut running = Vec::new();
        for pod in place.pods.iter().copied().filter(|pod| !pods::is_terminating(pod)) {
            let wait = match pods::phase(pod) {
                "Failed" => (self.state.backoff)(place.name),
                "Succeeded" => Duration::ZERO,
                _ => {
                    running.push(pod);
                    continue;
                }
            };
            if wait.is_zero() {
                self.plan.ended.push((place.name.into(), pod.clone()));
                self.delete([pod]);
            } else {
                self.plan.again = self.plan.again.into_iter().chain([wait]).min();
            }
        }
        if max_surge(self.state.set, 1) == 0 {
            return self.delete(running.into_iter().skip(1));
        }
        if running.is_empty() && place.wanted.run {
            self.plan.create.push(place.name.into());
        }
        // One old pod may be beside one new, until the new one is available or the old one no longer serves.
        let (new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| self.is_new(pod));
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!pods::is_ready(old) || self.is_available(new))
        {
            self.delete([*old]);
        }
        self.delete(new.into_iter().skip(1).chain(old.into_iter().skip(1)));
    }

    /// Goes on with an update, on nodes that have pods.
    fn roll(&mut self, places: &[Place]) {
        let desired = self.plan.status.desired_number_scheduled;
        let (surge, mut unavailable) = (max_surge(self.state.set, desired), max_unavailable(self.state.set, desired));
        if surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        // On the way already; pods that may go (or nodes that may get one) at once, as nothing serves there; and those
        // that must wait for their turn.
        let (mut busy, mut free, mut candidates) = (0, Vec::new(), Vec::new());
        for place in places {
            let alive: Vec<_> = place.pods.iter().copied().filter(|pod| !pods::is_terminating(pod)).collect();
            let (new, old): (Vec<_>, Vec<_>) = alive.into_iter().partition(|pod| self.is_new(pod));
            match (new[..].first(), old[..].first()) {
                (Some(new), None) if surge > 0 || self.is_available(new) => {}
                (None, Some(old)) if self.is_available(old) => candidates.push((place.name, *old)),
                (None, Some(old)) => free.push((place.name, *old)),
                (None, None) if surge > 0 => {}
                _ => busy += 1,
            }
        }
        let allowed = usize::try_from(if surge > 0 { surge } else { unavailable }).unwrap_or_default();
        let chosen = free.into_iter().chain(candidates.into_iter().take(allowed.saturating_sub(busy)));
        if surge > 0 {
            self.plan.create.extend(chosen.map(|(node, _)| node.to_owned()));
        } else {
            self.plan.delete.extend(chosen.map(|(_, pod)| pod.clone()));
        }
    }
}

fn is_new(state: &State, pod: &Pod) -> bool {
    nodes::is_new(state.set, state.hash, pod)
}

fn is_available(state: &State, pod: &Pod) -> bool {
    pods::is_available(pod, min_ready_seconds(state.set), state.now)
}

fn min_ready_seconds(set: &DaemonSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or_default()
}

fn is_rolling(set: &DaemonSet) -> bool {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref()?.type_.as_deref());
    strategy != Some("OnDelete")
}

fn rolling_update(set: &DaemonSet) -> RollingUpdateDaemonSet {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.clone()).unwrap_or_default();
    strategy.rolling_update.filter(|_| is_rolling(set)).unwrap_or_default()
}

fn max_surge(set: &DaemonSet, nodes: i32) -> i32 {
    pods::scaled_value(rolling_update(set).max_surge.as_ref(), nodes, true)
}

fn max_unavailable(set: &DaemonSet, nodes: i32) -> i32 {
    pods::scaled_value(rolling_update(set).max_unavailable.as_ref(), nodes, true)
}

fn status(state: &State, places: &[Place]) -> DaemonSetStatus {
    let mut status = DaemonSetStatus {
        collision_count: Some(state.collisions).filter(|collisions| *collisions > 0),
        conditions: state.set.status.as_ref().and_then(|status| status.conditions.clone()),
        observed_generation: state.set.metadata.generation,
        ..Default::default()
    };
    let (mut updated, mut available) = (0, 0);
    for place in places {
        let first = place.pods.first();
        if !place.wanted.run {
            status.number_misscheduled += i32::from(first.is_some());
            continue;
        }
        status.desired_number_scheduled += 1;
        status.current_number_scheduled += i32::from(first.is_some());
        status.number_ready += i32::from(first.is_some_and(|pod| pods::is_ready(pod)));
        available += i32::from(first.is_some_and(|pod| is_available(state, pod)));
        updated += i32::from(first.is_some_and(|pod| is_new(state, pod)));
    }
    status.updated_number_scheduled = Some(updated);
    status.number_available = Some(available);
    status.number_unavailable = Some(status.desired_number_scheduled - available);
    status
}
