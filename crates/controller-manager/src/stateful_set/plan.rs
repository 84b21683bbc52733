//! One step of a StatefulSet: from what is there to what is to be done now.
//!
//! With the policy OrderedReady, at most one pod is created or deleted in a step, and none while another is not
//! available: pods come in the order of their ordinals and go in the reverse. With Parallel all come and go at once.
//! Either way a rolling update replaces one pod at a time, the highest ordinal first.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use kube::ResourceExt;

use super::identity::{self, revision_of};
use crate::pods;

/// A revision: its name, and the pod template it stands for.
#[derive(Clone, Debug)]
pub(super) struct Revision {
    pub(super) name: String,
    pub(super) template: PodTemplateSpec,
}

/// What a StatefulSet's next step depends on.
pub(super) struct State<'a> {
    pub(super) set: &'a StatefulSet,
    /// Its pods, in any order.
    pub(super) pods: &'a [Arc<Pod>],
    /// Finds a claim in the set's namespace.
    pub(super) claim: &'a dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
    /// What pods are, and what they are to become.
    pub(super) current: Revision,
    pub(super) update: Revision,
    pub(super) collisions: i32,
    pub(super) now: Timestamp,
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    /// For the pod of this name.
    CreateClaim(Box<PersistentVolumeClaim>, String),
    UpdateClaim(Box<PersistentVolumeClaim>),
    CreatePod(Box<Pod>),
    UpdatePod(Box<Pod>),
    DeletePod(Arc<Pod>),
    /// The pod of this name cannot be created, and why.
    Refuse(String, String),
}

/// The next step.
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) status: StatefulSetStatus,
    /// In how long a ready pod becomes available.
    pub(super) again: Option<Duration>,
}

/// Why a step ends: nothing more may be done before what there is has changed.
struct Wait;
type Progress = Result<(), Wait>;

pub(super) fn plan(state: &State) -> Plan {
    let mut step = Step::new(state);
    let _ = step.run();
    let waits = state.pods.iter().filter_map(|pod| pods::available_in(pod, step.min_ready_seconds(), state.now));
    let again = waits.filter(|wait| !wait.is_zero()).min();
    Plan { actions: step.actions, status: status(state), again }
}

struct Step<'a> {
    state: &'a State<'a>,
    spec: StatefulSetSpec,
    /// One place for each ordinal the set is to have.
    replicas: Vec<Option<&'a Arc<Pod>>>,
    /// Pods of other ordinals, the highest first.
    condemned: Vec<(i64, &'a Arc<Pod>)>,
    actions: Vec<Action>,
}

impl<'a> Step<'a> {
    fn new(state: &'a State<'a>) -> Self {
        let spec = identity::spec(state.set);
        let mut replicas = vec![None; usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or_default()];
        let mut condemned = Vec::new();
        for pod in state.pods {
            let Some(ordinal) = identity::ordinal_of(state.set, pod) else { continue };
            let index = usize::try_from(ordinal - start(&spec)).ok();
            match index.and_then(|index| replicas.get_mut(index)) {
                Some(place) => *place = Some(pod),
                None => condemned.push((ordinal, pod)),
            }
        }
        condemned.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
        Step { state, spec, replicas, condemned, actions: Vec::new() }
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or_default()
    }

    fn ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    /// Ends the step if the policy wants one thing after another.
    fn wait_if_ordered(&self) -> Progress {
        if self.ordered() { Err(Wait) } else { Ok(()) }
    }

    fn is_available(&self, pod: &Pod) -> bool {
        is_running_and_ready(pod) && pods::is_available(pod, self.min_ready_seconds(), self.state.now)
    }

    fn is_healthy(&self, pod: &Pod) -> bool {
        self.is_available(pod) && !pods::is_terminating(pod)
    }

    fn run(&mut self) -> Progress {
        for index in 0..self.replicas.len() {
            self.keep(index)?;
        }
        for (ordinal, pod) in self.condemned.clone() {
            self.own_claims(ordinal, pod, true);
        }
        self.scale_down()?;
        self.roll()
    }

    /// Sees to it that the pod of an ordinal is there, as it should be.
    fn keep(&mut self, index: usize) -> Progress {
        let ordinal = start(&self.spec).saturating_add_unsigned(index as u64);
        let Some(pod) = self.replicas[index] else {
            return self.create(index, ordinal);
        };
        if pods::is_finished(pod) {
            if !pods::is_terminating(pod) {
                self.actions.push(Action::DeletePod(pod.clone()));
            }
            return self.wait_if_ordered();
        }
        if pods::phase(pod) == "Pending" {
            self.create_claims(ordinal, pod)?;
        }
        if !self.is_healthy(pod) {
            self.wait_if_ordered()?;
        }
        let mut identified = pod.as_ref().clone();
        identity::identify(self.state.set, ordinal, &mut identified);
        if identified != **pod {
            self.actions.push(Action::UpdatePod(Box::new(identified)));
        }
        self.own_claims(ordinal, pod, false);
        Ok(())
    }

    fn create(&mut self, index: usize, ordinal: i64) -> Progress {
        let partition = self.spec.update_strategy.as_ref().and_then(|strategy| {
            let rolling = strategy.type_.as_deref() != Some("OnDelete");
            rolling.then(|| strategy.rolling_update.as_ref().and_then(|rolling| rolling.partition))
        });
        // Below the partition pods stay what they were; without one, those that are not updated yet do.
        let kept = partition.map_or(0, |partition| {
            let status = self.state.set.status.as_ref();
            partition.or(status.and_then(|status| status.current_replicas)).unwrap_or_default()
        });
        let is_kept = index < usize::try_from(kept).unwrap_or_default();
        let revision = if is_kept { &self.state.current } else { &self.state.update };
        let pod = identity::new_pod(self.state.set, ordinal, &revision.name, &revision.template);
        let claims = self.claims(ordinal);
        if identity::deletes_claims(self.state.set).1
            && claims.iter().flatten().any(|claim| identity::is_of_former_pod(claim, &pod))
        {
            return self.wait_if_ordered();
        }
        self.create_claims(ordinal, &pod)?;
        self.actions.push(Action::CreatePod(Box::new(pod)));
        self.wait_if_ordered()
    }

    /// The claims of an ordinal, in the order of their templates; none for those that do not exist.
    fn claims(&self, ordinal: i64) -> Vec<Option<Arc<PersistentVolumeClaim>>> {
        let templates = self.spec.volume_claim_templates.iter().flatten();
        templates.map(|template| (self.state.claim)(&identity::claim_name(self.state.set, template, ordinal))).collect()
    }

    fn create_claims(&mut self, ordinal: i64, pod: &Pod) -> Progress {
        let templates = self.spec.volume_claim_templates.clone().unwrap_or_default();
        for (template, claim) in templates.iter().zip(self.claims(ordinal)) {
            match claim {
                None => {
                    let mut claim = identity::new_claim(self.state.set, template, ordinal);
                    let owners = identity::claim_owners(self.state.set, &claim, pod, false);
                    claim.metadata.owner_references = (!owners.is_empty()).then_some(owners);
                    self.actions.push(Action::CreateClaim(Box::new(claim), pod.name_any()));
                }
                Some(claim) if claim.metadata.deletion_timestamp.is_some() => {
                    let why = format!("pvc {} is being deleted", claim.name_any());
                    self.actions.push(Action::Refuse(pod.name_any(), why));
                    return Err(Wait);
                }
                Some(_) => {}
            }
        }
        self.own_claims(ordinal, pod, false);
        Ok(())
    }

    /// Gives the claims of an ordinal the owners that the retention policy wants.
    fn own_claims(&mut self, ordinal: i64, pod: &Pod, condemned: bool) {
        for claim in self.claims(ordinal).into_iter().flatten() {
            let owners = identity::claim_owners(self.state.set, &claim, pod, condemned);
            if claim.owner_references() != owners {
                let mut owned = claim.as_ref().clone();
                owned.metadata.owner_references = Some(owners);
                let action = Action::UpdateClaim(Box::new(owned));
                if !self.actions.contains(&action) {
                    self.actions.push(action);
                }
            }
        }
    }

    /// Deletes pods of ordinals that are no longer wanted.
    fn scale_down(&mut self) -> Progress {
        let unhealthy = |pod: &&Arc<Pod>| !self.is_healthy(pod);
        let upwards = self.condemned.iter().rev().map(|(_, pod)| *pod);
        let first_unhealthy = self.replicas.iter().flatten().copied().chain(upwards).find(unhealthy);
        for (_, pod) in self.condemned.clone() {
            let is_first = first_unhealthy.is_some_and(|first| Arc::ptr_eq(first, pod));
            if pods::is_terminating(pod) || self.ordered() && !self.is_available(pod) && !is_first {
                self.wait_if_ordered()?;
                continue;
            }
            self.actions.push(Action::DeletePod(pod.clone()));
            self.wait_if_ordered()?;
        }
        Ok(())
    }

    /// Deletes the highest pod that is not of the new revision, if all above it are available.
    fn roll(&mut self) -> Progress {
        let strategy = self.spec.update_strategy.clone().unwrap_or_default();
        if strategy.type_.as_deref() == Some("OnDelete") {
            return Ok(());
        }
        let partition = strategy.rolling_update.and_then(|rolling| rolling.partition).unwrap_or_default();
        for index in (usize::try_from(partition).unwrap_or_default()..self.replicas.len()).rev() {
            let pod = self.replicas[index].ok_or(Wait)?;
            if revision_of(pod) != self.state.update.name && !pods::is_terminating(pod) {
                let delete = Action::DeletePod(pod.clone());
                if !self.actions.contains(&delete) {
                    self.actions.push(delete);
                }
                return Ok(());
            }
            if !self.is_healthy(pod) {
                return Err(Wait);
            }
        }
        Ok(())
    }
}

fn start(spec: &StatefulSetSpec) -> i64 {
    spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or_default().into()
}

fn is_running_and_ready(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

fn status(state: &State) -> StatefulSetStatus {
    let spec = identity::spec(state.set);
    let count = |test: &dyn Fn(&Pod) -> bool| {
        i32::try_from(state.pods.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
    };
    let of = |revision: &str| count(&|pod| !pods::is_terminating(pod) && revision_of(pod) == revision);
    let available = |pod: &Pod| {
        is_running_and_ready(pod) && pods::is_available(pod, spec.min_ready_seconds.unwrap_or_default(), state.now)
    };
    let mut status = StatefulSetStatus {
        replicas: count(&|_| true),
        ready_replicas: Some(count(&is_running_and_ready)),
        available_replicas: Some(count(&available)),
        current_replicas: Some(of(&state.current.name)),
        updated_replicas: Some(of(&state.update.name)),
        current_revision: Some(state.current.name.clone()),
        update_revision: Some(state.update.name.clone()),
        observed_generation: state.set.metadata.generation,
        collision_count: Some(state.collisions),
        conditions: state.set.status.as_ref().and_then(|status| status.conditions.clone()),
    };
    let rolling = spec.update_strategy.and_then(|strategy| strategy.type_).as_deref() != Some("OnDelete");
    let wanted = spec.replicas.unwrap_or(1);
    let complete = [Some(status.replicas), status.ready_replicas, status.updated_replicas];
    if rolling && complete == [Some(wanted); 3] {
        status.current_replicas = status.updated_replicas;
        status.current_revision.clone_from(&status.update_revision);
    }
    status
}
