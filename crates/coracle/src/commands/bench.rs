//! `coracle bench`: figures, printed as they are, beside something real in the same run.

mod api;
mod controllers;
mod grpc;
mod scheduler;
mod simulate;
mod store;
mod wire;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions};
use coracle_images::{PAUSE_IMAGE, Policy, Silent, ensure_engine, ensure_images, ensure_pause};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client};
use serde_json::json;

use crate::cli::{Bench, BenchKind, ClusterShape, Down, StoreFlags};
use crate::commands::{client, down, up};
use crate::data_dir::DataDir;
use crate::progress::Display;

/// How many pods are started at once.
const BATCH: usize = 20;
/// How long an idle cluster is watched.
const IDLE: Duration = Duration::from_secs(20);

pub async fn run(options: Bench) -> anyhow::Result<()> {
    if let BenchKind::Api = options.what {
        return api::run(options.kubeconfig, options.output).await;
    }
    if let BenchKind::Store = options.what {
        return store::run(&options.names, options.output).await;
    }
    if let BenchKind::Controllers = options.what {
        return controllers::run().await;
    }
    if let BenchKind::Scheduler = options.what {
        return scheduler::run(&options).await;
    }
    if let BenchKind::Simulate = options.what {
        return simulate::run(options).await;
    }
    let docker = ensure_engine(&Display::new()).await?;
    ensure_pause(&docker).await?;
    let folder = std::env::temp_dir().join(format!("coracle-bench-{}", std::process::id()));
    let dir = DataDir::new(Some(folder.clone()))?;
    let outcome = match options.what {
        BenchKind::Startup => startup(&dir, options.runs).await,
        BenchKind::Pods => pods(&dir, &docker, options.runs).await,
        BenchKind::Memory => memory(&dir).await,
        BenchKind::Api | BenchKind::Store | BenchKind::Controllers | BenchKind::Scheduler | BenchKind::Simulate => {
            Ok(())
        }
    };
    if folder.exists() {
        down::run(Some(folder), Down { purge: true }).await?;
    }
    outcome
}

fn shape() -> anyhow::Result<ClusterShape> {
    // Any free port: a cluster of the user may have the usual one.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let etcd_listen = SocketAddr::from(([127, 0, 0, 1], 0));
    Ok(ClusterShape {
        nodes: Some(2),
        port: Some(port),
        etcd_listen,
        etcd_compaction_interval: None,
        store: StoreFlags::default(),
    })
}

/// Median, lowest and highest, in milliseconds.
fn summary(mut times: Vec<Duration>) -> String {
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    match (times.get(times.len() / 2), times.first(), times.last()) {
        (Some(median), Some(low), Some(high)) => format!("{:.0} ms ({:.0} to {:.0})", ms(*median), ms(*low), ms(*high)),
        _ => "nothing measured".into(),
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

async fn startup(dir: &DataDir, runs: usize) -> anyhow::Result<()> {
    let (mut empty, mut existing) = (Vec::new(), Vec::new());
    let shape = shape()?;
    for _ in 0..runs {
        for times in [&mut empty, &mut existing] {
            let start = coracle_clock::instant();
            let pid = up::start_in_background(dir, &shape).await?;
            times.push(start.elapsed());
            down::stop(dir, pid).await?;
        }
        down::run(Some(dir.path().to_owned()), Down { purge: true }).await?;
    }
    println!("empty data directory to ready API server and 2 ready nodes: {}", summary(empty));
    println!("the same on existing data:                                   {}", summary(existing));
    Ok(())
}

const BUSYBOX: &str = "busybox:1.37";

async fn pods(dir: &DataDir, docker: &Docker, runs: usize) -> anyhow::Result<()> {
    dir.create()?;
    ensure_images(docker, &[BUSYBOX], Policy::PullOrBuild, &dir.join("images"), std::sync::Arc::new(Silent)).await?;
    up::start_in_background(dir, &shape()?).await?;
    let client = client(dir).await?;
    // The default ServiceAccount is made by a controller, moments after the namespace.
    coracle_clock::sleep(Duration::from_millis(500)).await;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for run in 0..runs {
        theirs.push(in_docker(docker, &format!("one-{run}")).await?);
        ours.push(as_pod(&client, &format!("one-{run}")).await?);
    }
    println!("one pod, create to Running:               {}", summary(ours.clone()));
    println!("docker run of pause and of its container: {}", summary(theirs.clone()));
    println!("ratio: {:.2}", median(ours).as_secs_f64() / median(theirs).as_secs_f64());

    let start = coracle_clock::instant();
    let names: Vec<_> = (0..BATCH).map(|number| format!("many-{number}")).collect();
    try_join_all(names.iter().map(|name| in_docker(docker, name))).await?;
    let docker_rate = BATCH as f64 / start.elapsed().as_secs_f64();
    let start = coracle_clock::instant();
    let names: Vec<_> = (0..BATCH).map(|number| format!("many-pods-{number}")).collect();
    try_join_all(names.iter().map(|name| as_pod(&client, name))).await?;
    let pod_rate = BATCH as f64 / start.elapsed().as_secs_f64();
    println!(
        "{BATCH} at once: {pod_rate:.2} pods/s; Docker alone {docker_rate:.2}/s; ratio {:.2}",
        pod_rate / docker_rate
    );
    Ok(())
}

/// A pause container and a container in its namespaces: what a pod is to Docker.
async fn in_docker(docker: &Docker, name: &str) -> anyhow::Result<Duration> {
    let names = [format!("coracle-bench-{name}-pause"), format!("coracle-bench-{name}")];
    let start = coracle_clock::instant();
    let pause = ContainerCreateBody { image: Some(PAUSE_IMAGE.into()), ..Default::default() };
    create_and_start(docker, &names[0], pause).await?;
    let main = ContainerCreateBody {
        image: Some(BUSYBOX.into()),
        cmd: Some(vec!["sleep".into(), "3600".into()]),
        host_config: Some(HostConfig { network_mode: Some(format!("container:{}", names[0])), ..Default::default() }),
        ..Default::default()
    };
    create_and_start(docker, &names[1], main).await?;
    let took = start.elapsed();
    for name in names {
        let options = RemoveContainerOptionsBuilder::new().force(true).build();
        docker.remove_container(&name, Some(options)).await?;
    }
    Ok(took)
}

async fn create_and_start(docker: &Docker, name: &str, body: ContainerCreateBody) -> anyhow::Result<()> {
    let options = CreateContainerOptionsBuilder::new().name(name).build();
    docker.create_container(Some(options), body).await?;
    docker.start_container(name, None::<StartContainerOptions>).await?;
    Ok(())
}

async fn as_pod(client: &Client, name: &str) -> anyhow::Result<Duration> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "main", "image": BUSYBOX, "command": ["sleep", "3600"] }],
        },
    }))?;
    let start = coracle_clock::instant();
    pods.create(&PostParams::default(), &pod).await?;
    let running = await_condition(pods.clone(), name, conditions::is_pod_running());
    coracle_clock::timeout(Duration::from_secs(120), running).await.context("the pod does not run")??;
    let took = start.elapsed();
    pods.delete(name, &DeleteParams::default().grace_period(0)).await?;
    Ok(took)
}

async fn memory(dir: &DataDir) -> anyhow::Result<()> {
    let pid = up::start_in_background(dir, &shape()?).await?;
    coracle_clock::sleep(Duration::from_secs(5)).await;
    let before = cpu_seconds(pid).context("cannot read the process's CPU time")?;
    coracle_clock::sleep(IDLE).await;
    let after = cpu_seconds(pid).context("the cluster ended")?;
    let resident = resident_bytes(pid).context("the cluster ended")?;
    println!("idle cluster with 2 nodes: {:.1} MB resident", resident as f64 / 1e6);
    println!("CPU: {:.2} % of one core over {} s", (after - before) / IDLE.as_secs_f64() * 100.0, IDLE.as_secs());
    Ok(())
}

/// A process's resident memory.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The CPU time a process has used.
fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command, in parentheses, may hold spaces; the times are fields 14 and 15.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
