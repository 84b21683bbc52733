//! NamespaceLifecycle: nothing is made in a namespace that does not exist or is on its way out, and the
//! system's own namespaces stay.

use async_trait::async_trait;
use coracle_api::{ApiError, ApiResult};
use serde_json::json;

use super::{refuse, text};
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};

/// Namespaces that may not be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

#[derive(Debug)]
pub(super) struct NamespaceLifecycle;

#[async_trait]
impl AdmissionPlugin for NamespaceLifecycle {
    fn handles(&self, request: &AdmissionRequest) -> bool {
        request.operation != Operation::Connect
    }

    async fn admit(&self, request: &mut AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        if request.resource.qualified() == "namespaces" {
            let immortal = request.operation == Operation::Delete && IMMORTAL.contains(&request.name.as_str());
            return if immortal { Err(refuse(request, "this namespace may not be deleted")) } else { Ok(()) };
        }
        // Whatever is there may be changed and deleted, or a namespace could never be emptied. Reviews ask only.
        let making = request.operation == Operation::Create && request.resource.stored;
        if !request.resource.namespaced() || !making {
            return Ok(());
        }
        let name = request.namespace.as_str();
        let Some(namespace) = context.get("", "namespaces", "", name).await? else {
            return Err(ApiError::not_found("", "namespaces", name));
        };
        if text(&namespace, "/metadata/deletionTimestamp").is_empty() && namespace["status"]["phase"] != "Terminating" {
            return Ok(());
        }
        let why = format!("unable to create new content in namespace {name} because it is being terminated");
        let mut error = refuse(request, why);
        error.details["causes"] = json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {name} is being terminated"),
            "field": "metadata.namespace",
        }]);
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use crate::admission::testing::*;

    #[test]
    fn nothing_is_made_in_a_namespace_that_is_missing_or_going() {
        in_world("NamespaceLifecycle", async |world| {
            world.create("", "pods", pod(json!({}))).await.unwrap();
            let going = json!({ "metadata": { "name": "default", "deletionTimestamp": "2026-01-01T00:00:00Z" } });
            put(&world.storage, "", "namespaces", going).await;
            let request = world.request(Operation::Create, "", "pods", pod(json!({})));
            let error = world.run(request).await.unwrap_err();
            assert_eq!(
                error.message,
                "pods \"web\" is forbidden: unable to create new content in namespace default because it is being terminated"
            );
            assert_eq!(error.details["causes"][0]["reason"], "NamespaceTerminating");
            let mut request = world.request(Operation::Create, "", "pods", pod(json!({})));
            request.namespace = "nowhere".into();
            let error = world.run(request).await.unwrap_err();
            assert_eq!((error.code, error.message.as_str()), (404, "namespaces \"nowhere\" not found"));
        });
    }

    #[test]
    fn the_systems_namespaces_stay() {
        in_world("NamespaceLifecycle", async |world| {
            for name in ["default", "kube-system", "kube-public"] {
                let message = world.delete("namespaces", name).await.unwrap_err();
                assert_eq!(message, format!("namespaces {name:?} is forbidden: this namespace may not be deleted"));
            }
            world.delete("namespaces", "mine").await.unwrap();
        });
    }
}
