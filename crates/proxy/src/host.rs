//! What the host must be told once, so that Service addresses lead anywhere, and who may tell it.

use std::io;
use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Why the host could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A program is not installed.
    #[error("{0} is not installed; on Debian or Ubuntu: apt-get install {1}")]
    Missing(&'static str, &'static str),
    /// A program failed.
    #[error("{program} failed: {message}")]
    Failed {
        /// Which.
        program: &'static str,
        /// What it wrote to its standard error.
        message: String,
    },
    /// A program could not be run.
    #[error(transparent)]
    Io(#[from] io::Error),
}

async fn execute(
    program: &'static str,
    package: &'static str,
    arguments: &[&str],
    input: &str,
) -> Result<(), HostError> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => HostError::Missing(program, package),
            _ => error.into(),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    let output = child.wait_with_output().await?;
    if output.status.success() {
        return Ok(());
    }
    Err(HostError::Failed { program, message: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
}

/// Runs an nftables script, all of it or nothing.
///
/// # Errors
/// If `nft` is missing, may not be used, or refuses the script.
pub async fn nft(script: &str) -> Result<(), HostError> {
    execute("nft", "nftables", &["-f", "-"], script).await
}

/// Whether nftables can be used: installed and allowed.
///
/// # Errors
/// Why not.
pub async fn nft_usable() -> Result<(), HostError> {
    execute("nft", "nftables", &["list", "tables"], "").await?;
    // Listing may be allowed where changing is not.
    nft("add table ip coracle-probe\ndelete table ip coracle-probe\n").await
}

/// Routes the ranges of Service addresses to the pods' bridge, so that the host itself reaches them even without a
/// default route, and lets NodePorts answer on 127.0.0.1.
///
/// # Errors
/// If `ip` is missing or refuses.
pub async fn route(ranges: &[&str], bridge: &str) -> Result<(), HostError> {
    for range in ranges {
        execute("ip", "iproute2", &["route", "replace", range, "dev", bridge], "").await?;
    }
    set_sysctl("net/ipv4/ip_forward", "1");
    set_sysctl(&format!("net/ipv4/conf/{bridge}/route_localnet"), "1");
    set_sysctl("net/ipv4/conf/all/route_localnet", "1");
    Ok(())
}

/// Lets what a Service sends to pods pass Docker's own forward rules, which drop what comes from other networks.
/// Does nothing where Docker has no such rules.
pub async fn pass_docker(bridge: &str) {
    let present = execute("nft", "nftables", &["list", "chain", "ip", "filter", "DOCKER-USER"], "").await.is_ok();
    let comment = format!("coracle {bridge}");
    if !present || has_rule(&comment).await {
        return;
    }
    let rule =
        format!("insert rule ip filter DOCKER-USER oifname \"{bridge}\" ct status dnat accept comment \"{comment}\"\n");
    if let Err(error) = nft(&rule).await {
        tracing::warn!(%error, "clients on other machines cannot reach NodePorts: Docker's rules stand before them");
    }
}

async fn has_rule(comment: &str) -> bool {
    let listing = Command::new("nft").args(["list", "chain", "ip", "filter", "DOCKER-USER"]).output().await;
    listing.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(comment))
}

/// Whether bridged traffic passes netfilter; if not, answers of a pod on the same bridge bypass the translation.
pub fn bridge_passes_netfilter() -> bool {
    std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables").is_ok_and(|value| value.trim() == "1")
}

/// Lets pods reach themselves through a Service: the bridge may send a frame back where it came from.
pub fn allow_hairpin(bridge: &str) {
    let Ok(ports) = std::fs::read_dir(Path::new("/sys/class/net").join(bridge).join("brif")) else { return };
    for port in ports.flatten() {
        let mode = port.path().join("hairpin_mode");
        if std::fs::read_to_string(&mode).is_ok_and(|value| value.trim() == "0") {
            let _ = std::fs::write(&mode, "1");
        }
    }
}

fn set_sysctl(name: &str, value: &str) {
    let path = Path::new("/proc/sys").join(name);
    if std::fs::read_to_string(&path).is_ok_and(|current| current.trim() == value) {
        return;
    }
    if let Err(error) = std::fs::write(&path, value) {
        tracing::warn!(sysctl = name, %error, "not set");
    }
}
