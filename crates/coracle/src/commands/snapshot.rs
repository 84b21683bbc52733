//! `coracle snapshot`: a cluster as one file.
//!
//! The objects alone would not do: ServiceAccounts' tokens are signed by the cluster's key, clients trust its authority,
//! and Services have addresses of its ranges. So the certificates and `cluster.json` go along, in a table of the file
//! that etcd does not look at.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use coracle_etcd::SnapshotFile;
use coracle_store::{SledConfig, SledStore};

use crate::cli::{SnapshotCommand, StoreFlags};
use crate::data_dir::{ClusterConfig, DataDir, write_private};

const CONFIG: &str = "cluster.json";

pub async fn run(data_dir: Option<PathBuf>, command: SnapshotCommand) -> anyhow::Result<()> {
    let dir = DataDir::new(data_dir)?;
    match command {
        SnapshotCommand::Save { file, store } => save(&dir, file, &store).await,
        SnapshotCommand::Restore { file, force, bump_revision } => restore(&dir, &file, force, bump_revision).await,
        SnapshotCommand::Ls => ls(&dir),
    }
}

async fn save(dir: &DataDir, file: Option<PathBuf>, flags: &StoreFlags) -> anyhow::Result<()> {
    let store = crate::store::of_cluster(flags, dir).await?;
    let mut snapshot = SnapshotFile::take(&*store).await.context("the store")?;
    store.close().await?;
    collect(dir.path(), Path::new(CONFIG), &mut snapshot.files)?;
    collect(dir.path(), Path::new("pki"), &mut snapshot.files)?;
    let file = file.unwrap_or_else(|| {
        let now = coracle_clock::now_seconds().to_string().replace(':', "");
        dir.join("snapshots").join(format!("{now}.db"))
    });
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let (revision, keys) = (snapshot.content.revision, snapshot.content.kvs.len());
    let bytes = snapshot.write();
    write_private(&file, &bytes)?;
    println!("Saved {keys} keys as of revision {revision} to {} ({}).", file.display(), megabytes(bytes.len()));
    Ok(())
}

/// Adds a file, or the files below a folder, under their names in the data directory.
fn collect(root: &Path, name: &Path, files: &mut BTreeMap<String, Vec<u8>>) -> anyhow::Result<()> {
    let path = root.join(name);
    if path.is_dir() {
        for entry in std::fs::read_dir(&path)? {
            collect(root, &name.join(entry?.file_name()), files)?;
        }
    } else if path.exists() {
        let content = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        files.insert(name.display().to_string(), content);
    }
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<SnapshotFile> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    SnapshotFile::read(&bytes).with_context(|| format!("{}", file.display()))
}

async fn restore(dir: &DataDir, file: &Path, force: bool, bump: i64) -> anyhow::Result<()> {
    let SnapshotFile { mut content, files } = read(file)?;
    if let Some(name) = files.keys().find(|name| !is_ours(name)) {
        bail!("{}: it wants to write {name:?}", file.display());
    }
    dir.create()?;
    // Held until all is there: nobody starts a cluster in the middle.
    let _lock = dir.lock()?;
    let (store, new, old) = (dir.join("store"), dir.join("store.new"), dir.join("store.old"));
    if store.exists() && !force {
        bail!("there is a store in {}; choose another --data-dir, or replace it with --force", dir.path().display());
    }
    let saved: Option<ClusterConfig> = files.get(CONFIG).map(|text| serde_json::from_slice(text)).transpose()?;
    if let (Some(present), Some(saved)) = (dir.config()?, &saved)
        && present.id != saved.id
    {
        bail!("{} is another cluster's; choose another --data-dir", dir.path().display());
    }
    content.revision += bump;
    let (revision, keys) = (content.revision, content.kvs.len());
    remove(&new)?;
    SledStore::restore(SledConfig::new(&new), content).await.context("the new store")?;
    for (name, content) in &files {
        let path = dir.join(name);
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        write_private(&path, content)?;
    }
    remove(&old)?;
    if store.exists() {
        std::fs::rename(&store, &old)?;
    }
    std::fs::rename(&new, &store).with_context(|| format!("cannot make {}", store.display()))?;
    std::fs::File::open(dir.path())?.sync_all()?;
    remove(&old)?;
    if saved.is_none() {
        println!("The file holds no certificates: credentials of the cluster that was saved do not work here.");
    }
    let path = dir.path().display();
    println!("Restored {keys} keys to {path}, from revision {revision} on. `coracle --data-dir {path} up` starts it.");
    Ok(())
}

/// Whether a file of that name may be written: a snapshot may come from anywhere.
fn is_ours(name: &str) -> bool {
    let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    plain && (name == CONFIG || name.starts_with("pki/"))
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn ls(dir: &DataDir) -> anyhow::Result<()> {
    let folder = dir.join("snapshots");
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|end| end == "db")).collect();
    if files.is_empty() {
        println!("There are no snapshots in {}; `coracle snapshot save` makes one.", folder.display());
        return Ok(());
    }
    files.sort();
    println!("{:<24} {:>10} {:>12} {:>8}  AGE", "NAME", "SIZE", "REVISION", "KEYS");
    for file in files {
        let name = file.file_name().unwrap_or_default().display().to_string();
        let about = std::fs::metadata(&file)?;
        let age = about.modified()?.elapsed().unwrap_or_default();
        let (size, age) = (megabytes(about.len() as usize), rounded(age));
        match read(&file) {
            Ok(SnapshotFile { content, .. }) => {
                println!("{name:<24} {size:>10} {:>12} {:>8}  {age}", content.revision, content.kvs.len());
            }
            Err(error) => println!("{name:<24} {size:>10} {:>12} {:>8}  {age}  {}", "-", "-", error.root_cause()),
        }
    }
    Ok(())
}

fn megabytes(bytes: usize) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// An age in its largest unit, as kubectl has it.
fn rounded(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use coracle_store::{KeyRange, RangeRequest, Store, StoreError, Txn, WatchRequest};

    use super::*;

    async fn saved(folder: &Path) -> PathBuf {
        let dir = DataDir::new(Some(folder.join("old"))).unwrap();
        dir.create().unwrap();
        dir.save(&ClusterConfig { id: "abc".into(), index: 2, port: 7443, nodes: 3, etcd: None }).unwrap();
        std::fs::create_dir_all(dir.join("pki/etcd")).unwrap();
        std::fs::write(dir.join("pki/etcd/ca.crt"), "PEM").unwrap();
        let store = SledStore::open(SledConfig::new(dir.join("store"))).await.unwrap();
        for value in ["{}", "{\"a\":1}"] {
            let old = store.range(RangeRequest::new(KeyRange::key("/registry/x"))).await.unwrap();
            let expected = old.kvs.first().map_or(0, |kv| kv.mod_revision);
            store.txn(Txn::put_if("/registry/x", expected, value, 0)).await.unwrap();
        }
        store.close().await.unwrap();
        let file = folder.join("saved.db");
        save(&dir, Some(file.clone()), &StoreFlags::default()).await.unwrap();
        file
    }

    #[tokio::test]
    async fn a_restored_cluster_is_the_one_that_was_saved_at_a_later_revision() {
        let folder = tempfile::tempdir().unwrap();
        let file = saved(folder.path()).await;
        let dir = DataDir::new(Some(folder.path().join("new"))).unwrap();
        restore(&dir, &file, false, 1000).await.unwrap();
        assert_eq!(dir.config().unwrap().unwrap().index, 2);
        assert_eq!(std::fs::read(dir.join("pki/etcd/ca.crt")).unwrap(), b"PEM");
        let store = SledStore::open(SledConfig::new(dir.join("store"))).await.unwrap();
        let found = store.range(RangeRequest::new(KeyRange::prefix(""))).await.unwrap();
        assert_eq!(found.revision, 1003);
        let kv = &found.kvs[0];
        assert_eq!((&kv.value[..], kv.create_revision, kv.mod_revision, kv.version), (&b"{\"a\":1}"[..], 2, 3, 2));
        // Who watched the old cluster learns that it must look again.
        let watch = store.watch(WatchRequest::new(KeyRange::prefix(""), Some(4))).await;
        assert!(matches!(watch.err(), Some(StoreError::Compacted { compact_revision: 1003 })));
        let next = store.txn(Txn::put_if("/registry/x", 3, "{}", 0)).await.unwrap();
        assert_eq!((next.succeeded, next.revision), (true, 1004));
        store.close().await.unwrap();
        let again = SledStore::open(SledConfig::new(dir.join("store"))).await.unwrap();
        assert_eq!(again.revision(), 1004);
    }

    #[tokio::test]
    async fn a_store_that_is_there_is_replaced_only_when_that_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = saved(folder.path()).await;
        let dir = DataDir::new(Some(folder.path().join("old"))).unwrap();
        let refusal = restore(&dir, &file, false, 0).await.unwrap_err().to_string();
        assert!(refusal.contains("--force"), "{refusal}");
        restore(&dir, &file, true, 0).await.unwrap();
        assert!(!dir.join("store.old").exists() && !dir.join("store.new").exists());
        let store = SledStore::open(SledConfig::new(dir.join("store"))).await.unwrap();
        assert_eq!(store.revision(), 3);
    }

    #[tokio::test]
    async fn what_is_no_snapshot_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let file = saved(folder.path()).await;
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[4100] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let dir = DataDir::new(Some(folder.path().join("new"))).unwrap();
        let refusal = format!("{:#}", restore(&dir, &file, false, 0).await.unwrap_err());
        assert!(refusal.contains("saved.db: it is damaged"), "{refusal}");
        assert!(!dir.path().exists());
        for bad in ["/etc/passwd", "pki/../lock", "kubeconfig"] {
            assert!(!is_ours(bad), "{bad}");
        }
    }
}
