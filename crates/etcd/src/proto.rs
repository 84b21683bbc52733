//! The messages of etcd's API, version 3: packages `mvccpb` and `etcdserverpb` of etcd 3.6, as far as they are spoken
//! here. The numbers are the wire's; enumerations are plain numbers, named where they are read.

use bytes::Bytes;

/// One line a field: its kind, its number, its name and type.
macro_rules! messages {
    ($($message:ident { $([$($kind:tt)+] $tag:tt $field:ident: $type:ty,)* })*) => {
        $(#[derive(Clone, PartialEq, prost::Message)]
        pub(crate) struct $message {
            $(#[prost($($kind)+, tag = $tag)]
            pub(crate) $field: $type,)*
        })*
    };
}

messages! {
    KeyValue {
        [bytes = "bytes"] 1 key: Bytes,
        [int64] 2 create_revision: i64,
        [int64] 3 mod_revision: i64,
        [int64] 4 version: i64,
        [bytes = "bytes"] 5 value: Bytes,
        [int64] 6 lease: i64,
    }
    Event {
        [int32] 1 kind: i32,
        [message, optional] 2 kv: Option<KeyValue>,
        [message, optional] 3 prev_kv: Option<KeyValue>,
    }
    ResponseHeader {
        [uint64] 1 cluster_id: u64,
        [uint64] 2 member_id: u64,
        [int64] 3 revision: i64,
        [uint64] 4 raft_term: u64,
    }

    RangeRequest {
        [bytes = "bytes"] 1 key: Bytes,
        [bytes = "bytes"] 2 range_end: Bytes,
        [int64] 3 limit: i64,
        [int64] 4 revision: i64,
        [int32] 5 sort_order: i32,
        [int32] 6 sort_target: i32,
        [bool] 7 serializable: bool,
        [bool] 8 keys_only: bool,
        [bool] 9 count_only: bool,
        [int64] 10 min_mod_revision: i64,
        [int64] 11 max_mod_revision: i64,
        [int64] 12 min_create_revision: i64,
        [int64] 13 max_create_revision: i64,
    }
    RangeResponse {
        [message, optional] 1 header: Option<ResponseHeader>,
        [message, repeated] 2 kvs: Vec<KeyValue>,
        [bool] 3 more: bool,
        [int64] 4 count: i64,
    }
    PutRequest {
        [bytes = "bytes"] 1 key: Bytes,
        [bytes = "bytes"] 2 value: Bytes,
        [int64] 3 lease: i64,
        [bool] 4 prev_kv: bool,
        [bool] 5 ignore_value: bool,
        [bool] 6 ignore_lease: bool,
    }
    PutResponse {
        [message, optional] 1 header: Option<ResponseHeader>,
        [message, optional] 2 prev_kv: Option<KeyValue>,
    }
    DeleteRangeRequest {
        [bytes = "bytes"] 1 key: Bytes,
        [bytes = "bytes"] 2 range_end: Bytes,
        [bool] 3 prev_kv: bool,
    }
    DeleteRangeResponse {
        [message, optional] 1 header: Option<ResponseHeader>,
        [int64] 2 deleted: i64,
        [message, repeated] 3 prev_kvs: Vec<KeyValue>,
    }
    // One of its fields.
    RequestOp {
        [message, optional] 1 range: Option<RangeRequest>,
        [message, optional] 2 put: Option<PutRequest>,
        [message, optional] 3 delete_range: Option<DeleteRangeRequest>,
        [message, optional] 4 txn: Option<TxnRequest>,
    }
    // One of its fields.
    ResponseOp {
        [message, optional] 1 range: Option<RangeResponse>,
        [message, optional] 2 put: Option<PutResponse>,
        [message, optional] 3 delete_range: Option<DeleteRangeResponse>,
        [message, optional] 4 txn: Option<TxnResponse>,
    }
    // What `target` names is the one of 4 to 8 that is there.
    Compare {
        [int32] 1 result: i32,
        [int32] 2 target: i32,
        [bytes = "bytes"] 3 key: Bytes,
        [int64, optional] 4 version: Option<i64>,
        [int64, optional] 5 create_revision: Option<i64>,
        [int64, optional] 6 mod_revision: Option<i64>,
        [bytes = "bytes", optional] 7 value: Option<Bytes>,
        [int64, optional] 8 lease: Option<i64>,
        [bytes = "bytes"] 64 range_end: Bytes,
    }
    TxnRequest {
        [message, repeated] 1 compare: Vec<Compare>,
        [message, repeated] 2 success: Vec<RequestOp>,
        [message, repeated] 3 failure: Vec<RequestOp>,
    }
    TxnResponse {
        [message, optional] 1 header: Option<ResponseHeader>,
        [bool] 2 succeeded: bool,
        [message, repeated] 3 responses: Vec<ResponseOp>,
    }
    CompactionRequest {
        [int64] 1 revision: i64,
        [bool] 2 physical: bool,
    }

    // One of its fields.
    WatchRequest {
        [message, optional] 1 create: Option<WatchCreateRequest>,
        [message, optional] 2 cancel: Option<WatchCancelRequest>,
        [message, optional] 3 progress: Option<Empty>,
    }
    WatchCreateRequest {
        [bytes = "bytes"] 1 key: Bytes,
        [bytes = "bytes"] 2 range_end: Bytes,
        [int64] 3 start_revision: i64,
        [bool] 4 progress_notify: bool,
        [int32, repeated] 5 filters: Vec<i32>,
        [bool] 6 prev_kv: bool,
        [int64] 7 watch_id: i64,
        [bool] 8 fragment: bool,
    }
    WatchCancelRequest {
        [int64] 1 watch_id: i64,
    }
    WatchResponse {
        [message, optional] 1 header: Option<ResponseHeader>,
        [int64] 2 watch_id: i64,
        [bool] 3 created: bool,
        [bool] 4 canceled: bool,
        [int64] 5 compact_revision: i64,
        [string] 6 cancel_reason: String,
        [bool] 7 fragment: bool,
        [message, repeated] 11 events: Vec<Event>,
    }

    LeaseGrantRequest {
        [int64] 1 ttl: i64,
        [int64] 2 id: i64,
    }
    LeaseGrantResponse {
        [message, optional] 1 header: Option<ResponseHeader>,
        [int64] 2 id: i64,
        [int64] 3 ttl: i64,
        [string] 4 error: String,
    }
    // Of LeaseRevoke, LeaseKeepAlive and LeaseStatus.
    LeaseId {
        [int64] 1 id: i64,
    }
    LeaseKeepAliveResponse {
        [message, optional] 1 header: Option<ResponseHeader>,
        [int64] 2 id: i64,
        [int64] 3 ttl: i64,
    }
    LeaseTimeToLiveRequest {
        [int64] 1 id: i64,
        [bool] 2 keys: bool,
    }
    LeaseTimeToLiveResponse {
        [message, optional] 1 header: Option<ResponseHeader>,
        [int64] 2 id: i64,
        [int64] 3 ttl: i64,
        [int64] 4 granted_ttl: i64,
        [bytes = "bytes", repeated] 5 keys: Vec<Bytes>,
    }
    LeaseLeasesResponse {
        [message, optional] 1 header: Option<ResponseHeader>,
        [message, repeated] 2 leases: Vec<LeaseId>,
    }

    Member {
        [uint64] 1 id: u64,
        [string] 2 name: String,
        [string, repeated] 3 peer_urls: Vec<String>,
        [string, repeated] 4 client_urls: Vec<String>,
        [bool] 5 is_learner: bool,
    }
    MemberListResponse {
        [message, optional] 1 header: Option<ResponseHeader>,
        [message, repeated] 2 members: Vec<Member>,
    }

    AlarmRequest {
        [int32] 1 action: i32,
        [uint64] 2 member_id: u64,
        [int32] 3 alarm: i32,
    }
    AlarmMember {
        [uint64] 1 member_id: u64,
        [int32] 2 alarm: i32,
    }
    AlarmResponse {
        [message, optional] 1 header: Option<ResponseHeader>,
        [message, repeated] 2 alarms: Vec<AlarmMember>,
    }
    StatusResponse {
        [message, optional] 1 header: Option<ResponseHeader>,
        [string] 2 version: String,
        [int64] 3 db_size: i64,
        [uint64] 4 leader: u64,
        [uint64] 5 raft_index: u64,
        [uint64] 6 raft_term: u64,
        [uint64] 7 raft_applied_index: u64,
        [string, repeated] 8 errors: Vec<String>,
        [int64] 9 db_size_in_use: i64,
        [bool] 10 is_learner: bool,
        [string] 11 storage_version: String,
    }
    HashKvRequest {
        [int64] 1 revision: i64,
    }
    // Of Hash and HashKV; the last two are HashKV's.
    HashResponse {
        [message, optional] 1 header: Option<ResponseHeader>,
        [uint32] 2 hash: u32,
        [int64] 3 compact_revision: i64,
        [int64] 4 hash_revision: i64,
    }
    SnapshotResponse {
        [message, optional] 1 header: Option<ResponseHeader>,
        [uint64] 2 remaining_bytes: u64,
        [bytes = "bytes"] 3 blob: Bytes,
        [string] 4 version: String,
    }

    // How a lease is kept in a file (package leasepb).
    Lease {
        [int64] 1 id: i64,
        [int64] 2 ttl: i64,
        [int64] 3 remaining_ttl: i64,
    }

    AuthStatusResponse {
        [message, optional] 1 header: Option<ResponseHeader>,
        [bool] 2 enabled: bool,
        [uint64] 3 auth_revision: u64,
    }

    // Of every call that asks for nothing in particular.
    Empty {}
    // Of every answer that says only that it was done.
    Done {
        [message, optional] 1 header: Option<ResponseHeader>,
    }
}
