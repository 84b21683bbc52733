//! The plugins, one file each. Adding one is adding a file and a line in [`default_profile`].

mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_balanced_allocation;
mod node_resources_fit;
mod node_unschedulable;
mod pod_topology_spread;
mod scheduling_gates;
mod taint_toleration;
mod volume_binding;

pub use node_affinity::node_matches;
pub use volume_binding::{ClaimState, VolumeBinding, claims};

use crate::framework::{Plugin, Profile};

/// Upstream's default plugins, filter order and score weights.
pub fn default_profile() -> Profile {
    let plugin = |plugin: Box<dyn Plugin>, weight| (plugin, weight);
    Profile {
        plugins: vec![
            plugin(Box::new(scheduling_gates::SchedulingGates), 0),
            plugin(Box::new(node_unschedulable::NodeUnschedulable), 0),
            plugin(Box::new(node_name::NodeName), 0),
            plugin(Box::new(taint_toleration::TaintToleration), 3),
            plugin(Box::new(node_affinity::NodeAffinity), 2),
            plugin(Box::new(node_ports::NodePorts), 0),
            plugin(Box::new(node_resources_fit::NodeResourcesFit), 1),
            plugin(Box::new(pod_topology_spread::PodTopologySpread), 2),
            plugin(Box::new(inter_pod_affinity::InterPodAffinity), 2),
            plugin(Box::new(node_resources_balanced_allocation::NodeResourcesBalancedAllocation), 1),
            plugin(Box::new(image_locality::ImageLocality), 1),
        ],
    }
}
