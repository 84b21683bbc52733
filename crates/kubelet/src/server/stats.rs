//! `/stats/summary` and `/metrics/resource`: what pods use, for people and for metrics-server.

use std::collections::BTreeMap;
use std::fmt::Write;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::runtime::{ContainerStats, PodRef};

/// The node's summary (`stats.k8s.io/v1alpha1`), as far as the runtime knows.
pub fn summary(node: &str, pods: &[Pod], stats: &[ContainerStats]) -> Value {
    let pods: Vec<Value> = by_pod(stats)
        .into_iter()
        .map(|(pod, stats)| {
            let started = pods.iter().find(|known| known.metadata.uid.as_ref() == Some(&pod.uid));
            let started = started.and_then(|pod| pod.status.as_ref()?.start_time.as_ref()).map(|time| json!(time));
            json!({
                "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
                "startTime": started,
                "containers": stats.iter().map(|stats| container(stats)).collect::<Vec<_>>(),
                "cpu": usage_of_cpu(&stats),
                "memory": usage_of_memory(&stats),
            })
        })
        .collect();
    let all: Vec<&ContainerStats> = stats.iter().collect();
    json!({
        "node": {"nodeName": node, "cpu": usage_of_cpu(&all), "memory": usage_of_memory(&all)},
        "pods": pods,
    })
}

fn by_pod(stats: &[ContainerStats]) -> BTreeMap<&PodRef, Vec<&ContainerStats>> {
    let mut pods: BTreeMap<&PodRef, Vec<&ContainerStats>> = BTreeMap::new();
    for stats in stats {
        pods.entry(&stats.pod).or_default().push(stats);
    }
    pods
}

fn container(stats: &ContainerStats) -> Value {
    json!({"name": stats.name, "cpu": usage_of_cpu(&[stats]), "memory": usage_of_memory(&[stats])})
}

fn usage_of_cpu(stats: &[&ContainerStats]) -> Value {
    json!({
        "time": latest(stats),
        "usageCoreNanoSeconds": stats.iter().map(|stats| stats.cpu_usage_nanos).sum::<u64>(),
    })
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
    json!(jiff::Timestamp::from_second(at.as_second()).unwrap_or(at).to_string())
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
pub fn resource_metrics(stats: &[ContainerStats]) -> String {
    let mut text = String::new();
    for family in &FAMILIES {
        let sum = |stats: &[&ContainerStats]| stats.iter().map(|stats| (family.value)(stats)).sum::<f64>();
        describe(&mut text, family, "container");
        for stats in stats {
            let PodRef { namespace, name: pod, .. } = &stats.pod;
            let labels = format!(r#"{{container="{}",namespace="{namespace}",pod="{pod}"}}"#, stats.name);
            sample(&mut text, family, "container", &labels, (family.value)(stats), stats.at);
        }
        describe(&mut text, family, "node");
        if let Some(at) = stats.iter().map(|stats| stats.at).max() {
            sample(&mut text, family, "node", "", sum(&stats.iter().collect::<Vec<_>>()), at);
        }
        describe(&mut text, family, "pod");
        for (pod, stats) in by_pod(stats) {
            let labels = format!(r#"{{namespace="{}",pod="{}"}}"#, pod.namespace, pod.name);
            let at = stats.iter().map(|stats| stats.at).max().unwrap_or_default();
            sample(&mut text, family, "pod", &labels, sum(&stats), at);
        }
    }
    text
}

// Writing to a string cannot fail.
fn describe(text: &mut String, Family { name, kind, help, .. }: &Family, of: &str) {
    let help = help.replace("{}", of);
    let _ = write!(text, "# HELP {of}_{name} [STABLE] {help}\n# TYPE {of}_{name} {kind}\n");
}

fn sample(text: &mut String, family: &Family, of: &str, labels: &str, value: f64, at: jiff::Timestamp) {
    let _ = writeln!(text, "{of}_{}{labels} {value} {}", family.name, at.as_millisecond());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(name: &str) -> ContainerStats {
        ContainerStats {
            pod: PodRef { namespace: "default".into(), name: "web".into(), uid: "u1".into() },
            name: name.into(),
            cpu_usage_nanos: 1_500_000_000,
            memory_working_set_bytes: 1024,
            ..Default::default()
        }
    }

    #[test]
    fn a_pod_uses_what_its_containers_use() {
        let summary = summary("n1", &[], &[stats("a"), stats("b")]);
        assert_eq!(summary["node"]["nodeName"], "n1");
        assert_eq!(summary["pods"][0]["podRef"]["name"], "web");
        assert_eq!(summary["pods"][0]["memory"]["workingSetBytes"], 2048);
        assert_eq!(summary["pods"][0]["containers"][1]["cpu"]["usageCoreNanoSeconds"], 1_500_000_000u64);
    }

    #[test]
    fn metrics_server_finds_its_metrics() {
        let text = resource_metrics(&[stats("a"), stats("b")]);
        assert!(
            text.contains(
                "container_cpu_usage_seconds_total{container=\"a\",namespace=\"default\",pod=\"web\"} 1.5 0\n"
            ),
            "{text}"
        );
        assert!(text.contains("pod_memory_working_set_bytes{namespace=\"default\",pod=\"web\"} 2048 0\n"), "{text}");
        assert!(text.contains("node_cpu_usage_seconds_total 3 0\n"), "{text}");
    }
}
