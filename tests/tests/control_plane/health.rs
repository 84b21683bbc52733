//! Health checks, the version and metrics, for kubectl and for whoever asks.

use coracle_tests::{Parts, Section, sections};

use crate::kubectl::{each, has};

pub const SECTIONS: &[Section<Parts>] =
    sections![every_check_is_told, metrics_count_what_was_asked, nobody_in_particular_sees_health_and_version_only];

fn every_check_is_told(parts: &Parts) {
    each(parts, "health", |kubectl, _| {
        for endpoint in ["livez", "readyz", "healthz"] {
            assert_eq!(kubectl.ok(&format!("get --raw /{endpoint}")), "ok");
            let checks = kubectl.ok(&format!("get --raw /{endpoint}?verbose"));
            has(&checks, &["[+]ping ok", "[+]log ok", "[+]etcd ok", &format!("{endpoint} check passed")]);
        }
        has(&kubectl.ok("get --raw '/readyz?verbose&exclude=etcd'"), &["[+]etcd excluded: ok", "[+]informer-sync ok"]);
        assert_eq!(kubectl.ok("get --raw /livez/ping"), "ok");
        has(&kubectl.ok("get componentstatuses"), &["etcd-0", "Healthy"]);
    });
}

fn metrics_count_what_was_asked(parts: &Parts) {
    let kubectl = parts.kubectl("admin");
    let count = || {
        let metrics = kubectl.ok("get --raw /metrics");
        let line = metrics.lines().find(|line| {
            let wanted = ["apiserver_request_total{", "code=\"404\"", "resource=\"leases\"", "verb=\"GET\""];
            wanted.iter().all(|part| line.contains(part))
        });
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0)
    };
    let before = count();
    kubectl.run("get lease none -n kube-public").fails("not found");
    assert_eq!(count(), before + 1.0);
    let metrics = kubectl.ok("get --raw /metrics");
    for family in [
        "# TYPE apiserver_request_duration_seconds histogram",
        "apiserver_longrunning_requests{",
        "apiserver_storage_objects{",
        "apiserver_flowcontrol_dispatched_requests_total{",
        "kube_apiserver_clusterip_allocator_allocated_ips{cidr=",
        "kube_apiserver_nodeport_allocator_available_ports ",
        "kubernetes_build_info{",
        "process_resident_memory_bytes ",
    ] {
        assert!(metrics.contains(family), "no {family}");
    }
}

fn nobody_in_particular_sees_health_and_version_only(parts: &Parts) {
    for (path, code) in [("/livez", 200), ("/readyz?verbose", 200), ("/version", 200), ("/metrics", 403), ("/api", 403)]
    {
        let answer = parts.connect(None).get(path, "");
        assert_eq!(answer.status, code, "{path}: {}", answer.body);
    }
}
