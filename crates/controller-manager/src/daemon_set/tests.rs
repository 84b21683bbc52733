//! The plan as tables, and that it arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::nodes::{self, Wanted};
use super::plan::{Plan, State, plan};
use crate::history::REVISION_LABEL;

fn set(strategy: Value, template: Value) -> DaemonSet {
    serde_json::from_value(json!({
        "metadata": { "name": "ds", "namespace": "default", "uid": "set", "generation": 1 },
        "spec": {
            "selector": { "matchLabels": { "app": "ds" } }, "updateStrategy": strategy,
            "template": { "metadata": { "labels": { "app": "ds" } }, "spec": template },
        },
    }))
    .unwrap()
}

fn rolling(max_unavailable: Value, max_surge: Value) -> DaemonSet {
    let parameters = json!({ "maxUnavailable": max_unavailable, "maxSurge": max_surge });
    set(json!({ "type": "RollingUpdate", "rollingUpdate": parameters }), json!({ "containers": [] }))
}

fn node(name: &str, taints: Value) -> Arc<Node> {
    let labels = json!({ "disk": "ssd" });
    Arc::new(
        serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels }, "spec": { "taints": taints } }))
            .unwrap(),
    )
}

/// A set, its nodes and pods, and a scheduler and kubelets that do their work at once.
struct World {
    set: DaemonSet,
    nodes: Vec<Arc<Node>>,
    pods: Vec<Arc<Pod>>,
    created: u64,
}

impl World {
    /// Nodes `0`, `1`, … with pods of a revision in a state.
    fn new(set: DaemonSet, nodes: usize, pods: &[(usize, &str, &str)]) -> Self {
        let nodes = (0..nodes).map(|name| node(&name.to_string(), json!([]))).collect();
        let mut world = World { set, nodes, pods: Vec::new(), created: 0 };
        for (node, revision, state) in pods {
            world.add(&node.to_string(), revision, state);
        }
        world
    }

    fn add(&mut self, node: &str, revision: &str, state: &str) {
        self.created += 1;
        let name = format!("{node}-{revision}-{}", self.created);
        let mut pod = serde_json::to_value(nodes::new_pod(&self.set, node, revision)).unwrap();
        assert_eq!(nodes::node_of(&serde_json::from_value(pod.clone()).unwrap()), Some(node));
        pod["metadata"]["name"] = json!(name);
        pod["metadata"]["uid"] = json!(name);
        pod["metadata"]["creationTimestamp"] = json!(jiff::Timestamp::UNIX_EPOCH + Duration::from_secs(self.created));
        pod["spec"]["nodeName"] = json!(node);
        let phase = if matches!(state, "ready" | "unready" | "terminating") { "Running" } else { state };
        let ready = if state == "ready" { "True" } else { "False" };
        let condition = json!({ "type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z" });
        pod["status"] = json!({ "phase": phase, "conditions": [condition] });
        if state == "terminating" {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        self.pods.push(Arc::new(serde_json::from_value(pod).unwrap()));
    }

    fn plan(&self, backoff: Duration) -> Plan {
        plan(&State {
            set: &self.set,
            nodes: &self.nodes,
            pods: &self.pods,
            hash: "new",
            collisions: 0,
            backoff: &|_| backoff,
            now: "2026-01-01T00:00:05Z".parse().unwrap(),
        })
    }

    /// What the plan does, in short: nodes that get a pod, and pods that go.
    fn actions(&self) -> Vec<String> {
        let plan = self.plan(Duration::ZERO);
        let short = |pod: &Arc<Pod>| format!("-{}", pod.name_any().rsplit_once('-').unwrap().0);
        plan.create.iter().map(|node| format!("+{node}")).chain(plan.delete.iter().map(short)).collect()
    }

    /// Carries the plan out; whether there was anything to do.
    fn step(&mut self) -> bool {
        let plan = self.plan(Duration::ZERO);
        let uids: BTreeSet<_> = plan.delete.iter().map(|pod| pod.uid()).collect();
        self.pods.retain(|pod| !uids.contains(&pod.uid()));
        plan.create.iter().for_each(|node| self.add(node, "new", "ready"));
        !plan.create.is_empty() || !plan.delete.is_empty()
    }

    /// The nodes that have a pod such as this.
    fn nodes_with(&self, wanted: impl Fn(&Pod) -> bool) -> BTreeSet<String> {
        self.pods.iter().filter(|pod| wanted(pod)).map(|pod| nodes::node_of(pod).unwrap().to_owned()).collect()
    }

    /// The nodes that have an available pod.
    fn serving(&self) -> BTreeSet<String> {
        self.nodes_with(crate::pods::is_ready)
    }

    /// The nodes that have two running pods where one may be: with surge, two of one revision.
    fn crowded(&self, surge: bool) -> BTreeSet<String> {
        let runs = |pod: &Pod| !matches!(crate::pods::phase(pod), "Failed" | "Succeeded");
        let place =
            |pod: &Pod| (nodes::node_of(pod).map(str::to_owned), surge.then(|| pod.labels()[REVISION_LABEL].clone()));
        self.nodes_with(|pod| self.pods.iter().filter(|other| runs(other) && place(other) == place(pod)).count() > 1)
    }
}

#[track_caller]
fn check(set: DaemonSet, nodes: usize, pods: &[(usize, &str, &str)], expected: &[&str]) {
    assert_eq!(World::new(set, nodes, pods).actions(), expected);
}

#[test]
fn each_node_has_one_pod() {
    let one = || rolling(json!(1), json!(0));
    check(one(), 2, &[], &["+0", "+1"]);
    check(one(), 2, &[(0, "new", "unready")], &["+1"]);
    check(one(), 1, &[(0, "new", "terminating")], &[]);
    check(one(), 1, &[(0, "new", "ready"), (0, "new", "ready")], &["-0-new"]);
    check(one(), 1, &[(0, "old", "unready"), (0, "new", "ready")], &["-0-new"]);
    check(one(), 1, &[(0, "new", "Failed")], &["-0-new"]);
    check(one(), 1, &[(0, "new", "Succeeded")], &["-0-new"]);
}

#[test]
fn a_failed_pod_waits_for_its_backoff() {
    let plan = World::new(rolling(json!(1), json!(0)), 1, &[(0, "new", "Failed")]).plan(Duration::from_secs(8));
    assert_eq!((plan.delete.len(), plan.again), (0, Some(Duration::from_secs(8))));
}

#[test]
fn old_pods_go_as_far_as_max_unavailable_allows() {
    let old = [(0, "old", "ready"), (1, "old", "ready"), (2, "old", "ready")];
    check(rolling(json!(1), json!(0)), 3, &old, &["-0-old"]);
    check(rolling(json!("50%"), json!(0)), 3, &old, &["-0-old", "-1-old"]);
    check(rolling(json!(1), json!(0)), 3, &[(0, "new", "unready"), old[1], old[2]], &[]);
    check(rolling(json!(1), json!(0)), 3, &[(0, "new", "unready"), (1, "old", "unready"), old[2]], &["-1-old"]);
    check(rolling(json!(1), json!(0)), 3, &[(0, "old", "terminating"), old[1], old[2]], &[]);
    check(set(json!({ "type": "OnDelete" }), json!({ "containers": [] })), 3, &old, &[]);
}

#[test]
fn with_surge_new_pods_come_beside_old_ones_and_replace_them() {
    let surge = || rolling(json!(0), json!(1));
    let old = [(0, "old", "ready"), (1, "old", "ready")];
    check(surge(), 2, &old, &["+0"]);
    check(surge(), 2, &[old[0], (0, "new", "unready"), old[1]], &[]);
    check(surge(), 2, &[old[0], (0, "new", "ready"), old[1]], &["-0-old"]);
    check(surge(), 2, &[(0, "old", "unready"), old[1]], &["+0", "+1"]);
    check(surge(), 2, &[(0, "old", "unready"), (0, "new", "unready"), old[1]], &["-0-old"]);
}

#[test]
fn taints_selectors_and_names_decide_which_nodes_are_wanted() {
    let on = |template: Value, taints: Value| {
        nodes::wanted(&nodes::daemon_spec(&set(json!({}), template)), &node("n", taints))
    };
    let plain = || json!({ "containers": [] });
    let taint = |key: &str, effect: &str| json!([{ "key": key, "effect": effect }]);
    let (all, stays, none) =
        (Wanted { run: true, stay: true }, Wanted { run: false, stay: true }, Wanted { run: false, stay: false });
    for (template, taints, expected) in [
        (plain(), json!([]), all),
        (plain(), taint("x", "NoSchedule"), stays),
        (plain(), taint("x", "NoExecute"), none),
        (plain(), taint("x", "PreferNoSchedule"), all),
        (plain(), taint("node.kubernetes.io/unreachable", "NoExecute"), all),
        (plain(), taint("node.kubernetes.io/unschedulable", "NoSchedule"), all),
        (plain(), taint("node.kubernetes.io/network-unavailable", "NoSchedule"), stays),
        (
            json!({ "containers": [], "hostNetwork": true }),
            taint("node.kubernetes.io/network-unavailable", "NoSchedule"),
            all,
        ),
        (json!({ "containers": [], "tolerations": [{ "operator": "Exists" }] }), taint("x", "NoExecute"), all),
        (json!({ "containers": [], "nodeSelector": { "disk": "ssd" } }), json!([]), all),
        (json!({ "containers": [], "nodeSelector": { "disk": "hdd" } }), json!([]), none),
        (json!({ "containers": [], "nodeName": "m" }), json!([]), none),
    ] {
        assert_eq!(on(template.clone(), taints.clone()), expected, "{template} {taints}");
    }
}

#[test]
fn the_status_counts_nodes() {
    let mut world =
        World::new(rolling(json!(1), json!(0)), 4, &[(0, "new", "ready"), (1, "old", "ready"), (2, "new", "unready")]);
    world.nodes.push(node("bad", json!([{ "key": "x", "effect": "NoSchedule" }])));
    world.add("bad", "new", "ready");
    let status = world.plan(Duration::ZERO).status;
    let counts = (status.desired_number_scheduled, status.current_number_scheduled, status.number_misscheduled);
    assert_eq!(counts, (4, 3, 1));
    assert_eq!((status.number_ready, status.updated_number_scheduled), (2, Some(2)));
    assert_eq!((status.number_available, status.number_unavailable), (Some(2), Some(2)));
}

proptest! {
    #[test]
    fn from_anywhere_every_node_arrives_at_one_new_pod(
        surge in 0..3i32,
        nodes in 1..6usize,
        there in proptest::collection::vec((0..7usize, "old|new", "ready|unready|Failed|Succeeded"), 0..12),
    ) {
        let there: Vec<_> = there.iter().map(|(node, of, is)| (*node, of.as_str(), is.as_str())).collect();
        let mut world = World::new(rolling(json!(i32::from(surge == 0)), json!(surge)), nodes, &there);
        world.pods.retain(|pod| nodes::node_of(pod).is_some_and(|node| node.parse::<usize>().unwrap() < nodes));
        // Pods that are not ready never will be, so new ones of those must go.
        world.pods.retain(|pod| crate::pods::is_ready(pod) || pod.labels()[REVISION_LABEL] == "old");
        for steps in 0.. {
            let (serving, crowded) = (world.serving(), world.crowded(surge > 0));
            if !world.step() {
                break;
            }
            prop_assert!(steps < 60, "still at it: {:?}", world.actions());
            // Of too many on a node the oldest stays, as upstream has it, even if only a younger one served. Other nodes
            // lose what serves them to the update alone.
            let lost = &(&serving - &world.serving()) - &crowded;
            prop_assert!(lost.len() <= usize::from(surge == 0), "more at once than allowed: {:?}", lost);
        }
        let mut count: BTreeMap<_, usize> = BTreeMap::new();
        for pod in &world.pods {
            prop_assert_eq!(&pod.labels()[REVISION_LABEL], "new");
            *count.entry(nodes::node_of(pod).unwrap()).or_default() += 1;
        }
        prop_assert!(count.len() == nodes && count.values().all(|pods| *pods == 1), "{:?}", count);
    }
}
