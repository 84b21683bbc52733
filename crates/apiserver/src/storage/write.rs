//! Compare-and-swap writes.

use std::time::Duration;

use bytes::Bytes;
use coracle_api::{ApiError, ApiResult};
use coracle_store::{KeyValue, LeaseId, OpResponse, Revision, Txn};
use serde_json::Value;

use super::{Row, Storage, codec, refusal};

/// What a write left behind: the object's JSON with its new version.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The revision of the write.
    pub revision: Revision,
    /// The JSON, with `resourceVersion`.
    pub json: Bytes,
}

impl Stored {
    /// What a deletion leaves behind: the object's last state with the deletion's version.
    pub fn new(object: &Value, revision: Revision) -> Self {
        Stored { revision, json: codec::stamp(&codec::encode(object), revision) }
    }
}

/// Why a write did not happen: somebody else was there first. Holds what is there now.
#[derive(Clone, Debug)]
pub struct WriteError {
    /// The object that is there now, with its version and lease; `None` if there is none.
    pub current: Option<Box<KeyValue>>,
}

/// How long events live.
const EVENT_TTL: Duration = Duration::from_secs(3600);
/// How long one lease takes new events: a lease an event would be many leases.
const SHARE_LEASE: Duration = Duration::from_secs(60);

impl Storage {
    /// The lease for an object that is written now: events live for an hour, everything else for ever.
    pub async fn lease_for(&self, row: &Row) -> ApiResult<LeaseId> {
        if row.resource.plural != "events" || !matches!(row.resource.group.as_str(), "" | "events.k8s.io") {
            return Ok(0);
        }
        let mut current = self.event_lease.lock().await;
        let now = coracle_clock::instant();
        if let Some((lease, since)) = *current
            && now.duration_since(since) < SHARE_LEASE
        {
            return Ok(lease);
        }
        let lease = self.store().lease_grant(0, EVENT_TTL + SHARE_LEASE).await.map_err(refusal)?;
        *current = Some((lease, now));
        Ok(lease)
    }

    /// Puts an object if its key is unchanged since `expected` (0: does not exist).
    pub async fn put(
        &self,
        key: &str,
        expected: Revision,
        object: &Value,
        lease: LeaseId,
    ) -> ApiResult<Result<Stored, WriteError>> {
        self.put_with(key, expected, object, lease, Txn::default()).await
    }

    /// Puts an object, and does in the same transaction what must not be done without it.
    pub async fn put_with(
        &self,
        key: &str,
        expected: Revision,
        object: &Value,
        lease: LeaseId,
        beside: Txn,
    ) -> ApiResult<Result<Stored, WriteError>> {
        // Without the room that encoding left at the end: it would be kept as long as the object.
        let bytes = Bytes::from(codec::encode(object).into_boxed_slice());
        let txn = Txn::put_if(key.to_owned(), expected, bytes.clone(), lease);
        let verb = if expected == 0 { "create" } else { "update" };
        let written = self.commit(verb, txn, beside, expected).await?;
        Ok(written.map(|revision| Stored { revision, json: codec::stamp(&bytes, revision) }))
    }

    /// Deletes an object if its key is unchanged since `expected`; answers with the revision of the deletion.
    pub async fn remove(&self, key: &str, expected: Revision) -> ApiResult<Result<Revision, WriteError>> {
        self.remove_with(key, expected, Txn::default()).await
    }

    /// Deletes an object, and does in the same transaction what must not be done without it.
    pub async fn remove_with(
        &self,
        key: &str,
        expected: Revision,
        beside: Txn,
    ) -> ApiResult<Result<Revision, WriteError>> {
        self.commit("delete", Txn::delete_if(key.to_owned(), expected), beside, expected).await
    }

    async fn commit(
        &self,
        verb: &'static str,
        mut txn: Txn,
        beside: Txn,
        expected: Revision,
    ) -> ApiResult<Result<Revision, WriteError>> {
        txn.compare.extend(beside.compare);
        // First, so that who sees the object sees what belongs to it.
        txn.success.splice(0..0, beside.success);
        let since = coracle_clock::instant();
        let response = self.store().txn(txn).await.map_err(refusal)?;
        self.operations().observe(verb, since);
        if response.succeeded {
            return Ok(Ok(response.revision));
        }
        let current = found(response.responses);
        if current.as_ref().map_or(0, |kv| kv.mod_revision) == expected {
            return Err(ApiError::timeout("something that the object needs was taken meanwhile; try again", 1));
        }
        Ok(Err(WriteError { current }))
    }
}

fn found(responses: Vec<OpResponse>) -> Option<Box<KeyValue>> {
    match responses.into_iter().next() {
        Some(OpResponse::Range(range)) => range.kvs.into_iter().next().map(Box::new),
        _ => None,
    }
}
