//! ReplicaSets and ReplicationControllers whose every pod serves.

use std::collections::BTreeSet;

use coracle_tests::{Cluster, Section, eventually, sections};

pub const SECTIONS: &[Section<Cluster>] = sections![replicas_serve_a_basic_image];

fn replicas_serve_a_basic_image(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let by_labels = "{matchLabels: {name: basic}}";
    for (api_version, kind, selector) in
        [("apps/v1", "ReplicaSet", by_labels), ("v1", "ReplicationController", "{name: basic}")]
    {
        kubectl.apply(&format!(
            r#"
apiVersion: {api_version}
kind: {kind}
metadata: {{name: basic}}
spec:
  replicas: 2
  selector: {selector}
  template:
    metadata: {{labels: {{name: basic}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{{name: basic, image: "coracle/echo:1.0", ports: [{{containerPort: 8080}}]}}]
"#
        ));
        kubectl.ok("wait --for=condition=Ready pods -l name=basic --timeout=60s");
        let pods: BTreeSet<_> = kubectl.names("pods -l name=basic").into_iter().collect();
        assert_eq!(pods.len(), 2, "{kind}: {pods:?}");
        for pod in &pods {
            let name = pod.trim_start_matches("pod/");
            let answer = kubectl.ok(&format!("get --raw /api/v1/namespaces/default/pods/{name}:8080/proxy/"));
            assert!(answer.contains(&format!("hostname={name}\n")), "{kind}: {answer}");
        }
        kubectl.ok(&format!("delete {kind} basic"));
        eventually("its pods go with it", 30, || kubectl.names("pods -l name=basic").is_empty());
    }
}
