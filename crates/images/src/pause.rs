//! The sandbox's image: our own static program, carried inside this binary.
//!
//! The program's source is `pause/pause.rs`; `build.rs` compiles it. Its image holds nothing else, so
//! loading it takes milliseconds and needs neither network nor tools.

use bollard::Docker;

use crate::archive::{self, ImageConfig, ImageError};
use crate::rootfs::{Node, Rootfs};

/// The name of the image in which every pod's sandbox container runs.
pub const PAUSE_IMAGE: &str = "coracle/pause:3.10";

/// The program, an ELF file for this CPU.
const PAUSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

/// Makes sure that the engine has [`PAUSE_IMAGE`] as this binary carries it.
pub async fn ensure_pause(docker: &Docker) -> Result<(), ImageError> {
    let label = archive::sha256(PAUSE);
    if archive::recipe_of(docker, PAUSE_IMAGE).await?.is_some_and(|found| found.as_deref() == Some(&label)) {
        return Ok(());
    }
    let mut root = Rootfs::default();
    root.insert("pause", Node::file(PAUSE, 0o755));
    let layer = archive::layer_in_memory(&root)?;
    let config = ImageConfig { entrypoint: vec!["/pause".into()], recipe: label, ..ImageConfig::default() };
    archive::load(docker, PAUSE_IMAGE, &config, layer, &|_, _| {}).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_a_static_executable_of_about_a_kilobyte() {
        assert_eq!(&PAUSE[..4], b"\x7fELF");
        assert!(PAUSE.len() < 2048, "{} bytes", PAUSE.len());
        assert!(!PAUSE.windows(8).any(|bytes| bytes == b"ld-linux"), "it asks for a dynamic linker");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_program_leaves_at_sigterm_with_status_zero() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("pause");
        std::fs::write(&program, PAUSE).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = tokio::process::Command::new(&program).spawn().unwrap();
        let id = rustix::process::Pid::from_raw(child.id().unwrap() as i32).unwrap();
        // It blocks every signal before it sleeps; until then SIGTERM would kill it without a status.
        let status_file = format!("/proc/{id}/status");
        while !std::fs::read_to_string(&status_file).unwrap().contains("State:\tS") {
            tokio::task::yield_now().await;
        }
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        assert_eq!(child.wait().await.unwrap().code(), Some(0));
    }
}
