//! What every engine must do, over a real etcd and over a store that is served as one. Their clocks are real.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

mod common;
#[macro_use]
#[path = "../../store/tests/specifications/mod.rs"]
mod specifications;

use common::{RealEtcd, Served, available};
use coracle_etcd::EtcdStore;
use coracle_store::{MemoryStore, SharedStore};

conformance!(real, tokio::test(flavor = "multi_thread"), crate::real);
conformance!(served, tokio::test(flavor = "multi_thread"), crate::served);

/// Debian's etcd is one whose answers about progress may come too early: they are not asked for.
const NO_PROGRESS: [&str; 2] = ["a_watch_tells_how_far_it_is", "a_watch_tells_how_far_it_is_when_asked"];

/// A server sends what happens without being asked: a watcher that sleeps gets it all the same.
const NO_SLEEPER: &str = "a_watcher_that_slept_through_a_compaction_is_told";

/// Whether a specification is left out, and says so.
fn left_out(specification: &str, those: &[&str]) -> bool {
    let out = those.contains(&specification);
    if out {
        eprintln!("left out for this server: {specification}");
    }
    out
}

async fn real(specification: &str) -> Option<(SharedStore, RealEtcd)> {
    let those = [&NO_PROGRESS[..], &[NO_SLEEPER]].concat();
    if !available(&["etcd", "etcdctl"]) || left_out(specification, &those) {
        return None;
    }
    let etcd = RealEtcd::start_empty().await;
    let config = etcd.config();
    Some((EtcdStore::connect(&config).await.unwrap(), etcd))
}

async fn served(specification: &str) -> Option<(SharedStore, Served)> {
    if left_out(specification, &[NO_SLEEPER]) {
        return None;
    }
    let etcd = Served::start(MemoryStore::new()).await;
    Some((EtcdStore::connect(&etcd.config()).await.unwrap(), etcd))
}
