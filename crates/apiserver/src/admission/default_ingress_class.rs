//! DefaultIngressClass: an Ingress that names no class gets the cluster's default one.

use async_trait::async_trait;
use coracle_api::ApiResult;

use super::default_storage_class::default_of;
use super::is;
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};

const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
const CLASS: &str = "kubernetes.io/ingress.class";

#[derive(Debug)]
pub(super) struct DefaultIngressClass;

#[async_trait]
impl AdmissionPlugin for DefaultIngressClass {
    fn handles(&self, request: &AdmissionRequest) -> bool {
        request.operation == Operation::Create
    }

    async fn admit(&self, request: &mut AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        let ingress = &request.object;
        let named =
            !ingress["spec"]["ingressClassName"].is_null() || !ingress["metadata"]["annotations"][CLASS].is_null();
        if !is(request, "ingresses.networking.k8s.io") || named {
            return Ok(());
        }
        let classes = context.list("networking.k8s.io", "ingressclasses", "").await?;
        if let Some(class) = default_of(&classes, &[DEFAULT]) {
            request.object["spec"]["ingressClassName"] = class.into();
        }
        Ok(())
    }
}
