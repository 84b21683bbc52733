//! What creating or updating derives or protects, kind by kind.

use serde_json::{Value, json};

use crate::defaults::{child, set};
use crate::kinds::carry_over;
use crate::validate::list;

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

/// A namespace that is being deleted says so.
pub(super) fn namespace_delete(object: &mut Value) {
    object["status"]["phase"] = "Terminating".into();
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

/// A volume is not attached before somebody has attached it.
pub(super) fn attachment(object: &mut Value) {
    object["status"] = json!({ "attached": false });
}

/// What this server serves itself is available from the first.
pub(super) fn api_service(object: &mut Value) {
    if object["spec"]["service"].is_null() {
        let condition = json!({
            "type": "Available",
            "status": "True",
            "lastTransitionTime": coracle_clock::now_seconds().to_string(),
            "reason": "Local",
            "message": "Local APIServices are always available",
        });
        object["status"] = json!({ "conditions": [condition] });
    }
}

/// What `MaxUnavailableStatefulSet` brings is not there, as it is off by default.
pub(super) fn stateful_set(object: &mut Value) {
    if let Some(rolling) = object.pointer_mut("/spec/updateStrategy/rollingUpdate").and_then(Value::as_object_mut) {
        rolling.remove("maxUnavailable");
    }
}

/// Counts a DaemonSet's templates, as its API did before `apps/v1`. Controllers label pods with it still.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn template_generation(set: &Value) -> i64 {
    set["metadata"]["annotations"][TEMPLATE_GENERATION].as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn set_template_generation(set: &mut Value, generation: i64) {
    child(child(set, "metadata"), "annotations")[TEMPLATE_GENERATION] = generation.to_string().into();
}

/// A DaemonSet has its first template, unless it is an old one's copy.
pub(super) fn daemon_set(set: &mut Value) {
    set_template_generation(set, template_generation(set).max(1));
}

/// Another template is one more, whatever a client says.
pub(super) fn daemon_set_update(new: &mut Value, old: &Value, _: &str) {
    let changed = new["spec"]["template"] != old["spec"]["template"];
    set_template_generation(new, template_generation(old) + i64::from(changed));
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

/// A certificate request says who made it: the server knows, the client's word does not count.
pub(super) fn certificate_requester(object: &mut Value, user: &Value) {
    let spec = child(object, "spec");
    for field in ["username", "uid", "groups", "extra"] {
        match user.get(field) {
            Some(value) => spec[field] = value.clone(),
            None => drop(spec.as_object_mut().and_then(|spec| spec.remove(field))),
        }
    }
}

/// What a certificate request asks for is settled when it is made. `/approval` changes the conditions; `/status` the
/// rest of the status, and of the conditions those that neither approve nor deny.
pub(super) fn certificate_update(new: &mut Value, old: &Value, subresource: &str) {
    carry_over(new, old, &["spec"]);
    if subresource.is_empty() {
        return;
    }
    let mut conditions = list(&new["status"], "conditions").to_vec();
    let before = list(&old["status"], "conditions");
    if subresource == "approval" {
        carry_over(new, old, &["status"]);
    } else {
        for kind in ["Approved", "Denied"] {
            let of_kind = |c: &&Value| c["type"] == kind;
            let kept: Vec<&Value> = before.iter().filter(of_kind).collect();
            if kept.len() == conditions.iter().filter(of_kind).count() {
                let changed = conditions.iter_mut().filter(|c| c["type"] == kind);
                changed.zip(kept).for_each(|(condition, old)| *condition = old.clone());
            }
        }
    }
    let now = coracle_clock::now_seconds().to_string();
    for condition in &mut conditions {
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = now.as_str().into();
        }
        if condition["lastTransitionTime"].is_null() {
            let same = |c: &&Value| c["type"] == condition["type"] && c["status"] == condition["status"];
            let since = before.iter().find(same).map(|c| &c["lastTransitionTime"]).filter(|since| !since.is_null());
            condition["lastTransitionTime"] = since.cloned().unwrap_or_else(|| now.as_str().into());
        }
    }
    if !conditions.is_empty() || new["status"].get("conditions").is_some() {
        child(new, "status")["conditions"] = conditions.into();
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
