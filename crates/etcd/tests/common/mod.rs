//! A store that is served as an etcd, a real etcd, and etcdctl.

#![allow(dead_code, reason = "each test uses its own part")]

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use coracle_apiserver::pki::{CertKey, ETCD_CLIENT, Pki};
use coracle_client::transport::{Identity, peer};
use coracle_etcd::{EtcdConfig, EtcdServer};
use coracle_store::SharedStore;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Whether these programs are there. Where they are required, it is an error if not.
pub fn available(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing =
        programs.iter().find(|program| !std::env::split_paths(&path).any(|folder| folder.join(program).exists()));
    if let Some(program) = missing {
        assert!(std::env::var("CORACLE_TEST_DOCKER").is_err(), "there is no {program}");
        eprintln!("skipped: there is no {program} (Debian: etcd-client, etcd-server)");
    }
    missing.is_none()
}

/// etcdctl's answer.
pub async fn etcdctl(arguments: &[&str]) -> String {
    succeeded(Command::new("etcdctl").env("ETCDCTL_API", "3").args(arguments)).await
}

async fn succeeded(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().await.unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A store behind a listener of its own.
pub struct Served {
    pub store: SharedStore,
    port: u16,
    dir: TempDir,
    _stop: DropGuard,
}

impl Served {
    pub async fn start(store: SharedStore) -> Served {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::ensure(dir.path(), &[], &[]).unwrap();
        let CertKey { cert_pem, key_pem } = pki.etcd_server();
        let tls = peer::mutual_server_config(Identity { cert_pem, key_pem }, pki.etcd_ca_pem(), &["h2"]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let service = EtcdServer::new(store.clone(), &format!("https://127.0.0.1:{port}")).service();
        let stop = CancellationToken::new();
        tokio::spawn(coracle_apiserver::serve::serve(listener, tls, service, stop.clone()));
        Served { store, port, dir, _stop: stop.drop_guard() }
    }

    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// How the store's own client finds it.
    pub fn config(&self) -> EtcdConfig {
        let read = |name: &str| std::fs::read_to_string(self.pki_dir().join(name)).unwrap();
        EtcdConfig {
            endpoints: vec![self.url()],
            ca_pem: Some(read("etcd/ca.crt")),
            identity: Some((read(&format!("{ETCD_CLIENT}.crt")), read(&format!("{ETCD_CLIENT}.key")))),
        }
    }

    pub fn pki_dir(&self) -> PathBuf {
        self.dir.path().into()
    }

    /// etcdctl without certificates.
    pub fn bare_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(self.url()).args(arguments).kill_on_drop(true);
        command
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let pki = self.pki_dir();
        let mut command = self.bare_command(arguments);
        command.env("ETCDCTL_CACERT", pki.join("etcd/ca.crt"));
        command.env("ETCDCTL_CERT", pki.join(format!("{ETCD_CLIENT}.crt")));
        command.env("ETCDCTL_KEY", pki.join(format!("{ETCD_CLIENT}.key")));
        command
    }

    /// etcdctl's answer.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        succeeded(&mut self.command(arguments)).await
    }

    /// etcdctl's answer as JSON.
    pub async fn json(&self, arguments: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ctl(&[arguments, &["-w", "json"]].concat()).await).unwrap()
    }

    /// etcdctl's complaint.
    pub async fn fails(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).stdin(Stdio::null()).output().await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(!output.status.success(), "{arguments:?}: {text}");
        text
    }
}

/// A real etcd on free ports.
pub struct RealEtcd {
    pub url: String,
    _child: Child,
    _dir: Option<TempDir>,
}

impl RealEtcd {
    /// Starts it on a data directory of its own.
    pub async fn start_empty() -> RealEtcd {
        let dir = tempfile::tempdir().unwrap();
        let etcd = Self::start(&dir.path().join("etcd").display().to_string()).await;
        RealEtcd { _dir: Some(dir), ..etcd }
    }

    /// Starts it on a data directory and waits until it answers.
    pub async fn start(data: &str) -> RealEtcd {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (client, peer) = (format!("http://{}", free()), format!("http://{}", free()));
        let mut command = Command::new("etcd");
        command.args(["--data-dir", data, "--log-level", "error", "--unsafe-no-fsync"]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        // One member elects itself as soon as it may.
        command.args(["--heartbeat-interval", "10", "--election-timeout", "100"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let etcd = RealEtcd { url: client, _child: child, _dir: None };
        let healthy = async {
            while !etcd.command(&["endpoint", "health"]).output().await.unwrap().status.success() {
                coracle_clock::sleep(Duration::from_millis(50)).await;
            }
        };
        coracle_clock::timeout(Duration::from_secs(60), healthy).await.expect("etcd answers");
        etcd
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(&self.url).args(arguments);
        command
    }

    /// etcdctl's answer.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        succeeded(&mut self.command(arguments)).await
    }
}
