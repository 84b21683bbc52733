//! The images in a real Docker engine: WordPress and MySQL as their containers would be in a pod.
//!
//! Skipped where no engine answers, unless `CORACLE_TEST_DOCKER=require`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig, NetworkCreateRequest, PortBinding};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
    StartContainerOptions, StopContainerOptions, WaitContainerOptions,
};
use coracle_images::{
    ECHO_IMAGE, ImageError, PAUSE_IMAGE, Policy, Progress, Stage, State, connect_engine, ensure_images, ensure_pause,
    list,
};
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);
const PASSWORD: &str = "it's \"a\" pass\\word";

/// The engine, or `None` after having said so.
async fn docker() -> Option<Docker> {
    match connect_engine().await {
        Ok(docker) => Some(docker),
        Err(error) => {
            assert_ne!(std::env::var("CORACLE_TEST_DOCKER").as_deref(), Ok("require"), "{error}");
            println!("skipped: no Docker ({error})");
            None
        }
    }
}

/// Prints every stage once, with the time since the beginning.
struct Printed {
    start: coracle_clock::Instant,
    last: Mutex<BTreeMap<String, Stage>>,
}

impl Progress for Printed {
    fn report(&self, item: &str, stage: Stage, _done: u64, _total: u64) {
        let mut last = self.last.lock().unwrap();
        if last.insert(item.to_owned(), stage) != Some(stage) {
            println!("{:6.2} s  {item}: {stage}", self.start.elapsed().as_secs_f64());
        }
    }
}

/// Makes sure of images; what builds need is kept in the target folder between runs.
async fn ensure(docker: &Docker, names: &[&str]) -> Result<(), ImageError> {
    let progress = Arc::new(Printed { start: coracle_clock::instant(), last: Mutex::default() });
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("coracle-images");
    ensure_images(docker, names, Policy::PullOrBuild, &folder, progress).await
}

/// A network and containers of one test, removed with their volumes by [`Stand::remove`].
struct Stand {
    docker: Docker,
    network: String,
    containers: Mutex<Vec<String>>,
}

impl Stand {
    async fn new(docker: &Docker) -> Stand {
        let network = format!("coracle-images-{}", coracle_clock::name_suffix(8));
        let request = NetworkCreateRequest { name: network.clone(), ..Default::default() };
        docker.create_network(request).await.unwrap();
        Stand { docker: docker.clone(), network, containers: Mutex::default() }
    }

    /// Starts a container; `port` is published on a free port of the loopback.
    async fn run(&self, name: &str, image: &str, environment: &[(&str, &str)], port: u16) -> String {
        let name = format!("{}-{name}", self.network);
        let key = format!("{port}/tcp");
        let binding = PortBinding { host_ip: Some("127.0.0.1".into()), host_port: None };
        let body = ContainerCreateBody {
            image: Some(image.into()),
            env: Some(environment.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            exposed_ports: Some(vec![key.clone()]),
            host_config: Some(HostConfig {
                network_mode: Some(self.network.clone()),
                port_bindings: Some([(key, Some(vec![binding]))].into()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        self.docker.create_container(Some(options), body).await.unwrap();
        self.containers.lock().unwrap().push(name.clone());
        self.start(&name).await;
        name
    }

    async fn start(&self, name: &str) {
        self.docker.start_container(name, None::<StartContainerOptions>).await.unwrap();
    }

    async fn kill_9(&self, name: &str) {
        let options = KillContainerOptionsBuilder::default().signal("KILL").build();
        self.docker.kill_container(name, Some(options)).await.unwrap();
    }

    /// Stops a container as a kubelet would; its exit code.
    async fn stop(&self, name: &str) -> i64 {
        self.docker.stop_container(name, None::<StopContainerOptions>).await.unwrap();
        self.exit_code(name).await
    }

    async fn exit_code(&self, name: &str) -> i64 {
        let mut ended = std::pin::pin!(self.docker.wait_container(name, None::<WaitContainerOptions>));
        match ended.next().await {
            Some(Ok(answer)) => answer.status_code,
            Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => code,
            other => panic!("{name}: {other:?}"),
        }
    }

    async fn logs(&self, name: &str) -> String {
        let options = LogsOptionsBuilder::default().stdout(true).stderr(true).build();
        let lines: Vec<_> = self.docker.logs(name, Some(options)).collect().await;
        lines.into_iter().map(|line| line.unwrap().to_string()).collect()
    }

    async fn until_logged(&self, name: &str, text: &str) {
        let deadline = coracle_clock::instant() + PATIENCE;
        while !self.logs(name).await.contains(text) {
            assert!(coracle_clock::instant() < deadline, "no {text:?} in:\n{}", self.logs(name).await);
            coracle_clock::sleep(POLL).await;
        }
    }

    /// The loopback port behind which a container's port is.
    async fn port(&self, name: &str, port: u16) -> u16 {
        let settings = self.docker.inspect_container(name, None).await.unwrap().network_settings.unwrap();
        let bindings = settings.ports.unwrap()[&format!("{port}/tcp")].clone().unwrap();
        bindings[0].host_port.as_ref().unwrap().parse().unwrap()
    }

    async fn remove(self) {
        for name in self.containers.into_inner().unwrap() {
            let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
            self.docker.remove_container(&name, Some(options)).await.unwrap();
        }
        self.docker.remove_network(&self.network).await.unwrap();
    }
}

/// One request; the status and the rest of the answer, or `None` if nobody answers.
async fn http(port: u16, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer))
}

/// Repeats a GET until it is answered with 200.
async fn until_ok(stand: &Stand, container: &str, path: &str) -> String {
    let port = stand.port(container, 80).await;
    let deadline = coracle_clock::instant() + PATIENCE;
    loop {
        match http(port, "GET", path, "").await {
            Some((200, page)) => return page,
            other if coracle_clock::instant() > deadline => {
                panic!("{path}: {other:?}\n{}", stand.logs(container).await)
            }
            _ => coracle_clock::sleep(POLL).await,
        }
    }
}

#[tokio::test]
async fn embedded_images_are_loaded_once_and_then_found() {
    let Some(docker) = docker().await else { return };
    ensure_pause(&docker).await.unwrap();
    let first = docker.inspect_image(PAUSE_IMAGE).await.unwrap();
    ensure_pause(&docker).await.unwrap();
    ensure(&docker, &[PAUSE_IMAGE, ECHO_IMAGE]).await.unwrap();
    let second = docker.inspect_image(PAUSE_IMAGE).await.unwrap();
    assert_eq!(first.id, second.id);
    assert!(first.size.unwrap() < 2048);
    let listed = list(&docker).await.unwrap();
    let echo = listed.iter().find(|listed| listed.image == ECHO_IMAGE).unwrap();
    assert_eq!(echo.state, State::Built);

    let stand = Stand::new(&docker).await;
    let container = stand.run("echo", ECHO_IMAGE, &[("POD_NAME", "web-0")], 8080).await;
    let (status, page) = http(stand.port(&container, 8080).await, "GET", "/x", "").await.unwrap();
    assert!(status == 200 && page.contains("POD_NAME=web-0") && page.contains("GET /x "), "{page}");
    assert_eq!(stand.stop(&container).await, 0);
    stand.remove().await;
}

#[tokio::test]
async fn an_image_that_nobody_has_is_an_error_within_seconds() {
    let Some(docker) = docker().await else { return };
    let start = coracle_clock::instant();
    ensure(&docker, &["registry.invalid/none:1"]).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn wordpress_keeps_its_posts_although_mysql_is_killed() {
    let Some(docker) = docker().await else { return };
    ensure(&docker, &["mysql:9", "wordpress:6.8-apache", "busybox:1.37"]).await.unwrap();
    let stand = Stand::new(&docker).await;

    let refused = stand.run("refused", "mysql:9", &[], 3306).await;
    assert_eq!(stand.exit_code(&refused).await, 1);
    let message = "Database is uninitialized and password option is not specified";
    assert!(stand.logs(&refused).await.contains(message));

    let names = [("NAME", "wordpress"), ("USER", "wordpress"), ("PASSWORD", PASSWORD)];
    let for_mysql = [
        ("MYSQL_ROOT_PASSWORD", PASSWORD),
        ("MYSQL_DATABASE", names[0].1),
        ("MYSQL_USER", names[1].1),
        ("MYSQL_PASSWORD", names[2].1),
    ];
    let mysql = stand.run("mysql", "mysql:9", &for_mysql, 3306).await;
    let for_wordpress = [
        ("WORDPRESS_DB_HOST", &*mysql),
        ("WORDPRESS_DB_NAME", names[0].1),
        ("WORDPRESS_DB_USER", names[1].1),
        ("WORDPRESS_DB_PASSWORD", names[2].1),
    ];
    let wordpress = stand.run("wordpress", "wordpress:6.8-apache", &for_wordpress, 80).await;

    // In the midst of its first start.
    stand.until_logged(&mysql, "InnoDB initialization has started").await;
    stand.kill_9(&mysql).await;
    stand.start(&mysql).await;
    until_ok(&stand, &wordpress, "/wp-admin/install.php").await;

    let port = stand.port(&wordpress, 80).await;
    let form = "weblog_title=Carried&user_name=ada&admin_password=Sail-1842-by-night&admin_password2=Sail-1842-by-night\
                &pw_weak=on&admin_email=ada%40example.org&blog_public=0&language=";
    let (status, page) = http(port, "POST", "/wp-admin/install.php?step=2", form).await.unwrap();
    assert!(status == 200 && page.contains("Success"), "{status} {page}");

    stand.kill_9(&mysql).await;
    let (status, _) = http(port, "GET", "/", "").await.unwrap();
    assert_eq!(status, 500, "without a database");
    stand.start(&mysql).await;
    let page = until_ok(&stand, &wordpress, "/").await;
    assert!(page.contains("Carried") && page.contains("Hello world!"), "{page}");
    assert!(page.contains(&format!("http://127.0.0.1:{port}/")), "links lead to where the page came from");

    assert_eq!(stand.stop(&mysql).await, 0);
    stand.start(&mysql).await;
    until_ok(&stand, &wordpress, "/").await;
    assert_eq!(stand.stop(&wordpress).await, 0);
    assert_eq!(stand.stop(&mysql).await, 0);
    stand.remove().await;
}
