//! Client certificates: the common name is the user, the organisations are the groups.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_api::certificates::subject;
use coracle_api::{ApiError, ApiResult};
use coracle_client::transport::peer::{Authorities, ClientChain, Verdict};
use http::request::Parts;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::hooks::{Authenticator, UserInfo};

/// What a connection's client certificate says of the peer, whoever vouches for it; the listener puts it into the
/// extensions of every request.
#[derive(Debug)]
pub struct PeerCertificate {
    user: UserInfo,
    pub(super) chain: ClientChain,
    as_user: Verdict,
    pub(super) as_front_proxy: Verdict,
}

impl PeerCertificate {
    /// Reads the certificate that a peer has proved to be its own, and those that it sent along.
    pub fn parse(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let (_, cert) = X509Certificate::from_der(chain.first()?).ok()?;
        let (name, groups) = subject(cert.subject());
        let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
        let mut user = UserInfo::new(name, &groups);
        let digest: String = Sha256::digest(chain.first()?).iter().map(|byte| format!("{byte:02x}")).collect();
        let id = "authentication.kubernetes.io/credential-id";
        user.extra.insert(id.to_owned(), vec![format!("X509SHA256={digest}")]);
        Some(PeerCertificate {
            user,
            chain: ClientChain::new(chain),
            as_user: Verdict::default(),
            as_front_proxy: Verdict::default(),
        })
    }

    /// Whom it names.
    pub fn user(&self) -> &UserInfo {
        &self.user
    }
}

/// Authenticates by client certificate.
#[derive(Debug)]
pub struct X509Authenticator {
    /// Who vouches for users.
    pub authorities: Authorities,
}

#[async_trait]
impl Authenticator for X509Authenticator {
    async fn authenticate(&self, parts: &Parts) -> Option<ApiResult<UserInfo>> {
        let peer = parts.extensions.get::<Arc<PeerCertificate>>()?;
        if !peer.as_user.of(&peer.chain, &self.authorities) {
            return Some(Err(ApiError::unauthorized()));
        }
        (!peer.user.name.is_empty()).then(|| Ok(peer.user.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    use rcgen::{ExtendedKeyUsagePurpose as Purpose, ExtendedKeyUsagePurpose::ClientAuth};

    use super::*;
    use crate::auth::front_proxy::{FrontProxy, RequestHeaders};
    use crate::testing::in_simulation;

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    /// A request by who shows a certificate that holds between these hours.
    fn request(issuer: &CertifiedIssuer<'_, KeyPair>, from: u64, to: u64, name: &str, purpose: Purpose) -> Parts {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let start = rcgen::date_time_ymd(2025, 12, 31);
        params.not_before = start + Duration::from_secs(from * 3600);
        params.not_after = start + Duration::from_secs(to * 3600);
        params.extended_key_usages = vec![purpose];
        let cert = params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap();
        let request = http::Request::get("/").header("x-remote-user", "eve").body(()).unwrap();
        let (mut parts, ()) = request.into_parts();
        parts.extensions.insert(Arc::new(PeerCertificate::parse(&[cert.der().clone()]).unwrap()));
        parts
    }

    /// What is said: a name, `""` for wrong credentials, `"-"` for none.
    async fn said(authenticator: &dyn Authenticator, parts: &Parts) -> String {
        match authenticator.authenticate(parts).await {
            Some(answer) => answer.map(|user| user.name).unwrap_or_default(),
            None => "-".into(),
        }
    }

    #[test]
    fn a_certificate_counts_while_it_holds_if_an_authority_signed_it_for_clients() {
        in_simulation(async || {
            let (users, others) = (authority(), authority());
            let x509 = X509Authenticator { authorities: Authorities::new(&users.pem()).unwrap() };
            let proxy = FrontProxy::new(RequestHeaders::new(&others.pem(), "ada")).unwrap();
            // It is hour 24.
            let cases = [
                (request(&users, 0, 48, "ada", ClientAuth), ["ada", ""], ["ada", ""]),
                (request(&users, 0, 23, "ada", ClientAuth), ["", ""], ["", ""]),
                (request(&users, 0, 25, "ada", ClientAuth), ["ada", ""], ["", ""]),
                (request(&users, 25, 48, "ada", ClientAuth), ["", ""], ["ada", ""]),
                (request(&users, 0, 48, "ada", Purpose::ServerAuth), ["", ""], ["", ""]),
                (request(&users, 0, 48, "", ClientAuth), ["-", ""], ["-", ""]),
                (request(&others, 0, 48, "ada", ClientAuth), ["", "eve"], ["", "eve"]),
                (request(&others, 0, 25, "ada", ClientAuth), ["", "eve"], ["", ""]),
                (request(&others, 0, 48, "bob", ClientAuth), ["", ""], ["", ""]),
            ];
            let check = async |later: bool| {
                for (number, (parts, now, then)) in cases.iter().enumerate() {
                    let expected = if later { then } else { now };
                    for _ in 0..2 {
                        let answers = [said(&x509, parts).await, said(&proxy, parts).await];
                        assert_eq!(&answers, expected, "case {number}, later: {later}");
                    }
                }
            };
            check(false).await;
            coracle_clock::sleep(Duration::from_secs(2 * 3600)).await;
            check(true).await;
            let (anonymous, ()) = http::Request::get("/").body(()).unwrap().into_parts();
            assert_eq!([said(&x509, &anonymous).await, said(&proxy, &anonymous).await], ["-", "-"]);
        });
    }
}
