//! What is wrong with policies and bindings: also whether their expressions compile.

use std::collections::BTreeSet;

use coracle_api::{FieldErrors, Resource};
use coracle_cel::admission::untyped_env;
use coracle_cel::{Env, Type};
use serde_json::Value;

use super::{GROUP, items, text};

/// The longest expression of an audit annotation.
const MAX_VALUE_BYTES: usize = 5 << 10;

/// Checks the expressions of an object of this group.
pub(crate) fn check(resource: &Resource, object: &Value, errors: &mut FieldErrors) {
    let mutating = match resource.plural.as_str() {
        "validatingadmissionpolicies" => false,
        "mutatingadmissionpolicies" => true,
        _ => return,
    };
    if resource.group != GROUP {
        return;
    }
    let spec = &object["spec"];
    let env = variables(spec, mutating, errors);
    for (index, condition) in items(&spec["matchConditions"]).enumerate() {
        let (rule, path) = (text(condition, "/expression"), format!("spec.matchConditions[{index}].expression"));
        if !rule.trim().is_empty() {
            expression(rule, &path, &env, &[Type::Bool], errors);
        }
    }
    if mutating { mutations(spec, &env, errors) } else { validations(spec, &env, errors) }
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
        if !name.is_empty() && (!name.chars().all(word) || name.starts_with(|c: char| c.is_ascii_digit())) {
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

fn validations(spec: &Value, env: &Env, errors: &mut FieldErrors) {
    for (index, validation) in items(&spec["validations"]).enumerate() {
        let path = format!("spec.validations[{index}]");
        expression(text(validation, "/expression"), &format!("{path}.expression"), env, &[Type::Bool], errors);
        let message = text(validation, "/messageExpression");
        if !message.trim().is_empty() {
            expression(message, &format!("{path}.messageExpression"), env, &[Type::String], errors);
        }
    }
    for (index, annotation) in items(&spec["auditAnnotations"]).enumerate() {
        let (rule, path) =
            (text(annotation, "/valueExpression"), format!("spec.auditAnnotations[{index}].valueExpression"));
        if rule.trim().is_empty() {
            errors.required(&path, "valueExpression is not specified");
        } else if rule.trim().len() > MAX_VALUE_BYTES {
            errors.required(&path, format!("must not exceed {MAX_VALUE_BYTES} bytes in length"));
        } else {
            expression(rule, &path, env, &[Type::String, Type::Null], errors);
        }
    }
}

fn mutations(spec: &Value, env: &Env, errors: &mut FieldErrors) {
    for (index, mutation) in items(&spec["mutations"]).enumerate() {
        let path = format!("spec.mutations[{index}]");
        let fields = [("ApplyConfiguration", "applyConfiguration"), ("JSONPatch", "jsonPatch")];
        let kind = text(mutation, "/patchType");
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
