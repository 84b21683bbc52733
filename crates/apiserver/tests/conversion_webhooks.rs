//! Custom resources in several versions that a webhook converts: version 1 has `hostPort`, version 2 `host` and `port`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::custom::*;
use common::https::{HttpsServer, service_objects};
use common::*;
use coracle_apiserver::webhook::{CallError, Webhooks};
use coracle_store::{KeyRange, RangeRequest};
use serde_json::{Value, json};

const ENDPOINTS: &str = "/apis/stable.example.com/v1/namespaces/default/points";
const ENDPOINTS_V2: &str = "/apis/stable.example.com/v2/namespaces/default/points";
const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1";

/// What the programs behind webhooks were asked, and what the one that converts says instead of doing it.
#[derive(Default)]
struct Programs {
    asked: Mutex<Vec<(String, Value)>>,
    fault: Mutex<Option<Value>>,
}

impl Programs {
    fn answer(&self, url: &str, review: &Value) -> Result<Value, CallError> {
        let path = url.trim_start_matches("https://").split_once('/').unwrap().1.split('?').next().unwrap();
        self.asked.lock().unwrap().push((path.to_owned(), review["request"].clone()));
        let mut answer = json!({ "apiVersion": review["apiVersion"], "kind": review["kind"] });
        answer["response"] = match (path, self.fault.lock().unwrap().as_ref()) {
            ("convert", Some(Value::Null)) => {
                return Err(CallError::Failed { url: url.to_owned(), why: "context deadline exceeded".into() });
            }
            ("convert", Some(result)) => json!({ "result": result, "convertedObjects": [] }),
            ("convert", None) => {
                let version = review["request"]["desiredAPIVersion"].as_str().unwrap();
                let objects = review["request"]["objects"].as_array().unwrap();
                let converted: Vec<Value> = objects.iter().map(|object| converted(object, version)).collect();
                json!({ "result": { "status": "Success" }, "convertedObjects": converted })
            }
            _ => admitted(path, &review["request"]),
        };
        answer["response"]["uid"] = review["request"]["uid"].clone();
        Ok(answer)
    }

    /// The reviews at a path since the last time: for conversions the version wanted and how many objects.
    fn conversions(&self) -> Vec<(String, usize)> {
        let asked = std::mem::take(&mut *self.asked.lock().unwrap());
        let conversions = asked.iter().filter(|(path, _)| path == "convert").map(|(_, request)| {
            let version = request["desiredAPIVersion"].as_str().unwrap().rsplit('/').next().unwrap();
            (version.to_owned(), request["objects"].as_array().unwrap().len())
        });
        conversions.collect()
    }

    fn break_with(&self, fault: Value) {
        *self.fault.lock().unwrap() = Some(fault);
    }

    fn mend(&self) {
        *self.fault.lock().unwrap() = None;
    }
}

fn converted(object: &Value, version: &str) -> Value {
    let mut object = object.clone();
    let fields = object.as_object_mut().unwrap();
    let take = |fields: &mut serde_json::Map<String, Value>, key: &str| {
        fields.remove(key).and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    };
    if version.ends_with("/v2") {
        let both = take(fields, "hostPort");
        let (host, port) = both.split_once(':').unwrap_or((&both, ""));
        fields.insert("host".into(), host.into());
        fields.insert("port".into(), port.into());
        // Unknown in both versions, so it must be pruned.
        fields.insert("nonsense".into(), true.into());
    } else {
        let both = format!("{}:{}", take(fields, "host"), take(fields, "port"));
        fields.insert("hostPort".into(), both.into());
    }
    object["apiVersion"] = version.into();
    object["metadata"]["resourceVersion"] = "of no account".into();
    object
}

/// Admission: `stage1` and `stage2` as upstream's tests have them, `port` sets the port of version 1, `deny` refuses.
fn admitted(path: &str, request: &Value) -> Value {
    let patch = |operations: Value| json!({ "allowed": true, "patchType": "JSONPatch", "patch": BASE64_STANDARD.encode(operations.to_string()) });
    let data = |key: &str| request["object"]["data"][key] == "yes";
    let add = |path: &str, value: &str| patch(json!([{ "op": "add", "path": path, "value": value }]));
    match path {
        "stage1" if data("mutation-start") => add("/data/mutation-stage-1", "yes"),
        "stage2" if data("mutation-stage-1") => add("/data/mutation-stage-2", "yes"),
        "port" => add("/hostPort", &request["object"]["hostPort"].as_str().unwrap().replace(":80", ":8080")),
        "deny" if request["operation"] == "DELETE" && request["oldObject"]["data"]["may"] == "go" => {
            json!({ "allowed": true })
        }
        "deny" => json!({ "allowed": false, "status": { "message": "the custom resource is unwanted" } }),
        _ => json!({ "allowed": true }),
    }
}

fn versions(stored: &str) -> Value {
    let version = |name: &str, fields: &[&str]| {
        let mut schema = json!({ "type": "object", "properties": {
            "spec": { "type": "object", "default": {}, "properties": {
                "replicas": { "type": "integer", "default": 1 } } },
            "status": { "type": "object", "properties": { "replicas": { "type": "integer" } } },
        } });
        let mut selectable = Vec::new();
        for field in fields {
            schema["properties"][*field] = json!({ "type": "string" });
            selectable.push(json!({ "jsonPath": format!(".{field}") }));
        }
        json!({
            "name": name, "served": true, "storage": name == stored, "schema": { "openAPIV3Schema": schema },
            "selectableFields": selectable,
            "subresources": { "status": {}, "scale": {
                "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas" } },
        })
    };
    json!([version("v1", &["hostPort"]), version("v2", &["host", "port"])])
}

fn points(review: &str) -> Value {
    let mut definition = definition("stable.example.com", "Point", versions("v1"));
    let service = json!({ "namespace": "default", "name": "converter", "path": "/convert", "port": 9443 });
    definition["spec"]["conversion"] = json!({ "strategy": "Webhook", "webhook": {
        "clientConfig": { "service": service }, "conversionReviewVersions": [review] } });
    definition
}

fn point(name: &str, host_port: &str) -> Value {
    json!({ "apiVersion": "stable.example.com/v1", "kind": "Point", "metadata": { "name": name }, "hostPort": host_port })
}

/// A server whose webhooks are answered by `programs`, with the plugins that call them.
async fn server(programs: &Arc<Programs>) -> Server {
    let programs = programs.clone();
    Server::admitting(|config| config.webhooks = Webhooks::answered_by(move |url, review| programs.answer(url, review)))
        .await
}

/// The same, with the definition of points.
async fn world() -> (Server, Arc<Programs>) {
    let programs = Arc::default();
    let server = server(&programs).await;
    define(&server, points("v1")).await;
    (server, programs)
}

/// An object as it lies in the store.
async fn stored(server: &Server, name: &str) -> Value {
    let key = format!("/registry/stable.example.com/points/default/{name}");
    let found = server.store.range(RangeRequest::new(KeyRange::prefix(key))).await.unwrap();
    serde_json::from_slice(&found.kvs[0].value).unwrap()
}

async fn store_in(server: &Server, version: &str) {
    redefine(server, "points.stable.example.com", |spec| spec["versions"] = versions(version)).await;
}

#[track_caller]
fn assert_v2(object: &Value, host: &str, port: &str) {
    assert_eq!(object["apiVersion"], "stable.example.com/v2");
    assert_eq!((&object["host"], &object["port"]), (&json!(host), &json!(port)), "{object}");
    assert!(object.get("hostPort").is_none() && object.get("nonsense").is_none(), "{object}");
    assert!(object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().is_ok(), "{object}");
}

#[test]
fn should_be_able_to_convert_from_cr_v1_to_cr_v2() {
    for review in ["v1", "v1beta1"] {
        simulate(async || {
            let programs = Arc::default();
            let server = server(&programs).await;
            define(&server, points(review)).await;
            server.post(ENDPOINTS, point("a", "localhost:8080")).await.expect(201);
            assert_eq!(programs.conversions(), [], "nobody needs another version");
            let as_v2 = server.get(&format!("{ENDPOINTS_V2}/a")).await.expect(200);
            assert_v2(&as_v2, "localhost", "8080");
            assert_eq!(as_v2["spec"]["replicas"], 1, "the default of the stored version");
            assert_eq!(programs.conversions(), [("v2".into(), 1)]);
            let table = server.table(&format!("{ENDPOINTS_V2}/a")).await;
            assert_eq!(table["rows"][0]["cells"][0], "a");
            assert_eq!(programs.conversions(), [], "what was converted once is known");
        });
    }
}

const CONVERTER: &str = "converter.default.svc";

/// A server with the definition of points whose webhook is a program behind a Service.
async fn behind_a_service(hook: &HttpsServer) -> Server {
    let server = Server::start().await;
    let (service, slice) = service_objects("default", "converter", hook.port);
    server.post("/api/v1/namespaces/default/services", service).await.expect(201);
    server.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice).await.expect(201);
    let mut definition = points("v1");
    definition["spec"]["conversion"]["webhook"]["clientConfig"] =
        hook.client_config("default", "converter", "/convert");
    define(&server, definition).await;
    server
}

#[tokio::test]
async fn a_webhook_behind_a_service_is_found_and_trusted() {
    let hook = HttpsServer::start(CONVERTER, |path, review| {
        assert_eq!(path, "/convert?timeout=30s");
        let object = converted(&review["request"]["objects"][0], "stable.example.com/v2");
        let uid = &review["request"]["uid"];
        let response = json!({ "uid": uid, "result": { "status": "Success" }, "convertedObjects": [object] });
        (200, json!({ "apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": response }))
    })
    .await;
    let server = behind_a_service(&hook).await;
    server.post(ENDPOINTS, point("a", "localhost:8080")).await.expect(201);
    assert_v2(&server.get(&format!("{ENDPOINTS_V2}/a")).await.expect(200), "localhost", "8080");
}

#[tokio::test]
async fn who_needs_the_same_at_once_shares_one_question() {
    let before = AtomicUsize::new(0);
    let hook = HttpsServer::start(CONVERTER, move |_, review| {
        let first = before.fetch_add(1, Ordering::SeqCst) == 0;
        let objects = review["request"]["objects"].as_array().unwrap().iter();
        let objects: Vec<Value> = objects.map(|object| converted(object, "stable.example.com/v2")).collect();
        let result = json!({ "status": if first { "Failure" } else { "Success" }, "message": "not yet" });
        let response = json!({ "uid": review["request"]["uid"], "result": result, "convertedObjects": objects });
        (200, json!({ "apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": response }))
    })
    .await;
    let server = behind_a_service(&hook).await;
    server.post(ENDPOINTS, point("a", "localhost:1")).await.expect(201);
    let path = format!("{ENDPOINTS_V2}/a");
    let all = || futures::future::join_all((0..20).map(|_| server.get(&path)));
    let answers = all().await;
    assert!(answers.iter().all(|answer| answer.code == 500), "one failure is everybody's");
    assert_eq!(hook.requests().len(), 1);
    for answer in all().await {
        assert_v2(&answer.expect(200), "localhost", "1");
    }
    assert_eq!(hook.requests().len(), 2);
    let metrics = String::from_utf8(server.get("/metrics").await.bytes.to_vec()).unwrap();
    for expected in [
        r#"apiserver_conversion_webhook_request_total{failure_type="",result="success"} 1"#,
        r#"apiserver_conversion_webhook_duration_seconds_count{failure_type="conversion_webhook_malformed_response_failure",result="failure"} 1"#,
        r#"apiserver_crd_conversion_webhook_duration_seconds_count{crd_name="points.stable.example.com",from_version="v1",succeeded="true",to_version="v2"} 1"#,
    ] {
        assert!(metrics.contains(expected), "{expected}\n{metrics}");
    }
}

#[test]
fn should_be_able_to_convert_a_non_homogeneous_list_of_crs() {
    simulate(async || {
        let (server, programs) = world().await;
        server.post(ENDPOINTS, point("a", "localhost:1")).await.expect(201);
        store_in(&server, "v2").await;
        let definition = server.get(&format!("{CRDS}/points.stable.example.com")).await.expect(200);
        assert_eq!(definition["status"]["storedVersions"], json!(["v1", "v2"]));
        server.post(ENDPOINTS, point("b", "localhost:2")).await.expect(201);
        server.post(ENDPOINTS, point("c", "localhost:3")).await.expect(201);
        let lying = [&stored(&server, "a").await, &stored(&server, "b").await].map(|o| o["apiVersion"].clone());
        assert_eq!(lying, ["stable.example.com/v1", "stable.example.com/v2"]);
        programs.conversions();
        // One question for all that are in another version, and only for those.
        let list = server.get(ENDPOINTS_V2).await.expect(200);
        assert_v2(&list["items"][0], "localhost", "1");
        assert_v2(&list["items"][1], "localhost", "2");
        assert_eq!(programs.conversions(), [("v2".into(), 1)]);
        let list = server.get(ENDPOINTS).await.expect(200);
        let both: Vec<_> = list["items"].as_array().unwrap().iter().map(|item| item["hostPort"].clone()).collect();
        assert_eq!(both, ["localhost:1", "localhost:2", "localhost:3"]);
        assert_eq!(programs.conversions(), [("v1".into(), 2)]);
        // Of a page, no more than the page.
        let page = server.get(&format!("{ENDPOINTS}?limit=2")).await.expect(200);
        assert_eq!(page["items"].as_array().unwrap().len(), 2);
        // An update that changes nothing brings an object into the version that is stored now.
        let object = server.get(&format!("{ENDPOINTS}/a")).await.expect(200);
        let version = object["metadata"]["resourceVersion"].clone();
        assert_ne!(
            server.put(&format!("{ENDPOINTS}/a"), object).await.expect(200)["metadata"]["resourceVersion"],
            version
        );
        let lies = stored(&server, "a").await;
        assert_eq!((&lies["apiVersion"], &lies["host"]), (&json!("stable.example.com/v2"), &json!("localhost")));
        let again = server.get(&format!("{ENDPOINTS}/a")).await.expect(200);
        let written = server.put(&format!("{ENDPOINTS}/a"), again.clone()).await.expect(200);
        assert_eq!(written, again, "nothing is written a second time");
    });
}

#[test]
fn a_long_list_is_converted_in_parts() {
    simulate(async || {
        let (server, programs) = world().await;
        for name in ["a", "b", "c"] {
            server.post(ENDPOINTS, point(name, &format!("{}:80", "h".repeat(600_000)))).await.expect(201);
        }
        let list = server.get(ENDPOINTS_V2).await.expect(200);
        assert!(list["items"].as_array().unwrap().iter().all(|item| item["port"] == "80"));
        assert_eq!(programs.conversions(), [("v2".into(), 2), ("v2".into(), 1)]);
    });
}

#[test]
fn must_list_and_watch_custom_resources_matching_the_field_selector() {
    simulate(async || {
        let (server, programs) = world().await;
        for (name, host_port) in [("a", "host1:80"), ("b", "host2:80"), ("c", "host1:8080")] {
            server.post(ENDPOINTS, point(name, host_port)).await.expect(201);
        }
        let names = async |path: &str| {
            let list = server.get(path).await.expect(200);
            let items = list["items"].as_array().unwrap().clone();
            items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&format!("{ENDPOINTS}?fieldSelector=hostPort=host1:80")).await, ["a"]);
        assert_eq!(names(&format!("{ENDPOINTS_V2}?fieldSelector=host=host1,port!=80")).await, ["c"]);
        assert_eq!(names(&format!("{ENDPOINTS_V2}?fieldSelector=host=host1&limit=1")).await, ["a"]);
        server.get(&format!("{ENDPOINTS_V2}?fieldSelector=hostPort=host1:80")).await.expect(400);
        programs.conversions();
        let query = "watch=1&fieldSelector=host=host1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                     &allowWatchBookmarks=true";
        let mut watch = server.watch(&format!("{ENDPOINTS_V2}?{query}")).await;
        let first = watch.next().await.unwrap();
        assert_v2(&first["object"], "host1", "80");
        assert_eq!(watch.brief().await.unwrap(), "ADDED c");
        assert_eq!(watch.brief().await.unwrap(), "BOOKMARK ");
        let change = async |name: &str, host_port: &str| {
            let path = format!("{ENDPOINTS}/{name}");
            server.patch(&path, MERGE, json!({ "hostPort": host_port })).await.expect(200);
        };
        change("b", "host1:1").await;
        change("a", "host1:2").await;
        change("c", "host3:3").await;
        server.delete(&format!("{ENDPOINTS}/a"), json!({})).await.expect(200);
        assert_eq!(watch.brief().await.unwrap(), "ADDED b");
        let modified = watch.next().await.unwrap();
        assert_eq!(modified["type"], "MODIFIED");
        assert_v2(&modified["object"], "host1", "2");
        let left = watch.next().await.unwrap();
        assert_eq!((&left["type"], &left["object"]["port"]), (&json!("DELETED"), &json!("8080")), "as it was selected");
        assert_eq!(watch.brief().await.unwrap(), "DELETED a");
    });
}

#[test]
fn every_way_of_writing_goes_through_the_stored_version() {
    simulate(async || {
        let (server, _) = world().await;
        let object = json!({ "apiVersion": "stable.example.com/v2", "kind": "Point", "metadata": { "name": "a" },
            "host": "h", "port": "1" });
        let created = server.post(ENDPOINTS_V2, object).await.expect(201);
        assert_v2(&created, "h", "1");
        let lies = stored(&server, "a").await;
        assert_eq!((&lies["apiVersion"], &lies["hostPort"]), (&json!("stable.example.com/v1"), &json!("h:1")));
        let path = format!("{ENDPOINTS_V2}/a");
        let mut object = server.get(&path).await.expect(200);
        object["port"] = "2".into();
        assert_v2(&server.put(&path, object).await.expect(200), "h", "2");
        assert_v2(&server.patch(&path, MERGE, json!({ "port": "3" })).await.expect(200), "h", "3");
        let patch = json!([{ "op": "replace", "path": "/port", "value": "4" }]);
        assert_v2(&server.patch(&path, JSON_PATCH, patch).await.expect(200), "h", "4");
        let dry = server.patch(&format!("{path}?dryRun=All"), MERGE, json!({ "port": "9" })).await.expect(200);
        assert_v2(&dry, "h", "9");
        let status = server.patch(&format!("{path}/status"), MERGE, json!({ "status": { "replicas": 7 } })).await;
        assert_v2(&status.expect(200), "h", "4");
        let scale = server.patch(&format!("{path}/scale"), MERGE, json!({ "spec": { "replicas": 5 } })).await;
        let scale = scale.expect(200);
        assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&json!(5), &json!(7)));
        let lies = stored(&server, "a").await;
        assert_eq!((&lies["hostPort"], &lies["spec"]["replicas"]), (&json!("h:4"), &json!(5)));
        server.patch(&path, MERGE, json!({ "metadata": { "finalizers": ["a.example/b"] } })).await.expect(200);
        assert_v2(&server.delete(&path, json!({})).await.expect(200), "h", "4");
        assert_eq!(stored(&server, "a").await["hostPort"], "h:4");
        server.patch(&path, MERGE, json!({ "metadata": { "finalizers": null } })).await.expect(200);
        server.get(&path).await.expect(404);
    });
}

#[test]
fn what_the_webhook_cannot_do_is_told_and_changes_nothing() {
    simulate(async || {
        let (server, programs) = world().await;
        server.post(ENDPOINTS, point("a", "h:1")).await.expect(201);
        let now = server.get(ENDPOINTS).await.expect(200)["metadata"]["resourceVersion"].clone();
        let mut watch =
            server.watch(&format!("{ENDPOINTS_V2}?watch=1&resourceVersion={}", now.as_str().unwrap())).await;
        server.patch(&format!("{ENDPOINTS}/a"), MERGE, json!({ "hostPort": "h:1" })).await.expect(200);
        server.patch(&format!("{ENDPOINTS}/a"), MERGE, json!({ "spec": { "replicas": 2 } })).await.expect(200);
        let path = format!("{ENDPOINTS_V2}/a");
        let failed = "conversion webhook for stable.example.com/v1, Kind=Point failed: ";
        for (fault, message) in [
            (json!({ "status": "Failure", "message": "no such host" }), format!("{failed}no such host")),
            (json!({ "status": "Failure" }), format!("{failed}response.result.status was 'Failure', not 'Success'")),
            (
                json!({ "status": "Success" }),
                "conversion webhook for stable.example.com/v1, Kind=Point returned 0 objects, expected 1".into(),
            ),
            (
                Value::Null,
                format!(
                    "{failed}Post \"https://converter.default.svc:9443/convert?timeout=30s\": context deadline exceeded"
                ),
            ),
        ] {
            programs.break_with(fault);
            for answer in [
                server.get(&path).await,
                server.get(ENDPOINTS_V2).await,
                server.get(&format!("{ENDPOINTS_V2}?watch=1")).await,
                server.patch(&path, MERGE, json!({ "port": "3" })).await,
                server.delete(&path, json!({})).await,
            ] {
                let status = answer.expect(500);
                assert_eq!(status["message"], message);
                assert_eq!(status.get("reason"), None);
            }
        }
        let v2 = json!({ "apiVersion": "stable.example.com/v2", "kind": "Point", "metadata": { "name": "b" } });
        let refused = server.post(ENDPOINTS_V2, v2).await.expect(500);
        assert!(refused["message"].as_str().unwrap().starts_with("conversion webhook for stable.example.com/v2"));
        let error = watch.next().await.unwrap();
        assert_eq!((&error["type"], &error["object"]["reason"]), (&json!("ERROR"), &json!("InternalError")));
        assert_eq!(watch.next().await, None);
        // The version that is stored works on, and nothing was lost.
        assert_eq!(server.get(&format!("{ENDPOINTS}/a")).await.expect(200)["hostPort"], "h:1");
        programs.mend();
        assert_v2(&server.get(&path).await.expect(200), "h", "1");
        // The definition takes its objects along, whether or not they can be converted.
        store_in(&server, "v2").await;
        programs.break_with(Value::Null);
        server.delete(&format!("{CRDS}/points.stable.example.com"), json!({})).await.expect(200);
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        server.get(&format!("{CRDS}/points.stable.example.com")).await.expect(404);
    });
}

#[test]
fn appliers_of_two_versions_share_an_object() {
    simulate(async || {
        let (server, _) = world().await;
        let apply = async |path: &str, version: &str, manager: &str, part: Value| {
            let mut config = json!({ "apiVersion": format!("stable.example.com/{version}"), "kind": "Point" });
            config.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
            config["metadata"] = json!({ "name": "a" });
            server.patch(&format!("{path}/a?fieldManager={manager}"), APPLY, config).await
        };
        apply(ENDPOINTS, "v1", "one", json!({ "hostPort": "h:1" })).await.expect(201);
        let conflict = apply(ENDPOINTS_V2, "v2", "two", json!({ "port": "2" })).await.expect(409);
        assert_eq!(conflict["message"], "Apply failed with 1 conflict: conflict with \"one\": .hostPort");
        let shared = apply(ENDPOINTS_V2, "v2", "two", json!({ "host": "h" })).await.expect(200);
        assert_v2(&shared, "h", "1");
        let owners = |object: &Value| {
            let entries = object["metadata"]["managedFields"].as_array().unwrap().clone();
            let brief = entries.iter().map(|entry| {
                let version = entry["apiVersion"].as_str().unwrap().rsplit('/').next().unwrap();
                format!("{} {version} {}", entry["manager"].as_str().unwrap(), entry["fieldsV1"])
            });
            brief.collect::<Vec<_>>()
        };
        assert_eq!(owners(&shared), [r#"one v1 {"f:hostPort":{}}"#, r#"two v2 {"f:host":{}}"#]);
        // An update through one version takes from owners of the other what it changes there.
        let updated =
            server.patch(&format!("{ENDPOINTS_V2}/a?fieldManager=three"), MERGE, json!({ "port": "5" })).await;
        assert_eq!(owners(&updated.expect(200)), [r#"two v2 {"f:host":{}}"#, r#"three v2 {"f:port":{}}"#]);
    });
}

/// A configuration of webhooks at those paths, for version 1 of a resource.
async fn hook(server: &Server, sort: &str, resource: &str, paths: &[&str]) {
    let webhook = |path: &&str| {
        json!({
            "name": format!("{path}.example.com"), "clientConfig": { "url": format!("https://hook/{path}") },
            "rules": [{ "operations": ["CREATE", "UPDATE", "DELETE"], "apiGroups": ["stable.example.com"],
                        "apiVersions": ["v1"], "resources": [resource, format!("{resource}/*")] }],
            "sideEffects": "None", "admissionReviewVersions": ["v1"],
        })
    };
    let webhooks: Vec<Value> = paths.iter().map(webhook).collect();
    let plural = format!("{sort}webhookconfigurations");
    let object = json!({ "metadata": { "name": "hooks" }, "webhooks": webhooks });
    server.post(&format!("{HOOKS}/{plural}"), object).await.expect(201);
}

/// A definition whose objects hold `data`: of anything, or of upstream's keys but for the second stage's.
fn data(pruning: bool) -> Value {
    let data = match pruning {
        true => json!({ "type": "object", "properties": {
            "mutation-start": { "type": "string" }, "mutation-stage-1": { "type": "string" } } }),
        false => json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true }),
    };
    let version = |name: &str| {
        json!({ "name": name, "served": true, "storage": name == "v1",
            "schema": { "openAPIV3Schema": { "type": "object", "properties": {
                "data": data, "dummy": { "type": "string" } } } } })
    };
    definition("stable.example.com", "Thing", json!([version("v1"), version("v2")]))
}

const THINGS: &str = "/apis/stable.example.com/v1/namespaces/default/things";

fn thing(data: Value) -> Value {
    json!({ "apiVersion": "stable.example.com/v1", "kind": "Thing", "metadata": { "name": "a" }, "data": data })
}

#[test]
fn should_mutate_custom_resource() {
    simulate(async || {
        let server = server(&Arc::default()).await;
        define(&server, data(false)).await;
        hook(&server, "mutating", "things", &["stage1", "stage2"]).await;
        let made = server.post(THINGS, thing(json!({ "mutation-start": "yes" }))).await.expect(201);
        let all = json!({ "mutation-start": "yes", "mutation-stage-1": "yes", "mutation-stage-2": "yes" });
        assert_eq!(made["data"], all);
    });
}

#[test]
fn should_mutate_custom_resource_with_pruning() {
    simulate(async || {
        let server = server(&Arc::default()).await;
        define(&server, data(true)).await;
        hook(&server, "mutating", "things", &["stage1", "stage2"]).await;
        let made = server.post(THINGS, thing(json!({ "mutation-start": "yes" }))).await.expect(201);
        assert_eq!(made["data"], json!({ "mutation-start": "yes", "mutation-stage-1": "yes" }));
    });
}

#[test]
fn should_mutate_custom_resource_with_different_stored_version() {
    simulate(async || {
        let server = server(&Arc::default()).await;
        define(&server, data(false)).await;
        hook(&server, "mutating", "things", &["stage1", "stage2"]).await;
        server.post(THINGS, thing(json!({ "mutation-start": "yes" }))).await.expect(201);
        redefine(&server, "things.stable.example.com", |spec| {
            for version in spec["versions"].as_array_mut().unwrap() {
                version["storage"] = (version["name"] == "v2").into();
            }
        })
        .await;
        let patched = server.patch(&format!("{THINGS}/a"), MERGE, json!({ "dummy": "test" })).await.expect(200);
        let all = json!({ "mutation-start": "yes", "mutation-stage-1": "yes", "mutation-stage-2": "yes" });
        assert_eq!((&patched["data"], &patched["dummy"]), (&all, &json!("test")));
        let other = server.get("/apis/stable.example.com/v2/namespaces/default/things/a").await.expect(200);
        assert_eq!(other["data"], all);
    });
}

#[test]
fn should_be_able_to_deny_custom_resource_creation_update_and_deletion() {
    simulate(async || {
        let server = server(&Arc::default()).await;
        define(&server, data(false)).await;
        let refusal = "admission webhook \"deny.example.com\" denied the request: the custom resource is unwanted";
        server.post(THINGS, thing(json!({ "any": "thing" }))).await.expect(201);
        hook(&server, "validating", "things", &["deny"]).await;
        let path = format!("{THINGS}/a");
        let mut other = thing(json!({}));
        other["metadata"]["name"] = "b".into();
        for answer in [
            server.post(THINGS, other).await,
            server.patch(&path, MERGE, json!({ "data": { "x": "y" } })).await,
            server.delete(&path, json!({})).await,
        ] {
            assert_eq!(answer.expect(400)["message"], refusal);
        }
        let hooks = format!("{HOOKS}/validatingwebhookconfigurations/hooks");
        server.delete(&hooks, json!({})).await.expect(200);
        server.patch(&path, MERGE, json!({ "data": { "may": "go" } })).await.expect(200);
        hook(&server, "validating", "things", &["deny"]).await;
        server.delete(&path, json!({})).await.expect(200);
    });
}

#[test]
fn a_rule_for_one_version_catches_requests_for_the_other_with_the_object_converted() {
    simulate(async || {
        let (server, programs) = world().await;
        hook(&server, "mutating", "points", &["port"]).await;
        let object = json!({ "apiVersion": "stable.example.com/v2", "kind": "Point", "metadata": { "name": "a" },
            "host": "h", "port": "80" });
        assert_v2(&server.post(ENDPOINTS_V2, object).await.expect(201), "h", "8080");
        let asked = programs.asked.lock().unwrap().clone();
        let review = &asked.iter().find(|(path, _)| path == "port").unwrap().1;
        assert_eq!((&review["object"]["hostPort"], &review["kind"]["version"]), (&json!("h:80"), &json!("v1")));
        assert_eq!(review["requestKind"]["version"], "v2");
        assert_eq!(stored(&server, "a").await["hostPort"], "h:8080");
        // Without matchPolicy Equivalent the request is none of its business.
        let hooks = format!("{HOOKS}/mutatingwebhookconfigurations/hooks");
        let exact = json!([{ "op": "replace", "path": "/webhooks/0/matchPolicy", "value": "Exact" }]);
        server.patch(&hooks, JSON_PATCH, exact).await.expect(200);
        let path = format!("{ENDPOINTS_V2}/a");
        assert_v2(&server.patch(&path, MERGE, json!({ "port": "80" })).await.expect(200), "h", "80");
    });
}

#[test]
fn a_policy_for_one_version_judges_and_changes_objects_of_the_other() {
    simulate(async || {
        let (server, _) = world().await;
        let constraints = json!({ "resourceRules": [{ "operations": ["CREATE", "UPDATE"], "apiVersions": ["v1"],
            "apiGroups": ["stable.example.com"], "resources": ["points"] }] });
        let validations = json!([{ "expression": "object.hostPort != 'h:1'", "message": "not that one" }]);
        let policy = json!({ "metadata": { "name": "p" },
            "spec": { "matchConstraints": constraints, "validations": validations } });
        server.post(&format!("{HOOKS}/validatingadmissionpolicies"), policy).await.expect(201);
        let binding = json!({ "metadata": { "name": "p" },
            "spec": { "policyName": "p", "validationActions": ["Deny"] } });
        server.post(&format!("{HOOKS}/validatingadmissionpolicybindings"), binding).await.expect(201);
        let change = json!({ "patchType": "JSONPatch", "jsonPatch": { "expression":
            "[JSONPatch{op: 'replace', path: '/hostPort', value: object.hostPort + '0'}]" } });
        let policy = json!({ "metadata": { "name": "m" }, "spec": { "matchConstraints": constraints,
            "reinvocationPolicy": "Never", "mutations": [change] } });
        server.post(&format!("{HOOKS}/mutatingadmissionpolicies"), policy).await.expect(201);
        let binding = json!({ "metadata": { "name": "m" }, "spec": { "policyName": "m" } });
        server.post(&format!("{HOOKS}/mutatingadmissionpolicybindings"), binding).await.expect(201);
        let object = |port: &str| {
            json!({ "apiVersion": "stable.example.com/v2", "kind": "Point", "metadata": { "name": "a" },
                "host": "h", "port": port })
        };
        let refused = server.post(ENDPOINTS_V2, object("")).await;
        assert_v2(&refused.expect(201), "h", "0");
        let refused = server.patch(&format!("{ENDPOINTS_V2}/a"), MERGE, json!({ "port": "" })).await;
        assert_v2(&refused.expect(200), "h", "0");
        let binding = format!("{HOOKS}/mutatingadmissionpolicybindings/m");
        server.delete(&binding, json!({})).await.expect(200);
        let refused = server.patch(&format!("{ENDPOINTS_V2}/a"), MERGE, json!({ "port": "1" })).await.expect(422);
        assert!(refused["message"].as_str().unwrap().ends_with("denied request: not that one"), "{refused}");
    });
}
