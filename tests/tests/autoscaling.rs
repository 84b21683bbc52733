//! WordPress under load: more containers are deployed when traffic rises, and go when it falls. What is used, kubectl
//! tells.

use coracle_tests::{Cluster, eventually, sections, specification, wait_until};

fn main() {
    let sections = sections![
        the_example_starts_with_one_pod,
        top_tells_what_nodes_and_pods_use,
        traffic_brings_five_pods_and_its_end_leaves_one,
        describe_tells_the_story,
        autoscale_makes_an_autoscaler,
        loads_that_cannot_be_are_refused,
    ];
    specification(
        sections,
        coracle_tests::cluster::missing,
        || Cluster::start(&["mysql:9", "wordpress:6.8-apache"]),
        Cluster::report,
    );
}

fn replicas(cluster: &Cluster) -> String {
    cluster.kubectl().field("deployment wordpress", "{.status.readyReplicas}")
}

fn the_example_starts_with_one_pod(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let said = kubectl.ok("apply -k examples/autoscaling");
    assert!(said.contains("horizontalpodautoscaler.autoscaling/wordpress created"), "{said}");
    kubectl.ok("wait --for=condition=Available deployment --all --timeout=120s");
    eventually("the autoscaler knows its metric", 90, || {
        !kubectl.field("hpa wordpress", "{.status.currentMetrics[0].resource.current.averageValue}").is_empty()
    });
    assert_eq!(replicas(cluster), "1");
}

fn top_tells_what_nodes_and_pods_use(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let has = |line: &str, expected: &[&str]| {
        let said = kubectl.ok(line);
        expected.iter().for_each(|text| assert!(said.contains(text), "{line}: {text:?} is not in\n{said}"));
    };
    has("top nodes", &["NAME", "CPU(cores)", "MEMORY(bytes)", "coracle-1", "coracle-2"]);
    has("top pods --containers", &["POD", "NAME", "wordpress", "mysql", "Mi"]);
    has("top pod --sum -A", &["NAMESPACE", "default", "wordpress-mysql-", "________"]);
    has("top pods -l tier=mysql --no-headers", &["wordpress-mysql-"]);
    has("get podmetrics", &["NAME", "CPU", "MEMORY", "WINDOW", "wordpress-mysql-"]);
    has("get apiservice v1beta1.metrics.k8s.io", &["kube-system/metrics-server", "True"]);
    has("explain podmetrics.containers", &["PodMetrics", "usage"]);
    kubectl.run("top pod nobody").fails("NotFound");
}

fn traffic_brings_five_pods_and_its_end_leaves_one(cluster: &Cluster) {
    let ip = wait_until("the load balancer has an address", 20, || {
        let ip = cluster.kubectl().field("service wordpress", "{.status.loadBalancer.ingress[0].ip}");
        (!ip.is_empty()).then_some(ip)
    });
    std::thread::scope(|scope| {
        let line = format!("load http://{ip}/ --connections 8 --rate 200 --duration 90s");
        let load = scope.spawn(move || cluster.coracle(&line));
        eventually("traffic brings five pods", 90, || replicas(cluster) == "5");
        let said = load.join().expect("it ends").ok();
        assert!(said.contains("requests answered in 90") && said.contains("p99") && said.contains("20"), "{said}");
    });
    eventually("one pod is left", 180, || replicas(cluster) == "1");
}

fn describe_tells_the_story(cluster: &Cluster) {
    let said = cluster.kubectl().ok("describe hpa wordpress");
    for expected in [
        "resource cpu on pods  (as a percentage of request):",
        "ScalingActive   True    ValidMetricFound",
        "SuccessfulRescale",
        "cpu resource utilization (percentage of request) above target",
        "New size: 5; reason: ",
        "New size: 1; reason: All metrics below target",
    ] {
        assert!(said.contains(expected), "{expected:?} is not in\n{said}");
    }
}

fn autoscale_makes_an_autoscaler(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.ok("delete hpa wordpress");
    kubectl.ok("autoscale deployment wordpress --min=2 --max=4 --cpu-percent=80");
    eventually("the least number of pods is there", 60, || replicas(cluster) == "2");
    let said = kubectl.ok("get hpa wordpress");
    assert!(said.contains("Deployment/wordpress") && said.contains("/80%"), "{said}");
}

fn loads_that_cannot_be_are_refused(cluster: &Cluster) {
    cluster.coracle("load 10.0.0.1").fails("it has no scheme");
    cluster.coracle("load ftp://example.com/").fails("neither http nor https");
    let port = coracle_tests::cluster::free_port();
    cluster.coracle(&format!("load http://127.0.0.1:{port}/")).fails("connection refused");
    cluster.coracle("load http://127.0.0.1/ --rate 0").fails("it must be more than 0");
}
