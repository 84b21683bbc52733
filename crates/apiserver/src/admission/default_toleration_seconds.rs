//! DefaultTolerationSeconds: pods stay on a node that is not ready or unreachable for five minutes, unless
//! they say otherwise.

use async_trait::async_trait;
use coracle_api::ApiResult;
use serde_json::{Value, json};

use super::{is, items, list_mut, text};
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};

const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
const SECONDS: i64 = 300;

#[derive(Debug)]
pub(super) struct DefaultTolerationSeconds;

fn tolerates(toleration: &Value, taint: &str) -> bool {
    let (key, effect) = (text(toleration, "/key"), text(toleration, "/effect"));
    (key.is_empty() || key == taint) && (effect.is_empty() || effect == "NoExecute")
}

#[async_trait]
impl AdmissionPlugin for DefaultTolerationSeconds {
    fn handles(&self, request: &AdmissionRequest) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update) && is(request, "pods")
    }

    async fn admit(&self, request: &mut AdmissionRequest, _: &AdmissionContext) -> ApiResult<()> {
        if !request.object["spec"].is_object() {
            return Ok(());
        }
        let spec = &mut request.object["spec"];
        for taint in TAINTS {
            if items(&spec["tolerations"]).any(|toleration| tolerates(toleration, taint)) {
                continue;
            }
            if let Some(tolerations) = list_mut(spec, "tolerations") {
                tolerations.push(json!({
                    "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
                }));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::admission::testing::*;

    #[test]
    fn pods_tolerate_an_absent_node_for_five_minutes_unless_they_say_otherwise() {
        in_world("DefaultTolerationSeconds", async |world| {
            let admitted = world.create("", "pods", pod(json!({}))).await.unwrap();
            let keys: Vec<&str> = items(&admitted["spec"]["tolerations"]).map(|t| text(t, "/key")).collect();
            assert_eq!(keys, ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]);
            let own = json!([{ "operator": "Exists" }]);
            let admitted = world.create("", "pods", pod(json!({ "tolerations": own }))).await.unwrap();
            assert_eq!(admitted["spec"]["tolerations"], own);
        });
    }
}
