//! Kubernetes' CEL: the Common Expression Language with the libraries, types and cost limits that
//! CustomResourceDefinitions, admission policies and webhooks' match conditions know.
//!
//! The parser is the `cel` crate's; types, evaluation and cost are counted here as upstream counts them,
//! so that what upstream refuses as too dear is refused, and nothing runs away.
//!
//! # An expression
//!
//! Declare the variables ([`Env`]), compile ([`Env::compile`]), evaluate ([`Program::evaluate`]):
//!
//! ```
//! use std::collections::BTreeMap;
//! use coracle_cel::{Decl, Env, Meter, PER_CALL_LIMIT, Value};
//! use serde_json::json;
//!
//! let schema = json!({ "type": "object", "properties": { "replicas": { "type": "integer" } } });
//! let decl = Decl::from_schema(&schema, false).unwrap();
//! let program = Env::default().with("self", decl.clone()).compile("self.replicas > 1").unwrap();
//! let variables = BTreeMap::from([("self", Value::typed(&json!({ "replicas": 3 }), &decl))]);
//! assert_eq!(program.evaluate(&variables, &Meter::new(PER_CALL_LIMIT)), Ok(Value::Bool(true)));
//! ```
//!
//! Data whose schema is not known is declared as `Decl::plain(Type::Dyn)` and made by [`Value::untyped`].
//!
//! # Rules in a schema (`x-kubernetes-validations`)
//!
//! - [`check_schema`] when the schema is written: whether every rule compiles, is correlatable and not too dear.
//! - [`Validator::new`] once per schema, [`Validator::validate`] for every object (old object, transition
//!   rules, `optionalOldSelf`, `messageExpression`, `fieldPath`, `reason`, ratcheting, cost budget).
//!
//! # Admission
//!
//! - [`admission::Conditions`]: `matchConditions` of webhooks and policies.
//! - [`admission::Request`]: the variables `object`, `oldObject`, `request`, `params`, `namespaceObject`,
//!   `authorizer`, `variables.x`.
//!
//! Reading order: [`types`], [`value`], `check`, [`eval`], `cost`, `library/`, then [`rule`] and [`admission`].

pub mod admission;
pub mod authorizer;
pub mod builtin;
mod check;
pub mod cost;
pub mod env;
pub mod eval;
mod library;
pub mod rule;
pub mod schema;
pub mod types;
pub mod value;

pub use env::{CompileError, Env, Issue, Program};
pub use eval::{Error, MATCH_CONDITIONS_BUDGET, Meter, PER_CALL_LIMIT, RUNTIME_COST_BUDGET, Variables};
pub use rule::{Findings, Validator, check_schema};
pub use types::{Decl, Type};
pub use value::Value;
