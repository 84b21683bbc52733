//! Changing an object: read, edit, admit, default, validate, compare and swap; again if somebody was faster.
//!
//! Updates, patches and subresources all come through here; they differ only in how the new object is
//! made from the old one. An edit that names a `resourceVersion` conflicts when that is not the
//! object's; one that does not is repeated on top of whatever came between.

use std::sync::Arc;

use coracle_api::{ApiError, ApiResult, FieldErrors, Resource, meta};
use coracle_store::Txn;
use serde_json::Value;

use super::Call;
use crate::hooks::Operation;
use crate::storage::{Entry, Stored};
use crate::{admission, allocate, flow_control};

/// How an object was left.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Written.
    Stored(Stored),
    /// Not written: a dry run, or nothing to do.
    Unwritten(Value),
}

/// How the new object is made from the old one.
pub(super) type Edit<'a> = &'a mut (dyn FnMut(&mut Call, &Value) -> ApiResult<Value> + Send);

/// Kinds with a `spec` whose objects carry no `generation`.
const WITHOUT_GENERATION: &[&str] = &[
    "apiservices",
    "certificatesigningrequests",
    "csidrivers",
    "csinodes",
    "horizontalpodautoscalers",
    "ipaddresses",
    "leases",
    "limitranges",
    "namespaces",
    "nodes",
    "persistentvolumeclaims",
    "persistentvolumes",
    "resourceclaims",
    "resourceclaimtemplates",
    "resourcequotas",
    "servicecidrs",
    "services",
    "volumeattachments",
];

/// Whether objects of the kind carry `metadata.generation`.
pub(super) fn has_generation(resource: &Resource, object: &Value) -> bool {
    if !resource.builtin() {
        return true;
    }
    object.get("spec").is_some() && !WITHOUT_GENERATION.contains(&resource.plural.as_str())
}

/// Whether what `generation` counts differs: the `spec`; of custom resources all but metadata (`status`, where it is a
/// subresource, was carried over).
fn desired_differs(resource: &Resource, new: &Value, old: &Value) -> bool {
    if resource.builtin() {
        return new["spec"] != old["spec"];
    }
    let desired = |object: &Value| {
        let fields = object.as_object().cloned().unwrap_or_default();
        fields.into_iter().filter(|(key, _)| key != "metadata").collect::<Vec<_>>()
    };
    desired(new) != desired(old)
}

/// Whether nothing holds a terminating object any more.
pub(super) fn may_vanish(object: &Value) -> bool {
    let none = |value: &Value| value.as_array().is_none_or(Vec::is_empty);
    let meta = &object["metadata"];
    !meta["deletionTimestamp"].is_null()
        && meta["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && none(&meta["finalizers"])
        && (object["kind"] != "Namespace" || none(&object["spec"]["finalizers"]))
}

impl Call {
    /// Changes the object `name`.
    pub(super) async fn modify(&mut self, name: &str, edit: Edit<'_>) -> ApiResult<Outcome> {
        let subresource = self.info.subresource.clone();
        let mut entry = self.current(name).await?.ok_or_else(|| self.not_found())?;
        loop {
            let old = self.read_to_write(&entry, name).await?;
            let warned = self.warnings.len();
            let mut new = loop {
                let edited = edit(self, &old);
                if !self.learn().await? {
                    break edited?;
                }
                self.warnings.truncate(warned);
            };
            self.check_preconditions(name, &new["metadata"], &old["metadata"])?;
            let mut admission = self.admission(Operation::Update, &subresource, name);
            self.row.resource.strategy.default(&mut new);
            prepare(&self.row.resource, &mut new, &old, &subresource);
            (admission.object, admission.old_object) = (new, old);
            self.admit(&mut admission).await?;
            self.finish_update(&mut admission.object, &admission.old_object, &subresource)?;
            self.admit_final(&admission).await?;
            let (new, old) = (admission.object, admission.old_object);
            if self.options.dry_run || new == old && !entry.stale {
                return Ok(Outcome::Unwritten(new));
            }
            match self.write(name, &entry, &old, new).await? {
                Ok(stored) => return Ok(Outcome::Stored(stored)),
                Err(None) => return Err(self.not_found()),
                Err(Some(newer)) => entry = newer,
            }
            self.warnings.truncate(warned);
            self.notes.clear();
        }
    }

    /// What is to be stored together with the object's new state, which is null when it is deleted.
    pub(super) fn beside(&self, old: &Value, new: &Value) -> Txn {
        let resource = &self.row.resource;
        if resource.plural == "services" && resource.group.is_empty() {
            return allocate::addresses(&self.server.config.storage, old, new);
        }
        Txn::default()
    }

    /// Compares and swaps `new` for `entry` (which is `old`), or deletes it if that was all it waited for. The error
    /// is what is there instead.
    async fn write(
        &self,
        name: &str,
        entry: &Entry,
        old: &Value,
        new: Value,
    ) -> ApiResult<Result<Stored, Option<Arc<Entry>>>> {
        let storage = &self.server.config.storage;
        let key = self.row.key(&self.info.namespace, name);
        let written = if may_vanish(&new) {
            let removed = storage.remove_with(&key, entry.revision, self.beside(old, &Value::Null)).await?;
            removed.map(|revision| Stored::new(&new, revision))
        } else {
            let lease = storage.lease_for(&self.row).await?;
            let form = self.as_stored(&new).await?;
            let written = storage.put_with(&key, entry.revision, &form, lease, self.beside(old, &new)).await?;
            drop(form);
            if let Ok(stored) = &written {
                self.keep(key, stored, new);
            }
            written
        };
        Ok(written.map_err(|error| error.current.map(|kv| Arc::new(self.row.entry(&kv)))))
    }

    /// Holds what the client says about the object it means against the object that is there.
    pub(super) fn check_preconditions(&self, name: &str, wanted: &Value, meta: &Value) -> ApiResult<()> {
        let given = |field: &str| wanted[field].as_str().filter(|text| !text.is_empty());
        let is = |field: &str| meta[field].as_str().unwrap_or_default();
        if let Some(uid) = given("uid")
            && uid != is("uid")
        {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", is("uid"));
            return Err(self.conflict(name, why));
        }
        if let Some(version) = given("resourceVersion")
            && version != is("resourceVersion")
        {
            let resource = &self.row.resource;
            return Err(ApiError::modified(&resource.group, &resource.plural, name));
        }
        Ok(())
    }

    /// After admission: defaults again, what clients may not change, generation, validation.
    fn finish_update(&mut self, new: &mut Value, old: &Value, subresource: &str) -> ApiResult<()> {
        let resource = self.row.resource.clone();
        resource.strategy.default(new);
        prepare(&resource, new, old, subresource);
        if has_generation(&resource, new) && subresource != "status" && desired_differs(&resource, new, old) {
            new["metadata"]["generation"] = (old["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
        }
        // What is stored carries the version of its key; what is answered is stamped anew.
        if let Some(version) = old["metadata"].get("resourceVersion") {
            new["metadata"]["resourceVersion"] = version.clone();
        }
        let mut errors = FieldErrors::default();
        meta::validate_update(&resource, new, old, &mut errors);
        resource.strategy.validate_update(new, old, subresource, &mut errors);
        self.warnings.extend(self.check_rules(new, Some(old), &mut errors));
        let of_status = subresource == "status";
        if !of_status {
            admission::check_expressions(&resource, new, &mut errors);
            flow_control::bootstrap::check(&resource, new, &mut errors);
        }
        if !errors.0.is_empty() {
            let name = old["metadata"]["name"].as_str().unwrap_or_default();
            return Err(ApiError::invalid(&resource.group, &resource.kind, name, &errors.0));
        }
        if !of_status {
            self.warnings.extend(resource.strategy.warnings(new));
        }
        Ok(())
    }
}

/// Carries over from `old` what this (sub)resource's updates cannot change.
fn prepare(resource: &Resource, new: &mut Value, old: &Value, subresource: &str) {
    if let Some(fields) = masked(subresource) {
        let given = std::mem::replace(new, old.clone());
        for path in fields {
            copy(new, &given, path);
        }
    }
    meta::carry_over_on_update(new, old);
    resource.strategy.prepare_for_update(new, old, subresource);
}

/// For subresources that take a whole object but change only a part of it: which.
fn masked(subresource: &str) -> Option<&'static [&'static [&'static str]]> {
    match subresource {
        "finalize" => Some(&[&["spec", "finalizers"]]),
        "ephemeralcontainers" => Some(&[&["spec", "ephemeralContainers"]]),
        "resize" => Some(&[&["spec", "containers"], &["spec", "initContainers"]]),
        _ => None,
    }
}

/// Sets the field at `path` in `to` as it is in `from`, or removes it.
fn copy(to: &mut Value, from: &Value, path: &[&str]) {
    let [outer @ .., last] = path else { return };
    let source = outer.iter().fold(from, |value, key| &value[*key]).get(*last).cloned();
    let target = outer.iter().fold(to, |value, key| &mut value[*key]);
    match (source, target.as_object_mut()) {
        (Some(value), _) => target[*last] = value,
        (None, Some(fields)) => drop(fields.remove(*last)),
        (None, None) => {}
    }
}
