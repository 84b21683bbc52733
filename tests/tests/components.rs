//! Each component alone, as its own process, over TLS: an API server with its store in memory and static tokens,
//! controllers, schedulers and simulated kubelets with kubeconfigs. No Docker is needed.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use coracle_tests::binary::coracle;
use coracle_tests::cluster::free_port;
use coracle_tests::kubectl::programs;
use coracle_tests::{Kubectl, eventually, sections, specification, wait_until};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use tempfile::TempDir;

fn main() {
    let sections = sections![
        the_api_server_knows_its_users_by_their_tokens,
        the_api_explains_itself_to_every_kubectl,
        simulated_nodes_become_ready,
        the_components_together_run_pods,
        an_approved_certificate_request_becomes_a_users_credentials,
        a_kubelets_certificate_request_is_approved_and_signed_by_itself,
        a_controller_manager_that_was_killed_goes_on_where_it_was,
        of_two_schedulers_one_works_and_the_other_stands_by,
    ];
    let missing = || programs().is_empty().then(|| "there is no kubectl".to_owned());
    specification(sections, missing, Parts::start, Parts::report);
}

/// The running components, by name.
struct Parts {
    folder: TempDir,
    port: u16,
    children: Mutex<Vec<(String, Child)>>,
}

/// Who may come: token, user, number and groups.
const TOKENS: &str = r#"admin,ada,1,"system:masters"
controllers,system:kube-controller-manager,2
scheduler,system:kube-scheduler,3
node-a,system:node:a,4,"system:nodes"
node-b,system:node:b,5,"system:nodes"
visitor,vera,6
"#;

impl Parts {
    fn start() -> Parts {
        let folder = tempfile::Builder::new().prefix("coracle-test-").tempdir().expect("a temporary folder");
        let parts = Parts { folder, port: free_port(), children: Mutex::default() };
        std::fs::write(parts.path("tokens.csv"), TOKENS).expect("a file");
        let (port, tokens, pki) = (parts.port.to_string(), parts.path("tokens.csv"), parts.path("pki"));
        let arguments = ["--secure-port", &port, "--store", "memory"];
        parts.spawn(
            "apiserver",
            "apiserver",
            &[&arguments[..], &["--token-auth-file", text(&tokens), "--cert-dir", text(&pki)]].concat(),
        );
        for token in TOKENS.lines().filter_map(|line| line.split(',').next()) {
            parts.kubeconfig(token);
        }
        let kubectl = parts.kubectl("admin");
        eventually("the API server is ready", 20, || kubectl.run("get --raw /readyz").stdout == "ok");
        parts.controllers();
        parts.scheduler("scheduler-1");
        for node in ["a", "b"] {
            let (root, kubeconfig) = (parts.path(&format!("node-{node}")), parts.kubeconfig(&format!("node-{node}")));
            let cidr = format!("10.200.{}.0/24", node.as_bytes()[0]);
            let flags = ["--hostname-override", node, "--container-runtime", "simulated", "--pod-cidr", &cidr];
            let files = ["--root-dir", text(&root), "--kubeconfig", text(&kubeconfig)];
            parts.spawn(&format!("kubelet-{node}"), "kubelet", &[&flags[..], &files].concat());
        }
        parts
    }

    fn controllers(&self) {
        let (kubeconfig, volumes) = (self.kubeconfig("controllers"), self.path("volumes"));
        let (certificate, key) = (self.path("pki/ca.crt"), self.path("pki/ca.key"));
        let flags = ["--kubeconfig", text(&kubeconfig), "--volume-dir", text(&volumes)];
        let signing = ["--cluster-signing-cert-file", text(&certificate), "--cluster-signing-key-file", text(&key)];
        self.spawn("controller-manager", "controller-manager", &[flags, signing].concat());
    }

    fn scheduler(&self, name: &str) {
        let kubeconfig = self.kubeconfig("scheduler");
        self.spawn(name, "scheduler", &["--kubeconfig", text(&kubeconfig), "--leader-elect"]);
    }

    fn path(&self, name: &str) -> PathBuf {
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
    fn kill(&self, name: &str) {
        let mut children = self.children.lock().expect("no panic holds it");
        let index = children.iter().position(|(child, _)| child == name).expect("it was started");
        let (_, mut child) = children.remove(index);
        child.kill().and_then(|()| child.wait()).expect("it is ours to end");
    }

    /// A kubeconfig for a token's owner.
    fn kubeconfig(&self, token: &str) -> PathBuf {
        self.kubeconfig_of(token, &format!("token: {token}"))
    }

    /// A kubeconfig with these credentials.
    fn kubeconfig_of(&self, name: &str, credentials: &str) -> PathBuf {
        let path = self.path(&format!("{name}.conf"));
        let (ca, port) = (self.path("pki/ca.crt"), self.port);
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{port}', certificate-authority: {}}}}}]\n\
             users: [{{name: u, user: {{{credentials}}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n",
            ca.display()
        );
        std::fs::write(&path, kubeconfig).expect("a file");
        path
    }

    fn kubectl(&self, token: &str) -> Kubectl {
        let program = programs().pop().expect("`missing` looked for it");
        Kubectl { program, kubeconfig: self.path(&format!("{token}.conf")), home: self.folder.path().to_owned() }
    }

    fn report(&self) -> String {
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

fn text(path: &std::path::Path) -> &str {
    path.to_str().expect("a temporary folder's name is text")
}

fn the_api_server_knows_its_users_by_their_tokens(parts: &Parts) {
    let whoami = parts.kubectl("admin").ok("auth whoami");
    assert!(whoami.contains("ada") && whoami.contains("system:masters"), "{whoami}");
    parts.kubectl("visitor").run("get pods").fails("User \"vera\" cannot list resource \"pods\"");
    parts.kubeconfig("stranger");
    parts.kubectl("stranger").run("get pods").fails("You must be logged in to the server");
}

/// By OpenAPI v3 and v2; and it says what is wrong with a manifest.
fn the_api_explains_itself_to_every_kubectl(parts: &Parts) {
    for program in programs() {
        let kubectl = Kubectl { program, ..parts.kubectl("admin") };
        let probe = kubectl.ok("explain pod.spec.containers.livenessProbe");
        assert!(probe.contains("FIELD: livenessProbe <Probe>") && probe.contains("initialDelaySeconds"), "{probe}");
        let containers = kubectl.ok("explain pod.spec.containers --output=plaintext-openapiv2");
        assert!(containers.contains("List of containers belonging to the pod."), "{containers}");
        let wrong = "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, dada: {}}";
        kubectl.run_with("create --validate=strict -f -", wrong).fails("unknown field \"dada\"");
        assert!(kubectl.ok("api-versions").lines().any(|line| line == "v1"));
        assert!(kubectl.ok("version").contains("Server Version: v1.36."));
    }
}

fn simulated_nodes_become_ready(parts: &Parts) {
    let kubectl = parts.kubectl("admin");
    eventually("both nodes are there", 20, || kubectl.names("nodes") == ["a", "b"]);
    kubectl.ok("wait --for=condition=Ready node a b --timeout=30s");
    // A node may speak for itself only.
    parts.kubectl("node-a").run("label node b x=y").fails("node \"a\" is not allowed to modify node \"b\"");
}

fn the_components_together_run_pods(parts: &Parts) {
    let kubectl = parts.kubectl("admin");
    eventually("the namespace has its ServiceAccount", 20, || {
        kubectl.names("serviceaccounts").contains(&"default".into())
    });
    kubectl.ok("create deployment web --image=anything:1 --replicas=4");
    kubectl.ok("rollout status deployment/web --timeout=60s");
    let nodes = kubectl.ok("get pods -o jsonpath='{.items[*].spec.nodeName}'");
    assert!(nodes.contains('a') && nodes.contains('b'), "{nodes}");
    kubectl.ok("expose deployment web --port=80");
    eventually("the pods are the Service's", 10, || {
        kubectl.field("endpoints web", "{.subsets[*].addresses[*].ip}").split_whitespace().count() == 4
    });
}

/// A certificate request of a user of a group (PEM), and the key it is made with.
fn certificate_request(user: &str, group: &str) -> (String, KeyPair) {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, group);
    params.distinguished_name.push(DnType::CommonName, user);
    let key = KeyPair::generate().expect("a key");
    let request = params.serialize_request(&key).and_then(|request| request.pem()).expect("a request");
    (request, key)
}

fn request_manifest(name: &str, request: &str, signer: &str) -> String {
    format!(
        "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\n\
         spec:\n  request: {}\n  signerName: kubernetes.io/{signer}\n  expirationSeconds: 3600\n  \
         usages: [digital signature, client auth]\n",
        BASE64_STANDARD.encode(request)
    )
}

fn an_approved_certificate_request_becomes_a_users_credentials(parts: &Parts) {
    let kubectl = parts.kubectl("admin");
    let (request, key) = certificate_request("alice", "dev");
    kubectl.apply(&request_manifest("alice", &request, "kube-apiserver-client"));
    let line = kubectl.ok("get csr alice --no-headers");
    assert!(line.contains("kubernetes.io/kube-apiserver-client") && line.contains("ada"), "{line}");
    assert!(line.trim_end().ends_with("60m             Pending"), "{line}");
    parts
        .kubectl("visitor")
        .run("certificate approve alice")
        .fails("cannot get resource \"certificatesigningrequests\"");
    kubectl.ok("certificate approve alice");
    let certificate = wait_until("the certificate is issued", 20, || {
        Some(kubectl.field("csr alice", "{.status.certificate}")).filter(|certificate| !certificate.is_empty())
    });
    assert!(kubectl.ok("get csr alice --no-headers").trim_end().ends_with("Approved,Issued"));
    let key = BASE64_STANDARD.encode(key.serialize_pem());
    parts.kubeconfig_of("alice", &format!("client-certificate-data: {certificate}, client-key-data: {key}"));
    let whoami = parts.kubectl("alice").ok("auth whoami");
    assert!(whoami.contains("alice") && whoami.contains("[dev system:authenticated]"), "{whoami}");
    kubectl.ok("create clusterrolebinding dev --clusterrole=view --group=dev");
    parts.kubectl("alice").ok("get pods");

    let (request, _) = certificate_request("mallory", "system:masters");
    kubectl
        .run_with("apply -f -", &request_manifest("mallory", &request, "kube-apiserver-client"))
        .fails("use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed");
    let (request, _) = certificate_request("bob", "dev");
    kubectl.apply(&request_manifest("bob", &request, "kube-apiserver-client"));
    kubectl.ok("certificate deny bob");
    assert!(kubectl.ok("get csr bob --no-headers").trim_end().ends_with("Denied"));
    kubectl.run("certificate approve bob").fails("Approved and Denied conditions are mutually exclusive");
}

fn a_kubelets_certificate_request_is_approved_and_signed_by_itself(parts: &Parts) {
    let (request, _) = certificate_request("system:node:a", "system:nodes");
    let node = parts.kubectl("node-a");
    let made = node.run_with("create -f -", &request_manifest("node-a", &request, "kube-apiserver-client-kubelet"));
    made.ok();
    let kubectl = parts.kubectl("admin");
    eventually("it is approved and signed", 20, || {
        kubectl.ok("get csr node-a --no-headers").trim_end().ends_with("Approved,Issued")
    });
    let message = kubectl.field("csr node-a", "{.status.conditions[0].message}");
    assert_eq!(message, "Auto approving self kubelet client certificate after SubjectAccessReview.");
}

fn a_controller_manager_that_was_killed_goes_on_where_it_was(parts: &Parts) {
    let kubectl = parts.kubectl("admin");
    parts.kill("controller-manager");
    kubectl.ok("scale deployment web --replicas=6");
    kubectl.ok("delete service web");
    assert_eq!(kubectl.names("pods").len(), 4, "nobody is there to do it");
    parts.controllers();
    kubectl.ok("rollout status deployment/web --timeout=60s");
    assert_eq!(kubectl.names("pods -l app=web").len(), 6);
    eventually("the Service's slices are collected", 20, || {
        kubectl.names("endpointslices -l kubernetes.io/service-name=web").is_empty()
    });
}

fn of_two_schedulers_one_works_and_the_other_stands_by(parts: &Parts) {
    let kubectl = parts.kubectl("admin");
    let holder = || kubectl.field("lease kube-scheduler -n kube-system", "{.spec.holderIdentity}");
    let first = holder();
    assert_ne!(first, "");
    parts.scheduler("scheduler-2");
    parts.kill("scheduler-1");
    kubectl.ok("scale deployment web --replicas=8");
    let second = wait_until("the other takes over", 40, || Some(holder()).filter(|holder| *holder != first));
    assert_ne!(second, "");
    kubectl.ok("rollout status deployment/web --timeout=60s");
}
