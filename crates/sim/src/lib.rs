//! A whole cluster in one thread and in virtual time.
//!
//! ```text
//!  scenario ── admin client ──┐
//!  controller-manager ────────┤ line  (counts requests, can be cut)
//!  scheduler ─────────────────┼──────► API server ──► MemoryStore ──► history
//!  kubelet ─ simulated node ──┤
//!  kubelet ─ simulated node ──┘
//! ```
//!
//! Everything but the containers is the real thing: the same API server, controllers, scheduler and kubelets as in
//! a cluster on Docker, over the same clients. They run as tasks of one thread whose clock is paused: when nobody
//! has anything to do, time jumps to the next moment at which somebody has. So a day of a cluster's life takes
//! seconds, and since chance comes from a seed ([`coracle_clock`]), the same seed gives the same history, byte for
//! byte ([`Cluster::history`]).
//!
//! So a `cargo test` of your own has a cluster, and does to it what your program does:
//!
//! ```
//! use coracle_sim::Cluster;
//! use k8s_openapi::api::apps::v1::Deployment;
//! use kube::api::{Api, PostParams};
//! use serde_json::{from_value, json};
//!
//! Cluster::builder().nodes(3).run(async |cluster| {
//!     let deployments: Api<Deployment> = Api::default_namespaced(cluster.client());
//!     let web = json!({
//!         "metadata": { "name": "web" },
//!         "spec": {
//!             "replicas": 3,
//!             "selector": { "matchLabels": { "app": "web" } },
//!             "template": {
//!                 "metadata": { "labels": { "app": "web" } },
//!                 "spec": { "containers": [{ "name": "nginx", "image": "nginx:1" }] },
//!             },
//!         },
//!     });
//!     deployments.create(&PostParams::default(), &from_value(web)?).await?;
//!     cluster.settle().await;
//!     let status = deployments.get("web").await?.status.unwrap_or_default();
//!     assert_eq!(status.ready_replicas, Some(3));
//!     Ok(())
//! }).unwrap();
//! ```
//!
//! A whole cluster's life, with its traffic, its failures and what is expected of it, is a file: a [`scenario`].
//!
//! Whatever can go wrong can be made to:
//!
//! ```
//! use std::time::Duration;
//! use coracle_sim::{Cluster, Component};
//! use serde_json::json;
//!
//! Cluster::builder().seed(7).nodes(2).run(async |cluster| {
//!     cluster.create(json!({
//!         "apiVersion": "v1", "kind": "Pod",
//!         "metadata": { "name": "web" },
//!         "spec": { "containers": [{ "name": "nginx", "image": "nginx:1" }] },
//!     })).await?;
//!     cluster.settle().await;
//!     let pod = cluster.get("pods", "web").await?.expect("nobody deleted it");
//!     assert_eq!(pod["status"]["phase"], "Running");
//!
//!     // The kubelet dies; the container does not, and the next kubelet takes it over.
//!     let node = pod["spec"]["nodeName"].as_str().expect("it runs").to_owned();
//!     cluster.crash(&Component::Kubelet(node.clone()));
//!     cluster.advance(Duration::from_secs(20)).await;
//!     cluster.restart(&Component::Kubelet(node)).await?;
//!     cluster.settle().await;
//!     let pod = cluster.get("pods", "web").await?.expect("nobody deleted it");
//!     assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
//!     Ok(())
//! }).unwrap();
//! ```

mod builder;
mod cluster;
mod faults;
mod history;
mod kubelets;
mod line;
mod objects;
pub mod scenario;
mod serve;

pub use builder::Builder;
pub use cluster::{Cluster, Component};
pub use faults::Delay;
pub use history::{Change, dump};
pub use scenario::{Pace, Report, Scenario};
