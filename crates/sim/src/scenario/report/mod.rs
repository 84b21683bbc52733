//! What is left of a run: for programs ([JSON](Report)), for terminals ([`Report::text`]) and for people
//! ([`Report::html`]).

mod html;
mod svg;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use coracle_kubelet::runtime::simulated::Span;
use serde::Serialize;

use super::check::Scenario;
use super::expect::Verdict;
use super::view::{Disruption, HpaStep, Line, PodView, View, quantile};

/// In which states pods are counted, and how they are called.
pub(crate) const PHASES: [&str; 7] = ["ready", "starting", "not ready", "pending", "ending", "succeeded", "failed"];

/// A run.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The scenario's name.
    pub name: String,
    /// What to look for.
    pub description: String,
    /// From which number all chance followed.
    pub seed: u64,
    /// SHA-256 of the whole history: the same for the same scenario and seed.
    pub history_hash: String,
    /// How long it took, in the cluster's time.
    pub duration: Span,
    /// What became of the expectations.
    pub verdicts: Vec<Verdict>,
    /// What was waited for at the end.
    pub waits: Vec<String>,
    /// How long pods were pending, in seconds.
    pub pending: Pending,
    /// Pods that were taken away.
    pub disruptions: Vec<Disruption>,
    /// Containers that ended and were started again.
    pub restarts: u64,
    /// Autoscalers' steps.
    pub hpa_steps: Vec<HpaStep>,
    /// USD for all nodes.
    pub cost_usd: f64,
    /// Requests by Service.
    pub requests: Vec<Requests>,
    /// What was at regular moments.
    pub samples: Vec<Sample>,
    /// What happened.
    pub story: Vec<Line>,
}

/// From pods' creation until their containers ran (or until the end), in seconds.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Pending {
    pub pods: usize,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
    /// How many waited less than 1, 2, 5, 10, 20, 40, … seconds, each without those before.
    pub histogram: Vec<(f64, usize)>,
}

/// Requests to a Service.
#[derive(Clone, Debug, Serialize)]
pub struct Requests {
    /// The Service.
    pub service: String,
    /// All.
    pub total: f64,
    /// Those that were answered.
    pub answered: f64,
}

/// What was at a moment.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// When.
    pub at: Span,
    /// Pods by [`PHASES`].
    pub pods: [usize; 7],
    /// Nodes that are ready.
    pub nodes_ready: usize,
    /// All nodes.
    pub nodes: usize,
    /// Processors: what ready nodes offer, what pods on them request, what is used.
    pub cpu: [f64; 3],
    /// The same of memory, in GiB.
    pub memory_gib: [f64; 3],
    /// Requests per second, and how many are answered.
    pub requests: [f64; 2],
    /// USD per hour, and in total so far.
    pub cost_usd: [f64; 2],
    /// Ready pods by their owners: `deployment/web`, in its namespace.
    pub ready: BTreeMap<String, usize>,
}

fn phase(pod: &PodView) -> usize {
    match (pod.phase.as_str(), pod.deleting, pod.ready, &pod.node) {
        ("Succeeded", ..) => 5,
        ("Failed", ..) => 6,
        (_, true, ..) => 4,
        ("Running", _, true, _) => 0,
        ("Running", ..) => 2,
        (.., Some(_)) => 1,
        _ => 3,
    }
}

const GIB: f64 = (1_u64 << 30) as f64;

impl Sample {
    /// What a view shows at a moment; `used` are processor thousandths and bytes.
    pub(super) fn take(view: &View, at: Duration, used: (f64, f64), rate: f64) -> Sample {
        let mut sample = Sample { at: Span(at), cost_usd: [rate, view.cost], ..Sample::default() };
        for node in view.nodes.values().filter(|node| node.ready) {
            sample.nodes_ready += 1;
            sample.cpu[0] += node.cpu_milli / 1000.0;
            sample.memory_gib[0] += node.memory / GIB;
        }
        sample.nodes = view.nodes.len();
        for pod in view.pods.values() {
            let phase = phase(pod);
            sample.pods[phase] += 1;
            if pod.node.is_some() && phase < 5 {
                sample.cpu[1] += pod.cpu_milli / 1000.0;
                sample.memory_gib[1] += pod.memory / GIB;
            }
            if !pod.owner.starts_with("pod/") {
                let owner = match pod.namespace.as_str() {
                    "default" => pod.owner.clone(),
                    namespace => format!("{namespace}: {}", pod.owner),
                };
                *sample.ready.entry(owner).or_default() += usize::from(phase == 0);
            }
        }
        (sample.cpu[2], sample.memory_gib[2]) = (used.0 / 1000.0, used.1 / GIB);
        for served in view.served.values() {
            sample.requests[0] += served.rate;
            sample.requests[1] += served.answered;
        }
        sample
    }
}

impl Report {
    pub(super) fn new(
        scenario: &Scenario,
        history_hash: String,
        mut view: View,
        samples: Vec<Sample>,
        waits: Vec<String>,
    ) -> Report {
        let end = scenario.duration();
        let trackers = std::mem::take(&mut view.trackers);
        let verdict = |tracker: super::expect::Tracker| {
            let measure = view.measure(&tracker.expectation, true);
            tracker.finish(end, measure)
        };
        let verdicts = trackers.into_iter().map(verdict).collect();
        let still = view.pods.values().filter(|pod| matches!(pod.phase.as_str(), "" | "Pending"));
        let still = still.map(|pod| end.saturating_sub(pod.created).as_secs_f64());
        let pending = Pending::of(view.waited.iter().copied().chain(still).collect());
        let requests = view.served.iter().map(|(service, served)| Requests {
            service: service.to_string(),
            total: served.total,
            answered: served.total_answered,
        });
        Report {
            name: scenario.name.clone(),
            description: scenario.spec.description.clone(),
            seed: scenario.spec.seed,
            history_hash,
            duration: *scenario.spec.duration,
            verdicts,
            waits,
            pending,
            requests: requests.collect(),
            disruptions: view.disruptions,
            restarts: view.restarts,
            hpa_steps: view.hpa_steps,
            cost_usd: view.cost,
            samples,
            story: view.story,
        }
    }

    /// Whether all expectations were met.
    pub fn met(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.met)
    }

    /// For a terminal: what was expected and what was seen, and what the run was like.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let width = self.verdicts.iter().map(|verdict| verdict.expectation.chars().count()).max().unwrap_or_default();
        for Verdict { expectation, met, seen, breaches } in &self.verdicts {
            let sign = if *met { "met    " } else { "NOT MET" };
            let _ = writeln!(text, "{sign}  {expectation:<width$}  {seen}");
            for breach in breaches.iter().filter(|_| !met).take(5) {
                let _ = writeln!(text, "           from {} to {}: {}", breach.from, breach.to, breach.measured);
            }
        }
        let Pending { pods, p50, p99, max, .. } = self.pending;
        let _ = writeln!(
            text,
            "pods       {pods} started; pending {p50:.1} s at the median, {p99:.1} s at p99, {max:.1} s at most"
        );
        let _ = writeln!(text, "disrupted  {} pods; {} restarts of containers", self.disruptions.len(), self.restarts);
        for Requests { service, total, answered } in &self.requests {
            let share = if *total > 0.0 { answered / total * 100.0 } else { 100.0 };
            let _ = writeln!(text, "requests   {service}: {answered:.0} of {total:.0} answered ({share:.2} %)");
        }
        let _ = writeln!(text, "cost       {:.2} USD in {}", self.cost_usd, self.duration);
        for wait in &self.waits {
            let _ = writeln!(text, "waits      {wait}");
        }
        let _ = writeln!(text, "history    {} (seed {})", self.history_hash, self.seed);
        text
    }

    /// For a browser: one page that needs nothing else.
    pub fn html(&self) -> String {
        html::page(self)
    }
}

impl Pending {
    fn of(mut seconds: Vec<f64>) -> Pending {
        let mut at = |share| quantile(&mut seconds, share).unwrap_or_default();
        let (p50, p90, p99, max) = (at(0.5), at(0.9), at(0.99), at(1.0));
        let (mut histogram, mut below, mut limit) = (Vec::new(), 0, 1.0);
        for step in [2.0, 2.5, 2.0].into_iter().cycle() {
            let until = seconds.iter().filter(|wait| **wait < limit).count();
            histogram.push((limit, until - below));
            below = until;
            if until == seconds.len() {
                break;
            }
            limit *= step;
        }
        Pending { pods: seconds.len(), p50, p90, p99, max, histogram }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_counted_in_steps() {
        let pending = Pending::of(vec![0.5, 0.7, 3.0, 15.0]);
        assert_eq!(pending.histogram, [(1.0, 2), (2.0, 0), (5.0, 1), (10.0, 0), (20.0, 1)]);
        assert_eq!((pending.p50, pending.max, pending.pods), (0.7, 15.0, 4));
        assert_eq!(Pending::of(Vec::new()).histogram, [(1.0, 0)]);
    }
}
