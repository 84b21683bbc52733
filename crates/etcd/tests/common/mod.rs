//! A store that is served as an etcd, a real etcd, and etcdctl.

#![allow(dead_code, reason = "each test uses its own part")]

use std::path::{Path, PathBuf};
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
        client_config(vec![self.url()], Some(&self.pki_dir()))
    }

    pub fn pki_dir(&self) -> PathBuf {
        self.dir.path().into()
    }

    /// etcdctl without certificates.
    pub fn bare_command(&self, arguments: &[&str]) -> Command {
        etcdctl_command(&self.url(), None, arguments)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        etcdctl_command(&self.url(), Some(&self.pki_dir()), arguments)
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

/// A real etcd on free ports, of one member or several.
pub struct RealEtcd {
    members: Vec<Member>,
    /// Where its certificates are, if it wants TLS.
    pki: Option<PathBuf>,
    _dir: Option<TempDir>,
}

struct Member {
    url: String,
    command: Command,
    child: Child,
}

impl RealEtcd {
    /// One member, on a data directory of its own.
    pub async fn start_empty() -> RealEtcd {
        let dir = tempfile::tempdir().unwrap();
        let etcd = Self::start(&dir.path().join("etcd").display().to_string()).await;
        RealEtcd { _dir: Some(dir), ..etcd }
    }

    /// One member, on this data directory.
    pub async fn start(data: &str) -> RealEtcd {
        // It elects itself as soon as it may.
        Self::start_members(&["default"], &["--heartbeat-interval=10", "--election-timeout=100"], None, |_| data.into())
            .await
    }

    /// Three members that speak TLS, and only with those who show a certificate.
    pub async fn start_cluster() -> RealEtcd {
        let dir = tempfile::tempdir().unwrap();
        let pki = dir.path().join("pki");
        Pki::ensure(&pki, &[], &[]).unwrap();
        let data = |name: &str| dir.path().join(name).display().to_string();
        let etcd = Self::start_members(&["first", "second", "third"], &[], Some(pki), data).await;
        RealEtcd { _dir: Some(dir), ..etcd }
    }

    /// Starts members and waits until each answers.
    async fn start_members(
        names: &[&str],
        more: &[&str],
        pki: Option<PathBuf>,
        data: impl Fn(&str) -> String,
    ) -> RealEtcd {
        let scheme = if pki.is_some() { "https" } else { "http" };
        // All at once, so that no two are the same.
        let ports: Vec<_> = names.iter().map(|_| [(); 2].map(|()| free_port())).collect();
        let url = |port: &std::net::TcpListener| format!("{scheme}://{}", port.local_addr().unwrap());
        let urls: Vec<_> = ports.iter().map(|[client, peer]| (url(client), url(peer))).collect();
        drop(ports);
        let cluster: Vec<_> = names.iter().zip(&urls).map(|(name, (_, peer))| format!("{name}={peer}")).collect();
        let members = names.iter().zip(urls).map(|(name, (url, peer))| {
            let mut command = Command::new("etcd");
            command.args(["--name", name, "--data-dir", &data(name), "--log-level", "error", "--unsafe-no-fsync"]);
            command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args(["--initial-cluster", &cluster.join(",")]).args(more);
            if let Some(pki) = &pki {
                for prefix in ["", "peer-"] {
                    command.arg(format!("--{prefix}cert-file={}", pki.join("etcd/server.crt").display()));
                    command.arg(format!("--{prefix}key-file={}", pki.join("etcd/server.key").display()));
                    command.arg(format!("--{prefix}trusted-ca-file={}", pki.join("etcd/ca.crt").display()));
                    command.arg(format!("--{prefix}client-cert-auth"));
                }
            }
            command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
            let child = command.spawn().unwrap();
            Member { url, command, child }
        });
        let etcd = RealEtcd { members: members.collect(), pki, _dir: None };
        for member in &etcd.members {
            etcd.answers(member).await;
        }
        etcd
    }

    async fn answers(&self, member: &Member) {
        let healthy = async {
            while !self.command(member, &["endpoint", "health"]).output().await.unwrap().status.success() {
                coracle_clock::sleep(Duration::from_millis(50)).await;
            }
        };
        coracle_clock::timeout(Duration::from_secs(60), healthy).await.expect("etcd answers");
    }

    /// Kills a member.
    pub async fn kill(&mut self, member: usize) {
        self.members[member].child.kill().await.unwrap();
    }

    /// Starts a member again and waits until it answers.
    pub async fn restart(&mut self, member: usize) {
        let found = &mut self.members[member];
        found.child = found.command.spawn().unwrap();
        self.answers(&self.members[member]).await;
    }

    /// The first member's address.
    pub fn url(&self) -> &str {
        &self.members[0].url
    }

    /// How the store's own client finds it.
    pub fn config(&self) -> EtcdConfig {
        client_config(self.members.iter().map(|member| member.url.clone()).collect(), self.pki.as_deref())
    }

    fn command(&self, member: &Member, arguments: &[&str]) -> Command {
        etcdctl_command(&member.url, self.pki.as_deref(), arguments)
    }

    /// etcdctl's answer.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        succeeded(&mut self.command(&self.members[0], arguments)).await
    }
}

/// A port that nobody has as long as this is held.
fn free_port() -> std::net::TcpListener {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap()
}

fn client_config(endpoints: Vec<String>, pki: Option<&Path>) -> EtcdConfig {
    let read = |name: &str| pki.map(|pki| std::fs::read_to_string(pki.join(name)).unwrap());
    let identity = read(&format!("{ETCD_CLIENT}.crt")).zip(read(&format!("{ETCD_CLIENT}.key")));
    EtcdConfig { endpoints, ca_pem: read("etcd/ca.crt"), identity }
}

fn etcdctl_command(url: &str, pki: Option<&Path>, arguments: &[&str]) -> Command {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", url]).args(arguments).kill_on_drop(true);
    if let Some(pki) = pki {
        command.env("ETCDCTL_CACERT", pki.join("etcd/ca.crt"));
        command.env("ETCDCTL_CERT", pki.join(format!("{ETCD_CLIENT}.crt")));
        command.env("ETCDCTL_KEY", pki.join(format!("{ETCD_CLIENT}.key")));
    }
    command
}
