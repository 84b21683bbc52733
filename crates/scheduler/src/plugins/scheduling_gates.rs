//! SchedulingGates: a pod with gates is not considered until all have been removed.

use crate::framework::{ClusterEvent, Plugin, Point, Refusal};
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

#[derive(Debug)]
pub(super) struct SchedulingGates;

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreEnqueue]
    }

    fn events(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::PodSchedulingGatesEliminated]
    }

    fn pre_enqueue(&self, pod: &PodInfo, _: &Snapshot) -> Result<(), Refusal> {
        let gates: Vec<_> = pod.spec().scheduling_gates.iter().flatten().map(|gate| gate.name.as_str()).collect();
        if gates.is_empty() {
            return Ok(());
        }
        Err(Refusal::unresolvable(format!("waiting for scheduling gates: [{}]", gates.join(" "))))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::pod;

    #[test]
    fn a_pod_waits_for_all_of_its_gates() {
        for (gates, expected) in [
            (json!([]), Ok(())),
            (json!([{ "name": "a" }]), Err("waiting for scheduling gates: [a]".to_owned())),
            (json!([{ "name": "a" }, { "name": "b" }]), Err("waiting for scheduling gates: [a b]".to_owned())),
        ] {
            let pod = pod("p").set("/spec/schedulingGates", gates).info();
            assert_eq!(
                SchedulingGates.pre_enqueue(&pod, &Snapshot::default()).map_err(|refusal| refusal.message()),
                expected
            );
        }
    }
}
