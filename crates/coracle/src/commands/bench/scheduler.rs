//! `coracle bench scheduler`: the workloads of upstream's `scheduler_perf`, by name, through the whole API: a store on
//! disk, an API server and the scheduler in this process, and nodes that are objects only.
//!
//! Measured is what upstream measures: how many of the measured pods were bound per second, on average, from when the
//! first is created. Besides it stands upstream's threshold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use coracle_apiserver::assembly::assemble;
use coracle_apiserver::auth::jwt::TokenKey;
use coracle_apiserver::security::SecurityConfig;
use coracle_apiserver::{ApiServer, UserInfo};
use coracle_clock::{instant, sleep, timeout, watch};
use coracle_store::{SledConfig, SledStore, Store};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::resident_bytes;

/// The workloads and the pods they are made of.
const WORKLOADS: &str = include_str!("scheduler.yaml");
/// So many objects are being created at a time.
const AT_ONCE: usize = 64;
/// What takes longer has failed.
const LIMIT: Duration = Duration::from_secs(600);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Workloads {
    pods: BTreeMap<String, Value>,
    workloads: Vec<Workload>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Workload {
    /// Upstream's test case and workload.
    name: String,
    /// Pods per second.
    threshold: f64,
    #[serde(with = "serde_yaml_ng::with::singleton_map_recursive")]
    steps: Vec<Step>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Step {
    Nodes(Nodes),
    Pods(Pods),
    Churn(Churn),
    Delete(Delete),
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nodes {
    count: usize,
    /// Of the only one; else they are numbered.
    name: Option<String>,
    /// How many pods one may have.
    #[serde(default = "usual_pods")]
    pods: u32,
    /// They are of these in turn.
    #[serde(default)]
    zones: Vec<String>,
    /// The key of a taint.
    taint: Option<String>,
}

fn usual_pods() -> u32 {
    110
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pods {
    count: usize,
    /// Which of the file's pods they are.
    #[serde(default = "usual_pod")]
    of: String,
    #[serde(default = "usual_namespace")]
    namespace: String,
    /// Over so many namespaces, which are numbered.
    over: Option<usize>,
    #[serde(default)]
    measure: bool,
    /// Whether they are waited for.
    #[serde(default = "yes")]
    wait: bool,
}

fn usual_pod() -> String {
    "default".into()
}

fn usual_namespace() -> String {
    "perf".into()
}

fn yes() -> bool {
    true
}

/// Something that goes on until the end.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Churn {
    /// A pod is created,
    of: String,
    /// so often,
    every_ms: u64,
    /// and deleted before the next.
    #[serde(default)]
    recreate: bool,
    /// A node and a service, too.
    #[serde(default)]
    with_node_and_service: bool,
}

/// Deletes a namespace's pods while the next steps go on.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    namespace: String,
    per_second: u64,
}

/// Runs the workloads whose names contain one of `wanted`, or all; the figures go to standard output.
pub async fn run(wanted: &[String]) -> anyhow::Result<()> {
    let Workloads { pods, mut workloads } = serde_yaml_ng::from_str(WORKLOADS)?;
    workloads.retain(|workload| wanted.is_empty() || wanted.iter().any(|part| workload.name.contains(part)));
    if workloads.is_empty() {
        bail!("no workload is called {wanted:?}");
    }
    let pods = Arc::new(pods);
    for workload in workloads {
        let folder = std::env::temp_dir().join(format!("coracle-bench-{}", std::process::id()));
        let outcome = in_folder(&folder, &workload, &pods).await;
        let _ = std::fs::remove_dir_all(&folder);
        let (rate, resident) = outcome.with_context(|| workload.name.clone())?;
        println!(
            "{}: {rate:.0} pods/s, {:.1} times the threshold of {}; {:.0} MB resident",
            workload.name,
            rate / workload.threshold,
            workload.threshold,
            resident as f64 / 1e6
        );
    }
    Ok(())
}

async fn in_folder(
    folder: &Path,
    workload: &Workload,
    pods: &Arc<BTreeMap<String, Value>>,
) -> anyhow::Result<(f64, u64)> {
    let store = SledStore::open(SledConfig::new(folder.join("store"))).await?;
    let security = SecurityConfig::new(TokenKey::generate()?, "10.96.0.0/12".parse()?);
    let api = assemble(store.clone(), security, (Ipv4Addr::new(10, 244, 0, 1), 6443), None).await?;
    let shutdown = CancellationToken::new();
    let user = api.client_as(UserInfo::new("system:kube-scheduler", &[]));
    let scheduler = coracle_scheduler::run(user, coracle_scheduler::Config::default(), shutdown.clone());
    let mut scheduler = tokio::spawn(scheduler);
    let mut run = Run::new(&api, pods.clone(), shutdown.clone());
    let measured = tokio::select! {
        outcome = run.measure(&workload.steps) => outcome,
        ended = &mut scheduler => ended?.and_then(|()| bail!("the scheduler ended")),
    };
    let resident = resident_bytes(std::process::id()).context("cannot read the process's memory")?;
    shutdown.cancel();
    while let Some(ended) = run.background.join_next().await {
        ended??;
    }
    store.close().await?;
    Ok((measured?, resident))
}

/// A workload on its way.
struct Run {
    client: Client,
    templates: Arc<BTreeMap<String, Value>>,
    shutdown: CancellationToken,
    nodes: usize,
    namespaces: BTreeSet<String>,
    /// How many pods have been bound in each namespace.
    bound: watch::Receiver<BTreeMap<String, usize>>,
    /// How many of them were waited for.
    expected: BTreeMap<String, usize>,
    /// What goes on beside the steps.
    background: JoinSet<anyhow::Result<()>>,
}

fn resource(group: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind))
}

fn api(client: &Client, namespace: Option<&str>, group: &str, kind: &str) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource(group, kind)),
        None => Api::all_with(client.clone(), &resource(group, kind)),
    }
}

async fn create(api: &Api<DynamicObject>, object: Value) -> anyhow::Result<()> {
    api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    Ok(())
}

/// Does something for each number, for some at a time.
async fn at_once<F>(numbers: Range<usize>, work: impl Fn(usize) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let tasks = stream::iter(numbers).map(|number| tokio::spawn(work(number))).buffer_unordered(AT_ONCE);
    tasks.map(|done| done?).try_collect().await
}

fn pod(template: &Value, name: &str) -> Value {
    let mut pod = template.clone();
    (pod["apiVersion"], pod["kind"]) = ("v1".into(), "Pod".into());
    pod["metadata"]["name"] = name.into();
    pod
}

fn node(name: &str, shape: &Nodes, zone: Option<&String>) -> Value {
    let mut labels = json!({ "kubernetes.io/hostname": name });
    if let Some(zone) = zone {
        labels["topology.kubernetes.io/zone"] = zone.as_str().into();
    }
    let resources = json!({ "cpu": "4", "memory": "32Gi", "pods": shape.pods.to_string() });
    let status = json!({
        "capacity": resources, "allocatable": resources, "conditions": [{ "type": "Ready", "status": "True" }],
    });
    let metadata = json!({ "name": name, "labels": labels });
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status })
}

impl Run {
    fn new(api: &Arc<ApiServer>, templates: Arc<BTreeMap<String, Value>>, shutdown: CancellationToken) -> Run {
        let client = api.client_as(UserInfo::new("kubernetes-admin", &["kubeadm:cluster-admins"]));
        let (sender, bound) = watch::channel(BTreeMap::new());
        tokio::spawn(count_bound(client.clone(), sender, shutdown.clone()));
        let (namespaces, expected) = (BTreeSet::new(), BTreeMap::new());
        Run { client, templates, shutdown, nodes: 0, namespaces, bound, expected, background: JoinSet::new() }
    }

    fn template(&self, name: &str) -> anyhow::Result<Value> {
        self.templates.get(name).cloned().with_context(|| format!("there is no pod {name:?}"))
    }

    /// Takes the steps; how many pods per second were bound in those that are measured.
    async fn measure(&mut self, steps: &[Step]) -> anyhow::Result<f64> {
        let classes = api(&self.client, None, "scheduling.k8s.io", "PriorityClass");
        create(&classes, json!({ "metadata": { "name": "high" }, "value": 10 })).await?;
        let mut rate = 0.0;
        for step in steps {
            match step {
                Step::Nodes(nodes) => self.create_nodes(nodes).await?,
                Step::Pods(pods) => {
                    let (begin, before) = (instant(), self.bound_in(pods));
                    self.create_pods(pods).await?;
                    if pods.measure {
                        rate = (self.bound_in(pods) - before) as f64 / begin.elapsed().as_secs_f64();
                    }
                }
                Step::Churn(churn) => {
                    self.namespace("churn").await?;
                    let (client, template) = (self.client.clone(), self.template(&churn.of)?);
                    self.background.spawn(go_on(client, churn.clone(), template, self.shutdown.clone()));
                }
                Step::Delete(delete) => {
                    let pods = api(&self.client, Some(&delete.namespace), "", "Pod");
                    self.background.spawn(remove(pods, delete.per_second, self.shutdown.clone()));
                }
            }
        }
        Ok(rate)
    }

    async fn create_nodes(&mut self, shape: &Nodes) -> anyhow::Result<()> {
        let nodes = api(&self.client, None, "", "Node");
        let first = self.nodes;
        self.nodes += shape.count;
        // What admission gives to all new nodes is taken off, as the node lifecycle controller would.
        let taints: Vec<_> = shape.taint.iter().map(|key| json!({ "key": key, "effect": "NoSchedule" })).collect();
        let ready = Patch::Merge(json!({ "spec": { "taints": taints } }));
        let create = |number: usize| {
            let name = shape.name.clone().unwrap_or_else(|| format!("scheduler-perf-{number:05}"));
            let node = node(&name, shape, shape.zones.get(number % shape.zones.len().max(1)));
            let (nodes, ready) = (nodes.clone(), ready.clone());
            async move {
                create(&nodes, node).await?;
                nodes.patch(&name, &PatchParams::default(), &ready).await?;
                Ok(())
            }
        };
        at_once(first..self.nodes, create).await
    }

    /// Makes a namespace with what its pods need.
    async fn namespace(&mut self, name: &str) -> anyhow::Result<()> {
        if !self.namespaces.insert(name.to_owned()) {
            return Ok(());
        }
        let metadata = json!({ "name": name, "labels": { "team": "devops" } });
        create(&api(&self.client, None, "", "Namespace"), json!({ "metadata": metadata })).await?;
        for (kind, needed) in [("ServiceAccount", "default"), ("Secret", "secret")] {
            create(&api(&self.client, Some(name), "", kind), json!({ "metadata": { "name": needed } })).await?;
        }
        Ok(())
    }

    fn bound_in(&self, pods: &Pods) -> usize {
        self.bound.borrow().get(&pods.namespace).copied().unwrap_or_default()
    }

    async fn create_pods(&mut self, pods: &Pods) -> anyhow::Result<()> {
        let template = self.template(&pods.of)?;
        let namespaces: Vec<String> = match pods.over {
            None => vec![pods.namespace.clone()],
            Some(count) => (0..count).map(|number| format!("{}-{number}", pods.namespace)).collect(),
        };
        for namespace in &namespaces {
            self.namespace(namespace).await?;
        }
        let apis: Vec<_> = namespaces.iter().map(|name| api(&self.client, Some(name), "", "Pod")).collect();
        let numbers = &self.expected;
        let first: usize = numbers.values().sum();
        let create = |number: usize| {
            let pod = pod(&template, &format!("{}-{}", pods.of, first + number));
            let api = apis[number % apis.len()].clone();
            async move { create(&api, pod).await }
        };
        at_once(0..pods.count, create).await?;
        for number in 0..pods.count {
            *self.expected.entry(namespaces[number % namespaces.len()].clone()).or_default() += 1;
        }
        if !pods.wait {
            for namespace in &namespaces {
                self.expected.insert(namespace.clone(), 0);
            }
            return Ok(());
        }
        let all = |bound: &BTreeMap<String, usize>| {
            namespaces.iter().all(|name| bound.get(name).copied().unwrap_or_default() >= self.expected[name])
        };
        timeout(LIMIT, self.bound.clone().wait_for(all)).await.context("not all pods were bound")??;
        Ok(())
    }
}

/// Counts the pods that are bound, by namespace.
async fn count_bound(client: Client, counts: watch::Sender<BTreeMap<String, usize>>, shutdown: CancellationToken) {
    let pods = Api::<PartialObjectMeta<Pod>>::all(client);
    let mut events = watcher(pods, watcher::Config::default().fields("spec.nodeName!=")).boxed();
    let mut seen = BTreeSet::new();
    loop {
        let event = tokio::select! { biased;
            () = shutdown.cancelled() => return,
            event = events.next() => event,
        };
        let Some(event) = event else { return };
        if let Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) = event {
            let namespace = pod.namespace().unwrap_or_default();
            if seen.insert((namespace.clone(), pod.name_any())) {
                counts.send_if_modified(|counts| {
                    *counts.entry(namespace).or_default() += 1;
                    true
                });
            }
        }
    }
}

/// Creates a pod again and again.
async fn go_on(client: Client, churn: Churn, template: Value, shutdown: CancellationToken) -> anyhow::Result<()> {
    let pods = api(&client, Some("churn"), "", "Pod");
    let (nodes, services) = (api(&client, None, "", "Node"), api(&client, Some("churn"), "", "Service"));
    let shape = Nodes { count: 1, name: None, pods: usual_pods(), zones: Vec::new(), taint: None };
    for number in 0.. {
        let pause = sleep(Duration::from_millis(churn.every_ms));
        tokio::select! { biased;
            () = shutdown.cancelled() => break,
            () = pause => {}
        }
        let name = format!("churn-{number}");
        create(&pods, pod(&template, &name)).await?;
        let mut made = vec![&pods];
        if churn.with_node_and_service {
            create(&nodes, node(&name, &shape, None)).await?;
            let spec = json!({ "selector": { "app": "churn" }, "ports": [{ "port": 8080 }] });
            create(&services, json!({ "metadata": { "name": name }, "spec": spec })).await?;
            made.extend([&nodes, &services]);
        }
        if churn.recreate {
            for api in made {
                api.delete(&name, &DeleteParams::default()).await?;
            }
        }
    }
    Ok(())
}

/// Deletes pods, one after the other.
async fn remove(pods: Api<DynamicObject>, per_second: u64, shutdown: CancellationToken) -> anyhow::Result<()> {
    let now = DeleteParams::default().grace_period(0);
    for pod in pods.list_metadata(&Default::default()).await? {
        tokio::select! { biased;
            () = shutdown.cancelled() => return Ok(()),
            () = sleep(Duration::from_millis(1000 / per_second.max(1))) => {}
        }
        pods.delete(&pod.name_any(), &now).await?;
    }
    shutdown.cancelled().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_measures_pods_that_there_are() {
        let Workloads { pods, workloads } = serde_yaml_ng::from_str(WORKLOADS).unwrap();
        for workload in workloads {
            let mut measured = 0;
            for step in &workload.steps {
                let of = match step {
                    Step::Pods(step) => {
                        measured += usize::from(step.measure);
                        &step.of
                    }
                    Step::Churn(churn) => &churn.of,
                    Step::Nodes(_) | Step::Delete(_) => continue,
                };
                assert!(pods.contains_key(of), "{}: {of}", workload.name);
            }
            assert_eq!(measured, 1, "{}", workload.name);
        }
    }
}
