//! Defaulting: what the API server writes into an object where its author wrote nothing.
//!
//! Most of it is in the table that [`crate::rules`] reads. Here is the code for what a line of it cannot say, one
//! function a type, as upstream's `SetDefaults_*` and Go's zero values together leave the object. What another
//! admission step decides (cluster IPs, service accounts, storage classes) is not here.

mod core;
mod pod;
mod policy;
mod workload;

use serde_json::{Value, json};

/// The code that fills in a type's defaults.
pub(crate) fn of_type(name: &str) -> Option<fn(&mut Value)> {
    Some(match name {
        "core.v1.Pod" => pod::pod,
        "core.v1.PodSpec" => pod::pod_spec,
        "core.v1.Container" | "core.v1.EphemeralContainerCommon" => pod::container,
        "core.v1.Volume" => pod::volume,
        "core.v1.ImageVolumeSource" => pod::image_volume,
        "core.v1.Service" => core::service,
        "core.v1.Namespace" => core::namespace,
        "core.v1.Secret" => core::secret,
        "core.v1.NodeStatus" => core::node_status,
        "core.v1.PersistentVolumeClaimSpec" => core::claim_spec,
        "core.v1.LimitRangeItem" => core::limit_range_item,
        "core.v1.ReplicationController" => workload::replication_controller,
        "apps.v1.DeploymentStrategy" | "apps.v1.DaemonSetUpdateStrategy" => workload::rolling_update,
        "apps.v1.StatefulSetUpdateStrategy" => workload::stateful_update,
        "apps.v1.StatefulSetSpec" => workload::claim_templates,
        "batch.v1.Job" => workload::job,
        "autoscaling.v2.HorizontalPodAutoscalerSpec" => workload::hpa,
        "networking.v1.NetworkPolicySpec" => policy::network_policy,
        "rbac.v1.Subject" => policy::subject,
        "resource.v1.ExactDeviceRequest" | "resource.v1.DeviceSubRequest" => policy::device_count,
        "resource.v1.DeviceTaint" => policy::device_taint,
        "apiextensions.v1.CustomResourceDefinitionSpec" => policy::custom_names,
        _ => return None,
    })
}

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::resource::Strategy as _;

    /// Every leaf of an object, by its path.
    fn leaves(value: &Value, path: &str, into: &mut BTreeMap<String, String>) {
        let mut below = |key: &str, item: &Value| leaves(item, crate::validate::join(path, key).as_str(), into);
        match value {
            Value::Object(map) if !map.is_empty() => map.iter().for_each(|(key, item)| below(key, item)),
            Value::Array(items) if !items.is_empty() => {
                items.iter().enumerate().for_each(|(i, item)| below(&i.to_string(), item));
            }
            leaf => drop(into.insert(path.to_owned(), leaf.to_string())),
        }
    }

    /// `cases.tsv`: a kind, an object, and all that defaulting adds to it or changes.
    #[test]
    fn every_kind_gets_what_upstream_gives() {
        let mut wrong = Vec::new();
        for line in include_str!("defaults/cases.tsv").lines().filter(|line| !line.starts_with('#')) {
            let [kind, object, expected] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let given: Value = serde_json::from_str(object).unwrap_or_else(|why| panic!("{why}: {line}"));
            let strategy = crate::kinds::KindStrategy::of(kind);
            let mut object = given.clone();
            strategy.default(&mut object);
            let once = object.clone();
            strategy.default(&mut object);
            assert_eq!(object, once, "defaulting twice changes nothing: {line}");
            let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
            leaves(&given, "", &mut before);
            leaves(&object, "", &mut after);
            after.retain(|path, leaf| before.get(path) != Some(leaf));
            let told: Vec<String> = after.iter().map(|(path, leaf)| format!("{path}={leaf}")).collect();
            if told.join(" ") != expected {
                wrong.push(format!("{kind}\t{given}\t{}", told.join(" ")));
            }
        }
        assert!(wrong.is_empty(), "these get:\n{}", wrong.join("\n"));
    }
}
