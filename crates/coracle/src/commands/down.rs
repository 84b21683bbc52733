//! `coracle down`: stop the cluster and its containers; with `--purge`, forget it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};

use crate::cli::Down;
use crate::cluster::{remove_network, teardown};
use crate::data_dir::DataDir;

/// How long the cluster may take to stop: its containers have 30 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

pub async fn run(data_dir: Option<PathBuf>, options: Down) -> anyhow::Result<()> {
    let dir = DataDir::new(data_dir)?;
    let Some(config) = dir.config()? else {
        if options.purge && dir.join("lock").exists() {
            return purge(&dir);
        }
        println!("There is no cluster in {}.", dir.path().display());
        return Ok(());
    };
    match dir.running() {
        Some(pid) => stop(&dir, pid).await?,
        // Killed earlier, perhaps: its containers may run on.
        None => {
            if let Err(error) = teardown(&config).await {
                eprintln!("warning: containers, if any, were left alone: {error}");
            }
        }
    }
    if options.purge {
        if let Err(error) = remove_network(&config).await {
            eprintln!("warning: the network {} was left alone: {error}", config.network());
        }
        purge(&dir)
    } else {
        println!(
            "The cluster is stopped. Its state is in {}; `coracle up` resumes it, `coracle down --purge` removes it.",
            dir.path().display()
        );
        Ok(())
    }
}

/// Asks the cluster's process to stop, and waits for it.
pub async fn stop(dir: &DataDir, pid: u32) -> anyhow::Result<()> {
    let target = i32::try_from(pid).ok().and_then(Pid::from_raw).context("the lock names no process")?;
    rustix::process::kill_process(target, Signal::TERM).with_context(|| format!("cannot stop process {pid}"))?;
    let deadline = coracle_clock::instant() + STOP_TIMEOUT;
    while dir.running() == Some(pid) {
        if coracle_clock::instant() > deadline {
            bail!("process {pid} does not stop; see `coracle logs`");
        }
        coracle_clock::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn purge(dir: &DataDir) -> anyhow::Result<()> {
    // Held while removing, so that nobody starts a cluster in the ruins.
    let _lock = dir.lock()?;
    std::fs::remove_dir_all(dir.path()).with_context(|| format!("cannot remove {}", dir.path().display()))?;
    println!("Removed {}.", dir.path().display());
    Ok(())
}
