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
    fn handles(&self, request: &AdmissionRequest) -> bool {
        request.operation == Operation::Create && request.resource.qualified() == "pods"
    }

    async fn admit(&self, request: &mut AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        let node = match request.subresource.as_str() {
            "" => text(&request.object, "/spec/nodeName"),
            // The binding's labels become the pod's.
            "binding" if request.object["target"]["kind"] == "Node" => text(&request.object, "/target/name"),
            _ => "",
        };
        if node.is_empty() {
            return Ok(());
        }
        let Some(labels) = context.labels("", "nodes", "", node).await? else { return Ok(()) };
        for label in LABELS {
            if let Some(value) = labels.get(label) {
                request.object["metadata"]["labels"][label] = value.as_str().into();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::admission::testing::*;

    #[test]
    fn a_pod_that_is_bound_learns_its_nodes_zone_and_region() {
        in_world("PodTopologyLabels", async |world| {
            let labels =
                json!({ "topology.kubernetes.io/zone": "a", "topology.kubernetes.io/region": "r", "other": "x" });
            put(&world.storage, "", "nodes", json!({ "metadata": { "name": "n1", "labels": labels } })).await;
            let bind = async |target: Value| {
                let object = json!({ "metadata": { "name": "web", "labels": { "topology.kubernetes.io/zone": "mine", "a": "b" } }, "target": target });
                let mut request = world.request(Operation::Create, "", "pods", object);
                request.subresource = "binding".into();
                world.run(request).await.unwrap().object["metadata"]["labels"].take()
            };
            let expected =
                json!({ "topology.kubernetes.io/zone": "a", "topology.kubernetes.io/region": "r", "a": "b" });
            assert_eq!(bind(json!({ "kind": "Node", "name": "n1" })).await, expected);
            let unknown = bind(json!({ "kind": "Node", "name": "n2" })).await;
            assert_eq!(unknown, json!({ "topology.kubernetes.io/zone": "mine", "a": "b" }));
            let made = world.create("", "pods", pod(json!({ "nodeName": "n1" }))).await.unwrap();
            assert_eq!(made["metadata"]["labels"]["topology.kubernetes.io/zone"], "a");
        });
    }
}
