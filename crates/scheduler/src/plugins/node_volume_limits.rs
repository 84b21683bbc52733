//! NodeVolumeLimits: a node can have only so many volumes of a CSI driver attached, as its CSINode says.

use std::collections::BTreeSet;

use coracle_client::ObjectKey;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use super::volume_binding::class_of;
use crate::framework::{ClusterEvent, Filter, Happening, Object, Plugin, Point, PreFilter, Prepared, Refusal};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::{Snapshot, volume_limits};

const REASON: &str = "node(s) exceed max volume count";

#[derive(Debug)]
pub(super) struct NodeVolumeLimits;

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn events(&self) -> &'static [ClusterEvent] {
        use ClusterEvent::*;
        &[CSINodeAdd, CSINodeUpdate, AssignedPodDelete, PersistentVolumeClaimAdd, VolumeAttachmentDelete]
    }

    /// A pod that goes helps if it used claims; a claim that comes if it is the pod's.
    fn hint(&self, pod: &PodInfo, happened: &Happening) -> bool {
        match &happened.object {
            Object::Pod(Some(gone), None) => gone.claims().next().is_some(),
            Object::Claim(_, Some(claim)) => {
                let key = ObjectKey::of(claim.as_ref());
                pod.claims().any(|(own, _)| own == key)
            }
            _ => true,
        }
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> PreFilter<'a> {
        let claims = pod.claims().filter_map(|(key, _)| snapshot.claims.get(&key));
        let volumes: BTreeSet<_> = claims.filter_map(|claim| volume(claim, snapshot)).collect();
        let least = |(driver, _): &CsiVolume| snapshot.csi_nodes.index().least(driver);
        match volumes.iter().filter_map(least).min() {
            Some(least) => Prepared::filter(Limits { volumes, least, snapshot }),
            None => Prepared::none(),
        }
    }
}

/// Driver and handle of a claim's CSI volume. One that is not made yet has a handle of its own.
type CsiVolume = (String, String);

fn volume(claim: &PersistentVolumeClaim, snapshot: &Snapshot) -> Option<CsiVolume> {
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
    match snapshot.volumes.named(name) {
        Some(volume) => {
            let csi = volume.spec.as_ref()?.csi.as_ref()?;
            Some((csi.driver.clone(), csi.volume_handle.clone()))
        }
        None => {
            let driver = class_of(claim, snapshot)?.provisioner.clone();
            let handle = format!("{driver}-{}", ObjectKey::of(claim));
            Some((driver, handle))
        }
    }
}

struct Limits<'a> {
    volumes: BTreeSet<CsiVolume>,
    /// So many volumes of the pod's drivers every node can have.
    least: usize,
    snapshot: &'a Snapshot,
}

impl Filter for Limits<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        let attachments = self.snapshot.attachments.index().of(&node.name);
        // What is attached is looked at only where there may be too much of it.
        if node.claims.len() + attachments.len() + self.volumes.len() <= self.least {
            return Ok(());
        }
        let Some(csi) = self.snapshot.csi_nodes.named(&node.name) else { return Ok(()) };
        let claims = node.claims.keys().filter_map(|key| self.snapshot.claims.get(key));
        let mut attached: BTreeSet<_> = claims.filter_map(|claim| volume(claim, self.snapshot)).collect();
        // Volumes stay attached for a while after their pods went.
        for attachment in attachments {
            let name = attachment.spec.source.persistent_volume_name.as_deref().unwrap_or_default();
            let volume = self.snapshot.volumes.named(name).and_then(|volume| volume.spec.as_ref()?.csi.as_ref());
            attached.extend(volume.map(|csi| (csi.driver.clone(), csi.volume_handle.clone())));
        }
        for (driver, limit) in volume_limits(csi) {
            let of_driver = |volume: &&CsiVolume| volume.0 == driver;
            let more = self.volumes.difference(&attached).filter(of_driver).count();
            let held = attached.iter().filter(of_driver).count();
            if more > 0 && held + more > limit {
                return Err(Refusal::unschedulable(REASON));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{TestPod, filtered, node, pod, snapshot};

    fn using(name: &str, claims: &[&str]) -> TestPod {
        let volume = |claim: &&str| json!({ "name": claim, "persistentVolumeClaim": { "claimName": claim } });
        pod(name).set("/spec/volumes", claims.iter().map(volume).collect::<Vec<_>>().into())
    }

    /// Claims a, b and c are bound to volumes of the driver, d waits; the node has a attached.
    fn cluster(limit: Value) -> Snapshot {
        let mut nodes = snapshot(vec![node("n").with(using("x", &["a"]))]);
        for name in ["a", "b", "c", "d"] {
            let bound = if name == "d" { "" } else { name };
            let claim = json!({ "metadata": { "name": name, "namespace": "default" },
                                "spec": { "volumeName": bound, "storageClassName": "fast" } });
            let key = ObjectKey::new("default", name);
            nodes.claims.set(key, Some(Arc::new(serde_json::from_value(claim).unwrap())));
            let csi = json!({ "driver": "csi.example.com", "volumeHandle": name });
            let volume = json!({ "metadata": { "name": name }, "spec": { "csi": csi } });
            nodes.volumes.set(ObjectKey::new("", name), Some(Arc::new(serde_json::from_value(volume).unwrap())));
        }
        let class = json!({ "metadata": { "name": "fast" }, "provisioner": "csi.example.com" });
        nodes.classes.set(ObjectKey::new("", "fast"), Some(Arc::new(serde_json::from_value(class).unwrap())));
        let csi = json!({ "metadata": { "name": "n" }, "spec": { "drivers": [
            { "name": "csi.example.com", "nodeID": "n", "allocatable": { "count": limit } }] } });
        nodes.csi_nodes.set(ObjectKey::new("", "n"), Some(Arc::new(serde_json::from_value(csi).unwrap())));
        nodes
    }

    #[test]
    fn a_node_has_only_so_many_volumes_of_a_driver() {
        for (limit, claims, fits) in [
            (json!(2), &["b"][..], true),
            (json!(2), &["b", "c"], false),
            (json!(3), &["b", "c"], true),
            (json!(1), &["a"], true),
            (json!(1), &["d"], false),
            (json!(2), &["d"], true),
            (Value::Null, &["b", "c"], true),
            (json!(0), &[], true),
        ] {
            let expected = if fits { Ok(()) } else { Err(Refusal::unschedulable(REASON)) };
            let verdict = filtered(&NodeVolumeLimits, using("p", claims), &cluster(limit.clone()), "n");
            assert_eq!(verdict, expected, "{limit} {claims:?}");
        }
    }

    #[test]
    fn a_volume_that_is_still_attached_counts() {
        let mut nodes = cluster(json!(2));
        let attachment = json!({ "metadata": { "name": "v" }, "spec": {
            "attacher": "csi.example.com", "nodeName": "n", "source": { "persistentVolumeName": "b" } } });
        nodes.attachments.set(ObjectKey::new("", "v"), Some(Arc::new(serde_json::from_value(attachment).unwrap())));
        let refused = Err(Refusal::unschedulable(REASON));
        assert_eq!(filtered(&NodeVolumeLimits, using("p", &["c"]), &nodes, "n"), refused);
        assert_eq!(filtered(&NodeVolumeLimits, using("p", &["b"]), &nodes, "n"), Ok(()));
    }
}
