//! `coracle bench simulate`: hours of a large cluster's life, as fast as they pass.
//!
//! The cluster is spread over three zones and full of Deployments of a hundred pods. Every hour one of these is rolled out
//! anew, and once a zone loses its power for twenty minutes. Every request takes the whole way through the API server;
//! nodes' heartbeats are written when somebody looks, and nobody does.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use coracle_kubelet::runtime::simulated::Span;
use coracle_sim::{Pace, Report, Scenario};

use super::super::simulate::in_a_thread;
use super::resident_bytes;
use crate::cli::Bench;

/// Pods of a Deployment.
const REPLICAS: usize = 100;
/// Nodes, pods, hours.
const SHAPES: [(usize, usize, u64); 2] = [(1000, 10_000, 24), (5000, 50_000, 1)];

/// Runs the shape that is asked for, or both.
pub async fn run(options: Bench) -> anyhow::Result<()> {
    let shapes = match (options.nodes, options.pods, options.hours) {
        (None, None, None) => SHAPES.to_vec(),
        (nodes, pods, hours) => vec![(nodes.unwrap_or(100), pods.unwrap_or(1000), hours.unwrap_or(1))],
    };
    for (nodes, pods, hours) in shapes {
        let started = coracle_clock::instant();
        let report = in_a_thread(move || play(nodes, pods, hours)).await?;
        let took = started.elapsed().as_secs_f64();
        let memory = resident_bytes(std::process::id()).unwrap_or_default() as f64 / 1e6;
        println!(
            "{nodes} nodes, {pods} pods, {hours} h: {took:.1} s ({:.0} times as fast as life, {memory:.0} MB resident)\n  history {}",
            hours as f64 * 3600.0 / took,
            report.history_hash
        );
        ensure!(report.met(), "the cluster did not live as it should:\n{}", report.text());
    }
    Ok(())
}

fn play(nodes: usize, pods: usize, hours: u64) -> anyhow::Result<Report> {
    let text = scenario(nodes, pods, hours);
    let scenario = Scenario::parse("bench", &text, Path::new("."))?;
    scenario.run(&mut Pace::default())
}

/// The scenario as a file would have it.
fn scenario(nodes: usize, pods: usize, hours: u64) -> String {
    let deployments = pods.div_ceil(REPLICAS);
    let mut text = format!(
        "apiVersion: simulation.coracle.dev/v1\nkind: Scenario\nmetadata: {{name: bench}}\nspec:\n  duration: {hours}h\n  cluster:\n    \
         nodeGroups:\n    - {{name: node, instanceType: m5.xlarge, zones: [a, b, c], count: {nodes}}}\n  manifests:\n"
    );
    for number in 0..deployments {
        let replicas = REPLICAS.min(pods - number * REPLICAS);
        let _ = writeln!(
            text,
            "  - objects: [{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: web-{number}}}, spec: {{replicas: {replicas}, \
             selector: {{matchLabels: {{app: web-{number}}}}}, template: {{metadata: {{labels: {{app: web-{number}}}}}, spec: \
             {{containers: [{{name: main, image: 'web:0', resources: {{requests: {{cpu: 50m, memory: 64Mi}}}}}}]}}}}}}}}]"
        );
    }
    text += "  events:\n";
    let mut events: Vec<(Duration, String)> = Vec::new();
    for hour in 0..hours {
        let at = Duration::from_secs(hour * 3600 + 600);
        let rolled = hour as usize % deployments;
        events.push((at, format!("rollout: {{target: deployment/web-{rolled}, image: 'web:{}'}}", hour + 1)));
    }
    let outage = Duration::from_secs(hours * 3600 / 2);
    events.push((outage, "zoneOutage: {zone: b, for: 20m}".to_owned()));
    events.sort_by_key(|(at, _)| *at);
    for (at, event) in events {
        let _ = writeln!(text, "  - {{at: {}, {event}}}", Span(at));
    }
    let _ = write!(text, "  expect:\n  - pods ready == {pods}\n  - nodes ready == {nodes}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_benchs_scenario_is_one() {
        for (nodes, pods, hours) in SHAPES {
            let text = scenario(nodes, pods, hours);
            let scenario = Scenario::parse("bench", &text, Path::new(".")).unwrap();
            assert_eq!(scenario.objects.len(), pods / REPLICAS);
        }
    }
}
