//! Rollouts as tables, and the two promises of a rolling update for all sizes.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetStatus};
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::plan::{Action, State, reconcile};
use super::revision::REVISION;
use super::sizes::{available, max_surge, max_unavailable, replicas, size};

fn deployment(replicas: i32, image: &str, strategy: Value) -> Deployment {
    serde_json::from_value(json!({
        "metadata": { "name": "web", "namespace": "shop", "uid": "d", "generation": 1 },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "web" } },
            "strategy": strategy,
            "progressDeadlineSeconds": 600,
            "revisionHistoryLimit": 2,
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "c", "image": image }] },
            },
        },
    }))
    .unwrap()
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": surge, "maxUnavailable": unavailable } })
}

/// A cluster of one Deployment: carries plans out as the API would and plays the ReplicaSet controller.
struct World {
    deployment: Deployment,
    replica_sets: Vec<ReplicaSet>,
    seconds: i64,
    log: Vec<String>,
}

impl World {
    fn new(deployment: Deployment) -> Self {
        World { deployment, replica_sets: Vec::new(), seconds: 1_767_225_600, log: Vec::new() }
    }

    fn set_image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
        spec.containers[0].image = Some(image.into());
    }

    /// One look; returns whether it changed anything but the status.
    fn step(&mut self) -> bool {
        self.seconds += 1;
        let now = jiff::Timestamp::from_second(self.seconds).unwrap();
        let unfinished_pods =
            self.replica_sets.iter().map(|rs| (rs.uid().unwrap(), pods(rs))).collect::<BTreeMap<_, _>>();
        let state = State {
            deployment: self.deployment.clone(),
            replica_sets: self.replica_sets.clone(),
            unfinished_pods,
            now,
        };
        let mut changed = false;
        for action in reconcile(state) {
            changed |= !matches!(action, Action::UpdateStatus(_));
            self.execute(action);
        }
        changed
    }

    fn execute(&mut self, action: Action) {
        match action {
            Action::CreateReplicaSet(mut rs) => {
                rs.metadata.uid = rs.metadata.name.clone();
                rs.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                    jiff::Timestamp::from_second(self.seconds).unwrap(),
                ));
                rs.status = Some(ReplicaSetStatus::default());
                self.log.push(format!("+{}", size(&rs)));
                self.replica_sets.push(*rs);
            }
            Action::UpdateReplicaSet { replica_set, scaled } => {
                if let Some((from, to)) = scaled {
                    self.log.push(format!("{from}>{to}"));
                }
                let slot = self.replica_sets.iter_mut().find(|rs| rs.metadata.name == replica_set.metadata.name);
                *slot.unwrap() = *replica_set;
            }
            Action::DeleteReplicaSet(name) => {
                self.log.push("-".into());
                self.replica_sets.retain(|rs| rs.name_any() != name);
            }
            Action::SetRevision(revision) => {
                self.deployment.annotations_mut().insert(REVISION.into(), revision);
            }
            Action::UpdateStatus(status) => self.deployment.status = Some(*status),
        }
    }

    /// Pods appear and go as the sizes say; `ready` tells how many of a set's pods are available.
    fn settle(&mut self, ready: impl Fn(&ReplicaSet, i32) -> i32) {
        for rs in &mut self.replica_sets {
            let size = size(rs);
            let available = ready(rs, size).clamp(0, size);
            rs.status = Some(ReplicaSetStatus {
                replicas: size,
                ready_replicas: Some(available),
                available_replicas: Some(available),
                observed_generation: rs.metadata.generation,
                ..Default::default()
            });
        }
    }

    fn roll_out(&mut self) {
        for _ in 0..100 {
            let changed = self.step();
            self.settle(|_, size| size);
            if !changed {
                self.step();
                return;
            }
        }
        panic!("no end of the rollout: {:?}", self.log);
    }

    fn reason(&self, type_: &str) -> String {
        let status = self.deployment.status.clone().unwrap_or_default();
        let condition = status.conditions.unwrap_or_default().into_iter().find(|c| c.type_ == type_);
        condition.map(|c| format!("{} {}", c.status, c.reason.unwrap_or_default())).unwrap_or_default()
    }
}

fn pods(rs: &ReplicaSet) -> usize {
    usize::try_from(rs.status.as_ref().map_or(0, |status| status.replicas)).unwrap()
}

#[test]
fn a_new_deployment_creates_its_replica_set_at_full_size() {
    let mut world = World::new(deployment(3, "a:1", rolling(json!("25%"), json!("25%"))));
    world.roll_out();
    assert_eq!(world.log, ["+3"]);
    assert_eq!(world.deployment.annotations()[REVISION], "1");
    assert_eq!(world.reason("Available"), "True MinimumReplicasAvailable");
    assert_eq!(world.reason("Progressing"), "True NewReplicaSetAvailable");
    let rs = &world.replica_sets[0];
    let hash = &rs.labels()["pod-template-hash"];
    assert_eq!(rs.name_any(), format!("web-{hash}"));
    assert_eq!(rs.spec.as_ref().unwrap().selector.match_labels.as_ref().unwrap()["pod-template-hash"], *hash);
}

#[test]
fn a_rolling_update_surges_then_takes_old_pods_down() {
    let mut world = World::new(deployment(3, "a:1", rolling(json!(1), json!(0))));
    world.roll_out();
    world.log.clear();
    world.set_image("a:2");
    world.roll_out();
    assert_eq!(world.log, ["+1", "3>2", "1>2", "2>1", "2>3", "1>0"]);
    assert_eq!(world.deployment.annotations()[REVISION], "2");
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut world = World::new(deployment(2, "a:1", json!({ "type": "Recreate" })));
    world.roll_out();
    world.log.clear();
    world.set_image("a:2");
    world.step();
    world.step();
    assert_eq!(world.log, ["2>0"], "the old pods are still there");
    world.settle(|_, size| size);
    world.step();
    assert_eq!(world.log, ["2>0", "+2"]);
}

#[test]
fn going_back_to_an_old_template_makes_its_replica_set_the_newest_revision() {
    let mut world = World::new(deployment(1, "a:1", rolling(json!(1), json!(0))));
    for image in ["a:1", "a:2", "a:1"] {
        world.set_image(image);
        world.roll_out();
    }
    assert_eq!(world.replica_sets.len(), 2);
    assert_eq!(world.replica_sets[0].annotations()[REVISION], "3");
    assert_eq!(world.replica_sets[0].annotations()["deployment.kubernetes.io/revision-history"], "1");
    assert_eq!(world.deployment.annotations()[REVISION], "3");
}

#[test]
fn old_revisions_beyond_the_limit_are_deleted() {
    let mut world = World::new(deployment(1, "a:0", rolling(json!(1), json!(0))));
    for image in ["a:0", "a:1", "a:2", "a:3", "a:4"] {
        world.set_image(image);
        world.roll_out();
        world.roll_out();
    }
    let revisions: Vec<_> = world.replica_sets.iter().map(|rs| rs.annotations()[REVISION].clone()).collect();
    assert_eq!(revisions, ["3", "4", "5"]);
}

#[test]
fn a_rollout_that_stands_still_exceeds_its_deadline_and_recovers() {
    let mut world = World::new(deployment(1, "a:1", rolling(json!(1), json!(0))));
    world.step();
    world.settle(|_, _| 0);
    world.step();
    assert_eq!(world.reason("Progressing"), "True ReplicaSetUpdated");
    world.seconds += 601;
    world.step();
    assert_eq!(world.reason("Progressing"), "False ProgressDeadlineExceeded");
    assert_eq!(world.reason("Available"), "False MinimumReplicasUnavailable");
    world.settle(|_, size| size);
    world.step();
    assert_eq!(world.reason("Progressing"), "True NewReplicaSetAvailable");
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::new(deployment(2, "a:1", rolling(json!(1), json!(0))));
    world.roll_out();
    world.log.clear();
    let spec = world.deployment.spec.as_mut().unwrap();
    (spec.paused, spec.replicas) = (Some(true), Some(4));
    world.set_image("a:2");
    world.roll_out();
    assert_eq!(world.log, ["2>4"]);
    assert_eq!(world.reason("Progressing"), "Unknown DeploymentPaused");
    world.deployment.spec.as_mut().unwrap().paused = None;
    world.step();
    assert_eq!(world.replica_sets.len(), 2);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_proportional() {
    let mut world = World::new(deployment(10, "a:1", rolling(json!(3), json!(2))));
    world.roll_out();
    world.set_image("a:2");
    world.step();
    world.step();
    // The new pods never become ready: 8 old ones, 5 new ones.
    world.settle(|rs, size| if rs.annotations()[REVISION] == "1" { size } else { 0 });
    world.step();
    world.log.clear();
    world.deployment.spec.as_mut().unwrap().replicas = Some(15);
    world.step();
    world.log.sort();
    assert_eq!(world.log, ["5>7", "8>11"]);
}

#[test]
fn what_is_as_it_should_be_is_left_alone() {
    let mut world = World::new(deployment(3, "a:1", rolling(json!("25%"), json!("25%"))));
    world.roll_out();
    let before: Option<DeploymentStatus> = world.deployment.status.clone();
    assert!(!world.step());
    assert_eq!(world.deployment.status, before);
}

proptest! {
    #[test]
    fn a_rolling_update_keeps_within_surge_and_unavailability_and_ends(
        wanted in 1..12i32,
        surge in 0..5i32,
        unavailable in 0..5i32,
        percent in any::<bool>(),
        readiness in prop::collection::vec(0..12i32, 40),
    ) {
        let value = |n: i32| if percent { json!(format!("{}%", n * 20)) } else { json!(n) };
        let mut world = World::new(deployment(wanted, "a:1", rolling(value(surge), value(unavailable))));
        world.roll_out();
        world.set_image("a:2");
        let old = world.replica_sets[0].name_any();
        let (most, least) = {
            let d = &world.deployment;
            (replicas(d) + max_surge(d), replicas(d) - max_unavailable(d))
        };
        for ready in readiness {
            world.step();
            prop_assert!(world.replica_sets.iter().map(size).sum::<i32>() <= most);
            // Old pods are all ready; of the new ones, some, but never fewer than before.
            world.settle(|rs, size| {
                if rs.name_any() == old { size } else { available(rs).max(ready.min(size)) }
            });
            prop_assert!(world.replica_sets.iter().map(available).sum::<i32>() >= least);
        }
        world.settle(|_, size| size);
        world.roll_out();
        let sizes: Vec<_> = world.replica_sets.iter().map(size).collect();
        prop_assert_eq!(sizes, vec![0, wanted]);
    }
}
