//! Device taint eviction: a pod leaves whose claim was given a device with a NoExecute taint that the claim does not
//! tolerate.
//!
//! Watches pods, ResourceClaims and ResourceSlices, in which drivers taint their devices; a key is a pod, the change of
//! a claim is that of its users, and of a slice that of all claims with devices of its pool. (DeviceTaintRules are of a
//! version that is not on by default.)

use std::sync::Arc;

use coracle_client::{Informer, ObjectKey, Requeue, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{
    DeviceRequestAllocationResult, DeviceTaint, DeviceToleration, ResourceClaim, ResourceSlice,
};
use kube::ResourceExt;

use super::{Evictor, Words};
use crate::context::{Context, enqueue_changes};
use crate::error::Result;
use crate::pods;
use crate::resource_claim::{claims_of, is_of, is_reserved_for};

const NAME: &str = "device-taint-eviction-controller";
const BY_POOL: &str = "pool";

fn pool_of(slice: &ResourceSlice) -> String {
    format!("{}/{}", slice.spec.driver, slice.spec.pool.name)
}

/// The devices that a claim was given.
fn devices_of(claim: &ResourceClaim) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    let devices = claim.status.iter().filter_map(|status| status.allocation.as_ref()?.devices.as_ref());
    devices.flat_map(|devices| devices.results.iter().flatten())
}

fn pools_of(claim: &ResourceClaim) -> Vec<String> {
    devices_of(claim).map(|device| format!("{}/{}", device.driver, device.pool)).collect()
}

/// The taints of a device, as the newest slices of its pool have them.
fn taints_of(slices: &[Arc<ResourceSlice>], device: &str) -> Vec<DeviceTaint> {
    let newest = slices.iter().map(|slice| slice.spec.pool.generation).max();
    let current = slices.iter().filter(|slice| Some(slice.spec.pool.generation) == newest);
    let devices = current.flat_map(|slice| slice.spec.devices.iter().flatten()).filter(|d| d.name == device);
    devices.flat_map(|device| device.taints.iter().flatten()).cloned().collect()
}

fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    let same_value = || toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default();
    given(&toleration.effect).is_some_and(|effect| effect == taint.effect)
        && given(&toleration.key).is_none_or(|key| key == taint.key)
        && (toleration.operator.as_deref() == Some("Exists") || same_value())
}

/// When the users of a device with these taints must go; none if never.
fn leaves_at(device: &DeviceRequestAllocationResult, taints: &[DeviceTaint]) -> Option<Timestamp> {
    let until = |taint: &DeviceTaint| {
        let since = taint.time_added.as_ref()?.0;
        let mut tolerated = device.tolerations.iter().flatten().filter(|t| tolerates(t, taint)).peekable();
        if tolerated.peek().is_none() {
            return Some(since);
        }
        // One without an end outlasts the others.
        let ends: Option<Vec<i64>> = tolerated.map(|toleration| toleration.toleration_seconds).collect();
        let seconds = ends?.into_iter().min().unwrap_or_default().max(0);
        Some(pods::later(since, seconds))
    };
    taints.iter().filter(|taint| taint.effect == "NoExecute").filter_map(until).min()
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let words = Words {
        event: "DeviceTaintManagerEviction",
        marking: "Marking for deletion",
        cancelling: "Cancelling deletion",
        reason: "DeletionByDeviceTaintManager",
        message: "Device Taint manager: deleting due to NoExecute taint",
    };
    let controller = DeviceTaints {
        pods: context.informer(),
        claims: context.informer(),
        slices: context.informer(),
        evictor: Evictor::new(&context, NAME, words),
    };
    controller.claims.add_index(BY_POOL, pools_of);
    controller.slices.add_index(BY_POOL, |slice| vec![pool_of(slice)]);
    enqueue_changes(&controller.pods, &queue);
    let to = queue.clone();
    controller.claims.on_change(move |change| {
        [change.old, change.new].into_iter().flatten().for_each(|claim| enqueue_users(claim, &to));
    });
    let (claims, to) = (controller.claims.clone(), queue.clone());
    controller.slices.on_change(move |change| {
        let claims = claims.by_index(BY_POOL, &pool_of(change.object()));
        claims.iter().for_each(|claim| enqueue_users(claim, &to));
    });
    controller.pods.wait_for_sync().await;
    controller.claims.wait_for_sync().await;
    controller.slices.wait_for_sync().await;
    context.work(NAME, &queue, |key| controller.sync(key)).await;
}

fn enqueue_users(claim: &ResourceClaim, queue: &WorkQueue<ObjectKey>) {
    let namespace = claim.namespace().unwrap_or_default();
    let users = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
    users.for_each(|user| queue.add(ObjectKey::new(&namespace, &user.name)));
}

struct DeviceTaints {
    pods: Informer<Pod>,
    claims: Informer<ResourceClaim>,
    slices: Informer<ResourceSlice>,
    evictor: Evictor,
}

impl DeviceTaints {
    async fn sync(&self, key: ObjectKey) -> Result<Requeue> {
        let stays = |pod: &Arc<Pod>| pods::is_active(pod) && !pods::node_name(pod).is_empty();
        let Some(pod) = self.pods.get(&key).filter(stays) else {
            self.evictor.forget(&key);
            return Ok(Requeue::Never);
        };
        let find = |(name, generated)| {
            let claim = self.claims.get(&ObjectKey::new(&key.namespace, name))?;
            (is_of(&claim, &pod, generated) && is_reserved_for(&claim, &pod)).then_some(claim)
        };
        let claims: Vec<_> = claims_of(&pod).filter_map(find).collect();
        let leaves_at = claims.iter().flat_map(|claim| devices_of(claim)).filter_map(|device| {
            let slices = self.slices.by_index(BY_POOL, &format!("{}/{}", device.driver, device.pool));
            leaves_at(device, &taints_of(&slices, &device.device))
        });
        let left = leaves_at.min().map(|at| pods::until(at, coracle_clock::now()));
        self.evictor.settle(&key, &pod, left).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, from_value, json};

    use super::*;

    fn slice(generation: i64, taints: Value) -> Arc<ResourceSlice> {
        let devices = json!([{ "name": "gpu-0", "taints": taints }, { "name": "gpu-1" }]);
        let pool = json!({ "name": "n", "generation": generation, "resourceSliceCount": 1 });
        Arc::new(
            from_value(json!({ "metadata": {}, "spec": { "driver": "d", "pool": pool, "devices": devices } })).unwrap(),
        )
    }

    #[test]
    fn a_device_has_the_taints_of_its_pools_newest_generation() {
        let broken = json!([{ "key": "broken", "effect": "NoExecute" }]);
        let taints = |slices: &[Arc<ResourceSlice>], device| taints_of(slices, device).len();
        assert_eq!(taints(&[slice(1, broken.clone())], "gpu-0"), 1);
        assert_eq!(taints(&[slice(1, broken.clone())], "gpu-1"), 0);
        assert_eq!(taints(&[slice(1, broken), slice(2, json!([]))], "gpu-0"), 0);
    }

    #[test]
    fn a_device_is_left_when_the_shortest_toleration_of_any_taint_ends() {
        let taint = |effect: &str| json!({ "key": "broken", "value": "v", "effect": effect, "timeAdded": "2026-01-01T00:00:00Z" });
        let tolerate = |value: &str, seconds: Value| {
            json!({ "key": "broken", "operator": "Equal", "value": value, "effect": "NoExecute",
                    "tolerationSeconds": seconds })
        };
        for (taints, tolerations, leaves) in [
            (json!([]), json!([]), None),
            (json!([taint("NoSchedule")]), json!([]), None),
            (json!([taint("NoExecute")]), json!([]), Some(0)),
            (json!([taint("NoExecute")]), json!([tolerate("w", json!(null))]), Some(0)),
            (json!([taint("NoExecute")]), json!([tolerate("v", json!(null))]), None),
            (json!([taint("NoExecute")]), json!([{ "operator": "Exists", "effect": "NoExecute" }]), None),
            (json!([taint("NoExecute")]), json!([{ "operator": "Exists" }]), Some(0)),
            (json!([taint("NoExecute")]), json!([tolerate("v", json!(60)), tolerate("v", json!(30))]), Some(30)),
            (json!([taint("NoExecute")]), json!([tolerate("v", json!(60)), tolerate("v", json!(null))]), None),
            (json!([taint("NoExecute")]), json!([tolerate("v", json!(-5))]), Some(0)),
        ] {
            let device: DeviceRequestAllocationResult = from_value(json!({
                "request": "r", "driver": "d", "pool": "n", "device": "gpu-0", "tolerations": tolerations,
            }))
            .unwrap();
            let parsed: Vec<DeviceTaint> = from_value(taints.clone()).unwrap();
            let added: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
            let expected = leaves.map(|seconds| added + Duration::from_secs(seconds));
            assert_eq!(leaves_at(&device, &parsed), expected, "{taints} {tolerations}");
        }
    }
}
