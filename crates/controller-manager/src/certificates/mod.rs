//! Certificate requests: approved, signed, cleaned away.
//!
//! Who wants a certificate creates a CertificateSigningRequest; somebody approves it; its signer signs it. Three
//! controllers do what needs no person: [`approve`] lets kubelets have theirs, [`sign`] signs for the signers that
//! Kubernetes itself has, with the [`authority`] it was given, and [`clean`] deletes what is over.
//!
//! All watch CertificateSigningRequests; a key is one of them.

pub(crate) mod approve;
pub(crate) mod authority;
pub(crate) mod clean;
pub(crate) mod sign;

use coracle_api::certificates::CertificateRequest;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};

use crate::error::{Error, Result};

fn conditions(csr: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    csr.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn has_condition(csr: &CertificateSigningRequest, kind: &str) -> bool {
    conditions(csr).iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

/// The issued certificate, PEM; empty if there is none.
fn certificate(csr: &CertificateSigningRequest) -> &[u8] {
    let certificate = csr.status.as_ref().and_then(|status| status.certificate.as_ref());
    certificate.map(|bytes| bytes.0.as_slice()).unwrap_or_default()
}

fn parse(csr: &CertificateSigningRequest) -> Result<CertificateRequest> {
    let name = csr.metadata.name.as_deref().unwrap_or_default();
    CertificateRequest::parse(&csr.spec.request.0)
        .map_err(|why| Error::Other(format!("unable to parse csr {name:?}: {why}")))
}

/// The request with one more condition.
fn with_condition(
    csr: &CertificateSigningRequest,
    kind: &str,
    reason: &str,
    message: String,
) -> CertificateSigningRequest {
    let mut csr = csr.clone();
    let status = csr.status.get_or_insert_with(CertificateSigningRequestStatus::default);
    status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message),
        ..Default::default()
    });
    csr
}

#[cfg(test)]
mod tests;
