//! `matchConditions`: CEL expressions that must all be true for a webhook to be asked.

use coracle_api::{ApiError, ApiResult, FieldErrors};
use coracle_cel::admission::{Budget, Conditions, Match, Request, untyped_env};
use coracle_cel::{MATCH_CONDITIONS_BUDGET, Type};
use serde_json::Value;

use super::review::Review;
use super::{Hook, items, refuse, text};
use crate::admission::policy;
use crate::hooks::{AdmissionContext, AdmissionRequest, Operation};

/// Whether the request meets the conditions of a webhook.
///
/// # Errors
/// 403 if one cannot be evaluated, none is false, and the webhook's `failurePolicy` is `Fail`.
pub(super) fn met(
    hook: &Hook,
    request: &AdmissionRequest,
    review: &Review,
    context: &AdmissionContext,
) -> ApiResult<bool> {
    let conditions = &hook.spec["matchConditions"];
    if items(conditions).next().is_none() {
        return Ok(true);
    }
    let compiled = Conditions::compile(conditions, &untyped_env(false, true));
    let (asker, question) = policy::asker(request, context);
    let variables = Request::new(review.object(), review.old_object(), &review.without_objects(), &Value::Null)
        .with_authorizer(asker, question);
    match compiled.matches(&variables, &mut Budget(MATCH_CONDITIONS_BUDGET)) {
        Match::Yes => Ok(true),
        Match::No(_) => Ok(false),
        Match::Failed(_) if hook.fails_open() => Ok(false),
        Match::Failed(why) => {
            tracing::warn!(webhook = hook.name(), why, "match conditions cannot be evaluated");
            Err(refuse(request, why))
        }
    }
}

/// Refuses a configuration with a condition that does not compile. What is stored already stays as it is.
pub(super) fn check(request: &AdmissionRequest) -> ApiResult<()> {
    if !matches!(request.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    let env = untyped_env(false, true);
    let mut errors = FieldErrors::default();
    for (position, webhook) in items(&request.object["webhooks"]).enumerate() {
        let known = |condition: &Value| {
            items(&request.old_object["webhooks"])
                .any(|old| items(&old["matchConditions"]).any(|old| old["expression"] == condition["expression"]))
        };
        for (at, condition) in items(&webhook["matchConditions"]).enumerate().filter(|(_, c)| !known(c)) {
            let path = format!("webhooks[{position}].matchConditions[{at}].expression");
            let expression = text(condition, "/expression");
            match env.compile(expression.trim()) {
                Ok(program) if matches!(program.output(), Type::Bool | Type::Dyn) => {}
                Ok(_) => errors.invalid(&path, expression, "must evaluate to bool"),
                Err(error) => errors.invalid(&path, expression, error.to_string()),
            }
        }
    }
    if errors.0.is_empty() {
        return Ok(());
    }
    let resource = &request.resource;
    let name = text(&request.object, "/metadata/name");
    Err(ApiError::invalid(&resource.group, &resource.kind, name, &errors.0))
}
