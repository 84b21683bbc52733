//! Which store: sled in the data directory unless told otherwise, memory, or somebody's etcd.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use coracle_apiserver::pki::ETCD_CLIENT;
use coracle_etcd::{EtcdConfig, EtcdStore, Prefixed, REGISTRY};
use coracle_store::{
    KeyRange, MemoryStore, Retention, Revision, SharedStore, SledConfig, SledStore, StoreError, WatchRequest,
    run_compactor,
};
use tokio_util::sync::CancellationToken;

use crate::cli::StoreFlags;
use crate::data_dir::DataDir;

/// How much of the past can be read, unless told otherwise.
const RETENTION: Duration = Duration::from_secs(3600);
/// A busy hour's changes: some ten thousand of a few kilobytes. Memory is used only as they happen.
const HISTORY_BYTES: usize = 32 << 20;

/// Where objects are kept.
#[derive(Debug)]
enum Place {
    Sled(PathBuf),
    Memory,
    Etcd(Vec<String>),
}

fn place(flags: &StoreFlags, data: &DataDir) -> anyhow::Result<Place> {
    if !flags.etcd_servers.is_empty() {
        return Ok(Place::Etcd(flags.etcd_servers.clone()));
    }
    let place = match &flags.store {
        Some(store) => named(store)?,
        None => Place::Sled(data.join("store")),
    };
    if flags.etcd_prefix.is_some() && !matches!(place, Place::Etcd(_)) {
        bail!("--etcd-prefix is for an etcd: name that with --etcd-servers or --store etcd://HOST:PORT,...");
    }
    Ok(place)
}

fn named(store: &str) -> anyhow::Result<Place> {
    Ok(match store.split_once(':').unwrap_or((store, "")) {
        ("sled", dir) if !dir.is_empty() => Place::Sled(std::path::absolute(dir)?),
        ("memory", "") => Place::Memory,
        ("etcd", members) if members.len() > 2 && members.starts_with("//") => {
            Place::Etcd(members[2..].split(',').map(str::to_owned).collect())
        }
        _ => bail!("--store is sled:DIR, memory or etcd://HOST:PORT,..., not {store:?}"),
    })
}

impl StoreFlags {
    /// Whether objects are kept in an etcd of somebody's.
    pub fn is_etcd(&self, data: &DataDir) -> anyhow::Result<bool> {
        Ok(matches!(place(self, data)?, Place::Etcd(_)))
    }

    /// The flags that say the same, for another process.
    pub fn arguments(&self) -> Vec<String> {
        let servers = (!self.etcd_servers.is_empty()).then(|| self.etcd_servers.join(","));
        let path = |path: &Option<PathBuf>| {
            path.as_deref().map(|path| std::path::absolute(path).unwrap_or_else(|_| path.into()).display().to_string())
        };
        let flags = [
            ("store", self.store.clone()),
            ("etcd-servers", servers),
            ("etcd-prefix", self.etcd_prefix.clone()),
            ("etcd-cafile", path(&self.etcd_cafile)),
            ("etcd-certfile", path(&self.etcd_certfile)),
            ("etcd-keyfile", path(&self.etcd_keyfile)),
        ];
        flags.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value?))).collect()
    }

    /// Opens the store.
    pub async fn open(&self, data: &DataDir) -> anyhow::Result<SharedStore> {
        let read =
            |path: &Path| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
        Ok(match place(self, data)? {
            Place::Sled(dir) => {
                let config = SledConfig { history_limit_bytes: HISTORY_BYTES, ..SledConfig::new(dir) };
                SledStore::open(config).await.context("the store")?
            }
            Place::Memory => MemoryStore::new(),
            Place::Etcd(endpoints) => {
                let identity = match (&self.etcd_certfile, &self.etcd_keyfile) {
                    (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
                    _ => None,
                };
                let ca_pem = self.etcd_cafile.as_deref().map(read).transpose()?;
                let config = EtcdConfig { endpoints, ca_pem, identity };
                let store = EtcdStore::connect(&config).await.context(
                    "the store; is etcd running there (`etcdctl endpoint health` with the same endpoints says), and if it \
                     wants TLS, are --etcd-cafile, --etcd-certfile and --etcd-keyfile given?",
                )?;
                match self.etcd_prefix.as_deref().map(|prefix| prefix.trim_matches('/')) {
                    Some(prefix) if prefix != REGISTRY.trim_matches('/') => Arc::new(Prefixed::new(store, prefix)),
                    _ => store,
                }
            }
        })
    }
}

/// The store of a cluster that is there: the one that the flags name; else, while the cluster runs, its own by its etcd
/// API, and otherwise its files.
pub async fn of_cluster(flags: &StoreFlags, data: &DataDir) -> anyhow::Result<SharedStore> {
    let named = flags.store.is_some() || !flags.etcd_servers.is_empty();
    if named || data.running().is_none() {
        if let Place::Sled(dir) = place(flags, data)?
            && !dir.exists()
        {
            bail!("there is no store in {}; `coracle up` makes one", dir.display());
        }
        return flags.open(data).await;
    }
    let address = data.config()?.and_then(|config| config.etcd).context(
        "the running cluster's store does not answer as an etcd: its address was taken when `up` began, or it is an \
         etcd of somebody's (name that with --store)",
    )?;
    let pki = |name: &str| {
        let path = data.join("pki").join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let identity = Some((pki(&format!("{ETCD_CLIENT}.crt"))?, pki(&format!("{ETCD_CLIENT}.key"))?));
    let ca_pem = Some(pki("etcd/ca.crt")?);
    let config = EtcdConfig { endpoints: vec![format!("https://{address}")], ca_pem, identity };
    Ok(EtcdStore::connect(&config).await.context("the running cluster's store")?)
}

/// How far back a cluster's past can be read; nothing if its store does not say.
pub async fn oldest(flags: &StoreFlags, data: &DataDir) -> Option<Revision> {
    let store = of_cluster(flags, data).await.ok()?;
    match store.watch(WatchRequest::new(KeyRange::key("/"), Some(1))).await {
        Err(StoreError::Compacted { compact_revision }) => Some(compact_revision),
        other => other.ok().map(|_| 1),
    }
}

/// Forgets history that is older than `age`, until `shutdown`; an age of zero keeps all that there is room for.
pub fn compact(store: &SharedStore, age: Option<Duration>, shutdown: &CancellationToken) {
    let age = age.unwrap_or(RETENTION);
    if !age.is_zero() {
        let retention = Retention { age, interval: age.min(Retention::default().interval), ..Retention::default() };
        tokio::spawn(run_compactor(store.clone(), retention, shutdown.clone().cancelled_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_named_by_what_it_is_and_where() {
        let data = DataDir::new(Some("/data".into())).unwrap();
        let named = |text: &str| {
            let flags = StoreFlags { store: (!text.is_empty()).then(|| text.to_owned()), ..StoreFlags::default() };
            place(&flags, &data).map(|place| format!("{place:?}")).unwrap_or_else(|error| error.to_string())
        };
        assert_eq!(named(""), r#"Sled("/data/store")"#);
        assert_eq!(named("sled:/elsewhere"), r#"Sled("/elsewhere")"#);
        assert_eq!(named("memory"), "Memory");
        assert_eq!(named("etcd://a:1,b:2"), r#"Etcd(["a:1", "b:2"])"#);
        for bad in ["sled", "sled:", "etcd:", "etcd://", "memory:x", "redis://a"] {
            assert!(named(bad).starts_with("--store is"), "{bad}");
        }
        let flags = StoreFlags { etcd_prefix: Some("/other".into()), ..StoreFlags::default() };
        assert!(place(&flags, &data).unwrap_err().to_string().starts_with("--etcd-prefix is for an etcd"));
    }

    #[tokio::test]
    async fn an_etcd_that_does_not_answer_is_named_with_what_helps() {
        let data = DataDir::new(Some("/data".into())).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let flags = StoreFlags { store: Some(format!("etcd://{free}")), ..StoreFlags::default() };
        let error = format!("{:#}", flags.open(&data).await.unwrap_err());
        for part in [&format!("http://{free}")[..], "connection refused", "etcdctl endpoint health", "--etcd-cafile"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
