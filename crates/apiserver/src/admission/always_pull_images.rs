//! AlwaysPullImages: on a shared node nobody runs another one's private image without having its secret.

use async_trait::async_trait;
use coracle_api::ApiResult;

use super::is;
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};

#[derive(Debug)]
pub(super) struct AlwaysPullImages;

#[async_trait]
impl AdmissionPlugin for AlwaysPullImages {
    fn handles(&self, request: &AdmissionRequest) -> bool {
        request.operation == Operation::Create && is(request, "pods")
    }

    async fn admit(&self, request: &mut AdmissionRequest, _: &AdmissionContext) -> ApiResult<()> {
        for field in ["initContainers", "containers"] {
            for container in
                request.object["spec"].get_mut(field).and_then(serde_json::Value::as_array_mut).into_iter().flatten()
            {
                container["imagePullPolicy"] = "Always".into();
            }
        }
        Ok(())
    }
}
