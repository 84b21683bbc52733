//! What drivers bring: volumes by CSI, devices by DRA; and the priority levels of requests.

use serde_json::Value;

use super::{AGE, ColumnRow, NAME, age, flag, joined, list, name, str_at, text};

/// The columns of a CSIDriver.
pub const CSI_DRIVER_COLUMNS: &[ColumnRow] = &[
    NAME,
    flag("AttachRequired"),
    flag("PodInfoOnMount"),
    flag("StorageCapacity"),
    text("TokenRequests"),
    flag("RequiresRepublish"),
    text("Modes"),
    AGE,
];

/// The cells of a CSIDriver.
pub fn csi_driver(object: &Value) -> Vec<Value> {
    let spec = &object["spec"];
    let tokens = match spec["tokenRequests"].as_array() {
        None => "<unset>".into(),
        Some(tokens) => joined(tokens.iter().map(|token| str_at(token, "audience"))),
    };
    vec![
        name(object),
        (spec["attachRequired"] != false).into(),
        (spec["podInfoOnMount"] == true).into(),
        (spec["storageCapacity"] == true).into(),
        tokens,
        (spec["requiresRepublish"] == true).into(),
        joined(list(spec, "volumeLifecycleModes").iter().filter_map(Value::as_str)),
        age(object),
    ]
}

/// The columns of a CSIStorageCapacity.
pub const CSI_CAPACITY_COLUMNS: &[ColumnRow] = &[NAME, text("StorageClassName"), text("Capacity")];

/// The cells of a CSIStorageCapacity.
pub fn csi_storage_capacity(object: &Value) -> Vec<Value> {
    let capacity = str_at(object, "capacity");
    let capacity = if capacity.is_empty() { "<unset>" } else { capacity };
    vec![name(object), str_at(object, "storageClassName").into(), capacity.into()]
}

/// The columns of a VolumeAttributesClass.
pub const ATTRIBUTES_CLASS_COLUMNS: &[ColumnRow] = &[NAME, text("DriverName"), AGE];

/// The cells of a VolumeAttributesClass; the default one is marked.
pub fn volume_attributes_class(object: &Value) -> Vec<Value> {
    let mark = &object["metadata"]["annotations"]["volumeattributesclass.alpha.kubernetes.io/is-default-class"];
    let suffix = if mark == "true" { " (default)" } else { "" };
    let name = format!("{}{suffix}", str_at(object, "metadata.name"));
    vec![name.into(), str_at(object, "driverName").into(), age(object)]
}

/// The columns of a ResourceClaim.
pub const RESOURCE_CLAIM_COLUMNS: &[ColumnRow] = &[NAME, text("State"), AGE];

/// The cells of a ResourceClaim.
pub fn resource_claim(object: &Value) -> Vec<Value> {
    let states = [
        ("deleted", !object["metadata"]["deletionTimestamp"].is_null()),
        ("allocated", !object["status"]["allocation"].is_null()),
        ("reserved", !list(&object["status"], "reservedFor").is_empty()),
    ];
    let state: Vec<&str> = states.iter().filter(|(_, is)| *is).map(|(state, _)| *state).collect();
    let state = if object["status"]["allocation"].is_null() && state != ["deleted"] {
        "pending".to_owned()
    } else {
        state.join(",")
    };
    vec![name(object), state.into(), age(object)]
}

/// The columns of a ResourceSlice.
pub const RESOURCE_SLICE_COLUMNS: &[ColumnRow] = &[NAME, text("Node"), text("Driver"), text("Pool"), AGE];

/// The cells of a ResourceSlice.
pub fn resource_slice(object: &Value) -> Vec<Value> {
    let of = |path: &str| Value::from(str_at(object, path));
    vec![name(object), of("spec.nodeName"), of("spec.driver"), of("spec.pool.name"), age(object)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_drivers_bring_reads_as_kubectl_prints_it() {
        let driver = json!({"spec": {"attachRequired": false, "volumeLifecycleModes": ["Persistent", "Ephemeral"]}});
        let row = csi_driver(&driver);
        assert_eq!((&row[1], &row[4], &row[6]), (&json!(false), &json!("<unset>"), &json!("Persistent,Ephemeral")));
        for (claim, state) in [
            (json!({}), "pending"),
            (json!({"status": {"allocation": {}, "reservedFor": [{"uid": "u"}]}}), "allocated,reserved"),
            (json!({"metadata": {"deletionTimestamp": "x"}, "status": {"allocation": {}}}), "deleted,allocated"),
        ] {
            assert_eq!(resource_claim(&claim)[1], state);
        }
    }
}
