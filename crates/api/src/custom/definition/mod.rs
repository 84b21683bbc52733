//! The CustomResourceDefinition itself: what it must be, and what becomes of its status.

pub mod approval;
pub mod conditions;
mod schema;
pub mod structural;
mod validate;

use serde_json::{Value, json};

#[cfg(test)]
pub(crate) use validate::tests::good;
pub use validate::{schemas, validate, validate_update};

/// The status a new definition begins with; objects will be stored in its storage version.
pub(crate) fn prepare_create(definition: &mut Value) {
    definition["status"] =
        json!({ "acceptedNames": { "kind": "", "plural": "" }, "conditions": [], "storedVersions": [] });
    note_storage(definition);
}

/// After an update objects may be stored in another version, too.
pub(crate) fn prepare_update(definition: &mut Value, _old: &Value, subresource: &str) {
    if subresource.is_empty() {
        note_storage(definition);
    }
}

/// A definition goes when its objects are gone.
pub(crate) fn prepare_delete(definition: &mut Value) {
    let finalizers = &mut definition["metadata"]["finalizers"];
    match finalizers.as_array_mut() {
        Some(list) if list.iter().any(|finalizer| finalizer == conditions::CLEANUP) => return,
        Some(list) => list.push(conditions::CLEANUP.into()),
        None => *finalizers = json!([conditions::CLEANUP]),
    }
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    conditions::set(definition, "Terminating", "True", "InstanceDeletionPending", message);
}

fn note_storage(definition: &mut Value) {
    let versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    let Some(name) = versions.into_iter().find(|version| version["storage"] == true).map(|v| v["name"].clone()) else {
        return;
    };
    match definition["status"]["storedVersions"].as_array_mut() {
        Some(stored) if stored.contains(&name) => {}
        Some(stored) => stored.push(name),
        None => definition["status"]["storedVersions"] = json!([name]),
    }
}
