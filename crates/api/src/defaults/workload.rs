//! Workloads and their autoscaler.

use serde_json::{Value, json};

use super::{at, child, items, set};

/// A ReplicationController selects by its template's labels.
pub(super) fn replication_controller(object: &mut Value) {
    let labels = object["spec"]["template"]["metadata"]["labels"].clone();
    if !labels.is_object() {
        return;
    }
    if object["spec"]["selector"].as_object().is_none_or(serde_json::Map::is_empty) {
        object["spec"]["selector"] = labels;
    }
    template_labels(object);
}

/// Who has no labels has those of the template.
fn template_labels(object: &mut Value) {
    let labels = object["spec"]["template"]["metadata"]["labels"].clone();
    if labels.is_object() && object["metadata"]["labels"].as_object().is_none_or(serde_json::Map::is_empty) {
        child(object, "metadata")["labels"] = labels;
    }
}

/// The parameters of a rolling update are there if that is how updates go.
pub(super) fn rolling_update(strategy: &mut Value) {
    if strategy["type"] == "RollingUpdate" {
        child(strategy, "rollingUpdate");
    }
}

/// A StatefulSet that does not say how updates go gets a rolling one with its parameters.
pub(super) fn stateful_update(strategy: &mut Value) {
    if strategy["type"].as_str().is_none_or(str::is_empty) {
        strategy["type"] = "RollingUpdate".into();
        child(strategy, "rollingUpdate");
    }
}

/// A StatefulSet's claim templates are whole objects.
pub(super) fn claim_templates(spec: &mut Value) {
    for claim in items(spec, "volumeClaimTemplates") {
        set(claim, "apiVersion", "v1");
        set(claim, "kind", "PersistentVolumeClaim");
    }
}

/// A Job: one pod, six retries. A CronJob's template is not a Job yet and gets none of this.
pub(super) fn job(object: &mut Value) {
    let spec = child(object, "spec");
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        set(spec, "completions", 1);
    }
    set(spec, "parallelism", 1);
    // A limit per index makes the limit over all of them as good as none.
    let per_index = spec.get("backoffLimitPerIndex").is_some();
    set(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
    let failure_policy = spec.get("podFailurePolicy").is_some();
    set(spec, "podReplacementPolicy", if failure_policy { "Failed" } else { "TerminatingOrFailed" });
    template_labels(object);
}

/// An autoscaler goes by CPU at 80 % if it names no metric; a behaviour is completed.
pub(super) fn hpa(spec: &mut Value) {
    if spec["metrics"].as_array().is_none_or(Vec::is_empty) {
        spec["metrics"] = json!([{
            "type": "Resource",
            "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 80 } },
        }]);
    }
    let percent = json!({ "type": "Percent", "value": 100, "periodSeconds": 15 });
    let pods = json!({ "type": "Pods", "value": 4, "periodSeconds": 15 });
    if let Some(behavior) = at(spec, "behavior") {
        let up = child(behavior, "scaleUp");
        set(up, "stabilizationWindowSeconds", 0);
        set(up, "selectPolicy", "Max");
        set(up, "policies", json!([pods, percent]));
        let down = child(behavior, "scaleDown");
        set(down, "selectPolicy", "Max");
        set(down, "policies", json!([percent]));
    }
}
