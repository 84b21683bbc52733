//! `coracle demo`: from nothing to WordPress in the browser.
//!
//! Engine → images → cluster (in a process of its own) → apply the example → wait until it answers →
//! say what to try. Each step first looks whether it is done, so running it again goes on where it was.

mod apply;
mod kustomize;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bollard::Docker;
use coracle_images::{Policy, ensure_engine, ensure_images};
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::{Event, Pod, Service};
use kube::{Api, Client, ResourceExt};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Demo;
use crate::commands::{client, down, up};
use crate::data_dir::DataDir;
use crate::progress::Display;

/// How long WordPress may take from the moment it is applied.
const TIMEOUT: Duration = Duration::from_secs(180);
/// How often progress is looked at.
const POLL: Duration = Duration::from_millis(200);
const NAMESPACE: &str = "default";

pub async fn run(data_dir: Option<PathBuf>, options: Demo) -> anyhow::Result<()> {
    let dir = DataDir::new(data_dir)?;
    let display = Arc::new(Display::new());
    let mut interrupt = signal(SignalKind::interrupt())?;
    let started = coracle_clock::instant();
    let work = async {
        let docker = ensure_engine(display.as_ref()).await?;
        bring_up(&dir, &docker, &options, &display).await
    };
    let (url, pid) = tokio::select! {
        result = work => result?,
        _ = interrupt.recv() => {
            display.clear();
            return interrupted(&dir).await;
        }
    };
    println!("{}", next_steps(&url, &dir, started.elapsed()));
    if options.exit {
        println!("The cluster runs on in the background; `coracle down` stops it.");
        return Ok(());
    }
    println!("Press Ctrl-C to stop the cluster.");
    tokio::select! {
        _ = interrupt.recv() => interrupted(&dir).await,
        () = ended(&dir, pid) => bail!("the cluster ended; see `coracle logs`"),
    }
}

async fn bring_up(
    dir: &DataDir,
    docker: &Docker,
    options: &Demo,
    display: &Arc<Display>,
) -> anyhow::Result<(String, u32)> {
    let objects = kustomize::build(kustomize::WORDPRESS)?;
    let images = kustomize::images(&objects);
    let names: Vec<&str> = images.iter().map(String::as_str).collect();
    dir.create()?;
    ensure_images(docker, &names, Policy::PullOrBuild, &dir.join("images"), display.clone()).await?;

    display.stage("cluster", "starting");
    let pid = up::start_in_background(dir, &options.cluster).await?;
    let client = client(dir).await?;
    display.done("cluster", "nodes ready");

    display.stage("wordpress", "applying examples/wordpress-mysql");
    apply::apply(&client, NAMESPACE, objects).await?;
    let waited = coracle_clock::timeout(TIMEOUT, until_it_answers(&client, display)).await;
    match waited {
        Ok(url) => {
            display.done("wordpress", "answers");
            Ok((url, pid))
        }
        Err(_) => {
            display.clear();
            bail!("WordPress does not answer after {TIMEOUT:?}:\n{}", what_is_wrong(&client).await)
        }
    }
}

/// Waits until the Service has an address and WordPress answers there.
async fn until_it_answers(client: &Client, display: &Display) -> String {
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    loop {
        if let Ok(list) = pods.list(&Default::default()).await {
            let states: Vec<String> = list.iter().map(describe).collect();
            display.stage("wordpress", &states.join(", "));
        }
        if let Ok(service) = services.get("wordpress").await
            && let Some(url) = url_of(&service)
            && answers(&url).await
        {
            return url;
        }
        coracle_clock::sleep(POLL).await;
    }
}

fn describe(pod: &Pod) -> String {
    let app = pod.labels().get("tier").cloned().unwrap_or_else(|| pod.name_any());
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let mut states = statuses.map(|status| match status.state.as_ref() {
        Some(state) if state.waiting.is_some() => {
            state.waiting.as_ref().and_then(|waiting| waiting.reason.clone()).unwrap_or_else(|| "waiting".into())
        }
        Some(state) if state.running.is_some() && status.ready => "ready".into(),
        Some(state) if state.running.is_some() => "starting".into(),
        _ => "pending".into(),
    });
    format!("{app} {}", states.next().unwrap_or_else(|| "pending".into()))
}

fn url_of(service: &Service) -> Option<String> {
    let port = service.spec.as_ref()?.ports.as_ref()?.first()?.port;
    let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?.first()?;
    let ip = ingress.ip.as_ref()?;
    Some(if port == 80 { format!("http://{ip}/") } else { format!("http://{ip}:{port}/") })
}

/// Whether a page (or a redirect to one) comes back.
async fn answers(url: &str) -> bool {
    let http: HttpClient<_, Empty<bytes::Bytes>> = HttpClient::builder(TokioExecutor::new()).build_http();
    let Ok(uri) = url.parse() else { return false };
    let request = async {
        let response = http.get(uri).await.ok()?;
        let status = response.status();
        response.into_body().collect().await.ok()?;
        Some(status.is_success() || status.is_redirection())
    };
    matches!(coracle_clock::timeout(Duration::from_secs(5), request).await, Ok(Some(true)))
}

/// Pods that are not ready, and the last warnings: what a person would look at first.
async fn what_is_wrong(client: &Client) -> String {
    let mut lines = Vec::new();
    if let Ok(pods) = Api::<Pod>::namespaced(client.clone(), NAMESPACE).list(&Default::default()).await {
        lines.extend(pods.iter().map(|pod| format!("  pod {}: {}", pod.name_any(), describe(pod))));
    }
    if let Ok(events) = Api::<Event>::namespaced(client.clone(), NAMESPACE).list(&Default::default()).await {
        let warnings = events.items.iter().filter(|event| event.type_.as_deref() == Some("Warning"));
        lines.extend(warnings.rev().take(5).map(|event| {
            let about = event.involved_object.name.as_deref().unwrap_or_default();
            format!("  {about}: {}", event.message.as_deref().unwrap_or_default())
        }));
    }
    lines.push("  see also: kubectl describe pods, coracle logs".into());
    lines.join("\n")
}

fn next_steps(url: &str, dir: &DataDir, took: Duration) -> String {
    let kubeconfig = dir.kubeconfig();
    format!(
        "
WordPress answers after {:.1} s:  {url}

Point kubectl at the cluster:

  export KUBECONFIG={}

Five things to try:

  1. kubectl get pods -o wide --watch             watch, while you do the rest in another terminal
  2. kubectl delete pod -l tier=mysql             the database comes back, and so do its data
  3. docker kill $(docker ps -qf label=io.kubernetes.container.name=wordpress)
                                                  a crash: kubectl get pods counts a restart
  4. kubectl scale deployment wordpress --replicas 3
                                                  requests spread over three pods on two nodes
  5. kubectl describe pod -l tier=frontend        what happened, step by step
",
        took.as_secs_f64(),
        kubeconfig.display()
    )
}

async fn interrupted(dir: &DataDir) -> anyhow::Result<()> {
    if let Some(pid) = dir.running() {
        eprintln!("\nStopping the cluster and its containers…");
        down::stop(dir, pid).await.context("the cluster")?;
    }
    let flag = format!("--data-dir {}", dir.path().display());
    println!(
        "Stopped. State and volumes are kept.\n  resume:            coracle {flag} demo\n  remove everything: coracle {flag} down --purge"
    );
    Ok(())
}

async fn ended(dir: &DataDir, pid: u32) {
    while dir.running() == Some(pid) {
        coracle_clock::sleep(Duration::from_secs(1)).await;
    }
}
