//! LimitRanger: a namespace's LimitRanges give containers their default requests and limits, and say
//! how small and how large pods, containers and claims may be.

use std::collections::BTreeSet;

use async_trait::async_trait;
use coracle_api::ApiResult;
use coracle_api::quantity::Quantity;
use coracle_api::quota::pod_total;
use serde_json::{Value, json};

use super::{items, refuse, text};
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};

#[derive(Debug)]
pub(super) struct LimitRanger;

/// What the plugin has to do with a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subject {
    Pod,
    Claim,
}

/// Pods when they are made or resized, claims always; nothing that is on its way out.
fn subject(request: &AdmissionRequest) -> Option<Subject> {
    if !text(&request.old_object, "/metadata/deletionTimestamp").is_empty() {
        return None;
    }
    let created = request.operation == Operation::Create;
    match (request.resource.qualified().as_str(), request.subresource.as_str()) {
        ("pods", "") if created => Some(Subject::Pod),
        ("pods", "resize") if !created => Some(Subject::Pod),
        ("persistentvolumeclaims", "") => Some(Subject::Claim),
        _ => None,
    }
}

#[async_trait]
impl AdmissionPlugin for LimitRanger {
    fn handles(&self, request: &AdmissionRequest) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        if subject(request) == Some(Subject::Pod) {
            for range in context.list("", "limitranges", &request.namespace).await? {
                give_defaults(&mut request.object, &range);
            }
        }
        Ok(())
    }

    async fn validate(&self, request: &AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        let Some(subject) = subject(request) else { return Ok(()) };
        for range in context.list("", "limitranges", &request.namespace).await? {
            let mut complaints = Vec::new();
            for limit in items(&range["spec"]["limits"]) {
                match (text(limit, "/type"), subject) {
                    ("Container", Subject::Pod) => {
                        for field in ["containers", "initContainers"] {
                            for container in items(&request.object["spec"][field]) {
                                check(limit, "Container", &container["resources"], &mut complaints);
                            }
                        }
                    }
                    ("Pod", Subject::Pod) => {
                        check(limit, "Pod", &pod_resources(&request.object["spec"]), &mut complaints);
                    }
                    ("PersistentVolumeClaim", Subject::Claim) => {
                        check(limit, "PersistentVolumeClaim", &request.object["spec"]["resources"], &mut complaints);
                    }
                    _ => {}
                }
            }
            // As Go prints several errors: each once.
            let mut seen = BTreeSet::new();
            complaints.retain(|complaint| seen.insert(complaint.clone()));
            match complaints.as_slice() {
                [] => {}
                [one] => return Err(refuse(request, one)),
                several => return Err(refuse(request, format!("[{}]", several.join(", ")))),
            }
        }
        Ok(())
    }
}

fn amount(value: &Value) -> Option<Quantity> {
    if value.is_null() { None } else { Quantity::from_json(value).ok() }
}

fn keys(value: &Value) -> impl Iterator<Item = &String> {
    value.as_object().into_iter().flatten().map(|(key, _)| key)
}

/// Gives containers the defaults of a range, and notes in an annotation which.
fn give_defaults(pod: &mut Value, range: &Value) {
    let mut notes = Vec::new();
    let mut defaults = [("requests", json!({})), ("limits", json!({}))];
    for limit in items(&range["spec"]["limits"]).filter(|limit| limit["type"] == "Container") {
        for ((_, amounts), field) in defaults.iter_mut().zip(["defaultRequest", "default"]) {
            let given = limit[field].as_object().into_iter().flatten();
            given.for_each(|(key, value)| amounts[key] = value.clone());
        }
    }
    for (field, noun) in [("containers", "container"), ("initContainers", "init container")] {
        for container in pod["spec"].get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            for (kind, amounts) in &defaults {
                let mut set = Vec::new();
                for (key, value) in amounts.as_object().into_iter().flatten() {
                    if container["resources"][kind][key].is_null() {
                        if !container["resources"].is_object() {
                            container["resources"] = json!({});
                        }
                        container["resources"][kind][key] = value.clone();
                        set.push(key.as_str());
                    }
                }
                if !set.is_empty() {
                    set.sort_unstable();
                    let (word, name) = (kind.trim_end_matches('s'), text(container, "/name"));
                    notes.push(format!("{} {word} for {noun} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"] = note.into();
    }
}

/// What a pod asks for as a whole.
fn pod_resources(spec: &Value) -> Value {
    let mut plain = spec.clone();
    if let Some(spec) = plain.as_object_mut() {
        spec.remove("overhead");
    }
    let of =
        |kind| pod_total(&plain, kind).iter().map(|(name, amount)| (name.clone(), json!(amount.to_string()))).collect();
    let (requests, limits): (Value, Value) = (of("requests"), of("limits"));
    json!({ "requests": requests, "limits": limits })
}

/// Holds requests and limits against one limit of a range.
fn check(limit: &Value, kind: &str, resources: &Value, complaints: &mut Vec<String>) {
    let claim = kind == "PersistentVolumeClaim";
    for name in keys(&limit["min"]) {
        let Some(min) = amount(&limit["min"][name]) else { continue };
        let (request, max) = (amount(&resources["requests"][name]), amount(&resources["limits"][name]));
        match (request, max) {
            (None, _) => complaints.push(format!("minimum {name} usage per {kind} is {min}.  No request is specified")),
            (Some(r), _) if r < min => {
                complaints.push(format!("minimum {name} usage per {kind} is {min}, but request is {r}"))
            }
            (_, Some(l)) if l < min => {
                complaints.push(format!("minimum {name} usage per {kind} is {min}, but limit is {l}"))
            }
            _ => {}
        }
    }
    for name in keys(&limit["max"]) {
        let Some(max) = amount(&limit["max"][name]) else { continue };
        let (request, upper) = (amount(&resources["requests"][name]), amount(&resources["limits"][name]));
        let usage = format!("maximum {name} usage per {kind} is {max}");
        match (request, upper) {
            // A claim has no limits: its request is all there is.
            (None, _) if claim => complaints.push(format!("{usage}.  No request is specified")),
            (_, None) if !claim => complaints.push(format!("{usage}.  No limit is specified")),
            (_, Some(l)) if !claim && l > max => complaints.push(format!("{usage}, but limit is {l}")),
            (Some(r), _) if r > max => complaints.push(format!("{usage}, but request is {r}")),
            _ => {}
        }
    }
    for name in keys(&limit["maxLimitRequestRatio"]) {
        let Some(ratio) = amount(&limit["maxLimitRequestRatio"][name]) else { continue };
        let (request, upper) = (amount(&resources["requests"][name]), amount(&resources["limits"][name]));
        let most = format!("{name} max limit to request ratio per {kind} is {ratio}");
        let given = |amount: &Quantity| !amount.is_zero();
        match (request.filter(given), upper.filter(given)) {
            (None, _) => complaints.push(format!("{most}, but no request is specified or request is 0")),
            (_, None) => complaints.push(format!("{most}, but no limit is specified or limit is 0")),
            (Some(r), Some(l)) => {
                let actual = l.to_f64() / r.to_f64();
                if actual > ratio.to_f64() {
                    complaints.push(format!("{most}, but provided ratio is {actual:.6}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::admission::testing::*;

    #[test]
    fn limits_are_told_in_upstreams_order_and_words() {
        in_simulation(async || {
            for (limit, resources, refused) in [
                (
                    json!({ "max": { "cpu": "1" } }),
                    json!({ "requests": { "cpu": "2" } }),
                    "maximum cpu usage per Container is 1.  No limit is specified",
                ),
                (
                    json!({ "max": { "cpu": "1" } }),
                    json!({ "requests": { "cpu": "2" }, "limits": { "cpu": "3" } }),
                    "maximum cpu usage per Container is 1, but limit is 3",
                ),
                (
                    json!({ "min": { "cpu": "1" } }),
                    json!({ "limits": { "cpu": "2" } }),
                    "minimum cpu usage per Container is 1.  No request is specified",
                ),
                (
                    json!({ "maxLimitRequestRatio": { "cpu": "2" } }),
                    json!({ "limits": { "cpu": "2" } }),
                    "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0",
                ),
                (
                    json!({ "maxLimitRequestRatio": { "cpu": "2" } }),
                    json!({ "requests": { "cpu": "2" } }),
                    "cpu max limit to request ratio per Container is 2, but no limit is specified or limit is 0",
                ),
                (
                    json!({ "maxLimitRequestRatio": { "cpu": "2" } }),
                    json!({ "requests": { "cpu": "1" }, "limits": { "cpu": "3" } }),
                    "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
                ),
            ] {
                let world = World::new("LimitRanger").await;
                let mut limit = limit;
                limit["type"] = "Container".into();
                let range =
                    json!({ "metadata": { "name": "l", "namespace": "default" }, "spec": { "limits": [limit] } });
                put(&world.storage, "", "limitranges", range).await;
                let pod = pod(json!({ "containers": [{ "name": "c", "resources": resources }] }));
                let mut resize = world.request(Operation::Update, "", "pods", pod.clone());
                (resize.old_object, resize.subresource) = (pod.clone(), "resize".into());
                let mut going = resize.clone();
                going.old_object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
                let told = format!("pods \"web\" is forbidden: {refused}");
                assert_eq!(world.create("", "pods", pod).await.unwrap_err(), told);
                assert_eq!(world.run(resize).await.unwrap_err().message, told);
                world.run(going).await.unwrap();
            }
        });
    }

    #[test]
    fn limit_ranges_give_defaults_and_refuse_what_is_too_small_or_too_large() {
        in_world("LimitRanger", async |world| {
            let range = json!({ "metadata": { "name": "limits", "namespace": "default" }, "spec": { "limits": [{
                "type": "Container",
                "defaultRequest": { "cpu": "100m" }, "default": { "cpu": "500m" },
                "min": { "cpu": "50m" }, "max": { "cpu": "1" },
            }] } });
            put(&world.storage, "", "limitranges", range).await;
            let admit = async |resources: Value| {
                let pod = pod(json!({ "containers": [{ "name": "c", "resources": resources }] }));
                world.create("", "pods", pod).await
            };
            let admitted = admit(json!({})).await.unwrap();
            assert_eq!(
                admitted["spec"]["containers"][0]["resources"],
                json!({ "requests": { "cpu": "100m" }, "limits": { "cpu": "500m" } })
            );
            assert_eq!(
                admitted["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
                "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
            );
            assert_eq!(
                admit(json!({ "requests": { "cpu": "10m" }, "limits": { "cpu": "2" } })).await.unwrap_err(),
                "pods \"web\" is forbidden: [minimum cpu usage per Container is 50m, but request is 10m, maximum cpu usage per Container is 1, but limit is 2]"
            );
        });
    }
}
