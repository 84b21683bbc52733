//! Preemption: which pods make room for a critical one that the scheduler did not place.
//!
//! A critical pod is never turned away for want of room while pods that matter less hold it. Those that do are chosen as
//! upstream's `pkg/kubelet/preemption` does: none of a better class of service than must be, of a class as few as can
//! be, and the smallest of those.

use std::sync::Arc;

use coracle_client::scheduling::resources::{CPU, MEMORY, PODS, Resources, pod_requests};
use k8s_openapi::api::core::v1::Pod;

use crate::resources::qos_class;

/// Pods of this priority and above are what the cluster itself needs.
const SYSTEM_CRITICAL: i32 = 2_000_000_000;
/// Marks the API server's image of a pod that a kubelet has of its own.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// The classes of service, the best last.
const CLASSES: [&str; 3] = ["BestEffort", "Burstable", "Guaranteed"];

/// What is missing of a resource, in the units of [`Resources`].
pub(crate) type Shortage = (String, i64);

fn priority(pod: &Pod) -> Option<i32> {
    pod.spec.as_ref()?.priority
}

/// Whether the cluster cannot do without the pod.
pub(crate) fn is_critical(pod: &Pod) -> bool {
    let mirrors = pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR));
    mirrors || priority(pod) >= Some(SYSTEM_CRITICAL)
}

/// Whether a pod has to give way to a critical one.
fn gives_way(pod: &Pod, critical: &Pod) -> bool {
    !is_critical(pod) || priority(pod).is_some_and(|of_pod| priority(critical).is_some_and(|other| of_pod < other))
}

/// What a pod holds.
fn holds(pod: &Pod) -> Resources {
    let mut held = pod.spec.as_ref().map(pod_requests).unwrap_or_default();
    held.set(PODS, 1);
    held
}

/// What is still missing when these are gone.
fn without<'a>(missing: &[Shortage], gone: impl IntoIterator<Item = &'a Arc<Pod>> + Clone) -> Vec<Shortage> {
    let left = |(name, amount): &Shortage| {
        let freed: i64 = gone.clone().into_iter().map(|pod| holds(pod).get(name)).sum();
        (name.clone(), amount - freed)
    };
    missing.iter().map(left).filter(|(_, amount)| *amount > 0).collect()
}

fn not_found(missing: &[Shortage]) -> String {
    let all: String = missing.iter().map(|(name, amount)| format!("(res: {name}, q: {amount}), ")).collect();
    format!("no set of running pods found to reclaim resources: [{all}]")
}

/// How much of what is missing a pod leaves missing: each resource counts the same.
#[expect(clippy::cast_precision_loss, reason = "it is only compared")]
fn distance(missing: &[Shortage], pod: &Pod) -> f64 {
    let held = holds(pod);
    let left = |(name, amount): &Shortage| ((amount - held.get(name)).max(0) as f64 / *amount as f64).powi(2);
    missing.iter().map(left).sum()
}

/// Of one class, the pods that free what is missing: time and again the one that frees most, the smallest of equals.
fn chosen(mut pods: Vec<Arc<Pod>>, mut missing: Vec<Shortage>) -> Result<Vec<Arc<Pod>>, String> {
    let size = |pod: &Pod| (holds(pod).get(MEMORY), holds(pod).get(CPU));
    let mut chosen = Vec::new();
    while !missing.is_empty() {
        let better = |a: &Arc<Pod>, b: &Arc<Pod>| {
            distance(&missing, a).total_cmp(&distance(&missing, b)).then_with(|| size(a).cmp(&size(b)))
        };
        let best = (0..pods.len()).min_by(|a, b| better(&pods[*a], &pods[*b])).ok_or_else(|| not_found(&missing))?;
        let pod = pods.remove(best);
        missing = without(&missing, [&pod]);
        chosen.push(pod);
    }
    Ok(chosen)
}

/// The pods that make room for a critical one.
///
/// # Errors
/// All that have to give way would not be enough: upstream's words for that.
pub(crate) fn victims(critical: &Pod, others: &[Arc<Pod>], missing: &[Shortage]) -> Result<Vec<Arc<Pod>>, String> {
    let of_class = |class: &str| -> Vec<Arc<Pod>> {
        others.iter().filter(|pod| gives_way(pod, critical) && qos_class(pod) == class).cloned().collect()
    };
    let classes = CLASSES.map(of_class);
    let short = without(missing, classes.iter().flatten());
    if !short.is_empty() {
        return Err(not_found(&short));
    }
    let mut victims: Vec<Arc<Pod>> = Vec::new();
    for (better, class) in classes.iter().enumerate().rev() {
        // As if all of the lower classes had gone already.
        let gone = classes[..better].iter().flatten().chain(&victims);
        let more = chosen(class.clone(), without(missing, gone))?;
        victims.splice(0..0, more);
    }
    Ok(victims)
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    /// `name priority cpu memory class`.
    fn pod(text: &str) -> Pod {
        let [name, priority, cpu, memory, class] = text.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let amounts = json!({ "cpu": cpu, "memory": memory });
        let resources = match class {
            "best" => json!({}),
            "burst" => json!({ "requests": amounts }),
            _ => json!({ "requests": amounts, "limits": amounts }),
        };
        from_value(json!({
            "metadata": { "name": name },
            "spec": { "priority": priority.parse::<i32>().unwrap(), "containers": [{ "name": "c", "resources": resources }] },
        }))
        .unwrap()
    }

    #[test]
    fn the_least_that_is_enough_gives_way() {
        let all = [
            "best 0 0 0 best",
            "small 0 100m 100Mi burst",
            "large 0 400m 400Mi burst",
            "wide 0 400m 800Mi burst",
            "sure 0 600m 600Mi sure",
            "other-critical 2000000000 1 1Gi burst",
        ];
        let mebi = |amount: i64| amount << 20;
        for (missing, expected) in [
            (vec![("pods", 1)], "best"),
            (vec![("cpu", 50)], "small"),
            (vec![("cpu", 200)], "large"),
            (vec![("memory", mebi(500))], "wide"),
            (vec![("cpu", 500)], "large small"),
            (vec![("cpu", 100), ("memory", mebi(700))], "wide"),
            (vec![("cpu", 1000)], "large sure"),
            (vec![("cpu", 1000), ("pods", 3)], "best large sure"),
            (vec![("cpu", 1600)], "no set of running pods found to reclaim resources: [(res: cpu, q: 100), ]"),
        ] {
            let missing: Vec<Shortage> = missing.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect();
            let others: Vec<_> = all.iter().map(|text| Arc::new(pod(text))).collect();
            let found = victims(&pod("critical 2000000000 1 1Gi burst"), &others, &missing);
            let names = |pods: Vec<Arc<Pod>>| {
                pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect::<Vec<_>>().join(" ")
            };
            assert_eq!(found.map_or_else(|why| why, names), expected, "{missing:?}");
        }
    }

    #[test]
    fn of_two_critical_pods_the_lesser_gives_way() {
        let (cluster, node) = (pod("a 2000000000 1 1Gi burst"), pod("b 2000001000 1 1Gi burst"));
        assert!(gives_way(&cluster, &node) && !gives_way(&node, &cluster) && !gives_way(&node, &node));
    }
}
