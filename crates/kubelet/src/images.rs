//! Images: whether to pull, and what to say of it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Secret};

use crate::backoff::Backoff;
use crate::runtime::{ImageInfo, RegistryAuth, Runtime, RuntimeError};
use crate::status::WaitingReason;
use crate::text::go_duration;

/// When to pull an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Before every start.
    Always,
    /// When it is not there.
    IfNotPresent,
    /// Never.
    Never,
}

/// A container's pull policy; by default `Always` for `:latest`, else `IfNotPresent`.
pub fn pull_policy(container: &Container) -> PullPolicy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        Some(_) => PullPolicy::IfNotPresent,
        None => {
            let image = container.image.as_deref().unwrap_or_default();
            let name = image.rsplit('/').next().unwrap_or_default();
            if name.ends_with(":latest") || !name.contains([':', '@']) {
                PullPolicy::Always
            } else {
                PullPolicy::IfNotPresent
            }
        }
    }
}

/// Something to tell about an image, as an Event on the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageEvent {
    /// Whether it is a warning.
    pub warning: bool,
    /// The event's reason.
    pub reason: &'static str,
    /// The event's message.
    pub message: String,
}

fn normal(reason: &'static str, message: String) -> ImageEvent {
    ImageEvent { warning: false, reason, message }
}

fn warning(reason: &'static str, message: String) -> ImageEvent {
    ImageEvent { warning: true, reason, message }
}

/// Why an image is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFailure {
    /// What the container's status says.
    pub waiting: WaitingReason,
    /// When to try again, if a wait is on.
    pub retry_at: Option<Timestamp>,
}

/// Sees to it that images are there. One for a node: the back-off of an image is kept across a pod's restarts.
pub struct ImageManager {
    runtime: Arc<dyn Runtime>,
    backoff: Mutex<FailedPulls>,
}

/// The waits of images that could not be pulled, and what was last said of each.
#[derive(Default)]
struct FailedPulls {
    backoff: Backoff,
    errors: std::collections::BTreeMap<String, (Timestamp, String)>,
}

impl ImageManager {
    /// A manager of a runtime's images.
    pub fn new(runtime: Arc<dyn Runtime>) -> ImageManager {
        ImageManager { runtime, backoff: Mutex::new(FailedPulls::default()) }
    }

    /// Sees to it that a container's image is there, telling what happens through `tell`.
    ///
    /// # Errors
    /// The image is not there; the status and the time of the next try.
    pub async fn ensure(
        &self,
        pod_uid: &str,
        container: &Container,
        auth: &[RegistryAuth],
        tell: &(dyn Fn(ImageEvent) + Send + Sync),
    ) -> Result<ImageInfo, ImageFailure> {
        let image = container.image.as_deref().unwrap_or_default();
        let present = match self.runtime.image_status(image).await {
            Ok(present) => present,
            Err(RuntimeError::InvalidImageName(_)) => {
                let why = format!("couldn't parse image name {image:?}: invalid reference format");
                tell(warning("InspectFailed", format!("Failed to apply default image tag {image:?}: {why}")));
                tell(warning("Failed", "Error: InvalidImageName".into()));
                let message = format!("Failed to apply default image tag {image:?}: {why}");
                return Err(failure("InvalidImageName", message));
            }
            Err(error) => {
                let message = format!("Failed to inspect image {image:?}: {error}");
                tell(warning("InspectFailed", message.clone()));
                tell(warning("Failed", "Error: ImageInspectError".into()));
                return Err(failure("ImageInspectError", message));
            }
        };
        match (pull_policy(container), present) {
            (PullPolicy::IfNotPresent | PullPolicy::Never, Some(info)) => {
                let what =
                    format!("Container image {image:?} already present on machine and can be accessed by the pod");
                tell(normal("Pulled", what));
                Ok(info)
            }
            (PullPolicy::Never, None) => {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                tell(warning("ErrImageNeverPull", message.clone()));
                tell(warning("Failed", "Error: ErrImageNeverPull".into()));
                Err(failure("ErrImageNeverPull", message))
            }
            (PullPolicy::Always, _) | (PullPolicy::IfNotPresent, None) => self.pull(pod_uid, image, auth, tell).await,
        }
    }

    async fn pull(
        &self,
        pod_uid: &str,
        image: &str,
        auth: &[RegistryAuth],
        tell: &(dyn Fn(ImageEvent) + Send + Sync),
    ) -> Result<ImageInfo, ImageFailure> {
        let key = format!("{pod_uid}_{image}");
        if let Some(failure) = self.backing_off(&key, image) {
            tell(normal("BackOff", format!("Back-off pulling image {image:?}")));
            tell(warning("Failed", "Error: ImagePullBackOff".into()));
            return Err(failure);
        }
        tell(normal("Pulling", format!("Pulling image {image:?}")));
        let started = coracle_clock::instant();
        match self.pull_with_any(image, auth).await {
            Ok(info) => {
                self.lock().backoff.forget(&key);
                self.lock().errors.remove(&key);
                let took = go_duration(Duration::from_millis(
                    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                ));
                let size = info.size_bytes;
                tell(normal(
                    "Pulled",
                    format!(
                        "Successfully pulled image {image:?} in {took} ({took} including waiting). Image size: {size} bytes."
                    ),
                ));
                Ok(info)
            }
            Err(error) => {
                let now = coracle_clock::now();
                {
                    let mut failed = self.lock();
                    let failed_at = failed.errors.get(&key).map_or(now, |(at, _)| *at);
                    failed.backoff.tried(&key, failed_at, now);
                    failed.errors.insert(key, (now, error.clone()));
                }
                tell(warning("Failed", format!("Failed to pull image {image:?}: {error}")));
                tell(warning("Failed", "Error: ErrImagePull".into()));
                // The next look finds the wait and shows ImagePullBackOff.
                Err(ImageFailure { retry_at: Some(now + Duration::from_secs(1)), ..failure("ErrImagePull", error) })
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, FailedPulls> {
        self.backoff.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn backing_off(&self, key: &str, image: &str) -> Option<ImageFailure> {
        let failed = self.lock();
        let (failed_at, error) = failed.errors.get(key)?;
        let wait = failed.backoff.waiting(key, *failed_at, coracle_clock::now())?;
        let message = format!("Back-off pulling image {image:?}: ErrImagePull: {error}");
        Some(ImageFailure { retry_at: Some(wait.until), ..failure("ImagePullBackOff", message) })
    }

    /// Tries the credentials one after the other, then none.
    async fn pull_with_any(&self, image: &str, auth: &[RegistryAuth]) -> Result<ImageInfo, String> {
        let mut last = String::new();
        for credentials in auth.iter().map(Some).chain([None]) {
            match self.runtime.pull_image(image, credentials).await {
                Ok(_) => {
                    let info = self.runtime.image_status(image).await.map_err(|error| error.to_string())?;
                    return info.ok_or_else(|| format!("image {image:?} not found after it was pulled"));
                }
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    }

    /// Forgets the waits of a pod that is gone.
    pub fn forget_pod(&self, pod_uid: &str) {
        let mut failed = self.lock();
        let prefix = format!("{pod_uid}_");
        failed.backoff.forget_prefix(&prefix);
        failed.errors.retain(|key, _| !key.starts_with(&prefix));
    }
}

fn failure(reason: &str, message: String) -> ImageFailure {
    ImageFailure { waiting: WaitingReason { reason: reason.into(), message }, retry_at: None }
}

/// The credentials for an image in pull secrets of the types `kubernetes.io/dockerconfigjson` and `…/dockercfg`.
pub fn credentials(image: &str, secrets: &[Arc<Secret>]) -> Vec<RegistryAuth> {
    let registry = registry_of(image);
    let mut found = Vec::new();
    for secret in secrets {
        let data = secret.data.as_ref();
        let file = |key: &str| data.and_then(|data| data.get(key)).and_then(|v| serde_json::from_slice(&v.0).ok());
        let whole: Option<serde_json::Value> = file(".dockerconfigjson");
        let auths = whole.and_then(|whole| whole.get("auths").cloned()).or_else(|| file(".dockercfg"));
        for (server, entry) in auths.as_ref().and_then(|auths| auths.as_object()).into_iter().flatten() {
            let host = server.trim_start_matches("https://").trim_start_matches("http://");
            let host = host.split('/').next().unwrap_or_default();
            if host == registry || (registry == "docker.io" && host == "index.docker.io") {
                found.extend(credential(server, entry));
            }
        }
    }
    found
}

fn credential(server: &str, entry: &serde_json::Value) -> Option<RegistryAuth> {
    let text = |key: &str| entry.get(key).and_then(|v| v.as_str()).map(str::to_owned);
    let (username, password) = match (text("username"), text("password")) {
        (Some(username), Some(password)) => (username, password),
        _ => {
            let decoded = base64::engine::general_purpose::STANDARD.decode(text("auth")?).ok()?;
            let decoded = String::from_utf8(decoded).ok()?;
            let (username, password) = decoded.split_once(':')?;
            (username.to_owned(), password.to_owned())
        }
    };
    Some(RegistryAuth { username, password, server: server.to_owned() })
}

/// The registry of an image reference: its first part if that looks like a host, else Docker Hub.
fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => "docker.io",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_tag_decides_when_no_policy_does() {
        for (image, policy, expected) in [
            ("nginx", None, PullPolicy::Always),
            ("nginx:latest", None, PullPolicy::Always),
            ("nginx:1.2", None, PullPolicy::IfNotPresent),
            ("localhost:5000/nginx", None, PullPolicy::Always),
            ("nginx@sha256:0", None, PullPolicy::IfNotPresent),
            ("nginx", Some("Never"), PullPolicy::Never),
            ("nginx:1", Some("Always"), PullPolicy::Always),
        ] {
            let container = Container {
                image: Some(image.into()),
                image_pull_policy: policy.map(str::to_owned),
                ..Container::default()
            };
            assert_eq!(pull_policy(&container), expected, "{image} {policy:?}");
        }
    }

    #[test]
    fn a_pull_secret_serves_its_own_registry() {
        let config = json!({ "auths": { "reg.example": { "auth": "dTpw" }, "https://index.docker.io/v1/": { "username": "a", "password": "b" } } });
        let data = base64::engine::general_purpose::STANDARD.encode(config.to_string());
        let secret: Secret = serde_json::from_value(json!({ "data": { ".dockerconfigjson": data } })).unwrap();
        let secrets = [Arc::new(secret)];
        let names = |image: &str| credentials(image, &secrets).into_iter().map(|c| c.username).collect::<Vec<_>>();
        assert_eq!(names("reg.example/x:1"), ["u"]);
        assert_eq!(names("nginx"), ["a"]);
        assert_eq!(names("other.example/x"), [] as [&str; 0]);
    }
}
