//! `delete`: at once, after a grace period, or when all finalizers are gone.
//!
//! Pods are deleted gracefully: the first deletion sets `deletionTimestamp` and the kubelet, when the
//! containers have ended, deletes again with grace period 0. Objects with finalizers wait until the
//! last is removed. `propagationPolicy` becomes a finalizer that the garbage collector acts on.

use std::sync::Arc;

use coracle_api::{ApiError, ApiResult};
use http::Response;
use http::request::Parts;
use serde_json::{Value, json};

use super::Call;
use super::modify::{Outcome, has_generation, may_vanish};
use super::subresource::set_condition;
use crate::body::{Body, RequestBody};
use crate::hooks::Operation;

/// What a deletion did.
#[derive(Debug)]
pub(super) enum Deletion {
    /// The object is gone; this was its last state.
    Gone(Value),
    /// It is marked, and waits for its grace period or finalizers.
    Pending(Value),
}

impl Call {
    /// Deletes the object.
    pub(super) async fn delete(&mut self, parts: &Parts, body: RequestBody) -> ApiResult<Response<Body>> {
        let options = self.delete_options(parts, body).await?;
        let name = self.info.name.clone();
        match self.delete_object(&name, &options).await? {
            Deletion::Pending(object) => {
                let code = if options["orphanDependents"] == false { 202 } else { 200 };
                self.answer_object(code, Outcome::Unwritten(object)).await
            }
            Deletion::Gone(object) if self.row.resource.delete_returns_object() => {
                self.answer_object(200, Outcome::Unwritten(object)).await
            }
            Deletion::Gone(object) => {
                let resource = &self.row.resource;
                let mut details = json!({ "name": name, "kind": resource.plural, "uid": object["metadata"]["uid"] });
                if !resource.group.is_empty() {
                    details["group"] = resource.group.as_str().into();
                }
                Ok(self.answer(200, success(details).to_string()))
            }
        }
    }

    /// Deletes one object as `options` (DeleteOptions) ask.
    pub(super) async fn delete_object(&self, name: &str, options: &Value) -> ApiResult<Deletion> {
        let dry_run = self.options.dry_run || dry_run(options)?;
        let storage = self.server.config.storage.clone();
        let key = self.row.key(&self.info.namespace, name);
        let resource = self.row.resource.clone();
        let missing = ApiError::not_found(&resource.group, &resource.plural, name);
        let Some(mut entry) = self.current(name).await? else { return Err(missing) };
        loop {
            let old = self.read(&entry).await?;
            self.check_preconditions(name, &options["preconditions"], &old["metadata"])?;
            let mut admission = self.admission(Operation::Delete, "", name);
            (admission.old_object, admission.options) = (old, options.clone());
            admission.dry_run = dry_run;
            // An eviction was admitted as such.
            if self.info.subresource.is_empty() {
                self.admit(&mut admission).await?;
                self.admit_final(&admission).await?;
            }
            let old = admission.old_object;
            let next = self.mark(&old, options);
            if next == old && !may_vanish(&next) {
                return Ok(Deletion::Pending(old)); // already on its way
            }
            if dry_run {
                return Ok(if may_vanish(&next) { Deletion::Gone(next) } else { Deletion::Pending(next) });
            }
            let vanish = may_vanish(&next);
            let written = if vanish {
                storage.remove_with(&key, entry.revision, self.beside(&old, &Value::Null)).await?
            } else {
                let (stored, lease) = (self.as_stored(&next).await?, storage.lease_for(&self.row).await?);
                storage.put(&key, entry.revision, &stored, lease).await?.map(|stored| stored.revision)
            };
            match written {
                Ok(revision) => {
                    let mut object = if vanish { old } else { next };
                    object["metadata"]["resourceVersion"] = revision.to_string().into();
                    return Ok(if vanish { Deletion::Gone(object) } else { Deletion::Pending(object) });
                }
                Err(error) => {
                    let Some(newer) = error.current else { return Err(missing) };
                    entry = Arc::new(self.row.entry(&newer));
                }
            }
        }
    }

    /// The object with the marks of this deletion: timestamp, grace period, finalizers.
    fn mark(&self, old: &Value, options: &Value) -> Value {
        let mut new = old.clone();
        let grace = grace_period(&self.row.resource.plural, old, options);
        let finalizers = finalizers(old, options);
        let meta = &mut new["metadata"];
        match (finalizers.is_empty(), meta.get("finalizers").is_some()) {
            (true, true) => drop(meta.as_object_mut().and_then(|meta| meta.remove("finalizers"))),
            (true, false) => {}
            (false, _) => meta["finalizers"] = finalizers.into(),
        }
        let marked = meta["deletionTimestamp"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        let current = meta["deletionGracePeriodSeconds"].as_i64();
        let now = coracle_clock::now_seconds();
        let after = |start: jiff::Timestamp, seconds: i64| {
            start.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(jiff::Timestamp::MAX).to_string()
        };
        let mut first = false;
        match (marked, current) {
            (None, _) => {
                meta["deletionTimestamp"] = after(now, grace).into();
                meta["deletionGracePeriodSeconds"] = grace.into();
                first = true;
                if has_generation(&self.row.resource, old) {
                    let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
                    meta["generation"] = (generation + 1).into();
                }
            }
            // A later deletion can only shorten the grace period, and only if it says so.
            (Some(at), Some(current)) if options["gracePeriodSeconds"].is_i64() && grace < current => {
                meta["deletionTimestamp"] = after(at, grace - current).into();
                meta["deletionGracePeriodSeconds"] = grace.into();
            }
            _ => {}
        }
        if first {
            if self.info.subresource == "eviction" {
                let why = json!({ "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting" });
                set_condition(&mut new, "DisruptionTarget", why);
            }
            self.row.resource.strategy.prepare_for_delete(&mut new);
        }
        new
    }
}

/// For how long the object may go on: only pods that run somewhere get any time.
fn grace_period(plural: &str, object: &Value, options: &Value) -> i64 {
    let phase = object["status"]["phase"].as_str().unwrap_or_default();
    let unscheduled = object["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    if plural != "pods" || unscheduled || matches!(phase, "Succeeded" | "Failed") {
        return 0;
    }
    let asked = options["gracePeriodSeconds"].as_i64();
    let period = asked.or_else(|| object["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(30);
    if period < 0 { 1 } else { period }
}

/// The finalizers after this deletion's propagation policy. Without one they stay as they are.
fn finalizers(object: &Value, options: &Value) -> Vec<Value> {
    let current = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let policy = match (options["orphanDependents"].as_bool(), options["propagationPolicy"].as_str()) {
        (Some(true), _) | (_, Some("Orphan")) => Some("orphan"),
        (_, Some("Foreground")) => Some("foregroundDeletion"),
        (Some(false), _) | (_, Some("Background")) => Some(""),
        _ => return current,
    };
    let mut kept: Vec<Value> =
        current.into_iter().filter(|finalizer| *finalizer != "orphan" && *finalizer != "foregroundDeletion").collect();
    kept.extend(policy.filter(|policy| !policy.is_empty()).map(Value::from));
    kept
}

/// `dryRun` of DeleteOptions.
pub(super) fn dry_run(options: &Value) -> ApiResult<bool> {
    match options["dryRun"].as_array().map(Vec::as_slice) {
        None | Some([]) => Ok(false),
        Some([all]) if all == "All" => Ok(true),
        Some(_) => Err(ApiError::bad_request("dryRun: Unsupported value: supported values: \"All\"")),
    }
}

/// A Status that says it worked.
pub(super) fn success(details: Value) -> Value {
    let mut status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" });
    if !details.is_null() {
        status["details"] = details;
    }
    status
}
