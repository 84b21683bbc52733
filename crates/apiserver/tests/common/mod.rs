//! What the tests share: an API server over a store in memory, in virtual time, and requests to it.
#![allow(dead_code, missing_docs, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

pub mod custom;
pub mod https;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_apiserver::admission::plugins;
use coracle_apiserver::rbac::AlwaysAllow;
use coracle_apiserver::{ApiServer, Body, Config, Storage, UserInfo};
use coracle_store::{MemoryStore, SharedStore};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::{Service, ServiceExt};

pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
pub const APPLY: &str = "application/apply-patch+yaml";
pub const MERGE: &str = "application/merge-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub const JSON_PATCH: &str = "application/json-patch+json";

/// Runs a test in a simulated world.
pub fn simulate<T>(f: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let _world = coracle_clock::Simulation::start(1);
        f().await
    })
}

/// Runs a test in a simulated world with a server.
pub fn served<T>(f: impl AsyncFnOnce(Server) -> T) -> T {
    simulate(async || f(Server::start().await).await)
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error}: {:?}", self.bytes))
    }

    /// The JSON of an answer with that code.
    #[track_caller]
    pub fn expect(&self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", String::from_utf8_lossy(&self.bytes));
        self.json()
    }
}

/// An API server that lets everybody do everything.
pub struct Server {
    pub api: Arc<ApiServer>,
    pub store: SharedStore,
}

impl Server {
    pub async fn start() -> Self {
        Self::over(MemoryStore::new()).await
    }

    pub async fn over(store: SharedStore) -> Self {
        Self::with(store, |_| ()).await
    }

    /// A server whose parts are not all the usual ones.
    pub async fn with(store: SharedStore, change: impl FnOnce(&mut Config)) -> Self {
        let storage = Storage::start(store.clone(), coracle_api::registry::builtin()).await.unwrap();
        let mut config = Config { authorizers: vec![Box::new(AlwaysAllow)], ..Config::new(storage) };
        change(&mut config);
        Server { api: ApiServer::new(config), store }
    }

    /// A server with the default plugins but those that ask for other objects, and the namespace `default` of team `a`.
    pub async fn admitting(change: impl FnOnce(&mut Config)) -> Self {
        let off = ["ServiceAccount", "NamespaceLifecycle"].map(str::to_owned);
        let server = Self::with(MemoryStore::new(), |config| {
            config.admission = plugins(&[], &off, &Default::default()).unwrap();
            change(config);
        });
        let server = server.await;
        let namespace = json!({ "metadata": { "name": "default", "labels": { "team": "a" } } });
        server.post("/api/v1/namespaces", namespace).await.expect(201);
        server
    }

    pub fn client(&self) -> kube::Client {
        self.api.client_as(UserInfo::new("tester", &["system:masters"]))
    }

    /// Sends a request with headers; the response's body is still to be read.
    pub async fn open(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> http::Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
        let mut service = self.api.service_as(UserInfo::new("tester", &[]));
        ServiceExt::<Request<Full<Bytes>>>::ready(&mut service).await.unwrap().call(request).await.unwrap()
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let (parts, body) = self.open(method, path, headers, body).await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer { code: parts.status.as_u16(), headers: parts.headers, bytes }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"").await
    }

    pub async fn table(&self, path: &str) -> Value {
        self.send("GET", path, &[("accept", TABLE)], b"").await.expect(200)
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string().as_bytes()).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, &[("content-type", "application/json")], body.to_string().as_bytes()).await
    }

    pub async fn patch(&self, path: &str, kind: &str, body: Value) -> Answer {
        self.send("PATCH", path, &[("content-type", kind)], body.to_string().as_bytes()).await
    }

    pub async fn delete(&self, path: &str, options: Value) -> Answer {
        self.send("DELETE", path, &[("content-type", "application/json")], options.to_string().as_bytes()).await
    }

    /// Opens a watch; query and all in `path`.
    pub async fn watch(&self, path: &str) -> Watch {
        self.watch_as(path, "application/json").await
    }

    pub async fn watch_as(&self, path: &str, accept: &str) -> Watch {
        let response = self.open("GET", path, &[("accept", accept)], b"").await;
        assert_eq!(response.status(), 200);
        Watch { body: response.into_body(), lines: Vec::new() }
    }
}

/// A watch that is being read.
pub struct Watch {
    body: Body,
    lines: Vec<Value>,
}

impl Watch {
    /// The next event; `None` at the end of the stream, or when nothing comes for ten seconds of virtual time.
    pub async fn next(&mut self) -> Option<Value> {
        self.within(Duration::from_secs(10)).await
    }

    pub async fn within(&mut self, time: Duration) -> Option<Value> {
        if self.lines.is_empty() {
            let frame = tokio::time::timeout(time, self.body.frame()).await.ok()??;
            let data = frame.unwrap().into_data().unwrap();
            self.lines = data
                .split(|b| *b == b'\n')
                .filter(|line| !line.is_empty())
                .map(|line| serde_json::from_slice(line).unwrap())
                .collect();
        }
        Some(self.lines.remove(0))
    }

    /// The next event as `TYPE name`.
    pub async fn brief(&mut self) -> Option<String> {
        let event = self.next().await?;
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        Some(format!("{} {name}", event["type"].as_str().unwrap()))
    }
}

pub fn config_map(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "a": "1" } })
}

pub fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": { "containers": [{ "name": "c", "image": "busybox" }] },
    })
}

pub fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "containers": [{ "name": "c", "image": "nginx" }, { "name": "d", "image": "envoy" }] },
            },
        },
    })
}
