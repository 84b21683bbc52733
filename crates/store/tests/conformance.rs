//! What every engine must do, over the engines in this process; `crates/etcd` runs the same over servers.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

#[macro_use]
mod specifications;

use std::time::Duration;

use coracle_clock::sleep;
use coracle_store::*;
use specifications::{all_at, put};
use tempfile::TempDir;

conformance!(memory, tokio::test(start_paused = true), crate::memory);
conformance!(sled, tokio::test(start_paused = true), crate::sled);

async fn memory(_: &str) -> Option<(SharedStore, ())> {
    Some((MemoryStore::new(), ()))
}

async fn sled(_: &str) -> Option<(SharedStore, TempDir)> {
    let dir = tempfile::tempdir().unwrap();
    Some((SledStore::open(SledConfig::new(dir.path())).await.unwrap(), dir))
}

#[tokio::test(start_paused = true)]
async fn the_compactor_forgets_what_is_older_than_the_retention_in_memory() {
    the_compactor_forgets_what_is_older_than_the_retention(MemoryStore::new()).await;
}

#[tokio::test(start_paused = true)]
async fn the_compactor_forgets_what_is_older_than_the_retention_on_disk() {
    let (store, _dir) = sled("").await.unwrap();
    the_compactor_forgets_what_is_older_than_the_retention(store).await;
}

async fn the_compactor_forgets_what_is_older_than_the_retention(store: SharedStore) {
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let retention = Retention { age: minutes(60), revisions: 1000, interval: minutes(5) };
    let compactor = tokio::spawn(run_compactor(store.clone(), retention, sleep(minutes(200))));
    for _ in 0..120 {
        put(&*store, "a", "1").await; // revision 2 at minute 0, 121 at minute 119
        sleep(minutes(1)).await;
    }
    let oldest = match store.range(all_at(2)).await {
        Err(StoreError::Compacted { compact_revision }) => compact_revision,
        other => panic!("{other:?}"),
    };
    assert!((55..=62).contains(&oldest), "an hour and at most an interval remain: {oldest}");
    compactor.await.unwrap();
}
