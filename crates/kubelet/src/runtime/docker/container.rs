//! Containers: made from a [`ContainerConfig`], started, stopped and reported.

use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerUpdateBody, HostConfig, HostConfigLogConfig,
    Mount as DockerMount,
};
use bollard::query_parameters::StopContainerOptions;
use jiff::Timestamp;

use super::error::{ignore, refusal, translate};
use super::labels::{self, Identity};
use super::{DockerConfig, DockerRuntime, mount};
use crate::runtime::{
    ContainerConfig, ContainerFilter, ContainerState, ContainerStatus, ImageUser, Resources, Result, RuntimeError,
    Seccomp, SecurityContext,
};

/// What a container's status shows when its process could not be started, as containerd reports it.
const START_ERROR_EXIT_CODE: i32 = 128;

impl DockerRuntime {
    pub(super) async fn create_container_impl(&self, sandbox_id: &str, config: &ContainerConfig) -> Result<String> {
        let name = labels::container_name(config);
        let sandbox = self.docker.inspect_container(sandbox_id, None).await;
        let sandbox = sandbox.map_err(|error| translate(sandbox_id, error))?;
        if sandbox.state.as_ref().and_then(|state| state.running) != Some(true) {
            return Err(RuntimeError::NotRunning(sandbox_id.into()));
        }
        let sandbox_host = sandbox.host_config.unwrap_or_default();
        let host_ipc = sandbox_host.ipc_mode.as_deref() == Some("host");

        let mut body = create_body(&self.config, sandbox_id, host_ipc, config, mount::mounts(&config.mounts).await);
        body.user = self.user(&config.image, &config.security).await?;
        body.labels = Some(self.owner.container_labels(sandbox_id, config).into_iter().collect());
        if let Some(host) = &mut body.host_config {
            self.reduce_to_rights(host).await;
        }
        self.create(&name, body).await.map_err(|error| match refusal(&error) {
            Some((404, message)) if message.to_ascii_lowercase().contains("no such image") => {
                RuntimeError::ImageNotFound(config.image.clone())
            }
            Some((_, message)) => RuntimeError::CreateFailed(message.into()),
            None => translate(&name, error),
        })
    }

    /// The user in Docker's notation, `uid[:gid]`; `None` for the image's.
    async fn user(&self, image: &str, security: &SecurityContext) -> Result<Option<String>> {
        Ok(match (security.run_as_user, security.run_as_group) {
            (None, None) => None,
            (Some(user), None) => Some(user.to_string()),
            (Some(user), Some(group)) => Some(format!("{user}:{group}")),
            (None, Some(group)) => {
                let image = self.image_status_impl(image).await?;
                let user = image.map_or(ImageUser::Uid(0), |image| image.user);
                Some(match user {
                    ImageUser::Uid(uid) => format!("{uid}:{group}"),
                    ImageUser::Name(name) => format!("{name}:{group}"),
                })
            }
        })
    }

    pub(super) async fn start_container_impl(&self, container_id: &str) -> Result<()> {
        match self.docker.start_container(container_id, None).await {
            Ok(()) => Ok(()),
            Err(error) => Err(match refusal(&error) {
                Some((304, _)) => return Ok(()),
                Some((404, message)) if message.starts_with("No such container") => {
                    RuntimeError::NotFound(container_id.into())
                }
                Some((_, message)) => {
                    RuntimeError::StartFailed { message: message.into(), exit_code: START_ERROR_EXIT_CODE }
                }
                None => translate(container_id, error),
            }),
        }
    }

    pub(super) async fn stop_container_impl(&self, container_id: &str, grace: Duration) -> Result<()> {
        // Docker counts whole seconds; a grace period is never cut short.
        let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        self.stop(container_id, seconds.try_into().unwrap_or(i32::MAX)).await
    }

    /// Stops a container or sandbox; does nothing when it does not run or is gone.
    pub(super) async fn stop(&self, id: &str, grace_seconds: i32) -> Result<()> {
        let options = StopContainerOptions { t: Some(grace_seconds), signal: None };
        let stopped = ignore(&[304, 404], self.patient.stop_container(id, Some(options)).await);
        stopped.map_err(|error| translate(id, error))
    }

    pub(super) async fn container_status_impl(&self, container_id: &str) -> Result<ContainerStatus> {
        let inspected = self.docker.inspect_container(container_id, None).await;
        let inspected = inspected.map_err(|error| translate(container_id, error))?;
        Ok(self.status(inspected).await)
    }

    pub(super) async fn list_containers_impl(&self, filter: &ContainerFilter) -> Result<Vec<ContainerStatus>> {
        let ids = self.container_ids(filter).await?;
        let mut statuses = Vec::with_capacity(ids.len());
        for inspected in self.inspect_all(ids).await? {
            statuses.push(self.status(inspected).await);
        }
        statuses.retain(|container| filter.state.is_none_or(|state| container.state == state));
        Ok(statuses)
    }

    /// The ids of the containers that pass the filter except for its state, newest first.
    pub(super) async fn container_ids(&self, filter: &ContainerFilter) -> Result<Vec<String>> {
        let mut labels = self.owner.filter(Some(labels::KIND_CONTAINER));
        labels.extend(filter.pod_uid.iter().map(|uid| format!("{}={uid}", labels::POD_UID)));
        labels.extend(filter.sandbox_id.iter().map(|id| format!("{}={id}", labels::SANDBOX_ID)));
        self.list_ids([("label".to_string(), labels)].into_iter()).await
    }

    async fn status(&self, container: ContainerInspectResponse) -> ContainerStatus {
        let image_id = container.image.clone().unwrap_or_default();
        let image_name = self.image_name(&image_id).await;
        ContainerStatus { image_id: image_name, ..status(container) }
    }

    pub(super) async fn update_resources_impl(&self, container_id: &str, resources: &Resources) -> Result<()> {
        let limits = resources_to_host(resources);
        let body = ContainerUpdateBody {
            cpu_shares: limits.cpu_shares,
            cpu_quota: limits.cpu_quota,
            cpu_period: limits.cpu_period,
            memory: limits.memory,
            memory_swap: limits.memory_swap,
            pids_limit: limits.pids_limit,
            ..Default::default()
        };
        let updated = self.docker.update_container(container_id, body).await;
        updated.map_err(|error| translate(container_id, error))
    }
}

/// What Docker is asked for, except for user and labels.
fn create_body(
    runtime: &DockerConfig,
    sandbox_id: &str,
    host_ipc: bool,
    config: &ContainerConfig,
    mounts: Vec<DockerMount>,
) -> ContainerCreateBody {
    let sandbox = format!("container:{sandbox_id}");
    let pid_mode = match &config.target_container {
        Some(target) => Some(format!("container:{target}")),
        None if config.host_pid => Some("host".to_string()),
        None if config.share_pid => Some(sandbox.clone()),
        None => None,
    };
    let log_options = [("max-size", runtime.log_max_size.clone()), ("max-file", runtime.log_max_files.to_string())];
    let security = &config.security;
    let host = HostConfig {
        network_mode: Some(sandbox.clone()),
        ipc_mode: Some(if host_ipc { "host".into() } else { sandbox }),
        pid_mode,
        mounts: Some(mounts),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(log_options.into_iter().map(|(name, value)| (name.to_string(), value)).collect()),
        }),
        cap_add: Some(security.capabilities.add.clone()).filter(|names| !names.is_empty()),
        cap_drop: Some(security.capabilities.drop.clone()).filter(|names| !names.is_empty()),
        group_add: Some(security.supplemental_groups.iter().map(ToString::to_string).collect()),
        privileged: Some(security.privileged),
        readonly_rootfs: Some(security.read_only_root),
        security_opt: Some(security_options(security)),
        cgroup_parent: Some(config.cgroup_parent.clone()).filter(|parent| !parent.is_empty()),
        ..resources_to_host(&config.resources)
    };
    ContainerCreateBody {
        image: Some(config.image.clone()),
        entrypoint: Some(config.command.clone()).filter(|command| !command.is_empty()),
        cmd: Some(config.args.clone()).filter(|args| !args.is_empty()),
        working_dir: Some(config.working_dir.clone()).filter(|dir| !dir.is_empty()),
        env: Some(config.env.iter().map(|variable| format!("{}={}", variable.name, variable.value)).collect()),
        tty: Some(config.tty),
        open_stdin: Some(config.stdin),
        stdin_once: Some(config.stdin_once),
        stop_signal: config.stop_signal.clone(),
        stop_timeout: config.stop_timeout_seconds,
        host_config: Some(host),
        ..Default::default()
    }
}

fn security_options(security: &SecurityContext) -> Vec<String> {
    let no_new_privileges = security.no_new_privileges.then(|| "no-new-privileges".to_string());
    let seccomp = match &security.seccomp {
        Seccomp::RuntimeDefault => None,
        Seccomp::Unconfined => Some("seccomp=unconfined".to_string()),
        Seccomp::Profile(json) => Some(format!("seccomp={json}")),
    };
    no_new_privileges.into_iter().chain(seccomp).collect()
}

/// The limits in Docker's terms. A container gets no swap beyond its memory limit.
fn resources_to_host(resources: &Resources) -> HostConfig {
    HostConfig {
        cpu_shares: resources.cpu_shares,
        cpu_quota: resources.cpu_quota_us,
        cpu_period: resources.cpu_period_us,
        memory: resources.memory_bytes,
        memory_swap: resources.memory_bytes,
        pids_limit: resources.pids,
        oom_score_adj: resources.oom_score_adj,
        ..Default::default()
    }
}

fn status(container: ContainerInspectResponse) -> ContainerStatus {
    let state = container.state.unwrap_or_default();
    let config = container.config.unwrap_or_default();
    let identity = Identity::read(config.labels.unwrap_or_default());
    let created_at = container.created.as_deref().and_then(time).unwrap_or_default();
    let error = state.error.unwrap_or_default();
    let mut status = ContainerStatus {
        id: container.id.unwrap_or_default(),
        sandbox_id: identity.sandbox_id,
        pod: identity.pod,
        name: identity.container.unwrap_or_default(),
        attempt: identity.attempt,
        state: ContainerState::Unknown,
        created_at,
        started_at: state.started_at.as_deref().and_then(time),
        finished_at: state.finished_at.as_deref().and_then(time),
        exit_code: state.exit_code.and_then(|code| code.try_into().ok()).unwrap_or_default(),
        reason: String::new(),
        message: error.clone(),
        image: config.image.unwrap_or_default(),
        image_id: container.image.unwrap_or_default(),
        labels: identity.labels,
        annotations: identity.annotations,
    };
    if state.running == Some(true) {
        // A restarted container keeps the end of its last life; it is of no interest while it runs.
        status.finished_at = None;
        status.state = ContainerState::Running;
    } else if status.finished_at.is_some() && status.started_at.is_some() {
        status.state = ContainerState::Exited;
        // Docker notes the start a moment late: a short life would seem to end before it begins.
        status.started_at = status.started_at.min(status.finished_at);
        status.reason = match (state.oom_killed, status.exit_code) {
            (Some(true), _) => "OOMKilled",
            (_, 0) => "Completed",
            _ => "Error",
        }
        .into();
    } else if status.exit_code != 0 || !error.is_empty() {
        // Created, but its process could not be started.
        status.state = ContainerState::Exited;
        status.exit_code = START_ERROR_EXIT_CODE;
        status.reason = "StartError".into();
        status.started_at = Some(Timestamp::UNIX_EPOCH);
        status.finished_at.get_or_insert(created_at);
    } else if state.dead != Some(true) {
        status.state = ContainerState::Created;
    }
    status
}

/// Docker writes times in RFC 3339, and the year 1 for "never".
fn time(text: &str) -> Option<Timestamp> {
    text.parse().ok().filter(|time: &Timestamp| *time > Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use bollard::models::ContainerState as DockerState;

    use super::*;

    const NEVER: &str = "0001-01-01T00:00:00Z";
    const EARLY: &str = "2026-01-01T00:00:00.5Z";
    const LATE: &str = "2026-01-01T00:01:00Z";

    fn status_of(state: DockerState) -> ContainerStatus {
        status(ContainerInspectResponse { created: Some(EARLY.into()), state: Some(state), ..Default::default() })
    }

    fn state(started: &str, finished: &str, exit_code: i64) -> DockerState {
        DockerState {
            started_at: Some(started.into()),
            finished_at: Some(finished.into()),
            exit_code: Some(exit_code),
            ..Default::default()
        }
    }

    #[test]
    fn dockers_states_become_kubernetes_reasons() {
        for (docker, expected, reason, exit_code) in [
            (state(NEVER, NEVER, 0), ContainerState::Created, "", 0),
            (DockerState { running: Some(true), ..state(EARLY, NEVER, 0) }, ContainerState::Running, "", 0),
            (state(EARLY, LATE, 0), ContainerState::Exited, "Completed", 0),
            (state(EARLY, LATE, 3), ContainerState::Exited, "Error", 3),
            (
                DockerState { oom_killed: Some(true), ..state(EARLY, LATE, 137) },
                ContainerState::Exited,
                "OOMKilled",
                137,
            ),
            (state(NEVER, NEVER, 127), ContainerState::Exited, "StartError", 128),
        ] {
            let status = status_of(docker);
            assert_eq!((status.state, status.reason.as_str(), status.exit_code), (expected, reason, exit_code));
        }
    }

    #[test]
    fn a_container_joins_the_namespaces_of_its_sandbox() {
        let runtime = DockerConfig::new("c", "n", "net", "pause");
        let config = ContainerConfig { share_pid: true, ..Default::default() };
        let host = create_body(&runtime, "s1", false, &config, Vec::new()).host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("container:s1"));
        assert_eq!(host.ipc_mode.as_deref(), Some("container:s1"));
        assert_eq!(host.pid_mode.as_deref(), Some("container:s1"));
    }

    #[test]
    fn an_ephemeral_container_joins_the_processes_of_its_target() {
        let runtime = DockerConfig::new("c", "n", "net", "pause");
        let config = ContainerConfig { target_container: Some("c2".into()), share_pid: true, ..Default::default() };
        let host = create_body(&runtime, "s1", true, &config, Vec::new()).host_config.unwrap();
        assert_eq!(host.pid_mode.as_deref(), Some("container:c2"));
        assert_eq!(host.ipc_mode.as_deref(), Some("host"));
    }
}
