//! The decisions of the Job controller.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::policy::{self, Verdict};
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
    let completed = completed_indexes(&spec, &step.status, pods);
    let failed = policy::failed_indexes(&spec, step.status.failed_indexes.as_deref().unwrap_or_default(), pods);
    if spec.backoff_limit_per_index.is_some() {
        step.status.failed_indexes = Some(print_indexes(&failed));
    }
    let ends = failure(&spec, &step.status, pods, now).is_some() || is_met(&spec, &step.status, &completed).is_some();
    let settled = completed.union(&failed).copied().collect();
    let kept = if ends { BTreeSet::new() } else { policy::kept(&spec, pods, &settled) };
    count(&mut step, pods, &spec, &kept);
    if indexed {
        step.status.succeeded = Some(to_i32(completed.len()));
        step.status.completed_indexes = (!completed.is_empty()).then(|| print_indexes(&completed));
    }
    let active: Vec<_> = pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
    let terminating = pods.iter().filter(|pod| pods::is_terminating(pod) && !pods::is_finished(pod)).count();
    let met = is_met(&spec, &step.status, &completed);
    if let Some((reason, message)) = failure(&spec, &step.status, pods, now) {
        fail(&mut step, &active, terminating, reason, &message, now);
    } else if let Some((reason, message)) = met.or(is_complete(&spec, &step.status, &active, indexed)) {
        succeed(&mut step, &active, terminating, (&reason, &message), now);
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
        let deadline = pods::until(pods::later(start.0, limit.max(0)), now);
        let deadline = deadline.max(Duration::from_secs(1));
        step.again = Some(step.again.map_or(deadline, |again| again.min(deadline)));
    }
    step
}

fn is_tracked(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|finalizer| finalizer == TRACKING)
}

/// Which indexes of an Indexed Job have succeeded.
fn completed_indexes(spec: &JobSpec, status: &JobStatus, pods: &[Arc<Pod>]) -> BTreeSet<i32> {
    let mut completed = parse_indexes(status.completed_indexes.as_deref().unwrap_or_default());
    let succeeded = pods.iter().filter(|pod| is_tracked(pod) && pods::phase(pod) == "Succeeded");
    completed.extend(succeeded.filter_map(|pod| index_of(pod)));
    completed.retain(|index| *index < spec.completions.unwrap_or_default());
    completed
}

/// Counts pods that ended and still have their finalizer, but for those that are `kept`. Their UIDs stand in
/// `uncountedTerminatedPods` until the finalizer is off, so that a crash between the two writes counts nobody twice.
fn count(step: &mut Step, pods: &[Arc<Pod>], spec: &JobSpec, kept: &BTreeSet<String>) {
    let status = &mut step.status;
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let known: BTreeSet<_> = uncounted.succeeded.iter().chain(&uncounted.failed).flatten().cloned().collect();
    let mut pending = UncountedTerminatedPods::default();
    for pod in pods.iter().filter(|pod| is_tracked(pod)) {
        let (succeeded, failed) = (pods::phase(pod) == "Succeeded", policy::is_failed(spec, pod));
        let uid = pod.uid().unwrap_or_default();
        if !(succeeded || failed) || kept.contains(&uid) {
            continue;
        }
        let is_new = i32::from(!known.contains(&uid));
        if succeeded {
            *status.succeeded.get_or_insert_default() += is_new;
            pending.succeeded.get_or_insert_default().push(uid);
        } else if policy::judge(spec, pod) != Verdict::Ignored {
            *status.failed.get_or_insert_default() += is_new;
            pending.failed.get_or_insert_default().push(uid);
        }
        step.counted.push(pod.clone());
    }
    status.uncounted_terminated_pods = Some(pending);
}

/// Why the Job fails, if it does.
fn failure(spec: &JobSpec, status: &JobStatus, all: &[Arc<Pod>], now: Timestamp) -> Option<(&'static str, String)> {
    const REASONS: [&str; 5] =
        ["BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy", "MaxFailedIndexesExceeded", "FailedIndexes"];
    if has(status, "SuccessCriteriaMet") {
        return None;
    }
    let target = status.conditions.iter().flatten().find(|c| c.type_ == "FailureTarget" && c.status == "True");
    if let Some(target) = target {
        let reason = REASONS.into_iter().find(|reason| target.reason.as_deref() == Some(reason));
        return Some((reason.unwrap_or(REASONS[0]), target.message.clone().unwrap_or_default()));
    }
    for pod in all.iter().filter(|pod| policy::is_failed(spec, pod)) {
        if let Verdict::FailsJob(why) = policy::judge(spec, pod) {
            return Some(("PodFailurePolicy", why));
        }
    }
    let limit = spec.backoff_limit.unwrap_or(6);
    if status.failed.unwrap_or_default() > limit || restarts(spec, all).is_some_and(|count| count >= limit.max(1)) {
        return Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit".into()));
    }
    let running_for = status.start_time.as_ref().map(|start| now.duration_since(start.0).as_secs());
    let overdue = spec.active_deadline_seconds.zip(running_for).is_some_and(|(limit, time)| time >= limit);
    if overdue && spec.suspend != Some(true) {
        return Some(("DeadlineExceeded", "Job was active longer than specified deadline".into()));
    }
    let failed = to_i32(parse_indexes(status.failed_indexes.as_deref().unwrap_or_default()).len());
    if spec.max_failed_indexes.is_some_and(|most| failed > most) {
        let why = "Job has exceeded the specified maximal number of failed indexes";
        return Some(("MaxFailedIndexesExceeded", why.into()));
    }
    let done = failed + to_i32(completed_indexes(spec, status, all).len());
    (failed > 0 && spec.completions.is_some_and(|all| done >= all))
        .then(|| ("FailedIndexes", "Job has failed indexes".into()))
}

/// How often the containers of a Job's live pods were restarted, if that is what happens to those that fail.
fn restarts(spec: &JobSpec, all: &[Arc<Pod>]) -> Option<i32> {
    let template = spec.template.spec.as_ref().filter(|spec| spec.restart_policy.as_deref() == Some("OnFailure"));
    template?;
    let live = all.iter().filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
    let statuses = live
        .filter_map(|pod| pod.status.as_ref())
        .flat_map(|status| status.container_statuses.iter().chain(&status.init_container_statuses).flatten());
    Some(statuses.map(|status| status.restart_count).sum())
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

/// Reason and message of success by the policy, or as decided before.
fn is_met(spec: &JobSpec, status: &JobStatus, completed: &BTreeSet<i32>) -> Option<(String, String)> {
    let met = status.conditions.iter().flatten().find(|c| c.type_ == "SuccessCriteriaMet" && c.status == "True");
    if let Some(met) = met {
        return Some((met.reason.clone().unwrap_or_default(), met.message.clone().unwrap_or_default()));
    }
    policy::success(spec, completed).map(|message| ("SuccessPolicy".into(), message))
}

/// A Job without a number of completions is complete when one pod has succeeded and no other runs.
fn is_complete(spec: &JobSpec, status: &JobStatus, active: &[Arc<Pod>], indexed: bool) -> Option<(String, String)> {
    let succeeded = status.succeeded.unwrap_or_default();
    let complete = match spec.completions {
        None if indexed => false,
        None => succeeded > 0 && active.is_empty(),
        Some(completions) => succeeded >= completions,
    };
    complete.then(|| ("CompletionsReached".into(), "Reached expected number of succeeded pods".into()))
}

fn succeed(step: &mut Step, active: &[Arc<Pod>], terminating: usize, (reason, message): (&str, &str), now: Timestamp) {
    if !has(&step.status, "SuccessCriteriaMet") {
        add_condition(&mut step.status, "SuccessCriteriaMet", "True", reason, message, now);
    }
    step.delete = active.to_vec();
    step.status.active = Some(0);
    if active.is_empty() && terminating == 0 {
        add_condition(&mut step.status, "Complete", "True", reason, message, now);
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
    let failed = parse_indexes(step.status.failed_indexes.as_deref().unwrap_or_default());
    let wanted = match spec.completions {
        Some(completions) => {
            let left = usize::try_from(completions - succeeded).unwrap_or_default();
            parallelism.min(left.saturating_sub(failed.len()))
        }
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
    let per_index = spec.backoff_limit_per_index.is_some();
    let delay = if per_index { Duration::ZERO } else { backoff(pods, now) };
    if !delay.is_zero() {
        step.again = Some(delay);
        return;
    }
    if spec.completion_mode.as_deref() == Some("Indexed") {
        let completed = parse_indexes(step.status.completed_indexes.as_deref().unwrap_or_default());
        let going = pods.iter().filter(|pod| wait_for_end && pods::is_terminating(pod) && !pods::is_finished(pod));
        let taken: BTreeSet<_> =
            active.iter().chain(going).filter_map(|pod| index_of(pod)).chain(completed).chain(failed).collect();
        for index in (0..spec.completions.unwrap_or_default()).filter(|index| !taken.contains(index)) {
            let wait = if per_index { policy::index_backoff(spec, pods, index, now) } else { Duration::ZERO };
            if !wait.is_zero() {
                step.again = step.again.into_iter().chain([wait]).min();
            } else if step.create.len() < missing {
                step.create.push(Some(index));
            }
        }
    } else {
        step.create = vec![None; missing];
    }
    step.status.active = Some(to_i32(active.len() + step.create.len()));
}

/// When a pod's last container ended; about when, if nobody wrote that down.
pub(super) fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let ended = statuses.filter_map(|status| status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    let ready = pods::condition(pod, "Ready").and_then(|condition| condition.last_transition_time.as_ref());
    ended.map(|time| time.0).max().or(ready.map(|time| time.0)).or(pod.creation_timestamp().map(|time| time.0))
}

/// How long to wait after a failure with so many before it.
pub(super) fn delay_after(earlier: usize) -> Duration {
    (BACKOFF * 2u32.pow(u32::try_from(earlier).unwrap_or(u32::MAX).min(16))).min(BACKOFF_MAX)
}

/// How much longer to wait after failures: as long as the failures since the last success demand.
fn backoff(pods: &[Arc<Pod>], now: Timestamp) -> Duration {
    let last_success = pods.iter().filter(|pod| pods::phase(pod) == "Succeeded").filter_map(|pod| ended_at(pod)).max();
    let failures: Vec<_> = pods
        .iter()
        .filter(|pod| pods::phase(pod) == "Failed")
        .filter_map(|pod| ended_at(pod))
        .filter(|at| last_success.is_none_or(|success| *at > success))
        .collect();
    failures.iter().max().map_or(Duration::ZERO, |last| pods::until(*last + delay_after(failures.len() - 1), now))
}

fn to_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
