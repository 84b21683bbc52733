//! What happened: every change of the store, in order.

use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use coracle_store::{KeyRange, RangeRequest, Revision, SharedStore, WatchRequest};
use futures::StreamExt;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When, in the store's time.
    pub revision: Revision,
    /// The key, such as `/registry/pods/default/web`.
    pub key: Bytes,
    /// The new value, an object's JSON; `None` for a deletion.
    pub value: Option<Bytes>,
}

impl Change {
    /// The name of the resource and of the object: `pods`, `default/web`. The group, where there is one, is left out.
    pub fn object(&self) -> (String, String) {
        let key = String::from_utf8_lossy(&self.key);
        let mut parts: Vec<&str> = key.trim_start_matches("/registry/").split('/').collect();
        if parts.first().is_some_and(|group| group.contains('.')) {
            parts.remove(0);
        }
        (parts.remove(0).to_owned(), parts.join("/"))
    }

    /// The new value as JSON; null for a deletion.
    pub fn json(&self) -> Value {
        self.value.as_ref().and_then(|value| serde_json::from_slice(value).ok()).unwrap_or_default()
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.value.as_ref().map_or("deleted".into(), |value| String::from_utf8_lossy(value));
        write!(f, "{} {} {value}", self.revision, String::from_utf8_lossy(&self.key))
    }
}

/// Hears of every change of a store, for as long as it is held, and keeps them if it is asked to.
#[derive(Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Recorded>>);

#[derive(Default)]
struct Recorded {
    changes: Vec<Change>,
    /// How many changes there were of anything but heartbeats and events.
    matters: u64,
    hash: Sha256,
    listener: Option<Listener>,
}

pub(crate) type Listener = Box<dyn FnMut(&Change) + Send>;

impl Recorder {
    pub(crate) async fn start(store: &SharedStore, keep: bool) -> anyhow::Result<Recorder> {
        let request = WatchRequest::new(KeyRange::prefix(""), Some(store.revision() + 1));
        let mut batches = store.watch(request).await?;
        let recorder = Recorder::default();
        let recorded = recorder.0.clone();
        tokio::spawn(async move {
            while let Some(Ok(batch)) = batches.next().await {
                let mut recorded = recorded.lock().unwrap_or_else(PoisonError::into_inner);
                for event in batch.events {
                    let change = Change {
                        revision: event.kv.mod_revision,
                        key: event.kv.key,
                        value: (!event.deleted).then_some(event.kv.value),
                    };
                    recorded.add(change, keep);
                }
            }
        });
        Ok(recorder)
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells somebody of every change from now on.
    pub(crate) fn listen(&self, listener: Listener) {
        self.lock().listener = Some(listener);
    }

    pub(crate) fn changes(&self) -> Vec<Change> {
        self.lock().changes.clone()
    }

    pub(crate) fn matters(&self) -> u64 {
        self.lock().matters
    }

    /// The SHA-256 of all changes so far, in hexadecimal.
    pub(crate) fn hash(&self) -> String {
        self.lock().hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Recorded {
    fn add(&mut self, change: Change, keep: bool) {
        self.hash.update(change.revision.to_be_bytes());
        self.hash.update(&change.key);
        self.hash.update(change.value.as_deref().unwrap_or_default());
        let heartbeat =
            ["/registry/leases/", "/registry/coordination.k8s.io/leases/", "/registry/minions/", "/registry/events/"];
        self.matters += u64::from(!heartbeat.iter().any(|prefix| change.key.starts_with(prefix.as_bytes())));
        if let Some(listener) = &mut self.listener {
            listener(&change);
        }
        if keep {
            self.changes.push(change);
        }
    }
}

/// All that a store holds, a line for each key: revision, key, value.
///
/// # Errors
/// The store's.
pub async fn dump(store: &SharedStore) -> anyhow::Result<String> {
    let mut text = String::new();
    for kv in store.range(RangeRequest::new(KeyRange::prefix(""))).await?.kvs {
        let change = Change { revision: kv.mod_revision, key: kv.key, value: Some(kv.value) };
        writeln!(text, "{change}")?;
    }
    Ok(text)
}
