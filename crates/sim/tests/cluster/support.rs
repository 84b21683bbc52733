//! Short forms for the tests.

use std::collections::BTreeMap;
use std::time::Duration;

use coracle_sim::{Builder, Cluster};
use serde_json::{Value, json};

/// Plays a scenario on a cluster of three nodes.
pub fn simulate(scenario: impl AsyncFnOnce(&mut Cluster) -> anyhow::Result<()>) {
    play(Cluster::builder().seed(7).nodes(3), scenario);
}

/// Plays a scenario on the cluster described.
pub fn play<T>(cluster: Builder, scenario: impl AsyncFnOnce(&mut Cluster) -> anyhow::Result<T>) -> T {
    cluster.run(scenario).unwrap_or_else(|error| panic!("{error:?}"))
}

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn pod_template(app: &str, image: &str) -> Value {
    json!({
        "metadata": { "labels": { "app": app } },
        "spec": { "containers": [{ "name": "main", "image": image }] },
    })
}

pub fn pod(name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": name } }, "spec": spec })
}

pub fn one_container(image: &str, command: &[&str]) -> Value {
    json!({ "containers": [{ "name": "main", "image": image, "command": command }] })
}

/// A Deployment, ReplicaSet, StatefulSet or DaemonSet of one container.
pub fn workload(kind: &str, name: &str, image: &str, more: Value) -> Value {
    let mut spec = json!({ "selector": { "matchLabels": { "app": name } }, "template": pod_template(name, image) });
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    json!({ "apiVersion": "apps/v1", "kind": kind, "metadata": { "name": name }, "spec": spec })
}

pub fn deployment(name: &str, replicas: u32, image: &str) -> Value {
    workload("Deployment", name, image, json!({ "replicas": replicas }))
}

pub fn is_ready(object: &Value) -> bool {
    condition(object, "Ready") == "True"
}

/// The status of a condition; empty if there is none.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|c| c["type"] == kind).and_then(|c| c["status"].as_str()).unwrap_or_default()
}

pub fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// The pods with the label `app`, by name.
pub async fn pods(cluster: &Cluster, app: &str) -> anyhow::Result<Vec<Value>> {
    let mut pods = cluster.list("pods", Some("default")).await?;
    pods.retain(|pod| pod["metadata"]["labels"]["app"] == app);
    Ok(pods)
}

pub async fn ready_pods(cluster: &Cluster, app: &str) -> anyhow::Result<usize> {
    Ok(pods(cluster, app).await?.iter().filter(|pod| is_ready(pod)).count())
}

/// An object that must exist.
pub async fn get(cluster: &Cluster, plural: &str, name: &str) -> anyhow::Result<Value> {
    cluster.get(plural, name).await?.ok_or_else(|| anyhow::anyhow!("{plural} {name} does not exist"))
}

/// The messages of the events about an object, in the order of their first occurrence.
pub async fn messages(cluster: &Cluster, object: &str) -> anyhow::Result<Vec<String>> {
    let mut events = cluster.list("events", None).await?;
    events.retain(|event| event["involvedObject"]["name"] == object);
    events.sort_by_key(|event| event["firstTimestamp"].to_string());
    Ok(events.iter().map(|event| event["message"].as_str().unwrap_or_default().to_owned()).collect())
}

/// What is written although nothing happens: of what, and how many seconds apart.
const PERIODIC: &[(&str, u64)] = &[
    ("leases kube-node-lease/", 10), // a kubelet's heartbeat
    ("minions ", 300),               // a kubelet's report
    ("events default/nowhere", 300), // the scheduler, which tries once more
    ("events default/plays", 300),   // and again, for want of a device
];

/// Lets time pass in which nobody asks for anything; what is written all the same, and how often. Not told are
/// [what is periodic by design](PERIODIC), and that events are forgotten after an hour.
pub async fn idle_writes(cluster: &Cluster, time: Duration) -> Vec<String> {
    let before = cluster.history().len();
    cluster.advance(time).await;
    let mut writes: BTreeMap<String, u64> = BTreeMap::new();
    for change in &cluster.history()[before..] {
        let (resource, name) = change.object();
        if resource != "events" || change.value.is_some() {
            *writes.entry(format!("{resource} {name}")).or_default() += 1;
        }
    }
    writes.retain(|object, count| {
        let period = PERIODIC.iter().find(|(kind, _)| object.starts_with(kind)).map(|(_, period)| *period);
        period.is_none_or(|period| *count > time.as_secs() / period + 1)
    });
    writes.into_iter().map(|(object, count)| format!("{object}: {count}")).collect()
}
