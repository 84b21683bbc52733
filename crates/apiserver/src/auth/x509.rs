//! Client certificates: the common name is the user, the organisations are the groups.

use async_trait::async_trait;
use coracle_api::ApiResult;
use coracle_api::certificates::subject;
use http::request::Parts;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::hooks::{Authenticator, UserInfo};

/// Who a connection's verified client certificate says the peer is; the listener puts it into the
/// extensions of every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate(UserInfo);

impl PeerCertificate {
    /// Reads a certificate that TLS has already verified. `None` if it names no user.
    pub fn parse(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, cert) = X509Certificate::from_der(der).ok()?;
        let (name, groups) = subject(cert.subject());
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        (!name.is_empty()).then(|| PeerCertificate(UserInfo::new(name, &groups)))
    }

    /// The user.
    pub fn user(&self) -> &UserInfo {
        &self.0
    }
}

/// Authenticates by client certificate.
#[derive(Debug)]
pub struct X509Authenticator;

#[async_trait]
impl Authenticator for X509Authenticator {
    async fn authenticate(&self, parts: &Parts) -> Option<ApiResult<UserInfo>> {
        parts.extensions.get::<PeerCertificate>().map(|peer| Ok(peer.user().clone()))
    }
}
