//! Objects in the store: keys, encoding, the watch cache, and compare-and-swap writes.
//!
//! One watch of all of `/registry/` fills one [`cache::ResourceCache`] per resource. Reads are answered
//! from the caches, after waiting until they have seen everything the store has acknowledged; writes
//! are transactions on the store.

mod autoscaler;
pub mod cache;
pub mod codec;
pub mod convert;
mod definitions;
mod pump;
mod recent;
pub mod table;
mod write;

use std::fmt;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use coracle_api::{ApiError, ApiResult, Resource};
use coracle_clock::watch;
use coracle_store::{LeaseId, Revision, SharedStore, StoreError};
use serde_json::Value;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::metrics::Operations;

pub use cache::{Entry, ResourceCache};
pub use table::{ResourceTable, Row};
pub use write::{Stored, WriteError};

/// How long a read waits for the caches to catch up with the store before it gives up.
const CATCH_UP: Duration = Duration::from_secs(3);

/// The stored objects of a cluster.
pub struct Storage {
    store: SharedStore,
    table: RwLock<Arc<ResourceTable>>,
    /// The revision up to which all caches are complete.
    applied: watch::Sender<Revision>,
    /// The lease that the events of this minute share, and when it was made.
    event_lease: tokio::sync::Mutex<Option<(LeaseId, coracle_clock::Instant)>>,
    /// What was just written.
    recent: recent::Recent,
    /// How long the store takes.
    operations: Operations,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("applied", &*self.applied.borrow()).finish_non_exhaustive()
    }
}

impl Storage {
    /// Loads what the store holds of `resources` and follows it from there.
    pub async fn start(store: SharedStore, resources: Vec<Arc<Resource>>) -> Result<Arc<Storage>, StoreError> {
        let stop = CancellationToken::new();
        let storage = Arc::new(Storage {
            store,
            table: RwLock::new(Arc::new(ResourceTable::new(resources))),
            applied: watch::Sender::new(0),
            event_lease: tokio::sync::Mutex::new(None),
            recent: recent::Recent::default(),
            operations: Operations::default(),
            stop: stop.clone(),
            _stop_on_drop: stop.clone().drop_guard(),
        });
        pump::start(&storage, stop).await?;
        Ok(storage)
    }

    /// The store below.
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// What was just written.
    pub(crate) fn recent(&self) -> &recent::Recent {
        &self.recent
    }

    /// How long the store takes for what.
    pub fn operations(&self) -> &Operations {
        &self.operations
    }

    /// Stops following the store and ends all watches.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Completes when [`Storage::stop`] was called.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// The served resources, as of now.
    pub fn table(&self) -> Arc<ResourceTable> {
        self.table.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Serves what another table has; watches of rows that are not in it end.
    fn replace_table(&self, table: ResourceTable) {
        let table = Arc::new(table);
        let mut place = self.table.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = std::mem::replace(&mut *place, table.clone());
        drop(place);
        before.retire(&table);
    }

    /// The revision up to which all caches are complete.
    pub fn applied(&self) -> Revision {
        *self.applied.borrow()
    }

    /// Waits until the caches hold everything up to `revision`.
    pub async fn wait_for(&self, revision: Revision) -> ApiResult<()> {
        if self.applied() >= revision {
            return Ok(());
        }
        let deadline = coracle_clock::instant() + CATCH_UP;
        let mut applied = self.applied.subscribe();
        while *applied.borrow_and_update() < revision {
            tokio::select! {
                biased;
                changed = applied.changed() => changed.map_err(|_| ApiError::unavailable("the store is closed"))?,
                () = coracle_clock::sleep_until(deadline) => {
                    let current = self.applied();
                    let message = format!("Too large resource version: {revision}, current: {current}");
                    return Err(ApiError::timeout(message, 1)
                        .with_cause("ResourceVersionTooLarge", "Too large resource version"));
                }
            }
        }
        Ok(())
    }

    /// Waits until the caches hold every write acknowledged so far.
    pub async fn fresh(&self) -> ApiResult<()> {
        self.wait_for(self.store.current().await.map_err(refusal)?).await
    }

    /// One object as of now, whatever its version in the table; `None` if there is none. For in-process policy.
    pub async fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> ApiResult<Option<Value>> {
        let table = self.table();
        let Some(row) = table.find_any(group, plural) else { return Ok(None) };
        self.fresh().await?;
        Ok(row.cache.get(&table::suffix(namespace, name)).map(|entry| entry.parse()))
    }

    /// All objects of a resource (in `namespace`, unless that is empty) as of now, in key order. For in-process policy.
    pub async fn list(&self, group: &str, plural: &str, namespace: &str) -> ApiResult<Vec<Value>> {
        let table = self.table();
        let Some(row) = table.find_any(group, plural) else { return Ok(Vec::new()) };
        self.fresh().await?;
        Ok(row.cache.list(namespace, self.applied()).0.iter().map(|entry| entry.parse()).collect())
    }

    /// The revision of the last change to a resource, 0 for none yet: tells whether something derived
    /// from its objects is still good.
    pub fn last_change(&self, group: &str, plural: &str) -> Revision {
        self.table().find_any(group, plural).map_or(0, |row| row.cache.last_change())
    }
}

/// What a failing store means to a client.
pub fn refusal(error: StoreError) -> ApiError {
    match error {
        StoreError::Compacted { .. } => ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new \
             list without the continue parameter, or use the continue token in this response to retrieve the \
             remainder of the results. Continuing with the provided token results in an inconsistent list - objects \
             that were created, modified, or deleted between the time the first chunk was returned and now may show \
             up in the list.",
        ),
        StoreError::Closed => ApiError::unavailable("the store is closed"),
        other => ApiError::internal(other),
    }
}
