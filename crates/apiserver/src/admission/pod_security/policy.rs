//! Which standard a namespace's pods are held to: by its labels, else by the plugin's configuration.

use coracle_api::FieldErrors;
use coracle_api::names::{check_dns_label, check_dns_subdomain};
use serde::Deserialize;
use serde_json::Value;

pub(super) const PREFIX: &str = "pod-security.kubernetes.io/";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    #[default]
    Privileged,
    Baseline,
    Restricted,
}

/// A level and the version of the standards, as `baseline:latest`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Policy {
    pub(super) level: Level,
    /// The `x` of `v1.x`; none for the latest.
    pub(super) minor: Option<u32>,
}

impl PartialEq for Policy {
    fn eq(&self, other: &Policy) -> bool {
        self.level == other.level && (self.level == Level::Privileged || self.minor == other.minor)
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.minor {
            Some(minor) => write!(f, "{level}:v1.{minor}"),
            None => write!(f, "{level}:latest"),
        }
    }
}

/// What is refused, noted in the audit log and warned of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Policies {
    pub(super) enforce: Policy,
    pub(super) audit: Policy,
    pub(super) warn: Policy,
}

impl Policies {
    /// What a namespace's labels ask for, and what of them makes no sense.
    pub(super) fn of(namespace: &Value, defaults: &Policies) -> (Policies, FieldErrors) {
        let labels = &namespace["metadata"]["labels"];
        let label = |key: &str| labels[format!("{PREFIX}{key}")].as_str();
        let (mut found, errors) = Policies::read(label, |key| format!("metadata.labels[{PREFIX}{key}]"), *defaults);
        let silent = label("warn").is_none() && label("warn-version").is_none();
        if silent && label("enforce").is_some() && found.enforce.level > found.warn.level {
            found.warn = found.enforce;
        }
        (found, errors)
    }

    /// Reads `enforce`, `enforce-version` and so on. A level that makes no sense is restricted where it is enforced
    /// and privileged elsewhere.
    fn read<'a>(
        get: impl Fn(&str) -> Option<&'a str>,
        path: impl Fn(&str) -> String,
        defaults: Policies,
    ) -> (Policies, FieldErrors) {
        let (mut found, mut errors) = (defaults, FieldErrors::default());
        let modes = [
            ("enforce", &mut found.enforce, Level::Restricted),
            ("audit", &mut found.audit, Level::Privileged),
            ("warn", &mut found.warn, Level::Privileged),
        ];
        for (mode, policy, otherwise) in modes {
            if let Some(level) = get(mode) {
                policy.level = match level {
                    "privileged" => Level::Privileged,
                    "baseline" => Level::Baseline,
                    "restricted" => Level::Restricted,
                    _ => {
                        errors.invalid(&path(mode), level, "must be one of privileged, baseline, restricted");
                        otherwise
                    }
                };
            }
            let key = format!("{mode}-version");
            if let Some(version) = get(&key) {
                policy.minor = version.strip_prefix("v1.").and_then(minor);
                if policy.minor.is_none() && version != "latest" {
                    errors.invalid(&path(&key), version, "must be \"latest\" or \"v1.x\"");
                }
            }
        }
        (found, errors)
    }

    /// Those that ask for something.
    pub(super) fn demanding(&self) -> impl Iterator<Item = (&'static str, Policy)> {
        let all = [("enforce", self.enforce), ("audit", self.audit), ("warn", self.warn)];
        all.into_iter().filter(|(_, policy)| policy.level != Level::Privileged)
    }
}

fn minor(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

/// Several errors in one text.
pub(super) fn aggregate(errors: &FieldErrors) -> String {
    let all: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
    match all.as_slice() {
        [one] => one.clone(),
        all => format!("[{}]", all.join(", ")),
    }
}

/// Whose pods are not looked at.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Exemptions {
    pub(super) usernames: Vec<String>,
    pub(super) namespaces: Vec<String>,
    pub(super) runtime_classes: Vec<String>,
}

/// The plugin's configuration, `PodSecurityConfiguration` of `pod-security.admission.config.k8s.io`.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodSecurityConfiguration {
    pub(super) defaults: Policies,
    pub(super) exemptions: Exemptions,
}

impl PodSecurityConfiguration {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(configuration: &Value) -> Result<Self, String> {
        const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];
        let version = configuration["apiVersion"].as_str().unwrap_or_default();
        let known = version.strip_prefix("pod-security.admission.config.k8s.io/");
        let kind = &configuration["kind"];
        if kind != "PodSecurityConfiguration" || !known.is_some_and(|version| VERSIONS.contains(&version)) {
            return Err(format!("no kind {kind} is registered for version {version:?}"));
        }
        let default = |key: &str| configuration["defaults"][key].as_str().filter(|text| !text.is_empty());
        let path = |key: &str| format!("defaults.{key}");
        let (defaults, mut errors) = Policies::read(default, path, Policies::default());
        let exemptions = match &configuration["exemptions"] {
            Value::Null => Exemptions::default(),
            given => Exemptions::deserialize(given).map_err(|error| format!("exemptions: {error}"))?,
        };
        let Exemptions { usernames, namespaces, runtime_classes } = &exemptions;
        for (field, list) in [("namespaces", namespaces), ("runtimeClasses", runtime_classes), ("usernames", usernames)]
        {
            for (index, name) in list.iter().enumerate() {
                let path = format!("exemptions.{field}[{index}]");
                let problems = match field {
                    "namespaces" => check_dns_label(name),
                    "runtimeClasses" => check_dns_subdomain(name),
                    _ => Vec::new(),
                };
                if !problems.is_empty() {
                    errors.invalid(&path, name.as_str(), problems.join(", "));
                } else if name.is_empty() {
                    errors.required(&path, "");
                } else if list[..index].contains(name) {
                    errors.duplicate(&path, name.as_str());
                }
            }
        }
        if errors.0.is_empty() {
            return Ok(PodSecurityConfiguration { defaults, exemptions });
        }
        Err(format!("PodSecurity invalid: {}", aggregate(&errors)))
    }
}
