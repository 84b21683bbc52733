//! What the requests cost that a pod's life is made of, without network and disk:
//! `cargo bench -p coracle-apiserver --bench requests`.

use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;
use coracle_apiserver::assembly::assemble;
use coracle_apiserver::auth::jwt::TokenKey;
use coracle_apiserver::security::SecurityConfig;
use coracle_apiserver::{ApiServer, UserInfo};
use coracle_store::MemoryStore;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::ServiceExt;

/// As the binary has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Each is done for so many pods.
const PODS: usize = 20_000;
const PODS_PATH: &str = "/api/v1/namespaces/default/pods";

/// Sends one request; a refusal is an error.
async fn send(server: &Arc<ApiServer>, method: &str, path: &str, kind: &str, body: &Value) -> Outcome<Bytes> {
    let request = Request::builder().method(method).uri(path).header("content-type", kind);
    let request = request.header("user-agent", "bench").body(Full::new(Bytes::from(serde_json::to_vec(body)?)))?;
    let response = server.service_as(UserInfo::new("admin", &["system:masters"])).oneshot(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if status.is_success() { Ok(body) } else { Err(String::from_utf8_lossy(&body).into_owned().into()) }
}

/// Does the same for every pod, one after the other, and says what one took.
async fn each<F: Future<Output = Outcome<Bytes>>>(what: &str, work: impl Fn(String) -> F) -> Outcome {
    let begin = coracle_clock::instant();
    for number in 0..PODS {
        work(format!("web-{number}")).await?;
    }
    println!("{what}: {:.1} µs", begin.elapsed().as_secs_f64() * 1e6 / PODS as f64);
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    if !std::env::args().any(|argument| argument == "--bench") {
        // Run as a test, it has nothing to measure.
        return Ok(());
    }
    let security = SecurityConfig::new(TokenKey::generate()?, "10.96.0.0/12".parse()?);
    let server = &assemble(MemoryStore::new(), security, (Ipv4Addr::new(10, 244, 0, 1), 6443), None).await?;
    let json = "application/json";
    send(server, "POST", "/api/v1/nodes", json, &json!({ "metadata": { "name": "node-1" } })).await?;
    let account = json!({ "metadata": { "name": "default" } });
    send(server, "POST", "/api/v1/namespaces/default/serviceaccounts", json, &account).await?;

    each("create a pod", async |name| {
        let owner = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7c5ddbdf54",
            "uid": "0e8d7a2e-5f2c-4a5e-9c50-4d6b1c7d2a11", "controller": true, "blockOwnerDeletion": true,
        });
        let container = json!({
            "name": "main", "image": "web:1", "ports": [{ "containerPort": 80 }],
            "resources": { "requests": { "cpu": "10m", "memory": "16Mi" } },
        });
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "labels": { "app": "web" }, "ownerReferences": [owner] },
            "spec": { "containers": [container] },
        });
        send(server, "POST", PODS_PATH, json, &pod).await
    })
    .await?;
    each("bind a pod", async |name| {
        let target = json!({ "apiVersion": "v1", "kind": "Node", "name": "node-1" });
        let binding = json!({ "metadata": { "name": name }, "target": target });
        send(server, "POST", &format!("{PODS_PATH}/{name}/binding"), json, &binding).await
    })
    .await?;
    each("create an event", async |name| {
        let object = json!({ "apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": name });
        let event = json!({
            "metadata": { "name": format!("{name}.17e3b2"), "namespace": "default" }, "involvedObject": object,
            "reason": "Scheduled", "message": format!("Successfully assigned default/{name} to node-1"),
            "type": "Normal", "count": 1, "source": { "component": "default-scheduler" },
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z",
        });
        send(server, "POST", "/api/v1/namespaces/default/events", json, &event).await
    })
    .await?;
    each("patch a pod's status", async |name| {
        let at = "2026-01-01T00:00:00Z";
        let condition = |kind: &str| json!({ "type": kind, "status": "True", "lastTransitionTime": at });
        let kinds = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
        let status = json!({
            "phase": "Running", "hostIP": "10.0.0.1", "podIP": "10.244.1.7", "podIPs": [{ "ip": "10.244.1.7" }],
            "startTime": at, "conditions": kinds.map(condition),
            "containerStatuses": [{
                "name": "main", "image": "web:1", "imageID": "web:1", "containerID": format!("containerd://{name}"),
                "ready": true, "started": true, "restartCount": 0, "state": { "running": { "startedAt": at } },
            }],
        });
        let kind = "application/strategic-merge-patch+json";
        send(server, "PATCH", &format!("{PODS_PATH}/{name}/status"), kind, &json!({ "status": status })).await
    })
    .await?;
    each("get a pod", async |name| send(server, "GET", &format!("{PODS_PATH}/{name}"), json, &Value::Null).await)
        .await?;
    each("delete a pod", async |name| {
        let now = json!({ "gracePeriodSeconds": 0 });
        send(server, "DELETE", &format!("{PODS_PATH}/{name}"), json, &now).await
    })
    .await
}
