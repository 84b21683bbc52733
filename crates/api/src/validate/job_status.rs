//! What the status of a Job may say of it, and how it may change. Whoever manages the Job is held to it.

use serde_json::Value;

use super::{list, text};
use crate::field::{FieldError, FieldErrors};

/// Judges the part of a change of the status that is new: what was wrong before may stay so.
pub(super) fn change(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (mut now, mut before) = (FieldErrors::default(), FieldErrors::default());
    status(new, &mut now);
    status(old, &mut before);
    let known = |error: &FieldError| before.0.iter().any(|e| e.field == error.field && e.detail == error.detail);
    errors.0.extend(now.0.into_iter().filter(|error| !known(error)));
    transition(new, old, errors);
}

fn is(job: &Value, condition: &str) -> bool {
    list(&job["status"], "conditions").iter().any(|c| c["type"] == condition && c["status"] == "True")
}

/// The intervals of `0,3-5`, or why these are none; every index is below `completions`.
pub(super) fn intervals(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let index = |part: &str| match part.parse::<i64>() {
        Err(_) => Err(format!("cannot convert string to integer for index: {part:?}")),
        Ok(index) if index >= completions => Err(format!("too large index: {part:?}")),
        Ok(index) => Ok(index),
    };
    let ordered = |previous: i64, current: i64| match previous < current {
        true => Ok(()),
        false => Err(format!("non-increasing order, previous: {previous}, current: {current}")),
    };
    let mut all: Vec<(i64, i64)> = Vec::new();
    for interval in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = match interval.split('-').collect::<Vec<_>>()[..] {
            [one] => (index(one)?, index(one)?),
            [first, last] => (index(first)?, index(last)?),
            _ => {
                let why = "violates the requirement that an index interval can have at most two parts separated by '-'";
                return Err(format!("the fragment {interval:?} {why}"));
            }
        };
        if interval.contains('-') {
            ordered(first, last)?;
        }
        all.last().map_or(Ok(()), |(_, previous)| ordered(*previous, first))?;
        all.push((first, last));
    }
    Ok(all)
}

/// Indexes that are some, and that have not both succeeded and failed.
fn indexes(spec: &Value, status: &Value, errors: &mut FieldErrors) {
    let Some(completions) = spec["completions"].as_i64() else { return };
    let mut parse = |key: &str| match intervals(text(status, key), completions) {
        Ok(intervals) => intervals,
        Err(why) => {
            errors.invalid(&format!("status.{key}"), status[key].clone(), format!("error parsing {key}: {why}"));
            Vec::new()
        }
    };
    let completed = parse("completedIndexes");
    let failed = if spec["backoffLimitPerIndex"].is_null() { Vec::new() } else { parse("failedIndexes") };
    let (mut completed, mut failed) = (completed.iter().peekable(), failed.iter().peekable());
    while let (Some(one), Some(other)) = (completed.peek(), failed.peek()) {
        if one.0 <= other.1 && other.0 <= one.1 {
            let why = format!("failedIndexes and completedIndexes overlap at index: {}", one.0.max(other.0));
            return errors.invalid("status.failedIndexes", status["failedIndexes"].clone(), why);
        }
        if one.0 <= other.0 {
            completed.next()
        } else {
            failed.next()
        };
    }
}

fn status(job: &Value, errors: &mut FieldErrors) {
    let (spec, status) = (&job["spec"], &job["status"]);
    let [complete, failed, target, met] =
        ["Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"].map(|kind| is(job, kind));
    for (wrong, why) in [
        (complete && failed, "cannot set Complete=True and Failed=true conditions"),
        (complete && target, "cannot set Complete=True and FailureTarget=true conditions"),
        (failed && !target, "cannot set Failed=True condition without the FailureTarget=true condition"),
        (complete && !met, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition"),
        (met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
        (met && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"),
    ] {
        if wrong {
            errors.invalid_omitted("status.conditions", why);
        }
    }
    let finished = complete || failed;
    let given = |key: &str| !crate::rules::is_empty(&status[key]);
    let some = |key: &str| status[key].as_i64() > Some(0);
    let time = |key: &str| text(status, key).parse::<jiff::Timestamp>().ok();
    let early = time("startTime").zip(time("completionTime")).is_some_and(|(start, end)| end < start);
    let uncounted = ["succeeded", "failed"].iter().any(|of| !list(&status["uncountedTerminatedPods"], of).is_empty());
    for (wrong, key, why) in [
        (
            given("completionTime") && !complete,
            "completionTime",
            "cannot set completionTime when there is no Complete=True condition",
        ),
        (early, "completionTime", "completionTime cannot be set before startTime"),
        (finished && some("active"), "active", "active>0 is invalid for finished job"),
        (finished && some("terminating"), "terminating", "terminating>0 is invalid for finished job"),
        (
            finished && uncounted,
            "uncountedTerminatedPods",
            "uncountedTerminatedPods needs to be empty for finished job",
        ),
        (
            given("completedIndexes") && text(spec, "completionMode") != "Indexed",
            "completedIndexes",
            "cannot set non-empty completedIndexes when non-indexed completion mode",
        ),
        (
            status["failedIndexes"].is_string() && spec["backoffLimitPerIndex"].is_null(),
            "failedIndexes",
            "cannot set non-null failedIndexes when backoffLimitPerIndex is null",
        ),
    ] {
        if wrong {
            errors.invalid(&format!("status.{key}"), status[key].clone(), why);
        }
    }
    indexes(spec, status, errors);
    for (missing, key, why) in [
        (complete && !given("completionTime"), "completionTime", "completionTime is required for Complete jobs"),
        (finished && !given("startTime"), "startTime", "startTime is required for finished job"),
    ] {
        if missing {
            errors.required(&format!("status.{key}"), why);
        }
    }
}

fn transition(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (status, was) = (&new["status"], &old["status"]);
    for (kind, noun) in [
        ("Failed", "terminal Failed"),
        ("Complete", "terminal Complete"),
        ("FailureTarget", "terminal FailureTarget"),
        ("SuccessCriteriaMet", "SuccessCriteriaMet"),
    ] {
        if is(old, kind) && !is(new, kind) {
            errors.invalid_omitted("status.conditions", format!("cannot disable the {noun}=True condition"));
        }
    }
    let count = |status: &Value, key: &str| status[key].as_i64().unwrap_or_default();
    // An indexed Job that shrinks may lose indices that had succeeded.
    for key in ["failed", "succeeded"] {
        let shrinks = key == "succeeded" && text(&new["spec"], "completionMode") == "Indexed";
        if count(status, key) < count(was, key) && !shrinks {
            errors.invalid(&format!("status.{key}"), count(status, key), format!("cannot decrease the {key} counter"));
        }
    }
    let (end, ended) = (&status["completionTime"], &was["completionTime"]);
    if !end.is_null() && !ended.is_null() && end != ended {
        errors.invalid("status.completionTime", end.clone(), "completionTime cannot be mutated");
    }
    let started = &was["startTime"];
    if !started.is_null() && status["startTime"] != *started && new["spec"]["suspend"] != true {
        errors.required("status.startTime", "startTime cannot be removed for unsuspended job");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_finished_job_is_told_how_it_may_have_ended() {
        let job = |status: Value| json!({ "spec": {}, "status": status });
        let told = |new: Value, old: Value| {
            let mut errors = FieldErrors::default();
            change(&job(new), &job(old), &mut errors);
            errors.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ")
        };
        let conditions =
            |kinds: &[&str]| -> Value { kinds.iter().map(|kind| json!({ "type": kind, "status": "True" })).collect() };
        let (start, end) = ("2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z");
        let done = json!({ "startTime": start, "completionTime": end, "succeeded": 1,
                           "conditions": conditions(&["SuccessCriteriaMet", "Complete"]) });
        assert_eq!(told(done.clone(), json!({ "startTime": start })), "");
        let failed = json!({ "startTime": start, "conditions": conditions(&["Failed"]) });
        let why = "cannot set Failed=True condition without the FailureTarget=true condition";
        assert_eq!(
            told(failed.clone(), json!({ "startTime": start })),
            format!("status.conditions: Invalid value: {why}")
        );
        assert_eq!(told(failed.clone(), failed), "", "what was wrong may stay");
        assert_eq!(
            told(json!({ "startTime": start, "conditions": conditions(&["SuccessCriteriaMet"]) }), done),
            "status.conditions: Invalid value: cannot disable the terminal Complete=True condition | status.succeeded: \
             Invalid value: 0: cannot decrease the succeeded counter"
        );
    }

    #[test]
    fn indexes_are_in_order_and_not_both_succeeded_and_failed() {
        for (completed, failed, expected) in [
            ("0,2-4", "5", ""),
            ("0,2-4", "3", "failedIndexes and completedIndexes overlap at index: 3"),
            ("x", "", r#"error parsing completedIndexes: cannot convert string to integer for index: "x""#),
            ("", "6", r#"error parsing failedIndexes: too large index: "6""#),
            ("3,1", "", "error parsing completedIndexes: non-increasing order, previous: 3, current: 1"),
            ("2-2", "", "error parsing completedIndexes: non-increasing order, previous: 2, current: 2"),
            (
                "1-2-3",
                "",
                "error parsing completedIndexes: the fragment \"1-2-3\" violates the requirement that an index interval \
                 can have at most two parts separated by '-'",
            ),
        ] {
            let mut errors = FieldErrors::default();
            let spec = json!({ "completions": 6, "backoffLimitPerIndex": 1 });
            indexes(&spec, &json!({ "completedIndexes": completed, "failedIndexes": failed }), &mut errors);
            let told: Vec<&str> = errors.0.iter().map(|error| error.detail.as_str()).collect();
            assert_eq!(told.join(" | "), expected);
        }
    }
}
