//! The node: registered when the kubelet starts, its status kept current, its lease renewed.
//!
//! The status is written when it changes, and every five minutes to show that it would be. That the kubelet lives is
//! told by a Lease, renewed every ten seconds, which is cheaper than a status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::{EventType, Informer};
use coracle_clock::{Instant, watch};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus,
    NodeSystemInfo, ObjectReference,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::config::Config;
use crate::heartbeat::Sign;
use crate::runtime::{ImageInfo, RuntimeVersion};
use crate::shared::Shared;

/// The version of Kubernetes that this kubelet is one of.
pub const KUBELET_VERSION: &str = "v1.36.2";

/// So long after somebody else wrote the node, or writing it failed, is it seen to that it says what it should.
const STATUS_CHECK: Duration = Duration::from_secs(10);
const STATUS_REPORT: Duration = Duration::from_secs(300);
const LEASE_NAMESPACE: &str = "kube-node-lease";
const LEASE_SECONDS: i32 = 40;
const LEASE_RENEWAL: Duration = Duration::from_secs(10);
/// A failed renewal is tried again soon, and not more than so much later each time.
const LEASE_RETRY: Duration = Duration::from_millis(200);
const LEASE_RETRY_MAX: Duration = Duration::from_secs(7);
/// So many images are listed, the largest.
const IMAGES_MAX: usize = 50;

/// The machine's own names and its storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineFacts {
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// Size of the file system with the pods' files, in bytes.
    pub storage_bytes: u64,
}

impl MachineFacts {
    /// Asks the machine; a simulated node is told apart by its name only.
    pub fn gather(config: &Config) -> MachineFacts {
        if !config.on_disk {
            let id = config.node_name.clone();
            return MachineFacts { machine_id: id.clone(), boot_id: id, storage_bytes: 100 << 30 };
        }
        let read = |path: &str| std::fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_default();
        // The directory may not be there yet: then the one it will be in.
        let existing = config.data_dir.ancestors().find(|dir| dir.exists());
        let storage = existing.and_then(|dir| rustix::fs::statvfs(dir).ok());
        MachineFacts {
            machine_id: read("/etc/machine-id"),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            storage_bytes: storage.map_or(0, |fs| fs.f_blocks * fs.f_frsize),
        }
    }
}

/// The object with which a node registers.
pub fn node_object(config: &Config, machine: Option<&RuntimeVersion>) -> Node {
    let arch = machine.map_or("amd64", |machine| machine.architecture.as_str());
    let well_known = [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ];
    let mut labels = config.labels.clone();
    labels.extend(well_known.map(|(key, value)| (key.to_owned(), value.to_owned())));
    Node {
        metadata: ObjectMeta { name: Some(config.node_name.clone()), labels: Some(labels), ..ObjectMeta::default() },
        spec: Some(NodeSpec {
            pod_cidr: Some(config.pod_cidr.clone()),
            pod_cidrs: Some(vec![config.pod_cidr.clone()]),
            taints: Some(config.taints.clone()).filter(|taints| !taints.is_empty()),
            ..NodeSpec::default()
        }),
        status: None,
    }
}

/// A node's status. `old` keeps its conditions' times where they did not change.
pub fn node_status(
    config: &Config,
    machine: Option<&RuntimeVersion>,
    facts: &MachineFacts,
    images: &[ImageInfo],
    old: &NodeStatus,
    now: Timestamp,
) -> NodeStatus {
    let mut status = NodeStatus {
        addresses: Some(vec![
            NodeAddress { type_: "InternalIP".into(), address: config.node_ip.to_string() },
            NodeAddress { type_: "Hostname".into(), address: config.node_name.clone() },
        ]),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(config.port) }),
        }),
        conditions: Some(conditions(machine.is_some(), old, now)),
        ..NodeStatus::default()
    };
    match machine {
        Some(machine) => {
            let (capacity, allocatable) = resources(config, machine, facts);
            status.capacity = Some(capacity);
            status.allocatable = Some(allocatable);
            status.node_info = Some(node_info(machine, facts));
            status.images = Some(image_list(images));
        }
        None => {
            status.capacity = old.capacity.clone();
            status.allocatable = old.allocatable.clone();
            status.node_info = old.node_info.clone();
            status.images = old.images.clone();
        }
    }
    status
}

type Resources = BTreeMap<String, Quantity>;

fn resources(config: &Config, machine: &RuntimeVersion, facts: &MachineFacts) -> (Resources, Resources) {
    let cpus = config.cpus.unwrap_or(machine.cpus);
    let memory = config.memory_bytes.unwrap_or(machine.memory_bytes);
    let quantities = |cpu: String, memory: u64, storage: String| {
        [
            ("cpu", cpu),
            ("memory", format!("{}Ki", memory / 1024)),
            ("ephemeral-storage", storage),
            ("hugepages-1Gi", "0".into()),
            ("hugepages-2Mi", "0".into()),
            ("pods", config.max_pods.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), Quantity(value)))
        .into()
    };
    let capacity = quantities(cpus.to_string(), memory, format!("{}Ki", facts.storage_bytes / 1024));
    let cpu_left = (cpus * 1000).saturating_sub(config.reserved_cpu_milli);
    let cpu = if cpu_left.is_multiple_of(1000) { (cpu_left / 1000).to_string() } else { format!("{cpu_left}m") };
    // Upstream keeps a tenth of the storage back for its eviction threshold.
    let storage = (facts.storage_bytes / 10 * 9).to_string();
    (capacity, quantities(cpu, memory.saturating_sub(config.reserved_memory_bytes), storage))
}

fn node_info(machine: &RuntimeVersion, facts: &MachineFacts) -> NodeSystemInfo {
    NodeSystemInfo {
        architecture: machine.architecture.clone(),
        boot_id: facts.boot_id.clone(),
        container_runtime_version: format!("{}://{}", machine.name, machine.version),
        kernel_version: machine.kernel.clone(),
        kube_proxy_version: String::new(),
        kubelet_version: KUBELET_VERSION.into(),
        machine_id: facts.machine_id.clone(),
        operating_system: "linux".into(),
        os_image: machine.os_image.clone(),
        swap: None,
        system_uuid: facts.machine_id.clone(),
    }
}

fn image_list(images: &[ImageInfo]) -> Vec<ContainerImage> {
    let mut images: Vec<_> = images.iter().filter(|i| !i.tags.is_empty() || !i.digests.is_empty()).collect();
    images.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.id.cmp(&b.id)));
    images
        .into_iter()
        .take(IMAGES_MAX)
        .map(|image| ContainerImage {
            names: Some(image.digests.iter().chain(&image.tags).cloned().collect()),
            size_bytes: i64::try_from(image.size_bytes).ok(),
        })
        .collect()
}

fn conditions(runtime_up: bool, old: &NodeStatus, now: Timestamp) -> Vec<NodeCondition> {
    let ready = if runtime_up {
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status")
    } else {
        ("Ready", "False", "KubeletNotReady", "container runtime is down")
    };
    let table = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ready,
    ];
    let whole = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    table
        .into_iter()
        .map(|(type_, status, reason, message)| {
            let before = old.conditions.iter().flatten().find(|c| c.type_ == type_ && c.status == status);
            NodeCondition {
                type_: type_.into(),
                status: status.into(),
                reason: Some(reason.into()),
                message: Some(message.into()),
                last_heartbeat_time: Some(whole.clone()),
                last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or(Some(whole.clone())),
            }
        })
        .collect()
}

/// A status without its heartbeats, to see whether anything else changed.
fn without_heartbeats(status: &NodeStatus) -> NodeStatus {
    let mut status = status.clone();
    status.conditions.iter_mut().flatten().for_each(|condition| condition.last_heartbeat_time = None);
    status
}

/// Whether somebody else has written other conditions meanwhile: that nothing was heard of this node for too long.
fn overruled(status: &NodeStatus, me: &Informer<Node>) -> bool {
    let nodes = me.list();
    let theirs = nodes.first().and_then(|node| node.status.as_ref()?.conditions.as_deref()).unwrap_or_default();
    let ours = status.conditions.iter().flatten();
    ours.into_iter().any(|ours| theirs.iter().any(|other| other.type_ == ours.type_ && other.status != ours.status))
}

/// Registers the node and keeps its status current, for ever.
pub(crate) async fn keep_status(shared: Arc<Shared>, me: Informer<Node>) {
    let mut machine = shared.machine.subscribe();
    // The first status is Ready if the engine answers at all: worth the moment it takes.
    let _ = coracle_clock::timeout(Duration::from_secs(1), machine.wait_for(Option::is_some)).await;
    let facts = MachineFacts::gather(&shared.config);
    let mut written = register(&shared).await;
    let (told, mut news) = watch::channel(());
    me.on_change(move |_| told.send_replace(()));
    // When the heartbeat that is due was due, and when the last was.
    let (mut beat, mut last) = (Some(coracle_clock::instant()), None);
    let (mut check_at, mut checking): (Option<Instant>, _) = (None, false);
    let mut images = Vec::new();
    let (heartbeats, name) = (&shared.config.heartbeats, &shared.config.node_name);
    node_event(&shared, "Starting", "Starting kubelet.".into());
    loop {
        let up = machine.borrow_and_update().clone();
        let due = beat.is_some();
        if due && up.is_some() {
            // Images come and go, but nobody waits for this list.
            images = shared.runtime.list_images().await.unwrap_or_default();
        }
        let at = beat.unwrap_or_else(coracle_clock::instant);
        let status = node_status(&shared.config, up.as_ref(), &facts, &images, &written, wall(at));
        let changed = without_heartbeats(&status) != without_heartbeats(&written);
        let changed = changed || (std::mem::take(&mut checking) && overruled(&status, &me));
        if changed || due {
            let patch = json!({ "status": status });
            let api: Api<Node> = Api::all(shared.client.clone());
            match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
                Ok(_) => {
                    tell_changes(&shared, &written, &status);
                    written = status;
                    (last, beat) = (Some(at), None);
                }
                Err(error) => {
                    if matches!(&error, kube::Error::Api(refusal) if refusal.code == 404) {
                        written = register(&shared).await;
                    }
                    tracing::debug!(%error, "node status not written");
                    (last, beat) = (None, Some(coracle_clock::instant()));
                    check_at = beat.map(|now| now + STATUS_CHECK);
                }
            }
        }
        tokio::select! {
            biased;
            changed = machine.changed() => if changed.is_err() { return },
            _ = news.changed() => check_at = check_at.or(Some(coracle_clock::instant() + STATUS_CHECK)),
            () = async { coracle_clock::sleep_until(check_at.unwrap_or(at)).await }, if check_at.is_some() => {
                (check_at, checking) = (None, true);
            }
            at = async { heartbeats.rest(name, Sign::Status, last.unwrap_or(at), STATUS_REPORT).await }, if last.is_some() => {
                beat = Some(at);
            }
        }
    }
}

/// Creates the Node object, or takes over the one that is there, and answers its status.
async fn register(shared: &Shared) -> NodeStatus {
    let api: Api<Node> = Api::all(shared.client.clone());
    let name = &shared.config.node_name;
    let mut delay = LEASE_RETRY;
    loop {
        let node = node_object(&shared.config, shared.machine.borrow().as_ref());
        let result = match api.create(&PostParams::default(), &node).await {
            Err(kube::Error::Api(refusal)) if refusal.code == 409 => {
                let mut patch = json!({ "metadata": { "labels": node.metadata.labels } });
                let cidr = api.get(name).await.ok().and_then(|existing| existing.spec).and_then(|s| s.pod_cidr);
                if cidr.is_none() {
                    patch["spec"] = json!({ "podCIDR": shared.config.pod_cidr, "podCIDRs": [shared.config.pod_cidr] });
                }
                api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await
            }
            result => result,
        };
        match result {
            Ok(node) => return node.status.unwrap_or_default(),
            Err(error) => tracing::debug!(%error, "node not registered; trying again"),
        }
        coracle_clock::sleep(delay).await;
        delay = (delay * 2).min(LEASE_RETRY_MAX);
    }
}

fn node_event(shared: &Shared, reason: &str, message: String) {
    let name = Some(shared.config.node_name.clone());
    // Upstream's kubelet names a node by its name where a uid belongs, and tools have come to expect it.
    let reference =
        ObjectReference { kind: Some("Node".into()), uid: name.clone(), name, ..ObjectReference::default() };
    shared.recorder.event(&reference, EventType::Normal, reason, message);
}

/// Tells of conditions that changed.
fn tell_changes(shared: &Shared, old: &NodeStatus, new: &NodeStatus) {
    for condition in new.conditions.iter().flatten() {
        let before = old.conditions.iter().flatten().find(|c| c.type_ == condition.type_);
        if before.is_some_and(|before| before.status == condition.status) {
            continue;
        }
        let reason = match (condition.type_.as_str(), condition.status.as_str()) {
            ("MemoryPressure", _) => "NodeHasSufficientMemory",
            ("DiskPressure", _) => "NodeHasNoDiskPressure",
            ("PIDPressure", _) => "NodeHasSufficientPID",
            (_, "True") => "NodeReady",
            _ => "NodeNotReady",
        };
        node_event(shared, reason, format!("Node {} status is now: {reason}", shared.config.node_name));
    }
}

/// Renews the node's lease, for ever.
pub(crate) async fn keep_lease(shared: Arc<Shared>) {
    let api: Api<Lease> = Api::namespaced(shared.client.clone(), LEASE_NAMESPACE);
    let (heartbeats, name) = (&shared.config.heartbeats, &shared.config.node_name);
    let mut current = None;
    let mut delay = LEASE_RETRY;
    let mut at = coracle_clock::instant();
    loop {
        match renew(&shared, &api, current.take(), wall(at)).await {
            Ok(lease) => {
                current = Some(lease);
                delay = LEASE_RETRY;
                at = heartbeats.rest(name, Sign::Lease, at, coracle_clock::jitter(LEASE_RENEWAL, 0.04)).await;
            }
            Err(error) => {
                tracing::debug!(%error, "lease not renewed; trying again");
                coracle_clock::sleep(delay).await;
                delay = (delay * 2).min(LEASE_RETRY_MAX);
                at = coracle_clock::instant();
            }
        }
    }
}

/// The wall time of an instant that is past.
fn wall(at: Instant) -> Timestamp {
    coracle_clock::now() - at.elapsed()
}

async fn renew(shared: &Shared, api: &Api<Lease>, current: Option<Lease>, at: Timestamp) -> kube::Result<Lease> {
    let name = &shared.config.node_name;
    let current = match current {
        Some(lease) => Some(lease),
        None => api.get_opt(name).await?,
    };
    let exists = current.is_some();
    let mut lease = current.unwrap_or_default();
    lease.metadata.name = Some(name.clone());
    lease.metadata.namespace = Some(LEASE_NAMESPACE.into());
    if lease.metadata.owner_references.is_none()
        && let Some(node) = Api::<Node>::all(shared.client.clone()).get_opt(name).await?
    {
        lease.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: name.clone(),
            uid: node.metadata.uid.unwrap_or_default(),
            ..OwnerReference::default()
        }]);
    }
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: Some(LEASE_SECONDS),
        renew_time: Some(MicroTime(at)),
        ..lease.spec.unwrap_or_default()
    });
    if exists {
        api.replace(name, &PostParams::default(), &lease).await
    } else {
        api.create(&PostParams::default(), &lease).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::ImageUser;
    use crate::testing::at;

    fn config() -> Config {
        Config { on_disk: false, ..Config::new("n", "10.244.1.1".parse().unwrap(), "10.244.1.0/24", "/data") }
    }

    fn machine() -> RuntimeVersion {
        RuntimeVersion {
            name: "docker".into(),
            version: "20.10".into(),
            kernel: "6.1".into(),
            os_image: "Debian".into(),
            architecture: "arm64".into(),
            cpus: 2,
            memory_bytes: 4 << 30,
        }
    }

    fn status(machine: Option<&RuntimeVersion>, old: &NodeStatus, now: i64) -> NodeStatus {
        node_status(&config(), machine, &MachineFacts::default(), &[], old, at(now))
    }

    fn ready(status: &NodeStatus) -> NodeCondition {
        status.conditions.iter().flatten().find(|c| c.type_ == "Ready").cloned().unwrap()
    }

    #[test]
    fn a_node_registers_with_its_labels_and_addresses() {
        let node = node_object(&config(), Some(&machine()));
        let labels = node.metadata.labels.unwrap();
        assert_eq!(labels["kubernetes.io/hostname"], "n");
        assert_eq!(labels["kubernetes.io/arch"], "arm64");
        assert_eq!(node.spec.unwrap().pod_cidr.as_deref(), Some("10.244.1.0/24"));
    }

    #[test]
    fn a_node_is_ready_while_its_engine_answers() {
        let up = status(Some(&machine()), &NodeStatus::default(), 0);
        assert_eq!(ready(&up).reason.as_deref(), Some("KubeletReady"));
        let down = status(None, &up, 10);
        assert_eq!(
            (ready(&down).status.as_str(), ready(&down).message.as_deref()),
            ("False", Some("container runtime is down"))
        );
        assert_eq!(ready(&down).last_transition_time, Some(Time(at(10))));
        assert_eq!(down.capacity, up.capacity, "what is known stays known");
    }

    #[test]
    fn heartbeats_alone_are_no_change() {
        let first = status(Some(&machine()), &NodeStatus::default(), 0);
        let second = status(Some(&machine()), &first, 10);
        assert_ne!(first, second);
        assert_eq!(without_heartbeats(&first), without_heartbeats(&second));
    }

    #[test]
    fn what_is_reserved_is_not_allocatable() {
        let config = Config { cpus: Some(4), reserved_cpu_milli: 500, reserved_memory_bytes: 1 << 30, ..config() };
        let status =
            node_status(&config, Some(&machine()), &MachineFacts::default(), &[], &NodeStatus::default(), at(0));
        let (capacity, allocatable) = (status.capacity.unwrap(), status.allocatable.unwrap());
        assert_eq!((capacity["cpu"].0.as_str(), allocatable["cpu"].0.as_str()), ("4", "3500m"));
        assert_eq!(allocatable["memory"].0, format!("{}Ki", 3 << 20));
    }

    #[test]
    fn the_largest_images_are_listed_first() {
        let image = |id: &str, size_bytes| ImageInfo {
            id: id.into(),
            tags: vec![id.into()],
            digests: vec![],
            size_bytes,
            user: ImageUser::Uid(0),
        };
        let listed = image_list(&[image("small", 1), image("big", 9)]);
        assert_eq!(listed[0].names, Some(vec!["big".to_owned()]));
    }
}
