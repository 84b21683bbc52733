//! Server-side apply: who owns which field, and what happens when two want the same.
//!
//! An applier sends the fields it has an opinion on. The object becomes the live one merged with those; fields it
//! sent last time and no longer sends go, unless somebody else owns them too; a field that somebody else owns and
//! that would change is a conflict, unless the applier forces. Who owns what is written in
//! `metadata.managedFields`, as sets of paths ([`FieldSet`], the `FieldsV1` format).
//!
//! Objects that nobody ever applied carry no `managedFields`, which keeps them half as large. On the first apply all
//! they hold belongs to the manager `before-first-apply`, a name that kubectl knows how to take over from.
//!
//! Source: KEP-555 and `sigs.k8s.io/structured-merge-diff`.

mod set;
mod walk;

use serde_json::{Map, Value, json};

use crate::schema::Type;
use crate::status::{ApiError, ApiResult};
pub use set::FieldSet;
use walk::Node;

/// Who writes.
#[derive(Clone, Copy, Debug)]
pub struct Manager<'a> {
    /// The `fieldManager` parameter.
    pub name: &'a str,
    /// The subresource written through; empty for the object itself.
    pub subresource: &'a str,
}

/// Owns what an object held before anybody applied to it.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

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

/// One entry of `managedFields`, decoded.
#[derive(Clone, Debug)]
struct Entry {
    manager: String,
    operation: String,
    api_version: String,
    subresource: String,
    time: String,
    fields: FieldSet,
}

impl Entry {
    fn read(value: &Value) -> Entry {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        Entry {
            manager: text("manager"),
            operation: text("operation"),
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            fields: FieldSet::from_json(&value["fieldsV1"]),
        }
    }

    fn to_value(&self) -> Value {
        let mut value = json!({
            "manager": self.manager, "operation": self.operation, "apiVersion": self.api_version,
            "time": self.time, "fieldsType": "FieldsV1", "fieldsV1": self.fields.to_json(),
        });
        if !self.subresource.is_empty() {
            value["subresource"] = self.subresource.as_str().into();
        }
        value
    }

    fn is(&self, manager: Manager<'_>, operation: &str) -> bool {
        self.manager == manager.name && self.subresource == manager.subresource && self.operation == operation
    }

    /// How a conflict names the owner.
    fn title(&self) -> String {
        match (self.operation.as_str(), self.subresource.as_str()) {
            ("Apply", _) => format!("{:?}", self.manager),
            (_, "") => format!("{:?} using {}", self.manager, self.api_version),
            (_, subresource) => {
                format!("{:?} with subresource {subresource:?} using {}", self.manager, self.api_version)
            }
        }
    }
}

fn entries(object: &Value) -> Vec<Entry> {
    object["metadata"]["managedFields"].as_array().into_iter().flatten().map(Entry::read).collect()
}

/// Writes the entries: appliers first, then by time.
fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| !entry.fields.is_empty());
    entries.sort_by(|a, b| (&a.operation, &a.time, &a.manager).cmp(&(&b.operation, &b.time, &b.manager)));
    let list: Vec<Value> = entries.iter().map(Entry::to_value).collect();
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

/// Applies a configuration: the object that results, its `managedFields` brought up to date. `live` is what is
/// stored, or nothing if the object is made by this; `ty` is the kind's type, or nothing for custom resources. If
/// nothing changes, what comes out equals `live`.
///
/// # Errors
/// 409 with a cause for each conflict, unless `force`; 400 if the configuration brings `managedFields` along.
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    ty: Option<&'static Type>,
    manager: Manager<'_>,
    force: bool,
) -> ApiResult<Value> {
    if applied["metadata"]["managedFields"].as_array().is_some_and(|list| !list.is_empty()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let node = Node::root(ty);
    let empty = json!({});
    let old = live.map_or_else(|| empty.clone(), without_managed_fields);
    let mut managers = live.map(entries).unwrap_or_default();
    let now = coracle_clock::now_seconds().to_string();
    let api_version = applied["apiVersion"].as_str().unwrap_or_default();
    if live.is_some() && managers.is_empty() {
        managers.push(Entry {
            manager: BEFORE_FIRST_APPLY.into(),
            operation: "Update".into(),
            api_version: api_version.into(),
            subresource: String::new(),
            time: now.clone(),
            fields: owned(walk::fields(node, &old)),
        });
    }
    let wanted = owned(walk::fields(node, applied));
    let (mine, mut others): (Vec<Entry>, Vec<Entry>) =
        managers.into_iter().partition(|entry| entry.is(manager, "Apply"));
    let last = mine.into_iter().next();

    let mut new = walk::merge(node, &old, applied);
    if let Some(last) = &last {
        let theirs = others.iter().fold(FieldSet::default(), |set, entry| set.union(&entry.fields));
        let gone = last.fields.difference(&wanted).difference(&theirs);
        walk::prune(node, &mut new, &gone, &wanted.union(&theirs));
    }
    let (changed, removed) = walk::compare(node, &old, &new);
    if !force {
        conflicts(&others, &changed)?;
    }
    let unchanged = changed.is_empty() && removed.is_empty();
    if unchanged && last.as_ref().is_some_and(|last| last.fields == wanted) {
        return Ok(live.unwrap_or(&empty).clone());
    }
    for entry in &mut others {
        entry.fields = entry.fields.difference(&changed).difference(&removed);
    }
    others.push(Entry {
        manager: manager.name.into(),
        operation: "Apply".into(),
        api_version: api_version.into(),
        subresource: manager.subresource.into(),
        time: now,
        fields: wanted,
    });
    write(&mut new, others);
    Ok(new)
}

/// 409 if others own what changes.
fn conflicts(others: &[Entry], changed: &FieldSet) -> ApiResult<()> {
    let mut causes = Vec::new();
    let mut texts = Vec::new();
    for entry in others {
        let paths = entry.fields.intersection(changed).paths();
        let title = entry.title();
        for path in &paths {
            let message = format!("conflict with {title}");
            causes.push(json!({ "reason": "FieldManagerConflict", "message": message, "field": path }));
        }
        match paths.as_slice() {
            [] => {}
            [path] => texts.push(format!("conflict with {title}: {path}")),
            paths => texts.push(format!("conflicts with {title}:\n- {}", paths.join("\n- "))),
        }
    }
    if causes.is_empty() {
        return Ok(());
    }
    let plural = if causes.len() == 1 { "" } else { "s" };
    let mut error = ApiError::conflict("", "", "", "");
    error.message = format!("Apply failed with {} conflict{plural}: {}", causes.len(), texts.join("\n"));
    error.details = json!({ "causes": causes });
    Err(error)
}

/// Keeps the books when an object is written otherwise than by apply: what changed is the writer's now. Objects that
/// nobody applied to are left alone. A writer may set `managedFields` itself, and an empty list forgets them.
pub fn track_update(old: &Value, new: &mut Value, ty: Option<&'static Type>, manager: Manager<'_>) {
    let given = new["metadata"].get("managedFields").and_then(Value::as_array);
    let forget = given.is_some_and(|list| list.iter().all(|entry| entry.as_object().is_none_or(Map::is_empty)));
    let mut managers = if given.is_some() { entries(new) } else { entries(old) };
    if forget || managers.is_empty() {
        write(new, Vec::new());
        return;
    }
    let node = Node::root(ty);
    let (changed, removed) = walk::compare(node, &without_managed_fields(old), &without_managed_fields(new));
    let (changed, removed) = (owned(changed), owned(removed));
    for entry in managers.iter_mut().filter(|entry| !entry.is(manager, "Update")) {
        entry.fields = entry.fields.difference(&changed).difference(&removed);
    }
    let now = coracle_clock::now_seconds().to_string();
    let api_version = new["apiVersion"].as_str().unwrap_or_default().to_owned();
    match managers.iter_mut().find(|entry| entry.is(manager, "Update")) {
        Some(entry) => {
            if !changed.is_empty() || !removed.is_empty() {
                entry.time = now;
            }
            entry.fields = entry.fields.union(&changed).difference(&removed);
            entry.api_version = api_version;
        }
        None => managers.push(Entry {
            manager: manager.name.into(),
            operation: "Update".into(),
            api_version,
            subresource: manager.subresource.into(),
            time: now,
            fields: changed,
        }),
    }
    write(new, managers);
}

#[cfg(test)]
mod tests;
