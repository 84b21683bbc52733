//! Scenarios: what they make of manifests and of node groups.

use std::path::Path;

use coracle_sim::{Pace, Report, Scenario};

fn run(spec: &str) -> Report {
    let head = "apiVersion: simulation.coracle.dev/v1\nkind: Scenario\nmetadata: {name: t}\nspec:\n";
    let scenario = Scenario::parse("t.yaml", &format!("{head}{spec}"), Path::new("."));
    scenario.unwrap_or_else(|refusal| panic!("{refusal}")).run(&mut Pace::default()).expect("it runs")
}

/// They are applied at the beginning and later, and those of an owner go with it.
#[test]
fn custom_resources_are_objects_as_any_others() {
    let report = run(r#"
  duration: 5m
  cluster: {nodeGroups: [{name: a, instanceType: m5.large, count: 1}]}
  manifests:
  - objects:
    - apiVersion: apiextensions.k8s.io/v1
      kind: CustomResourceDefinition
      metadata: {name: gadgets.example.com}
      spec:
        group: example.com
        scope: Namespaced
        names: {plural: gadgets, singular: gadget, kind: Gadget}
        versions:
        - name: v1
          served: true
          storage: true
          schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}}}}}}
    - {apiVersion: example.com/v1, kind: Gadget, metadata: {name: first}, spec: {size: 3}}
  events:
  - at: 1m
    apply: {objects: [{apiVersion: example.com/v1, kind: Gadget, metadata: {name: second}, spec: {size: 4}}]}
  expect:
  - nodes ready == 1
"#);
    let told: Vec<&str> = report.story.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(told, ["apply gadget/second"]);
}

/// A node that has come counts for the pods that called for it until the scheduler has had its turn.
#[test]
fn the_autoscaler_orders_no_node_twice() {
    let report = run(r#"
  duration: 20m
  cluster:
    autoscaler: {provisionDelay: 55s}
    nodeGroups: [{name: a, instanceType: m5.large, count: 1, max: 9}]
  manifests:
  - objects:
    - apiVersion: apps/v1
      kind: Deployment
      metadata: {name: web}
      spec:
        replicas: 6
        selector: {matchLabels: {app: web}}
        template:
          metadata: {labels: {app: web}}
          spec: {containers: [{name: main, image: "web:1", resources: {requests: {cpu: 900m}}}]}
  expect:
  - at 5m pods ready == 6
  - nodes total == 3
"#);
    assert!(report.met(), "{}", report.text());
    let most = report.samples.iter().map(|sample| sample.nodes).max();
    assert_eq!(most, Some(3), "two pods fit on a node");
}
