//! Workloads of apps/v1, and ReplicationControllers.

use serde_json::Value;

use super::{count_or_percent, join, label_selector, list, not_negative, one_of, pod_template, text, unchanged};
use crate::field::FieldErrors;
use crate::selector::Selector;

/// The selector must be there, select something, and select the template's pods.
fn selector_and_template(spec: &Value, errors: &mut FieldErrors) {
    let (selector, labels) = (&spec["selector"], &spec["template"]["metadata"]["labels"]);
    if selector.is_null() {
        errors.required("spec.selector", "");
    } else {
        label_selector(selector, "spec.selector", errors);
        match Selector::from_json(selector) {
            Ok(selector) if selector.is_everything() => {
                errors.invalid("spec.selector", spec["selector"].clone(), "empty selector is invalid for deployment");
            }
            Ok(selector) if !selector.matches(labels) => {
                errors.invalid(
                    "spec.template.metadata.labels",
                    labels.clone(),
                    "`selector` does not match template `labels`",
                );
            }
            _ => {}
        }
    }
    pod_template(&spec["template"], "spec.template", errors);
}

/// Pods that are kept running must be restarted.
fn always_restarts(spec: &Value, errors: &mut FieldErrors) {
    let policy = text(&spec["template"]["spec"], "restartPolicy");
    if !matches!(policy, "" | "Always") {
        errors.not_supported("spec.template.spec.restartPolicy", policy, &["Always"]);
    }
    if spec["template"]["spec"]["activeDeadlineSeconds"].is_i64() {
        errors.forbidden(
            "spec.template.spec.activeDeadlineSeconds",
            "activeDeadlineSeconds in ReplicaSet is not Supported",
        );
    }
}

/// A Deployment.
pub fn deployment(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    not_negative(spec, "spec", "replicas", errors);
    selector_and_template(spec, errors);
    always_restarts(spec, errors);
    let strategy = &spec["strategy"];
    let rolling = &strategy["rollingUpdate"];
    one_of(strategy, "spec.strategy", "type", &["Recreate", "RollingUpdate"], errors);
    if text(strategy, "type") == "Recreate" && rolling.is_object() {
        let why = "may not be specified when strategy `type` is 'Recreate'";
        errors.forbidden("spec.strategy.rollingUpdate", why);
    }
    if text(strategy, "type") == "RollingUpdate" {
        rolling_update(rolling, "spec.strategy.rollingUpdate", errors);
    }
    for key in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        not_negative(spec, "spec", key, errors);
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
    let zero = |key: &str| rolling[key] == 0 || rolling[key] == "0%";
    if zero("maxUnavailable") && zero("maxSurge") {
        let why = "may not be 0 when `maxSurge` is 0";
        errors.invalid(&join(path, "maxUnavailable"), rolling["maxUnavailable"].clone(), why);
    }
    let percent = text(rolling, "maxUnavailable").strip_suffix('%').and_then(|n| n.parse::<u32>().ok());
    if percent.is_some_and(|percent| percent > 100) {
        errors.invalid(&join(path, "maxUnavailable"), text(rolling, "maxUnavailable"), "must not be greater than 100%");
    }
}

/// A ReplicaSet.
pub fn replica_set(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    not_negative(spec, "spec", "replicas", errors);
    not_negative(spec, "spec", "minReadySeconds", errors);
    selector_and_template(spec, errors);
    always_restarts(spec, errors);
}

/// A ReplicationController.
pub fn replication_controller(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    not_negative(spec, "spec", "replicas", errors);
    not_negative(spec, "spec", "minReadySeconds", errors);
    let selector = spec["selector"].as_object();
    let labels = &spec["template"]["metadata"]["labels"];
    match selector {
        None => errors.required("spec.selector", ""),
        Some(selector) if selector.is_empty() => errors.required("spec.selector", ""),
        Some(selector) if selector.iter().any(|(key, value)| labels[key.as_str()] != *value) => {
            errors.invalid(
                "spec.template.metadata.labels",
                labels.clone(),
                "`selector` does not match template `labels`",
            );
        }
        Some(_) => {}
    }
    if spec["template"].is_null() {
        errors.required("spec.template", "");
    } else {
        pod_template(&spec["template"], "spec.template", errors);
        always_restarts(spec, errors);
    }
}

/// A DaemonSet.
pub fn daemon_set(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    selector_and_template(spec, errors);
    always_restarts(spec, errors);
    not_negative(spec, "spec", "minReadySeconds", errors);
    not_negative(spec, "spec", "revisionHistoryLimit", errors);
    let strategy = &spec["updateStrategy"];
    one_of(strategy, "spec.updateStrategy", "type", &["RollingUpdate", "OnDelete"], errors);
    if text(strategy, "type") == "RollingUpdate" {
        rolling_update(&strategy["rollingUpdate"], "spec.updateStrategy.rollingUpdate", errors);
    }
}

/// A StatefulSet.
pub fn stateful_set(object: &Value, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    one_of(spec, "spec", "podManagementPolicy", &["OrderedReady", "Parallel"], errors);
    let strategy = &spec["updateStrategy"];
    one_of(strategy, "spec.updateStrategy", "type", &["RollingUpdate", "OnDelete"], errors);
    if text(strategy, "type") == "OnDelete" && strategy["rollingUpdate"].is_object() {
        let why = "only allowed for updateStrategy 'RollingUpdate'";
        errors.invalid("spec.updateStrategy.rollingUpdate", strategy["rollingUpdate"].clone(), why);
    }
    not_negative(&strategy["rollingUpdate"], "spec.updateStrategy.rollingUpdate", "partition", errors);
    for key in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
        not_negative(spec, "spec", key, errors);
    }
    let retention = &spec["persistentVolumeClaimRetentionPolicy"];
    for key in ["whenDeleted", "whenScaled"] {
        one_of(retention, "spec.persistentVolumeClaimRetentionPolicy", key, &["Retain", "Delete"], errors);
    }
    // The template's volumes include one per claim template, which pods may mount.
    let mut spec = spec.clone();
    let claims: Vec<Value> = list(&spec, "volumeClaimTemplates")
        .iter()
        .map(|claim| {
            let name = &claim["metadata"]["name"];
            serde_json::json!({ "name": name, "persistentVolumeClaim": { "claimName": name } })
        })
        .collect();
    if !claims.is_empty() {
        let volumes = crate::defaults::child(
            crate::defaults::child(crate::defaults::child(&mut spec, "template"), "spec"),
            "volumes",
        );
        let own = volumes.as_array().cloned().unwrap_or_default();
        let named = |volume: &Value| claims.iter().any(|claim| claim["name"] == volume["name"]);
        *volumes = own.iter().filter(|volume| !named(volume)).chain(&claims).cloned().collect();
    }
    selector_and_template(&spec, errors);
    always_restarts(&spec, errors);
}

/// The selector of a Deployment, ReplicaSet or DaemonSet stays as it was made.
pub fn selector_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    if subresource.is_empty() {
        unchanged(&new["spec"], &old["spec"], "spec", "selector", errors);
    }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate::{IMMUTABLE, errors_of};

    fn good() -> Value {
        let mut object = json!({"spec": {
            "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}},
        }});
        crate::defaults::deployment(&mut object);
        object
    }

    #[test]
    fn a_deployments_selector_must_select_its_own_pods() {
        assert_eq!(errors_of(deployment, &good()), Vec::<String>::new());
        let mut object = good();
        object["spec"]["template"]["metadata"]["labels"] = json!({"app": "b"});
        assert_eq!(
            errors_of(deployment, &object),
            [
                r#"spec.template.metadata.labels: Invalid value: {"app":"b"}: `selector` does not match template `labels`"#
            ]
        );
        object["spec"].as_object_mut().unwrap().remove("selector");
        assert_eq!(errors_of(deployment, &object), ["spec.selector: Required value"]);
    }

    #[test]
    fn a_rollout_must_be_able_to_move() {
        let mut object = good();
        object["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": 0, "maxUnavailable": "0%"});
        assert_eq!(
            errors_of(deployment, &object),
            [r#"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "0%": may not be 0 when `maxSurge` is 0"#]
        );
        object["spec"]["strategy"] = json!({"type": "Recreate", "rollingUpdate": {}});
        assert_eq!(
            errors_of(deployment, &object),
            ["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"]
        );
    }

    #[test]
    fn selectors_do_not_change() {
        let mut errors = FieldErrors::default();
        let mut new = good();
        new["spec"]["selector"] = json!({"matchLabels": {"app": "b"}});
        selector_update(&new, &good(), "", &mut errors);
        assert!(errors.0[0].to_string().ends_with(IMMUTABLE));
    }

    #[test]
    fn a_stateful_set_may_mount_its_claims() {
        let mut object = good();
        object["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}}]);
        object["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
            json!([{"name": "data", "mountPath": "/d"}]);
        assert_eq!(errors_of(stateful_set, &object), Vec::<String>::new());
    }
}
