//! WordPress and MySQL: installed, used, killed, rolled, scaled and removed, with kubectl and a browser's requests.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use coracle_tests::kubectl::columns;
use coracle_tests::{Cluster, Session, docker, eventually, sections, specification, wait_until};

const POST: &str = "Carried over the river";

fn main() {
    let sections = sections![
        apply_says_what_it_made,
        everything_becomes_ready,
        tables_have_upstreams_columns,
        get_has_many_forms,
        get_watches,
        describe_tells_the_story,
        wordpress_is_installed_and_a_post_written,
        logs_are_read_and_followed,
        commands_run_in_containers,
        a_terminal_is_handed_through,
        ports_are_forwarded,
        files_are_copied_both_ways,
        killed_containers_are_restarted_and_the_post_is_still_there,
        deleted_pods_are_replaced_and_the_post_is_still_there,
        objects_are_labelled_and_patched_in_three_ways,
        a_rollout_that_hangs_is_undone,
        a_rollout_is_restarted,
        three_pods_over_two_nodes_share_the_requests,
        scaling_back_loses_no_request,
        a_pod_that_is_not_ready_gets_no_request,
        deleting_the_example_leaves_nothing,
    ];
    specification(
        sections,
        coracle_tests::cluster::missing,
        || Cluster::start(&["mysql:9", "wordpress:6.8-apache", "busybox:1.37"]),
        Cluster::report,
    );
}

fn pod(cluster: &Cluster, tier: &str) -> String {
    let names = cluster.kubectl().names(&format!("pods -l tier={tier}"));
    assert_eq!(names.len(), 1, "{names:?}");
    names[0].clone()
}

fn ready(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    for deployment in ["wordpress-mysql", "wordpress"] {
        kubectl.ok(&format!("rollout status deployment/{deployment} --timeout=90s"));
    }
    kubectl.ok("wait --for=condition=Ready pod -l app=wordpress --timeout=90s");
}

fn load_balancer(cluster: &Cluster) -> String {
    wait_until("the load balancer has an address", 20, || {
        let ip = cluster.kubectl().field("service wordpress", "{.status.loadBalancer.ingress[0].ip}");
        (!ip.is_empty()).then_some(ip)
    })
}

fn browser(cluster: &Cluster) -> Session {
    Session::new(&load_balancer(cluster))
}

fn read_the_post(cluster: &Cluster) {
    let mut browser = browser(cluster);
    eventually("the post can be read", 60, || {
        browser.get("/").is_ok_and(|page| page.status == 200 && page.body.contains(POST))
    });
}

fn apply_says_what_it_made(cluster: &Cluster) {
    let said = cluster.kubectl().ok("apply -k examples/wordpress-mysql");
    let said: Vec<&str> = said.lines().collect();
    assert!(said[0].starts_with("secret/mysql-pass-") && said[0].ends_with(" created"), "{said:?}");
    let others = [
        "service/wordpress created",
        "service/wordpress-mysql created",
        "persistentvolumeclaim/mysql-pv-claim created",
        "persistentvolumeclaim/wp-pv-claim created",
        "deployment.apps/wordpress created",
        "deployment.apps/wordpress-mysql created",
    ];
    assert_eq!(said[1..], others);
}

fn everything_becomes_ready(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let said = kubectl.ok("wait --for=condition=Available deployment --all --timeout=120s");
    assert_eq!(said, "deployment.apps/wordpress condition met\ndeployment.apps/wordpress-mysql condition met\n");
    ready(cluster);
    for claim in ["mysql-pv-claim", "wp-pv-claim"] {
        assert_eq!(kubectl.field(&format!("pvc {claim}"), "{.status.phase}"), "Bound");
    }
    let again = kubectl.ok("apply -k examples/wordpress-mysql");
    assert!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");
}

fn tables_have_upstreams_columns(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let pods = ["NAME", "READY", "STATUS", "RESTARTS", "AGE"];
    let tables: &[(&str, &[&str])] = &[
        ("pods", &pods),
        ("pods -o wide", &[&pods[..], &["IP", "NODE", "NOMINATED NODE", "READINESS GATES"]].concat()),
        ("pods -A", &[&["NAMESPACE"], &pods[..]].concat()),
        ("pods -L tier", &[&pods[..], &["TIER"]].concat()),
        ("services", &["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]),
        ("services -o wide", &["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "SELECTOR"]),
        ("deployments", &["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]),
        (
            "deployments -o wide",
            &["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"],
        ),
        ("replicasets", &["NAME", "DESIRED", "CURRENT", "READY", "AGE"]),
        (
            "pvc",
            &["NAME", "STATUS", "VOLUME", "CAPACITY", "ACCESS MODES", "STORAGECLASS", "VOLUMEATTRIBUTESCLASS", "AGE"],
        ),
        (
            "pv",
            &[
                "NAME",
                "CAPACITY",
                "ACCESS MODES",
                "RECLAIM POLICY",
                "STATUS",
                "CLAIM",
                "STORAGECLASS",
                "VOLUMEATTRIBUTESCLASS",
                "REASON",
                "AGE",
            ],
        ),
        (
            "storageclasses",
            &["NAME", "PROVISIONER", "RECLAIMPOLICY", "VOLUMEBINDINGMODE", "ALLOWVOLUMEEXPANSION", "AGE"],
        ),
        ("nodes", &["NAME", "STATUS", "ROLES", "AGE", "VERSION"]),
        (
            "nodes -o wide",
            &[
                "NAME",
                "STATUS",
                "ROLES",
                "AGE",
                "VERSION",
                "INTERNAL-IP",
                "EXTERNAL-IP",
                "OS-IMAGE",
                "KERNEL-VERSION",
                "CONTAINER-RUNTIME",
            ],
        ),
        ("endpointslices", &["NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"]),
        ("secrets", &["NAME", "TYPE", "DATA", "AGE"]),
        ("configmaps", &["NAME", "DATA", "AGE"]),
        ("serviceaccounts", &["NAME", "SECRETS", "AGE"]),
        ("namespaces", &["NAME", "STATUS", "AGE"]),
        ("events", &["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]),
    ];
    for (what, expected) in tables {
        let table = kubectl.ok(&format!("get {what}"));
        let head: Vec<&str> = columns(&table);
        assert_eq!(head, *expected, "{what}");
    }
    let cells = |what: &str| -> Vec<String> {
        let row = kubectl.ok(&format!("get {what} --no-headers"));
        row.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(cells("pods -l tier=mysql")[1..4], ["1/1", "Running", "0"]);
    assert_eq!(cells("deployment wordpress")[..4], ["wordpress", "1/1", "1", "1"]);
    assert_eq!(cells("service wordpress-mysql")[..5], ["wordpress-mysql", "ClusterIP", "None", "<none>", "3306/TCP"]);
    let service = cells("service wordpress");
    assert_eq!(service[..2], ["wordpress", "LoadBalancer"]);
    assert!(service[4].starts_with("80:3") && service[4].ends_with("/TCP"), "{service:?}");
    let claim = cells("pvc wp-pv-claim");
    assert_eq!((&claim[1][..], &claim[3..6]), ("Bound", &["20Gi".to_owned(), "RWO".into(), "standard".into()][..]));
    assert_eq!(cells("node coracle-1")[1..3], ["Ready", "control-plane"]);
    assert_eq!(cells("node coracle-2")[1..3], ["Ready", "<none>"]);
}

fn get_has_many_forms(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let name = pod(cluster, "frontend");
    assert_eq!(kubectl.ok("get pods -l tier=frontend -o name"), format!("pod/{name}\n"));
    let all = kubectl.ok("get all");
    for prefix in ["pod/wordpress-", "service/wordpress ", "deployment.apps/wordpress ", "replicaset.apps/wordpress-"] {
        assert!(all.lines().any(|line| line.starts_with(prefix)), "no {prefix} in {all}");
    }
    let object = kubectl.json(&format!("pod {name}"));
    assert_eq!((&object["apiVersion"], &object["kind"]), (&"v1".into(), &"Pod".into()));
    assert_eq!(object["status"]["phase"], "Running");
    assert_eq!(object["status"]["qosClass"], "Burstable");
    assert_eq!(kubectl.json("pods")["kind"], "List");
    let yaml = kubectl.ok("get service wordpress -o yaml");
    assert!(yaml.starts_with("apiVersion: v1\nkind: Service\nmetadata:\n"), "{yaml}");
    assert!(yaml.contains("\n  type: LoadBalancer\n"), "{yaml}");
    let images = kubectl.ok("get pods -o jsonpath='{range .items[*]}{.spec.containers[0].image}{\"\\n\"}{end}'");
    assert_eq!(images.lines().collect::<BTreeSet<_>>(), BTreeSet::from(["mysql:9", "wordpress:6.8-apache"]));
    let columns = kubectl.ok("get deploy -o custom-columns=N:.metadata.name,R:.spec.replicas");
    assert_eq!(columns, "N                 R\nwordpress         1\nwordpress-mysql   1\n");
    assert_eq!(kubectl.names("pods -l 'tier in (frontend),app!=other'"), std::slice::from_ref(&name));
    assert_eq!(kubectl.names("pods --field-selector status.phase!=Running"), [""; 0]);
    assert_eq!(kubectl.names(&format!("pods --field-selector metadata.name={name}")), [name]);
    assert_eq!(kubectl.run("get pods -l tier=none").stderr, "No resources found in default namespace.\n");
    assert_eq!(kubectl.names("pods --sort-by=.metadata.name --chunk-size=1").len(), 2);
}

fn get_watches(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let watch = kubectl.start("get configmaps -w --output-watch-events");
    watch.expect("kube-root-ca.crt");
    kubectl.ok("create configmap watched --from-literal=a=b");
    assert!(watch.expect("watched").starts_with("ADDED"));
    kubectl.ok("label configmap watched seen=yes");
    assert!(watch.expect("watched").starts_with("MODIFIED"));
    kubectl.ok("delete configmap watched");
    assert!(watch.expect("watched").starts_with("DELETED"));
}

/// That lines with these beginnings and contents follow one another; blanks count as one.
#[track_caller]
fn assert_in_order(text: &str, expected: &[&str]) {
    let squeeze = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut lines = text.lines().map(squeeze);
    for line in expected {
        assert!(lines.any(|found| found.starts_with(line)), "{line:?} is missing, or not in this order, in\n{text}");
    }
}

fn describe_tells_the_story(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let name = pod(cluster, "mysql");
    let image = "Container image \"mysql:9\" already present on machine";
    let described = kubectl.ok(&format!("describe pod {name}"));
    let story = [
        &format!("Name: {name}"),
        "Namespace: default",
        "Node: coracle-",
        "Status: Running",
        "Controlled By: ReplicaSet/wordpress-mysql-",
        "mysql:",
        "Container ID: docker://",
        "Image: mysql:9",
        "Port: 3306/TCP",
        "State: Running",
        "Ready: True",
        "Restart Count: 0",
        "Liveness: tcp-socket :mysql delay=0s timeout=1s period=10s #success=1 #failure=3",
        "MYSQL_ROOT_PASSWORD: <set to the key 'password' in secret 'mysql-pass-",
        "/var/lib/mysql from mysql-persistent-storage (rw)",
        "Conditions:",
        "PodReadyToStartContainers True",
        "Initialized True",
        "Ready True",
        "ContainersReady True",
        "PodScheduled True",
        "ClaimName: mysql-pv-claim",
        "QoS Class: Burstable",
        "Tolerations: node.kubernetes.io/not-ready:NoExecute op=Exists for 300s",
        "node.kubernetes.io/unreachable:NoExecute op=Exists for 300s",
        "Events:",
    ];
    assert_in_order(&described, &story);
    for event in
        [&format!("Successfully assigned default/{name} to coracle-"), image, "Container created", "Container started"]
    {
        assert!(described.contains(event), "no event {event:?} in\n{described}");
    }
    assert_in_order(
        &kubectl.ok("describe deployment wordpress"),
        &[
            "Name: wordpress",
            "Annotations: deployment.kubernetes.io/revision: 1",
            "Replicas: 1 desired | 1 updated | 1 total | 1 available | 0 unavailable",
            "StrategyType: Recreate",
            "Conditions:",
            "Available True MinimumReplicasAvailable",
            "Progressing True NewReplicaSetAvailable",
            "NewReplicaSet: wordpress-",
            "Normal ScalingReplicaSet",
        ],
    );
    assert_in_order(
        &kubectl.ok("describe service wordpress"),
        &[
            "Type: LoadBalancer",
            "LoadBalancer Ingress:",
            "Endpoints: 10.",
            "Normal EnsuringLoadBalancer",
            "Normal EnsuredLoadBalancer",
        ],
    );
    assert_in_order(
        &kubectl.ok("describe node coracle-1"),
        &["Name: coracle-1", "Roles: control-plane", "Ready True", "cpu:", "Allocated resources:", "Normal NodeReady"],
    );
}

fn wordpress_is_installed_and_a_post_written(cluster: &Cluster) {
    let mut browser = browser(cluster);
    let first = browser.get("/").expect("WordPress answers");
    assert!(first.body.contains("<title>WordPress &rsaquo; Installation</title>"), "{}", first.body);
    let password = "over-the-river-1";
    let form = [
        ("weblog_title", "Coracle"),
        ("user_name", "admin"),
        ("admin_password", password),
        ("admin_password2", password),
        ("pw_weak", "on"),
        ("admin_email", "admin@example.com"),
        ("blog_public", "0"),
        ("language", ""),
        ("Submit", "Install WordPress"),
    ];
    let done = browser.post("/wp-admin/install.php?step=2", &form).expect("WordPress installs itself");
    assert!(done.body.contains("<h1>Success!</h1>"), "{}", done.body);

    browser.get("/wp-login.php").expect("the login form");
    let login = [
        ("log", "admin"),
        ("pwd", password),
        ("wp-submit", "Log In"),
        ("testcookie", "1"),
        ("redirect_to", "/wp-admin/"),
    ];
    let desk = browser.post("/wp-login.php", &login).expect("WordPress takes the password");
    assert!(desk.body.contains("Dashboard"), "{}", desk.body);
    let nonce = browser.get("/wp-admin/admin-ajax.php?action=rest-nonce").expect("a nonce").body;
    let post = [("title", POST), ("content", "on one's own back"), ("status", "publish"), ("_wpnonce", nonce.trim())];
    let written = browser.post("/index.php?rest_route=/wp/v2/posts", &post).expect("WordPress takes the post");
    assert_eq!(written.status, 201, "{}", written.body);
    read_the_post(cluster);
}

fn logs_are_read_and_followed(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let name = pod(cluster, "frontend");
    assert_eq!(kubectl.ok(&format!("logs {name} --tail=2")).lines().count(), 2);
    assert!(kubectl.ok("logs deployment/wordpress-mysql").contains("ready for connections"));
    let stamped = kubectl.ok(&format!("logs {name} --tail=1 --timestamps --since=1h"));
    assert!(stamped.starts_with("20") && stamped[..40].contains('T'), "{stamped}");
    let follow = kubectl.start(&format!("logs -f {name} --tail=1"));
    browser(cluster).get("/?followed=yes").expect("WordPress answers");
    follow.expect("GET /?followed=yes");
    let labelled = kubectl.ok("logs -l app=wordpress --tail=1 --prefix");
    assert_eq!(labelled.lines().count(), 2, "{labelled}");
    assert!(labelled.contains(&format!("[pod/{name}/wordpress] ")), "{labelled}");
    kubectl.run(&format!("logs {name} -c other")).fails(&format!("container other is not valid for pod {name}"));
    kubectl
        .run(&format!("logs {name} -p"))
        .fails(&format!("previous terminated container \"wordpress\" in pod \"{name}\" not found"));
}

fn commands_run_in_containers(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let name = pod(cluster, "frontend");
    assert_eq!(kubectl.ok(&format!("exec {name} -- hostname")), format!("{name}\n"));
    assert_eq!(kubectl.run_with(&format!("exec -i {name} -- wc -c"), &"x".repeat(200_000)).ok().trim(), "200000");
    let output = kubectl.run("exec deploy/wordpress -c wordpress -- sh -c 'echo out; echo err >&2; exit 3'");
    assert_eq!((output.code, output.stdout.as_str()), (3, "out\n"));
    assert_eq!(output.stderr, "err\ncommand terminated with exit code 3\n");
    let large = kubectl.ok(&format!("exec {name} -- head -c 3000000 /dev/zero"));
    assert_eq!(large.len(), 3_000_000);
    let missing = kubectl.run(&format!("exec {name} -- no-such-program"));
    assert!(missing.code == 126 && missing.stdout.contains("executable file not found in $PATH"), "{missing}");
    kubectl.run("exec no-such-pod -- true").fails("pods \"no-such-pod\" not found");
    let mysql = "exec deploy/wordpress-mysql -- sh -c 'mysql -uroot -p\"$MYSQL_ROOT_PASSWORD\" -N wordpress \
                 -e \"select post_title from wp_posts where post_status = 0x7075626c697368\"'";
    assert!(kubectl.ok(mysql).contains(POST));
}

fn a_terminal_is_handed_through(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let name = pod(cluster, "frontend");
    // The size follows the start, as it does in Docker.
    let script = "tty; until stty size 2>/dev/null | grep 80; do sleep 0.1; done; read a; echo got $a";
    let shown = kubectl.on_a_terminal(&format!("exec -it {name} -- sh -c '{script}'"), "hello\r");
    assert!(shown.contains("/dev/pts/"), "{shown}");
    assert!(shown.contains("25 80"), "{shown}");
    assert!(shown.contains("got hello"), "{shown}");
}

fn ports_are_forwarded(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    for target in ["service/wordpress".to_owned(), format!("pod/{}", pod(cluster, "frontend"))] {
        let forward = kubectl.start(&format!("port-forward {target} :80"));
        let said = forward.expect("Forwarding from 127.0.0.1:");
        let port = said.split([' ', ':']).nth(3).expect("a port");
        let mut browser = Session::new(&format!("127.0.0.1:{port}"));
        for _ in 0..3 {
            let response = browser.request("GET", "/wp-login.php", "").expect("an answer through the tunnel");
            assert_eq!(response.status, 200);
        }
    }
}

fn files_are_copied_both_ways(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let name = pod(cluster, "frontend");
    let folder = cluster.folder().join("copied");
    std::fs::create_dir_all(folder.join("sub")).expect("a folder");
    std::fs::write(folder.join("sub/a"), "a".repeat(100_000)).expect("a file");
    let folder = folder.display();
    kubectl.ok(&format!("cp {folder} {name}:/tmp/there -c wordpress"));
    kubectl.ok(&format!("cp default/{name}:/tmp/there {folder}/back"));
    let back = std::fs::read_to_string(cluster.folder().join("copied/back/sub/a")).expect("it came back");
    assert_eq!(back, "a".repeat(100_000));
}

fn killed_containers_are_restarted_and_the_post_is_still_there(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let pods = [(pod(cluster, "mysql"), "mysql"), (pod(cluster, "frontend"), "wordpress")];
    let killed: Vec<String> = pods.iter().flat_map(|(pod, container)| cluster.containers(pod, container)).collect();
    assert_eq!(killed.len(), 2);
    docker(&format!("kill {}", killed.join(" ")));
    for (pod, container) in &pods {
        eventually("the container is restarted", 30, || {
            kubectl.field(&format!("pod {pod}"), "{.status.containerStatuses[0].restartCount}") == "1"
        });
        let status = kubectl.json(&format!("pod {pod}"))["status"]["containerStatuses"][0].clone();
        let last = &status["lastState"]["terminated"];
        assert_eq!((&last["exitCode"], &last["reason"]), (&137.into(), &"Error".into()), "{status}");
        assert!(killed.iter().any(|id| last["containerID"] == format!("docker://{id}")), "{status}");
        assert!(!killed.contains(&cluster.containers(pod, container)[0]));
    }
    ready(cluster);
    let row = kubectl.ok("get pods -l tier=mysql --no-headers");
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert!(cells[1..4] == ["1/1", "Running", "1"] && cells[4].starts_with('('), "{row}");
    read_the_post(cluster);
    assert!(kubectl.ok(&format!("logs -p {}", pods[0].0)).contains("ready for connections"));
    assert!(kubectl.ok(&format!("logs -p {}", pods[1].0)).contains("GET /?followed=yes"));
}

fn deleted_pods_are_replaced_and_the_post_is_still_there(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let before = kubectl.names("pods -l app=wordpress");
    let said = kubectl.ok("delete pods -l app=wordpress");
    assert_eq!(said.lines().count(), 2, "{said}");
    ready(cluster);
    let after = kubectl.names("pods -l app=wordpress");
    assert_eq!(after.len(), 2);
    assert!(after.iter().all(|name| !before.contains(name)), "{before:?} {after:?}");
    read_the_post(cluster);
}

fn objects_are_labelled_and_patched_in_three_ways(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    assert_eq!(kubectl.ok("label service wordpress colour=red"), "service/wordpress labeled\n");
    kubectl
        .run("label service wordpress colour=blue")
        .fails("'colour' already has a value (red), and --overwrite is false");
    kubectl.ok("label service wordpress colour=blue --overwrite");
    assert_eq!(kubectl.field("service wordpress", "{.metadata.labels.colour}"), "blue");
    assert_eq!(kubectl.ok("label service wordpress colour-"), "service/wordpress unlabeled\n");
    assert_eq!(kubectl.ok("annotate service wordpress note='a b'"), "service/wordpress annotated\n");
    let json = r#"patch service wordpress --type=json -p '[{"op":"replace","path":"/metadata/annotations/note","value":"json"}]'"#;
    assert_eq!(kubectl.ok(json), "service/wordpress patched\n");
    assert_eq!(kubectl.field("service wordpress", "{.metadata.annotations.note}"), "json");
    kubectl
        .ok(r#"patch service wordpress --type=merge -p '{"metadata":{"annotations":{"note":null,"other":"merge"}}}'"#);
    assert_eq!(
        kubectl.field("service wordpress", "{.metadata.annotations.note}{.metadata.annotations.other}"),
        "merge"
    );
    // A strategic patch knows that containers are merged by name, and a merge patch does not.
    let strategic = r#"{"spec":{"template":{"spec":{"containers":[{"name":"wordpress","resources":{"requests":{"cpu":"60m"}}}]}}}}"#;
    kubectl.ok(&format!("patch deployment wordpress -p '{strategic}'"));
    let path = "{.spec.template.spec.containers[0].image} {.spec.template.spec.containers[0].resources.requests.cpu}";
    assert_eq!(kubectl.field("deployment wordpress", path), "wordpress:6.8-apache 60m");
    let unchanged = kubectl.ok(&format!("patch deployment wordpress -p '{strategic}'"));
    assert_eq!(unchanged, "deployment.apps/wordpress patched (no change)\n");
    ready(cluster);
    kubectl
        .run(r#"patch service wordpress --type=json -p '[{"op":"test","path":"/metadata/name","value":"x"}]'"#)
        .fails("the server rejected our request due to an error in our request");
    let invalid = kubectl.run(
        r#"patch deployment wordpress --type=merge -p '{"spec":{"template":{"spec":{"containers":[{"name":"a"}]}}}}'"#,
    );
    invalid.fails("The Deployment \"wordpress\" is invalid: spec.template.spec.containers[0].image: Required value");
}

fn a_rollout_that_hangs_is_undone(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let history = |deployment: &str| -> Vec<String> {
        let history = kubectl.ok(&format!("rollout history deployment/{deployment}"));
        history.lines().skip(2).filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
    };
    assert_eq!(history("wordpress-mysql"), ["1"]);
    assert_eq!(
        kubectl.ok("set image deployment/wordpress-mysql mysql=mysql:none"),
        "deployment.apps/wordpress-mysql image updated\n"
    );
    eventually("the image cannot be pulled", 30, || {
        kubectl.ok("get pods -l tier=mysql --no-headers").contains("ImagePullBackOff")
    });
    kubectl.run("rollout status deployment/wordpress-mysql --timeout=1s").fails("timed out waiting for the condition");
    assert_eq!(history("wordpress-mysql"), ["1", "2"]);
    assert!(kubectl.ok("rollout history deployment/wordpress-mysql --revision=2").contains("mysql:none"));
    assert_eq!(kubectl.ok("rollout undo deployment/wordpress-mysql"), "deployment.apps/wordpress-mysql rolled back\n");
    ready(cluster);
    assert_eq!(history("wordpress-mysql"), ["2", "3"]);
    read_the_post(cluster);
}

fn a_rollout_is_restarted(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let before = pod(cluster, "frontend");
    assert_eq!(kubectl.ok("rollout restart deployment/wordpress"), "deployment.apps/wordpress restarted\n");
    let said = kubectl.ok("rollout status deployment/wordpress --timeout=90s");
    assert!(said.ends_with("deployment \"wordpress\" successfully rolled out\n"), "{said}");
    assert_ne!(pod(cluster, "frontend"), before);
}

/// The pods that answer `requests` requests to a page that tells its pod's name.
fn answering(session: &mut Session, path: &str, requests: usize) -> BTreeSet<String> {
    let ask = |_| session.get(path).expect("an answer").body.trim().to_owned();
    (0..requests).map(ask).collect()
}

fn three_pods_over_two_nodes_share_the_requests(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let page = "echo \"<?php echo gethostname();\" > /var/www/html/who.php";
    kubectl.ok(&format!("exec deploy/wordpress -- sh -c '{page}'"));
    assert_eq!(kubectl.ok("scale deployment wordpress --replicas=3"), "deployment.apps/wordpress scaled\n");
    ready(cluster);
    let pods: BTreeSet<String> = kubectl.names("pods -l tier=frontend").into_iter().collect();
    assert_eq!(pods.len(), 3);
    let nodes = kubectl.ok("get pods -l tier=frontend -o jsonpath='{.items[*].spec.nodeName}'");
    assert_eq!(nodes.split(' ').collect::<BTreeSet<_>>(), BTreeSet::from(["coracle-1", "coracle-2"]));
    eventually("the endpoints are complete", 10, || {
        let slices = kubectl.ok("get endpointslices -l kubernetes.io/service-name=wordpress -o jsonpath='{.items[*].endpoints[?(@.conditions.ready==true)].targetRef.name}'");
        slices.split_whitespace().count() == 3
    });
    let cluster_ip = kubectl.field("service wordpress", "{.spec.clusterIP}");
    for address in [load_balancer(cluster), cluster_ip] {
        eventually("all pods answer", 10, || answering(&mut Session::new(&address), "/who.php", 30) == pods);
    }
    let from_inside = "for i in $(seq 30); do wget -qO- http://wordpress/who.php; echo; done";
    let answers = kubectl.ok(&format!("exec deploy/wordpress -- sh -c '{from_inside}'"));
    assert_eq!(answers.lines().map(str::to_owned).collect::<BTreeSet<_>>(), pods);
}

fn scaling_back_loses_no_request(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let address = load_balancer(cluster);
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (over, mut session) = (over.clone(), Session::new(&address));
            std::thread::spawn(move || {
                let mut answers = 0;
                let mut failures = vec![];
                while !over.load(Ordering::Relaxed) {
                    match session.request("GET", "/who.php", "") {
                        Ok(response) if response.status == 200 => answers += 1,
                        Ok(response) => failures.push(response.status.to_string()),
                        Err(error) => failures.push(error.to_string()),
                    }
                }
                (answers, failures)
            })
        })
        .collect();
    kubectl.ok("scale deployment wordpress --replicas=1");
    eventually("two pods are gone", 60, || kubectl.names("pods -l tier=frontend").len() == 1);
    over.store(true, Ordering::Relaxed);
    let mut total = 0;
    for client in clients {
        let (answers, failures) = client.join().expect("a client does not panic");
        assert_eq!(failures, [""; 0], "beside {answers} answers");
        total += answers;
    }
    assert!(total > 100, "only {total} requests were made");
    read_the_post(cluster);
}

fn a_pod_that_is_not_ready_gets_no_request(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.apply(
        r#"
apiVersion: v1
kind: Service
metadata: {name: moody}
spec: {selector: {app: moody}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: moody}
spec:
  replicas: 2
  selector: {matchLabels: {app: moody}}
  template:
    metadata: {labels: {app: moody}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: httpd
          image: busybox:1.37
          command: [sh, -c, "mkdir /www; hostname > /www/index.html; touch /ready; exec httpd -f -h /www"]
          readinessProbe: {exec: {command: [cat, /ready]}, periodSeconds: 1, failureThreshold: 1}
"#,
    );
    kubectl.ok("rollout status deployment/moody --timeout=60s");
    let pods = kubectl.names("pods -l app=moody");
    let all: BTreeSet<String> = pods.iter().cloned().collect();
    let mut session = Session::new(&kubectl.field("service moody", "{.spec.clusterIP}"));
    eventually("both pods answer", 10, || answering(&mut session, "/", 20) == all);
    kubectl.ok(&format!("exec {} -- rm /ready", pods[0]));
    eventually("only the ready pod answers", 10, || {
        answering(&mut session, "/", 20) == BTreeSet::from([pods[1].clone()])
    });
    let row = kubectl.ok(&format!("get pod {} --no-headers", pods[0]));
    assert_eq!(row.split_whitespace().skip(1).take(2).collect::<Vec<_>>(), ["0/1", "Running"]);
    kubectl.ok(&format!("exec {} -- touch /ready", pods[0]));
    eventually("both pods answer again", 10, || answering(&mut session, "/", 20) == all);
    kubectl.ok("delete service,deployment moody");
}

fn deleting_the_example_leaves_nothing(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let volumes = cluster.data_dir().join("volumes");
    let provisioned = || std::fs::read_dir(&volumes).into_iter().flatten().count();
    assert_eq!(provisioned(), 2);
    let said = kubectl.ok("delete -k examples/wordpress-mysql");
    assert!(said.contains("deployment.apps \"wordpress\" deleted"), "{said}");
    kubectl.run("wait --for=delete pod -l app=wordpress --timeout=60s").ok();
    for what in [
        "replicasets",
        "deployments",
        "pvc",
        "pv",
        "endpoints -l app=wordpress",
        "endpointslices -l app=wordpress",
        "pods",
    ] {
        eventually(&format!("{what} are gone"), 30, || kubectl.names(what).is_empty());
    }
    assert_eq!(kubectl.names("services"), ["kubernetes"]);
    eventually("the volumes' folders are gone", 10, || provisioned() == 0);
    let id = cluster.config()["id"].as_str().expect("a cluster has an id").to_owned();
    eventually("the containers are gone", 30, || {
        docker(&format!("ps -aq --filter label=io.coracle.cluster={id}")).is_empty()
    });
}
