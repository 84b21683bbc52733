//! `coracle etcd`: the store as etcdctl finds it, in a cluster or alone.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use coracle_apiserver::pki::{ETCD_CLIENT, Pki};

use super::component::shutdown_on_signal;
use crate::cli::StoreFlags;
use crate::cluster::serve_etcd;
use crate::data_dir::DataDir;

/// Prints exports for a shell.
pub fn env(data_dir: Option<PathBuf>) -> anyhow::Result<()> {
    let dir = DataDir::new(data_dir)?;
    let Some(config) = dir.config()? else {
        bail!("there is no cluster in {}; `coracle up` makes one", dir.path().display());
    };
    let address = config.etcd.context("the store does not answer as an etcd: its address was taken when `up` began")?;
    print_env(&dir, address);
    Ok(())
}

/// Serves the store alone until SIGINT or SIGTERM.
pub async fn serve(data_dir: Option<PathBuf>, address: SocketAddr) -> anyhow::Result<()> {
    let dir = DataDir::new(data_dir)?;
    dir.create()?;
    let _lock = dir.lock()?;
    let listener = coracle_apiserver::serve::bind(address).await?;
    let pki = Pki::ensure(&dir.join("pki"), &[], &[])?;
    let store = StoreFlags::default().open(&dir).await?;
    print_env(&dir, listener.local_addr()?);
    serve_etcd(listener, store.clone(), &pki, shutdown_on_signal()?)?.await;
    store.close().await.context("the store")
}

/// Exports for a shell.
fn print_env(dir: &DataDir, address: SocketAddr) {
    let file = |name: &str| dir.join("pki").join(name).display().to_string();
    for (name, value) in [
        ("API", "3".into()),
        ("ENDPOINTS", format!("https://{address}")),
        ("CACERT", file("etcd/ca.crt")),
        ("CERT", file(&format!("{ETCD_CLIENT}.crt"))),
        ("KEY", file(&format!("{ETCD_CLIENT}.key"))),
    ] {
        println!("export ETCDCTL_{name}='{}'", value.replace('\'', r"'\''"));
    }
}
