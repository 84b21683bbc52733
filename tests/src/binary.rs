//! The binary under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// The `coracle` beside this test's executable, built if it is missing or older than its sources.
pub fn coracle() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(named) = std::env::var_os("CORACLE_TEST_BINARY") {
            return named.into();
        }
        // target/<profile>/deps/<test>
        let test = std::env::current_exe().expect("a running program has a path");
        let folder = test.ancestors().nth(2).expect("a test lies in the target directory");
        let binary = folder.join("coracle");
        let built = std::fs::metadata(&binary).and_then(|metadata| metadata.modified()).ok();
        if built < Some(newest_source(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates"))) {
            build(folder);
        }
        binary
    })
}

fn build(folder: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--package", "coracle", "--quiet"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if folder.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status().expect("cargo runs");
    assert!(status.success(), "coracle does not build");
}

/// When the last change was made to a Rust source of the product.
fn newest_source(folder: &Path) -> SystemTime {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let times = entries.filter_map(|entry| {
        let (path, kind) = (entry.path(), entry.file_type().ok()?);
        if kind.is_dir() {
            return (entry.file_name() != "tests").then(|| newest_source(&path));
        }
        let source = path.extension().is_some_and(|extension| extension == "rs");
        source.then(|| entry.metadata().ok()?.modified().ok()).flatten()
    });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}
