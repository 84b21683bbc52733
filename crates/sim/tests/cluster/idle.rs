//! A cluster in which nothing happens does next to nothing.

use coracle_sim::Cluster;
use serde_json::{Value, json};

use crate::support::*;

#[test]
fn an_idle_cluster_only_keeps_its_heartbeats() {
    play(Cluster::builder().nodes(3), async |cluster| {
        cluster.create(deployment("web", 6, "nginx:1")).await?;
        cluster.create(workload("StatefulSet", "db", "mysql:8", json!({ "replicas": 2 }))).await?;
        cluster.create(workload("DaemonSet", "log", "fluentd:1", json!({}))).await?;
        cluster.settle().await;
        let asked = cluster.requests();
        let (before, start) = (cluster.history().len(), cluster.revision());
        assert_eq!(idle_writes(cluster, seconds(3600)).await, [""; 0]);
        // Nor less than the heartbeats: each node renews its lease every ten seconds, or a little later.
        let renewals =
            cluster.history().into_iter().skip(before).filter(|change| change.object().0 == "leases").count();
        assert!(renewals >= 3 * 324 && cluster.revision() > start, "{renewals} renewals of leases");

        let mut more = cluster.requests();
        for (request, count) in asked {
            *more.entry(request).or_default() -= count;
        }
        more.retain(|request, count| *count > 0 && !request.ends_with("?watch"));
        let others: u64 = more.iter().filter(|(r, _)| !r.contains("/leases/")).map(|(_, count)| count).sum();
        assert!(others <= 400, "{more:#?}");
        Ok(())
    });
}

#[test]
fn with_one_of_every_kind_too() {
    play(Cluster::builder().nodes(3), async |cluster| {
        let documents = serde_yaml_ng::Deserializer::from_str(include_str!("everything.yaml"));
        for object in documents {
            let object: Value = serde::Deserialize::deserialize(object)?;
            cluster.create(object.clone()).await.map_err(|error| error.context(object.to_string()))?;
        }
        cluster.delete("namespaces", "stuck").await?;
        cluster.settle().await;
        for pod in pods(cluster, "web").await? {
            cluster.set_use("default", &name(&pod), 50, 1 << 20);
        }
        cluster.power_off("coracle-3");
        cluster.advance(seconds(600)).await;
        cluster.settle().await;
        assert_eq!(idle_writes(cluster, seconds(2 * 3600)).await, [""; 0]);
        Ok(())
    });
}
