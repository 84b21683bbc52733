//! The Python client, in a virtual environment beside the tests' programs.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Output, run};

/// The client's version: that of the API.
const CLIENT: &str = "kubernetes==36.0.3";

/// The environment's Python, after installing the client if it is not there.
///
/// # Errors
/// Why it cannot be had here.
pub fn python() -> Result<PathBuf, String> {
    let test = std::env::current_exe().map_err(|error| error.to_string())?;
    // target/<profile>/deps/<test>
    let folder = test.ancestors().nth(2).ok_or("a test lies in the target directory")?;
    let environment = folder.join(CLIENT.replace("==", "-python-"));
    let (python, done) = (environment.join("bin/python"), environment.join("installed"));
    if !done.is_file() {
        step(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
        step(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", CLIENT]))?;
        std::fs::write(&done, CLIENT).map_err(|error| error.to_string())?;
    }
    Ok(python)
}

fn step(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {said}")) }
}

/// Runs a script of `tests/python`.
///
/// # Panics
/// If there is no Python client, and tests are required.
pub fn script(name: &str, arguments: &[&str]) -> Option<Output> {
    let python = match python() {
        Ok(python) => python,
        Err(why) => {
            assert!(!crate::cluster::required(), "{why}");
            eprintln!("skipped: {why}");
            return None;
        }
    };
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(name)).args(arguments);
    Some(run(command, ""))
}
