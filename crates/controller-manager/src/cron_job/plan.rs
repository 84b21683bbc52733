//! What is due: pure decisions over a CronJob, its Jobs and the time.

use std::sync::Arc;
use std::time::Duration;

use coracle_api::cron::Schedule;
use coracle_client::{EventType, controller_reference};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::ResourceExt;

use crate::job::finished;
use crate::pods;

/// When a Job was to start, in the CronJob's time zone.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// The clock's cushion after a scheduled time.
const DELTA: Duration = Duration::from_millis(100);
/// More missed starts than this are told of.
const MISSED_MAX: i64 = 100;

/// Something to tell: an event's type, reason and message.
pub(super) type Tell = (EventType, &'static str, String);

/// What is to be done now, and when to look again.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Step {
    /// The scheduled time of the Job to start, if one is due.
    pub(super) start: Option<Timestamp>,
    /// Whether the Jobs that still run are deleted first.
    pub(super) replace: bool,
    pub(super) tell: Option<Tell>,
    pub(super) again: Option<Duration>,
}

/// Brings the status up to what the Jobs say: finished ones are active no more, and the newest success counts.
pub(super) fn observe(status: &mut CronJobStatus, jobs: &[Arc<Job>]) -> Vec<Tell> {
    let mut tells = Vec::new();
    for job in jobs {
        let (name, uid) = (job.name_any(), job.uid());
        let end = job.status.as_ref().and_then(finished);
        let active = status.active.iter().flatten().any(|reference| reference.uid == uid);
        match end {
            None if !active => {
                let message = format!("Saw a job that the controller did not create or forgot: {name}");
                tells.push((EventType::Warning, "UnexpectedJob", message));
            }
            Some(end) if active => {
                status.active.iter_mut().for_each(|active| active.retain(|reference| reference.uid != uid));
                let message = format!("Saw completed job: {name}, condition: {}", end.type_);
                tells.push((EventType::Normal, "SawCompletedJob", message));
            }
            _ => {}
        }
        if end.is_some_and(|end| end.type_ == "Complete") {
            let completed = job.status.as_ref().and_then(|status| status.completion_time.clone());
            status.last_successful_time = status.last_successful_time.take().max(completed);
        }
    }
    tells
}

/// Whether a Job is to start now.
pub(super) fn step(cron_job: &CronJob, status: &CronJobStatus, now: Timestamp) -> Step {
    let spec = &cron_job.spec;
    let never = |tell: Option<Tell>| Step { tell, ..Step::default() };
    let warning = |reason, message| never(Some((EventType::Warning, reason, message)));
    let Some(zone) = zone(cron_job) else {
        let name = spec.time_zone.as_deref().unwrap_or_default();
        return warning("UnknownTimeZone", format!("invalid timeZone: {name:?}: unknown time zone {name}"));
    };
    if spec.suspend == Some(true) {
        return never(None);
    }
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(why) => {
            return warning("UnparseableSchedule", format!("unparseable schedule: {:?} : {why}", spec.schedule));
        }
    };
    let Some(next) = schedule.next(now, &zone) else {
        // As upstream has it, to which both next times are the same: none.
        let why = "time difference between two schedules is less than 1 second";
        return warning("InvalidSchedule", format!("invalid schedule: {} : {why}", spec.schedule));
    };
    let next = Some(pods::until(next, now) + DELTA);
    let wait = |tell: Option<Tell>| Step { tell, again: next, ..Step::default() };
    let deadline = spec.starting_deadline_seconds;
    let (due, missed) = last_due(cron_job, status, &schedule, &zone, now);
    let Some(due) = due else { return wait(None) };
    let many = missed > MISSED_MAX && deadline.is_none();
    let mut tell = many.then(|| {
        let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        (EventType::Warning, "TooManyMissedTimes", message.to_owned())
    });
    if deadline.is_some_and(|deadline| pods::later(due, deadline) < now) {
        let time = due.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S UTC");
        let message = format!("Missed scheduled time to start a job: {time}");
        return wait(Some((EventType::Warning, "MissSchedule", message)));
    }
    let active = status.active.as_deref().unwrap_or_default();
    let name = job_name(cron_job, due);
    let started = active.iter().any(|reference| reference.name.as_deref() == Some(&name));
    if started || status.last_schedule_time.as_ref().is_some_and(|last| last.0 == due) {
        return wait(tell);
    }
    let policy = spec.concurrency_policy.as_deref().unwrap_or("Allow");
    if policy == "Forbid" && !active.is_empty() {
        let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
        tell = Some((EventType::Normal, "JobAlreadyActive", message.to_owned()));
        return wait(tell);
    }
    Step { start: Some(due), replace: policy == "Replace", tell, again: next }
}

/// The time zone of the schedule; none if there is no such zone.
fn zone(cron_job: &CronJob) -> Option<TimeZone> {
    match cron_job.spec.time_zone.as_deref() {
        None => Some(TimeZone::UTC),
        Some(name) => TimeZone::get(name).ok(),
    }
}

/// The last scheduled time that has come since the last start, and about how many came.
fn last_due(
    cron_job: &CronJob,
    status: &CronJobStatus,
    schedule: &Schedule,
    zone: &TimeZone,
    now: Timestamp,
) -> (Option<Timestamp>, i64) {
    let created = cron_job.creation_timestamp().map_or(now, |time| time.0);
    let mut earliest = status.last_schedule_time.as_ref().map_or(created, |time| time.0);
    if let Some(seconds) = cron_job.spec.starting_deadline_seconds {
        earliest = earliest.max(now.saturating_sub(SignedDuration::from_secs(seconds)).unwrap_or(earliest));
    }
    let Some(first) = schedule.next(earliest, zone).filter(|first| *first <= now) else { return (None, 0) };
    let Some(second) = schedule.next(first, zone).filter(|second| *second <= now) else { return (Some(first), 1) };
    // Where many were missed, the walk begins shortly before now, by the distance of the first two.
    let distance = second.duration_since(first).as_secs().max(1);
    let missed = now.duration_since(first).as_secs() / distance + 1;
    let leap = SignedDuration::from_secs((missed - 2).max(0) * distance);
    let (mut due, mut at) = (second, first.saturating_add(leap).unwrap_or(first));
    while let Some(next) = schedule.next(at, zone).filter(|next| *next <= now) {
        (due, at) = (next, next);
    }
    (Some(due), missed)
}

/// Unique for a scheduled time: creating it twice makes one Job.
pub(super) fn job_name(cron_job: &CronJob, scheduled: Timestamp) -> String {
    format!("{}-{}", cron_job.name_any(), scheduled.as_second() / 60)
}

/// The Job of a scheduled time.
pub(super) fn new_job(cron_job: &CronJob, scheduled: Timestamp) -> Job {
    let template = cron_job.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let time = scheduled.to_zoned(zone(cron_job).unwrap_or(TimeZone::UTC));
    let offset = if time.offset().is_zero() { "Z".to_owned() } else { time.strftime("%:z").to_string() };
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED.into(), format!("{}{offset}", time.strftime("%Y-%m-%dT%H:%M:%S")));
    Job {
        metadata: ObjectMeta {
            name: Some(job_name(cron_job, scheduled)),
            namespace: cron_job.namespace(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(cron_job)]),
            ..Default::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// The reference that `status.active` holds.
pub(super) fn reference(job: &Job) -> ObjectReference {
    ObjectReference { resource_version: job.resource_version(), ..coracle_client::object_reference(job) }
}

/// The finished Jobs beyond the history's limits, oldest first.
pub(super) fn outdated(cron_job: &CronJob, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let spec = &cron_job.spec;
    let limits = [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)];
    let mut outdated = Vec::new();
    for (end, limit) in limits {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
        let ended = |job: &&Arc<Job>| job.status.as_ref().and_then(finished).is_some_and(|last| last.type_ == end);
        let mut ended: Vec<_> = jobs.iter().filter(ended).cloned().collect();
        let started = |job: &Arc<Job>| job.status.as_ref().and_then(|status| status.start_time.clone());
        ended.sort_by_key(|job| (started(job).is_none(), started(job), job.name_any()));
        let surplus = ended.len().saturating_sub(limit);
        outdated.extend(ended.into_iter().take(surplus));
    }
    outdated
}

/// A scheduled time as the status holds it.
pub(super) fn time(at: Timestamp) -> Time {
    Time(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::fixed_point::rest;

    fn at(text: &str) -> Timestamp {
        format!("2026-01-01T{text}Z").parse().unwrap()
    }

    fn cron_job(spec: &Value) -> CronJob {
        let mut object = json!({ "metadata": { "name": "c", "uid": "c", "creationTimestamp": at("00:00:30") },
            "spec": { "schedule": "*/10 * * * *", "jobTemplate": { "spec": { "template": {} } } } });
        json_patch_merge(&mut object["spec"], spec);
        serde_json::from_value(object).unwrap()
    }

    fn json_patch_merge(to: &mut Value, from: &Value) {
        for (key, value) in from.as_object().unwrap() {
            to[key] = value.clone();
        }
    }

    fn status(last: Option<&str>, active: &[&str]) -> CronJobStatus {
        let active: Vec<_> = active.iter().map(|name| json!({ "name": name, "uid": name })).collect();
        serde_json::from_value(json!({ "lastScheduleTime": last.map(at), "active": active })).unwrap()
    }

    #[test]
    fn a_job_starts_when_one_is_due() {
        let waits = |seconds| Some(Duration::from_secs(seconds) + DELTA);
        for (spec, last, active, now, start, tell, again) in [
            (json!({}), None, &[][..], "00:05:00", None, None, waits(300)),
            (json!({}), None, &[], "00:10:01", Some("00:10:00"), None, waits(599)),
            // The last of those missed.
            (json!({}), None, &[], "00:35:00", Some("00:30:00"), None, waits(300)),
            (json!({}), Some("00:10:00"), &["a"], "00:20:00", Some("00:20:00"), None, waits(600)),
            (json!({}), Some("00:20:00"), &[], "00:25:00", None, None, waits(300)),
            (json!({ "suspend": true }), None, &[], "00:35:00", None, None, None),
            (
                json!({ "concurrencyPolicy": "Forbid" }),
                None,
                &["a"],
                "00:11:00",
                None,
                Some("JobAlreadyActive"),
                waits(540),
            ),
            (json!({ "concurrencyPolicy": "Forbid" }), None, &[], "00:11:00", Some("00:10:00"), None, waits(540)),
            (json!({ "startingDeadlineSeconds": 100 }), None, &[], "00:12:00", None, None, waits(480)),
            (json!({ "startingDeadlineSeconds": i64::MAX }), None, &[], "00:12:00", Some("00:10:00"), None, waits(480)),
            (json!({ "startingDeadlineSeconds": 200 }), None, &[], "00:12:00", Some("00:10:00"), None, waits(480)),
            (
                json!({ "schedule": "* * * * *" }),
                None,
                &[],
                "02:00:00",
                Some("02:00:00"),
                Some("TooManyMissedTimes"),
                waits(60),
            ),
            (json!({ "schedule": "0 0 30 2 *" }), None, &[], "00:35:00", None, Some("InvalidSchedule"), None),
            (json!({ "timeZone": "Mars/Olympus" }), None, &[], "00:35:00", None, Some("UnknownTimeZone"), None),
            (
                json!({ "schedule": "0 1 * * *", "timeZone": "Europe/Berlin" }),
                None,
                &[],
                "00:30:00",
                None,
                None,
                waits(84_600),
            ),
        ] {
            let step = step(&cron_job(&spec), &status(last, active), at(now));
            assert_eq!(step.start, start.map(at), "{spec} {now}");
            assert_eq!(step.tell.map(|tell| tell.1), tell, "{spec} {now}");
            assert_eq!(step.again, again, "{spec} {now}");
        }
        let replace = cron_job(&json!({ "concurrencyPolicy": "Replace" }));
        assert!(step(&replace, &status(None, &["a"]), at("00:10:00")).replace);
    }

    fn job(name: &str, end: Option<(&str, &str)>) -> Arc<Job> {
        let status = end.map(|(type_, time)| {
            json!({ "startTime": at(time), "completionTime": (type_ == "Complete").then(|| at(time)),
                "conditions": [{ "type": type_, "status": "True" }] })
        });
        Arc::new(
            serde_json::from_value(json!({ "metadata": { "name": name, "uid": name }, "status": status })).unwrap(),
        )
    }

    #[test]
    fn finished_jobs_leave_the_active_list_and_old_ones_the_history() {
        let jobs = [
            job("a", Some(("Complete", "00:10:00"))),
            job("b", Some(("Complete", "00:20:00"))),
            job("c", Some(("Failed", "00:30:00"))),
            job("d", None),
        ];
        let mut status = status(None, &["b", "c", "d"]);
        let tells: Vec<_> = observe(&mut status, &jobs).into_iter().map(|tell| tell.2).collect();
        assert_eq!(tells, ["Saw completed job: b, condition: Complete", "Saw completed job: c, condition: Failed"]);
        assert_eq!(status.active.unwrap().len(), 1);
        assert_eq!(status.last_successful_time, Some(Time(at("00:20:00"))));
        let limits = json!({ "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0 });
        let names: Vec<_> = outdated(&cron_job(&limits), &jobs).iter().map(|job| job.name_any()).collect();
        assert_eq!(names, ["a", "c"]);
    }

    #[test]
    fn a_job_carries_its_scheduled_time_in_its_zone() {
        let cron_job = cron_job(&json!({ "timeZone": "Europe/Berlin" }));
        let job = new_job(&cron_job, at("00:10:00"));
        assert_eq!(job.name_any(), "c-29453770");
        assert_eq!(job.annotations()[SCHEDULED], "2026-01-01T01:10:00+01:00");
    }

    proptest! {
        #[test]
        fn at_any_time_one_job_is_started_at_most(
            there in proptest::collection::btree_map("[a-f]", proptest::option::of(("Complete|Failed", "0[0-5]:[0-5]0:00")), 0..6),
            active in proptest::collection::btree_set("[a-f]", 0..6), policy in "Allow|Forbid|Replace", limit in 0..3,
            last in proptest::option::of("0[0-5]:[0-5]0:00"), deadline in proptest::option::of(0..4000i64), now in "05:[0-5][0-9]:[0-5][0-9]",
        ) {
            let cron_job = cron_job(&json!({
                "concurrencyPolicy": policy, "startingDeadlineSeconds": deadline,
                "successfulJobsHistoryLimit": limit, "failedJobsHistoryLimit": limit,
            }));
            let jobs: Vec<_> = there.iter().map(|(name, end)| job(name, end.as_ref().map(|(end, at)| (end.as_str(), at.as_str())))).collect();
            let active: Vec<_> = active.iter().map(String::as_str).filter(|name| there.contains_key(*name)).collect();
            let (before, mut started) = (status(last.as_deref(), &active), 0);
            let (status, jobs) = rest((before, jobs), |(old, jobs)| {
                let (mut status, mut jobs) = (old.clone(), jobs.clone());
                observe(&mut status, &jobs);
                let step = step(&cron_job, &status, at(&now));
                let outdated = outdated(&cron_job, &jobs);
                jobs.retain(|job| !outdated.contains(job));
                if let Some(due) = step.start {
                    let gone = if step.replace { status.active.take().unwrap_or_default() } else { Vec::new() };
                    jobs.retain(|job| gone.iter().all(|gone| gone.uid != job.uid()));
                    let new = job(&new_job(&cron_job, due).name_any(), None);
                    status.active.get_or_insert_default().push(reference(&new));
                    (status.last_schedule_time, started) = (Some(time(due)), started + 1);
                    jobs.push(new);
                }
                (status, jobs)
            });
            prop_assert!(started <= 1, "{started} started at {now}");
            let runs = |job: &&Arc<Job>| job.status.as_ref().and_then(finished).is_none();
            let active = status.active.unwrap_or_default();
            prop_assert!(active.iter().all(|active| jobs.iter().filter(runs).any(|job| job.uid() == active.uid)));
            prop_assert!(jobs.iter().filter(|job| !runs(job)).count() <= 2 * usize::try_from(limit).unwrap());
        }
    }
}
