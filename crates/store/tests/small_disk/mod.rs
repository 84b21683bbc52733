//! A disk that is soon full.

use std::path::{Path, PathBuf};
use std::process::Command;

const BYTES: usize = 24 << 20;

/// A file system of 24 MiB, if this user may mount one.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub fn mount() -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={BYTES}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).status();
        let mounted = mount.is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("skipped: mounting a small file system needs root");
        }
        mounted.then(|| SmallDisk(dir))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes what is left, but for these bytes and a little.
    pub fn fill(&self, but: usize) -> Ballast {
        let path = self.path().join("ballast");
        let mut left = vec![0; BYTES];
        while std::fs::write(&path, &left).is_err() {
            left.truncate(left.len() - (64 << 10));
        }
        left.truncate(left.len() - but);
        std::fs::write(&path, &left).unwrap();
        Ballast(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        _ = Command::new("umount").arg(self.path()).status();
    }
}

/// What fills a disk; removed when dropped.
pub struct Ballast(PathBuf);

impl Drop for Ballast {
    fn drop(&mut self) {
        _ = std::fs::remove_file(&self.0);
    }
}
