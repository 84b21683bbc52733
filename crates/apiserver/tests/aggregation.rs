//! Aggregation: another server's group versions, seen through this one.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::https::{HttpsServer, service_objects};
use common::{Answer, Server};
use coracle_apiserver::Config;
use coracle_apiserver::aggregator::{self, Aggregator};
use coracle_apiserver::pki::{FRONT_PROXY, Pki};
use coracle_store::MemoryStore;
use serde_json::{Value, json};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// An API server with its aggregator at work, and a sample extension server behind the Service `default/sample`.
struct World {
    api: Server,
    sample: HttpsServer,
    _dir: tempfile::TempDir,
}

fn sample(path: &str, body: Value) -> (u16, Value) {
    let resource = json!({ "name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get", "list"] });
    match path.split('?').next().unwrap() {
        "/apis/wardle.example.com/v1" => (
            200,
            json!({ "kind": "APIResourceList", "groupVersion": "wardle.example.com/v1", "resources": [resource] }),
        ),
        "/openapi/v3" => (
            200,
            json!({ "paths": { "apis/wardle.example.com/v1": { "serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1?hash=1" } } }),
        ),
        "/openapi/v2" => {
            let flunders = "/apis/wardle.example.com/v1/flunders";
            let schema = json!({ "$ref": "#/definitions/Flunder" });
            let get = json!({ "get": { "responses": { "200": { "description": "OK", "schema": schema } } } });
            let definitions = json!({ "Flunder": { "properties": { "spec": { "$ref": "#/definitions/FlunderSpec" } } },
                "FlunderSpec": { "type": "object" }, "Unused": { "type": "object" } });
            (200, json!({ "swagger": "2.0", "paths": { flunders: get, "/apis": {} }, "definitions": definitions }))
        }
        "/openapi/v3/apis/wardle.example.com/v1" => (200, json!({ "openapi": "3.0.0" })),
        "/apis/wardle.example.com/v1/namespaces/default/flunders" => (201, json!({ "echo": body, "path": path })),
        _ => (404, Value::Null),
    }
}

impl World {
    async fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::ensure(dir.path(), &[], &[]).unwrap();
        let identity = Some(pki.front_proxy_client().clone());
        let aggregate = |config: &mut Config| config.aggregator = Aggregator::new(config.storage.clone(), identity);
        let api = Server::with(MemoryStore::new(), aggregate).await;
        tokio::spawn(aggregator::run(Arc::downgrade(&api.api)));
        let sample = HttpsServer::start_for("sample.default.svc", pki.front_proxy_ca_pem(), sample).await;
        World { api, sample, _dir: dir }
    }

    async fn publish(&self) {
        let (service, slice) = service_objects("default", "sample", self.sample.port);
        self.api.post("/api/v1/namespaces/default/services", service).await.expect(201);
        self.api.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice).await.expect(201);
    }

    async fn register(&self) {
        let service = json!({ "namespace": "default", "name": "sample", "port": 8443 });
        let object = json!({ "metadata": { "name": "v1.wardle.example.com" }, "spec": {
            "group": "wardle.example.com", "version": "v1", "service": service, "caBundle": self.sample.ca_bundle(),
            "groupPriorityMinimum": 2000, "versionPriority": 200,
        } });
        self.api.post(SERVICES, object).await.expect(201);
    }

    /// Waits until the APIService's condition has this reason.
    async fn reason(&self, wanted: &str) -> Value {
        let mut last = Value::Null;
        for _ in 0..100 {
            let object = self.api.get(&format!("{SERVICES}/v1.wardle.example.com")).await.expect(200);
            last = object["status"]["conditions"][0].clone();
            if last["reason"] == wanted {
                return last;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not {wanted}, but {last}")
    }

    async fn eventually(&self, path: &str, accept: &str, holds: impl Fn(&Answer) -> bool) -> Answer {
        for _ in 0..100 {
            let answer = self.api.send("GET", path, &[("accept", accept)], b"").await;
            if holds(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{path} never became as wanted")
    }
}

#[tokio::test]
async fn should_be_able_to_support_a_sample_api_server_using_the_current_aggregator() {
    let world = World::new().await;
    world.publish().await;
    world.register().await;
    let condition = world.reason("Passed").await;
    assert_eq!((&condition["status"], &condition["message"]), (&json!("True"), &json!("all checks passed")));

    let path = "/apis/wardle.example.com/v1/namespaces/default/flunders";
    let created = world.api.post(&format!("{path}?dryRun=All"), json!({ "kind": "Flunder" })).await.expect(201);
    assert_eq!(created, json!({ "echo": { "kind": "Flunder" }, "path": format!("{path}?dryRun=All") }));
    let headers = world.sample.headers_of(&format!("{path}?dryRun=All"));
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    assert_eq!((header("x-remote-user"), header("x-remote-group")), ("tester".into(), "system:authenticated".into()));
    assert_eq!(world.sample.peer_of(&format!("{path}?dryRun=All")), FRONT_PROXY);

    let groups = world.api.get("/apis").await.expect(200);
    assert!(groups["groups"].as_array().unwrap().iter().any(|group| group["name"] == "wardle.example.com"));
    let group = world.api.get("/apis/wardle.example.com").await.expect(200);
    assert_eq!(group["preferredVersion"]["groupVersion"], "wardle.example.com/v1");
    assert_eq!(world.api.get("/apis/wardle.example.com/v1").await.expect(200)["resources"][0]["name"], "flunders");
}

#[tokio::test]
async fn discovery_and_openapi_are_merged() {
    let world = World::new().await;
    world.publish().await;
    world.register().await;
    world.reason("Passed").await;
    let group = |answer: &Answer| {
        let items = answer.json()["items"].as_array().cloned().unwrap_or_default();
        items.into_iter().find(|item| item["metadata"]["name"] == "wardle.example.com").unwrap_or_default()
    };
    let answer = world.eventually("/apis", AGGREGATED, |a| group(a)["versions"][0]["freshness"] == "Current").await;
    assert!(answer.headers["content-type"].to_str().unwrap().contains("as=APIGroupDiscoveryList"));
    assert_eq!(group(&answer)["versions"][0]["resources"][0]["resource"], "flunders");
    let key = "apis/wardle.example.com/v1";
    let index = world.eventually("/openapi/v3", "application/json", |a| a.json()["paths"][key].is_object()).await;
    let url = index.json()["paths"][key]["serverRelativeURL"].as_str().unwrap().to_owned();
    assert_eq!(world.api.get(&url).await.expect(200), json!({ "openapi": "3.0.0" }));
    let v2 = world.api.get("/openapi/v2").await.expect(200);
    assert!(v2["paths"]["/apis/wardle.example.com/v1/flunders"]["get"].is_object());
    assert!(v2["paths"]["/api/v1/pods"].is_object() && v2["paths"]["/apis"].is_null());
    let definitions = &v2["definitions"];
    assert_eq!(definitions["FlunderSpec"], json!({ "type": "object" }));
    assert!(definitions["Unused"].is_null() && definitions["io.k8s.api.core.v1.Pod"].is_object());
    let protobuf = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    let v2 = world.api.send("GET", "/openapi/v2", &[("accept", protobuf)], b"").await.bytes;
    assert!(v2.windows(11).any(|part| part == b"FlunderSpec"));
}

#[tokio::test]
async fn an_api_service_says_why_it_is_not_available_and_answers_503() {
    let world = World::new().await;
    world.register().await;
    let message = world.reason("ServiceNotFound").await["message"].clone();
    assert_eq!(message, "service/sample in \"default\" is not present");
    let refused = world.api.get("/apis/wardle.example.com/v1").await;
    assert_eq!((refused.code, &refused.bytes[..]), (503, &b"service unavailable\n"[..]));

    let (service, mut slice) = service_objects("default", "sample", world.sample.port);
    world.api.post("/api/v1/namespaces/default/services", service).await.expect(201);
    world.reason("EndpointsNotFound").await;
    slice["endpoints"] = json!([]);
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    world.api.post(slices, slice.clone()).await.expect(201);
    world.reason("MissingEndpoints").await;
    let (_, there) = service_objects("default", "sample", 1);
    let patch = json!({ "endpoints": there["endpoints"], "ports": there["ports"] });
    world.api.patch(&format!("{slices}/sample-1"), common::MERGE, patch).await.expect(200);
    let message = world.reason("FailedDiscoveryCheck").await["message"].clone();
    assert!(message.as_str().unwrap().contains("connect: connection refused"), "{message}");
    let patch = json!({ "spec": { "service": { "port": 9 } } });
    world.api.patch(&format!("{SERVICES}/v1.wardle.example.com"), common::MERGE, patch).await.expect(200);
    world.reason("ServicePortError").await;
}

#[tokio::test]
async fn a_group_that_nobody_serves_is_not_found() {
    let world = World::new().await;
    assert_eq!(world.api.get("/apis/wardle.example.com").await.code, 404);
    world.register().await;
    assert_eq!(world.api.get("/apis/nobody.example.com").await.code, 404);
    world.reason("ServiceNotFound").await;
    assert_eq!(world.api.api.config.aggregator.remotes().len(), 1);
}
