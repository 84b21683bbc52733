//! Snapshots between a real etcd and a store of our own, both ways.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{RealEtcd, available, etcdctl};
use coracle_etcd::{EtcdStore, SnapshotFile};
use coracle_store::{KeyRange, Op, SledConfig, SledStore, Store, Txn};

/// A store of several revisions of everything: large values and small, deleted keys, one with a lease.
async fn fill(store: &dyn Store) {
    store.lease_grant(7, Duration::from_secs(600)).await.unwrap();
    let change = async |success| store.txn(Txn { success, ..Txn::default() }).await.unwrap();
    for number in 0..300_usize {
        let key = format!("/registry/{:04}", number % 200);
        let value = "x".repeat(number * 40).into();
        let beside = Op::Put { key: format!("/beside/{number}").into(), value: "{}".into(), lease: 7 };
        change(vec![Op::Put { key: key.into(), value, lease: 0 }, beside]).await;
    }
    change(vec![Op::Delete(KeyRange::prefix("/registry/01"))]).await;
    change(vec![Op::Put { key: "/registry/0100".into(), value: "again".into(), lease: 0 }]).await;
}

async fn connect(etcd: &RealEtcd) -> std::sync::Arc<EtcdStore> {
    let config = etcd.config();
    EtcdStore::connect(&config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_real_etcd_saved_is_restored_here() {
    if !available(&["etcd", "etcdctl"]) {
        return;
    }
    let etcd = RealEtcd::start_empty().await;
    let store = connect(&etcd).await;
    fill(&*store).await;
    store.compact(250).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshot.db");
    etcd.ctl(&["snapshot", "save", path.to_str().unwrap()]).await;
    let read = SnapshotFile::read(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(read, SnapshotFile::take(&*store).await.unwrap());
    assert_eq!((read.content.kvs.len(), read.content.revision), (401, 303));

    let config = || SledConfig::new(dir.path().join("store"));
    SledStore::restore(config(), read.content.clone()).await.unwrap();
    let restored = SledStore::open(config()).await.unwrap();
    assert_eq!(SnapshotFile::take(&*restored).await.unwrap(), read);
    assert!(SledStore::restore(config(), read.content).await.unwrap_err().to_string().contains("not empty"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_saved_here_is_restored_by_a_real_etcd() {
    if !available(&["etcd", "etcdctl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = SledStore::open(SledConfig::new(dir.path().join("store"))).await.unwrap();
    fill(&*store).await;
    let saved = SnapshotFile::take(&*store).await.unwrap();
    // What Coracle adds is nothing to an etcd.
    let files = BTreeMap::from([("pki/ca.crt".to_owned(), vec![b'x'; 10_000])]);
    let path = dir.path().join("snapshot.db");
    std::fs::write(&path, SnapshotFile { files, ..saved.clone() }.write()).unwrap();
    let data = dir.path().join("etcd").display().to_string();
    etcdctl(&["snapshot", "restore", path.to_str().unwrap(), "--data-dir", &data]).await;
    let etcd = RealEtcd::start(&data).await;
    let theirs = SnapshotFile::take(&*connect(&etcd).await).await.unwrap();
    assert_eq!((theirs.content.kvs, theirs.content.leases), (saved.content.kvs, saved.content.leases));
}
