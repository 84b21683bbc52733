//! The plan as tables, and that it arrives.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::plan::{INDEX, TRACKING, finished, parse_indexes, print_indexes, step};
use super::policy;
use crate::pods;

fn job(spec: Value, status: Value) -> Job {
    serde_json::from_value(json!({ "metadata": { "name": "j", "uid": "j" }, "spec": spec, "status": status })).unwrap()
}

fn pod(name: &str, phase: &str, index: Option<i32>) -> Arc<Pod> {
    let annotations = index.map(|index| json!({ INDEX: index.to_string() }));
    Arc::new(
        serde_json::from_value(json!({
            "metadata": { "name": name, "uid": name, "finalizers": [TRACKING], "annotations": annotations,
                          "creationTimestamp": "2026-01-01T00:00:00Z" },
            "status": { "phase": phase },
        }))
        .unwrap(),
    )
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn parallelism_and_what_is_left_bound_the_pods() {
    let now = at("2026-01-01T00:10:00Z");
    for (spec, pods, create, delete) in [
        (json!({ "parallelism": 2, "completions": 5 }), vec![], 2, 0),
        (json!({ "parallelism": 2, "completions": 2 }), vec![pod("a", "Succeeded", None)], 1, 0),
        (
            json!({ "parallelism": 1, "completions": 3 }),
            vec![pod("a", "Running", None), pod("b", "Running", None)],
            0,
            1,
        ),
        (json!({ "parallelism": 3 }), vec![pod("a", "Succeeded", None), pod("b", "Running", None)], 0, 0),
        (json!({ "parallelism": 2, "completions": 5, "suspend": true }), vec![pod("a", "Running", None)], 0, 1),
    ] {
        let step = step(&job(spec.clone(), json!({})), &pods, true, now);
        assert_eq!((step.create.len(), step.delete.len()), (create, delete), "{spec}");
    }
}

#[test]
fn an_indexed_job_runs_each_index_once() {
    let spec = json!({ "parallelism": 3, "completions": 6, "completionMode": "Indexed" });
    let pods = [pod("a", "Succeeded", Some(0)), pod("b", "Running", Some(2))];
    let step = step(&job(spec, json!({ "completedIndexes": "1,5" })), &pods, true, at("2026-01-01T00:10:00Z"));
    assert_eq!(step.create, [Some(3), Some(4)]);
    assert_eq!((step.status.completed_indexes.as_deref(), step.status.succeeded), (Some("0,1,5"), Some(3)));
}

#[test]
fn failures_back_off_and_then_fail_the_job() {
    let spec = json!({ "parallelism": 1, "completions": 1, "backoffLimit": 1 });
    let one = [pod("a", "Failed", None)];
    let early = step(&job(spec.clone(), json!({})), &one, true, at("2026-01-01T00:00:04Z"));
    assert_eq!((early.create.len(), early.again), (0, Some(Duration::from_secs(6))));
    assert_eq!(step(&job(spec.clone(), json!({})), &one, true, at("2026-01-01T00:00:10Z")).create.len(), 1);
    let two = [pod("a", "Failed", None), pod("b", "Failed", None)];
    let failed = step(&job(spec, json!({})), &two, true, at("2026-01-01T00:10:00Z"));
    let condition = finished(&failed.status).unwrap();
    assert_eq!((condition.type_.as_str(), condition.reason.as_deref()), ("Failed", Some("BackoffLimitExceeded")));
    assert_eq!(failed.counted.len(), 2);
}

#[test]
fn nobody_is_counted_twice() {
    let spec = json!({ "parallelism": 1, "completions": 3 });
    let pods = [pod("a", "Succeeded", None)];
    let first = step(&job(spec.clone(), json!({})), &pods, true, at("2026-01-01T00:10:00Z"));
    assert_eq!(first.status.succeeded, Some(1));
    let again = step(&job(spec, serde_json::to_value(&first.status).unwrap()), &pods, true, at("2026-01-01T00:10:01Z"));
    assert_eq!(again.status.succeeded, Some(1));
}

#[test]
fn a_job_past_its_deadline_fails_when_its_pods_are_gone() {
    let spec = json!({ "parallelism": 1, "completions": 1, "activeDeadlineSeconds": 60 });
    let status = json!({ "startTime": "2026-01-01T00:00:00Z" });
    let running =
        step(&job(spec.clone(), status.clone()), &[pod("a", "Running", None)], true, at("2026-01-01T00:01:00Z"));
    assert_eq!((running.delete.len(), finished(&running.status)), (1, None));
    let gone = step(&job(spec, status), &[], true, at("2026-01-01T00:01:01Z"));
    assert_eq!(
        finished(&gone.status).unwrap().message.as_deref(),
        Some("Job was active longer than specified deadline")
    );
}

#[test]
fn indexes_print_as_ranges() {
    let set = BTreeSet::from([0, 1, 3, 4, 5, 9]);
    assert_eq!(print_indexes(&set), "0,1,3-5,9");
    assert_eq!(parse_indexes("0,1,3-5,9"), set);
    assert!(parse_indexes("").is_empty());
}

#[test]
fn with_a_limit_for_each_index_one_index_is_given_up_and_the_others_go_on() {
    let spec = json!({ "parallelism": 2, "completions": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1 });
    let failed = |name: &str, failures: i32| {
        let mut pod = pod(name, "Failed", Some(0)).as_ref().clone();
        pod.annotations_mut().insert("batch.kubernetes.io/job-index-failure-count".into(), failures.to_string());
        Arc::new(pod)
    };
    let now = at("2026-01-01T00:10:00Z");
    let once = step(&job(spec.clone(), json!({})), &[failed("a", 0)], true, now);
    assert_eq!(
        (once.create.as_slice(), once.counted.len()),
        ([Some(0), Some(1)].as_slice(), 0),
        "the count is needed still"
    );
    let early = step(&job(spec.clone(), json!({})), &[failed("a", 0)], true, at("2026-01-01T00:00:04Z"));
    assert_eq!((early.create.as_slice(), early.again), ([Some(1)].as_slice(), Some(Duration::from_secs(6))));
    let twice = step(&job(spec, json!({})), &[failed("a", 0), failed("b", 1)], true, now);
    assert_eq!((twice.create.as_slice(), twice.counted.len()), ([Some(1)].as_slice(), 2));
    assert_eq!((twice.status.failed_indexes.as_deref(), twice.status.failed), (Some("0"), Some(2)));
}

proptest! {
    #[test]
    fn every_job_ends_and_every_pod_is_counted_once(
        completions in 1..5i32, parallelism in 1..4i32, indexed: bool, per_index in proptest::option::of(0..3i32),
        limit in 0..4i32, outcomes in proptest::collection::vec(any::<bool>(), 1..40),
    ) {
        let mut spec = json!({ "completions": completions, "parallelism": parallelism, "backoffLimit": limit, "template": {} });
        if indexed {
            spec["completionMode"] = json!("Indexed");
            spec["backoffLimitPerIndex"] = json!(per_index);
        }
        let (mut job, mut pods, mut created) = (job(spec, json!({})), Vec::<Arc<Pod>>::new(), 0);
        let (mut now, mut ended) = (at("2026-01-01T00:00:00Z"), 0);
        for round in 0.. {
            prop_assert!(round < 100, "still at it: {:?}", job.status);
            now += Duration::from_secs(1200);
            let next = step(&job, &pods, true, now);
            job.status = Some(next.status);
            for pod in &mut pods {
                if next.counted.iter().any(|counted| counted.uid() == pod.uid()) {
                    Arc::make_mut(pod).metadata.finalizers = None;
                }
            }
            // What is deleted while it runs ends as failed.
            let deleted = |pod: &Arc<Pod>| next.delete.iter().any(|gone| gone.uid() == pod.uid());
            let end = |pod: &mut Arc<Pod>, succeeds: bool| {
                let phase = if succeeds { "Succeeded" } else { "Failed" };
                Arc::make_mut(pod).status.get_or_insert_default().phase = Some(phase.into());
            };
            for pod in pods.iter_mut().filter(|pod| !pods::is_finished(pod)) {
                let succeeds = outcomes[ended % outcomes.len()] && !deleted(pod);
                end(pod, succeeds);
                ended += 1;
            }
            if finished(job.status.as_ref().unwrap()).is_some() {
                break;
            }
            for index in next.create {
                created += 1;
                let mut new = pod(&format!("p{created}"), "Running", index).as_ref().clone();
                new.annotations_mut().extend(index.iter().flat_map(|index| policy::carry_on(job.spec.as_ref().unwrap(), &pods, *index)));
                pods.push(Arc::new(new));
            }
        }
        let status = job.status.clone().unwrap();
        let counted = status.succeeded.unwrap_or_default() + status.failed.unwrap_or_default();
        prop_assert!(pods.iter().all(|pod| pod.metadata.finalizers.is_none() || pods::is_finished(pod)));
        // An index that succeeds twice counts once; nothing else is lost or counted twice.
        prop_assert!(counted <= created && (indexed || counted == created), "{counted} of {created}: {status:?}");
        let complete = finished(&status).unwrap().type_ == "Complete";
        prop_assert_eq!(complete, status.succeeded.unwrap_or_default() >= completions);
    }
}
