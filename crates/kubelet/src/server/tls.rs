//! TLS: the kubelet proves that it is its node, clients prove who they are with certificates of the cluster's CA.

use std::io;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The kubelet's identity and whom it trusts, in PEM.
#[derive(Clone)]
pub struct ServerCertificate {
    /// The serving certificate and those between it and the CA.
    pub chain_pem: Vec<u8>,
    /// Its private key.
    pub key_pem: Vec<u8>,
    /// The certificates of the CA that signs clients' certificates.
    pub client_ca_pem: Vec<u8>,
}

impl ServerCertificate {
    /// The configuration of the TLS library. Clients without a certificate may connect; they are refused later, in
    /// HTTP, where the refusal can be read.
    pub fn server_config(&self) -> io::Result<Arc<rustls::ServerConfig>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&self.client_ca_pem) {
            roots.add(certificate.map_err(invalid)?).map_err(invalid)?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(invalid)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.chain_pem).collect();
        let key = PrivateKeyDer::from_pem_slice(&self.key_pem).map_err(invalid)?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(invalid)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.map_err(invalid)?, key)
            .map_err(invalid)?;
        // Upgrades exist in HTTP/1.1 only.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config.into())
    }
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Who a client is by its certificate: the common name is the user, the organisations are the groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub user: String,
    /// The groups.
    pub groups: Vec<String>,
}

impl Identity {
    /// Reads a verified certificate; `None` when it names nobody.
    pub fn of_certificate(certificate: &[u8]) -> Option<Identity> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let subject = certificate.subject();
        let user = subject.iter_common_name().next()?.as_str().ok()?.to_string();
        let groups = subject.iter_organization().filter_map(|name| name.as_str().ok().map(Into::into)).collect();
        Some(Identity { user, groups })
    }

    /// Whether the client administers the cluster, as the API server does: only such may see into other people's
    /// containers.
    pub fn is_administrator(&self) -> bool {
        self.groups.iter().any(|group| ADMINISTRATORS.contains(&group.as_str()))
    }
}

const ADMINISTRATORS: [&str; 2] = ["system:masters", "kubeadm:cluster-admins"];
