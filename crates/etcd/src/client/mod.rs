//! A [`Store`] that is an etcd cluster: what is kept there survives this machine, and several API servers can share it.
//!
//! Read `connection` (which member is asked, and what happens when it fails), this, `kv` (the store's requests as
//! messages), `watch`, `prefix` (a registry that lies elsewhere). All that is remembered here is the newest revision seen;
//! [`Store::current`] asks the cluster.

mod connection;
mod kv;
mod prefix;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coracle_store::{
    LeaseId, LeaseStatus, RangeRequest, RangeResponse, Result, Revision, Store, StoreError, Txn, TxnResponse,
    WatchRequest, WatchStream,
};
use futures::StreamExt;

use crate::proto;
use connection::Cluster;
pub use prefix::{Prefixed, REGISTRY};

/// Which cluster, and who one is there.
#[derive(Clone, Debug, Default)]
pub struct EtcdConfig {
    /// The members: `host:port`, `http://host:port` or `https://host:port`.
    pub endpoints: Vec<String>,
    /// The authority that signed the members' certificates, as PEM; without it, those that this machine trusts.
    pub ca_pem: Option<String>,
    /// The certificate to show, with its chain, and its key, as PEM.
    pub identity: Option<(String, String)>,
}

impl EtcdConfig {
    /// Whether endpoints without a scheme are spoken to with TLS.
    fn is_secure(&self) -> bool {
        self.ca_pem.is_some() || self.identity.is_some()
    }
}

/// An etcd cluster.
#[derive(Debug)]
pub struct EtcdStore {
    cluster: Arc<Cluster>,
}

impl EtcdStore {
    /// Connects to the first member that answers.
    ///
    /// # Errors
    /// If none does; the error says what is wrong with each.
    pub async fn connect(config: &EtcdConfig) -> Result<Arc<EtcdStore>> {
        let cluster = Arc::new(Cluster::new(config)?);
        cluster.dial().await?;
        Ok(Arc::new(EtcdStore { cluster }))
    }

    /// What a refusal cannot say on the wire: which revision it is about. `asked` is the one it was refused for.
    async fn explained(&self, error: StoreError, asked: Revision) -> StoreError {
        match error {
            StoreError::Compacted { .. } => StoreError::Compacted {
                compact_revision: watch::compact_revision(&self.cluster).await.unwrap_or(asked),
            },
            StoreError::FutureRevision { .. } => match self.current().await {
                Ok(current) => StoreError::FutureRevision { current },
                Err(error) => error,
            },
            other => other,
        }
    }

    fn seen(&self, header: &Option<proto::ResponseHeader>) -> Revision {
        self.cluster.seen(header.as_ref().map_or(0, |header| header.revision))
    }
}

#[async_trait]
impl Store for EtcdStore {
    fn revision(&self) -> Revision {
        self.cluster.revision()
    }

    async fn current(&self) -> Result<Revision> {
        kv::current(&self.cluster).await
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse> {
        let asked = request.revision.unwrap_or_default();
        match self.cluster.call::<_, proto::RangeResponse>("KV/Range", proto::RangeRequest::from(request), true).await {
            Ok(answer) => {
                self.seen(&answer.header);
                Ok(answer.into())
            }
            Err(error) => Err(self.explained(error, asked).await),
        }
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse> {
        let answer: proto::TxnResponse = self.cluster.call("KV/Txn", proto::TxnRequest::from(txn), false).await?;
        self.seen(&answer.header);
        Ok(answer.into())
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream> {
        // Where it begins is settled now, so that whenever it connects, and again, it is the same.
        let start = match request.start {
            Some(start) => start.max(1),
            None => self.current().await? + 1,
        };
        if let Err(error) = watch::check(&self.cluster, &request, start).await {
            return Err(self.explained(error, start).await);
        }
        Ok(watch::Watch::start(self.cluster.clone(), request, start).await.into_stream().boxed())
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        let request = proto::CompactionRequest { revision, physical: false };
        match self.cluster.call::<_, proto::Done>("KV/Compact", request, false).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.explained(error, revision).await),
        }
    }

    async fn lease_grant(&self, id: LeaseId, ttl: Duration) -> Result<LeaseId> {
        let request = proto::LeaseGrantRequest { id, ttl: ttl.as_millis().div_ceil(1000).max(1) as i64 };
        let answer: proto::LeaseGrantResponse = self.cluster.call("Lease/LeaseGrant", request, false).await?;
        Ok(answer.id)
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration> {
        // A stream of one question is, on the wire, a call.
        let call = self.cluster.call("Lease/LeaseKeepAlive", proto::LeaseId { id }, true);
        let answer: proto::LeaseKeepAliveResponse = call.await?;
        seconds(answer.ttl).filter(|ttl| !ttl.is_zero()).ok_or(StoreError::LeaseNotFound)
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<()> {
        self.cluster.call::<_, proto::Done>("Lease/LeaseRevoke", proto::LeaseId { id }, false).await.map(|_| ())
    }

    async fn lease_status(&self, id: LeaseId) -> Result<LeaseStatus> {
        let request = proto::LeaseTimeToLiveRequest { id, keys: true };
        let answer: proto::LeaseTimeToLiveResponse = self.cluster.call("Lease/LeaseTimeToLive", request, true).await?;
        // One that has ended has less than nothing left.
        let left = seconds(answer.ttl).ok_or(StoreError::LeaseNotFound)?;
        let granted = seconds(answer.granted_ttl).unwrap_or_default();
        let mut keys = answer.keys;
        keys.sort();
        Ok(LeaseStatus { granted, left, keys })
    }

    async fn leases(&self) -> Result<Vec<LeaseId>> {
        let answer: proto::LeaseLeasesResponse = self.cluster.call("Lease/LeaseLeases", proto::Empty {}, true).await?;
        let mut leases: Vec<_> = answer.leases.into_iter().map(|lease| lease.id).collect();
        leases.sort_unstable();
        Ok(leases)
    }

    async fn size_bytes(&self) -> Result<u64> {
        let status: proto::StatusResponse = self.cluster.call("Maintenance/Status", proto::Empty {}, true).await?;
        Ok(status.db_size.try_into().unwrap_or_default())
    }

    async fn close(&self) -> Result<()> {
        if self.cluster.closed.is_cancelled() {
            return Err(StoreError::Closed);
        }
        self.cluster.closed.cancel();
        Ok(())
    }
}

fn seconds(count: i64) -> Option<Duration> {
    Some(Duration::from_secs(count.try_into().ok()?))
}
