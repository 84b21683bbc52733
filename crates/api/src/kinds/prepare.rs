//! What creating or updating derives or protects, kind by kind.

use serde_json::{Value, json};

use crate::defaults::{child, set};
use crate::kinds::carry_over;

/// A Pod begins Pending, with the quality of service that its resources buy.
pub(super) fn pod(object: &mut Value) {
    object["status"] = json!({ "phase": "Pending", "qosClass": qos_class(&object["spec"]) });
}

/// A pod's quality of service does not change with its status.
pub(super) fn pod_update(new: &mut Value, old: &Value, subresource: &str) {
    if subresource == "status" && new["status"].is_object() && old["status"]["qosClass"].is_string() {
        new["status"]["qosClass"] = old["status"]["qosClass"].clone();
    }
}

/// `Guaranteed` if every container has equal requests and limits of CPU and memory, `BestEffort` if none has any,
/// else `Burstable`.
pub fn qos_class(spec: &Value) -> &'static str {
    let lists = ["containers", "initContainers"].map(|key| spec[key].as_array().map(Vec::as_slice).unwrap_or_default());
    let containers = || lists.iter().copied().flatten();
    let amount = |container: &Value, of: &str, name: &str| {
        container["resources"][of][name].as_str().filter(|text| *text != "0").map(str::to_owned)
    };
    let any = containers().any(|c| {
        ["requests", "limits"].iter().any(|of| ["cpu", "memory"].iter().any(|name| amount(c, of, name).is_some()))
    });
    let all = containers().all(|c| {
        ["cpu", "memory"].iter().all(|name| {
            let limit = amount(c, "limits", name);
            limit.is_some() && amount(c, "requests", name).is_none_or(|request| Some(request) == limit)
        })
    });
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// A Namespace begins Active, and stays until the namespace controller has emptied it.
pub(super) fn namespace(object: &mut Value) {
    set(child(object, "spec"), "finalizers", json!(["kubernetes"]));
    object["status"] = json!({ "phase": "Active" });
}

/// Only `finalize` changes a namespace's finalizers.
pub(super) fn namespace_update(new: &mut Value, old: &Value, subresource: &str) {
    if subresource.is_empty() {
        carry_over(new, old, &["spec"]);
    }
}

/// A claim or volume begins Pending.
pub(super) fn pending(object: &mut Value) {
    object["status"] = json!({ "phase": "Pending" });
}

/// A Job selects its pods by its own uid, unless told otherwise.
pub(super) fn job(object: &mut Value) {
    if object["spec"]["manualSelector"] == true {
        return;
    }
    let (uid, name) = (object["metadata"]["uid"].clone(), object["metadata"]["name"].clone());
    let template = child(child(child(object, "spec"), "template"), "metadata");
    let labels = child(template, "labels");
    for (key, value) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ] {
        labels[key] = value.clone();
    }
    let selector = child(child(child(object, "spec"), "selector"), "matchLabels");
    selector["batch.kubernetes.io/controller-uid"] = uid;
}

/// What a certificate request asks for is settled when it is made.
pub(super) fn certificate_update(new: &mut Value, old: &Value, subresource: &str) {
    if subresource.is_empty() {
        carry_over(new, old, &["spec"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quality_of_service_follows_the_resources() {
        let spec = |resources: Value| json!({"containers": [{"resources": resources}]});
        let full = json!({"cpu": "1", "memory": "1Gi"});
        for (resources, class) in [
            (json!({}), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (json!({"limits": full, "requests": full}), "Guaranteed"),
            (json!({"limits": full, "requests": {"cpu": "500m", "memory": "1Gi"}}), "Burstable"),
        ] {
            assert_eq!(qos_class(&spec(resources)), class);
        }
    }

    #[test]
    fn a_job_selects_its_pods_by_its_uid() {
        let mut object = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {}}}});
        job(&mut object);
        assert_eq!(object["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}));
        assert_eq!(object["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
    }
}
