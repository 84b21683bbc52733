//! The pods behind a Service, as both forms of endpoints need them.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::pods;

/// The time of the change that led to the endpoints, by which their latency is measured.
pub(super) const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// The label of what belongs to a headless Service.
pub(super) const HEADLESS: &str = "service.kubernetes.io/headless";

/// One port as it is on a certain pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) protocol: String,
    pub(super) port: i32,
    pub(super) app_protocol: Option<String>,
}

/// Whether the Service has a selector and it matches the pod.
pub(super) fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let labels = pod.labels();
    selector.is_some_and(|selector| {
        !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    })
}

/// Whether endpoints are made for the Service at all.
pub(super) fn is_managed(service: &Service) -> bool {
    let spec = service.spec.clone().unwrap_or_default();
    spec.selector.is_some_and(|selector| !selector.is_empty()) && spec.type_.as_deref() != Some("ExternalName")
}

/// Whether the Service has no cluster IP.
pub(super) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"))
}

/// Whether pods are published before they are ready.
pub(super) fn publishes_unready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or_default()
}

/// The pod's addresses, of both families.
pub(super) fn addresses(pod: &Pod) -> Vec<String> {
    let Some(status) = &pod.status else { return Vec::new() };
    let mut addresses: Vec<_> = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    if addresses.is_empty() {
        addresses.extend(status.pod_ip.clone());
    }
    addresses.retain(|address| !address.is_empty());
    addresses
}

/// The pods that count: selected, with an address, not finished.
pub(super) fn backends(service: &Service, all: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
    let counts = |pod: &&Arc<Pod>| selects(service, pod) && !pods::is_finished(pod) && !addresses(pod).is_empty();
    all.iter().filter(counts).cloned().collect()
}

/// The Service's ports as they are on this pod. A named target port that the pod does not have is left out.
pub(super) fn ports(service: &Service, pod: &Pod) -> Vec<Port> {
    let declared = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let resolve = |declared: &ServicePort| {
        let protocol = declared.protocol.clone().unwrap_or_else(|| "TCP".into());
        let port = match &declared.target_port {
            None => declared.port,
            Some(IntOrString::Int(0)) => declared.port,
            Some(IntOrString::Int(number)) => *number,
            Some(IntOrString::String(name)) => container_port(pod, name, &protocol)?,
        };
        let name = declared.name.clone().unwrap_or_default();
        Some(Port { name, protocol, port, app_protocol: declared.app_protocol.clone() })
    };
    declared.iter().filter_map(resolve).collect()
}

fn container_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let is_sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(is_sidecar);
    let mut ports = spec.containers.iter().chain(sidecars).filter_map(|container| container.ports.as_ref()).flatten();
    let found =
        ports.find(|port| port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol);
    found.map(|port| port.container_port)
}

/// The reference from an endpoint to its pod.
pub(super) fn target(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.namespace(),
        name: pod.metadata.name.clone(),
        uid: pod.uid(),
        ..Default::default()
    }
}

/// The pod's host name, if this Service is the domain it lives in.
pub(super) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let in_domain = spec.subdomain.as_deref() == Some(&service.name_any());
    spec.hostname.clone().filter(|name| in_domain && !name.is_empty())
}

/// The latest change that shows in the endpoints.
pub(super) fn last_change(service: &Service, backends: &[Arc<Pod>]) -> Option<String> {
    let ready_changes = backends.iter().filter_map(|pod| pods::condition(pod, "Ready"));
    let times = ready_changes.filter_map(|condition| condition.last_transition_time.as_ref());
    let latest: Option<Timestamp> = times.chain(service.metadata.creation_timestamp.as_ref()).map(|time| time.0).max();
    latest.map(|time| time.to_string())
}

/// The labels of what is written for a Service: the Service's own, and whether it is headless.
pub(super) fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}

/// Pods and Services for the tests of both controllers.
#[cfg(test)]
pub(super) mod fixtures {
    use super::*;
    use serde_json::{Value, json};

    pub(in super::super) fn service(changes: &Value) -> Service {
        let mut service = json!({
            "metadata": { "name": "web", "namespace": "shop", "uid": "s", "labels": { "tier": "front" },
                          "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "selector": { "app": "web" }, "clusterIP": "10.96.0.5", "ipFamilies": ["IPv4"],
                      "ports": [{ "name": "http", "port": 80, "targetPort": "web", "protocol": "TCP" }] },
        });
        for (key, value) in changes.as_object().unwrap() {
            service["spec"][key] = value.clone();
        }
        serde_json::from_value(service).unwrap()
    }

    pub(in super::super) fn pod(name: &str, ip: &str, ready: bool, terminating: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        Arc::new(
            serde_json::from_value(json!({
                "metadata": { "name": name, "namespace": "shop", "uid": name, "labels": { "app": "web" },
                              "deletionTimestamp": terminating.then_some("2026-01-01T01:00:00Z") },
                "spec": { "nodeName": "n1", "containers": [{ "name": "c", "ports": [
                    { "name": "web", "containerPort": 8080 } ] }] },
                "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }], "conditions": [
                    { "type": "Ready", "status": status, "lastTransitionTime": "2026-01-01T00:30:00Z" } ] },
            }))
            .unwrap(),
        )
    }
}
