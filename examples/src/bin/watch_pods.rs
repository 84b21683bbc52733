//! Prints every change of every pod, as `kubectl get pods -A --watch` does: what any client of any
//! Kubernetes looks like. Run it against a cluster, then delete a pod:
//!
//! ```console
//! $ KUBECONFIG=$(coracle kubeconfig --path) cargo run -p coracle-examples --bin watch_pods
//! ```

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // From $KUBECONFIG, ~/.kube/config, or inside a pod its ServiceAccount.
    let client = Client::try_default().await?;
    let mut changes = std::pin::pin!(watcher(Api::<Pod>::all(client), watcher::Config::default()));
    while let Some(change) = changes.try_next().await? {
        match change {
            Event::InitApply(pod) | Event::Apply(pod) => println!("{:<60} {}", name(&pod), phase(&pod)),
            Event::Delete(pod) => println!("{:<60} gone", name(&pod)),
            Event::Init | Event::InitDone => {}
        }
    }
    Ok(())
}

fn name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Unknown")
}
