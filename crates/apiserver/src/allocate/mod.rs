//! Addresses and ports for Services.
//!
//! Every Service gets a cluster IP of the service range, and a NodePort of the node port range for each
//! port where its type asks for one. What is taken follows from the stored Services, so nothing is kept
//! beside them, nothing can leak, and nothing has to be repaired after a crash: [`ServiceAllocator`] only
//! remembers for a moment what it has given to Services that are not stored yet.
//!
//! Chosen addresses avoid the low end of the range while there are others, so that addresses which people
//! choose themselves rarely meet chosen ones (KEP-3070, and KEP-3668 for NodePorts).

mod cidr;
mod service;

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use coracle_api::ApiResult;
use coracle_clock::Instant;
use serde_json::Value;

use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};
use crate::rbac::cached;
use crate::storage::Storage;

pub use cidr::{CidrError, Ipv4Cidr};
pub use service::{Ranges, Used, assign};

/// How long something is kept for a Service that does not appear in the store.
const KEEP: Duration = Duration::from_secs(10);

/// What was given to a Service that is not stored yet.
#[derive(Debug)]
struct Pending {
    owner: (String, String),
    used: Used,
    until: Instant,
}

/// Gives Services their addresses and ports on their way to the store.
#[derive(Debug)]
pub struct ServiceAllocator {
    storage: Arc<Storage>,
    ranges: Ranges,
    pending: Mutex<Vec<Pending>>,
}

impl ServiceAllocator {
    /// From these ranges.
    pub fn new(storage: Arc<Storage>, cluster_ips: Ipv4Cidr, node_ports: RangeInclusive<u16>) -> Self {
        ServiceAllocator { storage, ranges: Ranges { cluster_ips, node_ports }, pending: Mutex::default() }
    }

    /// Gives a Service what it needs. `old` is what is stored, null for a new one.
    pub fn allocate(&self, service: &mut Value, old: &Value, owner: (&str, &str), dry_run: bool) -> ApiResult<()> {
        // The lock is held from looking to giving: two Services never get the same.
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let stored: Vec<((String, String), Used)> =
            cached(&self.storage, "", "services", "").iter().map(|other| (owner_of(other), Used::of(other))).collect();
        let now = coracle_clock::instant();
        pending.retain(|p| p.until > now && !stored.iter().any(|(o, used)| *o == p.owner && used.contains(&p.used)));
        let owner = (owner.0.to_owned(), owner.1.to_owned());
        let mut used = Used::default();
        let others = stored.iter().map(|(o, used)| (o, used)).chain(pending.iter().map(|p| (&p.owner, &p.used)));
        // A Service whose name is still to be generated is nobody yet.
        for (_, taken) in others.filter(|(other, _)| **other != owner || owner.1.is_empty()) {
            used.extend(taken);
        }
        assign(service, old, &used, &self.ranges)?;
        if !dry_run {
            pending.retain(|p| p.owner != owner || owner.1.is_empty());
            pending.push(Pending { owner, used: Used::of(service), until: now + KEEP });
        }
        Ok(())
    }

    /// Forgets what was given to a Service that is being deleted.
    fn release(&self, namespace: &str, name: &str) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.retain(|p| p.owner != (namespace.to_owned(), name.to_owned()));
    }
}

fn owner_of(service: &Value) -> (String, String) {
    let text = |field: &str| service["metadata"][field].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

/// Runs last of all plugins, so that nothing is given to what another one refuses.
#[async_trait]
impl AdmissionPlugin for ServiceAllocator {
    fn name(&self) -> &'static str {
        "ServiceAllocator"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }

    async fn admit(&self, request: &mut AdmissionRequest, _: &AdmissionContext) -> ApiResult<()> {
        if request.resource.qualified() != "services" || !request.subresource.is_empty() {
            return Ok(());
        }
        if request.operation == Operation::Delete {
            self.release(&request.namespace, &request.name);
            return Ok(());
        }
        let owner = (request.namespace.as_str(), request.name.as_str());
        self.allocate(&mut request.object, &request.old_object, owner, request.dry_run)
    }
}

/// The address of the `kubernetes` Service: the first of the range.
pub fn service_ip(cluster_ips: &Ipv4Cidr) -> Ipv4Addr {
    cluster_ips.address(0)
}

#[cfg(test)]
mod tests;
