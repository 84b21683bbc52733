//! EndpointSlice mirroring: Endpoints that people write for Services without a selector, as EndpointSlices.
//!
//! Watches Endpoints, Services and slices; all that concerns one name is one key. Each subset becomes a slice per
//! address family, which belongs to the Endpoints and goes with them.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_client::{
    EventRecorder, EventType, Informer, ObjectKey, Requeue, WorkQueue, controller_reference, object_reference,
};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Client, ResourceExt};

use super::backends::{self, LAST_CHANGE};
use super::slices::{MANAGED_BY, Plan, SERVICE_NAME, by_service};
use crate::context::{Context, enqueue_changes};
use crate::error::Result;
use crate::expectations::Expectations;

const NAME: &str = "endpoint-slice-mirroring-controller";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Endpoints with this label set to `true` are not mirrored.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that only hold a leader's record.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// The most addresses that are mirrored of one subset.
const ADDRESSES_MAX: usize = 1000;

/// Whether the Endpoints are to be mirrored.
fn is_mirrored(endpoints: &Endpoints, service: &Service) -> bool {
    let skipped = endpoints.labels().get(SKIP).is_some_and(|skip| skip == "true");
    let by_hand = service.spec.as_ref().is_none_or(|spec| spec.selector.as_ref().is_none_or(BTreeMap::is_empty));
    by_hand
        && !skipped
        && !endpoints.annotations().contains_key(LEADER)
        && endpoints.metadata.deletion_timestamp.is_none()
}

/// The slices there should be.
fn mirror(endpoints: &Endpoints) -> Vec<EndpointSlice> {
    let families = [("IPv4", false), ("IPv6", true)];
    let subsets = endpoints.subsets.as_deref().unwrap_or_default();
    let slices = subsets.iter().flat_map(|subset| {
        families.iter().filter_map(|(family, v6)| {
            let of = |list: &Option<Vec<EndpointAddress>>, ready| {
                let list = list.clone().unwrap_or_default().into_iter();
                list.filter(|address| address.ip.contains(':') == *v6).map(move |address| endpoint(address, ready))
            };
            let all = of(&subset.addresses, true).chain(of(&subset.not_ready_addresses, false));
            let all: Vec<_> = all.take(ADDRESSES_MAX).collect();
            (!all.is_empty()).then(|| slice(endpoints, subset, family, all))
        })
    });
    slices.collect()
}

fn endpoint(address: EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip],
        conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
        hostname: address.hostname,
        node_name: address.node_name,
        target_ref: address.target_ref,
        ..Default::default()
    }
}

fn slice(endpoints: &Endpoints, subset: &EndpointSubset, family: &str, all: Vec<Endpoint>) -> EndpointSlice {
    let mut labels = endpoints.labels().clone();
    labels.insert(SERVICE_NAME.into(), endpoints.name_any());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels.remove(backends::HEADLESS);
    let mut annotations = endpoints.annotations().clone();
    annotations.retain(|key, _| key != LAST_CHANGE && key != "kubectl.kubernetes.io/last-applied-configuration");
    let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
        app_protocol: port.app_protocol.clone(),
    });
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", endpoints.name_any())),
            namespace: endpoints.namespace(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![controller_reference(endpoints)]),
            ..Default::default()
        },
        address_type: family.into(),
        endpoints: Some(all),
        ports: Some(ports.collect()),
    }
}

/// Fits the slices that should be to those that are: equal ones stay, others take their place, the rest goes.
fn plan(wanted: Vec<EndpointSlice>, existing: &[Arc<EndpointSlice>]) -> Plan {
    let mut plan = Plan::default();
    let mut left: Vec<_> = existing.to_vec();
    let mut new = Vec::new();
    for slice in wanted {
        let same = left.iter().position(|old| {
            (&old.address_type, &old.ports, &old.endpoints) == (&slice.address_type, &slice.ports, &slice.endpoints)
                && (&old.metadata.labels, &old.metadata.annotations)
                    == (&slice.metadata.labels, &slice.metadata.annotations)
        });
        match same {
            Some(at) => drop(left.remove(at)),
            None => new.push(slice),
        }
    }
    for mut slice in new {
        match left.iter().position(|old| old.address_type == slice.address_type) {
            Some(at) => {
                let old = left.remove(at);
                let (labels, annotations) = (slice.metadata.labels.take(), slice.metadata.annotations.take());
                slice.metadata = ObjectMeta { labels, annotations, ..old.metadata.clone() };
                plan.update.push(slice);
            }
            None => plan.create.push(slice),
        }
    }
    plan.delete = left.iter().map(|slice| slice.name_any()).collect();
    plan
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let controller = MirroringController {
        endpoints: context.informer(),
        services: context.informer(),
        slices: context.informer(),
        client: context.client.clone(),
        recorder: context.recorder(NAME),
        expectations: Arc::default(),
    };
    enqueue_changes(&controller.endpoints, &queue);
    enqueue_changes(&controller.services, &queue);
    controller.slices.add_index(MANAGER, |slice| by_service(slice, MANAGER).iter().map(ToString::to_string).collect());
    let to = queue.clone();
    let expectations = controller.expectations.clone();
    controller.slices.on_change(move |change| {
        let Some(key) = by_service(change.object(), MANAGER) else { return };
        if change.old.is_none() {
            expectations.created(&key);
        }
        to.add(key);
    });
    controller.endpoints.wait_for_sync().await;
    controller.services.wait_for_sync().await;
    controller.slices.wait_for_sync().await;
    context.work(NAME, &queue, |key| controller.sync(key)).await;
}

struct MirroringController {
    endpoints: Informer<Endpoints>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    client: Client,
    recorder: EventRecorder,
    expectations: Arc<Expectations>,
}

impl MirroringController {
    async fn sync(&self, key: ObjectKey) -> Result<Requeue> {
        if !self.expectations.satisfied(&key) {
            return Ok(Requeue::Never);
        }
        let (endpoints, service) = (self.endpoints.get(&key), self.services.get(&key));
        let existing = self.slices.by_index(MANAGER, &key.to_string());
        let mirrored = endpoints.clone().zip(service).filter(|(endpoints, service)| is_mirrored(endpoints, service));
        let wanted = mirrored.map(|(endpoints, _)| mirror(&endpoints)).unwrap_or_default();
        let Err(error) = plan(wanted, &existing).execute(&self.client, &self.expectations, &key).await else {
            return Ok(Requeue::Never);
        };
        if error.namespace_is_terminating() {
            return Ok(Requeue::Never);
        }
        if let Some(endpoints) = endpoints.filter(|_| error.reason() != "Conflict") {
            let message = format!("Error updating Endpoint Slices for Service {key}: {error}");
            let about = object_reference(endpoints.as_ref());
            self.recorder.event(&about, EventType::Warning, "FailedToUpdateEndpointSlices", message);
        }
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::slices::tests::apply;
    use super::*;

    fn endpoints(subsets: serde_json::Value) -> Endpoints {
        let meta = json!({ "name": "far", "namespace": "d", "uid": "u", "labels": { "a": "b" } });
        serde_json::from_value(json!({ "metadata": meta, "subsets": subsets })).unwrap()
    }

    #[test]
    fn each_subset_becomes_a_slice_per_family() {
        let subsets = json!([{ "addresses": [{ "ip": "10.0.0.1" }, { "ip": "fd00::1" }],
            "notReadyAddresses": [{ "ip": "10.0.0.2" }], "ports": [{ "port": 80 }] }]);
        let slices = mirror(&endpoints(subsets));
        let found: Vec<_> =
            slices.iter().map(|slice| (slice.address_type.as_str(), slice.endpoints.as_ref().unwrap().len())).collect();
        assert_eq!(found, [("IPv4", 2), ("IPv6", 1)]);
        assert_eq!(slices[0].labels()[SERVICE_NAME], "far");
        assert_eq!(slices[0].labels()["a"], "b");
        assert_eq!(slices[0].ports.as_ref().unwrap()[0].port, Some(80));
    }

    #[test]
    fn what_is_equal_stays_what_differs_is_rewritten_and_the_rest_goes() {
        let wanted = |ip: &str| mirror(&endpoints(json!([{ "addresses": [{ "ip": ip }], "ports": [{ "port": 80 }] }])));
        let named = |name: &str, mut slices: Vec<EndpointSlice>| {
            slices[0].metadata.name = Some(name.into());
            Arc::new(slices.remove(0))
        };
        let existing = [named("x", wanted("10.0.0.1")), named("y", wanted("10.0.0.9"))];
        assert_eq!(plan(wanted("10.0.0.1"), &existing).delete, ["y"]);
        let plan = plan(wanted("10.0.0.2"), &existing);
        assert_eq!((plan.create.len(), plan.update[0].name_any(), plan.delete), (0, "x".into(), vec!["y".into()]));
    }

    proptest! {
        #[test]
        fn after_one_plan_all_is_mirrored_and_nothing_left_to_do(
            histories in proptest::collection::vec(proptest::collection::btree_map(80..84, proptest::collection::btree_set(1..250u8, 1..5), 0..4), 1..4)
        ) {
            let (mut slices, mut counter) = (Vec::new(), 0);
            for subsets in histories {
                let ip = |n: &u8| json!({ "ip": if n.is_multiple_of(2) { format!("10.0.0.{n}") } else { format!("fd00::{n}") } });
                let subset = |(port, ips): (&i32, &std::collections::BTreeSet<u8>)| {
                    json!({ "addresses": ips.iter().map(ip).collect::<Vec<_>>(), "ports": [{ "port": port }] })
                };
                let endpoints = endpoints(subsets.iter().map(subset).collect());
                apply(plan(mirror(&endpoints), &slices), &mut slices, &mut counter);
                let mirrored: usize = slices.iter().map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len)).sum();
                prop_assert_eq!(mirrored, subsets.values().map(std::collections::BTreeSet::len).sum::<usize>());
                prop_assert_eq!(plan(mirror(&endpoints), &slices), Plan::default());
            }
        }
    }
}
