//! A cluster in virtual time: the real API server over a store in memory, the real controllers, and a node that
//! runs every pod at once.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its part; a test may panic")]

use std::time::Duration;

use coracle_apiserver::rbac::AlwaysAllow;
use coracle_apiserver::{ApiServer, Storage, UserInfo, admission, bootstrap};
use coracle_controller_manager::{Config, VolumeDirectory};
use coracle_store::MemoryStore;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;

/// Runs a test in a simulated world.
pub fn simulate<T>(f: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let _world = coracle_clock::Simulation::start(1);
        f().await
    })
}

/// Volumes without a file system: remembers what was removed.
#[derive(Default)]
pub struct Removed(pub Mutex<Vec<std::path::PathBuf>>);

impl VolumeDirectory for Removed {
    fn remove(&self, path: &std::path::Path) -> std::io::Result<()> {
        self.0.lock().unwrap().push(path.into());
        Ok(())
    }
}

/// The cluster.
pub struct Cluster {
    pub client: Client,
    pub removed: Arc<Removed>,
    pub shutdown: CancellationToken,
    /// Cleared, the node falls silent.
    pub heartbeats: Arc<AtomicBool>,
    /// Told when the controllers have ended.
    pub ended: Arc<tokio::sync::Notify>,
}

impl Cluster {
    /// Starts it with the controllers of `--controllers`.
    pub async fn start(controllers: &[&str]) -> Self {
        let storage = Storage::start(MemoryStore::new(), coracle_api::registry::builtin()).await.unwrap();
        let first = bootstrap::BootstrapConfig {
            advertise_ip: "10.244.0.1".parse().unwrap(),
            advertise_port: 6443,
            service_cidr: "10.96.0.0/12".parse().unwrap(),
            client_ca_pem: None,
            request_headers: None,
        };
        bootstrap::ensure(&storage, &first).await.unwrap();
        let config = coracle_apiserver::Config {
            authorizers: vec![Box::new(AlwaysAllow)],
            admission: admission::plugins(&[], &[], &Default::default()).unwrap(),
            ..coracle_apiserver::Config::new(storage)
        };
        let api = ApiServer::new(config);
        let client = api.client_as(UserInfo::new("tester", &["system:masters"]));
        let (removed, shutdown) = (Arc::<Removed>::default(), CancellationToken::new());
        let config = Config {
            controllers: controllers.iter().map(|&name| name.to_owned()).collect(),
            cluster_ca: "the CA".into(),
            token_signer: Some(Arc::new(|claims| Ok(format!("token of {}", claims["sub"])))),
            volumes: removed.clone(),
            ..Config::default()
        };
        let controllers = coracle_controller_manager::run(client.clone(), config, shutdown.clone());
        let ended = Arc::<tokio::sync::Notify>::default();
        let tell = ended.clone();
        tokio::spawn(async move {
            controllers.await.unwrap();
            tell.notify_one();
        });
        let heartbeats = Arc::new(AtomicBool::new(true));
        tokio::spawn(run_node(client.clone(), heartbeats.clone()));
        Cluster { client, removed, shutdown, heartbeats, ended }
    }

    fn api(&self, kind: &str, api_version: &str, namespace: &str) -> Api<DynamicObject> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        if namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), namespace, &resource)
        }
    }

    /// Creates an object of any kind, in `default` unless it says otherwise.
    pub async fn create(&self, object: Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let namespace = match text(&object["metadata"]["namespace"]) {
            none if none.is_empty() => "default".to_owned(),
            other => other,
        };
        let cluster_scoped = [
            "ClusterRole",
            "Namespace",
            "Node",
            "PersistentVolume",
            "ServiceCIDR",
            "StorageClass",
            "ValidatingAdmissionPolicy",
            "VolumeAttributesClass",
        ];
        let kind = text(&object["kind"]);
        let namespace = if cluster_scoped.contains(&kind.as_str()) { String::new() } else { namespace };
        let api = self.api(&kind, &text(&object["apiVersion"]), &namespace);
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
    }

    /// An object as JSON; null when there is none.
    pub async fn get(&self, kind: &str, api_version: &str, namespace: &str, name: &str) -> Value {
        let object = self.api(kind, api_version, namespace).get_opt(name).await.unwrap();
        object.map_or(Value::Null, |object| serde_json::to_value(object).unwrap())
    }

    pub async fn list(&self, kind: &str, api_version: &str, namespace: &str) -> Vec<Value> {
        let all = self.api(kind, api_version, namespace).list(&ListParams::default()).await.unwrap();
        all.items.into_iter().map(|object| serde_json::to_value(object).unwrap()).collect()
    }

    pub async fn merge(&self, kind: &str, api_version: &str, namespace: &str, name: &str, patch: Value) {
        let api = self.api(kind, api_version, namespace);
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    pub async fn delete(&self, kind: &str, api_version: &str, namespace: &str, name: &str, params: DeleteParams) {
        self.api(kind, api_version, namespace).delete(name, &params).await.unwrap();
    }

    /// Waits, for two virtual minutes at most, until the condition holds.
    #[track_caller]
    pub fn until<F: AsyncFn() -> bool>(&self, what: &str, condition: F) -> impl Future<Output = ()> {
        let what = what.to_owned();
        let at = std::panic::Location::caller();
        async move {
            for _ in 0..600 {
                if condition().await {
                    return;
                }
                coracle_clock::sleep(Duration::from_millis(200)).await;
            }
            panic!("{at}: {what} did not come to pass");
        }
    }

    /// `reason: message` of all events about an object, in order.
    pub async fn events(&self, kind: &str, name: &str) -> Vec<String> {
        let mut events = self.list("Event", "v1", "default").await;
        events.retain(|e| e["involvedObject"]["kind"] == kind && e["involvedObject"]["name"] == name);
        events.sort_by_key(|event| event["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap());
        let text =
            |event: &Value| format!("{}: {}", event["reason"].as_str().unwrap(), event["message"].as_str().unwrap());
        events.iter().map(text).collect()
    }
}

/// Runs every pod at once: on node `n1`, with an address, ready. A container of image `task` succeeds, one of image
/// `broken` fails. What is deleted is gone soon.
async fn run_node(client: Client, heartbeats: Arc<AtomicBool>) {
    let nodes: Api<Node> = Api::all(client.clone());
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1" } });
    nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    let mut addresses = 0;
    for round in 0.. {
        if round % 100 == 0 && heartbeats.load(Ordering::Relaxed) {
            let now = coracle_clock::now_seconds().to_string();
            let ready =
                json!({ "type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now });
            let status = Patch::Merge(json!({ "status": { "conditions": [ready] } }));
            nodes.patch_status("n1", &PatchParams::default(), &status).await.unwrap();
        }
        coracle_clock::sleep(Duration::from_millis(100)).await;
        let Ok(pods) = Api::<Pod>::all(client.clone()).list(&ListParams::default()).await else { continue };
        for pod in pods {
            let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap());
            let name = pod.name_any();
            if pod.metadata.deletion_timestamp.is_some() {
                let gone = DeleteParams::default().grace_period(0);
                let _ = api.delete(&name, &gone).await;
                continue;
            }
            let spec = pod.spec.unwrap();
            if spec.node_name.as_deref().unwrap_or_default().is_empty() {
                let binding = json!({ "apiVersion": "v1", "kind": "Binding", "metadata": { "name": name },
                                      "target": { "apiVersion": "v1", "kind": "Node", "name": "n1" } });
                let _: Result<Value, _> =
                    api.create_subresource("binding", &name, &PostParams::default(), &binding).await;
            }
            let image = spec.containers[0].image.clone().unwrap_or_default();
            let wanted = match image.as_str() {
                "task" => "Succeeded",
                "broken" => "Failed",
                _ => "Running",
            };
            if pod.status.and_then(|status| status.phase).as_deref() == Some(wanted) {
                continue;
            }
            addresses += 1;
            let ip = format!("10.244.1.{addresses}");
            let ready = if wanted == "Running" { "True" } else { "False" };
            let now = coracle_clock::now_seconds().to_string();
            let status = json!({ "status": {
                "phase": wanted, "podIP": ip, "podIPs": [{ "ip": ip }], "startTime": now,
                "conditions": [{ "type": "Ready", "status": ready, "lastTransitionTime": now }],
            }});
            let _ = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await;
        }
    }
}
