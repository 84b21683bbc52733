//! Server-side apply: who owns which field, and what happens when two want the same.
//!
//! An applier sends the fields it has an opinion on. The object becomes the live one merged with those; fields it
//! sent last time and no longer sends go, unless somebody else owns them too; a field that somebody else owns and
//! that would change is a conflict, unless the applier forces. Who owns what is written in
//! `metadata.managedFields`, as sets of paths ([`FieldSet`], the `FieldsV1` format): what an applier sent, and what
//! any other write changed.
//!
//! An object whose `managedFields` somebody cleared carries none until the next apply; then all it holds belongs to
//! the manager `before-first-apply`.
//!
//! Source: KEP-555 and `sigs.k8s.io/structured-merge-diff`.

mod client_side;
mod set;
mod versions;
mod walk;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::decode::normalise;
use crate::status::{ApiError, ApiResult};
pub use set::FieldSet;
use versions::Difference;
pub use versions::{Versions, View};
use walk::Node;
pub use walk::Typing;

/// Who writes.
#[derive(Clone, Copy, Debug)]
pub struct Manager<'a> {
    /// The `fieldManager` parameter.
    pub name: &'a str,
    /// The subresource written through; empty for the object itself.
    pub subresource: &'a str,
    /// Whether the kind's `status` is a subresource.
    pub split: bool,
}

/// The version of what is written through `scale`.
const SCALE: &str = "autoscaling/v1";
/// The one field of it that is anybody's.
const REPLICAS: &str = ".spec.replicas";
/// Owns what an object held before anybody applied to it.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// Owns what the oldest of too many writers changed.
const ANCIENT: &str = "ancient-changes";
/// How many writers other than appliers an object remembers.
const MAX_UPDATERS: usize = 10;

/// Metadata that nobody owns: it identifies the object or is the server's.
const UNOWNED: [&str; 9] = [
    "f:name",
    "f:namespace",
    "f:creationTimestamp",
    "f:deletionTimestamp",
    "f:uid",
    "f:generation",
    "f:managedFields",
    "f:resourceVersion",
    "f:selfLink",
];

/// One entry of `managedFields`, as it is stored.
#[derive(Clone, Debug)]
struct Entry(Value);

impl Entry {
    fn new(manager: Manager<'_>, operation: &str, api_version: &str, fields: &FieldSet) -> Entry {
        let mut value = json!({
            "manager": if manager.name.is_empty() { "unknown" } else { manager.name },
            "operation": operation,
            "apiVersion": api_version,
            "time": coracle_clock::now_seconds().to_string(),
            "fieldsType": "FieldsV1",
            "fieldsV1": fields.to_json(),
        });
        if !manager.subresource.is_empty() {
            value["subresource"] = manager.subresource.into();
        }
        Entry(value)
    }

    /// One that a client sent, with what belongs into it and nothing else.
    fn read(value: &Value) -> Entry {
        let mut entry =
            json!({ "fieldsType": "FieldsV1", "fieldsV1": FieldSet::from_json(&value["fieldsV1"]).to_json() });
        for key in ["manager", "operation", "apiVersion", "time"] {
            entry[key] = value[key].as_str().unwrap_or_default().into();
        }
        if let Some(subresource) = value["subresource"].as_str().filter(|text| !text.is_empty()) {
            entry["subresource"] = subresource.into();
        }
        Entry(entry)
    }

    fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_default()
    }

    fn manager(&self) -> &str {
        self.text("manager")
    }

    fn operation(&self) -> &str {
        self.text("operation")
    }

    fn api_version(&self) -> &str {
        self.text("apiVersion")
    }

    fn subresource(&self) -> &str {
        self.text("subresource")
    }

    fn time(&self) -> &str {
        self.text("time")
    }

    fn fields(&self) -> FieldSet {
        FieldSet::from_json(&self.0["fieldsV1"])
    }

    fn is_empty(&self) -> bool {
        self.0["fieldsV1"].as_object().is_none_or(Map::is_empty)
    }

    /// Whether it can be taken from a client.
    fn is_valid(&self) -> bool {
        matches!(self.operation(), "Apply" | "Update") && !self.api_version().is_empty()
    }

    /// Whether two entries are one manager's. What an applier sends in another version replaces what it sent before.
    fn same(&self, other: &Entry) -> bool {
        let same = |key: &str| self.text(key) == other.text(key);
        ["manager", "subresource", "operation"].into_iter().all(same)
            && (self.operation() == "Apply" || self.api_version() == other.api_version())
    }

    /// Takes from it what is different now.
    fn lose(&mut self, differences: &BTreeMap<String, Difference>) {
        if let Some((changed, removed)) = differences.get(self.api_version()) {
            set::subtract(&mut self.0["fieldsV1"], changed);
            set::subtract(&mut self.0["fieldsV1"], removed);
        }
    }

    /// How a conflict of `manager` names the owner: who scales sees its kind alone.
    fn title(&self, manager: Manager<'_>) -> String {
        let mut title = format!("{:?}", self.manager());
        if !self.subresource().is_empty() {
            title.push_str(&format!(" with subresource {:?}", self.subresource()));
        }
        if self.operation() == "Update" {
            let version = if manager.subresource == "scale" { SCALE } else { self.api_version() };
            title.push_str(&format!(" using {version}"));
        }
        title
    }
}

fn list(object: &Value) -> &[Value] {
    object["metadata"]["managedFields"].as_array().map_or(&[], Vec::as_slice)
}

/// What is stored.
fn entries(object: &Value) -> Vec<Entry> {
    list(object).iter().cloned().map(Entry).collect()
}

/// Writes the entries: appliers first, then by time.
fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.is_empty());
    let key = |entry: &'_ Entry| {
        ["operation", "time", "manager", "apiVersion", "subresource"].map(|key| entry.text(key).to_owned())
    };
    if entries.len() > 1 {
        entries.sort_by_cached_key(key);
    }
    let list: Vec<Value> = entries.into_iter().map(|entry| entry.0).collect();
    let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if list.is_empty() {
        meta.remove("managedFields");
    } else {
        meta.insert("managedFields".into(), list.into());
    }
}

/// Takes out what nobody owns.
fn owned(mut set: FieldSet) -> FieldSet {
    for key in ["f:apiVersion", "f:kind"] {
        set.children.remove(key);
    }
    if let Some(meta) = set.children.get_mut("f:metadata") {
        meta.member = false;
        for key in UNOWNED {
            meta.children.remove(key);
        }
    }
    set.tidy();
    set
}

fn without_managed_fields(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
    object
}

/// Takes out what a write through this (sub)resource cannot change: `status` belongs to its subresource alone, which
/// changes nothing else but metadata. `split`: whether the kind has that subresource.
fn reachable(mut set: FieldSet, subresource: &str, split: bool) -> FieldSet {
    match subresource {
        "status" => set.children.retain(|key, _| matches!(key.as_str(), "f:status" | "f:metadata")),
        "" if split => drop(set.children.remove("f:status")),
        _ => {}
    }
    set
}

/// What a write through this manager may own of all that is in a set.
fn claimed(set: FieldSet, manager: Manager<'_>) -> FieldSet {
    owned(reachable(set, manager.subresource, manager.split))
}

/// What of a configuration cannot be applied: items of lists without their key, or twice with one.
pub fn flaws(applied: &Value, typing: Typing<'_>) -> Vec<String> {
    let mut found = Vec::new();
    walk::flaws(Node::root(typing), applied, "", &mut found);
    found
}

/// Applies a configuration: the object that results, its `managedFields` brought up to date. `live` is what is
/// stored, or nothing if the object is made by this. If nothing changes, what comes out equals `live`.
///
/// # Errors
/// 409 with a cause for each conflict, unless `force`; 400 if the configuration brings `managedFields` along.
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    versions: Versions<'_>,
    manager: Manager<'_>,
    force: bool,
) -> ApiResult<Value> {
    if applied["metadata"]["managedFields"].as_array().is_some_and(|list| !list.is_empty()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let node = Node::root(versions.typing);
    let empty = json!({});
    let old = live.map_or_else(|| empty.clone(), without_managed_fields);
    let mut managers = live.map(entries).unwrap_or_default();
    let api_version = applied["apiVersion"].as_str().unwrap_or_default();
    if live.is_some() && managers.is_empty() {
        let before = Manager { name: BEFORE_FIRST_APPLY, subresource: "", split: false };
        let all = walk::compare(node, &empty, &old).0;
        managers.push(Entry::new(before, "Update", api_version, &claimed(all, before)));
    }
    let wanted = claimed(walk::fields(node, applied, false), manager);
    let mine = Entry::new(manager, "Apply", api_version, &wanted);
    let (last, mut others): (Vec<Entry>, Vec<Entry>) = managers.into_iter().partition(|entry| entry.same(&mine));
    let last = last.into_iter().next();

    let mut new = walk::merge(node, &old, applied);
    if let Some(last) = &last {
        let owners: Vec<&Entry> = others.iter().chain([&mine]).collect();
        new = versions.without(new, last, &owners);
    }
    let differences = versions.differences(&mut others, &old, &new, walk::compare(node, &old, &new));
    if !force {
        let allowed = if manager.name == client_side::KUBECTL { client_side::last_applied(node, &old) } else { None };
        conflicts(&others, &differences, &allowed.unwrap_or_default(), manager)?;
    }
    if manager.name == client_side::KUBECTL {
        client_side::follow(&mut new, applied);
    }
    if let Typing::Known(ty) = versions.typing {
        // The configuration was decoded as it was sent; the object is as Go writes it.
        normalise(ty, &mut new, &mut Vec::new()).map_err(ApiError::bad_request)?;
    }
    if old == new && last.is_some_and(|last| last.fields() == wanted && last.api_version() == api_version) {
        return Ok(live.unwrap_or(&empty).clone());
    }
    for entry in &mut others {
        entry.lose(&differences);
    }
    others.push(mine);
    write(&mut new, others);
    Ok(new)
}

/// `live` with a configuration on top, merged as [`apply`] merges, without any ownership.
pub fn merge(live: &Value, configuration: &Value, typing: Typing<'_>) -> Value {
    walk::merge(Node::root(typing), live, configuration)
}

/// 409 if others own what changes, except for what is allowed to change.
fn conflicts(
    others: &[Entry],
    differences: &BTreeMap<String, Difference>,
    allowed: &FieldSet,
    manager: Manager<'_>,
) -> ApiResult<()> {
    let changed = |entry: &Entry| differences.get(entry.api_version()).map(|(changed, _)| changed.difference(allowed));
    let mut found: Vec<(String, Vec<String>)> = others
        .iter()
        .filter_map(|entry| Some((entry.title(manager), entry.fields().intersection(&changed(entry)?).paths())))
        .filter(|(_, paths)| !paths.is_empty())
        // Wherever the object has its number, a Scale has it there.
        .map(|(title, paths)| (title, if manager.subresource == "scale" { vec![REPLICAS.into()] } else { paths }))
        .collect();
    found.sort();
    let causes: Vec<Value> = found
        .iter()
        .flat_map(|(title, paths)| paths.iter().map(move |path| (title, path)))
        .map(|(title, path)| {
            json!({ "reason": "FieldManagerConflict", "message": format!("conflict with {title}"), "field": path })
        })
        .collect();
    let text = match (causes.len(), found.first()) {
        (0, _) | (_, None) => return Ok(()),
        (1, Some((title, paths))) => format!("1 conflict: conflict with {title}: {}", paths.join("")),
        (count, _) => {
            let each = found.iter().map(|(title, paths)| format!("conflicts with {title}:\n- {}", paths.join("\n- ")));
            format!("{count} conflicts: {}", each.collect::<Vec<_>>().join("\n"))
        }
    };
    let mut error = ApiError::conflict("", "", "", "");
    error.message = format!("Apply failed with {text}");
    error.details = json!({ "causes": causes });
    Err(error)
}

/// Whether the writer asks for `managedFields` to be forgotten: one empty entry.
fn resets(object: &Value) -> bool {
    object["metadata"]["managedFields"] == json!([{}])
}

/// Keeps the books when an object is written otherwise than by apply: what changed is the writer's now. `old` is what
/// was stored, or nothing for a new object. A writer may set `managedFields` itself, though not through a subresource.
pub fn track_update(old: Option<&Value>, new: &mut Value, versions: Versions<'_>, manager: Manager<'_>) {
    let stored = |old: Option<&Value>| old.map(entries).unwrap_or_default();
    let mut managers = match old {
        Some(_) if manager.subresource.is_empty() && resets(new) => Vec::new(),
        Some(old) if !manager.subresource.is_empty() || list(new) == list(old) => entries(old),
        old => {
            let given: Vec<Entry> = list(new).iter().map(Entry::read).collect();
            if given.iter().any(Entry::is_valid) { given } else { stored(old) }
        }
    };
    if old.is_some() && managers.is_empty() {
        write(new, Vec::new());
        return;
    }
    let node = Node::root(versions.typing);
    let nothing = json!({});
    let before = old.unwrap_or(&nothing);
    let (changed, removed) = walk::compare(node, before, new);
    let changed = claimed(changed, manager);
    let own = (changed.clone(), owned(removed));
    let differences = versions.differences(&mut managers, before, new, own);
    for entry in &mut managers {
        entry.lose(&differences);
    }
    managers.retain(|entry| !entry.is_empty());
    if !changed.is_empty() {
        let api_version = new["apiVersion"].as_str().unwrap_or_default();
        let mut mine = Entry::new(manager, "Update", api_version, &changed);
        if let Some(at) = managers.iter().position(|entry| entry.same(&mine)) {
            let mut fields = managers.swap_remove(at).0["fieldsV1"].take();
            set::add(&mut fields, &changed);
            mine.0["fieldsV1"] = fields;
        }
        managers.push(mine);
    }
    write(new, capped(managers));
}

/// At most [`MAX_UPDATERS`] entries of updates: the oldest of each version become one.
fn capped(entries: Vec<Entry>) -> Vec<Entry> {
    if entries.len() <= MAX_UPDATERS {
        return entries;
    }
    let (mut updaters, mut kept): (Vec<Entry>, Vec<Entry>) =
        entries.into_iter().partition(|entry| entry.operation() == "Update");
    updaters.sort_by(|a, b| (a.time(), a.manager()).cmp(&(b.time(), b.manager())));
    while updaters.len() > MAX_UPDATERS {
        let oldest = updaters.remove(0);
        let Some(next) = updaters.iter_mut().find(|entry| entry.api_version() == oldest.api_version()) else {
            kept.push(oldest); // the only one of its version
            continue;
        };
        next.0["manager"] = ANCIENT.into();
        if let Some(next) = next.0.as_object_mut() {
            next.remove("subresource");
        }
        set::add(&mut next.0["fieldsV1"], &oldest.fields());
    }
    kept.append(&mut updaters);
    kept
}

#[cfg(test)]
mod tests;
