//! The store's requests as messages, and the answers in the store's terms.

use bytes::Bytes;
use coracle_store::{
    Compare, CompareOperator, CompareTarget, Op, OpResponse, RangeRequest, RangeResponse, Result, Revision, Txn,
    TxnResponse,
};

use super::connection::Cluster;
use crate::proto;
use crate::wire::bounds;

/// The newest revision, as the leader confirms it: a read of nothing.
pub(super) async fn current(cluster: &Cluster) -> Result<Revision> {
    let nothing = proto::RangeRequest { key: Bytes::from_static(&[0]), count_only: true, ..Default::default() };
    let answer: proto::RangeResponse = cluster.call("KV/Range", nothing, true).await?;
    Ok(cluster.seen(revision(&answer.header)))
}

fn revision(header: &Option<proto::ResponseHeader>) -> Revision {
    header.as_ref().map_or(0, |header| header.revision)
}

impl From<RangeRequest> for proto::RangeRequest {
    fn from(request: RangeRequest) -> Self {
        let RangeRequest { range, revision, limit, keys_only, count_only } = request;
        let (key, range_end) = bounds(range);
        let (limit, revision) = (limit as i64, revision.unwrap_or_default());
        proto::RangeRequest { key, range_end, limit, revision, keys_only, count_only, ..Default::default() }
    }
}

impl From<proto::RangeResponse> for RangeResponse {
    fn from(response: proto::RangeResponse) -> Self {
        RangeResponse {
            revision: revision(&response.header),
            kvs: response.kvs.into_iter().map(Into::into).collect(),
            more: response.more,
            count: response.count as usize,
        }
    }
}

impl From<Txn> for proto::TxnRequest {
    fn from(txn: Txn) -> Self {
        let ops = |ops: Vec<Op>| ops.into_iter().map(Into::into).collect();
        proto::TxnRequest {
            compare: txn.compare.into_iter().map(Into::into).collect(),
            success: ops(txn.success),
            failure: ops(txn.failure),
        }
    }
}

impl From<Compare> for proto::Compare {
    fn from(compare: Compare) -> Self {
        let (key, range_end) = bounds(compare.range);
        let result = match compare.operator {
            CompareOperator::Equal => 0,
            CompareOperator::Greater => 1,
            CompareOperator::Less => 2,
            CompareOperator::NotEqual => 3,
        };
        let mut message = proto::Compare { result, key, range_end, ..Default::default() };
        message.target = match compare.target {
            CompareTarget::Version(version) => {
                message.version = Some(version);
                0
            }
            CompareTarget::CreateRevision(revision) => {
                message.create_revision = Some(revision);
                1
            }
            CompareTarget::ModRevision(revision) => {
                message.mod_revision = Some(revision);
                2
            }
            CompareTarget::Value(value) => {
                message.value = Some(value);
                3
            }
            CompareTarget::Lease(lease) => {
                message.lease = Some(lease);
                4
            }
        };
        message
    }
}

impl From<Op> for proto::RequestOp {
    fn from(op: Op) -> Self {
        let put = |put| proto::RequestOp { put: Some(put), ..Default::default() };
        match op {
            Op::Put { key, value, lease } => {
                put(proto::PutRequest { key, value, lease, prev_kv: true, ..Default::default() })
            }
            Op::Update { key, value, lease } => put(proto::PutRequest {
                key,
                ignore_value: value.is_none(),
                ignore_lease: lease.is_none(),
                value: value.unwrap_or_default(),
                lease: lease.unwrap_or_default(),
                prev_kv: true,
            }),
            Op::Delete(range) => {
                let (key, range_end) = bounds(range);
                let delete = proto::DeleteRangeRequest { key, range_end, prev_kv: true };
                proto::RequestOp { delete_range: Some(delete), ..Default::default() }
            }
            Op::Range(request) => proto::RequestOp { range: Some(request.into()), ..Default::default() },
            Op::Txn(txn) => proto::RequestOp { txn: Some(txn.into()), ..Default::default() },
        }
    }
}

impl From<proto::TxnResponse> for TxnResponse {
    fn from(response: proto::TxnResponse) -> Self {
        of_revision(response, None)
    }
}

/// Only the outermost answer is sure to say at which revision.
fn of_revision(response: proto::TxnResponse, outer: Option<Revision>) -> TxnResponse {
    let revision = outer.unwrap_or_else(|| revision(&response.header));
    let responses = response.responses.into_iter().map(|response| match response {
        proto::ResponseOp { put: Some(put), .. } => OpResponse::Put(put.prev_kv.map(Into::into)),
        proto::ResponseOp { delete_range: Some(delete), .. } => {
            OpResponse::Delete(delete.prev_kvs.into_iter().map(Into::into).collect())
        }
        proto::ResponseOp { txn: Some(txn), .. } => OpResponse::Txn(of_revision(txn, Some(revision))),
        proto::ResponseOp { range, .. } => {
            OpResponse::Range(RangeResponse { revision, ..range.unwrap_or_default().into() })
        }
    });
    TxnResponse { succeeded: response.succeeded, revision, responses: responses.collect() }
}
