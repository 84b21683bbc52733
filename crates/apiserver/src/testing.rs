//! What this crate's tests share: a store in memory with the real registry, in virtual time.

use std::sync::Arc;

use serde_json::Value;

use crate::storage::Storage;
use crate::storage::table::suffix;

/// Runs a test in a simulated world.
pub(crate) fn in_simulation<T>(f: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let _world = coracle_clock::Simulation::start(1);
        f().await
    })
}

/// An empty store in memory behind the real registry.
pub(crate) async fn storage() -> Arc<Storage> {
    Storage::start(coracle_store::MemoryStore::new(), coracle_api::registry::builtin()).await.unwrap()
}

/// Stores an object as it is, whatever was there, and waits until the caches have it.
pub(crate) async fn put(storage: &Storage, group: &str, plural: &str, object: Value) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let row = storage.table().find_any(group, plural).unwrap().clone();
    let suffix = suffix(&text("namespace"), &text("name"));
    let expected = row.cache.get(&suffix).map_or(0, |entry| entry.revision);
    let key = format!("{}{suffix}", row.resource.key_prefix());
    let stored = storage.put(&key, expected, &object, 0).await.unwrap().unwrap();
    storage.wait_for(stored.revision).await.unwrap();
}

/// Removes an object and waits until the caches know.
pub(crate) async fn remove(storage: &Storage, group: &str, plural: &str, namespace: &str, name: &str) {
    let row = storage.table().find_any(group, plural).unwrap().clone();
    let suffix = suffix(namespace, name);
    let expected = row.cache.get(&suffix).unwrap().revision;
    let revision = storage.remove(&format!("{}{suffix}", row.resource.key_prefix()), expected).await.unwrap().unwrap();
    storage.wait_for(revision).await.unwrap();
}
