//! Approval of kubelets' client certificates.
//!
//! A kubelet that has one may renew it (`selfnodeclient`); who joins a node may get it its first (`nodeclient`).
//! Whether that is so for this requester, policy says: a SubjectAccessReview asks for the right to create
//! `certificatesigningrequests/selfnodeclient` or `…/nodeclient`.

use coracle_api::certificates::{CertificateRequest, KUBE_APISERVER_CLIENT_KUBELET};
use coracle_client::{Informer, ObjectKey, Requeue, WorkQueue};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::PostParams;
use kube::{Api, Client};

use super::{certificate, has_condition, parse, with_condition};
use crate::context::{Context, enqueue_changes};
use crate::error::{Error, Result};

const NAME: &str = "certificatesigningrequest-approving-controller";

/// A right that is enough, and what is then written on the request.
type Ground = (&'static str, &'static str);

const SELF_NODE_CLIENT: Ground =
    ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.");
const NODE_CLIENT: Ground = ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");

/// The rights any of which is enough for this request; none if it is not of a sort that approves itself.
pub(super) fn grounds(csr: &CertificateSigningRequest, request: &CertificateRequest) -> Vec<Ground> {
    let usages = csr.spec.usages.as_deref().unwrap_or_default();
    if csr.spec.signer_name != KUBE_APISERVER_CLIENT_KUBELET || request.check_kubelet_client(usages).is_err() {
        return Vec::new();
    }
    let own = csr.spec.username.as_deref() == Some(&request.common_name);
    own.then_some(SELF_NODE_CLIENT).into_iter().chain([NODE_CLIENT]).collect()
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let requests: Informer<CertificateSigningRequest> = context.informer();
    enqueue_changes(&requests, &queue);
    requests.wait_for_sync().await;
    context.work(NAME, &queue, |key| sync(context.client.clone(), &requests, key)).await;
}

async fn sync(client: Client, requests: &Informer<CertificateSigningRequest>, key: ObjectKey) -> Result<Requeue> {
    let Some(csr) = requests.get(&key) else { return Ok(Requeue::Never) };
    if !certificate(&csr).is_empty() || has_condition(&csr, "Approved") || has_condition(&csr, "Denied") {
        return Ok(Requeue::Never);
    }
    let grounds = grounds(&csr, &parse(&csr)?);
    for (right, message) in &grounds {
        if may(&client, &csr, right).await? {
            let approved = with_condition(&csr, "Approved", "AutoApproved", (*message).to_owned());
            let api: Api<CertificateSigningRequest> = Api::all(client);
            api.replace_subresource("approval", &key.name, &PostParams::default(), &approved).await?;
            return Ok(Requeue::Never);
        }
    }
    if grounds.is_empty() {
        return Ok(Requeue::Never);
    }
    // Policy may come to permit it.
    let tried: Vec<_> = grounds.iter().map(|(right, _)| *right).collect();
    let why =
        format!("recognized csr {:?} as [{}] but subject access review was not approved", key.name, tried.join(" "));
    Err(Error::Other(why))
}

async fn may(client: &Client, csr: &CertificateSigningRequest, right: &str) -> Result<bool> {
    let spec = csr.spec.clone();
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: spec.username,
            uid: spec.uid,
            groups: spec.groups,
            extra: spec.extra,
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".into()),
                resource: Some("certificatesigningrequests".into()),
                verb: Some("create".into()),
                subresource: Some(right.into()),
                ..Default::default()
            }),
            ..Default::default()
        },
        ..Default::default()
    };
    let answer = Api::all(client.clone()).create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}
