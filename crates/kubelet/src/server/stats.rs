//! `/stats/summary` and `/metrics/resource`: what pods use, for people and for metrics-server.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::runtime::{ContainerStats, PodRef};

/// Samples nearer than this to the one before make no rate.
const RATE_PERIOD: jiff::SignedDuration = jiff::SignedDuration::from_secs(1);

/// What the samples of one moment are compared with. Nothing is sampled unless somebody asks.
#[derive(Debug, Default)]
pub struct Meter(Mutex<Metered>);

#[derive(Debug, Default)]
struct Metered {
    /// By the containers' ids.
    containers: BTreeMap<String, Seen>,
    /// The processor time of all containers there ever were, so that it grows when one goes.
    node_nanos: u64,
}

#[derive(Debug)]
struct Seen {
    at: Timestamp,
    nanos: u64,
    rate: Option<u64>,
    counted: u64,
}

impl Meter {
    /// Fills in the rates, and tells the node's processor time.
    pub fn read(&self, stats: &mut [ContainerStats]) -> u64 {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Metered { containers, node_nanos } = &mut *guard;
        containers.retain(|id, _| stats.iter().any(|stats| stats.id == *id));
        for stats in stats {
            let (at, nanos) = (stats.at, stats.cpu_usage_nanos);
            let seen = containers.entry(stats.id.clone()).or_insert(Seen { at, nanos, rate: None, counted: 0 });
            *node_nanos += nanos.saturating_sub(seen.counted);
            seen.counted = nanos;
            let period = at.duration_since(seen.at);
            if period >= RATE_PERIOD {
                let rate = nanos.saturating_sub(seen.nanos) as f64 / period.as_secs_f64();
                *seen = Seen { at, nanos, rate: Some(rate as u64), counted: nanos };
            }
            stats.cpu_nano_cores = seen.rate;
        }
        *node_nanos
    }
}

/// When a container of one of the pods was started.
fn started(pods: &[Pod], stats: &ContainerStats) -> Option<Timestamp> {
    let status = pods.iter().find(|pod| pod.metadata.uid.as_ref() == Some(&stats.pod.uid))?.status.as_ref()?;
    let all = [&status.container_statuses, &status.init_container_statuses];
    let mut all = all.into_iter().flatten().flatten();
    let running = all.find(|known| known.name == stats.name)?.state.as_ref()?.running.as_ref()?;
    running.started_at.as_ref().map(|time| time.0)
}

/// The node's summary (`stats.k8s.io/v1alpha1`), as far as the runtime knows.
pub fn summary(node: &str, pods: &[Pod], stats: &[ContainerStats], node_nanos: u64) -> Value {
    let of_pods: Vec<Value> = by_pod(stats)
        .into_iter()
        .map(|(pod, stats)| {
            let known = pods.iter().find(|known| known.metadata.uid.as_ref() == Some(&pod.uid));
            let since = known.and_then(|pod| pod.status.as_ref()?.start_time.as_ref()).map(|time| json!(time));
            json!({
                "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
                "startTime": since,
                "containers": stats.iter().map(|stats| container(pods, stats)).collect::<Vec<_>>(),
                "cpu": usage_of_cpu(&stats),
                "memory": usage_of_memory(&stats),
            })
        })
        .collect();
    let all: Vec<&ContainerStats> = stats.iter().collect();
    let mut cpu = usage_of_cpu(&all);
    cpu["usageCoreNanoSeconds"] = node_nanos.into();
    json!({"node": {"nodeName": node, "cpu": cpu, "memory": usage_of_memory(&all)}, "pods": of_pods})
}

fn by_pod(stats: &[ContainerStats]) -> BTreeMap<&PodRef, Vec<&ContainerStats>> {
    let mut pods: BTreeMap<&PodRef, Vec<&ContainerStats>> = BTreeMap::new();
    for stats in stats {
        pods.entry(&stats.pod).or_default().push(stats);
    }
    pods
}

fn container(pods: &[Pod], stats: &ContainerStats) -> Value {
    let since = started(pods, stats).map(|at| at.to_string());
    json!({"name": stats.name, "startTime": since, "cpu": usage_of_cpu(&[stats]), "memory": usage_of_memory(&[stats])})
}

fn usage_of_cpu(stats: &[&ContainerStats]) -> Value {
    let mut usage = json!({
        "time": latest(stats),
        "usageCoreNanoSeconds": stats.iter().map(|stats| stats.cpu_usage_nanos).sum::<u64>(),
    });
    // Those too new for a rate do not count in a sum.
    if let Some(rate) = stats.iter().filter_map(|stats| stats.cpu_nano_cores).reduce(|a, b| a + b) {
        usage["usageNanoCores"] = rate.into();
    }
    usage
}

fn usage_of_memory(stats: &[&ContainerStats]) -> Value {
    let sum = |field: fn(&ContainerStats) -> u64| stats.iter().map(|stats| field(stats)).sum::<u64>();
    json!({
        "time": latest(stats),
        "usageBytes": sum(|stats| stats.memory_usage_bytes),
        "workingSetBytes": sum(|stats| stats.memory_working_set_bytes),
        "rssBytes": sum(|stats| stats.memory_rss_bytes),
        "pageFaults": sum(|stats| stats.page_faults),
        "majorPageFaults": sum(|stats| stats.major_page_faults),
    })
}

fn latest(stats: &[&ContainerStats]) -> Value {
    let at = stats.iter().map(|stats| stats.at).max().unwrap_or_else(coracle_clock::now);
    json!(Timestamp::from_second(at.as_second()).unwrap_or(at).to_string())
}

/// A metric that is told for each container, for each pod, and for the node.
struct Family {
    name: &'static str,
    kind: &'static str,
    /// `{}` stands for whose use it is.
    help: &'static str,
    value: fn(&ContainerStats) -> f64,
}

const FAMILIES: [Family; 2] = [
    Family {
        name: "cpu_usage_seconds_total",
        kind: "counter",
        help: "Cumulative cpu time consumed by the {} in core-seconds",
        value: |stats| stats.cpu_usage_nanos as f64 / 1e9,
    },
    Family {
        name: "memory_working_set_bytes",
        kind: "gauge",
        help: "Current working set of the {} in bytes",
        value: |stats| stats.memory_working_set_bytes as f64,
    },
];

/// The same in the text format of Prometheus, which metrics-server reads.
pub fn resource_metrics(pods: &[Pod], stats: &[ContainerStats], node_nanos: u64) -> String {
    let mut text = String::new();
    text.push_str(
        "# HELP container_start_time_seconds [STABLE] Start time of the container since unix epoch in seconds\n",
    );
    text.push_str("# TYPE container_start_time_seconds gauge\n");
    for stats in stats {
        if let Some(at) = started(pods, stats) {
            // Written to a string, which cannot fail.
            let _ =
                writeln!(text, "container_start_time_seconds{} {}", labels(stats), at.as_millisecond() as f64 / 1e3);
        }
    }
    for family in &FAMILIES {
        let sum = |stats: &[&ContainerStats]| stats.iter().map(|stats| (family.value)(stats)).sum::<f64>();
        describe(&mut text, family, "container");
        for stats in stats {
            sample(&mut text, family, "container", &labels(stats), (family.value)(stats), stats.at);
        }
        describe(&mut text, family, "node");
        // A node on which nothing runs uses nothing, which is worth knowing.
        let at = stats.iter().map(|stats| stats.at).max().unwrap_or_else(coracle_clock::now);
        let whole = match family.kind {
            "counter" => node_nanos as f64 / 1e9,
            _ => sum(&stats.iter().collect::<Vec<_>>()),
        };
        sample(&mut text, family, "node", "", whole, at);
        describe(&mut text, family, "pod");
        for (pod, stats) in by_pod(stats) {
            let labels = format!(r#"{{namespace="{}",pod="{}"}}"#, pod.namespace, pod.name);
            let at = stats.iter().map(|stats| stats.at).max().unwrap_or_default();
            sample(&mut text, family, "pod", &labels, sum(&stats), at);
        }
    }
    text
}

fn labels(ContainerStats { pod: PodRef { namespace, name: pod, .. }, name, .. }: &ContainerStats) -> String {
    format!(r#"{{container="{name}",namespace="{namespace}",pod="{pod}"}}"#)
}

// Writing to a string cannot fail.
fn describe(text: &mut String, Family { name, kind, help, .. }: &Family, of: &str) {
    let help = help.replace("{}", of);
    let _ = write!(text, "# HELP {of}_{name} [STABLE] {help}\n# TYPE {of}_{name} {kind}\n");
}

fn sample(text: &mut String, family: &Family, of: &str, labels: &str, value: f64, at: Timestamp) {
    let _ = writeln!(text, "{of}_{}{labels} {value} {}", family.name, at.as_millisecond());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(name: &str, second: i64, cpu_usage_nanos: u64) -> ContainerStats {
        ContainerStats {
            id: name.into(),
            pod: PodRef { namespace: "default".into(), name: "web".into(), uid: "u1".into() },
            name: name.into(),
            at: Timestamp::from_second(second).unwrap(),
            cpu_usage_nanos,
            memory_working_set_bytes: 1024,
            ..Default::default()
        }
    }

    fn pod() -> Pod {
        let running = json!({"name": "a", "state": {"running": {"startedAt": "1970-01-01T00:00:02Z"}}});
        let pod = json!({"metadata": {"uid": "u1"}, "status": {"containerStatuses": [running]}});
        serde_json::from_value(pod).unwrap()
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_pod_uses_what_its_containers_use() {
        let stats = [stats("a", 9, 3 * SECOND / 2), stats("b", 9, 3 * SECOND / 2)];
        let summary = summary("n1", &[pod()], &stats, 9 * SECOND);
        assert_eq!(summary["node"]["nodeName"], "n1");
        assert_eq!(summary["node"]["cpu"]["usageCoreNanoSeconds"], 9 * SECOND);
        assert_eq!(summary["pods"][0]["podRef"]["name"], "web");
        assert_eq!(summary["pods"][0]["memory"]["workingSetBytes"], 2048);
        assert_eq!(summary["pods"][0]["containers"][0]["startTime"], "1970-01-01T00:00:02Z");
        assert_eq!(summary["pods"][0]["containers"][1]["cpu"]["usageCoreNanoSeconds"], 3 * SECOND / 2);
    }

    #[test]
    fn metrics_server_finds_its_metrics() {
        let text = resource_metrics(&[pod()], &[stats("a", 9, 3 * SECOND / 2), stats("b", 9, SECOND)], 5 * SECOND);
        for line in [
            "container_start_time_seconds{container=\"a\",namespace=\"default\",pod=\"web\"} 2\n",
            "container_cpu_usage_seconds_total{container=\"a\",namespace=\"default\",pod=\"web\"} 1.5 9000\n",
            "pod_memory_working_set_bytes{namespace=\"default\",pod=\"web\"} 2048 9000\n",
            "pod_cpu_usage_seconds_total{namespace=\"default\",pod=\"web\"} 2.5 9000\n",
            "node_cpu_usage_seconds_total 5 9000\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }

    #[test]
    fn rates_are_between_samples_and_a_nodes_time_never_shrinks() {
        let meter = Meter::default();
        let read = |stats: &[(&str, i64, u64)]| {
            let mut stats: Vec<_> = stats.iter().map(|(name, at, nanos)| self::stats(name, *at, *nanos)).collect();
            let node = meter.read(&mut stats);
            (node / SECOND, stats.iter().map(|stats| stats.cpu_nano_cores).collect::<Vec<_>>())
        };
        assert_eq!(read(&[("a", 10, 5 * SECOND)]), (5, vec![None]));
        assert_eq!(read(&[("a", 20, 10 * SECOND), ("b", 20, SECOND)]), (11, vec![Some(SECOND / 2), None]));
        assert_eq!(read(&[("a", 20, 10 * SECOND)]), (11, vec![Some(SECOND / 2)]));
        // A second `b` starts from nothing.
        assert_eq!(read(&[("b", 30, SECOND)]), (12, vec![None]));
    }
}
