use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::runtime::SandboxState;
use crate::testing::{Seen, at, pod};
use crate::verdicts::Verdict;

fn decide(pod: &Pod, seen: Seen<'_>) -> Actions {
    decide_with(pod, seen, &[], &Backoff::default(), 100)
}

fn decide_with(pod: &Pod, seen: Seen<'_>, verdicts: &[(&str, Verdict)], backoff: &Backoff, now: i64) -> Actions {
    let verdicts = Verdicts(verdicts.iter().map(|(id, verdict)| ((*id).to_owned(), *verdict)).collect());
    let restarting = BTreeSet::new();
    let observed = &seen.observed;
    plan(PlanInput { pod, observed, verdicts: &verdicts, backoff, restarting: &restarting, now: at(now) })
}

fn starts(actions: &Actions) -> Vec<String> {
    actions.start.iter().map(|start| format!("{}#{}", start.name, start.attempt)).collect()
}

fn one(policy: &str) -> Pod {
    pod("p", json!({ "restartPolicy": policy, "containers": [{ "name": "a", "image": "busybox" }] }))
}

#[test]
fn a_new_pod_gets_a_sandbox_first() {
    let pod = one("Always");
    let actions = decide(&pod, Seen::nothing(&pod));
    assert_eq!(actions, Actions { create_sandbox: Some(0), ..Actions::default() });
}

#[test]
fn main_containers_start_together_in_the_sandbox() {
    let pod = pod("p", json!({ "containers": [{ "name": "a" }, { "name": "b" }] }));
    assert_eq!(starts(&decide(&pod, Seen::sandbox(&pod))), ["a#0", "b#0"]);
    assert_eq!(starts(&decide(&pod, Seen::sandbox(&pod).running("a", 0))), ["b#0"]);
    assert!(decide(&pod, Seen::sandbox(&pod).running("a", 0).running("b", 0)).is_empty());
}

#[test]
fn an_ended_container_is_restarted_as_the_policy_says() {
    for (policy, exit_code, restarted) in [
        ("Always", 0, true),
        ("Always", 1, true),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Never", 0, false),
        ("Never", 1, false),
    ] {
        let pod = one(policy);
        let actions = decide(&pod, Seen::sandbox(&pod).exited("a", 0, exit_code, 10));
        assert_eq!(starts(&actions) == ["a#1"], restarted, "{policy} after exit code {exit_code}");
        assert_eq!(actions.kill_pod, !restarted, "a pod with nothing left to run is stopped");
    }
}

#[test]
fn a_restart_rule_of_the_container_outranks_the_policy() {
    let rule = |operator: &str| {
        json!({ "restartPolicy": "Never", "containers": [{ "name": "a", "restartPolicyRules":
            [{ "action": "Restart", "exitCodes": { "operator": operator, "values": [42] } }] }] })
    };
    for (operator, exit_code, restarted) in
        [("In", 42, true), ("In", 1, false), ("NotIn", 42, false), ("NotIn", 1, true)]
    {
        let pod = pod("p", rule(operator));
        let actions = decide(&pod, Seen::sandbox(&pod).exited("a", 0, exit_code, 10));
        assert_eq!(actions.kill_pod, !restarted, "{operator} {exit_code}");
    }
}

#[test]
fn a_crashed_container_waits_for_its_backoff() {
    let pod = one("Always");
    let mut backoff = Backoff::default();
    backoff.tried(&backoff_key(&containers(&pod)[0]), at(90), at(90));
    let seen = || Seen::sandbox(&pod).exited("a", 1, 1, 95);
    let actions = decide_with(&pod, seen(), &[], &backoff, 100);
    assert_eq!(starts(&actions), [] as [&str; 0]);
    assert_eq!(actions.wake_at(), Some(at(105)));
    assert_eq!(actions.backing_off["a"].delay.as_secs(), 10);
    assert_eq!(starts(&decide_with(&pod, seen(), &[], &backoff, 105)), ["a#2"]);
}

#[test]
fn init_containers_run_one_after_the_other() {
    let pod =
        pod("p", json!({ "initContainers": [{ "name": "i" }, { "name": "j" }], "containers": [{ "name": "a" }] }));
    assert_eq!(starts(&decide(&pod, Seen::sandbox(&pod))), ["i#0"]);
    assert!(decide(&pod, Seen::sandbox(&pod).running("i", 0)).is_empty());
    assert_eq!(starts(&decide(&pod, Seen::sandbox(&pod).exited("i", 0, 1, 10))), ["i#1"]);
    assert_eq!(starts(&decide(&pod, Seen::sandbox(&pod).exited("i", 0, 0, 10))), ["j#0"]);
    let done = Seen::sandbox(&pod).exited("i", 0, 0, 10).exited("j", 0, 0, 20);
    assert_eq!(starts(&decide(&pod, done)), ["a#0"]);
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let pod = pod(
        "p",
        json!({ "restartPolicy": "Never", "initContainers": [{ "name": "i" }], "containers": [{ "name": "a" }] }),
    );
    let actions = decide(&pod, Seen::sandbox(&pod).exited("i", 0, 1, 10));
    assert_eq!(actions, Actions { kill_pod: true, ..Actions::default() });
}

fn with_sidecar(sidecar: Value) -> Pod {
    let mut sidecar = sidecar;
    sidecar["name"] = json!("s");
    sidecar["restartPolicy"] = json!("Always");
    pod(
        "p",
        json!({ "restartPolicy": "OnFailure", "initContainers": [sidecar, { "name": "i" }], "containers": [{ "name": "a" }] }),
    )
}

#[test]
fn a_sidecar_counts_as_done_once_it_has_started() {
    let pod = with_sidecar(json!({}));
    assert_eq!(starts(&decide(&pod, Seen::sandbox(&pod))), ["s#0"]);
    assert_eq!(starts(&decide(&pod, Seen::sandbox(&pod).running("s", 0))), ["i#0"]);

    let pod = with_sidecar(json!({ "startupProbe": { "exec": { "command": ["true"] } } }));
    assert!(decide(&pod, Seen::sandbox(&pod).running("s", 0)).is_empty(), "its startup probe gates the next");
    let started = [("s-0", Verdict { startup: Some(true), ..Verdict::default() })];
    let seen = Seen::sandbox(&pod).running("s", 0);
    assert_eq!(starts(&decide_with(&pod, seen, &started, &Backoff::default(), 1)), ["i#0"]);
}

#[test]
fn a_sidecar_is_restarted_whatever_it_answered_while_the_pod_runs() {
    let pod = with_sidecar(json!({}));
    let seen = Seen::sandbox(&pod).exited("s", 0, 0, 50).exited("i", 0, 0, 10).running("a", 0);
    assert_eq!(starts(&decide(&pod, seen)), ["s#1"]);
}

#[test]
fn sidecars_do_not_keep_a_finished_pod_alive() {
    let pod = with_sidecar(json!({}));
    let seen = Seen::sandbox(&pod).running("s", 0).exited("i", 0, 0, 10).exited("a", 0, 0, 20);
    let actions = decide(&pod, seen);
    assert!(actions.kill_pod && actions.start.is_empty(), "{actions:?}");
}

#[test]
fn a_failed_liveness_probe_restarts_the_container() {
    let pod = one("Always");
    let dead = [("a-0", Verdict { liveness: Some(false), ..Verdict::default() })];
    let actions = decide_with(&pod, Seen::sandbox(&pod).running("a", 0), &dead, &Backoff::default(), 100);
    assert_eq!(actions.kill.len(), 1);
    assert_eq!(actions.kill[0].message, "Container a failed liveness probe, will be restarted");
    let pod = one("Never");
    let actions = decide_with(&pod, Seen::sandbox(&pod).running("a", 0), &dead, &Backoff::default(), 100);
    assert_eq!(actions.kill[0].message, "Container a failed liveness probe");
}

#[test]
fn a_changed_image_restarts_the_container() {
    let old = one("Never");
    let new = pod("p", json!({ "restartPolicy": "Never", "containers": [{ "name": "a", "image": "busybox:2" }] }));
    let actions = decide(&new, Seen::sandbox(&old).running("a", 0));
    assert_eq!(actions.kill[0].message, "Container a definition changed, will be restarted");
    assert!(actions.kill[0].restart);
}

#[test]
fn a_dead_sandbox_takes_its_pod_with_it() {
    let pod = one("Always");
    let seen = Seen::nothing(&pod).with_sandbox(0, SandboxState::NotReady).exited("a", 0, 137, 10);
    let actions = decide(&pod, seen);
    assert_eq!(actions, Actions { kill_pod: true, create_sandbox: Some(1), ..Actions::default() });

    let pod = one("Never");
    let seen = Seen::nothing(&pod).with_sandbox(0, SandboxState::NotReady).exited("a", 0, 137, 10);
    assert_eq!(decide(&pod, seen).create_sandbox, None);
}

#[test]
fn a_new_sandbox_runs_the_init_containers_again() {
    let pod = pod("p", json!({ "initContainers": [{ "name": "i" }], "containers": [{ "name": "a" }] }));
    let seen = Seen::nothing(&pod)
        .with_sandbox(0, SandboxState::NotReady)
        .exited("i", 0, 0, 5)
        .exited("a", 0, 137, 10)
        .with_sandbox(1, SandboxState::Ready);
    assert_eq!(starts(&decide(&pod, seen)), ["i#1"]);
}

#[derive(Clone, Debug)]
enum Fate {
    Missing,
    Running,
    Exited(i32),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![Just(Fate::Missing), Just(Fate::Running), (0..3).prop_map(Fate::Exited)]
}

proptest! {
    /// What runs well is left alone, nothing is started twice, and main containers wait for init containers.
    #[test]
    fn plans_are_safe(
        policy in prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
        sidecar in any::<bool>(),
        fates in proptest::collection::vec(fate(), 4),
    ) {
        let sidecar = if sidecar { json!({ "name": "i0", "restartPolicy": "Always" }) } else { json!({ "name": "i0" }) };
        let pod = pod("p", json!({
            "restartPolicy": policy,
            "initContainers": [sidecar, { "name": "i1" }],
            "containers": [{ "name": "m0" }, { "name": "m1" }],
        }));
        let names = ["i0", "i1", "m0", "m1"];
        let mut seen = Seen::sandbox(&pod);
        for (name, fate) in names.iter().zip(&fates) {
            seen = match fate {
                Fate::Missing => seen,
                Fate::Running => seen.running(name, 0),
                Fate::Exited(code) => seen.exited(name, 0, *code, 10),
            };
        }
        let main_seen = !matches!((&fates[2], &fates[3]), (Fate::Missing, Fate::Missing));
        let actions = decide(&pod, seen);
        let mut started = BTreeMap::new();
        for start in &actions.start {
            *started.entry(start.name.clone()).or_insert(0) += 1;
            let index = names.iter().position(|name| *name == start.name).unwrap();
            prop_assert!(!matches!(fates[index], Fate::Running), "started what runs: {actions:?}");
            if start.role == Role::Main && !main_seen {
                prop_assert!(matches!(fates[1], Fate::Exited(0)), "main before init: {actions:?}");
            }
        }
        prop_assert!(started.values().all(|count| *count == 1));
        prop_assert!(actions.kill.is_empty(), "killed what runs well");
        prop_assert!(!actions.kill_pod || actions.start.is_empty());
    }
}

#[test]
fn attempts_go_on_from_the_status_where_the_runtime_has_forgotten_them() {
    for (container_id, attempt) in [(json!("docker://x"), "a#3"), (json!(null), "a#2")] {
        let mut pod = one("Always");
        let status = json!({ "name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 2, "containerID": container_id });
        pod.status = serde_json::from_value(json!({ "containerStatuses": [status] })).unwrap();
        assert_eq!(starts(&decide(&pod, Seen::sandbox(&pod))), [attempt]);
    }
}
