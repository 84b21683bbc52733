//! Priority: turns a pod's `priorityClassName` into the number the scheduler compares.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_api::ApiResult;
use serde_json::Value;

use super::{is, refuse, text};
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};

const GROUP: &str = "scheduling.k8s.io";

#[derive(Debug)]
pub(super) struct Priority;

#[async_trait]
impl AdmissionPlugin for Priority {
    fn handles(&self, request: &AdmissionRequest) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        if !is(request, "pods") || !request.object["spec"].is_object() {
            return Ok(());
        }
        if request.operation == Operation::Update {
            // An updater who leaves the number out wants to keep it.
            for field in ["priority", "preemptionPolicy"] {
                if request.object["spec"][field].is_null() && !request.old_object["spec"][field].is_null() {
                    request.object["spec"][field] = request.old_object["spec"][field].clone();
                }
            }
            return Ok(());
        }
        let name = text(&request.object, "/spec/priorityClassName").to_owned();
        let class = if name.is_empty() {
            default_class(&context.list(GROUP, "priorityclasses", "").await?)
        } else {
            match context.get(GROUP, "priorityclasses", "", &name).await? {
                Some(class) => Some(class),
                None => return Err(refuse(request, format!("no PriorityClass with name {name} was found"))),
            }
        };
        let value = class.as_ref().map_or(0, |class| class["value"].as_i64().unwrap_or(0));
        let policy = class.as_ref().map_or("", |class| text(class, "/preemptionPolicy"));
        let policy = if policy.is_empty() { "PreemptLowerPriority" } else { policy };
        if request.object["spec"]["priority"].as_i64().is_some_and(|given| given != value) {
            let why = format!(
                "the integer value of priority ({}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name",
                request.object["spec"]["priority"]
            );
            return Err(refuse(request, why));
        }
        if request.object["spec"]["preemptionPolicy"].as_str().is_some_and(|given| given != policy) {
            let why = format!(
                "the string value of PreemptionPolicy ({}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name",
                text(&request.object, "/spec/preemptionPolicy")
            );
            return Err(refuse(request, why));
        }
        let spec = &mut request.object["spec"];
        if let (true, Some(class)) = (name.is_empty(), &class) {
            spec["priorityClassName"] = class["metadata"]["name"].clone();
        }
        spec["priority"] = value.into();
        spec["preemptionPolicy"] = policy.into();
        Ok(())
    }

    async fn validate(&self, request: &AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        if !is(request, "priorityclasses.scheduling.k8s.io") || request.object["globalDefault"] != true {
            return Ok(());
        }
        let classes = context.list(GROUP, "priorityclasses", "").await?;
        let name = text(&request.object, "/metadata/name");
        match classes.iter().find(|c| c["globalDefault"] == true && c["metadata"]["name"] != name) {
            None => Ok(()),
            Some(other) => {
                let why = format!(
                    "PriorityClass {} is already marked as default. Only one default can exist",
                    text(other, "/metadata/name")
                );
                Err(refuse(request, why))
            }
        }
    }
}

/// The class of pods that name none. If there are several defaults (made at the same time), the lowest.
fn default_class(classes: &[Arc<Value>]) -> Option<Arc<Value>> {
    let defaults = classes.iter().filter(|class| class["globalDefault"] == true);
    defaults.min_by_key(|class| class["value"].as_i64().unwrap_or(0)).cloned()
}

#[cfg(test)]
mod tests {
    use crate::admission::testing::*;

    #[test]
    fn a_priority_class_becomes_a_number() {
        in_world("Priority", async |world| {
            let class = |name: &str, value: i64, default: bool| json!({ "metadata": { "name": name }, "value": value, "globalDefault": default });
            put(&world.storage, "scheduling.k8s.io", "priorityclasses", class("high", 1000, false)).await;
            let admit = async |spec: Value| world.create("", "pods", pod(spec)).await;
            assert_eq!(admit(json!({})).await.unwrap()["spec"]["priority"], 0);
            assert_eq!(admit(json!({ "priorityClassName": "high" })).await.unwrap()["spec"]["priority"], 1000);
            assert_eq!(
                admit(json!({ "priorityClassName": "none" })).await.unwrap_err(),
                "pods \"web\" is forbidden: no PriorityClass with name none was found"
            );
            assert!(
                admit(json!({ "priorityClassName": "high", "priority": 5 }))
                    .await
                    .unwrap_err()
                    .contains("computed 1000")
            );
            put(&world.storage, "scheduling.k8s.io", "priorityclasses", class("usual", 7, true)).await;
            assert_eq!(admit(json!({})).await.unwrap()["spec"]["priorityClassName"], "usual");
            let second = world.create("scheduling.k8s.io", "priorityclasses", class("other", 1, true)).await;
            assert!(second.unwrap_err().contains("Only one default can exist"));
        });
    }
}
