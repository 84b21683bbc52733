//! What kubectl's own integration scripts ask of a server, with the oldest and the newest kubectl there is.

pub mod apply;
pub mod discovery;
pub mod objects;
pub mod resources;
pub mod workloads;

use coracle_tests::kubectl::oldest_and_newest;
use coracle_tests::{Kubectl, Parts, eventually};

/// Plays a section with each kubectl, at home in a namespace of its own, whose name it is given.
#[track_caller]
pub fn each(parts: &Parts, section: &str, play: impl Fn(&Kubectl, &str)) {
    let admin = parts.kubectl("admin");
    for (number, program) in oldest_and_newest().iter().enumerate() {
        let namespace = format!("{section}-{number}");
        admin.ok(&format!("create namespace {namespace}"));
        eventually("the namespace has its ServiceAccount", 20, || {
            admin.names(&format!("serviceaccounts -n {namespace}")).contains(&"default".into())
        });
        eprintln!("with {}", program.display());
        play(&parts.kubectl_in(program, "admin", &namespace), &namespace);
        admin.ok(&format!("delete namespace {namespace} --wait=false"));
    }
}

#[track_caller]
pub fn has(text: &str, parts: &[&str]) {
    parts.iter().for_each(|part| assert!(text.contains(part), "no {part:?} in {text}"));
}

const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: valid-pod, labels: {name: valid-pod}}
spec: {containers: [{name: main, image: 'serve:1', resources: {limits: {cpu: '1', memory: 512Mi}}}]}
";

pub fn deployment(name: &str, image: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec: {{containers: [{{name: nginx, image: '{image}'}}]}}
"
    )
}
