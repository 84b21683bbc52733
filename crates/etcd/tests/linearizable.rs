//! Whether a real etcd, its clusters, and a store that is served as one behave as a store may, seen through the client.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

mod common;
#[path = "../../store/tests/history/mod.rs"]
mod history;

use std::time::Duration;

use common::{RealEtcd, Served, available};
use coracle_etcd::{EtcdConfig, EtcdStore};
use coracle_store::{MemoryStore, SharedStore, SledConfig, SledStore};
use history::clients::{histories, round};
use history::naive::State;

async fn connect(config: &EtcdConfig) -> SharedStore {
    EtcdStore::connect(config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_real_etcd_is_linearizable_and_its_watches_are_reliable() {
    if available(&["etcd", "etcdctl"]) {
        let mut etcd = RealEtcd::start_empty().await;
        let store = connect(&etcd.config()).await;
        // It comes back where it was, and so does the way to it.
        let restart = async |store| {
            etcd.kill(0).await;
            etcd.restart(0).await;
            store
        };
        histories(store, restart).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_served_store_is_linearizable_and_its_watches_are_reliable() {
    let dir = tempfile::tempdir().unwrap();
    let sled = SledStore::open(SledConfig::new(dir.path())).await.unwrap() as SharedStore;
    for store in [MemoryStore::new() as SharedStore, sled] {
        let etcd = Served::start(store).await;
        histories(connect(&etcd.config()).await, async |_| connect(&etcd.config()).await).await;
    }
}

/// Members of a cluster that speaks TLS are killed and come back while clients are at work: none of their calls is done
/// twice, what was answered stays, and watches go on elsewhere where they were.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cluster_whose_members_die_is_linearizable_and_its_watches_are_reliable() {
    if !available(&["etcd", "etcdctl"]) {
        return;
    }
    let mut etcd = RealEtcd::start_cluster().await;
    let stranger = EtcdConfig { identity: None, ..etcd.config() };
    let refused = EtcdStore::connect(&stranger).await.unwrap_err().to_string();
    assert!(refused.starts_with("no etcd answers: https://127.0.0.1:"), "{refused}");
    let store = connect(&etcd.config()).await;
    let mut state = State::new();
    // The first is whom the store asks; after that, each is the one it went to.
    for member in 0..3 {
        let before = store.revision();
        let killed = async {
            while store.revision() < before + 50 {
                coracle_clock::sleep(Duration::from_millis(1)).await;
            }
            etcd.kill(member).await;
            store.revision()
        };
        let (judged, at) = futures::join!(round(&store, state, member as u64, 60), killed);
        let unanswered;
        (state, unanswered) = judged;
        eprintln!("member {member}: killed at revision {at}, gone on to {}, {unanswered} unanswered", store.revision());
        assert!(store.revision() > at + 50, "it was killed under load: {at}, {}", store.revision());
        etcd.restart(member).await;
    }
}
