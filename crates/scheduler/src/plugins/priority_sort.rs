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
