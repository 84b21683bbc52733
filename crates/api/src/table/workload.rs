//! Workloads: what is desired, what is there.

use serde_json::{Value, json};

use super::{
    AGE, ColumnRow, NAME, age, containers_and_images, flag, human_duration, int_at, labels, list, name, number,
    or_none, selector, since_or_none, str_at, text, wide,
};

/// The columns of a Deployment.
pub const DEPLOYMENT_COLUMNS: &[ColumnRow] = &[
    NAME,
    text("Ready"),
    text("Up-to-date"),
    text("Available"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

/// The cells of a Deployment.
pub fn deployment(object: &Value) -> Vec<Value> {
    let (containers, images) = containers_and_images(&object["spec"]["template"]["spec"]);
    let status = |key: &str| int_at(&object["status"], key);
    vec![
        name(object),
        format!("{}/{}", status("readyReplicas"), int_at(object, "spec.replicas")).into(),
        status("updatedReplicas").into(),
        status("availableReplicas").into(),
        age(object),
        containers,
        images,
        selector(&object["spec"]["selector"]),
    ]
}

/// The columns of a ReplicaSet or ReplicationController.
pub const REPLICA_SET_COLUMNS: &[ColumnRow] = &[
    NAME,
    number("Desired"),
    number("Current"),
    number("Ready"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

/// The cells of a ReplicaSet.
pub fn replica_set(object: &Value) -> Vec<Value> {
    replicas(object, selector(&object["spec"]["selector"]))
}

/// The cells of a ReplicationController.
pub fn replication_controller(object: &Value) -> Vec<Value> {
    replicas(object, labels(&object["spec"]["selector"]))
}

fn replicas(object: &Value, selector: Value) -> Vec<Value> {
    let (containers, images) = containers_and_images(&object["spec"]["template"]["spec"]);
    vec![
        name(object),
        int_at(object, "spec.replicas").into(),
        int_at(object, "status.replicas").into(),
        int_at(object, "status.readyReplicas").into(),
        age(object),
        containers,
        images,
        selector,
    ]
}

/// The columns of a StatefulSet.
pub const STATEFUL_SET_COLUMNS: &[ColumnRow] = &[NAME, text("Ready"), AGE, wide("Containers"), wide("Images")];

/// The cells of a StatefulSet.
pub fn stateful_set(object: &Value) -> Vec<Value> {
    let (containers, images) = containers_and_images(&object["spec"]["template"]["spec"]);
    let ready = format!("{}/{}", int_at(object, "status.readyReplicas"), int_at(object, "spec.replicas"));
    vec![name(object), ready.into(), age(object), containers, images]
}

/// The columns of a DaemonSet.
pub const DAEMON_SET_COLUMNS: &[ColumnRow] = &[
    NAME,
    number("Desired"),
    number("Current"),
    number("Ready"),
    number("Up-to-date"),
    number("Available"),
    text("Node Selector"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

/// The cells of a DaemonSet.
pub fn daemon_set(object: &Value) -> Vec<Value> {
    let (containers, images) = containers_and_images(&object["spec"]["template"]["spec"]);
    let status = |key: &str| Value::from(int_at(&object["status"], key));
    vec![
        name(object),
        status("desiredNumberScheduled"),
        status("currentNumberScheduled"),
        status("numberReady"),
        status("updatedNumberScheduled"),
        status("numberAvailable"),
        labels(&object["spec"]["template"]["spec"]["nodeSelector"]),
        age(object),
        containers,
        images,
        selector(&object["spec"]["selector"]),
    ]
}

/// The columns of a Job.
pub const JOB_COLUMNS: &[ColumnRow] = &[
    NAME,
    text("Status"),
    text("Completions"),
    text("Duration"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

/// The cells of a Job.
pub fn job(object: &Value) -> Vec<Value> {
    let (containers, images) = containers_and_images(&object["spec"]["template"]["spec"]);
    let succeeded = int_at(object, "status.succeeded");
    let completions = match (object["spec"]["completions"].as_i64(), int_at(object, "spec.parallelism")) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        // A work queue is done when one pod says so.
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    };
    vec![
        name(object),
        job_status(object).into(),
        completions.into(),
        job_duration(object).into(),
        age(object),
        containers,
        images,
        selector(&object["spec"]["selector"]),
    ]
}

fn job_status(job: &Value) -> &'static str {
    let has =
        |kind: &str| list(&job["status"], "conditions").iter().any(|c| c["type"] == kind && c["status"] == "True");
    match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if job["metadata"]["deletionTimestamp"].is_string() => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn job_duration(job: &Value) -> String {
    let time = |key: &str| str_at(&job["status"], key).parse::<jiff::Timestamp>().ok();
    match (time("startTime"), time("completionTime")) {
        (None, _) => String::new(),
        (Some(start), end) => {
            let end = end.unwrap_or_else(coracle_clock::now);
            human_duration(end.as_second() - start.as_second())
        }
    }
}

/// The columns of a CronJob.
pub const CRON_JOB_COLUMNS: &[ColumnRow] = &[
    NAME,
    text("Schedule"),
    text("Timezone"),
    flag("Suspend"),
    number("Active"),
    text("Last Schedule"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

/// The cells of a CronJob.
pub fn cron_job(object: &Value) -> Vec<Value> {
    let (containers, images) = containers_and_images(&object["spec"]["jobTemplate"]["spec"]["template"]["spec"]);
    let spec = &object["spec"];
    vec![
        name(object),
        spec["schedule"].clone(),
        or_none(str_at(spec, "timeZone")).into(),
        // The cell is a text although the column is a boolean: kubectl prints `False`.
        if spec["suspend"] == true { "True" } else { "False" }.into(),
        list(&object["status"], "active").len().into(),
        since_or_none(&object["status"]["lastScheduleTime"]).into(),
        age(object),
        containers,
        images,
        selector(&spec["jobTemplate"]["spec"]["selector"]),
    ]
}

/// The columns of a ControllerRevision.
pub const CONTROLLER_REVISION_COLUMNS: &[ColumnRow] = &[NAME, text("Controller"), number("Revision"), AGE];

/// The cells of a ControllerRevision.
pub fn controller_revision(object: &Value) -> Vec<Value> {
    let controller = list(&object["metadata"], "ownerReferences").iter().find(|owner| owner["controller"] == true);
    let controller = controller.map_or_else(
        || "<none>".to_owned(),
        |owner| {
            let (group, _) = str_at(owner, "apiVersion").split_once('/').unwrap_or_default();
            let kind = str_at(owner, "kind").to_lowercase();
            let dot = if group.is_empty() { "" } else { "." };
            format!("{kind}{dot}{group}/{}", str_at(owner, "name"))
        },
    );
    vec![name(object), controller.into(), int_at(object, "revision").into(), age(object)]
}

/// The columns of a PodTemplate.
pub const POD_TEMPLATE_COLUMNS: &[ColumnRow] = &[NAME, text("Containers"), text("Images"), text("Pod Labels")];

/// The cells of a PodTemplate.
pub fn pod_template(object: &Value) -> Vec<Value> {
    let (containers, images) = containers_and_images(&object["template"]["spec"]);
    vec![name(object), containers, images, labels(&object["template"]["metadata"]["labels"])]
}

/// The columns of a HorizontalPodAutoscaler.
pub const HPA_COLUMNS: &[ColumnRow] =
    &[NAME, text("Reference"), text("Targets"), text("MinPods"), text("MaxPods"), number("Replicas"), AGE];

/// The cells of an autoscaling/v2 HorizontalPodAutoscaler.
pub fn hpa_v2(object: &Value) -> Vec<Value> {
    let current = list(&object["status"], "currentMetrics");
    let metrics = list(&object["spec"], "metrics");
    let mut targets: Vec<String> =
        metrics.iter().enumerate().map(|(i, metric)| metric_text(metric, current.get(i))).collect();
    if targets.len() > 2 {
        let more = targets.len() - 2;
        targets.truncate(2);
        targets.push(format!("{more} more..."));
    }
    let targets = targets.join(", ").replace(", ", if metrics.len() > 2 { " + " } else { ", " });
    hpa(object, or_none(&targets))
}

/// The cells of an autoscaling/v1 HorizontalPodAutoscaler.
pub fn hpa_v1(object: &Value) -> Vec<Value> {
    let percent = |value: &Value| value.as_i64().map_or_else(|| "<unknown>".to_owned(), |n| format!("{n}%"));
    let current = percent(&object["status"]["currentCPUUtilizationPercentage"]);
    let target = &object["spec"]["targetCPUUtilizationPercentage"];
    let text = if target.is_null() { "<none>".into() } else { format!("cpu: {current}/{}", percent(target)) };
    hpa(object, &text)
}

fn hpa(object: &Value, targets: &str) -> Vec<Value> {
    let spec = &object["spec"];
    let reference = &spec["scaleTargetRef"];
    let unset = json!("<unset>");
    vec![
        name(object),
        format!("{}/{}", str_at(reference, "kind"), str_at(reference, "name")).into(),
        targets.into(),
        spec.get("minReplicas").map_or(unset, |n| n.to_string().into()),
        int_at(spec, "maxReplicas").to_string().into(),
        int_at(object, "status.currentReplicas").into(),
        age(object),
    ]
}

/// `cpu: 10%/80%`: the metric's name, its value now, and the target.
fn metric_text(metric: &Value, current: Option<&Value>) -> String {
    let source = ["resource", "containerResource", "pods", "object", "external"]
        .iter()
        .find(|source| metric[**source].is_object())
        .copied()
        .unwrap_or_default();
    let spec = &metric[source];
    let now = current.map(|c| &c[source]["current"]);
    let label = if matches!(source, "resource" | "containerResource") {
        format!("{}: ", str_at(spec, "name"))
    } else {
        String::new()
    };
    let average = if matches!(source, "object" | "external") && !spec["target"]["averageValue"].is_null() {
        " (avg)"
    } else {
        ""
    };
    for (key, percent) in [("averageUtilization", "%"), ("averageValue", ""), ("value", "")] {
        let target = &spec["target"][key];
        if target.is_null() {
            continue;
        }
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let value = now.map(|now| &now[key]).filter(|value| !value.is_null());
        let value = value.map_or_else(|| "<unknown>".to_owned(), |value| format!("{}{percent}", plain(value)));
        return format!("{label}{value}/{}{percent}{average}", plain(target));
    }
    "<unknown>".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployments_row_counts_its_pods() {
        let object = json!({
            "metadata": {"name": "web"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
                     "template": {"spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y:2"}]}}},
            "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2},
        });
        assert_eq!(
            deployment(&object),
            [
                json!("web"),
                json!("2/3"),
                json!(3),
                json!(2),
                json!("<unknown>"),
                json!("a,b"),
                json!("x:1,y:2"),
                json!("app=web")
            ]
        );
        assert_eq!(deployment(&object).len(), DEPLOYMENT_COLUMNS.len());
    }

    #[test]
    fn a_jobs_row_tells_how_far_it_is() {
        let object = json!({
            "spec": {"completions": 2, "parallelism": 1},
            "status": {"succeeded": 1, "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:01:05Z",
                       "conditions": [{"type": "Complete", "status": "True"}]},
        });
        assert_eq!(job(&object)[1..4], [json!("Complete"), json!("1/2"), json!("65s")]);
    }
}
