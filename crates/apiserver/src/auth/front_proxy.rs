//! The front proxy: somebody in front of this server who has authenticated the user, and says so in headers.
//!
//! Believed are only connections whose client certificate the authority of `--requestheader-client-ca-file` signed,
//! and whose common name is among `--requestheader-allowed-names` (if there are any). The same settings are
//! published to extension servers, for whom this server is the front proxy.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_api::{ApiError, ApiResult};
use coracle_client::transport::TransportError;
use coracle_client::transport::peer::Authorities;
use http::HeaderMap;
use http::request::Parts;
use serde_json::{Value, json};

use super::x509::PeerCertificate;
use crate::hooks::{Authenticator, UserInfo};

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

/// Authenticates those for whom a front proxy speaks.
#[derive(Debug)]
pub struct FrontProxy {
    headers: RequestHeaders,
    authorities: Authorities,
}

impl FrontProxy {
    /// Believes `headers`.
    pub fn new(headers: RequestHeaders) -> Result<Self, TransportError> {
        Ok(FrontProxy { authorities: Authorities::new(&headers.client_ca_pem)?, headers })
    }
}

#[async_trait]
impl Authenticator for FrontProxy {
    async fn authenticate(&self, parts: &Parts) -> Option<ApiResult<UserInfo>> {
        let peer = parts.extensions.get::<Arc<PeerCertificate>>()?;
        let allowed = &self.headers.allowed_names;
        let believed = peer.as_front_proxy.of(&peer.chain, &self.authorities)
            && (allowed.is_empty() || allowed.contains(&peer.user().name));
        if believed { self.headers.user(&parts.headers).map(Ok) } else { Some(Err(ApiError::unauthorized())) }
    }
}
