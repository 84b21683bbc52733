//! `coracle why`: why a pod is where it is, or is nowhere.

use std::path::PathBuf;

use anyhow::{Context, bail};
use coracle_client::ObjectKey;
use coracle_scheduler::explain::Trace;
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};

use crate::cli::Why;
use crate::data_dir::DataDir;

/// Where the scheduler's decisions on a pod are: below it follow namespace and name.
pub const DECISIONS: &str = "/debug/scheduler/decisions/";

pub async fn run(data_dir: Option<PathBuf>, options: Why) -> anyhow::Result<()> {
    let Some(name) = pod_name(&options.pod) else {
        bail!("{:?} is no pod: say pod/NAME", options.pod);
    };
    let dir = DataDir::new(data_dir)?;
    let path = options.kubeconfig.clone().unwrap_or_else(|| dir.kubeconfig());
    let kubeconfig = Kubeconfig::read_from(&path).with_context(|| format!("kubeconfig {}", path.display()))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let cluster = coracle_client::metrics::client(config.clone(), "coracle")?;
    let asked = match &options.scheduler {
        None => cluster.clone(),
        Some(url) => {
            let mut config = config;
            config.cluster_url = url.parse().with_context(|| format!("--scheduler {url}"))?;
            // A scheduler alone shows a certificate that it made for itself.
            config.accept_invalid_certs = true;
            coracle_client::metrics::client(config, "coracle")?
        }
    };
    let request = Request::get(format!("{DECISIONS}{}/{name}", options.namespace)).body(Vec::new())?;
    let traces: Vec<Trace> = match asked.request(request).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            bail!("no scheduler explains itself there: {}", status.message)
        }
        other => other?,
    };
    if options.output.is_some() {
        println!("{}", serde_json::to_string_pretty(&traces)?);
    } else if let Some(newest) = traces.first() {
        print!("{newest}");
    } else {
        print!("{}", otherwise(&cluster, &ObjectKey::new(&options.namespace, name)).await?);
    }
    Ok(())
}

/// The name in `pod/NAME`, `pods/NAME` or `NAME`.
fn pod_name(text: &str) -> Option<&str> {
    match text.split_once('/') {
        None => Some(text),
        Some(("pod" | "pods" | "po", name)) => Some(name),
        Some(_) => None,
    }
    .filter(|name| !name.is_empty())
}

/// What can be said without a trace.
async fn otherwise(cluster: &Client, key: &ObjectKey) -> anyhow::Result<String> {
    let api: Api<Pod> = Api::namespaced(cluster.clone(), &key.namespace);
    let Some(pod) = api.get_opt(&key.name).await? else { bail!("pods {:?} not found", key.name) };
    let mut text = format!("pod {key}: no decision on it is kept (any more)\n");
    if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) {
        text += &format!("it is on {node}\n");
    }
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let scheduled = conditions.into_iter().find(|condition| condition.type_ == "PodScheduled");
    if let Some(message) = scheduled.and_then(|condition| condition.message.as_deref()) {
        text += &format!("its status says: {message}\n");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_named_as_kubectl_names_it() {
        for (text, expected) in [
            ("pod/web", Some("web")),
            ("pods/web", Some("web")),
            ("web", Some("web")),
            ("node/a", None),
            ("pod/", None),
        ] {
            assert_eq!(pod_name(text), expected);
        }
    }
}
