//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy: what they refuse, warn of and change, and how
//! they are refused themselves. The conformance suite's behaviours have its names.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Answer, MERGE, Server, config_map, deployment, simulate};
use serde_json::{Value, json};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn object(kind: &str, name: &str, spec: Value) -> Value {
    let api_version = "admissionregistration.k8s.io/v1";
    json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": name }, "spec": spec })
}

/// Constraints for writes of one resource.
fn constraints(group: &str, resource: &str) -> Value {
    let rule = json!({ "apiGroups": [group], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": [resource] });
    json!({ "resourceRules": [rule] })
}

fn plural(kind: &str) -> String {
    format!(
        "{GROUP}/{}",
        kind.to_lowercase().replace("policybinding", "policybindings").trim_end_matches('y').to_owned()
            + if kind.ends_with("Policy") { "ies" } else { "" }
    )
}

async fn create(server: &Server, kind: &str, name: &str, spec: Value) -> Answer {
    server.post(&plural(kind), object(kind, name, spec)).await
}

/// A policy over writes of `resource`, bound as `b`, with these fields on top.
async fn validating(server: &Server, group: &str, resource: &str, more: Value, binding: Value) {
    let mut spec = json!({ "matchConstraints": constraints(group, resource) });
    let mut bound = json!({ "policyName": "p", "validationActions": ["Deny"] });
    for (target, fields) in [(&mut spec, more), (&mut bound, binding)] {
        target.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    }
    create(server, "ValidatingAdmissionPolicy", "p", spec).await.expect(201);
    create(server, "ValidatingAdmissionPolicyBinding", "b", bound).await.expect(201);
}

async fn mutating(server: &Server, group: &str, resource: &str, more: Value) {
    let mut spec = json!({ "matchConstraints": constraints(group, resource), "reinvocationPolicy": "Never" });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    create(server, "MutatingAdmissionPolicy", "p", spec).await.expect(201);
    create(server, "MutatingAdmissionPolicyBinding", "b", json!({ "policyName": "p" })).await.expect(201);
}

fn with_replicas(name: &str, replicas: i64) -> Value {
    let mut deployment = deployment(name);
    deployment["spec"]["replicas"] = replicas.into();
    deployment
}

#[test]
fn validating_admission_policy_should_validate_against_a_deployment() {
    simulate(async || {
        let server = Server::admitting(|_| ()).await;
        let message = "'wants more than 1, has ' + string(object.spec.replicas)";
        let validations = json!([
            { "expression": "object.spec.replicas > 1", "messageExpression": message },
            { "expression": "object.spec.replicas < 100", "message": "too many", "reason": "Forbidden" } ]);
        let selector = json!({ "matchResources": { "namespaceSelector": { "matchLabels": { "team": "a" } } } });
        validating(&server, "apps", "deployments", json!({ "validations": validations }), selector).await;

        server.post(DEPLOYMENTS, with_replicas("good", 2)).await.expect(201);
        let refused = server.post(DEPLOYMENTS, with_replicas("bad", 1)).await.expect(422);
        let why = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: wants more than 1, has 1";
        assert_eq!(refused["message"], format!("deployments.apps \"bad\" is forbidden: {why}"));
        assert_eq!(
            (&refused["reason"], &refused["details"]["causes"]),
            (&json!("Invalid"), &json!([{ "message": why }]))
        );
        let refused = server.post(DEPLOYMENTS, with_replicas("many", 100)).await.expect(403);
        assert_eq!(refused["reason"], "Forbidden");
        let patch = json!({ "spec": { "replicas": 0 } });
        server.patch(&format!("{DEPLOYMENTS}/good"), MERGE, patch).await.expect(422);
        // Other namespaces and other kinds are not concerned.
        server.post("/api/v1/namespaces", json!({ "metadata": { "name": "other" } })).await.expect(201);
        let other = DEPLOYMENTS.replace("default", "other");
        server.post(&other, with_replicas("bad", 1)).await.expect(201);
        server.post(MAPS, config_map("m")).await.expect(201);
    });
}

#[test]
fn validating_admission_policy_should_allow_expressions_to_refer_variables() {
    simulate(async || {
        let server = Server::admitting(|_| ()).await;
        let variables = json!([
            { "name": "replicas", "expression": "object.spec.replicas" },
            { "name": "oddReplicas", "expression": "variables.replicas % 2 == 1" },
            { "name": "broken", "expression": "object.spec.nothing.there" } ]);
        let validations = json!([
            { "expression": "variables.replicas > 1" },
            { "expression": "variables.oddReplicas", "message": "must be odd" } ]);
        let more = json!({ "variables": variables, "validations": validations });
        validating(&server, "apps", "deployments", more, json!({})).await;
        server.post(DEPLOYMENTS, with_replicas("three", 3)).await.expect(201);
        let refused = server.post(DEPLOYMENTS, with_replicas("four", 4)).await.expect(422);
        assert!(refused["message"].as_str().unwrap().ends_with("denied request: must be odd"), "{refused}");
        let refused = server.post(DEPLOYMENTS, with_replicas("one", 1)).await.expect(422);
        assert!(refused["message"].as_str().unwrap().ends_with("failed expression: variables.replicas > 1"));
    });
}

/// Every verb on one of the kinds.
async fn operations(kind: &str, spec: Value) {
    let server = Server::admitting(|_| ()).await;
    let path = plural(kind);
    let group = server.get(GROUP).await.expect(200);
    let name = path.rsplit('/').next().unwrap();
    assert!(group["resources"].as_array().unwrap().iter().any(|resource| resource["name"] == name), "{name}");
    for name in ["a", "b"] {
        create(&server, kind, name, spec.clone()).await.expect(201);
    }
    let mut watch = server.watch(&format!("{path}?watch=1&resourceVersion=0")).await;
    let _ = (watch.brief().await, watch.brief().await);
    let got = server.get(&format!("{path}/a")).await.expect(200);
    assert_eq!(server.get(&path).await.expect(200)["items"].as_array().unwrap().len(), 2);
    let mut changed = got.clone();
    changed["metadata"]["annotations"] = json!({ "updated": "true" });
    server.put(&format!("{path}/a"), changed).await.expect(200);
    let patch = json!({ "metadata": { "labels": { "patched": "true" } } });
    let patched = server.patch(&format!("{path}/a"), MERGE, patch).await.expect(200);
    assert_eq!(patched["metadata"]["annotations"]["updated"], "true");
    assert_eq!([watch.brief().await, watch.brief().await], ["MODIFIED a", "MODIFIED a"].map(|b| Some(b.to_owned())));
    if kind == "ValidatingAdmissionPolicy" {
        let status = json!({ "status": { "conditions": [{ "type": "X", "status": "True", "reason": "R", "message": "m",
            "lastTransitionTime": "2024-01-01T00:00:00Z" }] } });
        let answer = server.patch(&format!("{path}/a/status"), MERGE, status).await.expect(200);
        assert_eq!(answer["status"]["conditions"][0]["type"], "X");
    }
    server.delete(&format!("{path}/a"), json!({})).await.expect(200);
    server.get(&format!("{path}/a")).await.expect(404);
    server.delete(&path, json!({})).await.expect(200);
    assert_eq!(server.get(&path).await.expect(200)["items"], json!([]));
}

#[test]
fn validating_admission_policy_should_support_validating_admission_policy_api_operations() {
    let spec =
        json!({ "matchConstraints": constraints("apps", "deployments"), "validations": [{ "expression": "true" }] });
    simulate(async || operations("ValidatingAdmissionPolicy", spec).await);
}

#[test]
fn validating_admission_policy_should_support_validating_admission_policy_binding_api_operations() {
    let spec = json!({ "policyName": "p", "validationActions": ["Deny"] });
    simulate(async || operations("ValidatingAdmissionPolicyBinding", spec).await);
}

#[test]
fn mutating_admission_policy_should_support_mutating_admission_policy_api_operations() {
    let mutation = json!({ "patchType": "ApplyConfiguration", "applyConfiguration": { "expression": "Object{}" } });
    let spec = json!({ "matchConstraints": constraints("apps", "deployments"), "reinvocationPolicy": "Never",
        "mutations": [mutation] });
    simulate(async || operations("MutatingAdmissionPolicy", spec).await);
}

#[test]
fn mutating_admission_policy_should_support_mutating_admission_policy_binding_api_operations() {
    simulate(async || operations("MutatingAdmissionPolicyBinding", json!({ "policyName": "p" })).await);
}

#[test]
fn mutating_admission_policy_should_mutate_a_deployment() {
    simulate(async || {
        let server = Server::admitting(|_| ()).await;
        let expression = "Object{spec: Object.spec{replicas: object.spec.replicas + 100, \
            template: Object.spec.template{spec: Object.spec.template.spec{containers: \
            [Object.spec.template.spec.containers{name: 'c', image: 'changed'}]}}}}";
        let mutation = json!({ "patchType": "ApplyConfiguration", "applyConfiguration": { "expression": expression } });
        mutating(&server, "apps", "deployments", json!({ "mutations": [mutation] })).await;
        let made = server.post(DEPLOYMENTS, with_replicas("d", 2)).await.expect(201);
        assert_eq!(made["spec"]["replicas"], 102);
        let images: Vec<&Value> =
            made["spec"]["template"]["spec"]["containers"].as_array().unwrap().iter().map(|c| &c["image"]).collect();
        assert_eq!(images, ["changed", "envoy"]);
    });
}

#[test]
fn mutating_admission_policy_should_mutate_a_deployment_with_annotations() {
    simulate(async || {
        let server = Server::admitting(|_| ()).await;
        let patch = "[JSONPatch{op: 'add', path: '/metadata/annotations', value: {'team.io/a': 'b'}}, \
            JSONPatch{op: 'add', path: '/metadata/annotations/' + jsonpatch.escapeKey('x/y'), value: variables.z}]";
        let more = json!({ "variables": [{ "name": "z", "expression": "'z' + request.operation" }],
            "mutations": [{ "patchType": "JSONPatch", "jsonPatch": { "expression": patch } }] });
        mutating(&server, "apps", "deployments", more).await;
        let made = server.post(DEPLOYMENTS, with_replicas("d", 2)).await.expect(201);
        assert_eq!(made["metadata"]["annotations"], json!({ "team.io/a": "b", "x/y": "zCREATE" }));
    });
}

#[test]
fn a_mutation_that_cannot_be_applied_refuses_unless_it_may_fail() {
    simulate(async || {
        let server = Server::admitting(|_| ()).await;
        let patch = "[JSONPatch{op: 'remove', path: '/data/none'}]";
        let mutations = json!([{ "patchType": "JSONPatch", "jsonPatch": { "expression": patch } }]);
        mutating(&server, "", "configmaps", json!({ "mutations": mutations })).await;
        let refused = server.post(MAPS, config_map("m")).await.expect(403);
        let message = refused["message"].as_str().unwrap();
        assert!(message.starts_with("policy 'p' with binding 'b' denied request: "), "{message}");
        let path = format!("{}/p", plural("MutatingAdmissionPolicy"));
        server.patch(&path, MERGE, json!({ "spec": { "failurePolicy": "Ignore" } })).await.expect(200);
        server.post(MAPS, config_map("m")).await.expect(201);
    });
}

#[test]
fn parameters_come_by_name_or_selector_and_their_absence_is_decided_by_the_binding() {
    simulate(async || {
        let server = Server::admitting(|_| ()).await;
        let more = json!({ "paramKind": { "apiVersion": "v1", "kind": "ConfigMap" },
            "validations": [{ "expression": "object.spec.replicas <= int(params.data.max)" }] });
        let binding = json!({ "paramRef": { "name": "limits", "parameterNotFoundAction": "Deny" } });
        validating(&server, "apps", "deployments", more, binding).await;
        let refused = server.post(DEPLOYMENTS, with_replicas("d", 5)).await.expect(422);
        let why = "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction";
        assert!(refused["message"].as_str().unwrap().ends_with(why), "{refused}");
        let mut limits = config_map("limits");
        (limits["data"], limits["metadata"]["labels"]) = (json!({ "max": "5" }), json!({ "l": "1" }));
        server.post(MAPS, limits).await.expect(201);
        server.post(DEPLOYMENTS, with_replicas("d", 5)).await.expect(201);
        server.post(DEPLOYMENTS, with_replicas("e", 6)).await.expect(422);
        // By labels: all that are selected must hold; none is fine if the binding says so.
        let path = format!("{}/b", plural("ValidatingAdmissionPolicyBinding"));
        let by = |label: &str| {
            json!({ "spec": { "paramRef": { "name": null, "parameterNotFoundAction": "Allow",
                "selector": { "matchLabels": { "l": label } } } } })
        };
        server.patch(&path, MERGE, by("1")).await.expect(200);
        server.post(DEPLOYMENTS, with_replicas("e", 6)).await.expect(422);
        server.patch(&path, MERGE, by("2")).await.expect(200);
        server.post(DEPLOYMENTS, with_replicas("e", 6)).await.expect(201);
    });
}

#[test]
fn match_conditions_failure_policy_and_actions_decide_what_follows() {
    simulate(async || {
        let server = Server::admitting(|_| ()).await;
        let more = json!({
            "matchConditions": [{ "name": "not-exempt", "expression": "!(request.userInfo.username == 'tester' && \
                has(object.metadata.labels) && 'exempt' in object.metadata.labels)" }],
            "validations": [{ "expression": "object.data.a == '2' && namespaceObject.metadata.labels.team == 'a' && \
                authorizer.group('').resource('pods').namespace('default').check('get').allowed()" }] });
        validating(&server, "", "configmaps", more, json!({ "validationActions": ["Warn", "Audit"] })).await;
        let answer = server.post(MAPS, config_map("warned")).await;
        answer.expect(201);
        let warning = answer.headers["warning"].to_str().unwrap();
        assert!(
            warning.contains("Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': failed expression"),
            "{warning}"
        );
        let binding = format!("{}/b", plural("ValidatingAdmissionPolicyBinding"));
        server.patch(&binding, MERGE, json!({ "spec": { "validationActions": ["Deny"] } })).await.expect(200);
        server.post(MAPS, config_map("denied")).await.expect(422);
        let mut exempt = config_map("exempt");
        exempt["metadata"]["labels"] = json!({ "exempt": "" });
        server.post(MAPS, exempt).await.expect(201);
        // An error counts as a refusal, until errors are to be ignored.
        let mut odd = config_map("odd");
        odd["data"] = json!({ "b": "1" });
        let refused = server.post(MAPS, odd.clone()).await.expect(422);
        assert!(refused["message"].as_str().unwrap().contains("resulted in error: no such key: a"), "{refused}");
        let policy = format!("{}/p", plural("ValidatingAdmissionPolicy"));
        server.patch(&policy, MERGE, json!({ "spec": { "failurePolicy": "Ignore" } })).await.expect(200);
        server.post(MAPS, odd).await.expect(201);
    });
}

#[test]
fn a_policy_can_judge_deletions_and_leave_names_out() {
    simulate(async || {
        let server = Server::admitting(|_| ()).await;
        let rule = |more: Value| {
            let mut rule = json!({ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"], "resources": ["configmaps"] });
            rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            rule
        };
        let constraints = json!({ "resourceRules": [rule(json!({}))],
            "excludeResourceRules": [rule(json!({ "resourceNames": ["free"] }))] });
        let more = json!({ "matchConstraints": constraints,
            "validations": [{ "expression": "object == null && oldObject.data.a != '1'", "message": "stays" }] });
        validating(&server, "", "configmaps", more, json!({})).await;
        for name in ["kept", "free"] {
            server.post(MAPS, config_map(name)).await.expect(201);
        }
        let refused = server.delete(&format!("{MAPS}/kept"), json!({})).await.expect(422);
        assert!(refused["message"].as_str().unwrap().ends_with("denied request: stays"), "{refused}");
        server.delete(&format!("{MAPS}/free"), json!({})).await.expect(200);
    });
}

#[test]
fn policies_that_make_no_sense_are_refused() {
    simulate(async || {
        let server = Server::admitting(|_| ()).await;
        let policy = |more: Value| {
            let mut spec = json!({ "matchConstraints": constraints("apps", "deployments"), "validations": [{ "expression": "true" }] });
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        for (more, wanted) in [
            (
                json!({ "validations": [{ "expression": "object.x +" }] }),
                "spec.validations[0].expression: Invalid value: \"object.x +\": compilation failed: ERROR: <input>:1:11: Syntax error",
            ),
            (
                json!({ "validations": [{ "expression": "1" }] }),
                "spec.validations[0].expression: Invalid value: \"1\": must evaluate to bool",
            ),
            (
                json!({ "validations": [{ "expression": "params.x" }] }),
                "undeclared reference to 'params' (in container '')",
            ),
            (json!({ "validations": [{ "expression": "variables.x" }] }), "undeclared reference to 'variables'"),
            (
                json!({ "validations": [] }),
                "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
            ),
            (json!({ "matchConstraints": null }), "spec.matchConstraints: Required value"),
            (json!({ "failurePolicy": "Maybe" }), "spec.failurePolicy: Unsupported value: \"Maybe\""),
            (json!({ "variables": [{ "name": "a-b", "expression": "1" }] }), "name is not a valid CEL identifier"),
            (json!({ "matchConditions": [{ "name": "n", "expression": "request.nope" }] }), "undefined field 'nope'"),
        ] {
            let refused = create(&server, "ValidatingAdmissionPolicy", "p", policy(more)).await.expect(422);
            assert!(refused["message"].as_str().unwrap().contains(wanted), "{wanted}: {}", refused["message"]);
        }
        let refused = create(
            &server,
            "ValidatingAdmissionPolicyBinding",
            "b",
            json!({ "policyName": "p", "validationActions": ["Deny", "Warn"] }),
        )
        .await;
        assert!(refused.expect(422)["message"].as_str().unwrap().contains("must not contain both Deny and Warn"));
        let mutation = json!({ "patchType": "ApplyConfiguration", "applyConfiguration": { "expression": "Object{spec: Object.wrong{}}" } });
        let spec = json!({ "matchConstraints": constraints("apps", "deployments"), "reinvocationPolicy": "Never", "mutations": [mutation] });
        let refused = create(&server, "MutatingAdmissionPolicy", "m", spec).await.expect(422);
        assert!(
            refused["message"].as_str().unwrap().contains("expected type of field 'spec' is 'Object.spec'"),
            "{refused}"
        );
    });
}
