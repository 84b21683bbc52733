//! Service load balancers: addresses for Services of type LoadBalancer.
//!
//! In a cloud this controller orders a load balancer; here it hands out an address of a pool that the host routes
//! to the cluster, and kube-proxy does the balancing. A finalizer keeps a Service until its address is free again.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Mutex;

use coracle_client::{EventRecorder, EventType, Informer, ObjectKey, Requeue, WorkQueue, object_reference};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Service};
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};

use crate::context::{Context, enqueue_changes};
use crate::error::{IgnoreNotFound, Result};

const NAME: &str = "service-controller";
const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// What a Service needs.
#[derive(Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// An address, the finalizer, or both.
    Ensure,
    /// To give its address back.
    CleanUp,
}

fn need(service: &Service) -> Need {
    let spec = service.spec.clone().unwrap_or_default();
    // A load balancer class names somebody else's implementation.
    let wanted = spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none();
    let deleting = service.metadata.deletion_timestamp.is_some();
    let has_finalizer = service.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    let has_address = address(service).is_some();
    match (wanted && !deleting, has_finalizer) {
        (true, true) if has_address => Need::Nothing,
        (true, _) => Need::Ensure,
        (false, true) => Need::CleanUp,
        (false, false) => Need::Nothing,
    }
}

/// The address the Service has.
fn address(service: &Service) -> Option<Ipv4Addr> {
    let status = service.status.as_ref()?.load_balancer.as_ref()?;
    status.ingress.as_ref()?.first()?.ip.as_ref()?.parse().ok()
}

/// An IPv4 prefix and who holds which of its addresses.
#[derive(Debug)]
struct Pool {
    prefix: String,
    /// The usable addresses: without the network's own and the broadcast address.
    first: u32,
    last: u32,
    held: BTreeMap<Ipv4Addr, ObjectKey>,
}

impl Pool {
    fn new(prefix: &str) -> Option<Self> {
        let (address, bits) = prefix.split_once('/')?;
        let (address, bits): (Ipv4Addr, u32) = (address.parse().ok()?, bits.parse().ok()?);
        let size = 1u32.checked_shl(32u32.checked_sub(bits)?).filter(|size| *size >= 4)?;
        let base = u32::from(address) & !(size - 1);
        Some(Pool { prefix: prefix.into(), first: base + 1, last: base + size - 2, held: BTreeMap::new() })
    }

    /// The address of `key`: the one it holds, the one it asks for, or the lowest free one.
    fn allocate(&mut self, key: &ObjectKey, wish: Option<Ipv4Addr>) -> std::result::Result<Ipv4Addr, String> {
        if let Some((address, _)) = self.held.iter().find(|(_, holder)| *holder == key) {
            return Ok(*address);
        }
        let free = |address: &Ipv4Addr| !self.held.contains_key(address);
        let address = match wish {
            Some(wish) if !(self.first..=self.last).contains(&wish.into()) => {
                return Err(format!("requested address {wish} is not in {}", self.prefix));
            }
            Some(wish) if !free(&wish) => return Err(format!("requested address {wish} is in use")),
            Some(wish) => wish,
            None => {
                let mut all = (self.first..=self.last).map(Ipv4Addr::from);
                all.find(free).ok_or_else(|| format!("no address left in {}", self.prefix))?
            }
        };
        self.held.insert(address, key.clone());
        Ok(address)
    }

    fn free(&mut self, key: &ObjectKey) {
        self.held.retain(|_, holder| holder != key);
    }
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let Some(mut pool) = Pool::new(&context.config.load_balancer_pool) else {
        tracing::warn!(pool = context.config.load_balancer_pool, "not an IPv4 prefix; no load balancers");
        return;
    };
    let queue = WorkQueue::new();
    let services: Informer<Service> = context.informer();
    services.wait_for_sync().await;
    // Addresses given before a restart stay where they are.
    for service in services.list() {
        let held = address(&service).filter(|_| need(&service) != Need::CleanUp);
        pool.held.extend(held.map(|address| (address, ObjectKey::of(service.as_ref()))));
    }
    enqueue_changes(&services, &queue);
    let recorder = context.recorder(NAME);
    let controller =
        LoadBalancerController { services, client: context.client.clone(), recorder, pool: Mutex::new(pool) };
    context.work(NAME, &queue, |key| controller.sync(key)).await;
}

struct LoadBalancerController {
    services: Informer<Service>,
    client: Client,
    recorder: EventRecorder,
    pool: Mutex<Pool>,
}

const LOCK: &str = "no code panics while it holds the pool";

impl LoadBalancerController {
    async fn sync(&self, key: ObjectKey) -> Result<Requeue> {
        let Some(service) = self.services.get(&key) else {
            self.pool.lock().expect(LOCK).free(&key);
            return Ok(Requeue::Never);
        };
        match need(&service) {
            Need::Nothing => {}
            Need::Ensure => self.ensure(&key, service.as_ref().clone()).await?,
            Need::CleanUp => self.clean_up(&key, service.as_ref().clone()).await?,
        }
        Ok(Requeue::Never)
    }

    async fn ensure(&self, key: &ObjectKey, mut service: Service) -> Result<()> {
        let about = object_reference(&service);
        self.recorder.event(&about, EventType::Normal, "EnsuringLoadBalancer", "Ensuring load balancer");
        let wish = service.spec.as_ref().and_then(|spec| spec.load_balancer_ip.as_ref()?.parse().ok());
        let held = address(&service);
        let allocated = self.pool.lock().expect(LOCK).allocate(key, held.or(wish));
        let address = match allocated {
            Ok(address) => address,
            Err(error) => {
                let message = format!("Error syncing load balancer: failed to ensure load balancer: {error}");
                self.recorder.event(&about, EventType::Warning, "SyncLoadBalancerFailed", message.clone());
                return Err(crate::Error::Other(message));
            }
        };
        let api: Api<Service> = Api::namespaced(self.client.clone(), &key.namespace);
        if !service.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
            service.finalizers_mut().push(FINALIZER.into());
            service = api.replace(&key.name, &PostParams::default(), &service).await?;
        }
        let ingress =
            LoadBalancerIngress { ip: Some(address.to_string()), ip_mode: Some("VIP".into()), ..Default::default() };
        let status = service.status.get_or_insert_default();
        status.load_balancer = Some(LoadBalancerStatus { ingress: Some(vec![ingress]) });
        api.replace_status(&key.name, &PostParams::default(), &service).await?;
        self.recorder.event(&about, EventType::Normal, "EnsuredLoadBalancer", "Ensured load balancer");
        Ok(())
    }

    async fn clean_up(&self, key: &ObjectKey, mut service: Service) -> Result<()> {
        let about = object_reference(&service);
        self.recorder.event(&about, EventType::Normal, "DeletingLoadBalancer", "Deleting load balancer");
        let api: Api<Service> = Api::namespaced(self.client.clone(), &key.namespace);
        if service.status.as_ref().is_some_and(|status| status.load_balancer.is_some()) {
            service.status.get_or_insert_default().load_balancer = Some(LoadBalancerStatus::default());
            let updated = api.replace_status(&key.name, &PostParams::default(), &service).await.ignore_not_found()?;
            let Some(updated) = updated else { return Ok(()) };
            service = updated;
        }
        service.finalizers_mut().retain(|finalizer| finalizer != FINALIZER);
        api.replace(&key.name, &PostParams::default(), &service).await.ignore_not_found()?;
        self.pool.lock().expect(LOCK).free(key);
        self.recorder.event(&about, EventType::Normal, "DeletedLoadBalancer", "Deleted load balancer");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_load_balancer_is_ensured_once_and_cleaned_up_when_no_longer_wanted() {
        for (type_, finalizer, ip, deleting, class, expected) in [
            ("LoadBalancer", false, false, false, false, Need::Ensure),
            ("LoadBalancer", true, false, false, false, Need::Ensure),
            ("LoadBalancer", true, true, false, false, Need::Nothing),
            ("LoadBalancer", true, true, true, false, Need::CleanUp),
            ("LoadBalancer", false, false, false, true, Need::Nothing),
            ("ClusterIP", true, true, false, false, Need::CleanUp),
            ("ClusterIP", false, false, false, false, Need::Nothing),
        ] {
            let service: Service = serde_json::from_value(json!({
                "metadata": {
                    "name": "web",
                    "finalizers": finalizer.then_some([FINALIZER]),
                    "deletionTimestamp": deleting.then_some("2026-01-01T00:00:00Z"),
                },
                "spec": { "type": type_, "loadBalancerClass": class.then_some("other/one") },
                "status": { "loadBalancer": { "ingress": ip.then_some([json!({ "ip": "10.112.0.1" })]) } },
            }))
            .unwrap();
            assert_eq!(need(&service), expected, "{type_} {finalizer} {ip} {deleting} {class}");
        }
    }

    #[test]
    fn addresses_are_given_in_order_kept_and_freed() {
        let mut pool = Pool::new("10.112.0.0/30").unwrap();
        let key = |name: &str| ObjectKey::new("ns", name);
        let ip = |last| Ipv4Addr::new(10, 112, 0, last);
        assert_eq!(pool.allocate(&key("a"), None), Ok(ip(1)));
        assert_eq!(pool.allocate(&key("a"), None), Ok(ip(1)));
        assert_eq!(pool.allocate(&key("b"), Some(ip(1))), Err("requested address 10.112.0.1 is in use".into()));
        assert_eq!(pool.allocate(&key("b"), None), Ok(ip(2)));
        assert_eq!(pool.allocate(&key("c"), None), Err("no address left in 10.112.0.0/30".into()));
        pool.free(&key("a"));
        assert_eq!(pool.allocate(&key("c"), None), Ok(ip(1)));
        assert!(Pool::new("10.112.0.0").is_none() && Pool::new("10.112.0.0/33").is_none());
    }
}
