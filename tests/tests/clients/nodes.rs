//! Simulated nodes beside the real ones.

use coracle_tests::{Cluster, Section, eventually, sections};

pub const SECTIONS: &[Section<Cluster>] = sections![simulated_nodes_stand_beside_real_ones];

const FAR: &str = "eks.amazonaws.com/nodegroup=far";

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: pretending}
spec:
  replicas: 6
  selector: {matchLabels: {app: pretending}}
  template:
    metadata: {labels: {app: pretending}}
    spec:
      nodeSelector: {eks.amazonaws.com/nodegroup: far}
      tolerations: [{key: coracle.dev/simulated, operator: Exists}]
      containers: [{name: main, image: "nowhere.example/at-all:1"}]
"#;

fn simulated_nodes_stand_beside_real_ones(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    cluster.coracle("nodes add").fails("for simulated ones add --simulated");
    cluster.coracle("nodes add --simulated --instance-type t0.none").fails("t0.none");
    let added =
        cluster.coracle("nodes add --simulated --taint --group far --count 4 --instance-type m5.large --zones a,b");
    assert!(added.ok().starts_with("4 nodes of group far are ready"));
    assert_eq!(cluster.coracle("nodes ls").ok().trim(), "far  4 × m5.large in a, b");
    assert_eq!(kubectl.names(&format!("nodes -l {FAR}")), ["far-1", "far-2", "far-3", "far-4"]);
    let of = |path: &str| kubectl.ok(&format!("get nodes -l {FAR} -o jsonpath='{{.items[*]{path}}}'"));
    assert_eq!(of(".status.capacity.cpu"), "2 2 2 2");
    assert_eq!(of(".spec.taints[0].key"), ["coracle.dev/simulated"; 4].join(" "));
    let zones = of(r".metadata.labels.topology\.kubernetes\.io/zone");
    let mut zones: Vec<char> = zones.split(' ').filter_map(|zone| zone.chars().last()).collect();
    zones.sort_unstable();
    assert_eq!(zones, ['a', 'a', 'b', 'b']);

    // Pods live there without a container; none that is not meant for these nodes goes there.
    kubectl.apply(DEPLOYMENT);
    kubectl.ok("rollout status deployment/pretending --timeout=60s");
    let pod = kubectl.names("pods -l app=pretending").remove(0);
    assert_eq!(cluster.containers(&pod, "main"), Vec::<String>::new());
    kubectl.ok("create deployment real --image=coracle/echo:1.0 --replicas=4");
    kubectl.ok("rollout status deployment/real --timeout=60s");
    let on = kubectl.ok("get pods -l app=real -o jsonpath='{.items[*].spec.nodeName}'");
    assert!(!on.contains("far"), "{on}");

    kubectl.ok("delete deployment pretending real --cascade=foreground");
    cluster.coracle("nodes remove far").ok();
    eventually("the nodes are gone", 20, || kubectl.names(&format!("nodes -l {FAR}")).is_empty());
    cluster.coracle("nodes remove far").fails("there is no group far");
}
