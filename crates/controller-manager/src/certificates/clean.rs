//! Cleaning: requests that are over are deleted, so that they do not pile up.
//!
//! Once an hour all are looked at; there is one key.

use coracle_api::certificates::not_after;
use coracle_client::{Informer, ObjectKey, Requeue, WorkQueue};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use std::time::Duration;

use super::{certificate, conditions};
use crate::context::Context;
use crate::error::{IgnoreNotFound, Result};

const NAME: &str = "certificatesigningrequest-cleaner-controller";
const INTERVAL: Duration = Duration::from_secs(3600);
/// How long, in seconds, what was decided stays, and what was not.
const DECIDED_SECONDS: i64 = 3600;
const PENDING_SECONDS: i64 = 24 * 3600;

/// Whether a request is over: decided an hour ago, unanswered for a day, or its certificate has expired.
pub(super) fn is_over(csr: &CertificateSigningRequest, now: jiff::Timestamp) -> bool {
    let since =
        |time: &Option<Time>, seconds| time.as_ref().is_some_and(|time| now.as_second() - time.0.as_second() > seconds);
    let pem = certificate(csr);
    let expired = not_after(pem).is_some_and(|end| end < now.as_second());
    let conditions = conditions(csr);
    if conditions.is_empty() {
        return since(&csr.metadata.creation_timestamp, PENDING_SECONDS);
    }
    conditions.iter().any(|condition| {
        let decided = since(&condition.last_update_time, DECIDED_SECONDS);
        match condition.type_.as_str() {
            "Denied" | "Failed" => decided,
            "Approved" => !pem.is_empty() && (decided || expired),
            _ => false,
        }
    })
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let requests: Informer<CertificateSigningRequest> = context.informer();
    requests.wait_for_sync().await;
    queue.add(ObjectKey::default());
    context.work(NAME, &queue, |_| sync(&context, &requests)).await;
}

async fn sync(context: &Context, requests: &Informer<CertificateSigningRequest>) -> Result<Requeue> {
    let api: Api<CertificateSigningRequest> = Api::all(context.client.clone());
    for csr in requests.list().iter().filter(|csr| is_over(csr, coracle_clock::now())) {
        api.delete(&csr.name_any(), &DeleteParams::default()).await.ignore_not_found()?;
    }
    Ok(Requeue::After(INTERVAL))
}
