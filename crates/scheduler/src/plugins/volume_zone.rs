//! VolumeZone: a volume that says in its labels in which zones it is pulls its pod there.

use coracle_client::ObjectKey;
use k8s_openapi::api::core::v1::PersistentVolume;

use super::volume_binding::{usable, waits_for_pod};
use crate::framework::{ClusterEvent, Filter, Happening, Object, Plugin, Point, PreFilter, Prepared, Refusal};
use crate::node::{NodeInfo, REGION, ZONE};
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

const REASON: &str = "node(s) had no available volume zone";
/// The labels that count, each with the one that it is called today.
const LABELS: [(&str, &str); 4] = [
    (ZONE, ZONE),
    (REGION, REGION),
    ("failure-domain.beta.kubernetes.io/zone", ZONE),
    ("failure-domain.beta.kubernetes.io/region", REGION),
];

#[derive(Debug)]
pub(super) struct VolumeZone;

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn events(&self) -> &'static [ClusterEvent] {
        use ClusterEvent::*;
        &[
            StorageClassAdd,
            NodeAdd,
            NodeLabelChange,
            PersistentVolumeClaimAdd,
            PersistentVolumeClaimUpdate,
            PersistentVolumeAdd,
            PersistentVolumeUpdate,
        ]
    }

    /// Another pod's claim does not help.
    fn hint(&self, pod: &PodInfo, happened: &Happening) -> bool {
        let Object::Claim(_, Some(claim)) = &happened.object else { return true };
        let key = ObjectKey::of(claim.as_ref());
        pod.claims().any(|(own, _)| own == key)
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> PreFilter<'a> {
        let mut wanted = Vec::new();
        for (key, own) in pod.claims() {
            // What is wrong with a claim VolumeBinding says.
            let Ok(claim) = usable(pod, &key, own, snapshot) else { continue };
            let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default();
            if name.is_empty() && !waits_for_pod(claim, snapshot) {
                return Err(Refusal::unresolvable("PersistentVolume had no name"));
            }
            wanted.extend(snapshot.volumes.named(name).into_iter().flat_map(|volume| topology(volume)));
        }
        if wanted.is_empty() { Prepared::none() } else { Prepared::filter(Zones(wanted)) }
    }
}

/// A label that counts, what it is called today, and the values of it that will do.
type Wanted = (&'static str, &'static str, Vec<String>);

fn topology(volume: &PersistentVolume) -> impl Iterator<Item = Wanted> {
    LABELS.into_iter().filter_map(|(label, today)| {
        let value = volume.metadata.labels.as_ref()?.get(label)?;
        Some((label, today, value.split("__").map(str::to_owned).collect()))
    })
}

struct Zones(Vec<Wanted>);

impl Filter for Zones {
    /// A node that says nothing of zones has no part in them.
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        let labels = node.labels();
        if !LABELS.iter().any(|(label, _)| labels.contains_key(*label)) {
            return Ok(());
        }
        let inside = self.0.iter().all(|(label, today, values)| {
            let value = labels.get(*label).or_else(|| labels.get(*today));
            value.is_some_and(|value| values.contains(value))
        });
        if inside { Ok(()) } else { Err(Refusal::unresolvable(REASON)) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::testing::{filtered, node, pod, snapshot};

    #[test]
    fn a_pod_goes_to_its_volumes_zone() {
        let beta = "failure-domain.beta.kubernetes.io/zone";
        let nodes = || snapshot(vec![node("a").label(ZONE, "a"), node("b").label(ZONE, "b"), node("none")]);
        let no = || Err(Refusal::unresolvable(REASON));
        for (label, value, expected) in [
            (ZONE, "a", [Ok(()), no(), Ok(())]),
            (ZONE, "a__b", [Ok(()), Ok(()), Ok(())]),
            (beta, "b", [no(), Ok(()), Ok(())]),
            (REGION, "r", [no(), no(), Ok(())]),
            ("other", "b", [Ok(()), Ok(()), Ok(())]),
        ] {
            let mut nodes = nodes();
            let claim = json!({ "metadata": {}, "spec": { "volumeName": "v" } });
            nodes.claims.set(ObjectKey::new("default", "data"), Some(Arc::new(serde_json::from_value(claim).unwrap())));
            let volume = json!({ "metadata": { "name": "v", "labels": { label: value } } });
            nodes.volumes.set(ObjectKey::new("", "v"), Some(Arc::new(serde_json::from_value(volume).unwrap())));
            let pod = pod("p")
                .set("/spec/volumes", json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "data" } }]));
            let verdicts = ["a", "b", "none"].map(|on| filtered(&VolumeZone, pod.clone(), &nodes, on));
            assert_eq!(verdicts, expected, "{label}={value}");
        }
    }
}
