//! What a kind has besides its row in the registry: the code behind [`Strategy`], as a table of functions.
//!
//! Most kinds need none: [`GENERIC`] clears `status` when an object is made, keeps it when the object is
//! updated, and keeps the rest when only `status` is.

mod list;
mod prepare;

pub(crate) use prepare::qos_class;

use serde_json::{Map, Value, json};

use crate::field::FieldErrors;
use crate::resource::Strategy;
use crate::rules;
use crate::schema::{Type, type_of};
use crate::table;

/// The functions of one kind.
#[derive(Debug)]
pub struct Kind {
    /// The schema's name.
    pub definition: &'static str,
    /// Fills in defaults.
    pub default: fn(&mut Value),
    /// Whether a creator may set `status`, as a kubelet does when it registers its node.
    pub keeps_status: bool,
    /// Derives what creation derives, after `status` has been cleared.
    pub prepare_create: fn(&mut Value),
    /// Writes down who asked for the object.
    pub requested_by: fn(&mut Value, &Value),
    /// Carries over what an update may not touch, besides `status` and `spec`.
    pub prepare_update: fn(&mut Value, &Value, &str),
    /// Marks an object that is being deleted.
    pub prepare_delete: fn(&mut Value),
    /// Validates an object.
    pub validate: fn(&Value, &mut FieldErrors),
    /// Validates what only a new object may not hold.
    pub validate_create: fn(&Value, &mut FieldErrors),
    /// Validates an update.
    pub validate_update: fn(&Value, &Value, &str, &mut FieldErrors),
    /// Warnings for the client.
    pub warnings: fn(&Value) -> Vec<String>,
}

/// A kind without code of its own.
pub const GENERIC: Kind = Kind {
    definition: "",
    default: |_| {},
    keeps_status: false,
    prepare_create: |_| {},
    requested_by: |_, _| {},
    prepare_update: |_, _, _| {},
    prepare_delete: |_| {},
    validate: |_, _| {},
    validate_create: |_, _| {},
    validate_update: |_, _, _, _| {},
    warnings: |_| Vec::new(),
};

impl Kind {
    /// The functions of the kind with that schema.
    pub fn of(definition: &str) -> &'static Kind {
        static NONE: Kind = GENERIC;
        list::KINDS.iter().find(|kind| kind.definition.ends_with(definition) && !definition.is_empty()).unwrap_or(&NONE)
    }
}

/// A [`Strategy`] made of a kind's functions and the rules that all built-in kinds share.
#[derive(Debug)]
pub struct KindStrategy {
    /// The kind's functions.
    pub kind: &'static Kind,
    /// The type whose lines of the table of rules hold; a custom resource has none.
    pub ty: Option<&'static Type>,
}

impl KindStrategy {
    /// The strategy of the kind with that schema.
    pub fn of(definition: &str) -> Self {
        Self { kind: Kind::of(definition), ty: type_of(definition) }
    }
}

impl Strategy for KindStrategy {
    fn default(&self, object: &mut Value) {
        if let Some(ty) = self.ty {
            rules::default(ty, object);
        }
        (self.kind.default)(object);
    }

    fn prepare_for_create(&self, object: &mut Value) {
        if !self.kind.keeps_status {
            clear_status(object);
        }
        (self.kind.prepare_create)(object);
    }

    fn requested_by(&self, object: &mut Value, user: &Value) {
        (self.kind.requested_by)(object, user);
    }

    fn prepare_for_update(&self, new: &mut Value, old: &Value, subresource: &str) {
        match subresource {
            "" => carry_over(new, old, &["status"]),
            "status" => keep_all_but_status(new, old),
            _ => {}
        }
        (self.kind.prepare_update)(new, old, subresource);
    }

    fn prepare_for_delete(&self, object: &mut Value) {
        (self.kind.prepare_delete)(object);
    }

    fn validate(&self, object: &Value, errors: &mut FieldErrors) {
        if let Some(ty) = self.ty {
            rules::check(ty, object, "", errors);
        }
        (self.kind.validate)(object, errors);
    }

    fn validate_create(&self, object: &Value, errors: &mut FieldErrors) {
        (self.kind.validate_create)(object, errors);
    }

    fn validate_update(&self, new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
        if subresource != "status" {
            self.validate(new, errors);
        }
        match (self.ty, subresource) {
            (Some(ty), "") => rules::check_update(ty, new, old, errors),
            (Some(ty), "status") => {
                rules::check(ty, new, "status", errors);
                rules::check_update(ty, new, old, errors);
            }
            _ => {}
        }
        (self.kind.validate_update)(new, old, subresource, errors);
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        (self.kind.warnings)(object)
    }

    fn cells(&self, object: &Value) -> Vec<Value> {
        table::layout(self.ty.map_or("", |ty| ty.name)).cells(object)
    }
}

/// A creator has no say about `status`. Reviews and other unstored kinds never come here.
fn clear_status(object: &mut Value) {
    if let Some(status) = object.get_mut("status") {
        *status = json!({});
    }
}

/// Puts `old`'s fields into `new`; a field that `old` lacks is removed.
pub(crate) fn carry_over(new: &mut Value, old: &Value, fields: &[&str]) {
    let Some(new) = new.as_object_mut() else { return };
    for &field in fields {
        match old.get(field) {
            Some(value) => put(new, field, value),
            None => drop(new.remove(field)),
        }
    }
}

/// Sets a field, unless it has the value already: to find that out costs less than a copy.
fn put(object: &mut Map<String, Value>, field: &str, value: &Value) {
    if object.get(field) != Some(value) {
        object.insert(field.to_owned(), value.clone());
    }
}

/// A status update changes `status` and, in the metadata, only what controllers may: annotations, labels,
/// finalizers and owners are taken from the new object by upstream too, so metadata is left alone.
fn keep_all_but_status(new: &mut Value, old: &Value) {
    let Some(map) = new.as_object_mut() else { return };
    map.retain(|key, _| {
        matches!(key.as_str(), "status" | "metadata" | "apiVersion" | "kind") || !old[key.as_str()].is_null()
    });
    for (key, value) in old.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "status" | "metadata") {
            put(map, key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The strategy of a kind without code.
    fn generic_strategy() -> KindStrategy {
        static NONE: Kind = GENERIC;
        KindStrategy { kind: &NONE, ty: None }
    }

    #[test]
    fn a_creator_cannot_set_the_status() {
        let mut object = json!({"spec": {"a": 1}, "status": {"phase": "Running"}});
        generic_strategy().prepare_for_create(&mut object);
        assert_eq!(object, json!({"spec": {"a": 1}, "status": {}}));
    }

    #[test]
    fn an_update_keeps_the_status_and_a_status_update_keeps_the_rest() {
        let old = json!({"spec": {"a": 1}, "status": {"b": 1}});
        let new = json!({"spec": {"a": 2}, "status": {"b": 2}});
        let strategy = generic_strategy();
        let mut object = new.clone();
        strategy.prepare_for_update(&mut object, &old, "");
        assert_eq!(object, json!({"spec": {"a": 2}, "status": {"b": 1}}));
        let mut object = new.clone();
        strategy.prepare_for_update(&mut object, &old, "status");
        assert_eq!(object, json!({"spec": {"a": 1}, "status": {"b": 2}}));
    }
}
