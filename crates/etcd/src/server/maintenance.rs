//! How the member is, and who the members are: this one.

use bytes::Bytes;
use coracle_store::{KeyRange, Op, RangeRequest, Revision, StoreError, Txn, WatchRequest};
use prost::Message;
use tonic::Status;

use super::{EtcdServer, MEMBER_ID, VERSION};
use crate::proto;
use crate::wire::refusal;

/// etcd's number of the alarm that there is no space.
const NO_SPACE: i32 = 1;

impl EtcdServer {
    pub(super) async fn member_list(&self, _: proto::Empty) -> Result<proto::MemberListResponse, Status> {
        let member = proto::Member {
            id: MEMBER_ID,
            name: "coracle".into(),
            client_urls: vec![self.client_url.to_string()],
            ..Default::default()
        };
        Ok(proto::MemberListResponse { header: self.header_now(), members: vec![member] })
    }

    /// Lists or disarms alarms. They are of how things are: one that is disarmed is raised again while there is no space,
    /// and one that nobody disarms is over once there is.
    pub(super) async fn alarm(&self, request: proto::AlarmRequest) -> Result<proto::AlarmResponse, Status> {
        match request.action {
            0 | 2 => Ok(proto::AlarmResponse { header: self.header_now(), alarms: self.alarms().await? }),
            _ => Err(Status::unimplemented("alarms are not raised by hand")),
        }
    }

    /// Asks the store for what it refuses if it has no space, and refuses for another reason if it has.
    async fn alarms(&self) -> Result<Vec<proto::AlarmMember>, Status> {
        let missing = Op::Update { key: Bytes::from_static(&[0]), value: None, lease: None };
        match self.store.txn(Txn { success: vec![missing], ..Txn::default() }).await {
            Err(StoreError::NoSpace) => Ok(vec![proto::AlarmMember { member_id: MEMBER_ID, alarm: NO_SPACE }]),
            Ok(_) | Err(StoreError::KeyNotFound) => Ok(Vec::new()),
            Err(error) => Err(refusal(error)),
        }
    }

    pub(super) async fn status(&self, _: proto::Empty) -> Result<proto::StatusResponse, Status> {
        let size = self.store.size_bytes().await.map_err(refusal)? as i64;
        let revision = self.store.revision();
        let errors =
            self.alarms().await?.into_iter().map(|alarm| format!("memberID:{} alarm:NOSPACE ", alarm.member_id));
        Ok(proto::StatusResponse {
            header: self.header(revision),
            version: VERSION.into(),
            db_size: size,
            leader: MEMBER_ID,
            raft_index: revision as u64,
            raft_term: 1,
            raft_applied_index: revision as u64,
            errors: errors.collect(),
            db_size_in_use: size,
            storage_version: VERSION.into(),
            ..Default::default()
        })
    }

    /// The engines give space back by themselves.
    pub(super) async fn defragment(&self, _: proto::Empty) -> Result<proto::Done, Status> {
        Ok(proto::Done { header: self.header_now() })
    }

    pub(super) async fn hash(&self, _: proto::Empty) -> Result<proto::HashResponse, Status> {
        self.hash_kv(proto::HashKvRequest::default()).await
    }

    /// A checksum of every key as of a revision; stores that hold the same have the same.
    pub(super) async fn hash_kv(&self, request: proto::HashKvRequest) -> Result<proto::HashResponse, Status> {
        let revision = (request.revision > 0).then_some(request.revision);
        let (kvs, newest) = self.everything(revision).await?;
        let mut hash = crc32fast::Hasher::new();
        for kv in kvs {
            hash.update(&proto::KeyValue::from(kv).encode_to_vec());
        }
        let (hash, hash_revision) = (hash.finalize(), revision.unwrap_or(newest));
        // etcd says -1 while nothing is compacted; a new store here begins as if it were compacted at its first revision.
        let compact_revision = match self.store.watch(WatchRequest::new(KeyRange::key(&[0][..]), Some(1))).await {
            Err(StoreError::Compacted { compact_revision }) if compact_revision > 1 => compact_revision,
            _ => -1,
        };
        Ok(proto::HashResponse { header: self.header(newest), hash, hash_revision, compact_revision })
    }

    pub(super) async fn auth_status(&self, _: proto::Empty) -> Result<proto::AuthStatusResponse, Status> {
        Ok(proto::AuthStatusResponse { header: self.header_now(), enabled: false, auth_revision: 1 })
    }

    /// Every key as of a revision, and the newest revision.
    pub(super) async fn everything(
        &self,
        revision: Option<Revision>,
    ) -> Result<(Vec<coracle_store::KeyValue>, Revision), Status> {
        let request = RangeRequest { revision, ..RangeRequest::new(KeyRange::prefix(Bytes::new())) };
        let found = self.store.range(request).await.map_err(refusal)?;
        Ok((found.kvs, found.revision))
    }
}
