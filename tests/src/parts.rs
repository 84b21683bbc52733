//! Components as processes of their own, over TLS: an API server with its store in memory and static tokens, or two on a
//! real etcd, and what a test starts beside it. No Docker is needed: kubelets are simulated.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::binary::coracle;
use crate::cluster::free_port;
use crate::https::{self, Connection};
use crate::kubectl::{Kubectl, programs};
use crate::process::{Output, run, words};
use crate::wait::{eventually, wait_until};

/// The running components, by name. Each of [`TOKENS`] has a kubeconfig.
#[derive(Debug)]
pub struct Parts {
    folder: TempDir,
    port: u16,
    children: Mutex<Vec<(String, Child)>>,
    /// Where components tell how they are, by name.
    serving: Mutex<BTreeMap<String, u16>>,
}

/// Who may come: token, user, number and groups.
const TOKENS: &str = r#"admin,ada,1,"system:masters"
controllers,system:kube-controller-manager,2
scheduler,system:kube-scheduler,3
proxy,system:kube-proxy,7
node-a,system:node:a,4,"system:nodes"
node-b,system:node:b,5,"system:nodes"
visitor,vera,6
controllers-2,system:kube-controller-manager,7
scheduler-2,system:kube-scheduler,8
"#;

/// What is written down in `audit.log`: what happens in the namespace `audited`.
const AUDIT: &str = r#"{apiVersion: audit.k8s.io/v1, kind: Policy, omitStages: [RequestReceived], rules: [
  {level: RequestResponse, namespaces: [audited], verbs: [create], resources: [{group: "", resources: [configmaps]}]},
  {level: Metadata, namespaces: [audited]}, {level: None}]}
"#;

/// What is written down where several controller managers and schedulers are: what they change.
const AUDIT_LEADERS: &str = r#"{apiVersion: audit.k8s.io/v1, kind: Policy, omitStages: [RequestReceived], rules: [
  {level: Metadata, users: ["system:kube-controller-manager", "system:kube-scheduler"], verbs: [create, update, patch, delete]},
  {level: None}]}
"#;

/// Where the objects are in an etcd.
pub const ETCD_PREFIX: &str = "/several/registry";

impl Parts {
    fn new() -> Parts {
        let folder = tempfile::Builder::new().prefix("coracle-test-").tempdir().expect("a temporary folder");
        let parts = Parts { folder, port: free_port(), children: Mutex::default(), serving: Mutex::default() };
        std::fs::write(parts.path("tokens.csv"), TOKENS).expect("a file");
        for token in TOKENS.lines().filter_map(|line| line.split(',').next()) {
            parts.kubeconfig(token, "default");
        }
        parts
    }

    /// Starts an API server, and waits until it is ready.
    pub fn api_server() -> Parts {
        let parts = Self::new();
        parts.spawn_api_server("", parts.port, &["--store", "memory"], AUDIT);
        parts
    }

    /// Starts an etcd and two API servers on it, with a controller manager and a scheduler each that work if no others do,
    /// and two nodes of the second's.
    pub fn on_etcd() -> Parts {
        let parts = Self::new();
        let (data, peer) = (parts.path("etcd"), format!("http://127.0.0.1:{}", free_port()));
        let url = format!("http://127.0.0.1:{}", parts.serve("etcd"));
        let mut etcd = Command::new("etcd");
        etcd.args(["--data-dir", text(&data), "--log-level", "error", "--unsafe-no-fsync"]);
        etcd.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        etcd.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        etcd.args(["--initial-cluster", &format!("default={peer}")]);
        parts.start("etcd", etcd);
        eventually("etcd answers", 30, || parts.etcdctl("endpoint health").code == 0);
        let second = parts.serve("apiserver-2").parse().expect("a port");
        let store = words(&parts.store());
        let store: Vec<&str> = store.iter().map(String::as_str).collect();
        for (number, port) in [("", parts.port), ("-2", second)] {
            parts.spawn_api_server(number, port, &store, AUDIT_LEADERS);
            parts.candidates(number);
        }
        parts.kubelet("a", "-2");
        parts.kubelet("b", "-2");
        parts
    }

    /// The flags that name the etcd, and where in it the objects are.
    pub fn store(&self) -> String {
        format!("--store etcd://127.0.0.1:{} --etcd-prefix {ETCD_PREFIX}", self.serving("etcd"))
    }

    /// Runs `etcdctl <line>`.
    pub fn etcdctl(&self, line: &str) -> Output {
        let mut command = Command::new("etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints=127.0.0.1:{}", self.serving("etcd")))
            .args(words(line));
        run(command, "")
    }

    /// Runs `coracle <line>` as the administrator.
    pub fn coracle(&self, line: &str) -> Output {
        let data = self.path("data");
        std::fs::create_dir_all(&data).expect("a folder");
        std::fs::copy(self.path("admin.conf"), data.join("kubeconfig")).expect("a kubeconfig");
        let mut command = Command::new(coracle());
        command.arg("--data-dir").arg(data).args(words(line));
        run(command, "")
    }

    /// Starts the API server of this number, which is "" or "-2", and waits until it is ready.
    fn spawn_api_server(&self, number: &str, port: u16, store: &[&str], audit: &str) {
        std::fs::write(self.path("audit.yaml"), audit).expect("a file");
        let (advertised, port) = (if number.is_empty() { "127.0.0.1" } else { "127.0.0.2" }, port.to_string());
        let files = ["tokens.csv", "pki", "audit.yaml", &format!("audit{number}.log")].map(|name| self.path(name));
        let [tokens, pki, policy, log] = files.each_ref().map(|path| text(path));
        let arguments = ["--secure-port", &port, "--advertise-address", advertised];
        let files =
            ["--token-auth-file", tokens, "--cert-dir", pki, "--audit-policy-file", policy, "--audit-log-path", log];
        self.spawn(&format!("apiserver{number}"), "apiserver", &[&arguments[..], &files, store].concat());
        let kubectl = self.kubectl_through("admin", number);
        eventually("the API server is ready", 20, || kubectl.run("get --raw /readyz").stdout == "ok");
    }

    /// Starts an API server, controllers, a scheduler and the node `a`, and waits until the node is ready.
    pub fn control_plane() -> Parts {
        let parts = Parts::api_server();
        parts.controllers();
        parts.scheduler("scheduler");
        parts.kubelet("a", "");
        let kubectl = parts.kubectl("admin");
        eventually("the node is there", 20, || kubectl.names("nodes") == ["a"]);
        kubectl.ok("wait --for=condition=Ready node a --timeout=30s");
        parts
    }

    /// Starts the controllers.
    pub fn controllers(&self) {
        let (certificate, key) = (self.path("pki/ca.crt"), self.path("pki/ca.key"));
        let signing = ["--cluster-signing-cert-file", text(&certificate), "--cluster-signing-key-file", text(&key)];
        let tls = self.tls();
        self.controller_manager("", &[signing, tls.each_ref().map(String::as_str)].concat());
    }

    fn controller_manager(&self, number: &str, more: &[&str]) {
        let name = format!("controller-manager{number}");
        let kubeconfig = self.kubeconfig_through(&format!("controllers{number}"), number);
        let (volumes, port) = (self.path("volumes"), self.serve(&name));
        let flags = ["--kubeconfig", text(&kubeconfig), "--volume-dir", text(&volumes), "--secure-port", &port];
        self.spawn(&name, "controller-manager", &[&flags, more].concat());
    }

    /// Starts the controller manager and the scheduler of this number, at its API server.
    pub fn candidates(&self, number: &str) {
        self.controller_manager(number, &["--leader-elect"]);
        let name = format!("scheduler{number}");
        self.spawn_scheduler(&name, &self.kubeconfig_through(&name, number));
    }

    /// The flags by which a component shows a certificate of the cluster.
    fn tls(&self) -> [String; 4] {
        let file = |name: &str| text(&self.path(name)).to_owned();
        let (certificate, key) = (file("pki/apiserver.crt"), file("pki/apiserver.key"));
        ["--tls-cert-file".into(), certificate, "--tls-private-key-file".into(), key]
    }

    /// Starts a scheduler, which works if no other does.
    pub fn scheduler(&self, name: &str) {
        self.spawn_scheduler(name, &self.kubeconfig("scheduler", "default"));
    }

    fn spawn_scheduler(&self, name: &str, kubeconfig: &Path) {
        let port = self.serve(name);
        self.spawn(name, "scheduler", &["--kubeconfig", text(kubeconfig), "--leader-elect", "--secure-port", &port]);
    }

    /// Chooses where a component tells how it is.
    fn serve(&self, name: &str) -> String {
        let port = free_port();
        self.serving.lock().expect("no panic holds it").insert(name.to_owned(), port);
        port.to_string()
    }

    /// The port where a component tells how it is.
    pub fn serving(&self, name: &str) -> u16 {
        self.serving.lock().expect("no panic holds it")[name]
    }

    /// Starts the kubelet of a simulated node, `a` or `b`, at the API server of this number.
    pub fn kubelet(&self, node: &str, number: &str) {
        let name = format!("node-{node}");
        let (root, kubeconfig) = (self.path(&name), self.kubeconfig_through(&name, number));
        let cidr = format!("10.200.{}.0/24", node.as_bytes()[0]);
        let flags = ["--hostname-override", node, "--container-runtime", "simulated", "--pod-cidr", &cidr];
        let files = ["--root-dir", text(&root), "--kubeconfig", text(&kubeconfig)];
        let (port, tls, authority) = (self.serve(&format!("kubelet-{node}")), self.tls(), self.path("pki/ca.crt"));
        let serving = ["--port", &port, "--client-ca-file", text(&authority)];
        let tls = tls.each_ref().map(String::as_str);
        self.spawn(&format!("kubelet-{node}"), "kubelet", &[&flags[..], &files, &tls, &serving].concat());
    }

    /// Starts a proxy that needs no rights on the host.
    pub fn proxy(&self) {
        let kubeconfig = self.kubeconfig("proxy", "default");
        let [health, metrics] = ["proxy-health", "proxy-metrics"].map(|name| format!("127.0.0.1:{}", self.serve(name)));
        let flags = ["--kubeconfig", text(&kubeconfig), "--proxy-mode", "userspace"];
        let serving = ["--healthz-bind-address", &health, "--metrics-bind-address", &metrics];
        self.spawn("proxy", "proxy", &[&flags[..], &serving].concat());
    }

    /// A file or folder among those of these components.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn spawn(&self, name: &str, component: &str, arguments: &[&str]) {
        let mut command = Command::new(coracle());
        command.arg("--data-dir").arg(self.path("data")).arg(component).args(arguments);
        self.start(name, command);
    }

    fn start(&self, name: &str, mut command: Command) {
        let log = File::options().create(true).append(true).open(self.path(&format!("{name}.log"))).expect("a log");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("it runs");
        self.children.lock().expect("no panic holds it").push((name.to_owned(), child));
    }

    /// Sends a component a signal.
    pub fn signal(&self, name: &str, signal: Signal) {
        let children = self.children.lock().expect("no panic holds it");
        let (_, child) = children.iter().find(|(child, _)| child == name).expect("it was started");
        kill_process(Pid::from_child(child), signal).expect("it is ours");
    }

    /// Kills a component, as the kernel would that is out of memory.
    pub fn kill(&self, name: &str) {
        self.signal(name, Signal::KILL);
        self.ended(name);
    }

    /// Waits until a component has ended; whether it said that all is well.
    pub fn ended(&self, name: &str) -> bool {
        let mut children = self.children.lock().expect("no panic holds it");
        let index = children.iter().position(|(child, _)| child == name).expect("it was started");
        let status = wait_until("it ends", 30, || children[index].1.try_wait().expect("it is ours"));
        children.remove(index);
        status.success()
    }

    /// A kubeconfig for a token's owner that leads to the API server of this number.
    fn kubeconfig_through(&self, token: &str, number: &str) -> PathBuf {
        let kubeconfig = self.kubeconfig(token, "default");
        if number.is_empty() {
            return kubeconfig;
        }
        let text = std::fs::read_to_string(kubeconfig).expect("it was made");
        let port = self.serving(&format!("apiserver{number}")).to_string();
        let path = self.path(&format!("{token}-through{number}.conf"));
        std::fs::write(&path, text.replace(&self.port.to_string(), &port)).expect("a file");
        path
    }

    /// The newest of the promised kubectls, as a token's owner at the API server of this number.
    pub fn kubectl_through(&self, token: &str, number: &str) -> Kubectl {
        Kubectl { kubeconfig: self.kubeconfig_through(token, number), ..self.kubectl(token) }
    }

    /// A kubeconfig for a token's owner, at home in a namespace.
    pub fn kubeconfig(&self, token: &str, namespace: &str) -> PathBuf {
        let name = if namespace == "default" { token.to_owned() } else { format!("{token}-{namespace}") };
        self.kubeconfig_of(&name, &format!("token: {token}"), namespace)
    }

    /// A kubeconfig with these credentials.
    pub fn kubeconfig_of(&self, name: &str, credentials: &str, namespace: &str) -> PathBuf {
        let path = self.path(&format!("{name}.conf"));
        let (ca, port) = (self.path("pki/ca.crt"), self.port);
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{port}', certificate-authority: {}}}}}]\n\
             users: [{{name: u, user: {{{credentials}}}}}]\n\
             contexts: [{{name: c, context: {{cluster: c, user: u, namespace: {namespace}}}}}]\n",
            ca.display()
        );
        std::fs::write(&path, kubeconfig).expect("a file");
        path
    }

    /// The newest of the promised kubectls, with a kubeconfig that was made.
    pub fn kubectl(&self, name: &str) -> Kubectl {
        let program = programs().pop().expect("`missing` looked for it");
        Kubectl { program, kubeconfig: self.path(&format!("{name}.conf")), home: self.folder.path().to_owned() }
    }

    /// The promised kubectls, oldest first, with a kubeconfig that was made.
    pub fn every_kubectl(&self, name: &str) -> Vec<Kubectl> {
        programs().into_iter().map(|program| Kubectl { program, ..self.kubectl(name) }).collect()
    }

    /// A certain kubectl as a token's owner, at home in a namespace.
    pub fn kubectl_in(&self, program: &Path, token: &str, namespace: &str) -> Kubectl {
        Kubectl { program: program.to_owned(), kubeconfig: self.kubeconfig(token, namespace), ..self.kubectl(token) }
    }

    /// A connection to the API server, with a certificate of the folder `pki` or none.
    pub fn connect(&self, certificate: Option<&str>) -> Connection {
        self.connect_to(self.port, certificate)
    }

    /// A connection to a server that shows a certificate of the cluster.
    pub fn connect_to(&self, port: u16, certificate: Option<&str>) -> Connection {
        let read = |name: &str| std::fs::read_to_string(self.path("pki").join(name)).expect("it was made");
        let identity = certificate.map(|name| (read(&format!("{name}.crt")), read(&format!("{name}.key"))));
        https::connect(port, &read("ca.crt"), identity)
    }

    /// The ends of all logs.
    pub fn report(&self) -> String {
        let children = self.children.lock().expect("no panic holds it");
        let log = |(name, _): &(String, Child)| {
            let log = std::fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            format!("{name}:\n{}\n", lines[lines.len().saturating_sub(20)..].join("\n"))
        };
        children.iter().map(log).collect()
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        for (_, child) in self.children.get_mut().expect("no panic holds it") {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder's name is text")
}

/// Why these tests cannot run here, if they cannot.
pub fn missing() -> Option<String> {
    programs().is_empty().then(|| "there is no kubectl".to_owned())
}

/// Why those with a real etcd cannot.
pub fn missing_with_etcd() -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |program: &&str| std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    let lacks = ["etcd", "etcdctl"].into_iter().find(|program| !there(program));
    missing().or_else(|| lacks.map(|program| format!("there is no {program}")))
}
