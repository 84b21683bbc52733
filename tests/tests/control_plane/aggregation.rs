//! Aggregation: an extension API server of the test's own behind an APIService, and one that is not there.

use coracle_tests::https::{Request, Server};
use coracle_tests::kubectl::oldest_and_newest;
use coracle_tests::{Parts, Section, eventually, sections};
use serde_json::{Value, json};

use crate::kubectl::has;

pub const SECTIONS: &[Section<Parts>] = sections![
    what_is_served_here_has_api_services,
    an_extension_server_that_is_not_there_is_said_to_be_missing,
    an_extension_server_is_asked_in_its_users_name,
    extension_servers_are_told_whom_to_believe,
];

const GROUP_VERSION: &str = "wardle.example.com/v1";
const FLUNDERS: &str = "/apis/wardle.example.com/v1/namespaces/default/flunders";

fn what_is_served_here_has_api_services(parts: &Parts) {
    let kubectl = parts.kubectl("admin");
    let table = kubectl.ok("get apiservices");
    for name in ["v1.", "v1.apps", "v2.autoscaling", "v1.admissionregistration.k8s.io"] {
        let row = table.lines().find(|line| line.split_whitespace().next() == Some(name));
        assert!(row.is_some_and(|row| row.contains("Local") && row.contains("True")), "{name}: {table}");
    }
}

fn api_service(service: &str, tls: &str) -> String {
    format!(
        "apiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {{name: v1.wardle.example.com}}\n\
         spec: {{group: wardle.example.com, version: v1, groupPriorityMinimum: 2000, versionPriority: 200, \
         {tls}, service: {{namespace: default, name: {service}}}}}\n"
    )
}

fn an_extension_server_that_is_not_there_is_said_to_be_missing(parts: &Parts) {
    let kubectl = parts.kubectl("admin");
    kubectl.apply(&api_service("nowhere", "insecureSkipTLSVerify: true"));
    let reason = "{.status.conditions[?(@.type==\"Available\")].reason}";
    let of = || kubectl.field("apiservice v1.wardle.example.com", reason);
    eventually("the condition says what is missing", 20, || of() == "ServiceNotFound");
    kubectl.run("get --raw /apis/wardle.example.com/v1").fails("the server is currently unable to handle the request");
    kubectl.ok("delete apiservice v1.wardle.example.com");
    kubectl.run("get --raw /apis/wardle.example.com/v1").fails("could not find the requested resource");
}

/// An API of one kind, of which there is always one object.
fn flunders(request: &Request) -> (u16, Value) {
    let path = request.path.split('?').next().unwrap_or_default();
    let flunder = |name: &str| json!({ "apiVersion": GROUP_VERSION, "kind": "Flunder", "metadata": { "name": name, "namespace": "default" } });
    let resource = json!({
        "name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder",
        "verbs": ["get", "list", "create"],
    });
    match (request.method.as_str(), path) {
        ("GET", "/apis/wardle.example.com/v1") => (
            200,
            json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": GROUP_VERSION, "resources": [resource] }),
        ),
        ("GET", FLUNDERS) => (
            200,
            json!({ "apiVersion": GROUP_VERSION, "kind": "FlunderList", "metadata": {}, "items": [flunder("first")] }),
        ),
        ("POST", FLUNDERS) => (201, request.body.clone()),
        _ => (
            404,
            json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404 }),
        ),
    }
}

fn an_extension_server_is_asked_in_its_users_name(parts: &Parts) {
    let kubectl = parts.kubectl("admin");
    let proxies = parts.path("pki/front-proxy-ca.crt");
    let server = Server::start("sample.default.svc", Some(&proxies), flunders);
    let port = server.port;
    kubectl.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: sample}}\nspec: {{ports: [{{port: 443, targetPort: {port}}}]}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: sample-1, labels: \
         {{kubernetes.io/service-name: sample}}}}\naddressType: IPv4\nendpoints: [{{addresses: [127.0.0.1]}}]\n\
         ports: [{{port: {port}}}]\n"
    ));
    kubectl.apply(&api_service("sample", &format!("caBundle: {}", server.ca_bundle())));
    kubectl.ok("wait --for=condition=Available apiservice v1.wardle.example.com --timeout=30s");
    for program in oldest_and_newest() {
        let kubectl = parts.kubectl_in(&program, "admin", "default");
        has(&kubectl.ok("api-resources --api-group=wardle.example.com"), &["flunders", GROUP_VERSION, "Flunder"]);
        assert_eq!(kubectl.ok("get flunders -o name"), "flunder.wardle.example.com/first\n");
        let flunder = format!("apiVersion: {GROUP_VERSION}\nkind: Flunder\nmetadata: {{name: second}}\n");
        let created = kubectl.run_with("create --validate=false -f -", &flunder).ok();
        assert_eq!(created, "flunder.wardle.example.com/second created\n");
        kubectl.run("get flunder none").fails("NotFound");
        has(&kubectl.ok("api-versions"), &[GROUP_VERSION]);
    }
    let eve =
        "token: admin, as: eve, as-uid: '7', as-groups: [system:masters], as-user-extra: {example.com/team: [red]}";
    parts.kubeconfig_of("eve", eve, "default");
    parts.kubectl("eve").ok(&format!("get --raw {FLUNDERS}?by=eve"));
    let asked = server.asked(&format!("{FLUNDERS}?by=eve")).pop().expect("it was asked");
    for (name, values) in [
        ("x-remote-user", &["eve"][..]),
        ("x-remote-uid", &["7"]),
        ("x-remote-group", &["system:masters", "system:authenticated"]),
        ("x-remote-extra-example.com%2fteam", &["red"]),
        ("authorization", &[]),
        ("impersonate-user", &[]),
    ] {
        assert_eq!(asked.header(name), values, "{name}");
    }
    parts.kubectl("visitor").run("get flunders").fails("cannot list resource \"flunders\" in API group");

    // What is no HTTP any more goes through, too.
    let mut connection = parts.connect(None);
    connection.send(&format!(
        "GET {FLUNDERS}/first/talk HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer admin\r\n\
         Connection: Upgrade\r\nUpgrade: echo\r\n\r\n"
    ));
    let head = connection.head();
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("echo"), "{head}");
    connection.send("is anybody there?");
    assert_eq!(connection.read(17), "is anybody there?");
    kubectl.ok("delete apiservice v1.wardle.example.com");
    kubectl.ok("delete service,endpointslice -l kubernetes.io/service-name=sample");
    kubectl.ok("delete service sample");
}

fn extension_servers_are_told_whom_to_believe(parts: &Parts) {
    let map = parts.kubectl("admin").json("configmap extension-apiserver-authentication -n kube-system");
    let data = &map["data"];
    assert_eq!(data["requestheader-allowed-names"], "[\"front-proxy-client\"]");
    assert_eq!(data["requestheader-username-headers"], "[\"X-Remote-User\"]");
    for file in ["client-ca-file", "requestheader-client-ca-file"] {
        assert!(data[file].as_str().is_some_and(|pem| pem.contains("BEGIN CERTIFICATE")), "{file}: {map}");
    }
}
