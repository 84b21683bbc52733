//! Addresses and ports for Services.
//!
//! Every Service gets a cluster IP of a ServiceCIDR, and a NodePort of the node port range for each port where
//! its type asks for one. An IPAddress object says whose an address is; it comes and goes in the very transaction
//! in which the Service does ([`addresses()`]), so that none can leak, and people can reserve addresses by IPAddresses
//! of their own. [`repair`] puts right what people do to those of Services. Which NodePorts are taken follows from
//! the stored Services. [`ServiceAllocator`] only remembers for a moment what it has given to Services that are not
//! stored yet.
//!
//! Chosen addresses avoid the low end of the range while there are others, so that addresses which people
//! choose themselves rarely meet chosen ones (KEP-3070, and KEP-3668 for NodePorts).

mod addresses;
mod cidr;
mod metrics;
pub mod repair;
mod service;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use coracle_api::ApiResult;
use coracle_clock::Instant;
use serde_json::Value;

use crate::admission::is;
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};
use crate::rbac::cached;
use crate::storage::Storage;
use crate::storage::table::suffix;

pub(crate) use addresses::{NETWORKING, addresses, ip_address};
pub use cidr::{CidrError, Ipv4Cidr};
use metrics::Wish;
pub use service::{Ranges, Taken, Used, assign};

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
    node_ports: RangeInclusive<u16>,
    pending: Mutex<Vec<Pending>>,
    counts: metrics::Counts,
}

/// The ranges of ServiceCIDRs: of all, or of those from which addresses may be given.
fn cluster_ips(storage: &Storage, ready: bool) -> Vec<Ipv4Cidr> {
    let is_ready = |range: &Value| {
        let mut conditions = range["status"]["conditions"].as_array().into_iter().flatten();
        let condition = conditions.find(|condition| condition["type"] == "Ready");
        range["metadata"]["deletionTimestamp"].is_null() && condition.is_none_or(|ready| ready["status"] == "True")
    };
    let ranges = cached(storage, NETWORKING, "servicecidrs", "");
    let cidrs =
        ranges.iter().filter(|range| !ready || is_ready(range)).flat_map(|range| range["spec"]["cidrs"].as_array());
    cidrs.flatten().filter_map(|cidr| cidr.as_str()?.parse().ok()).collect()
}

impl ServiceAllocator {
    /// From the ServiceCIDRs and this range.
    pub fn new(storage: Arc<Storage>, node_ports: RangeInclusive<u16>) -> Self {
        ServiceAllocator { storage, node_ports, pending: Mutex::default(), counts: Default::default() }
    }

    /// Gives a Service what it needs. `old` is what is stored, null for a new one.
    pub fn allocate(&self, service: &mut Value, old: &Value, owner: (&str, &str), dry_run: bool) -> ApiResult<()> {
        let table = self.storage.table();
        let (Some(services), Some(addresses)) =
            (table.find_any("", "services"), table.find_any(NETWORKING, "ipaddresses"))
        else {
            return Ok(());
        };
        // The lock is held from looking to giving: two Services never get the same.
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let stored = |p: &Pending| {
            let found = services.cache.get(&suffix(&p.owner.0, &p.owner.1));
            found.is_some_and(|entry| Used::of(&entry.parse()).contains(&p.used))
        };
        let now = coracle_clock::instant();
        pending.retain(|p| p.until > now && !stored(p));
        let owner = (owner.0.to_owned(), owner.1.to_owned());
        // A Service whose name is still to be generated is nobody yet.
        let is_other = |other: &(String, String)| *other != owner || owner.1.is_empty();
        let others: Vec<&Used> = pending.iter().filter(|p| is_other(&p.owner)).map(|p| &p.used).collect();
        let taken = Taken {
            ip: &|ip| {
                addresses.cache.get(&suffix("", &ip.to_string())).is_some()
                    || others.iter().any(|p| p.ips.contains(&ip))
            },
            ports: &|| {
                let stored = all_ports(&self.storage, |other| is_other(&owner_of(other)));
                stored.into_iter().chain(others.iter().flat_map(|p| p.ports.iter().copied())).collect()
            },
        };
        let ranges = Ranges { cluster_ips: cluster_ips(&self.storage, true), node_ports: self.node_ports.clone() };
        let (asked, held) = (Used::of(service), Used::of(old));
        let outcome = assign(service, old, taken, &ranges);
        if !dry_run {
            let wish = Wish { asked: &asked, held: &held, taken, ranges: &ranges };
            let given = Used::of(service);
            self.counts.note(&wish, outcome.as_ref().map(|()| &given), coracle_clock::instant().duration_since(now));
        }
        outcome?;
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

/// The NodePorts of stored Services of that sort.
fn all_ports(storage: &Storage, which: impl Fn(&Value) -> bool) -> BTreeSet<u16> {
    let services = cached(storage, "", "services", "");
    services.iter().filter(|service| which(service)).flat_map(|service| Used::of(service).ports).collect()
}

/// Runs last of all plugins, so that nothing is given to what another one refuses.
#[async_trait]
impl AdmissionPlugin for ServiceAllocator {
    fn handles(&self, request: &AdmissionRequest) -> bool {
        request.operation != Operation::Connect && is(request, "services")
    }

    fn metrics(&self, out: &mut String) {
        self.render(out);
    }

    async fn admit(&self, request: &mut AdmissionRequest, _: &AdmissionContext) -> ApiResult<()> {
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
