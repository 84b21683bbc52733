//! Components as processes of their own, over TLS: an API server with its store in memory and static tokens, and what
//! a test starts beside it. No Docker is needed: kubelets are simulated.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use tempfile::TempDir;

use crate::binary::coracle;
use crate::cluster::free_port;
use crate::https::{self, Connection};
use crate::kubectl::{Kubectl, programs};
use crate::wait::eventually;

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
node-a,system:node:a,4,"system:nodes"
node-b,system:node:b,5,"system:nodes"
visitor,vera,6
"#;

/// What is written down in `audit.log`: what happens in the namespace `audited`.
const AUDIT: &str = r#"{apiVersion: audit.k8s.io/v1, kind: Policy, omitStages: [RequestReceived], rules: [
  {level: RequestResponse, namespaces: [audited], verbs: [create], resources: [{group: "", resources: [configmaps]}]},
  {level: Metadata, namespaces: [audited]}, {level: None}]}
"#;

impl Parts {
    /// Starts an API server, and waits until it is ready.
    pub fn api_server() -> Parts {
        let folder = tempfile::Builder::new().prefix("coracle-test-").tempdir().expect("a temporary folder");
        let parts = Parts { folder, port: free_port(), children: Mutex::default(), serving: Mutex::default() };
        std::fs::write(parts.path("tokens.csv"), TOKENS).expect("a file");
        std::fs::write(parts.path("audit.yaml"), AUDIT).expect("a file");
        let port = parts.port.to_string();
        let files = ["tokens.csv", "pki", "audit.yaml", "audit.log"].map(|name| parts.path(name));
        let [tokens, pki, policy, log] = files.each_ref().map(|path| text(path));
        let arguments = ["--secure-port", &port, "--store", "memory", "--token-auth-file", tokens, "--cert-dir", pki];
        let audit = ["--audit-policy-file", policy, "--audit-log-path", log];
        parts.spawn("apiserver", "apiserver", &[&arguments[..], &audit].concat());
        for token in TOKENS.lines().filter_map(|line| line.split(',').next()) {
            parts.kubeconfig(token, "default");
        }
        let kubectl = parts.kubectl("admin");
        eventually("the API server is ready", 20, || kubectl.run("get --raw /readyz").stdout == "ok");
        parts
    }

    /// Starts an API server, controllers, a scheduler and the node `a`, and waits until the node is ready.
    pub fn control_plane() -> Parts {
        let parts = Parts::api_server();
        parts.controllers();
        parts.scheduler("scheduler");
        parts.kubelet("a");
        let kubectl = parts.kubectl("admin");
        eventually("the node is there", 20, || kubectl.names("nodes") == ["a"]);
        kubectl.ok("wait --for=condition=Ready node a --timeout=30s");
        parts
    }

    /// Starts the controllers.
    pub fn controllers(&self) {
        let (kubeconfig, volumes) = (self.kubeconfig("controllers", "default"), self.path("volumes"));
        let (certificate, key) = (self.path("pki/ca.crt"), self.path("pki/ca.key"));
        let flags = ["--kubeconfig", text(&kubeconfig), "--volume-dir", text(&volumes)];
        let signing = ["--cluster-signing-cert-file", text(&certificate), "--cluster-signing-key-file", text(&key)];
        let (shown, its_key) = (self.path("pki/apiserver.crt"), self.path("pki/apiserver.key"));
        let tls = ["--tls-cert-file", text(&shown), "--tls-private-key-file", text(&its_key)];
        let port = self.serve("controller-manager");
        let serving = ["--secure-port", &port];
        self.spawn("controller-manager", "controller-manager", &[&flags[..], &signing, &tls, &serving].concat());
    }

    /// Starts a scheduler, which works if no other does.
    pub fn scheduler(&self, name: &str) {
        let (kubeconfig, port) = (self.kubeconfig("scheduler", "default"), self.serve(name));
        let flags = ["--kubeconfig", text(&kubeconfig), "--leader-elect", "--secure-port", &port];
        self.spawn(name, "scheduler", &flags);
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

    /// Starts the kubelet of a simulated node: `a` or `b`.
    pub fn kubelet(&self, node: &str) {
        let name = format!("node-{node}");
        let (root, kubeconfig) = (self.path(&name), self.kubeconfig(&name, "default"));
        let cidr = format!("10.200.{}.0/24", node.as_bytes()[0]);
        let flags = ["--hostname-override", node, "--container-runtime", "simulated", "--pod-cidr", &cidr];
        let files = ["--root-dir", text(&root), "--kubeconfig", text(&kubeconfig)];
        self.spawn(&format!("kubelet-{node}"), "kubelet", &[&flags[..], &files].concat());
    }

    /// A file or folder among those of these components.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn spawn(&self, name: &str, component: &str, arguments: &[&str]) {
        let log = File::options().create(true).append(true).open(self.path(&format!("{name}.log"))).expect("a log");
        let mut command = Command::new(coracle());
        command.arg("--data-dir").arg(self.path("data")).arg(component).args(arguments);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("it runs");
        self.children.lock().expect("no panic holds it").push((name.to_owned(), child));
    }

    /// Kills a component, as the kernel would that is out of memory.
    pub fn kill(&self, name: &str) {
        let mut children = self.children.lock().expect("no panic holds it");
        let index = children.iter().position(|(child, _)| child == name).expect("it was started");
        let (_, mut child) = children.remove(index);
        child.kill().and_then(|()| child.wait()).expect("it is ours to end");
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
