//! Resources that are served in two versions and stored in one: Events, HorizontalPodAutoscalers, custom resources.
//!
//! Stored objects are in the version of the registry's first row with that storage prefix: core/v1 for
//! events, autoscaling/v2 for autoscalers; of custom resources each is in the version that was stored when it was
//! written. For any other pair only `apiVersion` changes; of custom resources, what the other version's schema does not
//! know is left out. All that reads and writes goes through [`Webhooks::convert`](crate::webhook::Webhooks::convert),
//! which asks the conversion webhook of those custom resources that have one.

use std::sync::Arc;

use coracle_api::{Resource, custom};
use serde_json::Value;

use super::{autoscaler, codec};

/// core/v1 Event's fields and what events.k8s.io/v1 calls them.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(object: &mut Value, pairs: impl Iterator<Item = (&'static str, &'static str)>) {
    let Some(fields) = object.as_object_mut() else { return };
    for (from, to) in pairs {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
}

/// Brings an object into the version of `resource`, but for those that only a webhook can convert.
pub fn to(object: &mut Value, resource: &Resource) {
    let version = resource.api_version();
    if object["apiVersion"] == version.as_str() {
        return;
    }
    match (resource.kind.as_str(), version.as_str()) {
        ("Event", "events.k8s.io/v1") => rename(object, EVENT_FIELDS.into_iter()),
        ("Event", "v1") => rename(object, EVENT_FIELDS.into_iter().map(|(core, new)| (new, core))),
        ("HorizontalPodAutoscaler", "autoscaling/v1") => autoscaler::to_v1(object),
        ("HorizontalPodAutoscaler", "autoscaling/v2") => autoscaler::to_v2(object),
        _ => {}
    }
    object["apiVersion"] = version.into();
    prune(object, resource);
}

/// Leaves out what the schema of a custom resource does not know.
pub fn prune(object: &mut Value, resource: &Resource) {
    if let Some(kind) = resource.custom.as_ref().filter(|kind| !kind.preserves) {
        custom::value::prune(object, &kind.schema);
    }
}

/// A stored custom resource in the form that its own version gives it today; none if it is in that form already.
/// `versions` are all that its definition has; an object in none of them becomes one of the first.
pub fn settled(stored: &[u8], versions: &[Arc<Resource>]) -> Option<Vec<u8>> {
    let was = serde_json::from_slice::<Value>(stored).ok()?;
    let own =
        versions.iter().find(|version| was["apiVersion"] == version.api_version()).or_else(|| versions.first())?;
    let mut object = was.clone();
    to(&mut object, own);
    own.custom.as_ref()?.settle(&mut object);
    (object != was).then(|| codec::encode(&object))
}
