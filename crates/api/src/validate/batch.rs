//! Jobs and CronJobs.

use jiff::tz::TimeZone;
use serde_json::Value;

use super::{join, not_negative, one_of, pod_template, text, unchanged};
use crate::cron::Schedule;
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
    let zone = spec["timeZone"].as_str();
    match text(spec, "schedule") {
        "" => errors.required("spec.schedule", ""),
        schedule if schedule.contains("TZ") => {
            let why = match zone {
                Some(_) => "cannot use both timeZone field and TZ or CRON_TZ in schedule",
                None => "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            };
            errors.invalid("spec.schedule", schedule, why);
        }
        schedule => {
            if let Err(why) = Schedule::parse(schedule) {
                errors.invalid("spec.schedule", schedule, why);
            }
        }
    }
    match zone {
        None => {}
        Some("") => errors.invalid("spec.timeZone", "", "timeZone must be nil or non-empty string"),
        Some(zone) if zone.eq_ignore_ascii_case("local") => {
            let why = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
            errors.invalid("spec.timeZone", zone, why);
        }
        Some(zone) if TimeZone::get(zone).is_err() => {
            errors.invalid("spec.timeZone", zone, format!("unknown time zone {zone}"));
        }
        Some(_) => {}
    }
    // Its Jobs' names are the CronJob's and eleven characters more.
    let name = text(&object["metadata"], "name");
    if name.len() > 52 {
        errors.invalid("metadata.name", name, "must be no more than 52 characters");
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate::errors_of;

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
