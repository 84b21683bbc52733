//! The operator, tested with a whole cluster in this process: in virtual time, where waiting takes no time and one seed
//! is one history, and in real time.

use std::time::Duration;

use coracle_examples::{install, run, website};
use coracle_sim::{Builder, Cluster, Component};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use serde_json::json;

const OPERATOR: &str = "website-operator";

fn a_website_comes_changes_and_goes(cluster: Builder) -> anyhow::Result<()> {
    cluster.run(async |cluster| {
        let client = cluster.client();
        install(client.clone()).await?;
        tokio::spawn(run(cluster.client_for(OPERATOR)));

        let sites: Api<DynamicObject> = Api::default_namespaced_with(client, &website());
        let site = json!({ "apiVersion": "example.com/v1", "kind": "Website", "metadata": { "name": "home" },
                           "spec": { "image": "nginx:1", "replicas": 2 } });
        sites.create(&PostParams::default(), &serde_json::from_value(site)?).await?;
        is_up(cluster, 2).await?;
        assert!(cluster.get("services", "home").await?.is_some());

        // While the operator is dead nothing happens; the next one finds what is to be done.
        cluster.crash(&Component::Client(OPERATOR.into()));
        let more = json!({ "spec": { "replicas": 3 } });
        sites.patch("home", &PatchParams::default(), &Patch::Merge(more)).await?;
        cluster.advance(Duration::from_millis(50)).await;
        is_up(cluster, 2).await?;
        tokio::spawn(run(cluster.client_for(OPERATOR)));
        is_up(cluster, 3).await?;

        sites.delete("home", &DeleteParams::default()).await?;
        cluster.until("all is gone", async |cluster| Ok(cluster.list("pods", None).await?.is_empty())).await
    })
}

async fn is_up(cluster: &Cluster, replicas: u64) -> anyhow::Result<()> {
    let available = async |cluster: &Cluster| {
        let deployment = cluster.get("deployments", "home").await?;
        Ok(deployment.is_some_and(|deployment| deployment["status"]["availableReplicas"] == replicas))
    };
    cluster.until("the site is up", available).await
}

#[test]
fn in_virtual_time() -> anyhow::Result<()> {
    a_website_comes_changes_and_goes(Cluster::builder().seed(7))
}

#[test]
fn in_real_time() -> anyhow::Result<()> {
    a_website_comes_changes_and_goes(Cluster::builder().real_time())
}
