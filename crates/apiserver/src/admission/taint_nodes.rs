//! TaintNodesByCondition: a new node takes no pods until it has been seen ready; the node lifecycle
//! controller takes the taint off.

use async_trait::async_trait;
use coracle_api::ApiResult;
use serde_json::json;

use super::{is, list_mut};
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

#[derive(Debug)]
pub(super) struct TaintNodesByCondition;

#[async_trait]
impl AdmissionPlugin for TaintNodesByCondition {
    fn handles(&self, request: &AdmissionRequest) -> bool {
        request.operation == Operation::Create && is(request, "nodes")
    }

    async fn admit(&self, request: &mut AdmissionRequest, _: &AdmissionContext) -> ApiResult<()> {
        if !request.object["spec"].is_object() {
            request.object["spec"] = json!({});
        }
        if let Some(taints) = list_mut(&mut request.object["spec"], "taints")
            && !taints.iter().any(|taint| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule")
        {
            taints.push(json!({ "key": NOT_READY, "effect": "NoSchedule" }));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::admission::testing::*;

    #[test]
    fn a_new_node_takes_no_pods_until_it_is_ready() {
        in_world("TaintNodesByCondition", async |world| {
            let node = json!({ "metadata": { "name": "n1" } });
            let admitted = world.create("", "nodes", node).await.unwrap();
            assert_eq!(
                admitted["spec"]["taints"],
                json!([{ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" }])
            );
        });
    }
}
