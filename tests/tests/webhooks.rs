//! Servers outside of the cluster's own, as `kubectl` sees them: webhooks, extension servers, the front proxy. One API
//! server alone, as its own process.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use coracle_tests::binary::coracle;
use coracle_tests::cluster::free_port;
use coracle_tests::kubectl::programs;
use coracle_tests::{Kubectl, eventually, sections, specification};
use tempfile::TempDir;

fn main() {
    let sections = sections![
        what_is_served_here_has_api_services,
        an_extension_server_that_is_not_there_is_said_to_be_missing,
        extension_servers_are_told_whom_to_believe,
        a_webhook_that_cannot_be_called_refuses_or_is_passed_over,
        a_configuration_that_makes_no_sense_is_refused,
    ];
    let missing = || programs().is_empty().then(|| "there is no kubectl".to_owned());
    let report = |server: &ApiServer| std::fs::read_to_string(server.path("log")).unwrap_or_default();
    specification(sections, missing, ApiServer::start, report);
}

struct ApiServer {
    folder: TempDir,
    child: Child,
}

impl ApiServer {
    fn start() -> ApiServer {
        let folder = tempfile::Builder::new().prefix("coracle-test-").tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("tokens.csv"), "admin,ada,1,\"system:masters\"\n").expect("a file");
        let port = free_port().to_string();
        let child = Command::new(coracle())
            .arg("--data-dir")
            .arg(path("data"))
            .args(["apiserver", "--secure-port", &port, "--store", "memory", "--token-auth-file"])
            .arg(path("tokens.csv"))
            .arg("--cert-dir")
            .arg(path("pki"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(path("log")).expect("a log"))
            .spawn()
            .expect("it runs");
        let ca = path("pki/ca.crt");
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{port}', certificate-authority: {ca:?}}}}}]\n\
             users: [{{name: u, user: {{token: admin}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
        );
        std::fs::write(path("kubeconfig"), kubeconfig).expect("a file");
        let server = ApiServer { folder, child };
        eventually("the API server is ready", 20, || server.kubectl().run("get --raw /readyz").stdout == "ok");
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn kubectl(&self) -> Kubectl {
        let program = programs().pop().expect("there is one");
        Kubectl { program, kubeconfig: self.path("kubeconfig"), home: self.folder.path().to_owned() }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn what_is_served_here_has_api_services(server: &ApiServer) {
    let kubectl = server.kubectl();
    let table = kubectl.ok("get apiservices");
    for name in ["v1.", "v1.apps", "v2.autoscaling", "v1.admissionregistration.k8s.io"] {
        let row = table.lines().find(|line| line.split_whitespace().next() == Some(name));
        assert!(row.is_some_and(|row| row.contains("Local") && row.contains("True")), "{name}: {table}");
    }
}

fn an_extension_server_that_is_not_there_is_said_to_be_missing(server: &ApiServer) {
    let kubectl = server.kubectl();
    kubectl.apply(
        "apiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {name: v1.wardle.example.com}\n\
         spec: {group: wardle.example.com, version: v1, groupPriorityMinimum: 2000, versionPriority: 200, \
         insecureSkipTLSVerify: true, service: {namespace: default, name: nowhere}}\n",
    );
    let reason = "{.status.conditions[?(@.type==\"Available\")].reason}";
    let of = || kubectl.field("apiservice v1.wardle.example.com", reason);
    eventually("the condition says what is missing", 20, || of() == "ServiceNotFound");
    kubectl.run("get --raw /apis/wardle.example.com/v1").fails("the server is currently unable to handle the request");
    kubectl.ok("delete apiservice v1.wardle.example.com");
    kubectl.run("get --raw /apis/wardle.example.com/v1").fails("could not find the requested resource");
}

fn extension_servers_are_told_whom_to_believe(server: &ApiServer) {
    let map = server.kubectl().json("configmap extension-apiserver-authentication -n kube-system");
    let data = &map["data"];
    assert_eq!(data["requestheader-allowed-names"], "[\"front-proxy-client\"]");
    assert_eq!(data["requestheader-username-headers"], "[\"X-Remote-User\"]");
    for file in ["client-ca-file", "requestheader-client-ca-file"] {
        assert!(data[file].as_str().is_some_and(|pem| pem.contains("BEGIN CERTIFICATE")), "{file}: {map}");
    }
}

fn configuration(name: &str, webhook: &str) -> String {
    format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingWebhookConfiguration\nmetadata: {{name: {name}}}\n\
         webhooks: [{{name: {name}.example.com, sideEffects: None, admissionReviewVersions: [v1], {webhook}, \
         rules: [{{operations: [CREATE], apiGroups: [''], apiVersions: [v1], resources: [configmaps]}}]}}]\n"
    )
}

fn a_webhook_that_cannot_be_called_refuses_or_is_passed_over(server: &ApiServer) {
    let kubectl = server.kubectl();
    let client = "clientConfig: {url: 'https://127.0.0.1:1/deny'}";
    kubectl.apply(&configuration("closed", client));
    kubectl.run("create configmap a").fails(
        "Internal error occurred: failed calling webhook \"closed.example.com\": \
         failed to call webhook: Post \"https://127.0.0.1:1/deny?timeout=10s\": dial tcp 127.0.0.1:1: connect: \
         connection refused",
    );
    kubectl.apply(&configuration("closed", &format!("{client}, failurePolicy: Ignore")));
    kubectl.ok("create configmap a");
    kubectl.ok("delete validatingwebhookconfiguration closed");
}

fn a_configuration_that_makes_no_sense_is_refused(server: &ApiServer) {
    let manifest = configuration("bad", "clientConfig: {url: 'http://x/'}, timeoutSeconds: 31");
    let refused = server.kubectl().run_with("apply -f -", &manifest).fails("is invalid");
    assert!(
        refused.contains("'https' is the only allowed URL scheme; desired format: https://host[/path]"),
        "{refused}"
    );
    assert!(refused.contains("the timeout value must be between 1 and 30 seconds"), "{refused}");
}
