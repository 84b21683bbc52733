//! Installs the engine's packages and starts it, over the remains of one that was killed.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bollard::Docker;
use tokio::process::{Child, Command};

use super::{Answer, EngineError, Findings, ITEM, connect, observe};
use crate::progress::{Progress, Stage};

/// A killed engine first stops the containers it left behind, which can take this long.
const START_TIMEOUT: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(200);
const LOG: &str = "/var/log/coracle-dockerd.log";
const TAIL_BYTES: u64 = 1500;

/// What engines leave when they are killed: the file with the process' number, and whose number that should be.
const PID_FILES: [(&str, &str); 3] = [
    ("/var/run/docker.pid", "dockerd"),
    ("/var/run/docker/containerd/containerd.pid", "containerd"),
    ("/var/run/containerd/containerd.pid", "containerd"),
];

/// Sockets that dockerd dials if they exist, and hangs on if nobody listens.
const SOCKETS: [&str; 2] = ["/var/run/docker/containerd/containerd.sock", "/run/containerd/containerd.sock"];

/// Installs Debian packages; fetches the package index first if that proves necessary.
pub(super) async fn install(packages: &[&str]) -> Result<(), EngineError> {
    let failed = |message: String| EngineError::Install { packages: packages.join(" "), message };
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    if apt_get(&arguments).await.is_ok() {
        return Ok(());
    }
    apt_get(&["update"]).await.map_err(&failed)?;
    apt_get(&arguments).await.map_err(failed)
}

async fn apt_get(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("apt-get")
        .args(["-q", "-o", "DPkg::Lock::Timeout=60", "-o", "Dpkg::Options::=--force-confold"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("NEEDRESTART_SUSPEND", "1")
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(last_bytes(text.trim(), TAIL_BYTES as usize).to_owned())
}

/// Starts the installed engine and waits until it answers.
pub(super) async fn start(findings: &Findings, progress: &dyn Progress) -> Result<Docker, EngineError> {
    progress.report(ITEM, Stage::Start, 0, 0);
    if findings.systemd && systemctl_start().await {
        return wait(findings, None, "journalctl -u docker").await;
    }
    clear_remains().await;
    let child = spawn_dockerd().map_err(|error| EngineError::Start {
        reason: error.to_string(),
        log: LOG.into(),
        tail: String::new(),
    })?;
    wait(findings, Some(child), LOG).await
}

async fn systemctl_start() -> bool {
    let status = Command::new("systemctl").args(["start", "docker"]).stdin(Stdio::null()).output().await;
    status.is_ok_and(|output| output.status.success())
}

/// A dockerd of its own session, so that a Ctrl-C meant for Coracle does not reach it.
fn spawn_dockerd() -> io::Result<Child> {
    let log = File::options().create(true).append(true).open(LOG)?;
    Command::new("setsid")
        .arg("dockerd")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(false)
        .spawn()
}

async fn wait(findings: &Findings, mut child: Option<Child>, log: &str) -> Result<Docker, EngineError> {
    let failed =
        |reason: String| EngineError::Start { reason, log: log.into(), tail: tail(Path::new(log)).unwrap_or_default() };
    let deadline = coracle_clock::instant() + START_TIMEOUT;
    loop {
        if observe::ask(&findings.host).await == Answer::Yes {
            return connect(&findings.host).await;
        }
        if let Some(Ok(Some(status))) = child.as_mut().map(Child::try_wait) {
            return Err(failed(format!("it ended with {status}")));
        }
        if coracle_clock::instant() >= deadline {
            return Err(failed(format!("no answer within {} s", START_TIMEOUT.as_secs())));
        }
        coracle_clock::sleep(POLL).await;
    }
}

fn tail(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

fn last_bytes(text: &str, count: usize) -> &str {
    let mut start = text.len().saturating_sub(count);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

/// Removes what would keep a new dockerd from starting.
async fn clear_remains() {
    for (file, program) in PID_FILES {
        let Ok(text) = fs::read_to_string(file) else { continue };
        let running = text.trim().parse().ok().and_then(program_of);
        if is_stale(running.as_deref(), program) {
            remove(Path::new(file));
        }
    }
    for socket in SOCKETS.map(PathBuf::from) {
        let answer = tokio::net::UnixStream::connect(&socket).await;
        if answer.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            remove(&socket);
        }
    }
}

/// A PID file is stale if its process is gone, or is by now another program's.
fn is_stale(running: Option<&str>, program: &str) -> bool {
    running != Some(program)
}

/// The program that a process runs; `None` if there is no such process, or nothing is left of it but
/// an exit status that nobody fetches (which dockerd would take for life).
fn program_of(pid: u32) -> Option<String> {
    program_in(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// Reads `Name:` and `State:` of a `/proc/<pid>/status`.
fn program_in(status: &str) -> Option<String> {
    let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let dead = value("State:").is_none_or(|state| state.starts_with(['Z', 'X']));
    value("Name:").filter(|_| !dead).map(str::to_owned)
}

fn remove(path: &Path) {
    tracing::info!(path = %path.display(), "removing what a killed Docker engine left behind");
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "could not remove it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_stale_when_its_process_is_gone_or_another_program() {
        assert!(is_stale(None, "dockerd"));
        assert!(is_stale(Some("bash"), "dockerd"));
        assert!(!is_stale(Some("dockerd"), "dockerd"));
    }

    #[test]
    fn a_process_is_known_by_its_program_unless_it_is_dead() {
        let table = [
            ("Name:\tdockerd\nUmask:\t0022\nState:\tS (sleeping)\n", Some("dockerd")),
            ("Name:\tcontainerd\nState:\tZ (zombie)\n", None),
            ("Name:\tcontainerd\nState:\tX (dead)\n", None),
            ("", None),
        ];
        for (status, expected) in table {
            assert_eq!(program_in(status).as_deref(), expected, "{status}");
        }
        assert!(program_of(std::process::id()).is_some());
        assert_eq!(program_of(u32::MAX), None);
    }

    #[test]
    fn the_tail_of_a_text_is_cut_between_characters() {
        assert_eq!(last_bytes("äöü", 3), "ü");
        assert_eq!(last_bytes("ab", 5), "ab");
    }
}
