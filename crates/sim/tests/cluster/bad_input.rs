//! What makes no sense, and is accepted all the same: it is told of, does no harm, and keeps nobody busy.

use coracle_sim::Cluster;
use serde_json::{Value, json};

use crate::support::*;

/// Plays what somebody does; in the end nothing is written any more.
fn quiet(scenario: impl AsyncFnOnce(&mut Cluster) -> anyhow::Result<()>) {
    quiet_but(&[], scenario);
}

/// As [`quiet`], but for objects that are still written, for a reason.
fn quiet_but(but: &[&str], scenario: impl AsyncFnOnce(&mut Cluster) -> anyhow::Result<()>) {
    simulate(async |cluster| {
        scenario(cluster).await?;
        cluster.settle().await;
        let mut writes = idle_writes(cluster, seconds(3600)).await;
        writes.retain(|write| !but.iter().any(|but| write.starts_with(but)));
        assert_eq!(writes, [""; 0]);
        Ok(())
    });
}

fn config_map(name: &str, owners: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "ownerReferences": owners } })
}

/// A reference to an object as its owner.
fn owner(object: &Value) -> Value {
    json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"], "name": object["metadata"]["name"],
        "uid": object["metadata"]["uid"], "blockOwnerDeletion": true,
    })
}

async fn reasons(cluster: &Cluster, object: &str) -> anyhow::Result<Vec<(String, String)>> {
    let mut events = cluster.list("events", None).await?;
    events.retain(|event| event["involvedObject"]["name"] == object);
    let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    Ok(events.iter().map(|event| (text(event, "reason"), text(event, "message"))).collect())
}

/// The owners of the pods with the label `app`.
async fn owners(cluster: &Cluster, app: &str) -> anyhow::Result<Vec<String>> {
    let owners = pods(cluster, app).await?.into_iter().map(|pod| {
        let mut of = pod["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        of.retain(|owner| owner["controller"] == true);
        of.iter().map(name_of).collect::<Vec<_>>().join(" ")
    });
    let mut owners: Vec<_> = owners.collect();
    owners.sort();
    Ok(owners)
}

fn name_of(reference: &Value) -> String {
    reference["name"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn controllers_with_the_same_selector_keep_to_their_own_pods() {
    quiet(async |cluster| {
        for (kind, name) in [("ReplicaSet", "a"), ("ReplicaSet", "b"), ("StatefulSet", "c"), ("Deployment", "d")] {
            let mut it = workload(kind, "same", "nginx:1", json!({ "replicas": 2 }));
            it["metadata"]["name"] = json!(name);
            cluster.create(it).await?;
        }
        cluster.settle().await;
        let of_deployment =
            cluster.list("replicasets", None).await?.iter().map(name).find(|name| name.starts_with("d-"));
        let d = of_deployment.expect("the Deployment has its ReplicaSet");
        assert_eq!(owners(cluster, "same").await?, ["a", "a", "b", "b", "c", "c", &d, &d]);
        // A pod that nobody owns is one too many for whoever takes it.
        let mut stray = pod("same", one_container("nginx:1", &[]));
        stray["metadata"]["name"] = json!("stray");
        cluster.create(stray).await?;
        cluster.settle().await;
        assert_eq!(owners(cluster, "same").await?.len(), 8);
        Ok(())
    });
}

#[test]
fn deployments_with_the_same_selector_and_template_keep_to_their_own_replica_sets() {
    quiet(async |cluster| {
        for name in ["a", "b"] {
            let mut it = deployment("same", 2, "nginx:1");
            it["metadata"]["name"] = json!(name);
            cluster.create(it).await?;
        }
        cluster.settle().await;
        let sets = cluster.list("replicasets", None).await?;
        let sizes =
            sets.iter().map(|set| (name_of(&set["metadata"]["ownerReferences"][0]), &set["status"]["replicas"]));
        assert_eq!(sizes.collect::<Vec<_>>(), [("a".into(), &json!(2)), ("b".into(), &json!(2))]);
        Ok(())
    });
}

#[test]
fn what_another_controls_is_not_taken() {
    quiet(async |cluster| {
        let other = cluster.create(config_map("other", json!([]))).await?;
        let mut taken = pod("web", one_container("nginx:1", &[]));
        let mut controller = owner(&other);
        controller["controller"] = json!(true);
        taken["metadata"]["ownerReferences"] = json!([controller]);
        cluster.create(taken).await?;
        cluster.create(workload("ReplicaSet", "web", "nginx:1", json!({ "replicas": 1 }))).await?;
        cluster.settle().await;
        assert_eq!(owners(cluster, "web").await?, ["other", "web"]);
        Ok(())
    });
}

#[test]
fn two_controllers_of_one_object_are_refused() {
    quiet(async |cluster| {
        let one = json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "1", "controller": true });
        let mut two = one.clone();
        two["name"] = json!("b");
        let refused = cluster.create(config_map("both", json!([one, two]))).await.expect_err("two are too many");
        let message = "Only one reference can have Controller set to true. Found \"true\" in references for a and b";
        assert!(refused.to_string().contains(message), "{refused}");
        Ok(())
    });
}

#[test]
fn a_schedule_that_never_comes_is_told_of() {
    quiet(async |cluster| {
        let mut spec = one_container("busybox:1", &[]);
        spec["restartPolicy"] = json!("Never");
        cluster
            .create(json!({
                "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": "never" },
                "spec": { "schedule": "0 0 30 2 *", "jobTemplate": { "spec": { "template": { "spec": spec } } } },
            }))
            .await?;
        cluster.settle().await;
        let message = "invalid schedule: 0 0 30 2 * : time difference between two schedules is less than 1 second";
        assert_eq!(reasons(cluster, "never").await?, [("InvalidSchedule".into(), message.into())]);
        Ok(())
    });
}

#[test]
fn starts_missed_by_the_hundred_are_told_of_and_made_up_for_once() {
    quiet(async |cluster| {
        let mut spec = one_container("busybox:1", &["sleep", "1"]);
        spec["restartPolicy"] = json!("Never");
        cluster
            .create(json!({
                "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": "tick" },
                "spec": {
                    "schedule": "* * * * *", "suspend": true,
                    "jobTemplate": { "spec": { "template": { "spec": spec } } },
                },
            }))
            .await?;
        cluster.advance(seconds(3 * 3600)).await;
        cluster.patch("cronjobs", "tick", json!({ "spec": { "suspend": false } })).await?;
        cluster.advance(seconds(5)).await;
        cluster.patch("cronjobs", "tick", json!({ "spec": { "suspend": true } })).await?;
        cluster.settle().await;
        let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        assert!(reasons(cluster, "tick").await?.contains(&("TooManyMissedTimes".into(), message.into())));
        assert_eq!(cluster.list("jobs", None).await?.len(), 1);
        Ok(())
    });
}

#[test]
fn a_circle_of_owners_stays_until_one_is_deleted_and_goes_either_way() {
    quiet(async |cluster| {
        for (names, propagation) in [(["a", "b"], "Background"), (["c", "d"], "Foreground"), (["e", "e"], "Background")]
        {
            let first = cluster.create(config_map(names[0], json!([]))).await?;
            let second = match names[0] == names[1] {
                true => first.clone(),
                false => cluster.create(config_map(names[1], json!([owner(&first)]))).await?,
            };
            let patch = json!({ "metadata": { "ownerReferences": [owner(&second)] } });
            cluster.patch("configmaps", names[0], patch).await?;
            cluster.settle().await;
            assert_eq!(idle_writes(cluster, seconds(600)).await, [""; 0]);
            for name in names {
                assert!(cluster.get("configmaps", name).await?.is_some());
            }
            cluster.delete_with("configmaps", names[0], json!({ "propagationPolicy": propagation })).await?;
            cluster.settle().await;
            for name in names {
                assert!(cluster.get("configmaps", name).await?.is_none(), "{name} is still there");
            }
        }
        Ok(())
    });
}

#[test]
fn an_owner_in_another_namespace_is_none_and_told_of() {
    quiet(async |cluster| {
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "other" } });
        cluster.create(namespace).await?;
        let here = cluster.create(config_map("here", json!([]))).await?;
        let mut there = config_map("there", json!([owner(&here)]));
        there["metadata"]["namespace"] = json!("other");
        let good = config_map("good", json!([owner(&here)]));
        for object in [there, good] {
            cluster.create(object).await?;
        }
        // Nor has what is in no namespace; but of that nobody can say that its owner is gone.
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": { "name": "global", "ownerReferences": [owner(&here)] },
        });
        cluster.create(role).await?;
        cluster.settle().await;
        assert!(cluster.get("configmaps", "other/there").await?.is_none());
        assert!(cluster.get("configmaps", "good").await?.is_some());
        assert!(cluster.get("clusterroles", "global").await?.is_some());
        for (name, namespace) in [("there", "other"), ("global", "")] {
            let uid = here["metadata"]["uid"].as_str().unwrap_or_default();
            let message = format!(
                "ownerRef [v1/ConfigMap, namespace: {namespace}, name: here, uid: {uid}] does not exist in namespace \
                 {namespace:?}"
            );
            assert_eq!(reasons(cluster, name).await?, [("OwnerRefInvalidNamespace".into(), message)]);
        }
        cluster.delete("configmaps", "here").await?;
        cluster.settle().await;
        assert!(cluster.get("configmaps", "good").await?.is_none());
        assert!(cluster.get("clusterroles", "global").await?.is_some());
        Ok(())
    });
}

#[test]
fn an_owner_of_another_kind_is_none_and_of_an_unknown_version_may_be_one() {
    quiet(async |cluster| {
        let there = cluster.create(config_map("owner", json!([]))).await?;
        for (name, field, value) in [
            ("good", "name", "owner"),
            ("other-name", "name", "nobody"),
            ("other-kind", "kind", "Secret"),
            ("unknown-kind", "kind", "Thing"),
            ("unknown-version", "apiVersion", "v9"),
        ] {
            let mut owner = owner(&there);
            owner[field] = value.into();
            cluster.create(config_map(name, json!([owner]))).await?;
        }
        // A version that is served, though it is not the one that its group prefers.
        let hpa = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": { "name": "hpa" },
            "spec": { "maxReplicas": 3, "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "none" } },
        });
        let mut older = owner(&cluster.create(hpa).await?);
        older["apiVersion"] = "autoscaling/v1".into();
        cluster.create(config_map("older-version", json!([older]))).await?;
        cluster.settle().await;
        let left = async |cluster: &Cluster| -> anyhow::Result<Vec<String>> {
            let maps = cluster.list("configmaps", Some("default")).await?;
            Ok(maps.iter().map(name).filter(|name| name != "kube-root-ca.crt").collect())
        };
        assert_eq!(left(cluster).await?, ["good", "older-version", "owner", "unknown-kind", "unknown-version"]);
        cluster.delete("configmaps", "owner").await?;
        cluster.delete("horizontalpodautoscalers", "hpa").await?;
        cluster.settle().await;
        assert_eq!(left(cluster).await?, ["unknown-kind", "unknown-version"]);
        Ok(())
    });
}

#[test]
fn a_share_of_pods_that_nobody_scales_is_told_of() {
    quiet(async |cluster| {
        cluster.create(pod("web", one_container("nginx:1", &[]))).await?;
        cluster
            .create(json!({
                "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": { "name": "half" },
                "spec": { "minAvailable": "50%", "selector": { "matchLabels": { "app": "web" } } },
            }))
            .await?;
        cluster.settle().await;
        assert!(reasons(cluster, "half").await?.iter().any(|(reason, _)| reason == "UnmanagedPods"));
        Ok(())
    });
}

#[test]
fn an_autoscaler_of_nothing_says_so_and_no_more() {
    // Upstream looks every 15 seconds, and tells each time; of the same thing no more than one in five minutes is written.
    quiet_but(&["events default/lost"], async |cluster| {
        cluster
            .create(json!({
                "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": { "name": "lost" },
                "spec": { "maxReplicas": 3, "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "none" } },
            }))
            .await?;
        cluster.advance(seconds(3600)).await;
        let before = cluster.history().len();
        cluster.advance(seconds(3600)).await;
        let told = |change: &&coracle_sim::Change| change.object().0 == "events" && change.value.is_some();
        assert_eq!(cluster.history()[before..].iter().filter(told).count(), 12);
        Ok(())
    });
}

#[test]
fn more_than_any_node_has_waits_and_more_than_the_quota_is_asked_for_ever_less_often() {
    quiet_but(&["events default/web-"], async |cluster| {
        let mut web = deployment("web", 3, "nginx:1");
        web["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": "100000" } });
        cluster.create(web).await?;
        cluster
            .create(json!({
                "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "two" }, "spec": { "hard": { "pods": "2" } },
            }))
            .await?;
        cluster.patch("deployments", "web", json!({ "spec": { "replicas": 5 } })).await?;
        cluster.advance(seconds(7200)).await;
        let web = get(cluster, "deployments", "web").await?;
        assert_eq!(condition(&web, "ReplicaFailure"), "True");
        assert_eq!(condition(&web, "Progressing"), "False");
        Ok(())
    });
}

#[test]
fn more_seconds_and_pods_than_there_can_be_are_as_many_as_can_be() {
    // The tainted nodes take no pod, which is tried again and again, and the rollout gives up once.
    quiet_but(&["events default/web-", "deployments default/web: 1"], async |cluster| {
        let mut job = one_container("busybox:1", &["sleep", "99999999"]);
        job["restartPolicy"] = json!("Never");
        let seconds = i64::MAX;
        job["tolerations"] = json!([{ "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds }]);
        let spec = json!({ "activeDeadlineSeconds": seconds, "template": { "spec": job } });
        cluster
            .create(json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "long" }, "spec": spec }))
            .await?;
        let cron =
            json!({ "schedule": "@yearly", "startingDeadlineSeconds": seconds, "jobTemplate": { "spec": spec } });
        cluster
            .create(
                json!({ "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": "long" }, "spec": cron }),
            )
            .await?;
        let mut web = deployment("web", 2, "nginx:1");
        web["spec"]["strategy"] = json!({ "rollingUpdate": { "maxSurge": i32::MAX, "maxUnavailable": 0 } });
        cluster.create(web).await?;
        cluster.settle().await;
        cluster.patch("deployments", "web", json!({ "spec": { "template": pod_template("web", "nginx:2") } })).await?;
        let taint = json!({ "spec": { "taints": [{ "key": "hot", "effect": "NoExecute" }] } });
        for node in cluster.nodes() {
            cluster.patch("nodes", &node, taint.clone()).await?;
        }
        cluster.settle().await;
        // The controllers live.
        let web = cluster.patch("deployments", "web", json!({ "spec": { "replicas": 3 } })).await?;
        cluster.settle().await;
        let seen = get(cluster, "deployments", "web").await?;
        assert_eq!(seen["status"]["observedGeneration"], web["metadata"]["generation"]);
        assert_eq!(cluster.list("jobs", None).await?[0]["status"]["active"], 1);
        Ok(())
    });
}
