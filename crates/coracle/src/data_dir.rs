//! The data directory: one cluster's files, and the lock that keeps it one cluster.
//!
//! ```text
//! cluster.json   what was chosen when the cluster was made: id, ports, address ranges
//! lock           held by the process that runs the cluster; contains its pid
//! store/         the objects
//! pki/           certificates and keys
//! kubeconfig     for kubectl
//! pods/          pods' files          volumes/   provisioned volumes
//! images/        package downloads    logs/      logs of a cluster in the background
//! ```

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

/// What is chosen once, when a cluster is made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClusterConfig {
    /// Tells this cluster's Docker objects from others'.
    pub id: String,
    /// Tells this cluster's address ranges from those of others on the host.
    pub index: u8,
    /// The API server's port.
    pub port: u16,
    /// How many nodes.
    pub nodes: u8,
    /// Where the store answers as an etcd, if it does.
    #[serde(default)]
    pub etcd: Option<SocketAddr>,
}

/// How many clusters with own address ranges fit on a host.
pub const MAX_CLUSTERS: u8 = 16;

impl ClusterConfig {
    /// The network of all pods.
    pub fn pod_cidr(&self) -> String {
        format!("10.{}.0.0/16", self.pod_octet())
    }

    fn pod_octet(&self) -> u8 {
        244 - self.index
    }

    /// The host's address in the pods' network.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, self.pod_octet(), 0, 1)
    }

    /// The part of the pods' network that no node owns; Docker may hand out addresses of it.
    pub fn docker_range(&self) -> String {
        format!("10.{}.0.0/24", self.pod_octet())
    }

    /// A node's own address; nodes count from 0.
    pub fn node_ip(&self, node: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.pod_octet(), node + 1, 1)
    }

    /// The addresses of a node's pods.
    pub fn node_cidr(&self, node: u8) -> String {
        format!("10.{}.{}.0/24", self.pod_octet(), node + 1)
    }

    /// The range of Services' cluster IPs.
    pub fn service_cidr(&self) -> String {
        format!("10.{}.0.0/16", 96 + self.index)
    }

    /// The address of the `kubernetes` Service.
    pub fn kubernetes_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 96 + self.index, 0, 1)
    }

    /// The address of the cluster's DNS.
    pub fn dns_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 96 + self.index, 0, 10)
    }

    /// The addresses of load balancers.
    pub fn load_balancer_cidr(&self) -> String {
        format!("10.112.{}.0/24", self.index)
    }

    /// The Docker network.
    pub fn network(&self) -> String {
        if self.index == 0 { "coracle".into() } else { format!("coracle-{}", self.id) }
    }

    /// The host's bridge below it (a name of at most 15 characters).
    pub fn bridge(&self) -> String {
        format!("coracle{}", self.index)
    }

    /// The nftables table.
    pub fn table(&self) -> String {
        format!("coracle{}", self.index)
    }

    /// A node's name; nodes count from 0.
    pub fn node_name(&self, node: u8) -> String {
        format!("coracle-{}", node + 1)
    }

    /// The API server's URL.
    pub fn server_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
}

/// The directory.
#[derive(Clone, Debug)]
pub struct DataDir(PathBuf);

/// The right to run the cluster; ends with the process, however that ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl DataDir {
    /// The directory named on the command line, or `~/.coracle`. It need not exist.
    pub fn new(named: Option<PathBuf>) -> anyhow::Result<Self> {
        let path = match named {
            Some(path) => path,
            None => {
                let home = std::env::home_dir().context("there is no home directory; say where with --data-dir")?;
                home.join(".coracle")
            }
        };
        Ok(DataDir(std::path::absolute(path)?))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file or folder in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.join("kubeconfig")
    }

    /// The log of a cluster in the background.
    pub fn log(&self) -> PathBuf {
        self.join("logs/coracle.log")
    }

    /// Makes the directory, for its owner only.
    pub fn create(&self) -> anyhow::Result<()> {
        let make = |path: &Path, mode: u32| std::fs::DirBuilder::new().recursive(true).mode(mode).create(path);
        make(&self.0, 0o700)
            .and_then(|()| make(&self.join("logs"), 0o700))
            .with_context(|| format!("cannot make the data directory {}", self.0.display()))
    }

    /// What was chosen when the cluster was made, if there is one.
    pub fn config(&self) -> anyhow::Result<Option<ClusterConfig>> {
        let path = self.join("cluster.json");
        match std::fs::read(&path) {
            Ok(bytes) => {
                let config = serde_json::from_slice(&bytes);
                Ok(Some(config.with_context(|| format!("{} is damaged", path.display()))?))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Keeps what was chosen.
    pub fn save(&self, config: &ClusterConfig) -> anyhow::Result<()> {
        write_private(&self.join("cluster.json"), &serde_json::to_vec_pretty(config)?)
    }

    /// Takes the lock.
    ///
    /// # Errors
    /// If another process runs the cluster; the error names it.
    pub fn lock(&self) -> anyhow::Result<Lock> {
        let mut file = self.lock_file()?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let holder = holder(&mut file).map_or_else(|| "another process".into(), describe);
            bail!(
                "the data directory {} is in use by {holder}; stop that cluster with `coracle down`, or choose another directory with --data-dir",
                self.0.display()
            );
        }
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())?;
        file.flush()?;
        Ok(Lock { _file: file })
    }

    /// The process that runs the cluster, if any does.
    pub fn running(&self) -> Option<u32> {
        let mut file = OpenOptions::new().read(true).open(self.join("lock")).ok()?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => None,
            Err(_) => holder(&mut file),
        }
    }

    fn lock_file(&self) -> anyhow::Result<File> {
        let path = self.join("lock");
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        open.with_context(|| format!("cannot open {}", path.display()))
    }
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn describe(pid: u32) -> String {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
    if command.is_empty() { format!("process {pid}") } else { format!("process {pid} ({command})") }
}

/// Writes a file for its owner only, all or nothing.
pub fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(new);
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_directory_is_one_cluster() {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::new(Some(folder.path().join("c"))).unwrap();
        dir.create().unwrap();
        assert_eq!(dir.running(), None);
        let lock = dir.lock().unwrap();
        assert_eq!(dir.running(), Some(std::process::id()));
        let refusal = dir.lock().unwrap_err().to_string();
        assert!(refusal.contains(&format!("process {}", std::process::id())), "{refusal}");
        assert!(refusal.contains("--data-dir"), "{refusal}");
        drop(lock);
        assert_eq!(dir.running(), None);
    }

    #[test]
    fn what_was_chosen_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let dir = DataDir::new(Some(folder.path().to_owned())).unwrap();
        assert!(dir.config().unwrap().is_none());
        let config = ClusterConfig { id: "abc".into(), index: 2, port: 7443, nodes: 3, etcd: None };
        dir.save(&config).unwrap();
        let kept = dir.config().unwrap().unwrap();
        assert_eq!((kept.index, kept.port, kept.nodes), (2, 7443, 3));
        assert_eq!(kept.node_cidr(0), "10.242.1.0/24");
        std::fs::write(dir.join("cluster.json"), "{").unwrap();
        assert!(format!("{:#}", dir.config().unwrap_err()).contains("is damaged"));
    }

    #[test]
    fn clusters_on_one_host_have_ranges_of_their_own() {
        let config = |index| ClusterConfig { id: "x".into(), index, port: 1, nodes: 1, etcd: None };
        let ranges = |c: ClusterConfig| [c.pod_cidr(), c.service_cidr(), c.load_balancer_cidr(), c.bridge()];
        for a in 0..MAX_CLUSTERS {
            for b in 0..a {
                assert!(ranges(config(a)).iter().all(|range| !ranges(config(b)).contains(range)));
            }
        }
    }
}
