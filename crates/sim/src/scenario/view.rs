//! What is seen of a cluster: kept by listening to every change of its store, so that no moment is missed.

use std::collections::BTreeMap;
use std::time::Duration;

use coracle_api::quantity::Quantity;
use coracle_kubelet::runtime::simulated::Span;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::expect::{Expectation, Measure, Subject, Tracker};
use super::object::ObjectRef;
use crate::Change;

/// A pod, as far as it matters here.
#[derive(Clone, Debug, Default)]
pub struct PodView {
    /// Its namespace and name.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Who made it: `deployment/web`, or itself.
    pub owner: String,
    /// Whether a DaemonSet made it.
    pub of_daemon_set: bool,
    /// Its node.
    pub node: Option<String>,
    /// `Pending`, `Running`, `Succeeded`, `Failed`.
    pub phase: String,
    /// Whether its condition `Ready` is true.
    pub ready: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// When it was made.
    pub created: Duration,
    /// Why it waits: the scheduler's message, or a container's reason.
    pub waits: Option<String>,
    /// Whether no node can take it, as the scheduler says.
    pub unschedulable: bool,
    /// How often its containers were started again.
    pub restarts: u64,
    /// Thousandths of a processor that it requests.
    pub cpu_milli: f64,
    /// Bytes that it requests.
    pub memory: f64,
    /// Thousandths of a processor that it may use at most.
    pub cpu_limit_milli: f64,
    /// Labels that its node must have.
    pub node_selector: BTreeMap<String, String>,
    /// The keys of taints that it tolerates; `*` is all.
    pub tolerates: Vec<String>,
    /// Why it is disrupted, if it is.
    disrupted: Option<String>,
    started: bool,
}

/// A node.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    /// Whether its condition `Ready` is true.
    pub ready: bool,
    /// Its node group.
    pub group: String,
    /// Thousandths of a processor that pods may request.
    pub cpu_milli: f64,
    /// Bytes that pods may request.
    pub memory: f64,
}

/// What the story of events tells, in the order of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// When.
    pub at: Span,
    /// What.
    pub text: String,
    /// Of which sort it is.
    pub sort: Sort,
}

/// Sorts of what is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sort {
    /// The scenario did it.
    Event,
    /// The cluster did it.
    Cluster,
    /// An expectation broke, or holds again.
    Expectation,
    /// Nothing goes on.
    Stall,
}

/// A pod that somebody took away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disruption {
    /// When.
    pub at: Span,
    /// `shop/web-abc`.
    pub pod: String,
    /// Kubernetes' reason: `EvictionByEvictionAPI`, `PreemptionByScheduler`, `DeletionByTaintManager`, ….
    pub reason: String,
}

/// An autoscaler that wants another size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HpaStep {
    /// When.
    pub at: Span,
    /// The HorizontalPodAutoscaler.
    pub name: String,
    /// Replicas before.
    pub from: u64,
    /// Replicas from then on.
    pub to: u64,
}

/// Requests to a Service.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Served {
    /// Per second, now.
    pub rate: f64,
    /// Answered per second, now.
    pub answered: f64,
    /// All so far.
    pub total: f64,
    /// All that were answered.
    pub total_answered: f64,
}

/// The cluster as it is seen now, and what was seen.
#[derive(Default)]
pub struct View {
    /// Until when all is taken in, from the scenario's beginning.
    pub now: Duration,
    /// Pods by namespace and name.
    pub pods: BTreeMap<String, PodView>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, NodeView>,
    /// Objects with a status that can be expected, by resource and name.
    objects: BTreeMap<(String, String), Value>,
    /// Services' selectors, by namespace and name.
    pub services: BTreeMap<String, BTreeMap<String, String>>,
    /// How long pods were pending, in seconds, of those that no longer are.
    pub waited: Vec<f64>,
    /// Pods that were taken away.
    pub disruptions: Vec<Disruption>,
    /// Containers that were started again.
    pub restarts: u64,
    /// Autoscalers' steps.
    pub hpa_steps: Vec<HpaStep>,
    /// What happened.
    pub story: Vec<Line>,
    /// Requests, by Service.
    pub served: BTreeMap<ObjectRef, Served>,
    /// USD so far.
    pub cost: f64,
    /// The expectations.
    pub trackers: Vec<Tracker>,
    /// How many changes there were that matter.
    pub progress: u64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    labels: BTreeMap<String, String>,
    deletion_timestamp: Option<String>,
    owner_references: Vec<Owner>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Owner {
    kind: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodJson {
    metadata: Meta,
    spec: PodSpec,
    status: PodStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: Option<String>,
    containers: Vec<ContainerJson>,
    node_selector: BTreeMap<String, String>,
    tolerations: Vec<Toleration>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Toleration {
    key: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ContainerJson {
    resources: ResourcesJson,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResourcesJson {
    requests: BTreeMap<String, String>,
    limits: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: String,
    conditions: Vec<Condition>,
    container_statuses: Vec<ContainerStatusJson>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    r#type: String,
    status: String,
    reason: String,
    message: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerStatusJson {
    restart_count: u64,
    state: BTreeMap<String, StateJson>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StateJson {
    reason: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeJson {
    metadata: Meta,
    status: NodeStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    conditions: Vec<Condition>,
    allocatable: BTreeMap<String, String>,
}

fn amount(quantities: &BTreeMap<String, String>, name: &str) -> Option<f64> {
    quantities.get(name)?.parse::<Quantity>().ok().map(Quantity::to_f64)
}

/// Where a field that can be expected stands in the kinds that have it.
const FIELDS: [(&str, &[&str]); 9] = [
    ("available", &["/status/availableReplicas", "/status/numberAvailable"]),
    ("ready", &["/status/readyReplicas", "/status/numberReady", "/status/ready"]),
    ("replicas", &["/status/replicas", "/status/currentReplicas", "/status/currentNumberScheduled"]),
    ("desired", &["/spec/replicas", "/status/desiredReplicas", "/status/desiredNumberScheduled", "/spec/completions"]),
    ("updated", &["/status/updatedReplicas", "/status/updatedNumberScheduled"]),
    ("unavailable", &["/status/unavailableReplicas", "/status/numberUnavailable"]),
    ("active", &["/status/active"]),
    ("succeeded", &["/status/succeeded"]),
    ("failed", &["/status/failed"]),
];

fn field(object: &Value, name: &str) -> Option<f64> {
    let (_, pointers) = FIELDS.iter().find(|(field, _)| *field == name)?;
    Some(pointers.iter().find_map(|pointer| object.pointer(pointer)?.as_f64()).unwrap_or_default())
}

/// A quantile of values, by the nearest rank.
pub fn quantile(values: &mut [f64], share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * share).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied()
}

impl View {
    /// What is seen as a scenario begins: the cluster as `before` saw it, and nothing that happened until then.
    pub fn beginning(before: View, trackers: Vec<Tracker>) -> View {
        let View { nodes, services, pods, objects, .. } = before;
        View { nodes, services, pods, objects, trackers, ..View::default() }
    }

    /// Takes in that time has passed: what was seen last has held until now.
    pub fn pass(&mut self, now: Duration) {
        if now <= self.now {
            return;
        }
        let (mut trackers, from) = (std::mem::take(&mut self.trackers), self.now);
        for tracker in trackers.iter_mut().filter(|tracker| tracker.cares(from, now)) {
            let measure = self.measure(&tracker.expectation, false);
            if let Some(text) = tracker.observe(from, now, measure) {
                self.tell_at(from, Sort::Expectation, text);
            }
        }
        self.trackers = trackers;
        self.now = now;
    }

    /// Adds to the story.
    pub fn tell(&mut self, sort: Sort, text: impl Into<String>) {
        self.tell_at(self.now, sort, text);
    }

    fn tell_at(&mut self, at: Duration, sort: Sort, text: impl Into<String>) {
        // Whole seconds are exact enough for a story.
        let at = Span(Duration::from_secs(at.as_secs()));
        self.story.push(Line { at, text: text.into(), sort });
    }

    /// Takes in a change of the store.
    pub fn apply(&mut self, now: Duration, change: &Change) {
        // Most changes are heartbeats: they are not even parsed.
        let resource = |prefix: &str| change.key.strip_prefix(prefix.as_bytes());
        if resource("/registry/leases/").is_some() || resource("/registry/events/").is_some() {
            return;
        }
        self.pass(now);
        let (plural, name) = change.object();
        let value = change.value.as_deref();
        match plural.as_str() {
            "pods" => self.pod(&name, value.map(|value| serde_json::from_slice(value).unwrap_or_default())),
            "minions" | "nodes" => {
                return self.node(&name, value.map(|value| serde_json::from_slice(value).unwrap_or_default()));
            }
            // Services lie under `services/specs`, as upstream's do.
            "services" => {
                let Some(name) = name.strip_prefix("specs/").map(str::to_owned) else { return };
                let selector = |json: &Value| serde_json::from_value(json["spec"]["selector"].clone()).ok();
                match value {
                    Some(_) => drop(self.services.insert(name, selector(&change.json()).unwrap_or_default())),
                    None => drop(self.services.remove(&name)),
                }
            }
            "horizontalpodautoscalers" => {
                let json = change.json();
                self.hpa(&name, &json);
                self.object(plural, name, json, value.is_some());
            }
            "deployments" | "statefulsets" | "daemonsets" | "replicasets" | "jobs" | "replicationcontrollers" => {
                self.object(plural, name, change.json(), value.is_some());
            }
            _ => {}
        }
        self.progress += 1;
    }

    fn object(&mut self, plural: String, name: String, json: Value, there: bool) {
        match there {
            true => drop(self.objects.insert((plural, name), json)),
            false => drop(self.objects.remove(&(plural, name))),
        }
    }

    fn hpa(&mut self, name: &str, json: &Value) {
        let key = ("horizontalpodautoscalers".to_owned(), name.to_owned());
        let desired = |json: &Value| json.pointer("/status/desiredReplicas").and_then(Value::as_u64);
        if let (Some(before), Some(to)) = (self.objects.get(&key).and_then(desired), desired(json))
            && before != to
            && before > 0
        {
            let at = Span(Duration::from_secs(self.now.as_secs()));
            self.hpa_steps.push(HpaStep { at, name: name.to_owned(), from: before, to });
            self.tell(Sort::Cluster, format!("autoscaler {name}: {before} → {to} replicas"));
        }
    }

    fn node(&mut self, name: &str, json: Option<NodeJson>) {
        let Some(json) = json else {
            if self.nodes.remove(name).is_some() {
                self.progress += 1;
                self.tell(Sort::Cluster, format!("node {name} is gone"));
            }
            return;
        };
        let ready = json.status.conditions.iter().any(|c| c.r#type == "Ready" && c.status == "True");
        let group = json.metadata.labels.get("eks.amazonaws.com/nodegroup").cloned().unwrap_or_default();
        let offers = |resource: &str| amount(&json.status.allocatable, resource).unwrap_or_default();
        let node = NodeView { ready, group, cpu_milli: offers("cpu") * 1000.0, memory: offers("memory") };
        let before = self.nodes.insert(name.to_owned(), node).map(|node| node.ready);
        if before != Some(ready) {
            self.progress += 1;
        }
        match (before, ready) {
            (Some(true), false) => self.tell(Sort::Cluster, format!("node {name} is not ready")),
            (Some(false), true) => self.tell(Sort::Cluster, format!("node {name} is ready")),
            _ => {}
        }
    }

    fn pod(&mut self, key: &str, json: Option<PodJson>) {
        let before = self.pods.remove(key);
        let Some(json) = json else {
            if let Some(pod) = before.filter(|pod| !pod.started) {
                self.waited.push((self.now - pod.created).as_secs_f64());
            }
            return;
        };
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        let (created, was_started) = before.as_ref().map_or((self.now, false), |pod| (pod.created, pod.started));
        let condition = |kind: &str| json.status.conditions.iter().find(|c| c.r#type == kind);
        let unscheduled = condition("PodScheduled").filter(|c| c.status == "False");
        let waiting = json.status.container_statuses.iter().find_map(|c| c.state.get("waiting"));
        let waits = unscheduled.map(|c| c.message.clone()).or_else(|| waiting.map(|state| state.reason.clone()));
        let sum = |resource: &str| {
            json.spec.containers.iter().filter_map(|c| amount(&c.resources.requests, resource)).sum::<f64>()
        };
        let limits: Option<f64> = json.spec.containers.iter().map(|c| amount(&c.resources.limits, "cpu")).sum();
        let restarts = json.status.container_statuses.iter().map(|c| c.restart_count).sum();
        let owner = json.metadata.owner_references.first();
        let owner_name = match owner {
            // A Deployment's ReplicaSet has its name and a hash.
            Some(owner) if owner.kind == "ReplicaSet" => {
                format!("deployment/{}", owner.name.rsplit_once('-').map_or(&*owner.name, |(name, _)| name))
            }
            Some(owner) => format!("{}/{}", owner.kind.to_lowercase(), owner.name),
            None => format!("pod/{name}"),
        };
        let disrupted = condition("DisruptionTarget").filter(|c| c.status == "True").map(|c| c.reason.clone());
        let started = was_started || !matches!(json.status.phase.as_str(), "" | "Pending");
        if started && !was_started {
            self.waited.push((self.now - created).as_secs_f64());
        }
        let restarts_before = before.as_ref().map_or(0, |pod| pod.restarts);
        self.restarts += u64::saturating_sub(restarts, restarts_before);
        if let Some(reason) = disrupted.as_ref().filter(|_| before.as_ref().is_none_or(|pod| pod.disrupted.is_none())) {
            let at = Span(Duration::from_secs(self.now.as_secs()));
            self.disruptions.push(Disruption { at, pod: key.to_owned(), reason: reason.clone() });
        }
        let pod = PodView {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: json.metadata.labels,
            of_daemon_set: owner.is_some_and(|owner| owner.kind == "DaemonSet"),
            owner: owner_name,
            node: json.spec.node_name,
            ready: condition("Ready").is_some_and(|c| c.status == "True"),
            phase: json.status.phase,
            deleting: json.metadata.deletion_timestamp.is_some(),
            created,
            unschedulable: unscheduled.is_some_and(|c| c.reason == "Unschedulable"),
            waits,
            restarts,
            cpu_milli: sum("cpu") * 1000.0,
            memory: sum("memory"),
            cpu_limit_milli: limits.filter(|limit| *limit > 0.0).map_or(f64::INFINITY, |limit| limit * 1000.0),
            node_selector: json.spec.node_selector,
            tolerates: json.spec.tolerations.into_iter().map(|t| t.key.unwrap_or_else(|| "*".into())).collect(),
            disrupted,
            started,
        };
        self.pods.insert(key.to_owned(), pod);
    }

    /// Measures what an expectation is about; `whole` asks for the whole run where that is another question.
    pub fn measure(&self, expectation: &Expectation, whole: bool) -> Option<Measure> {
        match &expectation.subject {
            Subject::Object(object, name) => {
                let found = self.objects.get(&(object.plural.clone(), object.full_name()))?;
                Some(Measure { value: field(found, name)?, of: field(found, "desired") })
            }
            Subject::Condition(object, kind) => {
                let found = self.objects.get(&(object.plural.clone(), object.full_name()))?;
                let conditions = found.pointer("/status/conditions").and_then(Value::as_array);
                let condition = conditions.into_iter().flatten().find(|condition| condition["type"] == **kind);
                let value = match condition.and_then(|condition| condition["status"].as_str()) {
                    Some("True") => 1.0,
                    Some("False") => 0.0,
                    _ => -1.0,
                };
                Some(Measure::plain(value))
            }
            Subject::Served(service) => {
                let served = self.served.get(service)?;
                let (answered, asked) =
                    if whole { (served.total_answered, served.total) } else { (served.answered, served.rate) };
                Some(Measure::plain(if asked > 0.0 { answered / asked * 100.0 } else { 100.0 }))
            }
            Subject::Pods(labels, state) => {
                let fits = |pod: &&PodView| labels.iter().all(|(key, value)| pod.labels.get(key) == Some(value));
                let is = |pod: &PodView| match state.as_str() {
                    "pending" => pod.phase == "Pending",
                    "running" => pod.phase == "Running",
                    "ready" => pod.ready && !pod.deleting,
                    "succeeded" => pod.phase == "Succeeded",
                    "failed" => pod.phase == "Failed",
                    _ => true,
                };
                let fitting = || self.pods.values().filter(fits);
                let of = Some(fitting().count() as f64);
                Some(Measure { value: fitting().filter(|pod| is(pod)).count() as f64, of })
            }
            Subject::Pending(share) => {
                let still = self.pods.values().filter(|pod| !pod.started);
                let still = still.map(|pod| (self.now - pod.created).as_secs_f64());
                let mut all: Vec<f64> = self.waited.iter().copied().chain(still).collect();
                Some(Measure::plain(quantile(&mut all, *share).unwrap_or_default()))
            }
            Subject::Nodes(group, ready) => {
                let nodes = self.nodes.values().filter(|node| group.as_ref().is_none_or(|group| node.group == *group));
                Some(Measure::plain(nodes.filter(|node| !ready || node.ready).count() as f64))
            }
            Subject::Cost => Some(Measure::plain(self.cost)),
            Subject::Disruptions => Some(Measure::plain(self.disruptions.len() as f64)),
            Subject::Restarts => Some(Measure::plain(self.restarts as f64)),
        }
    }

    /// What the cluster waits for, a line each: pods that do not run or are not ready, by their owners, and why.
    pub fn waits(&self) -> Vec<String> {
        let mut waits: BTreeMap<(String, &str, String), usize> = BTreeMap::new();
        for pod in self.pods.values() {
            let state = match pod.phase.as_str() {
                "Succeeded" | "Failed" => continue,
                _ if pod.deleting => "ending",
                "Running" if pod.ready => continue,
                "Running" => "not ready",
                _ => "pending",
            };
            let why = pod.waits.clone().unwrap_or_default();
            let owner = format!("{} in {}", pod.owner, pod.namespace);
            *waits.entry((owner, state, why)).or_default() += 1;
        }
        let line = |((owner, state, why), count): ((String, &str, String), usize)| {
            let pods = if count == 1 { "pod" } else { "pods" };
            let why = if why.is_empty() { String::new() } else { format!(": {why}") };
            format!("{count} {pods} of {owner} {state}{why}")
        };
        waits.into_iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn change(key: &str, value: Option<Value>) -> Change {
        let value = value.map(|value| serde_json::to_vec(&value).unwrap().into());
        Change { revision: 1, key: key.to_owned().into(), value }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn pods_are_followed_from_creation_to_disruption() {
        let mut view = View::default();
        let pod = |phase: &str, conditions: Value| {
            Some(json!({
                "metadata": { "labels": { "app": "web" }, "ownerReferences": [{ "kind": "ReplicaSet", "name": "web-5d9" }] },
                "spec": { "containers": [{ "resources": { "requests": { "cpu": "250m" } } }] },
                "status": { "phase": phase, "conditions": conditions },
            }))
        };
        let scheduled = |message: &str| json!([{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message }]);
        view.apply(seconds(1), &change("/registry/pods/default/web-1", pod("Pending", json!([]))));
        view.apply(seconds(2), &change("/registry/pods/default/web-1", pod("Pending", scheduled("0/1 nodes"))));
        assert_eq!(view.waits(), ["1 pod of deployment/web in default pending: 0/1 nodes"]);
        assert_eq!((view.pods["default/web-1"].unschedulable, view.pods["default/web-1"].cpu_milli), (true, 250.0));
        let pending: Expectation = "pending pods max < 60s".parse().unwrap();
        view.pass(seconds(9));
        assert_eq!(view.measure(&pending, false), Some(Measure::plain(8.0)));

        let ready = json!([{ "type": "Ready", "status": "True" }]);
        view.apply(seconds(11), &change("/registry/pods/default/web-1", pod("Running", ready)));
        assert_eq!((view.waited.as_slice(), view.waits().len()), (&[10.0][..], 0));
        let evicted = json!([{ "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI" }]);
        for _ in 0..2 {
            view.apply(seconds(20), &change("/registry/pods/default/web-1", pod("Running", evicted.clone())));
        }
        view.apply(seconds(21), &change("/registry/pods/default/web-1", None));
        let disruption =
            Disruption { at: Span(seconds(20)), pod: "default/web-1".into(), reason: "EvictionByEvictionAPI".into() };
        assert_eq!((view.disruptions.as_slice(), view.pods.len()), (&[disruption][..], 0));
    }

    #[test]
    fn expectations_are_measured_at_every_moment() {
        let mut view = View::default();
        let text = "deployment/web available >= 80% always";
        view.trackers.push(Tracker::new(text.parse().unwrap()));
        let web =
            |available: u64| Some(json!({ "spec": { "replicas": 5 }, "status": { "availableReplicas": available } }));
        for (at, available) in [(1, 0), (10, 4), (20, 3), (21, 5)] {
            view.apply(seconds(at), &change("/registry/deployments/default/web", web(available)));
        }
        view.pass(seconds(30));
        let told: Vec<_> = view.story.iter().map(|line| (line.at.to_string(), line.text.clone())).collect();
        assert_eq!(
            told,
            [
                ("20s".to_owned(), format!("no longer: {text} (it is 3 of 5)")),
                ("21s".to_owned(), format!("again: {text}")),
            ]
        );
    }
}
