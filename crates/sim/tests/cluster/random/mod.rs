//! Anything may happen in any order: seeds choose what, and afterwards all is as it should be, as it was at every
//! [revision](invariants) on the way.

mod invariants;

use std::collections::BTreeSet;
use std::time::Duration;

use coracle_clock::{random_below, random_u64};
use coracle_kubelet::runtime::{ContainerFilter, ContainerState, Runtime};
use coracle_sim::{Cluster, Component, Delay};
use serde_json::{Value, json};

use crate::support::*;
use invariants::{INVARIANTS, steps};

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// `CORACLE_SIM_SEED` alone, or so many as `CORACLE_SIM_SEEDS` says from `CORACLE_SIM_FROM` on.
fn seeds() -> Vec<u64> {
    let first = env("CORACLE_SIM_FROM").unwrap_or(1);
    env("CORACLE_SIM_SEED")
        .map_or_else(|| (first..first + env("CORACLE_SIM_SEEDS").unwrap_or(4)).collect(), |s| vec![s])
}

fn job(name: &str) -> Value {
    let mut pod = one_container("busybox:1", &["sleep", "7"]);
    pod["restartPolicy"] = json!("Never");
    json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
            "spec": { "completions": 4, "parallelism": 2, "backoffLimit": 50, "template": { "spec": pod } } })
}

async fn begin(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.create(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } })).await?;
    cluster.settle().await;
    cluster.create(deployment("web", 3, "nginx:1")).await?;
    let careful = json!({ "replicas": 4, "strategy": { "rollingUpdate": { "maxSurge": 2, "maxUnavailable": 0 } } });
    cluster.create(workload("Deployment", "api", "nginx:1", careful)).await?;
    let mut shop = deployment("shop", 2, "nginx:1");
    shop["metadata"]["namespace"] = json!("shop");
    cluster.create(shop).await?;
    cluster.create(workload("StatefulSet", "db", "mysql:1", json!({ "replicas": 2 }))).await?;
    cluster.create(workload("DaemonSet", "log", "fluentd:1", json!({}))).await?;
    cluster.create(job("work")).await?;
    let template = json!({ "spec": job("")["spec"] });
    let tick = json!({ "schedule": "* * * * *", "concurrencyPolicy": "Forbid", "jobTemplate": template });
    let meta = json!({ "name": "tick" });
    cluster.create(json!({ "apiVersion": "batch/v1", "kind": "CronJob", "metadata": meta, "spec": tick })).await?;
    let budget = json!({ "maxUnavailable": 1, "selector": { "matchLabels": { "app": "web" } } });
    let meta = json!({ "name": "web" });
    cluster
        .create(json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta, "spec": budget }))
        .await?;
    Ok(())
}

const ROLLED: [(&str, &str); 4] =
    [("deployments", "web"), ("deployments", "api"), ("statefulsets", "db"), ("daemonsets", "log")];

fn pick<T: Clone>(of: &[T]) -> T {
    of[random_below(of.len())].clone()
}

/// Somebody does something to the workloads. What is refused (it is gone, the server is away) is refused.
async fn act(cluster: &Cluster) {
    let (resource, app) = pick(&ROLLED);
    let scaled = pick(&ROLLED[..3]);
    let patch = async |resource: &str, name: &str, spec: Value| {
        drop(cluster.patch(resource, name, json!({ "spec": spec })).await);
    };
    match random_below(11) {
        0..=2 => {
            patch(resource, app, json!({ "template": pod_template(app, &format!("new:{}", random_below(3))) })).await
        }
        3 | 4 => patch(scaled.0, scaled.1, json!({ "replicas": random_below(6) })).await,
        5 => patch("deployments", "web", json!({ "paused": random_below(2) == 0 })).await,
        6 => drop(cluster.create(job(&format!("work-{}", random_below(5)))).await),
        7 => drop(cluster.delete("jobs", &format!("work-{}", random_below(5))).await),
        8 => drop(cluster.delete("namespaces", "shop").await),
        9 => {
            let Ok(pods) = cluster.list("pods", Some("default")).await else { return };
            if !pods.is_empty() {
                drop(cluster.delete("pods", &name(&pick(&pods))).await);
            }
        }
        _ => drop(drain(cluster, &pick(&cluster.nodes())).await),
    }
}

async fn drain(cluster: &Cluster, node: &str) -> anyhow::Result<()> {
    cluster.patch("nodes", node, json!({ "spec": { "unschedulable": true } })).await?;
    for pod in cluster.list("pods", Some("default")).await? {
        if pod["spec"]["nodeName"] == node && pod["metadata"]["ownerReferences"][0]["kind"] != "DaemonSet" {
            let meta = json!({ "name": name(&pod) });
            let eviction = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta });
            let path = format!("/api/v1/namespaces/default/pods/{}/eviction", name(&pod));
            let request = http::Request::post(path).header("content-type", "application/json");
            drop(cluster.client().request_text(request.body(serde_json::to_vec(&eviction)?)?).await);
        }
    }
    Ok(())
}

/// Something goes wrong.
async fn fail(cluster: &mut Cluster) -> anyhow::Result<()> {
    let victim = pick(&cluster.components());
    let late = seconds(1 + random_u64() % 15);
    match random_below(9) {
        0 => cluster.crash(&victim),
        1 | 2 => cluster.crash_after(&victim, 1 + random_u64() % 20),
        3 => cluster.crash_before(&victim, 1 + random_u64() % 20),
        4 => cluster.partition(&victim),
        5 => cluster.delay_watch(&victim, &["*"], pick(&[Delay::Late(late), Delay::Merged(late), Delay::Lost(late)])),
        6 if victim != Component::ApiServer => cluster.lag(&victim, late).await?,
        7 => cluster.power_off(&pick(&cluster.nodes())),
        _ => {
            let (node, pod) = (pick(&cluster.nodes()), pick(&["db-0", "db-1"]));
            cluster.machine(&node).crash("default", pod, "main", 1);
        }
    }
    Ok(())
}

async fn mend(cluster: &mut Cluster, only_some: bool) -> anyhow::Result<()> {
    for component in cluster.components() {
        if only_some && random_below(3) > 0 {
            continue;
        }
        cluster.heal(&component);
        cluster.crash_after(&component, 0);
        cluster.crash_before(&component, 0);
        if !cluster.is_running(&component) {
            cluster.restart(&component).await?;
        }
    }
    Ok(())
}

/// No two containers of one StatefulSet pod run at once.
async fn identities(cluster: &Cluster) -> anyhow::Result<()> {
    let mut seen = BTreeSet::new();
    let running = ContainerFilter { state: Some(ContainerState::Running), ..Default::default() };
    for node in cluster.nodes() {
        for container in cluster.machine(&node).list_containers(&running).await? {
            let pod = container.pod.name;
            if pod.starts_with("db-") && !seen.insert(pod.clone()) {
                anyhow::bail!("{pod} runs twice");
            }
        }
    }
    Ok(())
}

async fn pass(cluster: &Cluster, time: Duration) -> anyhow::Result<()> {
    let until = coracle_clock::instant() + time;
    while coracle_clock::instant() < until {
        cluster.advance(Duration::from_millis(500)).await;
        identities(cluster).await?;
    }
    Ok(())
}

/// Every workload is as its spec says.
async fn converged(cluster: &Cluster) -> anyhow::Result<()> {
    let is = |object: &Value, pairs: &[(&str, &Value)]| {
        let zero = json!(0);
        let status = |field: &str| {
            if object["status"][field].is_null() { zero.clone() } else { object["status"][field].clone() }
        };
        let wrong = pairs.iter().find(|(field, wanted)| status(field) != **wanted);
        wrong.map_or(Ok(()), |(field, wanted)| {
            Err(anyhow::anyhow!("{} {}: {field} is not {wanted}: {:#}", object["kind"], name(object), object["status"]))
        })
    };
    for resource in ["deployments", "statefulsets"] {
        for object in cluster.list(resource, None).await? {
            let (replicas, generation) = (&object["spec"]["replicas"], &object["metadata"]["generation"]);
            is(
                &object,
                &[
                    ("replicas", replicas),
                    ("updatedReplicas", replicas),
                    ("availableReplicas", replicas),
                    ("observedGeneration", generation),
                ],
            )?;
        }
    }
    let nodes = json!(cluster.nodes().len());
    for object in cluster.list("daemonsets", None).await? {
        is(&object, &[("numberAvailable", &nodes), ("updatedNumberScheduled", &nodes)])?;
    }
    for object in cluster.list("jobs", None).await? {
        is(&object, &[("succeeded", &object["spec"]["completions"]), ("active", &json!(0))])?;
    }
    for pod in cluster.list("pods", None).await? {
        anyhow::ensure!(pod["metadata"]["deletionTimestamp"].is_null(), "{} is still going", name(&pod));
    }
    Ok(())
}

fn play_seed(seed: u64) -> anyhow::Result<()> {
    Cluster::builder().seed(seed).nodes(3).without_metrics().run(async |cluster| {
        begin(cluster).await?;
        for _ in 0..14 {
            pass(cluster, Duration::from_millis(random_u64() % 20_000)).await?;
            match random_below(3) {
                0 => fail(cluster).await?,
                1 => act(cluster).await,
                _ => mend(cluster, true).await?,
            }
        }
        mend(cluster, false).await?;
        cluster.advance(seconds(20)).await;
        for node in cluster.nodes() {
            cluster.patch("nodes", &node, json!({ "spec": { "unschedulable": null } })).await?;
        }
        cluster.patch("deployments", "web", json!({ "spec": { "paused": false } })).await?;
        cluster.patch("cronjobs", "tick", json!({ "spec": { "suspend": true } })).await?;
        pass(cluster, seconds(900)).await?;
        let history = steps(cluster);
        for (name, holds) in INVARIANTS {
            holds(&history).map_err(|why| anyhow::anyhow!("{name}: {why}"))?;
        }
        converged(cluster).await
    })
}

#[test]
fn whatever_happens_all_is_well_in_the_end_and_no_invariant_breaks_on_the_way() {
    let seeds = std::sync::Mutex::new(seeds().into_iter());
    let next = || seeds.lock().expect("nobody panics with the seeds").next();
    let failures: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            std::iter::from_fn(next)
                .filter_map(|seed| {
                    let played = std::panic::catch_unwind(|| play_seed(seed));
                    let why = match played {
                        Ok(Ok(())) => return None,
                        Ok(Err(why)) => format!("{why:#}"),
                        Err(_) => "panicked".into(),
                    };
                    Some(format!("{why}\n  CORACLE_SIM_SEED={seed} cargo test -p coracle-sim --test cluster random"))
                })
                .collect::<Vec<_>>()
        };
        let workers = [scope.spawn(work), scope.spawn(work)];
        workers.into_iter().flat_map(|worker| worker.join().expect("it catches panics")).collect()
    });
    assert!(failures.is_empty(), "{} seeds fail:\n\n{}", failures.len(), failures.join("\n\n"));
}
