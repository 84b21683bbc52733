//! A cluster of one's own: temporary, on a free port, removed at the end.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::binary::coracle;
use crate::kubectl::{self, Kubectl};
use crate::process::{Output, run, words};

/// A cluster that runs. Several may at once: each has its own data directory, port, names and address ranges.
#[derive(Debug)]
pub struct Cluster {
    folder: TempDir,
    port: u16,
    kubectl: PathBuf,
}

/// Whether the tests must not be skipped.
pub fn required() -> bool {
    std::env::var("CORACLE_TEST_DOCKER").is_ok_and(|value| value == "require")
}

/// Why clusters cannot be started here, if they cannot.
///
/// Where tests are required, this installs and starts the engine first, as the demo does.
pub fn missing() -> Option<String> {
    if kubectl::programs().is_empty() {
        return Some("there is no kubectl".into());
    }
    if required() {
        let setup = run(command(&["setup"]), "");
        return (setup.code != 0).then(|| setup.to_string());
    }
    let engine = Command::new("docker").arg("version").output();
    (!engine.is_ok_and(|output| output.status.success())).then(|| "no Docker engine answers".into())
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(coracle());
    command.args(arguments);
    command
}

/// A port that nobody listens on, below those that the kernel gives to connections: it would take it at any time.
pub fn free_port() -> u16 {
    let random = || RandomState::new().build_hasher().finish();
    let ports = std::iter::repeat_with(|| 15_000 + u16::try_from(random() % 15_000).unwrap_or_default());
    ports.take(1000).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("there is a free port")
}

/// Runs `docker <line>`, which must succeed; returns what it printed.
#[track_caller]
pub fn docker(line: &str) -> String {
    let mut command = Command::new("docker");
    command.args(words(line));
    run(command, "").ok()
}

impl Cluster {
    /// Starts a cluster of two nodes; `images` are made if the engine does not have them.
    #[track_caller]
    pub fn start(images: &[&str]) -> Cluster {
        let folder = tempfile::Builder::new().prefix("coracle-test-").tempdir().expect("a temporary folder");
        let programs = kubectl::programs();
        let kubectl = programs.last().expect("`missing` looked for it").clone();
        let cluster = Cluster { folder, port: free_port(), kubectl };
        std::fs::create_dir(cluster.home()).expect("a new folder");
        cluster.coracle(&format!("images build {}", images.join(" "))).ok();
        cluster.up().ok();
        cluster
    }

    /// The folder for what this cluster's tests need.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.folder().join("data")
    }

    fn home(&self) -> PathBuf {
        self.folder().join("home")
    }

    /// Runs `coracle --data-dir … <line>`.
    pub fn coracle(&self, line: &str) -> Output {
        self.coracle_in(&self.data_dir(), line)
    }

    /// Runs `coracle --data-dir <folder> <line>`.
    pub fn coracle_in(&self, folder: &Path, line: &str) -> Output {
        let mut command = Command::new(coracle());
        command.arg("--data-dir").arg(folder).args(words(line)).env("HOME", self.home());
        run(command, "")
    }

    /// `coracle up --detach`.
    pub fn up(&self) -> Output {
        self.coracle(&format!("up --detach --port {} --nodes 2 --etcd-listen 127.0.0.1:0", self.port))
    }

    /// What was chosen when the cluster was made.
    pub fn config(&self) -> Value {
        let text = std::fs::read(self.data_dir().join("cluster.json")).expect("the cluster was made");
        serde_json::from_slice(&text).expect("it is JSON")
    }

    /// The process that runs the cluster.
    pub fn pid(&self) -> i32 {
        let text = std::fs::read_to_string(self.data_dir().join("lock")).expect("the cluster was started");
        text.trim().parse().expect("the lock holds the process's number")
    }

    /// The newest kubectl, as administrator.
    pub fn kubectl(&self) -> Kubectl {
        self.kubectl_by(&self.kubectl)
    }

    /// A certain kubectl, as administrator.
    pub fn kubectl_by(&self, program: &Path) -> Kubectl {
        Kubectl { program: program.to_owned(), kubeconfig: self.data_dir().join("kubeconfig"), home: self.home() }
    }

    /// The running Docker containers of a pod's container, by its id; `POD` is the sandbox.
    pub fn containers(&self, pod: &str, container: &str) -> Vec<String> {
        let id = self.config()["id"].as_str().expect("a cluster has an id").to_owned();
        let listed = docker(&format!(
            "ps --no-trunc --quiet --filter label=io.coracle.cluster={id} \
             --filter label=io.kubernetes.pod.name={pod} --filter label=io.kubernetes.container.name={container}"
        ));
        listed.lines().map(str::to_owned).collect()
    }

    /// What helps to understand a failure.
    pub fn report(&self) -> String {
        let kubectl = self.kubectl();
        let looks = ["get nodes,all,pvc -A -o wide", "get events -A --sort-by=.lastTimestamp"];
        let mut report: String = looks.iter().map(|look| format!("{}\n", kubectl.run(look))).collect();
        report += "The cluster's log ends:\n";
        let log = self.coracle("logs").stdout;
        let lines: Vec<&str> = log.lines().collect();
        report + &lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.report());
        }
        let output = self.coracle("down --purge");
        if output.code != 0 {
            eprintln!("{output}");
        }
    }
}
