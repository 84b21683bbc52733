//! The webhook client: who is reached, who is trusted, and what failures are called.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::time::Duration;

use common::Server;
use common::https::{HttpsServer, service_objects};
use coracle_apiserver::webhook::{CallError, Webhooks};
use serde_json::{Value, json};

const NAME: &str = "hook.default.svc";
const SECOND: Duration = Duration::from_secs(1);

/// A webhook server behind the Service `default/hook`, and a client.
async fn world() -> (Server, HttpsServer) {
    let api = Server::start().await;
    let hook = HttpsServer::start(NAME, |path, body| match path.split('?').next().unwrap() {
        "/echo" | "/slow" => (200, json!({ "echo": body })),
        "/text" => (200, "not json".into()),
        "/status" => (403, json!({ "kind": "Status", "message": "go away" })),
        "/huge" => (200, "x".repeat(9 * 1024 * 1024).into()),
        "/broken" => (500, "boom".into()),
        _ => (404, Value::Null),
    })
    .await;
    publish(&api, "hook", hook.port).await;
    (api, hook)
}

async fn publish(api: &Server, name: &str, port: u16) {
    let (service, slice) = service_objects("default", name, port);
    api.post("/api/v1/namespaces/default/services", service).await.expect(201);
    api.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice).await.expect(201);
}

async fn call(api: &Server, config: Value) -> Result<Value, String> {
    api.api.config.webhooks.call(&config, &json!({ "a": 1 }), SECOND).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_service_is_reached_at_its_endpoint_and_told_the_timeout() {
    let (api, hook) = world().await;
    let answer = call(&api, hook.client_config("default", "hook", "/echo")).await;
    assert_eq!(answer, Ok(json!({ "echo": { "a": 1 } })));
    assert_eq!(hook.requests(), [("/echo?timeout=1s".to_owned(), json!({ "a": 1 }))]);
}

#[tokio::test]
async fn a_service_without_slices_is_reached_by_its_endpoints_object() {
    let (api, hook) = world().await;
    api.delete("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/hook-1", json!({})).await.expect(200);
    let config = hook.client_config("default", "hook", "/echo");
    let refused = call(&api, config.clone()).await.unwrap_err();
    assert_eq!(
        refused,
        r#"Post "https://hook.default.svc:8443/echo?timeout=1s": no endpoints available for service "hook""#
    );
    let ports = json!([{ "name": "https", "port": hook.port }]);
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints", "metadata": { "name": "hook" },
        "subsets": [{ "addresses": [{ "ip": "127.0.0.1" }], "ports": ports }],
    });
    api.post("/api/v1/namespaces/default/endpoints", endpoints).await.expect(201);
    assert!(call(&api, config).await.is_ok());
}

#[tokio::test]
async fn a_server_must_be_vouched_for_and_carry_the_services_name() {
    let (api, hook) = world().await;
    publish(&api, "other", hook.port).await;
    let other = call(&api, hook.client_config("default", "other", "/echo")).await.unwrap_err();
    assert_eq!(
        other,
        "Post \"https://other.default.svc:8443/echo?timeout=1s\": tls: failed to verify certificate: x509: \
         certificate is valid for hook.default.svc, not other.default.svc"
    );
    let mut config = hook.client_config("default", "hook", "/echo");
    config["caBundle"] = HttpsServer::start(NAME, |_, _| (200, Value::Null)).await.ca_bundle().into();
    let unknown = call(&api, config.clone()).await.unwrap_err();
    assert!(unknown.ends_with("x509: certificate signed by unknown authority"), "{unknown}");
    config["caBundle"] = "bm8gcGVt".into();
    let none = call(&api, config).await.unwrap_err();
    assert_eq!(none, "unable to load root certificates: no valid certificate authority data seen");
}

#[tokio::test]
async fn failures_say_what_happened() {
    let (api, hook) = world().await;
    let nobody = json!({ "url": "https://127.0.0.1:1/x?a=b", "caBundle": hook.ca_bundle() });
    let table = [
        (nobody, "Post \"https://127.0.0.1:1/x?a=b&timeout=1s\": dial tcp 127.0.0.1:1: connect: connection refused"),
        (
            hook.client_config("default", "hook", "/slow"),
            "Post \"https://hook.default.svc:8443/slow?timeout=1s\": context deadline exceeded",
        ),
        (
            hook.client_config("default", "missing", ""),
            "Post \"https://missing.default.svc:8443/?timeout=1s\": services \"missing\" not found",
        ),
        (hook.client_config("default", "hook", "/gone"), "the server could not find the requested resource"),
        (hook.client_config("default", "hook", "/status"), "go away"),
        (
            hook.client_config("default", "hook", "/broken"),
            "an error on the server (\"boom\") has prevented the request from succeeding",
        ),
        (
            hook.client_config("default", "hook", "/huge"),
            "Post \"https://hook.default.svc:8443/huge?timeout=1s\": length limit exceeded",
        ),
        (json!({}), "webhook configuration must have either service or URL"),
    ];
    for (config, expected) in table {
        assert_eq!(call(&api, config).await, Err(expected.to_owned()));
    }
    let text = call(&api, hook.client_config("default", "hook", "/text")).await.unwrap_err();
    assert!(text.starts_with("couldn't get version/kind; json parse error"), "{text}");
}

#[tokio::test]
async fn a_client_outlives_no_storage() {
    let storage = Server::start().await.api.config.storage.clone();
    let webhooks = Webhooks::new(&storage);
    let config = json!({ "url": "http://127.0.0.1:1/", "caBundle": "" });
    let error = webhooks.call(&config, &Value::Null, SECOND).await.unwrap_err();
    assert!(matches!(error, CallError::Failed { .. }), "{error:?}");
}
