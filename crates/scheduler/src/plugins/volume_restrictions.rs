//! VolumeRestrictions: some disks can be attached once only, and a claim with `ReadWriteOncePod` is one pod's alone.

use std::collections::BTreeSet;

use coracle_client::ObjectKey;
use k8s_openapi::api::core::v1::Volume;

use super::volume_binding::usable;
use crate::framework::{ClusterEvent, Filter, Happening, Object, Plugin, Point, PreFilter, Prepared, Refusal};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

const REASON_DISK: &str = "node(s) had no available disk";
const REASON_ONE_POD: &str =
    "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";

#[derive(Debug)]
pub(super) struct VolumeRestrictions;

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn events(&self) -> &'static [ClusterEvent] {
        use ClusterEvent::*;
        &[AssignedPodDelete, NodeAdd, PersistentVolumeClaimAdd]
    }

    /// A pod that goes helps if it had the disk or the claim; a claim that comes if it is the pod's.
    fn hint(&self, pod: &PodInfo, happened: &Happening) -> bool {
        match &happened.object {
            Object::Pod(Some(gone), None) => {
                let had: BTreeSet<_> = gone.claims().map(|(key, _)| key).collect();
                pod.claims().any(|(key, _)| had.contains(&key)) || disks(pod).any(|disk| conflicts(disk, gone))
            }
            Object::Claim(_, Some(claim)) => {
                let key = ObjectKey::of(claim.as_ref());
                pod.claims().any(|(own, _)| own == key)
            }
            _ => true,
        }
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> PreFilter<'a> {
        let mut alone = BTreeSet::new();
        for (key, own) in pod.claims() {
            // What is wrong with a claim VolumeBinding says.
            let Ok(claim) = usable(pod, &key, own, snapshot) else { continue };
            let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
            if modes.iter().any(|mode| mode == "ReadWriteOncePod") {
                alone.insert(key);
            }
        }
        let disks: Vec<_> = disks(pod).collect();
        if alone.is_empty() && disks.is_empty() {
            return Prepared::none();
        }
        let users = |node: &NodeInfo| alone.iter().filter_map(|key| node.claims.get(key)).sum::<usize>() as i64;
        let users = if alone.is_empty() { 0 } else { snapshot.nodes().map(users).sum() };
        Prepared::filter(Restrictions { disks, alone, users })
    }
}

/// The volumes that are disks which cannot be attached twice.
fn disks(pod: &PodInfo) -> impl Iterator<Item = &Volume> {
    pod.spec().volumes.iter().flatten().filter(|volume| {
        volume.gce_persistent_disk.is_some()
            || volume.aws_elastic_block_store.is_some()
            || volume.iscsi.is_some()
            || volume.rbd.is_some()
    })
}

/// Whether a pod has the disk in a way that keeps others from it: all but the EBS kind can be read by many.
fn conflicts(disk: &Volume, pod: &PodInfo) -> bool {
    let both = |a: Option<bool>, b: Option<bool>| a == Some(true) && b == Some(true);
    disks(pod).any(|other| {
        let gce = disk.gce_persistent_disk.as_ref().zip(other.gce_persistent_disk.as_ref());
        let ebs = disk.aws_elastic_block_store.as_ref().zip(other.aws_elastic_block_store.as_ref());
        let iscsi = disk.iscsi.as_ref().zip(other.iscsi.as_ref());
        let rbd = disk.rbd.as_ref().zip(other.rbd.as_ref());
        gce.is_some_and(|(a, b)| a.pd_name == b.pd_name && !both(a.read_only, b.read_only))
            || ebs.is_some_and(|(a, b)| a.volume_id == b.volume_id)
            || iscsi.is_some_and(|(a, b)| a.iqn == b.iqn && !both(a.read_only, b.read_only))
            || rbd.is_some_and(|(a, b)| {
                a.monitors.iter().any(|monitor| b.monitors.contains(monitor))
                    && (&a.pool, &a.image) == (&b.pool, &b.image)
                    && !both(a.read_only, b.read_only)
            })
    })
}

#[derive(Clone)]
struct Restrictions<'a> {
    disks: Vec<&'a Volume>,
    /// The claims that are to be the pod's alone, and how often others use them, wherever they are.
    alone: BTreeSet<ObjectKey>,
    users: i64,
}

impl Filter for Restrictions<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        if node.pods.values().any(|other| self.disks.iter().any(|disk| conflicts(disk, other))) {
            return Err(Refusal::unschedulable(REASON_DISK));
        }
        if self.users > 0 { Err(Refusal::unschedulable(REASON_ONE_POD)) } else { Ok(()) }
    }

    fn imagine(&self) -> Option<Box<dyn Filter + '_>> {
        Some(Box::new(self.clone()))
    }

    fn moved(&mut self, other: &PodInfo, _: &NodeInfo, by: i64) {
        self.users += by * other.claims().filter(|(key, _)| self.alone.contains(key)).count() as i64;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{TestPod, filtered, node, pod, snapshot};

    fn with(name: &str, volume: Value) -> TestPod {
        let mut volume = volume;
        volume["name"] = "v".into();
        pod(name).set("/spec/volumes", json!([volume]))
    }

    #[test]
    fn a_disk_is_attached_once_unless_all_only_read_it() {
        let gce = |read_only: bool| json!({ "gcePersistentDisk": { "pdName": "d", "readOnly": read_only } });
        let ebs = |id: &str| json!({ "awsElasticBlockStore": { "volumeID": id, "readOnly": true } });
        let iscsi =
            |read_only: bool| json!({ "iscsi": { "iqn": "q", "lun": 0, "targetPortal": "t", "readOnly": read_only } });
        let rbd = |monitor: &str| json!({ "rbd": { "monitors": [monitor, "m"], "image": "i", "pool": "p" } });
        for (theirs, ours, fits) in [
            (gce(false), gce(false), false),
            (gce(true), gce(false), false),
            (gce(true), gce(true), true),
            (ebs("x"), ebs("x"), false),
            (ebs("x"), ebs("y"), true),
            (iscsi(false), iscsi(true), false),
            (iscsi(true), iscsi(true), true),
            (rbd("a"), rbd("b"), false),
            (gce(false), ebs("d"), true),
        ] {
            let nodes = snapshot(vec![node("n").with(with("x", theirs.clone())), node("free")]);
            let expected = if fits { Ok(()) } else { Err(Refusal::unschedulable(REASON_DISK)) };
            assert_eq!(
                filtered(&VolumeRestrictions, with("p", ours.clone()), &nodes, "n"),
                expected,
                "{theirs} {ours}"
            );
            assert_eq!(filtered(&VolumeRestrictions, with("p", ours), &nodes, "free"), Ok(()));
        }
    }

    #[test]
    fn a_read_write_once_pod_claim_is_one_pods_wherever_that_is() {
        let claim = || json!({ "persistentVolumeClaim": { "claimName": "data" } });
        for (mode, expected) in
            [("ReadWriteOncePod", Err(Refusal::unschedulable(REASON_ONE_POD))), ("ReadWriteOnce", Ok(()))]
        {
            let mut nodes = snapshot(vec![node("a").with(with("x", claim())), node("b")]);
            let object = json!({ "metadata": {}, "spec": { "accessModes": [mode] } });
            nodes
                .claims
                .set(ObjectKey::new("default", "data"), Some(Arc::new(serde_json::from_value(object).unwrap())));
            for on in ["a", "b"] {
                assert_eq!(filtered(&VolumeRestrictions, with("p", claim()), &nodes, on), expected, "{mode} {on}");
            }
        }
    }
}
