//! Several of everything on a real etcd: two API servers are one cluster, and of two controller managers and two
//! schedulers one works, whatever happens to the other; nothing is done twice.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use coracle_tests::parts::{ETCD_PREFIX, Parts, missing_with_etcd};
use coracle_tests::{Kubectl, eventually, sections, specification, wait_until};
use rustix::process::Signal;
use serde_json::Value;

fn main() {
    let sections = sections![
        what_one_server_writes_the_other_shows_at_once,
        the_etcd_is_read_from_outside,
        both_servers_are_endpoints_of_the_service_kubernetes,
        leaders_that_are_killed_are_followed_within_15_seconds,
        leaders_that_were_stopped_go_without_a_write_when_they_wake,
        leaders_whose_server_dies_are_followed_within_15_seconds,
        only_the_server_that_lives_is_an_endpoint,
    ];
    specification(sections, missing_with_etcd, Parts::on_etcd, Parts::report);
}

/// The API as the second server has it, which lives through all of this.
fn second(parts: &Parts) -> Kubectl {
    parts.kubectl_through("admin", "-2")
}

/// All that a watch from a version on tells about a resource of the namespace: what happened, and to what.
fn watched(kubectl: &Kubectl, resource: &str, version: &str) -> Vec<(String, Value)> {
    let path = format!("/api/v1/namespaces/default/{resource}?watch=1&resourceVersion={version}&timeoutSeconds=1");
    let text = kubectl.ok(&format!("get --raw {path}"));
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("an event"));
    events.map(|event| (event["type"].as_str().unwrap_or_default().to_owned(), event["object"].clone())).collect()
}

/// How far the cluster is.
fn version(kubectl: &Kubectl) -> String {
    let list = kubectl.ok("get --raw /api/v1/namespaces/default/configmaps");
    let list: Value = serde_json::from_str(&list).expect("a list");
    list["metadata"]["resourceVersion"].as_str().expect("a version").into()
}

fn what_one_server_writes_the_other_shows_at_once(parts: &Parts) {
    let (first, second) = (parts.kubectl("admin"), second(parts));
    let start = version(&second);
    let mut expected = Vec::new();
    for number in 0..10 {
        let name = format!("m{number}");
        let (writer, reader) = if number % 2 == 0 { (&first, &second) } else { (&second, &first) };
        writer.ok(&format!("create configmap {name} --from-literal=n={number}"));
        assert!(reader.names("configmaps").contains(&name), "a list is of now");
        reader.ok(&format!("patch configmap {name} -p '{{\"data\":{{\"n\":\"again\"}}}}'"));
        assert_eq!(writer.field(&format!("configmap {name}"), "{.data.n}"), "again");
        expected.extend(["ADDED", "MODIFIED"].map(|kind| (kind.to_owned(), name.clone())));
    }
    for kubectl in [first, second] {
        let seen = watched(&kubectl, "configmaps", &start).into_iter();
        let seen = seen.map(|(kind, map)| (kind, map["metadata"]["name"].as_str().unwrap_or_default().to_owned()));
        let seen: Vec<_> = seen.filter(|(_, name)| name.starts_with('m')).collect();
        assert_eq!(seen, expected, "each change once, in order");
    }
}

fn the_etcd_is_read_from_outside(parts: &Parts) {
    let history = parts.coracle(&format!("history configmap/m1 {}", parts.store())).ok();
    assert!(history.contains(", created, Update by kubectl-create at 20"), "{history}");
    assert!(history.contains("\n  - data.n: \"1\"\n  + data.n: \"again\"\n"), "{history}");
    let keys = parts.etcdctl("get / --prefix --keys-only").ok();
    assert!(keys.lines().filter(|key| !key.is_empty()).all(|key| key.starts_with(ETCD_PREFIX)), "{keys}");
    assert!(keys.lines().any(|key| key.ends_with("/registry/configmaps/default/m1")), "{keys}");
}

fn endpoints(kubectl: &Kubectl) -> String {
    kubectl.field("endpoints kubernetes", "{.subsets[*].addresses[*].ip}")
}

fn both_servers_are_endpoints_of_the_service_kubernetes(parts: &Parts) {
    let kubectl = second(parts);
    eventually("both are there", 20, || endpoints(&kubectl) == "127.0.0.1 127.0.0.2");
    let slices = kubectl.field("endpointslice kubernetes", "{.endpoints[*].addresses[0]}");
    assert_eq!(slices, "127.0.0.1 127.0.0.2");
}

/// Who leads.
fn holders(kubectl: &Kubectl) -> [String; 2] {
    ["kube-controller-manager", "kube-scheduler"]
        .map(|name| kubectl.field(&format!("lease {name} -n kube-system"), "{.spec.holderIdentity}"))
}

/// Work for controllers and schedulers: the names of the apps, and how many pods each is to have.
const WORK: [(&str, usize); 4] = [("a", 15), ("b", 15), ("c", 15), ("job", 10)];
const PODS: usize = 55;

/// Something `happens` to the leaders while they are at work. Others lead within 15 seconds, and in the end every pod
/// there is to be was made once.
#[allow(clippy::disallowed_methods)] // how long it really took
fn failover(parts: &Parts, happens: impl FnOnce()) {
    let kubectl = second(parts);
    let before = wait_until("both are led", 30, || Some(holders(&kubectl)).filter(|all| !all.contains(&String::new())));
    let start = version(&kubectl);
    let make = |app: &str, pods: usize| {
        match app {
        "job" => kubectl.apply(&format!(
            "{{apiVersion: batch/v1, kind: Job, metadata: {{name: job}}, spec: {{completions: {pods}, parallelism: {pods}, \
             template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: 'anything:1'}}]}}}}}}}}"
        )),
        app => kubectl.ok(&format!("create deployment {app} --image=anything:1 --replicas={pods}")),
    }
    };
    let (first, rest) = WORK.split_at(2);
    first.iter().for_each(|(app, pods)| _ = make(app, *pods));
    happens();
    let since = Instant::now();
    rest.iter().for_each(|(app, pods)| _ = make(app, *pods));
    let mut led = [None; 2];
    wait_until("others lead", 30, || {
        for ((led, now), before) in led.iter_mut().zip(holders(&kubectl)).zip(&before) {
            if led.is_none() && now != *before && !now.is_empty() {
                *led = Some(since.elapsed());
            }
        }
        led.iter().all(Option::is_some).then_some(())
    });
    eventually("every pod runs", 60, || {
        let phases = kubectl.field("pods", "{.items[*].status.phase}");
        phases.split_whitespace().filter(|phase| *phase == "Running").count() == PODS
    });
    eprintln!(
        "others led after {:?}, and all was done after {:?}",
        led.map(Option::unwrap_or_default),
        since.elapsed()
    );
    assert!(led.iter().flatten().all(|led| *led < Duration::from_secs(15)), "{led:?}");

    let seen = watched(&kubectl, "pods", &start);
    let made: BTreeSet<_> = seen.iter().filter(|(kind, _)| kind == "ADDED").map(|(_, pod)| uid(pod)).collect();
    assert_eq!(made.len(), PODS, "every pod was made once");
    assert!(seen.iter().all(|(kind, _)| kind != "DELETED"), "none was too many");
    kubectl.ok("delete deployments,jobs --all");
    eventually("the pods are gone", 60, || kubectl.names("pods").is_empty());
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

fn leaders_that_are_killed_are_followed_within_15_seconds(parts: &Parts) {
    failover(parts, || ["controller-manager", "scheduler"].iter().for_each(|name| parts.kill(name)));
    parts.candidates("");
}

fn leaders_that_were_stopped_go_without_a_write_when_they_wake(parts: &Parts) {
    let leaders = ["controller-manager-2", "scheduler-2"];
    failover(parts, || leaders.iter().for_each(|name| parts.signal(name, Signal::STOP)));
    // By their users' numbers.
    let written = || {
        let log = std::fs::read_to_string(parts.path("audit-2.log")).expect("it is written");
        log.lines().filter(|line| [7, 8].iter().any(|uid| line.contains(&format!("\"uid\":\"{uid}\"")))).count()
    };
    let before = written();
    assert!(before > 100, "they did write when they led: {before}");
    for name in leaders {
        parts.signal(name, Signal::CONT);
        assert!(!parts.ended(name), "who lost the Lease ends, for others to start it again");
    }
    assert_eq!(written(), before);
    parts.candidates("-2");
}

fn leaders_whose_server_dies_are_followed_within_15_seconds(parts: &Parts) {
    failover(parts, || parts.kill("apiserver"));
    for name in ["controller-manager", "scheduler"] {
        assert!(!parts.ended(name), "it could not renew its Lease");
    }
}

fn only_the_server_that_lives_is_an_endpoint(parts: &Parts) {
    eventually("the other's key has vanished", 30, || endpoints(&second(parts)) == "127.0.0.2");
}
