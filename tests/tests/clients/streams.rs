//! What lasts and goes both ways: exec, attach, logs, port-forward and proxies, by the oldest kubectl (SPDY), the newest
//! (WebSocket) and the Python client.

use coracle_tests::kubectl::oldest_and_newest;
use coracle_tests::{Cluster, Kubectl, Section, Session, python, sections};

pub const SECTIONS: &[Section<Cluster>] = sections![
    a_pod_to_talk_to_is_there,
    commands_run_with_input_output_and_exit_code,
    a_terminal_has_its_size,
    one_attaches_to_what_runs,
    logs_are_read,
    ports_are_forwarded,
    files_are_copied,
    services_and_pods_are_reached_through_the_api,
    the_python_client_streams,
    the_pod_to_talk_to_goes,
];

fn each(cluster: &Cluster, play: impl Fn(&Kubectl)) {
    for program in oldest_and_newest() {
        eprintln!("with {}", program.display());
        play(&cluster.kubectl_by(&program));
    }
}

fn a_pod_to_talk_to_is_there(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: talker, labels: {app: talker}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - {name: cat, image: "busybox:1.37", stdin: true, command: [sh, -c, "while read -r line; do echo \"heard $line\"; done"]}
    - {name: echo, image: "coracle/echo:1.0", ports: [{name: http, containerPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: talker}
spec: {selector: {app: talker}, ports: [{port: 80, targetPort: http}]}
"#,
    );
    kubectl.ok("wait --for=condition=Ready pod talker --timeout=60s");
}

fn commands_run_with_input_output_and_exit_code(cluster: &Cluster) {
    each(cluster, |kubectl| {
        let output = kubectl.run("exec talker -c cat -- sh -c 'echo out; echo err >&2; exit 3'");
        assert_eq!((output.code, output.stdout.as_str()), (3, "out\n"));
        assert_eq!(output.stderr, "err\ncommand terminated with exit code 3\n");
        let input = "x".repeat(200_000);
        assert_eq!(kubectl.run_with("exec -i talker -c cat -- wc -c", &input).ok().trim(), "200000");
        assert_eq!(kubectl.ok("exec talker -c cat -- head -c 3000000 /dev/zero").len(), 3_000_000);
        kubectl.run("exec talker -c none -- true").fails("container none is not valid for pod talker");
        kubectl.run("exec nobody -- true").fails("pods \"nobody\" not found");
    });
}

fn a_terminal_has_its_size(cluster: &Cluster) {
    each(cluster, |kubectl| {
        let script = "until stty size 2>/dev/null | grep 80; do sleep 0.1; done; read a; echo got $a";
        let shown = kubectl.on_a_terminal(&format!("exec -it talker -c cat -- sh -c '{script}'"), "hello\r");
        assert!(shown.contains("25 80") && shown.contains("got hello"), "{shown}");
    });
}

fn one_attaches_to_what_runs(cluster: &Cluster) {
    each(cluster, |kubectl| {
        let word = kubectl.program.file_name().expect("a program has a name").display();
        let follow = kubectl.start("logs -f talker -c cat");
        let attached = kubectl.start_with("attach -i talker -c cat", &format!("{word}\n"));
        attached.expect(&format!("heard {word}"));
        follow.expect(&format!("heard {word}"));
    });
}

fn logs_are_read(cluster: &Cluster) {
    each(cluster, |kubectl| {
        let last = kubectl.ok("logs talker -c cat --tail=1");
        assert!(last.starts_with("heard kubectl") && last.lines().count() == 1, "{last}");
        let stamped = kubectl.ok("logs -l app=talker -c cat --tail=1 --timestamps --prefix");
        assert!(stamped.starts_with("[pod/talker/cat] 20") && stamped.ends_with(&format!("Z {last}")), "{stamped}");
        kubectl.run("logs talker -c none").fails("container none is not valid for pod talker");
    });
}

fn ports_are_forwarded(cluster: &Cluster) {
    each(cluster, |kubectl| {
        for target in ["service/talker", "pod/talker"] {
            let port = if target.starts_with("pod") { 8080 } else { 80 };
            let forward = kubectl.start(&format!("port-forward {target} :{port}"));
            let said = forward.expect("Forwarding from 127.0.0.1:");
            let port = said.split([' ', ':']).nth(3).expect("a port");
            let mut session = Session::new(&format!("127.0.0.1:{port}"));
            for _ in 0..3 {
                let answer = session.request("GET", "/through", "").expect("an answer through the tunnel");
                assert!(answer.body.contains("GET /through"), "{}", answer.body);
            }
        }
    });
}

fn files_are_copied(cluster: &Cluster) {
    let (from, back) = (cluster.folder().join("from"), cluster.folder().join("back"));
    std::fs::write(&from, "a".repeat(100_000)).expect("a file");
    each(cluster, |kubectl| {
        kubectl.ok(&format!("cp {} talker:/tmp/there -c cat", from.display()));
        kubectl.ok(&format!("cp talker:/tmp/there {} -c cat", back.display()));
        assert_eq!(std::fs::read_to_string(&back).expect("it came back"), "a".repeat(100_000));
    });
}

fn services_and_pods_are_reached_through_the_api(cluster: &Cluster) {
    each(cluster, |kubectl| {
        for what in ["services/talker", "services/talker:80", "pods/talker:8080"] {
            let answer = kubectl.ok(&format!("get --raw /api/v1/namespaces/default/{what}/proxy/a/b?c=d"));
            assert!(answer.contains("GET /a/b?c=d"), "{answer}");
        }
        kubectl.run("get --raw /api/v1/namespaces/default/services/none/proxy/").fails("services \"none\" not found");
        let proxy = kubectl.start("proxy --port=0");
        let line = proxy.expect("Starting to serve on");
        let mut session = Session::new(line.trim_start_matches("Starting to serve on").trim());
        let answer =
            session.request("GET", "/api/v1/namespaces/default/services/talker/proxy/twice", "").expect("it answers");
        assert!(answer.body.contains("GET /twice"), "{}", answer.body);
    });
}

fn the_python_client_streams(cluster: &Cluster) {
    let kubeconfig = cluster.data_dir().join("kubeconfig");
    if let Some(output) = python::script("streams.py", &[kubeconfig.to_str().expect("text"), "talker"]) {
        output.ok();
    }
}

fn the_pod_to_talk_to_goes(cluster: &Cluster) {
    cluster.kubectl().ok("delete pod,service talker");
}
