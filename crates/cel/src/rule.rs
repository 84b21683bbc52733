//! Validation rules in schemas (`x-kubernetes-validations`): compiled per node of a schema, held to cost
//! limits when the schema is written, evaluated when an object is.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::{FieldError, FieldErrorKind, FieldErrors};
use serde_json::Value as Json;

use crate::env::{Env, Program};
use crate::eval::{Error, Meter, PER_CALL_LIMIT};
use crate::types::{Decl, Type};
use crate::value::Value;

/// The most one rule may cost by estimate, over all places in an object where it applies.
const STATIC_LIMIT: u64 = 10_000_000;
/// The most all rules of a schema may.
const STATIC_SCHEMA_LIMIT: u64 = 100_000_000;
/// The longest text of a `messageExpression`, in bytes.
pub const MAX_MESSAGE: usize = 5 << 10;
const MAX_REQUEST: u64 = 3 << 20;

/// A compiled rule.
#[derive(Debug)]
struct Rule {
    program: Program,
    /// Whether it speaks of the old value.
    transition: bool,
    optional_old_self: bool,
    message: String,
    message_expression: Option<Program>,
    reason: FieldErrorKind,
    field_path: String,
}

/// What is wrong with a rule: of which of its fields, and what.
struct RuleError(&'static str, String);

impl Rule {
    fn compile(rule: &Json, decl: &Arc<Decl>) -> Result<Rule, RuleError> {
        let text = |field: &str| rule[field].as_str().unwrap_or_default().trim();
        let optional_old_self = rule["optionalOldSelf"] == true;
        let env = Env::default().with("self", decl.clone());
        let env = if optional_old_self {
            env.with_type("oldSelf", Type::Optional(Arc::new(decl.ty())))
        } else {
            env.with("oldSelf", decl.clone())
        };
        let program = env.compile(text("rule")).map_err(|error| RuleError("rule", error.to_string()))?;
        if !matches!(program.output(), Type::Bool) {
            return Err(RuleError("rule", "cel expression must evaluate to a bool".into()));
        }
        let message_expression = match text("messageExpression") {
            "" => None,
            expression => {
                let wrong = |message: String| RuleError("messageExpression", format!("messageExpression {message}"));
                let program = env.compile(expression).map_err(|error| wrong(error.to_string()))?;
                if !matches!(program.output(), Type::String) {
                    return Err(wrong("must evaluate to a string".into()));
                }
                Some(program)
            }
        };
        let message = match text("message") {
            "" => format!("failed rule: {}", text("rule")),
            message => message.to_owned(),
        };
        Ok(Rule {
            transition: program.uses("oldSelf"),
            program,
            optional_old_self,
            message,
            message_expression,
            reason: match rule["reason"].as_str() {
                Some("FieldValueRequired") => FieldErrorKind::Required,
                Some("FieldValueForbidden") => FieldErrorKind::Forbidden,
                Some("FieldValueDuplicate") => FieldErrorKind::Duplicate,
                _ => FieldErrorKind::Invalid,
            },
            field_path: text("fieldPath").to_owned(),
        })
    }

    /// How errors of evaluation name the rule.
    fn shown(&self) -> &str {
        if self.message.starts_with("failed rule: ") { self.program.source() } else { &self.message }
    }
}

/// Checks every rule of a structural schema, as a CustomResourceDefinition's author wants to know it:
/// whether it compiles, whether it may use `oldSelf`, what it may cost. `path` is the schema's path, such
/// as `spec.versions[0].schema.openAPIV3Schema`.
pub fn check_schema(schema: &Json, path: &str, errors: &mut FieldErrors) {
    let mut costs = Vec::new();
    let place = Place { path: path.to_owned(), root: true, cardinality: Some(1), uncorrelatable: None };
    check_node(schema, &place, &mut costs, errors);
    let total = costs.iter().fold(0_u64, |sum: u64, (_, cost)| sum.saturating_add(*cost));
    if total <= STATIC_SCHEMA_LIMIT {
        return;
    }
    costs.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
    for (path, _) in costs.iter().filter(|(_, cost)| *cost >= STATIC_SCHEMA_LIMIT / 100).take(4) {
        let message = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        errors.forbidden(path, message);
    }
    let name = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
    errors.forbidden(path, over_budget(name, total, STATIC_SCHEMA_LIMIT));
}

/// Where in a schema a node is.
struct Place {
    path: String,
    root: bool,
    /// How many of it an object can have; `None` if only the size of a request bounds it.
    cardinality: Option<u64>,
    /// Within what old values cannot be found again.
    uncorrelatable: Option<String>,
}

fn check_node(schema: &Json, place: &Place, costs: &mut Vec<(String, u64)>, errors: &mut FieldErrors) {
    let rules = schema["x-kubernetes-validations"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !rules.is_empty() {
        let decl = Decl::from_schema(schema, place.root);
        for (index, rule) in rules.iter().enumerate() {
            let at = format!("{}.x-kubernetes-validations[{index}]", place.path);
            check_rule(rule, schema, &at, place, decl.as_ref(), costs, errors);
        }
    }
    let path = &place.path;
    let child = |path: String, cardinality: Option<u64>, correlates: bool| Place {
        root: false,
        cardinality,
        uncorrelatable: place.uncorrelatable.clone().or_else(|| (!correlates).then(|| place.path.clone())),
        path,
    };
    let none = serde_json::Map::new();
    for (name, property) in schema["properties"].as_object().unwrap_or(&none) {
        let mut below = child(format!("{path}.properties[{name}]"), place.cardinality, true);
        below.root = property["x-kubernetes-embedded-resource"] == true;
        check_node(property, &below, costs, errors);
    }
    let many = |most: &Json| place.cardinality.zip(most.as_u64()).map(|(n, most)| n.saturating_mul(most));
    for (field, most, correlates) in [
        ("items", "maxItems", schema["x-kubernetes-list-type"] == "map"),
        ("additionalProperties", "maxProperties", true),
    ] {
        if schema[field].is_object() {
            let below = child(format!("{path}.{field}"), many(&schema[most]), correlates);
            check_node(&schema[field], &below, costs, errors);
        }
    }
}

fn check_rule(
    rule: &Json,
    schema: &Json,
    at: &str,
    place: &Place,
    decl: Option<&Arc<Decl>>,
    costs: &mut Vec<(String, u64)>,
    errors: &mut FieldErrors,
) {
    let field = |name: &str| format!("{at}.{name}");
    let Some(decl) = decl else {
        let ty = schema["type"].as_str().unwrap_or_default();
        let unknown = schema["x-kubernetes-preserve-unknown-fields"] == true;
        let message = format!(
            "rule declared on schema that does not support validation rules type: '{ty}' x-kubernetes-preserve-unknown-fields: '{unknown}'"
        );
        errors.invalid(&field("rule"), rule.clone(), message);
        return;
    };
    let compiled = match Rule::compile(rule, decl) {
        Ok(compiled) => compiled,
        Err(RuleError(name, message)) => return errors.invalid(&field(name), rule.clone(), message),
    };
    let times = place.cardinality.unwrap_or(MAX_REQUEST / (decl.min_bytes + 1));
    let programs = [("rule", Some(&compiled.program)), ("messageExpression", compiled.message_expression.as_ref())];
    for (name, program) in programs {
        let Some(program) = program else { continue };
        let cost = program.estimate().max.saturating_mul(times);
        if cost > STATIC_LIMIT {
            errors.forbidden(&field(name), over_budget(&format!("estimated {name} cost"), cost, STATIC_LIMIT));
        }
        costs.push((field(name), cost));
    }
    if compiled.transition {
        if let Some(within) = &place.uncorrelatable {
            let message = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {within}");
            errors.invalid(&field("rule"), rule["rule"].clone(), message);
        }
    } else if let Some(given) = rule["optionalOldSelf"].as_bool() {
        errors.invalid(&field("optionalOldSelf"), given, "may not be set if oldSelf is not used in rule");
    }
}

fn over_budget(name: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        f if f > 100.0 => "more than 100x".to_owned(),
        f if f < 1.5 => format!("{f:.6}x"),
        f => format!("{f:.1}x"),
    };
    format!(
        "{name} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

/// The rules of a schema and of all that is below it, compiled.
#[derive(Debug)]
pub struct Validator {
    rules: Vec<Rule>,
    /// Rules that do not compile any more: reported, as upstream reports them.
    broken: Vec<String>,
    decl: Arc<Decl>,
    ty: String,
    properties: BTreeMap<String, Validator>,
    items: Option<Box<Validator>>,
    additional: Option<Box<Validator>>,
    /// By which keys an item of an old list is told.
    keys: Vec<String>,
}

/// What rules found.
#[derive(Debug, Default)]
pub struct Findings {
    /// What is wrong.
    pub errors: FieldErrors,
    /// What is wrong but was so before and has not been touched (ratcheting): for `Warning` headers.
    pub warnings: Vec<String>,
}

/// An old value that belongs to a new one, if that can be told; and whether what surrounds it is as before.
#[derive(Clone, Copy)]
struct Old<'a> {
    value: Option<&'a Json>,
    unchanged: bool,
}

impl Validator {
    /// Compiles a structural schema's rules; `None` if it has none. `root` is true for whole objects.
    pub fn new(schema: &Json, root: bool) -> Option<Validator> {
        let embedded = |schema: &Json| schema["x-kubernetes-embedded-resource"] == true;
        let below = |field: &str| {
            let part = &schema[field];
            if part.is_object() { Self::new(part, embedded(part)).map(Box::new) } else { None }
        };
        let properties = schema["properties"].as_object().into_iter().flatten();
        let properties: BTreeMap<String, Validator> =
            properties.filter_map(|(name, part)| Some((name.clone(), Self::new(part, embedded(part))?))).collect();
        let (items, additional) = (below("items"), below("additionalProperties"));
        let own = schema["x-kubernetes-validations"].as_array().map(Vec::as_slice).unwrap_or_default();
        if own.is_empty() && properties.is_empty() && items.is_none() && additional.is_none() {
            return None;
        }
        let decl = Decl::from_schema(schema, root).unwrap_or_else(|| Decl::plain(Type::Dyn));
        let (mut rules, mut broken) = (Vec::new(), Vec::new());
        for rule in own {
            match Rule::compile(rule, &decl) {
                Ok(rule) => rules.push(rule),
                Err(RuleError(_, message)) => broken.push(message),
            }
        }
        let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
        Some(Validator {
            rules,
            broken,
            decl,
            ty: schema["type"].as_str().unwrap_or_default().to_owned(),
            properties,
            items,
            additional,
            keys: keys.filter_map(|key| key.as_str().map(str::to_owned)).collect(),
        })
    }

    /// Holds an object against the rules. `budget` is what all of them may cost
    /// ([`crate::RUNTIME_COST_BUDGET`]).
    pub fn validate(&self, path: &str, object: &Json, old: Option<&Json>, budget: u64) -> Findings {
        let mut run = Run { meter_left: budget, findings: Findings::default(), stopped: false };
        self.visit(path, object, Old { value: old, unchanged: false }, &mut run);
        run.findings
    }

    fn visit(&self, path: &str, value: &Json, old: Old<'_>, run: &mut Run) {
        if value.is_null() || run.stopped {
            return;
        }
        let old = Old { unchanged: old.unchanged || old.value == Some(value), ..old };
        self.own(path, value, old, run);
        match value {
            Json::Array(items) => {
                let Some(validator) = &self.items else { return };
                let key = |item: &Json| self.keys.iter().map(|key| item[key].to_string()).collect::<Vec<_>>();
                let old_items = old.value.and_then(Json::as_array).filter(|_| !self.keys.is_empty());
                let by_key: BTreeMap<_, &Json> =
                    old_items.into_iter().flatten().map(|item| (key(item), item)).collect();
                for (index, item) in items.iter().enumerate() {
                    let before = if by_key.is_empty() { None } else { by_key.get(&key(item)).copied() };
                    validator.visit(&format!("{path}[{index}]"), item, Old { value: before, ..old }, run);
                }
            }
            Json::Object(fields) => {
                for (name, field) in fields {
                    let before = old.value.and_then(|old| old.get(name));
                    let old = Old { value: before, ..old };
                    if let Some(validator) = self.properties.get(name) {
                        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                        validator.visit(&path, field, old, run);
                    } else if let Some(validator) = &self.additional {
                        validator.visit(&format!("{path}[{name}]"), field, old, run);
                    }
                }
            }
            _ => {}
        }
    }

    fn own(&self, path: &str, value: &Json, old: Old<'_>, run: &mut Run) {
        for message in &self.broken {
            run.findings.errors.invalid(path, self.ty.as_str(), format!("rule compile error: {message}"));
        }
        if self.rules.is_empty() {
            return;
        }
        let current = Value::typed(value, &self.decl);
        let before = old.value.filter(|old| !old.is_null()).map(|old| Value::typed(old, &self.decl));
        for rule in &self.rules {
            if run.stopped {
                return;
            }
            let mut variables = BTreeMap::from([("self", current.clone())]);
            match (&before, rule.optional_old_self) {
                (None, false) if rule.transition => continue,
                (None, false) => {}
                (Some(old), false) => drop(variables.insert("oldSelf", old.clone())),
                (old, true) => drop(variables.insert("oldSelf", Value::Optional(old.clone().map(Arc::new)))),
            }
            self.apply(rule, path, &variables, old.unchanged && !rule.transition, run);
        }
    }

    fn apply(&self, rule: &Rule, path: &str, variables: &BTreeMap<&str, Value>, ratchet: bool, run: &mut Run) {
        let error = |message: String| FieldError {
            field: path.to_owned(),
            kind: FieldErrorKind::Invalid,
            value: self.ty.as_str().into(),
            detail: message,
        };
        match run.evaluate(&rule.program, variables) {
            Ok(Value::Bool(true)) => {}
            Ok(_) => {
                let detail = match rule.message_expression.as_ref().map(|program| run.message(program, variables)) {
                    Some(Ok(Some(message))) => message,
                    Some(Err(message)) => {
                        run.stopped = true;
                        return run.add(error(message), ratchet);
                    }
                    _ => rule.message.clone(),
                };
                let field = field_of_rule(path, &rule.field_path);
                run.add(FieldError { field, kind: rule.reason, ..error(detail) }, ratchet);
            }
            Err(Stop::Budget) => {
                run.stopped = true;
                let message =
                    "validation failed due to running out of cost budget, no further validation rules will be run";
                run.findings.errors.0.push(error(message.into()));
            }
            Err(Stop::Failed(Error::NoOverload)) => {
                let shown = rule.shown();
                let message = format!(
                    "'no such overload': call arguments did not match a supported operator, function or macro signature for rule: {shown}"
                );
                run.findings.errors.0.push(error(message));
            }
            Err(Stop::Failed(failure @ Error::CostExceeded)) => {
                run.stopped = true;
                let shown = rule.shown();
                let message = format!(
                    "'{failure}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}"
                );
                run.findings.errors.0.push(error(message));
            }
            Err(Stop::Failed(failure)) => {
                run.findings.errors.0.push(error(format!("{failure} evaluating rule: {}", rule.shown())));
            }
        }
    }
}

/// The path that a rule's `fieldPath` leads to.
fn field_of_rule(path: &str, field_path: &str) -> String {
    let joined = format!("{path}{}", field_path.replace("['", "[").replace("']", "]"));
    joined.strip_prefix('.').map(str::to_owned).unwrap_or(joined)
}

enum Stop {
    /// The budget of all rules together.
    Budget,
    Failed(Error),
}

struct Run {
    meter_left: u64,
    findings: Findings,
    stopped: bool,
}

impl Run {
    fn add(&mut self, error: FieldError, ratchet: bool) {
        if ratchet { self.findings.warnings.push(error.to_string()) } else { self.findings.errors.0.push(error) }
    }

    fn evaluate(&mut self, program: &Program, variables: &BTreeMap<&str, Value>) -> Result<Value, Stop> {
        let meter = Meter::new(PER_CALL_LIMIT);
        let result = program.evaluate(variables, &meter);
        match self.meter_left.checked_sub(meter.used()) {
            Some(left) => self.meter_left = left,
            None => return Err(Stop::Budget),
        }
        result.map_err(Stop::Failed)
    }

    /// The text of a `messageExpression`, if it gives a usable one; an error stops everything.
    fn message(&mut self, program: &Program, variables: &BTreeMap<&str, Value>) -> Result<Option<String>, String> {
        match self.evaluate(program, variables) {
            Ok(value) => Ok(value.as_str().and_then(usable_message)),
            Err(Stop::Budget) => Err(
                "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run"
                    .into(),
            ),
            Err(Stop::Failed(Error::CostExceeded)) => Err(format!(
                "no further validation rules will be run due to call cost exceeds limit for messageExpression: {:?}",
                program.source()
            )),
            Err(Stop::Failed(_)) => Ok(None),
        }
    }
}

/// A computed message, trimmed, if it is one line of bounded length.
pub fn usable_message(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n')).then(|| text.to_owned())
}
