//! Workloads: apps/v1, batch/v1, ReplicationControllers.

use serde_json::Value;

use super::{at, child, items, set, set_text};

fn template(spec: &mut Value) {
    super::pod_spec(child(child(spec, "template"), "spec"));
}

/// A Deployment: rolling update by a quarter, ten old ReplicaSets, ten minutes to progress.
pub fn deployment(object: &mut Value) {
    let spec = child(object, "spec");
    set(spec, "replicas", 1);
    let strategy = child(spec, "strategy");
    set_text(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = child(strategy, "rollingUpdate");
        set(rolling, "maxUnavailable", "25%");
        set(rolling, "maxSurge", "25%");
    }
    set(spec, "revisionHistoryLimit", 10);
    set(spec, "progressDeadlineSeconds", 600);
    template(spec);
}

/// A ReplicaSet: one replica.
pub fn replica_set(object: &mut Value) {
    let spec = child(object, "spec");
    set(spec, "replicas", 1);
    template(spec);
}

/// A ReplicationController: one replica, selected by the template's labels.
pub fn replication_controller(object: &mut Value) {
    let labels = object["spec"]["template"]["metadata"]["labels"].clone();
    if labels.is_object() {
        let selector = object["spec"]["selector"].as_object().is_none_or(serde_json::Map::is_empty);
        if selector {
            object["spec"]["selector"] = labels.clone();
        }
        if object["metadata"]["labels"].is_null() {
            object["metadata"]["labels"] = labels;
        }
    }
    let spec = child(object, "spec");
    set(spec, "replicas", 1);
    if spec["template"].is_object() {
        template(spec);
    }
}

/// A StatefulSet: ordered, rolling from the last.
pub fn stateful_set(object: &mut Value) {
    let spec = child(object, "spec");
    set_text(spec, "podManagementPolicy", "OrderedReady");
    let strategy = child(spec, "updateStrategy");
    set_text(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        set(child(strategy, "rollingUpdate"), "partition", 0);
    }
    let retention = child(spec, "persistentVolumeClaimRetentionPolicy");
    set_text(retention, "whenDeleted", "Retain");
    set_text(retention, "whenScaled", "Retain");
    set(spec, "replicas", 1);
    set(spec, "revisionHistoryLimit", 10);
    for claim in items(spec, "volumeClaimTemplates") {
        set(claim, "apiVersion", "v1");
        set(claim, "kind", "PersistentVolumeClaim");
        super::persistent_volume_claim(claim);
    }
    template(spec);
}

/// A DaemonSet: rolling, one node at a time.
pub fn daemon_set(object: &mut Value) {
    let spec = child(object, "spec");
    let strategy = child(spec, "updateStrategy");
    set_text(strategy, "type", "RollingUpdate");
    if strategy["type"] == "RollingUpdate" {
        let rolling = child(strategy, "rollingUpdate");
        set(rolling, "maxUnavailable", 1);
        set(rolling, "maxSurge", 0);
    }
    set(spec, "revisionHistoryLimit", 10);
    template(spec);
}

/// A Job: one pod, six retries.
pub fn job(object: &mut Value) {
    job_spec(child(object, "spec"));
}

fn job_spec(spec: &mut Value) {
    if spec.get("completions").is_none() && spec.get("parallelism").is_none() {
        set(spec, "completions", 1);
    }
    set(spec, "parallelism", 1);
    // A limit per index makes the limit over all of them as good as none.
    let per_index = spec.get("backoffLimitPerIndex").is_some();
    set(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
    set(spec, "completionMode", "NonIndexed");
    set(spec, "suspend", false);
    let failure_policy = spec.get("podFailurePolicy").is_some();
    set(spec, "podReplacementPolicy", if failure_policy { "Failed" } else { "TerminatingOrFailed" });
    if let Some(policy) = at(spec, "podFailurePolicy") {
        for rule in items(policy, "rules") {
            for condition in items(rule, "onPodConditions") {
                set_text(condition, "status", "True");
            }
        }
    }
    template(spec);
}

/// A CronJob: concurrent runs, the last three successes and one failure kept.
pub fn cron_job(object: &mut Value) {
    let spec = child(object, "spec");
    set_text(spec, "concurrencyPolicy", "Allow");
    set(spec, "suspend", false);
    set(spec, "successfulJobsHistoryLimit", 3);
    set(spec, "failedJobsHistoryLimit", 1);
    // The Job's own defaults come when it is made; only its pods' are filled in here.
    template(child(child(spec, "jobTemplate"), "spec"));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn workloads_get_what_upstream_gives() {
        let mut object = json!({"spec": {"template": {"spec": {}}}});
        deployment(&mut object);
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

        let mut object = json!({"spec": {"strategy": {"type": "Recreate"}, "replicas": 0}});
        deployment(&mut object);
        assert_eq!(object["spec"]["strategy"], json!({"type": "Recreate"}));
        assert_eq!(object["spec"]["replicas"], 0);

        let mut object = json!({"spec": {"parallelism": 3}});
        job(&mut object);
        assert!(object["spec"].get("completions").is_none());
        assert_eq!((&object["spec"]["backoffLimit"], &object["spec"]["suspend"]), (&json!(6), &json!(false)));

        let mut object = json!({"spec": {"template": {"metadata": {"labels": {"a": "b"}}}}});
        replication_controller(&mut object);
        assert_eq!(object["spec"]["selector"], json!({"a": "b"}));
    }

    #[test]
    fn defaulting_twice_changes_nothing() {
        let functions: [fn(&mut Value); 7] =
            [deployment, replica_set, replication_controller, stateful_set, daemon_set, job, cron_job];
        for default in functions {
            let mut object = json!({"spec": {"template": {"spec": {"containers": [{"name": "c"}]}}}});
            default(&mut object);
            let once = object.clone();
            default(&mut object);
            assert_eq!(object, once);
            assert!(!object.to_string().contains("null"), "{object}");
        }
    }
}
