//! Telling: the pod's status to the API server.

use std::sync::Arc;

use coracle_client::written::patch_status;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{DeleteParams, Patch, Preconditions};
use kube::{Api, Client};
use serde_json::{Map, Value, json};

use super::PodWorker;
use crate::status::{StatusInput, pod_status};

impl PodWorker {
    pub(super) fn api(&self) -> Api<Pod> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        Api::namespaced(self.shared.client.clone(), namespace)
    }

    pub(super) fn pod_name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    /// Sends the pod's status if it differs from the one last sent. `terminal` says that nothing runs nor will run.
    pub(super) async fn report(&mut self, terminal: bool) -> Result<(), String> {
        if let Some(news) = self.news(terminal) {
            let sent = news.send().await?;
            self.told(sent);
        }
        Ok(())
    }

    /// The pod's status now, if it differs from the one last sent and there is somebody to tell.
    pub(super) fn news(&mut self, terminal: bool) -> Option<News> {
        let old = self.with_foreign_conditions();
        let new = pod_status(StatusInput {
            pod: &self.pod,
            old: &old,
            observed: &self.observed,
            verdicts: &self.signals.verdicts(),
            waiting: &self.waiting,
            runtime: &self.shared.runtime_name(),
            host_ips: &self.shared.host_ips(),
            terminal,
            failure: self.failure.as_ref(),
            now: coracle_clock::now(),
        });
        if self.gone {
            self.status = new;
            return None;
        }
        (old != new).then(|| News { client: self.shared.client.clone(), pod: self.pod.clone(), old, new })
    }

    /// Takes note of what was sent.
    pub(super) fn told(&mut self, sent: Sent) {
        self.status = sent.status;
        self.sent = sent.version.unwrap_or(self.sent);
    }

    /// The status last sent, with the conditions that others have set meanwhile.
    fn with_foreign_conditions(&self) -> PodStatus {
        let mut status = self.status.clone();
        let latest = self.pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let ours = status.conditions.get_or_insert_default();
        const OWNED: [&str; 5] = crate::status::OWNED_CONDITIONS;
        ours.retain(|c| OWNED.contains(&c.type_.as_str()));
        let missing: Vec<_> = latest.iter().filter(|c| !ours.iter().any(|own| own.type_ == c.type_)).cloned().collect();
        ours.extend(missing);
        status
    }

    /// Deletes the pod's object for good: nothing of it runs any more. Whether it is gone for us.
    pub(super) async fn delete_object(&mut self) -> Result<(), String> {
        let preconditions = Preconditions { uid: Some(self.uid.clone()), resource_version: None };
        let now = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        match self.api().delete(self.pod_name(), &now).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(refusal)) if matches!(refusal.code, 404 | 409) => Ok(()),
            Err(error) => Err(format!("pod not deleted: {error}")),
        }
    }
}

/// A status that is to be sent.
pub(super) struct News {
    client: Client,
    pod: Arc<Pod>,
    old: PodStatus,
    new: PodStatus,
}

/// A status that was sent.
pub(super) struct Sent {
    status: PodStatus,
    /// The version of the pod that has it; none if the pod is gone, or had it already.
    version: Option<u64>,
}

impl News {
    pub(super) async fn send(self) -> Result<Sent, String> {
        let meta = &self.pod.metadata;
        let changes = difference(&self.old, &self.new);
        if changes.is_empty() {
            // An empty list is none at all.
            return Ok(Sent { status: self.new, version: None });
        }
        let patch = Patch::Strategic(json!({ "metadata": { "uid": meta.uid }, "status": changes }));
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let name = meta.name.as_deref().unwrap_or_default();
        let version = match patch_status::<Pod>(&self.client, namespace, name, &patch).await {
            Ok(written) => Some(written.version()),
            // It was deleted, perhaps replaced by another of the same name; the watch is about to say so.
            Err(kube::Error::Api(refusal)) if matches!(refusal.code, 404 | 409) => None,
            Err(error) => return Err(format!("status not written: {error}")),
        };
        Ok(Sent { status: self.new, version })
    }
}

/// The strategic merge patch from one status to another.
fn difference(old: &PodStatus, new: &PodStatus) -> Map<String, Value> {
    let object = |status: Value| match status {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    let old = object(serde_json::to_value(old).unwrap_or_default());
    let new = object(serde_json::to_value(new).unwrap_or_default());
    let mut patch = Map::new();
    for (field, value) in &new {
        let before = old.get(field);
        if before == Some(value) {
            continue;
        }
        let change = match (field.as_str(), before) {
            ("conditions", Some(before)) if lost(before, value) => replaced(value),
            ("conditions", before) => changed_conditions(before, value),
            // Merged by address unless told otherwise.
            ("podIPs" | "hostIPs", Some(_)) => replaced(value),
            _ => value.clone(),
        };
        if field == "conditions" {
            // Shown in the kubelet's order, whoever set the first of them.
            patch.insert("$setElementOrder/conditions".into(), types(value));
        }
        patch.insert(field.clone(), change);
    }
    for field in old.keys().filter(|field| !new.contains_key(*field)) {
        patch.insert(field.clone(), Value::Null);
    }
    patch
}

fn replaced(list: &Value) -> Value {
    let mut items = list.as_array().cloned().unwrap_or_default();
    items.push(json!({ "$patch": "replace" }));
    Value::Array(items)
}

/// Whether a condition is no more.
fn lost(old: &Value, new: &Value) -> bool {
    let (old, new) = (types(old), types(new));
    let new = new.as_array().map(Vec::as_slice).unwrap_or_default();
    old.as_array().into_iter().flatten().any(|kind| !new.contains(kind))
}

/// What conditions are merged by.
fn types(conditions: &Value) -> Value {
    let conditions = conditions.as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().map(|condition| json!({ "type": condition["type"] })).collect()
}

/// Conditions are merged by type: those that changed, with what they no longer have as null.
fn changed_conditions(old: Option<&Value>, new: &Value) -> Value {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let old = list(old);
    let changed = list(Some(new)).into_iter().filter(|condition| !old.contains(condition));
    let explicit = changed.map(|mut condition| {
        for field in ["reason", "message"] {
            if let Some(fields) = condition.as_object_mut()
                && !fields.contains_key(field)
            {
                fields.insert(field.into(), Value::Null);
            }
        }
        condition
    });
    Value::Array(explicit.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::from_value;

    use super::*;

    #[test]
    fn a_patch_holds_what_changed_and_nothing_else() {
        let condition =
            |status: &str, reason: Option<&str>| json!({ "type": "Ready", "status": status, "reason": reason });
        let old: PodStatus = from_value(json!({
            "phase": "Pending", "message": "m", "podIPs": [{ "ip": "10.0.0.1" }],
            "conditions": [condition("False", Some("ContainersNotReady")), { "type": "PodScheduled", "status": "True" }],
        }))
        .unwrap();
        let new: PodStatus = from_value(json!({
            "phase": "Running", "podIPs": [{ "ip": "10.0.0.2" }],
            "conditions": [condition("True", None), { "type": "PodScheduled", "status": "True" }],
        }))
        .unwrap();
        assert_eq!(
            Value::Object(difference(&old, &new)),
            json!({
                "phase": "Running",
                "message": null,
                "podIPs": [{ "ip": "10.0.0.2" }, { "$patch": "replace" }],
                "$setElementOrder/conditions": [{ "type": "Ready" }, { "type": "PodScheduled" }],
                "conditions": [{ "type": "Ready", "status": "True", "reason": null, "message": null }],
            })
        );
        assert!(difference(&new, &new).is_empty());
    }
}
