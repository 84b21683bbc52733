//! LimitRanger: a namespace's LimitRanges give containers their default requests and limits, and say
//! how small and how large pods, containers and claims may be.

use std::collections::BTreeSet;

use async_trait::async_trait;
use coracle_api::ApiResult;
use coracle_api::quantity::Quantity;
use serde_json::{Value, json};

use super::{is, items, refuse, text};
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};

#[derive(Debug)]
pub(super) struct LimitRanger;

async fn limits(request: &AdmissionRequest, context: &AdmissionContext) -> ApiResult<Vec<Value>> {
    let ranges = context.storage.list("", "limitranges", &request.namespace).await?;
    Ok(ranges.iter().flat_map(|range| items(&range["spec"]["limits"]).cloned()).collect())
}

#[async_trait]
impl AdmissionPlugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        if is(request, "pods") && request.operation == Operation::Create {
            let limits = limits(request, context).await?;
            give_defaults(&mut request.object, &limits);
        }
        Ok(())
    }

    async fn validate(&self, request: &AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        let pod = is(request, "pods") && request.operation == Operation::Create;
        let claim = is(request, "persistentvolumeclaims");
        if !pod && !claim {
            return Ok(());
        }
        let mut complaints = Vec::new();
        for limit in limits(request, context).await? {
            match text(&limit, "/type") {
                "Container" if pod => {
                    for field in ["initContainers", "containers"] {
                        for container in items(&request.object["spec"][field]) {
                            check(&limit, "Container", &container["resources"], &mut complaints);
                        }
                    }
                }
                "Pod" if pod => check(&limit, "Pod", &pod_resources(&request.object["spec"]), &mut complaints),
                "PersistentVolumeClaim" if claim => {
                    check(&limit, "PersistentVolumeClaim", &request.object["spec"]["resources"], &mut complaints);
                }
                _ => {}
            }
        }
        match complaints.as_slice() {
            [] => Ok(()),
            [one] => Err(refuse(request, one)),
            several => Err(refuse(request, format!("[{}]", several.join(", ")))),
        }
    }
}

fn amount(value: &Value) -> Option<Quantity> {
    if value.is_null() { None } else { Quantity::from_json(value).ok() }
}

fn keys(value: &Value) -> impl Iterator<Item = &String> {
    value.as_object().into_iter().flatten().map(|(key, _)| key)
}

/// Gives containers the defaults of the ranges, and notes in an annotation which.
fn give_defaults(pod: &mut Value, limits: &[Value]) {
    let mut notes = Vec::new();
    for limit in limits.iter().filter(|limit| limit["type"] == "Container") {
        for (field, noun) in [("containers", "container"), ("initContainers", "init container")] {
            for container in pod["spec"].get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
                let mut given = |kind: &str, defaults: &Value| {
                    let mut set = Vec::new();
                    for (key, value) in defaults.as_object().into_iter().flatten() {
                        if container["resources"][kind][key].is_null() {
                            if !container["resources"].is_object() {
                                container["resources"] = json!({});
                            }
                            container["resources"][kind][key] = value.clone();
                            set.push(key.clone());
                        }
                    }
                    if !set.is_empty() {
                        let (word, name) = (kind.trim_end_matches('s'), text(container, "/name"));
                        notes.push(format!("{} {word} for {noun} {name}", set.join(", ")));
                    }
                };
                given("requests", &limit["defaultRequest"]);
                given("limits", &limit["default"]);
            }
        }
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"] = note.into();
    }
}

/// What a pod asks for as a whole: the sum of its containers, or more if an init container needs more.
fn pod_resources(spec: &Value) -> Value {
    let mut total = json!({});
    for kind in ["requests", "limits"] {
        let all = items(&spec["containers"]).chain(items(&spec["initContainers"]));
        let names: BTreeSet<String> = all.flat_map(|c| keys(&c["resources"][kind]).cloned()).collect();
        for name in names {
            let of = |container: &Value| amount(&container["resources"][kind][&name]).unwrap_or(Quantity::ZERO);
            let restartable = |c: &&Value| c["restartPolicy"] == "Always";
            let sum: Quantity =
                items(&spec["containers"]).chain(items(&spec["initContainers"]).filter(restartable)).map(of).sum();
            let largest = items(&spec["initContainers"]).map(of).max().unwrap_or(Quantity::ZERO);
            total[kind][&name] = sum.max(largest).to_string().into();
        }
    }
    total
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
        match (request, upper) {
            (Some(r), _) if r > max => {
                complaints.push(format!("maximum {name} usage per {kind} is {max}, but request is {r}"))
            }
            // A claim has no limits: its request is all there is.
            _ if claim => {}
            (_, None) => complaints.push(format!("maximum {name} usage per {kind} is {max}.  No limit is specified")),
            (_, Some(l)) if l > max => {
                complaints.push(format!("maximum {name} usage per {kind} is {max}, but limit is {l}"))
            }
            _ => {}
        }
    }
    for name in keys(&limit["maxLimitRequestRatio"]) {
        let Some(ratio) = amount(&limit["maxLimitRequestRatio"][name]) else { continue };
        let (request, upper) = (amount(&resources["requests"][name]), amount(&resources["limits"][name]));
        match (request, upper) {
            (Some(r), Some(l)) if !r.is_zero() => {
                let actual = l.to_f64() / r.to_f64();
                if actual > ratio.to_f64() {
                    complaints.push(format!(
                        "{name} max limit to request ratio per {kind} is {ratio}, but provided ratio is {actual:.6}"
                    ));
                }
            }
            _ => complaints.push(format!(
                "{name} max limit to request ratio per {kind} is {ratio}, but no request is specified or request is 0"
            )),
        }
    }
}
