//! MutatingAdmissionPolicy: changes objects by apply configurations and JSON patches that expressions make.

use async_trait::async_trait;
use coracle_api::managed_fields;
use coracle_api::{ApiError, ApiResult, Resource, patch};
use coracle_cel::admission::{Budget, Match, Request};
use coracle_cel::{MATCH_CONDITIONS_BUDGET, RUNTIME_COST_BUDGET};
use serde_json::{Value, json};

use super::compiled::{Cache, Policy};
use super::{Invocation, select, text, variables};
use crate::admission::{refuse, webhook};
use crate::handler::typing;
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};

/// Evaluates MutatingAdmissionPolicies.
#[derive(Debug, Default)]
pub struct MutatingAdmissionPolicy {
    cache: Cache,
}

#[async_trait]
impl AdmissionPlugin for MutatingAdmissionPolicy {
    fn handles(&self, request: &AdmissionRequest) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update)
    }

    fn reinvokes(&self) -> bool {
        true
    }

    async fn admit(&self, request: &mut AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        if webhook::exempt(request) {
            return Ok(());
        }
        let again = request.reinvocation.again;
        if again && request.reinvocation.left != request.object {
            request.reinvocation.others_are_due();
        }
        let mut failures = Vec::new();
        let mut failed = |policy: &Policy, binding: &str, why: &str| {
            if !policy.fails_open() {
                failures.push(format!("policy '{}' with binding '{binding}' denied request: {why}", policy.name()));
            }
        };
        for selected in select("mutatingadmission", &self.cache, request, context).await? {
            let invocation = match selected {
                Ok(invocation) => invocation,
                Err(wrong) => {
                    failed(&wrong.policy, &wrong.binding, &wrong.message);
                    continue;
                }
            };
            let key = key(&invocation);
            if again && !request.reinvocation.due.contains(&key) {
                continue;
            }
            let mut values = variables(request, &invocation.resource, context).await?;
            values.set_params(&invocation.params);
            let scope = invocation.policy.variables.on(&values);
            match invocation.policy.conditions.matches(&scope, &mut Budget(MATCH_CONDITIONS_BUDGET)) {
                Match::Yes => {}
                Match::No(_) => continue,
                Match::Failed(why) => {
                    failed(&invocation.policy, text(&invocation.binding, "/metadata/name"), &why);
                    continue;
                }
            }
            drop(scope);
            let before = request.object.clone();
            for (json_patch, program) in &invocation.policy.mutations {
                let outcome = match program {
                    Ok(program) => mutate(&invocation, &mut values, *json_patch, program, request, context).await,
                    Err(why) => Err(why.clone()),
                };
                match outcome {
                    Ok(object) => request.object = object,
                    Err(why) => failed(&invocation.policy, text(&invocation.binding, "/metadata/name"), &why),
                }
            }
            if request.object != before {
                request.reinvocation.others_are_due();
                request.reinvocation.wanted = true;
            }
            if invocation.policy.object["spec"]["reinvocationPolicy"] == "IfNeeded" {
                request.reinvocation.ran.insert(key);
            }
        }
        if !again && !request.reinvocation.ran.is_empty() {
            request.reinvocation.left = request.object.clone();
        }
        if failures.is_empty() { Ok(()) } else { Err(denied(request, &failures)) }
    }
}

/// Names an invocation among all that run twice.
fn key(invocation: &Invocation) -> String {
    let binding = text(&invocation.binding, "/metadata/name");
    let params = &invocation.params["metadata"];
    format!("policy/{}/{binding}/{}/{}", invocation.policy.name(), text(params, "/namespace"), text(params, "/name"))
}

fn denied(request: &AdmissionRequest, failures: &[String]) -> ApiError {
    let mut error = refuse(request, "");
    error.message = failures[0].clone();
    error.reason = "Invalid";
    error.details["causes"] = failures.iter().map(|message| json!({ "message": message })).collect();
    error
}

/// The object after one mutation, in the request's own version.
async fn mutate(
    invocation: &Invocation,
    values: &mut Request,
    json_patch: bool,
    program: &coracle_cel::Program,
    request: &AdmissionRequest,
    context: &AdmissionContext,
) -> Result<Value, String> {
    let resource = &invocation.resource;
    let [object, _] = webhook::in_version(request, resource, context).await.map_err(|error| error.message)?;
    values.set_object(&object);
    let made = {
        let scope = invocation.policy.variables.on(values);
        Budget(RUNTIME_COST_BUDGET).evaluate(program, &scope)?
    };
    let made = made.to_json().ok_or("the expression's value cannot be written as JSON")?;
    let new = if json_patch {
        let operations = serde_json::to_vec(&made).map_err(|error| error.to_string())?;
        let patched = patch::apply(patch::PatchType::Json, &object, &operations, None);
        patched.map_err(|error| format!("JSON Patch: {}", error.message))?
    } else {
        configured(&object, &made, resource)?
    };
    webhook::read_back(request, new, resource, context).await.map_err(|error| error.message)
}

/// The object with an apply configuration merged in, as server-side apply merges.
fn configured(object: &Value, made: &Value, resource: &Resource) -> Result<Value, String> {
    if !made.is_object() {
        return Err("ApplyConfiguration expression must return an Object".into());
    }
    for field in ["apiVersion", "kind"] {
        if !made[field].is_null() && made[field] != object[field] {
            return Err(format!("invalid ApplyConfiguration: may not set {field}"));
        }
    }
    for field in ["name", "namespace", "uid", "resourceVersion", "managedFields"] {
        let (had, set) = (&object["metadata"][field], &made["metadata"][field]);
        if !set.is_null() && set != had {
            return Err(format!("invalid ApplyConfiguration: may not set metadata.{field}"));
        }
    }
    Ok(managed_fields::merge(object, made, typing(resource)))
}
