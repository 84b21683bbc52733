//! The audit log's file: when it is full it is put aside under a name that says when, and the oldest of those go.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

const MEGABYTE: u64 = 1024 * 1024;
/// What 0 means for the size, as upstream's library has it.
const DEFAULT_MEGABYTES: u64 = 100;
/// `audit-2026-11-28T20-10-00.123.log` is what was put aside at that time.
const TIME: &str = "%Y-%m-%dT%H-%M-%S.%3f";

/// How much is kept; 0 is no limit, but for the size.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keep {
    /// A file's size, in megabytes; 0 is 100.
    pub max_megabytes: u64,
    /// How many files that were put aside.
    pub max_backups: usize,
    /// For how many days.
    pub max_days: u64,
}

/// A file that is put aside when it is full.
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    keep: Keep,
    file: File,
    size: u64,
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    // Names of users and of Secrets are in it.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

impl RotatingFile {
    /// Opens the file, or makes it.
    pub fn open(path: &Path, keep: Keep) -> io::Result<Self> {
        let file = open(path)?;
        let size = file.metadata()?.len();
        Ok(RotatingFile { path: path.to_owned(), keep, file, size })
    }

    /// Stem and extension of the file's name, as text.
    fn name(&self) -> (String, String) {
        let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let extension = self.path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
        (text(self.path.file_stem()), extension)
    }

    fn rotate(&mut self) -> io::Result<()> {
        let (stem, extension) = self.name();
        let aside = format!("{stem}-{}{extension}", coracle_clock::now().strftime(TIME));
        fs::rename(&self.path, self.path.with_file_name(aside))?;
        self.file = open(&self.path)?;
        self.size = 0;
        self.clean()
    }

    /// Removes of what was put aside what is too old or too much.
    fn clean(&self) -> io::Result<()> {
        let (stem, extension) = self.name();
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut aside: Vec<(Timestamp, PathBuf)> = fs::read_dir(folder)?
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let time = name.strip_prefix(&stem)?.strip_prefix('-')?.strip_suffix(&extension)?;
                let time = jiff::civil::DateTime::strptime(TIME, time).ok()?;
                Some((time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp(), entry.path()))
            })
            .collect();
        aside.sort();
        let surplus = match self.keep.max_backups {
            0 => 0,
            kept => aside.len().saturating_sub(kept),
        };
        let age = Duration::from_secs(self.keep.max_days * 86_400);
        let old = |time: Timestamp| !age.is_zero() && time + age < coracle_clock::now();
        for (_, path) in
            aside.iter().enumerate().filter(|(i, (time, _))| *i < surplus || old(*time)).map(|(_, one)| one)
        {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

impl Write for RotatingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let megabytes = if self.keep.max_megabytes == 0 { DEFAULT_MEGABYTES } else { self.keep.max_megabytes };
        if self.size > 0 && self.size + bytes.len() as u64 > megabytes * MEGABYTE {
            self.rotate()?;
        }
        let written = self.file.write(bytes)?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::in_simulation;

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_go() {
        in_simulation(async || {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("audit.log");
            let keep = Keep { max_megabytes: 1, max_backups: 2, max_days: 0 };
            let mut file = RotatingFile::open(&path, keep).unwrap();
            let line = vec![b'x'; 600 * 1024];
            for _ in 0..5 {
                file.write_all(&line).unwrap();
                coracle_clock::sleep(Duration::from_secs(1)).await;
            }
            let mut names: Vec<_> =
                fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            assert_eq!(names, ["audit-2026-01-01T00-00-03.000.log", "audit-2026-01-01T00-00-04.000.log", "audit.log"]);
            assert_eq!(fs::metadata(&path).unwrap().len(), line.len() as u64);
        });
    }
}
