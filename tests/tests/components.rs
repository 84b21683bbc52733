//! Each component alone, as its own process, over TLS: an API server with its store in memory and static tokens,
//! controllers, schedulers and simulated kubelets with kubeconfigs. No Docker is needed.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use coracle_tests::certificates::{certificate_request, request_manifest};
use coracle_tests::parts::{Parts, missing};
use coracle_tests::{Session, eventually, sections, specification, wait_until};

fn main() {
    let sections = sections![
        the_api_server_knows_its_users_by_their_tokens,
        the_api_explains_itself_to_every_kubectl,
        simulated_nodes_become_ready,
        the_components_together_run_pods,
        components_tell_everybody_how_they_are_and_those_who_may_what_they_count,
        a_kubelet_shows_what_it_counts_to_whom_the_cluster_permits_it,
        a_proxy_tells_without_tls_whether_it_has_written_its_rules,
        an_approved_certificate_request_becomes_a_users_credentials,
        a_kubelets_certificate_request_is_approved_and_signed_by_itself,
        a_controller_manager_that_was_killed_goes_on_where_it_was,
        of_two_schedulers_one_works_and_the_other_stands_by,
    ];
    specification(sections, missing, start, Parts::report);
}

fn start() -> Parts {
    let parts = Parts::api_server();
    parts.controllers();
    parts.scheduler("scheduler-1");
    parts.kubelet("a", "");
    parts.kubelet("b", "");
    parts
}

fn the_api_server_knows_its_users_by_their_tokens(parts: &Parts) {
    let whoami = parts.kubectl("admin").ok("auth whoami");
    assert!(whoami.contains("ada") && whoami.contains("system:masters"), "{whoami}");
    parts.kubectl("visitor").run("get pods").fails("User \"vera\" cannot list resource \"pods\"");
    parts.kubeconfig("stranger", "default");
    parts.kubectl("stranger").run("get pods").fails("You must be logged in to the server");
}

/// By OpenAPI v3 and v2; and it says what is wrong with a manifest.
fn the_api_explains_itself_to_every_kubectl(parts: &Parts) {
    for kubectl in parts.every_kubectl("admin") {
        let probe = kubectl.ok("explain pod.spec.containers.livenessProbe");
        assert!(probe.contains("FIELD: livenessProbe <Probe>") && probe.contains("initialDelaySeconds"), "{probe}");
        let containers = kubectl.ok("explain pod.spec.containers --output=plaintext-openapiv2");
        assert!(containers.contains("List of containers belonging to the pod."), "{containers}");
        let wrong = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndada: {}\n";
        kubectl.run_with("create --validate=strict -f -", wrong).fails("unknown field \"dada\"");
        assert!(kubectl.ok("api-versions").lines().any(|line| line == "v1"));
        assert!(kubectl.ok("version").contains("Server Version: v1.36."));
    }
}

fn simulated_nodes_become_ready(parts: &Parts) {
    let kubectl = parts.kubectl("admin");
    eventually("both nodes are there", 20, || kubectl.names("nodes") == ["a", "b"]);
    kubectl.ok("wait --for=condition=Ready node a b --timeout=30s");
    // A node may speak of itself only.
    parts.kubectl("node-a").run("label node b x=y").fails("User \"system:node:a\" cannot get resource \"nodes\"");
}

fn the_components_together_run_pods(parts: &Parts) {
    let kubectl = parts.kubectl("admin");
    eventually("the namespace has its ServiceAccount", 20, || {
        kubectl.names("serviceaccounts").contains(&"default".into())
    });
    kubectl.ok("create deployment web --image=anything:1 --replicas=4");
    kubectl.ok("rollout status deployment/web --timeout=60s");
    let managers =
        kubectl.ok("get rs,pods --show-managed-fields -o jsonpath='{.items[*].metadata.managedFields[*].manager}'");
    assert!(managers.contains("kube-controller-manager") && managers.contains("kubelet"), "{managers}");
    assert!(!managers.contains("unknown"), "{managers}");
    let nodes = kubectl.ok("get pods -o jsonpath='{.items[*].spec.nodeName}'");
    assert!(nodes.contains('a') && nodes.contains('b'), "{nodes}");
    kubectl.ok("expose deployment web --port=80");
    eventually("the pods are the Service's", 10, || {
        kubectl.field("endpoints web", "{.subsets[*].addresses[*].ip}").split_whitespace().count() == 4
    });
}

fn components_tell_everybody_how_they_are_and_those_who_may_what_they_count(parts: &Parts) {
    let port = parts.serving("controller-manager");
    for (certificate, path, code, told) in [
        (None, "/healthz", 200, "ok"),
        (None, "/healthz?verbose", 200, "[+]deployment-controller ok\n"),
        (None, "/healthz/job-controller", 200, "ok"),
        (None, "/readyz?verbose", 200, "[+]shutdown ok\nreadyz check passed"),
        (None, "/metrics", 403, "User \\\"system:anonymous\\\" cannot get path \\\"/metrics\\\""),
        (Some("front-proxy-client"), "/metrics", 401, "Unauthorized"),
        (Some("admin"), "/metrics", 200, "workqueue_adds_total{name=\"deployment\"}"),
        (Some("admin"), "/metrics/slis", 200, "kubernetes_healthcheck{name=\"job-controller\",type=\"healthz\"} 1"),
        (Some("admin"), "/configz", 200, "\"Controllers\":[\"*\"]"),
        (Some("admin"), "/pods", 404, "404 page not found"),
    ] {
        let answer = parts.connect_to(port, certificate).get(path, "");
        assert_eq!(answer.status, code, "{path}: {}", answer.body);
        assert!(answer.body.contains(told), "{path}: {}", answer.body);
    }
    // By token, and with a certificate that nobody vouches for.
    let scheduler = format!("--insecure-skip-tls-verify --server=https://127.0.0.1:{}", parts.serving("scheduler-1"));
    let metrics = parts.kubectl("admin").ok(&format!("get --raw /metrics {scheduler}"));
    assert!(
        metrics.contains("rest_client_requests_total{") && metrics.contains("process_cpu_seconds_total"),
        "{metrics}"
    );
    let refused = parts.kubectl("visitor").run(&format!("get --raw /metrics {scheduler}"));
    refused.fails("User \"vera\" cannot get path \"/metrics\"");
}

/// As metrics-server asks it: by token, for `nodes/metrics`.
fn a_kubelet_shows_what_it_counts_to_whom_the_cluster_permits_it(parts: &Parts) {
    let port = parts.serving("kubelet-a");
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let ask = |token: &str, path: &str| parts.connect_to(port, None).get(path, &bearer(token));
    assert_eq!(parts.connect_to(port, None).get("/healthz", "").status, 200);
    assert_eq!(parts.connect_to(port, None).get("/metrics", "").status, 401);
    assert_eq!(ask("stranger", "/metrics").status, 401);
    let refused = ask("visitor", "/metrics");
    let told = "Forbidden (user=vera, verb=get, resource=nodes, subresource(s)=[metrics])";
    assert!(refused.status == 403 && refused.body.contains(told), "{}", refused.body);
    let kubectl = parts.kubectl("admin");
    kubectl.ok("create clusterrole scraper --verb=get --resource=nodes/metrics");
    kubectl.ok("create clusterrolebinding scraper --clusterrole=scraper --user=vera");
    let metrics = ask("visitor", "/metrics");
    assert!(metrics.status == 200 && metrics.body.contains("rest_client_requests_total{"), "{}", metrics.body);
    assert_eq!(ask("visitor", "/metrics/resource").status, 200);
    assert_eq!(ask("visitor", "/pods").status, 403);
    assert_eq!(ask("admin", "/pods").status, 200);
}

fn a_proxy_tells_without_tls_whether_it_has_written_its_rules(parts: &Parts) {
    parts.proxy();
    let ask =
        |name: &str, path: &str| Session::new(&format!("127.0.0.1:{}", parts.serving(name))).request("GET", path, "");
    let health = wait_until("the proxy has written its rules", 20, || {
        ask("proxy-health", "/healthz").ok().filter(|answer| answer.status == 200)
    });
    assert!(health.body.contains("\"lastUpdated\""), "{}", health.body);
    assert_eq!(ask("proxy-health", "/metrics").expect("it listens").status, 404);
    let metrics = ask("proxy-metrics", "/metrics").expect("it listens");
    assert!(metrics.status == 200 && metrics.body.contains("rest_client_requests_total{"), "{}", metrics.body);
    assert_eq!(ask("proxy-metrics", "/healthz").expect("it listens").body, "ok");
}

fn an_approved_certificate_request_becomes_a_users_credentials(parts: &Parts) {
    let kubectl = parts.kubectl("admin");
    let (request, key) = certificate_request("alice", "dev");
    kubectl.apply(&request_manifest("alice", &request, "kube-apiserver-client"));
    let line = kubectl.ok("get csr alice --no-headers");
    assert!(line.contains("kubernetes.io/kube-apiserver-client") && line.contains("ada"), "{line}");
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(cells[cells.len() - 2..], ["60m", "Pending"], "{line}");
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
    parts.kubeconfig_of("alice", &format!("client-certificate-data: {certificate}, client-key-data: {key}"), "default");
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
    kubectl.run("certificate approve bob").fails("certificate signing request \"bob\" is already Denied");
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
