//! Making volumes on disk, and removing them with their pod.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::{VolumeError, VolumePlan, write_atomically};

/// Makes a volume as planned below the pod's directory and answers the host path to mount. `stamp` names a new
/// generation of files (see [`write_atomically`]).
///
/// # Errors
/// The message of the `FailedMount` event.
pub fn set_up(
    pod_dir: &Path,
    volume: &str,
    plan: &VolumePlan,
    stamp: &str,
    fs_group: Option<u32>,
) -> Result<PathBuf, VolumeError> {
    let below = |plugin: &str| pod_dir.join("volumes").join(format!("kubernetes.io~{plugin}")).join(volume);
    let failed = |error: io::Error| VolumeError::set_up(volume, error);
    match plan {
        VolumePlan::EmptyDir { memory, size_limit } => {
            let dir = below("empty-dir");
            if !dir.exists() {
                fs::create_dir_all(&dir).map_err(failed)?;
                if *memory {
                    mount_tmpfs(&dir, *size_limit);
                }
                fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).map_err(failed)?;
                own(&dir, fs_group).map_err(failed)?;
            }
            Ok(dir)
        }
        VolumePlan::HostPath { path, kind, owned } => {
            check_host_path(path, kind).map_err(|why| VolumeError::set_up(volume, why))?;
            if *owned {
                own(path, fs_group).map_err(failed)?;
            }
            Ok(path.clone())
        }
        VolumePlan::Files { plugin, payload } => {
            let dir = below(plugin);
            write_atomically(&dir, payload, stamp, fs_group).map_err(failed)?;
            Ok(dir)
        }
    }
}

/// Memory as a file system where we may mount one; a plain directory where we may not.
fn mount_tmpfs(dir: &Path, size_limit: Option<i64>) {
    use rustix::mount::{MountFlags, mount};
    let data = size_limit.map_or_else(String::new, |bytes| format!("size={bytes}"));
    let data = std::ffi::CString::new(data).ok();
    if let Err(error) = mount("tmpfs", dir, "tmpfs", MountFlags::empty(), data.as_deref()) {
        tracing::debug!(dir = %dir.display(), %error, "no tmpfs for a volume in memory; it stays on disk");
    }
}

/// Gives a volume to the pod's `fsGroup`: the group may do what the owner may, and new files belong to it too.
fn own(path: &Path, fs_group: Option<u32>) -> io::Result<()> {
    let Some(gid) = fs_group else { return Ok(()) };
    let metadata = fs::symlink_metadata(path)?;
    if metadata.file_type().is_symlink() {
        return Ok(());
    }
    chown(path, None, Some(gid))?;
    let mode = metadata.permissions().mode();
    if metadata.is_dir() {
        fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o2770))?;
        for entry in fs::read_dir(path)? {
            own(&entry?.path(), fs_group)?;
        }
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o660))
}

fn check_host_path(path: &Path, kind: &str) -> Result<(), String> {
    let shown = path.display();
    match kind {
        "DirectoryOrCreate" if !path.exists() => {
            fs::create_dir_all(path).map_err(|error| error.to_string())?;
            return fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(|error| error.to_string());
        }
        "FileOrCreate" if !path.exists() => return fs::write(path, "").map_err(|error| error.to_string()),
        // Docker makes what a bind mount names; so does Kubernetes without a type.
        "" if !path.exists() => return fs::create_dir_all(path).map_err(|error| error.to_string()),
        _ => {}
    }
    let found = fs::metadata(path).ok().map(|metadata| metadata.file_type());
    let (expected, what) = match kind {
        "" => return Ok(()),
        "Directory" | "DirectoryOrCreate" => (found.map(|t| t.is_dir()), "directory"),
        "File" | "FileOrCreate" => (found.map(|t| t.is_file()), "file"),
        "Socket" => (found.map(|t| t.is_socket()), "socket file"),
        "CharDevice" => (found.map(|t| t.is_char_device()), "character device"),
        "BlockDevice" => (found.map(|t| t.is_block_device()), "block device"),
        other => return Err(format!("{other} is an invalid volume type")),
    };
    if expected == Some(true) { Ok(()) } else { Err(format!("hostPath type check failed: {shown} is not a {what}")) }
}

/// Removes all that a pod has on disk, unmounting what is in memory first.
///
/// # Errors
/// Those of the file system.
pub fn tear_down(pod_dir: &Path) -> io::Result<()> {
    if let Ok(volumes) = fs::read_dir(pod_dir.join("volumes/kubernetes.io~empty-dir")) {
        for volume in volumes.flatten() {
            // Fails where nothing is mounted, which is most often.
            let _ = rustix::mount::unmount(volume.path(), rustix::mount::UnmountFlags::DETACH);
        }
    }
    match fs::remove_dir_all(pod_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_dir_belongs_to_everyone_and_goes_with_its_pod() {
        let root = tempfile::tempdir().unwrap();
        let pod_dir = root.path().join("uid");
        let plan = VolumePlan::EmptyDir { memory: false, size_limit: None };
        let dir = set_up(&pod_dir, "v", &plan, "1", None).unwrap();
        assert!(dir.ends_with("uid/volumes/kubernetes.io~empty-dir/v"));
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o777);
        fs::write(dir.join("kept"), "x").unwrap();
        set_up(&pod_dir, "v", &plan, "2", None).unwrap();
        assert!(dir.join("kept").exists());
        tear_down(&pod_dir).unwrap();
        assert!(!pod_dir.exists());
        tear_down(&pod_dir).unwrap();
    }

    #[test]
    fn a_host_path_is_checked_against_its_type() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let at = |path: &Path, kind: &str| {
            let plan = VolumePlan::HostPath { path: path.into(), kind: kind.into(), owned: false };
            set_up(root.path(), "v", &plan, "1", None).map_err(|error| error.message)
        };
        assert!(at(&root.path().join("new"), "DirectoryOrCreate").is_ok());
        assert!(root.path().join("new").is_dir());
        assert!(at(&file, "File").is_ok());
        let message = format!(
            "MountVolume.SetUp failed for volume \"v\" : hostPath type check failed: {} is not a directory",
            file.display()
        );
        assert_eq!(at(&file, "Directory"), Err(message));
        assert!(at(&root.path().join("absent"), "Socket").is_err());
    }
}
