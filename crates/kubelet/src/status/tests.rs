use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodCondition;
use serde_json::json;

use super::*;
use crate::runtime::SandboxState;
use crate::testing::{Seen, at, pod};
use crate::verdicts::Verdict;

struct Case<'a> {
    pod: &'a Pod,
    seen: Seen<'a>,
    verdicts: Verdicts,
    waiting: BTreeMap<String, WaitingReason>,
    terminal: bool,
    failure: Option<PodFailure>,
}

impl<'a> Case<'a> {
    fn of(pod: &'a Pod, seen: Seen<'a>) -> Case<'a> {
        Case { pod, seen, verdicts: Verdicts::default(), waiting: BTreeMap::new(), terminal: false, failure: None }
    }

    fn waiting(mut self, name: &str, reason: &str, message: &str) -> Case<'a> {
        self.waiting.insert(name.into(), WaitingReason { reason: reason.into(), message: message.into() });
        self
    }

    fn terminal(mut self) -> Case<'a> {
        self.terminal = true;
        self
    }

    fn status(&self) -> PodStatus {
        pod_status(StatusInput {
            pod: self.pod,
            old: self.pod.status.as_ref().unwrap_or(&PodStatus::default()),
            observed: &self.seen.observed,
            verdicts: &self.verdicts,
            waiting: &self.waiting,
            runtime: "docker",
            host_ips: &["10.244.1.1".to_owned()],
            terminal: self.terminal,
            failure: self.failure.as_ref(),
            now: at(100),
        })
    }

    fn phase(&self) -> String {
        self.status().phase.unwrap()
    }
}

fn one(policy: &str) -> Pod {
    pod("p", json!({ "restartPolicy": policy, "containers": [{ "name": "a", "image": "busybox" }] }))
}

fn condition(status: &PodStatus, type_: &str) -> PodCondition {
    status.conditions.iter().flatten().find(|c| c.type_ == type_).cloned().unwrap()
}

#[test]
fn a_pod_that_has_just_come_is_pending_and_its_containers_are_being_created() {
    let pod = one("Always");
    let status = Case::of(&pod, Seen::nothing(&pod)).status();
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let state = status.container_statuses.as_ref().unwrap()[0].state.clone().unwrap();
    assert_eq!(state.waiting.unwrap().reason.as_deref(), Some("ContainerCreating"));
    let ready = condition(&status, "Ready");
    assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("False", Some("ContainersNotReady")));
    assert_eq!(ready.message.as_deref(), Some("containers with unready status: [a]"));
    assert_eq!(condition(&status, "Initialized").status, "True");
    assert_eq!(condition(&status, "PodReadyToStartContainers").status, "False");
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    assert_eq!(status.observed_generation, Some(1));
}

#[test]
fn a_running_pod_is_ready_and_shows_its_address() {
    let pod = one("Always");
    let status = Case::of(&pod, Seen::sandbox(&pod).running("a", 2)).status();
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(condition(&status, "Ready").status, "True");
    assert_eq!(status.pod_ip.as_deref(), Some("10.244.1.2"));
    assert_eq!(status.host_ip.as_deref(), Some("10.244.1.1"));
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(container.container_id.as_deref(), Some("docker://a-2"));
    assert_eq!((container.restart_count, container.ready, container.started), (2, true, Some(true)));
}

#[test]
fn the_phase_follows_from_containers_and_policy() {
    for (policy, exit_code, expected) in [
        ("Always", 0, "Running"),
        ("Always", 1, "Running"),
        ("OnFailure", 0, "Succeeded"),
        ("OnFailure", 1, "Running"),
        ("Never", 0, "Succeeded"),
        ("Never", 1, "Failed"),
    ] {
        let pod = one(policy);
        let case = Case::of(&pod, Seen::sandbox(&pod).exited("a", 0, exit_code, 5));
        assert_eq!(case.phase(), expected, "{policy} {exit_code}");
        let terminal = case.terminal().phase();
        assert_eq!(terminal, if exit_code == 0 { "Succeeded" } else { "Failed" }, "{policy} {exit_code} at its end");
    }
}

#[test]
fn a_crash_loop_shows_the_wait_and_the_end_before() {
    let pod = one("Always");
    let status = Case::of(&pod, Seen::sandbox(&pod).exited("a", 3, 1, 5))
        .waiting("a", "CrashLoopBackOff", "back-off 40s restarting failed container=a pod=p_default(uid-p)")
        .status();
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(container.restart_count, 3);
    assert_eq!(container.state.clone().unwrap().waiting.unwrap().reason.as_deref(), Some("CrashLoopBackOff"));
    let ended = container.last_state.clone().unwrap().terminated.unwrap();
    assert_eq!((ended.exit_code, ended.reason.as_deref()), (1, Some("Error")));
}

#[test]
fn an_image_that_cannot_be_pulled_keeps_the_pod_pending() {
    let pod = one("Always");
    let case = Case::of(&pod, Seen::sandbox(&pod)).waiting("a", "ErrImagePull", "no such image");
    assert_eq!(case.phase(), "Pending");
}

#[test]
fn the_instance_before_is_the_last_state() {
    let pod = one("Always");
    let status = Case::of(&pod, Seen::sandbox(&pod).exited("a", 0, 137, 5).running("a", 1)).status();
    let container = &status.container_statuses.unwrap()[0];
    assert_eq!(container.last_state.clone().unwrap().terminated.unwrap().exit_code, 137);
    assert_eq!(container.restart_count, 1);
}

#[test]
fn init_containers_hold_the_pod_back() {
    let pod = pod("p", json!({ "initContainers": [{ "name": "i" }], "containers": [{ "name": "a" }] }));
    let status = Case::of(&pod, Seen::sandbox(&pod).running("i", 0)).status();
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let initialized = condition(&status, "Initialized");
    assert_eq!(initialized.reason.as_deref(), Some("ContainersNotInitialized"));
    assert_eq!(initialized.message.as_deref(), Some("containers with incomplete status: [i]"));
    let state = status.container_statuses.unwrap()[0].state.clone().unwrap();
    assert_eq!(state.waiting.unwrap().reason.as_deref(), Some("PodInitializing"));

    let done = Case::of(&pod, Seen::sandbox(&pod).exited("i", 0, 0, 5).running("a", 0)).status();
    assert_eq!(done.phase.as_deref(), Some("Running"));
    assert!(done.init_container_statuses.unwrap()[0].ready);
}

#[test]
fn readiness_follows_the_probes() {
    let probe = json!({ "exec": { "command": ["true"] } });
    let pod = pod("p", json!({ "containers": [{ "name": "a", "readinessProbe": probe, "startupProbe": probe }] }));
    for (startup, readiness, started, ready) in [
        (None, None, false, false),
        (Some(true), None, true, false),
        (Some(true), Some(false), true, false),
        (Some(true), Some(true), true, true),
        (None, Some(true), false, false),
    ] {
        let mut case = Case::of(&pod, Seen::sandbox(&pod).running("a", 0));
        case.verdicts.0.insert("a-0".into(), Verdict { startup, readiness, liveness: None });
        let container = case.status().container_statuses.unwrap()[0].clone();
        assert_eq!((container.started, container.ready), (Some(started), ready));
    }
}

#[test]
fn a_readiness_gate_must_agree() {
    let mut pod =
        pod("p", json!({ "readinessGates": [{ "conditionType": "x.io/up" }], "containers": [{ "name": "a" }] }));
    let ready = |pod: &Pod| condition(&Case::of(pod, Seen::sandbox(pod).running("a", 0)).status(), "Ready");
    let message = "corresponding condition of pod readiness gate \"x.io/up\" does not exist.";
    assert_eq!(ready(&pod).message.as_deref(), Some(message));
    let gate = PodCondition { type_: "x.io/up".into(), status: "True".into(), ..PodCondition::default() };
    pod.status = Some(PodStatus { conditions: Some(vec![gate]), ..PodStatus::default() });
    assert_eq!(ready(&pod).status, "True");
}

#[test]
fn what_has_ended_stays_ended() {
    let mut pod = one("Never");
    let finished = Case::of(&pod, Seen::sandbox(&pod).exited("a", 0, 0, 5)).terminal().status();
    assert_eq!(condition(&finished, "Ready").reason.as_deref(), Some("PodCompleted"));
    pod.status = Some(finished);
    let status = Case::of(&pod, Seen::nothing(&pod)).status();
    assert_eq!(status.phase.as_deref(), Some("Succeeded"));
    assert_eq!(status.container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap().exit_code, 0);
}

#[test]
fn a_pod_failed_by_the_kubelet_says_why() {
    let pod = one("Always");
    let mut case = Case::of(&pod, Seen::nothing(&pod).with_sandbox(0, SandboxState::NotReady).exited("a", 0, 137, 5));
    case.failure = Some(PodFailure::new("DeadlineExceeded", "too long"));
    let status = case.terminal().status();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("DeadlineExceeded")));
}

#[test]
fn a_status_computed_twice_is_the_same() {
    let mut pod = one("Always");
    let first = Case::of(&pod, Seen::sandbox(&pod).running("a", 0)).status();
    pod.status = Some(first.clone());
    assert_eq!(Case::of(&pod, Seen::sandbox(&pod).running("a", 0)).status(), first);
}

#[test]
fn a_container_that_vanished_was_restarted_once() {
    let ending = |pod: &Pod| Case::of(pod, Seen::nothing(pod)).status().container_statuses.unwrap()[0].restart_count;
    let mut pod = one("Always");
    pod.status = serde_json::from_value(json!({ "phase": "Running", "containerStatuses": [{
        "name": "a", "image": "busybox", "imageID": "", "ready": true, "restartCount": 2, "containerID": "docker://x",
        "state": { "running": { "startedAt": null } },
    }] }))
    .unwrap();
    pod.metadata.deletion_timestamp = Some(Time(at(0)));
    assert_eq!(ending(&pod), 2, "what ends is not started again");
    pod.metadata.deletion_timestamp = None;
    let first = Case::of(&pod, Seen::nothing(&pod)).status();
    pod.status = Some(first.clone());
    for status in [first, Case::of(&pod, Seen::nothing(&pod)).status()] {
        let shown = &status.container_statuses.as_ref().unwrap()[0];
        let ended = shown.last_state.as_ref().and_then(|state| state.terminated.as_ref()).unwrap();
        assert_eq!((shown.restart_count, ended.exit_code, &shown.container_id), (3, 137, &None));
        assert_eq!(status.phase.as_deref(), Some("Running"));
    }
}
