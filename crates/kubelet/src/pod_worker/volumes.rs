//! The pod's objects and volumes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use coracle_client::{EventType, controlled_by};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, ServiceAccount, ServiceAccountTokenProjection,
};
use kube::api::PostParams;
use kube::{Api, Resource};

use super::{PodWorker, Token};
use crate::dns::{hosts_file, pod_dns, resolv_conf};
use crate::env::Referenced;
use crate::fields::PodFacts;
use crate::objects::References;
use crate::volumes::{TokenKey, VolumeError, VolumeSources, plan_volume, set_up};

/// A token is renewed after this part of its life, or after a day.
const TOKEN_RENEWAL: f64 = 0.8;
const TOKEN_MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// Failed mounts are tried again after half a second, then twice as long each time, up to two minutes.
const MOUNT_RETRY: Duration = Duration::from_millis(500);
const MOUNT_RETRY_MAX: Duration = Duration::from_secs(122);

impl PodWorker {
    /// The ConfigMaps and Secrets that the pod refers to, as far as they exist.
    pub(super) async fn referenced(&mut self) -> Result<Referenced, String> {
        let namespace = self.pod.metadata.namespace.clone().unwrap_or_default();
        let names = References::of(&self.pod);
        let listener = &self.signals.objects_changed;
        for name in names.config_maps {
            let shared = &self.shared.config_maps;
            self.config_maps.entry(name).or_insert_with_key(|name| shared.watch(&namespace, name, listener));
        }
        for name in names.secrets {
            let shared = &self.shared.secrets;
            self.secrets.entry(name).or_insert_with_key(|name| shared.watch(&namespace, name, listener));
        }
        let mut found = Referenced::default();
        for (name, watch) in &self.config_maps {
            found.config_maps.extend(watch.get().await?.map(|object| (name.clone(), object)));
        }
        for (name, watch) in &self.secrets {
            found.secrets.extend(watch.get().await?.map(|object| (name.clone(), object)));
        }
        Ok(found)
    }

    pub(super) fn facts(&self, pod_ip: Option<IpAddr>) -> PodFacts {
        PodFacts {
            pod_ips: pod_ip.map(|ip| ip.to_string()).into_iter().collect(),
            host_ips: self.shared.host_ips(),
            node_cpus: self.shared.node_cpus(),
            node_memory_bytes: self.shared.node_memory_bytes(),
        }
    }

    /// Sees to it that the pod's volumes are set up and hold the present content. `false` when one could not be, which
    /// an event has told.
    pub(super) async fn ensure_volumes(&mut self) -> Result<bool, String> {
        if self.volumes.is_some() && !self.volumes_stale {
            return Ok(true);
        }
        match self.set_up_volumes().await {
            Ok(paths) => {
                self.volumes = Some(paths);
                self.volumes_stale = false;
                self.volume_failures = 0;
                Ok(true)
            }
            Err(error) => {
                self.shared.pod_event(&self.pod, EventType::Warning, "FailedMount", error.message);
                let delay = MOUNT_RETRY * 2_u32.saturating_pow(self.volume_failures);
                self.volume_failures = (self.volume_failures + 1).min(8);
                self.volumes_stale = true;
                self.wake_after(delay.min(MOUNT_RETRY_MAX));
                Ok(false)
            }
        }
    }

    async fn set_up_volumes(&mut self) -> Result<BTreeMap<String, std::path::PathBuf>, VolumeError> {
        let pod = self.pod.clone();
        let spec = pod.spec.clone().unwrap_or_default();
        let volumes = spec.volumes.unwrap_or_default();
        let failed = |why: String| VolumeError { volume: String::new(), message: why };
        let mut sources =
            VolumeSources { referenced: self.referenced().await.map_err(failed)?, ..VolumeSources::default() };
        for volume in &volumes {
            let name = &volume.name;
            let of_template = || volume.ephemeral.as_ref().map(|_| format!("{}-{name}", self.pod_name()));
            let claim = volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.clone());
            if let Some(claim) = claim.or_else(of_template) {
                self.fetch_claim(&claim, volume.ephemeral.is_some(), &mut sources)
                    .await
                    .map_err(|why| VolumeError::set_up(name, why))?;
            }
            let parts = volume.projected.iter().flat_map(|source| source.sources.iter().flatten());
            for token in parts.filter_map(|part| part.service_account_token.as_ref()) {
                let (key, value) = self.token(name, token).await.map_err(|why| VolumeError::set_up(name, why))?;
                sources.tokens.insert(key, value);
            }
        }
        let facts = self.facts(self.shared.pod_ip(&pod, &self.observed));
        let fs_group = spec.security_context.and_then(|s| s.fs_group).and_then(|gid| u32::try_from(gid).ok());
        let pod_dir = self.shared.pod_dir(&self.uid);
        let stamp = coracle_clock::now().strftime("%Y_%m_%d_%H_%M_%S.%f").to_string();
        let mut paths = BTreeMap::new();
        for volume in &volumes {
            let plan = plan_volume(&pod, volume, &sources, &facts)?;
            let path = if self.shared.config.on_disk {
                set_up(&pod_dir, &volume.name, &plan, &stamp, fs_group)?
            } else {
                pod_dir.join(&volume.name)
            };
            paths.insert(volume.name.clone(), path);
        }
        Ok(paths)
    }

    async fn fetch_claim(&self, claim: &str, own: bool, sources: &mut VolumeSources) -> Result<(), String> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let client = &self.shared.client;
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
        let Some(found) = claims.get_opt(claim).await.map_err(|error| error.to_string())? else { return Ok(()) };
        if own && !controlled_by(&found.metadata, self.pod.metadata.uid.as_deref().unwrap_or_default()) {
            let pod = self.pod_name();
            return Err(format!(
                "PVC {namespace}/{claim} was not created for pod {namespace}/{pod} (pod is not owner)"
            ));
        }
        let volume = found.spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|name| !name.is_empty());
        let volume = match volume {
            Some(name) => Api::<PersistentVolume>::all(client.clone()).get_opt(&name).await,
            None => Ok(None),
        };
        let volume = volume.map_err(|error| error.to_string())?.map(std::sync::Arc::new);
        sources.claims.insert(claim.to_owned(), (std::sync::Arc::new(found), volume));
        Ok(())
    }

    /// A token for the pod's service account, new or from before.
    async fn token(
        &mut self,
        volume: &str,
        wanted: &ServiceAccountTokenProjection,
    ) -> Result<(TokenKey, String), String> {
        let audience = wanted.audience.clone().unwrap_or_default();
        let key = (volume.to_owned(), wanted.path.clone(), audience.clone());
        let now = coracle_clock::now();
        let fresh = self.tokens.get(&key).filter(|token| now < token.refresh_at);
        if let Some((value, refresh_at)) = fresh.map(|token| (token.value.clone(), token.refresh_at)) {
            self.wake_by(refresh_at);
            return Ok((key, value));
        }
        if !self.shared.config.on_disk {
            return Ok((key, String::new()));
        }
        let lifetime = wanted.expiration_seconds.unwrap_or(3600);
        let value = self.request_token(audience, lifetime).await?;
        let lifetime = Duration::from_secs(u64::try_from(lifetime).unwrap_or(3600));
        let refresh_at = now + lifetime.mul_f64(TOKEN_RENEWAL).min(TOKEN_MAX_AGE);
        self.tokens.insert(key.clone(), Token { value: value.clone(), refresh_at });
        self.wake_by(refresh_at);
        Ok((key, value))
    }

    /// Marks the files as old when a token in them is due.
    pub(super) fn check_tokens(&mut self) {
        let now = coracle_clock::now();
        self.volumes_stale |= self.tokens.values().any(|token| token.refresh_at <= now);
        if let Some(next) = self.tokens.values().map(|token| token.refresh_at).min() {
            self.wake_by(next);
        }
    }

    async fn request_token(&self, audience: String, lifetime_seconds: i64) -> Result<String, String> {
        let account = self.pod.spec.as_ref().and_then(|s| s.service_account_name.clone());
        let account = account.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".into());
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(vec![audience]).filter(|a| !a[0].is_empty()),
                expiration_seconds: Some(lifetime_seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: self.pod.meta().name.clone(),
                    uid: Some(self.uid.clone()),
                }),
            }),
            ..TokenRequest::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.shared.client.clone(), namespace);
        let answer = api.create_token_request(&account, &PostParams::default(), &request).await;
        let answer = answer.map_err(|error| format!("failed to fetch token: {error}"))?;
        answer
            .status
            .and_then(|status| status.token)
            .ok_or_else(|| "failed to fetch token: no token in the answer".into())
    }

    /// Writes the files that every container of the pod gets.
    pub(super) fn write_pod_files(&self, pod_ip: Option<IpAddr>) -> std::io::Result<()> {
        let dir = self.shared.pod_dir(&self.uid);
        std::fs::create_dir_all(&dir)?;
        let cluster = self.shared.cluster_dns();
        let ips: Vec<String> = pod_ip.map(|ip| ip.to_string()).into_iter().collect();
        let hosts = hosts_file(&self.pod, &ips, &cluster.domain, Path::new("/etc/hosts"));
        std::fs::write(dir.join("etc-hosts"), hosts)?;
        std::fs::write(dir.join("resolv.conf"), resolv_conf(&pod_dns(&self.pod, &cluster)))
    }
}
