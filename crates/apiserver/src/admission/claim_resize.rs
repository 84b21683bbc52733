//! PersistentVolumeClaimResize: a claim may only grow where its class says that volumes can.

use async_trait::async_trait;
use coracle_api::ApiResult;
use coracle_api::quantity::Quantity;
use serde_json::Value;

use super::default_storage_class::CLASS;
use super::{is, refuse, text};
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};

#[derive(Debug)]
pub(super) struct PersistentVolumeClaimResize;

fn size(claim: &Value) -> Option<Quantity> {
    let size = &claim["spec"]["resources"]["requests"]["storage"];
    if size.is_null() { None } else { Quantity::from_json(size).ok() }
}

fn class_of(claim: &Value) -> &str {
    let annotation = &claim["metadata"]["annotations"][CLASS];
    annotation.as_str().unwrap_or_else(|| text(claim, "/spec/storageClassName"))
}

#[async_trait]
impl AdmissionPlugin for PersistentVolumeClaimResize {
    fn handles(&self, request: &AdmissionRequest) -> bool {
        request.operation == Operation::Update
    }

    async fn validate(&self, request: &AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        // Smaller is for validation to refuse.
        if !is(request, "persistentvolumeclaims") || size(&request.object) <= size(&request.old_object) {
            return Ok(());
        }
        if request.old_object["status"]["phase"] != "Bound" {
            return Err(refuse(request, "Only bound persistent volume claims can be expanded"));
        }
        let name = class_of(&request.object);
        let class = match name == class_of(&request.old_object) && !name.is_empty() {
            true => context.get("storage.k8s.io", "storageclasses", "", name).await?,
            false => None,
        };
        if class.is_some_and(|class| class["allowVolumeExpansion"] == true) {
            return Ok(());
        }
        let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
        Err(refuse(request, why))
    }
}

#[cfg(test)]
mod tests {
    use crate::admission::testing::*;

    #[test]
    fn a_claim_grows_only_where_its_class_lets_it() {
        in_world("PersistentVolumeClaimResize", async |world| {
            let claim = |size: &str, phase: &str| {
                json!({ "metadata": { "name": "data" }, "status": { "phase": phase },
                    "spec": { "storageClassName": "c", "resources": { "requests": { "storage": size } } } })
            };
            let grow = async |from: Value, to: &str| {
                let mut request = world.request(Operation::Update, "", "persistentvolumeclaims", claim(to, "Bound"));
                request.old_object = from;
                world.run(request).await.map(|_| ()).map_err(|e| e.message)
            };
            grow(claim("1Gi", "Bound"), "1Gi").await.unwrap();
            assert!(grow(claim("1Gi", "Bound"), "2Gi").await.unwrap_err().contains("must support resize"));
            let class = json!({ "metadata": { "name": "c" }, "allowVolumeExpansion": true });
            put(&world.storage, "storage.k8s.io", "storageclasses", class).await;
            grow(claim("1Gi", "Bound"), "2Gi").await.unwrap();
            assert!(
                grow(claim("1Gi", "Pending"), "2Gi").await.unwrap_err().contains("Only bound persistent volume claims")
            );
        });
    }
}
