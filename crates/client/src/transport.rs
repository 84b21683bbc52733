//! TLS as clients speak it, and failures to connect as Go's `net`, `crypto/tls` and `net/http` word them:
//! people search for those words.

pub mod peer;

use std::io::{Error, ErrorKind};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// Whose certificates are taken.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// Anybody's.
    Anyone,
    /// Those an authority in this PEM signed.
    Authorities(&'a str),
    /// Those an authority signed that this machine trusts.
    System,
}

/// A certificate and its key, as PEM.
#[derive(Clone, Copy)]
pub struct Identity<'a> {
    /// The certificate, with its chain.
    pub cert_pem: &'a str,
    /// The private key.
    pub key_pem: &'a str,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// What should be PEM is not.
    #[error("{0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// The certificates are no good.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// There is not one authority to trust.
    #[error("unable to load root certificates: no valid certificate authority data seen")]
    NoAuthorities,
}

/// The configuration of a client that trusts `trust` and shows `identity` where it is asked for one.
pub fn client_config(trust: Trust<'_>, identity: Option<Identity<'_>>) -> Result<ClientConfig, TransportError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match trust {
        Trust::Anyone => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider.clone())))
        }
        Trust::Authorities(pem) => builder.with_root_certificates(authorities(pem)?),
        Trust::System => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            builder.with_root_certificates(roots)
        }
    };
    Ok(match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let certs = CertificateDer::pem_slice_iter(identity.cert_pem.as_bytes()).collect::<Result<_, _>>()?;
            builder.with_client_auth_cert(certs, PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())?)?
        }
    })
}

/// The certificates in a PEM, at least one, as roots of trust.
pub fn authorities(pem: &str) -> Result<RootCertStore, TransportError> {
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(cert?)?;
    }
    if roots.is_empty() { Err(TransportError::NoAuthorities) } else { Ok(roots) }
}

/// A failure to connect: `dial tcp 127.0.0.1:1: connect: connection refused`, or what is wrong with the
/// server's certificate.
pub fn dial_error(address: &str, error: &Error) -> String {
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return tls_error(tls);
    }
    let why = match error.kind() {
        ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {address}: {why}")
}

/// What is wrong with a TLS connection.
pub fn tls_error(error: &rustls::Error) -> String {
    let rustls::Error::InvalidCertificate(why) = error else { return error.to_string() };
    let why = match why {
        // A bad signature: an authority of that name is trusted, but it is another one.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "certificate signed by unknown authority".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "certificate has expired or is not yet valid".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<&str> = presented.iter().map(|name| plain(name)).collect();
            format!("certificate is valid for {}, not {}", names.join(", "), expected.to_str())
        }
        other => other.to_string(),
    };
    format!("tls: failed to verify certificate: x509: {why}")
}

/// `DnsName("web.default.svc")` without its wrapping.
fn plain(name: &str) -> &str {
    name.split_once('"').and_then(|(_, rest)| rest.split_once('"')).map_or(name, |(name, _)| name)
}

/// Takes every certificate: probes and proxies ask whether a server answers, not who it is.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_worded_as_go_words_them() {
        let refused = Error::from(ErrorKind::ConnectionRefused);
        assert_eq!(dial_error("127.0.0.1:1", &refused), "dial tcp 127.0.0.1:1: connect: connection refused");
        let unknown = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        assert_eq!(
            dial_error("127.0.0.1:1", &Error::other(unknown)),
            "tls: failed to verify certificate: x509: certificate signed by unknown authority"
        );
        let other = rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("b.default.svc").unwrap().to_owned(),
            presented: vec!["DnsName(\"a.default.svc\")".into(), "localhost".into()],
        });
        assert_eq!(
            tls_error(&other),
            "tls: failed to verify certificate: x509: certificate is valid for a.default.svc, localhost, not b.default.svc"
        );
    }

    #[test]
    fn a_bundle_without_a_certificate_is_refused() {
        for pem in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(client_config(Trust::Authorities(pem), None).is_err(), "{pem}");
        }
        assert!(client_config(Trust::Anyone, None).is_ok());
    }
}
