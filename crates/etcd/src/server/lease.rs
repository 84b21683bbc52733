//! Leases: keys that die unless somebody keeps asking for them to live.

use std::time::Duration;

use coracle_store::StoreError;
use futures::{Stream, StreamExt};
use tonic::{Status, Streaming};

use super::EtcdServer;
use crate::proto;
use crate::wire::refusal;

/// The longest that etcd grants.
const MAX_TTL_SECONDS: i64 = 9_000_000_000;

impl EtcdServer {
    pub(super) async fn lease_grant(
        &self,
        request: proto::LeaseGrantRequest,
    ) -> Result<proto::LeaseGrantResponse, Status> {
        if request.ttl > MAX_TTL_SECONDS {
            return Err(Status::out_of_range("etcdserver: too large lease TTL"));
        }
        let ttl = request.ttl.max(1);
        let id = self.store.lease_grant(request.id, Duration::from_secs(ttl as u64)).await.map_err(refusal)?;
        Ok(proto::LeaseGrantResponse { header: self.header_now(), id, ttl, error: String::new() })
    }

    pub(super) async fn lease_revoke(&self, request: proto::LeaseId) -> Result<proto::Done, Status> {
        self.store.lease_revoke(request.id).await.map_err(refusal)?;
        Ok(proto::Done { header: self.header_now() })
    }

    pub(super) fn lease_keep_alive(
        &self,
        requests: Streaming<proto::LeaseId>,
    ) -> impl Stream<Item = Result<proto::LeaseKeepAliveResponse, Status>> + use<> {
        let server = self.clone();
        requests.then(move |request| {
            let server = server.clone();
            async move {
                let id = request?.id;
                let ttl = match server.store.lease_keep_alive(id).await {
                    Ok(ttl) => ttl.as_secs() as i64,
                    // No lease has nothing left to live.
                    Err(StoreError::LeaseNotFound) => 0,
                    Err(error) => return Err(refusal(error)),
                };
                Ok(proto::LeaseKeepAliveResponse { header: server.header_now(), id, ttl })
            }
        })
    }

    pub(super) async fn lease_time_to_live(
        &self,
        request: proto::LeaseTimeToLiveRequest,
    ) -> Result<proto::LeaseTimeToLiveResponse, Status> {
        let mut response =
            proto::LeaseTimeToLiveResponse { header: self.header_now(), id: request.id, ttl: -1, ..Default::default() };
        match self.store.lease_status(request.id).await {
            Ok(status) => {
                response.ttl = status.left.as_secs() as i64;
                response.granted_ttl = status.granted.as_secs() as i64;
                response.keys = if request.keys { status.keys } else { Vec::new() };
            }
            Err(StoreError::LeaseNotFound) => {}
            Err(error) => return Err(refusal(error)),
        }
        Ok(response)
    }

    pub(super) async fn lease_leases(&self, _: proto::Empty) -> Result<proto::LeaseLeasesResponse, Status> {
        let leases = self.store.leases().await.map_err(refusal)?;
        let leases = leases.into_iter().map(|id| proto::LeaseId { id }).collect();
        Ok(proto::LeaseLeasesResponse { header: self.header_now(), leases })
    }
}
