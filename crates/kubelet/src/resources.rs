//! Requests and limits: quality of service, and what the runtime is told.

use std::collections::BTreeMap;

use coracle_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

use crate::observed::{containers, init_containers};
use crate::runtime::Resources;

/// Linux gives no process less than two shares.
const SHARES_MIN: i64 = 2;
/// The period of processor quotas.
const PERIOD_US: i64 = 100_000;
/// The smallest quota the kernel takes.
const QUOTA_MIN_US: i64 = 1_000;

type Quantities = BTreeMap<String, Wire>;

/// A container's limit of a resource, if it has one above zero.
pub fn limit(container: &Container, resource: &str) -> Option<Quantity> {
    get(container.resources.as_ref()?.limits.as_ref(), resource)
}

/// A container's request of a resource, if it has one above zero.
pub fn request(container: &Container, resource: &str) -> Option<Quantity> {
    get(container.resources.as_ref()?.requests.as_ref(), resource)
}

fn get(quantities: Option<&Quantities>, resource: &str) -> Option<Quantity> {
    quantities?.get(resource).map(Quantity::of).filter(|quantity| *quantity > Quantity::ZERO)
}

/// `status.qosClass`: `Guaranteed` when every container's limits equal its requests for cpu and memory, `BestEffort`
/// when none has either, `Burstable` in between.
pub fn qos_class(pod: &Pod) -> &'static str {
    let all = || containers(pod).iter().chain(init_containers(pod));
    let any_set = all().any(|c| ["cpu", "memory"].iter().any(|r| limit(c, r).is_some() || request(c, r).is_some()));
    let all_equal = all().all(|c| {
        ["cpu", "memory"].iter().all(|r| match (limit(c, r), request(c, r)) {
            (Some(limit), Some(request)) => limit == request,
            (Some(_), None) => true, // an absent request defaults to the limit
            _ => false,
        })
    });
    match (any_set, all_equal) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// What the runtime is told of a container's requests and limits on a node with this much memory.
pub fn runtime_resources(pod: &Pod, container: &Container, node_memory_bytes: u64) -> Resources {
    let cpu_limit = limit(container, "cpu").map(Quantity::to_millis);
    let cpu_request = request(container, "cpu").map(Quantity::to_millis).or(cpu_limit).unwrap_or(0);
    Resources {
        cpu_shares: Some((cpu_request * 1024 / 1000).max(SHARES_MIN)),
        cpu_quota_us: cpu_limit.map(|milli| (milli * PERIOD_US / 1000).max(QUOTA_MIN_US)),
        cpu_period_us: cpu_limit.map(|_| PERIOD_US),
        memory_bytes: limit(container, "memory").map(Quantity::to_value),
        pids: None,
        oom_score_adj: Some(oom_score_adj(pod, container, node_memory_bytes)),
    }
}

/// Who dies first when the node's memory runs out: those who promised nothing, then those who use more than they
/// asked for.
fn oom_score_adj(pod: &Pod, container: &Container, node_memory_bytes: u64) -> i64 {
    match qos_class(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let request = request(container, "memory").map_or(0, Quantity::to_value);
            let node = i64::try_from(node_memory_bytes).unwrap_or(i64::MAX).max(1);
            let share = i64::try_from(i128::from(request) * 1000 / i128::from(node)).unwrap_or(1000);
            (1000 - share).clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::pod;

    #[test]
    fn the_class_follows_from_requests_and_limits() {
        for (resources, class) in [
            (json!({}), "BestEffort"),
            (json!({ "requests": { "cpu": "100m" } }), "Burstable"),
            (json!({ "limits": { "cpu": "1", "memory": "1Gi" } }), "Guaranteed"),
            (
                json!({ "limits": { "cpu": "1", "memory": "1Gi" }, "requests": { "cpu": "1000m", "memory": "1Gi" } }),
                "Guaranteed",
            ),
            (json!({ "limits": { "cpu": "1", "memory": "1Gi" }, "requests": { "cpu": "500m" } }), "Burstable"),
            (json!({ "limits": { "memory": "1Gi" } }), "Burstable"),
        ] {
            let pod = pod("p", json!({ "containers": [{ "name": "a", "resources": resources }] }));
            assert_eq!(qos_class(&pod), class, "{resources}");
        }
    }

    #[test]
    fn the_runtime_gets_shares_quota_and_bytes() {
        let resources =
            json!({ "requests": { "cpu": "250m", "memory": "1Gi" }, "limits": { "cpu": "500m", "memory": "2Gi" } });
        let pod = pod("p", json!({ "containers": [{ "name": "a", "resources": resources }, { "name": "b" }] }));
        let first = runtime_resources(&pod, &containers(&pod)[0], 4 << 30);
        assert_eq!(
            (first.cpu_shares, first.cpu_quota_us, first.memory_bytes),
            (Some(256), Some(50_000), Some(2 << 30))
        );
        assert_eq!(first.oom_score_adj, Some(750));
        let second = runtime_resources(&pod, &containers(&pod)[1], 4 << 30);
        assert_eq!((second.cpu_shares, second.cpu_quota_us, second.memory_bytes), (Some(2), None, None));
    }
}
