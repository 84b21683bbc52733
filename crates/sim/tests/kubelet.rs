//! A kubelet on simulated containers, through the real API server, in virtual time.

#![allow(clippy::unwrap_used)] // a test may; clippy does not see that its helpers belong to it

use std::sync::Arc;
use std::time::Duration;

use coracle_apiserver::bootstrap::BootstrapConfig;
use coracle_apiserver::hooks::UserInfo;
use coracle_apiserver::rbac::{NodeAuthorizer, Privileged};
use coracle_apiserver::server::{ApiServer, Config as ServerConfig};
use coracle_apiserver::storage::Storage;
use coracle_kubelet::runtime::simulated::{Behaviour, Rule, SimulatedConfig, SimulatedRuntime};
use coracle_kubelet::runtime::{ContainerFilter, Runtime};
use coracle_kubelet::{Config, Kubelet};
use k8s_openapi::api::core::v1::{ConfigMap, ContainerStatus, Event, Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, from_value, json};
use tokio_util::sync::CancellationToken;

/// One node, its kubelet, and an administrator.
struct Cluster {
    server: Arc<ApiServer>,
    runtime: SimulatedRuntime,
    admin: kube::Client,
    kubelet: CancellationToken,
}

impl Cluster {
    async fn start(simulated: SimulatedConfig) -> Cluster {
        let storage =
            Storage::start(coracle_store::MemoryStore::new(), coracle_api::registry::builtin()).await.unwrap();
        let first = BootstrapConfig {
            advertise_ip: "10.244.0.1".parse().unwrap(),
            advertise_port: 6443,
            service_cidr: "10.96.0.0/12".parse().unwrap(),
            client_ca_pem: None,
            request_headers: None,
        };
        coracle_apiserver::bootstrap::ensure(&storage, &first).await.unwrap();
        let mut config = ServerConfig::new(storage.clone());
        config.authorizers = vec![Box::new(Privileged), Box::new(NodeAuthorizer::new(storage))];
        let server = ApiServer::new(config);
        let admin = server.client_as(UserInfo::new("kubernetes-admin", &["system:masters"]));
        let runtime = SimulatedRuntime::new(simulated);
        let mut cluster = Cluster { server, runtime, admin, kubelet: CancellationToken::new() };
        cluster.start_kubelet();
        cluster
    }

    fn start_kubelet(&mut self) {
        let client = self.server.client_as(UserInfo::new("system:node:n", &["system:nodes"]));
        let config =
            Config { on_disk: false, ..Config::new("n", "10.244.1.1".parse().unwrap(), "10.244.1.0/24", "/simulated") };
        let (runtime, prober) = (Arc::new(self.runtime.clone()), Arc::new(self.runtime.clone()));
        let kubelet = Kubelet::with_prober(client, runtime, prober, config).unwrap();
        self.kubelet = CancellationToken::new();
        tokio::spawn(kubelet.run(self.kubelet.clone()));
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.admin.clone(), "default")
    }

    async fn create(&self, name: &str, spec: Value) -> Pod {
        let mut spec = spec;
        spec["nodeName"] = json!("n");
        let pod = json!({ "metadata": { "name": name, "namespace": "default" }, "spec": spec });
        self.pods().create(&PostParams::default(), &from_value(pod).unwrap()).await.unwrap()
    }

    async fn get(&self, name: &str) -> Pod {
        self.pods().get(name).await.unwrap()
    }

    async fn phase(&self, name: &str) -> String {
        self.get(name).await.status.unwrap().phase.unwrap()
    }

    async fn container(&self, name: &str) -> ContainerStatus {
        self.get(name).await.status.unwrap().container_statuses.unwrap().remove(0)
    }

    async fn is_ready(&self, name: &str) -> bool {
        let status = self.get(name).await.status.unwrap();
        status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
    }

    /// The messages of a pod's events in the order of their first occurrence.
    async fn messages(&self, pod: &str) -> Vec<String> {
        let events: Api<Event> = Api::namespaced(self.admin.clone(), "default");
        let mut events = events.list(&ListParams::default()).await.unwrap().items;
        events.retain(|event| event.involved_object.name.as_deref() == Some(pod));
        // In the order in which they were written.
        events.sort_by_key(|event| event.metadata.resource_version.as_ref().unwrap().parse::<u64>().unwrap());
        events.into_iter().filter_map(|event| event.message).collect()
    }

    async fn node_ready(&self) -> String {
        let node = Api::<Node>::all(self.admin.clone()).get("n").await.unwrap();
        let conditions = node.status.unwrap().conditions.unwrap();
        conditions.into_iter().find(|c| c.type_ == "Ready").unwrap().status
    }
}

async fn pass(seconds: u64) {
    coracle_clock::sleep(Duration::from_secs(seconds)).await;
}

fn simulate(scenario: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let _world = coracle_clock::Simulation::start(1);
        scenario().await;
    });
}

fn waiting(status: &ContainerStatus) -> String {
    status.state.clone().unwrap().waiting.and_then(|waiting| waiting.reason).unwrap_or_default()
}

fn one(image: &str, command: &[&str]) -> Value {
    json!({ "containers": [{ "name": "a", "image": image, "command": command }] })
}

#[test]
fn a_node_registers_and_its_pod_runs() {
    simulate(async || {
        let cluster = Cluster::start(SimulatedConfig::default()).await;
        pass(1).await;
        assert_eq!(cluster.node_ready().await, "True");
        cluster.create("p", one("busybox:1", &[])).await;
        pass(5).await;
        let pod = cluster.get("p").await;
        let status = pod.status.unwrap();
        assert_eq!(status.phase.as_deref(), Some("Running"));
        assert_eq!(status.pod_ip.as_deref(), Some("10.244.1.2"));
        assert!(cluster.is_ready("p").await);
        let expected =
            ["Pulling image \"busybox:1\"", "Successfully pulled image", "Container created", "Container started"];
        let messages = cluster.messages("p").await;
        assert_eq!(messages.len(), expected.len(), "{messages:?}");
        assert!(messages.iter().zip(expected).all(|(message, start)| message.starts_with(start)), "{messages:?}");
    });
}

#[test]
fn a_crashed_container_is_restarted_with_exponential_backoff() {
    simulate(async || {
        let cluster = Cluster::start(SimulatedConfig::default()).await;
        cluster.create("p", one("busybox:1", &["sh", "-c", "sleep 1; exit 3"])).await;
        // Runs of about a second; waits of 0, 10, 20, 40, 80 s between them.
        for (after, restarts) in [(8, 1), (13, 2), (22, 3), (42, 4)] {
            pass(after).await;
            let container = cluster.container("p").await;
            assert_eq!(container.restart_count, restarts);
            assert_eq!(waiting(&container), "CrashLoopBackOff");
            assert_eq!(container.last_state.unwrap().terminated.unwrap().exit_code, 3);
        }
        assert_eq!(cluster.phase("p").await, "Running");
        let messages = cluster.messages("p").await;
        assert!(messages.iter().any(|m| m.starts_with("Back-off restarting failed container a in pod p_default(")));
    });
}

#[test]
fn a_pod_that_has_done_its_work_succeeds_or_fails() {
    simulate(async || {
        let cluster = Cluster::start(SimulatedConfig::default()).await;
        for (name, command, policy) in [("good", "true", "OnFailure"), ("bad", "false", "Never")] {
            let mut spec = one("busybox:1", &[command]);
            spec["restartPolicy"] = json!(policy);
            cluster.create(name, spec).await;
        }
        pass(10).await;
        assert_eq!(cluster.phase("good").await, "Succeeded");
        assert_eq!(cluster.phase("bad").await, "Failed");
        let reason = cluster.container("good").await.state.unwrap().terminated.unwrap().reason;
        assert_eq!(reason.as_deref(), Some("Completed"));
    });
}

#[test]
fn init_containers_run_first_and_sidecars_beside() {
    simulate(async || {
        let cluster = Cluster::start(SimulatedConfig::default()).await;
        let spec = json!({
            "restartPolicy": "Never",
            "initContainers": [
                { "name": "s", "image": "busybox:1", "restartPolicy": "Always" },
                { "name": "i", "image": "busybox:1", "command": ["sleep", "5"] },
            ],
            "containers": [{ "name": "a", "image": "busybox:1", "command": ["sleep", "10"] }],
        });
        cluster.create("p", spec).await;
        pass(5).await;
        assert_eq!(cluster.phase("p").await, "Pending");
        assert_eq!(waiting(&cluster.container("p").await), "PodInitializing");
        pass(5).await;
        assert_eq!(cluster.phase("p").await, "Running");
        assert!(cluster.is_ready("p").await);
        pass(15).await;
        assert_eq!(cluster.phase("p").await, "Succeeded", "the sidecar does not keep it alive");
    });
}

#[test]
fn an_image_that_is_nowhere_is_tried_again_and_again() {
    simulate(async || {
        let missing_images = vec!["nowhere".to_owned()];
        let cluster = Cluster::start(SimulatedConfig { missing_images, ..SimulatedConfig::default() }).await;
        cluster.create("p", one("nowhere/x:1", &[])).await;
        pass(5).await;
        assert_eq!(waiting(&cluster.container("p").await), "ImagePullBackOff");
        assert_eq!(cluster.phase("p").await, "Pending");
        let messages = cluster.messages("p").await;
        for start in [
            "Pulling image",
            "Failed to pull image",
            "Error: ErrImagePull",
            "Back-off pulling image",
            "Error: ImagePullBackOff",
        ] {
            assert!(messages.iter().any(|m| m.starts_with(start)), "{start} in {messages:?}");
        }
        cluster
            .pods()
            .patch(
                "p",
                &PatchParams::default(),
                &Patch::Merge(json!({ "spec": { "containers": [{ "name": "a", "image": "busybox:1" }] } })),
            )
            .await
            .unwrap();
        pass(5).await;
        assert_eq!(cluster.phase("p").await, "Running", "a better image is tried at once");
    });
}

#[test]
fn a_pod_waits_for_the_config_map_that_it_needs() {
    simulate(async || {
        let cluster = Cluster::start(SimulatedConfig::default()).await;
        let mut spec = one("busybox:1", &[]);
        spec["volumes"] = json!([{ "name": "v", "configMap": { "name": "cm" } }]);
        cluster.create("p", spec).await;
        pass(5).await;
        assert_eq!(waiting(&cluster.container("p").await), "ContainerCreating");
        let message = "MountVolume.SetUp failed for volume \"v\" : configmap \"cm\" not found";
        assert!(cluster.messages("p").await.contains(&message.to_owned()));
        let maps: Api<ConfigMap> = Api::namespaced(cluster.admin.clone(), "default");
        let map = from_value(json!({ "metadata": { "name": "cm" } })).unwrap();
        maps.create(&PostParams::default(), &map).await.unwrap();
        pass(3).await;
        assert_eq!(cluster.phase("p").await, "Running");
    });
}

#[test]
fn a_deleted_pod_is_given_its_grace_and_then_goes() {
    simulate(async || {
        let stubborn = Behaviour { stop_delay: Duration::from_secs(3600), ..Behaviour::default() };
        let rules = vec![Rule { image: "stubborn".into(), behaviour: stubborn, ..Default::default() }];
        let cluster = Cluster::start(SimulatedConfig { rules, ..SimulatedConfig::default() }).await;
        cluster.create("quick", one("busybox:1", &[])).await;
        cluster.create("slow", one("stubborn:1", &[])).await;
        pass(5).await;
        for name in ["quick", "slow"] {
            cluster.pods().delete(name, &DeleteParams::default()).await.unwrap();
        }
        pass(2).await;
        assert!(cluster.pods().get_opt("quick").await.unwrap().is_none());
        pass(20).await;
        assert!(cluster.pods().get_opt("slow").await.unwrap().is_some(), "it has 30 seconds");
        pass(10).await;
        assert!(cluster.pods().get_opt("slow").await.unwrap().is_none());
        assert!(cluster.runtime.list_containers(&ContainerFilter::default()).await.unwrap().is_empty());
        assert!(cluster.messages("slow").await.contains(&"Stopping container a".to_owned()));
    });
}

#[test]
fn a_pre_stop_hook_delays_the_stop_within_the_grace_period() {
    simulate(async || {
        let cluster = Cluster::start(SimulatedConfig::default()).await;
        for (name, seconds) in [("short", 5), ("long", 60)] {
            let hook = json!({ "preStop": { "sleep": { "seconds": seconds } } });
            let container = json!({ "name": "a", "image": "busybox:1", "lifecycle": hook });
            cluster.create(name, json!({ "containers": [container], "terminationGracePeriodSeconds": 100 })).await;
        }
        pass(5).await;
        for name in ["short", "long"] {
            cluster.pods().delete(name, &DeleteParams::default().grace_period(10)).await.unwrap();
        }
        pass(4).await;
        assert!(cluster.pods().get_opt("short").await.unwrap().is_some());
        pass(2).await;
        assert!(cluster.pods().get_opt("short").await.unwrap().is_none());
        assert!(cluster.pods().get_opt("long").await.unwrap().is_some());
        pass(6).await;
        assert!(cluster.pods().get_opt("long").await.unwrap().is_none(), "the hook is cut off");
    });
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    simulate(async || {
        let cluster = Cluster::start(SimulatedConfig::default()).await;
        let spec = json!({
            "restartPolicy": "Never",
            "initContainers": [{ "name": "i", "image": "busybox:1", "command": ["false"] }],
            "containers": [{ "name": "a", "image": "busybox:1" }],
        });
        cluster.create("p", spec).await;
        pass(10).await;
        assert_eq!(cluster.phase("p").await, "Failed");
        assert!(cluster.container("p").await.state.unwrap().running.is_none());
    });
}

#[test]
fn a_second_deletion_may_cut_the_grace_short() {
    simulate(async || {
        let stubborn = Behaviour { stop_delay: Duration::from_secs(3600), ..Behaviour::default() };
        let rules = vec![Rule { image: "stubborn".into(), behaviour: stubborn, ..Default::default() }];
        let cluster = Cluster::start(SimulatedConfig { rules, ..SimulatedConfig::default() }).await;
        cluster.create("p", one("stubborn:1", &[])).await;
        pass(5).await;
        cluster.pods().delete("p", &DeleteParams::default()).await.unwrap();
        pass(5).await;
        cluster.pods().delete("p", &DeleteParams::default().grace_period(2)).await.unwrap();
        pass(4).await;
        assert!(cluster.pods().get_opt("p").await.unwrap().is_none());
    });
}

#[test]
fn probes_take_a_pod_out_of_service_and_restart_it() {
    simulate(async || {
        let cluster = Cluster::start(SimulatedConfig::default()).await;
        let probe =
            |threshold: u32| json!({ "httpGet": { "port": 80 }, "periodSeconds": 5, "failureThreshold": threshold });
        let spec = json!({ "containers": [{ "name": "a", "image": "busybox:1", "readinessProbe": probe(1), "livenessProbe": probe(4) }] });
        cluster.create("p", spec).await;
        pass(10).await;
        assert!(cluster.is_ready("p").await);
        cluster.runtime.set_healthy("default", "p", "a", false);
        pass(8).await;
        assert!(!cluster.is_ready("p").await);
        assert_eq!(cluster.container("p").await.restart_count, 0);
        pass(20).await;
        assert_eq!(cluster.container("p").await.restart_count, 1);
        assert!(cluster.is_ready("p").await, "the new instance is healthy");
        let messages = cluster.messages("p").await;
        for message in [
            "Readiness probe failed: HTTP probe failed with statuscode: 503",
            "Container a failed liveness probe, will be restarted",
        ] {
            assert!(messages.contains(&message.to_owned()), "{messages:?}");
        }
    });
}

#[test]
fn a_restarted_kubelet_adopts_what_runs() {
    simulate(async || {
        let mut cluster = Cluster::start(SimulatedConfig::default()).await;
        cluster.create("stays", one("busybox:1", &[])).await;
        cluster.create("goes", one("busybox:1", &[])).await;
        pass(5).await;
        let before = cluster.container("stays").await.container_id;
        cluster.kubelet.cancel();
        pass(5).await;
        cluster.pods().delete("goes", &DeleteParams::default().grace_period(0)).await.unwrap();
        cluster.start_kubelet();
        pass(10).await;
        let after = cluster.container("stays").await;
        assert_eq!((after.container_id, after.restart_count), (before, 0));
        let containers = cluster.runtime.list_containers(&ContainerFilter::default()).await.unwrap();
        assert_eq!(containers.len(), 1, "what belongs to no pod is removed");
        cluster.create("new", one("busybox:1", &[])).await;
        pass(5).await;
        assert_ne!(cluster.get("new").await.status.unwrap().pod_ip, cluster.get("stays").await.status.unwrap().pod_ip);
    });
}

#[test]
fn a_node_whose_engine_is_down_is_not_ready_until_it_is_back() {
    simulate(async || {
        let cluster = Cluster::start(SimulatedConfig::default()).await;
        cluster.create("p", one("busybox:1", &[])).await;
        pass(5).await;
        cluster.runtime.set_down(true);
        pass(15).await;
        assert_eq!(cluster.node_ready().await, "False");
        cluster.runtime.set_down(false);
        assert!(cluster.runtime.crash("default", "p", "a", 1));
        pass(15).await;
        assert_eq!(cluster.node_ready().await, "True");
        assert_eq!(cluster.container("p").await.restart_count, 1);
    });
}

#[test]
fn a_pod_past_its_deadline_fails() {
    simulate(async || {
        let cluster = Cluster::start(SimulatedConfig::default()).await;
        let mut spec = one("busybox:1", &[]);
        spec["activeDeadlineSeconds"] = json!(30);
        cluster.create("p", spec).await;
        pass(20).await;
        assert_eq!(cluster.phase("p").await, "Running");
        pass(15).await;
        let status = cluster.get("p").await.status.unwrap();
        assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("DeadlineExceeded")));
    });
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let history = || {
        let mut history = String::new();
        simulate(async || {
            let flaky = Behaviour { mean_time_between_crashes: Some(Duration::from_secs(600)), ..Behaviour::default() };
            let rules = vec![Rule { image: "flaky".into(), behaviour: flaky, ..Default::default() }];
            let cluster = Cluster::start(SimulatedConfig { rules, ..SimulatedConfig::default() }).await;
            for index in 0..5 {
                cluster.create(&format!("p{index}"), one("flaky:1", &[])).await;
            }
            pass(3 * 3600).await;
            let pods = cluster.pods().list(&ListParams::default()).await.unwrap().items;
            history = serde_json::to_string(&pods).unwrap();
        });
        history
    };
    let first = history();
    assert!(first.contains("\"restartCount\":"));
    assert_eq!(first, history());
}
