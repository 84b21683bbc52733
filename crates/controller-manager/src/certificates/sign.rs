//! Signing: approved requests to Kubernetes' own signers become certificates.
//!
//! Each signer has its rules; a request that breaks them is marked as failed. How long a certificate lasts the
//! request may say (`expirationSeconds`), up to `--cluster-signing-duration`.

use std::time::Duration;

use coracle_api::certificates::{
    CertificateRequest, KUBE_APISERVER_CLIENT, KUBE_APISERVER_CLIENT_KUBELET, KUBELET_SERVING, LEGACY_UNKNOWN,
};
use coracle_client::{Informer, ObjectKey, Requeue, WorkQueue};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::Api;
use kube::api::PostParams;

use super::authority::Authority;
use super::{certificate, has_condition, parse, with_condition};
use crate::context::{Context, enqueue_changes};
use crate::error::{Error, Result};

const NAME: &str = "certificatesigningrequest-signing-controller";
/// No certificate is shorter: it is dated back by half of this.
const SHORTEST: Duration = Duration::from_secs(600);

/// A signer's rules.
type Rules = fn(&CertificateRequest, &[String]) -> Result<(), String>;

/// The signers by name.
const SIGNERS: [(&str, Rules); 4] = [
    (KUBE_APISERVER_CLIENT, api_server_client),
    (KUBE_APISERVER_CLIENT_KUBELET, CertificateRequest::check_kubelet_client),
    (KUBELET_SERVING, CertificateRequest::check_kubelet_serving),
    (LEGACY_UNKNOWN, |_, _| Ok(())),
];

fn api_server_client(_: &CertificateRequest, usages: &[String]) -> Result<(), String> {
    let allowed = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|usage| !allowed.contains(&usage.as_str())) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    let client = usages.iter().any(|usage| usage == "client auth");
    client.then_some(()).ok_or_else(|| "missing required usage for client certificate: client auth".into())
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing: it is not approved, is done with, or is another signer's.
    Leave,
    /// It breaks its signer's rules.
    Fail(String),
    /// A certificate for this, and how long it lasts.
    Sign(CertificateRequest, Duration),
}

pub(super) fn judge(csr: &CertificateSigningRequest, longest: Duration) -> Result<Verdict> {
    let signer = SIGNERS.iter().find(|(name, _)| *name == csr.spec.signer_name);
    let settled = !certificate(csr).is_empty() || has_condition(csr, "Failed") || has_condition(csr, "Denied");
    let (Some((_, rules)), true, false) = (signer, has_condition(csr, "Approved"), settled) else {
        return Ok(Verdict::Leave);
    };
    let request = parse(csr)?;
    if let Err(why) = rules(&request, csr.spec.usages.as_deref().unwrap_or_default()) {
        return Ok(Verdict::Fail(why));
    }
    let wanted = csr.spec.expiration_seconds.map(|s| Duration::from_secs(u64::try_from(s).unwrap_or_default()));
    Ok(Verdict::Sign(request, wanted.map_or(longest, |wanted| wanted.max(SHORTEST).min(longest))))
}

/// Runs the controller; without an authority there is nothing to run.
pub(crate) async fn run(context: Context) {
    let Some(authority) = &context.config.signer else {
        return tracing::info!("certificate requests are not signed: no --cluster-signing-cert-file");
    };
    let queue = WorkQueue::new();
    let requests: Informer<CertificateSigningRequest> = context.informer();
    enqueue_changes(&requests, &queue);
    requests.wait_for_sync().await;
    context.work(NAME, &queue, |key| sync(&context, authority, &requests, key)).await;
}

async fn sync(
    context: &Context,
    authority: &Authority,
    requests: &Informer<CertificateSigningRequest>,
    key: ObjectKey,
) -> Result<Requeue> {
    let Some(csr) = requests.get(&key) else { return Ok(Requeue::Never) };
    let changed = match judge(&csr, context.config.cluster_signing_duration)? {
        Verdict::Leave => return Ok(Requeue::Never),
        Verdict::Fail(why) => with_condition(&csr, "Failed", "SignerValidationFailure", why),
        Verdict::Sign(request, lasts) => {
            let usages = csr.spec.usages.as_deref().unwrap_or_default();
            let pem = authority
                .sign(&request, usages, lasts, coracle_clock::now_seconds())
                .map_err(|why| Error::Other(format!("error auto signing csr: {why}")))?;
            let mut changed = csr.as_ref().clone();
            changed.status.get_or_insert_default().certificate = Some(ByteString(pem.into_bytes()));
            changed
        }
    };
    let api: Api<CertificateSigningRequest> = Api::all(context.client.clone());
    api.replace_status(&key.name, &PostParams::default(), &changed).await?;
    Ok(Requeue::Never)
}
