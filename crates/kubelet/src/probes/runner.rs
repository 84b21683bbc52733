//! The task that probes one container.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Probe};

use super::{Check, Outcome, ProbeKind, ProbeState, Prober, check_of, seconds};
use crate::verdicts::Verdict;

/// The container instance to probe.
#[derive(Clone, Debug)]
pub struct ProbeTarget {
    /// The container's definition.
    pub container: Container,
    /// The runtime's id.
    pub container_id: String,
    /// The pod's address.
    pub ip: IpAddr,
    /// When the container was started.
    pub started_at: Timestamp,
}

/// Whom a probe's findings concern.
pub trait ProbeReport: Send + Sync + 'static {
    /// A verdict has changed.
    fn verdict(&self, container_id: &str, verdict: Verdict);
    /// A try has failed or could not be made; the text is that of an `Unhealthy` event.
    fn unhealthy(&self, container: &str, message: String);
}

/// Probes a container until it is dropped: its startup probe first, then its liveness and readiness probes side by
/// side. A failed startup or liveness probe is the end: the container will be restarted and probed as another one.
pub async fn run_probes(target: ProbeTarget, prober: Arc<dyn Prober>, report: Arc<dyn ProbeReport>) {
    let shared = std::sync::Mutex::new(Verdict::default());
    let update = |change: &dyn Fn(&mut Verdict)| {
        let mut verdict = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = *verdict;
        change(&mut verdict);
        if *verdict != before {
            report.verdict(&target.container_id, *verdict);
        }
    };
    if let Some(probe) = &target.container.startup_probe {
        let mut round = Round::new(ProbeKind::Startup, probe, &target, &*prober, &*report);
        round.initial_delay().await;
        let started = round.until(|_| true).await;
        update(&|verdict| verdict.startup = Some(started));
        if !started {
            return;
        }
    }
    let liveness = async {
        let Some(probe) = &target.container.liveness_probe else { return };
        let mut round = Round::new(ProbeKind::Liveness, probe, &target, &*prober, &*report);
        round.initial_delay().await;
        round.until(|alive| !alive).await;
        update(&|verdict| verdict.liveness = Some(false));
    };
    let readiness = async {
        let Some(probe) = &target.container.readiness_probe else { return };
        let mut round = Round::new(ProbeKind::Readiness, probe, &target, &*prober, &*report);
        round.initial_delay().await;
        loop {
            let ready = round.until(|_| true).await;
            update(&|verdict| verdict.readiness = Some(ready));
            round.wait().await;
        }
    };
    futures::future::join(liveness, readiness).await;
}

/// The tries of one probe.
struct Round<'a> {
    kind: ProbeKind,
    probe: &'a Probe,
    target: &'a ProbeTarget,
    prober: &'a dyn Prober,
    report: &'a dyn ProbeReport,
    state: ProbeState,
}

impl<'a> Round<'a> {
    fn new(
        kind: ProbeKind,
        probe: &'a Probe,
        target: &'a ProbeTarget,
        prober: &'a dyn Prober,
        report: &'a dyn ProbeReport,
    ) -> Round<'a> {
        Round { kind, probe, target, prober, report, state: ProbeState::new(probe) }
    }

    /// `initialDelaySeconds` count from the container's start, which may be long ago for an adopted one.
    async fn initial_delay(&self) {
        let delay = i64::from(self.probe.initial_delay_seconds.unwrap_or(0));
        let running_for = coracle_clock::now().duration_since(self.target.started_at).as_secs();
        if let Ok(rest) = u64::try_from(delay - running_for) {
            coracle_clock::sleep(std::time::Duration::from_secs(rest)).await;
        }
    }

    async fn wait(&self) {
        coracle_clock::sleep(seconds(self.probe.period_seconds, 10)).await;
    }

    /// Tries until there is a verdict that is `enough`.
    async fn until(&mut self, enough: impl Fn(bool) -> bool) -> bool {
        loop {
            if let Some(verdict) = self.attempt().await.and_then(|success| self.state.count(success))
                && enough(verdict)
            {
                return verdict;
            }
            self.wait().await;
        }
    }

    /// One try; `None` says nothing of the container.
    async fn attempt(&self) -> Option<bool> {
        let timeout = seconds(self.probe.timeout_seconds, 1);
        let outcome = match check_of(self.probe, &self.target.container, self.target.ip) {
            Ok(check) => self.make(&check, timeout).await,
            Err(why) => Outcome::Unknown(why),
        };
        let kind = self.kind.as_str();
        let name = &self.target.container.name;
        match outcome {
            Outcome::Success => Some(true),
            Outcome::Failure(why) => {
                self.report.unhealthy(name, format!("{kind} probe failed: {why}"));
                Some(false)
            }
            Outcome::Unknown(why) => {
                self.report.unhealthy(name, format!("{kind} probe errored and resulted in unknown state: {why}"));
                None
            }
        }
    }

    async fn make(&self, check: &Check, timeout: std::time::Duration) -> Outcome {
        self.prober.probe(&self.target.container_id, check, timeout).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use async_trait::async_trait;
    use serde_json::{Value, from_value, json};

    use super::*;

    /// Answers by the time since the test began.
    struct Timed(Box<dyn Fn(u64) -> bool + Send + Sync>, coracle_clock::Instant);

    #[async_trait]
    impl Prober for Timed {
        async fn probe(&self, _: &str, _: &Check, _: Duration) -> Outcome {
            let at = self.1.elapsed().as_secs();
            if self.0(at) { Outcome::Success } else { Outcome::Failure(format!("at {at}")) }
        }
    }

    struct Log(Mutex<Vec<(u64, Verdict)>>, Mutex<Vec<String>>, coracle_clock::Instant);

    impl ProbeReport for Log {
        fn verdict(&self, _: &str, verdict: Verdict) {
            self.0.lock().unwrap().push((self.2.elapsed().as_secs(), verdict));
        }
        fn unhealthy(&self, _: &str, message: String) {
            self.1.lock().unwrap().push(message);
        }
    }

    async fn watch(container: Value, answers: impl Fn(u64) -> bool + Send + Sync + 'static, seconds: u64) -> Arc<Log> {
        let begin = coracle_clock::instant();
        let target = ProbeTarget {
            container: from_value(container).unwrap(),
            container_id: "c".into(),
            ip: "127.0.0.1".parse().unwrap(),
            started_at: coracle_clock::now(),
        };
        let log = Arc::new(Log(Mutex::default(), Mutex::default(), begin));
        let running = run_probes(target, Arc::new(Timed(Box::new(answers), begin)), log.clone());
        let _ = coracle_clock::timeout(Duration::from_secs(seconds), running).await;
        log
    }

    #[tokio::test(start_paused = true)]
    async fn a_readiness_probe_follows_the_container_up_and_down() {
        let _world = coracle_clock::Simulation::start(1);
        let probe = json!({ "exec": { "command": ["true"] }, "periodSeconds": 5, "failureThreshold": 2, "initialDelaySeconds": 3 });
        let log = watch(json!({ "name": "a", "readinessProbe": probe }), |at| at < 20, 60).await;
        let seen: Vec<_> = log.0.lock().unwrap().iter().map(|(at, v)| (*at, v.readiness)).collect();
        assert_eq!(seen, [(3, Some(true)), (28, Some(false))]);
        assert_eq!(log.1.lock().unwrap()[0], "Readiness probe failed: at 23");
    }

    #[tokio::test(start_paused = true)]
    async fn a_startup_probe_holds_the_others_back() {
        let _world = coracle_clock::Simulation::start(1);
        let exec = json!({ "command": ["true"] });
        let container = json!({ "name": "a",
            "startupProbe": { "exec": exec, "periodSeconds": 10, "failureThreshold": 30 },
            "livenessProbe": { "exec": exec, "periodSeconds": 1, "failureThreshold": 1 } });
        let log = watch(container, |at| (25..50).contains(&at), 100).await;
        let seen: Vec<_> = log.0.lock().unwrap().iter().map(|(at, v)| (*at, v.startup, v.liveness)).collect();
        assert_eq!(seen, [(30, Some(true), None), (50, Some(true), Some(false))]);
    }
}
