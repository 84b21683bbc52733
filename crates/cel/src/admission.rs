//! Expressions at admission: their variables, and match conditions.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde_json::{Value as Json, json};

use crate::authorizer::{AUTHORIZER, Authorizer, Check, Question, RESOURCE};
use crate::env::{Env, Program};
use crate::eval::{Error, Meter, PER_CALL_LIMIT, Variables};
use crate::types::{Decl, Type};
use crate::value::Value;

static REQUEST: LazyLock<Arc<Decl>> = LazyLock::new(|| declared(&request_schema()));
static NAMESPACE: LazyLock<Arc<Decl>> = LazyLock::new(|| declared(&namespace_schema()));

fn declared(schema: &Json) -> Arc<Decl> {
    Decl::from_schema(schema, false).unwrap_or_else(|| Decl::plain(Type::Dyn))
}

fn fields(name: &str, texts: &[&str]) -> Json {
    let properties: serde_json::Map<String, Json> =
        texts.iter().map(|text| ((*text).to_owned(), json!({ "type": "string" }))).collect();
    json!({ "type": "object", "title": format!("kubernetes.{name}"), "properties": properties })
}

fn request_schema() -> Json {
    let mut schema =
        fields("AdmissionRequest", &["subResource", "requestSubResource", "name", "namespace", "operation"]);
    let kind = fields("GroupVersionKind", &["group", "version", "kind"]);
    let resource = fields("GroupVersionResource", &["group", "version", "resource"]);
    let mut user = fields("UserInfo", &["username", "uid"]);
    let texts = json!({ "type": "array", "items": { "type": "string" } });
    user["properties"]["groups"] = texts.clone();
    user["properties"]["extra"] = json!({ "type": "object", "additionalProperties": texts });
    let properties = &mut schema["properties"];
    (properties["kind"], properties["requestKind"]) = (kind.clone(), kind);
    (properties["resource"], properties["requestResource"]) = (resource.clone(), resource);
    properties["userInfo"] = user;
    properties["dryRun"] = json!({ "type": "boolean" });
    // `dyn`: which options these are depends on the operation.
    properties["options"] = json!({ "x-kubernetes-int-or-string": true });
    schema
}

fn namespace_schema() -> Json {
    let mut schema = fields("Namespace", &[]);
    let mut meta = fields("NamespaceMetadata", &["name", "generateName", "namespace", "UID", "resourceVersion"]);
    let texts = json!({ "type": "array", "items": { "type": "string" } });
    let map = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let time = json!({ "type": "string", "format": "date-time" });
    let number = json!({ "type": "integer" });
    let properties = &mut meta["properties"];
    (properties["labels"], properties["annotations"], properties["finalizers"]) = (map.clone(), map, texts.clone());
    (properties["creationTimestamp"], properties["deletionTimestamp"]) = (time.clone(), time);
    (properties["generation"], properties["deletionGracePeriodSeconds"]) = (number.clone(), number);
    schema["properties"]["metadata"] = meta;
    schema["properties"]["spec"] = fields("NamespaceSpec", &[]);
    schema["properties"]["spec"]["properties"]["finalizers"] = texts;
    schema["properties"]["status"] = fields("NamespaceStatus", &["phase"]);
    schema
}

/// The variables of every expression at admission. `object` declares `object` and `oldObject`,
/// `params` declares `params` if there are any; both are [`Type::Dyn`] outside of type checking.
pub fn env(object: Arc<Decl>, params: Option<Arc<Decl>>, authorizer: bool) -> Env {
    let env = Env::default()
        .with("object", object.clone())
        .with("oldObject", object)
        .with("request", REQUEST.clone())
        .with("namespaceObject", NAMESPACE.clone());
    let env = match params {
        Some(params) => env.with("params", params),
        None => env,
    };
    if !authorizer {
        return env;
    }
    env.with_type("authorizer", Type::Opaque(AUTHORIZER))
        .with_type("authorizer.requestResource", Type::Opaque(RESOURCE))
}

/// [`env`] for objects of any kind.
pub fn untyped_env(params: bool, authorizer: bool) -> Env {
    let any = || Decl::plain(Type::Dyn);
    env(any(), params.then(any), authorizer)
}

/// The values of one request's variables.
#[derive(Debug)]
pub struct Request {
    object: Value,
    old_object: Value,
    request: Value,
    params: Value,
    namespace: Value,
    authorizer: Option<(Value, Value)>,
}

impl Request {
    /// From the objects (null if there is none), the `AdmissionRequest` (as webhooks get it, without
    /// the objects) and the namespace object (null for what has none).
    pub fn new(object: &Json, old_object: &Json, request: &Json, namespace: &Json) -> Request {
        Request {
            object: Value::untyped(object),
            old_object: Value::untyped(old_object),
            request: Value::typed(request, &REQUEST),
            params: Value::Null,
            namespace: Value::typed(namespace, &NAMESPACE),
            authorizer: None,
        }
    }

    /// With an authorizer; `question` is the request itself, for `authorizer.requestResource`.
    pub fn with_authorizer(mut self, authorizer: Arc<dyn Authorizer>, question: Question) -> Request {
        self.authorizer = Some((Check::start(authorizer.clone()), Check::resource(authorizer, question)));
        self
    }

    /// With these parameters.
    pub fn set_params(&mut self, params: &Json) {
        self.params = Value::untyped(params);
    }

    /// With another new object.
    pub fn set_object(&mut self, object: &Json) {
        self.object = Value::untyped(object);
    }
}

impl Variables for Request {
    fn get(&self, name: &str, _: &Meter) -> Result<Value, Error> {
        match (name, &self.authorizer) {
            ("object", _) => Ok(self.object.clone()),
            ("oldObject", _) => Ok(self.old_object.clone()),
            ("request", _) => Ok(self.request.clone()),
            ("params", _) => Ok(self.params.clone()),
            ("namespaceObject", _) => Ok(self.namespace.clone()),
            ("authorizer", Some((authorizer, _))) => Ok(authorizer.clone()),
            ("authorizer.requestResource", Some((_, resource))) => Ok(resource.clone()),
            _ => Err(Error::Failed(format!("no such attribute(s): {name}"))),
        }
    }
}

/// A policy's own variables, in their order; each may use those before it.
#[derive(Debug, Default)]
pub struct Composition(BTreeMap<String, Result<Program, String>>);

impl Composition {
    /// Compiles `spec.variables`; the environment comes back with all of them. What does not compile is
    /// `dyn`, and fails when it is used.
    pub fn compile(variables: &Json, mut env: Env) -> (Composition, Env) {
        let mut compiled = BTreeMap::new();
        for variable in variables.as_array().into_iter().flatten() {
            let name = format!("variables.{}", variable["name"].as_str().unwrap_or_default());
            let program = env.compile(variable["expression"].as_str().unwrap_or_default().trim());
            let ty = program.as_ref().map_or(Type::Dyn, |program| program.output().clone());
            env = env.with_type(&name, ty);
            compiled.insert(name, program.map_err(|error| error.to_string()));
        }
        (Composition(compiled), env)
    }

    /// With a request's values. Each variable is computed once, when it is first needed.
    pub fn on<'a>(&'a self, request: &'a Request) -> Scope<'a> {
        Scope { composition: self, request, known: RefCell::default() }
    }
}

/// The variables of a policy for one request.
#[derive(Debug)]
pub struct Scope<'a> {
    composition: &'a Composition,
    request: &'a Request,
    known: RefCell<BTreeMap<String, Result<Value, Error>>>,
}

impl Variables for Scope<'_> {
    fn get(&self, name: &str, meter: &Meter) -> Result<Value, Error> {
        let Some(program) = self.composition.0.get(name) else { return self.request.get(name, meter) };
        if let Some(known) = self.known.borrow().get(name) {
            return known.clone();
        }
        let value = match program {
            Ok(program) => program.evaluate(self, meter),
            Err(why) => Err(Error::Failed(why.clone())),
        };
        let short = name.trim_start_matches("variables.");
        let value = match value {
            Err(Error::CostExceeded) => return Err(Error::CostExceeded),
            Err(why) => Err(Error::Failed(format!("composited variable {short:?} fails to evaluate: {why}"))),
            value => value,
        };
        self.known.borrow_mut().insert(name.to_owned(), value.clone());
        value
    }
}

/// What the expressions of one policy or webhook may still cost together.
#[derive(Debug)]
pub struct Budget(pub u64);

impl Budget {
    /// Evaluates one of the expressions.
    ///
    /// # Errors
    /// Upstream's text, which names the expression.
    pub fn evaluate(&mut self, program: &Program, variables: &dyn Variables) -> Result<Value, String> {
        let meter = Meter::new(PER_CALL_LIMIT);
        let result = program.evaluate(variables, &meter);
        match self.0.checked_sub(meter.used()) {
            Some(left) => self.0 = left,
            None => {
                self.0 = 0;
                return Err(
                    "validation failed due to running out of cost budget, no further validation rules will be run"
                        .into(),
                );
            }
        }
        result.map_err(|error| format!("expression '{}' resulted in error: {error}", program.source()))
    }
}

/// The result of match conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// All are true.
    Yes,
    /// This one is false.
    No(String),
    /// None is false, and some failed: `failurePolicy` decides.
    Failed(String),
}

/// `matchConditions` of a webhook or policy, compiled.
#[derive(Debug, Default)]
pub struct Conditions(Vec<(String, Result<Program, String>)>);

impl Conditions {
    /// Compiles a list of `{name, expression}`.
    pub fn compile(conditions: &Json, env: &Env) -> Conditions {
        let compile = |condition: &Json| {
            let text = |field: &str| condition[field].as_str().unwrap_or_default();
            let program = env.compile(text("expression").trim()).map_err(|error| error.to_string());
            (text("name").to_owned(), program)
        };
        Conditions(conditions.as_array().into_iter().flatten().map(compile).collect())
    }

    /// Whether a request meets all of them. Their budget is [`crate::MATCH_CONDITIONS_BUDGET`].
    pub fn matches(&self, variables: &dyn Variables, budget: &mut Budget) -> Match {
        let mut failures = Vec::new();
        for (name, program) in &self.0 {
            let result = match program {
                Ok(program) => budget.evaluate(program, variables),
                Err(why) => Err(format!("compilation error: {why}")),
            };
            match result {
                Ok(Value::Bool(true)) => {}
                Ok(Value::Bool(false)) => return Match::No(name.clone()),
                Ok(_) => failures.push("cel expression must evaluate to a bool".to_owned()),
                Err(why) => failures.push(why),
            }
        }
        match failures.as_slice() {
            [] => Match::Yes,
            [one] => Match::Failed(one.clone()),
            many => Match::Failed(format!("[{}]", many.join(", "))),
        }
    }
}
