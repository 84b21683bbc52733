//! Messages in the store's terms and back, and the refusals: etcd's own codes and words.

use bytes::Bytes;
use coracle_store::{Event, KeyRange, KeyValue, StoreError};
use tonic::{Code, Status};

use crate::proto;

/// What a range's end means on the wire: nothing for one key, a zero byte for all keys from the first on.
pub(crate) fn range(key: Bytes, end: Bytes) -> KeyRange {
    let end = match &end[..] {
        [] => None,
        [0] => Some(Bytes::new()),
        _ => Some(end),
    };
    KeyRange { start: key, end }
}

impl From<KeyValue> for proto::KeyValue {
    fn from(kv: KeyValue) -> Self {
        let KeyValue { key, value, create_revision, mod_revision, version, lease } = kv;
        proto::KeyValue { key, value, create_revision, mod_revision, version, lease }
    }
}

impl From<Event> for proto::Event {
    fn from(event: Event) -> Self {
        proto::Event {
            kind: event.deleted.into(),
            kv: Some(event.kv.into()),
            prev_kv: event.prev.map(proto::KeyValue::from),
        }
    }
}

pub(crate) const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";

/// A refusal of the store, as etcd would put it.
pub(crate) fn refusal(error: StoreError) -> Status {
    let (code, text) = match error {
        StoreError::Compacted { .. } => (Code::OutOfRange, COMPACTED),
        StoreError::FutureRevision { .. } => {
            (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision")
        }
        StoreError::LeaseNotFound => (Code::NotFound, "etcdserver: requested lease not found"),
        StoreError::LeaseExists => (Code::FailedPrecondition, "etcdserver: lease already exists"),
        StoreError::DuplicateKey => (Code::InvalidArgument, "etcdserver: duplicate key given in txn request"),
        StoreError::KeyNotFound => (Code::InvalidArgument, "etcdserver: key not found"),
        StoreError::Closed => (Code::Unavailable, "etcdserver: server stopped"),
        StoreError::NoSpace => (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
        StoreError::Corrupt(_) => (Code::DataLoss, "etcdserver: corrupt cluster"),
        StoreError::InUse { .. } | StoreError::Engine(_) => return Status::internal(error.to_string()),
    };
    Status::new(code, text)
}
