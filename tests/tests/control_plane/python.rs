//! The Python client: see `tests/python/api.py`.

use coracle_tests::{Parts, Section, python, sections};

pub const SECTIONS: &[Section<Parts>] = sections![the_python_client_makes_watches_and_applies_objects];

fn the_python_client_makes_watches_and_applies_objects(parts: &Parts) {
    let kubeconfig = parts.kubeconfig("admin", "default");
    if let Some(output) = python::script("api.py", &[kubeconfig.to_str().expect("text")]) {
        output.ok();
    }
}
