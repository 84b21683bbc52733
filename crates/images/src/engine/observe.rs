//! Looks at the host: is there an engine, who are we, what could we do?

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bollard::Docker;

use super::decide::system_of;
use super::{ANSWER_TIMEOUT, Answer, DEFAULT_SOCKET, Findings, System, socket_path};

/// Programs that Services need, and the Debian packages they are in.
const NETWORK_PROGRAMS: [(&str, &str); 2] = [("nft", "nftables"), ("ip", "iproute2")];

pub(super) async fn observe() -> Findings {
    let set = env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
    let host_is_set = set.is_some();
    let host = set.unwrap_or_else(usual_host);
    let answer = ask(&host).await;
    let systemd = Path::new("/run/systemd/system").is_dir();
    // Without systemd nobody may have mounted them, and dockerd does not do it itself.
    let cgroups = !systemd && fs::read_dir("/sys/fs/cgroup").is_ok_and(|mut entries| entries.next().is_none());
    let missing = |(program, _): &&(&str, &str)| !installed(program);
    Findings {
        host,
        host_is_set,
        answer,
        system: system(),
        user: env::var("USER").or_else(|_| env::var("LOGNAME")).unwrap_or_else(|_| "$USER".into()),
        root: rustix::process::geteuid().is_root(),
        systemd,
        dockerd: installed("dockerd"),
        network_packages: NETWORK_PROGRAMS.iter().filter(missing).map(|(_, package)| *package).collect(),
        engine_packages: if cgroups { vec!["cgroupfs-mount"] } else { vec![] },
    }
}

fn system() -> System {
    if cfg!(target_os = "macos") {
        return System::MacOs;
    }
    system_of(&fs::read_to_string("/etc/os-release").unwrap_or_default())
}

/// The address of the first usual socket there is; else of Docker's own.
fn usual_host() -> String {
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).unwrap_or_default();
    // Docker's own, rootless Docker's, Docker Desktop's, Colima's.
    let sockets = [
        PathBuf::from(DEFAULT_SOCKET),
        runtime.join("docker.sock"),
        home.join(".docker/run/docker.sock"),
        home.join(".colima/default/docker.sock"),
    ];
    let found = sockets.iter().find(|socket| socket.is_absolute() && socket.exists()).unwrap_or(&sockets[0]);
    format!("unix://{}", found.display())
}

/// Tries to talk to the engine at an address.
pub(super) async fn ask(host: &str) -> Answer {
    if let Some(socket) = socket_path(host) {
        match coracle_clock::timeout(ANSWER_TIMEOUT, tokio::net::UnixStream::connect(socket)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => return Answer::Forbidden,
            Ok(Err(error)) => return Answer::Nobody(error.to_string()),
            Err(_) => return Answer::Nobody("the socket accepts no connection".into()),
        }
    }
    let docker = match Docker::connect_with_host(host) {
        Ok(docker) => docker,
        Err(error) => return Answer::Nobody(error.to_string()),
    };
    match coracle_clock::timeout(ANSWER_TIMEOUT, docker.ping()).await {
        Ok(Ok(_)) => Answer::Yes,
        Ok(Err(error)) => Answer::Nobody(error.to_string()),
        Err(_) => Answer::Nobody(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())),
    }
}

/// Whether a program is in PATH or where administration programs are (which users often lack in PATH).
pub(crate) fn installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders.into_iter().any(|folder| folder.join(program).is_file())
}
