//! The decisions of the Job controller.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::pods;

/// The finalizer that keeps a Job's pod until it has been counted.
pub(super) const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// Which completion of an Indexed Job a pod works on.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// The first delay before a failed pod is replaced; it doubles with each failure, up to [`BACKOFF_MAX`].
const BACKOFF: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_secs(600);

/// One step of a Job.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Step {
    pub(super) status: JobStatus,
    /// Pods to create: their completion index, for Indexed Jobs.
    pub(super) create: Vec<Option<i32>>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Pods counted with this status: their finalizer goes when it is written.
    pub(super) counted: Vec<Arc<Pod>>,
    /// When to look again.
    pub(super) again: Option<Duration>,
    /// Reason and message to tell, and whether it is a warning.
    pub(super) tell: Option<(bool, &'static str, String)>,
}

/// The index a pod works on.
pub(super) fn index_of(pod: &Pod) -> Option<i32> {
    pod.annotations().get(INDEX)?.parse().ok()
}

/// Parses `1,3-5` into a set.
pub(super) fn parse_indexes(text: &str) -> BTreeSet<i32> {
    let ranges = text.split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<i32>().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

/// Prints a set as `1,3-5`; two neighbours as `1,2`.
pub(super) fn print_indexes(indexes: &BTreeSet<i32>) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for &index in indexes {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            _ => runs.push((index, index)),
        }
    }
    let print = |(first, last): (i32, i32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    runs.into_iter().map(print).collect::<Vec<_>>().join(",")
}

/// Whether the Job has ended, and how.
pub(crate) fn finished(status: &JobStatus) -> Option<&JobCondition> {
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|c| c.status == "True" && matches!(c.type_.as_str(), "Complete" | "Failed"))
}

fn has(status: &JobStatus, type_: &str) -> bool {
    status.conditions.iter().flatten().any(|condition| condition.type_ == type_ && condition.status == "True")
}

fn add_condition(status: &mut JobStatus, type_: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != type_);
    conditions.push(JobCondition {
        type_: type_.into(),
        status: value.into(),
        reason: (!reason.is_empty()).then(|| reason.into()),
        message: (!message.is_empty()).then(|| message.into()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
}

/// What a Job needs next. `may_create` is false while earlier creations or deletions have not been seen yet.
pub(super) fn step(job: &Job, pods: &[Arc<Pod>], may_create: bool, now: Timestamp) -> Step {
    let spec = job.spec.clone().unwrap_or_default();
    let mut step = Step { status: job.status.clone().unwrap_or_default(), ..Step::default() };
    let indexed = spec.completion_mode.as_deref() == Some("Indexed");
    let suspended = spec.suspend == Some(true);
    if step.status.start_time.is_none() && !suspended {
        step.status.start_time = Some(Time(now));
    }
    if finished(&step.status).is_some() {
        step.counted = pods.iter().filter(|pod| is_tracked(pod)).cloned().collect();
        return step;
    }
    count(&mut step, pods, indexed, &spec);
    let active: Vec<_> = pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
    let terminating = pods.iter().filter(|pod| pods::is_terminating(pod) && !pods::is_finished(pod)).count();
    if let Some((reason, message)) = failure(&spec, &step.status, now) {
        fail(&mut step, &active, terminating, reason, &message, now);
    } else if is_complete(&spec, &step.status, &active, indexed) {
        succeed(&mut step, &active, terminating, now);
    } else if suspended {
        suspend(&mut step, &active, now);
    } else {
        resume(&mut step, now);
        manage(&mut step, &spec, pods, &active, terminating, may_create, now);
    }
    let ready = active.iter().filter(|pod| pods::is_ready(pod)).count();
    step.status.ready = Some(to_i32(ready));
    step.status.terminating = Some(to_i32(terminating));
    if let (Some(limit), Some(start), None) =
        (spec.active_deadline_seconds, &step.status.start_time, finished(&step.status))
    {
        let deadline = pods::until(start.0 + Duration::from_secs(limit.max(0).unsigned_abs()), now);
        let deadline = deadline.max(Duration::from_secs(1));
        step.again = Some(step.again.map_or(deadline, |again| again.min(deadline)));
    }
    step
}

fn is_tracked(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|finalizer| finalizer == TRACKING)
}

/// Counts pods that ended and still have their finalizer. Their UIDs stand in `uncountedTerminatedPods` until the
/// finalizer is off, so that a crash between the two writes counts nobody twice.
fn count(step: &mut Step, pods: &[Arc<Pod>], indexed: bool, spec: &JobSpec) {
    let status = &mut step.status;
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let known: BTreeSet<_> = uncounted.succeeded.iter().chain(&uncounted.failed).flatten().cloned().collect();
    let mut pending = UncountedTerminatedPods::default();
    let mut completed = parse_indexes(status.completed_indexes.as_deref().unwrap_or_default());
    for pod in pods.iter().filter(|pod| is_tracked(pod)) {
        let succeeded = pods::phase(pod) == "Succeeded";
        // A pod that was deleted before it ended has failed its Job.
        let failed = pods::phase(pod) == "Failed" || (pods::is_terminating(pod) && !succeeded);
        if !(succeeded || failed) {
            continue;
        }
        let uid = pod.uid().unwrap_or_default();
        let is_new = !known.contains(&uid);
        if succeeded {
            if let Some(index) = index_of(pod).filter(|_| indexed) {
                completed.insert(index);
            } else if is_new {
                *status.succeeded.get_or_insert_default() += 1;
            }
            pending.succeeded.get_or_insert_default().push(uid);
        } else {
            if is_new {
                *status.failed.get_or_insert_default() += 1;
            }
            pending.failed.get_or_insert_default().push(uid);
        }
        step.counted.push(pod.clone());
    }
    if indexed {
        completed.retain(|index| *index < spec.completions.unwrap_or_default());
        status.succeeded = Some(to_i32(completed.len()));
        status.completed_indexes = (!completed.is_empty()).then(|| print_indexes(&completed));
    }
    status.uncounted_terminated_pods = Some(pending);
}

/// Why the Job fails, if it does.
fn failure(spec: &JobSpec, status: &JobStatus, now: Timestamp) -> Option<(&'static str, String)> {
    let target = status.conditions.iter().flatten().find(|c| c.type_ == "FailureTarget" && c.status == "True");
    if let Some(target) = target {
        let known = ["BackoffLimitExceeded", "DeadlineExceeded"];
        let reason = known.into_iter().find(|reason| target.reason.as_deref() == Some(reason));
        return Some((reason.unwrap_or("BackoffLimitExceeded"), target.message.clone().unwrap_or_default()));
    }
    if status.failed.unwrap_or_default() > spec.backoff_limit.unwrap_or(6) {
        return Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit".into()));
    }
    let running_for = status.start_time.as_ref().map(|start| now.duration_since(start.0).as_secs());
    let overdue = spec.active_deadline_seconds.zip(running_for).is_some_and(|(limit, time)| time >= limit);
    (overdue && spec.suspend != Some(true))
        .then(|| ("DeadlineExceeded", "Job was active longer than specified deadline".into()))
}

fn fail(step: &mut Step, active: &[Arc<Pod>], terminating: usize, reason: &'static str, message: &str, now: Timestamp) {
    if !has(&step.status, "FailureTarget") {
        add_condition(&mut step.status, "FailureTarget", "True", reason, message, now);
    }
    step.delete = active.to_vec();
    step.status.active = Some(0);
    if active.is_empty() && terminating == 0 {
        add_condition(&mut step.status, "Failed", "True", reason, message, now);
        step.status.uncounted_terminated_pods = Some(UncountedTerminatedPods::default());
        step.tell = Some((true, reason, message.into()));
    }
}

/// A Job without a number of completions is complete when one pod has succeeded and no other runs.
fn is_complete(spec: &JobSpec, status: &JobStatus, active: &[Arc<Pod>], indexed: bool) -> bool {
    let succeeded = status.succeeded.unwrap_or_default();
    match spec.completions {
        None if indexed => false,
        None => succeeded > 0 && active.is_empty(),
        Some(completions) => succeeded >= completions,
    }
}

fn succeed(step: &mut Step, active: &[Arc<Pod>], terminating: usize, now: Timestamp) {
    const REASON: &str = "CompletionsReached";
    const MESSAGE: &str = "Reached expected number of succeeded pods";
    if !has(&step.status, "SuccessCriteriaMet") {
        add_condition(&mut step.status, "SuccessCriteriaMet", "True", REASON, MESSAGE, now);
    }
    step.delete = active.to_vec();
    step.status.active = Some(0);
    if active.is_empty() && terminating == 0 {
        add_condition(&mut step.status, "Complete", "True", REASON, MESSAGE, now);
        step.status.completion_time = Some(Time(now));
        step.status.uncounted_terminated_pods = Some(UncountedTerminatedPods::default());
        step.tell = Some((false, "Completed", "Job completed".into()));
    }
}

fn suspend(step: &mut Step, active: &[Arc<Pod>], now: Timestamp) {
    step.delete = active.to_vec();
    step.status.active = Some(0);
    step.status.start_time = None;
    if !has(&step.status, "Suspended") {
        add_condition(&mut step.status, "Suspended", "True", "JobSuspended", "Job suspended", now);
        step.tell = Some((false, "Suspended", "Job suspended".into()));
    }
}

fn resume(step: &mut Step, now: Timestamp) {
    if has(&step.status, "Suspended") {
        add_condition(&mut step.status, "Suspended", "False", "JobResumed", "Job resumed", now);
        step.status.start_time = Some(Time(now));
        step.tell = Some((false, "Resumed", "Job resumed".into()));
    }
}

/// Keeps as many pods active as parallelism and what is left to do allow.
fn manage(
    step: &mut Step,
    spec: &JobSpec,
    pods: &[Arc<Pod>],
    active: &[Arc<Pod>],
    terminating: usize,
    may_create: bool,
    now: Timestamp,
) {
    let parallelism = usize::try_from(spec.parallelism.unwrap_or(1)).unwrap_or_default();
    let succeeded = step.status.succeeded.unwrap_or_default();
    let wanted = match spec.completions {
        Some(completions) => parallelism.min(usize::try_from(completions - succeeded).unwrap_or_default()),
        // A work queue: once one pod has succeeded, no new ones are started.
        None if succeeded > 0 => active.len().min(parallelism),
        None => parallelism,
    };
    step.status.active = Some(to_i32(active.len()));
    if active.len() > wanted {
        let mut surplus = active.to_vec();
        pods::sort_for_deletion(&mut surplus, &Default::default(), now);
        surplus.truncate(active.len() - wanted);
        step.status.active = Some(to_i32(wanted));
        step.delete = surplus;
        return;
    }
    let wait_for_end = spec.pod_replacement_policy.as_deref() == Some("Failed");
    let missing = (wanted - active.len()).saturating_sub(if wait_for_end { terminating } else { 0 });
    if missing == 0 || !may_create {
        return;
    }
    let delay = backoff(pods, now);
    if !delay.is_zero() {
        step.again = Some(delay);
        return;
    }
    step.create = if spec.completion_mode.as_deref() == Some("Indexed") {
        let completed = parse_indexes(step.status.completed_indexes.as_deref().unwrap_or_default());
        let taken: BTreeSet<_> = active.iter().filter_map(|pod| index_of(pod)).chain(completed).collect();
        (0..spec.completions.unwrap_or_default())
            .filter(|index| !taken.contains(index))
            .take(missing)
            .map(Some)
            .collect()
    } else {
        vec![None; missing]
    };
    step.status.active = Some(to_i32(active.len() + step.create.len()));
}

/// How much longer to wait after failures: as long as the failures since the last success demand.
fn backoff(pods: &[Arc<Pod>], now: Timestamp) -> Duration {
    let end = |pod: &Pod| {
        let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let ended = statuses.filter_map(|status| status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
        let ready = pods::condition(pod, "Ready").and_then(|condition| condition.last_transition_time.as_ref());
        ended.map(|time| time.0).max().or(ready.map(|time| time.0)).or(pod.creation_timestamp().map(|time| time.0))
    };
    let last_success = pods.iter().filter(|pod| pods::phase(pod) == "Succeeded").filter_map(|pod| end(pod)).max();
    let failures: Vec<_> = pods
        .iter()
        .filter(|pod| pods::phase(pod) == "Failed")
        .filter_map(|pod| end(pod))
        .filter(|at| last_success.is_none_or(|success| *at > success))
        .collect();
    let Some(last) = failures.iter().max() else { return Duration::ZERO };
    let doublings = u32::try_from(failures.len() - 1).unwrap_or(u32::MAX).min(16);
    pods::until(*last + (BACKOFF * 2u32.pow(doublings)).min(BACKOFF_MAX), now)
}

fn to_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn job(spec: Value, status: Value) -> Job {
        serde_json::from_value(json!({ "metadata": { "name": "j", "uid": "j" }, "spec": spec, "status": status }))
            .unwrap()
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
        let again =
            step(&job(spec, serde_json::to_value(&first.status).unwrap()), &pods, true, at("2026-01-01T00:10:01Z"));
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
}
