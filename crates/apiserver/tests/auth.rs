//! Who is who and who may what, in a server put together as the binary puts it together.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::Write;
use std::sync::{Arc, Mutex};

use common::{Answer, MERGE, simulate};
use coracle_apiserver::assembly::assemble;
use coracle_apiserver::audit::policy::Policy;
use coracle_apiserver::audit::{Audit, Format};
use coracle_apiserver::auth::jwt::TokenKey;
use coracle_apiserver::auth::static_token::StaticTokens;
use coracle_apiserver::security::SecurityConfig;
use coracle_apiserver::{ApiServer, UserInfo};
use coracle_store::MemoryStore;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::{Service, ServiceExt};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const JSON: &str = "application/json";

/// A server with RBAC; ada is an administrator, vera nobody in particular.
struct World(Arc<ApiServer>);

async fn world_with(change: impl FnOnce(&mut SecurityConfig)) -> World {
    let mut security = SecurityConfig::new(TokenKey::generate().unwrap(), "10.96.0.0/16".parse().unwrap());
    security.static_tokens = Some(StaticTokens::parse("ada,ada,1,system:masters\nvera,vera,2\n").unwrap());
    change(&mut security);
    let advertise = ([10, 244, 0, 1].into(), 6443);
    let authority = rcgen::generate_simple_self_signed(Vec::new()).unwrap().cert.pem();
    World(assemble(MemoryStore::new(), security, advertise, Some(authority)).await.unwrap())
}

async fn world() -> World {
    world_with(|_| {}).await
}

impl World {
    async fn send(&self, token: &str, method: &str, path: &str, headers: &[(&str, &str)], body: Value) -> Answer {
        let mut request = http::Request::builder().method(method).uri(path);
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = request.body(Full::new(bytes::Bytes::from(body))).unwrap();
        let mut service = self.0.service();
        let service = ServiceExt::<http::Request<Full<bytes::Bytes>>>::ready(&mut service).await.unwrap();
        let (parts, body) = service.call(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer { code: parts.status.as_u16(), headers: parts.headers, bytes }
    }

    async fn get(&self, token: &str, path: &str) -> Answer {
        self.send(token, "GET", path, &[], Value::Null).await
    }

    /// As ada.
    async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("ada", "POST", path, &[("content-type", JSON)], body).await
    }

    async fn whoami(&self, token: &str) -> Value {
        let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let answer = self.send(token, "POST", path, &[("content-type", JSON)], review).await;
        answer.expect(201)["status"]["userInfo"].clone()
    }

    async fn account(&self, name: &str) -> Value {
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name } });
        self.post(ACCOUNTS, account).await.expect(201)
    }

    async fn review_token(&self, token: &str, audiences: Value) -> Value {
        let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
                             "spec": { "token": token, "audiences": audiences } });
        self.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await.expect(201)["status"].clone()
    }
}

#[test]
fn service_accounts_should_create_a_service_account_token_and_ensure_a_successful_token_review() {
    simulate(async || {
        let world = world().await;
        world.account("e2e").await;
        let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
        let answer = world.post(&format!("{ACCOUNTS}/e2e/token"), request).await.expect(201);
        let token = answer["status"]["token"].as_str().unwrap();
        assert_eq!(answer["spec"]["audiences"], json!([ISSUER]));
        let status = world.review_token(token, json!([])).await;
        assert_eq!(status["authenticated"], true);
        assert!(status["error"].is_null());
        assert_eq!(status["user"]["username"], "system:serviceaccount:default:e2e");
        assert_eq!(
            status["user"]["groups"],
            json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
        );
        let other = world.review_token(token, json!(["https://elsewhere"])).await;
        assert!(other["authenticated"].is_null(), "{other}");
    });
}

#[test]
fn service_accounts_should_run_through_the_lifecycle_of_a_service_account() {
    simulate(async || {
        let world = world().await;
        let mut account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "test" } });
        account["metadata"]["labels"] = json!({ "test-serviceaccount-static": "true" });
        world.post(ACCOUNTS, account).await.expect(201);
        let one = format!("{ACCOUNTS}/test");
        let patch = json!({ "automountServiceAccountToken": false });
        let patched = world.send("ada", "PATCH", &one, &[("content-type", MERGE)], patch).await.expect(200);
        assert_eq!(patched["automountServiceAccountToken"], false);
        let everywhere = "/api/v1/serviceaccounts?labelSelector=test-serviceaccount-static=true";
        let list = world.get("ada", everywhere).await.expect(200);
        assert_eq!(list["items"][0]["metadata"]["name"], "test");
        let selected = format!("{ACCOUNTS}?labelSelector=test-serviceaccount-static=true");
        world.send("ada", "DELETE", &selected, &[], Value::Null).await.expect(200);
        world.get("ada", &one).await.expect(404);
    });
}

#[test]
fn service_accounts_should_update_a_service_account() {
    simulate(async || {
        let world = world().await;
        let mut account = world.account("e2e-sa").await;
        assert!(account["automountServiceAccountToken"].is_null());
        account["automountServiceAccountToken"] = true.into();
        let one = format!("{ACCOUNTS}/e2e-sa");
        let updated = world.send("ada", "PUT", &one, &[("content-type", JSON)], account).await.expect(200);
        assert_eq!(updated["automountServiceAccountToken"], true);
        assert_eq!(world.get("ada", &one).await.expect(200)["automountServiceAccountToken"], true);
    });
}

#[test]
fn service_accounts_should_allow_opting_out_of_api_token_automount() {
    simulate(async || {
        let world = world().await;
        for (name, automount) in [("default", Value::Null), ("mount", true.into()), ("nomount", false.into())] {
            let mut account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name } });
            if !automount.is_null() {
                account["automountServiceAccountToken"] = automount;
            }
            world.post(ACCOUNTS, account).await.expect(201);
        }
        let cases = [
            ("default", None, true),
            ("default", Some(true), true),
            ("default", Some(false), false),
            ("mount", None, true),
            ("mount", Some(true), true),
            ("mount", Some(false), false),
            ("nomount", None, false),
            ("nomount", Some(true), true),
            ("nomount", Some(false), false),
        ];
        for (index, (account, pod, expected)) in cases.into_iter().enumerate() {
            let mut object = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": format!("pod-{index}") },
                "spec": { "serviceAccountName": account, "containers": [{ "name": "c", "image": "pause" }] } });
            if let Some(pod) = pod {
                object["spec"]["automountServiceAccountToken"] = pod.into();
            }
            let made = world.post("/api/v1/namespaces/default/pods", object).await.expect(201);
            let mounts = made["spec"]["containers"][0]["volumeMounts"].as_array().cloned().unwrap_or_default();
            let mounted = mounts.iter().any(|m| m["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount");
            assert_eq!(mounted, expected, "{account} {pod:?}");
        }
    });
}

#[test]
fn subject_review_should_support_subject_review_api_operations() {
    simulate(async || {
        let world = world().await;
        world.account("e2e").await;
        let user = "system:serviceaccount:default:e2e";
        let attributes = json!({ "verb": "list", "resource": "configmaps", "namespace": "default", "version": "v1" });
        let review = |kind: &str, spec: Value| {
            let mut review =
                json!({ "apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec, "metadata": {} });
            if kind.starts_with("Local") {
                review["metadata"]["namespace"] = "default".into();
            }
            review
        };
        let spec = json!({ "resourceAttributes": attributes, "user": user,
                           "groups": ["system:serviceaccounts", "system:authenticated"] });
        let all = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let local = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews";
        let denied = world.post(all, review("SubjectAccessReview", spec.clone())).await.expect(201);
        assert_eq!(denied["status"]["allowed"], false);
        let headers = [("impersonate-user", user)];
        let list = "/api/v1/namespaces/default/configmaps";
        assert_eq!(world.send("ada", "GET", list, &headers, Value::Null).await.code, 403);

        let binding = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": { "name": "e2e" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view" },
            "subjects": [{ "kind": "ServiceAccount", "namespace": "default", "name": "e2e" }] });
        world.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await.expect(201);
        for (path, kind) in [(all, "SubjectAccessReview"), (local, "LocalSubjectAccessReview")] {
            let allowed = world.post(path, review(kind, spec.clone())).await.expect(201);
            assert_eq!(allowed["status"]["allowed"], true, "{kind}");
            assert_eq!(
                allowed["status"]["reason"],
                "RBAC: allowed by ClusterRoleBinding \"e2e\" of ClusterRole \"view\" to ServiceAccount \"e2e/default\""
            );
        }
        assert_eq!(world.send("ada", "GET", list, &headers, Value::Null).await.code, 200);

        let mut wrong = spec;
        wrong["resourceAttributes"]["namespace"] = "elsewhere".into();
        wrong["user"] = "".into();
        wrong["groups"] = json!([]);
        let refusal = world.post(local, review("LocalSubjectAccessReview", wrong)).await.expect(422);
        let fields: Vec<&Value> =
            refusal["details"]["causes"].as_array().unwrap().iter().map(|cause| &cause["field"]).collect();
        assert_eq!(fields, ["spec.user", "spec.resourceAttributes.namespace"]);
    });
}

#[test]
fn api_priority_and_fairness_should_support_flow_schema_api_operations() {
    simulate(async || {
        let world = world().await;
        let all = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
        let group = world.get("ada", "/apis/flowcontrol.apiserver.k8s.io").await.expect(200);
        assert_eq!(group["preferredVersion"]["version"], "v1");
        let schema = json!({ "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema",
            "metadata": { "name": "e2e", "labels": { "e2e": "yes" } },
            "spec": { "matchingPrecedence": 9999, "priorityLevelConfiguration": { "name": "global-default" },
                "distinguisherMethod": { "type": "ByUser" },
                "rules": [{ "subjects": [{ "kind": "User", "user": { "name": "example-e2e-non-existent-user" } }],
                    "nonResourceRules": [{ "verbs": ["get"], "nonResourceURLs": ["*"] }] }] } });
        operations(&world, all, schema, |object| object["spec"]["matchingPrecedence"] = 9998.into()).await;
    });
}

#[test]
fn api_priority_and_fairness_should_support_priority_level_configuration_api_operations() {
    simulate(async || {
        let world = world().await;
        let all = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";
        let level = json!({ "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
            "metadata": { "name": "e2e", "labels": { "e2e": "yes" } },
            "spec": { "type": "Limited", "limited": { "nominalConcurrencyShares": 2,
                "limitResponse": { "type": "Reject" } } } });
        let change = |object: &mut Value| object["spec"]["limited"]["nominalConcurrencyShares"] = 4.into();
        operations(&world, all, level, change).await;
    });
}

/// Every verb on a kind of priority and fairness.
async fn operations(world: &World, all: &str, object: Value, change: impl Fn(&mut Value)) {
    let one = format!("{all}/e2e");
    let status = format!("{one}/status");
    let put = [("content-type", JSON)];
    let made = world.post(all, object.clone()).await.expect(201);
    world.get("ada", &one).await.expect(200);
    // The server writes a FlowSchema's condition soon after.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let list = world.get("ada", &format!("{all}?labelSelector=e2e=yes")).await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    let patch = json!({ "metadata": { "annotations": { "patched": "true" } } });
    let mut patched = world.send("ada", "PATCH", &one, &[("content-type", MERGE)], patch).await.expect(200);
    assert_eq!(patched["metadata"]["annotations"]["patched"], "true");
    change(&mut patched);
    let updated = world.send("ada", "PUT", &one, &put, patched.clone()).await.expect(200);
    assert_eq!((&updated["spec"], &updated["metadata"]["generation"]), (&patched["spec"], &json!(2)));
    let watch = format!("{all}?watch=1&resourceVersion={version}&labelSelector=e2e=yes&timeoutSeconds=1");
    let events = world.get("ada", &watch).await;
    let events = String::from_utf8_lossy(&events.bytes).lines().filter(|line| line.contains("MODIFIED")).count();
    assert!(events >= 2, "{events}");

    world.get("ada", &status).await.expect(200);
    let condition = json!({ "type": "PatchStatusFailed", "status": "False", "reason": "E2E",
                            "lastTransitionTime": "2026-01-01T00:00:00Z" });
    let patch = json!({ "status": { "conditions": [condition] } });
    let mut object = world.send("ada", "PATCH", &status, &[("content-type", MERGE)], patch).await.expect(200);
    assert_eq!(object["status"]["conditions"][0]["type"], "PatchStatusFailed");
    object["status"]["conditions"][0]["message"] = "updated".into();
    // The server may have written a status of its own meanwhile.
    object["metadata"]["resourceVersion"].take();
    let object = world.send("ada", "PUT", &status, &put, object).await.expect(200);
    assert_eq!(object["status"]["conditions"][0]["message"], "updated");

    world.send("ada", "DELETE", &one, &[], Value::Null).await.expect(200);
    world.get("ada", &one).await.expect(404);
    let mut again = made;
    again["metadata"] = json!({ "name": "e2e", "labels": { "e2e": "yes" } });
    world.post(all, again).await.expect(201);
    world.send("ada", "DELETE", &format!("{all}?labelSelector=e2e=yes"), &[], Value::Null).await.expect(200);
    let list = world.get("ada", &format!("{all}?labelSelector=e2e=yes")).await.expect(200);
    assert_eq!(list["items"], json!([]));
}

#[test]
fn requests_are_marked_with_what_they_came_under_and_lost_objects_come_back() {
    simulate(async || {
        let world = world().await;
        let answer = world.get("vera", "/apis").await;
        assert_eq!(answer.code, 200);
        let uid = |header: &str| answer.headers[header].to_str().unwrap().to_owned();
        let schema = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/global-default";
        let level = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations/catch-all";
        let object = world.get("ada", schema).await.expect(200);
        assert_eq!(object["metadata"]["uid"], uid("x-kubernetes-pf-flowschema-uid"));
        assert_eq!(object["status"]["conditions"][0]["type"], "Dangling");
        assert_eq!(object["status"]["conditions"][0]["status"], "False");
        let merge = [("content-type", "application/merge-patch+json")];
        let more = json!({ "spec": { "limited": { "nominalConcurrencyShares": 6 } } });
        let refused = world.send("ada", "PATCH", level, &merge, more).await.expect(422);
        let why = refused["message"].as_str().unwrap();
        assert!(why.ends_with("spec of 'catch-all' must equal the fixed value"), "{why}");
        let exempt = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations/exempt";
        let more = json!({ "spec": { "exempt": { "lendablePercent": 50 } } });
        world.send("ada", "PATCH", exempt, &merge, more).await.expect(200);
        let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
        let schemas = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
        let schemas = world.send("ada", "GET", schemas, &table, Value::Null).await.expect(200);
        let first: Vec<&Value> = schemas["rows"].as_array().unwrap()[..3].iter().map(|row| &row["cells"][0]).collect();
        assert_eq!(first, ["exempt", "probes", "system-leader-election"]);
        world.send("ada", "DELETE", level, &[], Value::Null).await.expect(200);
        world.get("ada", "/apis").await.expect(200);
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        world.get("ada", level).await.expect(200);
        let metrics = world.get("ada", "/metrics").await;
        let text = String::from_utf8_lossy(&metrics.bytes).into_owned();
        let line = "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"global-default\"} 49";
        assert!(text.contains(line), "{text}");
    });
}

#[test]
fn a_bootstrap_token_is_a_user_until_it_expires() {
    simulate(async || {
        let world = world().await;
        let token = "abcdef.0123456789abcdef";
        assert_eq!(world.get(token, "/apis").await.code, 401);
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
            "metadata": { "name": "bootstrap-token-abcdef", "namespace": "kube-system" },
            "stringData": { "token-id": "abcdef", "token-secret": "0123456789abcdef",
                "usage-bootstrap-authentication": "true", "expiration": "2026-01-01T01:00:00Z",
                "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token" } });
        world.post("/api/v1/namespaces/kube-system/secrets", secret).await.expect(201);
        assert_eq!(world.whoami(token).await["username"], "system:bootstrap:abcdef");
        assert_eq!(world.review_token(token, json!([])).await["user"]["username"], "system:bootstrap:abcdef");
        let info = world.get("", "/api/v1/namespaces/kube-public/configmaps/cluster-info").await.expect(200);
        assert!(info["data"]["kubeconfig"].as_str().unwrap().contains("server: https://10.244.0.1:6443"));
        tokio::time::sleep(std::time::Duration::from_secs(3601)).await;
        assert_eq!(world.get(token, "/apis").await.code, 401);
    });
}

#[test]
fn nobody_in_particular_may_see_health_and_version_only() {
    simulate(async || {
        let world = world().await;
        for path in ["/healthz", "/livez", "/readyz", "/version"] {
            assert_eq!(world.get("", path).await.code, 200, "{path}");
        }
        let refusal = world.get("", "/api/v1/pods").await.expect(403);
        assert_eq!(
            refusal["message"],
            "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" at the \
             cluster scope"
        );
        assert_eq!(
            world.get("", "/apis").await.expect(403)["message"],
            "forbidden: User \"system:anonymous\" cannot get path \"/apis\""
        );
        assert_eq!(world.get("nonsense", "/version").await.expect(401)["message"], "Unauthorized");
    });
}

#[test]
fn a_kubelet_sees_its_own_node_and_its_own_pods() {
    simulate(async || {
        let world = world().await;
        let node = UserInfo::new("system:node:a", &["system:nodes"]);
        let may = async |verb: &str, resource: &str, name: &str, selector: &str| {
            let mut attributes = json!({ "verb": verb, "resource": resource, "name": name, "namespace": "default" });
            if !selector.is_empty() {
                attributes["fieldSelector"] = json!({ "rawSelector": selector });
            }
            let spec = json!({ "resourceAttributes": attributes, "user": node.name, "groups": node.groups });
            let review =
                json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec });
            let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
            world.post(path, review).await.expect(201)["status"]["allowed"] == true
        };
        assert!(may("list", "pods", "", "spec.nodeName=a").await);
        assert!(!may("list", "pods", "", "spec.nodeName=b").await);
        assert!(!may("list", "pods", "", "").await);
        assert!(!may("get", "pods", "web", "").await);
        assert!(may("get", "nodes", "a", "").await);
        assert!(!may("get", "nodes", "b", "").await);
        assert!(may("list", "services", "", "").await);
    });
}

/// A log that can be read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// The events so far.
    fn take(&self) -> Vec<Value> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        bytes
            .split(|b| *b == b'\n')
            .filter(|line| !line.is_empty())
            .map(|l| serde_json::from_slice(l).unwrap())
            .collect()
    }
}

#[test]
fn the_audit_log_tells_who_did_what_when_and_with_what_outcome() {
    simulate(async || {
        let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n\
            - {level: RequestResponse, omitManagedFields: true, resources: [{group: \"\", resources: [configmaps]}]}\n\
            - {level: Metadata, omitStages: [RequestReceived], resources: [{group: \"\"}]}\n";
        let log = Log::default();
        let audit = Audit::new(Policy::parse(policy).unwrap(), Format::Json, Box::new(log.clone()));
        let world = world_with(|security| security.audit = Some(audit)).await;
        let object =
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" }, "data": { "k": "v" } });
        let protobuf = ("accept", "application/vnd.kubernetes.protobuf");
        let headers = [("content-type", JSON), ("user-agent", "test/1"), ("audit-id", "my-id"), protobuf];
        let answer = world.send("ada", "POST", "/api/v1/namespaces/default/configmaps", &headers, object).await;
        assert_eq!((answer.code, answer.headers["audit-id"].to_str().unwrap()), (201, "my-id"));
        let events = log.take();
        let stages: Vec<_> = events.iter().map(|event| event["stage"].as_str().unwrap()).collect();
        assert_eq!(stages, ["RequestReceived", "ResponseComplete"]);
        let event = &events[1];
        assert_eq!((&event["kind"], &event["apiVersion"]), (&json!("Event"), &json!("audit.k8s.io/v1")));
        assert_eq!((&event["level"], &event["auditID"]), (&json!("RequestResponse"), &json!("my-id")));
        assert_eq!((&event["verb"], &event["userAgent"]), (&json!("create"), &json!("test/1")));
        assert_eq!(event["user"]["username"], "ada");
        assert_eq!(
            event["objectRef"],
            json!({ "resource": "configmaps", "namespace": "default", "name": "a", "apiVersion": "v1" })
        );
        assert_eq!(event["responseStatus"], json!({ "metadata": {}, "code": 201 }));
        assert_eq!(event["requestObject"]["data"], json!({ "k": "v" }));
        assert!(event["responseObject"]["metadata"]["uid"].is_string());
        assert!(event["responseObject"]["metadata"]["managedFields"].is_null());
        assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "allow");
        assert_eq!(event["requestReceivedTimestamp"].as_str().unwrap().len(), "2026-01-01T00:00:00.000000Z".len());

        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" } });
        world.post("/api/v1/namespaces/default/secrets", secret).await.expect(201);
        let event = log.take().remove(0);
        assert_eq!((&event["level"], &event["objectRef"]["name"]), (&json!("Metadata"), &json!("s")));
        assert!(event["requestObject"].is_null() && event["responseObject"].is_null());

        world.get("vera", "/api/v1/namespaces/default/secrets/s").await.expect(403);
        let events = log.take();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0]["annotations"]["authorization.k8s.io/decision"], "forbid");
        assert_eq!(
            (&events[0]["responseStatus"]["reason"], &events[0]["responseStatus"]["code"]),
            (&json!("Forbidden"), &json!(403))
        );
        assert!(events[0]["responseObject"].is_null());

        let headers = [("impersonate-user", "vera")];
        world.send("ada", "GET", "/api/v1/namespaces/default/configmaps", &headers, Value::Null).await.expect(403);
        assert_eq!(log.take()[1]["impersonatedUser"]["username"], "vera");
        world.get("ada", "/api/v1/namespaces?watch=1&timeoutSeconds=1").await;
        let stages: Vec<_> = log.take().iter().map(|event| event["stage"].as_str().unwrap().to_owned()).collect();
        assert_eq!(stages, ["ResponseStarted", "ResponseComplete"]);
        world.get("ada", "/version").await.expect(200);
        assert!(log.take().is_empty(), "no rule is about it");
    });
}
