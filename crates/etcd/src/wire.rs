//! Messages in the store's terms and back, and the refusals: etcd's own codes and words.

use std::mem::discriminant;

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

/// The key and the end by which a range is named on the wire, where no key is empty.
pub(crate) fn bounds(range: KeyRange) -> (Bytes, Bytes) {
    const ZERO: Bytes = Bytes::from_static(&[0]);
    match range.end {
        None => (range.start, Bytes::new()),
        Some(end) => {
            let instead_of_none = |key: Bytes| if key.is_empty() { ZERO } else { key };
            (instead_of_none(range.start), instead_of_none(end))
        }
    }
}

impl From<proto::KeyValue> for KeyValue {
    fn from(kv: proto::KeyValue) -> Self {
        let proto::KeyValue { key, value, create_revision, mod_revision, version, lease } = kv;
        KeyValue { key, value, create_revision, mod_revision, version, lease }
    }
}

impl From<proto::Event> for Event {
    fn from(event: proto::Event) -> Self {
        Event {
            kv: event.kv.unwrap_or_default().into(),
            prev: event.prev_kv.map(KeyValue::from),
            deleted: event.kind == 1,
        }
    }
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

type Refusal = (Code, &'static str, fn() -> StoreError);

/// etcd's code and words, and what they are of the store's.
const REFUSALS: [Refusal; 9] = [
    (Code::OutOfRange, COMPACTED, || StoreError::Compacted { compact_revision: 0 }),
    (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision", || StoreError::FutureRevision {
        current: 0,
    }),
    (Code::NotFound, "etcdserver: requested lease not found", || StoreError::LeaseNotFound),
    (Code::FailedPrecondition, "etcdserver: lease already exists", || StoreError::LeaseExists),
    (Code::InvalidArgument, "etcdserver: duplicate key given in txn request", || StoreError::DuplicateKey),
    (Code::InvalidArgument, "etcdserver: key not found", || StoreError::KeyNotFound),
    (Code::Unavailable, "etcdserver: server stopped", || StoreError::Closed),
    (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", || StoreError::NoSpace),
    (Code::DataLoss, "etcdserver: corrupt cluster", || StoreError::Corrupt("etcd says that its members differ".into())),
];

/// A refusal of the store, as etcd would put it.
pub(crate) fn refusal(error: StoreError) -> Status {
    let same = |row: &&Refusal| discriminant(&(row.2)()) == discriminant(&error);
    match REFUSALS.iter().find(same) {
        Some((code, text, _)) => Status::new(*code, *text),
        None => Status::internal(error.to_string()),
    }
}

/// A refusal of etcd's, in the store's terms, except for the revisions, which it does not name.
pub(crate) fn refused(status: &Status) -> StoreError {
    let row = REFUSALS.iter().find(|(code, text, _)| (*code, *text) == (status.code(), status.message()));
    row.map_or_else(|| StoreError::Engine(status.message().to_owned()), |(_, _, error)| error())
}
