//! EndpointSlices: a Service's backends, at most a hundred a slice.
//!
//! A slice holds endpoints that share their ports and address family. An endpoint that stays stays in its slice,
//! so that one pod's change is one small write however many pods the Service has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coracle_client::{EventRecorder, EventType, Informer, ObjectKey, Requeue, WorkQueue};
use coracle_client::{controller_reference, object_reference};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, ResourceExt};

use super::backends::{self, LAST_CHANGE, Port};
use crate::context::{Context, enqueue_changes};
use crate::error::{IgnoreNotFound, Result};
use crate::expectations::Expectations;
use crate::pods;

const NAME: &str = "endpoint-slice-controller";
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(super) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE: &str = "topology.kubernetes.io/zone";
/// The most endpoints in one slice.
const SLICE_MAX: usize = 100;

/// What is to be done about a Service's slices.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<String>,
}

impl Plan {
    /// Does it. Until the cache shows what was created, nothing more is to be: `expectations` count.
    pub(super) async fn execute(self, client: &Client, expectations: &Expectations, key: &ObjectKey) -> Result<()> {
        let api: Api<EndpointSlice> = Api::namespaced(client.clone(), &key.namespace);
        expectations.expect_creations(key, self.create.len());
        let mut outcome: Result<()> = Ok(());
        for slice in self.create {
            if let Err(error) = api.create(&PostParams::default(), &slice).await {
                expectations.created(key);
                outcome = outcome.and(Err(error.into()));
            }
        }
        outcome?;
        for slice in self.update {
            api.replace(&slice.name_any(), &PostParams::default(), &slice).await?;
        }
        for name in self.delete {
            api.delete(&name, &DeleteParams::default()).await.ignore_not_found()?;
        }
        Ok(())
    }
}

/// Compares the endpoints there should be with the slices there are. `zones` maps nodes to zones.
pub(super) fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    zones: &BTreeMap<String, String>,
    existing: &[Arc<EndpointSlice>],
) -> Plan {
    let mut wanted: BTreeMap<(String, Vec<Port>), Vec<Endpoint>> = BTreeMap::new();
    let backends = backends::backends(service, pods);
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
    let families = if families.is_empty() { vec!["IPv4".to_owned()] } else { families };
    for family in families {
        let mut groups: BTreeMap<Vec<Port>, Vec<Endpoint>> = BTreeMap::new();
        for pod in &backends {
            if let Some(endpoint) = endpoint(service, pod, &family, zones) {
                groups.entry(backends::ports(service, pod)).or_default().push(endpoint);
            }
        }
        if groups.is_empty() {
            groups.insert(Vec::new(), Vec::new()); // one empty slice says that there is nothing
        }
        wanted.extend(groups.into_iter().map(|(ports, endpoints)| ((family.clone(), ports), endpoints)));
    }
    let trigger = backends::last_change(service, &backends);
    let mut plan = Plan::default();
    let mut used = BTreeSet::new();
    for ((family, ports), endpoints) in wanted {
        let same = |slice: &&Arc<EndpointSlice>| slice.address_type == family && ports_of(slice) == ports;
        let matching: Vec<_> = existing.iter().filter(same).collect();
        used.extend(matching.iter().map(|slice| slice.name_any()));
        distribute(service, &family, &ports, endpoints, &matching, trigger.as_deref(), &mut plan);
    }
    plan.delete.extend(existing.iter().map(|slice| slice.name_any()).filter(|name| !used.contains(name)));
    plan
}

/// Fits the endpoints of one group into its slices: those that stay, in place; the rest where there is room,
/// first in slices that are written anyway, then in new ones.
fn distribute(
    service: &Service,
    family: &str,
    ports: &[Port],
    endpoints: Vec<Endpoint>,
    existing: &[&Arc<EndpointSlice>],
    trigger: Option<&str>,
    plan: &mut Plan,
) {
    let mut unplaced: BTreeMap<String, Endpoint> =
        endpoints.into_iter().map(|endpoint| (identity(&endpoint), endpoint)).collect();
    let mut contents: Vec<(&Arc<EndpointSlice>, Vec<Endpoint>)> = Vec::new();
    for slice in existing {
        let kept = slice.endpoints.iter().flatten().filter_map(|old| unplaced.remove(&identity(old))).collect();
        contents.push((slice, kept));
    }
    // Slices that lost endpoints are written anyway: they take new ones first. Then the fullest with room.
    let lost = |slice: &EndpointSlice, kept: &[Endpoint]| slice.endpoints.as_ref().map_or(0, Vec::len) != kept.len();
    contents.sort_by_key(|(slice, kept)| (!lost(slice, kept), std::cmp::Reverse(kept.len())));
    let mut unplaced = unplaced.into_values().peekable();
    for (_, kept) in &mut contents {
        kept.extend(unplaced.by_ref().take(SLICE_MAX.saturating_sub(kept.len())));
    }
    let mut written = 0;
    let keep_one_empty = contents.iter().all(|(_, kept)| kept.is_empty()) && unplaced.peek().is_none();
    for (slice, endpoints) in contents {
        if endpoints.is_empty() && !(keep_one_empty && ports.is_empty() && written == 0) {
            plan.delete.push(slice.name_any());
            continue;
        }
        written += 1;
        let mut changed = new_slice(service, family, ports, endpoints, trigger);
        let same_labels = slice.metadata.labels == changed.metadata.labels;
        if same_labels && slice.endpoints.clone().unwrap_or_default() == changed.endpoints.clone().unwrap_or_default() {
            continue;
        }
        let labels = changed.metadata.labels.take();
        let annotations = changed.metadata.annotations.take();
        changed.metadata = slice.metadata.clone();
        changed.metadata.labels = labels;
        changed.annotations_mut().extend(annotations.unwrap_or_default());
        plan.update.push(changed);
    }
    while unplaced.peek().is_some() || (written == 0 && keep_one_empty && ports.is_empty()) {
        let endpoints = unplaced.by_ref().take(SLICE_MAX).collect();
        plan.create.push(new_slice(service, family, ports, endpoints, trigger));
        written += 1;
    }
}

/// What makes two endpoints the same one: the pod, or failing that the address.
fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
    uid.unwrap_or_else(|| endpoint.addresses.join(","))
}

fn new_slice(
    service: &Service,
    family: &str,
    ports: &[Port],
    endpoints: Vec<Endpoint>,
    trigger: Option<&str>,
) -> EndpointSlice {
    let mut labels = backends::labels(service);
    labels.insert(SERVICE_NAME.into(), service.name_any());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    let port = |port: &Port| EndpointPort {
        name: Some(port.name.clone()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    };
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.name_any())),
            namespace: service.namespace(),
            labels: Some(labels),
            annotations: trigger.map(|time| BTreeMap::from([(LAST_CHANGE.into(), time.into())])),
            owner_references: Some(vec![controller_reference(service)]),
            ..Default::default()
        },
        address_type: family.into(),
        endpoints: Some(endpoints),
        ports: Some(ports.iter().map(port).collect()),
    }
}

fn ports_of(slice: &EndpointSlice) -> Vec<Port> {
    let port = |port: &EndpointPort| Port {
        name: port.name.clone().unwrap_or_default(),
        protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
        port: port.port.unwrap_or_default(),
        app_protocol: port.app_protocol.clone(),
    };
    slice.ports.iter().flatten().map(port).collect()
}

fn endpoint(service: &Service, pod: &Pod, family: &str, zones: &BTreeMap<String, String>) -> Option<Endpoint> {
    let is_v6 = family == "IPv6";
    let address = backends::addresses(pod).into_iter().find(|address| address.contains(':') == is_v6)?;
    let node = pods::node_name(pod);
    let (serving, terminating) = (pods::is_ready(pod), pods::is_terminating(pod));
    Some(Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(backends::publishes_unready(service) || serving && !terminating),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: backends::hostname(service, pod),
        node_name: (!node.is_empty()).then(|| node.to_owned()),
        zone: zones.get(node).cloned(),
        target_ref: Some(backends::target(pod)),
        ..Default::default()
    })
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let controller = SliceController {
        services: context.informer(),
        pods: context.informer(),
        nodes: context.informer(),
        slices: context.informer(),
        client: context.client.clone(),
        recorder: context.recorder(NAME),
        expectations: Arc::default(),
    };
    enqueue_changes(&controller.services, &queue);
    super::enqueue_services_of_pods(&controller.pods, &controller.services, &queue);
    controller.slices.add_index(SERVICE_NAME, |slice| key_of(slice).map(|key| key.to_string()).into_iter().collect());
    let (expectations, to) = (controller.expectations.clone(), queue.clone());
    controller.slices.on_change(move |change| {
        if let Some(key) = key_of(change.object()) {
            if change.old.is_none() {
                expectations.created(&key);
            }
            to.add(key);
        }
    });
    let (services, to) = (controller.services.clone(), queue.clone());
    controller.nodes.on_change(move |change| {
        // A node's zone stands in its endpoints.
        let zone = |node: &Arc<Node>| node.labels().get(ZONE).cloned();
        if change.old.and_then(zone) != change.new.and_then(zone) {
            services.list().iter().for_each(|service| to.add(ObjectKey::of(service.as_ref())));
        }
    });
    controller.services.wait_for_sync().await;
    controller.pods.wait_for_sync().await;
    controller.nodes.wait_for_sync().await;
    controller.slices.wait_for_sync().await;
    context.work(NAME, &queue, |key| controller.sync(key)).await;
}

/// The Service that one of our slices belongs to.
fn key_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    by_service(slice, MANAGER)
}

/// The Service that a slice of this manager belongs to.
pub(super) fn by_service(slice: &EndpointSlice, manager: &str) -> Option<ObjectKey> {
    let labels = slice.labels();
    let ours = labels.get(MANAGED_BY).map(String::as_str) == Some(manager);
    let service = labels.get(SERVICE_NAME).filter(|_| ours)?;
    Some(ObjectKey::new(slice.namespace().unwrap_or_default(), service))
}

struct SliceController {
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    client: Client,
    recorder: EventRecorder,
    expectations: Arc<Expectations>,
}

impl SliceController {
    async fn sync(&self, key: ObjectKey) -> Result<Requeue> {
        let Some(service) = self.services.get(&key) else {
            self.expectations.forget(&key); // its slices go with it, through their owner
            return Ok(Requeue::Never);
        };
        if !backends::is_managed(&service) || !self.expectations.satisfied(&key) {
            return Ok(Requeue::Never);
        }
        let zone = |node: &Arc<Node>| Some((node.name_any(), node.labels().get(ZONE)?.clone()));
        let zones = self.nodes.list().iter().filter_map(zone).collect();
        let existing = self.slices.by_index(SERVICE_NAME, &key.to_string());
        let plan = plan(&service, &self.pods.list_namespace(&key.namespace), &zones, &existing);
        if let Err(error) = plan.execute(&self.client, &self.expectations, &key).await {
            if error.namespace_is_terminating() {
                return Ok(Requeue::Never);
            }
            if error.reason() == "Conflict" {
                return Err(error); // the cache lags behind our own last write: no news to anybody
            }
            let message = format!("Error updating Endpoint Slices for Service {key}: {error}");
            let about = object_reference(service.as_ref());
            self.recorder.event(&about, EventType::Warning, "FailedToUpdateEndpointSlices", message);
            return Err(error);
        }
        Ok(Requeue::Never)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::backends::fixtures::{pod, service};
    use super::*;

    pub(in super::super) fn apply(plan: Plan, slices: &mut Vec<Arc<EndpointSlice>>, counter: &mut usize) {
        slices.retain(|slice| !plan.delete.contains(&slice.name_any()));
        for update in plan.update {
            let place = slices.iter().position(|slice| slice.name_any() == update.name_any()).unwrap();
            slices[place] = Arc::new(update);
        }
        for mut slice in plan.create {
            *counter += 1;
            slice.metadata.name = Some(format!("web-{counter}"));
            slices.push(Arc::new(slice));
        }
    }

    #[test]
    fn a_slice_tells_of_each_pod_whether_it_is_ready_serving_or_terminating() {
        let pods =
            [pod("a", "10.0.0.1", true, false), pod("b", "10.0.0.2", false, false), pod("c", "10.0.0.3", true, true)];
        let zones = BTreeMap::from([("n1".to_owned(), "east".to_owned())]);
        let plan = plan(&service(&json!({})), &pods, &zones, &[]);
        let slice = &plan.create[0];
        let conditions: Vec<_> = slice
            .endpoints
            .iter()
            .flatten()
            .map(|e| {
                let c = e.conditions.clone().unwrap();
                (e.addresses[0].as_str(), c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap())
            })
            .collect();
        assert_eq!(
            conditions,
            [("10.0.0.1", true, true, false), ("10.0.0.2", false, false, false), ("10.0.0.3", false, true, true)]
        );
        assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080), "the named port is looked up in the pod");
        assert_eq!(slice.endpoints.as_ref().unwrap()[0].zone.as_deref(), Some("east"));
        let labels = slice.metadata.labels.clone().unwrap();
        assert_eq!((labels[SERVICE_NAME].as_str(), labels["tier"].as_str()), ("web", "front"));
        assert_eq!(slice.metadata.annotations.as_ref().unwrap()[LAST_CHANGE], "2026-01-01T00:30:00Z");
    }

    #[test]
    fn a_headless_service_publishes_unready_pods_when_told_to() {
        let service = service(&json!({ "clusterIP": "None", "publishNotReadyAddresses": true, "ports": [] }));
        let plan = plan(&service, &[pod("a", "10.0.0.1", false, false)], &BTreeMap::new(), &[]);
        let slice = &plan.create[0];
        assert_eq!(slice.endpoints.as_ref().unwrap()[0].conditions.as_ref().unwrap().ready, Some(true));
        assert_eq!(slice.metadata.labels.as_ref().unwrap()[backends::HEADLESS], "");
    }

    #[test]
    fn a_service_without_pods_has_one_empty_slice() {
        let (mut slices, mut counter, service) = (Vec::new(), 0, service(&json!({})));
        apply(plan(&service, &[], &BTreeMap::new(), &slices), &mut slices, &mut counter);
        assert_eq!((slices.len(), slices[0].endpoints.as_ref().unwrap().len()), (1, 0));
        assert_eq!(plan(&service, &[], &BTreeMap::new(), &slices), Plan::default());
    }

    #[test]
    fn one_pods_change_is_one_write() {
        let (mut slices, mut counter, service) = (Vec::new(), 0, service(&json!({})));
        let mut pods: Vec<_> =
            (0..250).map(|i| pod(&format!("p{i:03}"), &format!("10.0.{}.{}", i / 250, i), true, false)).collect();
        apply(plan(&service, &pods, &BTreeMap::new(), &slices), &mut slices, &mut counter);
        assert_eq!(slices.len(), 3);
        pods[117] = pod("p117", "10.0.0.117", false, false);
        let plan = plan(&service, &pods, &BTreeMap::new(), &slices);
        assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
    }

    proptest! {
        #[test]
        fn the_slices_together_hold_each_backend_once(
            histories in prop::collection::vec(prop::collection::btree_map(0..300usize, any::<(bool, bool)>(), 0..260), 1..4)
        ) {
            let (mut slices, mut counter, service) = (Vec::new(), 0, service(&json!({})));
            for pods in histories {
                let pods: Vec<_> = pods
                    .into_iter()
                    .map(|(i, (ready, terminating))| pod(&format!("p{i}"), &format!("10.0.{}.{}", i / 250, i % 250), ready, terminating))
                    .collect();
                apply(plan(&service, &pods, &BTreeMap::new(), &slices), &mut slices, &mut counter);
                let mut found: Vec<_> = slices
                    .iter()
                    .flat_map(|slice| slice.endpoints.clone().unwrap())
                    .map(|e| (e.target_ref.unwrap().name.unwrap(), e.conditions.unwrap().ready.unwrap()))
                    .collect();
                found.sort();
                let mut wanted: Vec<_> =
                    pods.iter().map(|p| (p.name_any(), pods::is_ready(p) && !pods::is_terminating(p))).collect();
                wanted.sort();
                prop_assert_eq!(found, wanted);
                prop_assert!(slices.iter().all(|slice| slice.endpoints.as_ref().unwrap().len() <= SLICE_MAX));
                prop_assert_eq!(plan(&service, &pods, &BTreeMap::new(), &slices), Plan::default());
            }
        }
    }
}
