//! Clusters for the tests, and short forms.

use std::time::Duration;

use anyhow::{Context, bail};
use coracle_sim::{Builder, Cluster};
use kube::core::Status;
use serde_json::{Value, json};

/// Plays a scenario against the API server alone: nothing changes but by the test's hand.
#[track_caller]
pub fn api(scenario: impl AsyncFnOnce(&mut Cluster) -> anyhow::Result<()>) {
    play(Cluster::builder().nodes(0).controllers(&[]).without_scheduler(), scenario);
}

/// Plays a scenario on a control plane without nodes: pods are objects, and stay Pending.
#[track_caller]
pub fn control_plane(scenario: impl AsyncFnOnce(&mut Cluster) -> anyhow::Result<()>) {
    play(Cluster::builder().nodes(0), scenario);
}

/// Plays a scenario on a whole cluster of two nodes.
#[track_caller]
pub fn cluster(scenario: impl AsyncFnOnce(&mut Cluster) -> anyhow::Result<()>) {
    play(Cluster::builder().nodes(2), scenario);
}

#[track_caller]
fn play(cluster: Builder, scenario: impl AsyncFnOnce(&mut Cluster) -> anyhow::Result<()>) {
    cluster.seed(7).run(scenario).unwrap_or_else(|error| panic!("{error:?}"));
}

/// Lets time pass until something holds, for ten minutes at most.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    for _ in 0..1200 {
        if holds().await.with_context(|| what.to_owned())? {
            return Ok(());
        }
        coracle_clock::sleep(Duration::from_millis(500)).await;
    }
    bail!("{what}: not in ten minutes")
}

/// The refusal that a request must end in.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: kube::Result<T>, code: u16, reason: &str) -> Status {
    match result {
        Err(kube::Error::Api(status)) => {
            assert_eq!((status.code, status.reason.as_str()), (code, reason), "{}", status.message);
            *status
        }
        other => panic!("expected {code} {reason}, not {other:?}"),
    }
}

/// Whether `whole` has all that `part` has: objects may have more fields, all else is equal.
pub fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, value)| whole.get(key).is_some_and(|found| contains(found, value)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| contains(whole, part))
        }
        _ => whole == part,
    }
}

/// Asserts that `whole` [contains] `part`.
#[track_caller]
pub fn assert_contains(whole: &Value, part: &Value) {
    assert!(contains(whole, part), "{part:#} is not all in {whole:#}");
}

/// A text in an object, by JSON pointer; empty if there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// An object's name.
pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// An object's resource version, as a number.
#[track_caller]
pub fn version(object: &Value) -> u64 {
    text(object, "/metadata/resourceVersion").parse().expect("a resource version is a number")
}

/// A pod of one container that asks for these resources.
pub fn pod(name: &str, requests: Value, limits: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "containers": [{
            "name": "pause", "image": "pause:1", "resources": { "requests": requests, "limits": limits },
        }] },
    })
}
