//! A cluster in which nothing happens does next to nothing.

use std::collections::BTreeMap;

use coracle_sim::Cluster;
use serde_json::json;

use crate::support::*;

#[test]
fn an_idle_cluster_only_keeps_its_heartbeats() {
    play(Cluster::builder().nodes(3), async |cluster| {
        cluster.create(deployment("web", 6, "nginx:1")).await?;
        cluster.create(workload("StatefulSet", "db", "mysql:8", json!({ "replicas": 2 }))).await?;
        cluster.create(workload("DaemonSet", "log", "fluentd:1", json!({}))).await?;
        cluster.settle().await;
        let (before, asked) = (cluster.revision(), cluster.requests());
        cluster.advance(seconds(3600)).await;
        // Each node renews its lease every ten seconds (or a little later) and its status every five minutes.
        let (leases, statuses) = (3 * 360, 3 * 12);
        let since = cluster.history().into_iter().filter(|change| change.revision > before);
        let mut writes: BTreeMap<String, usize> = BTreeMap::new();
        since.for_each(|change| *writes.entry(change.object().0).or_default() += 1);
        let lease_writes = writes.remove("leases").unwrap_or_default();
        let node_writes = writes.remove("minions").or(writes.remove("nodes")).unwrap_or_default();
        assert!(writes.is_empty(), "{writes:?}");
        assert!((leases * 9 / 10..=leases + 3).contains(&lease_writes), "{lease_writes} renewals of leases");
        assert!(node_writes <= statuses + 3, "{node_writes} statuses of nodes");

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
