//! DefaultStorageClass: a claim that names no class gets the cluster's default one.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_api::ApiResult;
use serde_json::Value;

use super::{is, text};
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};

/// What marks a default class.
const DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
/// Where claims named their class before there was a field for it.
pub(super) const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

#[derive(Debug)]
pub(super) struct DefaultStorageClass;

/// The newest of those that an annotation marks; of two as new, the first by name.
pub(super) fn default_of(classes: &[Arc<Value>], annotations: &[&str]) -> Option<String> {
    let created = |class: &Arc<Value>| text(class, "/metadata/creationTimestamp").to_owned();
    let name = |class: &Arc<Value>| text(class, "/metadata/name").to_owned();
    let is_marked = |class: &&Arc<Value>| annotations.iter().any(|key| class["metadata"]["annotations"][key] == "true");
    let marked = classes.iter().filter(is_marked);
    marked.min_by_key(|class| (std::cmp::Reverse(created(class)), name(class))).map(name)
}

#[async_trait]
impl AdmissionPlugin for DefaultStorageClass {
    fn handles(&self, request: &AdmissionRequest) -> bool {
        request.operation == Operation::Create
    }

    async fn admit(&self, request: &mut AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        let claim = &request.object;
        let named = !claim["spec"]["storageClassName"].is_null() || !claim["metadata"]["annotations"][CLASS].is_null();
        if !is(request, "persistentvolumeclaims") || named {
            return Ok(());
        }
        let classes = context.list("storage.k8s.io", "storageclasses", "").await?;
        if let Some(class) = default_of(&classes, &DEFAULT) {
            request.object["spec"]["storageClassName"] = class.into();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::admission::testing::*;

    #[test]
    fn a_claim_without_a_class_gets_the_newest_default() {
        in_world("DefaultStorageClass", async |world| {
            let claim = json!({ "metadata": { "name": "data" }, "spec": {} });
            let admitted = world.create("", "persistentvolumeclaims", claim.clone()).await.unwrap();
            assert!(admitted["spec"]["storageClassName"].is_null());
            for (name, created, default) in [
                ("a", "2026-01-01T00:00:00Z", "true"),
                ("b", "2026-01-02T00:00:00Z", "true"),
                ("c", "2026-01-03T00:00:00Z", "false"),
            ] {
                let annotations = json!({ "storageclass.kubernetes.io/is-default-class": default });
                let class =
                    json!({ "metadata": { "name": name, "creationTimestamp": created, "annotations": annotations } });
                put(&world.storage, "storage.k8s.io", "storageclasses", class).await;
            }
            let admitted = world.create("", "persistentvolumeclaims", claim).await.unwrap();
            assert_eq!(admitted["spec"]["storageClassName"], "b");
            let none = json!({ "metadata": { "name": "data" }, "spec": { "storageClassName": "" } });
            let admitted = world.create("", "persistentvolumeclaims", none).await.unwrap();
            assert_eq!(admitted["spec"]["storageClassName"], "");
        });
    }
}
