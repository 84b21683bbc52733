//! A kubelet on a Docker Engine, through the real API server, in real time. Skipped where Docker or the images built
//! by `coracle images build` are missing.
#![allow(clippy::unwrap_used)] // a test may; clippy does not see that its helpers belong to it

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coracle_apiserver::bootstrap::BootstrapConfig;
use coracle_apiserver::hooks::UserInfo;
use coracle_apiserver::rbac::{NodeAuthorizer, Privileged};
use coracle_apiserver::server::{ApiServer, Config as ServerConfig};
use coracle_apiserver::storage::Storage;
use coracle_kubelet::runtime::docker::{DockerConfig, DockerRuntime, NetworkConfig};
use coracle_kubelet::runtime::{LogOptions, Runtime};
use coracle_kubelet::server::PodLookup;
use coracle_kubelet::{Config, Kubelet, Lookup};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{from_value, json};
use tokio_util::sync::CancellationToken;

const BUSYBOX: &str = "busybox:1.37";
const ECHO: &str = "coracle/echo:1.0";
const PAUSE: &str = "coracle/pause:3.10";

/// A runtime with a network of its own; `None` where there is no Docker or an image is missing.
async fn runtime() -> Option<Arc<DockerRuntime>> {
    let cluster = format!("test-kubelet-{}", coracle_clock::name_suffix(5));
    let config = DockerConfig::new(&cluster, "n", &cluster, PAUSE);
    let runtime = DockerRuntime::new(config).ok()?;
    for image in [BUSYBOX, ECHO, PAUSE] {
        if !matches!(runtime.image_status(image).await, Ok(Some(_))) {
            eprintln!("skipped: no Docker, or no image {image}");
            return None;
        }
    }
    let network = NetworkConfig {
        name: cluster,
        subnet: "10.203.77.0/24".into(),
        docker_range: "10.203.77.240/28".into(),
        gateway: "10.203.77.1".into(),
        interface: format!("ck{}", coracle_clock::name_suffix(8)),
    };
    runtime.ensure_network(&network).await.unwrap();
    Some(Arc::new(runtime))
}

async fn api_server() -> Arc<ApiServer> {
    let storage = Storage::start(coracle_store::MemoryStore::new(), coracle_api::registry::builtin()).await.unwrap();
    let first = BootstrapConfig {
        advertise_ip: "10.203.77.1".parse().unwrap(),
        advertise_port: 6443,
        service_cidr: "10.96.0.0/12".parse().unwrap(),
        client_ca_pem: None,
        request_headers: None,
    };
    coracle_apiserver::bootstrap::ensure(&storage, &first).await.unwrap();
    let mut config = ServerConfig::new(storage.clone());
    config.authorizers = vec![Box::new(Privileged), Box::new(NodeAuthorizer::new(storage))];
    ApiServer::new(config)
}

fn start_kubelet(
    server: &Arc<ApiServer>,
    runtime: &Arc<DockerRuntime>,
    data: &Path,
) -> (CancellationToken, Arc<Lookup>) {
    let client = server.client_as(UserInfo::new("system:node:n", &["system:nodes"]));
    let config = Config::new("n", "10.203.77.1".parse().unwrap(), "10.203.77.0/25", data);
    let kubelet = Kubelet::new(client, runtime.clone(), config).unwrap();
    let (shutdown, lookup) = (CancellationToken::new(), kubelet.lookup());
    tokio::spawn(kubelet.run(shutdown.clone()));
    (shutdown, lookup)
}

async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..300 {
        if holds().await {
            return;
        }
        coracle_clock::sleep(Duration::from_millis(100)).await;
    }
    panic!("never: {what}");
}

async fn log(runtime: &DockerRuntime, lookup: &Lookup, container: &str) -> String {
    let Ok(id) = lookup.log_container("default", "web", container, false).await else { return String::new() };
    let chunks = runtime.logs(&id, &LogOptions::default()).await.unwrap();
    let chunks: Vec<_> = chunks.try_collect().await.unwrap();
    chunks.iter().map(|chunk| String::from_utf8_lossy(&chunk.data).into_owned()).collect()
}

fn pod() -> Pod {
    let show = "echo NAME=$NAME IP=$IP PASSWORD=$PASSWORD INIT=$(cat /shared/init) KEY=$(cat /config/key) \
                LABELS=$(cat /about/labels) HOST=$(hostname) HOSTS=$(grep -c $IP /etc/hosts) DNS=$(grep -c 10.96.0.10 /etc/resolv.conf); \
                trap 'echo bye >/dev/termination-log; exit 7' TERM; while :; do sleep 1; done";
    from_value(json!({
        "metadata": { "name": "web", "namespace": "default", "labels": { "app": "web" } },
        "spec": {
            "nodeName": "n",
            "volumes": [
                { "name": "shared", "emptyDir": {} },
                { "name": "config", "configMap": { "name": "settings" } },
                { "name": "about", "downwardAPI": { "items": [{ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } }] } },
            ],
            "initContainers": [{
                "name": "init", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", "echo done > /shared/init"],
                "volumeMounts": [{ "name": "shared", "mountPath": "/shared" }],
            }],
            "containers": [
                {
                    "name": "shell", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", show],
                    "env": [
                        { "name": "NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
                        { "name": "IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
                        { "name": "PASSWORD", "valueFrom": { "secretKeyRef": { "name": "secret", "key": "password" } } },
                    ],
                    "resources": { "requests": { "cpu": "50m" }, "limits": { "memory": "64Mi" } },
                    "volumeMounts": [
                        { "name": "shared", "mountPath": "/shared" }, { "name": "config", "mountPath": "/config" },
                        { "name": "about", "mountPath": "/about" },
                    ],
                },
                {
                    "name": "echo", "image": ECHO, "imagePullPolicy": "Never", "ports": [{ "name": "http", "containerPort": 8080 }],
                    "readinessProbe": { "httpGet": { "port": "http" }, "periodSeconds": 1 },
                },
            ],
        },
    }))
    .unwrap()
}

#[tokio::test]
async fn a_pod_lives_its_life_in_docker() {
    let Some(runtime) = runtime().await else { return };
    let data = tempfile::tempdir().unwrap();
    let server = api_server().await;
    let admin = server.client_as(UserInfo::new("kubernetes-admin", &["system:masters"]));
    let (kubelet, lookup) = start_kubelet(&server, &runtime, data.path());
    let pods: Api<Pod> = Api::namespaced(admin.clone(), "default");
    let maps: Api<ConfigMap> = Api::namespaced(admin.clone(), "default");
    let secrets: Api<Secret> = Api::namespaced(admin.clone(), "default");
    let now = PostParams::default();
    let map = from_value(json!({ "metadata": { "name": "settings" }, "data": { "key": "old" } })).unwrap();
    maps.create(&now, &map).await.unwrap();
    let secret = from_value(json!({ "metadata": { "name": "secret" }, "data": { "password": "aHVzaA==" } })).unwrap();
    secrets.create(&now, &secret).await.unwrap();

    let begin = coracle_clock::instant();
    let uid = pods.create(&now, &pod()).await.unwrap().metadata.uid.unwrap();
    let ready = async || {
        let status = pods.get("web").await.unwrap().status.unwrap_or_default();
        status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    wait_until("the pod is ready", ready).await;
    eprintln!("ready after {:?}", begin.elapsed());
    let ip = pods.get("web").await.unwrap().status.unwrap().pod_ip.unwrap();
    let expected =
        format!("NAME=web IP={ip} PASSWORD=hush INIT=done KEY=old LABELS=app=\"web\" HOST=web HOSTS=1 DNS=1\n");
    wait_until("the log is written", async || !log(&runtime, &lookup, "shell").await.is_empty()).await;
    assert_eq!(log(&runtime, &lookup, "shell").await, expected);

    // A changed ConfigMap shows in the running container.
    maps.patch("settings", &PatchParams::default(), &Patch::Merge(json!({ "data": { "key": "new" } }))).await.unwrap();
    let shell = lookup.running_container("default", "web", "shell").await.unwrap();
    let read = ["cat".to_owned(), "/config/key".to_owned()];
    wait_until("the file has changed", async || runtime.exec_sync(&shell, &read, None).await.unwrap().stdout == b"new")
        .await;

    // A killed container is started again; its last words and exit code show.
    runtime.stop_container(&shell, Duration::from_secs(10)).await.unwrap();
    let restarts = async || {
        let status = pods.get("web").await.unwrap().status.unwrap().container_statuses.unwrap();
        status.into_iter().find(|c| c.name == "shell").unwrap()
    };
    wait_until("it is restarted", async || restarts().await.restart_count == 1 && ready().await).await;
    let last = restarts().await.last_state.unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.message.as_deref()), (7, Some("bye\n")));

    // Another kubelet adopts what runs.
    kubelet.cancel();
    let before = restarts().await.container_id;
    let (kubelet, _) = start_kubelet(&server, &runtime, data.path());
    coracle_clock::sleep(Duration::from_secs(2)).await;
    assert_eq!(restarts().await.container_id, before);

    pods.delete("web", &DeleteParams::default()).await.unwrap();
    wait_until("it is gone", async || pods.get_opt("web").await.unwrap().is_none()).await;
    wait_until("its files are gone", async || !data.path().join("pods").join(&uid).exists()).await;
    assert!(runtime.list_containers(&Default::default()).await.unwrap().is_empty());
    assert!(runtime.list_sandboxes(&Default::default()).await.unwrap().is_empty());
    kubelet.cancel();
    runtime.remove_cluster().await.unwrap();
}
