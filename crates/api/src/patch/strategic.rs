//! Strategic merge patch: a merge patch whose lists merge item by item where the schema names a merge key.
//!
//! Directives inside the patch refine it:
//!
//! | key | meaning |
//! |---|---|
//! | `$patch: replace` | this map (or the list around this item) replaces what is there |
//! | `$patch: delete` | this map, or the item with this key, goes |
//! | `$retainKeys: [a, b]` | all other keys of the map go |
//! | `$deleteFromPrimitiveList/x: [..]` | these values leave the list `x` |
//! | `$setElementOrder/x: [..]` | the order of list `x` afterwards |
//!
//! Source: `docs/concepts/.../update-api-object-kubectl-patch` and the design proposal
//! "Preserve order in strategic merge patch".

use serde_json::{Map, Value, json};

use super::does_not_apply;
use crate::schema::{Field, Shape, Type};
use crate::status::{ApiError, ApiResult};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Applies a strategic merge patch to an object of type `ty`.
///
/// # Errors
/// 400 for a malformed patch, 422 for one that does not fit.
pub fn apply(object: &mut Value, patch: &Value, ty: &'static Type) -> ApiResult<()> {
    if !object.is_object() {
        *object = json!({});
    }
    merge_map(object, patch, Some(ty))
}

/// `target` and `patch` are objects.
fn merge_map(target: &mut Value, patch: &Value, ty: Option<&'static Type>) -> ApiResult<()> {
    let (Some(map), Some(patch)) = (target.as_object_mut(), patch.as_object()) else { return Err(does_not_apply()) };
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        Some("replace") => {
            *map = patch.clone();
            map.remove(DIRECTIVE);
            return Ok(());
        }
        Some("delete") => {
            map.clear();
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(ApiError::bad_request(format!("unknown patch type: {other}"))),
    }
    let orders = orders(map, patch)?;
    retain_keys(map, patch)?;
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        let field = ty.and_then(|ty| ty.field(key));
        merge_field(map, key, value, field)?;
    }
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE_FROM) {
            delete_values(map, list, value)?;
        }
    }
    for (list, order, original) in orders {
        let merge_key = ty.and_then(|ty| ty.field(list)).and_then(Field::patch_merge_key).unwrap_or_default();
        if let Some(items) = map.get_mut(list).and_then(Value::as_array_mut) {
            set_order(items, order, &original, merge_key);
        }
    }
    Ok(())
}

/// A list's name, the order it is to have, and its items before the patch.
type ListOrder<'a> = (&'a str, &'a [Value], Vec<Value>);

/// The lists whose order the patch sets.
fn orders<'a>(map: &Map<String, Value>, patch: &'a Map<String, Value>) -> ApiResult<Vec<ListOrder<'a>>> {
    let named = patch.iter().filter_map(|(key, order)| key.strip_prefix(SET_ORDER).map(|list| (list, order)));
    named
        .map(|(list, order)| {
            let order = order.as_array().ok_or_else(|| bad_format("setElementOrder list"))?;
            let original = map.get(list).and_then(Value::as_array).cloned().unwrap_or_default();
            Ok((list, order.as_slice(), original))
        })
        .collect()
}

fn merge_field(map: &mut Map<String, Value>, key: &str, value: &Value, field: Option<&Field>) -> ApiResult<()> {
    if value.is_null() {
        map.remove(key);
        return Ok(());
    }
    let ty = field.filter(|f| matches!(f.shape, Shape::One | Shape::List)).and_then(Field::message);
    match (map.get_mut(key), value) {
        (Some(there @ Value::Object(_)), Value::Object(_)) if !field.is_some_and(Field::patch_replaces) => {
            merge_map(there, value, ty)
        }
        (Some(Value::Array(there)), Value::Array(patch)) => match field.and_then(Field::patch_merge_key) {
            Some(merge_key) => merge_list(there, patch, merge_key, ty),
            None => {
                *there = strip_list(patch);
                Ok(())
            }
        },
        _ => {
            map.insert(key.to_owned(), strip(value));
            Ok(())
        }
    }
}

/// A value that nothing is there to merge with: without nulls, directives, and items that only delete.
fn strip(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(key, value)| !value.is_null() && !key.starts_with('$'));
            Value::Object(kept.map(|(key, value)| (key.clone(), strip(value))).collect())
        }
        Value::Array(items) => Value::Array(strip_list(items)),
        other => other.clone(),
    }
}

fn strip_list(items: &[Value]) -> Vec<Value> {
    let directive = |item: &Value| item.get(DIRECTIVE).is_some_and(|d| d == "delete" || d == "replace");
    items.iter().filter(|item| !(directive(item))).map(strip).collect()
}

fn retain_keys(map: &mut Map<String, Value>, patch: &Map<String, Value>) -> ApiResult<()> {
    let Some(keep) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let keep: Vec<&str> =
        keep.as_array().ok_or_else(|| bad_format("retainKeys list"))?.iter().filter_map(Value::as_str).collect();
    let strange =
        patch.iter().any(|(key, value)| !key.starts_with('$') && !value.is_null() && !keep.contains(&key.as_str()));
    if strange {
        return Err(bad_format("retainKeys list"));
    }
    map.retain(|key, _| keep.contains(&key.as_str()));
    Ok(())
}

fn bad_format(what: &str) -> ApiError {
    ApiError::bad_request(format!("Invalid patch format of {what}"))
}

fn delete_values(map: &mut Map<String, Value>, list: &str, values: &Value) -> ApiResult<()> {
    let values = values.as_array().ok_or_else(|| bad_format("primitive list"))?;
    if let Some(items) = map.get_mut(list).and_then(Value::as_array_mut) {
        items.retain(|item| !values.contains(item));
    }
    Ok(())
}

/// Merges items by key; scalars (an empty key) are added if missing.
fn merge_list(list: &mut Vec<Value>, patch: &[Value], key: &str, ty: Option<&'static Type>) -> ApiResult<()> {
    if key.is_empty() {
        for item in patch {
            if !list.contains(item) {
                list.push(item.clone());
            }
        }
        return Ok(());
    }
    let directive = |item: &Value| item.get(DIRECTIVE).and_then(Value::as_str).map(str::to_owned);
    if patch.iter().any(|item| directive(item).as_deref() == Some("replace")) {
        *list = strip_list(patch);
        return Ok(());
    }
    for item in patch {
        if !item.is_object() {
            return Err(does_not_apply());
        }
        let id = item.get(key).ok_or_else(does_not_apply)?;
        let same = |other: &Value| other.get(key) == Some(id);
        match (directive(item).as_deref(), list.iter_mut().find(|other| same(other))) {
            (Some("delete"), _) => list.retain(|other| !same(other)),
            (_, Some(there)) => merge_map(there, item, ty)?,
            (_, None) => list.push(strip(item)),
        }
    }
    Ok(())
}

/// Puts the items that `order` names into that order. The others, which only the server has, stay before those that
/// they stood before in `original`; where that says nothing, the named come first.
fn set_order(items: &mut Vec<Value>, order: &[Value], original: &[Value], key: &str) {
    let same = |a: &Value, b: &Value| if key.is_empty() { a == b } else { a.get(key) == b.get(key) };
    let place = |item: &Value, list: &[Value]| list.iter().position(|other| same(item, other));
    let (mut named, rest): (Vec<Value>, Vec<Value>) =
        std::mem::take(items).into_iter().partition(|item| place(item, order).is_some());
    named.sort_by_key(|item| place(item, order));
    let mut named = named.into_iter().peekable();
    let mut rest = rest.into_iter().peekable();
    while let (Some(a), Some(b)) = (named.peek(), rest.peek()) {
        let server_first = place(a, original).zip(place(b, original)).is_some_and(|(a, b)| b < a);
        items.extend(if server_first { rest.next() } else { named.next() });
    }
    items.extend(named);
    items.extend(rest);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::schema::type_of;

    fn pod_spec(object: Value, patch: Value) -> Value {
        let mut object = object;
        apply(&mut object, &patch, type_of("core.v1.PodSpec").unwrap()).unwrap();
        object
    }

    #[test]
    fn the_shapes_that_kubectl_sends() {
        for (what, object, patch, result) in [
            (
                "set image",
                json!({"containers": [{"name": "a", "image": "1", "tty": true}, {"name": "b", "image": "1"}]}),
                json!({"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}],
                       "containers": [{"name": "b", "image": "2"}]}),
                json!({"containers": [{"name": "a", "image": "1", "tty": true}, {"name": "b", "image": "2"}]}),
            ),
            (
                "a new container in its place",
                json!({"containers": [{"name": "a"}, {"name": "c"}]}),
                json!({"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}],
                       "containers": [{"name": "b", "image": "2"}]}),
                json!({"containers": [{"name": "a"}, {"name": "b", "image": "2"}, {"name": "c"}]}),
            ),
            (
                "delete an item",
                json!({"containers": [{"name": "a"}, {"name": "b"}]}),
                json!({"containers": [{"$patch": "delete", "name": "a"}]}),
                json!({"containers": [{"name": "b"}]}),
            ),
            (
                "a sidecar that only the server knows keeps its place",
                json!({"containers": [{"name": "a"}, {"name": "sidecar"}, {"name": "b"}]}),
                json!({"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}],
                       "containers": [{"name": "a", "image": "x"}]}),
                json!({"containers": [{"name": "a", "image": "x"}, {"name": "sidecar"}, {"name": "b"}]}),
            ),
            (
                "another volume source",
                json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
                json!({"volumes": [{"$retainKeys": ["name", "hostPath"], "name": "v", "hostPath": {"path": "/x"}}]}),
                json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
            ),
            (
                "replace a list",
                json!({"containers": [{"name": "a"}, {"name": "b"}]}),
                json!({"containers": [{"name": "c"}, {"$patch": "replace"}]}),
                json!({"containers": [{"name": "c"}]}),
            ),
            (
                "replace and delete maps",
                json!({"nodeSelector": {"a": "1"}, "securityContext": {"runAsUser": 1}}),
                json!({"nodeSelector": {"$patch": "replace", "b": "2"}, "securityContext": {"$patch": "delete"}}),
                json!({"nodeSelector": {"b": "2"}, "securityContext": {}}),
            ),
            (
                "lists without a merge key are replaced",
                json!({"tolerations": [{"key": "a"}]}),
                json!({"tolerations": [{"key": "b"}]}),
                json!({"tolerations": [{"key": "b"}]}),
            ),
            (
                "null deletes, also inside something new",
                json!({"hostname": "x"}),
                json!({"hostname": null, "dnsConfig": {"searches": null, "nameservers": ["1.1.1.1"]}}),
                json!({"dnsConfig": {"nameservers": ["1.1.1.1"]}}),
            ),
            (
                "env by name",
                json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "1"}]}]}),
                json!({"containers": [{"name": "a", "$setElementOrder/env": [{"name": "Y"}, {"name": "X"}],
                                       "env": [{"name": "X", "value": "2"}]}]}),
                json!({"containers": [{"name": "a", "env": [{"name": "Y", "value": "1"}, {"name": "X", "value": "2"}]}]}),
            ),
        ] {
            assert_eq!(pod_spec(object, patch), result, "{what}");
        }
    }

    #[test]
    fn finalizers_are_scalars_that_merge() {
        let mut object = json!({"metadata": {"finalizers": ["a/1", "b/1"], "labels": {"x": "1"}}});
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/1"], "finalizers": ["c/1", "b/1"],
                                        "labels": {"y": "2"}}});
        apply(&mut object, &patch, type_of("core.v1.Pod").unwrap()).unwrap();
        assert_eq!(object, json!({"metadata": {"finalizers": ["b/1", "c/1"], "labels": {"x": "1", "y": "2"}}}));
    }

    #[test]
    fn a_strategy_type_change_drops_what_belongs_to_the_other() {
        let mut object = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        apply(&mut object, &patch, type_of("apps.v1.Deployment").unwrap()).unwrap();
        assert_eq!(object, json!({"spec": {"strategy": {"type": "Recreate"}}}));
    }

    #[test]
    fn malformed_patches_are_refused() {
        let ty = type_of("core.v1.PodSpec").unwrap();
        for (patch, code) in [
            (json!({"$patch": "explode"}), 400),
            (json!({"containers": [{"image": "x"}]}), 422),
            (json!({"containers": ["x"]}), 422),
            (json!({"$retainKeys": ["a"], "hostname": "x"}), 400),
        ] {
            let mut object = json!({"containers": [{"name": "a"}]});
            assert_eq!(apply(&mut object, &patch, ty).unwrap_err().code, code, "{patch}");
        }
    }

    /// The strategic patch that makes `new` of `old`, as kubectl makes it.
    fn diff(old: &Value, new: &Value, ty: &'static Type) -> Value {
        let mut patch = Map::new();
        let (old, new) = (old.as_object().unwrap(), new.as_object().unwrap());
        for key in old.keys().filter(|key| !new.contains_key(*key)) {
            patch.insert(key.clone(), Value::Null);
        }
        for (key, value) in new.iter().filter(|(key, value)| old.get(*key) != Some(value)) {
            let field = ty.field(key).unwrap();
            match (old.get(key), value) {
                (Some(before @ Value::Object(_)), Value::Object(_)) if field.message().is_some() => {
                    patch.insert(key.clone(), diff(before, value, field.message().unwrap()));
                }
                (Some(Value::Object(before)), Value::Object(after)) => {
                    let gone = before.keys().filter(|k| !after.contains_key(*k)).map(|k| (k.clone(), Value::Null));
                    patch.insert(key.clone(), after.clone().into_iter().chain(gone).collect());
                }
                (Some(Value::Array(before)), Value::Array(after)) => match field.patch_merge_key() {
                    None => drop(patch.insert(key.clone(), value.clone())),
                    Some("") => {
                        let gone: Vec<_> = before.iter().filter(|item| !after.contains(item)).cloned().collect();
                        patch.insert(format!("{DELETE_FROM}{key}"), gone.into());
                        patch.insert(format!("{SET_ORDER}{key}"), value.clone());
                        patch.insert(key.clone(), value.clone());
                    }
                    Some(merge_key) => {
                        let at = |list: &[Value], id: &Value| list.iter().find(|item| &item[merge_key] == id).cloned();
                        let mut items: Vec<Value> = Vec::new();
                        for item in after {
                            let id = &item[merge_key];
                            let mut change = at(before, id)
                                .map_or(item.clone(), |before| diff(&before, item, field.message().unwrap()));
                            change[merge_key] = id.clone();
                            items.push(change);
                        }
                        for item in before.iter().filter(|item| at(after, &item[merge_key]).is_none()) {
                            items.push(json!({ DIRECTIVE: "delete", merge_key: item[merge_key] }));
                        }
                        let order = after.iter().map(|item| json!({ merge_key: item[merge_key] })).collect();
                        patch.insert(format!("{SET_ORDER}{key}"), order);
                        patch.insert(key.clone(), items.into());
                    }
                },
                _ => drop(patch.insert(key.clone(), value.clone())),
            }
        }
        patch.into()
    }

    fn pod() -> impl Strategy<Value = Value> {
        let env = proptest::collection::btree_map("[A-D]", "[a-c]", 1..4).prop_map(|env| {
            env.into_iter().rev().map(|(name, value)| json!({"name": name, "value": value})).collect::<Value>()
        });
        let args = proptest::collection::vec("[a-c]", 1..3);
        let container =
            (proptest::option::of(env), proptest::option::of(args), "[x-z]").prop_map(|(env, args, image)| {
                let mut container = json!({"image": image});
                if let Some(env) = env {
                    container["env"] = env;
                }
                if let Some(args) = args {
                    container["args"] = args.into();
                }
                container
            });
        let containers = proptest::collection::vec(("[a-d]", container), 1..4);
        let finalizers = proptest::collection::btree_set("[a-c]", 1..4);
        let labels = proptest::collection::btree_map("[a-c]", "[x-z]", 1..3);
        (proptest::option::of(labels), proptest::option::of(finalizers), containers, proptest::option::of("[h-i]"))
            .prop_map(|(labels, finalizers, containers, host)| {
                let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": []}});
                let list = pod["spec"]["containers"].as_array_mut().unwrap();
                for (name, mut container) in containers {
                    if list.iter().all(|other| other["name"] != name.as_str()) {
                        container["name"] = name.into();
                        list.push(container);
                    }
                }
                for (field, value) in
                    [("labels", labels.map(|l| json!(l))), ("finalizers", finalizers.map(|f| json!(f)))]
                {
                    if let Some(value) = value {
                        pod["metadata"][field] = value;
                    }
                }
                if let Some(host) = host {
                    pod["spec"]["hostname"] = host.into();
                }
                pod
            })
    }

    proptest! {
        #[test]
        fn a_patch_made_of_a_difference_makes_the_target(old in pod(), new in pod()) {
            let ty = type_of("core.v1.Pod").unwrap();
            let mut object = old.clone();
            apply(&mut object, &diff(&old, &new, ty), ty).unwrap();
            prop_assert_eq!(object, new);
        }

        #[test]
        fn set_element_order_orders_what_it_names(live in proptest::collection::btree_set(0..9_u8, 0..6), order in proptest::collection::btree_set(0..9_u8, 0..6)) {
            let named = |set: &std::collections::BTreeSet<u8>| -> Vec<Value> { set.iter().rev().map(|i| json!({"name": i.to_string()})).collect() };
            let order = named(&order);
            let merged = pod_spec(json!({"containers": named(&live)}), json!({"$setElementOrder/containers": order, "containers": order}));
            let names: Vec<&Value> = merged["containers"].as_array().unwrap().iter().collect();
            let kept: Vec<&Value> = names.iter().copied().filter(|item| order.contains(item)).collect();
            prop_assert_eq!(kept, order.iter().collect::<Vec<_>>());
            let all = live.iter().all(|i| names.contains(&&json!({"name": i.to_string()})));
            prop_assert!(all);
        }
    }
}
