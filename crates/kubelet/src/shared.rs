//! What all of a kubelet's tasks share.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use coracle_client::{EventRecorder, EventType, Informer, object_reference};
use coracle_clock::watch;
use k8s_openapi::api::core::v1::{ConfigMap, Node, ObjectReference, Pod, Secret, Service};
use kube::Client;

use crate::config::Config;
use crate::dns::{ClusterDns, parse_resolv_conf};
use crate::images::ImageManager;
use crate::ips::IpPool;
use crate::objects::ObjectCache;
use crate::observed::{containers, init_containers};
use crate::probes::Prober;
use crate::runtime::{Runtime, RuntimeVersion};

/// What all of a kubelet's tasks share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) client: Client,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) prober: Arc<dyn Prober>,
    pub(crate) recorder: EventRecorder,
    pub(crate) images: ImageManager,
    pub(crate) config_maps: ObjectCache<ConfigMap>,
    pub(crate) secrets: ObjectCache<Secret>,
    pub(crate) services: Informer<Service>,
    /// The node as it was last seen with what it has to offer.
    pub(crate) node: watch::Sender<Option<Arc<Node>>>,
    pub(crate) ips: IpPool,
    /// Who the runtime is, as last asked; `None` while it does not answer.
    pub(crate) machine: watch::Sender<Option<RuntimeVersion>>,
}

impl Shared {
    /// The directory of a pod.
    pub(crate) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.config.data_dir.join("pods").join(uid)
    }

    pub(crate) fn host_ips(&self) -> Vec<String> {
        vec![self.config.node_ip.to_string()]
    }

    /// The scheme of container ids.
    pub(crate) fn runtime_name(&self) -> String {
        self.machine.borrow().as_ref().map_or_else(|| "docker".to_owned(), |machine| machine.name.clone())
    }

    pub(crate) fn node_cpus(&self) -> u64 {
        self.config.cpus.unwrap_or_else(|| self.machine.borrow().as_ref().map_or(1, |machine| machine.cpus))
    }

    pub(crate) fn node_memory_bytes(&self) -> u64 {
        let of_machine = || self.machine.borrow().as_ref().map_or(1 << 30, |machine| machine.memory_bytes);
        self.config.memory_bytes.unwrap_or_else(of_machine)
    }

    pub(crate) fn cluster_dns(&self) -> ClusterDns {
        let text = if self.config.on_disk {
            std::fs::read_to_string(&self.config.resolv_conf).unwrap_or_default()
        } else {
            String::new()
        };
        ClusterDns {
            servers: self.config.cluster_dns.clone(),
            domain: self.config.cluster_domain.clone(),
            host: parse_resolv_conf(&text),
        }
    }

    /// Tells something about a pod.
    pub(crate) fn pod_event(&self, pod: &Pod, kind: EventType, reason: &str, message: impl Into<String>) {
        self.recorder.event(&object_reference(pod), kind, reason, message);
    }

    /// Tells something about a container of a pod.
    pub(crate) fn container_event(
        &self,
        pod: &Pod,
        container: &str,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.recorder.event(&container_reference(pod, container), kind, reason, message);
    }

    /// The address at which a pod is probed.
    pub(crate) fn pod_ip(&self, pod: &Pod, observed: &crate::observed::ObservedPod) -> Option<IpAddr> {
        if pod.spec.as_ref().and_then(|s| s.host_network) == Some(true) {
            return Some(self.config.node_ip);
        }
        observed.ready_sandbox().and_then(|sandbox| sandbox.ip)
    }
}

/// The reference of an event to one container: the pod with a field path.
fn container_reference(pod: &Pod, container: &str) -> ObjectReference {
    let list = if containers(pod).iter().any(|c| c.name == container) {
        "containers"
    } else if init_containers(pod).iter().any(|c| c.name == container) {
        "initContainers"
    } else {
        "ephemeralContainers"
    };
    ObjectReference { field_path: Some(format!("spec.{list}{{{container}}}")), ..object_reference(pod) }
}
