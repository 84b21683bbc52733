use std::sync::Arc;

use coracle_api::{ApiError, registry};
use serde_json::{Value, json};

use super::matching::{called_for, object_selected};
use super::review::{Rejection, verdict};
use crate::hooks::{AdmissionRequest, Notes, Operation, Reinvocation, UserInfo};

fn request(operation: Operation, group: &str, plural: &str, subresource: &str, namespace: &str) -> AdmissionRequest {
    AdmissionRequest {
        operation,
        resource: registry::lookup(group, "v1", plural).unwrap(),
        subresource: subresource.into(),
        namespace: namespace.into(),
        name: "x".into(),
        object: Value::Null,
        old_object: Value::Null,
        user: UserInfo::default(),
        dry_run: false,
        options: Value::Null,
        notes: Notes::default(),
        reinvocation: Reinvocation::default(),
    }
}

#[test]
fn rules_choose_by_operation_group_version_resource_and_scope() {
    let pod = request(Operation::Create, "", "pods", "", "default");
    let attach = request(Operation::Connect, "", "pods", "attach", "default");
    let namespace = request(Operation::Update, "", "namespaces", "", "default");
    let deployment = request(Operation::Update, "apps", "deployments", "", "default");
    let rule = |operation: &str, group: &str, version: &str, resource: &str, scope: &str| json!({ "operations": [operation], "apiGroups": [group], "apiVersions": [version], "resources": [resource], "scope": scope });
    let table = [
        (&pod, rule("CREATE", "", "v1", "pods", "*"), true),
        (&pod, rule("UPDATE", "", "v1", "pods", "*"), false),
        (&pod, rule("*", "*", "*", "*", "Namespaced"), true),
        (&pod, rule("*", "*", "*", "*", "Cluster"), false),
        (&pod, rule("*", "", "v1", "pods/*", "*"), true),
        (&pod, rule("*", "", "v2", "pods", "*"), false),
        (&attach, rule("CONNECT", "", "v1", "pods/attach", "*"), true),
        (&attach, rule("CONNECT", "", "v1", "*/*", "*"), true),
        (&attach, rule("CONNECT", "", "v1", "pods", "*"), false),
        (&attach, rule("CONNECT", "", "v1", "*", "*"), false),
        (&namespace, rule("*", "", "v1", "namespaces", "Cluster"), true),
        (&namespace, rule("*", "", "v1", "namespaces", "Namespaced"), false),
        (&deployment, rule("*", "apps", "v1", "deployments", "*"), true),
        (&deployment, rule("*", "", "v1", "deployments", "*"), false),
    ];
    for (request, rule, expected) in table {
        let hook = json!({ "rules": [rule], "matchPolicy": "Exact" });
        assert_eq!(called_for(&hook, request, &[]).is_some(), expected, "{hook}");
    }
}

#[test]
fn an_equivalent_version_is_asked_for_only_where_the_own_one_is_not() {
    let request = request(Operation::Create, "autoscaling", "horizontalpodautoscalers", "", "default");
    let v2 = registry::lookup("autoscaling", "v2", "horizontalpodautoscalers").unwrap();
    let rule = |version: &str| json!({ "operations": ["*"], "apiGroups": ["*"], "apiVersions": [version], "resources": ["*"] });
    let version = |versions: &[&str], policy: &str| {
        let rules: Vec<Value> = versions.iter().map(|version| rule(version)).collect();
        let hook = json!({ "rules": rules, "matchPolicy": policy });
        called_for(&hook, &request, &[Arc::clone(&v2)]).map(|resource| resource.version.clone())
    };
    assert_eq!(version(&["v2"], "Equivalent").as_deref(), Some("v2"));
    assert_eq!(version(&["v2", "v1"], "Equivalent").as_deref(), Some("v1"));
    assert_eq!(version(&["v2"], "Exact"), None);
    assert_eq!(version(&["v3"], "Equivalent"), None);
}

#[test]
fn an_object_is_selected_by_its_new_or_its_old_labels() {
    let labelled = json!({ "metadata": { "labels": { "a": "b" } } });
    let selector = json!({ "matchLabels": { "a": "b" } });
    assert!(object_selected(&selector, &[&json!({}), &labelled]));
    assert!(!object_selected(&selector, &[&json!({}), &Value::Null]));
    assert!(object_selected(&json!({}), &[&Value::Null]));
    // Nothing is labelled where there is no object, whatever the selector would take.
    assert!(!object_selected(
        &json!({ "matchExpressions": [{ "key": "a", "operator": "DoesNotExist" }] }),
        &[&Value::Null]
    ));
}

#[test]
fn an_answer_that_makes_no_sense_is_none() {
    let answer = |response: Value| json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response });
    let why = |answer: Value, mutating| verdict(&answer, "u", "v1", mutating).unwrap_err();
    assert_eq!(why(json!({}), true), "webhook response was absent");
    assert_eq!(why(answer(json!({ "uid": "x" })), true), r#"expected response.uid="u", got "x""#);
    assert_eq!(
        why(json!({ "response": { "uid": "u" } }), true),
        "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got , Kind="
    );
    let with = |field: &str, value: &str| answer(json!({ "uid": "u", "allowed": true, field: value }));
    assert_eq!(why(with("patch", "W10="), true), "webhook returned response.patch but not response.patchType");
    assert_eq!(why(with("patchType", "JSONPatch"), true), "webhook returned response.patchType but not response.patch");
    assert_eq!(why(with("patch", "W10="), false), "validating webhook may not return response.patch");
    assert_eq!(why(with("patchType", "JSONPatch"), false), "validating webhook may not return response.patchType");
    // v1beta1 asked for less.
    let old = json!({ "response": { "allowed": true, "patch": "W10=" } });
    assert_eq!(verdict(&old, "u", "v1beta1", true).unwrap().patch.unwrap(), b"[]");
}

#[test]
fn a_refusal_says_which_webhook_and_why_and_never_means_success() {
    let refusal = |status: Value| -> ApiError {
        let answer = json!({ "response": { "status": status } });
        let rejection: Rejection = verdict(&answer, "", "v1beta1", true).unwrap().rejection.unwrap();
        rejection.refusal("w")
    };
    let table = [
        (Value::Null, 400, "", r#"admission webhook "w" denied the request without explanation"#),
        (json!({ "code": 200, "message": "no" }), 400, "", r#"admission webhook "w" denied the request: no"#),
        (
            json!({ "code": 403, "reason": "Forbidden" }),
            403,
            "Forbidden",
            r#"admission webhook "w" denied the request: Forbidden"#,
        ),
    ];
    for (status, code, reason, message) in table {
        let error = refusal(status);
        assert_eq!((error.code, error.reason, error.message.as_str()), (code, reason, message));
    }
}
