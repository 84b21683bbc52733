//! What a container uses, from the kernel's own files: a few reads, where the engine's sample is a request that keeps
//! it busy for milliseconds. An engine elsewhere, or one with a cgroup parent of its own, is asked instead.

use std::path::{Path, PathBuf};

/// Where control groups are mounted.
pub(super) const ROOT: &str = "/sys/fs/cgroup";

/// What a container's control group has used so far, and uses now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) cpu_nanos: u64,
    pub(super) memory_bytes: u64,
    /// The lines of `memory.stat`.
    pub(super) memory: String,
    pub(super) pids: u64,
}

/// Reads the control group that the engine made for a container, in version 2 or 1.
pub(super) fn read(root: &Path, id: &str) -> Option<Usage> {
    // The two are the drivers cgroupfs and systemd.
    let places = [format!("docker/{id}"), format!("system.slice/docker-{id}.scope")];
    places.iter().find_map(|place| version_2(&root.join(place)).or_else(|| version_1(root, place)))
}

fn version_2(group: &Path) -> Option<Usage> {
    let text = |file: &str| std::fs::read_to_string(group.join(file)).ok();
    Some(Usage {
        cpu_nanos: line(&text("cpu.stat")?, "usage_usec")? * 1000,
        memory_bytes: number(&text("memory.current")?)?,
        memory: text("memory.stat")?,
        pids: text("pids.current").and_then(|text| number(&text)).unwrap_or_default(),
    })
}

fn version_1(root: &Path, place: &str) -> Option<Usage> {
    let text = |controller: &str, file: &str| -> Option<String> {
        std::fs::read_to_string(
            [root, Path::new(controller), Path::new(place), Path::new(file)].iter().collect::<PathBuf>(),
        )
        .ok()
    };
    Some(Usage {
        cpu_nanos: number(&text("cpuacct", "cpuacct.usage")?)?,
        memory_bytes: number(&text("memory", "memory.usage_in_bytes")?)?,
        memory: text("memory", "memory.stat")?,
        pids: text("pids", "pids.current").and_then(|text| number(&text)).unwrap_or_default(),
    })
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The value of a line `name value`.
pub(super) fn line(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| number(line.strip_prefix(name)?.strip_prefix(' ')?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_and_both_drivers_are_read() {
        let v1 = [
            ("cpuacct/docker/a/cpuacct.usage", "1500000000\n"),
            ("memory/docker/a/memory.usage_in_bytes", "4096\n"),
            ("memory/docker/a/memory.stat", "inactive_file 1\ntotal_inactive_file 1024\n"),
            ("pids/docker/a/pids.current", "3\n"),
        ];
        let v2 = [
            ("system.slice/docker-a.scope/cpu.stat", "usage_usec 1500000\nuser_usec 1\n"),
            ("system.slice/docker-a.scope/memory.current", "4096\n"),
            ("system.slice/docker-a.scope/memory.stat", "inactive_file 1024\n"),
            ("system.slice/docker-a.scope/pids.current", "3\n"),
        ];
        for files in [v1, v2] {
            let root = tempfile::tempdir().unwrap();
            for (path, text) in files {
                let path = root.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            let Usage { cpu_nanos, memory_bytes, memory, pids } = read(root.path(), "a").unwrap();
            assert_eq!((cpu_nanos, memory_bytes, pids), (1_500_000_000, 4096, 3));
            let inactive = line(&memory, "total_inactive_file").or(line(&memory, "inactive_file"));
            assert_eq!(inactive, Some(1024));
            assert_eq!(read(root.path(), "b"), None);
        }
    }
}
