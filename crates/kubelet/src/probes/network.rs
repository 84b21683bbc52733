//! Probes of real containers: commands through the runtime, requests through the network.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coracle_client::transport::dial_error;
use tokio::net::TcpStream;

use super::{Check, Outcome, Prober, grpc, http};
use crate::runtime::{Runtime, RuntimeError};

/// No more of a command's output goes into a message than this.
const OUTPUT_MAX: usize = 10 * 1024;

/// Probes through a runtime and the host's network.
pub struct NetworkProber {
    runtime: Arc<dyn Runtime>,
}

impl NetworkProber {
    /// A prober whose commands run in `runtime`.
    pub fn new(runtime: Arc<dyn Runtime>) -> NetworkProber {
        NetworkProber { runtime }
    }

    async fn exec(&self, container_id: &str, command: &[String], timeout: Duration) -> Outcome {
        match self.runtime.exec_sync(container_id, command, Some(timeout)).await {
            Ok(output) if output.exit_code == 0 => Outcome::Success,
            Ok(output) => {
                let mut text = output.stdout;
                text.extend(output.stderr);
                text.truncate(OUTPUT_MAX);
                Outcome::Failure(String::from_utf8_lossy(&text).into_owned())
            }
            Err(RuntimeError::Timeout(_)) => {
                let words = command.join(" ");
                Outcome::Failure(format!(
                    "command timed out: {words:?} timed out after {}",
                    crate::text::go_duration(timeout)
                ))
            }
            Err(error) => Outcome::Unknown(error.to_string()),
        }
    }
}

#[async_trait]
impl Prober for NetworkProber {
    async fn probe(&self, container_id: &str, check: &Check, timeout: Duration) -> Outcome {
        match check {
            Check::Exec(command) => self.exec(container_id, command, timeout).await,
            Check::Http(request) => http::get(request, timeout).await,
            Check::Tcp { host, port } => {
                let address = format!("{host}:{port}");
                match coracle_clock::timeout(timeout, TcpStream::connect(&address)).await {
                    Ok(Ok(_)) => Outcome::Success,
                    Ok(Err(error)) => Outcome::Failure(dial_error(&address, &error)),
                    Err(_) => Outcome::Failure(format!("dial tcp {address}: i/o timeout")),
                }
            }
            Check::Grpc { host, port, service } => {
                match coracle_clock::timeout(timeout, grpc::check(host, *port, service)).await {
                    Ok(outcome) => outcome,
                    Err(_) => Outcome::Failure(format!(
                        "timeout: health rpc did not complete within {}",
                        crate::text::go_duration(timeout)
                    )),
                }
            }
        }
    }
}
