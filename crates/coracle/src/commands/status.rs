//! `coracle status`.

use std::path::PathBuf;

use anyhow::bail;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, ResourceExt};

use crate::cli::StoreFlags;
use crate::commands::{client, is_ready};
use crate::data_dir::DataDir;

pub async fn run(data_dir: Option<PathBuf>, store: &StoreFlags) -> anyhow::Result<()> {
    let dir = DataDir::new(data_dir)?;
    let Some(config) = dir.config()? else {
        bail!("there is no cluster in {}; `coracle up` makes one", dir.path().display());
    };
    let Some(pid) = dir.running() else {
        bail!("the cluster in {} does not run; `coracle up` starts it", dir.path().display());
    };
    println!("process     {pid}, {} resident", resident(pid));
    println!("server      {}", config.server_url());
    println!("data        {}", dir.path().display());
    println!("kubeconfig  {}", dir.kubeconfig().display());
    if let Some(oldest) = crate::store::oldest(store, &dir).await {
        println!("history     from revision {oldest} on");
    }
    let client = client(&dir).await?;
    let nodes = Api::<Node>::all(client.clone()).list(&Default::default()).await?;
    for node in &nodes {
        println!("node        {} {}", node.name_any(), if is_ready(node) { "Ready" } else { "NotReady" });
    }
    let pods = Api::<Pod>::all(client).list(&Default::default()).await?;
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
    let running = pods.iter().filter(|pod| phase(pod) == "Running").count();
    println!("pods        {running} of {} running", pods.items.len());
    Ok(())
}

/// A process's resident memory, for people.
fn resident(pid: u32) -> String {
    match crate::commands::bench::resident_bytes(pid) {
        Some(bytes) => format!("{:.1} MB", bytes as f64 / 1e6),
        None => "unknown".into(),
    }
}
