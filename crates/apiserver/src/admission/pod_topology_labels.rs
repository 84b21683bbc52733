//! PodTopologyLabels: a pod that is bound to a node knows by its labels in which zone and region it is.

use async_trait::async_trait;
use coracle_api::ApiResult;

use super::text;
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};

const LABELS: [&str; 2] = ["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

#[derive(Debug)]
pub(super) struct PodTopologyLabels;

#[async_trait]
impl AdmissionPlugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }

    async fn admit(&self, request: &mut AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        if request.resource.qualified() != "pods" {
            return Ok(());
        }
        let node = match request.subresource.as_str() {
            "" => text(&request.object, "/spec/nodeName"),
            // The binding's labels become the pod's.
            "binding" if request.object["target"]["kind"] == "Node" => text(&request.object, "/target/name"),
            _ => "",
        };
        if node.is_empty() {
            return Ok(());
        }
        let Some(node) = context.storage.get("", "nodes", "", node).await? else { return Ok(()) };
        for label in LABELS {
            let value = &node["metadata"]["labels"][label];
            if !value.is_null() {
                request.object["metadata"]["labels"][label] = value.clone();
            }
        }
        Ok(())
    }
}
