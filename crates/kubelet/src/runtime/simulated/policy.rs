//! `SimulationPolicy`: by which rules pods on simulated nodes live, as YAML.
//!
//! ```yaml
//! apiVersion: simulation.coracle.dev/v1
//! kind: SimulationPolicy
//! metadata: { name: shop }
//! spec:
//!   pullDelay: 5s                      # of every image, once a node; 1s unless said
//!   missingImages: [web:broken]        # cannot be pulled: references with this in them
//!   rules:                             # the first that fits a container holds
//!     - matchLabels: { app: web }      # of the pod; all of them; none fits every pod
//!       namespace: shop                # any unless said
//!       image: nginx                   # references with this in them; any unless said
//!       container: main                # any unless said
//!       startDelay: 2s                 # until the process runs; 100ms unless said
//!       readyDelay: 10s                # until its probes succeed; at once unless said
//!       stopDelay: 3s                  # how long it takes to end when asked to; 100ms unless said
//!       exit: { after: 5m, code: 0 }   # it ends by itself; never unless said
//!       crash: { probability: 0.2, after: 10s }  # so many of its starts end so soon, with exit code 1
//!       meanTimeBetweenCrashes: 6h     # at random moments, with exit code 1
//!       cpu: 100m                      # or over time since its start: [{at: 0s, use: 1}, {at: 1m, use: 100m}]
//!       memory: [{at: 0s, use: 64Mi}, {at: 1h, use: 1Gi}]  # above its limit it is OOMKilled
//!       logLines: [ready to serve]     # written at its start
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::{Behaviour, Curve, Rule, SimulatedConfig, Span};

/// The `apiVersion` of this kind and of scenarios.
pub const API_VERSION: &str = "simulation.coracle.dev/v1";

/// A policy's file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SimulationPolicy {
    /// [`API_VERSION`].
    pub api_version: String,
    /// `SimulationPolicy`.
    pub kind: String,
    /// Its name, for people.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// What it says.
    pub spec: PolicySpec,
}

impl SimulationPolicy {
    /// What it says, if it is one.
    ///
    /// # Errors
    /// It is of another kind or version.
    pub fn into_spec(self) -> Result<PolicySpec, String> {
        if (self.api_version.as_str(), self.kind.as_str()) == (API_VERSION, "SimulationPolicy") {
            return Ok(self.spec);
        }
        Err(format!("{} {} is not {API_VERSION} SimulationPolicy", self.api_version, self.kind))
    }
}

/// What a policy says. See the module's page for each field.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicySpec {
    /// How long a pull takes.
    pub pull_delay: Option<Span>,
    /// Images that cannot be pulled.
    #[serde(default)]
    pub missing_images: Vec<String>,
    /// The first that fits a container holds.
    #[serde(default)]
    pub rules: Vec<PolicyRule>,
}

/// One rule.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyRule {
    /// Labels that the pod has.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
    /// The pod's namespace.
    pub namespace: Option<String>,
    /// A part of the image's reference.
    #[serde(default)]
    pub image: String,
    /// The container's name.
    pub container: Option<String>,
    /// Until the process runs.
    pub start_delay: Option<Span>,
    /// From the start until probes succeed.
    pub ready_delay: Option<Span>,
    /// How long it takes to end.
    pub stop_delay: Option<Span>,
    /// It ends by itself.
    pub exit: Option<Exit>,
    /// It ends badly, now and then.
    pub crash: Option<Crash>,
    /// It crashes at random moments.
    pub mean_time_between_crashes: Option<Span>,
    /// Processors, since the start.
    pub cpu: Option<Curve>,
    /// Bytes, since the start.
    pub memory: Option<Curve>,
    /// Written at the start.
    #[serde(default)]
    pub log_lines: Vec<String>,
}

/// When and how a container ends.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exit {
    /// Since its start.
    pub after: Span,
    /// The exit code.
    #[serde(default)]
    pub code: i32,
}

/// How likely a start ends badly.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crash {
    /// Of each start, 0 to 1.
    #[serde(deserialize_with = "probability")]
    pub probability: f64,
    /// Since the start; 10 s unless said.
    pub after: Option<Span>,
}

fn probability<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let share = f64::deserialize(deserializer)?;
    let wrong = || serde::de::Error::custom(format!("{share} is not a probability: 0 (never) to 1 (always)"));
    (0.0..=1.0).contains(&share).then_some(share).ok_or_else(wrong)
}

impl PolicyRule {
    fn rule(&self) -> Rule {
        let usual = Behaviour::default();
        let span = |said: Option<Span>, usual: Duration| said.map_or(usual, |span| span.0);
        let behaviour = Behaviour {
            start_delay: span(self.start_delay, usual.start_delay),
            ends: self.exit.map(|exit| (exit.after.0, exit.code)),
            crash: self.crash.map(|crash| (crash.probability, span(crash.after, Duration::from_secs(10)))),
            mean_time_between_crashes: self.mean_time_between_crashes.map(|span| span.0),
            stop_delay: span(self.stop_delay, usual.stop_delay),
            ready_after: span(self.ready_delay, usual.ready_after),
            log_lines: self.log_lines.clone(),
            cpu_milli: self.cpu.as_ref().map_or(usual.cpu_milli, |cpu| cpu.times(1000.0)),
            memory_bytes: self.memory.clone().unwrap_or(usual.memory_bytes),
        };
        Rule {
            image: self.image.clone(),
            labels: self.match_labels.clone(),
            namespace: self.namespace.clone(),
            container: self.container.clone(),
            behaviour,
        }
    }
}

impl PolicySpec {
    /// A machine on which these rules hold before those it has.
    pub fn apply(&self, machine: SimulatedConfig) -> SimulatedConfig {
        let rules = self.rules.iter().map(PolicyRule::rule).chain(machine.rules).collect();
        let missing_images = self.missing_images.iter().cloned().chain(machine.missing_images).collect();
        let pull_delay = self.pull_delay.map_or(machine.pull_delay, |span| span.0);
        SimulatedConfig { rules, missing_images, pull_delay, ..machine }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_policys_rules_come_first_and_say_what_they_change() {
        let spec: PolicySpec = serde_json::from_value(json!({
            "pullDelay": "5s",
            "rules": [{ "matchLabels": { "app": "web" }, "readyDelay": "10s", "cpu": "250m", "exit": { "after": "1m", "code": 3 } }],
        }))
        .unwrap();
        let before =
            SimulatedConfig { rules: vec![Rule { image: "nginx".into(), ..Rule::default() }], ..Default::default() };
        let machine = spec.apply(before);
        assert_eq!(machine.pull_delay, Duration::from_secs(5));
        assert_eq!(machine.rules.iter().map(|rule| rule.image.as_str()).collect::<Vec<_>>(), ["", "nginx"]);
        let Behaviour { ready_after, ends, cpu_milli, start_delay, .. } = machine.rules[0].behaviour.clone();
        assert_eq!((ready_after, ends), (Duration::from_secs(10), Some((Duration::from_secs(60), 3))));
        assert_eq!((cpu_milli, start_delay), (Curve::level(250.0), Behaviour::default().start_delay));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (rule, hint) in [
            (json!({ "startDelayed": "1s" }), "startDelay"),
            (json!({ "startDelay": "soon" }), "90s"),
            (json!({ "crash": { "probability": 2.0 } }), "0 (never) to 1 (always)"),
            (json!({ "cpu": "much" }), "250m"),
            (json!({ "memory": [{ "at": "1m", "use": "1Gi" }, { "at": "1m", "use": "2Gi" }] }), "backwards"),
        ] {
            let refused = serde_json::from_value::<PolicyRule>(rule).unwrap_err().to_string();
            assert!(refused.contains(hint), "{refused}");
        }
    }
}
