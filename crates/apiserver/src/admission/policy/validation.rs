//! What is wrong with policies and bindings: also whether their expressions compile.

use std::collections::BTreeSet;

use coracle_api::names::{check_dns_subdomain, check_qualified_name};
use coracle_api::{FieldErrors, Resource};
use coracle_cel::admission::untyped_env;
use coracle_cel::{Env, Type};
use serde_json::Value;

use super::{GROUP, items, text};

const REASONS: [&str; 4] = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
/// The most match conditions, and the most mutations and validations.
const MAX_CONDITIONS: usize = 64;

/// Checks an object of this group, besides what its kind's own rules say.
pub(crate) fn check(resource: &Resource, object: &Value, errors: &mut FieldErrors) {
    if resource.group != GROUP {
        return;
    }
    match resource.plural.as_str() {
        "validatingadmissionpolicies" => policy(object, false, errors),
        "mutatingadmissionpolicies" => policy(object, true, errors),
        "validatingadmissionpolicybindings" => binding(object, true, errors),
        "mutatingadmissionpolicybindings" => binding(object, false, errors),
        _ => {}
    }
}

fn policy(object: &Value, mutating: bool, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    one_of(spec, "spec", "failurePolicy", &["Fail", "Ignore"], errors);
    if !spec["paramKind"].is_null() {
        for field in ["apiVersion", "kind"] {
            if text(&spec["paramKind"], &format!("/{field}")).is_empty() {
                errors.required(&format!("spec.paramKind.{field}"), "");
            }
        }
    }
    let constraints = &spec["matchConstraints"];
    if constraints.is_null() {
        errors.required("spec.matchConstraints", "");
    } else {
        match_resources(constraints, "spec.matchConstraints", errors);
        if items(&constraints["resourceRules"]).next().is_none() {
            errors.required("spec.matchConstraints.resourceRules", "");
        }
    }
    let env = variables(spec, mutating, errors);
    conditions(spec, &env, errors);
    if mutating {
        one_of(spec, "spec", "reinvocationPolicy", &["IfNeeded", "Never"], errors);
        if text(spec, "/reinvocationPolicy").is_empty() {
            errors.required("spec.reinvocationPolicy", "");
        }
        mutations(spec, &env, errors);
    } else {
        validations(spec, &env, errors);
    }
}

/// Checks the variables; the environment has them.
fn variables(spec: &Value, mutating: bool, errors: &mut FieldErrors) -> Env {
    let mut env = untyped_env(!spec["paramKind"].is_null(), true);
    env.mutates = mutating;
    let mut names = BTreeSet::new();
    for (index, variable) in items(&spec["variables"]).enumerate() {
        let path = format!("spec.variables[{index}]");
        let name = text(variable, "/name");
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() {
            errors.required(&format!("{path}.name"), "name is not specified");
        } else if !name.chars().all(word) || name.starts_with(|c: char| c.is_ascii_digit()) {
            errors.invalid(&format!("{path}.name"), name, "name is not a valid CEL identifier");
        } else if !names.insert(name) {
            errors.duplicate(&format!("{path}.name"), name);
        }
        let path = format!("{path}.expression");
        let ty = expression(text(variable, "/expression"), &path, &env, &[], errors).unwrap_or(Type::Dyn);
        env = env.with_type(&format!("variables.{name}"), ty);
    }
    env
}

fn conditions(spec: &Value, env: &Env, errors: &mut FieldErrors) {
    let mut names = BTreeSet::new();
    if items(&spec["matchConditions"]).count() > MAX_CONDITIONS {
        let count = items(&spec["matchConditions"]).count();
        errors.too_many("spec.matchConditions", count, MAX_CONDITIONS);
    }
    for (index, condition) in items(&spec["matchConditions"]).enumerate() {
        let path = format!("spec.matchConditions[{index}]");
        expression(text(condition, "/expression"), &format!("{path}.expression"), env, &[Type::Bool], errors);
        let (name, path) = (text(condition, "/name"), format!("{path}.name"));
        if name.is_empty() {
            errors.required(&path, "");
            continue;
        }
        for problem in check_qualified_name(name) {
            errors.invalid(&path, name, problem);
        }
        if !names.insert(name) {
            errors.duplicate(&path, name);
        }
    }
}

fn validations(spec: &Value, env: &Env, errors: &mut FieldErrors) {
    let (validations, annotations) = (&spec["validations"], &spec["auditAnnotations"]);
    if items(validations).next().is_none() && items(annotations).next().is_none() {
        for field in ["spec.validations", "spec.auditAnnotations"] {
            errors.required(field, "validations or auditAnnotations must be specified");
        }
    }
    for (index, validation) in items(validations).enumerate() {
        let path = format!("spec.validations[{index}]");
        let (rule, message) = (text(validation, "/expression"), text(validation, "/message"));
        expression(rule, &format!("{path}.expression"), env, &[Type::Bool], errors);
        let at = format!("{path}.message");
        if !message.is_empty() && message.trim().is_empty() {
            errors.invalid(&at, message, "message must be non-empty if specified");
        } else if message.trim().contains('\n') {
            errors.invalid(&at, message, "message must not contain line breaks");
        } else if rule.trim().contains('\n') && message.trim().is_empty() {
            errors.required(&at, "message must be specified if expression contains line breaks");
        }
        if let Some(message) = validation["messageExpression"].as_str().filter(|text| !text.is_empty()) {
            let at = format!("{path}.messageExpression");
            if message.trim().is_empty() {
                errors.invalid(&at, message, "messageExpression must be non-empty if specified");
            } else {
                expression(message, &at, env, &[Type::String], errors);
            }
        }
        one_of(validation, &path, "reason", &REASONS, errors);
    }
    let mut keys = BTreeSet::new();
    for (index, annotation) in items(annotations).enumerate() {
        let path = format!("spec.auditAnnotations[{index}]");
        let key = text(annotation, "/key");
        if key.is_empty() {
            errors.required(&format!("{path}.key"), "");
        } else if !keys.insert(key) {
            errors.duplicate(&format!("{path}.key"), key);
        }
        let types = [Type::String, Type::Null];
        expression(text(annotation, "/valueExpression"), &format!("{path}.valueExpression"), env, &types, errors);
    }
}

fn mutations(spec: &Value, env: &Env, errors: &mut FieldErrors) {
    if items(&spec["mutations"]).next().is_none() {
        errors.required("spec.mutations", "mutations must contain at least one item");
    }
    for (index, mutation) in items(&spec["mutations"]).enumerate() {
        let path = format!("spec.mutations[{index}]");
        let fields = [("ApplyConfiguration", "applyConfiguration"), ("JSONPatch", "jsonPatch")];
        let kind = text(mutation, "/patchType");
        if kind.is_empty() {
            errors.required(&format!("{path}.patchType"), "");
        }
        one_of(mutation, &path, "patchType", &["ApplyConfiguration", "JSONPatch"], errors);
        for (patch_type, field) in fields {
            let at = format!("{path}.{field}");
            if kind == patch_type && mutation[field].is_null() {
                errors.required(&at, format!("must be specified when patchType is {patch_type}"));
            } else if kind == patch_type {
                let rule = text(&mutation[field], "/expression");
                expression(rule, &format!("{at}.expression"), env, &[], errors);
            } else if !mutation[field].is_null() {
                errors.invalid(&at, mutation[field].clone(), format!("may not be specified when patchType is {kind}"));
            }
        }
    }
}

fn binding(object: &Value, validating: bool, errors: &mut FieldErrors) {
    let spec = &object["spec"];
    let policy = text(spec, "/policyName");
    if policy.is_empty() {
        errors.required("spec.policyName", "");
    }
    if !policy.is_empty() {
        for problem in check_dns_subdomain(policy) {
            errors.invalid("spec.policyName", policy, problem);
        }
    }
    let params = &spec["paramRef"];
    if !params.is_null() {
        match (text(params, "/name").is_empty(), params["selector"].is_null()) {
            (true, true) => errors.required("spec.paramRef", "one of name or selector must be specified"),
            (false, false) => {
                errors.forbidden("spec.paramRef.name", "name and selector are mutually exclusive");
            }
            _ => {}
        }
        if text(params, "/parameterNotFoundAction").is_empty() {
            errors.required("spec.paramRef.parameterNotFoundAction", "");
        }
        one_of(params, "spec.paramRef", "parameterNotFoundAction", &["Allow", "Deny"], errors);
    }
    if !spec["matchResources"].is_null() {
        match_resources(&spec["matchResources"], "spec.matchResources", errors);
    }
    if !validating {
        return;
    }
    let actions: Vec<&str> = items(&spec["validationActions"]).filter_map(Value::as_str).collect();
    if actions.is_empty() {
        errors.required("spec.validationActions", "");
    }
    for (index, action) in actions.iter().enumerate() {
        let path = format!("spec.validationActions[{index}]");
        if !["Audit", "Deny", "Warn"].contains(action) {
            errors.not_supported(&path, *action, &["Audit", "Deny", "Warn"]);
        } else if actions[..index].contains(action) {
            errors.duplicate(&path, *action);
        }
    }
    if actions.contains(&"Deny") && actions.contains(&"Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API \
            response and headers serves no purpose)";
        errors.invalid("spec.validationActions", spec["validationActions"].clone(), why);
    }
}

fn match_resources(object: &Value, path: &str, errors: &mut FieldErrors) {
    one_of(object, path, "matchPolicy", &["Equivalent", "Exact"], errors);
    for field in ["resourceRules", "excludeResourceRules"] {
        for (index, rule) in items(&object[field]).enumerate() {
            let path = format!("{path}.{field}[{index}]");
            for list in ["operations", "apiGroups", "apiVersions", "resources"] {
                if items(&rule[list]).next().is_none() {
                    errors.required(&format!("{path}.{list}"), "");
                }
            }
            let known = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
            for (place, operation) in items(&rule["operations"]).enumerate() {
                if !known.iter().any(|known| operation == known) {
                    errors.not_supported(&format!("{path}.operations[{place}]"), operation.clone(), &known);
                }
            }
            one_of(rule, &path, "scope", &["*", "Cluster", "Namespaced"], errors);
        }
    }
}

fn one_of(object: &Value, path: &str, field: &str, known: &[&str], errors: &mut FieldErrors) {
    let value = text(object, &format!("/{field}"));
    if !value.is_empty() && !known.contains(&value) {
        errors.not_supported(&format!("{path}.{field}"), value, known);
    }
}

/// Checks that an expression compiles to one of these types (any, if there are none); gives its type.
fn expression(rule: &str, path: &str, env: &Env, types: &[Type], errors: &mut FieldErrors) -> Option<Type> {
    if rule.trim().is_empty() {
        errors.required(path, "expression is not specified");
        return None;
    }
    match env.compile(rule.trim()) {
        Err(error) => errors.invalid(path, rule, error.to_string()),
        Ok(program) => {
            let given = program.output();
            let same = |ty: &Type| std::mem::discriminant(ty) == std::mem::discriminant(given);
            if types.is_empty() || matches!(given, Type::Dyn) || types.iter().any(same) {
                return Some(given.clone());
            }
            let names: Vec<String> = types.iter().map(ToString::to_string).collect();
            let wanted = match names.as_slice() {
                [one] => one.clone(),
                many => format!("one of [{}]", many.join(" ")),
            };
            errors.invalid(path, rule, format!("must evaluate to {wanted}"));
        }
    }
    None
}
