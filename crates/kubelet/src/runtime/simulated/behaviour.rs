//! What a simulated container does.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Curve;
use crate::runtime::ContainerConfig;

/// What a simulated container does.
#[derive(Clone, Debug, PartialEq)]
pub struct Behaviour {
    /// How long its process takes to be started.
    pub start_delay: Duration,
    /// After how long it ends by itself, and with which exit code; `None` runs for ever.
    pub ends: Option<(Duration, i32)>,
    /// Which share of its starts end in a crash (exit code 1), and after how long.
    pub crash: Option<(f64, Duration)>,
    /// The mean time between crashes (exit code 1, at random moments); `None` never crashes.
    pub mean_time_between_crashes: Option<Duration>,
    /// How long it takes to end when asked to; killed (137) when the grace period is shorter.
    pub stop_delay: Duration,
    /// How long after its start its probes succeed.
    pub ready_after: Duration,
    /// What it writes at its start.
    pub log_lines: Vec<String>,
    /// The processor time it uses, in thousandths of a processor, since its start.
    pub cpu_milli: Curve,
    /// The memory it uses, in bytes, since its start. Above its limit it is killed (137, `OOMKilled`).
    pub memory_bytes: Curve,
}

impl Default for Behaviour {
    /// A small server that is up at once and ends when asked to.
    fn default() -> Behaviour {
        Behaviour {
            start_delay: Duration::from_millis(100),
            ends: None,
            crash: None,
            mean_time_between_crashes: None,
            stop_delay: Duration::from_millis(100),
            ready_after: Duration::ZERO,
            log_lines: Vec::new(),
            cpu_milli: Curve::level(10.0),
            memory_bytes: Curve::level(f64::from(16 << 20)),
        }
    }
}

impl Behaviour {
    /// This behaviour, as the container's command changes it: `true`, `false`, `sleep N`, and in a shell
    /// (`sh -c`) `sleep N` and `exit N` in a row do what they say. Other commands are not understood.
    pub fn with_command(&self, config: &ContainerConfig) -> Behaviour {
        let words: Vec<&str> = config.command.iter().chain(&config.args).map(String::as_str).collect();
        let ends = match words.as_slice() {
            ["sh" | "/bin/sh" | "bash" | "/bin/bash", "-c", script, ..] => script_end(script),
            words => script_end(&words.join(" ")),
        };
        Behaviour { ends: ends.or(self.ends), ..self.clone() }
    }
}

/// When and how a script ends that consists of nothing but `sleep`, `true`, `false`, `echo` and `exit`.
fn script_end(script: &str) -> Option<(Duration, i32)> {
    let steps = script.split([';', '\n']).flat_map(|part| part.split("&&")).map(str::trim).filter(|s| !s.is_empty());
    let mut after = Duration::ZERO;
    let mut code = None;
    for step in steps {
        match step.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["sleep", "infinity" | "inf"] => return None,
            ["sleep", time] => {
                after += sleep_time(time)?;
                code = Some(0);
            }
            ["true"] | ["echo", ..] => code = Some(0),
            ["false"] => code = Some(1),
            ["exit"] => return Some((after, code.unwrap_or(0))),
            ["exit", number] => return Some((after, number.parse().ok()?)),
            _ => return None,
        }
    }
    code.map(|code| (after, code))
}

fn sleep_time(text: &str) -> Option<Duration> {
    let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let factor = match unit {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * factor).ok()
}

/// A behaviour for some containers: those for which all of this holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// The image's reference contains this text.
    pub image: String,
    /// The pod has these labels.
    pub labels: BTreeMap<String, String>,
    /// The pod's namespace, if it matters.
    pub namespace: Option<String>,
    /// The container's name, if it matters.
    pub container: Option<String>,
    /// What they do.
    pub behaviour: Behaviour,
}

impl Rule {
    /// Whether it holds for a container of a pod with these labels.
    pub fn fits(&self, pod_labels: &BTreeMap<String, String>, config: &ContainerConfig) -> bool {
        config.image.contains(&self.image)
            && self.labels.iter().all(|(key, value)| pod_labels.get(key) == Some(value))
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == config.pod.namespace)
            && self.container.as_ref().is_none_or(|container| *container == config.name)
    }
}

/// What a simulated machine is like.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedConfig {
    /// Processors.
    pub cpus: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// The first rule that fits a container holds; [`Behaviour::default`] when none does.
    pub rules: Vec<Rule>,
    /// How long a pull takes.
    pub pull_delay: Duration,
    /// Images whose reference contains one of these texts cannot be pulled.
    pub missing_images: Vec<String>,
    /// How long a sandbox takes to be made.
    pub sandbox_delay: Duration,
}

impl Default for SimulatedConfig {
    /// A machine of 4 processors and 8 GiB on which everything works.
    fn default() -> SimulatedConfig {
        SimulatedConfig {
            cpus: 4,
            memory_bytes: 8 << 30,
            rules: Vec::new(),
            pull_delay: Duration::from_secs(1),
            missing_images: Vec::new(),
            sandbox_delay: Duration::from_millis(200),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simple_scripts_do_what_they_say() {
        for (command, expected) in [
            (vec!["true"], Some((0, 0))),
            (vec!["false"], Some((0, 1))),
            (vec!["sleep", "5"], Some((5, 0))),
            (vec!["sleep", "infinity"], None),
            (vec!["sh", "-c", "echo hi; sleep 2m; exit 3"], Some((120, 3))),
            (vec!["sh", "-c", "sleep 1 && exit 0"], Some((1, 0))),
            (vec!["nginx", "-g", "daemon off"], None),
            (vec![], None),
        ] {
            let words: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
            let config = ContainerConfig { command: words, ..ContainerConfig::default() };
            let ends = Behaviour::default().with_command(&config).ends;
            assert_eq!(ends.map(|(after, code)| (after.as_secs(), code)), expected, "{command:?}");
        }
    }
}
