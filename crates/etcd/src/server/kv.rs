//! Reads, writes and transactions.

use bytes::Bytes;
use coracle_store::{
    Compare, CompareOperator, CompareTarget, Op, OpResponse, RangeRequest, RangeResponse, Revision, Txn, TxnResponse,
};
use prost::Message;
use tonic::Status;

use super::EtcdServer;
use crate::proto;
use crate::wire::{range, refusal};

/// A request may not be larger than this, as etcd's default has it.
const MAX_REQUEST_BYTES: usize = 3 << 19;
/// Nor may a transaction have more conditions or operations.
const MAX_TXN_OPS: usize = 128;

impl EtcdServer {
    pub(super) async fn range(&self, request: proto::RangeRequest) -> Result<proto::RangeResponse, Status> {
        let found = self.store.range(read(&request)?).await.map_err(refusal)?;
        Ok(self.found(&request, found))
    }

    pub(super) async fn put(&self, request: proto::PutRequest) -> Result<proto::PutResponse, Status> {
        let (op, response) = self.alone(proto::RequestOp { put: Some(request), ..Default::default() }).await?;
        self.done(&op, response.0, response.1).put.ok_or_else(unanswered)
    }

    pub(super) async fn delete_range(
        &self,
        request: proto::DeleteRangeRequest,
    ) -> Result<proto::DeleteRangeResponse, Status> {
        let (op, response) = self.alone(proto::RequestOp { delete_range: Some(request), ..Default::default() }).await?;
        self.done(&op, response.0, response.1).delete_range.ok_or_else(unanswered)
    }

    /// A transaction of one operation without conditions.
    async fn alone(&self, op: proto::RequestOp) -> Result<(proto::RequestOp, (OpResponse, Revision)), Status> {
        check_size(&op)?;
        let txn = Txn { success: vec![operation(&op)?], ..Txn::default() };
        let mut response = self.store.txn(txn).await.map_err(refusal)?;
        Ok((op, (response.responses.pop().ok_or_else(unanswered)?, response.revision)))
    }

    pub(super) async fn txn(&self, request: proto::TxnRequest) -> Result<proto::TxnResponse, Status> {
        check_size(&request)?;
        let response = self.store.txn(transaction(&request)?).await.map_err(refusal)?;
        Ok(self.decided(&request, response))
    }

    pub(super) async fn compact(&self, request: proto::CompactionRequest) -> Result<proto::Done, Status> {
        self.store.compact(request.revision).await.map_err(refusal)?;
        Ok(proto::Done { header: self.header_now() })
    }

    fn decided(&self, request: &proto::TxnRequest, response: TxnResponse) -> proto::TxnResponse {
        let TxnResponse { succeeded, revision, responses } = response;
        let ops = if succeeded { &request.success } else { &request.failure };
        let responses = ops.iter().zip(responses).map(|(op, response)| self.done(op, response, revision)).collect();
        proto::TxnResponse { header: self.header(revision), succeeded, responses }
    }

    fn done(&self, op: &proto::RequestOp, response: OpResponse, revision: Revision) -> proto::ResponseOp {
        let header = self.header(revision);
        let mut done = proto::ResponseOp::default();
        match (op, response) {
            (proto::RequestOp { range: Some(request), .. }, OpResponse::Range(response)) => {
                done.range = Some(self.found(request, response));
            }
            (proto::RequestOp { put: Some(request), .. }, OpResponse::Put(prev)) => {
                let prev_kv = prev.filter(|_| request.prev_kv).map(Into::into);
                done.put = Some(proto::PutResponse { header, prev_kv });
            }
            (proto::RequestOp { delete_range: Some(request), .. }, OpResponse::Delete(kvs)) => {
                let deleted = kvs.len() as i64;
                let prev_kvs = if request.prev_kv { kvs.into_iter().map(Into::into).collect() } else { Vec::new() };
                done.delete_range = Some(proto::DeleteRangeResponse { header, deleted, prev_kvs });
            }
            (proto::RequestOp { txn: Some(request), .. }, OpResponse::Txn(response)) => {
                done.txn = Some(self.decided(request, response));
            }
            (op, response) => unreachable!("{op:?} was answered with {response:?}"),
        }
        done
    }

    /// What the store does not do for a read: bounds on revisions, and any order but that of the keys.
    fn found(&self, request: &proto::RangeRequest, response: RangeResponse) -> proto::RangeResponse {
        let RangeResponse { revision, mut kvs, mut more, count } = response;
        let within = |revision, min, max| (min == 0 || revision >= min) && (max == 0 || revision <= max);
        kvs.retain(|kv| {
            within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
                && within(kv.create_revision, request.min_create_revision, request.max_create_revision)
        });
        match request.sort_target {
            1 => kvs.sort_by_key(|kv| kv.version),
            2 => kvs.sort_by_key(|kv| kv.create_revision),
            3 => kvs.sort_by_key(|kv| kv.mod_revision),
            4 => kvs.sort_by(|a, b| a.value.cmp(&b.value)),
            _ => {}
        }
        if request.sort_order == 2 {
            kvs.reverse();
        }
        if request.limit > 0 && kvs.len() > request.limit as usize {
            kvs.truncate(request.limit as usize);
            more = true;
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value.clear());
        }
        let kvs = kvs.into_iter().map(Into::into).collect();
        proto::RangeResponse { header: self.header(revision), kvs, more, count: count as i64 }
    }
}

fn unanswered() -> Status {
    Status::internal("the store answered nothing")
}

fn invalid(text: &str) -> Status {
    Status::invalid_argument(format!("etcdserver: {text}"))
}

fn check_size(request: &impl Message) -> Result<(), Status> {
    if request.encoded_len() > MAX_REQUEST_BYTES { Err(invalid("request is too large")) } else { Ok(()) }
}

fn check_key(key: &[u8]) -> Result<(), Status> {
    if key.is_empty() { Err(invalid("key is not provided")) } else { Ok(()) }
}

/// A read in the store's terms; all of the range if it is to be filtered or sorted.
fn read(request: &proto::RangeRequest) -> Result<RangeRequest, Status> {
    check_key(&request.key)?;
    if !(0..=2).contains(&request.sort_order) || !(0..=4).contains(&request.sort_target) {
        return Err(invalid("invalid sort option"));
    }
    let bounds =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    let whole = request.sort_target != 0 || request.sort_order == 2 || bounds != [0; 4];
    Ok(RangeRequest {
        range: range(request.key.clone(), request.range_end.clone()),
        revision: (request.revision > 0).then_some(request.revision),
        limit: if whole { 0 } else { usize::try_from(request.limit).unwrap_or(0) },
        keys_only: request.keys_only && request.sort_target != 4,
        count_only: request.count_only,
    })
}

fn operation(op: &proto::RequestOp) -> Result<Op, Status> {
    match op {
        proto::RequestOp { range: Some(request), .. } => read(request).map(Op::Range),
        proto::RequestOp { put: Some(request), .. } => {
            let &proto::PutRequest { ref key, ref value, lease, ignore_value, ignore_lease, .. } = request;
            check_key(key)?;
            // What is kept must not keep alive the buffer that it came in.
            let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            if ignore_value && !value.is_empty() {
                return Err(invalid("value is provided"));
            }
            if ignore_lease && lease != 0 {
                return Err(invalid("lease is provided"));
            }
            Ok(match ignore_value || ignore_lease {
                false => Op::Put { key, value, lease },
                true => {
                    Op::Update { key, value: (!ignore_value).then_some(value), lease: (!ignore_lease).then_some(lease) }
                }
            })
        }
        proto::RequestOp { delete_range: Some(request), .. } => {
            check_key(&request.key)?;
            Ok(Op::Delete(range(request.key.clone(), request.range_end.clone())))
        }
        proto::RequestOp { txn: Some(request), .. } => transaction(request).map(Op::Txn),
        _ => Err(invalid("key is not provided")),
    }
}

fn transaction(request: &proto::TxnRequest) -> Result<Txn, Status> {
    let most = request.compare.len().max(request.success.len()).max(request.failure.len());
    if most > MAX_TXN_OPS {
        return Err(invalid("too many operations in txn request"));
    }
    let branch = |ops: &[proto::RequestOp]| ops.iter().map(operation).collect::<Result<_, _>>();
    let compare = request.compare.iter().map(comparison).collect::<Result<_, _>>()?;
    Ok(Txn { compare, success: branch(&request.success)?, failure: branch(&request.failure)? })
}

fn comparison(compare: &proto::Compare) -> Result<Compare, Status> {
    check_key(&compare.key)?;
    let target = match compare.target {
        0 => CompareTarget::Version(compare.version.unwrap_or_default()),
        1 => CompareTarget::CreateRevision(compare.create_revision.unwrap_or_default()),
        2 => CompareTarget::ModRevision(compare.mod_revision.unwrap_or_default()),
        3 => CompareTarget::Value(compare.value.clone().unwrap_or_default()),
        4 => CompareTarget::Lease(compare.lease.unwrap_or_default()),
        other => return Err(invalid(&format!("unknown target {other} of a comparison"))),
    };
    let operator = match compare.result {
        0 => CompareOperator::Equal,
        1 => CompareOperator::Greater,
        2 => CompareOperator::Less,
        3 => CompareOperator::NotEqual,
        other => return Err(invalid(&format!("unknown result {other} of a comparison"))),
    };
    Ok(Compare { range: range(compare.key.clone(), compare.range_end.clone()), target, operator })
}
