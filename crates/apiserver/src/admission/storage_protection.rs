//! StorageObjectInUseProtection: volumes, claims and VolumeAttributesClasses are not gone while something uses them. The
//! finalizers put here are taken off by the protection controllers.

use async_trait::async_trait;
use coracle_api::ApiResult;

use super::{is, list_mut};
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};

#[derive(Debug)]
pub(super) struct StorageObjectInUseProtection;

#[async_trait]
impl AdmissionPlugin for StorageObjectInUseProtection {
    fn handles(&self, request: &AdmissionRequest) -> bool {
        request.operation == Operation::Create
    }

    async fn admit(&self, request: &mut AdmissionRequest, _: &AdmissionContext) -> ApiResult<()> {
        let finalizer = match () {
            () if is(request, "persistentvolumeclaims") => "kubernetes.io/pvc-protection",
            () if is(request, "persistentvolumes") => "kubernetes.io/pv-protection",
            () if is(request, "volumeattributesclasses.storage.k8s.io") => "kubernetes.io/vac-protection",
            () => return Ok(()),
        };
        if let Some(finalizers) = list_mut(&mut request.object["metadata"], "finalizers")
            && !finalizers.iter().any(|item| item == finalizer)
        {
            finalizers.push(finalizer.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::admission::testing::*;

    #[test]
    fn what_storage_is_made_of_is_protected_while_in_use() {
        in_world("StorageObjectInUseProtection", async |world| {
            for (group, plural, finalizer) in [
                ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
                ("", "persistentvolumes", "kubernetes.io/pv-protection"),
                ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
            ] {
                let object = json!({ "metadata": { "name": "x" } });
                let admitted = world.create(group, plural, object).await.unwrap();
                assert_eq!(admitted["metadata"]["finalizers"], json!([finalizer]));
            }
        });
    }
}
