//! `coracle bench store`: our etcd beside a real one, each in a process of its own, asked the same by the same client
//! over TLS; then the engine in this process beside what the disk itself can do.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use coracle_apiserver::pki::{ETCD_CLIENT, Pki};
use coracle_client::transport::Identity;
use coracle_clock::{Instant, instant};
use coracle_store::{Op, SledConfig, SledStore, Store, Txn};
use futures::StreamExt;
use futures::future::try_join_all;

use super::grpc::{Channel, field};
use super::resident_bytes;

const VALUE_BYTES: usize = 1024;
/// How long each load lasts.
const LOAD: Duration = Duration::from_secs(4);
/// How often the engine and the disk take turns.
const ROUNDS: usize = 4;
const CLIENTS: [usize; 4] = [1, 8, 64, 256];
/// Clients share so many connections: an API server has one.
const CONNECTIONS: usize = 4;
const KEYS: usize = 10_000;
const WATCHERS: usize = 1000;
const WATCHED: usize = 10_000;
/// So many clients write what is watched.
const WRITERS: usize = 64;

/// A server and how it is reached.
struct Server {
    name: &'static str,
    child: Child,
    channels: Vec<Channel>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs what is named, or everything; the figures go to standard output and into `output`.
pub async fn run(wanted: &[String], output: Option<PathBuf>) -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("coracle-bench-{}", std::process::id()));
    let report = measure(&folder, wanted).await;
    let _ = std::fs::remove_dir_all(&folder);
    let report = report?;
    if let Some(path) = output {
        std::fs::write(&path, report).with_context(|| format!("{}", path.display()))?;
    }
    Ok(())
}

async fn measure(folder: &Path, wanted: &[String]) -> anyhow::Result<String> {
    let wanted = |what: &str| wanted.is_empty() || wanted.iter().any(|part| what.contains(part));
    let mut report = String::new();
    let mut say = |line: String| {
        println!("{line}");
        let _ = writeln!(report, "{line}");
    };
    let pki_dir = folder.join("pki");
    std::fs::create_dir_all(folder)?;
    Pki::ensure(&pki_dir, &[], &[])?;
    let (ours, theirs) = (start_ours(folder, &pki_dir).await?, start_etcd(folder, &pki_dir).await?);
    for clients in CLIENTS {
        let what = format!("durable puts of 1 KiB, {clients} clients");
        if wanted(&what) {
            say(compare(&what, puts(&ours, clients).await?, puts(&theirs, clients).await?));
        }
    }
    for clients in [1, 64] {
        let what = format!("linearizable gets of 1 KiB, {clients} clients");
        if wanted(&what) {
            say(compare(&what, gets(&ours, clients).await?, gets(&theirs, clients).await?));
        }
    }
    let what = "ranges of 10000 keys of 100 bytes, 4 clients";
    if wanted(what) {
        say(compare(what, ranges(&ours).await?, ranges(&theirs).await?));
    }
    let what = "events to 1000 watchers";
    if wanted(what) {
        say(compare(what, events(&ours).await?, events(&theirs).await?));
    }
    for server in [&ours, &theirs] {
        let resident = resident_bytes(server.child.id()).context("the server ended")?;
        say(format!("resident memory of {} after all this: {:.0} MB", server.name, resident as f64 / 1e6));
    }
    drop((ours, theirs));
    if wanted("in this process") {
        say(in_process(folder).await?);
    }
    Ok(report)
}

async fn start_ours(folder: &Path, pki_dir: &Path) -> anyhow::Result<Server> {
    let address = free()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--data-dir").arg(folder).args(["etcd", "serve", "--etcd-listen", &address.to_string()]);
    start("Coracle", command, address, pki_dir).await
}

async fn start_etcd(folder: &Path, pki_dir: &Path) -> anyhow::Result<Server> {
    let address = free()?;
    let (client, peer) = (format!("https://{address}"), format!("http://{}", free()?));
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(folder.join("etcd")).args(["--log-level", "error"]);
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client, "--client-cert-auth"]);
    command.arg("--cert-file").arg(pki_dir.join("etcd/server.crt"));
    command.arg("--key-file").arg(pki_dir.join("etcd/server.key"));
    command.arg("--trusted-ca-file").arg(pki_dir.join("etcd/ca.crt"));
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}")]);
    start("etcd", command, address, pki_dir).await.context("Debian has etcd in the package etcd-server")
}

fn free() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

async fn start(
    name: &'static str,
    mut command: Command,
    address: SocketAddr,
    pki_dir: &Path,
) -> anyhow::Result<Server> {
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().with_context(|| format!("{command:?}"))?;
    let mut server = Server { name, child, channels: Vec::new() };
    let read = |name: String| std::fs::read_to_string(pki_dir.join(name));
    let (ca_pem, address) = (read("etcd/ca.crt".into())?, address.to_string());
    let (cert_pem, key_pem) = (read(format!("{ETCD_CLIENT}.crt"))?, read(format!("{ETCD_CLIENT}.key"))?);
    let identity = Identity { cert_pem: &cert_pem, key_pem: &key_pem };
    let deadline = instant() + Duration::from_secs(30);
    while server.channels.len() < CONNECTIONS {
        match Channel::connect(&address, &ca_pem, identity).await {
            Ok(channel) => server.channels.push(channel),
            Err(error) if instant() > deadline => return Err(error.context(format!("{name} does not answer"))),
            Err(_) => coracle_clock::sleep(Duration::from_millis(50)).await,
        }
    }
    Ok(server)
}

/// What came of a load.
struct Outcome {
    per_second: f64,
    /// How long each answer took, in order; empty where only the rate is of interest.
    times: Vec<Duration>,
}

impl Outcome {
    fn new(count: usize, start: Instant, mut times: Vec<Duration>) -> Outcome {
        times.sort_unstable();
        Outcome { per_second: count as f64 / start.elapsed().as_secs_f64(), times }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0}/s", self.per_second)?;
        let at = |share: f64| self.times.get((self.times.len() as f64 * share) as usize);
        match (at(0.5), at(0.99)) {
            (Some(p50), Some(p99)) => {
                write!(f, " (p50 {:.2} ms, p99 {:.2} ms)", p50.as_secs_f64() * 1e3, p99.as_secs_f64() * 1e3)
            }
            _ => Ok(()),
        }
    }
}

fn compare(what: &str, ours: Outcome, theirs: Outcome) -> String {
    format!("{what}: {ours}; etcd {theirs}; ratio {:.1}", ours.per_second / theirs.per_second)
}

/// Every client asks, waits for the answer, and asks again.
async fn load<S, F, Fut>(servers: &[S], clients: usize, ask: F) -> anyhow::Result<Outcome>
where
    S: Clone + Send + 'static,
    F: Fn(S, usize, usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = anyhow::Result<()>> + Send,
{
    let start = instant();
    let end = start + LOAD;
    let tasks = (0..clients).map(|client| {
        let (server, ask) = (servers[client % servers.len()].clone(), ask.clone());
        tokio::spawn(async move {
            let mut times = Vec::new();
            while instant() < end {
                let asked = instant();
                ask(server.clone(), client, times.len()).await?;
                times.push(asked.elapsed());
            }
            anyhow::Ok(times)
        })
    });
    let mut times = Vec::new();
    for client in try_join_all(tasks).await? {
        times.extend(client?);
    }
    Ok(Outcome::new(times.len(), start, times))
}

/// A message that puts a key.
fn put(key: &str, value: &[u8]) -> Vec<u8> {
    [field(1, key.as_bytes()), field(2, value)].concat()
}

async fn puts(server: &Server, clients: usize) -> anyhow::Result<Outcome> {
    load(&server.channels, clients, move |channel, client, n| async move {
        let put = put(&format!("/puts/{clients}/{client}/{}", n % 100), &[b'x'; VALUE_BYTES]);
        channel.unary("KV/Put", &put).await.map(drop)
    })
    .await
}

async fn gets(server: &Server, clients: usize) -> anyhow::Result<Outcome> {
    for n in 0..640 {
        let key = format!("/gets/{}/{}", n % 64, n / 64);
        server.channels[0].unary("KV/Put", &put(&key, &[b'x'; VALUE_BYTES])).await?;
    }
    load(&server.channels, clients, |channel, client, n| async move {
        let key = format!("/gets/{}/{}", client % 64, n % 10);
        let bytes = channel.unary("KV/Range", &field(1, key.as_bytes())).await?;
        ensure!(bytes > VALUE_BYTES, "a key is missing");
        Ok(())
    })
    .await
}

async fn ranges(server: &Server) -> anyhow::Result<Outcome> {
    for n in 0..KEYS {
        server.channels[0].unary("KV/Put", &put(&format!("/range/{n:05}"), &[b'x'; 100])).await?;
    }
    load(&server.channels, 4, |channel, _, _| async move {
        let range = [field(1, b"/range/"), field(2, b"/range0")].concat();
        ensure!(channel.unary("KV/Range", &range).await? > KEYS * 100, "keys are missing");
        Ok(())
    })
    .await
}

async fn events(server: &Server) -> anyhow::Result<Outcome> {
    let watches = WATCHERS / CONNECTIONS;
    let mut streams = Vec::new();
    for channel in &server.channels {
        let mut stream = channel.watch("/watched/", watches).await?.boxed();
        // Each says first that it has begun.
        let mut begun = 0;
        while begun < watches {
            begun += stream.next().await.context("the watch ended")??.0;
        }
        streams.push(stream);
    }
    let start = instant();
    let watchers = streams.into_iter().map(|mut stream| {
        tokio::spawn(async move {
            let mut seen = 0;
            while seen < watches * WATCHED {
                seen += stream.next().await.context("the watch ended")??.1;
            }
            anyhow::Ok(seen)
        })
    });
    let watchers: Vec<_> = watchers.collect();
    try_join_all((0..WRITERS).map(async |writer| {
        for n in (writer..WATCHED).step_by(WRITERS) {
            let channel = &server.channels[writer % CONNECTIONS];
            channel.unary("KV/Put", &put(&format!("/watched/{n}"), b"x")).await?;
        }
        anyhow::Ok(())
    }))
    .await?;
    let mut count = 0;
    for seen in try_join_all(watchers).await? {
        count += seen?;
    }
    Ok(Outcome::new(count, start, Vec::new()))
}

/// The engine without a network, and the disk without an engine: the same bytes in batches of as many, appended and
/// made durable.
async fn in_process(folder: &Path) -> anyhow::Result<String> {
    let clients = CLIENTS[CLIENTS.len() - 1];
    let store = SledStore::open(SledConfig::new(folder.join("in-process"))).await?;
    let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
    let stores = [store.clone()];
    let (mut ours, mut disk) = (Vec::new(), Vec::new());
    // In turns: what a disk can do changes from second to second.
    for round in 0..ROUNDS {
        let value = value.clone();
        let load = load(&stores, clients, move |store, client, n| {
            let put = Op::Put { key: format!("/puts/{client}/{}", n % 100).into(), value: value.clone(), lease: 0 };
            async move { Ok(store.txn(Txn { success: vec![put], ..Txn::default() }).await.map(drop)?) }
        });
        ours.push(load.await?.per_second);
        let path = folder.join(format!("disk-{round}"));
        let appends = move || appends(&path, clients);
        disk.push(tokio::task::spawn_blocking(appends).await??);
    }
    store.close().await?;
    let list = |rates: &[f64]| rates.iter().map(|rate| format!("{rate:.0}/s")).collect::<Vec<_>>().join(", ");
    let ratio = disk.iter().sum::<f64>() / ours.iter().sum::<f64>();
    let (ours, disk) = (list(&ours), list(&disk));
    Ok(format!("in this process, {clients} clients: {ours}; the disk {disk}; its limit is {ratio:.1} times as far"))
}

/// How many values a second are appended to a file and made durable, so many at a time.
fn appends(path: &Path, at_a_time: usize) -> std::io::Result<f64> {
    let mut file = File::create(path)?;
    let batch = vec![b'x'; at_a_time * VALUE_BYTES];
    let (start, mut batches) = (instant(), 0);
    while start.elapsed() < LOAD {
        file.write_all(&batch)?;
        file.sync_data()?;
        batches += 1;
    }
    Ok(Outcome::new(batches * at_a_time, start, Vec::new()).per_second)
}
