//! The front proxy: somebody in front of this server who has authenticated the user, and says so in headers.
//!
//! Believed are only connections whose client certificate the authority of `--requestheader-client-ca-file` signed,
//! and whose common name is among `--requestheader-allowed-names` (if there are any). The same settings are
//! published to extension servers, for whom this server is the front proxy.

use std::sync::Arc;

use coracle_api::{ApiError, ApiResult};
use coracle_client::transport::{TransportError, authorities};
use http::HeaderMap;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::UnixTime;
use serde_json::{Value, json};

use super::x509::PeerCertificate;
use crate::hooks::UserInfo;

/// Whom to believe, and which headers.
#[derive(Clone, Debug)]
pub struct RequestHeaders {
    /// The authority that signs front proxies' certificates, PEM.
    pub client_ca_pem: String,
    /// The common names that are believed; none for all.
    pub allowed_names: Vec<String>,
    /// Headers with the user's name; the first that is there counts.
    pub username_headers: Vec<String>,
    /// Headers with the user's uid.
    pub uid_headers: Vec<String>,
    /// Headers with groups.
    pub group_headers: Vec<String>,
    /// Beginnings of the headers with whatever else is known.
    pub extra_prefixes: Vec<String>,
}

impl RequestHeaders {
    /// The usual headers, for front proxies with this common name.
    pub fn new(client_ca_pem: &str, allowed_name: &str) -> Self {
        let one = |text: &str| vec![text.to_owned()];
        RequestHeaders {
            client_ca_pem: client_ca_pem.to_owned(),
            allowed_names: one(allowed_name),
            username_headers: one("X-Remote-User"),
            uid_headers: one("X-Remote-Uid"),
            group_headers: one("X-Remote-Group"),
            extra_prefixes: one("X-Remote-Extra-"),
        }
    }

    /// As the ConfigMap `extension-apiserver-authentication` holds them.
    pub fn published(&self) -> Value {
        json!({
            "requestheader-client-ca-file": self.client_ca_pem,
            "requestheader-allowed-names": json!(self.allowed_names).to_string(),
            "requestheader-username-headers": json!(self.username_headers).to_string(),
            "requestheader-uid-headers": json!(self.uid_headers).to_string(),
            "requestheader-group-headers": json!(self.group_headers).to_string(),
            "requestheader-extra-headers-prefix": json!(self.extra_prefixes).to_string(),
        })
    }

    /// The user in a request's headers.
    fn user(&self, headers: &HeaderMap) -> Option<UserInfo> {
        let all = |names: &[String]| -> Vec<String> {
            let values = names.iter().flat_map(|name| headers.get_all(name.as_str()));
            values
                .filter_map(|value| value.to_str().ok())
                .filter(|value| !value.is_empty())
                .map(str::to_owned)
                .collect()
        };
        let mut user = UserInfo {
            name: all(&self.username_headers).into_iter().next()?,
            uid: all(&self.uid_headers).into_iter().next().unwrap_or_default(),
            groups: all(&self.group_headers),
            ..UserInfo::default()
        };
        for name in headers.keys() {
            let mut prefixes = self.extra_prefixes.iter().map(|prefix| prefix.to_ascii_lowercase());
            if let Some(key) = prefixes.find_map(|prefix| name.as_str().strip_prefix(prefix.as_str())) {
                let key = crate::request_info::percent_decode(key, false).into_owned();
                user.extra.entry(key).or_default().extend(all(&[name.to_string()]));
            }
        }
        let everybody = "system:authenticated";
        if user.name != "system:anonymous" && !user.in_group(everybody) {
            user.groups.push(everybody.into());
        }
        Some(user)
    }
}

/// Tells front proxies' connections from users' own, and reads their headers.
#[derive(Debug)]
pub struct FrontProxy {
    headers: RequestHeaders,
    proxies: Arc<dyn ClientCertVerifier>,
    users: Arc<dyn ClientCertVerifier>,
}

/// Which authorities vouch for a connection's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vouched {
    proxy: bool,
    user: bool,
}

fn verifier(pem: &str) -> Result<Arc<dyn ClientCertVerifier>, TransportError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(pem)?), provider)
        .build()
        .map_err(|error| TransportError::Tls(rustls::Error::General(error.to_string())))
}

impl FrontProxy {
    /// Believes `headers`; users' own certificates are signed by an authority in `user_ca_pem`.
    pub fn new(headers: RequestHeaders, user_ca_pem: &str) -> Result<Self, TransportError> {
        Ok(FrontProxy { proxies: verifier(&headers.client_ca_pem)?, users: verifier(user_ca_pem)?, headers })
    }

    fn vouched(&self, peer: &PeerCertificate) -> Vouched {
        *peer.vouched.get_or_init(|| {
            let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(
                u64::try_from(coracle_clock::now().as_second()).unwrap_or_default(),
            ));
            let by = |verifier: &Arc<dyn ClientCertVerifier>| {
                let Some((own, rest)) = peer.chain.split_first() else { return false };
                verifier.verify_client_cert(own, rest, now).is_ok()
            };
            Vouched { proxy: by(&self.proxies), user: by(&self.users) }
        })
    }

    /// Who is on the other end of a connection with a certificate.
    pub(super) fn authenticate(&self, peer: &PeerCertificate, headers: &HeaderMap) -> Option<ApiResult<UserInfo>> {
        let vouched = self.vouched(peer);
        let name = &peer.user().name;
        let allowed = self.headers.allowed_names.is_empty() || self.headers.allowed_names.contains(name);
        if vouched.proxy
            && allowed
            && let Some(user) = self.headers.user(headers)
        {
            return Some(Ok(user));
        }
        if vouched.user { Some(Ok(peer.user().clone())) } else { Some(Err(ApiError::unauthorized())) }
    }
}
