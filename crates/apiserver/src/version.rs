//! `/version`: which Kubernetes this is compatible with.

use serde_json::{Value, json};

/// The version of Kubernetes' API that is spoken, and of the program that speaks it.
pub const GIT_VERSION: &str = concat!("v1.36.2+coracle-", env!("CARGO_PKG_VERSION"));

/// The answer of `/version`.
pub fn document() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, architecture()),
    })
}

/// The architecture as Go (and so every image and node) calls it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
