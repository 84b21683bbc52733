//! `coracle etcd`: how etcdctl finds the store.

use std::path::PathBuf;

use anyhow::{Context, bail};
use coracle_apiserver::pki::ETCD_CLIENT;

use crate::data_dir::DataDir;

/// Prints exports for a shell.
pub fn env(data_dir: Option<PathBuf>) -> anyhow::Result<()> {
    let dir = DataDir::new(data_dir)?;
    let Some(config) = dir.config()? else {
        bail!("there is no cluster in {}; `coracle up` makes one", dir.path().display());
    };
    let address = config.etcd.context("the store does not answer as an etcd: its address was taken when `up` began")?;
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
    Ok(())
}
