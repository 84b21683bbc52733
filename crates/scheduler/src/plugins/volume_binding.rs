//! VolumeBinding: a pod's claims must exist and be bound, or be ready to be bound where the pod goes; and a volume
//! that lives on some nodes only pulls its pod there.
//!
//! A claim that waits for its first pod (`WaitForFirstConsumer`) gets, on the chosen node, the smallest volume that
//! suits it; or, if there is none and its class can make one there, the node's name: the provisioner takes it from
//! there. Both are reserved at once and written before the pod is bound.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coracle_api::quantity::Quantity;
use coracle_client::scheduling::selector_matches;
use coracle_client::{ObjectKey, controlled_by};
use k8s_openapi::api::core::v1::{
    ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, TopologySelectorTerm,
};
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use serde::Deserialize;
use serde_json::Value;

use crate::framework::{
    Assumption, ClusterEvent, Filter, Happening, Object, Placement, Plugin, Point, PreFilter, Prepared, Refusal, Work,
};
use crate::node::NodeInfo;
use crate::pod::{PodInfo, parsed};
use crate::snapshot::Snapshot;
use crate::volumes::{SELECTED_NODE, is_bound};

const UNBOUND_IMMEDIATE: &str = "pod has unbound immediate PersistentVolumeClaims";
const NODE_CONFLICT: &str = "node(s) didn't match PersistentVolume's node affinity";
const BIND_CONFLICT: &str = "node(s) didn't find available persistent volumes to bind";
const NOT_ENOUGH_SPACE: &str = "node(s) did not have enough free storage";
const VOLUME_GONE: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Args {
    /// How long the binder and provisioner have.
    bind_timeout_seconds: u64,
    /// For scores by capacity, which upstream has off by default too.
    #[serde(rename = "shape")]
    _shape: Value,
}

impl Default for Args {
    fn default() -> Self {
        Args { bind_timeout_seconds: 600, _shape: Value::Null }
    }
}

#[derive(Debug)]
pub(super) struct VolumeBinding {
    timeout: Duration,
}

impl VolumeBinding {
    pub(super) fn new(args: Args) -> Self {
        VolumeBinding { timeout: Duration::from_secs(args.bind_timeout_seconds) }
    }
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::Reserve, Point::PreBind]
    }

    fn events(&self) -> &'static [ClusterEvent] {
        use ClusterEvent::*;
        &[
            NodeAdd,
            NodeLabelChange,
            NodeTaintChange,
            PersistentVolumeClaimAdd,
            PersistentVolumeClaimUpdate,
            PersistentVolumeAdd,
            PersistentVolumeUpdate,
            StorageClassAdd,
            StorageClassUpdate,
            CSINodeAdd,
            CSINodeUpdate,
            CSIDriverAdd,
            CSIDriverUpdate,
            CSIStorageCapacityAdd,
            CSIStorageCapacityUpdate,
        ]
    }

    /// Another pod's claim does not help.
    fn hint(&self, pod: &PodInfo, happened: &Happening) -> bool {
        let Object::Claim(_, Some(claim)) = &happened.object else { return true };
        let key = ObjectKey::of(claim.as_ref());
        pod.claims().any(|(own, _)| own == key)
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> PreFilter<'a> {
        match Claims::of(pod, snapshot)? {
            Some(claims) => Prepared::filter(claims),
            None => Prepared::none(),
        }
    }

    fn reserve(&self, pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> Result<Vec<Assumption>, Refusal> {
        Claims::of(pod, snapshot)?.map_or(Ok(Vec::new()), |claims| claims.bind_on(node))
    }

    fn pre_bind(&self, placement: &Placement) -> Option<Work<anyhow::Result<Vec<Arc<ResourceClaim>>>>> {
        let ours = |assumed: &Assumption| matches!(assumed, Assumption::Claim(_) | Assumption::Volume(_));
        let assumed: Vec<_> = placement.assumed.iter().filter(|assumed| ours(assumed)).cloned().collect();
        let (client, volumes, timeout) = (placement.client.clone(), placement.volumes.clone(), self.timeout);
        (!assumed.is_empty()).then(|| -> Work<_> {
            Box::pin(async move { volumes.bind(&client, assumed, timeout).await.map(|()| Vec::new()) })
        })
    }
}

/// A pod's claims, sorted by what is to be done about them.
struct Claims<'a> {
    snapshot: &'a Snapshot,
    /// The volumes of bound claims; none for one that is gone.
    bound: Vec<Option<&'a PersistentVolume>>,
    /// Those that wait for the pod, the smallest first.
    waiting: Vec<(ObjectKey, &'a Arc<PersistentVolumeClaim>)>,
}

impl<'a> Claims<'a> {
    /// None if the pod uses no claims.
    fn of(pod: &PodInfo, snapshot: &'a Snapshot) -> Result<Option<Self>, Refusal> {
        let wanted: BTreeMap<_, _> = pod.claims().collect();
        let mut claims = Claims { snapshot, bound: Vec::new(), waiting: Vec::new() };
        let mut immediate = false;
        if wanted.is_empty() {
            return Ok(None);
        }
        for (key, own) in wanted {
            let claim = usable(pod, &key, own, snapshot).map_err(Refusal::unresolvable)?;
            let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
            if is_bound(claim) {
                claims.bound.push(snapshot.volumes.named(volume).map(AsRef::as_ref));
            } else if volume.is_empty() && waits_for_pod(claim, snapshot) {
                claims.waiting.push((key, claim));
            } else {
                immediate = true;
            }
        }
        claims.waiting.sort_by_key(|(_, claim)| asked(claim));
        if immediate { Err(Refusal::unresolvable(UNBOUND_IMMEDIATE)) } else { Ok(Some(claims)) }
    }

    /// What would have to be written if the pod came to the node; or why it cannot.
    fn bind_on(&self, node: &NodeInfo) -> Result<Vec<Assumption>, Refusal> {
        let mut reasons = BTreeSet::new();
        for volume in &self.bound {
            match volume {
                None => drop(reasons.insert(VOLUME_GONE)),
                Some(volume) if !reachable(volume, node) => drop(reasons.insert(NODE_CONFLICT)),
                Some(_) => {}
            }
        }
        let (mut assumed, mut taken) = (Vec::new(), BTreeSet::new());
        for (key, claim) in &self.waiting {
            let selected = claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(SELECTED_NODE));
            let found = match selected {
                Some(selected) if *selected != node.name => Err(BIND_CONFLICT),
                Some(_) => self.provision(claim, node),
                None => match self.smallest(key, claim, node, &taken) {
                    Some(volume) => {
                        taken.insert(volume.metadata.name.clone());
                        Ok(Assumption::Volume(Arc::new(for_claim(volume, claim))))
                    }
                    None => self.provision(claim, node),
                },
            };
            match found {
                Ok(assumption) => assumed.push(assumption),
                Err(reason) => drop(reasons.insert(reason)),
            }
        }
        if reasons.is_empty() {
            return Ok(assumed);
        }
        Err(Refusal { reasons: reasons.into_iter().map(Into::into).collect(), unresolvable: true })
    }

    /// The smallest volume that suits a claim and that the node reaches; one that is meant for it goes first.
    fn smallest(
        &self,
        key: &ObjectKey,
        claim: &PersistentVolumeClaim,
        node: &NodeInfo,
        taken: &BTreeSet<Option<String>>,
    ) -> Option<&'a Arc<PersistentVolume>> {
        let spec = claim.spec.as_ref()?;
        let meant = |volume: &PersistentVolume| {
            let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
            reference.map(|reference| {
                reference.namespace.as_deref() == Some(&key.namespace)
                    && reference.name.as_deref() == Some(&key.name)
                    && reference
                        .uid
                        .as_ref()
                        .is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_ref())
            })
        };
        let all = self.snapshot.volumes.iter().map(|(_, volume)| volume);
        let free = all.filter(|volume| {
            !taken.contains(&volume.metadata.name)
                && volume.metadata.deletion_timestamp.is_none()
                && meant(volume) != Some(false)
                && capacity(volume) >= asked(claim)
                && volume_mode(volume) == spec.volume_mode.as_deref().unwrap_or("Filesystem")
                && reachable(volume, node)
                && (meant(volume) == Some(true) || suits(spec, volume))
        });
        free.min_by_key(|volume| (meant(volume).is_none(), capacity(volume)))
    }

    /// The claim with the node's name, if its class can make a volume there.
    fn provision(&self, claim: &Arc<PersistentVolumeClaim>, node: &NodeInfo) -> Result<Assumption, &'static str> {
        let class = class_of(claim, self.snapshot).ok_or(BIND_CONFLICT)?;
        let topologies = class.allowed_topologies.as_deref().unwrap_or_default();
        let allowed = topologies.is_empty() || topologies.iter().any(|term| is_in(term, node));
        if class.provisioner.is_empty() || class.provisioner == NO_PROVISIONER || !allowed {
            return Err(BIND_CONFLICT);
        }
        if !self.has_space(class, asked(claim), node) {
            return Err(NOT_ENOUGH_SPACE);
        }
        let mut selected = claim.as_ref().clone();
        selected.metadata.annotations.get_or_insert_default().insert(SELECTED_NODE.into(), node.name.clone());
        Ok(Assumption::Claim(Arc::new(selected)))
    }

    /// Whether a driver that tells how much it has has enough where the node is.
    fn has_space(&self, class: &StorageClass, size: Quantity, node: &NodeInfo) -> bool {
        let driver = self.snapshot.csi_drivers.named(&class.provisioner);
        if driver.and_then(|driver| driver.spec.storage_capacity) != Some(true) {
            return true;
        }
        self.snapshot.capacities.iter().any(|(_, capacity)| {
            let most = capacity.maximum_volume_size.as_ref().or(capacity.capacity.as_ref());
            Some(&capacity.storage_class_name) == class.metadata.name.as_ref()
                && most.is_some_and(|most| quantity(&most.0) >= size)
                && capacity.node_topology.as_ref().is_some_and(|topology| parsed(topology).matches(node.labels()))
        })
    }
}

impl Filter for Claims<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        self.bind_on(node).map(drop)
    }
}

/// A claim that the pod may use; or why not.
pub(super) fn usable<'a>(
    pod: &PodInfo,
    key: &ObjectKey,
    own: bool,
    snapshot: &'a Snapshot,
) -> Result<&'a Arc<PersistentVolumeClaim>, String> {
    let name = &key.name;
    let Some(claim) = snapshot.claims.get(key) else {
        return Err(match own {
            true => format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"),
            false => format!("persistentvolumeclaim {name:?} not found"),
        });
    };
    if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
        let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
        return Err(format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
    }
    if own && !controlled_by(&claim.metadata, pod.uid()) {
        return Err(format!("PVC {key} was not created for pod {} (pod is not owner)", pod.key));
    }
    Ok(claim)
}

/// A claim's storage class.
pub(super) fn class_of<'a>(claim: &PersistentVolumeClaim, snapshot: &'a Snapshot) -> Option<&'a Arc<StorageClass>> {
    let name = claim.spec.as_ref()?.storage_class_name.as_deref()?;
    snapshot.classes.named(name)
}

/// Whether a claim's class binds where its first pod goes.
pub(super) fn waits_for_pod(claim: &PersistentVolumeClaim, snapshot: &Snapshot) -> bool {
    let class = class_of(claim, snapshot);
    class.and_then(|class| class.volume_binding_mode.as_deref()) == Some("WaitForFirstConsumer")
}

fn reachable(volume: &PersistentVolume, node: &NodeInfo) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref()?.required.as_ref());
    affinity.is_none_or(|required| selector_matches(required, &node.node))
}

/// Whether a volume that is meant for nobody is what a claim asks for.
fn suits(wanted: &PersistentVolumeClaimSpec, volume: &PersistentVolume) -> bool {
    let Some(spec) = &volume.spec else { return false };
    let labels = volume.metadata.labels.clone().unwrap_or_default();
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Available")
        && spec.storage_class_name.as_deref().unwrap_or_default()
            == wanted.storage_class_name.as_deref().unwrap_or_default()
        && wanted.selector.as_ref().is_none_or(|selector| parsed(selector).matches(&labels))
        && wanted.access_modes.iter().flatten().all(|mode| modes.contains(mode))
}

/// The volume, bound to the claim from this side.
fn for_claim(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> PersistentVolume {
    let mut bound = volume.clone();
    let spec = bound.spec.get_or_insert_default();
    if spec.claim_ref.is_none() {
        bound.metadata.annotations.get_or_insert_default().insert(BOUND_BY_CONTROLLER.into(), "yes".into());
    }
    spec.claim_ref = Some(ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("PersistentVolumeClaim".into()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        ..Default::default()
    });
    bound
}

fn is_in(term: &TopologySelectorTerm, node: &NodeInfo) -> bool {
    let mut expressions = term.match_label_expressions.iter().flatten();
    expressions.all(|wanted| node.labels().get(&wanted.key).is_some_and(|value| wanted.values.contains(value)))
}

fn volume_mode(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()).unwrap_or("Filesystem")
}

fn capacity(volume: &PersistentVolume) -> Quantity {
    let list = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    list.and_then(|list| list.get("storage")).map(|size| quantity(&size.0)).unwrap_or_default()
}

fn asked(claim: &PersistentVolumeClaim) -> Quantity {
    let list = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    list.and_then(|list| list.get("storage")).map(|size| quantity(&size.0)).unwrap_or_default()
}

fn quantity(text: &str) -> Quantity {
    text.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::json;

    use super::*;
    use crate::testing::{TestPod, filtered, node, pod, snapshot};

    fn plugin() -> VolumeBinding {
        VolumeBinding::new(Args::default())
    }

    fn object<K: DeserializeOwned>(json: Value) -> Option<Arc<K>> {
        Some(Arc::new(serde_json::from_value(json).unwrap()))
    }

    fn with_claim() -> TestPod {
        pod("p").set("/spec/volumes", json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "data" } }]))
    }

    fn on_node(name: &str) -> Value {
        json!({ "required": { "nodeSelectorTerms": [
            { "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "In", "values": [name] }] } ] } })
    }

    /// Nodes a and b; the classes `late` and `local`, which wait for pods, and `now`.
    fn cluster(claim: Option<Value>) -> Snapshot {
        let mut nodes = snapshot(vec![node("a").label("zone", "1"), node("b").label("zone", "2")]);
        let mut class = |name: &str, mode: &str, provisioner: &str| {
            let class = json!({ "metadata": { "name": name }, "provisioner": provisioner, "volumeBindingMode": mode });
            nodes.classes.set(ObjectKey::new("", name), object(class));
        };
        class("late", "WaitForFirstConsumer", "csi.example.com");
        class("local", "WaitForFirstConsumer", NO_PROVISIONER);
        class("now", "Immediate", "csi.example.com");
        if let Some(mut claim) = claim {
            claim["metadata"]["name"] = "data".into();
            claim["metadata"]["namespace"] = "default".into();
            nodes.claims.set(ObjectKey::new("default", "data"), object(claim));
        }
        nodes
    }

    fn claim(class: &str) -> Value {
        json!({ "metadata": { "uid": "u" }, "spec": {
            "storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "5Gi" } } } })
    }

    fn volume(snapshot: &mut Snapshot, name: &str, size: &str, more: Value) {
        let mut volume = json!({ "metadata": { "name": name }, "status": { "phase": "Available" }, "spec": {
            "storageClassName": "local", "accessModes": ["ReadWriteOnce"], "capacity": { "storage": size } } });
        more.as_object().unwrap().iter().for_each(|(key, value)| volume["spec"][key] = value.clone());
        snapshot.volumes.set(ObjectKey::new("", name), object(volume));
    }

    fn verdicts(snapshot: &Snapshot) -> [Result<(), String>; 2] {
        ["a", "b"].map(|on| filtered(&plugin(), with_claim(), snapshot, on).map_err(|refusal| refusal.message()))
    }

    #[test]
    fn a_claim_must_be_there_and_bound_or_wait_for_its_pod() {
        let edited = |edit: fn(&mut Value)| {
            let mut claim = claim("now");
            edit(&mut claim);
            Some(claim)
        };
        for (claim, expected) in [
            (None, Err("persistentvolumeclaim \"data\" not found")),
            (Some(claim("now")), Err(UNBOUND_IMMEDIATE)),
            (Some(claim("missing")), Err(UNBOUND_IMMEDIATE)),
            (Some(claim("late")), Ok(())),
            (
                edited(|claim| claim["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into()),
                Err("persistentvolumeclaim \"data\" is being deleted"),
            ),
            (
                edited(|claim| {
                    claim["status"] = json!({ "phase": "Lost" });
                    claim["spec"]["volumeName"] = "v".into();
                }),
                Err("persistentvolumeclaim \"data\" bound to non-existent persistentvolume \"v\""),
            ),
            (
                edited(|claim| {
                    claim["metadata"]["annotations"] = json!({ "pv.kubernetes.io/bind-completed": "yes" });
                    claim["spec"]["volumeName"] = "v".into();
                }),
                Err(VOLUME_GONE),
            ),
        ] {
            assert_eq!(verdicts(&cluster(claim))[0], expected.map_err(str::to_owned));
        }
    }

    #[test]
    fn an_ephemeral_volumes_claim_must_be_the_pods_own() {
        let pod = pod("p").set("/spec/volumes", json!([{ "name": "v", "ephemeral": {} }]));
        let mut nodes = cluster(None);
        let verdict =
            |nodes: &Snapshot| filtered(&plugin(), pod.clone(), nodes, "a").map_err(|refusal| refusal.message());
        let waiting = "waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-v\"";
        assert_eq!(verdict(&nodes), Err(waiting.into()));
        nodes.claims.set(ObjectKey::new("default", "p-v"), object(claim("late")));
        assert_eq!(verdict(&nodes), Err("PVC default/p-v was not created for pod default/p (pod is not owner)".into()));
    }

    #[test]
    fn a_bound_volume_pulls_its_pod_to_its_nodes() {
        let mut bound = claim("local");
        bound["metadata"]["annotations"] = json!({ "pv.kubernetes.io/bind-completed": "yes" });
        bound["spec"]["volumeName"] = "v".into();
        let mut nodes = cluster(Some(bound));
        volume(&mut nodes, "v", "5Gi", json!({ "nodeAffinity": on_node("b") }));
        assert_eq!(verdicts(&nodes), [Err(NODE_CONFLICT.to_owned()), Ok(())]);
    }

    #[test]
    fn a_waiting_claim_needs_a_volume_that_suits_it() {
        let other = json!({ "namespace": "default", "name": "other" });
        for (what, size, more, suits) in [
            ("one that is large enough", "5Gi", json!({}), true),
            ("not one that is too small", "4Gi", json!({}), false),
            ("not another class's", "5Gi", json!({ "storageClassName": "late" }), false),
            ("not a block device", "5Gi", json!({ "volumeMode": "Block" }), false),
            ("not one that cannot be accessed so", "5Gi", json!({ "accessModes": ["ReadOnlyMany"] }), false),
            ("not another claim's", "5Gi", json!({ "claimRef": other }), false),
            (
                "one that is meant for it",
                "5Gi",
                json!({ "claimRef": { "namespace": "default", "name": "data" } }),
                true,
            ),
        ] {
            let mut nodes = cluster(Some(claim("local")));
            volume(&mut nodes, "v", size, more);
            let expected = if suits { Ok(()) } else { Err(BIND_CONFLICT.to_owned()) };
            assert_eq!(verdicts(&nodes)[0], expected, "{what}");
        }
    }

    #[test]
    fn the_smallest_volume_is_reserved() {
        let mut nodes = cluster(Some(claim("local")));
        volume(&mut nodes, "huge", "50Gi", json!({}));
        volume(&mut nodes, "large", "9Gi", json!({}));
        volume(&mut nodes, "elsewhere", "5Gi", json!({ "nodeAffinity": on_node("b") }));
        let reserved = plugin().reserve(&with_claim().info(), nodes.node("a").unwrap(), &nodes).unwrap();
        let [Assumption::Volume(volume)] = &reserved[..] else { panic!("{reserved:?}") };
        assert_eq!(volume.metadata.name.as_deref(), Some("large"));
        let reference = volume.spec.as_ref().unwrap().claim_ref.as_ref().unwrap();
        assert_eq!((reference.name.as_deref(), reference.uid.as_deref()), (Some("data"), Some("u")));
        // The next claim does not get it.
        reserved[0].enter(&mut nodes);
        let other = ObjectKey::new("default", "other");
        let mut second = claim("local");
        second["metadata"] = json!({ "name": "other", "namespace": "default", "uid": "w" });
        nodes.claims.set(other, object(second));
        let pod =
            pod("q").set("/spec/volumes", json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "other" } }]));
        let reserved = plugin().reserve(&pod.info(), nodes.node("a").unwrap(), &nodes).unwrap();
        let [Assumption::Volume(volume)] = &reserved[..] else { panic!("{reserved:?}") };
        assert_eq!(volume.metadata.name.as_deref(), Some("huge"));
    }

    #[test]
    fn a_class_makes_volumes_where_it_may_and_where_there_is_space() {
        let allowed = json!([{ "matchLabelExpressions": [{ "key": "zone", "values": ["1"] }] }]);
        let mut nodes = cluster(Some(claim("late")));
        nodes.classes.set(
            ObjectKey::new("", "late"),
            object(json!({ "metadata": { "name": "late" }, "provisioner": "csi.example.com",
                           "volumeBindingMode": "WaitForFirstConsumer", "allowedTopologies": allowed })),
        );
        assert_eq!(verdicts(&nodes), [Ok(()), Err(BIND_CONFLICT.to_owned())]);
        let driver = json!({ "metadata": { "name": "csi.example.com" }, "spec": { "storageCapacity": true } });
        nodes.csi_drivers.set(ObjectKey::new("", "csi.example.com"), object(driver));
        assert_eq!(verdicts(&nodes)[0], Err(NOT_ENOUGH_SPACE.to_owned()));
        for (size, expected) in [("4Gi", Err(NOT_ENOUGH_SPACE.to_owned())), ("5Gi", Ok(()))] {
            let capacity = json!({ "metadata": { "name": "c", "namespace": "default" }, "storageClassName": "late",
                                   "capacity": size, "nodeTopology": { "matchLabels": { "zone": "1" } } });
            nodes.capacities.set(ObjectKey::new("default", "c"), object(capacity));
            assert_eq!(verdicts(&nodes)[0], expected, "{size}");
        }
        let reserved = plugin().reserve(&with_claim().info(), nodes.node("a").unwrap(), &nodes).unwrap();
        let [Assumption::Claim(claim)] = &reserved[..] else { panic!("{reserved:?}") };
        assert_eq!(claim.metadata.annotations.as_ref().unwrap()[SELECTED_NODE], "a");
        reserved[0].enter(&mut nodes);
        assert_eq!(verdicts(&nodes), [Ok(()), Err(BIND_CONFLICT.to_owned())]);
    }
}
