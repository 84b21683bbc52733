//! Lifecycle hooks: what to run right after a container's start and right before its stop.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::probes::{Check, Outcome, Prober, http_request};
use crate::runtime::Runtime;
use crate::text::go_duration;

/// A hook's HTTP request has no limit of its own; the grace period usually ends first.
const HTTP_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a hook on a container of the pod at `ip`.
///
/// # Errors
/// What went wrong, for the log and the status of the container.
pub async fn run_hook(
    runtime: &dyn Runtime,
    prober: &dyn Prober,
    container: &Container,
    container_id: &str,
    handler: &LifecycleHandler,
    ip: IpAddr,
) -> Result<(), String> {
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        let output = runtime.exec_sync(container_id, &command, None).await.map_err(|error| error.to_string())?;
        if output.exit_code == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let code = output.exit_code;
        return Err(format!("command '{}' exited with {code}: {text}, message: {text:?}", command.join(" ")));
    }
    if let Some(get) = &handler.http_get {
        let request = http_request(get, container, ip, "kube-lifecycle/1.36")?;
        return match prober.probe(container_id, &Check::Http(request), HTTP_TIMEOUT).await {
            Outcome::Success => Ok(()),
            Outcome::Failure(why) | Outcome::Unknown(why) => Err(why),
        };
    }
    if let Some(sleep) = &handler.sleep {
        let duration = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
        tracing::debug!(container = container.name, "lifecycle hook sleeps {}", go_duration(duration));
        coracle_clock::sleep(duration).await;
        return Ok(());
    }
    Err("invalid handler: must specify one of exec, httpGet, sleep".into())
}
