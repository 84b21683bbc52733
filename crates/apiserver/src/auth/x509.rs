//! Client certificates: the common name is the user, the organisations are the groups.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use coracle_api::ApiResult;
use coracle_api::certificates::subject;
use http::request::Parts;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::front_proxy::{FrontProxy, Vouched};
use crate::hooks::{Authenticator, UserInfo};

/// Who a connection's verified client certificate says the peer is; the listener puts it into the
/// extensions of every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    user: UserInfo,
    /// The certificate and those between it and an authority.
    pub(super) chain: Arc<[CertificateDer<'static>]>,
    /// Which authorities vouch for it; found out once per connection.
    pub(super) vouched: Arc<OnceLock<Vouched>>,
}

impl PeerCertificate {
    /// Reads a certificate that TLS has already verified, and what follows it. `None` if it names no user.
    pub fn parse(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let (_, cert) = X509Certificate::from_der(chain.first()?).ok()?;
        let (name, groups) = subject(cert.subject());
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        (!name.is_empty()).then(|| PeerCertificate {
            user: UserInfo::new(name, &groups),
            chain: chain.iter().map(|der| der.clone().into_owned()).collect(),
            vouched: Arc::default(),
        })
    }

    /// The user.
    pub fn user(&self) -> &UserInfo {
        &self.user
    }
}

/// Authenticates by client certificate.
#[derive(Debug, Default)]
pub struct X509Authenticator {
    /// Who may speak for others. TLS then takes certificates that are no user's, which this tells apart.
    pub front_proxy: Option<FrontProxy>,
}

#[async_trait]
impl Authenticator for X509Authenticator {
    async fn authenticate(&self, parts: &Parts) -> Option<ApiResult<UserInfo>> {
        let peer = parts.extensions.get::<PeerCertificate>()?;
        match &self.front_proxy {
            Some(front_proxy) => front_proxy.authenticate(peer, &parts.headers),
            None => Some(Ok(peer.user().clone())),
        }
    }
}
