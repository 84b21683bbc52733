//! Probes: is a container started, alive, ready?
//!
//! Each probe of each running container is a task that tries, waits a period, and tries again ([`run_probes`]).
//! [`ProbeState`] decides when tries become a verdict; [`Prober`] is how a try is made, so that simulated containers
//! can be probed too. The pod worker is told of new verdicts and acts on them.

mod grpc;
pub mod http;
mod network;
mod runner;

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub use network::NetworkProber;
pub use runner::{ProbeReport, ProbeTarget, run_probes};

/// What one try found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered as it should.
    Success,
    /// It did not; the text says how.
    Failure(String),
    /// The try itself went wrong, which says nothing of the container.
    Unknown(String),
}

/// The kinds of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Holds the others back until the container is up.
    Startup,
    /// Restarts the container when it fails.
    Liveness,
    /// Takes the pod out of Services while it fails.
    Readiness,
}

impl ProbeKind {
    /// As messages name it.
    pub fn as_str(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }

    /// The probe of this kind that a container has.
    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            ProbeKind::Startup => container.startup_probe.as_ref(),
            ProbeKind::Liveness => container.liveness_probe.as_ref(),
            ProbeKind::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// A connection to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A command inside the container must end with 0.
    Exec(Vec<String>),
    /// A request must be answered with a status from 200 to 399.
    Http(HttpRequest),
    /// A TCP connection must be accepted.
    Tcp {
        /// The host, usually the pod's address.
        host: String,
        /// The port.
        port: u16,
    },
    /// The gRPC health service must answer `SERVING`.
    Grpc {
        /// The host, usually the pod's address.
        host: String,
        /// The port.
        port: u16,
        /// The service asked for.
        service: String,
    },
}

/// An HTTP request of a probe or a lifecycle hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// Whether over TLS (the certificate is not verified).
    pub tls: bool,
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The path with its query.
    pub path: String,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// The `User-Agent` unless `headers` has one.
    pub user_agent: String,
}

/// Makes one try.
#[async_trait]
pub trait Prober: Send + Sync + 'static {
    /// Tries `check` on a container, within `timeout`.
    async fn probe(&self, container_id: &str, check: &Check, timeout: Duration) -> Outcome;
}

/// What a probe tries on a container of the pod at `ip`.
///
/// # Errors
/// A named port does not exist, or the probe has no action.
pub fn check_of(probe: &Probe, container: &Container, ip: IpAddr) -> Result<Check, String> {
    if let Some(exec) = &probe.exec {
        return Ok(Check::Exec(exec.command.clone().unwrap_or_default()));
    }
    if let Some(get) = &probe.http_get {
        return http_request(get, container, ip, "kube-probe/1.36").map(Check::Http);
    }
    if let Some(tcp) = &probe.tcp_socket {
        let host = tcp.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| ip.to_string());
        return Ok(Check::Tcp { host, port: resolve_port(&tcp.port, container)? });
    }
    if let Some(grpc) = &probe.grpc {
        let port = u16::try_from(grpc.port).map_err(|_| format!("invalid port number: {}", grpc.port))?;
        return Ok(Check::Grpc { host: ip.to_string(), port, service: grpc.service.clone().unwrap_or_default() });
    }
    Err(format!("missing probe handler for container {}", container.name))
}

/// The request of an `httpGet` action.
///
/// # Errors
/// A named port does not exist.
pub fn http_request(
    get: &HTTPGetAction,
    container: &Container,
    ip: IpAddr,
    user_agent: &str,
) -> Result<HttpRequest, String> {
    let path = get.path.clone().unwrap_or_default();
    Ok(HttpRequest {
        tls: get.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
        host: get.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| ip.to_string()),
        port: resolve_port(&get.port, container)?,
        path: if path.starts_with('/') { path } else { format!("/{path}") },
        headers: get.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
        user_agent: user_agent.to_owned(),
    })
}

/// A port by number or by the container's name for it.
fn resolve_port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_ref() == Some(name));
            named.map(|p| p.container_port).or_else(|| name.parse().ok())
        }
    };
    let number = number.ok_or_else(|| format!("couldn't find port: {port:?}"))?;
    u16::try_from(number).ok().filter(|n| *n > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

/// How tries become a verdict: so many of the same in a row.
#[derive(Clone, Debug)]
pub struct ProbeState {
    success_threshold: i32,
    failure_threshold: i32,
    last: Option<bool>,
    run: i32,
}

impl ProbeState {
    /// The state before the first try.
    pub fn new(probe: &Probe) -> ProbeState {
        ProbeState {
            success_threshold: probe.success_threshold.unwrap_or(1).max(1),
            failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
            last: None,
            run: 0,
        }
    }

    /// Counts a try; `Some` is the verdict, as soon as the threshold is reached.
    pub fn count(&mut self, success: bool) -> Option<bool> {
        self.run = if self.last == Some(success) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let threshold = if success { self.success_threshold } else { self.failure_threshold };
        (self.run >= threshold).then_some(success)
    }
}

/// A number of seconds of a probe's field, at least one.
fn seconds(field: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(field.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0).unwrap_or(default))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn a_verdict_needs_its_threshold_in_a_row() {
        let probe = from_value(json!({ "failureThreshold": 3, "successThreshold": 2 })).unwrap();
        let mut state = ProbeState::new(&probe);
        let tries = [false, false, true, false, false, false, false, true, true];
        let verdicts: Vec<_> = tries.map(|success| state.count(success)).into();
        assert_eq!(verdicts, [None, None, None, None, None, Some(false), Some(false), None, Some(true)]);
    }

    #[test]
    fn a_check_finds_its_port_by_name() {
        let container =
            from_value(json!({ "name": "a", "ports": [{ "name": "web", "containerPort": 8080 }] })).unwrap();
        let ip = "10.244.1.2".parse().unwrap();
        let check = |probe| check_of(&from_value(probe).unwrap(), &container, ip);
        assert_eq!(
            check(json!({ "tcpSocket": { "port": "web" } })),
            Ok(Check::Tcp { host: "10.244.1.2".into(), port: 8080 })
        );
        let Ok(Check::Http(request)) = check(json!({ "httpGet": { "port": 80, "path": "healthz" } })) else { panic!() };
        assert_eq!((request.path.as_str(), request.port, request.tls), ("/healthz", 80, false));
        assert!(check(json!({ "httpGet": { "port": "nope" } })).is_err());
        assert!(check(json!({})).is_err());
    }

    proptest! {
        #[test]
        fn a_verdict_agrees_with_the_latest_tries(tries in proptest::collection::vec(any::<bool>(), 1..40), threshold in 1..5) {
            let probe = from_value(json!({ "failureThreshold": threshold, "successThreshold": threshold })).unwrap();
            let mut state = ProbeState::new(&probe);
            for (index, success) in tries.iter().enumerate() {
                let verdict = state.count(*success);
                let run = tries[..=index].iter().rev().take_while(|t| *t == success).count();
                prop_assert_eq!(verdict, (run >= threshold as usize).then_some(*success));
            }
        }
    }
}
