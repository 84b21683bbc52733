//! `x-kubernetes-validations`: the rules of custom resources, and whether a definition's rules can be held.

use coracle_api::custom::definition;
use coracle_api::{FieldErrorKind, FieldErrors};
use coracle_cel::{RUNTIME_COST_BUDGET, check_schema};
use serde_json::Value;

use super::Call;

/// Errors after which an object is not of the types that rules are written for.
const BLOCKING: [FieldErrorKind; 5] = [
    FieldErrorKind::NotSupported,
    FieldErrorKind::Required,
    FieldErrorKind::TooLong,
    FieldErrorKind::TooMany,
    FieldErrorKind::TypeInvalid,
];

impl Call {
    /// Adds to `errors` what rules say of an object; warnings are of what was wrong before.
    pub(super) fn check_rules(&self, new: &Value, old: Option<&Value>, errors: &mut FieldErrors) -> Vec<String> {
        let resource = &self.row.resource;
        if resource.qualified() == "customresourcedefinitions.apiextensions.k8s.io" && errors.0.is_empty() {
            for (path, schema) in definition::schemas(new) {
                // What was accepted once stays accepted.
                let unchanged = old.is_some_and(|old| definition::schemas(old).iter().any(|(_, was)| *was == schema));
                if !unchanged {
                    check_schema(schema, &path, errors);
                }
            }
        }
        let Some(rules) = &self.row.rules else { return Vec::new() };
        if errors.0.iter().any(|error| BLOCKING.contains(&error.kind)) {
            let why = "some validation rules were not checked because the object was invalid; correct the existing errors \
                       to complete validation";
            errors.invalid("<nil>", "null", why);
            return Vec::new();
        }
        let findings = rules.validate("", new, old, RUNTIME_COST_BUDGET);
        errors.0.extend(findings.errors.0);
        findings.warnings
    }
}
