//! What crashes and comes back: containers, Coracle itself, the Docker engine.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use coracle_tests::cluster::free_port;
use coracle_tests::process::{run, words};
use coracle_tests::{Cluster, Kubectl, docker, eventually, sections, specification, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn main() {
    let sections = sections![
        pods_of_every_fate_are_made,
        exit_codes_and_reasons_show,
        a_container_out_of_memory_is_said_to_be,
        a_failing_container_is_restarted_with_growing_delays,
        a_container_that_fails_its_liveness_probe_is_restarted,
        a_taken_port_or_directory_names_its_holder,
        clusters_made_at_once_keep_apart,
        containers_run_on_when_coracle_is_killed,
        what_stops_meanwhile_is_restarted,
        state_survives_down_and_up,
        nodes_survive_their_engine,
    ];
    let missing = coracle_tests::cluster::missing;
    specification(sections, missing, || Cluster::start(&["busybox:1.37"]), Cluster::report);
}

fn pods_of_every_fate_are_made(cluster: &Cluster) {
    let pod = |name: &str, policy: &str, script: &str, more: &str| {
        format!(
            r#"
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: {policy}
  terminationGracePeriodSeconds: 1
  containers:
    - name: c
      image: busybox:1.37
      command: [sh, -c, "{script}"]
{more}"#
        )
    };
    let limit = "      resources: {limits: {memory: 24Mi}}";
    let probe = "      livenessProbe: {exec: {command: [cat, /alive]}, periodSeconds: 1, failureThreshold: 2}";
    let pods = [
        pod("done", "Never", "echo bye", ""),
        pod("failed", "Never", "echo oops >&2; exit 3", ""),
        pod(
            "second-try",
            "OnFailure",
            "[ -e /scratch/tried ] && exit 0; touch /scratch/tried; exit 1",
            "      volumeMounts: [{name: scratch, mountPath: /scratch}]\n  volumes: [{name: scratch, emptyDir: {}}]",
        ),
        pod("greedy", "Never", "exec tail /dev/zero", limit),
        pod("crasher", "Always", "echo started; sleep 0.2; exit 7", ""),
        pod("dying", "Always", "touch /alive; sleep 3; rm /alive; sleep 1000", probe),
    ];
    cluster.kubectl().apply(&pods.concat());
}

fn state(kubectl: &Kubectl, pod: &str) -> Value {
    kubectl.json(&format!("pod {pod}"))["status"]["containerStatuses"][0].clone()
}

/// STATUS and RESTARTS as the table shows them.
fn row(kubectl: &Kubectl, pod: &str) -> (String, String) {
    let row = kubectl.ok(&format!("get pod {pod} --no-headers"));
    let cells: Vec<&str> = row.split_whitespace().collect();
    (cells[2].to_owned(), cells[3].to_owned())
}

fn shows(kubectl: &Kubectl, pod: &str, status: &str, restarts: &str) {
    eventually(&format!("{pod} shows {status}, {restarts} restarts"), 30, || {
        row(kubectl, pod) == (status.to_owned(), restarts.to_owned())
    });
}

fn exit_codes_and_reasons_show(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    shows(&kubectl, "done", "Completed", "0");
    assert_eq!(kubectl.field("pod done", "{.status.phase}"), "Succeeded");
    assert_eq!(kubectl.ok("logs done"), "bye\n");
    shows(&kubectl, "failed", "Error", "0");
    assert_eq!(kubectl.field("pod failed", "{.status.phase}"), "Failed");
    let terminated = &state(&kubectl, "failed")["state"]["terminated"];
    assert_eq!((&terminated["exitCode"], &terminated["reason"]), (&3.into(), &"Error".into()));
    assert_eq!(kubectl.ok("logs failed"), "oops\n");
    shows(&kubectl, "second-try", "Completed", "1");
    assert_eq!(state(&kubectl, "second-try")["lastState"]["terminated"]["exitCode"], 1);
}

fn a_container_out_of_memory_is_said_to_be(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    shows(&kubectl, "greedy", "OOMKilled", "0");
    let terminated = &state(&kubectl, "greedy")["state"]["terminated"];
    assert_eq!((&terminated["exitCode"], &terminated["reason"]), (&137.into(), &"OOMKilled".into()));
}

fn a_failing_container_is_restarted_with_growing_delays(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let uid = kubectl.field("pod crasher", "{.metadata.uid}");
    let waiting = wait_until("it backs off", 30, || {
        let state = state(&kubectl, "crasher");
        (state["state"]["waiting"]["reason"] == "CrashLoopBackOff").then_some(state)
    });
    assert_eq!(waiting["lastState"]["terminated"]["exitCode"], 7);
    assert_eq!(waiting["ready"], false);
    let message = waiting["state"]["waiting"]["message"].as_str().unwrap_or_default();
    let delays = ["10s", "20s"]
        .map(|delay| format!("back-off {delay} restarting failed container=c pod=crasher_default({uid})"));
    assert!(delays.iter().any(|delay| delay == message), "{message}");
    assert_eq!(row(&kubectl, "crasher").0, "CrashLoopBackOff");
    // The first restart comes at once, the second after 10 s.
    let started = wait_until("the second restart", 30, || {
        let state = state(&kubectl, "crasher");
        (state["restartCount"] == 2 && state["lastState"]["terminated"]["finishedAt"].is_string()).then_some(state)
    });
    assert!(kubectl.ok("logs crasher").contains("started"));
    drop(started);
    let events = kubectl.ok("get events --field-selector involvedObject.name=crasher");
    let expected = format!("Back-off restarting failed container c in pod crasher_default({uid})");
    assert!(events.contains("BackOff") && events.contains(&expected), "{events}");
    assert!(row(&kubectl, "crasher").1.starts_with('2'));
}

fn a_container_that_fails_its_liveness_probe_is_restarted(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    eventually("it is restarted", 40, || state(&kubectl, "dying")["restartCount"].as_i64() >= Some(1));
    let events = kubectl.ok("get events --field-selector involvedObject.name=dying");
    for said in [
        "Liveness probe failed: cat: can't open '/alive': No such file or directory",
        "Container c failed liveness probe, will be restarted",
    ] {
        assert!(events.contains(said), "no {said:?} in\n{events}");
    }
    kubectl.ok("delete pod --all --wait=false");
    eventually("the pods are gone", 40, || kubectl.names("pods").is_empty());
}

fn a_taken_port_or_directory_names_its_holder(cluster: &Cluster) {
    let pid = cluster.pid().to_string();
    let directory = cluster.coracle(&format!("up --port {}", free_port()));
    let said = directory.fails("is in use by process");
    assert!(said.contains(&pid) && said.contains("--data-dir"), "{said}");
    let other = cluster.folder().join("other");
    let port = cluster.config()["port"].clone();
    let taken = cluster.coracle_in(&other, &format!("up --port {port}"));
    let said = taken.fails("--port");
    assert!(said.contains(&pid), "{said}");
    cluster.coracle_in(&other, "down --purge");
}

fn clusters_made_at_once_keep_apart(cluster: &Cluster) {
    let folders = ["first", "second"].map(|name| cluster.folder().join(name));
    let on_each = |lines: [String; 2]| {
        std::thread::scope(|scope| {
            let pairs = folders.iter().zip(lines);
            let running: Vec<_> =
                pairs.map(|(folder, line)| scope.spawn(move || cluster.coracle_in(folder, &line))).collect();
            running.into_iter().for_each(|command| drop(command.join().expect("it does not panic").ok()));
        });
    };
    let index = |folder: &std::path::Path| {
        let text = std::fs::read(folder.join("cluster.json")).expect("the cluster was made");
        serde_json::from_slice::<Value>(&text).expect("it is JSON")["index"].clone()
    };
    on_each([0, 1].map(|_| format!("up --detach --nodes 1 --port {}", free_port())));
    let indices = [index(&folders[0]), index(&folders[1]), cluster.config()["index"].clone()];
    assert!((0..3).all(|i| !indices[..i].contains(&indices[i])), "{indices:?}");
    // A cluster that is down keeps its address ranges: nobody else gets them.
    cluster.coracle_in(&folders[0], "down").ok();
    let third = cluster.folder().join("third");
    cluster.coracle_in(&third, &format!("up --detach --nodes 0 --port {}", free_port())).ok();
    assert!(!indices.contains(&index(&third)), "{indices:?}");
    cluster.coracle_in(&third, "down --purge").ok();
    on_each(["up --detach".into(), "status".into()]);
    assert_eq!([index(&folders[0]), index(&folders[1])], indices[..2]);
    on_each(["down --purge".into(), "down --purge".into()]);
}

const SERVED: &str = r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: kept}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: served}
spec:
  replicas: 3
  selector: {matchLabels: {app: served}}
  template:
    metadata: {labels: {app: served}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: c
          image: busybox:1.37
          command: [sh, -c, "hostname >> /kept/names; exec sleep 100000"]
          volumeMounts: [{name: kept, mountPath: /kept}]
      volumes: [{name: kept, persistentVolumeClaim: {claimName: kept}}]
"#;

/// Each pod's container id, restart count and start.
fn lives(kubectl: &Kubectl) -> BTreeMap<String, (Value, Value, Value)> {
    let pods = kubectl.json("pods -l app=served");
    let pods = pods["items"].as_array().expect("a list").clone();
    let life = |pod: Value| {
        let status = &pod["status"]["containerStatuses"][0];
        let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
        (name, (status["containerID"].clone(), status["restartCount"].clone(), status["state"]["running"].clone()))
    };
    pods.into_iter().map(life).collect()
}

fn containers_run_on_when_coracle_is_killed(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.apply(SERVED);
    kubectl.ok("rollout status deployment/served --timeout=60s");
    let before = lives(&kubectl);
    assert_eq!(before.len(), 3);

    // Several clients write until nobody answers any more.
    let killed = AtomicBool::new(false);
    let acknowledged: Vec<String> = std::thread::scope(|scope| {
        let write = |client: usize| {
            let (kubectl, killed) = (&kubectl, &killed);
            move || {
                let names = (0..).map(|i| format!("write-{client}-{i}"));
                let answered = |name: &String| {
                    !killed.load(Ordering::SeqCst)
                        && kubectl.run(&format!("create configmap {name} --from-literal=a=b")).code == 0
                };
                names.take_while(answered).collect::<Vec<_>>()
            }
        };
        let clients: Vec<_> = (0..3).map(|client| scope.spawn(write(client))).collect();
        eventually("some writes are answered", 20, || kubectl.names("configmaps").len() > 12);
        kill(cluster, Signal::KILL);
        killed.store(true, Ordering::SeqCst);
        clients.into_iter().flat_map(|client| client.join().expect("a client does not panic")).collect()
    });
    assert!(acknowledged.len() > 10, "{acknowledged:?}");
    for pod in before.keys() {
        assert_eq!(cluster.containers(pod, "c").len(), 1, "{pod} runs on");
    }
    kubectl.run("get pods").fails("refused");

    cluster.up().ok();
    let there = kubectl.names("configmaps");
    let lost: Vec<&String> = acknowledged.iter().filter(|name| !there.contains(name)).collect();
    assert_eq!(lost, [""; 0]);
    kubectl.ok("wait --for=condition=Ready pod -l app=served --timeout=30s");
    // Everything goes on: a new pod comes, the old ones are untouched.
    kubectl.ok("scale deployment served --replicas=4");
    kubectl.ok("rollout status deployment/served --timeout=60s");
    let mut after = lives(&kubectl);
    assert_eq!(after.len(), 4);
    after.retain(|pod, _| before.contains_key(pod));
    assert_eq!(after, before, "adopted, not restarted");
    let events = kubectl.ok("get events");
    assert!(!events.contains("SandboxChanged"), "{events}");
    names_resolve(&kubectl, before.keys().next().expect("there are pods"));
}

fn kill(cluster: &Cluster, signal: Signal) {
    let pid = Pid::from_raw(cluster.pid()).expect("a process's number is positive");
    kill_process(pid, signal).expect("it is ours");
    let gone =
        || std::fs::read_to_string(format!("/proc/{}/stat", cluster.pid())).map_or(true, |stat| stat.contains(") Z"));
    eventually("the process is gone", 20, gone);
}

fn what_stops_meanwhile_is_restarted(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let before = lives(&kubectl);
    let victim = before.keys().next().expect("there are pods").clone();
    kill(cluster, Signal::KILL);
    docker(&format!("kill {}", cluster.containers(&victim, "c")[0]));
    cluster.up().ok();
    eventually("it is restarted", 30, || lives(&kubectl)[&victim].1 == 1);
    kubectl.ok("rollout status deployment/served --timeout=60s");
    let after = lives(&kubectl);
    for (pod, life) in before.iter().filter(|(pod, _)| **pod != victim) {
        assert_eq!(after[pod], *life, "{pod} is untouched");
    }
}

fn state_survives_down_and_up(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let (pods, uid) = (kubectl.names("pods -l app=served"), kubectl.field("deployment served", "{.metadata.uid}"));
    let written = kubectl.names("configmaps");
    let said = cluster.coracle("down").ok();
    assert!(said.contains("The cluster is stopped."), "{said}");
    let id = cluster.config()["id"].as_str().expect("a cluster has an id").to_owned();
    assert_eq!(docker(&format!("ps -aq --filter label=io.coracle.cluster={id}")), "");
    cluster.coracle("status").fails("");
    cluster.up().ok();
    assert_eq!(kubectl.names("configmaps"), written);
    assert_eq!(kubectl.field("deployment served", "{.metadata.uid}"), uid);
    kubectl.ok("rollout status deployment/served --timeout=60s");
    let again = wait_until("four pods run", 60, || {
        let names = kubectl.names("pods -l app=served --field-selector status.phase=Running");
        (names.len() == 4).then_some(names)
    });
    eventually("their containers run", 60, || again.iter().all(|pod| cluster.containers(pod, "c").len() == 1));
    kubectl.ok("wait --for=condition=Ready pod -l app=served --timeout=60s");
    let kept = kubectl.ok(&format!("exec {} -- cat /kept/names", again[0]));
    assert!(pods.iter().all(|pod| kept.contains(pod)), "{pods:?} {kept}");
    names_resolve(&kubectl, &again[0]);
}

/// Whoever answers names is a new process: pods must be led to it.
fn names_resolve(kubectl: &Kubectl, pod: &str) {
    let lookup = format!("exec {pod} -- nslookup kubernetes.default.svc.cluster.local");
    eventually("names resolve", 60, || kubectl.run(&lookup).code == 0);
}

/// Runs only where the engine may be stopped: it is everybody's on this host.
fn nodes_survive_their_engine(cluster: &Cluster) {
    if std::env::var_os("CORACLE_TEST_ENGINE_RESTART").is_none() {
        println!("skipped: CORACLE_TEST_ENGINE_RESTART is not set");
        return;
    }
    let kubectl = cluster.kubectl();
    let pid = std::fs::read_to_string("/var/run/docker.pid").expect("the engine says which process it is");
    let pid = Pid::from_raw(pid.trim().parse().expect("a number")).expect("a positive one");
    kill_process(pid, Signal::TERM).expect("we may stop the engine");
    let ready = || kubectl.ok("get nodes --no-headers").lines().filter(|line| line.contains(" Ready ")).count();
    eventually("the nodes are not ready", 120, || ready() == 0);
    let nodes = kubectl.ok("get nodes --no-headers");
    assert!(nodes.lines().all(|line| line.contains(" NotReady ")), "{nodes}");
    let message = kubectl.field("node coracle-1", "{.status.conditions[?(@.type==\"Ready\")].message}");
    assert!(message.contains("container runtime is down"), "{message}");
    let mut setup = std::process::Command::new(coracle_tests::binary::coracle());
    setup.args(words("setup"));
    run(setup, "").ok();
    eventually("the nodes are ready again", 120, || ready() == 2);
    kubectl.ok("rollout status deployment/served --timeout=120s");
    kubectl.ok("wait --for=condition=Ready pod -l app=served --timeout=120s");
    for pod in kubectl.names("pods -l app=served") {
        assert_eq!(cluster.containers(&pod, "c").len(), 1, "{pod} runs");
    }
}
