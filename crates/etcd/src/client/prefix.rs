//! A registry that lies elsewhere in an etcd (`--etcd-prefix`), as several clusters on one etcd have it.
//!
//! Above this it is at [`REGISTRY`], and nothing else is there. Revisions are the etcd's: those of others' changes have no
//! changes.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_store::{
    Compare, KeyRange, KeyValue, LeaseId, LeaseStatus, Op, OpResponse, RangeRequest, RangeResponse, Result, Revision,
    SharedStore, Store, Txn, TxnResponse, WatchBatch, WatchRequest, WatchStream,
};
use futures::StreamExt;

/// Where a registry lies unless it is told otherwise.
pub const REGISTRY: &str = "/registry";

/// A store whose registry lies under another prefix.
#[derive(Debug)]
pub struct Prefixed {
    store: SharedStore,
    prefix: Prefix,
}

impl Prefixed {
    /// In front of `store`; `prefix` is taken as upstream takes it, as a path from the root.
    pub fn new(store: SharedStore, prefix: &str) -> Prefixed {
        let prefix = Prefix(format!("/{}", prefix.trim_matches('/')).into());
        Prefixed { store, prefix }
    }
}

#[derive(Clone, Debug)]
struct Prefix(Bytes);

impl Prefix {
    fn there(&self, key: &Bytes) -> Bytes {
        match key.strip_prefix(REGISTRY.as_bytes()) {
            Some(rest) => [&self.0, rest].concat().into(),
            None => key.clone(),
        }
    }

    fn here(&self, key: &Bytes) -> Option<Bytes> {
        let rest = key.strip_prefix(&self.0[..]).filter(|rest| rest.starts_with(b"/"))?;
        Some([REGISTRY.as_bytes(), rest].concat().into())
    }

    fn range(&self, range: &KeyRange) -> KeyRange {
        match range.start.is_empty() {
            true => KeyRange::prefix([&self.0, &b"/"[..]].concat()),
            false => KeyRange { start: self.there(&range.start), end: range.end.as_ref().map(|end| self.there(end)) },
        }
    }

    fn request(&self, request: RangeRequest) -> RangeRequest {
        RangeRequest { range: self.range(&request.range), ..request }
    }

    fn txn(&self, txn: Txn) -> Txn {
        let ops = |ops: Vec<Op>| ops.into_iter().map(|op| self.op(op)).collect();
        let compare = |compare: Compare| Compare { range: self.range(&compare.range), ..compare };
        Txn {
            compare: txn.compare.into_iter().map(compare).collect(),
            success: ops(txn.success),
            failure: ops(txn.failure),
        }
    }

    fn op(&self, op: Op) -> Op {
        match op {
            Op::Put { key, value, lease } => Op::Put { key: self.there(&key), value, lease },
            Op::Update { key, value, lease } => Op::Update { key: self.there(&key), value, lease },
            Op::Delete(range) => Op::Delete(self.range(&range)),
            Op::Range(request) => Op::Range(self.request(request)),
            Op::Txn(txn) => Op::Txn(self.txn(txn)),
        }
    }

    fn kv(&self, kv: KeyValue) -> Option<KeyValue> {
        Some(KeyValue { key: self.here(&kv.key)?, ..kv })
    }

    fn kvs(&self, kvs: Vec<KeyValue>) -> Vec<KeyValue> {
        kvs.into_iter().filter_map(|kv| self.kv(kv)).collect()
    }

    fn answer(&self, answer: TxnResponse) -> TxnResponse {
        let one = |response| match response {
            OpResponse::Put(prev) => OpResponse::Put(prev.and_then(|kv| self.kv(kv))),
            OpResponse::Delete(kvs) => OpResponse::Delete(self.kvs(kvs)),
            OpResponse::Range(found) => OpResponse::Range(self.found(found)),
            OpResponse::Txn(inner) => OpResponse::Txn(self.answer(inner)),
        };
        TxnResponse { responses: answer.responses.into_iter().map(one).collect(), ..answer }
    }

    fn found(&self, found: RangeResponse) -> RangeResponse {
        RangeResponse { kvs: self.kvs(found.kvs), ..found }
    }

    fn batch(&self, mut batch: WatchBatch) -> WatchBatch {
        batch.events.retain_mut(|event| {
            let here = self.here(&event.kv.key);
            if let (Some(key), Some(prev)) = (&here, &mut event.prev) {
                prev.key = key.clone();
            }
            here.map(|key| event.kv.key = key).is_some()
        });
        batch
    }
}

#[async_trait]
impl Store for Prefixed {
    fn revision(&self) -> Revision {
        self.store.revision()
    }

    async fn current(&self) -> Result<Revision> {
        self.store.current().await
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse> {
        Ok(self.prefix.found(self.store.range(self.prefix.request(request)).await?))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse> {
        Ok(self.prefix.answer(self.store.txn(self.prefix.txn(txn)).await?))
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream> {
        // Who watches everything sees every revision, if only that it happened.
        let range = if request.range.start.is_empty() { request.range } else { self.prefix.range(&request.range) };
        let prefix = self.prefix.clone();
        let batches = self.store.watch(WatchRequest { range, ..request }).await?;
        Ok(batches.map(move |batch| batch.map(|batch| prefix.batch(batch))).boxed())
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.store.compact(revision).await
    }

    async fn lease_grant(&self, id: LeaseId, ttl: Duration) -> Result<LeaseId> {
        self.store.lease_grant(id, ttl).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration> {
        self.store.lease_keep_alive(id).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<()> {
        self.store.lease_revoke(id).await
    }

    async fn lease_status(&self, id: LeaseId) -> Result<LeaseStatus> {
        let status = self.store.lease_status(id).await?;
        let keys = status.keys.iter().filter_map(|key| self.prefix.here(key)).collect();
        Ok(LeaseStatus { keys, ..status })
    }

    async fn leases(&self) -> Result<Vec<LeaseId>> {
        self.store.leases().await
    }

    async fn size_bytes(&self) -> Result<u64> {
        self.store.size_bytes().await
    }

    async fn close(&self) -> Result<()> {
        self.store.close().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use coracle_store::MemoryStore;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn two_registries_lie_in_one_store_and_know_nothing_of_each_other() {
        let below = MemoryStore::new() as SharedStore;
        let (plain, inner) = (below.clone(), Arc::new(Prefixed::new(below.clone(), "registry/inner/")));
        let mut watch = inner.watch(WatchRequest::new(KeyRange::prefix(""), Some(2))).await.unwrap();
        for (store, value) in [(&plain, "outer"), (&(inner.clone() as SharedStore), "inner")] {
            assert!(store.txn(Txn::put_if("/registry/pods/a", 0, value, 0)).await.unwrap().succeeded);
        }
        let again = inner.txn(Txn::put_if("/registry/pods/a", 0, "again", 0)).await.unwrap();
        let OpResponse::Range(found) = &again.responses[0] else { panic!("{again:?}") };
        assert_eq!((&found.kvs[0].key[..], &found.kvs[0].value[..]), (&b"/registry/pods/a"[..], &b"inner"[..]));
        let all = RangeRequest::new(KeyRange::prefix(""));
        assert_eq!(inner.range(all.clone()).await.unwrap().kvs, found.kvs);
        let keys: Vec<_> = below.range(all).await.unwrap().kvs.into_iter().map(|kv| kv.key).collect();
        assert_eq!(keys, ["/registry/inner/pods/a", "/registry/pods/a"]);
        inner.txn(Txn::delete_if("/registry/pods/a", 3)).await.unwrap();
        let mut seen = Vec::new();
        while seen.last().is_none_or(|(revision, _)| *revision < 4) {
            let batch = watch.next().await.unwrap().unwrap();
            seen.push((batch.revision, batch.events.len()));
            assert!(batch.events.iter().all(|event| event.kv.key == "/registry/pods/a"));
        }
        assert_eq!(seen.iter().map(|(_, events)| events).sum::<usize>(), 2, "{seen:?}");
    }
}
