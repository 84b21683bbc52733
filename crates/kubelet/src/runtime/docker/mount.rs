//! Mounts in Docker's terms.
//!
//! Mounts can travel only below a mount point that shares them, and on many a machine `/` does not; Docker refuses
//! such a container when it starts. What cannot travel is mounted privately instead, with a warning.

use std::path::Path;

use bollard::models::{Mount as DockerMount, MountBindOptions, MountBindOptionsPropagationEnum, MountType};

use crate::runtime::{Mount, MountPropagation};

/// The mounts in Docker's terms.
pub(super) async fn mounts(mounts: &[Mount]) -> Vec<DockerMount> {
    let travels = mounts.iter().any(|mount| mount.propagation != MountPropagation::Private);
    let table = match travels {
        true => tokio::fs::read_to_string("/proc/self/mountinfo").await.unwrap_or_default(),
        false => String::new(),
    };
    mounts.iter().map(|mount| docker_mount(mount, &table)).collect()
}

fn docker_mount(mount: &Mount, table: &str) -> DockerMount {
    let sharing = Sharing::of(table, Path::new(&mount.host_path));
    let propagation = match (mount.propagation, sharing) {
        (MountPropagation::Private, _) => MountBindOptionsPropagationEnum::RPRIVATE,
        (MountPropagation::HostToContainer, Sharing::Shared | Sharing::Slave) => {
            MountBindOptionsPropagationEnum::RSLAVE
        }
        (MountPropagation::Bidirectional, Sharing::Shared) => MountBindOptionsPropagationEnum::RSHARED,
        (wanted, _) => {
            tracing::warn!(path = mount.host_path, ?wanted, "mounts cannot travel here: mounted privately");
            MountBindOptionsPropagationEnum::RPRIVATE
        }
    };
    DockerMount {
        typ: Some(MountType::BIND),
        source: Some(mount.host_path.clone()),
        target: Some(mount.container_path.clone()),
        read_only: Some(mount.read_only),
        bind_options: Some(MountBindOptions { propagation: Some(propagation), ..Default::default() }),
        ..Default::default()
    }
}

/// Whether a mount point passes on what is mounted below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    Private,
    /// Receives only.
    Slave,
    Shared,
}

impl Sharing {
    /// Reads `/proc/self/mountinfo` (proc(5)): the mount point is the fifth field, and the optional fields that tell
    /// stand between the sixth and a lone hyphen. Of several that contain the path the longest, and of those the last,
    /// is the one that is seen.
    fn of(table: &str, path: &Path) -> Sharing {
        let lines = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let above = lines.filter(|fields| fields.get(4).is_some_and(|point| path.starts_with(point)));
        let Some(fields) = above.max_by_key(|fields| fields[4].len()) else { return Sharing::Private };
        let optional = || fields.iter().skip(6).take_while(|field| **field != "-");
        match () {
            () if optional().any(|field| field.starts_with("shared:")) => Sharing::Shared,
            () if optional().any(|field| field.starts_with("master:")) => Sharing::Slave,
            () => Sharing::Private,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
23 22 0:21 / /srv rw,relatime shared:5 - tmpfs none rw
24 22 0:22 / /mnt rw,relatime master:3 - tmpfs none rw";

    #[test]
    fn the_nearest_mount_point_decides() {
        for (path, sharing) in [
            ("/data/x", Sharing::Private),
            ("/srv/x/y", Sharing::Shared),
            ("/mnt", Sharing::Slave),
            ("/srvx", Sharing::Private),
        ] {
            assert_eq!(Sharing::of(TABLE, Path::new(path)), sharing, "{path}");
        }
    }
}
