use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscalerBehavior, MetricStatus};
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::behaviour::{Memory, Range};
use super::plan::{Conditions, Failed, First, Proposal, combine, first, tolerance};
use super::replicas::{Sample, Samples, Scaled, Tolerance};

/// When everything is; pods were started long before.
const NOW: i64 = 100_000;
const TENTH: Tolerance = Tolerance { down: 0.1, up: 0.1 };

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A pod that requests so much: `R`eady, un`r`eady, `P`ending, `F`ailed, `T`erminating, or of late ready: `L`.
fn pod(number: usize, request: i64, state: char) -> Arc<Pod> {
    let phase = match state {
        'P' => "Pending",
        'F' => "Failed",
        _ => "Running",
    };
    let ready = if "RLT".contains(state) { "True" } else { "False" };
    let (started, since) = if state == 'L' { (NOW - 60, NOW - 10) } else { (1000, 1005) };
    let mut pod = json!({
        "metadata": { "name": format!("p{number}") },
        "spec": { "containers": [{ "name": "main", "resources": { "requests": { "cpu": format!("{request}m") } } }] },
        "status": {
            "phase": phase,
            "startTime": at(started),
            "conditions": [{ "type": "Ready", "status": ready, "lastTransitionTime": at(since) }],
        },
    });
    if state == 'T' {
        pod["metadata"]["deletionTimestamp"] = json!(at(NOW));
    }
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn samples(values: &[i64]) -> Samples {
    let sample = |value| Sample { at: at(NOW), window: Duration::from_secs(30), value };
    let known = values.iter().enumerate().filter(|(_, value)| **value >= 0);
    known.map(|(number, value)| (format!("p{number}"), sample(*value))).collect()
}

fn scaled(pods: &[Arc<Pod>], current: i32) -> Scaled<'_> {
    Scaled {
        pods,
        current,
        tolerance: TENTH,
        now: at(NOW),
        cpu_initialization: Duration::from_secs(300),
        initial_readiness: Duration::from_secs(30),
    }
}

#[test]
fn replicas_follow_utilization() {
    // Usage of each pod in milli (-1: unknown) of a request of 1000, states, present size, target in per cent;
    // replicas and utilization.
    for (usage, states, current, target, expected) in [
        (&[300, 500, 700][..], "RRR", 3, 30, (5, 50)),
        (&[100, 300, 500, 250, 250], "RRRRR", 5, 50, (3, 28)),
        (&[1010, 1030, 1020], "RRR", 3, 100, (3, 102)),
        (&[1099], "R", 1, 100, (1, 109)),
        (&[1110], "R", 1, 100, (2, 111)),
        (&[0, 0], "RR", 2, 50, (0, 0)),
        // Pods that are not ready count as idle against a rise …
        (&[300, 500, 700], "rRR", 3, 30, (4, 60)),
        (&[400, 500, 700], "Rrr", 3, 30, (3, 40)),
        (&[-1, 500, 700], "PRR", 3, 30, (4, 60)),
        (&[300, 500, 700], "LRR", 3, 30, (4, 60)),
        // … and not at all against a fall.
        (&[100, 100, 100], "rRR", 3, 50, (1, 10)),
        // Those that go or have failed do not count.
        (&[900, 500, 700], "TRR", 3, 30, (4, 60)),
        (&[900, 500, 700], "FRR", 3, 30, (4, 60)),
        // Unknown usage: nothing against a rise, all of the request against a fall.
        (&[-1, 1000], "RR", 2, 100, (2, 100)),
        (&[-1, 1000], "RR", 2, 50, (2, 100)),
        (&[-1, 1000], "RR", 2, 25, (4, 100)),
        (&[-1, 500, 500, 500], "RRRR", 4, 100, (3, 50)),
        (&[-1, -1, 500, 500], "RRRR", 4, 60, (4, 50)),
    ] {
        let pods: Vec<_> = states.chars().enumerate().map(|(number, state)| pod(number, 1000, state)).collect();
        let found = scaled(&pods, current).by_utilization(samples(usage), "cpu", None, target);
        assert_eq!(
            found.map(|(replicas, percent, _)| (replicas, percent)),
            Ok(expected),
            "{usage:?} {states} {target}"
        );
    }
}

#[test]
fn what_cannot_be_computed_is_told() {
    let check = |pods: &[Arc<Pod>], usage: &[i64], container: Option<&str>, expected: &str| {
        let found = scaled(pods, 1).by_utilization(samples(usage), "cpu", container, 50);
        assert_eq!(found.unwrap_err(), expected);
    };
    let (ready, unready) = (pod(0, 1000, 'R'), pod(0, 1000, 'r'));
    let mut silent = pod(0, 1000, 'R').as_ref().clone();
    silent.spec.as_mut().unwrap().containers[0].resources = None;
    let unknown = "did not receive metrics for targeted pods (pods might be unready)";
    check(&[], &[1], None, "no pods returned by selector while calculating replica count");
    check(&[unready], &[1], None, unknown);
    check(std::slice::from_ref(&ready), &[], None, unknown);
    check(&[ready], &[1], Some("other"), "container other not found in Pod p0");
    check(&[Arc::new(silent)], &[1], None, "missing request for cpu in container main of Pod p0");
}

#[test]
fn replicas_follow_averages_values_and_shares() {
    let pods: Vec<_> = (0..3).map(|number| pod(number, 1000, 'R')).collect();
    let three = scaled(&pods, 3);
    assert_eq!(three.by_average(samples(&[20_000, 10_000, 30_000]), "", 15_000), Ok((4, 20_000)));
    assert_eq!(three.by_average(samples(&[12_000, 12_000, 12_000]), "", 20_000), Ok((2, 12_000)));
    assert_eq!(three.by_average(samples(&[-1, 12_000, 12_000]), "", 20_000), Ok((3, 12_000)));
    assert_eq!(three.by_value(20_000, 15_000), Ok(4));
    assert_eq!(three.by_value(15_500, 15_000), Ok(3));
    assert_eq!(three.by_value(i64::MAX, 1), Ok(i32::MAX));
    assert_eq!(scaled(&[], 0).by_value(20_000, 15_000), Ok(2));
    assert_eq!(scaled(&[], 0).by_value(0, 15_000), Ok(0));
    assert!(scaled(&[], 3).by_value(20_000, 15_000).is_err());
    assert_eq!(three.by_share(8_600, 2_150, 3), (4, 2_867));
    assert_eq!(three.by_share(6_500, 2_150, 3), (3, 2_167));
}

#[test]
fn the_range_decides_before_metrics_do() {
    let range = Range { min: 2, max: 5 };
    for (current, expected) in [
        (0, First::Disabled),
        (1, First::Outside(2, "Current number of replicas below Spec.MinReplicas")),
        (2, First::ByMetrics),
        (5, First::ByMetrics),
        (6, First::Outside(5, "Current number of replicas above Spec.MaxReplicas")),
    ] {
        assert_eq!(first(range, current), expected, "{current}");
    }
    assert_eq!(first(Range { min: 0, max: 5 }, 0), First::ByMetrics);
}

#[test]
fn a_metric_that_fails_stops_only_a_fall() {
    let proposal =
        |replicas, metric: &str| Ok(Proposal { replicas, metric: metric.into(), status: MetricStatus::default() });
    let failure = || Err(Failed { reason: "FailedGetPodsMetric", why: "w".into(), error: "e".into() });
    let check = |proposals: &[Result<Proposal, Failed>], expected: Result<i32, &str>, reason: &str| {
        let mut conditions = Conditions { list: Vec::new(), now: at(NOW) };
        let found = combine(proposals, 3, &mut conditions);
        assert_eq!(found.as_ref().map(|it| it.0).map_err(String::as_str), expected);
        assert_eq!(conditions.list[0].reason.as_deref(), Some(reason));
    };
    check(&[proposal(2, "a"), proposal(4, "b")], Ok(4), "ValidMetricFound");
    check(&[failure(), proposal(4, "b")], Ok(4), "ValidMetricFound");
    let one = Err("invalid metrics (1 invalid out of 2), first error is: e");
    check(&[failure(), proposal(2, "b")], one, "FailedGetPodsMetric");
    check(&[failure()], Err("invalid metrics (1 invalid out of 1), first error is: e"), "FailedGetPodsMetric");
}

fn behavior(up: Value, down: Value) -> Option<HorizontalPodAutoscalerBehavior> {
    let mut whole = json!({ "scaleUp": up, "scaleDown": down });
    for (rules, window) in [("scaleUp", json!(0)), ("scaleDown", Value::Null)] {
        let rules = &mut whole[rules];
        if rules["policies"].is_null() {
            rules["policies"] = json!([{ "type": "Percent", "value": 100, "periodSeconds": 15 }]);
        }
        if rules["stabilizationWindowSeconds"].is_null() {
            rules["stabilizationWindowSeconds"] = window;
        }
    }
    Some(serde_json::from_value(whole).unwrap())
}

const RANGE: Range = Range { min: 1, max: 100 };

/// Looks every 15 seconds: what metrics call for, and what is done.
fn check(behavior: Option<&HorizontalPodAutoscalerBehavior>, start: i32, steps: &[(i32, i32, &str)]) {
    let (mut memory, mut current, mut now) = (Memory::default(), start, NOW);
    memory.begin(start, at(now));
    for (number, (wanted, expected, reason)) in steps.iter().enumerate() {
        now += 15;
        let stabilization = Duration::from_secs(300);
        let done = memory.normalize(behavior, stabilization, RANGE, (current, *wanted), at(now));
        let reasons = [done.able.0, done.limited.1.0];
        assert_eq!(done.replicas, *expected, "step {number} of {steps:?}: {done:?}");
        assert!(reasons.contains(reason), "step {number} of {steps:?}: {done:?}");
        if done.replicas != current {
            memory.rescaled(behavior, (current, done.replicas), at(now));
            current = done.replicas;
        }
    }
}

#[test]
fn without_a_behaviour_a_rise_is_at_most_twofold_and_a_fall_waits() {
    check(None, 1, &[(50, 4, "ScaleUpLimit"), (50, 8, "ScaleUpLimit"), (50, 16, "ScaleUpLimit")]);
    check(None, 90, &[(200, 100, "TooManyReplicas")]);
    let held = (1, 10, "ScaleDownStabilized");
    let mut steps = vec![(10, 10, "ReadyForNewScale")];
    steps.extend([held; 19]);
    steps.push((0, 1, "ScaleDownStabilized"));
    check(None, 10, &steps);
}

#[test]
fn a_behaviours_policies_bound_the_pace() {
    let pods = |value: i32, period: i32| json!({ "type": "Pods", "value": value, "periodSeconds": period });
    let percent = |value: i32, period: i32| json!({ "type": "Percent", "value": value, "periodSeconds": period });
    let quick = json!({ "stabilizationWindowSeconds": 0 });
    // One pod a minute: four looks.
    let slow = behavior(json!({ "policies": [pods(1, 60)] }), quick.clone());
    let limit = "ScaleUpLimit";
    check(slow.as_ref(), 1, &[(9, 2, limit), (9, 2, limit), (9, 2, limit), (9, 2, limit), (9, 3, limit)]);
    // The greater of both unless the least is asked for.
    let both = json!({ "policies": [pods(4, 15), percent(100, 15)] });
    check(behavior(both.clone(), quick.clone()).as_ref(), 2, &[(99, 6, limit), (99, 12, limit)]);
    let mut least = both;
    least["selectPolicy"] = json!("Min");
    check(behavior(least, quick.clone()).as_ref(), 2, &[(99, 4, limit), (99, 8, limit), (99, 12, limit)]);
    let off = behavior(
        json!({ "selectPolicy": "Disabled" }),
        json!({ "selectPolicy": "Disabled", "stabilizationWindowSeconds": 0 }),
    );
    check(off.as_ref(), 5, &[(9, 5, limit), (1, 5, "ScaleDownLimit")]);
    let halving = json!({ "policies": [percent(50, 15), pods(1, 15)], "stabilizationWindowSeconds": 0 });
    check(
        behavior(quick, halving).as_ref(),
        10,
        &[(1, 5, "ScaleDownLimit"), (1, 2, "ScaleDownLimit"), (1, 1, "DesiredWithinRange")],
    );
}

#[test]
fn a_behaviours_windows_hold_both_ways() {
    let windows = behavior(json!({ "stabilizationWindowSeconds": 40 }), json!({ "stabilizationWindowSeconds": 20 }));
    check(windows.as_ref(), 5, &[(9, 5, "ScaleUpStabilized"), (9, 5, "ScaleUpStabilized"), (9, 9, "ReadyForNewScale")]);
    check(windows.as_ref(), 5, &[(3, 5, "ScaleDownStabilized"), (3, 3, "ReadyForNewScale")]);
    let default = behavior(json!({}), json!({}));
    check(default.as_ref(), 5, &[(3, 5, "ScaleDownStabilized"); 19]);
}

#[test]
fn a_behaviour_may_have_its_own_tolerance() {
    let behavior = behavior(json!({ "tolerance": "0.05" }), json!({}));
    assert_eq!(tolerance(behavior.as_ref(), 0.1), Tolerance { down: 0.1, up: 0.05 });
    assert_eq!(tolerance(None, 0.2), Tolerance { down: 0.2, up: 0.2 });
}

proptest! {
    /// Under a steady load, from any size, the target arrives at one that holds the load, and stays.
    #[test]
    fn a_steady_load_has_one_size(load in 0_i64..40_000, start in 1..50_i32, target in 20..100_i32, rules in any::<bool>()) {
        let range = Range { min: 1, max: 50 };
        let behavior = behavior(json!({}), json!({})).filter(|_| rules);
        let (mut memory, mut current, mut sizes) = (Memory::default(), start, Vec::new());
        memory.begin(start, at(NOW));
        for step in 1..=100 {
            let pods: Vec<_> = (0..current as usize).map(|number| pod(number, 1000, 'R')).collect();
            let usage = vec![load / i64::from(current); current as usize];
            let (wanted, ..) = scaled(&pods, current).by_utilization(samples(&usage), "cpu", None, target).unwrap();
            let now = at(NOW + 15 * step);
            let done = memory.normalize(behavior.as_ref(), Duration::from_secs(300), range, (current, wanted), now);
            if done.replicas != current {
                memory.rescaled(behavior.as_ref(), (current, done.replicas), now);
                current = done.replicas;
            }
            prop_assert!((range.min..=range.max).contains(&current));
            sizes.push(current);
        }
        prop_assert!(sizes[60..].iter().all(|size| *size == current), "{sizes:?}");
        let per_pod = load as f64 / f64::from(current) / 10.0;
        prop_assert!(current == range.max || per_pod <= f64::from(target) * 1.1 + 1.0, "{per_pod} of {target}");
    }
}
