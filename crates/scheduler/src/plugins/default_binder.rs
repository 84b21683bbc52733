//! DefaultBinder: writes the decision as a Binding; the API server sets `spec.nodeName` by it.

use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;
use serde_json::Value;

use crate::framework::{Placement, Plugin, Point, Work};

#[derive(Debug)]
pub(super) struct DefaultBinder;

impl Plugin for DefaultBinder {
    fn name(&self) -> &'static str {
        "DefaultBinder"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Bind]
    }

    fn bind(&self, placement: &Placement) -> Option<Work<anyhow::Result<()>>> {
        let key = placement.pod.key.clone();
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(key.name.clone()),
                namespace: Some(key.namespace.clone()),
                // Not another pod of the same name.
                uid: placement.pod.pod.metadata.uid.clone(),
                ..Default::default()
            },
            target: ObjectReference {
                kind: Some("Node".into()),
                name: Some(placement.node.clone()),
                ..Default::default()
            },
        };
        let api: Api<Pod> = Api::namespaced(placement.client.clone(), &key.namespace);
        Some(Box::pin(async move {
            let _: Value = api.create_subresource("binding", &key.name, &PostParams::default(), &binding).await?;
            Ok(())
        }))
    }
}
