//! What to do about the engine: a pure function.

use super::{EngineError, socket_path, start_command};

/// What an attempt to talk to the engine met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It answers.
    Yes,
    /// Its socket is not ours to open.
    Forbidden,
    /// There is no socket, or nobody behind it.
    Nobody(String),
}

/// The operating system, as far as installing Docker differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// Debian, Ubuntu and their kin: `apt-get`.
    Debian,
    /// Fedora: `dnf`, with Docker under the name `moby-engine`.
    Fedora,
    /// Red Hat and its rebuilds: `dnf`, from Docker's own repository.
    RedHat,
    /// Arch: `pacman`.
    Arch,
    /// Alpine: `apk`.
    Alpine,
    /// SUSE: `zypper`.
    Suse,
    /// Docker Desktop.
    MacOs,
    /// Anything else.
    Other,
}

/// What [`super::ensure_engine`] saw of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// The engine's address, as in `DOCKER_HOST`.
    pub host: String,
    /// Whether `DOCKER_HOST` is set: then only that engine counts.
    pub host_is_set: bool,
    /// What came back from that address.
    pub answer: Answer,
    /// The operating system.
    pub system: System,
    /// Our name.
    pub user: String,
    /// Whether we are root.
    pub root: bool,
    /// Whether systemd is process 1.
    pub systemd: bool,
    /// Whether there is a `dockerd`.
    pub dockerd: bool,
    /// Packages that Services need and the host lacks.
    pub network_packages: Vec<&'static str>,
    /// Packages that a Docker engine needs on this host beside `docker.io`.
    pub engine_packages: Vec<&'static str>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Take the engine there is, and install these packages beside it.
    Use {
        /// Debian packages, maybe none.
        packages: Vec<&'static str>,
    },
    /// Start the installed engine.
    Start,
    /// Install these packages, then start the engine.
    InstallAndStart {
        /// Debian packages.
        packages: Vec<&'static str>,
    },
    /// Ask the user.
    GiveUp(EngineError),
}

/// Decides what to do from what was seen.
pub fn decide(findings: &Findings) -> Plan {
    let may_install = findings.system == System::Debian && findings.root;
    let network_packages = if may_install { findings.network_packages.clone() } else { Vec::new() };
    match &findings.answer {
        Answer::Yes => Plan::Use { packages: network_packages },
        Answer::Forbidden => Plan::GiveUp(EngineError::Permission {
            user: findings.user.clone(),
            socket: socket_path(&findings.host).unwrap_or("".as_ref()).to_owned(),
        }),
        Answer::Nobody(reason) if findings.host_is_set => {
            Plan::GiveUp(EngineError::DockerHost { host: findings.host.clone(), reason: reason.clone() })
        }
        Answer::Nobody(_) if findings.system == System::MacOs => Plan::GiveUp(not_installed(findings)),
        Answer::Nobody(_) if findings.dockerd && findings.root => Plan::Start,
        Answer::Nobody(_) if findings.dockerd => {
            Plan::GiveUp(EngineError::NotRunning { command: start_command(findings).into() })
        }
        Answer::Nobody(_) if may_install => {
            let mut packages = vec!["docker.io"];
            packages.extend(&findings.engine_packages);
            packages.extend(network_packages);
            Plan::InstallAndStart { packages }
        }
        Answer::Nobody(_) => Plan::GiveUp(not_installed(findings)),
    }
}

fn not_installed(findings: &Findings) -> EngineError {
    let (missing, command) = match findings.system {
        System::Debian => {
            ("installing one takes root", "sudo apt-get install docker.io nftables (or run Coracle with sudo)")
        }
        System::Fedora => {
            ("dockerd is not installed", "sudo dnf install moby-engine nftables && sudo systemctl enable --now docker")
        }
        System::RedHat => (
            "dockerd is not installed",
            "sudo dnf config-manager --add-repo https://download.docker.com/linux/rhel/docker-ce.repo && \
             sudo dnf install docker-ce nftables && sudo systemctl enable --now docker",
        ),
        System::Arch => {
            ("dockerd is not installed", "sudo pacman -S docker nftables && sudo systemctl enable --now docker")
        }
        System::Alpine => ("dockerd is not installed", "sudo apk add docker nftables && sudo rc-service docker start"),
        System::Suse => {
            ("dockerd is not installed", "sudo zypper install docker nftables && sudo systemctl enable --now docker")
        }
        System::MacOs => (
            "Docker Desktop does not run",
            "open -a Docker (or, to install it first: brew install --cask docker), and wait until its whale stands still",
        ),
        System::Other => ("dockerd is not in PATH", "see https://docs.docker.com/engine/install/, then start dockerd"),
    };
    EngineError::NotInstalled { missing: missing.into(), command: command.into() }
}

/// Which system an `/etc/os-release` describes (freedesktop.org os-release(5): `ID`, then `ID_LIKE`).
pub(super) fn system_of(os_release: &str) -> System {
    let value = |key: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
    };
    let names = format!("{} {}", value("ID"), value("ID_LIKE"));
    let known = names.split_whitespace().find_map(|name| match name {
        "debian" | "ubuntu" => Some(System::Debian),
        "fedora" => Some(System::Fedora),
        "rhel" | "centos" | "rocky" | "almalinux" => Some(System::RedHat),
        "arch" => Some(System::Arch),
        "alpine" => Some(System::Alpine),
        "suse" | "opensuse" | "sles" => Some(System::Suse),
        _ => None,
    });
    known.unwrap_or(System::Other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Findings {
        Findings {
            host: "unix:///var/run/docker.sock".into(),
            host_is_set: false,
            answer: Answer::Nobody("no such file".into()),
            system: System::Debian,
            user: "ada".into(),
            root: true,
            systemd: true,
            dockerd: false,
            network_packages: vec!["nftables"],
            engine_packages: vec![],
        }
    }

    #[test]
    fn an_engine_that_answers_is_used_and_root_on_debian_adds_what_services_need() {
        let yes = Findings { answer: Answer::Yes, ..findings() };
        assert_eq!(decide(&yes), Plan::Use { packages: vec!["nftables"] });
        for (root, system) in [(false, System::Debian), (true, System::Fedora), (false, System::MacOs)] {
            assert_eq!(decide(&Findings { root, system, ..yes.clone() }), Plan::Use { packages: vec![] });
        }
    }

    #[test]
    fn without_an_engine_root_on_debian_installs_and_starts_one() {
        assert_eq!(decide(&findings()), Plan::InstallAndStart { packages: vec!["docker.io", "nftables"] });
        let no_cgroups = Findings { engine_packages: vec!["cgroupfs-mount"], ..findings() };
        let packages = vec!["docker.io", "cgroupfs-mount", "nftables"];
        assert_eq!(decide(&no_cgroups), Plan::InstallAndStart { packages });
        assert_eq!(decide(&Findings { dockerd: true, ..findings() }), Plan::Start);
        assert_eq!(decide(&Findings { dockerd: true, system: System::Other, ..findings() }), Plan::Start);
    }

    #[test]
    fn otherwise_the_error_says_what_to_type() {
        let nobody = Answer::Nobody("refused".into());
        let table = [
            (Findings { answer: Answer::Forbidden, root: false, ..findings() }, "sudo usermod -aG docker ada"),
            (Findings { root: false, ..findings() }, "sudo apt-get install docker.io"),
            (Findings { root: false, dockerd: true, ..findings() }, "sudo systemctl start docker"),
            (Findings { root: false, dockerd: true, systemd: false, ..findings() }, "sudo dockerd"),
            (Findings { system: System::Fedora, ..findings() }, "sudo dnf install moby-engine"),
            (Findings { system: System::RedHat, ..findings() }, "docker-ce"),
            (Findings { system: System::Arch, ..findings() }, "sudo pacman -S docker"),
            (Findings { system: System::Alpine, ..findings() }, "sudo apk add docker"),
            (Findings { system: System::Suse, ..findings() }, "sudo zypper install docker"),
            (Findings { system: System::MacOs, root: false, ..findings() }, "open -a Docker"),
            (Findings { system: System::MacOs, dockerd: true, ..findings() }, "open -a Docker"),
            (Findings { system: System::Other, ..findings() }, "https://docs.docker.com/engine/install/"),
            (Findings { host_is_set: true, answer: nobody, ..findings() }, "unset DOCKER_HOST"),
        ];
        for (findings, expected) in table {
            let Plan::GiveUp(error) = decide(&findings) else { panic!("{findings:?} should be refused") };
            assert!(error.to_string().contains(expected), "{error} lacks {expected}");
        }
    }

    #[test]
    fn os_release_tells_the_system() {
        let table = [
            ("PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\n", System::Debian),
            ("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", System::Debian),
            ("ID=fedora\n", System::Fedora),
            ("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", System::RedHat),
            ("ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\n", System::Suse),
            ("ID=manjaro\nID_LIKE=arch\n", System::Arch),
            ("ID=alpine\n", System::Alpine),
            ("ID=nixos\n", System::Other),
            ("", System::Other),
        ];
        for (text, expected) in table {
            assert_eq!(system_of(text), expected, "{text}");
        }
    }
}
