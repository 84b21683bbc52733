//! Walking objects along their types: what they hold, how they merge, how they differ.

use serde_json::{Map, Value, json};

use super::set::FieldSet;
use crate::schema::{Field, Kind, ListType, Shape, Type, type_of};

/// What a value is, for ownership.
#[derive(Clone, Copy)]
pub(super) enum Node {
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
    Custom,
    /// Anything inside a custom resource: maps are granular, lists atomic.
    Free,
}

impl Node {
    /// The root of an object.
    pub(super) fn root(ty: Option<&'static Type>) -> Node {
        ty.map_or(Node::Custom, Node::Struct)
    }

    fn of(field: &'static Field) -> Node {
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
    fn value(field: &'static Field) -> Node {
        match (field.kind, field.message()) {
            (Kind::Message(_), Some(ty)) => Node::Struct(ty),
            _ => Node::Leaf,
        }
    }

    /// The node of what is at `key` of an object.
    fn child(self, key: &str) -> Node {
        match self {
            Node::Struct(ty) => ty.field(key).map_or(Node::Leaf, Node::of),
            Node::Map(field) => Node::value(field),
            Node::Custom if key == "metadata" => type_of("meta.v1.ObjectMeta").map_or(Node::Free, Node::Struct),
            Node::Custom | Node::Free => Node::Free,
            _ => Node::Leaf,
        }
    }

    fn granular(self) -> bool {
        matches!(self, Node::Struct(_) | Node::Map(_) | Node::Custom | Node::Free)
    }
}

/// An item's key: `k:{"containerPort":80,"protocol":"TCP"}`.
fn item_key(keys: &str, item: &Value) -> String {
    let pairs = keys.split(',').filter_map(|key| {
        let value = match (&item[key], key) {
            // The one key with a default that matters here.
            (Value::Null, "protocol") => json!("TCP"),
            (Value::Null, _) => return None,
            (value, _) => value.clone(),
        };
        Some((key.to_owned(), value))
    });
    format!("k:{}", Value::Object(pairs.collect::<Map<_, _>>()))
}

fn value_key(value: &Value) -> String {
    format!("v:{value}")
}

/// All that an object holds.
pub(super) fn fields(node: Node, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    match (node, value) {
        (Node::Items(keys, field), Value::Array(items)) => {
            for item in items {
                let mut child = fields(Node::value(field), item);
                child.member = true;
                set.children.insert(item_key(keys, item), child);
            }
        }
        (Node::Set, Value::Array(items)) => {
            set.children.extend(items.iter().map(|item| (value_key(item), FieldSet::leaf())));
        }
        (node, Value::Object(map)) if node.granular() => {
            for (key, value) in map.iter().filter(|(_, value)| !value.is_null()) {
                set.children.insert(format!("f:{key}"), fields(node.child(key), value));
            }
        }
        _ => return FieldSet::leaf(),
    }
    // What is empty is owned itself.
    set.member = set.children.is_empty();
    set
}

/// `live` with `applied` on top.
pub(super) fn merge(node: Node, live: &Value, applied: &Value) -> Value {
    match (node, live, applied) {
        (Node::Items(keys, field), Value::Array(live), Value::Array(applied)) => {
            let find = |list: &[Value], key: &str| list.iter().position(|item| item_key(keys, item) == key);
            let merged = applied.iter().map(|item| {
                let at = find(live, &item_key(keys, item));
                (at, at.map_or_else(|| item.clone(), |at| merge(Node::value(field), &live[at], item)))
            });
            let rest = live.iter().enumerate().filter(|(_, item)| find(applied, &item_key(keys, item)).is_none());
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
                merged.insert(key.clone(), merge(node.child(key), there, value));
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
pub(super) fn prune(node: Node, value: &mut Value, gone: &FieldSet, kept: &FieldSet) {
    let nothing = FieldSet::default();
    let fate = |key: &str| gone.children.get(key).map(|gone| (gone, kept.children.get(key).unwrap_or(&nothing)));
    // A branch goes as a whole if nobody keeps anything in it.
    let goes = |gone: &FieldSet, kept: &FieldSet| gone.member && kept.is_empty();
    match (node, value) {
        (Node::Items(keys, field), Value::Array(items)) => items.retain_mut(|item| match fate(&item_key(keys, item)) {
            Some((gone, kept)) if goes(gone, kept) => false,
            Some((gone, kept)) => {
                prune(Node::value(field), item, gone, kept);
                true
            }
            None => true,
        }),
        (Node::Set, Value::Array(items)) => items.retain(|item| fate(&value_key(item)).is_none()),
        (node, Value::Object(map)) if node.granular() => {
            let keys: Vec<String> = map.keys().cloned().collect();
            for key in keys {
                let Some((gone, kept)) = fate(&format!("f:{key}")) else { continue };
                if goes(gone, kept) {
                    map.remove(&key);
                } else if let Some(value) = map.get_mut(&key) {
                    prune(node.child(&key), value, gone, kept);
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

/// What is new or different, and what is no longer there.
pub(super) fn compare(node: Node, old: &Value, new: &Value) -> (FieldSet, FieldSet) {
    let (mut changed, mut removed) = (FieldSet::default(), FieldSet::default());
    if old == new {
        return (changed, removed);
    }
    let mut visit = |key: String, node: Node, old: Option<&Value>, new: Option<&Value>| {
        let (more, less) = match (old, new) {
            (Some(old), Some(new)) => compare(node, old, new),
            (None, Some(new)) => {
                let mut all = fields(node, new);
                all.member |= key.starts_with("k:") || matches!(node, Node::Map(_));
                (all, FieldSet::default())
            }
            (Some(old), None) => {
                let mut all = fields(node, old);
                all.member |= key.starts_with("k:") || matches!(node, Node::Map(_));
                (FieldSet::default(), all)
            }
            (None, None) => return,
        };
        changed.children.insert(key.clone(), more);
        removed.children.insert(key, less);
    };
    match (node, old, new) {
        (Node::Items(keys, field), Value::Array(old), Value::Array(new)) => {
            let find = |list: &'_ [Value], key: &str| list.iter().position(|item| item_key(keys, item) == key);
            for item in new {
                let key = item_key(keys, item);
                let before = find(old, &key).map(|at| &old[at]);
                visit(key, Node::value(field), before, Some(item));
            }
            for item in old.iter().filter(|item| find(new, &item_key(keys, item)).is_none()) {
                visit(item_key(keys, item), Node::value(field), Some(item), None);
            }
        }
        (Node::Set, Value::Array(old), Value::Array(new)) => {
            new.iter().filter(|item| !old.contains(item)).for_each(|i| visit(value_key(i), Node::Leaf, None, Some(i)));
            old.iter().filter(|item| !new.contains(item)).for_each(|i| visit(value_key(i), Node::Leaf, Some(i), None));
        }
        (node, Value::Object(old), Value::Object(new)) if node.granular() => {
            for (key, value) in new {
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
