//! The plugins, one file each. Adding one is adding a file and a line in [`build`] (and one in [`DEFAULTS`] if every
//! profile shall have it).

mod default_binder;
mod default_preemption;
mod dynamic_resources;
mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_balanced_allocation;
mod node_resources_fit;
mod node_unschedulable;
mod node_volume_limits;
mod pod_topology_spread;
mod priority_sort;
mod scheduling_gates;
mod taint_toleration;
mod volume_binding;
mod volume_restrictions;
mod volume_zone;

pub(crate) use default_preemption::PREEMPTED;
pub(crate) use dynamic_resources::is_for_extended;
use serde::Deserialize;
use serde_json::Value;

use crate::config::arguments;
use crate::framework::Plugin;

/// Upstream's default plugins, in order, with the weights of their scores.
pub const DEFAULTS: [(&str, i64); 19] = [
    ("SchedulingGates", 0),
    ("PrioritySort", 0),
    ("NodeUnschedulable", 0),
    ("NodeName", 0),
    ("TaintToleration", 3),
    ("NodeAffinity", 2),
    ("NodePorts", 0),
    ("NodeResourcesFit", 1),
    ("VolumeRestrictions", 0),
    ("NodeVolumeLimits", 0),
    ("VolumeBinding", 0),
    ("VolumeZone", 0),
    ("PodTopologySpread", 2),
    ("InterPodAffinity", 2),
    // Before preemption: a claim that stands idle goes before a pod that works.
    ("DynamicResources", 0),
    ("DefaultPreemption", 0),
    ("NodeResourcesBalancedAllocation", 1),
    ("ImageLocality", 1),
    ("DefaultBinder", 0),
];

/// A plugin by its name, with its arguments; none if there is none of that name.
///
/// # Errors
/// It cannot have these arguments.
pub fn build(name: &str, args: Value) -> Result<Option<Box<dyn Plugin>>, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    let simple = |plugin: Box<dyn Plugin>| arguments::<Nothing>(name, args.clone()).map(|Nothing {}| Some(plugin));
    let some = |plugin: Box<dyn Plugin>| Ok(Some(plugin));
    match name {
        "DefaultBinder" => simple(Box::new(default_binder::DefaultBinder)),
        "DefaultPreemption" => some(Box::new(default_preemption::DefaultPreemption::new(arguments(name, args)?)?)),
        "DynamicResources" => simple(Box::new(dynamic_resources::DynamicResources)),
        "ImageLocality" => simple(Box::new(image_locality::ImageLocality)),
        "InterPodAffinity" => some(Box::new(inter_pod_affinity::InterPodAffinity::new(arguments(name, args)?)?)),
        "NodeAffinity" => some(Box::new(node_affinity::NodeAffinity::new(arguments(name, args)?))),
        "NodeName" => simple(Box::new(node_name::NodeName)),
        "NodePorts" => simple(Box::new(node_ports::NodePorts)),
        "NodeResourcesBalancedAllocation" => {
            let args = arguments(name, args)?;
            some(Box::new(node_resources_balanced_allocation::NodeResourcesBalancedAllocation::new(args)?))
        }
        "NodeResourcesFit" => some(Box::new(node_resources_fit::NodeResourcesFit::new(arguments(name, args)?)?)),
        "NodeUnschedulable" => simple(Box::new(node_unschedulable::NodeUnschedulable)),
        "NodeVolumeLimits" => simple(Box::new(node_volume_limits::NodeVolumeLimits)),
        "PodTopologySpread" => some(Box::new(pod_topology_spread::PodTopologySpread::new(arguments(name, args)?)?)),
        "PrioritySort" => simple(Box::new(priority_sort::PrioritySort)),
        "SchedulingGates" => simple(Box::new(scheduling_gates::SchedulingGates)),
        "TaintToleration" => simple(Box::new(taint_toleration::TaintToleration)),
        "VolumeBinding" => some(Box::new(volume_binding::VolumeBinding::new(arguments(name, args)?))),
        "VolumeRestrictions" => simple(Box::new(volume_restrictions::VolumeRestrictions)),
        "VolumeZone" => simple(Box::new(volume_zone::VolumeZone)),
        _ => Ok(None),
    }
}
