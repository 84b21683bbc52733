//! What there is in the end of a run, without what differs from run to run by right: UIDs, times, versions, addresses,
//! and the random parts of names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use coracle_sim::Change;
use serde_json::Value;

/// How often each line is there: an object, a field of it, a value.
pub type State = BTreeMap<String, usize>;

/// The objects that were written after `start` and are there in the end; without events and leases, which tell of the
/// way and not of the end.
pub fn end_state(history: &[Change], start: i64) -> State {
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut objects = BTreeMap::new();
    for change in history {
        let key = String::from_utf8_lossy(&change.key).into_owned();
        if ["/registry/events/", "/registry/leases/", "/registry/masterleases/"].iter().any(|p| key.starts_with(p)) {
            continue;
        }
        let object = change.json();
        let meta = &object["metadata"];
        if let Some(uid) = meta["uid"].as_str() {
            names.insert(uid.into(), "<uid>".into());
        }
        if let (Some(base), Some(name)) = (meta["generateName"].as_str(), meta["name"].as_str()) {
            names.insert(name.into(), format!("{base}*"));
        }
        if change.revision > start {
            match object {
                Value::Null => drop(objects.remove(&key)),
                object => drop(objects.insert(key, object)),
            }
        }
    }
    let mut state = State::new();
    for (key, mut object) in objects {
        normalise(&mut object, &names);
        let key: Vec<String> = key.split('/').map(|part| text(part, &names)).collect();
        flatten(&mut state, &key.join("/"), &object);
    }
    state
}

fn flatten(state: &mut State, path: &str, value: &Value) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| flatten(state, &format!("{path} {key}"), value)),
        Value::Array(items) => items.iter().for_each(|value| flatten(state, &format!("{path} -"), value)),
        value => *state.entry(format!("{path} {value}")).or_default() += 1,
    }
}

/// What one state has and the other has not.
pub fn difference(expected: &State, found: &State) -> String {
    let lines: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    let count = |state: &State, line: &String| state.get(line).copied().unwrap_or_default();
    let differ = lines.into_iter().map(|line| (line, count(expected, line), count(found, line)));
    differ.filter(|(_, a, b)| a != b).map(|(line, a, b)| format!("\n  {a} -> {b}: {line}")).collect()
}

/// The last two tell of which size a ReplicaSet had a part when it was last scaled.
const DROPPED: [&str; 10] = [
    "uid",
    "resourceVersion",
    "generation",
    "observedGeneration",
    "managedFields",
    "nodePort",
    "containerID",
    "certificate",
    "deployment.kubernetes.io/desired-replicas",
    "deployment.kubernetes.io/max-replicas",
];

fn normalise(value: &mut Value, names: &BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, value| {
                let time = value.as_str().is_some_and(is_time);
                !DROPPED.contains(&key.as_str()) && !time
            });
            fields.values_mut().for_each(|value| normalise(value, names));
        }
        Value::Array(items) => {
            items.iter_mut().for_each(|value| normalise(value, names));
        }
        Value::String(string) => *string = text(string, names),
        _ => {}
    }
}

fn is_time(text: &str) -> bool {
    text.len() >= 20 && text.as_bytes()[4] == b'-' && text.as_bytes()[10] == b'T' && text.ends_with('Z')
}

fn text(text: &str, names: &BTreeMap<String, String>) -> String {
    if text.parse::<IpAddr>().is_ok() {
        return "<ip>".into();
    }
    if text.starts_with("kube-api-access-") {
        return "kube-api-access-*".into();
    }
    let mut text = text.to_owned();
    for (name, base) in names {
        if text.contains(name.as_str()) {
            text = text.replace(name.as_str(), base);
        }
    }
    text
}
