//! Applying objects as `kubectl apply` does for new ones: what is there stays as people made it.

use anyhow::Context;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, PostParams};
use kube::{Api, Client};
use serde_json::Value;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Creates the objects that are not there.
pub async fn apply(client: &Client, namespace: &str, objects: Vec<Value>) -> anyhow::Result<()> {
    for mut object in objects {
        object["metadata"]["namespace"] = namespace.into();
        if object["metadata"].get("annotations").is_none() {
            object["metadata"]["annotations"] = serde_json::json!({});
        }
        // So that a later `kubectl apply` knows what was applied.
        let applied = format!("{object}\n");
        object["metadata"]["annotations"][LAST_APPLIED] = applied.into();
        let text = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        let object: DynamicObject = serde_json::from_value(object)?;
        let name = object.metadata.name.clone().unwrap_or_default();
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error).with_context(|| format!("{kind} {name}")),
        }
    }
    Ok(())
}
