//! Where a container sees the pod's volumes.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, Volume};

use crate::expansion::expand;
use crate::runtime::{EnvVar, Mount, MountPropagation};

/// A container's volume mounts. `volumes` are the host paths of the pod's volumes by name; a `subPath` that does not
/// exist is made when `on_disk`.
///
/// # Errors
/// The message of `CreateContainerConfigError`: a volume is missing or a `subPath` cannot be used.
pub fn volume_mounts(
    pod: &Pod,
    container: &Container,
    volumes: &BTreeMap<String, PathBuf>,
    env: &[EnvVar],
    on_disk: bool,
) -> Result<Vec<Mount>, String> {
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let Some(root) = volumes.get(&mount.name) else {
            return Err(format!("cannot find volume {:?} to mount into container {:?}", mount.name, container.name));
        };
        let sub_path = match mount.sub_path_expr.as_deref().filter(|expr| !expr.is_empty()) {
            Some(expr) => {
                let value = |name: &str| env.iter().find(|v| v.name == name).map(|v| v.value.clone());
                let path = expand(expr, value);
                if path.contains("$(") {
                    return Err(format!("missing value for subPathExpr {expr:?}"));
                }
                path
            }
            None => mount.sub_path.clone().unwrap_or_default(),
        };
        let host_path = if sub_path.is_empty() { root.clone() } else { below(root, &sub_path, on_disk)? };
        let container_path = match mount.mount_path.strip_prefix('/') {
            Some(_) => mount.mount_path.clone(),
            None => format!("/{}", mount.mount_path),
        };
        mounts.push(Mount {
            host_path: host_path.to_string_lossy().into_owned(),
            container_path,
            read_only: mount.read_only == Some(true) || is_read_only(pod, &mount.name),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => MountPropagation::HostToContainer,
                Some("Bidirectional") => MountPropagation::Bidirectional,
                _ => MountPropagation::Private,
            },
        });
    }
    Ok(mounts)
}

/// A volume is read-only if its claim says so, or if it shows what the API holds: writing there changes nothing.
fn is_read_only(pod: &Pod, volume: &str) -> bool {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let of_claim = |v: &Volume| v.persistent_volume_claim.as_ref().is_some_and(|claim| claim.read_only == Some(true));
    let of_api =
        |v: &Volume| v.config_map.is_some() || v.secret.is_some() || v.downward_api.is_some() || v.projected.is_some();
    volumes.iter().any(|v| v.name == volume && (of_claim(v) || of_api(v)))
}

/// A path inside a volume, made if need be. Links are followed, but never out of the volume.
fn below(root: &Path, sub_path: &str, on_disk: bool) -> Result<PathBuf, String> {
    let relative = Path::new(sub_path);
    if relative.components().any(|part| matches!(part, Component::ParentDir | Component::RootDir)) {
        return Err(format!("failed to prepare subPath for volumeMount: {sub_path:?} leaves the volume"));
    }
    let path = root.join(relative);
    if !on_disk {
        return Ok(path);
    }
    let failed = |error: std::io::Error| format!("failed to create subPath directory for volumeMount: {error}");
    if !path.exists() {
        std::fs::create_dir_all(&path).map_err(failed)?;
    }
    let (real, real_root) = (path.canonicalize().map_err(failed)?, root.canonicalize().map_err(failed)?);
    if !real.starts_with(&real_root) {
        return Err(format!("failed to prepare subPath for volumeMount: {sub_path:?} leaves the volume"));
    }
    Ok(real)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::observed::containers;
    use crate::testing::pod;

    #[test]
    fn a_container_sees_volumes_and_parts_of_them() {
        let pod = pod(
            "p",
            json!({
                "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "c", "readOnly": true } }],
                "containers": [{ "name": "a", "volumeMounts": [
                    { "name": "v", "mountPath": "/v" },
                    { "name": "w", "mountPath": "rel", "subPathExpr": "x/$(NAME)", "readOnly": false },
                ] }],
            }),
        );
        let volumes = [("v".to_owned(), PathBuf::from("/h/v")), ("w".to_owned(), PathBuf::from("/h/w"))].into();
        let env = [EnvVar { name: "NAME".into(), value: "n".into() }];
        let mounts = volume_mounts(&pod, &containers(&pod)[0], &volumes, &env, false).unwrap();
        let seen: Vec<_> =
            mounts.iter().map(|m| (m.host_path.as_str(), m.container_path.as_str(), m.read_only)).collect();
        assert_eq!(seen, [("/h/v", "/v", true), ("/h/w/x/n", "/rel", false)]);
    }

    #[test]
    fn a_sub_path_stays_in_its_volume() {
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", root.path().join("out")).unwrap();
        assert!(below(root.path(), "a/b", true).unwrap().is_dir());
        assert!(below(root.path(), "../x", true).is_err());
        assert!(below(root.path(), "out", true).is_err());
    }
}
