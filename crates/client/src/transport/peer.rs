//! A server's side of TLS, as Kubernetes' servers speak it: clients are asked for a certificate, and must prove that
//! they hold its key, but nobody's word is asked for in the handshake. [`Authorities`] judge later, in HTTP, where
//! other credentials may count and a refusal can be read.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Identity, TransportError, authorities};

/// TLS of a server that shows `identity` and tells clients that it knows the authorities in `client_ca_pem`; without
/// any it asks for no certificates.
pub fn server_config(
    identity: Identity<'_>,
    client_ca_pem: &str,
    protocols: &[&str],
) -> Result<Arc<ServerConfig>, TransportError> {
    let clients: Arc<dyn ClientCertVerifier> = match client_ca_pem {
        "" => WebPkiClientVerifier::no_client_auth(),
        pem => Arc::new(AnyClient(Authorities::new(pem)?.0)),
    };
    config(identity, clients, protocols)
}

/// TLS of a server that shows `identity` and talks only to clients for whom the authorities in `client_ca_pem` vouch.
pub fn mutual_server_config(
    identity: Identity<'_>,
    client_ca_pem: &str,
    protocols: &[&str],
) -> Result<Arc<ServerConfig>, TransportError> {
    config(identity, Authorities::new(client_ca_pem)?.0, protocols)
}

fn config(
    identity: Identity<'_>,
    clients: Arc<dyn ClientCertVerifier>,
    protocols: &[&str],
) -> Result<Arc<ServerConfig>, TransportError> {
    let chain = CertificateDer::pem_slice_iter(identity.cert_pem.as_bytes()).collect::<Result<_, _>>()?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())?)?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// Who vouches for clients' certificates.
#[derive(Clone, Debug)]
pub struct Authorities(Arc<dyn ClientCertVerifier>);

impl Authorities {
    /// Those in a PEM, at least one.
    pub fn new(pem: &str) -> Result<Self, TransportError> {
        WebPkiClientVerifier::builder_with_provider(authorities(pem)?.into(), Arc::new(ring::default_provider()))
            .build()
            .map(Authorities)
            .map_err(|error| TransportError::Tls(rustls::Error::General(error.to_string())))
    }
}

/// What a client showed: its certificate and those between it and an authority.
#[derive(Debug)]
pub struct ClientChain(Vec<CertificateDer<'static>>);

impl ClientChain {
    /// What a connection's peer showed.
    pub fn new(chain: &[CertificateDer<'_>]) -> Self {
        ClientChain(chain.iter().map(|der| der.clone().into_owned()).collect())
    }

    /// Whether `authorities` vouch for it now, as a client's.
    fn verify(&self, authorities: &Authorities, now: u64) -> bool {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        let split = self.0.split_first();
        split.is_some_and(|(own, rest)| authorities.0.verify_client_cert(own, rest, now).is_ok())
    }

    /// When the time of one of the certificates begins or ends next.
    fn next_turn(&self, now: u64) -> u64 {
        let parsed = self.0.iter().filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1));
        let turns = parsed.flat_map(|cert| {
            let validity = cert.validity();
            [validity.not_before.timestamp(), validity.not_after.timestamp().saturating_add(1)]
        });
        turns.filter_map(|turn| u64::try_from(turn).ok()).filter(|turn| *turn > now).min().unwrap_or(u64::MAX)
    }
}

/// A connection's verdict: found once, and again when the time of a certificate begins or ends.
#[derive(Debug, Default)]
pub struct Verdict(Mutex<Option<(bool, u64)>>);

impl Verdict {
    /// Whether `authorities` vouch for `chain`; always asked with the same two.
    pub fn of(&self, chain: &ClientChain, authorities: &Authorities) -> bool {
        let now = u64::try_from(coracle_clock::now().as_second()).unwrap_or_default();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((verdict, until)) = *known
            && now < until
        {
            return verdict;
        }
        let verdict = chain.verify(authorities, now);
        *known = Some((verdict, chain.next_turn(now)));
        verdict
    }
}

/// Takes every client whose certificate is its own.
#[derive(Debug)]
struct AnyClient(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
