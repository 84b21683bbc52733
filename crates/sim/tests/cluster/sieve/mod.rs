//! Sieve's three tests for every controller: whatever it misses, the cluster arrives where it would have.
//!
//! Each [scenario](table) is played undisturbed first. Then the controller manager dies at each of its writes and starts
//! again; hears of changes late and merged, or only through a new list; sees the past and restarts in it. What there
//! is in the end, but for what is random or a time, must be the same.
//!
//! (After X. Sun et al., "Automatic Reliability Testing for Cluster Management Controllers", OSDI 2022.)

mod table;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use coracle_controller_manager::CONTROLLERS;
use coracle_sim::{Cluster, Component, Delay};
use serde_json::json;

use crate::normal::{State, difference, end_state};
use crate::support::*;
use table::{SCENARIOS, Scenario, Step};

const MANAGER: Component = Component::ControllerManager;

/// Lets time pass; whoever has died is started again a second later.
async fn pass(cluster: &mut Cluster, time: u64) -> anyhow::Result<()> {
    for _ in 0..time {
        cluster.advance(seconds(1)).await;
        if !cluster.is_running(&MANAGER) {
            cluster.restart(&MANAGER).await?;
        }
    }
    Ok(())
}

async fn take(cluster: &mut Cluster, step: &Step) -> anyhow::Result<()> {
    match step {
        Step::Create(object) => drop(cluster.create(object.clone()).await?),
        Step::Patch(plural, name, patch) => drop(cluster.patch(plural, name, patch.clone()).await?),
        Step::Delete(plural, name) => drop(cluster.delete(plural, name).await?),
        Step::Orphan(plural, name) => {
            drop(cluster.delete_with(plural, name, json!({ "propagationPolicy": "Orphan" })).await?);
        }
        Step::PowerOff(node) => cluster.power_off(node),
        Step::PowerOn(node) => cluster.restart(&Component::Kubelet((*node).into())).await?,
        Step::Wait(time) => pass(cluster, *time).await?,
        Step::Use(app, cpu) => {
            pods(cluster, app).await?.iter().for_each(|pod| cluster.set_use("default", &name(pod), *cpu, 1 << 20));
        }
        Step::Later(time) => {
            cluster.set_clock_forward(seconds(*time));
            cluster.restart(&MANAGER).await?;
        }
    }
    Ok(())
}

fn writes(cluster: &Cluster) -> u64 {
    let requests = cluster.requests();
    let ours = requests.iter().filter_map(|(what, count)| {
        let what = what.strip_prefix("system:kube-controller-manager ")?;
        (!what.starts_with("GET")).then_some(*count)
    });
    ours.sum()
}

/// Plays a scenario; what there is in the end, and how often the controller manager wrote.
fn play_out(
    scenario: &Scenario,
    disturb: impl AsyncFnOnce(&mut Cluster) -> anyhow::Result<()>,
) -> anyhow::Result<(State, u64)> {
    let mut cluster = Cluster::builder().seed(7).nodes(scenario.nodes).controller_manager(table::configure);
    if !scenario.steps.iter().any(|step| matches!(step, Step::Use(..))) {
        cluster = cluster.without_metrics();
    }
    cluster.run(async |cluster| {
        let (start, written) = (cluster.revision(), writes(cluster));
        disturb(cluster).await?;
        for step in &scenario.steps {
            take(cluster, step).await?;
            pass(cluster, 60).await?;
        }
        // Longer than unmet expectations hold anybody back, and than whoever backed off waits.
        pass(cluster, 400).await?;
        Ok((end_state(&cluster.history(), start), writes(cluster) - written))
    })
}

/// What becomes of each scenario undisturbed.
static CALM: LazyLock<Vec<(State, u64)>> = LazyLock::new(|| {
    let calm = |scenario: &Scenario| {
        play_out(scenario, async |_| Ok(())).unwrap_or_else(|error| panic!("{}: {error:?}", scenario.name))
    };
    SCENARIOS.iter().map(calm).collect()
});

/// Whether somebody has time to try everything.
fn thorough() -> bool {
    std::env::var("CORACLE_SIM_SEEDS").is_ok()
}

/// Plays all scenarios under a disturbance, of which each has so many variants as `variants` says of its writes.
fn all_arrive(variants: impl Fn(u64) -> Vec<u64>, disturb: impl AsyncFn(&mut Cluster, u64) -> anyhow::Result<()>) {
    let mut failures = Vec::new();
    for (scenario, (calm, written)) in SCENARIOS.iter().zip(&*CALM) {
        for variant in variants(*written) {
            match play_out(scenario, async |cluster| disturb(cluster, variant).await) {
                Ok((stormy, _)) if stormy == *calm => {}
                Ok((stormy, _)) => {
                    failures.push(format!("{} ({variant}): {}", scenario.name, difference(calm, &stormy)));
                }
                Err(error) => failures.push(format!("{} ({variant}): {error:?}", scenario.name)),
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn every_controller_has_a_scenario() {
    let covered: BTreeSet<&str> = SCENARIOS.iter().flat_map(|scenario| scenario.controllers.iter().copied()).collect();
    let all: BTreeSet<&str> = CONTROLLERS.iter().map(|controller| controller.name).collect();
    assert_eq!(covered, all);
}

#[test]
fn a_crash_at_each_write_leads_to_the_same_end() {
    let few = if thorough() { u64::MAX } else { 2 };
    let some = |writes: u64| (1..=writes).step_by(usize::try_from(writes.div_ceil(few).max(1)).unwrap_or(1)).collect();
    all_arrive(some, async |cluster, write| {
        cluster.crash_after(&MANAGER, write);
        Ok(())
    });
}

#[test]
fn events_that_come_late_and_merged_lead_to_the_same_end() {
    all_arrive(
        |_| if thorough() { vec![1, 7] } else { vec![7] },
        async |cluster, late| {
            cluster.delay_watch(&MANAGER, &["*"], Delay::Merged(seconds(late)));
            Ok(())
        },
    );
}

#[test]
fn events_that_are_missed_lead_to_the_same_end() {
    all_arrive(
        |_| if thorough() { vec![1, 7] } else { vec![7] },
        async |cluster, late| {
            cluster.delay_watch(&MANAGER, &["*"], Delay::Lost(seconds(late)));
            Ok(())
        },
    );
}

#[test]
fn a_cache_that_is_behind_leads_to_the_same_end() {
    all_arrive(
        |writes| if thorough() { vec![0, writes / 3, writes / 2] } else { vec![writes / 2] },
        async |cluster, write| {
            cluster.lag(&MANAGER, seconds(9)).await?;
            cluster.crash_after(&MANAGER, write);
            Ok(())
        },
    );
}
