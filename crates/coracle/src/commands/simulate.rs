//! `coracle simulate`: a scenario, played in virtual time, with its expectations as a test.

use std::io::{IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use coracle_apiserver::pki::Pki;
use coracle_kubelet::runtime::simulated::Span;
use coracle_sim::scenario::Watch;
use coracle_sim::{Pace, Report, Scenario};
use tokio::sync::oneshot;

use crate::cli::{Simulate, Speed};
use crate::data_dir::{DataDir, write_private};

/// How often the terminal is told how far it is.
const PROGRESS: Duration = Duration::from_millis(500);
/// When time stands for so long, that is said.
const STANDS: Duration = Duration::from_secs(20);

/// What kubectl needs to reach a simulation.
struct Door {
    listener: TcpListener,
    pki: Pki,
    kubeconfig: PathBuf,
}

pub async fn run(data_dir: Option<PathBuf>, options: Simulate) -> anyhow::Result<()> {
    let mut scenario = Scenario::load(&options.file)?;
    scenario.spec.seed = options.seed.unwrap_or(scenario.spec.seed);
    if let Some(pause) = options.pause_at.filter(|pause| *pause > scenario.duration()) {
        bail!("--pause-at {}: the scenario ends before, after {}", Span(pause), *scenario.spec.duration);
    }
    let factor = match options.speed {
        Speed::Max => None,
        Speed::Times(factor) => Some(factor),
    };
    let served = factor.is_some() || options.pause_at.is_some();
    let door = if served { Some(door(&DataDir::new(data_dir)?, options.port)?) } else { None };
    if let Some(door) = &door {
        println!("kubectl works against it:\n\n  export KUBECONFIG={}\n", door.kubeconfig.display());
    }
    let mut pace = Pace { factor, pause_at: options.pause_at, resume: Some(pause), ..Pace::default() };
    let (watch, started) = (pace.watch.clone(), coracle_clock::instant());
    let (name, duration) = (scenario.name.clone(), scenario.duration());
    let played = in_a_thread(move || {
        scenario.run_with(&mut pace, async |cluster| {
            let Some(door) = door else { return Ok(()) };
            door.listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(door.listener)?;
            Ok(cluster.serve(listener, door.pki.server(), door.pki.ca_pem())?)
        })
    });
    let report = tokio::select! {
        report = played => report?,
        () = follow(&watch, duration, served) => bail!("nobody follows any more"),
    };
    println!("{name}: {} in {:.1} s", Span(duration), started.elapsed().as_secs_f64());
    print!("{}", report.text());
    if let Some(folder) = &options.report {
        println!("report     {}", write(&report, folder)?.display());
    }
    if !report.met() {
        let broken = report.verdicts.iter().filter(|verdict| !verdict.met).count();
        bail!("{broken} of {} expectations were not met", report.verdicts.len());
    }
    Ok(())
}

/// Runs in a thread of its own: a simulation's clock and chance are its thread's.
pub async fn in_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let (done, result) = oneshot::channel();
    // Whoever asked may have gone.
    let run = move || drop(done.send(work()));
    std::thread::Builder::new().name("simulation".into()).spawn(run)?;
    result.await.context("the simulation crashed; its last words stand above")?
}

/// Certificates, a port and a kubeconfig, in a folder of their own.
fn door(data: &DataDir, port: u16) -> anyhow::Result<Door> {
    data.create()?;
    let folder = data.join("simulation");
    let pki = Pki::ensure(&folder.join("pki"), &[], &[])?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = TcpListener::bind(address).with_context(|| format!("{address} (choose another --port)"))?;
    let kubeconfig = folder.join("kubeconfig");
    let text = pki.kubeconfig(&format!("https://{}", listener.local_addr()?), pki.admin());
    write_private(&kubeconfig, text.as_bytes())?;
    Ok(Door { listener, pki, kubeconfig })
}

/// Stands still until somebody presses Enter; for ever where nobody can.
fn pause(at: Duration) {
    eprintln!("\rpaused at {}: press Enter to go on, Ctrl-C to end", Span(at));
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line).is_ok_and(|length| length > 0) {
        return;
    }
    loop {
        std::thread::park();
    }
}

/// Says how far it is; and when time stands although nobody stopped it, at what.
async fn follow(watch: &Watch, duration: Duration, may_stand: bool) {
    let (mut before, mut since) = (Duration::MAX, coracle_clock::instant());
    loop {
        coracle_clock::sleep(PROGRESS).await;
        let moment = watch.moment();
        if std::io::stderr().is_terminal() {
            eprint!("\r{} of {}\x1b[K\r", Span(Duration::from_secs(moment.as_secs())), Span(duration));
            // A terminal that cannot be written to shows nothing.
            let _ = std::io::stderr().flush();
        }
        if moment != before {
            (before, since) = (moment, coracle_clock::instant());
        } else if since.elapsed() > STANDS && !may_stand {
            eprintln!("time stands at {}: the cluster is still at {}", Span(moment), watch.last_request());
            since = coracle_clock::instant();
        }
    }
}

/// Writes a report into a folder. Where its page is.
pub fn write(report: &Report, folder: &Path) -> anyhow::Result<PathBuf> {
    let page = folder.join("report.html");
    let write = |path: &Path, text: String| {
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    write(&page, report.html())?;
    write(&folder.join("report.json"), serde_json::to_string_pretty(report)?)?;
    Ok(page)
}
