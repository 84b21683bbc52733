//! The store as people see it: an object's history, the past, and a cluster carried elsewhere in one file.

use std::path::PathBuf;

use coracle_tests::{Cluster, Kubectl, eventually, sections, specification};

fn main() {
    let sections = sections![
        history_tells_who_changed_what,
        the_past_can_be_listed,
        snapshots_are_listed,
        a_cluster_restored_elsewhere_is_the_same_cluster,
    ];
    let missing = coracle_tests::cluster::missing;
    specification(sections, missing, || Cluster::start(&["busybox:1.37"]), Cluster::report);
}

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: sleeper}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: busybox:1.37, command: [sleep, "100000"]}]
"#;

fn history_tells_who_changed_what(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.apply(POD);
    kubectl.ok("create configmap notes --from-literal=a=1");
    kubectl.ok("patch configmap notes --field-manager=me -p '{\"data\":{\"a\":\"2\"}}'");
    kubectl.ok("delete configmap notes");
    let history = cluster.coracle("history cm/notes").ok();
    let lines: Vec<&str> = history.lines().collect();
    assert!(lines[0].contains(", created, Update by kubectl-create at 20"), "{history}");
    assert!(lines.contains(&"  + data.a: \"1\""), "{history}");
    let patched = lines.iter().position(|line| line.contains("Update by me at 20")).expect(&history);
    assert_eq!(lines[patched + 1..patched + 3], ["  - data.a: \"1\"", "  + data.a: \"2\""], "{history}");
    assert!(lines[patched + 3].ends_with(", deleted"), "{history}");
    let refused = cluster.coracle("history configmaps/nothing");
    assert!(refused.stderr.contains("Error from server (NotFound): configmaps \"nothing\" not found"), "{refused}");
    let unknown = cluster.coracle("history spaceships/one");
    assert!(unknown.stderr.contains("the server doesn't have a resource type \"spaceships\""), "{unknown}");
}

fn the_past_can_be_listed(cluster: &Cluster) {
    let history = cluster.coracle("history cm/notes").ok();
    let number = |line: &str| line.split([' ', ',']).nth(1).expect("a revision").to_owned();
    let (revision, deleted) = (number(&history), number(history.lines().last().expect("lines")));
    let get = |line: &str| cluster.coracle(&format!("get --at-revision {line}"));
    assert_eq!(get(&format!("{revision} configmaps/notes -o name")).ok(), "configmap/notes\n");
    assert!(get(&format!("{revision} cm notes -o yaml")).ok().contains("\n  a: '1'\n"));
    assert!(get(&format!("{revision} cm -A")).ok().starts_with("NAMESPACE "));
    let gone = get(&format!("{deleted} cm notes"));
    assert!(gone.stderr.contains("Error from server (NotFound): configmaps \"notes\" not found"), "{gone}");
}

fn snapshots_are_listed(cluster: &Cluster) {
    assert!(cluster.coracle("snapshot ls").ok().starts_with("There are no snapshots"));
    cluster.coracle("snapshot save").ok();
    let listed = cluster.coracle("snapshot ls").ok();
    let row: Vec<&str> = listed.lines().nth(1).expect("one snapshot").split_whitespace().collect();
    assert!(row[3].parse::<i64>().is_ok() && row[4].parse::<usize>().is_ok_and(|keys| keys > 50), "{listed}");
}

/// A cluster in another directory; removed when dropped.
struct Elsewhere<'a>(&'a Cluster, PathBuf);

impl Drop for Elsewhere<'_> {
    fn drop(&mut self) {
        self.0.coracle_in(&self.1, "down --purge");
    }
}

fn a_cluster_restored_elsewhere_is_the_same_cluster(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    eventually("the pod runs", 60, || kubectl.field("pod sleeper", "{.status.phase}") == "Running");
    let names = "get ns,sa,cm,secrets,svc,pods,clusterroles -A -o name";
    let (before, uid) = (kubectl.ok(names), kubectl.field("pod sleeper", "{.metadata.uid}"));
    let token = kubectl.ok("create token default");
    let port = cluster.config()["port"].clone();
    let (file, authority) = (cluster.folder().join("saved.db"), cluster.folder().join("ca.crt"));
    std::fs::copy(cluster.data_dir().join("pki/ca.crt"), &authority).expect("an authority");
    cluster.coracle(&format!("snapshot save {}", file.display())).ok();
    cluster.coracle("down --purge").ok();

    let new = Elsewhere(cluster, cluster.folder().join("elsewhere"));
    let coracle = |line: &str| cluster.coracle_in(&new.1, line);
    coracle(&format!("snapshot restore {}", file.display())).ok();
    let again = coracle(&format!("snapshot restore {}", file.display()));
    assert!(again.stderr.contains("--force"), "{again}");
    coracle("up --detach --etcd-listen 127.0.0.1:0").ok();
    let kubectl = Kubectl { kubeconfig: new.1.join("kubeconfig"), ..cluster.kubectl() };
    let now = kubectl.ok(names);
    let missing: Vec<&str> = before.lines().filter(|name| !now.lines().any(|found| found == *name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    eventually("the pod runs again", 60, || {
        kubectl.json("pod sleeper")["status"]["containerStatuses"][0]["ready"] == true
            && !cluster_containers(&kubectl, "sleeper").is_empty()
    });
    assert_eq!(kubectl.field("pod sleeper", "{.metadata.uid}"), uid);
    // Who had a token and the authority's certificate needs nothing new.
    let server = format!("--kubeconfig=/dev/null --server=https://127.0.0.1:{port}");
    let who = format!("{server} --certificate-authority={} --token={} auth whoami", authority.display(), token.trim());
    assert!(kubectl.ok(&who).contains("system:serviceaccount:default:default"));
}

/// What Docker runs of a pod.
fn cluster_containers(kubectl: &Kubectl, pod: &str) -> String {
    let uid = kubectl.field(&format!("pod {pod}"), "{.metadata.uid}");
    coracle_tests::docker(&format!("ps --quiet --filter label=io.kubernetes.pod.uid={uid}"))
}
