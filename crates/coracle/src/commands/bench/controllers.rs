//! `coracle bench controllers`: a cluster in this process, as `coracle up` makes it, but with nodes that only pretend
//! to run containers. Every request takes the whole way: admission, validation, a store on disk, watches.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use coracle_apiserver::assembly::assemble;
use coracle_apiserver::auth::jwt::TokenKey;
use coracle_apiserver::security::SecurityConfig;
use coracle_apiserver::{ApiServer, UserInfo};
use coracle_clock::{instant, sleep, timeout};
use coracle_kubelet::Kubelet;
use coracle_kubelet::runtime::simulated::{SimulatedConfig, SimulatedRuntime};
use coracle_store::{SledConfig, SledStore, Store};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, PostParams};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{cpu_seconds, resident_bytes};

const NODES: u8 = 100;
const NAMESPACES: [&str; 2] = ["bench-a", "bench-b"];
/// In each namespace.
const DEPLOYMENTS: usize = 500;
const REPLICAS: usize = 10;
/// So many Deployments are being created at a time.
const AT_ONCE: usize = 64;
/// What takes longer has failed.
const LIMIT: Duration = Duration::from_secs(300);
/// How long the cluster may rest after each load, and for how long its idleness is then watched.
const REST: Duration = Duration::from_secs(20);
const IDLE: Duration = Duration::from_secs(60);

/// Runs everything; the figures go to standard output.
pub async fn run() -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("coracle-bench-{}", std::process::id()));
    let outcome = in_folder(&folder).await;
    let _ = std::fs::remove_dir_all(&folder);
    outcome
}

async fn in_folder(folder: &Path) -> anyhow::Result<()> {
    let store = SledStore::open(SledConfig::new(folder.join("store"))).await?;
    let security = SecurityConfig::new(TokenKey::generate()?, "10.96.0.0/12".parse()?);
    let api = assemble(store.clone(), security, (Ipv4Addr::new(10, 244, 0, 1), 6443), None).await?;
    let (shutdown, mut components) = (CancellationToken::new(), JoinSet::new());
    start(&api, folder, &shutdown, &mut components)?;
    let measured = tokio::select! {
        outcome = measure(api.client_as(UserInfo::new("kubernetes-admin", &["kubeadm:cluster-admins"]))) => outcome,
        Some(ended) = components.join_next() => ended?.and_then(|()| bail!("a component ended")),
    };
    shutdown.cancel();
    while components.join_next().await.is_some() {}
    store.close().await?;
    measured
}

fn start(
    api: &Arc<ApiServer>,
    folder: &Path,
    shutdown: &CancellationToken,
    components: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let client = |user: &str, groups: &[&str]| api.client_as(UserInfo::new(user, groups));
    let config = coracle_controller_manager::Config { volume_dir: folder.join("volumes"), ..Default::default() };
    let user = client("system:kube-controller-manager", &[]);
    components.spawn(coracle_controller_manager::run(user, config, shutdown.clone()));
    let user = client("system:kube-scheduler", &[]);
    components.spawn(coracle_scheduler::run(user, coracle_scheduler::Config::default(), shutdown.clone()));
    for number in 1..=NODES {
        let (name, ip) = (format!("node-{number}"), IpAddr::V4(Ipv4Addr::new(10, 244, number, 1)));
        let config = coracle_kubelet::Config {
            on_disk: false,
            ..coracle_kubelet::Config::new(&name, ip, &format!("10.244.{number}.0/24"), PathBuf::from("/simulated"))
        };
        let runtime = Arc::new(SimulatedRuntime::new(SimulatedConfig { cpus: 32, ..Default::default() }));
        let user = client(&format!("system:node:{name}"), &["system:nodes"]);
        components.spawn(Kubelet::with_prober(user, runtime.clone(), runtime, config)?.run(shutdown.clone()));
    }
    Ok(())
}

async fn measure(client: Client) -> anyhow::Result<()> {
    super::super::wait_for_nodes(&client, NODES.into()).await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in NAMESPACES {
        let namespace = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
        namespaces.create(&PostParams::default(), &namespace).await?;
    }
    // The default ServiceAccounts are made by a controller, moments after the namespaces.
    sleep(Duration::from_millis(500)).await;
    idle("before").await?;

    let (count, begin) = (NAMESPACES.len() * DEPLOYMENTS, instant());
    let available = available(watcher(Api::<Deployment>::all(client.clone()), watcher::Config::default()), count);
    let (created, available) = tokio::join!(create(&client), timeout(LIMIT, available));
    let created = created? - begin;
    available.context("not all Deployments became available")??;
    let took = begin.elapsed().as_secs_f64();
    println!(
        "{count} Deployments of {REPLICAS} pods on {NODES} nodes, created to Available: {took:.1} s, {:.0} pods/s \
         (creating the Deployments alone took {:.1} s)",
        (count * REPLICAS) as f64 / took,
        created.as_secs_f64()
    );
    sleep(REST).await;
    idle(&format!("with {} pods", count * REPLICAS)).await?;

    let begin = instant();
    namespaces.delete(NAMESPACES[0], &DeleteParams::default()).await?;
    let gone = async {
        while namespaces.get_opt(NAMESPACES[0]).await?.is_some() {
            sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    timeout(LIMIT, gone).await.context("the namespace is still there")??;
    println!(
        "a namespace of {} pods, deleted until gone: {:.1} s",
        DEPLOYMENTS * REPLICAS,
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Creates every Deployment; when the last was there.
async fn create(client: &Client) -> anyhow::Result<coracle_clock::Instant> {
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {},
        "spec": {
            "replicas": REPLICAS,
            "selector": { "matchLabels": { "app": "" } },
            "template": {
                "metadata": { "labels": { "app": "" } },
                "spec": { "containers": [{
                    "name": "main",
                    "image": "web:1",
                    "ports": [{ "containerPort": 80 }],
                    "resources": { "requests": { "cpu": "10m", "memory": "16Mi" } },
                }] },
            },
        },
    }))?;
    let each = NAMESPACES.iter().flat_map(|namespace| (0..DEPLOYMENTS).map(move |number| (*namespace, number)));
    let create = async |(namespace, number): (&str, usize)| {
        let mut deployment = deployment.clone();
        let name = format!("web-{number}");
        let labels = std::iter::once(("app".to_owned(), name.clone())).collect();
        deployment.metadata.name = Some(name);
        let spec = deployment.spec.get_or_insert_default();
        spec.selector.match_labels = Some(Clone::clone(&labels));
        spec.template.metadata.get_or_insert_default().labels = Some(labels);
        let deployments = Api::<Deployment>::namespaced(client.clone(), namespace);
        deployments.create(&PostParams::default(), &deployment).await.map(drop)
    };
    stream::iter(each).map(create).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    Ok(instant())
}

/// Waits until so many Deployments have all their pods available.
async fn available(
    events: impl Stream<Item = watcher::Result<watcher::Event<Deployment>>>,
    count: usize,
) -> anyhow::Result<()> {
    let (mut events, mut seen) = (std::pin::pin!(events), BTreeSet::new());
    while seen.len() < count {
        let event = events.try_next().await?.context("the watch ended")?;
        let (watcher::Event::Apply(found) | watcher::Event::InitApply(found)) = event else { continue };
        if found.status.as_ref().and_then(|status| status.available_replicas) == Some(REPLICAS as i32) {
            seen.insert((found.namespace(), found.name_any()));
        }
    }
    Ok(())
}

/// What the cluster costs while nothing happens.
async fn idle(when: &str) -> anyhow::Result<()> {
    let pid = std::process::id();
    let before = cpu_seconds(pid).context("cannot read the process's CPU time")?;
    sleep(IDLE).await;
    let used = cpu_seconds(pid).context("cannot read the process's CPU time")? - before;
    let resident = resident_bytes(pid).context("cannot read the process's memory")?;
    println!(
        "idle {when}: {:.2} % of a core, {:.0} MB resident",
        used / IDLE.as_secs_f64() * 100.0,
        resident as f64 / 1e6
    );
    Ok(())
}
