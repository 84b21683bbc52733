//! Endpoints: the older form, one object a Service, which `kubectl get endpoints` shows.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_client::{EventRecorder, EventType, Informer, ObjectKey, Requeue, WorkQueue, object_reference};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, ResourceExt};

use super::backends::{self, LAST_CHANGE, Port};
use crate::context::{Context, enqueue_changes};
use crate::error::{IgnoreNotFound, Result};
use crate::pods;

const NAME: &str = "endpoint-controller";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// The most addresses in one object; a Service with more needs slices.
const ADDRESSES_MAX: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// The Endpoints of a Service; its resource version is that of `existing`.
pub(super) fn endpoints(service: &Service, pods: &[Arc<Pod>], existing: Option<&Endpoints>) -> Endpoints {
    let unready_too = backends::publishes_unready(service);
    let mut backends = backends::backends(service, pods);
    backends.retain(|pod| unready_too || !pods::is_terminating(pod));
    let mut annotations = existing.map(|existing| existing.annotations().clone()).unwrap_or_default();
    annotations.remove(OVER_CAPACITY);
    if backends.len() > ADDRESSES_MAX {
        backends.truncate(ADDRESSES_MAX);
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    }
    annotations.extend(backends::last_change(service, &backends).map(|time| (LAST_CHANGE.into(), time)));
    let mut labels = backends::labels(service);
    labels.insert(MANAGED_BY.into(), NAME.into());
    let mut meta = existing.map(|existing| existing.metadata.clone()).unwrap_or_default();
    meta.managed_fields = None;
    Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.namespace(),
            labels: Some(labels),
            annotations: Some(annotations),
            ..meta
        },
        subsets: subsets(service, &backends),
    }
}

/// Backends with the same ports make one subset: its ready addresses and the others.
fn subsets(service: &Service, backends: &[Arc<Pod>]) -> Option<Vec<EndpointSubset>> {
    let headless_without_ports =
        service.spec.as_ref().is_some_and(|spec| spec.ports.as_ref().is_none_or(Vec::is_empty));
    let mut groups: BTreeMap<Vec<Port>, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    for pod in backends {
        let ports = backends::ports(service, pod);
        let Some(ip) = backends::addresses(pod).into_iter().next() else { continue };
        if ports.is_empty() && !headless_without_ports {
            continue;
        }
        let node = pods::node_name(pod);
        let address = EndpointAddress {
            ip,
            hostname: backends::hostname(service, pod),
            node_name: (!node.is_empty()).then(|| node.to_owned()),
            target_ref: Some(backends::target(pod)),
        };
        let (ready, not_ready) = groups.entry(ports).or_default();
        let is_ready = backends::publishes_unready(service) || pods::is_ready(pod);
        if is_ready { ready.push(address) } else { not_ready.push(address) }
    }
    let subset = |(ports, (mut ready, mut not_ready)): (Vec<Port>, (Vec<_>, Vec<_>))| {
        for addresses in [&mut ready, &mut not_ready] {
            addresses.sort_by(|a: &EndpointAddress, b| a.ip.cmp(&b.ip));
        }
        EndpointSubset {
            addresses: (!ready.is_empty()).then_some(ready),
            not_ready_addresses: (!not_ready.is_empty()).then_some(not_ready),
            ports: (!ports.is_empty()).then(|| ports.into_iter().map(endpoint_port).collect()),
        }
    };
    let subsets: Vec<_> = groups.into_iter().map(subset).collect();
    (!subsets.is_empty()).then_some(subsets)
}

fn endpoint_port(port: Port) -> EndpointPort {
    EndpointPort {
        name: (!port.name.is_empty()).then_some(port.name),
        port: port.port,
        protocol: Some(port.protocol),
        app_protocol: port.app_protocol,
    }
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let controller = EndpointsController {
        services: context.informer(),
        pods: context.informer(),
        endpoints: context.informer(),
        client: context.client.clone(),
        recorder: context.recorder(NAME),
    };
    enqueue_changes(&controller.services, &queue);
    enqueue_changes(&controller.endpoints, &queue);
    super::enqueue_services_of_pods(&controller.pods, &controller.services, &queue);
    controller.services.wait_for_sync().await;
    controller.pods.wait_for_sync().await;
    controller.endpoints.wait_for_sync().await;
    context.work(NAME, &queue, |key| controller.sync(key)).await;
}

struct EndpointsController {
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
    client: Client,
    recorder: EventRecorder,
}

impl EndpointsController {
    async fn sync(&self, key: ObjectKey) -> Result<Requeue> {
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        let existing = self.endpoints.get(&key);
        let Some(service) = self.services.get(&key) else {
            // Endpoints made by hand, for a Service to come or without a selector, are not ours to delete.
            let ours = |endpoints: &Arc<Endpoints>| endpoints.labels().get(MANAGED_BY).is_some_and(|by| by == NAME);
            if existing.as_ref().is_some_and(ours) {
                api.delete(&key.name, &DeleteParams::default()).await.ignore_not_found()?;
            }
            return Ok(Requeue::Never);
        };
        if !backends::is_managed(&service) {
            return Ok(Requeue::Never);
        }
        let wanted = endpoints(&service, &self.pods.list_namespace(&key.namespace), existing.as_deref());
        let result = match &existing {
            None => api.create(&PostParams::default(), &wanted).await,
            Some(existing) if existing.subsets == wanted.subsets && existing.labels() == wanted.labels() => {
                return Ok(Requeue::Never);
            }
            Some(_) => api.replace(&key.name, &PostParams::default(), &wanted).await,
        };
        let Err(error) = result.map_err(crate::Error::from) else { return Ok(Requeue::Never) };
        if error.namespace_is_terminating() {
            return Ok(Requeue::Never);
        }
        if error.reason() == "Conflict" {
            return Err(error); // the cache lags behind our own last write: no news to anybody
        }
        let (reason, verb) = match existing {
            Some(_) => ("FailedToUpdateEndpoint", "update"),
            None => ("FailedToCreateEndpoint", "create"),
        };
        let message = format!("Failed to {verb} endpoint {key}: {error}");
        self.recorder.event(&object_reference(service.as_ref()), EventType::Warning, reason, message);
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::backends::fixtures::{pod, service};
    use super::*;

    #[test]
    fn ready_and_other_pods_stand_apart_and_terminating_ones_are_gone() {
        let pods = [
            pod("a", "10.0.0.2", true, false),
            pod("b", "10.0.0.1", true, false),
            pod("c", "10.0.0.3", false, false),
            pod("d", "10.0.0.4", true, true),
        ];
        let endpoints = endpoints(&service(&json!({})), &pods, None);
        let subset = &endpoints.subsets.as_ref().unwrap()[0];
        let ips = |addresses: &Option<Vec<EndpointAddress>>| {
            addresses.iter().flatten().map(|address| address.ip.clone()).collect::<Vec<_>>()
        };
        assert_eq!(ips(&subset.addresses), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(ips(&subset.not_ready_addresses), ["10.0.0.3"]);
        assert_eq!(subset.ports.as_ref().unwrap()[0].port, 8080);
        assert_eq!(endpoints.labels()["tier"], "front");
    }

    #[test]
    fn a_headless_service_without_ports_has_addresses_all_the_same() {
        let service = service(&json!({ "clusterIP": "None", "ports": [] }));
        let endpoints = endpoints(&service, &[pod("a", "10.0.0.1", true, false)], None);
        let subset = &endpoints.subsets.unwrap()[0];
        assert_eq!((subset.addresses.as_ref().unwrap().len(), &subset.ports), (1, &None));
    }
}
