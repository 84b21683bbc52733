//! Replacing all of a directory's files as one.
//!
//! Readers follow two links: `key -> ..data/key` and `..data -> ..<time>`. New files are written into a new
//! `..<time>` directory, then `..data` is replaced by rename, the one atomic step; a reader sees all of the old files
//! or all of the new ones.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use super::{FileEntry, Payload};

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Makes `dir` hold exactly `payload`, owned by group `fs_group` if given. `stamp` names the new generation and must
/// differ from the present one's. Answers whether anything changed.
///
/// # Errors
/// Those of the file system.
pub fn write_atomically(dir: &Path, payload: &Payload, stamp: &str, fs_group: Option<u32>) -> io::Result<bool> {
    fs::create_dir_all(dir)?;
    let old = fs::read_link(dir.join(DATA)).ok();
    if old.as_ref().is_some_and(|old| same(&dir.join(old), payload)) {
        return Ok(false);
    }
    let generation = format!("..{stamp}");
    let new_dir = dir.join(&generation);
    fs::create_dir_all(&new_dir)?;
    fs::set_permissions(&new_dir, fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        write_file(&new_dir.join(path), file, fs_group)?;
    }
    let _ = fs::remove_file(dir.join(DATA_NEW));
    symlink(&generation, dir.join(DATA_NEW))?;
    fs::rename(dir.join(DATA_NEW), dir.join(DATA))?;
    link_names(dir, payload)?;
    if let Some(old) = old.filter(|old| old.as_path() != Path::new(&generation)) {
        fs::remove_dir_all(dir.join(old))?;
    }
    Ok(true)
}

fn write_file(path: &Path, file: &FileEntry, fs_group: Option<u32>) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, &file.data)?;
    // The group that volumes belong to may read what the owner may.
    let mode = if fs_group.is_some() { file.mode | 0o440 } else { file.mode };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    if fs_group.is_some() {
        chown(path, None, fs_group)?;
    }
    Ok(())
}

/// Whether a generation holds exactly these files.
fn same(generation: &Path, payload: &Payload) -> bool {
    let mut names = BTreeSet::new();
    collect(generation, generation, &mut names).is_ok()
        && names.len() == payload.len()
        && payload.iter().all(|(path, file)| {
            names.contains(path) && fs::read(generation.join(path)).is_ok_and(|data| data == file.data)
        })
}

fn collect(root: &Path, dir: &Path, names: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, names)?;
        } else if let Ok(relative) = path.strip_prefix(root) {
            names.insert(relative.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

/// The names that readers see: a link for each first component of a path, and none that is no longer there.
fn link_names(dir: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) {
            fs::remove_file(entry.path())?;
        }
    }
    for name in wanted {
        if fs::symlink_metadata(dir.join(name)).is_err() {
            symlink(Path::new(DATA).join(name), dir.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let entry = |data: &str| FileEntry { data: data.into(), mode: 0o640 };
        files.iter().map(|(path, data)| ((*path).to_owned(), entry(data))).collect()
    }

    fn visible(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with(".."));
        names.sort();
        names
    }

    #[test]
    fn files_are_replaced_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert!(write_atomically(dir, &payload(&[("a", "1"), ("d/b", "2")]), "1", None).unwrap());
        assert_eq!(fs::read_to_string(dir.join("d/b")).unwrap(), "2");
        assert_eq!(fs::metadata(dir.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(!write_atomically(dir, &payload(&[("a", "1"), ("d/b", "2")]), "2", None).unwrap());
        assert_eq!(fs::read_link(dir.join("..data")).unwrap(), Path::new("..1"));
        assert!(write_atomically(dir, &payload(&[("a", "9")]), "3", None).unwrap());
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "9");
        assert_eq!(visible(dir), ["a"]);
        assert!(!dir.join("..1").exists());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn whatever_was_there_the_directory_shows_the_last_payload(
            history in proptest::collection::vec(proptest::collection::btree_map("[a-c](/[d-e])?", "[0-9]{0,3}", 0..4), 1..4)
        ) {
            let dir = tempfile::tempdir().unwrap();
            for (index, files) in history.iter().enumerate() {
                // A path cannot be a file and a directory at once.
                let files: Vec<_> = files.iter().filter(|(p, _)| p.contains('/') || !files.keys().any(|q| q.starts_with(&format!("{p}/")))).map(|(p, d)| (p.as_str(), d.as_str())).collect();
                let payload = payload(&files);
                write_atomically(dir.path(), &payload, &index.to_string(), None).unwrap();
                for (path, file) in &payload {
                    prop_assert_eq!(&fs::read(dir.path().join(path)).unwrap(), &file.data);
                }
                let tops: BTreeSet<_> = payload.keys().map(|p| p.split('/').next().unwrap().to_owned()).collect();
                prop_assert_eq!(visible(dir.path()), tops.into_iter().collect::<Vec<_>>());
            }
        }
    }
}
