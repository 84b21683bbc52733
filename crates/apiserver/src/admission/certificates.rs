//! CertificateApproval, CertificateSigning, CertificateSubjectRestriction: who may turn a certificate request into a
//! certificate.
//!
//! The right to write `/approval` and `/status` is not enough: signers are told apart. Who approves or signs needs the
//! verb `approve` or `sign` on `signers` of the request's signer, or of all in its domain (`example.com/*`).

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use coracle_api::ApiResult;
use coracle_api::certificates::{CertificateRequest, KUBE_APISERVER_CLIENT};

use super::{is, refuse, text};
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Attributes, Decision, Operation};

const RESOURCE: &str = "certificatesigningrequests.certificates.k8s.io";

fn is_subresource(request: &AdmissionRequest, subresource: &str) -> bool {
    request.subresource == subresource && request.resource.qualified() == RESOURCE
}

/// Refuses who may not do this with the signer of the request.
async fn require(request: &AdmissionRequest, context: &AdmissionContext, verb: &str) -> ApiResult<()> {
    // The stored object's signer: that of the new one is whatever the client says.
    let signer = text(&request.old_object, "/spec/signerName");
    let domain = signer.split('/').next().unwrap_or_default();
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let wanted = Attributes {
            verb: verb.into(),
            is_resource: true,
            group: "certificates.k8s.io".into(),
            version: "*".into(),
            resource: "signers".into(),
            name,
            ..Attributes::default()
        };
        if context.authorizer.authorize(&request.user, &wanted).await == Decision::Allow {
            return Ok(());
        }
    }
    Err(refuse(request, format!("user not permitted to {verb} requests with signerName {signer:?}")))
}

#[derive(Debug)]
pub(super) struct CertificateApproval;

#[async_trait]
impl AdmissionPlugin for CertificateApproval {
    fn handles(&self, request: &AdmissionRequest) -> bool {
        request.operation == Operation::Update
    }

    async fn validate(&self, request: &AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        if is_subresource(request, "approval") { require(request, context, "approve").await } else { Ok(()) }
    }
}

#[derive(Debug)]
pub(super) struct CertificateSigning;

#[async_trait]
impl AdmissionPlugin for CertificateSigning {
    fn handles(&self, request: &AdmissionRequest) -> bool {
        request.operation == Operation::Update
    }

    async fn validate(&self, request: &AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        let (new, old) = (&request.object["status"], &request.old_object["status"]);
        let changed = ["certificate", "conditions"].iter().any(|field| new[*field] != old[*field]);
        if changed && is_subresource(request, "status") { require(request, context, "sign").await } else { Ok(()) }
    }
}

#[derive(Debug)]
pub(super) struct CertificateSubjectRestriction;

#[async_trait]
impl AdmissionPlugin for CertificateSubjectRestriction {
    fn handles(&self, request: &AdmissionRequest) -> bool {
        request.operation == Operation::Create
    }

    async fn validate(&self, request: &AdmissionRequest, _: &AdmissionContext) -> ApiResult<()> {
        if !is(request, RESOURCE) || text(&request.object, "/spec/signerName") != KUBE_APISERVER_CLIENT {
            return Ok(());
        }
        let pem = BASE64_STANDARD.decode(text(&request.object, "/spec/request")).unwrap_or_default();
        let parsed =
            CertificateRequest::parse(&pem).map_err(|why| refuse(request, format!("failed to parse CSR: {why}")))?;
        if parsed.organizations.iter().any(|group| group == "system:masters") {
            let why = format!("use of {KUBE_APISERVER_CLIENT} signer with system:masters group is not allowed");
            return Err(refuse(request, why));
        }
        Ok(())
    }
}
