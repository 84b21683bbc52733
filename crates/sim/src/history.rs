//! What happened: every change of the store, in order.

use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use coracle_store::{KeyRange, RangeRequest, Revision, SharedStore, WatchRequest};
use futures::StreamExt;
use serde_json::Value;

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

/// Keeps every change of a store, for as long as it is held.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder(Arc<Mutex<Vec<Change>>>);

impl Recorder {
    pub(crate) async fn start(store: &SharedStore) -> anyhow::Result<Recorder> {
        let request = WatchRequest::new(KeyRange::prefix(""), Some(store.revision() + 1));
        let mut batches = store.watch(request).await?;
        let recorder = Recorder::default();
        let changes = recorder.0.clone();
        tokio::spawn(async move {
            while let Some(Ok(batch)) = batches.next().await {
                let new = batch.events.into_iter().map(|event| Change {
                    revision: event.kv.mod_revision,
                    key: event.kv.key,
                    value: (!event.deleted).then_some(event.kv.value),
                });
                changes.lock().unwrap_or_else(PoisonError::into_inner).extend(new);
            }
        });
        Ok(recorder)
    }

    pub(crate) fn changes(&self) -> Vec<Change> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether any change from number `since` on is `wanted`.
    pub(crate) fn any_since(&self, since: usize, wanted: impl Fn(&Change) -> bool) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[since..].iter().any(wanted)
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
