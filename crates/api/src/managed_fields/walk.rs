//! Walking objects along their types: what they hold, how they merge, how they differ.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::set::{self, FieldSet};
use crate::schema::{Field, Kind, ListType, Shape, Type, type_of};

/// What is known of a kind's fields.
#[derive(Clone, Copy, Debug)]
pub enum Typing<'a> {
    /// A built-in type.
    Known(&'static Type),
    /// A custom resource, by its structural schema (null for none).
    Custom(&'a Value),
}

/// What a value is, for ownership.
#[derive(Clone, Copy)]
pub(super) enum Node<'a> {
    /// Owned as a whole: scalars, atomic lists and structs.
    Leaf,
    /// A struct of a known type.
    Struct(&'static Type),
    /// A map whose entries are owned one by one.
    Map(&'static Field),
    /// A list whose items are known by these keys.
    Items(&'static str, &'static Field),
    /// A list of scalars owned one by one.
    Set,
    /// An object of a custom resource: its metadata is known.
    Custom(&'a Value),
    /// An object inside a custom resource, by its schema.
    Schema(&'a Value),
    /// A list inside a custom resource whose items are known by keys, by its schema.
    SchemaItems(&'a Value),
    /// Anything inside a custom resource that its schema does not describe: maps are granular, lists atomic.
    Free,
}

/// What is at a key of an object.
struct Child<'a> {
    node: Node<'a>,
    /// An entry of a map and not a field of a struct: owned itself, besides what is in it.
    entry: bool,
    /// Never absent, as Go writes it: not new when it gets its first contents.
    always: bool,
}

impl<'a> Node<'a> {
    /// The root of an object.
    pub(super) fn root(typing: Typing<'a>) -> Self {
        match typing {
            Typing::Known(ty) => Node::Struct(ty),
            Typing::Custom(schema) => Node::Custom(schema),
        }
    }

    fn of(field: &'static Field) -> Self {
        match field.shape {
            _ if field.atomic() => Node::Leaf,
            Shape::List => match field.list_type() {
                ListType::Map(keys) => Node::Items(keys, field),
                ListType::Set => Node::Set,
                ListType::Atomic => Node::Leaf,
            },
            Shape::Map => Node::Map(field),
            Shape::One | Shape::Inline => Node::value(field),
        }
    }

    /// The node of one value of the field, be it a list's item, a map's entry, or the field itself.
    fn value(field: &'static Field) -> Self {
        match (field.kind, field.message()) {
            (Kind::Message(_), Some(ty)) => Node::Struct(ty),
            _ => Node::Leaf,
        }
    }

    fn of_schema(schema: &'a Value) -> Self {
        match (schema["type"].as_str(), schema["x-kubernetes-list-type"].as_str()) {
            (Some("object"), _) if schema["x-kubernetes-map-type"] == "atomic" => Node::Leaf,
            (Some("object"), _) => Node::Schema(schema),
            (Some("array"), Some("map")) => Node::SchemaItems(schema),
            (Some("array"), Some("set")) => Node::Set,
            (None, _) => Node::Free,
            _ => Node::Leaf,
        }
    }

    /// What is at `key` of an object.
    fn child(self, key: &str) -> Child<'a> {
        let plain = |node| Child { node, entry: false, always: false };
        let entry = |node| Child { node, entry: true, always: false };
        match self {
            Node::Struct(ty) => ty.field(key).map_or(plain(Node::Leaf), |field| Child {
                node: Node::of(field),
                entry: false,
                always: field.always || field.required,
            }),
            Node::Map(field) => entry(Node::value(field)),
            Node::Custom(_) if key == "metadata" => Child {
                node: type_of("meta.v1.ObjectMeta").map_or(Node::Free, Node::Struct),
                entry: false,
                always: true,
            },
            Node::Custom(_) if matches!(key, "apiVersion" | "kind") => plain(Node::Leaf),
            Node::Custom(schema) | Node::Schema(schema) => match &schema["properties"][key] {
                Value::Null if schema["additionalProperties"].is_object() => {
                    entry(Node::of_schema(&schema["additionalProperties"]))
                }
                Value::Null => entry(Node::Free),
                property => plain(Node::of_schema(property)),
            },
            Node::Free => entry(Node::Free),
            _ => plain(Node::Leaf),
        }
    }

    fn granular(self) -> bool {
        matches!(self, Node::Struct(_) | Node::Map(_) | Node::Custom(_) | Node::Schema(_) | Node::Free)
    }

    /// The node of a list's items, if they are known by keys.
    fn item(self) -> Option<Self> {
        match self {
            Node::Items(_, field) => Some(Node::value(field)),
            Node::SchemaItems(schema) => Some(Node::of_schema(&schema["items"])),
            _ => None,
        }
    }

    /// The first key that an item of a list lacks.
    fn missing_key(self, item: &Value) -> Option<&'a str> {
        match self {
            Node::Items(keys, _) => keys.split(',').find(|key| item[key].is_null() && *key != "protocol"),
            Node::SchemaItems(schema) => {
                let keys = schema["x-kubernetes-list-map-keys"].as_array()?.iter().filter_map(Value::as_str);
                let default = |key: &str| &schema["items"]["properties"][key]["default"];
                keys.into_iter().find(|key| item[key].is_null() && default(key).is_null())
            }
            _ => None,
        }
    }

    /// An item's key: `k:{"containerPort":80,"protocol":"TCP"}`.
    fn key(self, item: &Value) -> String {
        let mut pairs = Map::new();
        match self {
            Node::Items(keys, _) => {
                for key in keys.split(',') {
                    match (&item[key], key) {
                        // The one key with a default that matters here.
                        (Value::Null, "protocol") => drop(pairs.insert(key.to_owned(), "TCP".into())),
                        (Value::Null, _) => {}
                        (value, _) => drop(pairs.insert(key.to_owned(), value.clone())),
                    }
                }
            }
            Node::SchemaItems(schema) => {
                let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
                for key in keys.filter_map(Value::as_str) {
                    let default = &schema["items"]["properties"][key]["default"];
                    let value = if item[key].is_null() { default } else { &item[key] };
                    if !value.is_null() {
                        pairs.insert(key.to_owned(), value.clone());
                    }
                }
            }
            _ => {}
        }
        format!("k:{}", Value::Object(pairs))
    }
}

fn value_key(value: &Value) -> String {
    format!("v:{value}")
}

/// All that an object holds: its leaves, the items of its lists and the entries of its maps; `every` for the structs
/// and lists around them, too.
pub(super) fn fields(node: Node<'_>, value: &Value, every: bool) -> FieldSet {
    let mut set = FieldSet::default();
    match (node, value) {
        (node, Value::Array(items)) if let Some(inside) = node.item() => {
            for item in items {
                let mut child = fields(inside, item, every);
                child.member = true;
                set.children.insert(node.key(item), child);
            }
        }
        (Node::Set, Value::Array(items)) => {
            set.children.extend(items.iter().map(|item| (value_key(item), FieldSet::leaf())));
        }
        (node, Value::Object(map)) if node.granular() => {
            for (key, value) in map.iter().filter(|(_, value)| !value.is_null()) {
                let child = node.child(key);
                let mut inside = fields(child.node, value, every);
                inside.member |= child.entry;
                set.children.insert(format!("f:{key}"), inside);
            }
        }
        _ => return FieldSet::leaf(),
    }
    // What is empty is owned itself.
    set.member = every || set.children.is_empty();
    set
}

/// Items of lists that cannot be told apart: those without a key, and those of one key.
pub(super) fn flaws(node: Node<'_>, value: &Value, path: &str, found: &mut Vec<String>) {
    let mut keys = BTreeSet::new();
    let mut repeated = |key: String, found: &mut Vec<String>| {
        if !keys.insert(key.clone()) {
            found.push(format!("{path}: duplicate entries for key {}", set::readable(&key)));
        }
    };
    match (node, value) {
        (node, Value::Array(items)) if let Some(inside) = node.item() => {
            for (at, item) in items.iter().enumerate() {
                let key = node.key(item);
                if let Some(missing) = node.missing_key(item) {
                    found.push(format!(
                        "{path}: element {at}: associative list with keys has an element that omits key field \
                         {missing:?} (and doesn't have default value)"
                    ));
                }
                flaws(inside, item, &format!("{path}{}", set::readable(&key)), found);
                repeated(key, found);
            }
        }
        (Node::Set, Value::Array(items)) => items.iter().for_each(|item| repeated(value_key(item), found)),
        (node, Value::Object(map)) if node.granular() => {
            for (key, value) in map {
                flaws(node.child(key).node, value, &format!("{path}.{key}"), found);
            }
        }
        _ => {}
    }
}

/// `live` with `applied` on top.
pub(super) fn merge(node: Node<'_>, live: &Value, applied: &Value) -> Value {
    match (node, live, applied) {
        (node, Value::Array(live), Value::Array(applied)) if let Some(inside) = node.item() => {
            let find = |list: &[Value], key: &str| list.iter().position(|item| node.key(item) == key);
            let merged = applied.iter().map(|item| {
                let at = find(live, &node.key(item));
                (at, at.map_or_else(|| item.clone(), |at| merge(inside, &live[at], item)))
            });
            let rest = live.iter().enumerate().filter(|(_, item)| find(applied, &node.key(item)).is_none());
            interleave(merged.collect(), rest)
        }
        (Node::Set, Value::Array(live), Value::Array(applied)) => {
            let merged = applied.iter().map(|item| (live.iter().position(|other| other == item), item.clone()));
            interleave(merged.collect(), live.iter().enumerate().filter(|(_, item)| !applied.contains(item)))
        }
        (node, Value::Object(live), Value::Object(applied)) if node.granular() => {
            let mut merged = live.clone();
            for (key, value) in applied.iter().filter(|(_, value)| !value.is_null()) {
                let there = live.get(key).unwrap_or(&Value::Null);
                merged.insert(key.clone(), merge(node.child(key).node, there, value));
            }
            Value::Object(merged)
        }
        _ => applied.clone(),
    }
}

/// The applied items in their order; what only the live list has stays before those that it stood before.
fn interleave<'a>(applied: Vec<(Option<usize>, Value)>, rest: impl Iterator<Item = (usize, &'a Value)>) -> Value {
    let mut rest = rest.peekable();
    let mut list = Vec::new();
    for (at, item) in applied {
        while let Some((_, earlier)) = rest.next_if(|(place, _)| at.is_some_and(|at| *place < at)) {
            list.push(earlier.clone());
        }
        list.push(item);
    }
    list.extend(rest.map(|(_, item)| item.clone()));
    Value::Array(list)
}

/// Removes what is in `gone`, except containers of what is in `kept`.
pub(super) fn prune(node: Node<'_>, value: &mut Value, gone: &FieldSet, kept: &FieldSet) {
    let nothing = FieldSet::default();
    let fate = |key: &str| gone.children.get(key).map(|gone| (gone, kept.children.get(key).unwrap_or(&nothing)));
    // A branch goes as a whole if nobody keeps anything in it.
    let goes = |gone: &FieldSet, kept: &FieldSet| gone.member && kept.is_empty();
    match (node, value) {
        (node, Value::Array(items)) if let Some(inside) = node.item() => {
            items.retain_mut(|item| match fate(&node.key(item)) {
                Some((gone, kept)) if goes(gone, kept) => false,
                Some((gone, kept)) => {
                    prune(inside, item, gone, kept);
                    true
                }
                None => true,
            });
        }
        (Node::Set, Value::Array(items)) => items.retain(|item| fate(&value_key(item)).is_none()),
        (node, Value::Object(map)) if node.granular() => {
            let keys: Vec<String> = map.keys().cloned().collect();
            for key in keys {
                let Some((gone, kept)) = fate(&format!("f:{key}")) else { continue };
                if goes(gone, kept) {
                    map.remove(&key);
                } else if let Some(value) = map.get_mut(&key) {
                    prune(node.child(&key).node, value, gone, kept);
                    let emptied = value.as_object().is_some_and(Map::is_empty) || value == &json!([]);
                    if emptied && kept.is_empty() {
                        map.remove(&key);
                    }
                }
            }
        }
        _ => {}
    }
}

/// What is new or different, and what is no longer there. What came or went as a whole is in it as a whole, with
/// every struct and list inside.
pub(super) fn compare(node: Node<'_>, old: &Value, new: &Value) -> (FieldSet, FieldSet) {
    let (mut changed, mut removed) = (FieldSet::default(), FieldSet::default());
    if old == new {
        return (changed, removed);
    }
    let mut visit = |key: String, child: Child<'_>, old: Option<&Value>, new: Option<&Value>| {
        let nothing = |there: &Value| if there.is_array() { json!([]) } else { json!({}) };
        let (more, less) = match (old, new) {
            (Some(old), Some(new)) => compare(child.node, old, new),
            (None, Some(new)) if child.always && is_container(new) => compare(child.node, &nothing(new), new),
            (Some(old), None) if child.always && is_container(old) => compare(child.node, old, &nothing(old)),
            (None, Some(new)) => (fields(child.node, new, true), FieldSet::default()),
            (Some(old), None) => (FieldSet::default(), fields(child.node, old, true)),
            (None, None) => return,
        };
        changed.children.insert(key.clone(), more);
        removed.children.insert(key, less);
    };
    let plain = |node| Child { node, entry: false, always: false };
    match (node, old, new) {
        (node, Value::Array(old), Value::Array(new)) if let Some(inside) = node.item() => {
            // Most items are as they were; keys are made of the others alone.
            let rest = |list: &'_ [Value], other: &[Value]| -> Vec<(String, usize)> {
                let differs = |(at, item): &(usize, &Value)| other.get(*at) != Some(*item);
                list.iter().enumerate().filter(differs).map(|(at, item)| (node.key(item), at)).collect()
            };
            let (before, after) = (rest(old, new), rest(new, old));
            let find =
                |list: &[(String, usize)], key: &str| list.iter().find(|(other, _)| other == key).map(|(_, at)| *at);
            for (key, at) in &before {
                if find(&after, key).is_none() {
                    visit(key.clone(), plain(inside), Some(&old[*at]), None);
                }
            }
            for (key, at) in after {
                let was = find(&before, &key).map(|at| &old[at]);
                visit(key, plain(inside), was, Some(&new[at]));
            }
        }
        (Node::Set, Value::Array(old), Value::Array(new)) => {
            for item in new.iter().filter(|item| !old.contains(item)) {
                visit(value_key(item), plain(Node::Leaf), None, Some(item));
            }
            for item in old.iter().filter(|item| !new.contains(item)) {
                visit(value_key(item), plain(Node::Leaf), Some(item), None);
            }
        }
        (node, Value::Object(old), Value::Object(new)) if node.granular() => {
            for (key, value) in new.iter().filter(|(key, value)| old.get(*key) != Some(*value)) {
                visit(format!("f:{key}"), node.child(key), old.get(key), Some(value));
            }
            for (key, value) in old.iter().filter(|(key, _)| !new.contains_key(*key)) {
                visit(format!("f:{key}"), node.child(key), Some(value), None);
            }
        }
        _ => changed.member = true,
    }
    changed.tidy();
    removed.tidy();
    (changed, removed)
}

fn is_container(value: &Value) -> bool {
    value.is_object() || value.is_array()
}
