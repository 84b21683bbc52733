//! The faults themselves: what a component that suffers them sees, and that a seed's history repeats itself with them.

use anyhow::Context;
use coracle_sim::{Cluster, Component, Delay};
use serde_json::{Value, json};

use crate::support::*;

#[test]
fn a_cut_off_node_keeps_its_containers_and_is_taken_for_dead_until_it_is_back() {
    simulate(async |cluster| {
        cluster.create(workload("DaemonSet", "log", "fluentd:1", json!({}))).await?;
        cluster.settle().await;
        let kubelet = Component::Kubelet("coracle-2".into());
        cluster.partition(&kubelet);
        cluster.advance(seconds(80)).await;
        assert_eq!(condition(&get(cluster, "nodes", "coracle-2").await?, "Ready"), "Unknown");
        assert_eq!(ready_pods(cluster, "log").await?, 2);
        cluster.heal(&kubelet);
        cluster.advance(seconds(60)).await;
        assert_eq!(condition(&get(cluster, "nodes", "coracle-2").await?, "Ready"), "True");
        let pods = pods(cluster, "log").await?;
        assert!(pods.iter().all(|pod| is_ready(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 0));
        Ok(())
    });
}

/// After how many seconds a pod is bound when something is wrong between scheduler and API server.
fn bound_after(disturb: impl AsyncFnOnce(&mut Cluster) -> anyhow::Result<()>) -> i64 {
    play(Cluster::builder().seed(7), async |cluster| {
        disturb(cluster).await?;
        cluster.create(pod("web", one_container("nginx:1", &[]))).await?;
        cluster.advance(seconds(25)).await;
        cluster.heal(&Component::Scheduler);
        cluster.advance(seconds(60)).await;
        let pod = get(cluster, "pods", "web").await?;
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        let bound = conditions.into_iter().find(|condition| condition["type"] == "PodScheduled");
        let second = |object: Option<&Value>, field: &str| {
            let time = object.and_then(|object| object[field].as_str()).context("not bound")?;
            anyhow::Ok(time.parse::<jiff::Timestamp>()?.as_second())
        };
        Ok(second(bound, "lastTransitionTime")? - second(pod.get("metadata"), "creationTimestamp")?)
    })
}

#[test]
fn each_fault_delays_what_depends_on_the_watch_and_nothing_else() {
    let delayed = |delay| {
        bound_after(async move |cluster| {
            cluster.delay_watch(&Component::Scheduler, &["pods"], delay);
            Ok(())
        })
    };
    let cut_off = async |cluster: &mut Cluster| {
        cluster.partition(&Component::Scheduler);
        Ok(())
    };
    for (fault, after, expected) in [
        ("none", bound_after(async |_| Ok(())), 0..=1),
        ("late", delayed(Delay::Late(seconds(10))), 10..=20),
        ("merged", delayed(Delay::Merged(seconds(10))), 10..=20),
        ("lost", delayed(Delay::Lost(seconds(10))), 10..=13),
        ("lag", bound_after(async |cluster| cluster.lag(&Component::Scheduler, seconds(10)).await), 10..=12),
        ("partition", bound_after(cut_off), 25..=30),
    ] {
        assert!(expected.contains(&after), "{fault}: {after} seconds");
    }
}

#[test]
fn a_cache_that_is_behind_answers_with_the_past_only_who_may_be_told_the_past() {
    play(Cluster::builder().nodes(0), async |cluster| {
        let client = cluster.client_for("me");
        cluster.lag(&Component::Client("me".into()), seconds(10)).await?;
        let maps: kube::Api<k8s_openapi::api::core::v1::ConfigMap> = kube::Api::default_namespaced(client);
        cluster.create(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "new" } })).await?;
        let count = async |params: kube::api::ListParams| anyhow::Ok(maps.list(&params).await?.items.len());
        let any = || kube::api::ListParams::default().match_any();
        assert_eq!((count(any()).await?, count(Default::default()).await?), (1, 2), "kube-root-ca.crt is old");
        cluster.advance(seconds(10)).await;
        assert_eq!(count(any()).await?, 2);
        Ok(())
    });
}
