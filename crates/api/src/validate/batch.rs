//! Jobs and CronJobs.

use jiff::tz::TimeZone;
use serde_json::Value;

use super::{join, list, text};
use crate::cron::Schedule;
use crate::field::FieldErrors;
use crate::selector::Selector;

/// A Job.
pub fn job(object: &Value, errors: &mut FieldErrors) {
    if object["spec"]["selector"].is_null() {
        errors.required("spec.selector", "");
    }
}

/// A new Job's selector is made by the server, unless it says that it brings its own; it selects the Job's pods.
pub fn job_create(object: &Value, errors: &mut FieldErrors) {
    let (spec, meta) = (&object["spec"], &object["metadata"]);
    let Ok(selector) = Selector::from_json(&spec["selector"]) else { return };
    let labels = &spec["template"]["metadata"]["labels"];
    if spec["manualSelector"] != true && !spec["selector"].is_null() {
        let mut expected = serde_json::json!({});
        for prefix in ["", "batch.kubernetes.io/"] {
            for (key, value) in [("controller-uid", &meta["uid"]), ("job-name", &meta["name"])] {
                let key = format!("{prefix}{key}");
                let path = format!("spec.template.metadata.labels[{key}]");
                let why = format!("must be '{}'", value.as_str().unwrap_or_default());
                match &labels[&key] {
                    Value::Null => errors.required(&path, why),
                    label if label != value => errors.invalid(&path, labels.clone(), why),
                    _ => {}
                }
                expected[key] = value.clone();
            }
        }
        if !selector.matches(&expected) {
            errors.invalid("spec.selector", spec["selector"].clone(), "`selector` not auto-generated");
        }
    }
    // Its last pod's name must be one that a host can have.
    if text(spec, "completionMode") == "Indexed"
        && let Some(completions) = spec["completions"].as_i64().filter(|completions| *completions > 0)
    {
        let name = text(meta, "name");
        let host = format!("{name}-{}", completions - 1);
        if !crate::names::check_dns_label(&host).is_empty() {
            let why = format!("will not able to create pod with invalid DNS label: {host}");
            errors.invalid("metadata.name", name, why);
        }
    }
    if !spec["selector"].is_null() && !selector.matches(labels) {
        let why = "`selector` does not match template `labels`";
        errors.invalid("spec.template.metadata.labels", labels.clone(), why);
    }
}

/// How many completions an indexed Job may have, and how many pods at a time.
const MAX_INDEXES: i64 = 100_000;

/// A Job's spec, here or in a CronJob.
pub(super) fn job_spec(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let indexed = text(spec, "completionMode") == "Indexed";
    if indexed && spec["completions"].is_null() {
        errors.required(&join(path, "completions"), "when completion mode is Indexed");
    }
    if indexed && let Some(wide) = spec["parallelism"].as_i64().filter(|wide| *wide > MAX_INDEXES) {
        let why = format!("must be less than or equal to {MAX_INDEXES} when completion mode is Indexed");
        errors.invalid(&join(path, "parallelism"), wide, why);
    }
    let (completions, failed) = (spec["completions"].as_i64(), spec["maxFailedIndexes"].as_i64());
    if indexed && completions.is_some() && failed > completions {
        let why = "must be less than or equal to completions";
        errors.invalid(&join(path, "maxFailedIndexes"), spec["maxFailedIndexes"].clone(), why);
    }
    if indexed && completions > Some(MAX_INDEXES) && !spec["backoffLimitPerIndex"].is_null() {
        if failed.is_none() {
            let why = format!("must be specified when completions is above {MAX_INDEXES}");
            errors.required(&join(path, "maxFailedIndexes"), why);
        }
        for key in ["parallelism", "maxFailedIndexes"].iter().filter(|key| spec[**key].as_i64() > Some(10_000)) {
            let why = format!(
                "must be less than or equal to 10000 when completions are above {MAX_INDEXES} and used with backoff \
                 limit per index"
            );
            errors.invalid(&join(path, key), spec[*key].clone(), why);
        }
    }
    if spec["podFailurePolicy"].is_object() && text(spec, "podReplacementPolicy") == "TerminatingOrFailed" {
        errors.not_supported(&join(path, "podReplacementPolicy"), "TerminatingOrFailed", &["Failed"]);
    }
    for key in ["backoffLimitPerIndex", "maxFailedIndexes"].iter().filter(|key| !indexed && !spec[**key].is_null()) {
        errors.invalid(&join(path, key), spec[*key].clone(), "requires indexed completion mode");
    }
    if !spec["maxFailedIndexes"].is_null() && spec["backoffLimitPerIndex"].is_null() {
        errors.required(&join(path, "backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if spec["successPolicy"].is_object() && !indexed {
        let why = "requires indexed completion mode";
        errors.invalid(&join(path, "successPolicy"), spec["successPolicy"].clone(), why);
    }
    let restart = join(path, "template.spec.restartPolicy");
    match text(&spec["template"]["spec"], "restartPolicy") {
        "Always" => errors.required(&restart, "valid values: \"OnFailure\", \"Never\""),
        policy if spec["podFailurePolicy"].is_object() && policy != "Never" => {
            errors.invalid(&restart, policy, "only \"Never\" is supported when podFailurePolicy is specified");
        }
        _ => {}
    }
    let pod = &spec["template"]["spec"];
    let containers: Vec<&str> =
        ["containers", "initContainers"].into_iter().flat_map(|key| list(pod, key)).map(|c| text(c, "name")).collect();
    for (path, rule) in super::each(&spec["podFailurePolicy"], &join(path, "podFailurePolicy"), "rules") {
        failure_rule(rule, &path, !spec["backoffLimitPerIndex"].is_null(), &containers, errors);
    }
    for (path, rule) in super::each(&spec["successPolicy"], &join(path, "successPolicy"), "rules").filter(|_| indexed) {
        success_counts(rule, &path, completions.unwrap_or_default(), errors);
    }
}

/// No more can succeed than there are.
fn success_counts(rule: &Value, path: &str, completions: i64, errors: &mut FieldErrors) {
    let given = rule["succeededIndexes"].as_str();
    let intervals = super::job_status::intervals(given.unwrap_or_default(), completions).unwrap_or_else(|why| {
        let why = format!("error parsing succeededIndexes: {why}");
        errors.invalid(&join(path, "succeededIndexes"), given, why);
        Vec::new()
    });
    let total = intervals.iter().map(|(first, last)| last - first + 1).sum();
    for (most, of) in [
        (Some(completions), "specified completions"),
        (given.map(|_| total), "indexes in the specified succeededIndexes field"),
    ] {
        if let (Some(most), Some(count)) = (most, rule["succeededCount"].as_i64())
            && count > most
        {
            let why = format!("must be less than or equal to {most} (the number of {of})");
            errors.invalid(&join(path, "succeededCount"), count, why);
        }
    }
}

/// A rule of success says how much must have succeeded.
pub(super) fn success_rule(rule: &Value, path: &str, errors: &mut FieldErrors) {
    if rule["succeededCount"].is_null() && rule["succeededIndexes"].is_null() {
        errors.required(path, "at least one of succeededCount or succeededIndexes must be specified");
    }
}

fn failure_rule(rule: &Value, path: &str, per_index: bool, containers: &[&str], errors: &mut FieldErrors) {
    let (codes, conditions) = (&rule["onExitCodes"], list(rule, "onPodConditions"));
    match (codes.is_object(), conditions.is_empty()) {
        (true, false) => {
            errors.invalid_omitted(path, "specifying both OnExitCodes and OnPodConditions is not supported");
        }
        (false, true) => {
            errors.invalid_omitted(path, "specifying one of OnExitCodes and OnPodConditions is required");
        }
        _ => {}
    }
    if text(rule, "action") == "FailIndex" && !per_index {
        let why = "requires the backoffLimitPerIndex to be set";
        errors.invalid(&join(path, "action"), "FailIndex", why);
    }
    if codes.is_object() {
        if let Some(name) = codes["containerName"].as_str().filter(|name| !containers.contains(name)) {
            let why = "must be one of the container or initContainer names in the pod template";
            errors.invalid(&join(path, "onExitCodes.containerName"), name, why);
        }
        let path = join(path, "onExitCodes.values");
        let values = list(codes, "values");
        if values.is_empty() {
            errors.invalid(&path, codes["values"].clone(), "at least one value is required");
        } else if !values.is_sorted_by_key(|value| value.as_i64()) {
            errors.invalid(&path, codes["values"].clone(), "must be ordered");
        }
        for (i, _) in values.iter().enumerate().filter(|(_, v)| text(codes, "operator") == "In" && **v == 0) {
            errors.invalid(&format!("{path}[{i}]"), 0, "must not be 0 for the In operator");
        }
    }
}

/// What makes a Job's pods stays as it was, but for scheduling while it is suspended.
pub fn job_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    match subresource {
        "" => {}
        "status" => return super::job_status::change(new, old, errors),
        _ => return,
    }
    let (spec, was) = (&new["spec"], &old["spec"]);
    // An indexed Job may grow and shrink with its parallelism.
    if spec["completions"] != was["completions"] {
        if text(spec, "completionMode") != "Indexed" {
            errors.invalid("spec.completions", spec["completions"].clone(), super::IMMUTABLE);
        } else if spec["completions"] != spec["parallelism"] {
            let why = "can only be modified in tandem with spec.parallelism";
            errors.invalid("spec.completions", spec["completions"].clone(), why);
        }
    }
    let suspended = was["suspend"] == true && old["status"]["startTime"].is_null();
    let fixed = |spec: &Value| {
        let mut template = spec["template"].clone();
        let mut free = |pointer: &str, keys: &[&str]| {
            let map = template.pointer_mut(pointer).and_then(Value::as_object_mut);
            map.into_iter().for_each(|map| map.retain(|key, _| !keys.contains(&key.as_str())));
        };
        if suspended {
            free("/metadata", &["labels", "annotations"]);
            free("/spec/affinity", &["nodeAffinity"]);
            free("/spec", &["nodeSelector", "tolerations", "schedulingGates"]);
            if template["spec"]["affinity"].as_object().is_some_and(serde_json::Map::is_empty) {
                template["spec"].as_object_mut().map(|spec| spec.remove("affinity"));
            }
            if template["metadata"].as_object().is_some_and(serde_json::Map::is_empty) {
                template.as_object_mut().map(|template| template.remove("metadata"));
            }
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
        "" => {}
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
    if !spec["jobTemplate"]["spec"]["selector"].is_null() {
        let path = "spec.jobTemplate.spec.selector";
        errors.invalid(path, spec["jobTemplate"]["spec"]["selector"].clone(), "`selector` will be auto-generated");
    }
    if spec["jobTemplate"]["spec"]["manualSelector"] == true {
        errors.not_supported("spec.jobTemplate.spec.manualSelector", true, &["nil", "false"]);
    }
}
