//! Short-hands for tests: nodes and pods in a few words.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::cycle::{FitError, Search, schedule};
use crate::framework::{Plugin, Refusal};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::profile::default_profile;
use crate::snapshot::Snapshot;

/// A node under construction: 4 CPUs, 8 GiB, 110 pods, zone-less.
#[derive(Clone, Debug)]
pub struct TestNode {
    json: Value,
    pods: Vec<TestPod>,
}

pub fn node(name: &str) -> TestNode {
    let json = json!({
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        "spec": { "taints": [] },
        "status": { "allocatable": { "cpu": "4", "memory": "8Gi", "pods": "110" } },
    });
    TestNode { json, pods: Vec::new() }
}

impl TestNode {
    pub fn cpu(mut self, amount: &str) -> Self {
        self.json["status"]["allocatable"]["cpu"] = amount.into();
        self
    }

    pub fn max_pods(mut self, amount: &str) -> Self {
        self.json["status"]["allocatable"]["pods"] = amount.into();
        self
    }

    pub fn resource(mut self, name: &str, amount: &str) -> Self {
        self.json["status"]["allocatable"][name] = amount.into();
        self
    }

    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.json["metadata"]["labels"][key] = value.into();
        self
    }

    /// Sets any field by its JSON pointer, making the objects on the way.
    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        set(&mut self.json, pointer, value);
        self
    }

    pub fn taint(mut self, key: &str, value: &str, effect: &str) -> Self {
        let taints = self.json["spec"]["taints"].as_array_mut().unwrap();
        taints.push(json!({ "key": key, "value": value, "effect": effect }));
        self
    }

    pub fn with(mut self, pod: TestPod) -> Self {
        self.pods.push(pod);
        self
    }

    pub fn info(self) -> NodeInfo {
        let node: Node = serde_json::from_value(self.json).unwrap();
        let mut info = NodeInfo::new(Arc::new(node));
        for pod in self.pods {
            info.add(Arc::new(pod.info()));
        }
        info
    }
}

pub fn snapshot(nodes: Vec<TestNode>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    nodes.into_iter().for_each(|node| snapshot.set_node(node.info()));
    snapshot.namespaces.insert("default".into(), BTreeMap::new());
    snapshot.arrange();
    snapshot
}

/// The first of equals.
pub fn first(_: usize) -> usize {
    0
}

/// What the default profile decides.
pub fn decide(pod: TestPod, nodes: &Snapshot) -> Result<String, Box<FitError>> {
    schedule(&default_profile(), &pod.info(), nodes, &mut Search { start: 0, tie_break: first }, None)
}

/// What a plugin says of one node.
pub fn filtered(plugin: &dyn Plugin, pod: TestPod, nodes: &Snapshot, on: &str) -> Result<(), Refusal> {
    let pod = pod.info();
    let prepared = plugin.filter(&pod, nodes)?;
    prepared.filter.map_or(Ok(()), |filter| filter.filter(nodes.node(on).unwrap()))
}

/// What a plugin makes of all nodes, by their names; nothing if it has no opinion.
pub fn scored<'n>(plugin: &dyn Plugin, pod: TestPod, nodes: &'n Snapshot) -> Vec<(&'n str, i64)> {
    let pod = pod.info();
    let all: Vec<_> = nodes.nodes().collect();
    let Some(score) = plugin.score(&pod, nodes, &all) else { return Vec::new() };
    let mut scores: Vec<_> = all.iter().map(|node| score.score(node)).collect();
    score.normalize(&mut scores, &all);
    let mut named: Vec<_> = all.iter().map(|node| &node.name[..]).zip(scores).collect();
    named.sort();
    named
}

/// A pod under construction: one container, namespace `default`.
#[derive(Clone, Debug)]
pub struct TestPod {
    json: Value,
}

pub fn pod(name: &str) -> TestPod {
    TestPod {
        json: json!({
            "metadata": { "name": name, "namespace": "default", "uid": name, "labels": {} },
            "spec": { "containers": [{ "name": "c", "image": "i", "resources": { "requests": {} } }] },
        }),
    }
}

impl TestPod {
    pub fn named(mut self, name: &str) -> Self {
        self.json["metadata"]["name"] = name.into();
        self
    }

    pub fn cpu(mut self, amount: &str) -> Self {
        self.json["spec"]["containers"][0]["resources"]["requests"]["cpu"] = amount.into();
        self
    }

    pub fn priority(mut self, priority: i32) -> Self {
        self.json["spec"]["priority"] = priority.into();
        self
    }

    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.json["metadata"]["labels"][key] = value.into();
        self
    }

    /// Sets any field by its JSON pointer, making the objects on the way.
    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        set(&mut self.json, pointer, value);
        self
    }

    pub fn info(self) -> PodInfo {
        let pod: Pod = serde_json::from_value(self.json).unwrap();
        PodInfo::new(Arc::new(pod))
    }
}

fn set(json: &mut Value, pointer: &str, value: Value) {
    let mut at = json;
    for part in pointer.trim_start_matches('/').split('/') {
        let part = part.replace("~1", "/").replace("~0", "~");
        at = match part.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[&part[..]],
        };
    }
    *at = value;
}
