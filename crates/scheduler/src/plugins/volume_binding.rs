//! VolumeBinding: a pod's claims must exist and be bound (or be ready to be bound where it goes), and
//! a volume that lives on some nodes only pulls its pod there.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use coracle_client::ObjectKey;
use coracle_client::scheduling::selector_matches;
use k8s_openapi::api::core::v1::NodeSelector;

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{ClusterEvent, Filter, Plugin, PreFilter, Refusal};

const UNBOUND_IMMEDIATE: &str = "pod has unbound immediate PersistentVolumeClaims";
const NODE_CONFLICT: &str = "node(s) didn't match PersistentVolume's node affinity";

/// What is known of one claim.
#[derive(Clone, Debug, PartialEq)]
pub enum ClaimState {
    /// There is no such claim.
    Missing,
    /// It is to be a pod's own, and is another's.
    Foreign,
    /// It is being deleted.
    Terminating,
    /// Its volume was lost.
    Lost,
    /// It is not bound, and its class binds at once: the pod waits for the binder.
    Unbound,
    /// It is not bound, and its class binds where the first pod goes.
    WaitsForPod,
    /// It is bound to a volume; some volumes allow only some nodes.
    Bound(Option<NodeSelector>),
}

/// Looks claims up; with a UID, such as must belong to this pod.
pub type ClaimLookup = Arc<dyn Fn(&ObjectKey, Option<&str>) -> ClaimState + Send + Sync>;

/// The plugin; it alone needs to know more than pods and nodes.
pub struct VolumeBinding {
    /// How claims are looked up.
    pub claims: ClaimLookup,
}

impl Debug for VolumeBinding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VolumeBinding")
    }
}

/// The claims a pod uses, and whether they must be its own: an ephemeral volume's is named after pod and volume.
pub fn claims(pod: &PodInfo) -> impl Iterator<Item = (ObjectKey, bool)> {
    let key = |name: String| ObjectKey::new(&pod.key.namespace, name);
    pod.spec().volumes.iter().flatten().filter_map(move |volume| {
        match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some((key(claim.claim_name.clone()), false)),
            (None, Some(_)) => Some((key(format!("{}-{}", pod.key.name, volume.name)), true)),
            (None, None) => None,
        }
    })
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn unblocked_by(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::StorageChanged, ClusterEvent::NodeChanged]
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> PreFilter<'a> {
        let uid = pod.pod.metadata.uid.as_deref();
        let claims: BTreeMap<_, _> = claims(pod).collect();
        let mut affinities = Vec::new();
        let mut unbound = false;
        for (key, own) in claims {
            let name = &key.name;
            let whole = |what: String| Err(Refusal::unresolvable(what));
            match (self.claims)(&key, uid.filter(|_| own)) {
                ClaimState::Missing if own => {
                    let whom = "waiting for ephemeral volume controller to create the persistentvolumeclaim";
                    return whole(format!("{whom} {name:?}"));
                }
                ClaimState::Foreign => {
                    return whole(format!("PVC {key} was not created for pod {} (pod is not owner)", pod.key));
                }
                ClaimState::Missing => return whole(format!("persistentvolumeclaim {name:?} not found")),
                ClaimState::Terminating => return whole(format!("persistentvolumeclaim {name:?} is being deleted")),
                ClaimState::Lost => {
                    return whole(format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume"));
                }
                ClaimState::Unbound => unbound = true,
                ClaimState::WaitsForPod => {}
                ClaimState::Bound(affinity) => affinities.extend(affinity),
            }
        }
        if unbound {
            return Err(Refusal::unresolvable(UNBOUND_IMMEDIATE));
        }
        Ok((!affinities.is_empty()).then(|| Box::new(Reachable(affinities)) as Box<dyn Filter>))
    }
}

struct Reachable(Vec<NodeSelector>);

impl Filter for Reachable {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        let reachable = self.0.iter().all(|selector| selector_matches(selector, &node.node));
        if reachable { Ok(()) } else { Err(Refusal::unresolvable(NODE_CONFLICT)) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{node, pod};

    fn verdict(state: ClaimState) -> Result<(), String> {
        let plugin = VolumeBinding { claims: Arc::new(move |_, _| state.clone()) };
        let volumes = json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "data" } }]);
        let (pod, snapshot) = (pod("p").set("/spec/volumes", volumes).info(), Snapshot::default());
        match plugin.filter(&pod, &snapshot) {
            Err(refusal) => Err(refusal.reasons.join(",")),
            Ok(None) => Ok(()),
            Ok(Some(filter)) => filter.filter(&node("n").info()).map_err(|refusal| refusal.reasons.join(",")),
        }
    }

    #[test]
    fn a_claim_must_be_there_and_bound_or_wait_for_its_pod() {
        let elsewhere = serde_json::from_value(json!({ "nodeSelectorTerms": [
            { "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "In", "values": ["m"] }] }
        ] }))
        .unwrap();
        for (state, expected) in [
            (ClaimState::Missing, Err("persistentvolumeclaim \"data\" not found".to_owned())),
            (ClaimState::Unbound, Err(UNBOUND_IMMEDIATE.to_owned())),
            (
                ClaimState::Foreign,
                Err("PVC default/data was not created for pod default/p (pod is not owner)".to_owned()),
            ),
            (ClaimState::WaitsForPod, Ok(())),
            (ClaimState::Bound(None), Ok(())),
            (ClaimState::Bound(Some(elsewhere)), Err(NODE_CONFLICT.to_owned())),
        ] {
            assert_eq!(verdict(state.clone()), expected, "{state:?}");
        }
    }
}
