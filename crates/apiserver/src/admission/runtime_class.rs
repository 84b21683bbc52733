//! RuntimeClass: a pod of a class gets the class's overhead and the nodes that can run it.

use async_trait::async_trait;
use coracle_api::ApiResult;
use coracle_api::quota::amounts;
use serde_json::{Value, json};

use super::{is, items, list_mut, refuse, text};
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

#[derive(Debug)]
pub(super) struct RuntimeClass;

#[async_trait]
impl AdmissionPlugin for RuntimeClass {
    fn handles(&self, request: &AdmissionRequest) -> bool {
        request.operation == Operation::Create && is(request, "pods")
    }

    async fn admit(&self, request: &mut AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        let name = text(&request.object, "/spec/runtimeClassName").to_owned();
        if name.is_empty() {
            return Ok(());
        }
        let Some(class) = context.get("node.k8s.io", "runtimeclasses", "", &name).await? else {
            return Err(refuse(request, format!("pod rejected: RuntimeClass {name:?} not found")));
        };
        let overhead = &class["overhead"]["podFixed"];
        let given = &request.object["spec"]["overhead"];
        if !overhead.is_null() {
            if !given.is_null() && amounts(given) != amounts(overhead) {
                return Err(refuse(request, MISMATCH));
            }
            request.object["spec"]["overhead"] = overhead.clone();
        }
        for (key, value) in class["scheduling"]["nodeSelector"].as_object().into_iter().flatten() {
            let there = &request.object["spec"]["nodeSelector"][key];
            if !there.is_null() && there != value {
                let why = format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    value.as_str().unwrap_or_default(),
                    there.as_str().unwrap_or_default()
                );
                return Err(refuse(request, why));
            }
            let spec = &mut request.object["spec"];
            if !spec["nodeSelector"].is_object() {
                spec["nodeSelector"] = json!({});
            }
            spec["nodeSelector"][key] = value.clone();
        }
        for toleration in items(&class["scheduling"]["tolerations"]) {
            if let Some(tolerations) = list_mut(&mut request.object["spec"], "tolerations")
                && !tolerations.contains(toleration)
            {
                tolerations.push(toleration.clone());
            }
        }
        Ok(())
    }

    async fn validate(&self, request: &AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        let name = text(&request.object, "/spec/runtimeClassName");
        let class = match name {
            "" => None,
            name => context.get("node.k8s.io", "runtimeclasses", "", name).await?,
        };
        let defined = class.as_ref().map_or(&Value::Null, |class| &class["overhead"]["podFixed"]);
        let given = &request.object["spec"]["overhead"];
        match defined.is_null() {
            true if given.is_null() => Ok(()),
            true => Err(refuse(
                request,
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            )),
            false if amounts(given) == amounts(defined) => Ok(()),
            false => Err(refuse(request, MISMATCH)),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::admission::testing::*;

    #[test]
    fn a_pod_of_a_runtime_class_gets_its_overhead_and_its_nodes() {
        in_world("RuntimeClass", async |world| {
            let admit = async || world.create("", "pods", pod(json!({ "runtimeClassName": "vm" }))).await;
            assert_eq!(
                admit().await.unwrap_err(),
                "pods \"web\" is forbidden: pod rejected: RuntimeClass \"vm\" not found"
            );
            let class = json!({ "metadata": { "name": "vm" }, "handler": "vm", "overhead": { "podFixed": { "cpu": "1" } },
                "scheduling": { "nodeSelector": { "vm": "yes" } } });
            put(&world.storage, "node.k8s.io", "runtimeclasses", class).await;
            let admitted = admit().await.unwrap();
            assert_eq!(admitted["spec"]["overhead"], json!({ "cpu": "1" }));
            assert_eq!(admitted["spec"]["nodeSelector"], json!({ "vm": "yes" }));
            let heavy = |spec: Value| async { world.create("", "pods", pod(spec)).await.unwrap_err() };
            assert!(
                heavy(json!({ "overhead": { "cpu": "1" } }))
                    .await
                    .ends_with("Pod Overhead set without corresponding RuntimeClass defined Overhead")
            );
            assert!(heavy(json!({ "runtimeClassName": "vm", "nodeSelector": { "vm": "no" } })).await.ends_with(
                "is forbidden: conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no"
            ));
        });
    }
}
