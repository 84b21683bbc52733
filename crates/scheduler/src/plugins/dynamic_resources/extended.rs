//! Extended resources backed by devices: a container asks for `example.com/gpu: 1`, a DeviceClass says that its
//! devices are that, and on nodes that do not offer the resource themselves the scheduler makes a claim for the pod
//! (KEP 5004).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::api::resource::v1::{
    DeviceClaim, DeviceClass, DeviceRequest, ExactDeviceRequest, ResourceClaim, ResourceClaimSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::{Value, json};

use crate::devices::quantity;
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

/// Every class is a resource of this name, too.
const IMPLICIT: &str = "deviceclass.resource.kubernetes.io/";
const ANNOTATION: &str = "resource.kubernetes.io/extended-resource-claim";

/// The class whose devices are a resource; the newest, if there are several.
pub(in crate::plugins) fn class_of<'a>(resource: &str, snapshot: &'a Snapshot) -> Option<&'a DeviceClass> {
    if !resource.contains('/') {
        return None;
    }
    if let Some(class) = resource.strip_prefix(IMPLICIT) {
        return snapshot.device_classes.named(class).map(AsRef::as_ref);
    }
    let classes = snapshot.device_classes.iter().map(|(_, class)| class.as_ref());
    let meant = classes.filter(|class| class.spec.extended_resource_name.as_deref() == Some(resource));
    meant.max_by_key(|class| class.metadata.creation_timestamp.clone())
}

/// A pod's requests that devices can meet.
pub(super) struct Extended {
    /// The claim that would be made, with all of them. It has a name that no claim in the API can have.
    pub(super) claim: ResourceClaim,
    /// Which resource each request is for, and in which container.
    resources: BTreeMap<String, (String, String)>,
}

impl Extended {
    /// None if the pod asks for no such resource.
    pub(super) fn of(pod: &PodInfo, snapshot: &Snapshot) -> Option<Self> {
        let (mut requests, mut resources) = (Vec::new(), BTreeMap::new());
        let spec = pod.spec();
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers).enumerate();
        for (at, container) in containers {
            for (number, name, count) in asked(container) {
                let Some(class) = class_of(name, snapshot) else { continue };
                let request = format!("container-{at}-request-{number}");
                requests.push(DeviceRequest {
                    name: request.clone(),
                    exactly: Some(ExactDeviceRequest {
                        device_class_name: class.metadata.name.clone().unwrap_or_default(),
                        allocation_mode: Some("ExactCount".into()),
                        count: Some(count),
                        ..Default::default()
                    }),
                    first_available: None,
                });
                resources.insert(request, (name.to_owned(), container.name.clone()));
            }
        }
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Pod".into(),
            name: pod.key.name.clone(),
            uid: pod.uid().to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        };
        let metadata = ObjectMeta {
            namespace: Some(pod.key.namespace.clone()),
            name: Some(format!("<extended-resources>{}", pod.key.name)),
            generate_name: Some(format!("{}-extended-resources-", pod.key.name)),
            annotations: Some(BTreeMap::from([(ANNOTATION.into(), "true".into())])),
            owner_references: Some(vec![owner]),
            ..Default::default()
        };
        let devices = DeviceClaim { requests: Some(requests), ..Default::default() };
        let spec = ResourceClaimSpec { devices: Some(devices) };
        let claim = ResourceClaim { metadata, spec, status: None };
        (!resources.is_empty()).then_some(Extended { claim, resources })
    }

    /// Whether a request is to be met by devices on the node: it does not offer the resource itself.
    pub(super) fn needs(&self, request: &str, node: &NodeInfo) -> bool {
        self.resources.get(request).is_none_or(|(resource, _)| !node.allocatable.has(resource))
    }

    /// The claim with what is needed on the node; none if that is nothing.
    pub(super) fn claim_on(&self, node: &NodeInfo) -> Option<ResourceClaim> {
        let mut claim = self.claim.clone();
        let requests = claim.spec.devices.as_mut()?.requests.as_mut()?;
        requests.retain(|request| self.needs(&request.name, node));
        (!requests.is_empty()).then_some(claim)
    }
}

/// The pod's status part that says which of its resources are which of the claim's devices.
pub(super) fn pod_status(pod: &PodInfo, claim: &ResourceClaim) -> Value {
    let requests = claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten());
    let spec = pod.spec();
    let containers: Vec<_> = spec.init_containers.iter().flatten().chain(&spec.containers).collect();
    let mappings = requests.filter_map(|request| {
        let (at, number) = request.name.strip_prefix("container-")?.split_once("-request-")?;
        let container = containers.get(at.parse::<usize>().ok()?)?;
        let (_, resource, _) = asked(container).find(|(own, ..)| number.parse() == Ok(*own))?;
        Some(json!({ "containerName": container.name, "resourceName": resource, "requestName": request.name }))
    });
    let (name, mappings) = (&claim.metadata.name, mappings.collect::<Vec<_>>());
    json!({ "extendedResourceClaimStatus": { "resourceClaimName": name, "requestMappings": mappings } })
}

/// Whether a claim was made for extended resources.
pub(crate) fn is_for_extended(claim: &ResourceClaim) -> bool {
    claim
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(ANNOTATION))
        .is_some_and(|on| on == "true")
}

/// What a container asks for, numbered in the order of names.
fn asked(container: &Container) -> impl Iterator<Item = (usize, &str, i64)> {
    let requests = container.resources.iter().flat_map(|resources| resources.requests.iter().flatten());
    let counted = requests.enumerate().map(|(at, (name, amount))| (at, &name[..], quantity(amount).to_value()));
    counted.filter(|(.., count)| *count > 0)
}
