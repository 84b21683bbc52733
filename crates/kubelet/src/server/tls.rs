//! TLS: the kubelet proves that it is its node, clients prove who they are with certificates of the cluster's CA.

use std::io;
use std::sync::Arc;

use coracle_api::certificates::subject;
use coracle_client::transport;
use coracle_client::transport::peer::{self, Authorities, ClientChain, Verdict};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The kubelet's identity and whom it trusts, in PEM.
#[derive(Clone)]
pub struct ServerCertificate {
    /// The serving certificate and those between it and the CA.
    pub chain_pem: String,
    /// Its private key.
    pub key_pem: String,
    /// The certificates of the CA that signs clients' certificates.
    pub client_ca_pem: String,
}

impl ServerCertificate {
    /// The configuration of the TLS library. Clients without a good certificate may connect; they are refused later,
    /// in HTTP, where the refusal can be read.
    pub(super) fn server_config(&self) -> io::Result<Arc<rustls::ServerConfig>> {
        let identity = transport::Identity { cert_pem: &self.chain_pem, key_pem: &self.key_pem };
        // Upgrades exist in HTTP/1.1 only.
        peer::server_config(identity, &self.client_ca_pem, &["http/1.1"]).map_err(invalid)
    }

    /// Who judges clients' certificates.
    pub(super) fn authorities(&self) -> io::Result<Authorities> {
        Authorities::new(&self.client_ca_pem).map_err(invalid)
    }
}

fn invalid(error: transport::TransportError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The other end of a connection.
pub(super) struct Client {
    identity: Identity,
    chain: ClientChain,
    verdict: Verdict,
}

impl Client {
    /// Who shows these certificates.
    pub(super) fn of(chain: &[CertificateDer<'_>]) -> Option<Client> {
        let identity = Identity::of_certificate(chain.first()?)?;
        Some(Client { identity, chain: ClientChain::new(chain), verdict: Verdict::default() })
    }

    /// Who the client is, if the authorities vouch for it.
    pub(super) fn known_to(&self, authorities: &Authorities) -> Option<&Identity> {
        self.verdict.of(&self.chain, authorities).then_some(&self.identity)
    }
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
    /// Reads a certificate; `None` when it names nobody.
    fn of_certificate(certificate: &[u8]) -> Option<Identity> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let (user, groups) = subject(certificate.subject());
        (!user.is_empty()).then_some(Identity { user, groups })
    }

    /// Whether the client administers the cluster, as the API server does: only such may see into other people's
    /// containers.
    pub fn is_administrator(&self) -> bool {
        self.groups.iter().any(|group| ADMINISTRATORS.contains(&group.as_str()))
    }
}

const ADMINISTRATORS: [&str; 2] = ["system:masters", "kubeadm:cluster-admins"];
