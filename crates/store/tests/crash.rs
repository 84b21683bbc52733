//! What the embedded engine promises of the disk: nothing acknowledged is lost, nothing damaged is served.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

mod small_disk;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_store::*;
use small_disk::SmallDisk;

async fn open(dir: &Path) -> Result<Arc<SledStore>> {
    SledStore::open(SledConfig::new(dir)).await
}

/// A store whose every write goes into the database as soon as it can.
async fn open_eager(dir: &Path) -> Arc<SledStore> {
    SledStore::open(SledConfig { checkpoint_bytes: 0, ..SledConfig::new(dir) }).await.unwrap()
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
    only(dir, "wal-")
}

/// The only database in a directory.
fn database(dir: &Path) -> PathBuf {
    only(dir, "sled-")
}

fn only(dir: &Path, prefix: &str) -> PathBuf {
    let paths = || std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut found = paths().filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(prefix));
    let one = found.next().unwrap();
    assert_eq!(found.next(), None);
    one
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
    let store = open_eager(dir.path()).await;
    put(&store, "b".into(), "0".into(), 0).await.unwrap();
    store.close().await.unwrap();
    assert!(!path.exists() && log(dir.path()).ends_with("wal-00000000000000000012"));
    // As if the process had died after the database was synced, before the log was removed.
    std::fs::write(&path, frames).unwrap();
    for revision in 13..15 {
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
        assert!(refused.unwrap_err().to_string().contains("snapshot restore FILE --force"));
    }
}

#[tokio::test]
async fn a_log_cut_anywhere_holds_what_lies_whole_before_the_cut() {
    let dir = ten_puts().await;
    let whole = std::fs::read(log(dir.path())).unwrap();
    let frame = whole.len() / 10;
    for cut in (0..whole.len()).filter(|cut| cut % frame == 0 || cut % 11 == 0) {
        std::fs::write(log(dir.path()), &whole[..cut]).unwrap();
        let store = open(dir.path()).await.unwrap();
        let value = get(&store, "a").await.map(|kv| kv.value);
        let expected = (cut / frame).checked_sub(1).map(|n| n.to_string().into());
        assert_eq!((store.revision(), value), (1 + (cut / frame) as Revision, expected), "cut at {cut}");
    }
}

/// Every file of a closed store with 300 keys, in a directory of its own; the last versions are in the log.
async fn files() -> (tempfile::TempDir, Vec<KeyValue>) {
    let dir = tempfile::tempdir().unwrap();
    let store = open_eager(dir.path()).await;
    for n in 0..300 {
        put(&store, format!("{}", n % 100), format!("{n:0500}"), 0).await.unwrap();
    }
    store.close().await.unwrap();
    let kvs = store.range(RangeRequest::new(KeyRange::prefix(""))).await;
    assert!(matches!(kvs, Err(StoreError::Closed)));
    drop(store);
    let store = open(dir.path()).await.unwrap();
    let kvs = store.range(RangeRequest::new(KeyRange::prefix(""))).await.unwrap().kvs;
    store.close().await.unwrap();
    (dir, kvs)
}

/// Damages each file of the database in many ways: it is refused, or what is served is what was written.
async fn refused_or_right(damage: impl Fn(&mut Vec<u8>, usize)) {
    let (dir, expected) = files().await;
    let database = database(dir.path()).join("0");
    let mut paths: Vec<_> = std::fs::read_dir(&database).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.is_file());
    let whole: Vec<_> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let mut refusals = 0;
    for round in 0..40 {
        let harmed = round % paths.len();
        let mut bytes = whole[harmed].clone();
        damage(&mut bytes, round.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20);
        std::fs::remove_dir_all(&database).unwrap();
        std::fs::create_dir(&database).unwrap();
        paths.iter().zip(&whole).for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
        std::fs::write(&paths[harmed], bytes).unwrap();
        match open(dir.path()).await {
            Ok(store) => {
                let found = store.range(RangeRequest::new(KeyRange::prefix(""))).await.unwrap();
                assert!(found.kvs == expected && found.revision == 301, "round {round}: {}", found.revision);
            }
            Err(StoreError::Corrupt(_)) => refusals += 1,
            Err(other) => panic!("round {round}, {}: {other}", paths[harmed].display()),
        }
    }
    assert!(refusals > 0, "some of it must matter");
}

#[tokio::test]
async fn a_database_with_flipped_bits_is_refused_or_right() {
    refused_or_right(|bytes, random| {
        let at = random % bytes.len();
        bytes[at] ^= 1 << (random % 8);
    })
    .await;
}

#[tokio::test]
async fn a_database_that_is_cut_short_is_refused_or_right() {
    refused_or_right(|bytes, random| bytes.truncate(random % bytes.len())).await;
}

/// The database of a closed store, once a child that another test is about to start no longer shares its lock.
fn open_database(dir: &Path) -> sled::Db {
    let path = database(dir).join("0");
    std::fs::File::open(path.join("db")).unwrap().lock().unwrap();
    sled::open(path).unwrap()
}

#[tokio::test]
async fn damage_to_the_database_is_refused() {
    let (dir, _) = files().await;
    let db = open_database(dir.path());
    let piece = db.tree_names().into_iter().min().unwrap();
    let tree = db.open_tree(&piece).unwrap();
    let mut damaged = tree.get("r").unwrap().unwrap().to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    tree.insert("r", damaged).unwrap();
    drop((tree, db));
    assert!(matches!(open(dir.path()).await, Err(StoreError::Corrupt(_))));

    let db = open_database(dir.path());
    db.drop_tree(&piece).unwrap();
    drop(db);
    assert!(matches!(open(dir.path()).await, Err(StoreError::Corrupt(_))), "a piece is missing");
}

#[tokio::test]
async fn a_large_state_lies_in_several_databases_and_none_may_be_missing() {
    let dir = tempfile::tempdir().unwrap();
    let everything = RangeRequest::new(KeyRange::prefix(""));
    let (mut revision, mut expected) = (1, Vec::new());
    // How much of it a checkpoint has taken up depends on how fast the disk is: until it is too much for one database.
    while revision == 1 || !database(dir.path()).join("1").exists() {
        let store = open(dir.path()).await.unwrap();
        for _ in 0..60 {
            let value = Bytes::from(vec![revision as u8; 8 << 10]);
            let put = |place| Op::Put { key: format!("{revision}/{place}").into(), value: value.clone(), lease: 0 };
            let done = store.txn(Txn { success: (0..100).map(put).collect(), ..Txn::default() }).await.unwrap();
            revision = done.revision;
        }
        assert!(revision < 1000, "800 MB of values, and one database");
        expected = store.range(everything.clone()).await.unwrap().kvs;
        store.close().await.unwrap();
    }
    let store = open(dir.path()).await.unwrap();
    let found = store.range(everything).await.unwrap();
    assert!(found.kvs == expected && found.revision == revision && found.count == 100 * (revision as usize - 1));
    drop(store);
    std::fs::remove_dir_all(database(dir.path()).join("1")).unwrap();
    assert!(matches!(open(dir.path()).await, Err(StoreError::Corrupt(_))));
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

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_overwrites_leave_less_than_five_times_the_live_data() {
    const KEYS: usize = 1000;
    const VALUE_BYTES: usize = 1024;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    let write = async |writer: usize| {
        // Nothing that a file system or a database could make smaller.
        let mut random = writer as u64 + 1;
        for n in (writer..100_000).step_by(100) {
            let value = std::iter::repeat_with(|| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 56) as u8
            });
            let value: Vec<u8> = value.take(VALUE_BYTES).collect();
            let put = Op::Put {
                key: format!("/registry/pods/default/{:03}", n % KEYS).into(),
                value: value.into(),
                lease: 0,
            };
            let done = store.txn(Txn { success: vec![put], ..Txn::default() }).await.unwrap();
            if n % 200 == 0 {
                // Somebody else may have compacted further.
                _ = store.compact(done.revision).await;
            }
        }
    };
    let mut most = 0;
    let measure = async {
        loop {
            most = most.max(store.size_bytes().await.unwrap());
            coracle_clock::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = futures::future::join_all((0..100).map(write)) => {}
        () = measure => {}
    }
    let live = (KEYS * ("/registry/pods/default/000".len() + VALUE_BYTES)) as u64;
    assert!(most < 8 * live, "{most} bytes on disk while the old database and the new are there");
    // The writes after the load see to what it has left.
    let mut left = most;
    for _ in 0..200 {
        put(&store, "a".into(), String::new(), 0).await.unwrap();
        coracle_clock::sleep(Duration::from_millis(5)).await;
        left = left.min(store.size_bytes().await.unwrap());
    }
    println!("{left} bytes on disk, {most} at most, for {live} live ones");
    assert!(left < 5 * live, "{left} bytes on disk for {live} live ones");
}

#[tokio::test]
async fn a_full_disk_refuses_puts_serves_reads_and_goes_on_when_there_is_space() {
    let Some(disk) = SmallDisk::mount() else { return };
    let dir = disk.path().join("store");
    let store = open(&dir).await.unwrap();
    assert_eq!(put(&store, "0".into(), String::new(), 0).await.unwrap(), 2);
    let mut written = 1;
    for fill in 0..3 {
        let ballast = disk.fill(fill << 19);
        let full = loop {
            match put(&store, format!("{}", written % 100), format!("{written:010000}"), 0).await {
                Ok(revision) => assert_eq!(revision, written + 2),
                Err(error) => break error,
            }
            written += 1;
        };
        assert_eq!(full.to_string(), "etcdserver: mvcc: database space exceeded", "fill {fill}, after {written}");
        let last = get(&store, &format!("{}", (written - 1) % 100)).await.unwrap();
        assert_eq!((last.mod_revision, store.revision()), (written + 1, written + 1));
        assert!(store.lease_grant(0, Duration::from_secs(60)).await.is_err());
        // What makes room goes on.
        store.compact(written + 1).await.unwrap();
        let last = Op::Delete(KeyRange::key(format!("{}", (written - 1) % 100)));
        let deleted = store.txn(Txn { success: vec![last], ..Txn::default() }).await.unwrap();
        assert_eq!(deleted.revision, written + 2);
        written += 1;
        drop(ballast);
        for _ in 0..200 {
            assert_eq!(
                put(&store, format!("{}", written % 100), format!("{written:010000}"), 0).await.unwrap(),
                written + 2
            );
            written += 1;
        }
        store.compact(written - 10).await.unwrap();
    }
    drop(store);
    let store = open(&dir).await.unwrap();
    assert_eq!(store.revision(), written + 1);
}

#[tokio::test]
async fn a_store_that_filled_its_disk_can_be_closed_and_opened() {
    let Some(disk) = SmallDisk::mount() else { return };
    let dir = disk.path().join("store");
    let mut written = 0;
    for closed in [true, false, true] {
        let store = open(&dir).await.unwrap();
        while put(&store, written.to_string(), "x".repeat(10_000), 0).await.is_ok() {
            written += 1;
        }
        assert!(written > 500, "{written}");
        if closed {
            store.close().await.unwrap();
        }
        drop(store);
        let found = open(&dir).await.unwrap().range(RangeRequest::new(KeyRange::prefix(""))).await.unwrap();
        assert_eq!(found.kvs.len(), written);
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = open(&file.join("store")).await.unwrap_err().to_string();
    assert!(error.contains(&file.display().to_string()), "{error}");
    // Root may write everywhere, but for a file system that is read-only.
    let error = open(Path::new("/proc/store")).await.unwrap_err().to_string();
    assert!(error.contains("/proc/store"), "{error}");
}
