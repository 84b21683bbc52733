//! Admission: runs the plugins over a write.

use coracle_api::ApiResult;
use serde_json::Value;

use super::Call;
use crate::hooks::{AdmissionContext, AdmissionRequest, Operation};

impl Call {
    /// What the plugins get to see; objects are filled in by the caller.
    pub(super) fn admission(&self, operation: Operation, subresource: &str, name: &str) -> AdmissionRequest {
        AdmissionRequest {
            operation,
            resource: self.row.resource.clone(),
            subresource: subresource.to_owned(),
            namespace: self.info.namespace.clone(),
            name: name.to_owned(),
            object: Value::Null,
            old_object: Value::Null,
            user: self.user.clone(),
            dry_run: self.options.dry_run,
            options: Value::Null,
            warnings: Vec::new(),
        }
    }

    fn context(&self) -> AdmissionContext {
        AdmissionContext { storage: self.server.config.storage.clone(), authorizer: self.server.clone() }
    }

    /// The plugins that may change the object.
    pub(super) async fn admit(&self, request: &mut AdmissionRequest) -> ApiResult<()> {
        let context = self.context();
        for plugin in &self.server.config.admission {
            if plugin.handles(request.operation) {
                plugin.admit(request, &context).await?;
            }
        }
        Ok(())
    }

    /// The plugins that judge the final object.
    pub(super) async fn admit_final(&self, request: &AdmissionRequest) -> ApiResult<()> {
        let context = self.context();
        for plugin in &self.server.config.admission {
            if plugin.handles(request.operation) {
                plugin.validate(request, &context).await?;
            }
        }
        Ok(())
    }
}
