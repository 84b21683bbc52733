//! DaemonSets and their ControllerRevisions.

use coracle_sim::Cluster;
use kube::api::Patch;
use serde_json::{Value, json};

use crate::objects::Objects;
use crate::support::*;
use crate::workloads::{self, create};

fn daemon_set() -> Value {
    workloads::workload("DaemonSet", "ds")
}

/// The set's pods, as node and image, in the order of nodes.
async fn pods(cluster: &Cluster) -> anyhow::Result<Vec<(String, String)>> {
    let pods = Objects::find(cluster, "v1", "Pod").await?.list("app=ds").await?;
    let ready = pods.iter().filter(|pod| workloads::is_ready(pod));
    let place =
        |pod: &Value| (text(pod, "/spec/nodeName").to_owned(), text(pod, "/spec/containers/0/image").to_owned());
    let mut places: Vec<_> = ready.map(place).collect();
    places.sort();
    Ok(places)
}

/// Waits until just these nodes have a ready pod of this image.
async fn runs_on(cluster: &Cluster, nodes: &[&str], image: &str) -> anyhow::Result<()> {
    let expected: Vec<_> = nodes.iter().map(|&node| (node.to_owned(), image.to_owned())).collect();
    until("its pods are where they should", async || Ok(pods(cluster).await? == expected)).await?;
    cluster.settle().await;
    assert_eq!(pods(cluster).await?, expected);
    Ok(())
}

const BOTH: &[&str] = &["coracle-1", "coracle-2"];

#[test]
fn a_simple_daemon_runs_on_every_node_and_comes_back() {
    cluster(async |cluster| {
        let all = Objects::find(cluster, "v1", "Pod").await?;
        let sets = create(cluster, &daemon_set()).await?;
        runs_on(cluster, BOTH, "httpd:1").await?;
        let gone = all.list("app=ds").await?.remove(0);
        all.delete(name(&gone)).await?;
        until("it is gone", async || Ok(!all.exists(name(&gone)).await?)).await?;
        runs_on(cluster, BOTH, "httpd:1").await?;
        let third = cluster.add_node(Default::default()).await?;
        runs_on(cluster, &["coracle-1", "coracle-2", &third], "httpd:1").await?;
        let status = sets.get("ds").await?["status"].clone();
        let counts = [
            "desiredNumberScheduled",
            "currentNumberScheduled",
            "numberReady",
            "numberAvailable",
            "updatedNumberScheduled",
        ];
        assert!(counts.iter().all(|count| status[count] == 3), "{status}");
        Ok(())
    });
}

#[test]
fn a_daemon_with_a_node_selector_follows_the_labels_of_nodes() {
    cluster(async |cluster| {
        let nodes = Objects::find(cluster, "v1", "Node").await?;
        let label = async |color: Value| {
            nodes.merge("coracle-2", json!({ "metadata": { "labels": { "color": color } } })).await
        };
        let mut set = daemon_set();
        set["spec"]["updateStrategy"] = json!({ "type": "OnDelete" });
        set["spec"]["template"]["spec"]["nodeSelector"] = json!({ "color": "blue" });
        let sets = create(cluster, &set).await?;
        runs_on(cluster, &[], "").await?;
        label("blue".into()).await?;
        runs_on(cluster, &["coracle-2"], "httpd:1").await?;
        assert_eq!(sets.get("ds").await?["status"]["currentNumberScheduled"], 1);
        label("green".into()).await?;
        runs_on(cluster, &[], "").await?;
        let green = json!({ "spec": {
            "updateStrategy": { "type": "RollingUpdate" }, "template": { "spec": { "nodeSelector": { "color": "green" } } },
        } });
        sets.patch("ds", &Patch::Strategic(green)).await?;
        runs_on(cluster, &["coracle-2"], "httpd:1").await
    });
}

#[test]
fn a_failed_daemon_pod_is_replaced_and_one_that_keeps_failing_backed_off() {
    cluster(async |cluster| {
        let all = Objects::find(cluster, "v1", "Pod").await?;
        create(cluster, &daemon_set()).await?;
        runs_on(cluster, BOTH, "httpd:1").await?;
        let start = coracle_clock::instant();
        for _ in 0..6 {
            until("both are ready", async || Ok(pods(cluster).await?.len() == 2)).await?;
            let there = all.list("app=ds").await?;
            let victim = there.iter().find(|pod| text(pod, "/spec/nodeName") == "coracle-1").expect("it has one");
            workloads::evict(cluster, name(victim)).await?;
            until("it is gone", async || Ok(!all.exists(name(victim)).await?)).await?;
        }
        // At once, and then 1, 2, 4, 8 and 16 seconds after the one before.
        assert!((31..60).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        runs_on(cluster, BOTH, "httpd:1").await
    });
}

#[test]
fn a_changed_daemon_is_updated_node_by_node() {
    cluster(async |cluster| {
        let sets = create(cluster, &daemon_set()).await?;
        runs_on(cluster, BOTH, "httpd:1").await?;
        let all = Objects::find(cluster, "v1", "Pod").await?;
        let mut watch = all.watch("app=ds", &all.now().await?).await?;
        sets.patch("ds", &Patch::Strategic(workloads::image("httpd:2"))).await?;
        runs_on(cluster, BOTH, "httpd:2").await?;
        // Until the first new pod is ready, one old pod is deleted and no more.
        let mut deleted = std::collections::BTreeSet::new();
        loop {
            let (_, pod) = watch.next().await?;
            if text(&pod, "/spec/containers/0/image") == "httpd:2" && workloads::is_ready(&pod) {
                break;
            }
            if pod["metadata"]["deletionTimestamp"].is_string() {
                deleted.insert(name(&pod).to_owned());
            }
        }
        assert_eq!(deleted.len(), 1);
        Ok(())
    });
}

#[test]
fn a_daemon_that_surges_has_a_ready_pod_on_every_node_throughout() {
    cluster(async |cluster| {
        let mut set = daemon_set();
        set["spec"]["updateStrategy"] =
            json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } });
        let sets = create(cluster, &set).await?;
        runs_on(cluster, BOTH, "httpd:1").await?;
        let since = cluster.revision();
        sets.patch("ds", &Patch::Strategic(workloads::image("httpd:2"))).await?;
        runs_on(cluster, BOTH, "httpd:2").await?;
        let mut there = std::collections::BTreeMap::new();
        for change in cluster.history().iter().filter(|change| change.object().0 == "pods") {
            let pod = change.json();
            match workloads::is_ready(&pod) && pod["metadata"]["deletionTimestamp"].is_null() {
                true => drop(there.insert(change.object().1, text(&pod, "/spec/nodeName").to_owned())),
                false => drop(there.remove(&change.object().1)),
            }
            let nodes: std::collections::BTreeSet<_> = there.values().collect();
            assert!(change.revision <= since || nodes.len() == 2, "{there:?}");
        }
        Ok(())
    });
}

#[test]
fn a_daemon_rolled_back_keeps_the_pods_that_run_the_old_template() {
    cluster(async |cluster| {
        let all = Objects::find(cluster, "v1", "Pod").await?;
        let sets = create(cluster, &daemon_set()).await?;
        runs_on(cluster, BOTH, "httpd:1").await?;
        let before: Vec<_> = all.list("app=ds").await?.iter().map(|pod| name(pod).to_owned()).collect();
        let revisions = Objects::find(cluster, "apps/v1", "ControllerRevision").await?;
        let first = revisions.list("app=ds").await?.remove(0);
        let mut broken = workloads::image("foo:bad");
        broken["spec"]["template"]["spec"]["nodeSelector"] = Value::Null;
        broken["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"] = 81.into();
        sets.patch("ds", &Patch::Strategic(broken)).await?;
        until("one is being replaced", async || {
            let pods = all.list("app=ds").await?;
            Ok(pods.iter().any(|pod| text(pod, "/spec/containers/0/image") == "foo:bad"))
        })
        .await?;
        // As `kubectl rollout undo` does it: the old revision's data is the patch.
        sets.patch("ds", &Patch::Strategic(first["data"].clone())).await?;
        runs_on(cluster, BOTH, "httpd:1").await?;
        let after: Vec<_> = all.list("app=ds").await?.iter().map(|pod| name(pod).to_owned()).collect();
        assert_eq!(after.iter().filter(|pod| before.contains(pod)).count(), 1, "{before:?} {after:?}");
        assert_eq!(revisions.get(name(&first)).await?["revision"], 3);
        Ok(())
    });
}

#[test]
fn daemon_sets_are_listed_and_deleted_as_a_collection() {
    workloads::is_listed_patched_and_deleted_as_a_collection(&daemon_set());
}

#[test]
fn the_status_of_a_daemon_set_is_read_updated_and_patched() {
    workloads::has_a_status(&daemon_set());
}

#[test]
fn the_controller_revisions_of_a_daemon_set_live_through_every_verb() {
    cluster(async |cluster| {
        let sets = create(cluster, &daemon_set()).await?;
        runs_on(cluster, BOTH, "httpd:1").await?;
        let revisions = Objects::find(cluster, "apps/v1", "ControllerRevision").await?;
        assert_eq!(revisions.everywhere().list("app=ds").await?.len(), 1);
        let first = revisions.list("app=ds").await?.remove(0);
        assert_eq!(first["metadata"]["ownerReferences"][0]["kind"], "DaemonSet");
        let patched = revisions.merge(name(&first), json!({ "metadata": { "labels": { "patched": "yes" } } })).await?;
        assert_eq!(patched["metadata"]["labels"]["patched"], "yes");
        let mut replaced = patched;
        replaced["metadata"]["labels"]["replaced"] = "yes".into();
        let mut replaced = revisions.replace(&replaced).await?;
        let mut other = replaced["data"].clone();
        other["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 2.into();
        replaced["data"] = other;
        refused(revisions.replace(&replaced).await, 422, "Invalid");

        revisions.delete(name(&first)).await?;
        assert!(revisions.list("app=ds").await?.is_empty());
        sets.merge("ds", json!({ "metadata": { "labels": { "look": "again" } } })).await?;
        until("it is back", async || Ok(revisions.exists(name(&first)).await?)).await?;
        sets.patch("ds", &Patch::Strategic(workloads::image("httpd:2"))).await?;
        runs_on(cluster, BOTH, "httpd:2").await?;
        assert_eq!(revisions.list("app=ds").await?.len(), 2);
        revisions
            .delete_collection(&format!(
                "controller-revision-hash={}",
                text(&first, "/metadata/labels/controller-revision-hash")
            ))
            .await?;
        assert_eq!(revisions.list("app=ds").await?[0]["revision"], 2);
        Ok(())
    });
}
