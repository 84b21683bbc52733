//! The garbage collector, namespaces, and custom resources that may hold anything.

use std::time::Duration;

use coracle_sim::Cluster;
use kube::api::{DeleteParams, Patch};
use serde_json::{Value, json};

use crate::objects::Objects;
use crate::support::*;

fn template(app: &str) -> Value {
    json!({
        "metadata": { "labels": { "app": app } },
        "spec": { "containers": [{ "name": "nginx", "image": "nginx:1" }], "terminationGracePeriodSeconds": 5 },
    })
}

fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": { "replicas": 2, "selector": { "matchLabels": { "app": name } }, "template": template(name) },
    })
}

fn replication_controller(name: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ReplicationController", "metadata": { "name": name },
        "spec": { "replicas": replicas, "selector": { "app": name }, "template": template(name) },
    })
}

/// The kinds that the garbage collector's tests are about.
struct Garbage {
    deployments: Objects,
    replica_sets: Objects,
    controllers: Objects,
    pods: Objects,
}

impl Garbage {
    async fn on(cluster: &Cluster) -> anyhow::Result<Garbage> {
        Ok(Garbage {
            deployments: Objects::find(cluster, "apps/v1", "Deployment").await?,
            replica_sets: Objects::find(cluster, "apps/v1", "ReplicaSet").await?,
            controllers: Objects::find(cluster, "v1", "ReplicationController").await?,
            pods: Objects::find(cluster, "v1", "Pod").await?,
        })
    }

    /// A Deployment whose ReplicaSet is there.
    async fn deployment(&self, name: &str) -> anyhow::Result<()> {
        self.deployments.create(&deployment(name)).await?;
        until("its ReplicaSet is there", async || Ok(self.replica_sets.list("").await?.len() == 1)).await
    }

    /// A ReplicationController whose pods are there; its UID.
    async fn controller(&self, name: &str, replicas: u32) -> anyhow::Result<Value> {
        let controller = self.controllers.create(&replication_controller(name, replicas)).await?;
        let all = replicas as usize;
        until("its pods are there", async || Ok(self.pods.list(&format!("app={name}")).await?.len() == all)).await?;
        Ok(controller["metadata"]["uid"].clone())
    }
}

fn has_controller(object: &Value) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
    owners.iter().any(|owner| owner["controller"] == true)
}

#[test]
fn deleting_a_deployment_in_the_background_removes_its_replica_set() {
    control_plane(async |cluster| {
        let all = Garbage::on(cluster).await?;
        all.deployment("simple").await?;
        all.deployments.delete_with("simple", &DeleteParams::background()).await?;
        assert!(!all.deployments.exists("simple").await?, "the owner goes first");
        until("the ReplicaSet and its pods are gone", async || {
            Ok(all.replica_sets.list("").await?.is_empty() && all.pods.list("").await?.is_empty())
        })
        .await
    });
}

#[test]
fn orphaning_a_deployment_leaves_its_replica_set_without_an_owner() {
    control_plane(async |cluster| {
        let all = Garbage::on(cluster).await?;
        all.deployment("simple").await?;
        all.deployments.delete_with("simple", &DeleteParams::orphan()).await?;
        until("the Deployment is gone", async || Ok(!all.deployments.exists("simple").await?)).await?;
        cluster.advance(Duration::from_secs(30)).await;
        let left = all.replica_sets.list("").await?;
        assert_eq!(left.len(), 1);
        assert!(!has_controller(&left[0]), "{:#}", left[0]["metadata"]);
        assert_eq!(all.pods.list("app=simple").await?.len(), 2);
        Ok(())
    });
}

#[test]
fn deleting_a_replication_controller_in_the_background_removes_its_pods() {
    control_plane(async |cluster| {
        let all = Garbage::on(cluster).await?;
        all.controller("simple", 10).await?;
        all.controllers.delete_with("simple", &DeleteParams::background()).await?;
        until("the pods are gone", async || Ok(all.pods.list("").await?.is_empty())).await
    });
}

#[test]
fn orphaning_a_replication_controller_leaves_its_pods() {
    control_plane(async |cluster| {
        let all = Garbage::on(cluster).await?;
        all.controller("simple", 10).await?;
        all.controllers.delete_with("simple", &DeleteParams::orphan()).await?;
        until("the controller is gone", async || Ok(!all.controllers.exists("simple").await?)).await?;
        cluster.advance(Duration::from_secs(30)).await;
        let left = all.pods.list("").await?;
        assert_eq!(left.len(), 10);
        assert!(!left.iter().any(has_controller));
        Ok(())
    });
}

#[test]
fn foreground_deletion_keeps_a_replication_controller_until_its_pods_are_gone() {
    cluster(async |cluster| {
        let all = Garbage::on(cluster).await?;
        all.controller("simple", 10).await?;
        cluster.settle().await;
        all.controllers.delete_with("simple", &DeleteParams::foreground()).await?;
        until("the controller is gone", async || {
            if !all.controllers.exists("simple").await? {
                return Ok(true);
            }
            let controller = all.controllers.get("simple").await?;
            assert_eq!(controller["metadata"]["finalizers"], json!(["foregroundDeletion"]));
            assert!(!controller["metadata"]["deletionTimestamp"].is_null());
            Ok(false)
        })
        .await?;
        assert!(all.pods.list("").await?.is_empty());
        let gone: Vec<_> = cluster.history().into_iter().filter(|change| change.value.is_none()).collect();
        let last = gone.iter().map(|change| change.object().1).filter(|name| name.starts_with("default/simple"));
        assert_eq!(last.collect::<Vec<_>>().last().map(String::as_str), Some("default/simple"), "the owner goes last");
        Ok(())
    });
}

#[test]
fn a_pod_with_a_living_owner_stays_while_another_owner_waits_for_its_dependents() {
    cluster(async |cluster| {
        let all = Garbage::on(cluster).await?;
        all.controller("to-be-deleted", 10).await?;
        let stays = all.controller("to-stay", 0).await?;
        let owner = json!({ "apiVersion": "v1", "kind": "ReplicationController", "name": "to-stay", "uid": stays });
        cluster.settle().await;
        let pods = all.pods.list("app=to-be-deleted").await?;
        for pod in &pods[..5] {
            let patch = json!({ "metadata": { "ownerReferences": [owner] } });
            all.pods.patch(name(pod), &Patch::Strategic(patch)).await?;
        }
        all.controllers.delete_with("to-be-deleted", &DeleteParams::foreground()).await?;
        until("the controller is gone", async || Ok(!all.controllers.exists("to-be-deleted").await?)).await?;
        let left = all.pods.list("app=to-be-deleted").await?;
        assert_eq!(left.iter().map(name).collect::<Vec<_>>(), pods[..5].iter().map(name).collect::<Vec<_>>());
        for pod in left {
            assert!(pod["metadata"]["deletionTimestamp"].is_null());
            assert_eq!(pod["metadata"]["ownerReferences"], json!([owner]));
        }
        Ok(())
    });
}

#[test]
fn a_circle_of_owners_does_not_block_collection() {
    control_plane(async |cluster| {
        let pods = Objects::find(cluster, "v1", "Pod").await?;
        let mut uids = vec![];
        for name in ["pod1", "pod2", "pod3"] {
            let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": template("")["spec"] });
            uids.push(pods.create(&pod).await?["metadata"]["uid"].clone());
        }
        for (name, owner) in [("pod1", 3), ("pod2", 1), ("pod3", 2)] {
            let owner = json!({
                "apiVersion": "v1", "kind": "Pod", "name": format!("pod{owner}"), "uid": uids[owner - 1],
                "controller": true, "blockOwnerDeletion": true,
            });
            pods.patch(name, &Patch::Strategic(json!({ "metadata": { "ownerReferences": [owner] } }))).await?;
        }
        pods.delete_with("pod1", &DeleteParams::foreground()).await?;
        until("all are gone", async || Ok(pods.list("").await?.is_empty())).await
    });
}

async fn namespace(cluster: &Cluster, name: &str) -> anyhow::Result<Objects> {
    let namespaces = Objects::find(cluster, "v1", "Namespace").await?;
    namespaces.create(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })).await?;
    Ok(namespaces)
}

#[test]
fn a_finalizer_is_put_on_a_namespace_and_taken_off_through_finalize() {
    control_plane(async |cluster| {
        let namespaces = namespace(cluster, "e2e-ns").await?;
        const FAKE: &str = "e2e.example.com/fakeFinalizer";
        let mut with = namespaces.get("e2e-ns").await?;
        with["spec"]["finalizers"] = json!([FAKE, "kubernetes"]);
        let with = namespaces.replace_sub("finalize", &with).await?;
        assert_eq!(with["spec"]["finalizers"], json!([FAKE, "kubernetes"]));
        let mut without = with.clone();
        without["spec"]["finalizers"] = json!(["kubernetes"]);
        assert_eq!(namespaces.replace_sub("finalize", &without).await?["spec"]["finalizers"], json!(["kubernetes"]));
        assert_eq!(namespaces.get("e2e-ns").await?["spec"]["finalizers"], json!(["kubernetes"]));
        Ok(())
    });
}

#[test]
fn a_namespace_is_updated_with_a_label() {
    control_plane(async |cluster| {
        let namespaces = namespace(cluster, "e2e-ns").await?;
        let mut object = namespaces.get("e2e-ns").await?;
        object["metadata"]["labels"]["e2e-ns"] = "updated".into();
        assert_eq!(namespaces.replace(&object).await?["metadata"]["labels"]["e2e-ns"], "updated");
        assert_eq!(namespaces.list("e2e-ns=updated").await?.len(), 1);
        Ok(())
    });
}

#[test]
fn a_namespace_is_patched_with_a_label() {
    control_plane(async |cluster| {
        let namespaces = namespace(cluster, "nspatchtest").await?;
        let patch = json!({ "metadata": { "labels": { "testLabel": "testValue" } } });
        namespaces.patch("nspatchtest", &Patch::Strategic(patch.clone())).await?;
        assert_contains(&namespaces.get("nspatchtest").await?, &patch);
        Ok(())
    });
}

#[test]
fn a_namespaces_status_is_read_patched_and_updated() {
    control_plane(async |cluster| {
        let namespaces = namespace(cluster, "e2e-ns").await?;
        assert_eq!(text(&namespaces.get_sub("status", "e2e-ns").await?, "/status/phase"), "Active");
        let condition =
            |kind: &str, message: &str| json!({ "type": kind, "status": "True", "reason": "E2E", "message": message });
        let patch = json!({
            "metadata": { "annotations": { "e2e-patched-ns-status": "e2e-ns" } },
            "status": { "conditions": [condition("StatusPatch", "Patched by an e2e test")] },
        });
        let mut patched = namespaces.patch_sub("status", "e2e-ns", &Patch::Merge(patch.clone())).await?;
        assert_contains(&patched, &patch);
        let updated = condition("StatusUpdate", "Updated by an e2e test");
        patched["status"]["conditions"].as_array_mut().expect("it has one").push(updated.clone());
        let stored = namespaces.replace_sub("status", &patched).await?;
        assert_contains(&stored["status"]["conditions"][1], &updated);
        assert_eq!(text(&stored, "/status/phase"), "Active");
        Ok(())
    });
}

#[test]
fn a_namespaces_services_go_with_it() {
    control_plane(async |cluster| {
        let namespaces = namespace(cluster, "nsdeletetest").await?;
        let accounts = Objects::find(cluster, "v1", "ServiceAccount").await?.in_namespace("nsdeletetest");
        until("the default ServiceAccount is there", async || Ok(accounts.exists("default").await?)).await?;
        let services = Objects::find(cluster, "v1", "Service").await?.in_namespace("nsdeletetest");
        services
            .create(&json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": "test-service" },
                "spec": { "selector": { "foo": "bar", "baz": "blah" }, "ports": [{ "port": 80, "targetPort": 80 }] },
            }))
            .await?;
        namespaces.delete("nsdeletetest").await?;
        until("the namespace is gone", async || Ok(!namespaces.exists("nsdeletetest").await?)).await?;
        namespace(cluster, "nsdeletetest").await?;
        assert!(services.list("").await?.is_empty());
        Ok(())
    });
}

#[test]
fn a_namespaces_pods_go_with_it() {
    cluster(async |cluster| {
        let namespaces = namespace(cluster, "nsdeletetest").await?;
        let pods = Objects::find(cluster, "v1", "Pod").await?.in_namespace("nsdeletetest");
        until("a pod is let in", async || Ok(pods.create(&pod("test-pod", json!({}), json!({}))).await.is_ok()))
            .await?;
        until("it runs", async || Ok(pods.get("test-pod").await?["status"]["phase"] == "Running")).await?;
        namespaces.delete("nsdeletetest").await?;
        until("the namespace is gone", async || Ok(!namespaces.exists("nsdeletetest").await?)).await?;
        namespace(cluster, "nsdeletetest").await?;
        assert!(pods.list("").await?.is_empty());
        Ok(())
    });
}

#[test]
fn a_namespaces_pods_go_before_all_else() {
    cluster(async |cluster| {
        let namespaces = namespace(cluster, "nsdeletetest").await?;
        let pods = Objects::find(cluster, "v1", "Pod").await?.in_namespace("nsdeletetest");
        let maps = Objects::find(cluster, "v1", "ConfigMap").await?.in_namespace("nsdeletetest");
        let mut kept = pod("ordered", json!({}), json!({}));
        kept["metadata"]["finalizers"] = json!(["example.com/keep"]);
        until("a pod is let in", async || Ok(pods.create(&kept).await.is_ok())).await?;
        maps.create(&json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "needed" } })).await?;
        namespaces.delete("nsdeletetest").await?;
        until("it is told what is left", async || {
            let namespace = namespaces.get("nsdeletetest").await?;
            let mut conditions = namespace["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.retain(|c| c["type"] == "NamespaceContentRemaining" && c["status"] == "True");
            Ok(conditions.iter().any(|c| text(c, "/message").contains("pods. has 1 resource instances")))
        })
        .await?;
        cluster.advance(std::time::Duration::from_secs(60)).await;
        assert!(!text(&pods.get("ordered").await?, "/metadata/deletionTimestamp").is_empty());
        assert!(maps.exists("needed").await?, "a pod is still there that may need it");
        pods.merge("ordered", json!({ "metadata": { "finalizers": null } })).await?;
        until("the namespace is gone", async || Ok(!namespaces.exists("nsdeletetest").await?)).await?;
        assert!(!maps.exists("needed").await?);
        Ok(())
    });
}

/// Defines Bags, which may hold anything.
async fn bags(cluster: &Cluster) -> anyhow::Result<()> {
    let definitions = Objects::find(cluster, "apiextensions.k8s.io/v1", "CustomResourceDefinition").await?;
    let anything = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    definitions
        .create(&json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": { "name": "bags.example.com" },
            "spec": {
                "group": "example.com", "scope": "Namespaced", "names": { "plural": "bags", "kind": "Bag" },
                "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": anything } }],
            },
        }))
        .await?;
    until("it is established", async || {
        let definition = definitions.get("bags.example.com").await?;
        let conditions = definition["status"]["conditions"].as_array().cloned().unwrap_or_default();
        Ok(conditions.iter().any(|condition| condition["type"] == "Established" && condition["status"] == "True"))
    })
    .await
}

const BAGS: &str = "/apis/example.com/v1/namespaces/default/bags";

#[test]
fn a_custom_resource_without_a_schema_takes_unknown_fields_when_applied_strictly() {
    api(async |cluster| {
        bags(cluster).await?;
        let request = http::Request::patch(format!("{BAGS}/mine?fieldManager=conformance&fieldValidation=Strict"))
            .header("content-type", "application/apply-patch+yaml");
        let bag = r#"{"apiVersion":"example.com/v1","kind":"Bag","metadata":{"name":"mine"},"spec":{"unknown1":"a","b":{"c":1}}}"#;
        let applied: Value = cluster.client().request(request.body(bag.into())?).await?;
        assert_eq!(applied["spec"], json!({ "unknown1": "a", "b": { "c": 1 } }));
        Ok(())
    });
}

#[test]
fn duplicate_fields_of_a_custom_resource_are_refused_where_unknown_ones_are_kept() {
    api(async |cluster| {
        bags(cluster).await?;
        let create = async |validation: &str| {
            let path = format!("{BAGS}?fieldValidation={validation}");
            let request = http::Request::post(path).header("content-type", "application/json");
            let bag = r#"{"apiVersion":"example.com/v1","kind":"Bag","metadata":{"name":"mine"},"spec":{"twice":"a","twice":"b"}}"#;
            cluster.client().request::<Value>(request.body(bag.into()).expect("a request")).await
        };
        let why = refused(create("Strict").await, 400, "BadRequest").message;
        assert!(why.ends_with(r#"strict decoding error: duplicate field "spec.twice""#), "{why}");
        assert_eq!(create("Ignore").await?["spec"]["twice"], "b");
        Ok(())
    });
}
