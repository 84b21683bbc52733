//! What the embedded engine promises of the disk: nothing acknowledged is lost, nothing damaged is served.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use coracle_store::*;

async fn open(dir: &Path) -> Result<Arc<SledStore>> {
    SledStore::open(SledConfig::new(dir)).await
}

async fn put(store: &SledStore, key: String, value: String, lease: LeaseId) -> Result<Revision> {
    let success = vec![Op::Put { key: key.into(), value: value.into(), lease }];
    Ok(store.txn(Txn { success, ..Txn::default() }).await?.revision)
}

async fn get(store: &SledStore, key: &str) -> Option<KeyValue> {
    store.range(RangeRequest::new(KeyRange::key(key.to_owned()))).await.unwrap().kvs.pop()
}

/// The only log in a directory.
fn log(dir: &Path) -> PathBuf {
    let logs = || std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    logs().find(|path| path.file_name().unwrap().to_string_lossy().starts_with("wal-")).unwrap()
}

/// Not a test of its own: the process that [`a_killed_process_loses_nothing_it_acknowledged`] kills.
#[tokio::test]
async fn writer_to_be_killed() {
    let Ok(dir) = std::env::var("CORACLE_STORE_CRASH_DIR") else { return };
    let config = SledConfig { checkpoint_bytes: 20_000, ..SledConfig::new(dir) };
    let store = SledStore::open(config).await.unwrap();
    let write = async |writer: usize| {
        for n in 0.. {
            let revision = put(&store, format!("{writer}"), format!("{n}"), 0).await.unwrap();
            println!("ack {writer} {n} {revision}");
        }
    };
    futures::future::join_all((0..8).map(write)).await;
}

#[tokio::test]
async fn a_killed_process_loses_nothing_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = [None; 8];
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_to_be_killed", "--nocapture"])
            .env("CORACLE_STORE_CRASH_DIR", dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for _ in 0..1000 + 100 * round {
            let line = lines.next().unwrap().unwrap();
            note(&line, &mut acknowledged);
        }
        child.kill().unwrap();
        // What was acknowledged before the kill reached the pipe.
        lines.map_while(|line| line.ok()).for_each(|line| note(&line, &mut acknowledged));
        child.wait().unwrap();

        let store = open(dir.path()).await.unwrap();
        for (writer, last) in acknowledged.iter().enumerate() {
            let (n, revision) = last.unwrap();
            let kv = get(&store, &writer.to_string()).await.unwrap();
            let found: u64 = std::str::from_utf8(&kv.value).unwrap().parse().unwrap();
            // One more may have reached the disk without its answer reaching anybody.
            assert!(found == n || found == n + 1, "writer {writer} was told {n}, the disk has {found}");
            assert!(kv.mod_revision >= revision && store.revision() >= revision);
        }
        store.close().await.unwrap();
    }
}

fn note(line: &str, acknowledged: &mut [Option<(u64, Revision)>; 8]) {
    // The test harness writes lines of its own, and one before the first of ours; the kill may cut the last.
    let Some((_, ack)) = line.split_once("ack ") else { return };
    let numbers: Vec<i64> = ack.split(' ').filter_map(|number| number.parse().ok()).collect();
    if let [writer, n, revision] = numbers[..] {
        acknowledged[writer as usize] = Some((n as u64, revision));
    }
}

/// A directory whose log holds `a=0` … `a=9`, not yet in the database.
async fn ten_puts() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    for n in 0..10 {
        put(&store, "a".into(), n.to_string(), 0).await.unwrap();
    }
    dir
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_and_writing_goes_on() {
    let dir = ten_puts().await;
    let whole = std::fs::read(log(dir.path())).unwrap();
    let frame = whole.len() / 10;
    for cut in (whole.len() - frame..whole.len()).step_by(7) {
        std::fs::write(log(dir.path()), &whole[..cut]).unwrap();
        let store = open(dir.path()).await.unwrap();
        assert_eq!((store.revision(), &get(&store, "a").await.unwrap().value[..]), (10, &b"8"[..]), "cut at {cut}");
        assert_eq!(put(&store, "b".into(), "1".into(), 0).await.unwrap(), 11);
        drop(store);
        let store = open(dir.path()).await.unwrap();
        assert_eq!((store.revision(), get(&store, "b").await.unwrap().mod_revision), (11, 11));
    }
}

#[tokio::test]
async fn a_log_that_outlived_its_checkpoint_is_not_applied_twice() {
    let dir = ten_puts().await;
    let path = log(dir.path());
    let frames = std::fs::read(&path).unwrap();
    open(dir.path()).await.unwrap().close().await.unwrap();
    assert!(!path.exists());
    // As if the process had died after the database was synced, before the log was removed.
    std::fs::write(&path, frames).unwrap();
    for revision in 12..14 {
        let store = open(dir.path()).await.unwrap();
        assert_eq!(put(&store, "b".into(), "1".into(), 0).await.unwrap(), revision);
    }
    assert_eq!(get(&open(dir.path()).await.unwrap(), "a").await.unwrap().version, 10);
}

#[tokio::test]
async fn damage_to_acknowledged_data_in_the_log_is_refused() {
    let dir = ten_puts().await;
    let whole = std::fs::read(log(dir.path())).unwrap();
    let frame = whole.len() / 10;
    for at in (0..whole.len() - frame).step_by(13) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        std::fs::write(log(dir.path()), damaged).unwrap();
        let refused = open(dir.path()).await;
        assert!(matches!(refused, Err(StoreError::Corrupt(_))), "byte {at}: {refused:?}");
    }
}

/// The database of a closed store, once a child that another test is about to start no longer shares its lock.
fn database(dir: &Path) -> sled::Db {
    std::fs::File::open(dir.join("sled/db")).unwrap().lock().unwrap();
    sled::open(dir.join("sled")).unwrap()
}

#[tokio::test]
async fn damage_to_the_database_is_refused() {
    let dir = ten_puts().await;
    let store = open(dir.path()).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let db = database(dir.path());
    let (key, value) = db.scan_prefix("r").next().unwrap().unwrap();
    let mut damaged = value.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    db.insert(&key, damaged).unwrap();
    db.flush().unwrap();
    drop(db);
    assert!(matches!(open(dir.path()).await, Err(StoreError::Corrupt(_))));

    let db = database(dir.path());
    db.remove(&key).unwrap();
    drop(db);
    assert!(matches!(open(dir.path()).await, Err(StoreError::Corrupt(_))), "a row is missing");
}

#[tokio::test]
async fn a_directory_opened_twice_names_its_holder() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    let refused = open(dir.path()).await.unwrap_err().to_string();
    let expected = format!("the data directory {} is in use by process {}", dir.path().display(), std::process::id());
    assert_eq!(refused, expected);
    store.close().await.unwrap();
    open(dir.path()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn leases_live_on_for_the_time_they_had_left() {
    let dir = tempfile::tempdir().unwrap();
    for clean in [false, true] {
        let store = open(dir.path()).await.unwrap();
        let lease = store.lease_grant(7, Duration::from_secs(3600)).await.unwrap();
        put(&store, "a".into(), "1".into(), lease).await.unwrap();
        if clean {
            store.close().await.unwrap();
        }
        drop(store);
        let store = open(dir.path()).await.unwrap();
        let before = coracle_clock::instant();
        assert!(get(&store, "a").await.is_some());
        let request = WatchRequest::new(KeyRange::key("a"), Some(store.revision() + 1));
        let event = futures::StreamExt::next(&mut store.watch(request).await.unwrap()).await.unwrap().unwrap();
        assert!(event.events[0].deleted);
        assert!((3590..=3600).contains(&before.elapsed().as_secs()), "{:?}", before.elapsed());
        drop(store);
        assert_eq!(get(&open(dir.path()).await.unwrap(), "a").await, None, "gone for good");
    }
}

#[tokio::test]
async fn history_stays_within_its_bytes_on_disk_too() {
    let dir = tempfile::tempdir().unwrap();
    let config = SledConfig { history_limit_bytes: 100_000, checkpoint_bytes: 50_000, ..SledConfig::new(dir.path()) };
    let store = SledStore::open(config.clone()).await.unwrap();
    for n in 0..500 {
        put(&store, "a".into(), format!("{n:01000}"), 0).await.unwrap();
    }
    let old = RangeRequest { revision: Some(300), ..RangeRequest::new(KeyRange::key("a")) };
    assert!(matches!(store.range(old.clone()).await, Err(StoreError::Compacted { .. })));
    store.close().await.unwrap();
    drop(store);
    let store = SledStore::open(config).await.unwrap();
    assert!(matches!(store.range(old).await, Err(StoreError::Compacted { .. })));
    assert_eq!((store.revision(), get(&store, "a").await.unwrap().version), (501, 500));
}
