//! Admission webhooks: what they are asked, what they may change and refuse, and what happens when they fail.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::https::{HttpsServer, service_objects};
use common::{Answer, Server, config_map, pod};
use coracle_api::ApiResult;
use coracle_apiserver::{AuditAnnotations, Body, Config, Connector, RequestBody, RequestInfo, UserInfo};
use http::{Request, Response};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1";

fn patch(operations: Value) -> Value {
    json!({ "allowed": true, "patchType": "JSONPatch", "patch": BASE64_STANDARD.encode(operations.to_string()) })
}

/// What the test's webhook says, by path.
fn verdict(path: &str, request: &Value) -> Value {
    let has = |key: &str| request["object"]["data"][key].is_string();
    match path.trim_start_matches('/') {
        "deny" => {
            json!({ "allowed": false, "status": { "message": "the request is unwanted", "code": 403, "reason": "Forbidden" } })
        }
        "deny-bad" if has("bad") => {
            json!({ "allowed": false, "status": { "reason": "the configmap contains unwanted key and value" } })
        }
        // Stage 1 and 2, as upstream's tests have it: the second adds only what follows the first.
        "stage1" if has("mutation-start") => {
            patch(json!([{ "op": "add", "path": "/data/mutation-stage-1", "value": "yes" }]))
        }
        "stage2" if has("mutation-stage-1") => {
            patch(json!([{ "op": "add", "path": "/data/mutation-stage-2", "value": "yes" }]))
        }
        "sidecar" => patch(
            json!([{ "op": "add", "path": "/spec/initContainers", "value": [{ "name": "added", "image": "i" }] }]),
        ),
        "rename" => patch(json!([{ "op": "add", "path": "/metadata/labels", "value": { "bad name!": "x" } }])),
        "unknown-field" => patch(
            json!([{ "op": "add", "path": "/nonsense", "value": 1 }, { "op": "add", "path": "/data/seen", "value": "1" }]),
        ),
        "not-a-patch" => patch(json!([{ "op": "test", "path": "/data/none", "value": "x" }])),
        "five" => patch(json!([{ "op": "replace", "path": "/spec/replicas", "value": 5 }])),
        "warn" => json!({ "allowed": true, "warnings": ["think twice"], "auditAnnotations": { "seen": "yes" } }),
        _ => json!({ "allowed": true }),
    }
}

/// Stands for a connection that was let through.
#[derive(Debug)]
struct Connected;

#[async_trait]
impl Connector for Connected {
    async fn connect(&self, _: &RequestInfo, _: &UserInfo, _: Request<RequestBody>) -> ApiResult<Response<Body>> {
        Ok(Response::new(Body::empty()))
    }
}

/// A cluster with all default plugins but those that ask for other objects, and a webhook server behind
/// the Service `default/hook`.
struct World {
    api: Server,
    hook: HttpsServer,
}

impl World {
    async fn new() -> World {
        let attach = |config: &mut Config| drop(config.connectors.insert("pods/attach".into(), Arc::new(Connected)));
        let api = Server::admitting(attach).await;
        let hook = HttpsServer::start("hook.default.svc", |path, body| {
            let path = path.split('?').next().unwrap();
            let mut response = verdict(path, &body["request"]);
            response["uid"] = body["request"]["uid"].clone();
            (200, json!({ "apiVersion": body["apiVersion"], "kind": "AdmissionReview", "response": response }))
        })
        .await;
        let (service, slice) = service_objects("default", "hook", hook.port);
        api.post("/api/v1/namespaces/default/services", service).await.expect(201);
        api.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice).await.expect(201);
        World { api, hook }
    }

    /// A webhook `<name>.example.com` that is asked at `/<name>` about everything in `group`/`resources`.
    fn webhook(&self, name: &str, group: &str, resources: &[&str]) -> Value {
        json!({
            "name": format!("{name}.example.com"),
            "clientConfig": self.hook.client_config("default", "hook", &format!("/{name}")),
            "rules": [{ "operations": ["*"], "apiGroups": [group], "apiVersions": ["*"], "resources": resources }],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "timeoutSeconds": 2,
        })
    }

    async fn configure(&self, kind: &str, name: &str, webhooks: Vec<Value>) {
        let plural = format!("{}s", kind.to_lowercase());
        let api_version = "admissionregistration.k8s.io/v1";
        let object =
            json!({ "kind": kind, "apiVersion": api_version, "metadata": { "name": name }, "webhooks": webhooks });
        self.api.post(&format!("{HOOKS}/{plural}"), object).await.expect(201);
    }

    async fn mutating(&self, webhooks: Vec<Value>) {
        self.configure("MutatingWebhookConfiguration", "m", webhooks).await;
    }

    async fn validating(&self, webhooks: Vec<Value>) {
        self.configure("ValidatingWebhookConfiguration", "v", webhooks).await;
    }

    async fn create_map(&self, name: &str, key: &str) -> Answer {
        let mut map = config_map(name);
        map["data"] = json!({ key: "x" });
        self.api.post(MAPS, map).await
    }

    /// The paths at which the webhook was asked, in order.
    fn asked(&self) -> Vec<String> {
        self.hook.requests().iter().map(|(path, _)| path.split('?').next().unwrap().to_owned()).collect()
    }
}

fn message(answer: &Answer, code: u16) -> String {
    answer.expect(code)["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_webhook_is_asked_with_an_admission_review() {
    let world = World::new().await;
    world.mutating(vec![world.webhook("look", "", &["configmaps", "pods/eviction"])]).await;
    let path = format!("{MAPS}?fieldManager=me&dryRun=All");
    world.api.post(&path, config_map("a")).await.expect(201);
    let (path, review) = world.hook.requests().remove(0);
    assert_eq!(path, "/look?timeout=2s");
    assert_eq!((&review["kind"], &review["apiVersion"]), (&json!("AdmissionReview"), &json!("admission.k8s.io/v1")));
    let request = &review["request"];
    let kind = json!({ "group": "", "version": "v1", "kind": "ConfigMap" });
    let resource = json!({ "group": "", "version": "v1", "resource": "configmaps" });
    let expected = [
        ("kind", kind.clone()),
        ("requestKind", kind),
        ("resource", resource.clone()),
        ("requestResource", resource),
        ("name", json!("a")),
        ("namespace", json!("default")),
        ("operation", json!("CREATE")),
        ("userInfo", json!({ "username": "tester", "groups": ["system:authenticated"] })),
        ("oldObject", Value::Null),
        ("dryRun", json!(true)),
        (
            "options",
            json!({ "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "me", "dryRun": ["All"] }),
        ),
    ];
    for (field, value) in expected {
        assert_eq!(request[field], value, "{field}");
    }
    assert_eq!(request["object"]["metadata"]["name"], "a");
    assert!(request.get("subResource").is_none() && request["uid"].as_str().unwrap().len() == 36);
}

#[tokio::test]
async fn deletions_are_asked_about_with_the_old_object_one_by_one() {
    let world = World::new().await;
    for name in ["a", "b"] {
        world.create_map(name, "k").await.expect(201);
    }
    world.validating(vec![world.webhook("look", "", &["configmaps"])]).await;
    world.api.delete(MAPS, json!({})).await.expect(200);
    let asked: Vec<Value> = world.hook.requests().iter().map(|(_, review)| review["request"].clone()).collect();
    assert_eq!(asked.len(), 2);
    for (request, name) in asked.iter().zip(["a", "b"]) {
        assert_eq!((&request["operation"], &request["name"]), (&json!("DELETE"), &json!(name)));
        assert_eq!((&request["object"], &request["oldObject"]["metadata"]["name"]), (&Value::Null, &json!(name)));
        assert_eq!(request["options"]["kind"], "DeleteOptions");
    }
}

#[tokio::test]
async fn should_mutate_configmap() {
    let world = World::new().await;
    let hooks = vec![world.webhook("stage1", "", &["configmaps"]), world.webhook("stage2", "", &["configmaps"])];
    world.mutating(hooks).await;
    let map = world.create_map("a", "mutation-start").await.expect(201);
    assert_eq!(map["data"], json!({ "mutation-start": "x", "mutation-stage-1": "yes", "mutation-stage-2": "yes" }));
}

#[tokio::test]
async fn a_webhook_that_ran_too_early_runs_again_if_needed_and_others_do_not() {
    let world = World::new().await;
    let mut early = world.webhook("stage2", "", &["configmaps"]);
    let late = world.webhook("stage1", "", &["configmaps"]);
    world.mutating(vec![early.clone(), late.clone()]).await;
    let map = world.create_map("a", "mutation-start").await.expect(201);
    assert_eq!(map["data"], json!({ "mutation-start": "x", "mutation-stage-1": "yes" }));
    assert_eq!(world.asked(), ["/stage2", "/stage1"]);

    early["reinvocationPolicy"] = "IfNeeded".into();
    let path = format!("{HOOKS}/mutatingwebhookconfigurations/m");
    world.api.patch(&path, common::MERGE, json!({ "webhooks": [early, late] })).await.expect(200);
    let map = world.create_map("b", "mutation-start").await.expect(201);
    assert_eq!(map["data"]["mutation-stage-2"], "yes");
    assert_eq!(world.asked()[2..], ["/stage2", "/stage1", "/stage2"]);
}

#[tokio::test]
async fn should_mutate_pod_and_apply_defaults_after_mutation() {
    let world = World::new().await;
    world.mutating(vec![world.webhook("sidecar", "", &["pods"])]).await;
    let pod = world.api.post("/api/v1/namespaces/default/pods", pod("a")).await.expect(201);
    let added = &pod["spec"]["initContainers"][0];
    assert_eq!((&added["name"], &added["terminationMessagePolicy"]), (&json!("added"), &json!("File")));
}

#[tokio::test]
async fn what_a_webhook_writes_is_read_as_what_a_client_writes() {
    let world = World::new().await;
    world.mutating(vec![world.webhook("unknown-field", "", &["configmaps"])]).await;
    let map = world.create_map("a", "k").await.expect(201);
    assert_eq!((&map["data"]["seen"], map.get("nonsense")), (&json!("1"), None));

    let path = format!("{HOOKS}/mutatingwebhookconfigurations/m");
    let rename = json!({ "webhooks": [world.webhook("rename", "", &["configmaps"])] });
    world.api.patch(&path, common::MERGE, rename).await.expect(200);
    assert!(message(&world.create_map("b", "k").await, 422).starts_with("ConfigMap \"b\" is invalid: metadata.labels"));

    let bad = json!({ "webhooks": [world.webhook("not-a-patch", "", &["configmaps"])] });
    world.api.patch(&path, common::MERGE, bad).await.expect(200);
    assert!(message(&world.create_map("c", "k").await, 500).starts_with("Internal error occurred: "));
}

#[tokio::test]
async fn a_scale_is_asked_about_and_changed_as_a_scale() {
    let world = World::new().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    world.api.post(deployments, common::deployment("web")).await.expect(201);
    world.mutating(vec![world.webhook("five", "apps", &["deployments/scale"])]).await;
    let scale = json!({ "spec": { "replicas": 3 } });
    let scale = world.api.patch(&format!("{deployments}/web/scale"), common::MERGE, scale).await.expect(200);
    assert_eq!(scale["spec"]["replicas"], 5);
    let request = &world.hook.requests()[0].1["request"];
    assert_eq!(request["kind"], json!({ "group": "autoscaling", "version": "v1", "kind": "Scale" }));
    assert_eq!((&request["subResource"], &request["object"]["kind"]), (&json!("scale"), &json!("Scale")));
}

#[tokio::test]
async fn should_be_able_to_deny_pod_and_configmap_creation() {
    let world = World::new().await;
    world.validating(vec![world.webhook("deny-bad", "", &["configmaps"]), world.webhook("deny", "", &["pods"])]).await;
    let refused = world.create_map("a", "bad").await;
    assert_eq!(
        message(&refused, 400),
        "admission webhook \"deny-bad.example.com\" denied the request: the configmap contains unwanted key and value"
    );
    world.create_map("good", "k").await.expect(201);
    for body in [json!({ "data": { "bad": "x" } })] {
        let refused = world.api.patch(&format!("{MAPS}/good"), common::MERGE, body).await;
        assert_eq!(refused.code, 400);
    }
    let status = world.api.post("/api/v1/namespaces/default/pods", pod("a")).await.expect(403);
    assert_eq!((&status["kind"], &status["reason"]), (&json!("Status"), &json!("Forbidden")));
    assert_eq!(status["message"], "admission webhook \"deny.example.com\" denied the request: the request is unwanted");
    world.api.get(&format!("{MAPS}/a")).await.expect(404);
}

#[tokio::test]
async fn should_be_able_to_deny_attaching_pod() {
    let world = World::new().await;
    world.api.post("/api/v1/namespaces/default/pods", pod("a")).await.expect(201);
    let attach = "/api/v1/namespaces/default/pods/a/attach?stdin=true";
    assert_eq!(world.api.get(attach).await.code, 200);
    world.validating(vec![world.webhook("deny", "", &["pods/attach"])]).await;
    let refused = message(&world.api.get(attach).await, 403);
    assert!(refused.starts_with("admission webhook \"deny.example.com\" denied the request"), "{refused}");
    let request = &world.hook.requests()[0].1["request"];
    let kind = json!({ "group": "", "version": "v1", "kind": "PodAttachOptions" });
    assert_eq!((&request["operation"], &request["kind"]), (&json!("CONNECT"), &kind));
    assert_eq!((&request["object"]["stdin"], &request["options"]), (&json!(true), &Value::Null));
}

#[tokio::test]
async fn an_eviction_is_asked_about_as_such_and_not_as_a_deletion() {
    let world = World::new().await;
    world.api.post("/api/v1/namespaces/default/pods", pod("a")).await.expect(201);
    world.validating(vec![world.webhook("look", "", &["pods/eviction", "pods"])]).await;
    let eviction = json!({ "kind": "Eviction", "apiVersion": "policy/v1", "metadata": { "name": "a" } });
    world.api.post("/api/v1/namespaces/default/pods/a/eviction", eviction).await.expect(201);
    let asked = world.hook.requests();
    assert_eq!(asked.len(), 1);
    let request = &asked[0].1["request"];
    assert_eq!((&request["operation"], &request["object"]["kind"]), (&json!("CREATE"), &json!("Eviction")));
}

#[tokio::test]
async fn should_be_able_to_deny_custom_resource_definitions_creation() {
    let world = World::new().await;
    world.validating(vec![world.webhook("deny", "apiextensions.k8s.io", &["customresourcedefinitions"])]).await;
    let crd = json!({ "metadata": { "name": "widgets.example.com" }, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": { "plural": "widgets", "kind": "Widget" },
        "versions": [{ "name": "v1", "served": true, "storage": true,
            "schema": { "openAPIV3Schema": { "type": "object" } } }],
    } });
    let refused = world.api.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd).await;
    assert!(message(&refused, 403).contains("denied the request: the request is unwanted"));
}

#[tokio::test]
async fn should_not_be_able_to_mutate_or_prevent_deletion_of_webhook_configuration_objects() {
    let world = World::new().await;
    let group = "admissionregistration.k8s.io";
    world.validating(vec![world.webhook("deny", group, &["*"])]).await;
    world.mutating(vec![world.webhook("rename", group, &["*"])]).await;
    for name in ["validatingwebhookconfigurations/v", "mutatingwebhookconfigurations/m"] {
        let object = world.api.get(&format!("{HOOKS}/{name}")).await.expect(200);
        assert!(object["metadata"].get("labels").is_none());
        world.api.delete(&format!("{HOOKS}/{name}"), json!({})).await.expect(200);
    }
    assert!(world.asked().is_empty());
}

#[tokio::test]
async fn should_unconditionally_reject_operations_on_fail_closed_webhook() {
    let world = World::new().await;
    let mut hook = world.webhook("look", "", &["configmaps"]);
    hook["clientConfig"]["service"]["name"] = "nowhere".into();
    world.validating(vec![hook.clone()]).await;
    assert_eq!(
        message(&world.create_map("a", "k").await, 500),
        "Internal error occurred: failed calling webhook \"look.example.com\": failed to call webhook: Post \
         \"https://nowhere.default.svc:8443/look?timeout=2s\": services \"nowhere\" not found"
    );
    hook["failurePolicy"] = "Ignore".into();
    let path = format!("{HOOKS}/validatingwebhookconfigurations/v");
    world.api.patch(&path, common::MERGE, json!({ "webhooks": [hook] })).await.expect(200);
    world.create_map("a", "k").await.expect(201);
}

#[tokio::test]
async fn should_honor_timeout() {
    let world = World::new().await;
    let mut slow = world.webhook("slow", "", &["configmaps"]);
    slow["timeoutSeconds"] = 1.into();
    world.validating(vec![slow.clone()]).await;
    let refused = message(&world.create_map("a", "k").await, 500);
    assert!(refused.ends_with("/slow?timeout=1s\": context deadline exceeded"), "{refused}");
    slow["failurePolicy"] = "Ignore".into();
    let path = format!("{HOOKS}/validatingwebhookconfigurations/v");
    world.api.patch(&path, common::MERGE, json!({ "webhooks": [slow] })).await.expect(200);
    world.create_map("a", "k").await.expect(201);
    // Without a word, ten seconds.
    let object = world.api.patch(
        &path,
        common::MERGE,
        json!({ "webhooks": [{
        "name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": { "url": "https://127.0.0.1:1" },
    }] }),
    );
    assert_eq!(object.await.expect(200)["webhooks"][0]["timeoutSeconds"], 10);
}

#[tokio::test]
async fn a_dry_run_asks_only_webhooks_without_side_effects() {
    let world = World::new().await;
    world.validating(vec![world.webhook("look", "", &["configmaps"])]).await;
    // Written around validation, as before v1: a webhook that says nothing of its side effects.
    let path = format!("{MAPS}?dryRun=All");
    world.api.post(&path, config_map("a")).await.expect(201);
    assert_eq!(world.asked(), ["/look"]);
    world.api.get(&format!("{MAPS}/a")).await.expect(404);
}

#[tokio::test]
async fn selectors_exempt_objects_and_namespaces() {
    let world = World::new().await;
    let mut hook = world.webhook("deny", "", &["configmaps"]);
    hook["objectSelector"] = json!({ "matchExpressions": [{ "key": "skip", "operator": "DoesNotExist" }] });
    hook["namespaceSelector"] = json!({ "matchLabels": { "team": "a" } });
    world.validating(vec![hook]).await;
    assert_eq!(world.create_map("a", "k").await.code, 403);
    let mut skipped = config_map("skipped");
    skipped["metadata"]["labels"] = json!({ "skip": "" });
    world.api.post(MAPS, skipped).await.expect(201);
    world.api.post("/api/v1/namespaces", json!({ "metadata": { "name": "other" } })).await.expect(201);
    world.api.post("/api/v1/namespaces/other/configmaps", config_map("a")).await.expect(201);
}

#[tokio::test]
async fn a_webhook_is_asked_in_the_version_it_knows() {
    let world = World::new().await;
    let mut hook = world.webhook("look", "autoscaling", &["horizontalpodautoscalers"]);
    hook["rules"][0]["apiVersions"] = json!(["v2"]);
    world.mutating(vec![hook]).await;
    let scaler = json!({ "metadata": { "name": "a" }, "spec": {
        "maxReplicas": 3, "targetCPUUtilizationPercentage": 50,
        "scaleTargetRef": { "kind": "Deployment", "name": "web", "apiVersion": "apps/v1" },
    } });
    world.api.post("/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers", scaler).await.expect(201);
    let request = &world.hook.requests()[0].1["request"];
    assert_eq!((&request["kind"]["version"], &request["requestKind"]["version"]), (&json!("v2"), &json!("v1")));
    assert_eq!(request["object"]["apiVersion"], "autoscaling/v2");
    assert_eq!(request["object"]["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
}

#[tokio::test]
async fn should_mutate_everything_except_skip_me_configmaps() {
    let world = World::new().await;
    let mut hook = world.webhook("unknown-field", "", &["configmaps"]);
    let conditions = json!([{ "name": "skip-me", "expression": "object.metadata.name != 'skip-me'" }]);
    hook["matchConditions"] = conditions.clone();
    world.mutating(vec![hook]).await;
    let stored = world.api.get(&format!("{HOOKS}/mutatingwebhookconfigurations/m")).await.expect(200);
    assert_eq!(stored["webhooks"][0]["matchConditions"], conditions);
    assert_eq!(world.create_map("a", "k").await.expect(201)["data"]["seen"], "1");
    assert!(world.create_map("skip-me", "k").await.expect(201)["data"].get("seen").is_none());
}

#[tokio::test]
async fn a_condition_may_ask_what_the_user_may() {
    let world = World::new().await;
    let mut hook = world.webhook("deny", "", &["configmaps"]);
    let everything = "authorizer.group('').resource('configmaps').namespace('default').check('create').allowed()";
    hook["matchConditions"] = json!([{ "name": "not-trusted", "expression": format!("!({everything} && authorizer.requestResource.check('create').allowed())") }]);
    world.validating(vec![hook]).await;
    world.create_map("a", "k").await.expect(201);
    assert!(world.asked().is_empty());
}

#[tokio::test]
async fn a_condition_that_fails_refuses_or_skips_as_the_failure_policy_says() {
    let world = World::new().await;
    let mut hook = world.webhook("deny", "", &["configmaps"]);
    hook["matchConditions"] = json!([{ "name": "c", "expression": "object.nothing.here == 1" }]);
    world.validating(vec![hook.clone()]).await;
    let refused = message(&world.create_map("a", "k").await, 403);
    assert!(refused.starts_with("configmaps \"a\" is forbidden: expression"), "{refused}");
    hook["failurePolicy"] = "Ignore".into();
    let path = format!("{HOOKS}/validatingwebhookconfigurations/v");
    world.api.patch(&path, common::MERGE, json!({ "webhooks": [hook] })).await.expect(200);
    world.create_map("a", "k").await.expect(201);
    assert!(world.asked().is_empty());
}

#[tokio::test]
async fn should_reject_webhook_configurations_with_invalid_match_conditions() {
    let world = World::new().await;
    for (sort, hook, _) in SORTS {
        for (expression, why) in [("... [] bad expression", "compilation failed"), ("1", "must evaluate to bool")] {
            let mut hook = world.webhook(hook, "", &["configmaps"]);
            hook["matchConditions"] = json!([{ "name": "c", "expression": expression }]);
            let object = json!({ "metadata": { "name": "x" }, "webhooks": [hook] });
            let refused = message(&world.api.post(&format!("{HOOKS}/{sort}webhookconfigurations"), object).await, 422);
            assert!(refused.contains("webhooks[0].matchConditions[0].expression: Invalid value: "), "{refused}");
            assert!(refused.contains(why), "{refused}");
        }
    }
}

#[tokio::test]
async fn warnings_reach_the_client_even_with_a_refusal() {
    let world = World::new().await;
    world
        .validating(vec![world.webhook("warn", "", &["configmaps"]), world.webhook("deny-bad", "", &["configmaps"])])
        .await;
    for (key, code) in [("k", 201), ("bad", 400)] {
        let answer = world.create_map(key, key).await;
        assert_eq!(answer.code, code);
        assert_eq!(answer.headers["warning"], "299 - \"think twice\"");
    }
    let body = config_map("b").to_string();
    let headers = [("content-type", "application/json")];
    let response = world.api.open("POST", MAPS, &headers, body.as_bytes()).await;
    let noted = &response.extensions().get::<AuditAnnotations>().unwrap().0;
    assert_eq!(noted["warn.example.com/seen"], "yes");
}

/// A webhook of each sort, and the key of a ConfigMap that shows whether it works.
const SORTS: [(&str, &str, &str); 2] = [("mutating", "stage1", "mutation-start"), ("validating", "deny-bad", "bad")];

/// Whether a ConfigMap with `key` is changed or refused.
async fn works(world: &World, name: &str, key: &str) -> bool {
    let answer = world.create_map(name, key).await;
    answer.code == 400 || answer.expect(201)["data"]["mutation-stage-1"] == "yes"
}

#[tokio::test]
async fn patching_and_updating_a_webhook_should_work() {
    for (sort, hook, key) in SORTS {
        let world = World::new().await;
        let path = format!("{HOOKS}/{sort}webhookconfigurations");
        let object = json!({ "metadata": { "name": "w" }, "webhooks": [world.webhook(hook, "", &["configmaps"])] });
        let mut object = world.api.post(&path, object).await.expect(201);
        object["webhooks"][0]["rules"][0]["operations"] = json!(["UPDATE"]);
        world.api.put(&format!("{path}/w"), object).await.expect(200);
        assert!(!works(&world, "a", key).await);
        let operations = json!([{ "op": "replace", "path": "/webhooks/0/rules/0/operations", "value": ["CREATE"] }]);
        world.api.patch(&format!("{path}/w"), common::JSON_PATCH, operations).await.expect(200);
        assert!(works(&world, "b", key).await);
    }
}

#[tokio::test]
async fn listing_webhooks_should_work() {
    for (sort, hook, key) in SORTS {
        let world = World::new().await;
        let path = format!("{HOOKS}/{sort}webhookconfigurations");
        for n in 0..3 {
            let meta = json!({ "name": format!("w{n}"), "labels": { "set": "x" } });
            let object = json!({ "metadata": meta, "webhooks": [world.webhook(hook, "", &["configmaps"])] });
            world.api.post(&path, object).await.expect(201);
        }
        let selected = format!("{path}?labelSelector=set%3Dx");
        assert_eq!(world.api.get(&selected).await.expect(200)["items"].as_array().unwrap().len(), 3);
        assert!(works(&world, "a", key).await);
        world.api.delete(&selected, json!({})).await.expect(200);
        assert!(!works(&world, "b", key).await);
    }
}

#[tokio::test]
async fn should_be_able_to_create_and_update_webhook_configurations_with_match_conditions() {
    for (sort, hook, _) in SORTS {
        let world = World::new().await;
        let path = format!("{HOOKS}/{sort}webhookconfigurations");
        let condition =
            |name: &str| json!([{ "name": "skip", "expression": format!("object.metadata.name != '{name}'") }]);
        let mut webhook = world.webhook(hook, "", &["configmaps"]);
        webhook["matchConditions"] = condition("a");
        let object = json!({ "metadata": { "name": "w" }, "webhooks": [webhook] });
        let mut object = world.api.post(&path, object).await.expect(201);
        assert_eq!(object["webhooks"][0]["matchConditions"], condition("a"));
        object["webhooks"][0]["matchConditions"] = condition("b");
        world.api.put(&format!("{path}/w"), object).await.expect(200);
        let stored = world.api.get(&format!("{path}/w")).await.expect(200);
        assert_eq!(stored["webhooks"][0]["matchConditions"], condition("b"));
    }
}

#[tokio::test]
async fn should_include_webhook_resources_in_discovery_documents() {
    let world = World::new().await;
    let document = world.api.get(HOOKS).await.expect(200);
    let names: Vec<&str> =
        document["resources"].as_array().unwrap().iter().filter_map(|r| r["name"].as_str()).collect();
    assert!(names.contains(&"mutatingwebhookconfigurations") && names.contains(&"validatingwebhookconfigurations"));
}
