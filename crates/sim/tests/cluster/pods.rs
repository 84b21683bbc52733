//! What containers do, and what becomes of their pods.

use coracle_kubelet::runtime::simulated::SimulatedConfig;
use coracle_sim::Cluster;
use serde_json::{Value, json};

use crate::support::*;

fn container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

fn time(text: &Value) -> anyhow::Result<i64> {
    use k8s_openapi::jiff::Timestamp;
    Ok(text.as_str().unwrap_or_default().parse::<Timestamp>()?.as_second())
}

#[test]
fn a_crashing_container_waits_ever_longer_up_to_five_minutes() {
    simulate(async |cluster| {
        cluster.create(pod("flaky", one_container("busybox:1", &["sh", "-c", "sleep 1; exit 3"]))).await?;
        cluster.advance(seconds(3600)).await;
        // From the history: when each instance started, and when the one before had ended.
        let mut waits = Vec::new();
        let mut ended = None;
        for change in cluster.history().iter().filter(|change| change.object().1 == "default/flaky") {
            let pod = change.json();
            let (now, last) = (&container(&pod)["state"], &container(&pod)["lastState"]);
            let running = &now["running"]["startedAt"];
            let finished = &last["terminated"]["finishedAt"];
            if !running.is_null() && !finished.is_null() && ended.as_ref() != Some(finished) {
                waits.push(time(running)? - time(finished)?);
                ended = Some(finished.clone());
            }
        }
        for (wait, expected) in waits.iter().zip([0, 10, 20, 40, 80, 160, 300, 300, 300]) {
            assert!((expected..=expected + 2).contains(wait), "{waits:?}");
        }
        assert!(waits.len() >= 9, "{waits:?}");
        let flaky = get(cluster, "pods", "flaky").await?;
        assert_eq!(container(&flaky)["state"]["waiting"]["reason"], "CrashLoopBackOff");
        assert_eq!(flaky["status"]["phase"], "Running");
        Ok(())
    });
}

#[test]
fn a_pod_whose_containers_take_their_time_says_that_it_is_ready_for_them() {
    for (pull, told) in [(0, 0), (10, 1)] {
        let machine = SimulatedConfig { pull_delay: seconds(pull), ..SimulatedConfig::default() };
        play(Cluster::builder().machine(machine), async |cluster| {
            cluster.create(pod("web", one_container("nginx:1", &[]))).await?;
            cluster.settle().await;
            let states = cluster.history().into_iter().filter(|change| change.object().1 == "default/web");
            let of_kubelet = states.map(|change| change.json()).filter(|pod| !pod["status"]["startTime"].is_null());
            let ready = |pod: &Value| {
                let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
                conditions.filter(|c| c["type"] == "PodReadyToStartContainers").any(|c| c["status"] == "True")
            };
            let (waiting, running): (Vec<_>, Vec<_>) =
                of_kubelet.partition(|pod| container(pod)["state"]["running"].is_null());
            assert_eq!((waiting.iter().filter(|pod| ready(pod)).count(), waiting.len()), (told, told + 1));
            assert_eq!((running.iter().all(ready), running.len()), (true, 1));
            Ok(())
        });
    }
}

#[test]
fn ten_good_minutes_let_a_container_begin_anew() {
    simulate(async |cluster| {
        cluster.create(pod("web", one_container("nginx:1", &[]))).await?;
        cluster.settle().await;
        let node = get(cluster, "pods", "web").await?["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
        for restarts in 1..=3 {
            assert!(cluster.machine(&node).crash("default", "web", "main", 1));
            cluster.advance(seconds(60)).await;
            assert_eq!(container(&get(cluster, "pods", "web").await?)["restartCount"], restarts);
        }
        cluster.advance(seconds(700)).await;
        assert!(cluster.machine(&node).crash("default", "web", "main", 1));
        cluster.advance(seconds(3)).await;
        let web = get(cluster, "pods", "web").await?;
        assert!(is_ready(&web), "restarted at once: {:#}", container(&web));
        Ok(())
    });
}

#[test]
fn an_image_that_cannot_be_pulled_is_tried_again_ever_later() {
    let machine = SimulatedConfig { missing_images: vec!["nowhere".into()], ..SimulatedConfig::default() };
    play(Cluster::builder().nodes(1).machine(machine), async |cluster| {
        cluster.create(pod("lost", one_container("nowhere/x:1", &[]))).await?;
        cluster.advance(seconds(3600)).await;
        let lost = get(cluster, "pods", "lost").await?;
        assert_eq!(lost["status"]["phase"], "Pending");
        let reason = container(&lost)["state"]["waiting"]["reason"].as_str().unwrap_or_default();
        assert_eq!(reason, "ImagePullBackOff");
        let events = cluster.list("events", None).await?;
        let pulls = events.iter().find(|e| e["message"].as_str().is_some_and(|m| m.starts_with("Pulling image")));
        // 0, 10, 20, 40, 80, 160, then every 300 seconds.
        let pulls = pulls.and_then(|event| event["count"].as_u64()).unwrap_or_default();
        assert!((15..=18).contains(&pulls), "{pulls} pulls in an hour");
        Ok(())
    });
}

#[test]
fn a_failing_liveness_probe_restarts_the_container() {
    simulate(async |cluster| {
        let mut spec = one_container("nginx:1", &[]);
        spec["containers"][0]["livenessProbe"] =
            json!({ "httpGet": { "port": 80 }, "periodSeconds": 5, "failureThreshold": 3 });
        cluster.create(pod("web", spec)).await?;
        cluster.settle().await;
        let node = get(cluster, "pods", "web").await?["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
        cluster.machine(&node).set_healthy("default", "web", "main", false);
        cluster.advance(seconds(30)).await;
        let web = get(cluster, "pods", "web").await?;
        assert_eq!(container(&web)["restartCount"], 1);
        assert!(is_ready(&web));
        let messages = messages(cluster, "web").await?;
        assert!(messages.contains(&"Container main failed liveness probe, will be restarted".into()), "{messages:#?}");
        Ok(())
    });
}

#[test]
fn a_pod_has_its_ephemeral_volumes_for_itself() {
    simulate(async |cluster| {
        let template = json!({
            "metadata": { "labels": { "of": "scratch" } },
            "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
        });
        let mut spec = one_container("sort:1", &[]);
        spec["volumes"] = json!([{ "name": "scratch", "ephemeral": { "volumeClaimTemplate": template } }]);
        let mut foreign =
            json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "b-scratch" } });
        foreign["spec"] = template["spec"].clone();
        cluster.create(foreign).await?;
        for name in ["a", "b"] {
            cluster.create(pod(name, spec.clone())).await?;
        }
        cluster.settle().await;
        assert!(is_ready(&get(cluster, "pods", "a").await?));
        let claim = get(cluster, "persistentvolumeclaims", "a-scratch").await?;
        assert_eq!(
            (&claim["metadata"]["labels"]["of"], &claim["status"]["phase"]),
            (&json!("scratch"), &json!("Bound"))
        );
        assert!(!is_ready(&get(cluster, "pods", "b").await?), "that claim is somebody else's");
        let why =
            "ephemeral volume scratch: PVC default/b-scratch was not created for pod default/b (pod is not owner)";
        assert!(messages(cluster, "b").await?.iter().any(|message| message == why));
        cluster.delete("pods", "a").await?;
        cluster.delete("persistentvolumeclaims", "b-scratch").await?;
        cluster.advance(seconds(600)).await;
        let claims: Vec<_> = cluster.list("persistentvolumeclaims", Some("default")).await?.iter().map(name).collect();
        assert_eq!(claims, ["b-scratch"], "a's went with it, b got one of its own");
        assert!(is_ready(&get(cluster, "pods", "b").await?));
        Ok(())
    });
}

#[test]
fn a_claim_grows_with_its_volume() {
    simulate(async |cluster| {
        let claim = |size: &str| {
            json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "data" },
                "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": size } } },
            })
        };
        cluster.create(claim("1Gi")).await?;
        cluster.settle().await;
        cluster.patch("persistentvolumeclaims", "data", json!({ "spec": claim("3Gi")["spec"] })).await?;
        cluster.settle().await;
        let grown = get(cluster, "persistentvolumeclaims", "data").await?;
        assert_eq!(grown["status"]["capacity"]["storage"], "3Gi");
        let volume = grown["spec"]["volumeName"].as_str().unwrap_or_default();
        assert_eq!(get(cluster, "persistentvolumes", volume).await?["spec"]["capacity"]["storage"], "3Gi");
        let told = messages(cluster, "data").await?;
        assert!(told.iter().any(|message| message == "ExpandVolume succeeded for volume default/data"), "{told:?}");
        Ok(())
    });
}

#[test]
fn a_pod_that_somebody_declares_failed_is_stopped_and_stays_failed() {
    for after in [0, 30] {
        simulate(async |cluster| {
            cluster.create(pod("web", one_container("nginx:1", &[]))).await?;
            let bound = async || anyhow::Ok(get(cluster, "pods", "web").await?["spec"]["nodeName"].is_string());
            while !bound().await? {
                cluster.advance(std::time::Duration::from_millis(10)).await;
            }
            cluster.advance(seconds(after)).await;
            let failed = json!({ "status": { "phase": "Failed", "reason": "Because" } });
            cluster.patch("pods", "default/web/status", failed).await?;
            cluster.advance(seconds(60)).await;
            let web = get(cluster, "pods", "web").await?;
            assert_eq!((&web["status"]["phase"], &web["status"]["reason"]), (&json!("Failed"), &json!("Because")));
            let node = web["spec"]["nodeName"].as_str().unwrap_or_default();
            assert!(!cluster.machine(node).crash("default", "web", "main", 1), "its container runs on");
            Ok(())
        });
    }
}

#[test]
fn the_kubelet_writes_a_pods_status_when_there_is_news() {
    simulate(async |cluster| {
        let mut web = pod("web", one_container("nginx:1", &[]));
        let requests = json!({ "requests": { "cpu": "10m", "memory": "16Mi" } });
        web["spec"]["containers"][0]["resources"] = requests;
        cluster.create(web).await?;
        cluster.settle().await;
        let story: Vec<String> = cluster
            .history()
            .iter()
            .filter(|change| change.object().1 == "default/web")
            .map(|change| {
                let status = &change.json()["status"];
                let state = match &container(&change.json())["state"] {
                    state if !state["running"].is_null() => "started".to_owned(),
                    state => state["waiting"]["reason"].as_str().unwrap_or("untouched").to_owned(),
                };
                let address = if status["podIP"].is_null() { "" } else { " with an address" };
                format!("{} {state}{address}", status["phase"].as_str().unwrap_or_default())
            })
            .collect();
        let expected = [
            "Pending untouched",
            "Pending untouched",
            "Pending ContainerCreating",
            "Pending ContainerCreating with an address",
            "Running started with an address",
        ];
        assert_eq!(story, expected, "created, bound, seen, given a sandbox, started");
        Ok(())
    });
}

/// How often each pod's status was written by a kubelet until now.
fn status_writes(cluster: &Cluster) -> std::collections::BTreeMap<String, u64> {
    let of_kubelets = cluster.requests().into_iter().filter(|(request, _)| request.starts_with("system:node:"));
    of_kubelets
        .filter_map(|(request, count)| {
            let path = request.split_once(" PATCH ")?.1.strip_prefix("/api/v1/namespaces/default/pods/")?;
            Some((path.strip_suffix("/status")?.to_owned(), count))
        })
        .collect()
}

/// What a pod's status was, in order.
fn statuses(cluster: &Cluster, pod: &str) -> Vec<Value> {
    let key = ("pods".to_owned(), format!("default/{pod}"));
    let history = cluster.history();
    history.iter().filter(|change| change.object() == key).map(|change| change.json()["status"].clone()).collect()
}

#[test]
fn a_pods_status_is_written_three_times_until_it_runs() {
    // Alone, and among many that start at once.
    for replicas in [1, 100] {
        simulate(async |cluster| {
            cluster.create(deployment("web", replicas, "nginx:1")).await?;
            cluster.settle().await;
            assert_eq!(ready_pods(cluster, "web").await?, replicas as usize);
            let writes = status_writes(cluster);
            assert_eq!(writes.len(), replicas as usize);
            for (pod, writes) in writes {
                let statuses = statuses(cluster, &pod);
                assert!(writes <= 3, "{pod}: {writes} writes: {statuses:#?}");
                assert!(statuses.windows(2).all(|pair| pair[0] != pair[1]), "one changed nothing: {statuses:#?}");
            }
            Ok(())
        });
    }
}
