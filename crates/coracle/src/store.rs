//! Which store: sled in the data directory unless told otherwise, memory, or somebody's etcd.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use coracle_etcd::{EtcdConfig, EtcdStore};
use coracle_store::{MemoryStore, SharedStore, SledConfig, SledStore};

use crate::cli::StoreFlags;
use crate::data_dir::DataDir;

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
    let Some(store) = &flags.store else { return Ok(Place::Sled(data.join("store"))) };
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
            Place::Sled(dir) => SledStore::open(SledConfig::new(dir)).await.context("the store")?,
            Place::Memory => MemoryStore::new(),
            Place::Etcd(endpoints) => {
                let identity = match (&self.etcd_certfile, &self.etcd_keyfile) {
                    (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
                    _ => None,
                };
                let ca_pem = self.etcd_cafile.as_deref().map(read).transpose()?;
                let config = EtcdConfig { endpoints, ca_pem, identity };
                EtcdStore::connect(&config).await.context(
                    "the store; is etcd running there (`etcdctl endpoint health` with the same endpoints says), and if it \
                     wants TLS, are --etcd-cafile, --etcd-certfile and --etcd-keyfile given?",
                )?
            }
        })
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
