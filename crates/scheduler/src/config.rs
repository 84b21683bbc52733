//! `KubeSchedulerConfiguration` (`kubescheduler.config.k8s.io/v1`): profiles, their plugins and the plugins' arguments.
//!
//! Upstream's defaults and merging: what a profile enables or disables is merged with the defaults per extension
//! point; `multiPoint` stands for all points that a plugin extends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::framework::Point;
use crate::plugins::{DEFAULTS, build};
use crate::profile::Profile;

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
/// The profile of pods that name no scheduler.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// The file's content. Fields that concern how upstream's process works (threads, its client, its leader election)
/// are accepted and change nothing.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Configuration {
    api_version: String,
    kind: String,
    /// How many percent of the nodes are looked for; 0: as many as are enough.
    pub percentage_of_nodes_to_score: Option<usize>,
    pod_initial_backoff_seconds: u64,
    pod_max_backoff_seconds: u64,
    profiles: Vec<ProfileConfiguration>,
    extenders: Vec<Value>,
    #[serde(rename = "parallelism")]
    _parallelism: Value,
    #[serde(rename = "leaderElection")]
    _leader_election: Value,
    #[serde(rename = "clientConnection")]
    _client_connection: Value,
    #[serde(rename = "enableProfiling")]
    _enable_profiling: Value,
    #[serde(rename = "enableContentionProfiling")]
    _enable_contention_profiling: Value,
    #[serde(rename = "delayCacheUntilActive")]
    _delay_cache_until_active: Value,
}

impl Default for Configuration {
    fn default() -> Self {
        Configuration {
            api_version: API_VERSION.into(),
            kind: "KubeSchedulerConfiguration".into(),
            percentage_of_nodes_to_score: None,
            pod_initial_backoff_seconds: 1,
            pod_max_backoff_seconds: 10,
            profiles: vec![ProfileConfiguration::default()],
            extenders: Vec::new(),
            _parallelism: Value::Null,
            _leader_election: Value::Null,
            _client_connection: Value::Null,
            _enable_profiling: Value::Null,
            _enable_contention_profiling: Value::Null,
            _delay_cache_until_active: Value::Null,
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ProfileConfiguration {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<usize>,
    plugins: BTreeMap<String, PluginSet>,
    plugin_config: Vec<PluginConfig>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PluginSet {
    enabled: Vec<PluginName>,
    disabled: Vec<PluginName>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginName {
    name: String,
    #[serde(default)]
    weight: i64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginConfig {
    name: String,
    args: Value,
}

/// Why a configuration cannot be used, with the field's path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Configuration {
    /// Reads a file's content, YAML or JSON.
    ///
    /// # Errors
    /// It is not such a configuration.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Configuration = serde_yaml_ng::from_str(text).map_err(|error| ConfigError(error.to_string()))?;
        config.build()?;
        Ok(config)
    }

    /// The default configuration for another `schedulerName`.
    pub fn named(scheduler_name: &str) -> Self {
        let mut config = Configuration::default();
        config.profiles[0].scheduler_name = Some(scheduler_name.to_owned());
        config
    }

    /// The names of the profiles.
    pub fn scheduler_names(&self) -> Vec<&str> {
        self.profiles.iter().map(|profile| profile.scheduler_name.as_deref().unwrap_or(DEFAULT_SCHEDULER)).collect()
    }

    /// How long a pod waits after its first failure, and at most.
    pub fn backoff(&self) -> (Duration, Duration) {
        (Duration::from_secs(self.pod_initial_backoff_seconds), Duration::from_secs(self.pod_max_backoff_seconds))
    }

    /// The profiles.
    ///
    /// # Errors
    /// A field has no meaning here, or two contradict each other.
    pub fn build(&self) -> Result<Vec<Profile>, ConfigError> {
        let fail = |text: String| Err(ConfigError(text));
        if self.api_version != API_VERSION || self.kind != "KubeSchedulerConfiguration" {
            return fail(format!(
                "want {API_VERSION} KubeSchedulerConfiguration, not {} {}",
                self.api_version, self.kind
            ));
        }
        if !self.extenders.is_empty() {
            return fail("extenders: not supported; write a plugin (docs/scheduler.md)".into());
        }
        if self.pod_initial_backoff_seconds == 0 || self.pod_max_backoff_seconds < self.pod_initial_backoff_seconds {
            let (first, most) = (self.pod_initial_backoff_seconds, self.pod_max_backoff_seconds);
            return fail(format!(
                "podMaxBackoffSeconds: {most}: must be at least podInitialBackoffSeconds, {first}, and that above 0"
            ));
        }
        if self.profiles.is_empty() {
            return fail("profiles: Required value".into());
        }
        let mut names = BTreeSet::new();
        let mut built = Vec::new();
        for (at, config) in self.profiles.iter().enumerate() {
            let named = |error: String| ConfigError(format!("profiles[{at}].{error}"));
            let profile = config.build(self.percentage_of_nodes_to_score).map_err(named)?;
            if !names.insert(profile.scheduler_name.clone()) {
                return Err(named(format!("schedulerName: Duplicate value: {:?}", profile.scheduler_name)));
            }
            built.push(profile);
        }
        Ok(built)
    }
}

impl ProfileConfiguration {
    fn build(&self, percentage: Option<usize>) -> Result<Profile, String> {
        let percentage = self.percentage_of_nodes_to_score.or(percentage);
        if let Some(percentage) = percentage.filter(|percentage| *percentage > 100) {
            return Err(format!("percentageOfNodesToScore: Invalid value: {percentage}: not in valid range [0-100]"));
        }
        if let Some(unknown) = self.plugins.keys().find(|name| *name != "multiPoint" && point(name).is_none()) {
            return Err(format!("plugins.{unknown}: no extension point"));
        }
        let mut args = BTreeMap::new();
        for config in &self.plugin_config {
            if args.insert(&config.name[..], config.args.clone()).is_some() {
                return Err(format!("pluginConfig: Duplicate value: {:?}", config.name));
            }
        }
        let none = PluginSet::default();
        let multi = merge(self.plugins.get("multiPoint").unwrap_or(&none));
        let sets = self.plugins.values().flat_map(|set| &set.enabled).chain(&multi);
        let wanted: BTreeSet<&str> = sets.map(|plugin| &plugin.name[..]).collect();
        let mut plugins = Vec::new();
        for name in wanted.iter().copied().chain(args.keys().copied().filter(|name| !wanted.contains(name))) {
            let own = args.get(name).cloned().unwrap_or(json!({}));
            let Some(plugin) = build(name, own).map_err(|error| format!("pluginConfig[{name}].args: {error}"))? else {
                return Err(format!("plugins: {name}: no such plugin"));
            };
            plugins.push(plugin);
        }
        let extends = |name: &str, point: Point| {
            plugins.iter().any(|plugin| plugin.name() == name && plugin.points().contains(&point))
        };
        let mut order = BTreeMap::new();
        for (name, set) in self.plugins.iter().filter_map(|(name, set)| Some((point(name)?, set))) {
            if let Some(other) = set.enabled.iter().find(|plugin| !extends(&plugin.name, name)) {
                return Err(format!("plugins: {} does not extend {name:?}", other.name));
            }
        }
        for point in Point::ALL {
            let set =
                self.plugins.iter().find(|(name, _)| self::point(name) == Some(point)).map_or(&none, |(_, set)| set);
            let disabled = |name: &str| set.disabled.iter().any(|other| other.name == "*" || other.name == name);
            let named = |name: &str| set.enabled.iter().any(|plugin| plugin.name == name);
            // First what the point itself puts in place of a multi-point plugin, then those, then what it adds.
            let (instead, added): (Vec<_>, Vec<_>) =
                set.enabled.iter().partition(|plugin| multi.iter().any(|other| other.name == plugin.name));
            let rest = multi
                .iter()
                .filter(|plugin| extends(&plugin.name, point) && !disabled(&plugin.name) && !named(&plugin.name));
            let all = instead.into_iter().chain(rest).chain(added);
            // A plugin that scores and has no weight counts once.
            let all: Vec<_> = all.map(|plugin| (plugin.name.clone(), plugin.weight.max(1))).collect();
            order.insert(point, all);
        }
        if order[&Point::QueueSort].len() != 1 {
            return Err("plugins.queueSort: exactly one plugin must be enabled".into());
        }
        if order[&Point::Bind].is_empty() {
            return Err("plugins.bind: at least one plugin must be enabled".into());
        }
        let name = self.scheduler_name.as_deref().unwrap_or(DEFAULT_SCHEDULER);
        let mut profile = Profile::new(name, plugins, |point| order[&point].clone());
        profile.percentage = percentage;
        Ok(profile)
    }
}

/// The multi-point plugins: the defaults less those disabled, in place those enabled otherwise, then the new ones.
fn merge(own: &PluginSet) -> Vec<PluginName> {
    let disabled = |name: &str| own.disabled.iter().any(|plugin| plugin.name == "*" || plugin.name == name);
    let defaults = DEFAULTS.iter().filter(|(name, _)| !disabled(name)).map(|(name, weight)| {
        let instead = own.enabled.iter().find(|plugin| plugin.name == *name).cloned();
        instead.unwrap_or_else(|| PluginName { name: (*name).to_owned(), weight: *weight })
    });
    let mut all: Vec<_> = defaults.collect();
    for plugin in &own.enabled {
        if !all.iter().any(|known| known.name == plugin.name) {
            all.push(plugin.clone());
        }
    }
    all
}

/// An extension point by its name in the file.
fn point(name: &str) -> Option<Point> {
    Point::ALL.into_iter().find(|point| {
        let text = format!("{point:?}");
        name.len() == text.len() && name[..1] == text[..1].to_lowercase() && name[1..] == text[1..]
    })
}

/// A plugin's arguments, which may say of what kind they are.
///
/// # Errors
/// They are not that plugin's.
pub fn arguments<T: DeserializeOwned>(plugin: &str, mut args: Value) -> Result<T, String> {
    if let Some(fields) = args.as_object_mut() {
        let (version, kind) = (fields.remove("apiVersion"), fields.remove("kind"));
        let wanted = format!("{plugin}Args");
        if version.is_some_and(|version| version != API_VERSION) || kind.is_some_and(|kind| kind != wanted[..]) {
            return Err(format!("want {API_VERSION} {wanted}"));
        }
    }
    serde_json::from_value(args).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(profile: &Profile, point: Point) -> Vec<&'static str> {
        profile.at(point).map(|plugin| plugin.name()).collect()
    }

    fn parse(profile: &str) -> Result<Vec<Profile>, String> {
        let header = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
        Configuration::parse(&format!("{header}{profile}")).and_then(|config| config.build()).map_err(|e| e.to_string())
    }

    #[test]
    fn the_defaults_are_upstreams() {
        let profile = &Configuration::default().build().unwrap()[0];
        assert_eq!(profile.scheduler_name, "default-scheduler");
        assert_eq!(names(profile, Point::QueueSort), ["PrioritySort"]);
        assert_eq!(
            names(profile, Point::Filter),
            [
                "NodeUnschedulable",
                "NodeName",
                "TaintToleration",
                "NodeAffinity",
                "NodePorts",
                "NodeResourcesFit",
                "VolumeRestrictions",
                "NodeVolumeLimits",
                "VolumeBinding",
                "VolumeZone",
                "PodTopologySpread",
                "InterPodAffinity",
                "DynamicResources",
            ]
        );
        let scores: Vec<_> = profile.scores().map(|(plugin, weight)| (plugin.name(), weight)).collect();
        assert_eq!(
            scores,
            [
                ("TaintToleration", 3),
                ("NodeAffinity", 2),
                ("NodeResourcesFit", 1),
                ("PodTopologySpread", 2),
                ("InterPodAffinity", 2),
                ("NodeResourcesBalancedAllocation", 1),
                ("ImageLocality", 1),
            ]
        );
        assert_eq!(names(profile, Point::PostFilter), ["DynamicResources", "DefaultPreemption"]);
        assert_eq!(names(profile, Point::Bind), ["DefaultBinder"]);
    }

    #[test]
    fn a_profile_changes_weights_order_and_arguments() {
        let profiles = parse(
            "
profiles:
- schedulerName: default-scheduler
- schedulerName: packed
  percentageOfNodesToScore: 30
  plugins:
    multiPoint:
      enabled: [{ name: ImageLocality, weight: 7 }]
      disabled: [{ name: NodeName }]
    score:
      enabled: [{ name: NodeAffinity, weight: 9 }]
      disabled: [{ name: InterPodAffinity }]
    filter:
      disabled: [{ name: '*' }]
      enabled: [{ name: NodePorts }]
  pluginConfig:
  - name: NodeResourcesFit
    args:
      apiVersion: kubescheduler.config.k8s.io/v1
      kind: NodeResourcesFitArgs
      scoringStrategy: { type: MostAllocated, resources: [{ name: cpu, weight: 1 }] }
",
        )
        .unwrap();
        let packed = &profiles[1];
        assert_eq!((packed.scheduler_name.as_str(), packed.percentage), ("packed", Some(30)));
        assert_eq!(names(packed, Point::Filter), ["NodePorts"]);
        let scores: Vec<_> = packed.scores().map(|(plugin, weight)| (plugin.name(), weight)).collect();
        assert_eq!(scores[..2], [("NodeAffinity", 9), ("TaintToleration", 3)]);
        assert!(scores.contains(&("ImageLocality", 7)) && !scores.iter().any(|(name, _)| *name == "InterPodAffinity"));
        assert!(format!("{:?}", packed.plugin("NodeResourcesFit")).contains("MostAllocated"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_path() {
        for (profile, expected) in [
            ("profiles: []", "profiles: Required value"),
            ("profiles: [{}, {}]", "profiles[1].schedulerName: Duplicate value: \"default-scheduler\""),
            ("podInitialBackoffSeconds: 11", "podMaxBackoffSeconds: 10: must be at least"),
            ("extenders: [{}]", "extenders: not supported"),
            (
                "profiles: [{ percentageOfNodesToScore: 101 }]",
                "profiles[0].percentageOfNodesToScore: Invalid value: 101",
            ),
            ("profiles: [{ plugins: { somewhere: {} } }]", "profiles[0].plugins.somewhere: no extension point"),
            (
                "profiles: [{ plugins: { score: { enabled: [{ name: Luck }] } } }]",
                "profiles[0].plugins: Luck: no such plugin",
            ),
            (
                "profiles: [{ plugins: { score: { enabled: [{ name: NodePorts }] } } }]",
                "NodePorts does not extend Score",
            ),
            (
                "profiles: [{ plugins: { bind: { disabled: [{ name: '*' }] } } }]",
                "profiles[0].plugins.bind: at least one",
            ),
            ("profiles: [{ pluginConfig: [{ name: InterPodAffinity, args: { hard: 1 } }] }]", "unknown field `hard`"),
            ("profile: []", "unknown field `profile`"),
        ] {
            let error = parse(profile).map(|_| ()).unwrap_err();
            assert!(error.contains(expected), "{profile}: {error}");
        }
    }
}
