//! What there is: versions, resources, their explanation, and the API through `kubectl proxy`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use coracle_tests::{Parts, Section, Session, sections};

use super::{each, has};

pub const SECTIONS: &[Section<Parts>] = sections![
    api_versions_lists_v1,
    cluster_info_names_the_control_plane,
    version_prints_client_and_server,
    resources_are_discovered_and_explained,
    proxy_serves_the_api_on_a_unix_socket,
    proxy_on_port_0_picks_a_port_and_serves_the_api,
];

fn api_versions_lists_v1(parts: &Parts) {
    each(parts, "versions", |kubectl, _| {
        let versions = kubectl.ok("api-versions");
        assert!(versions.lines().any(|line| line == "v1"), "{versions}");
        assert!(versions.lines().any(|line| line == "apps/v1"), "{versions}");
    });
}

fn cluster_info_names_the_control_plane(parts: &Parts) {
    each(parts, "info", |kubectl, _| {
        has(&kubectl.ok("cluster-info"), &["Kubernetes control plane", "is running at", "https://127.0.0.1:"]);
        let dump = kubectl.ok("cluster-info dump");
        has(&dump, &["\"kind\": \"NodeList\"", "\"kind\": \"PodList\""]);
    });
}

fn version_prints_client_and_server(parts: &Parts) {
    each(parts, "version", |kubectl, _| {
        has(&kubectl.ok("version"), &["Client Version", "Server Version"]);
        let json = kubectl.ok("version -o json");
        let version: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(
            (&version["serverVersion"]["major"], &version["serverVersion"]["minor"]),
            (&"1".into(), &"36".into())
        );
        for field in ["gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"] {
            assert!(version["serverVersion"][field].is_string(), "{field} in {version:#}");
        }
    });
}

fn resources_are_discovered_and_explained(parts: &Parts) {
    each(parts, "discovery", |kubectl, _| {
        let namespaced = kubectl.ok("api-resources --namespaced=true -o name");
        assert!(namespaced.lines().any(|line| line == "deployments.apps") && !namespaced.contains("nodes"));
        let not = kubectl.ok("api-resources --namespaced=false -o name");
        assert!(not.lines().any(|line| line == "nodes") && !not.contains("deployments.apps"));
        let all = kubectl.ok("api-resources --categories=all -o name");
        assert!(all.lines().all(|line| !line.contains("configmaps")) && all.contains("services"), "{all}");
        let wide = kubectl.ok("api-resources --api-group=apps -o wide --no-headers");
        let row = wide.lines().find(|line| line.starts_with("deployments")).expect("it is there");
        has(row, &["deploy", "apps/v1", "true", "Deployment", "create", "deletecollection", "watch"]);
        has(&kubectl.ok("explain pods"), &["KIND:", "Pod", "spec", "<PodSpec>"]);
        has(&kubectl.ok("explain deployments.spec.strategy.rollingUpdate"), &["maxSurge", "maxUnavailable"]);
        has(&kubectl.ok("explain cronjobs --api-version=batch/v1"), &["VERSION:", "schedule"]);
        has(&kubectl.ok("explain pods --recursive"), &["readinessProbe", "terminationGracePeriodSeconds"]);
        kubectl.run("explain pods.spec.nothing").fails("field \"nothing\" does not exist");
        has(&kubectl.ok("get --raw /openapi/v3"), &["apis/apps/v1"]);
        has(&kubectl.ok("get --raw /api/v1/namespaces/default"), &["\"name\":\"default\""]);
    });
}

fn proxy_serves_the_api_on_a_unix_socket(parts: &Parts) {
    each(parts, "socket", |kubectl, namespace| {
        let socket = parts.path(&format!("{namespace}.sock"));
        let proxy = kubectl.start(&format!("proxy --unix-socket={}", socket.display()));
        proxy.expect("Starting to serve on");
        let mut stream = UnixStream::connect(&socket).expect("it serves");
        stream.write_all(b"GET /api/ HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("it listens");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        has(&answer, &["200 OK", "APIVersions"]);
    });
}

fn proxy_on_port_0_picks_a_port_and_serves_the_api(parts: &Parts) {
    each(parts, "port0", |kubectl, _| {
        let proxy = kubectl.start("proxy --port=0 --disable-filter");
        let line = proxy.expect("Starting to serve on");
        let address = line.trim_start_matches("Starting to serve on").trim();
        assert!(!address.ends_with(":0"), "{line}");
        let answer = Session::new(address).request("GET", "/api/", "").expect("it answers");
        assert_eq!(answer.status, 200);
        has(&answer.body, &["APIVersions", "v1"]);
    });
}
