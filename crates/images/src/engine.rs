//! Makes sure that a Docker engine answers.
//!
//! [`ensure_engine`] looks at the host (`observe`), decides what to do about it ([`decide`], a pure
//! function from [`Findings`] to [`Plan`]) and does it (`start`). Where Coracle may not or cannot
//! help itself, the error says what is missing and what to type.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::Docker;

use crate::progress::{Progress, Stage};

mod decide;
mod observe;
mod start;

pub use decide::{Answer, Findings, Plan, System, decide};
pub(crate) use observe::installed;

/// The engine's name in reports.
const ITEM: &str = "docker";

/// Docker's usual socket.
pub(crate) const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// How long one attempt to talk to the engine may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why no Docker engine answers, and what to type about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// `DOCKER_HOST` names an engine that does not answer; nobody else's is taken in its place.
    #[error(
        "DOCKER_HOST is {host}, but no Docker engine answers there ({reason}); start it, or type: unset DOCKER_HOST"
    )]
    DockerHost {
        /// The variable's value.
        host: String,
        /// What happened instead of an answer.
        reason: String,
    },
    /// The socket is there, but not for this user.
    #[error(
        "Docker runs, but user {user} may not use {socket}; type: sudo usermod -aG docker {user} && newgrp docker \
         (or run Coracle with sudo)"
    )]
    Permission {
        /// Who we are.
        user: String,
        /// The engine's socket.
        socket: PathBuf,
    },
    /// It is installed but does not run, and starting it takes root.
    #[error("Docker is installed but does not run, and starting it takes root; type: {command}")]
    NotRunning {
        /// What starts it here.
        command: String,
    },
    /// It is not installed, and we are not the ones to install it.
    #[error("no Docker engine answers, and {missing}; type: {command}")]
    NotInstalled {
        /// What is missing.
        missing: String,
        /// What installs and starts it here.
        command: String,
    },
    /// Installing failed.
    #[error("installing {packages} failed: {message}")]
    Install {
        /// The packages.
        packages: String,
        /// The end of what apt-get said.
        message: String,
    },
    /// It was started but does not answer.
    #[error("dockerd does not come up ({reason}); its last words, from {log}:\n{tail}")]
    Start {
        /// It ended, or did not answer in time.
        reason: String,
        /// Where its log is.
        log: String,
        /// The end of the log.
        tail: String,
    },
    /// It answers, but not as a Docker engine would.
    #[error("the Docker engine at {host} answers strangely: {reason}")]
    Strange {
        /// Where.
        host: String,
        /// How.
        reason: String,
    },
}

/// Connects to a Docker engine, having installed and started one first where that is ours to do.
///
/// The engine is that of `DOCKER_HOST`, else the one at a usual socket. On Debian and Ubuntu with root
/// the packages `docker.io`, and `nftables` and `iproute2` for Services, are installed if they are missing.
pub async fn ensure_engine(progress: &dyn Progress) -> Result<Docker, EngineError> {
    progress.report(ITEM, Stage::Look, 0, 0);
    let findings = observe::observe().await;
    tracing::debug!(?findings, "looked for a Docker engine");
    let docker = match decide(&findings) {
        Plan::Use { packages } => {
            if !packages.is_empty() {
                progress.report(ITEM, Stage::Install, 0, 0);
                // The engine works without them; only Services do not.
                if let Err(error) = start::install(&packages).await {
                    progress.warn(ITEM, &error.to_string());
                }
            }
            connect(&findings.host).await?
        }
        Plan::Start => start::start(&findings, progress).await?,
        Plan::InstallAndStart { packages } => {
            progress.report(ITEM, Stage::Install, 0, 0);
            start::install(&packages).await?;
            // The package may have started it, and may have brought systemd's units.
            let findings = observe::observe().await;
            match findings.answer {
                Answer::Yes => connect(&findings.host).await?,
                _ => start::start(&findings, progress).await?,
            }
        }
        Plan::GiveUp(error) => return Err(error),
    };
    progress.report(ITEM, Stage::Done, 0, 0);
    Ok(docker)
}

/// Connects to the engine there is, without installing or starting anything.
///
/// The connection speaks the newest API version that both sides know.
pub async fn connect_engine() -> Result<Docker, EngineError> {
    let findings = observe::observe().await;
    match decide(&findings) {
        Plan::Use { .. } => connect(&findings.host).await,
        Plan::GiveUp(error) => Err(error),
        Plan::Start | Plan::InstallAndStart { .. } => {
            Err(EngineError::NotRunning { command: start_command(&findings).into() })
        }
    }
}

async fn connect(host: &str) -> Result<Docker, EngineError> {
    let strange = |reason: String| EngineError::Strange { host: host.to_owned(), reason };
    let docker = Docker::connect_with_host(host).map_err(|error| strange(error.to_string()))?;
    match coracle_clock::timeout(ANSWER_TIMEOUT, docker.negotiate_version()).await {
        Ok(Ok(docker)) => Ok(docker),
        Ok(Err(error)) => Err(strange(error.to_string())),
        Err(_) => Err(strange(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))),
    }
}

/// What starts an installed engine.
fn start_command(findings: &Findings) -> &'static str {
    if findings.systemd { "sudo systemctl start docker" } else { "sudo dockerd" }
}

/// The path of a `unix://` address.
pub(crate) fn socket_path(host: &str) -> Option<&Path> {
    host.strip_prefix("unix://").map(Path::new)
}
