//! Events, in both their groups.

use coracle_sim::Cluster;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::lifecycle::takes_every_verb;
use crate::objects::Objects;
use crate::support::*;

fn core_event() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Event", "metadata": { "name": "event-test" },
        "message": "This is a test event", "reason": "Test", "type": "Normal", "count": 1,
        "involvedObject": { "namespace": "default" }, "source": { "component": "e2e" },
    })
}

fn event() -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": { "name": "event-test" },
        "regarding": { "namespace": "default", "kind": "Pod", "name": "web" },
        "eventTime": "2026-01-01T00:00:00.123456Z",
        "note": "This is a test event", "action": "Do", "reason": "Test", "type": "Normal",
        "reportingController": "test-controller", "reportingInstance": "test-node",
    })
}

/// Three events with a label and one without: the collection with the label goes.
async fn delete_a_collection(cluster: &Cluster, event: Value) -> anyhow::Result<()> {
    let events = Objects::of(cluster, &event).await?;
    for name in ["test-event-1", "test-event-2", "test-event-3", "other"] {
        let mut event = event.clone();
        event["metadata"] = json!({ "name": name, "labels": { "testevent-set": (name != "other").to_string() } });
        events.create(&event).await?;
    }
    assert_eq!(events.list("testevent-set=true").await?.len(), 3);
    events.delete_collection("testevent-set=true").await?;
    assert!(events.list("testevent-set=true").await?.is_empty());
    assert!(events.exists("other").await?);
    Ok(())
}

#[test]
fn a_core_event_takes_every_verb() {
    takes_every_verb(
        core_event(),
        json!({ "message": "This is a test event - patched", "series": { "count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z" } }),
        Value::Null,
    );
}

#[test]
fn core_events_are_deleted_as_a_collection() {
    api(async |cluster| delete_a_collection(cluster, core_event()).await);
}

#[test]
fn an_event_of_the_events_group_takes_every_verb() {
    takes_every_verb(
        event(),
        json!({ "series": { "count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z" } }),
        Value::Null,
    );
}

#[test]
fn events_of_the_events_group_are_listed_by_field_and_are_the_core_events() {
    api(async |cluster| {
        let events = Objects::of(cluster, &event()).await?;
        events.create(&event()).await?;
        let mut other = event();
        other["metadata"]["name"] = "other".into();
        other["reportingController"] = "another-controller".into();
        events.create(&other).await?;
        let by_controller = ListParams::default().fields("reportingController=test-controller");
        let found = events.list_with(&by_controller).await?;
        assert_eq!(found.iter().map(name).collect::<Vec<_>>(), ["event-test"]);
        let core = Objects::of(cluster, &core_event()).await?.get("event-test").await?;
        assert_eq!(core["message"], event()["note"]);
        assert_eq!(core["involvedObject"], event()["regarding"]);
        assert_eq!(core["reportingComponent"], "test-controller");
        Ok(())
    });
}

#[test]
fn events_of_the_events_group_are_deleted_as_a_collection() {
    api(async |cluster| delete_a_collection(cluster, event()).await);
}
