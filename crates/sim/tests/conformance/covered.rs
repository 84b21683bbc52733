//! The list of all behaviours of the control plane and of webhooks, and that it is true.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// `official name<tab>test function`, a line each.
const COVERED: &str = include_str!("covered.tsv");
/// How many behaviours need nothing but a control plane.
const CONTROL_PLANE: usize = 148;
/// How many are about webhooks, which upstream runs in pods.
const WEBHOOKS: usize = 25;
/// How many are about workloads, whose pods run on simulated machines here.
const WORKLOADS: usize = 62;

#[test]
fn every_control_plane_behaviour_has_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut functions = BTreeSet::new();
    for folder in ["crates", "tests/tests"] {
        collect(&root.join(folder), &mut functions);
    }
    let mut names = BTreeSet::new();
    for line in COVERED.lines().filter(|line| !line.starts_with('#')) {
        let (name, function) = line.split_once('\t').unwrap_or_else(|| panic!("{line:?} is no row"));
        assert!(names.insert(name), "{name:?} is there twice");
        assert!(functions.contains(function), "{name:?}: there is no test {function:?}");
    }
    assert_eq!(names.len(), CONTROL_PLANE + WEBHOOKS + WORKLOADS);
}

/// The names of all functions in Rust files below a folder.
fn collect(folder: &Path, functions: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("the sources are there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, functions);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source is text");
            let named = text
                .lines()
                .filter_map(|line| line.trim_start().trim_start_matches("async ").strip_prefix("fn ")?.split_once('('));
            functions.extend(named.map(|(name, _)| name.to_owned()));
        }
    }
}
