//! What the tests against a real engine share: an image made from the host's own programs, a network, a clean-up.

use std::path::Path;
use std::process::Command;

use bollard::Docker;
use bollard::query_parameters::CreateImageOptions;
use bytes::Bytes;
use coracle_kubelet::runtime::docker::{DockerConfig, DockerRuntime, NetworkConfig};
use coracle_kubelet::runtime::{ContainerConfig, PodRef, Runtime, SandboxConfig};
use futures::TryStreamExt;

/// An image with a shell and a few tools; its default command does what pause does.
pub const IMAGE: &str = "coracle-test/host-tools:1";
const TOOLS: [&str; 6] = ["sh", "cat", "sleep", "stty", "tail", "id"];

/// A runtime with a cluster and a network of its own, which go away with it.
pub struct World {
    pub runtime: DockerRuntime,
    pub config: DockerConfig,
    /// The network's Linux bridge.
    pub interface: String,
}

impl World {
    /// Prepares a world; `None` when no engine answers and none is required.
    ///
    /// `net` numbers the test's subnet, so that tests can run side by side.
    pub async fn new(name: &str, net: u8) -> Option<World> {
        let docker = Docker::connect_with_defaults().ok()?;
        if let Err(error) = docker.ping().await {
            let required = std::env::var("CORACLE_TEST_DOCKER").is_ok_and(|value| value == "require");
            assert!(!required, "Docker is required for this test and does not answer: {error}");
            eprintln!("skipped: Docker does not answer: {error}");
            return None;
        }
        import_image(&docker).await;
        let cluster = format!("test-{name}-{}", coracle_clock::name_suffix(5));
        let config = DockerConfig::new(&cluster, "node-1", &cluster, IMAGE);
        let runtime = DockerRuntime::new(config.clone()).unwrap();
        let network = NetworkConfig {
            name: cluster.clone(),
            subnet: format!("10.203.{net}.0/24"),
            docker_range: format!("10.203.{net}.240/28"),
            gateway: format!("10.203.{net}.1"),
            interface: format!("ct{}", coracle_clock::name_suffix(8)),
        };
        let id = runtime.ensure_network(&network).await.unwrap();
        assert_eq!(runtime.ensure_network(&network).await.unwrap(), id, "asking twice makes one network");
        Some(World { runtime, config, interface: network.interface })
    }

    /// A pod of the default namespace.
    pub fn pod(&self, name: &str) -> PodRef {
        PodRef { namespace: "default".into(), name: name.into(), uid: format!("uid-{name}") }
    }

    /// Runs a sandbox with an address.
    pub async fn sandbox(&self, pod: &PodRef, ip: &str) -> String {
        let config = SandboxConfig {
            pod: pod.clone(),
            hostname: pod.name.clone(),
            ip: Some(ip.parse().unwrap()),
            ..Default::default()
        };
        self.runtime.run_sandbox(&config).await.unwrap()
    }

    /// Creates a container that runs a shell script.
    pub async fn create(&self, sandbox: &str, pod: &PodRef, name: &str, script: &str) -> String {
        self.runtime.create_container(sandbox, &self.script(pod, name, script)).await.unwrap()
    }

    /// Creates and starts a container that runs a shell script.
    pub async fn run(&self, sandbox: &str, pod: &PodRef, name: &str, script: &str) -> String {
        let id = self.create(sandbox, pod, name, script).await;
        self.runtime.start_container(&id).await.unwrap();
        id
    }

    /// The configuration of a container that runs a shell script.
    pub fn script(&self, pod: &PodRef, name: &str, script: &str) -> ContainerConfig {
        ContainerConfig {
            pod: pod.clone(),
            name: name.into(),
            image: IMAGE.into(),
            command: vec!["sh".into(), "-c".into()],
            args: vec![script.into()],
            ..Default::default()
        }
    }

    /// Removes everything that belongs to this world's cluster.
    pub async fn clean_up(self) {
        self.runtime.remove_cluster().await.unwrap();
    }
}

async fn import_image(docker: &Docker) {
    if docker.inspect_image(IMAGE).await.is_ok() {
        return;
    }
    let pause = r#"CMD ["/bin/sh","-c","trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"]"#;
    let (repo, tag) = IMAGE.split_once(':').unwrap();
    let options = CreateImageOptions {
        from_src: Some("-".into()),
        repo: Some(repo.into()),
        tag: Some(tag.into()),
        changes: vec![pause.into(), "ENV PATH=/bin".into()],
        ..Default::default()
    };
    let body = bollard::body_full(Bytes::from(root_file_system()));
    docker.create_image(Some(options), Some(body), None).try_collect::<Vec<_>>().await.unwrap();
}

/// The host's tools with the libraries they need, as a tar archive.
fn root_file_system() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut seen = std::collections::BTreeSet::new();
    let mut add = |from: &Path, to: &str| {
        if seen.insert(to.to_string()) {
            archive.append_path_with_name(from.canonicalize().unwrap(), to.trim_start_matches('/')).unwrap();
        }
    };
    for tool in TOOLS {
        let path = ["/bin", "/usr/bin"].iter().map(|dir| Path::new(dir).join(tool)).find(|path| path.exists()).unwrap();
        let libraries = Command::new("ldd").arg(&path).output().unwrap().stdout;
        for word in String::from_utf8(libraries).unwrap().split_whitespace().filter(|word| word.starts_with('/')) {
            add(Path::new(word), word);
        }
        add(&path, &format!("bin/{tool}"));
    }
    archive.into_inner().unwrap()
}
