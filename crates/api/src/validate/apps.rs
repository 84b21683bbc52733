//! Workloads of apps/v1, and ReplicationControllers.

use serde_json::Value;

use super::{at_most_all, count_or_percent, is_zero, join, list, text};
use crate::field::FieldErrors;
use crate::selector::Selector;

/// The selector must be there, select something, and select the template's pods.
fn selector_and_template(spec: &Value, noun: &str, errors: &mut FieldErrors) {
    let (selector, labels) = (&spec["selector"], &spec["template"]["metadata"]["labels"]);
    match Selector::from_json(selector) {
        _ if selector.is_null() && noun == "daemonset" => mismatch(labels, errors),
        _ if selector.is_null() => errors.required("spec.selector", ""),
        Ok(chosen) if chosen.is_everything() => {
            errors.invalid("spec.selector", selector.clone(), format!("empty selector is invalid for {noun}"));
        }
        Ok(chosen) if !chosen.matches(labels) => mismatch(labels, errors),
        _ => {}
    }
}

fn mismatch(labels: &Value, errors: &mut FieldErrors) {
    let why = "`selector` does not match template `labels`";
    errors.invalid("spec.template.metadata.labels", labels.clone(), why);
}

/// Pods that are kept running must be restarted, and have no deadline.
fn always_restarts(spec: &Value, noun: &str, errors: &mut FieldErrors) {
    let policy = text(&spec["template"]["spec"], "restartPolicy");
    if !matches!(policy, "" | "Always") {
        errors.not_supported("spec.template.spec.restartPolicy", policy, &["Always"]);
    }
    if spec["template"]["spec"]["activeDeadlineSeconds"].is_i64() {
        let why = format!("activeDeadlineSeconds in {noun} is not Supported");
        errors.forbidden("spec.template.spec.activeDeadlineSeconds", why);
    }
}

/// A Deployment.
pub fn deployment(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    selector_and_template(spec, "deployment", errors);
    always_restarts(spec, "ReplicaSet", errors);
    let strategy = &spec["strategy"];
    let rolling = &strategy["rollingUpdate"];
    if text(strategy, "type") == "Recreate" && rolling.is_object() {
        let why = "may not be specified when strategy `type` is 'Recreate'";
        errors.forbidden("spec.strategy.rollingUpdate", why);
    }
    if text(strategy, "type") == "RollingUpdate" {
        rolling_update(rolling, "spec.strategy.rollingUpdate", errors);
    }
    let (deadline, ready) = (spec["progressDeadlineSeconds"].as_i64(), spec["minReadySeconds"].as_i64());
    if let Some(deadline) = deadline.filter(|deadline| *deadline <= ready.unwrap_or_default()) {
        errors.invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds");
    }
}

/// At least one of both must leave room to move.
fn rolling_update(rolling: &Value, path: &str, errors: &mut FieldErrors) {
    for key in ["maxUnavailable", "maxSurge"] {
        count_or_percent(rolling, path, key, errors);
    }
    if is_zero(&rolling["maxUnavailable"]) && is_zero(&rolling["maxSurge"]) {
        let why = "may not be 0 when `maxSurge` is 0";
        errors.invalid(&join(path, "maxUnavailable"), rolling["maxUnavailable"].clone(), why);
    }
    at_most_all(rolling, path, "maxUnavailable", errors);
}

/// A ReplicaSet.
pub fn replica_set(object: &Value, errors: &mut FieldErrors) {
    selector_and_template(&object["spec"], "deployment", errors);
    always_restarts(&object["spec"], "ReplicaSet", errors);
}

/// A ReplicationController.
pub fn replication_controller(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    let labels = &spec["template"]["metadata"]["labels"];
    if spec["template"].is_null() {
        return;
    }
    if spec["selector"].as_object().into_iter().flatten().any(|(key, value)| labels[key.as_str()] != *value) {
        mismatch(labels, errors);
    }
    always_restarts(spec, "ReplicationController", errors);
}

/// A DaemonSet.
pub fn daemon_set(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    selector_and_template(spec, "daemonset", errors);
    always_restarts(spec, "DaemonSet", errors);
    if text(&spec["updateStrategy"], "type") == "RollingUpdate" {
        let (rolling, path) = (&spec["updateStrategy"]["rollingUpdate"], "spec.updateStrategy.rollingUpdate");
        let given = |key: &str| !is_zero(&rolling[key]);
        for key in ["maxUnavailable", "maxSurge"] {
            count_or_percent(rolling, path, key, errors);
            at_most_all(rolling, path, key, errors);
        }
        match (given("maxUnavailable"), given("maxSurge")) {
            (true, true) => {
                let why = "may not be set when maxUnavailable is non-zero";
                errors.invalid(&join(path, "maxSurge"), rolling["maxSurge"].clone(), why);
            }
            (false, false) => errors.required(&join(path, "maxUnavailable"), "cannot be 0 when maxSurge is 0"),
            _ => {}
        }
    }
}

/// A StatefulSet.
pub fn stateful_set(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    let policy = text(spec, "podManagementPolicy");
    if !matches!(policy, "OrderedReady" | "Parallel") {
        errors.invalid("spec.podManagementPolicy", policy, "must be 'OrderedReady' or 'Parallel'");
    }
    let strategy = &spec["updateStrategy"];
    match text(strategy, "type") {
        "RollingUpdate" => {}
        "OnDelete" if strategy["rollingUpdate"].is_null() => {}
        "OnDelete" => {
            let why = "only allowed for updateStrategy 'RollingUpdate'";
            errors.invalid("spec.updateStrategy.rollingUpdate", strategy["rollingUpdate"].clone(), why);
        }
        _ => errors.invalid("spec.updateStrategy", strategy.clone(), "must be 'RollingUpdate' or 'OnDelete'"),
    }
    let rolling = &strategy["rollingUpdate"];
    if !rolling["maxUnavailable"].is_null() {
        let path = "spec.updateStrategy.rollingUpdate";
        count_or_percent(rolling, path, "maxUnavailable", errors);
        if is_zero(&rolling["maxUnavailable"]) {
            errors.invalid(&join(path, "maxUnavailable"), rolling["maxUnavailable"].clone(), "cannot be 0");
        }
        at_most_all(rolling, path, "maxUnavailable", errors);
    }
    selector_and_template(spec, "statefulset", errors);
    always_restarts(spec, "StatefulSet", errors);
}

/// The pods of a StatefulSet may mount what its claim templates make, besides their own volumes.
pub(super) fn stateful_set_template(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let mut template = spec["template"].clone();
    let mut volumes: Vec<Value> = list(&template["spec"], "volumes").to_vec();
    for claim in list(spec, "volumeClaimTemplates") {
        let name = &claim["metadata"]["name"];
        volumes.retain(|volume| volume["name"] != *name);
        volumes.push(serde_json::json!({ "name": name, "persistentVolumeClaim": { "claimName": name } }));
    }
    if template["spec"].is_object() && !volumes.is_empty() {
        template["spec"]["volumes"] = volumes.into();
    }
    crate::rules::check_type("core.v1.PodTemplateSpec", &template, &join(path, "template"), errors);
}

/// Of a StatefulSet's spec, only how it is rolled out and what its pods look like may change.
pub fn stateful_set_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    const FREE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    if !subresource.is_empty() {
        return;
    }
    let fixed = |object: &Value| {
        let mut spec = object["spec"].as_object().cloned().unwrap_or_default();
        FREE.iter().for_each(|key| drop(spec.remove(*key)));
        // The server writes a status into claim templates that their author does not send.
        for claim in spec.get_mut("volumeClaimTemplates").and_then(Value::as_array_mut).into_iter().flatten() {
            claim.as_object_mut().map(|claim| claim.remove("status"));
        }
        spec
    };
    if fixed(new) != fixed(old) {
        errors.forbidden(
            "spec",
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
             'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}
