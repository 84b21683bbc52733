//! What an engine may give to containers.
//!
//! An engine that itself lacks `CAP_SYS_RESOURCE` cannot start privileged containers, cannot add `ALL` capabilities
//! and cannot lower `oom_score_adj` below zero; each fails only when the container starts. Whether this engine is so
//! is found out once, by starting a container of the pause image that wants all of it.

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::RemoveContainerOptions;

use super::{DockerRuntime, labels};

const SYS_RESOURCE: &str = "SYS_RESOURCE";

impl DockerRuntime {
    /// Whether the engine may give containers every right.
    async fn has_full_rights(&self) -> bool {
        let probe = async || {
            let full = self.probe_full_rights().await;
            if !full {
                tracing::warn!(
                    "Docker lacks CAP_SYS_RESOURCE here: privileged containers run with all other capabilities but \
                     without the host's devices, and oom_score_adj is never negative"
                );
            }
            full
        };
        *self.full_rights.get_or_init(probe).await
    }

    async fn probe_full_rights(&self) -> bool {
        let body = ContainerCreateBody {
            image: Some(self.config.pause_image.clone()),
            labels: Some([(labels::CLUSTER.to_string(), self.config.cluster_id.clone())].into()),
            host_config: Some(HostConfig {
                privileged: Some(true),
                oom_score_adj: Some(-1),
                network_mode: Some("none".into()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let Ok(created) = self.docker.create_container(None, body).await else { return false };
        let started = self.docker.start_container(&created.id, None).await;
        let options = RemoveContainerOptions { force: true, ..Default::default() };
        if let Err(error) = self.docker.remove_container(&created.id, Some(options)).await {
            tracing::warn!(%error, "could not remove the container that probed Docker's rights");
        }
        started.is_ok()
    }

    /// Reduces what a container asks for to what the engine can give.
    pub(super) async fn reduce_to_rights(&self, host: &mut HostConfig) {
        let asks_all = host.cap_add.iter().flatten().any(|name| name.eq_ignore_ascii_case("ALL"));
        let negative = host.oom_score_adj.is_some_and(|score| score < 0);
        if (host.privileged == Some(true) || asks_all || negative) && !self.has_full_rights().await {
            reduce(host);
        }
    }
}

/// What comes nearest to the request without `CAP_SYS_RESOURCE`.
fn reduce(host: &mut HostConfig) {
    if host.privileged == Some(true) {
        host.privileged = Some(false);
        host.cap_add = Some(vec!["ALL".into()]);
        host.cap_drop = None;
        host.security_opt = Some(vec!["seccomp=unconfined".into(), "apparmor=unconfined".into()]);
        // No paths of /proc and /sys are hidden or read-only for privileged containers.
        host.masked_paths = Some(Vec::new());
        host.readonly_paths = Some(Vec::new());
    }
    if host.cap_add.iter().flatten().any(|name| name.eq_ignore_ascii_case("ALL")) {
        host.cap_drop.get_or_insert_default().push(SYS_RESOURCE.into());
    }
    host.oom_score_adj = host.oom_score_adj.map(|score| score.max(0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_privileged_container_gets_all_capabilities_but_one() {
        let mut host = HostConfig { privileged: Some(true), oom_score_adj: Some(-997), ..Default::default() };
        reduce(&mut host);
        assert_eq!(host.privileged, Some(false));
        assert_eq!(host.cap_add, Some(vec!["ALL".to_string()]));
        assert_eq!(host.cap_drop, Some(vec!["SYS_RESOURCE".to_string()]));
        assert_eq!(host.oom_score_adj, Some(0));
    }
}
