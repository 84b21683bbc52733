//! The file of `--admission-control-config-file` (`AdmissionConfiguration`): what plugins are told besides running.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::pod_security::PodSecurityConfiguration;

/// What plugins are told.
#[derive(Clone, Debug, Default)]
pub struct AdmissionConfiguration {
    pub(super) pod_security: PodSecurityConfiguration,
}

/// Why plugins cannot be told so.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// A file cannot be read.
    #[error("unable to read admission control configuration from {path:?} [{source}]")]
    Read {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not YAML, or something is not where it belongs.
    #[error("{path:?}: {source}")]
    Yaml {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: serde_yaml_ng::Error,
    },
    /// It is another kind of file.
    #[error("{path:?} is no AdmissionConfiguration of apiserver.config.k8s.io/v1")]
    Kind {
        /// Which one.
        path: PathBuf,
    },
    /// Nothing can be said to this plugin.
    #[error("admission plugin {0:?} takes no configuration")]
    Untold(String),
    /// A plugin does not take it.
    #[error("couldn't init admission plugin {name:?}: {why}")]
    Plugin {
        /// Which one.
        name: String,
        /// What is wrong.
        why: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    plugins: Vec<Plugin>,
}

/// A plugin's configuration, here or in a file of its own.
#[derive(Deserialize)]
struct Plugin {
    name: String,
    #[serde(default)]
    path: String,
    configuration: Option<Value>,
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T, ConfigurationError> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| ConfigurationError::Read { path: path.to_owned(), source })?;
    serde_yaml_ng::from_str(&text).map_err(|source| ConfigurationError::Yaml { path: path.to_owned(), source })
}

impl AdmissionConfiguration {
    /// Reads the file, and those that it names, relative to its own directory.
    ///
    /// # Errors
    /// Those of [`ConfigurationError`].
    pub fn read(path: &Path) -> Result<Self, ConfigurationError> {
        let file: File = read(path)?;
        let versions = ["apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1"];
        if file.kind != "AdmissionConfiguration" || !versions.contains(&file.api_version.as_str()) {
            return Err(ConfigurationError::Kind { path: path.to_owned() });
        }
        let mut all = AdmissionConfiguration::default();
        for Plugin { name, path: own, configuration } in file.plugins {
            let told = match configuration {
                Some(told) => told,
                None if own.is_empty() => continue,
                None => read(&path.with_file_name("").join(own))?,
            };
            match name.as_str() {
                "PodSecurity" => {
                    all.pod_security = PodSecurityConfiguration::parse(&told)
                        .map_err(|why| ConfigurationError::Plugin { name, why })?
                }
                _ => return Err(ConfigurationError::Untold(name)),
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugins_configuration_stands_in_the_file_or_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let read = |plugins: &str| {
            let path = dir.path().join("admission.yaml");
            let text = format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n{plugins}");
            std::fs::write(&path, text).unwrap();
            let told = AdmissionConfiguration::read(&path).map_err(|error| error.to_string());
            told.map(|told| format!("{:?}", told.pod_security).contains("usernames: [\"ada\"]"))
        };
        let own = "apiVersion: pod-security.admission.config.k8s.io/v1beta1\nkind: PodSecurityConfiguration\n\
                   exemptions: {usernames: [ada]}\n";
        std::fs::write(dir.path().join("pods.yaml"), own).unwrap();
        assert!(!read("").unwrap());
        assert!(read("plugins: [{name: PodSecurity, path: pods.yaml}]").unwrap());
        let inline = format!("plugins: [{{name: PodSecurity, configuration: {{{}}}}}]", own.trim().replace('\n', ", "));
        assert!(read(&inline).unwrap());
        assert_eq!(
            read("plugins: [{name: PodSecurity, configuration: {}}]").unwrap_err(),
            "couldn't init admission plugin \"PodSecurity\": no kind null is registered for version \"\""
        );
        let elsewhere = "plugins: [{name: PodNodeSelector, configuration: {}}]";
        assert_eq!(read(elsewhere).unwrap_err(), "admission plugin \"PodNodeSelector\" takes no configuration");
        assert!(read("plugins: [{name: PodSecurity, path: none.yaml}]").unwrap_err().starts_with("unable to read"));
        assert!(read("kind: Pod").is_err());
    }
}
