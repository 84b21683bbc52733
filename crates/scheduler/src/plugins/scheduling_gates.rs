//! SchedulingGates: a pod with gates is not considered until all have been removed.

use crate::cache::PodInfo;
use crate::framework::{ClusterEvent, Plugin};

#[derive(Debug)]
pub(super) struct SchedulingGates;

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }

    fn unblocked_by(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::PodChanged]
    }

    fn pre_enqueue(&self, pod: &PodInfo) -> Result<(), String> {
        let gates: Vec<_> = pod.spec().scheduling_gates.iter().flatten().map(|gate| gate.name.as_str()).collect();
        if gates.is_empty() { Ok(()) } else { Err(format!("waiting for scheduling gates: [{}]", gates.join(" "))) }
    }
}
