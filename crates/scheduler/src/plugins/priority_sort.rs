//! PrioritySort: the more important pod goes first; among equals the queue takes who has waited longer.

use crate::framework::{Plugin, Point};
use crate::pod::PodInfo;

#[derive(Debug)]
pub(super) struct PrioritySort;

impl Plugin for PrioritySort {
    fn name(&self) -> &'static str {
        "PrioritySort"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::QueueSort]
    }

    fn rank(&self, pod: &PodInfo) -> i64 {
        pod.priority.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn higher_priority_ranks_higher_and_none_is_zero() {
        let rank = |pod: crate::testing::TestPod| PrioritySort.rank(&pod.info());
        assert!(rank(pod("p").priority(2)) > rank(pod("p").priority(1)));
        assert_eq!(rank(pod("p")), rank(pod("p").priority(0)));
        assert!(rank(pod("p").priority(-1)) < rank(pod("p")));
    }
}
