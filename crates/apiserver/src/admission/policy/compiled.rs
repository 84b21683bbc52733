//! Policies with their expressions compiled, kept until they change.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use coracle_cel::admission::{Composition, Conditions, untyped_env};
use coracle_cel::{Env, Program};
use serde_json::Value;

use super::super::{items, text};

/// An expression, or why it does not compile.
pub(super) type Compiled = Result<Program, String>;

/// The expressions of one policy.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) object: Arc<Value>,
    pub(super) conditions: Conditions,
    pub(super) variables: Composition,
    /// In the order of `spec.validations`: expression and `messageExpression`.
    pub(super) validations: Vec<(Compiled, Option<Compiled>)>,
    /// Keys and values.
    pub(super) audit: Vec<(String, Compiled)>,
    /// In the order of `spec.mutations`; whether it is a JSON patch.
    pub(super) mutations: Vec<(bool, Compiled)>,
}

fn compile(env: &Env, expression: &str) -> Compiled {
    env.compile(expression.trim()).map_err(|error| format!("compilation error: {error}"))
}

impl Policy {
    fn compile(object: Arc<Value>) -> Policy {
        let spec = &object["spec"];
        let params = !spec["paramKind"].is_null();
        let (variables, env) = Composition::compile(&spec["variables"], untyped_env(params, true));
        let validation = |validation: &Value| {
            let message = validation["messageExpression"].as_str().filter(|text| !text.trim().is_empty());
            (compile(&env, text(validation, "/expression")), message.map(|message| compile(&env, message)))
        };
        let audit = |annotation: &Value| {
            (text(annotation, "/key").to_owned(), compile(&env, text(annotation, "/valueExpression")))
        };
        let mut mutates = env.clone();
        mutates.mutates = true;
        let mutation = |mutation: &Value| {
            let json = mutation["patchType"] == "JSONPatch";
            let path = if json { "/jsonPatch/expression" } else { "/applyConfiguration/expression" };
            (json, compile(&mutates, text(mutation, path)))
        };
        Policy {
            conditions: Conditions::compile(&spec["matchConditions"], &env),
            variables,
            validations: items(&spec["validations"]).map(validation).collect(),
            audit: items(&spec["auditAnnotations"]).map(audit).collect(),
            mutations: items(&spec["mutations"]).map(mutation).collect(),
            object,
        }
    }

    pub(super) fn name(&self) -> &str {
        text(&self.object, "/metadata/name")
    }

    pub(super) fn fails_open(&self) -> bool {
        self.object["spec"]["failurePolicy"] == "Ignore"
    }
}

/// Compiled policies by name.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<BTreeMap<String, Arc<Policy>>>);

impl Cache {
    /// The policy, compiled now if it is not the one that is known.
    pub(super) fn get(&self, object: Arc<Value>) -> Arc<Policy> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = text(&object, "/metadata/name").to_owned();
        if let Some(policy) = known.get(&name).filter(|policy| Arc::ptr_eq(&policy.object, &object)) {
            return policy.clone();
        }
        let policy = Arc::new(Policy::compile(object));
        known.insert(name, policy.clone());
        policy
    }

    /// Forgets those that are gone.
    pub(super) fn retain(&self, names: &[&str]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|name, _| names.contains(&name.as_str()));
    }
}
