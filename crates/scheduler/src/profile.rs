//! A profile: which plugins decide, where each of them speaks, and how much its scores count.

use k8s_openapi::api::core::v1::Pod;

use crate::config::DEFAULT_SCHEDULER;
use crate::framework::{ClusterEvent, Happening, Plugin, Point};
use crate::pod::PodInfo;
use crate::queue::Hints;

/// The plugins that decide for the pods of one `schedulerName`.
#[derive(Debug)]
pub struct Profile {
    /// Pods name it in `spec.schedulerName`.
    pub scheduler_name: String,
    /// How many percent of the nodes are looked for; none or 0: as many as upstream finds enough.
    pub percentage: Option<usize>,
    plugins: Vec<Box<dyn Plugin>>,
    /// Per point the plugins that speak there, in order, by their place in `plugins`; with their weights.
    at: [Vec<(usize, i64)>; Point::ALL.len()],
}

impl Profile {
    /// A profile of plugins that speak in the order in which they are named at each point.
    pub fn new(
        scheduler_name: &str,
        plugins: Vec<Box<dyn Plugin>>,
        order: impl Fn(Point) -> Vec<(String, i64)>,
    ) -> Self {
        let at = Point::ALL.map(|point| {
            let place = |name: &str| plugins.iter().position(|plugin| plugin.name() == name);
            order(point).into_iter().filter_map(|(name, weight)| Some((place(&name)?, weight))).collect()
        });
        Profile { scheduler_name: scheduler_name.to_owned(), percentage: None, plugins, at }
    }

    /// The plugins that speak at a point, in order.
    pub fn at(&self, point: Point) -> impl Iterator<Item = &dyn Plugin> {
        self.at[point as usize].iter().map(|(place, _)| self.plugins[*place].as_ref())
    }

    /// The plugins that score, with their weights.
    pub fn scores(&self) -> impl Iterator<Item = (&dyn Plugin, i64)> {
        self.at[Point::Score as usize].iter().map(|(place, weight)| (self.plugins[*place].as_ref(), *weight))
    }

    /// A plugin by its name.
    pub fn plugin(&self, name: &str) -> Option<&dyn Plugin> {
        self.plugins.iter().find(|plugin| plugin.name() == name).map(AsRef::as_ref)
    }
}

/// Upstream's default plugins, order and weights.
///
/// # Panics
/// Never: the defaults are well-formed, as a test shows.
pub fn default_profile() -> Profile {
    crate::config::Configuration::default().build().expect("the defaults are well-formed").remove(0)
}

/// All profiles of a scheduler.
#[derive(Debug)]
pub struct Profiles(pub Vec<Profile>);

impl Profiles {
    /// The profile for a pod, if one is for it.
    pub fn of(&self, pod: &Pod) -> Option<&Profile> {
        let name = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or(DEFAULT_SCHEDULER);
        self.0.iter().find(|profile| profile.scheduler_name == name)
    }
}

impl Hints for Profiles {
    /// Plugins of one name care about the same events in all profiles.
    fn cares(&self, plugin: &'static str, event: ClusterEvent) -> bool {
        self.0.iter().find_map(|profile| profile.plugin(plugin)).is_some_and(|plugin| plugin.events().contains(&event))
    }

    fn hint(&self, plugin: &'static str, pod: &PodInfo, happened: &Happening) -> bool {
        let plugin = self.of(&pod.pod).and_then(|profile| profile.plugin(plugin));
        plugin.is_none_or(|plugin| plugin.hint(pod, happened))
    }
}
