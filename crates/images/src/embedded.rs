//! Images of our own static programs, carried inside this binary.
//!
//! The programs' sources are in `programs/`; `build.rs` compiles them. Their images hold nothing else,
//! so loading one takes milliseconds and needs neither network nor tools.

use bollard::Docker;

use crate::archive::{self, ImageConfig, ImageError};
use crate::rootfs::{Node, Rootfs};

/// The name of the image in which every pod's sandbox container runs.
pub const PAUSE_IMAGE: &str = "coracle/pause:3.10";

/// The name of the image of a small HTTP server that tells who it is and what it was asked.
///
/// It listens on `$PORT` (8080); see `programs/echo.rs`.
pub const ECHO_IMAGE: &str = "coracle/echo:1.0";

/// An image that is in this binary.
#[derive(Debug, Clone, Copy)]
pub struct Embedded {
    /// The image's name.
    pub image: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// The TCP port it listens on, if any.
    port: Option<u16>,
    /// Where the program is in the image.
    path: &'static str,
    /// The program, an ELF file for this CPU.
    program: &'static [u8],
}

/// The images that are in this binary.
pub const EMBEDDED: [Embedded; 2] = [
    Embedded {
        image: PAUSE_IMAGE,
        about: "what a pod's sandbox runs",
        port: None,
        path: "pause",
        program: include_bytes!(concat!(env!("OUT_DIR"), "/pause")),
    },
    Embedded {
        image: ECHO_IMAGE,
        about: "a small HTTP server for tests",
        port: Some(8080),
        path: "echo",
        program: include_bytes!(concat!(env!("OUT_DIR"), "/echo")),
    },
];

impl Embedded {
    /// The embedded image of a name.
    pub fn find(image: &str) -> Option<&'static Embedded> {
        EMBEDDED.iter().find(|embedded| embedded.image == image)
    }

    /// What tells this image from one that another version of this binary carried.
    pub(crate) fn hash(&self) -> String {
        archive::sha256(self.program)
    }

    /// Loads the image into the engine.
    pub(crate) async fn load(&self, docker: &Docker) -> Result<(), ImageError> {
        let mut root = Rootfs::default();
        root.insert(self.path, Node::file(self.program, 0o755));
        let layer = archive::layer_in_memory(&root)?;
        let config = ImageConfig {
            entrypoint: vec![format!("/{}", self.path)],
            expose: self.port.into_iter().collect(),
            recipe: self.hash(),
            ..ImageConfig::default()
        };
        archive::load(docker, self.image, &config, layer, &|_, _| {}).await
    }
}

/// Makes sure that the engine has [`PAUSE_IMAGE`] as this binary carries it.
pub async fn ensure_pause(docker: &Docker) -> Result<(), ImageError> {
    let pause = &EMBEDDED[0];
    match archive::recipe_of(docker, pause.image).await? {
        Some(Some(hash)) if hash == pause.hash() => Ok(()),
        _ => pause.load(docker).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_are_static_executables_of_few_kilobytes() {
        for embedded in EMBEDDED {
            let program = embedded.program;
            assert_eq!(&program[..4], b"\x7fELF");
            assert!(program.len() < 4096, "{}: {} bytes", embedded.image, program.len());
            assert!(!program.windows(8).any(|bytes| bytes == b"ld-linux"), "{} asks for a linker", embedded.image);
        }
        assert!(Embedded::find(PAUSE_IMAGE).unwrap().program.len() < 1500);
    }

    #[cfg(target_os = "linux")]
    mod running {
        use std::os::unix::fs::PermissionsExt;

        use rustix::process::{Pid, Signal, kill_process};
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        use tokio::net::TcpStream;
        use tokio::process::{Child, Command};

        use super::*;

        /// A program in a folder that lives as long as the first part of the result.
        fn start(image: &str, variables: &[(&str, &str)]) -> (tempfile::TempDir, Child, Pid) {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("program");
            std::fs::write(&file, Embedded::find(image).unwrap().program).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
            let mut command = Command::new(&file);
            let child = command.env_clear().envs(variables.iter().copied()).kill_on_drop(true).spawn().unwrap();
            let id = Pid::from_raw(child.id().unwrap() as i32).unwrap();
            // Before it sleeps it blocks every signal; until then SIGTERM would kill it without a status.
            while !std::fs::read_to_string(format!("/proc/{id}/status")).unwrap().contains("State:\tS") {
                std::thread::yield_now();
            }
            (folder, child, id)
        }

        #[tokio::test]
        async fn pause_leaves_at_sigterm_with_status_zero() {
            let (_folder, mut child, id) = start(PAUSE_IMAGE, &[]);
            kill_process(id, Signal::TERM).unwrap();
            assert_eq!(child.wait().await.unwrap().code(), Some(0));
        }

        #[tokio::test]
        async fn echo_answers_and_finishes_what_it_began_before_it_leaves() {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let variables = [("PORT", &*free.port().to_string()), ("POD_NAME", "web-0"), ("SECRET", "s")];
            let (_folder, mut child, id) = start(ECHO_IMAGE, &variables);

            let mut connection = TcpStream::connect(free).await.unwrap();
            connection.write_all(b"GET /a?b=c HTTP/1.1\r\nHost: h\r\n").await.unwrap();
            kill_process(id, Signal::TERM).unwrap();
            connection.write_all(b"X-One: 1\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            connection.read_to_string(&mut answer).await.unwrap();
            drop(connection);
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(body.starts_with("hostname=") && body.contains("\nPOD_NAME=web-0\n"), "{answer}");
            assert!(body.contains("\n\nGET /a?b=c HTTP/1.1\r\nHost: h\r\nX-One: 1\r\n\r\n"), "{answer}");
            assert!(!body.contains("SECRET"), "{answer}");
            assert_eq!(child.wait().await.unwrap().code(), Some(0));
        }
    }
}
