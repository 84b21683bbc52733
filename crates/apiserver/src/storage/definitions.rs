//! CustomResourceDefinitions come to be and go: their conditions, and the end of their objects.
//!
//! Upstream's controllers of the apiextensions API server, in one loop: whenever a definition changed, every
//! definition gets the status it should have ([`reconcile`]); of one that is being deleted the objects are deleted
//! (those with finalizers are marked, and waited for), and then its finalizer is taken off. What is served follows
//! from the status in the store alone, see [`super::pump`].

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use coracle_api::ApiResult;
use coracle_api::custom::definition::conditions::{self, CLEANUP, reconcile};
use coracle_api::custom::rows::is_true;
use coracle_store::Revision;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{ResourceCache, Row, Storage};

/// How soon objects that wait for their finalizers are looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Runs until `stop` or the storage's end.
pub(super) async fn run(storage: Weak<Storage>, stop: CancellationToken) {
    let Some(row) = storage.upgrade().and_then(|storage| row(&storage)) else { return };
    let mut wake = row.cache.subscribe();
    let mut known: BTreeMap<Arc<str>, (Revision, Value)> = BTreeMap::new();
    loop {
        wake.borrow_and_update();
        let waits = {
            let Some(storage) = storage.upgrade() else { return };
            pass(&storage, &row, &mut known).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "custom resource definitions");
                true
            })
        };
        let again = async {
            match waits {
                true => coracle_clock::sleep(LOOK_AGAIN).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = wake.changed() => if changed.is_err() { return },
            () = again => {}
        }
    }
}

fn row(storage: &Storage) -> Option<Row> {
    storage.table().find("apiextensions.k8s.io", "v1", "customresourcedefinitions").cloned()
}

/// Looks at every definition once; true if something is left to wait for. `known` are the definitions as last seen.
async fn pass(storage: &Storage, row: &Row, known: &mut BTreeMap<Arc<str>, (Revision, Value)>) -> ApiResult<bool> {
    storage.fresh().await?;
    let entries = row.cache.list("", 0).0;
    known.retain(|name, _| entries.iter().any(|entry| entry.key == *name));
    let mut waits = false;
    for entry in entries {
        if known.get(&entry.key).is_none_or(|(revision, _)| *revision != entry.revision) {
            known.insert(entry.key.clone(), (entry.revision, entry.parse()));
        }
        let definition = known[&entry.key].1.clone();
        let new = if definition["metadata"]["deletionTimestamp"].is_null() {
            reconcile(&definition, known.values().map(|(_, other)| other))
        } else {
            let (new, pending) = finalize(storage, definition.clone()).await?;
            waits |= pending;
            new
        };
        if new == definition {
            continue;
        }
        let key = row.key("", &entry.key);
        let finalizers = new["metadata"]["finalizers"].as_array();
        let gone = !new["metadata"]["deletionTimestamp"].is_null() && finalizers.is_none_or(Vec::is_empty);
        let written = match gone {
            true => storage.remove(&key, entry.revision).await?.ok(),
            false => storage.put(&key, entry.revision, &new, 0).await?.ok().map(|stored| stored.revision),
        };
        // Somebody else changed it meanwhile: that wakes us again.
        let Some(revision) = written else { continue };
        storage.wait_for(revision).await?;
        match gone {
            true => drop(known.remove(&entry.key)),
            false => drop(known.insert(entry.key.clone(), (revision, new))),
        }
    }
    Ok(waits)
}

/// The definition that is being deleted after the next step of its deletion, and whether there is more to do later.
async fn finalize(storage: &Storage, mut definition: Value) -> ApiResult<(Value, bool)> {
    let is_cleanup = |finalizer: &Value| *finalizer == CLEANUP;
    if !definition["metadata"]["finalizers"].as_array().is_some_and(|list| list.iter().any(is_cleanup)) {
        return Ok((definition, false));
    }
    let name = definition["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let (reason, message) = match storage.table().cache_of_definition(&name).cloned() {
        _ if !is_true(&definition, "Established") => ("NeverEstablished", "resource was never established"),
        Some(cache) if delete_instances(storage, &cache).await? => {
            let message = "CustomResource deletion is in progress";
            conditions::set(&mut definition, "Terminating", "True", "InstanceDeletionInProgress", message);
            return Ok((definition, true));
        }
        _ => ("InstanceDeletionCompleted", "removed all instances"),
    };
    conditions::set(&mut definition, "Terminating", "False", reason, message);
    if let Some(list) = definition["metadata"]["finalizers"].as_array_mut() {
        list.retain(|finalizer| !is_cleanup(finalizer));
    }
    Ok((definition, false))
}

/// Deletes all objects, or marks those with finalizers; true if any are left.
async fn delete_instances(storage: &Storage, cache: &ResourceCache) -> ApiResult<bool> {
    for entry in cache.list("", 0).0 {
        let mut object = entry.parse();
        let key = format!("{}{}", cache.prefix(), entry.key);
        let meta = &mut object["metadata"];
        if meta["finalizers"].as_array().is_none_or(Vec::is_empty) {
            if let Ok(revision) = storage.remove(&key, entry.revision).await? {
                storage.wait_for(revision).await?;
            }
        } else if meta["deletionTimestamp"].is_null() {
            meta["deletionTimestamp"] = coracle_clock::now_seconds().to_string().into();
            meta["deletionGracePeriodSeconds"] = json!(0);
            let _ = storage.put(&key, entry.revision, &object, 0).await?;
        }
    }
    storage.fresh().await?;
    Ok(!cache.is_empty())
}
