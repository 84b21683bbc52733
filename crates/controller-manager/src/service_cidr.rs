//! ServiceCIDRs: ready from birth, and there for as long as addresses depend on them.
//!
//! Watches ServiceCIDRs and IPAddresses; a key is a ServiceCIDR. Each carries a finalizer. One that is being deleted
//! loses it when every address in it (of those that the API server gave to Services) lies in another one too; until
//! then its `Ready` condition says why it stays.

use std::net::IpAddr;
use std::time::Duration;

use coracle_client::{Informer, ObjectKey, Requeue, WorkQueue};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::context::{Context, enqueue_changes};
use crate::error::{IgnoreNotFound, Result};

const NAME: &str = "service-cidr-controller";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const MANAGER: &str = "ipallocator.k8s.io";
/// So long the API servers have to hear that no more addresses are to be given from a ServiceCIDR.
const GRACE: Duration = Duration::from_secs(10);

/// A network: its family's number of bits, its first address, the length of its prefix.
#[derive(Clone, Copy, PartialEq)]
struct Network(u32, u128, u32);

fn bits(ip: IpAddr) -> (u32, u128) {
    match ip {
        IpAddr::V4(ip) => (32, ip.to_bits().into()),
        IpAddr::V6(ip) => (128, ip.to_bits()),
    }
}

impl Network {
    fn parse(cidr: &str) -> Option<Network> {
        let (ip, prefix) = cidr.split_once('/')?;
        let ((width, address), prefix) = (bits(ip.parse().ok()?), prefix.parse().ok()?);
        let network = Network(width, 0, prefix);
        (prefix <= width).then_some(Network(width, address & !network.hosts(), prefix))
    }

    /// The bits that tell hosts apart.
    fn hosts(self) -> u128 {
        1u128.checked_shl(self.0 - self.2).map_or(u128::MAX, |size| size - 1)
    }

    fn holds(self, other: Network) -> bool {
        self.0 == other.0 && self.2 <= other.2 && other.1 & !self.hosts() == self.1
    }

    /// Whether a Service can have this address here: the network's own and IPv4's broadcast address are nobody's.
    fn gives(self, ip: IpAddr) -> bool {
        let (width, address) = bits(ip);
        let broadcast = width == 32 && address == self.1 | self.hosts();
        self.holds(Network(width, address, width)) && address != self.1 && !broadcast
    }
}

fn networks(range: &ServiceCIDR) -> impl Iterator<Item = Network> {
    range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten()).filter_map(|cidr| Network::parse(cidr))
}

/// Whether no address would be left without a ServiceCIDR if `range` went.
fn may_go<'a>(
    range: &ServiceCIDR,
    others: &[impl AsRef<ServiceCIDR>],
    given: impl IntoIterator<Item = &'a IPAddress>,
) -> bool {
    let others: Vec<Network> = others.iter().flat_map(|other| networks(other.as_ref())).collect();
    if networks(range).all(|network| others.iter().any(|other| other.holds(network))) {
        return true;
    }
    let managed = given.into_iter().filter(|address| address.labels().get(MANAGED_BY).is_some_and(|by| by == MANAGER));
    let mut addresses = managed.filter_map(|address| address.name_any().parse().ok());
    let orphan = |ip: IpAddr| networks(range).any(|own| own.gives(ip)) && !others.iter().any(|other| other.gives(ip));
    !addresses.any(orphan)
}

fn deleting(range: &ServiceCIDR) -> bool {
    range.metadata.deletion_timestamp.is_some()
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let ranges: Informer<ServiceCIDR> = context.informer();
    let addresses: Informer<IPAddress> = context.informer();
    enqueue_changes(&ranges, &queue);
    let (to, all) = (queue.clone(), ranges.clone());
    addresses.on_change(move |change| {
        if change.new.is_none() {
            all.list().iter().filter(|range| deleting(range)).for_each(|range| to.add(ObjectKey::of(range.as_ref())));
        }
    });
    ranges.wait_for_sync().await;
    addresses.wait_for_sync().await;
    let sync = async |key: ObjectKey| sync(&context, &queue, &ranges, &addresses, key).await;
    context.work(NAME, &queue, sync).await;
}

async fn sync(
    context: &Context,
    queue: &WorkQueue<ObjectKey>,
    ranges: &Informer<ServiceCIDR>,
    addresses: &Informer<IPAddress>,
    key: ObjectKey,
) -> Result<Requeue> {
    let Some(range) = ranges.get(&key) else { return Ok(Requeue::Never) };
    let api: Api<ServiceCIDR> = Api::all(context.client.clone());
    let mut changed = range.as_ref().clone();
    let Some(since) = &range.metadata.deletion_timestamp else {
        // One that is new may let others go.
        let waiting = ranges.list().into_iter().filter(|other| deleting(other));
        waiting.for_each(|other| queue.add(ObjectKey::of(other.as_ref())));
        if !range.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
            changed.finalizers_mut().push(FINALIZER.into());
            api.replace(&key.name, &PostParams::default(), &changed).await.ignore_not_found()?;
        }
        return report(&api, &range, "True", "", "Kubernetes Service CIDR is ready").await;
    };
    let mut others = ranges.list();
    others.retain(|other| other.name_any() != key.name);
    let given = addresses.list();
    if !may_go(&range, &others, given.iter().map(AsRef::as_ref)) {
        let why =
            "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
        return report(&api, &range, "False", "Terminating", why).await;
    }
    let passed = Duration::try_from(coracle_clock::now().duration_since(since.0)).unwrap_or_default();
    if passed < GRACE {
        return Ok(Requeue::After(GRACE - passed));
    }
    changed.finalizers_mut().retain(|finalizer| finalizer != FINALIZER);
    api.replace(&key.name, &PostParams::default(), &changed).await.ignore_not_found()?;
    Ok(Requeue::Never)
}

/// Makes the `Ready` condition say this.
async fn report(
    api: &Api<ServiceCIDR>,
    range: &ServiceCIDR,
    status: &str,
    reason: &str,
    message: &str,
) -> Result<Requeue> {
    let mut conditions = range.status.iter().flat_map(|status| status.conditions.iter().flatten());
    if conditions.any(|c| c.type_ == "Ready" && (c.status.as_str(), c.reason.as_str()) == (status, reason)) {
        return Ok(Requeue::Never);
    }
    let condition = json!({ "type": "Ready", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": coracle_clock::now_seconds().to_string() });
    let object = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": { "name": range.name_any() }, "status": { "conditions": [condition] } });
    api.patch_status(&range.name_any(), &PatchParams::apply(NAME).force(), &Patch::Apply(&object))
        .await
        .ignore_not_found()?;
    Ok(Requeue::Never)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn range(cidrs: &[&str]) -> Arc<ServiceCIDR> {
        Arc::new(serde_json::from_value(json!({ "metadata": { "name": "r" }, "spec": { "cidrs": cidrs } })).unwrap())
    }

    #[test]
    fn a_service_cidr_may_go_when_no_address_would_be_left_alone() {
        let table: [(&[&str], &[&str], &str, bool); 9] = [
            (&["10.0.0.0/24"], &[], "", true),
            (&["10.0.0.0/24"], &[], "10.0.0.7", false),
            (&["10.0.0.0/24"], &[], "10.0.1.7", true),
            (&["10.0.0.0/24"], &["10.0.0.0/16"], "10.0.0.7", true),
            (&["10.0.0.0/24"], &["10.0.0.0/24"], "10.0.0.7", true),
            (&["10.0.0.0/24"], &["10.0.0.0/28"], "10.0.0.7", true),
            (&["10.0.0.0/24"], &["10.0.0.0/28"], "10.0.0.15", false),
            (&["fd00::/112"], &[], "fd00::7", false),
            (&["10.0.0.0/24", "fd00::/112"], &["10.0.0.0/16"], "fd00::7", false),
        ];
        for (own, others, address, expected) in table {
            let mut given: IPAddress = serde_json::from_value(json!({ "metadata": { "name": address } })).unwrap();
            assert!(may_go(&range(own), &[range(others)], [&given]), "an address that people reserved holds nothing");
            given.labels_mut().insert(MANAGED_BY.into(), MANAGER.into());
            assert_eq!(may_go(&range(own), &[range(others)], [&given]), expected, "{own:?} {others:?} {address}");
        }
    }
}
