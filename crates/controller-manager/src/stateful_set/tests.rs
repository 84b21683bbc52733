//! The plan as tables, and that it arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::identity;
use super::plan::{Action, Plan, Revision, State, plan};

fn set(changes: Value) -> StatefulSet {
    let mut set = json!({
        "metadata": { "name": "web", "namespace": "default", "uid": "set", "generation": 1 },
        "spec": {
            "replicas": 3, "serviceName": "nginx", "selector": { "matchLabels": { "app": "web" } },
            "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": 0 } },
            "template": { "metadata": { "labels": { "app": "web" } }, "spec": { "containers": [] } },
        },
    });
    for (field, value) in changes.as_object().into_iter().flatten() {
        set["spec"][field] = value.clone();
    }
    serde_json::from_value(set).unwrap()
}

/// A set, what there is of it, and a kubelet that runs what it is told to.
struct World {
    set: StatefulSet,
    pods: Vec<Arc<Pod>>,
    claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    /// The current and the new revision.
    revisions: (&'static str, &'static str),
    created: usize,
}

impl World {
    fn new(set: StatefulSet) -> Self {
        World { set, pods: Vec::new(), claims: BTreeMap::new(), revisions: ("new", "new"), created: 0 }
    }

    fn of(set: StatefulSet, pods: &[(i32, &str, &str)]) -> Self {
        let mut world = World::new(set);
        for (ordinal, revision, state) in pods {
            let pod =
                identity::new_pod(&world.set, (*ordinal).into(), revision, &world.set.spec.as_ref().unwrap().template);
            world.add(pod, state);
        }
        world.revisions = ("old", "new");
        world
    }

    fn add(&mut self, mut pod: Pod, state: &str) {
        self.created += 1;
        pod.metadata.uid = Some(format!("pod-{}", self.created));
        let mut pod = serde_json::to_value(pod).unwrap();
        let phase = if matches!(state, "ready" | "unready" | "terminating") { "Running" } else { state };
        let ready = if matches!(state, "ready" | "terminating") { "True" } else { "False" };
        let condition = json!({ "type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z" });
        pod["status"] = json!({ "phase": phase, "conditions": [condition] });
        if state == "terminating" {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        self.pods.push(Arc::new(serde_json::from_value(pod).unwrap()));
    }

    fn plan(&self) -> Plan {
        let template = self.set.spec.as_ref().unwrap().template.clone();
        let revision = |name: &str| Revision { name: name.into(), template: template.clone() };
        let now: Timestamp = "2026-01-01T00:00:05Z".parse().unwrap();
        plan(&State {
            set: &self.set,
            pods: &self.pods,
            claim: &|name| self.claims.get(name).cloned(),
            current: revision(self.revisions.0),
            update: revision(self.revisions.1),
            collisions: 0,
            now,
        })
    }

    /// What the plan does, in short.
    fn actions(&self) -> Vec<String> {
        let short = |action: &Action| match action {
            Action::CreateClaim(claim, _) => format!("+{}", claim.name_any()),
            Action::UpdateClaim(claim) => {
                let owners = claim.owner_references().iter().map(|owner| owner.uid.clone());
                format!("{}={}", claim.name_any(), owners.collect::<Vec<_>>().join(","))
            }
            Action::CreatePod(pod) => format!("+{}@{}", pod.name_any(), identity::revision_of(pod)),
            Action::UpdatePod(pod) => format!("~{}", pod.name_any()),
            Action::DeletePod(pod) => format!("-{}", pod.name_any()),
            Action::Refuse(pod, why) => format!("!{pod}: {why}"),
        };
        self.plan().actions.iter().map(short).collect()
    }

    /// Carries the plan out; whether there was anything to do.
    fn step(&mut self) -> bool {
        let Plan { actions, status, .. } = self.plan();
        self.revisions.0 = if status.current_revision.as_deref() == Some("new") { "new" } else { self.revisions.0 };
        let changed = !actions.is_empty() || self.set.status.as_ref() != Some(&status);
        self.set.status = Some(status);
        for action in actions {
            match action {
                Action::CreateClaim(claim, _) | Action::UpdateClaim(claim) => {
                    drop(self.claims.insert(claim.name_any(), Arc::new(*claim)));
                }
                Action::CreatePod(pod) => self.add(*pod, "ready"),
                Action::UpdatePod(pod) => {
                    let there = self.pods.iter_mut().find(|there| there.uid() == pod.uid()).unwrap();
                    *there = Arc::new(*pod);
                }
                Action::DeletePod(pod) => {
                    self.pods.retain(|there| there.uid() != pod.uid());
                    // The garbage collector.
                    self.claims.retain(|_, claim| {
                        claim.owner_references().iter().all(|o| Some(&o.uid) != pod.metadata.uid.as_ref())
                    });
                }
                Action::Refuse(..) => {}
            }
        }
        let names: BTreeSet<_> = self.pods.iter().map(|pod| pod.name_any()).collect();
        assert_eq!(names.len(), self.pods.len(), "never two pods of one name");
        changed
    }
}

#[track_caller]
fn check(changes: Value, pods: &[(i32, &str, &str)], expected: &[&str]) {
    assert_eq!(World::of(set(changes), pods).actions(), expected);
}

#[test]
fn ordered_pods_come_one_by_one_and_wait_for_each_other() {
    check(json!({}), &[], &["+web-0@new"]);
    check(json!({}), &[(0, "new", "Pending")], &[]);
    check(json!({}), &[(0, "new", "unready")], &[]);
    check(json!({}), &[(0, "new", "ready")], &["+web-1@new"]);
    check(json!({ "minReadySeconds": 10 }), &[(0, "new", "ready")], &[]);
    check(json!({}), &[(0, "new", "ready"), (2, "new", "ready")], &["+web-1@new"]);
    check(json!({ "ordinals": { "start": 5 } }), &[(5, "new", "ready")], &["+web-6@new"]);
    check(json!({ "ordinals": { "start": i32::MAX } }), &[(i32::MAX, "new", "ready")], &["+web-2147483648@new"]);
}

#[test]
fn ordered_pods_go_one_by_one_from_the_top() {
    let two = json!({ "replicas": 1 });
    check(two.clone(), &[(0, "new", "ready"), (1, "new", "ready"), (2, "new", "ready")], &["-web-2"]);
    check(two.clone(), &[(0, "new", "ready"), (1, "new", "ready"), (2, "new", "terminating")], &[]);
    check(two.clone(), &[(0, "new", "unready"), (1, "new", "ready"), (2, "new", "ready")], &[]);
    check(two.clone(), &[(0, "new", "ready"), (1, "new", "unready"), (2, "new", "unready")], &[]);
    check(two, &[(0, "new", "ready"), (1, "new", "ready"), (2, "new", "unready")], &["-web-2"]);
    check(
        json!({ "ordinals": { "start": 1 }, "replicas": 1 }),
        &[(0, "new", "ready"), (1, "new", "ready")],
        &["-web-0"],
    );
}

#[test]
fn parallel_pods_come_and_go_at_once() {
    let parallel = |replicas: i32| json!({ "replicas": replicas, "podManagementPolicy": "Parallel" });
    check(parallel(3), &[(1, "new", "unready")], &["+web-0@new", "+web-2@new"]);
    check(parallel(1), &[(0, "new", "unready"), (1, "new", "unready"), (2, "new", "ready")], &["-web-2", "-web-1"]);
}

#[test]
fn finished_pods_are_deleted_and_made_anew() {
    check(json!({}), &[(0, "new", "Failed"), (1, "new", "ready")], &["-web-0"]);
    check(json!({}), &[(0, "new", "Succeeded")], &["-web-0"]);
}

#[test]
fn a_rolling_update_goes_down_the_ordinals_as_far_as_the_partition() {
    let old = [(0, "old", "ready"), (1, "old", "ready"), (2, "old", "ready")];
    let partition =
        |at: i32| json!({ "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": at } } });
    check(json!({}), &old, &["-web-2"]);
    check(json!({}), &[(0, "old", "ready"), (1, "old", "ready")], &["+web-2@new"]);
    check(json!({}), &[(0, "old", "ready"), (1, "old", "ready"), (2, "new", "unready")], &[]);
    check(json!({}), &[(0, "old", "ready"), (1, "old", "ready"), (2, "new", "ready")], &["-web-1"]);
    check(partition(2), &[(0, "old", "ready"), (1, "old", "ready"), (2, "new", "ready")], &[]);
    check(partition(2), &[(0, "old", "ready"), (2, "new", "ready")], &["+web-1@old"]);
    check(partition(9), &old, &[]);
    check(json!({ "updateStrategy": { "type": "OnDelete" } }), &old, &[]);
    check(json!({ "updateStrategy": { "type": "OnDelete" } }), &old[..2], &["+web-2@new"]);
}

#[test]
fn an_update_is_complete_when_all_pods_are_new_and_ready() {
    let status = |pods: &[(i32, &str, &str)]| World::of(set(json!({})), pods).plan().status;
    let half = status(&[(0, "old", "ready"), (1, "new", "ready"), (2, "new", "terminating")]);
    assert_eq!((half.replicas, half.ready_replicas, half.available_replicas), (3, Some(3), Some(3)));
    assert_eq!((half.current_replicas, half.updated_replicas), (Some(1), Some(1)));
    assert_eq!((half.current_revision.as_deref(), half.update_revision.as_deref()), (Some("old"), Some("new")));
    let done = status(&[(0, "new", "ready"), (1, "new", "ready"), (2, "new", "ready")]);
    assert_eq!((done.current_replicas, done.current_revision.as_deref()), (Some(3), Some("new")));
}

fn with_claims(when_deleted: &str, when_scaled: &str, replicas: i32) -> StatefulSet {
    set(json!({
        "replicas": replicas,
        "persistentVolumeClaimRetentionPolicy": { "whenDeleted": when_deleted, "whenScaled": when_scaled },
        "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": {} }],
    }))
}

#[test]
fn each_pod_has_its_claims_before_it_comes() {
    let mut world = World::new(with_claims("Retain", "Retain", 1));
    assert_eq!(world.actions(), ["+data-web-0", "+web-0@new"]);
    world.step();
    let pod = &world.pods[0];
    let volume = &pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0];
    assert_eq!(
        (volume.name.as_str(), &volume.persistent_volume_claim.as_ref().unwrap().claim_name),
        ("data", &"data-web-0".into())
    );
    assert_eq!(pod.labels()["statefulset.kubernetes.io/pod-name"], "web-0");
    assert_eq!(pod.labels()["apps.kubernetes.io/pod-index"], "0");
    assert_eq!(pod.spec.as_ref().unwrap().subdomain.as_deref(), Some("nginx"));
    assert_eq!(world.claims["data-web-0"].labels()["app"], "web");
    world.pods.clear();
    let mut going = world.claims["data-web-0"].as_ref().clone();
    going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    world.claims.insert("data-web-0".into(), Arc::new(going));
    assert_eq!(world.actions(), ["!web-0: pvc data-web-0 is being deleted"]);
}

#[test]
fn claims_go_with_whom_the_retention_policy_says() {
    for (when_deleted, when_scaled, kept, condemned) in [
        ("Retain", "Retain", "", ""),
        ("Delete", "Retain", "set", "set"),
        ("Retain", "Delete", "", "pod-2"),
        ("Delete", "Delete", "set", "pod-2"),
    ] {
        let mut world = World::new(with_claims(when_deleted, when_scaled, 2));
        while world.step() {}
        let owner = |world: &World, claim: &str| {
            world.claims[claim].owner_references().first().map_or("", |owner| owner.uid.as_str()).to_owned()
        };
        assert_eq!(owner(&world, "data-web-1"), kept, "{when_deleted} {when_scaled}");
        world.set.spec.as_mut().unwrap().replicas = Some(1);
        let expected = if kept == condemned { vec![] } else { vec![format!("data-web-1={condemned}")] };
        assert_eq!(world.actions(), [expected, vec!["-web-1".to_owned()]].concat(), "{when_deleted} {when_scaled}");
    }
}

#[test]
fn a_pod_waits_for_the_claim_of_its_former_self_to_go() {
    let mut world = World::new(with_claims("Retain", "Delete", 1));
    while world.step() {}
    let mut claim = world.claims["data-web-0"].as_ref().clone();
    claim.metadata.owner_references = Some(vec![coracle_client::controller_reference(world.pods[0].as_ref())]);
    world.claims.insert("data-web-0".into(), Arc::new(claim));
    world.pods.clear();
    assert_eq!(world.actions(), Vec::<String>::new());
    world.claims.clear();
    assert_eq!(world.actions(), ["+data-web-0", "+web-0@new"]);
}

proptest! {
    #[test]
    fn from_anywhere_a_set_arrives_where_its_spec_says(
        (replicas, start, partition) in (0..5i32, 0..3i64, 0..6i32),
        parallel: bool, on_delete: bool,
        (when_deleted, when_scaled) in ("Retain|Delete", "Retain|Delete"),
        there in proptest::collection::btree_map(0..8i32, ("old|new", "ready|Failed|Succeeded"), 0..8),
    ) {
        let mut set = with_claims(&when_deleted, &when_scaled, replicas);
        let spec = set.spec.as_mut().unwrap();
        spec.ordinals = serde_json::from_value(json!({ "start": start })).unwrap();
        spec.pod_management_policy = Some(if parallel { "Parallel" } else { "OrderedReady" }.into());
        let rolling = json!({ "type": "RollingUpdate", "rollingUpdate": { "partition": partition } });
        let strategy = if on_delete { json!({ "type": "OnDelete" }) } else { rolling };
        spec.update_strategy = serde_json::from_value(strategy).unwrap();
        // Two pods that are not ready are never scaled down in order: each waits for the other.
        let end = start + i64::from(replicas);
        let state = |ordinal: i32, state| if parallel || (start..end).contains(&ordinal.into()) { state } else { "ready" };
        let there: Vec<_> =
            there.iter().map(|(ordinal, (of, is))| (*ordinal, of.as_str(), state(*ordinal, is.as_str()))).collect();
        let mut world = World::of(set, &there);
        let steps = (0..100).take_while(|_| world.step()).count();
        prop_assert!(steps < 100, "still at it: {:?}", world.actions());
        let ordinals: BTreeSet<_> = world.pods.iter().filter_map(|pod| identity::ordinal_of(&world.set, pod)).collect();
        prop_assert_eq!(ordinals, (start..end).collect::<BTreeSet<_>>());
        if !on_delete {
            let below = |pod: &Pod| identity::ordinal_of(&world.set, pod).unwrap() - start < partition.into();
            prop_assert!(world.pods.iter().all(|pod| below(pod) || identity::revision_of(pod) == "new"));
        }
    }
}
