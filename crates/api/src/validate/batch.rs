//! Jobs and CronJobs.

use serde_json::Value;

use super::{join, not_negative, one_of, pod_template, text, unchanged};
use crate::field::FieldErrors;

/// A Job.
pub fn job(object: &Value, errors: &mut FieldErrors) {
    job_spec(&object["spec"], "spec", errors);
    if object["spec"]["selector"].is_null() {
        errors.required("spec.selector", "");
    }
}

fn job_spec(spec: &Value, path: &str, errors: &mut FieldErrors) {
    for key in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        not_negative(spec, path, key, errors);
    }
    one_of(spec, path, "completionMode", &["NonIndexed", "Indexed"], errors);
    if text(spec, "completionMode") == "Indexed" && spec["completions"].is_null() {
        errors.required(&join(path, "completions"), "when completion mode is Indexed");
    }
    let template = join(path, "template");
    pod_template(&spec["template"], &template, errors);
    let policy = text(&spec["template"]["spec"], "restartPolicy");
    if policy == "Always" {
        let path = join(&template, "spec.restartPolicy");
        errors.required(&path, "valid values: \"OnFailure\", \"Never\"");
    } else if spec["podFailurePolicy"].is_object() && policy != "Never" {
        let path = join(&template, "spec.restartPolicy");
        errors.invalid(&path, policy, "only \"Never\" is supported when podFailurePolicy is specified");
    }
}

/// What makes a Job's pods stays as it was, but for scheduling while it is suspended.
pub fn job_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    if !subresource.is_empty() {
        return;
    }
    let (spec, was) = (&new["spec"], &old["spec"]);
    for key in ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy"] {
        unchanged(spec, was, "spec", key, errors);
    }
    // An indexed Job may grow and shrink with its parallelism.
    let elastic = text(spec, "completionMode") == "Indexed" && spec["completions"] == spec["parallelism"];
    if !elastic {
        unchanged(spec, was, "spec", "completions", errors);
    }
    let suspended = was["suspend"] == true && old["status"]["startTime"].is_null();
    let fixed = |spec: &Value| {
        let mut template = spec["template"].clone();
        if suspended && template["spec"].is_object() {
            for key in ["nodeSelector", "affinity", "tolerations", "schedulingGates"] {
                template["spec"].as_object_mut().map(|spec| spec.remove(key));
            }
            template["metadata"] = Value::Null;
        }
        template
    };
    if fixed(spec) != fixed(was) {
        errors.invalid("spec.template", spec["template"].clone(), super::IMMUTABLE);
    }
}

/// A CronJob.
pub fn cron_job(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    match text(spec, "schedule") {
        "" => errors.required("spec.schedule", ""),
        schedule => {
            if schedule.contains("TZ=") {
                let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
                errors.invalid("spec.schedule", schedule, why);
            } else if let Err(why) = check_schedule(schedule) {
                errors.invalid("spec.schedule", schedule, why);
            }
        }
    }
    one_of(spec, "spec", "concurrencyPolicy", &["Allow", "Forbid", "Replace"], errors);
    for key in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        not_negative(spec, "spec", key, errors);
    }
    job_spec(&spec["jobTemplate"]["spec"], "spec.jobTemplate.spec", errors);
    if !spec["jobTemplate"]["spec"]["selector"].is_null() {
        let path = "spec.jobTemplate.spec.selector";
        errors.invalid(path, spec["jobTemplate"]["spec"]["selector"].clone(), "`selector` will be auto-generated");
    }
}

/// The fields of a schedule: name, bounds, and names for numbers.
const FIELDS: [(&str, u32, u32, &[&str]); 5] = [
    ("minute", 0, 59, &[]),
    ("hour", 0, 23, &[]),
    ("day of month", 1, 31, &[]),
    ("month", 1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    ("day of week", 0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

/// Whether a text is a cron schedule: five fields, or a descriptor such as `@daily` or `@every 1h`.
fn check_schedule(schedule: &str) -> Result<(), String> {
    if let Some(descriptor) = schedule.strip_prefix('@') {
        let known = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"].contains(&descriptor);
        let every = descriptor.strip_prefix("every ").is_some_and(|d| crate::protobuf::is_duration(d.trim()));
        return if known || every { Ok(()) } else { Err(format!("unrecognized descriptor: {schedule}")) };
    }
    let parts: Vec<&str> = schedule.split_whitespace().collect();
    if parts.len() != FIELDS.len() {
        let found = parts.len();
        return Err(format!("expected exactly 5 fields, found {found}: [{}]", parts.join(" ")));
    }
    for (part, (_, low, high, names)) in parts.iter().zip(FIELDS) {
        for range in part.split(',') {
            check_range(range, low, high, names)?;
        }
    }
    Ok(())
}

/// `*`, `?`, `5`, `1-5`, `*/10`, `1-30/2`.
fn check_range(range: &str, low: u32, high: u32, names: &[&str]) -> Result<(), String> {
    let (span, step) = range.split_once('/').map_or((range, None), |(span, step)| (span, Some(step)));
    let number = |text: &str| -> Result<u32, String> {
        let name = names.iter().position(|name| name.eq_ignore_ascii_case(text)).and_then(|at| u32::try_from(at).ok());
        name.map(|at| at + low)
            .or_else(|| text.parse().ok())
            .ok_or_else(|| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))
    };
    let (start, end) = match span {
        "*" | "?" => (low, high),
        _ => match span.split_once('-') {
            Some((start, end)) => (number(start)?, number(end)?),
            None => (number(span)?, number(span)?),
        },
    };
    if start < low {
        return Err(format!("beginning of range ({start}) below minimum ({low}): {range}"));
    }
    if end > high {
        return Err(format!("end of range ({end}) above maximum ({high}): {range}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {range}"));
    }
    match step.map(number) {
        Some(Ok(0)) => Err(format!("step of range should be a positive number: {range}")),
        Some(Err(why)) => Err(why),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate::errors_of;

    #[test]
    fn schedules_are_checked() {
        for good in ["* * * * *", "*/5 0-6 1,15 jan-mar MON", "@hourly", "@every 1h30m", "0 0 ? * 0"] {
            assert_eq!(check_schedule(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("@sometimes", "unrecognized descriptor: @sometimes"),
        ] {
            assert_eq!(check_schedule(bad).unwrap_err(), why);
        }
    }

    #[test]
    fn a_jobs_pods_must_be_able_to_end() {
        let mut object = json!({"metadata": {"uid": "u", "name": "j"},
                                "spec": {"selector": {}, "template": {"spec": {"containers": [{"name": "c", "image": "x"}]}}}});
        crate::defaults::job(&mut object);
        assert_eq!(
            errors_of(job, &object),
            [r#"spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never""#]
        );
        object["spec"]["template"]["spec"]["restartPolicy"] = "Never".into();
        assert_eq!(errors_of(job, &object), Vec::<String>::new());
    }
}
