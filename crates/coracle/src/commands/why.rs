//! `coracle why`: why a pod is where it is, or is nowhere.

use std::path::PathBuf;

use anyhow::{Context, bail};
use coracle_client::ObjectKey;
use coracle_scheduler::explain::Trace;
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

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
            let authority = options.certificate_authority.as_ref().map(|file| {
                std::fs::read_to_string(file).with_context(|| format!("--certificate-authority {}", file.display()))
            });
            let config = scheduler_config(config, url, authority.transpose()?.as_deref())?;
            coracle_client::metrics::client(config, "coracle")?
        }
    };
    let request = Request::get(format!("{DECISIONS}{}/{name}", options.namespace)).body(Vec::new())?;
    let traces: Vec<Trace> = match asked.request(request).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            bail!("no scheduler explains itself there: {}", status.message)
        }
        Err(kube::Error::Api(status)) => return Err(kube::Error::Api(status).into()),
        other if options.scheduler.is_some() => other.context(
            "if it is its certificate: start the scheduler with --tls-cert-file and --tls-private-key-file, and name who \
             signed that in --certificate-authority",
        )?,
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

/// How a scheduler that runs alone is asked: as the cluster is, but at its own address, and with a certificate of the
/// cluster's authority or of another.
fn scheduler_config(mut config: kube::Config, url: &str, authority: Option<&str>) -> anyhow::Result<kube::Config> {
    config.cluster_url = url.parse().with_context(|| format!("--scheduler {url}"))?;
    config.tls_server_name = None;
    if let Some(pem) = authority {
        let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).map(|der| der.map(|der| der.to_vec()));
        let certificates: Vec<_> = certificates.collect::<Result<_, _>>().context("--certificate-authority")?;
        if certificates.is_empty() {
            bail!("--certificate-authority: there is no certificate");
        }
        config.root_cert = Some(certificates);
    }
    Ok(config)
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
    fn a_scheduler_that_runs_alone_must_show_a_certificate_of_a_known_authority() {
        let cluster = || {
            let mut config = kube::Config::new("https://127.0.0.1:6443".parse().unwrap());
            config.root_cert = Some(vec![vec![1]]);
            config
        };
        let pem = |base64: &str| format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
        for (authority, expected) in [
            (None, Some(vec![vec![1]])),
            (Some(pem("AgM=")), Some(vec![vec![2, 3]])),
            (Some(pem("Ag==") + &pem("Aw==")), Some(vec![vec![2], vec![3]])),
            (Some("nonsense".to_owned()), None),
        ] {
            let config = scheduler_config(cluster(), "https://127.0.0.1:10259", authority.as_deref()).ok();
            assert!(
                config
                    .iter()
                    .all(|config| !config.accept_invalid_certs && config.cluster_url.port_u16() == Some(10259))
            );
            assert_eq!(config.map(|config| config.root_cert), expected.map(Some), "{authority:?}");
        }
    }

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
