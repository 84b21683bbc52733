//! `coracle bench api`: an API server over TLS on loopback, ours or any other, driven by a client of ours.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use coracle_apiserver::pki::Pki;
use coracle_apiserver::serve;
use http_body_util::BodyExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::resident_bytes;
use super::wire::{Phase, Target, read};

const CONNECTIONS: usize = 64;
const OBJECTS: usize = 20_000;
const READS: usize = 200_000;
const PODS: usize = 10_000;
const LISTS: usize = 5;
const WATCHERS: usize = 1000;
/// Watchers that share a connection, as those of one client process do.
const SHARE: usize = 20;
const PACED: usize = 100;
const BURST: usize = 500;
const NAMESPACE: &str = "coracle-bench";
const WATCHED: &str = "coracle-bench-watched";

/// Our own server, in a process of its own.
struct Server {
    child: Child,
    folder: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Runs everything; the figures go to standard output and into `output`.
pub async fn run(kubeconfig: Option<PathBuf>, output: Option<PathBuf>) -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("coracle-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let pki = Pki::ensure(&folder.join("pki"), &[], &[])?;
    let (config, server) = match kubeconfig {
        Some(path) => (read_config(Kubeconfig::read_from(path)?).await?, None),
        None => {
            let (config, server) = start(&folder, &pki).await?;
            (config, Some(server))
        }
    };
    let target = Target::new(&config)?;
    ready(&target).await?;
    let mut report = String::new();
    let mut say = |line: String| {
        println!("{line}");
        let _ = writeln!(report, "{line}");
    };
    let namespace = json!({ "metadata": { "name": NAMESPACE } });
    send(&target, "POST", "/api/v1/namespaces", &namespace).await.context("the bench's namespace")?;
    let watched = json!({ "metadata": { "name": WATCHED } });
    send(&target, "POST", "/api/v1/namespaces", &watched).await.context("the watchers' namespace")?;
    for line in objects(&target).await? {
        say(line);
    }
    let pid = server.as_ref().map(|server| server.child.id());
    for line in pods(&target, &pki, pid).await? {
        say(line);
    }
    for line in fan_out(&target).await? {
        say(line);
    }
    for namespace in [NAMESPACE, WATCHED] {
        send(&target, "DELETE", &format!("/api/v1/namespaces/{namespace}"), &json!({})).await?;
    }
    if let Some(path) = output {
        std::fs::write(&path, report).with_context(|| format!("{}", path.display()))?;
    }
    Ok(())
}

async fn read_config(kubeconfig: Kubeconfig) -> anyhow::Result<kube::Config> {
    Ok(kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
}

async fn start(folder: &std::path::Path, pki: &Pki) -> anyhow::Result<(kube::Config, Server)> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let kubeconfig = pki.kubeconfig(&format!("https://127.0.0.1:{port}"), pki.admin());
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--data-dir").arg(folder).args(["apiserver", "--secure-port", &port.to_string()]);
    // Nobody makes ServiceAccounts here.
    command.args(["--disable-admission-plugins", "ServiceAccount"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let server = Server { child, folder: folder.to_owned() };
    Ok((read_config(Kubeconfig::from_yaml(&kubeconfig)?).await?, server))
}

async fn ready(target: &Target) -> anyhow::Result<()> {
    let deadline = coracle_clock::instant() + Duration::from_secs(30);
    loop {
        match send(target, "GET", "/readyz", &Value::Null).await {
            Ok(_) => return Ok(()),
            Err(error) if coracle_clock::instant() > deadline => return Err(error.context("the server is not ready")),
            Err(_) => coracle_clock::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn send(target: &Target, method: &str, path: &str, body: &Value) -> anyhow::Result<usize> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut sender = target.http1().await?;
    read(sender.send_request(target.request(method, path, body)?).await?).await
}

fn config_map(name: &str, generation: usize) -> String {
    let filler = "x".repeat(850);
    let meta = json!({ "name": name, "labels": { "app": "bench" } });
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": { "filler": filler, "n": generation.to_string() } })
        .to_string()
}

/// Create, get and update of 1 KiB objects.
async fn objects(target: &Target) -> anyhow::Result<Vec<String>> {
    let maps = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
    let path = maps.clone();
    let create = move |target: &Target, n: usize| target.request("POST", &path, config_map(&format!("m{n}"), 0));
    let created = target.drive(CONNECTIONS, OBJECTS, create).await?;
    let path = maps.clone();
    let get = move |target: &Target, n: usize| target.request("GET", &format!("{path}/m{}", n % OBJECTS), "");
    let gotten = target.drive(CONNECTIONS, READS, get).await?;
    let path = maps;
    let update = move |target: &Target, n: usize| {
        let name = format!("m{n}");
        target.request("PUT", &format!("{path}/{name}"), config_map(&name, 1))
    };
    let updated = target.drive(CONNECTIONS, OBJECTS, update).await?;
    let with = format!("1 KiB objects, {CONNECTIONS} connections");
    Ok(vec![
        created.line(&format!("create (durable), {with}")),
        gotten.line(&format!("get, {with}")),
        updated.line(&format!("update, {with}")),
    ])
}

fn pod(name: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": "bench", "tier": "web" } },
        "spec": {
            "nodeSelector": { "coracle.example/nowhere": "true" },
            "containers": [{
                "name": "main",
                "image": "registry.example/some/image:1.2.3",
                "env": [{ "name": "A", "value": "1" }, { "name": "B", "value": "2" }],
                "ports": [{ "containerPort": 8080 }],
                "resources": { "requests": { "cpu": "100m", "memory": "64Mi" } },
            }],
        },
    })
    .to_string()
}

/// The list of many pods beside a copy of the same bytes through TLS, and the memory they take.
async fn pods(target: &Target, pki: &Pki, pid: Option<u32>) -> anyhow::Result<Vec<String>> {
    let resident = || pid.and_then(resident_bytes).unwrap_or_default() as f64;
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let before = resident();
    let collection = path.clone();
    let create = move |target: &Target, n: usize| target.request("POST", &collection, pod(&format!("p{n}")));
    target.drive(CONNECTIONS, PODS, create).await?;
    let after = resident();
    let mut sender = target.http1().await?;
    let (mut size, mut times) = (0, Vec::new());
    for _ in 0..LISTS {
        sender.ready().await?;
        let request = target.request("GET", &path, "")?;
        let begin = coracle_clock::instant();
        size = read(sender.send_request(request).await?).await?;
        times.push(begin.elapsed());
    }
    let list = super::median(times).as_secs_f64();
    let copy = copy_over_tls(pki, size).await?.as_secs_f64();
    let peak = resident();
    let mut lines = vec![format!(
        "list of {PODS} pods ({:.1} MB): {:.0} MB/s, {:.1} ms; copy and TLS of the same bytes {:.1} ms; ratio {:.2}",
        size as f64 / 1e6,
        size as f64 / 1e6 / list,
        list * 1e3,
        copy * 1e3,
        list / copy,
    )];
    if pid.is_some() {
        lines.push(format!(
            "resident memory for {PODS} pods: {:.1} MB, {:.2} of their JSON (after lists {:.1} MB)",
            (after - before) / 1e6,
            (after - before) / size as f64,
            (peak - before) / 1e6,
        ));
    }
    Ok(lines)
}

/// How long it takes to copy so many bytes and send them through TLS on loopback.
async fn copy_over_tls(pki: &Pki, size: usize) -> anyhow::Result<Duration> {
    let acceptor = TlsAcceptor::from(serve::tls(pki.server(), pki.ca_pem())?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let bytes = Bytes::from(vec![b'x'; size]);
    let serving = tokio::spawn(async move {
        let mut stream = acceptor.accept(listener.accept().await?.0).await?;
        while stream.read_u8().await.is_ok() {
            let copy = bytes.to_vec();
            stream.write_all(&copy).await?;
            stream.flush().await?;
        }
        anyhow::Ok(())
    });
    let kubeconfig = pki.kubeconfig(&format!("https://{address}"), pki.admin());
    let config = read_config(Kubeconfig::from_yaml(&kubeconfig)?).await?;
    let tls = kube::client::ConfigExt::rustls_client_config(&config)?;
    let stream = TcpStream::connect(address).await?;
    let name = rustls::pki_types::ServerName::try_from("localhost")?;
    let mut stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await?;
    let mut buffer = vec![0; 64 * 1024];
    let mut times = Vec::new();
    for _ in 0..LISTS {
        let begin = coracle_clock::instant();
        stream.write_u8(0).await?;
        stream.flush().await?;
        let mut left = size;
        while left > 0 {
            left = left.saturating_sub(stream.read(&mut buffer).await?.max(1));
        }
        times.push(begin.elapsed());
    }
    drop(stream);
    serving.abort();
    Ok(super::median(times))
}

/// How many watchers have seen each event.
struct Seen {
    counts: Vec<AtomicUsize>,
    complete: Notify,
}

impl Seen {
    /// Notes an event by the number that ends the object's name.
    fn note(&self, line: &[u8]) {
        const MARK: &[u8] = b"\"name\":\"w-";
        let Some(at) = line.windows(MARK.len()).position(|window| window == MARK) else { return };
        let digits = line[at + MARK.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        let number = digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
        if let Some(count) = self.counts.get(number)
            && count.fetch_add(1, Ordering::AcqRel) + 1 == WATCHERS
        {
            self.complete.notify_one();
        }
    }

    async fn wait_for(&self, number: usize) {
        while self.counts[number].load(Ordering::Acquire) < WATCHERS {
            self.complete.notified().await;
        }
    }
}

/// Many watchers of one resource: one event at a time, and as many as go.
async fn fan_out(target: &Target) -> anyhow::Result<Vec<String>> {
    let path = format!("/api/v1/namespaces/{WATCHED}/configmaps");
    let events = PACED + BURST;
    let seen = Arc::new(Seen { counts: (0..events).map(|_| AtomicUsize::new(0)).collect(), complete: Notify::new() });
    let mut readers = Vec::new();
    for _ in 0..WATCHERS / SHARE {
        let mut sender = target.http2().await?;
        for _ in 0..SHARE {
            let request = target.request("GET", &format!("{path}?watch=true"), "")?;
            let mut body = sender.send_request(request).await?.into_body();
            let seen = seen.clone();
            readers.push(tokio::spawn(async move {
                let mut rest: Vec<u8> = Vec::new();
                while let Some(Ok(frame)) = body.frame().await {
                    let Ok(data) = frame.into_data() else { continue };
                    rest.extend_from_slice(&data);
                    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                        seen.note(&rest[..end]);
                        rest.drain(..=end);
                    }
                }
            }));
        }
    }
    let mut sender = target.http1().await?;
    let mut delays = Vec::new();
    let begin = coracle_clock::instant();
    for number in 0..PACED {
        let start = coracle_clock::instant();
        let request = target.request("POST", &path, config_map(&format!("w-{number}"), 0))?;
        sender.ready().await?;
        read(sender.send_request(request).await?).await?;
        seen.wait_for(number).await;
        delays.push(start.elapsed());
    }
    let paced = Phase::new(begin.elapsed(), delays);
    let begin = coracle_clock::instant();
    for number in PACED..events {
        let request = target.request("POST", &path, config_map(&format!("w-{number}"), 0))?;
        sender.ready().await?;
        read(sender.send_request(request).await?).await?;
    }
    for number in PACED..events {
        seen.wait_for(number).await;
    }
    let rate = (BURST * WATCHERS) as f64 / begin.elapsed().as_secs_f64();
    readers.iter().for_each(tokio::task::JoinHandle::abort);
    let ms = |percent| paced.percentile(percent).as_secs_f64() * 1e3;
    Ok(vec![format!(
        "watch, {WATCHERS} watchers: {rate:.0} events/s; from write to last watcher p50 {:.1} ms, p99 {:.1} ms",
        ms(50),
        ms(99),
    )])
}
