//! `coracle up`: the cluster in this process, or in one of its own in the background.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use coracle_images::ensure_engine;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{ClusterShape, Up};
use crate::cluster::Cluster;
use crate::commands::{client, wait_for_nodes};
use crate::data_dir::DataDir;
use crate::progress::Display;

/// How long a cluster in the background may take until its nodes are ready.
const START_TIMEOUT: Duration = Duration::from_secs(60);

pub async fn run(data_dir: Option<PathBuf>, options: Up) -> anyhow::Result<()> {
    let dir = DataDir::new(data_dir)?;
    let display = Display::new();
    if options.detach {
        ensure_engine(&display).await?;
        let pid = start_in_background(&dir, &options.cluster).await?;
        println!("The cluster runs (process {pid}).\n\n  export KUBECONFIG={}", dir.kubeconfig().display());
        return Ok(());
    }
    let docker = ensure_engine(&display).await?;
    drop(display);
    let started = coracle_clock::instant();
    // Asked for before the start, so that a signal during it is not lost.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let cluster = Cluster::start(&dir, docker, &options.cluster).await?;
    tracing::info!(
        server = cluster.config.server_url(),
        kubeconfig = %dir.kubeconfig().display(),
        "API server ready after {} ms", started.elapsed().as_millis()
    );
    let admin = cluster.admin();
    let nodes = cluster.config.nodes;
    let ready = async {
        wait_for_nodes(&admin, nodes.into()).await;
        tracing::info!("{nodes} nodes ready after {} ms", started.elapsed().as_millis());
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = ready => {}
    }
    tracing::info!("stopping; interrupt again to leave the containers running");
    tokio::select! {
        result = cluster.stop_all() => result,
        _ = interrupt.recv() => Ok(()),
    }
}

/// Starts a cluster in a process of its own and waits until its nodes are ready. Returns its process id; that of the
/// one that runs already, if one does.
pub async fn start_in_background(dir: &DataDir, shape: &ClusterShape) -> anyhow::Result<u32> {
    if let Some(pid) = dir.running() {
        return Ok(pid);
    }
    dir.create()?;
    let mut child = spawn(dir, shape)?;
    let pid = child.id().context("the cluster ended at once")?;
    tokio::select! {
        status = child.wait() => {
            let status = status?;
            bail!("the cluster did not start ({status}):\n{}", last_lines(dir, 12));
        }
        ready = coracle_clock::timeout(START_TIMEOUT, until_ready(dir)) => match ready {
            Ok(()) => Ok(pid),
            Err(_) => bail!("the cluster's nodes are not ready after {START_TIMEOUT:?}; see `coracle logs`"),
        },
    }
}

fn spawn(dir: &DataDir, shape: &ClusterShape) -> anyhow::Result<Child> {
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(dir.log())?;
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.arg("--data-dir").arg(dir.path()).arg("up");
    command.arg("--etcd-listen").arg(shape.etcd_listen.to_string()).args(shape.store.arguments());
    if let Some(age) = shape.etcd_compaction_interval {
        command.arg("--etcd-compaction-interval").arg(format!("{}ms", age.as_millis()));
    }
    if let Some(nodes) = shape.nodes {
        command.arg("--nodes").arg(nodes.to_string());
    }
    if let Some(port) = shape.port {
        command.arg("--port").arg(port.to_string());
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).current_dir("/");
    // A process group of its own: Ctrl-C in this terminal is not meant for it.
    command.process_group(0);
    Command::from(command).spawn().context("cannot start the cluster's process")
}

async fn until_ready(dir: &DataDir) {
    loop {
        let attempt = async {
            let config = dir.config()?.context("no configuration yet")?;
            let client = client(dir).await?;
            // The version tells that the server answers with the certificates of this data directory.
            client.apiserver_version().await?;
            anyhow::Ok((client, config.nodes))
        };
        if dir.running().is_some()
            && let Ok((client, nodes)) = attempt.await
        {
            return wait_for_nodes(&client, nodes.into()).await;
        }
        coracle_clock::sleep(Duration::from_millis(20)).await;
    }
}

/// The end of the log, for an error message.
fn last_lines(dir: &DataDir, count: usize) -> String {
    let text = std::fs::read_to_string(dir.log()).unwrap_or_default();
    let lines: Arc<[&str]> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
