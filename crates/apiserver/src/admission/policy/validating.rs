//! ValidatingAdmissionPolicy: refuses, warns or notes when an expression is not true.

use async_trait::async_trait;
use coracle_api::{ApiError, ApiResult};
use coracle_cel::admission::{Budget, Match, Request, Scope};
use coracle_cel::rule::usable_message;
use coracle_cel::{MATCH_CONDITIONS_BUDGET, RUNTIME_COST_BUDGET, Value as Cel};
use serde_json::{Value, json};

use super::compiled::Cache;
use super::{Invocation, items, select, text, variables};
use crate::admission::{refuse, webhook};
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest};

/// The longest value of an audit annotation, in bytes.
const MAX_ANNOTATION: usize = 10 << 10;

/// Evaluates ValidatingAdmissionPolicies.
#[derive(Debug, Default)]
pub struct ValidatingAdmissionPolicy {
    cache: Cache,
}

/// That a policy does not let a request pass.
struct Denial {
    /// Which validation says so.
    index: usize,
    reason: String,
    message: String,
}

impl Denial {
    fn new(message: String) -> Denial {
        Denial { index: 0, reason: String::new(), message }
    }
}

#[async_trait]
impl AdmissionPlugin for ValidatingAdmissionPolicy {
    fn handles(&self, _: &AdmissionRequest) -> bool {
        true
    }

    async fn validate(&self, request: &AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        if webhook::exempt(request) {
            return Ok(());
        }
        // The first refusal is told; all the others still warn and are noted.
        let mut refusal = None;
        let mut refused = |policy: &str, binding: &str, denial: &Denial| {
            let message = format!(
                "ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {}",
                denial.message
            );
            refusal.get_or_insert((message, denial.reason.clone()));
        };
        for selected in select("validatingadmission", &self.cache, request, context).await? {
            let invocation = match selected {
                Ok(invocation) => invocation,
                Err(wrong) if wrong.policy.fails_open() => continue,
                Err(wrong) => {
                    refused(wrong.policy.name(), &wrong.binding, &Denial::new(wrong.message));
                    continue;
                }
            };
            let mut values = variables(request, &invocation.resource, context).await?;
            values.set_params(&invocation.params);
            let binding = text(&invocation.binding, "/metadata/name");
            let policy = invocation.policy.name();
            for denial in denials(&invocation, &values) {
                for action in items(&invocation.binding["spec"]["validationActions"]).filter_map(Value::as_str) {
                    match action {
                        "Deny" => refused(policy, binding, &denial),
                        "Warn" => request.notes.warn(format!(
                            "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{binding}': {}",
                            denial.message
                        )),
                        _ => note(request, &invocation, &denial),
                    }
                }
            }
            for (key, annotation) in annotations(&invocation, &values) {
                match annotation {
                    Ok(Some(value)) => request.notes.annotate(format!("{policy}/{key}"), value),
                    Err(message) if !invocation.policy.fails_open() => refused(policy, binding, &Denial::new(message)),
                    Ok(None) | Err(_) => {}
                }
            }
        }
        match refusal {
            None => Ok(()),
            Some((message, reason)) => Err(denied(request, &message, &reason)),
        }
    }
}

/// The Status of a refusal, by the validation's `reason`.
fn denied(request: &AdmissionRequest, message: &str, reason: &str) -> ApiError {
    let mut error = refuse(request, message);
    (error.code, error.reason) = match reason {
        "Forbidden" => (403, "Forbidden"),
        "Unauthorized" => (401, "Unauthorized"),
        "RequestEntityTooLarge" => (413, "RequestEntityTooLarge"),
        _ => (422, "Invalid"),
    };
    error.details["causes"] = json!([{ "message": message }]);
    error
}

/// Every validation that a request does not pass; errors count by `failurePolicy`.
fn denials(invocation: &Invocation, values: &Request) -> Vec<Denial> {
    let policy = &invocation.policy;
    let failure = |index: usize, message: String| {
        (!policy.fails_open()).then_some(Denial { index, reason: String::new(), message })
    };
    let scope = policy.variables.on(values);
    match policy.conditions.matches(&scope, &mut Budget(MATCH_CONDITIONS_BUDGET)) {
        Match::Yes => {}
        Match::No(_) => return Vec::new(),
        Match::Failed(message) => return failure(0, message).into_iter().collect(),
    }
    let mut budget = Budget(RUNTIME_COST_BUDGET);
    let validations = items(&policy.object["spec"]["validations"]).zip(&policy.validations).enumerate();
    validations
        .filter_map(|(index, (validation, (program, message)))| {
            let result = match program {
                Ok(program) => budget.evaluate(program, &scope),
                Err(why) => Err(why.clone()),
            };
            match result {
                Ok(Cel::Bool(true)) => None,
                Err(why) => failure(index, why),
                Ok(_) => {
                    let computed = message.as_ref().and_then(|message| message.as_ref().ok());
                    let computed = computed.and_then(|program| budget.evaluate(program, &scope).ok());
                    let message = computed
                        .and_then(|value| value.as_str().and_then(usable_message))
                        .or_else(|| {
                            Some(text(validation, "/message").trim().to_owned()).filter(|text| !text.is_empty())
                        })
                        .unwrap_or_else(|| format!("failed expression: {}", text(validation, "/expression").trim()));
                    Some(Denial { index, reason: text(validation, "/reason").to_owned(), message })
                }
            }
        })
        .collect()
}

/// The audit annotations a policy makes: nothing for null and empty texts.
fn annotations(invocation: &Invocation, values: &Request) -> Vec<(String, Result<Option<String>, String>)> {
    let policy = &invocation.policy;
    if policy.audit.is_empty() {
        return Vec::new();
    }
    let scope: Scope<'_> = policy.variables.on(values);
    if policy.conditions.matches(&scope, &mut Budget(MATCH_CONDITIONS_BUDGET)) != Match::Yes {
        return Vec::new();
    }
    let mut budget = Budget(RUNTIME_COST_BUDGET);
    let annotation = |(key, program): &(String, super::compiled::Compiled)| {
        let result = match program {
            Ok(program) => budget.evaluate(program, &scope),
            Err(why) => Err(why.clone()),
        };
        let result = result.and_then(|value| match &value {
            Cel::Null => Ok(None),
            Cel::String(value) => {
                let mut value = value.trim().to_owned();
                value.truncate((0..=MAX_ANNOTATION).rev().find(|end| value.is_char_boundary(*end)).unwrap_or(0));
                Ok(Some(value).filter(|value| !value.is_empty()))
            }
            other => Err(format!(
                "valueExpression of key '{key}' resulted in unsupported return type: {}. Return type must be either string or null.",
                other.type_name()
            )),
        });
        (key.clone(), result)
    };
    policy.audit.iter().map(annotation).collect()
}

/// `validationActions: [Audit]`.
fn note(request: &AdmissionRequest, invocation: &Invocation, denial: &Denial) {
    let failures = json!([{
        "message": denial.message,
        "policy": invocation.policy.name(),
        "binding": text(&invocation.binding, "/metadata/name"),
        "expressionIndex": denial.index,
        "validationActions": invocation.binding["spec"]["validationActions"],
    }]);
    request.notes.annotate("validation.policy.admission.k8s.io/validation_failure", failures.to_string());
}
