//! Key material on disk: written whole or not at all, private keys for their owner only.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{CertKey, PkiError};

fn at(path: &Path) -> impl FnOnce(io::Error) -> PkiError + '_ {
    move |source| PkiError::File { path: path.to_owned(), source }
}

/// The directory, with nobody but its owner admitted.
pub(super) fn create_private_dir(dir: &Path) -> Result<(), PkiError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(at(dir))
}

/// The file's text, or `None` if there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(at(path)(e)),
    }
}

/// `<name>.crt` and `<name>.key`, or `None` if there is neither.
pub(super) fn read_pair(dir: &Path, name: &str) -> Result<Option<CertKey>, PkiError> {
    let (cert, key) = paths(dir, name);
    match (read(&cert)?, read(&key)?) {
        (Some(cert_pem), Some(key_pem)) => Ok(Some(CertKey { cert_pem, key_pem })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(PkiError::HalfMissing { present: cert, missing: key }),
        (None, Some(_)) => Err(PkiError::HalfMissing { present: key, missing: cert }),
    }
}

/// Writes `<name>.key`, then `<name>.crt`.
pub(super) fn write_pair(dir: &Path, name: &str, pair: &CertKey) -> Result<(), PkiError> {
    let (cert, key) = paths(dir, name);
    write_private(&key, &pair.key_pem)?;
    write_public(&cert, &pair.cert_pem)
}

pub(super) fn write_private(path: &Path, text: &str) -> Result<(), PkiError> {
    write(path, text, 0o600)
}

pub(super) fn write_public(path: &Path, text: &str) -> Result<(), PkiError> {
    write(path, text, 0o644)
}

fn paths(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")))
}

/// Writes beside the file and renames, so that a crash leaves the old file or the new one.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    match fs::remove_file(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(&beside)(e)),
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    let mut file = options.open(&beside).map_err(at(&beside))?;
    file.write_all(text.as_bytes()).map_err(at(&beside))?;
    fs::rename(&beside, path).map_err(at(path))
}
