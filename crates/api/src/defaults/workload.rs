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
        object["spec"]["selector"] = labels.clone();
    }
    if object["metadata"]["labels"].as_object().is_none_or(serde_json::Map::is_empty) {
        child(object, "metadata")["labels"] = labels;
    }
}

/// The parameters of a rolling update are there if that is how updates go.
pub(super) fn rolling_update(strategy: &mut Value) {
    if strategy["type"] == "RollingUpdate" {
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

#[cfg(test)]
mod tests {
    use crate::rules::default;
    use crate::schema::type_of;

    use super::*;

    fn defaulted(definition: &str, mut object: Value) -> Value {
        default(type_of(definition).unwrap(), &mut object);
        let once = object.clone();
        default(type_of(definition).unwrap(), &mut object);
        assert_eq!(object, once, "defaulting twice changes nothing");
        object
    }

    #[test]
    fn workloads_get_what_upstream_gives() {
        let object = defaulted("apps.v1.Deployment", json!({"spec": {"template": {"spec": {}}}}));
        let spec = &object["spec"];
        assert_eq!(
            (&spec["replicas"], &spec["revisionHistoryLimit"], &spec["progressDeadlineSeconds"]),
            (&json!(1), &json!(10), &json!(600))
        );
        assert_eq!(
            spec["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
        );
        assert_eq!(spec["template"]["spec"]["restartPolicy"], "Always");
        assert!(spec["template"]["spec"].get("enableServiceLinks").is_none());

        let object =
            defaulted("apps.v1.Deployment", json!({"spec": {"strategy": {"type": "Recreate"}, "replicas": 0}}));
        assert_eq!(object["spec"]["strategy"], json!({"type": "Recreate"}));
        assert_eq!(object["spec"]["replicas"], 0);

        for (spec, completions) in [
            (json!({}), json!(1)),
            (json!({"parallelism": 3}), Value::Null),
            (json!({"completions": 5, "parallelism": 3}), json!(5)),
        ] {
            let object = defaulted("batch.v1.Job", json!({ "spec": spec }));
            assert_eq!(object["spec"]["completions"], completions);
            assert_eq!((&object["spec"]["backoffLimit"], &object["spec"]["suspend"]), (&json!(6), &json!(false)));
        }
        let object = defaulted(
            "core.v1.ReplicationController",
            json!({"spec": {"template": {"metadata": {"labels": {"a": "b"}}}}}),
        );
        assert_eq!(object["spec"]["selector"], json!({"a": "b"}));
        assert_eq!(object["metadata"]["labels"], json!({"a": "b"}));
        let object = defaulted("batch.v1.CronJob", json!({"spec": {"schedule": "* * * * *"}}));
        assert!(object["spec"]["jobTemplate"]["spec"].get("backoffLimit").is_none());
        assert_eq!(object["spec"]["jobTemplate"]["spec"]["template"]["spec"]["dnsPolicy"], "ClusterFirst");
    }
}
