//! Defaulting: what the API server writes into an object where its author wrote nothing.
//!
//! One function per kind, as upstream's `SetDefaults_*` and Go's zero values together leave the object. What
//! another admission step decides (cluster IPs, service accounts, storage classes) is not here.

mod apps;
mod core;
mod flowcontrol;
mod pod;
mod policy;

use serde_json::{Value, json};

pub use apps::{cron_job, daemon_set, deployment, job, replica_set, replication_controller, stateful_set};
pub use core::{endpoint_slice, endpoints, namespace, persistent_volume, persistent_volume_claim, secret, service};
pub use flowcontrol::{flow_schema, priority_level};
pub use pod::{pod, pod_spec};
pub use policy::{
    api_service, custom_resource_definition, hpa_v1, hpa_v2, ingress_class, mutating_webhooks, network_policy,
    priority_class, role_binding, storage_class, validating_webhooks,
};

/// Sets `object[key]` unless something is there.
pub(crate) fn set(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut() {
        let slot = map.entry(key).or_insert(Value::Null);
        if slot.is_null() {
            *slot = value.into();
        }
    }
}

/// Sets `object[key]` unless something other than an empty string is there.
pub(crate) fn set_text(object: &mut Value, key: &str, value: &str) {
    if object.get(key).and_then(Value::as_str) == Some("") {
        object[key] = value.into();
    }
    set(object, key, value);
}

/// Sets a number unless there is one other than zero.
pub(crate) fn set_nonzero(object: &mut Value, key: &str, value: i64) {
    if object.get(key).and_then(Value::as_i64) == Some(0) {
        object[key] = value.into();
    }
    set(object, key, value);
}

/// The object at `key`, made if it is not there.
pub(crate) fn child<'a>(object: &'a mut Value, key: &str) -> &'a mut Value {
    set(object, key, json!({}));
    &mut object[key]
}

/// The items of a list; none if there is no list.
pub(crate) fn items<'a>(object: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter(|item| item.is_object())
}

/// The object at `key`, if there is one.
pub(crate) fn at<'a>(object: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    object.get_mut(key).filter(|value| value.is_object())
}
