//! From a container's definition to what the runtime is asked for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::dns::{kernel_hostname, pod_dns};
use crate::expansion::expand;
use crate::plan::HASH_ANNOTATION;
use crate::resources::runtime_resources;
use crate::runtime::{
    ContainerConfig, DnsConfig, EnvVar, ImageInfo, Mount, MountPropagation, PodRef, PortMapping, SandboxConfig,
    TransportProtocol,
};
use crate::security::security_context;
use crate::text::container_hash;
use crate::volumes::mounts::volume_mounts;

/// Where a container leaves its last words unless it says otherwise.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// The runtime's reference to a pod.
pub fn pod_ref(pod: &Pod) -> PodRef {
    let meta = &pod.metadata;
    PodRef {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    }
}

/// A pod's sandbox.
pub fn sandbox_config(pod: &Pod, attempt: u32, ip: Option<IpAddr>, cluster: &crate::dns::ClusterDns) -> SandboxConfig {
    let spec = pod.spec.clone().unwrap_or_default();
    let security = spec.security_context.unwrap_or_default();
    let dns: DnsConfig = pod_dns(pod, cluster);
    SandboxConfig {
        pod: pod_ref(pod),
        attempt,
        hostname: kernel_hostname(pod, &cluster.domain),
        dns,
        ip,
        host_network: spec.host_network == Some(true),
        host_pid: spec.host_pid == Some(true),
        host_ipc: spec.host_ipc == Some(true),
        sysctls: security.sysctls.into_iter().flatten().map(|sysctl| (sysctl.name, sysctl.value)).collect(),
        port_mappings: port_mappings(pod),
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        ..SandboxConfig::default()
    }
}

fn port_mappings(pod: &Pod) -> Vec<PortMapping> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    if spec.host_network == Some(true) {
        return Vec::new();
    }
    let sidecars = spec.init_containers.iter().flatten().filter(|c| crate::observed::is_sidecar(c));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let port = |number: i32| u16::try_from(number).ok().filter(|n| *n > 0);
    ports
        .filter_map(|p| {
            Some(PortMapping {
                host_ip: p.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
                host_port: port(p.host_port?)?,
                container_port: port(p.container_port)?,
                protocol: match p.protocol.as_deref() {
                    Some("UDP") => TransportProtocol::Udp,
                    Some("SCTP") => TransportProtocol::Sctp,
                    _ => TransportProtocol::Tcp,
                },
            })
        })
        .collect()
}

/// What a container's configuration follows from, besides its definition.
#[derive(Clone, Copy, Debug)]
pub struct ContainerInput<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// How often it was restarted before.
    pub attempt: u32,
    /// Its image.
    pub image: &'a ImageInfo,
    /// Its environment.
    pub env: &'a [EnvVar],
    /// The host paths of the pod's volumes.
    pub volumes: &'a BTreeMap<String, PathBuf>,
    /// The pod's own directory; `None` when nothing is kept on disk.
    pub pod_dir: Option<&'a Path>,
    /// Where seccomp profiles lie.
    pub seccomp_root: &'a Path,
    /// The node's memory.
    pub node_memory_bytes: u64,
    /// For an ephemeral container: whose processes it sees.
    pub target: Option<&'a str>,
}

/// What the runtime is asked for.
///
/// # Errors
/// The message of `CreateContainerConfigError`.
pub fn container_config(input: ContainerInput<'_>) -> Result<ContainerConfig, String> {
    let ContainerInput { pod, container, attempt, env, .. } = input;
    let spec = pod.spec.clone().unwrap_or_default();
    let known = |name: &str| env.iter().find(|v| v.name == name).map(|v| v.value.clone());
    let expanded = |words: &Option<Vec<String>>| words.iter().flatten().map(|word| expand(word, known)).collect();
    let security = security_context(pod, container, &input.image.user, input.seccomp_root)?;
    let mut mounts = volume_mounts(pod, container, input.volumes, env, input.pod_dir.is_some())?;
    if let Some(dir) = input.pod_dir {
        mounts.extend(own_mounts(container, attempt, dir, &mounts)?);
    }
    Ok(ContainerConfig {
        pod: pod_ref(pod),
        name: container.name.clone(),
        attempt,
        image: container.image.clone().unwrap_or_default(),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        env: env.to_vec(),
        mounts,
        tty: container.tty == Some(true),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        resources: runtime_resources(pod, container, input.node_memory_bytes),
        security,
        share_pid: spec.share_process_namespace == Some(true),
        target_container: input.target.map(str::to_owned),
        host_pid: spec.host_pid == Some(true),
        stop_signal: container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone()),
        stop_timeout_seconds: spec.termination_grace_period_seconds,
        cgroup_parent: String::new(),
        labels: BTreeMap::new(),
        annotations: [(HASH_ANNOTATION.to_owned(), container_hash(container))].into(),
    })
}

/// The file in which a container instance leaves its last words.
pub fn termination_log(pod_dir: &Path, container: &str, attempt: u32) -> PathBuf {
    pod_dir.join("containers").join(container).join(attempt.to_string())
}

/// `/etc/hosts`, `/etc/resolv.conf` and the termination log, unless a volume is mounted there.
fn own_mounts(container: &Container, attempt: u32, pod_dir: &Path, mounts: &[Mount]) -> Result<Vec<Mount>, String> {
    let log = termination_log(pod_dir, &container.name, attempt);
    let make = || -> std::io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        log.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::write(&log, "")?;
        // The container may run as anybody.
        std::fs::set_permissions(&log, std::fs::Permissions::from_mode(0o666))
    };
    make().map_err(|error| format!("failed to create the termination log: {error}"))?;
    let log_path = container.termination_message_path.clone().filter(|p| !p.is_empty());
    let own = [
        (pod_dir.join("etc-hosts"), "/etc/hosts".to_owned()),
        (pod_dir.join("resolv.conf"), "/etc/resolv.conf".to_owned()),
        (log, log_path.unwrap_or_else(|| TERMINATION_LOG.into())),
    ];
    let taken = |path: &str| mounts.iter().any(|mount| mount.container_path == path);
    let free = own.into_iter().filter(|(_, container_path)| !taken(container_path));
    Ok(free
        .map(|(host_path, container_path)| Mount {
            host_path: host_path.to_string_lossy().into_owned(),
            container_path,
            read_only: false,
            propagation: MountPropagation::Private,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::observed::containers;
    use crate::runtime::ImageUser;
    use crate::testing::pod;

    #[test]
    fn a_container_is_translated_whole() {
        let pod = pod(
            "p",
            json!({ "shareProcessNamespace": true, "containers": [{
            "name": "a", "image": "busybox:1", "command": ["echo", "$(WHO)"], "args": ["$$(WHO)"], "workingDir": "/w",
            "stdin": true, "tty": true, "ports": [{ "containerPort": 80, "hostPort": 8080 }],
        }] }),
        );
        let image =
            ImageInfo { id: "sha256:1".into(), tags: vec![], digests: vec![], size_bytes: 1, user: ImageUser::Uid(0) };
        let env = [EnvVar { name: "WHO".into(), value: "me".into() }];
        let volumes = BTreeMap::new();
        let config = container_config(ContainerInput {
            pod: &pod,
            container: &containers(&pod)[0],
            attempt: 3,
            image: &image,
            env: &env,
            volumes: &volumes,
            pod_dir: None,
            seccomp_root: Path::new("/"),
            node_memory_bytes: 1 << 30,
            target: None,
        })
        .unwrap();
        assert_eq!((config.command, config.args), (vec!["echo".into(), "me".into()], vec!["$(WHO)".to_owned()]));
        assert!(config.share_pid && config.tty && config.stdin);
        assert_eq!((config.attempt, config.working_dir.as_str()), (3, "/w"));
        let sandbox = sandbox_config(&pod, 0, None, &crate::dns::ClusterDns::default());
        assert_eq!((sandbox.port_mappings[0].host_port, sandbox.port_mappings[0].container_port), (8080, 80));
    }

    #[test]
    fn the_kubelets_files_give_way_to_volumes() {
        let dir = tempfile::tempdir().unwrap();
        let container: Container = serde_json::from_value(json!({ "name": "a" })).unwrap();
        let hosts = Mount { container_path: "/etc/hosts".into(), ..Mount::default() };
        let own = own_mounts(&container, 0, dir.path(), &[hosts]).unwrap();
        let paths: Vec<_> = own.iter().map(|m| m.container_path.as_str()).collect();
        assert_eq!(paths, ["/etc/resolv.conf", "/dev/termination-log"]);
        assert!(dir.path().join("containers/a/0").exists());
    }
}
