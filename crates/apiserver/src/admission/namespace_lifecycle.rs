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
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
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
        let Some(namespace) = context.storage.get("", "namespaces", "", name).await? else {
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
