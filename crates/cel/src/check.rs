//! The checker: from the parser's tree to typed [`Node`]s with names, fields and functions resolved.
//!
//! Macros (`all`, `map`, `cel.bind`, …) are nodes of their own here, not rewritten into loops.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, SourceInfo, operators};

use crate::env::Env;
use crate::library::{Function, functions};
use crate::schema::{escape, unescape};
use crate::types::{Decl, Object, Shape, Type};
use crate::value::Value;

/// A checked node.
#[derive(Debug)]
pub(crate) struct Node {
    pub op: Op,
    pub ty: Type,
    /// The declared data it stands for, where there is some: sizes come from it.
    pub decl: Option<Arc<Decl>>,
}

/// What a node does.
#[derive(Debug)]
pub(crate) enum Op {
    Const(Value),
    /// A variable, by its place in [`Checked::variables`].
    Var(usize),
    /// A variable of a macro, by its depth.
    Local(usize),
    Select {
        operand: Box<Node>,
        json: Arc<str>,
        test: bool,
        optional: bool,
    },
    Index {
        operand: Box<Node>,
        index: Box<Node>,
        optional: bool,
    },
    Call {
        candidates: Vec<&'static Function>,
        args: Vec<Node>,
    },
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    If(Box<(Node, Node, Node)>),
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    /// An object literal of a mutation.
    Struct(Vec<(String, Node, bool)>),
    /// A macro over a range; two variables are index or key, and value. `args` are its expressions in order.
    Fold {
        fold: Fold,
        range: Box<Node>,
        two: bool,
        args: Vec<Node>,
    },
    /// `cel.bind`.
    Bind(Box<Node>, Box<Node>),
    /// `optMap` and (`flat`) `optFlatMap`.
    OptMap {
        operand: Box<Node>,
        body: Box<Node>,
        flat: bool,
    },
}

/// The macros over lists and maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fold {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
    TransformList,
    TransformMap,
    TransformMapEntry,
}

/// A checked expression.
#[derive(Debug)]
pub(crate) struct Checked {
    pub root: Node,
    /// The names of the variables it uses.
    pub variables: Vec<String>,
}

struct Local {
    name: String,
    ty: Type,
    decl: Option<Arc<Decl>>,
}

pub(crate) struct Checker<'a> {
    env: &'a Env,
    info: &'a SourceInfo,
    locals: Vec<Local>,
    variables: Vec<String>,
    /// Whether a list literal may be of several types: what `format` takes.
    mixed: bool,
    /// Where (character offset) and what.
    issues: BTreeSet<(u32, String)>,
}

/// The standard names of types.
const TYPES: [(&str, &str); 14] = [
    ("bool", "bool"),
    ("int", "int"),
    ("uint", "uint"),
    ("double", "double"),
    ("string", "string"),
    ("bytes", "bytes"),
    ("list", "list"),
    ("map", "map"),
    ("type", "type"),
    ("null_type", "null_type"),
    ("google.protobuf.Duration", "google.protobuf.Duration"),
    ("google.protobuf.Timestamp", "google.protobuf.Timestamp"),
    ("optional_type", "optional_type"),
    ("net.IP", "net.IP"),
];

impl<'a> Checker<'a> {
    pub(crate) fn check(
        env: &'a Env,
        expr: &IdedExpr,
        info: &'a SourceInfo,
    ) -> Result<Checked, BTreeSet<(u32, String)>> {
        let mut checker =
            Checker { env, info, locals: vec![], variables: vec![], mixed: false, issues: BTreeSet::new() };
        let root = checker.node(expr);
        if !checker.issues.is_empty() {
            return Err(checker.issues);
        }
        Ok(Checked { root, variables: checker.variables })
    }

    fn issue(&mut self, id: u64, message: String) {
        let start = self.info.offset_for(id).map_or(0, |(start, _)| start);
        self.issues.insert((start, message));
    }

    /// Stands for what cannot be checked; the issue is noted.
    fn wrong(&mut self, id: u64, message: String) -> Node {
        self.issue(id, message);
        Node { op: Op::Const(Value::Null), ty: Type::Dyn, decl: None }
    }

    fn node(&mut self, expr: &IdedExpr) -> Node {
        match &expr.expr {
            Expr::Literal(literal) => constant(literal),
            Expr::Ident(name) => match self.name(name) {
                Some(node) => node,
                None => self.wrong(expr.id, format!("undeclared reference to '{name}' (in container '')")),
            },
            Expr::Select(select) => self.select(expr, select),
            Expr::Call(call) => self.call(expr, call),
            Expr::List(list) => {
                let mixed = std::mem::take(&mut self.mixed);
                let mut items = Vec::new();
                let mut ty: Option<Type> = None;
                for (index, element) in list.elements.iter().enumerate() {
                    let optional = list.optional_indices.contains(&index);
                    let node = self.node(element);
                    let item = if optional { unwrap_optional(&node.ty) } else { node.ty.clone() };
                    ty = Some(if mixed { Type::Dyn } else { self.join(element.id, ty, item) });
                    items.push((node, optional));
                }
                plain(Op::List(items), ty.unwrap_or(Type::Dyn).list())
            }
            Expr::Map(map) => {
                let (mut key_type, mut value_type): (Option<Type>, Option<Type>) = (None, None);
                let mut entries = Vec::new();
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
                    let (key, value) = (self.node(&entry.key), self.node(&entry.value));
                    let item = if entry.optional { unwrap_optional(&value.ty) } else { value.ty.clone() };
                    key_type = Some(self.join(entry.key.id, key_type, key.ty.clone()));
                    value_type = Some(self.join(entry.value.id, value_type, item));
                    entries.push((key, value, entry.optional));
                }
                let (key, value) = (key_type.unwrap_or(Type::Dyn), value_type.unwrap_or(Type::Dyn));
                plain(Op::Map(entries), Type::Map(Arc::new(key), Arc::new(value)))
            }
            Expr::Struct(literal) => {
                let name = literal.type_name.trim_start_matches('.');
                let object = name == "Object" || name.starts_with("Object.");
                if !self.env.mutates || !(object || name == "JSONPatch") {
                    return self.wrong(expr.id, format!("undeclared reference to '{name}' (in container '')"));
                }
                let mut fields = Vec::new();
                for entry in &literal.entries {
                    let EntryExpr::StructField(field) = &entry.expr else { continue };
                    let value = self.node(&field.value);
                    let known = object || matches!(field.field.as_str(), "op" | "path" | "from" | "value");
                    if !known {
                        self.issue(entry.id, format!("undefined field '{}'", field.field));
                    }
                    let wanted = format!("{name}.{}", field.field);
                    let given = if field.optional { unwrap_optional(&value.ty) } else { value.ty.clone() };
                    if let (true, Type::Object(given)) = (object, given)
                        && given.name.starts_with("Object")
                        && given.name != wanted
                    {
                        let given = &given.name;
                        self.issue(
                            entry.id,
                            format!(
                                "expected type of field '{}' is '{wanted}' but provided type is '{given}'",
                                field.field
                            ),
                        );
                    }
                    fields.push((unescape(&field.field), value, field.optional));
                }
                let object = Object { name: name.to_owned(), fields: BTreeMap::new() };
                plain(Op::Struct(fields), Type::Object(Arc::new(object)))
            }
            Expr::Comprehension(_) | Expr::Unspecified => self.wrong(expr.id, "unexpected expression".into()),
        }
    }

    /// A name as a macro's variable, a declared variable or a type.
    fn name(&mut self, name: &str) -> Option<Node> {
        let name = name.trim_start_matches('.');
        if let Some(depth) = self.locals.iter().rposition(|local| local.name == name) {
            let local = &self.locals[depth];
            return Some(Node { op: Op::Local(depth), ty: local.ty.clone(), decl: local.decl.clone() });
        }
        if let Some((ty, decl)) = self.env.variable(name) {
            let place = self.variables.iter().position(|known| known == name).unwrap_or_else(|| {
                self.variables.push(name.to_owned());
                self.variables.len() - 1
            });
            return Some(Node { op: Op::Var(place), ty, decl });
        }
        let (_, ty) = TYPES.iter().find(|(known, _)| *known == name)?;
        Some(plain(Op::Const(Value::Type((*ty).into())), Type::Type))
    }

    /// `a.b.c` as one name, if it is nothing but names.
    fn qualified(&self, expr: &IdedExpr) -> Option<String> {
        match &expr.expr {
            Expr::Ident(name) if !self.locals.iter().any(|local| local.name == *name) => Some(name.clone()),
            Expr::Select(select) => Some(format!("{}.{}", self.qualified(&select.operand)?, select.field)),
            _ => None,
        }
    }

    fn select(&mut self, expr: &IdedExpr, select: &SelectExpr) -> Node {
        if let Some(name) = self.qualified(expr)
            && let Some(node) = self.name(&name)
        {
            return node;
        }
        if let Expr::Ident(namespace) = &select.operand.expr
            && self.env.is_namespace(namespace)
        {
            return self.wrong(expr.id, format!("undefined field '{}'", select.field));
        }
        let operand = self.node(&select.operand);
        self.field(expr.id, operand, &select.field, false, false)
    }

    fn field(&mut self, id: u64, operand: Node, field: &str, test: bool, optional: bool) -> Node {
        let (inner, was_optional) = match &operand.ty {
            Type::Optional(inner) => (inner.as_ref().clone(), true),
            other => (other.clone(), false),
        };
        let mut json: Arc<str> = field.into();
        let mut decl = None;
        let ty = match &inner {
            Type::Dyn => Type::Dyn,
            Type::Map(_, value) => {
                if let Some(Shape::Map(values)) = operand.decl.as_deref().map(|decl| &decl.shape) {
                    decl = Some(values.clone());
                }
                value.as_ref().clone()
            }
            Type::Object(object) => {
                // A property's own name may stand where the grammar allows it.
                let escaped = || object.fields.get(&escape(field)?);
                let found = object.fields.get(field).or_else(escaped);
                match found {
                    Some(found) => {
                        json = found.json.as_str().into();
                        decl = Some(found.decl.clone());
                        found.decl.ty()
                    }
                    None => return self.wrong(id, format!("undefined field '{field}'")),
                }
            }
            other => return self.wrong(id, format!("type '{other}' does not support field selection")),
        };
        let ty = match (test, optional || was_optional) {
            (true, _) => Type::Bool,
            (false, true) => Type::Optional(Arc::new(unwrap_optional(&ty))),
            (false, false) => ty,
        };
        let op = Op::Select { operand: Box::new(operand), json, test, optional };
        Node { op, ty, decl: if test { None } else { decl } }
    }

    fn index(&mut self, id: u64, operand: Node, index: Node, optional: bool) -> Node {
        let (inner, was_optional) = match &operand.ty {
            Type::Optional(inner) => (inner.as_ref().clone(), true),
            other => (other.clone(), false),
        };
        let decl = operand.decl.as_deref().and_then(|decl| match &decl.shape {
            Shape::List(items, _) => Some(items.clone()),
            Shape::Map(values) => Some(values.clone()),
            _ => None,
        });
        let element = match (&inner, &index.ty) {
            (Type::Dyn, _) => Some(Type::Dyn),
            (Type::List(items), Type::Int | Type::Dyn) => Some(items.as_ref().clone()),
            (Type::Map(key, value), given) if key.accepts(given, &mut BTreeMap::new()) => Some(value.as_ref().clone()),
            _ => None,
        };
        let Some(element) = element else {
            let name = if optional { "_[?_]" } else { "_[_]" };
            let (operand, index) = (&operand.ty, &index.ty);
            return self
                .wrong(id, format!("found no matching overload for '{name}' applied to '({operand}, {index})'"));
        };
        let ty = if optional || was_optional { Type::Optional(Arc::new(unwrap_optional(&element))) } else { element };
        Node { op: Op::Index { operand: Box::new(operand), index: Box::new(index), optional }, ty, decl }
    }

    fn call(&mut self, expr: &IdedExpr, call: &CallExpr) -> Node {
        let name = call.func_name.as_str();
        match (name, call.target.as_deref(), call.args.as_slice()) {
            ("has", None, [of]) => return self.has(of),
            (operators::OPT_SELECT, None, [operand, field]) => {
                let operand = self.node(operand);
                let Expr::Literal(LiteralValue::String(field)) = &field.expr else {
                    return self.wrong(expr.id, "unsupported optional field selection".into());
                };
                return self.field(expr.id, operand, field.inner(), false, true);
            }
            (operators::INDEX | operators::OPT_INDEX, None, [operand, index]) => {
                let (operand, index) = (self.node(operand), self.node(index));
                return self.index(expr.id, operand, index, name == operators::OPT_INDEX);
            }
            (operators::LOGICAL_AND | operators::LOGICAL_OR, None, [left, right]) => {
                let (left, right) = (self.node(left), self.node(right));
                if !is_bool(&left.ty) || !is_bool(&right.ty) {
                    let applied = format!("({}, {})", left.ty, right.ty);
                    return self
                        .wrong(expr.id, format!("found no matching overload for '{name}' applied to '{applied}'"));
                }
                let op = if name == operators::LOGICAL_AND { Op::And } else { Op::Or };
                return plain(op(Box::new(left), Box::new(right)), Type::Bool);
            }
            (operators::CONDITIONAL, None, [test, then, other]) => {
                let (test, then, other) = (self.node(test), self.node(then), self.node(other));
                let mut params = BTreeMap::new();
                let same = Type::Param(b'A').accepts(&then.ty, &mut params)
                    && Type::Param(b'A').accepts(&other.ty, &mut params);
                if !is_bool(&test.ty) || !same {
                    let applied = format!("({}, {}, {})", test.ty, then.ty, other.ty);
                    return self
                        .wrong(expr.id, format!("found no matching overload for '_?_:_' applied to '{applied}'"));
                }
                let ty = Type::Param(b'A').filled(&params);
                return plain(Op::If(Box::new((test, then, other))), ty);
            }
            ("bind", Some(target), [variable, value, body]) if is_ident(target, "cel") => {
                let Some(variable) = self.variable_name(variable) else { return nothing() };
                let value = self.node(value);
                self.locals.push(Local { name: variable, ty: value.ty.clone(), decl: value.decl.clone() });
                let body = self.node(body);
                self.locals.pop();
                let (ty, decl) = (body.ty.clone(), body.decl.clone());
                return Node { op: Op::Bind(Box::new(value), Box::new(body)), ty, decl };
            }
            ("optMap" | "optFlatMap", Some(target), [variable, body]) => {
                return self.opt_map(target, variable, body, name == "optFlatMap");
            }
            (_, Some(target), args) => {
                if let Some((fold, two)) = fold_of(name, args.len()) {
                    return self.fold(fold, two, target, args);
                }
            }
            _ => {}
        }
        // `ip.isCanonical(…)`: the target may be a namespace.
        let namespaced = call.target.as_deref().and_then(|target| {
            let qualified = format!("{}.{name}", self.qualified(target)?);
            functions(&qualified, false).next().is_some().then_some(qualified)
        });
        let (name, target) = match &namespaced {
            Some(name) => (name.as_str(), None),
            None => (name, call.target.as_deref()),
        };
        let member = target.is_some();
        let arg = |arg: &IdedExpr| {
            self.mixed = name == "format" && matches!(arg.expr, Expr::List(_));
            self.node(arg)
        };
        let args: Vec<Node> = target.into_iter().chain(&call.args).map(arg).collect();
        if functions(name, member).next().is_none() {
            return self.wrong(expr.id, format!("undeclared reference to '{name}' (in container '')"));
        }
        self.overloads(expr.id, name, member, args)
    }

    /// Picks the functions whose signatures the arguments fit.
    fn overloads(&mut self, id: u64, name: &str, member: bool, args: Vec<Node>) -> Node {
        let mut candidates: Vec<&'static Function> = Vec::new();
        let mut result: Option<Type> = None;
        for function in functions(name, member) {
            for signature in function.signatures() {
                let mut params = BTreeMap::new();
                let fits = signature.params.len() == args.len()
                    && signature.params.iter().zip(&args).all(|(want, arg)| want.accepts(&arg.ty, &mut params));
                if !fits {
                    continue;
                }
                let ty = signature.result.filled(&params);
                result = Some(match result {
                    None => ty,
                    Some(known) if known.to_string() == ty.to_string() => known,
                    Some(_) => Type::Dyn,
                });
                if !candidates.iter().any(|known| std::ptr::eq(*known, function)) {
                    candidates.push(function);
                }
            }
        }
        let Some(ty) = result else {
            let list = |args: &[Node]| args.iter().map(|arg| arg.ty.to_string()).collect::<Vec<_>>().join(", ");
            let applied =
                if member { format!("{}.({})", args[0].ty, list(&args[1..])) } else { format!("({})", list(&args)) };
            return self.wrong(id, format!("found no matching overload for '{name}' applied to '{applied}'"));
        };
        plain(Op::Call { candidates, args }, ty)
    }

    fn has(&mut self, of: &IdedExpr) -> Node {
        match &of.expr {
            Expr::Select(select) => {
                let operand = self.node(&select.operand);
                self.field(of.id, operand, &select.field, true, false)
            }
            _ => self.wrong(of.id, "invalid argument to has() macro".into()),
        }
    }

    fn variable_name(&mut self, expr: &IdedExpr) -> Option<String> {
        match &expr.expr {
            Expr::Ident(name) if !name.starts_with('.') => Some(name.clone()),
            _ => {
                self.issue(expr.id, "argument must be a simple name".into());
                None
            }
        }
    }

    fn opt_map(&mut self, target: &IdedExpr, variable: &IdedExpr, body: &IdedExpr, flat: bool) -> Node {
        let Some(name) = self.variable_name(variable) else { return nothing() };
        let operand = self.node(target);
        let inner = match &operand.ty {
            Type::Optional(inner) => inner.as_ref().clone(),
            Type::Dyn => Type::Dyn,
            other => {
                let message = format!("found no matching overload for 'hasValue' applied to '{other}.()'");
                return self.wrong(target.id, message);
            }
        };
        self.locals.push(Local { name, ty: inner, decl: operand.decl.clone() });
        let body = self.node(body);
        self.locals.pop();
        let ty = if flat { body.ty.clone() } else { Type::Optional(Arc::new(body.ty.clone())) };
        plain(Op::OptMap { operand: Box::new(operand), body: Box::new(body), flat }, ty)
    }

    fn fold(&mut self, fold: Fold, two: bool, target: &IdedExpr, args: &[IdedExpr]) -> Node {
        let range = self.node(target);
        let (key, value) = match &range.ty {
            Type::Dyn => (Type::Dyn, Type::Dyn),
            Type::List(items) => (Type::Int, items.as_ref().clone()),
            Type::Map(key, value) => (key.as_ref().clone(), value.as_ref().clone()),
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                return self.wrong(target.id, message);
            }
        };
        let elements = range.decl.as_deref().and_then(|decl| match &decl.shape {
            Shape::List(items, _) => Some(items.clone()),
            Shape::Map(values) if two => Some(values.clone()),
            _ => None,
        });
        let count = if two { 2 } else { 1 };
        for (place, variable) in args[..count].iter().enumerate() {
            let Some(name) = self.variable_name(variable) else {
                self.locals.truncate(self.locals.len() - place);
                return nothing();
            };
            let is_value = if two { place == 1 } else { !matches!(range.ty, Type::Map(..)) };
            let ty = if is_value { value.clone() } else { key.clone() };
            self.locals.push(Local { name, ty, decl: elements.clone().filter(|_| is_value) });
        }
        let bodies: Vec<Node> = args[count..].iter().map(|arg| self.node(arg)).collect();
        self.locals.truncate(self.locals.len() - count);
        let (tests, result): (&[Node], Option<&Node>) = match (fold, bodies.as_slice()) {
            (Fold::All | Fold::Exists | Fold::ExistsOne | Fold::Filter, tests) => (tests, None),
            (_, [tests @ .., result]) => (tests, Some(result)),
            (_, []) => (&[], None),
        };
        if let Some(test) = tests.iter().find(|test| !is_bool(&test.ty)) {
            let message = format!("expected type 'bool' but found '{}'", test.ty);
            return self.wrong(args[count].id, message);
        }
        let result = result.map_or(Type::Dyn, |node| node.ty.clone());
        let ty = match fold {
            Fold::All | Fold::Exists | Fold::ExistsOne => Type::Bool,
            Fold::Filter => {
                if matches!(range.ty, Type::Map(..)) {
                    key.list()
                } else {
                    value.list()
                }
            }
            Fold::Map | Fold::TransformList => result.list(),
            Fold::TransformMap => Type::Map(Arc::new(key), Arc::new(result)),
            Fold::TransformMapEntry => result,
        };
        // What is filtered keeps its declaration: no more and no larger items.
        let decl = range.decl.clone().filter(|_| fold == Fold::Filter && matches!(range.ty, Type::List(_)));
        Node { op: Op::Fold { fold, range: Box::new(range), two, args: bodies }, ty, decl }
    }

    /// The type of a literal's elements, which must all be of one.
    fn join(&mut self, id: u64, known: Option<Type>, given: Type) -> Type {
        let Some(known) = known else { return given };
        if known.accepts(&given, &mut BTreeMap::new()) {
            return if matches!(known, Type::Dyn) { given } else { known };
        }
        self.issue(id, format!("expected type '{known}' but found '{given}'"));
        known
    }
}

/// The macro of a name and its number of arguments, and whether it has two variables.
fn fold_of(name: &str, args: usize) -> Option<(Fold, bool)> {
    Some(match (name, args) {
        ("all", 2 | 3) => (Fold::All, args == 3),
        ("exists", 2 | 3) => (Fold::Exists, args == 3),
        ("exists_one", 2) | ("existsOne", 2 | 3) => (Fold::ExistsOne, args == 3),
        ("map", 2 | 3) => (Fold::Map, false),
        ("filter", 2) => (Fold::Filter, false),
        ("transformList", 3 | 4) => (Fold::TransformList, true),
        ("transformMap", 3 | 4) => (Fold::TransformMap, true),
        ("transformMapEntry", 3 | 4) => (Fold::TransformMapEntry, true),
        _ => return None,
    })
}

fn constant(literal: &LiteralValue) -> Node {
    let (value, ty) = match literal {
        LiteralValue::Boolean(b) => (Value::Bool(*b.inner()), Type::Bool),
        LiteralValue::Bytes(bytes) => (Value::Bytes(bytes.inner().into()), Type::Bytes),
        LiteralValue::Double(d) => (Value::Double(*d.inner()), Type::Double),
        LiteralValue::Int(i) => (Value::Int(*i.inner()), Type::Int),
        LiteralValue::Null => (Value::Null, Type::Null),
        LiteralValue::String(text) => (text.inner().into(), Type::String),
        LiteralValue::UInt(u) => (Value::Uint(*u.inner()), Type::Uint),
    };
    plain(Op::Const(value), ty)
}

fn plain(op: Op, ty: Type) -> Node {
    Node { op, ty, decl: None }
}

fn nothing() -> Node {
    plain(Op::Const(Value::Null), Type::Dyn)
}

fn is_bool(ty: &Type) -> bool {
    matches!(ty, Type::Bool | Type::Dyn)
}

fn is_ident(expr: &IdedExpr, name: &str) -> bool {
    matches!(&expr.expr, Expr::Ident(ident) if ident == name)
}

fn unwrap_optional(ty: &Type) -> Type {
    match ty {
        Type::Optional(inner) => inner.as_ref().clone(),
        other => other.clone(),
    }
}
