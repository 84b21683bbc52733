//! `coracle bench scheduler`: the workloads of upstream's `scheduler_perf`, by name, through the whole API: a store on
//! disk, an API server and the scheduler in this process, and nodes that are objects only. Where pods have claims of
//! devices, the controllers that make and give back claims run beside, as in upstream's harness.
//!
//! Measured is what upstream measures: how many of the measured pods were bound per second, on average, from when the
//! first is created. Besides it stands upstream's threshold.

mod plot;
mod steps;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use coracle_apiserver::UserInfo;
use coracle_apiserver::assembly::assemble;
use coracle_apiserver::auth::jwt::TokenKey;
use coracle_apiserver::security::SecurityConfig;
use coracle_store::{SharedStore, SledConfig, SledStore, Store};
use serde::Deserialize;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::Bench;
use steps::Run;

/// The workloads and the pods they are made of.
const WORKLOADS: &str = include_str!("scheduler.yaml");
/// The workload whose cost is drawn over the number of nodes, and those numbers.
const PLOTTED: (&str, [usize; 6]) = ("SchedulingBasic/5000Nodes_10000Pods", [500, 1000, 2000, 5000, 10_000, 15_000]);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Workloads {
    #[serde(flatten)]
    templates: Templates,
    workloads: Vec<Workload>,
}

/// What pods and their volumes look like, by name.
#[derive(Deserialize)]
struct Templates {
    pods: BTreeMap<String, Value>,
    volumes: BTreeMap<String, Value>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Workload {
    /// Upstream's test case and workload.
    name: String,
    /// Pods per second; none for what upstream does not have.
    threshold: Option<f64>,
    #[serde(with = "serde_yaml_ng::with::singleton_map_recursive")]
    steps: Vec<Step>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Step {
    Nodes(Nodes),
    Pods(Pods),
    Claims(Claims),
    Churn(Churn),
    Delete(Delete),
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nodes {
    count: usize,
    /// Of the only one; else they are numbered.
    name: Option<String>,
    /// How many pods one may have, if not 110.
    pods: Option<u32>,
    /// They are of these in turn.
    #[serde(default)]
    zones: Vec<String>,
    /// The key of a taint.
    taint: Option<String>,
    /// The CSI driver on each.
    csi: Option<Csi>,
    /// How many devices each has.
    #[serde(default)]
    devices: usize,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Csi {
    driver: String,
    /// How many volumes it can attach.
    volumes: u32,
    /// The plugin within Kubernetes that it stands in for.
    migrated: Option<String>,
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
    /// Each has a bound volume, which is this one of the file's.
    volume: Option<String>,
    #[serde(default)]
    measure: bool,
    /// For so long they are deleted once they are bound, and created again.
    steady_seconds: Option<f64>,
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

/// Claims that have got a device already, each of a node at random.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    count: usize,
    /// How many devices the nodes have.
    per_node: usize,
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

impl Workload {
    /// The same with so many times the nodes and pods.
    fn scaled(mut self, scale: f64) -> Workload {
        let times = |count: usize| ((count as f64 * scale) as usize).max(1);
        for step in &mut self.steps {
            match step {
                // Rounded up, so that pods never need more than there is.
                Step::Nodes(nodes) => nodes.count = (nodes.count as f64 * scale).ceil() as usize,
                Step::Pods(pods) => {
                    pods.count = times(pods.count);
                    pods.over = pods.over.map(times);
                    pods.steady_seconds = pods.steady_seconds.map(|seconds| seconds * scale);
                }
                Step::Claims(claims) => claims.count = times(claims.count),
                Step::Churn(_) | Step::Delete(_) => {}
            }
        }
        self
    }

    /// The same on so many nodes.
    fn on(mut self, count: usize) -> Workload {
        for step in &mut self.steps {
            if let Step::Nodes(nodes) = step {
                nodes.count = count;
            }
        }
        self
    }

    fn needs_claims(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Nodes(Nodes { devices: 1.., .. })))
    }
}

/// How many pods were bound, in what time, and the process's memory then.
#[derive(Clone, Copy, Debug)]
struct Measured {
    pods: usize,
    took: Duration,
    resident: u64,
}

/// Runs the workloads whose names contain one of those wanted, or all; the figures go to standard output.
pub async fn run(options: &Bench) -> anyhow::Result<()> {
    let Workloads { templates, mut workloads } = serde_yaml_ng::from_str(WORKLOADS)?;
    let (templates, wanted) = (Arc::new(templates), &options.names);
    if let Some(file) = &options.plot {
        let workload = workloads.into_iter().find(|workload| workload.name == PLOTTED.0);
        return cost_over_nodes(&workload.context("there is nothing to plot")?, &templates, options.scale, file).await;
    }
    workloads.retain(|workload| wanted.is_empty() || wanted.iter().any(|part| workload.name.contains(part)));
    if workloads.is_empty() {
        bail!("no workload is called {wanted:?}");
    }
    let scale = if options.scale == 1.0 { String::new() } else { format!(" (at {} of its size)", options.scale) };
    for workload in workloads {
        let (name, threshold) = (workload.name.clone(), workload.threshold);
        let Measured { pods, took, resident } = on_disk(&workload.scaled(options.scale), &templates).await?;
        let rate = pods as f64 / took.as_secs_f64();
        let beside = threshold.map(|threshold| format!(", {:.1} times the threshold of {threshold}", rate / threshold));
        let resident = resident as f64 / 1e6;
        println!("{name}{scale}: {rate:.0} pods/s{}; {resident:.0} MB resident", beside.unwrap_or_default());
    }
    Ok(())
}

/// What a pod costs on more and more nodes, as lines and as a plot.
async fn cost_over_nodes(
    workload: &Workload,
    templates: &Arc<Templates>,
    scale: f64,
    file: &Path,
) -> anyhow::Result<()> {
    let mut costs = Vec::new();
    for nodes in PLOTTED.1 {
        let workload = workload.clone().on(nodes).scaled(scale);
        let nodes = (nodes as f64 * scale).ceil() as usize;
        let Measured { pods, took, .. } = on_disk(&workload, templates).await?;
        let cost = took.as_secs_f64() * 1e6 / pods as f64;
        println!("{nodes} nodes: {cost:.0} µs per pod, over {pods} pods");
        costs.push((nodes as f64, cost));
    }
    std::fs::write(file, plot::svg(&costs)).with_context(|| file.display().to_string())
}

/// Runs a workload on a new store on disk.
async fn on_disk(workload: &Workload, templates: &Arc<Templates>) -> anyhow::Result<Measured> {
    let folder = std::env::temp_dir().join(format!("coracle-bench-{}", std::process::id()));
    let outcome = async {
        let store = SledStore::open(SledConfig::new(folder.join("store"))).await?;
        let measured = on_store(store.clone(), workload, templates).await?;
        store.close().await?;
        anyhow::Ok(measured)
    };
    let outcome = outcome.await;
    let _ = std::fs::remove_dir_all(&folder);
    outcome.with_context(|| workload.name.clone())
}

async fn on_store(store: SharedStore, workload: &Workload, templates: &Arc<Templates>) -> anyhow::Result<Measured> {
    let security = SecurityConfig::new(TokenKey::generate()?, "10.96.0.0/12".parse()?);
    let api = assemble(store, security, (Ipv4Addr::new(10, 244, 0, 1), 6443), None).await?;
    let (shutdown, mut components) = (CancellationToken::new(), JoinSet::new());
    let user = api.client_as(UserInfo::new("system:kube-scheduler", &[]));
    components.spawn(coracle_scheduler::run(user, coracle_scheduler::Config::default(), shutdown.clone()));
    if workload.needs_claims() {
        let user = api.client_as(UserInfo::new("system:kube-controller-manager", &[]));
        let controllers = ["resourceclaim-controller", "garbage-collector-controller"].map(String::from).into();
        let config = coracle_controller_manager::Config { controllers, ..Default::default() };
        components.spawn(coracle_controller_manager::run(user, config, shutdown.clone()));
    }
    let mut run = Run::new(&api, templates.clone(), shutdown.clone());
    let measured = tokio::select! {
        outcome = run.measure(&workload.steps) => outcome,
        Some(ended) = components.join_next() => ended?.and_then(|()| bail!("a component ended")),
    };
    shutdown.cancel();
    run.end().await?;
    while components.join_next().await.is_some() {}
    measured
}

#[cfg(test)]
mod tests {
    use coracle_store::MemoryStore;

    use super::*;

    /// The whole table, each workload at a thousandth or so of its size.
    #[tokio::test]
    async fn every_workload_binds_all_pods_that_it_measures() {
        let Workloads { templates, workloads } = serde_yaml_ng::from_str(WORKLOADS).unwrap();
        let templates = Arc::new(templates);
        for workload in workloads {
            let workload = workload.scaled(0.002);
            let measured = workload.steps.iter().filter_map(|step| match step {
                Step::Pods(pods) if pods.measure => Some(pods),
                _ => None,
            });
            let [wanted] = measured.collect::<Vec<_>>()[..] else { panic!("{} measures not once", workload.name) };
            let bound = on_store(MemoryStore::new(), &workload, &templates).await;
            let bound = bound.unwrap_or_else(|error| panic!("{}: {error:#}", workload.name)).pods;
            match wanted.steady_seconds {
                None => assert_eq!(bound, wanted.count, "{}", workload.name),
                Some(_) => assert!(bound > 0, "{}", workload.name),
            }
        }
    }
}
