//! The controllers together, against the real API server, in virtual time.

mod common;

use std::time::Duration;

use common::{Cluster, simulate};
use kube::api::DeleteParams;
use serde_json::{Value, json};

const APPS: &str = "apps/v1";

fn deployment(name: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "containers": [{ "name": "c", "image": "a:1" }] },
            },
        },
    })
}

async fn is_rolled_out(cluster: &Cluster, name: &str, replicas: i64) -> bool {
    let deployment = cluster.get("Deployment", APPS, "default", name).await;
    let status = &deployment["status"];
    status["observedGeneration"] == deployment["metadata"]["generation"]
        && ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|field| status[field] == replicas)
}

#[test]
fn a_deployment_brings_up_pods_rolls_scales_and_goes() {
    simulate(async || {
        let cluster = Cluster::start(&["*"]).await;
        cluster.create(deployment("web", 3)).await;
        cluster.until("the first rollout", async || is_rolled_out(&cluster, "web", 3).await).await;
        let image = json!({ "spec": { "template": { "spec": { "containers": [{ "name": "c", "image": "a:2" }] } } } });
        cluster.merge("Deployment", APPS, "default", "web", image).await;
        cluster.until("the second rollout", async || is_rolled_out(&cluster, "web", 3).await).await;
        cluster.merge("Deployment", APPS, "default", "web", json!({ "spec": { "replicas": 1 } })).await;
        cluster
            .until("scaling down", async || {
                is_rolled_out(&cluster, "web", 1).await && cluster.list("Pod", "v1", "default").await.len() == 1
            })
            .await;
        let web = cluster.get("Deployment", APPS, "default", "web").await;
        assert_eq!(web["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "2");
        let conditions: Vec<_> =
            web["status"]["conditions"].as_array().unwrap().iter().map(|c| c["reason"].clone()).collect();
        assert!(conditions.contains(&json!("NewReplicaSetAvailable")), "{conditions:?}");
        let sets = cluster.list("ReplicaSet", APPS, "default").await;
        assert_eq!(sets.len(), 2);
        let first = sets.iter().find(|rs| rs["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "1");
        let first = first.unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
        let events = cluster.events("Deployment", "web").await;
        assert_eq!(events[0], format!("ScalingReplicaSet: Scaled up replica set {first} from 0 to 3"));
        assert!(
            events.contains(&format!("ScalingReplicaSet: Scaled down replica set {first} from 1 to 0")),
            "{events:?}"
        );
        let events = cluster.events("ReplicaSet", &first).await;
        assert_eq!(events.iter().filter(|event| event.starts_with("SuccessfulCreate: Created pod: web-")).count(), 3);
        cluster.delete("Deployment", APPS, "default", "web", DeleteParams::background()).await;
        cluster
            .until("garbage collection", async || {
                cluster.list("ReplicaSet", APPS, "default").await.is_empty()
                    && cluster.list("Pod", "v1", "default").await.is_empty()
            })
            .await;
    });
}

#[test]
fn a_deleted_pod_is_replaced_and_a_relabelled_one_released() {
    simulate(async || {
        let cluster = Cluster::start(&["*"]).await;
        cluster.create(deployment("web", 2)).await;
        cluster.until("rollout", async || is_rolled_out(&cluster, "web", 2).await).await;
        let names = async || {
            let pods = cluster.list("Pod", "v1", "default").await;
            pods.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let before = names().await;
        cluster.delete("Pod", "v1", "default", &before[0], DeleteParams::default()).await;
        cluster
            .until("replacement", async || {
                let now = names().await;
                now.len() == 2 && !now.contains(&before[0]) && is_rolled_out(&cluster, "web", 2).await
            })
            .await;
        cluster
            .merge("Pod", "v1", "default", &before[1], json!({ "metadata": { "labels": { "app": "debug" } } }))
            .await;
        cluster.until("release", async || names().await.len() == 3).await;
        let released = cluster.get("Pod", "v1", "default", &before[1]).await;
        assert_eq!(released["metadata"]["ownerReferences"], Value::Null);
    });
}

#[test]
fn foreground_deletion_waits_and_orphans_live_on() {
    simulate(async || {
        let cluster = Cluster::start(&["*"]).await;
        for name in ["waits", "orphans"] {
            cluster.create(deployment(name, 1)).await;
            cluster.until("rollout", async || is_rolled_out(&cluster, name, 1).await).await;
        }
        cluster.delete("Deployment", APPS, "default", "waits", DeleteParams::foreground()).await;
        cluster
            .until("foreground deletion", async || cluster.get("Deployment", APPS, "default", "waits").await.is_null())
            .await;
        assert_eq!(cluster.list("ReplicaSet", APPS, "default").await.len(), 1, "dependents went first");
        cluster.delete("Deployment", APPS, "default", "orphans", DeleteParams::orphan()).await;
        cluster
            .until("orphaning", async || cluster.get("Deployment", APPS, "default", "orphans").await.is_null())
            .await;
        coracle_clock::sleep(std::time::Duration::from_secs(60)).await;
        let sets = cluster.list("ReplicaSet", APPS, "default").await;
        assert_eq!((sets.len(), &sets[0]["metadata"]["ownerReferences"]), (1, &Value::Null));
        assert_eq!(cluster.list("Pod", "v1", "default").await.len(), 1);
    });
}

#[test]
fn a_service_has_endpoints_slices_and_an_address() {
    simulate(async || {
        let cluster = Cluster::start(&["*"]).await;
        cluster
            .create(json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" }, "spec": {
            "type": "LoadBalancer", "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": 8080 }] } }))
            .await;
        cluster.create(deployment("web", 2)).await;
        let slices = async || cluster.list("EndpointSlice", "discovery.k8s.io/v1", "default").await;
        cluster
            .until("endpoints", async || {
                slices().await.iter().any(|slice| {
                    slice["metadata"]["labels"]["kubernetes.io/service-name"] == "web"
                        && slice["endpoints"].as_array().is_some_and(|endpoints| {
                            endpoints.len() == 2
                                && endpoints.iter().all(|endpoint| endpoint["conditions"]["ready"] == true)
                        })
                })
            })
            .await;
        assert_eq!(
            slices().await.iter().filter(|s| s["metadata"]["name"].as_str().unwrap().starts_with("web-")).count(),
            1
        );
        let endpoints = cluster.get("Endpoints", "v1", "default", "web").await;
        assert_eq!(endpoints["subsets"][0]["addresses"].as_array().unwrap().len(), 2);
        assert_eq!(endpoints["subsets"][0]["ports"][0]["port"], 8080);
        let service = cluster.get("Service", "v1", "default", "web").await;
        assert_eq!(service["status"]["loadBalancer"]["ingress"], json!([{ "ip": "10.112.0.1", "ipMode": "VIP" }]));
        let mut events = cluster.events("Service", "web").await;
        events.sort();
        assert_eq!(
            events,
            ["EnsuredLoadBalancer: Ensured load balancer", "EnsuringLoadBalancer: Ensuring load balancer"]
        );
        cluster.delete("Service", "v1", "default", "web", DeleteParams::default()).await;
        cluster
            .until("the end of all of it", async || {
                cluster.get("Service", "v1", "default", "web").await.is_null()
                    && cluster.get("Endpoints", "v1", "default", "web").await.is_null()
                    && !slices().await.iter().any(|s| s["metadata"]["name"].as_str().unwrap().starts_with("web-"))
            })
            .await;
    });
}

#[test]
fn a_claim_is_bound_to_a_new_volume_that_goes_with_it() {
    simulate(async || {
        let cluster = Cluster::start(&["*"]).await;
        cluster
            .until("the default class", async || {
                !cluster.get("StorageClass", "storage.k8s.io/v1", "", "standard").await.is_null()
            })
            .await;
        cluster
            .create(json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "data" },
            "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } }))
            .await;
        cluster
            .until("binding", async || {
                cluster.get("PersistentVolumeClaim", "v1", "default", "data").await["status"]["phase"] == "Bound"
            })
            .await;
        let claim = cluster.get("PersistentVolumeClaim", "v1", "default", "data").await;
        assert_eq!(claim["status"]["capacity"]["storage"], "1Gi");
        let name = claim["spec"]["volumeName"].as_str().unwrap().to_owned();
        let volume = cluster.get("PersistentVolume", "v1", "", &name).await;
        assert_eq!(
            (&volume["status"]["phase"], &volume["spec"]["claimRef"]["uid"]),
            (&json!("Bound"), &claim["metadata"]["uid"])
        );
        cluster.delete("PersistentVolumeClaim", "v1", "default", "data", DeleteParams::default()).await;
        cluster.until("reclaiming", async || cluster.get("PersistentVolume", "v1", "", &name).await.is_null()).await;
        let path = volume["spec"]["hostPath"]["path"].as_str().unwrap();
        assert_eq!(cluster.removed.0.lock().unwrap().as_slice(), [std::path::PathBuf::from(path)]);
    });
}

#[test]
fn a_namespace_is_born_with_an_account_and_the_ca_and_takes_all_with_it() {
    simulate(async || {
        let cluster = Cluster::start(&["*"]).await;
        cluster.create(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } })).await;
        cluster
            .until("account and CA", async || {
                !cluster.get("ServiceAccount", "v1", "shop", "default").await.is_null()
                    && cluster.get("ConfigMap", "v1", "shop", "kube-root-ca.crt").await["data"]["ca.crt"] == "the CA"
            })
            .await;
        let mut web = deployment("web", 2);
        web["metadata"]["namespace"] = "shop".into();
        cluster.create(web).await;
        cluster.until("pods", async || cluster.list("Pod", "v1", "shop").await.len() == 2).await;
        cluster.delete("Namespace", "v1", "", "shop", DeleteParams::default()).await;
        cluster.until("the end", async || cluster.get("Namespace", "v1", "", "shop").await.is_null()).await;
        for (kind, version) in [("Pod", "v1"), ("ReplicaSet", APPS), ("ConfigMap", "v1"), ("ServiceAccount", "v1")] {
            assert!(cluster.list(kind, version, "shop").await.is_empty(), "{kind}");
        }
    });
}

#[test]
fn a_silent_node_is_tainted_its_pods_unready_and_after_five_minutes_evicted() {
    simulate(async || {
        let cluster = Cluster::start(&["*"]).await;
        cluster.create(deployment("web", 1)).await;
        cluster.until("rollout", async || is_rolled_out(&cluster, "web", 1).await).await;
        cluster.heartbeats.store(false, std::sync::atomic::Ordering::Relaxed);
        let first = cluster.list("Pod", "v1", "default").await[0]["metadata"]["name"].as_str().unwrap().to_owned();
        cluster
            .until("unreachable", async || {
                let node = cluster.get("Node", "v1", "", "n1").await;
                node["spec"]["taints"].as_array().is_some_and(|taints| {
                    taints.iter().any(|t| t["key"] == "node.kubernetes.io/unreachable" && t["effect"] == "NoExecute")
                })
            })
            .await;
        let node = cluster.get("Node", "v1", "", "n1").await;
        let conditions = node["status"]["conditions"].as_array().unwrap();
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready").unwrap();
        assert_eq!(ready["message"], "Kubelet stopped posting node status.");
        cluster
            .until("unready pods", async || {
                let pod = cluster.get("Pod", "v1", "default", &first).await;
                pod["status"]["conditions"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|c| c["type"] == "Ready" && c["status"] == "False")
            })
            .await;
        coracle_clock::sleep(std::time::Duration::from_secs(240)).await;
        assert!(!cluster.get("Pod", "v1", "default", &first).await.is_null());
        cluster.until("eviction", async || cluster.get("Pod", "v1", "default", &first).await.is_null()).await;
        let events = cluster.events("Pod", &first).await;
        assert!(
            events.contains(&format!("TaintManagerEviction: Marking for deletion Pod default/{first}")),
            "{events:?}"
        );
    });
}

#[test]
fn a_job_runs_to_completion_and_a_broken_one_fails_after_its_backoff_limit() {
    simulate(async || {
        let cluster = Cluster::start(&["*"]).await;
        for (name, image) in [("good", "task"), ("bad", "broken")] {
            cluster.create(json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name }, "spec": {
                "completions": 3, "parallelism": 2, "backoffLimit": 2,
                "template": { "spec": { "restartPolicy": "Never", "containers": [{ "name": "c", "image": image }] } },
            }})).await;
        }
        let has = async |name: &str, type_: &str| {
            let job = cluster.get("Job", "batch/v1", "default", name).await;
            job["status"]["conditions"].as_array().is_some_and(|all| {
                all.iter().any(|condition| condition["type"] == type_ && condition["status"] == "True")
            })
        };
        cluster.until("completion", async || has("good", "Complete").await).await;
        let good = cluster.get("Job", "batch/v1", "default", "good").await;
        assert_eq!((&good["status"]["succeeded"], &good["status"]["active"]), (&json!(3), &Value::Null));
        let events = cluster.events("Job", "good").await;
        assert_eq!(events.last().unwrap(), "Completed: Job completed");
        assert_eq!(events.len(), 4, "{events:?}");
        cluster.until("failure", async || has("bad", "Failed").await).await;
        let pods = cluster.list("Pod", "v1", "default").await;
        assert!(pods.iter().all(|pod| pod["metadata"]["finalizers"].is_null()));
        cluster.delete("Job", "batch/v1", "default", "good", DeleteParams::foreground()).await;
        cluster.until("deletion", async || cluster.get("Job", "batch/v1", "default", "good").await.is_null()).await;
        cluster
            .create(json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "long" }, "spec": {
            "template": { "spec": { "restartPolicy": "Never", "containers": [{ "name": "c", "image": "a:1" }] } } } }))
            .await;
        let of_long = async || {
            let pods = cluster.list("Pod", "v1", "default").await;
            pods.iter().filter(|pod| pod["metadata"]["labels"]["job-name"] == "long").count()
        };
        cluster.until("a running pod", async || of_long().await == 1).await;
        cluster.delete("Job", "batch/v1", "default", "long", DeleteParams::background()).await;
        cluster.until("the end of its pod", async || of_long().await == 0).await;
    });
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let history = || {
        simulate(async || {
            let cluster = Cluster::start(&["*"]).await;
            for name in ["a", "b", "c"] {
                cluster.create(deployment(name, 4)).await;
            }
            coracle_clock::sleep(std::time::Duration::from_secs(30)).await;
            cluster.merge("Deployment", APPS, "default", "b", json!({ "spec": { "replicas": 1 } })).await;
            cluster.delete("Deployment", APPS, "default", "c", DeleteParams::background()).await;
            coracle_clock::sleep(std::time::Duration::from_secs(30)).await;
            let mut all = Vec::new();
            for (kind, version) in [("Pod", "v1"), ("ReplicaSet", APPS), ("Deployment", APPS), ("Event", "v1")] {
                all.extend(cluster.list(kind, version, "").await);
            }
            all
        })
    };
    assert_eq!(history(), history());
}

#[test]
fn a_class_of_volume_attributes_outlives_the_claims_that_name_it() {
    simulate(async || {
        let cluster = Cluster::start(&["*"]).await;
        const KIND: (&str, &str) = ("VolumeAttributesClass", "storage.k8s.io/v1");
        for name in ["fast", "slow"] {
            cluster
                .create(json!({
                    "apiVersion": KIND.1, "kind": KIND.0, "metadata": { "name": name },
                    "driverName": "d.example.com", "parameters": { "iops": "100" },
                }))
                .await;
        }
        let finalizers =
            async |name: &str| cluster.get(KIND.0, KIND.1, "", name).await["metadata"]["finalizers"].take();
        let protected = json!(["kubernetes.io/vac-protection"]);
        cluster.until("it is protected", async || finalizers("fast").await == protected).await;
        cluster
            .create(json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "data" },
                "spec": { "volumeAttributesClassName": "fast", "accessModes": ["ReadWriteOnce"],
                    "storageClassName": "", "resources": { "requests": { "storage": "1Gi" } } },
            }))
            .await;
        coracle_clock::sleep(std::time::Duration::from_secs(1)).await;
        for name in ["fast", "slow"] {
            cluster.delete(KIND.0, KIND.1, "", name, DeleteParams::default()).await;
        }
        cluster.until("what nobody names is gone", async || finalizers("slow").await.is_null()).await;
        coracle_clock::sleep(std::time::Duration::from_secs(30)).await;
        assert_eq!(finalizers("fast").await, protected);
        cluster.delete("PersistentVolumeClaim", "v1", "default", "data", DeleteParams::default()).await;
        cluster.until("the class is gone, too", async || finalizers("fast").await.is_null()).await;
    });
}

#[test]
fn the_controllers_end_when_told_to() {
    simulate(async || {
        let cluster = Cluster::start(&["*"]).await;
        coracle_clock::sleep(std::time::Duration::from_secs(5)).await;
        cluster.shutdown.cancel();
        cluster.ended.notified().await;
    });
}

#[test]
fn a_policys_expressions_are_checked_against_the_kinds_it_names() {
    simulate(async || {
        let cluster = Cluster::start(&["validatingadmissionpolicy-status-controller"]).await;
        const GROUP: &str = "admissionregistration.k8s.io/v1";
        let rule = json!({ "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"] });
        let policy = json!({
            "apiVersion": GROUP, "kind": "ValidatingAdmissionPolicy", "metadata": { "name": "p" },
            "spec": { "matchConstraints": { "resourceRules": [rule] }, "validations": [{ "expression": "object.spec.replicas < 5 && object.replicas > 1" }] },
        });
        cluster.create(policy).await;
        let status = async || cluster.get("ValidatingAdmissionPolicy", GROUP, "", "p").await["status"].take();
        cluster.until("it is checked", async || status().await["observedGeneration"] == 1).await;
        let warning = &status().await["typeChecking"]["expressionWarnings"][0];
        assert_eq!(warning["fieldRef"], "spec.validations[0].expression");
        let text = warning["warning"].as_str().unwrap();
        assert!(
            text.starts_with(
                "apps/v1, Kind=Deployment: ERROR: <input>:1:35: undefined field 'replicas'\n | object.spec"
            ),
            "{text}"
        );
        let right = json!({ "spec": { "validations": [{ "expression": "object.spec.replicas < 5" }] } });
        cluster.merge("ValidatingAdmissionPolicy", GROUP, "", "p", right).await;
        cluster.until("it is checked again", async || status().await["observedGeneration"] == 2).await;
        assert_eq!(status().await["typeChecking"], json!({}));
    });
}

#[test]
fn a_service_cidr_stays_while_addresses_are_in_it() {
    simulate(async || {
        let cluster = Cluster::start(&["service-cidr-controller"]).await;
        let api = "networking.k8s.io/v1";
        let range = async |name: &str| cluster.get("ServiceCIDR", api, "", name).await;
        let condition = async |name: &str| range(name).await["status"]["conditions"][0].clone();
        let create = async |name: &str, cidr: &str| {
            let meta = json!({ "name": name });
            let spec = json!({ "cidrs": [cidr] });
            cluster.create(json!({ "apiVersion": api, "kind": "ServiceCIDR", "metadata": meta, "spec": spec })).await;
            cluster.until("it is ready", async || condition(name).await["status"] == "True").await;
        };
        create("more", "10.200.0.0/24").await;
        assert_eq!(condition("more").await["message"], "Kubernetes Service CIDR is ready");
        let held = json!(["networking.k8s.io/service-cidr-finalizer"]);
        assert_eq!(range("more").await["metadata"]["finalizers"], held);
        assert_eq!(range("kubernetes").await["metadata"]["finalizers"], held);
        cluster
            .create(json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
                "spec": { "clusterIP": "10.200.0.7", "ports": [{ "port": 80 }] } }))
            .await;
        let address = cluster.get("IPAddress", api, "", "10.200.0.7").await;
        assert_eq!(address["spec"]["parentRef"]["name"], "web");
        cluster.delete("ServiceCIDR", api, "", "more", DeleteParams::default()).await;
        cluster.until("it says why it stays", async || condition("more").await["reason"] == "Terminating").await;
        coracle_clock::sleep(Duration::from_secs(60)).await;
        assert!(!range("more").await.is_null());
        create("instead", "10.200.0.0/16").await;
        cluster.until("it goes", async || range("more").await.is_null()).await;
        cluster.delete("ServiceCIDR", api, "", "instead", DeleteParams::default()).await;
        cluster.delete("Service", "v1", "default", "web", DeleteParams::default()).await;
        cluster.until("nothing is in it", async || range("instead").await.is_null()).await;
    });
}
