//! The Python client against the real API server, controllers and a simulated node: see `tests/python/api.py`.

use coracle_tests::parts::missing;
use coracle_tests::{Parts, eventually, python, sections, specification};

fn main() {
    specification(sections![the_python_client_makes_watches_and_applies_objects], missing, start, Parts::report);
}

fn start() -> Parts {
    let parts = Parts::api_server();
    parts.controllers();
    parts.scheduler("scheduler");
    parts.kubelet("a");
    let kubectl = parts.kubectl("admin");
    eventually("the node is there", 20, || kubectl.names("nodes") == ["a"]);
    kubectl.ok("wait --for=condition=Ready node a --timeout=30s");
    parts
}

fn the_python_client_makes_watches_and_applies_objects(parts: &Parts) {
    let kubeconfig = parts.kubeconfig("admin", "default");
    if let Some(output) = python::script("api.py", &[kubeconfig.to_str().expect("text")]) {
        output.ok();
    }
}
