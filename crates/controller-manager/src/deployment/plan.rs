//! One step of a Deployment: from what is there to what is to be done now.
//!
//! A rollout is never planned ahead. Each look takes the next safe step (scale the new ReplicaSet up as far as
//! the surge allows, the old ones down as far as availability allows); the ReplicaSets' status changes that
//! follow bring the next look.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use kube::ResourceExt;

use super::revision::{self, revision_of};
use super::sizes::{self, size};
use super::status;

/// What a Deployment's next step depends on.
pub(super) struct State {
    pub(super) deployment: Deployment,
    /// Its ReplicaSets.
    pub(super) replica_sets: Vec<ReplicaSet>,
    /// How many pods that have not finished each ReplicaSet (by UID) has, those being deleted included.
    pub(super) unfinished_pods: BTreeMap<String, usize>,
    pub(super) now: Timestamp,
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    CreateReplicaSet(Box<ReplicaSet>),
    /// Replace it; `scaled` tells from and to when its size changes.
    UpdateReplicaSet {
        replica_set: Box<ReplicaSet>,
        scaled: Option<(i32, i32)>,
    },
    DeleteReplicaSet(String),
    /// Set the Deployment's revision annotation.
    SetRevision(String),
    UpdateStatus(Box<DeploymentStatus>),
}

/// The next step.
pub(super) fn reconcile(state: State) -> Vec<Action> {
    let mut step = Step::new(state);
    let spec = step.deployment.spec.clone().unwrap_or_default();
    if step.deployment.metadata.deletion_timestamp.is_some() {
        step.write_counts();
        return step.actions;
    }
    if let Some(status) = status::of_pause(&step.deployment, step.now) {
        step.deployment.status = Some(status.clone());
        step.actions.push(Action::UpdateStatus(Box::new(status)));
    }
    if spec.paused == Some(true) || step.was_scaled() {
        step.sync_revision();
        step.scale();
        if spec.paused == Some(true) {
            step.clean_up();
        }
        step.write_counts();
    } else if sizes::is_rolling(&step.deployment) {
        step.roll();
    } else {
        step.recreate();
    }
    step.actions
}

struct Step {
    deployment: Deployment,
    /// All ReplicaSets in order of creation.
    all: Vec<ReplicaSet>,
    /// Which of them is the new one.
    new: Option<usize>,
    unfinished_pods: BTreeMap<String, usize>,
    now: Timestamp,
    actions: Vec<Action>,
}

impl Step {
    fn new(state: State) -> Self {
        let mut all = state.replica_sets;
        all.sort_by_key(|replica_set| (replica_set.creation_timestamp(), replica_set.name_any()));
        let new = revision::find_new(&state.deployment, &all);
        let State { deployment, unfinished_pods, now, .. } = state;
        Step { deployment, all, new, unfinished_pods, now, actions: Vec::new() }
    }

    fn old(&self) -> Vec<usize> {
        (0..self.all.len()).filter(|index| Some(*index) != self.new).collect()
    }

    fn next_revision(&self) -> i64 {
        self.old().into_iter().map(|index| revision_of(self.all[index].annotations())).max().unwrap_or_default() + 1
    }

    /// Whether `spec.replicas` changed since the active ReplicaSets were sized: then scaling goes before rolling.
    fn was_scaled(&self) -> bool {
        let wanted = sizes::replicas(&self.deployment);
        let mut active = self.all.iter().filter(|replica_set| size(replica_set) > 0);
        active.any(|rs| revision::noted(rs, revision::DESIRED_REPLICAS).is_some_and(|noted| noted != wanted))
    }

    /// Brings the new ReplicaSet's annotations and the Deployment's revision up to date. Returns whether the
    /// ReplicaSet had to be changed: then all else waits for the next look.
    fn sync_revision(&mut self) -> bool {
        let Some(index) = self.new else { return false };
        let next = self.next_revision();
        let mut replica_set = self.all[index].clone();
        let mut changed = revision::annotate_new(&mut replica_set, &self.deployment, next);
        let min_ready_seconds = self.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        if let Some(spec) = &mut replica_set.spec
            && spec.min_ready_seconds.unwrap_or_default() != min_ready_seconds.unwrap_or_default()
        {
            spec.min_ready_seconds = min_ready_seconds;
            changed = true;
        }
        let number = revision_of(replica_set.annotations());
        self.set_revision(number);
        if changed {
            self.all[index] = replica_set.clone();
            self.actions.push(Action::UpdateReplicaSet { replica_set: Box::new(replica_set), scaled: None });
        }
        changed
    }

    fn set_revision(&mut self, number: i64) {
        if number != 0 && revision_of(self.deployment.annotations()) != number {
            self.actions.push(Action::SetRevision(number.to_string()));
        }
    }

    /// Scales one ReplicaSet. Returns whether that is a change of size.
    fn resize(&mut self, index: usize, to: i32) -> bool {
        let from = size(&self.all[index]);
        let replica_set = &mut self.all[index];
        let noted = revision::annotate_size(replica_set, &self.deployment);
        if from == to && !noted {
            return false;
        }
        replica_set.spec.get_or_insert_default().replicas = Some(to);
        let replica_set = Box::new(replica_set.clone());
        // One write per ReplicaSet: a change of its annotations planned before goes along.
        self.actions.retain(|action| {
            !matches!(action, Action::UpdateReplicaSet { replica_set: planned, scaled: None }
                if planned.metadata.name == replica_set.metadata.name)
        });
        self.actions.push(Action::UpdateReplicaSet { replica_set, scaled: (from != to).then_some((from, to)) });
        from != to
    }

    fn roll(&mut self) {
        if self.new.is_none() {
            return self.create_new();
        }
        if self.sync_revision() {
            return self.write_rollout();
        }
        self.note_found();
        if self.scale_new() || self.scale_down_old() {
            return self.write_rollout();
        }
        if self.deployment.status.as_ref().is_some_and(|status| status::is_complete(&self.deployment, status)) {
            self.clean_up();
        }
        self.write_rollout();
    }

    fn recreate(&mut self) {
        self.sync_revision();
        let mut scaled = false;
        for index in self.old() {
            scaled |= size(&self.all[index]) > 0 && self.resize(index, 0);
        }
        if scaled || self.old_pods_run() {
            return self.write_rollout();
        }
        if self.new.is_none() {
            return self.create_new();
        }
        self.note_found();
        self.scale_new();
        if self.deployment.status.as_ref().is_some_and(|status| status::is_complete(&self.deployment, status)) {
            self.clean_up();
        }
        self.write_rollout();
    }

    /// Whether any pod of an old template may still run: with Recreate, old and new never run side by side.
    fn old_pods_run(&self) -> bool {
        let pods = |rs: &ReplicaSet| self.unfinished_pods.get(rs.metadata.uid.as_deref().unwrap_or_default()).copied();
        self.old().into_iter().map(|index| &self.all[index]).any(|replica_set| {
            replica_set.status.as_ref().is_some_and(|status| status.replicas > 0)
                || pods(replica_set).is_some_and(|count| count > 0)
        })
    }

    fn create_new(&mut self) {
        let mut replica_set = revision::new_replica_set(&self.deployment, self.next_revision());
        let to = sizes::new_size(&self.deployment, &self.all, 0);
        replica_set.spec.get_or_insert_default().replicas = Some(to);
        let name = replica_set.name_any();
        let number = revision_of(replica_set.annotations());
        self.actions.push(Action::CreateReplicaSet(Box::new(replica_set)));
        self.set_revision(number);
        let mut new = status::counted(&self.deployment, &self.all, None, self.now);
        if status::deadline_seconds(&self.deployment).is_some() {
            let message = format!("Created new replica set {name:?}");
            status::set_condition(&mut new, ("Progressing", "True", status::CREATED_NEW, message), self.now);
        }
        self.write(new);
    }

    /// A Deployment that found its ReplicaSet ready made (after an undo, or an adoption) starts its deadline now.
    fn note_found(&mut self) {
        let Some(index) = self.new else { return };
        let mut old = self.deployment.status.clone().unwrap_or_default();
        if status::deadline_seconds(&self.deployment).is_some() && status::condition(&old, "Progressing").is_none() {
            let message = format!("Found new replica set {:?}", self.all[index].name_any());
            status::set_condition(&mut old, ("Progressing", "True", status::FOUND_NEW, message), self.now);
            self.deployment.status = Some(old);
        }
    }

    fn scale_new(&mut self) -> bool {
        let Some(index) = self.new else { return false };
        let (present, wanted) = (size(&self.all[index]), sizes::replicas(&self.deployment));
        if present == wanted {
            return false;
        }
        let to = if present > wanted { wanted } else { sizes::new_size(&self.deployment, &self.all, present) };
        self.resize(index, to)
    }

    fn scale_down_old(&mut self) -> bool {
        let old = self.old();
        let sets: Vec<_> = old.iter().map(|index| self.all[*index].clone()).collect();
        let sizes = sizes::scale_down_old(&self.deployment, &sets, self.new.map(|index| &self.all[index]));
        let mut scaled = false;
        for (index, to) in old.into_iter().zip(sizes) {
            scaled |= size(&self.all[index]) != to && self.resize(index, to);
        }
        scaled
    }

    /// Follows a change of `spec.replicas`.
    fn scale(&mut self) {
        let active: Vec<_> = (0..self.all.len()).filter(|index| size(&self.all[*index]) > 0).collect();
        let only = match active[..] {
            [] => self.new.or(self.all.len().checked_sub(1)),
            [only] => Some(only),
            _ => None,
        };
        if let Some(index) = only {
            if size(&self.all[index]) != sizes::replicas(&self.deployment) {
                self.resize(index, sizes::replicas(&self.deployment));
            } else if !active.is_empty() {
                // The size fits but was noted for another; without this the next look would scale again.
                self.resize(index, size(&self.all[index]));
            }
            return;
        }
        if self.new.is_some_and(|index| sizes::is_saturated(&self.deployment, &self.all[index])) {
            for index in self.old().into_iter().filter(|index| active.contains(index)) {
                self.resize(index, 0);
            }
        } else if sizes::is_rolling(&self.deployment) {
            let sets: Vec<_> = active.iter().map(|index| &self.all[*index]).collect();
            for (position, to) in sizes::proportional(&self.deployment, &sets) {
                self.resize(active[position], to);
            }
        } else {
            for index in active {
                self.resize(index, size(&self.all[index]));
            }
        }
    }

    /// Deletes the oldest revisions beyond the history limit, if nothing runs of them.
    fn clean_up(&mut self) {
        let Some(limit) = self.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit) else { return };
        let mut old: Vec<_> = self.old().into_iter().map(|index| &self.all[index]).collect();
        old.retain(|replica_set| replica_set.metadata.deletion_timestamp.is_none());
        old.sort_by_key(|replica_set| revision_of(replica_set.annotations()));
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or_default());
        let idle = |rs: &ReplicaSet| {
            let status = rs.status.clone().unwrap_or_default();
            size(rs) == 0 && status.replicas == 0 && status.observed_generation >= rs.metadata.generation
        };
        let deletions = old.into_iter().take(surplus).filter(|rs| idle(rs));
        self.actions.extend(deletions.map(|rs| Action::DeleteReplicaSet(rs.name_any())));
    }

    fn write_counts(&mut self) {
        let new = status::counted(&self.deployment, &self.all, self.new, self.now);
        self.write(new);
    }

    fn write_rollout(&mut self) {
        let new = status::of_rollout(&self.deployment, &self.all, self.new, self.now);
        self.write(new);
    }

    /// Plans the status, once, as it stands at the end.
    fn write(&mut self, new: DeploymentStatus) {
        self.actions.retain(|action| !matches!(action, Action::UpdateStatus(_)));
        self.actions.push(Action::UpdateStatus(Box::new(new)));
    }
}
