//! Fills the caches: one watch of the whole store, from a snapshot of the registry on.
//!
//! The snapshot is taken a little in the past, if the store still knows it, and the changes since then
//! are replayed into the logs: so watches that were open before a restart can go on where they stood.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use coracle_store::{
    Event, KeyRange, KeyValue, RangeRequest, RangeResponse, Revision, StoreError, WatchRequest, WatchStream,
};
use futures::StreamExt;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Entry, Storage, codec, definitions};

/// Group and plural of the resource whose objects define others.
const DEFINITIONS: (&str, &str) = ("apiextensions.k8s.io", "customresourcedefinitions");
const REGISTRY: &str = "/registry/";
/// How many revisions before the newest the snapshot at start is taken.
const REPLAY: Revision = 200;
/// The rest between attempts to load everything anew.
const RETRY: Duration = Duration::from_secs(1);
/// How often old changes are forgotten when nothing happens.
const TIDY: Duration = Duration::from_secs(30);

/// Loads the caches and starts the task that keeps them up to date until `stop` or the storage's end.
pub(super) async fn start(storage: &Arc<Storage>, stop: CancellationToken) -> Result<(), StoreError> {
    let newest = storage.store.current().await?;
    let mut stream = load(storage, Some((newest - REPLAY).max(1))).await?;
    while storage.applied() < newest {
        match stream.next().await {
            Some(Ok(batch)) => apply(storage, &batch.events, batch.revision).await?,
            Some(Err(error)) => return Err(error),
            None => return Err(StoreError::Closed),
        }
    }
    tokio::spawn(run(Arc::downgrade(storage), stream, stop.clone()));
    tokio::spawn(definitions::run(Arc::downgrade(storage), stop));
    Ok(())
}

/// Resets all caches to a snapshot at `revision` (the newest, if there is none or it is compacted) and watches from
/// there.
async fn load(storage: &Storage, revision: Option<Revision>) -> Result<WatchStream, StoreError> {
    let mut request = RangeRequest { revision, ..RangeRequest::new(KeyRange::prefix(REGISTRY)) };
    let snapshot = match storage.store.range(request.clone()).await {
        Err(StoreError::Compacted { .. } | StoreError::FutureRevision { .. }) => {
            request.revision = None;
            storage.store.range(request.clone()).await?
        }
        other => other?,
    };
    let at = request.revision.unwrap_or(snapshot.revision);
    define(storage, &snapshot);
    reset(storage, &snapshot, at);
    storage.applied.send_replace(at);
    // Everything, not the registry alone: so every revision is seen, and nobody waits for one that is elsewhere.
    let range = KeyRange::prefix("");
    storage.store.watch(WatchRequest { progress: Some(TIDY), ..WatchRequest::new(range, Some(at + 1)) }).await
}

/// Makes the table serve what the definitions in a snapshot define, and nothing else.
fn define(storage: &Storage, snapshot: &RangeResponse) {
    let table = storage.table();
    let Some(definitions) = table.find(DEFINITIONS.0, "v1", DEFINITIONS.1) else { return };
    let mut changes: BTreeMap<String, Option<Value>> = table.definitions().map(|name| (name.clone(), None)).collect();
    for kv in &snapshot.kvs {
        let Some(name) = std::str::from_utf8(&kv.key).ok().and_then(|k| k.strip_prefix(definitions.cache.prefix()))
        else {
            continue;
        };
        changes.insert(name.to_owned(), serde_json::from_slice(&codec::readable(&kv.value)).ok());
    }
    if !changes.is_empty() {
        storage.replace_table(table.redefined(changes.into_iter().collect()).0);
    }
}

/// Follows changes of definitions: new rows, with their objects as of `revision`, or rows that go.
async fn redefine(
    storage: &Storage,
    changes: Vec<(String, Option<Value>)>,
    revision: Revision,
) -> Result<(), StoreError> {
    let (table, fresh) = storage.table().redefined(changes);
    for cache in fresh {
        let range = KeyRange::prefix(cache.prefix().to_owned());
        let request = RangeRequest { revision: Some(revision), ..RangeRequest::new(range) };
        let objects = storage.store.range(request).await?;
        let entry = |kv: &KeyValue| {
            let key = std::str::from_utf8(&kv.key).ok()?.strip_prefix(cache.prefix())?;
            Some(cache.entry(key, &kv.value, kv.mod_revision))
        };
        cache.reset(objects.kvs.iter().filter_map(entry), revision);
    }
    storage.replace_table(table);
    Ok(())
}

fn reset(storage: &Storage, snapshot: &RangeResponse, at: Revision) {
    let table = storage.table();
    let mut objects: BTreeMap<&str, Vec<Entry>> = BTreeMap::new();
    for kv in &snapshot.kvs {
        let Ok(key) = std::str::from_utf8(&kv.key) else { continue };
        if let Some(cache) = table.cache_of(key) {
            let entry = cache.entry(&key[cache.prefix().len()..], &kv.value, kv.mod_revision);
            objects.entry(cache.prefix()).or_default().push(entry);
        }
    }
    for cache in table.caches() {
        cache.reset(objects.remove(cache.prefix()).unwrap_or_default(), at);
    }
}

async fn apply(storage: &Storage, events: &[Event], revision: Revision) -> Result<(), StoreError> {
    let mut table = storage.table();
    let defines = table.find(DEFINITIONS.0, "v1", DEFINITIONS.1).map(|row| row.cache.clone());
    let mut rest = events;
    while let Some(first) = rest.first() {
        let Some(cache) = std::str::from_utf8(&first.kv.key).ok().and_then(|key| table.cache_of(key)) else {
            rest = &rest[1..];
            continue;
        };
        let cache = cache.clone();
        let prefix = cache.prefix();
        let same = |event: &Event| event.kv.key.starts_with(prefix.as_bytes());
        let run = rest.iter().position(|event| !same(event)).unwrap_or(rest.len());
        // Who sees a definition established finds it served, so the table goes first.
        if defines.as_ref().is_some_and(|defines| Arc::ptr_eq(defines, &cache)) {
            let change = |event: &Event| {
                let name = std::str::from_utf8(&event.kv.key[prefix.len()..]).ok()?.to_owned();
                Some((
                    name,
                    (!event.deleted).then(|| serde_json::from_slice(&codec::readable(&event.kv.value)).ok()).flatten(),
                ))
            };
            let at = rest[run - 1].kv.mod_revision;
            redefine(storage, rest[..run].iter().filter_map(change).collect(), at).await?;
            table = storage.table();
        }
        cache.apply(rest[..run].iter().filter_map(|event| {
            let suffix = std::str::from_utf8(&event.kv.key[prefix.len()..]).ok()?;
            Some((suffix, event.kv.mod_revision, (!event.deleted).then_some(&event.kv.value)))
        }));
        rest = &rest[run..];
    }
    storage.applied.send_if_modified(|applied| {
        let forward = revision > *applied;
        *applied = revision.max(*applied);
        forward
    });
    Ok(())
}

async fn run(storage: Weak<Storage>, mut stream: WatchStream, stop: CancellationToken) {
    loop {
        let item = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            item = stream.next() => item,
        };
        let Some(storage) = storage.upgrade() else { return };
        let done = match item {
            Some(Ok(batch)) if batch.events.is_empty() => {
                storage.table().caches().for_each(|cache| cache.forget());
                storage.recent.clear();
                apply(&storage, &[], batch.revision).await
            }
            Some(Ok(batch)) => apply(&storage, &batch.events, batch.revision).await,
            None => return,
            Some(Err(error)) => Err(error),
        };
        match done {
            Ok(()) => {}
            Err(StoreError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "the store's watch broke off; loading everything anew");
                stream = loop {
                    match load(&storage, None).await {
                        Ok(anew) => break anew,
                        Err(StoreError::Closed) => return,
                        Err(error) => tracing::error!(%error, "cannot load the registry; trying again"),
                    }
                    if stop.run_until_cancelled(coracle_clock::sleep(RETRY)).await.is_none() {
                        return;
                    }
                };
            }
        }
    }
}
