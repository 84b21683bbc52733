//! The cluster's certificates: one authority, and what it issues.
//!
//! In Kubernetes every connection is TLS and a component *is* its client certificate: the common name
//! is the user, each organisation a group. [`Pki::ensure`] lays the files out as kubeadm does:
//!
//! ```text
//! <dir>/ca.{crt,key}                        the authority, 10 years
//! <dir>/apiserver.{crt,key}                 what the API server shows its clients
//! <dir>/apiserver-kubelet-client.{crt,key}  what it shows kubelets
//! <dir>/front-proxy-ca.{crt,key}            the authority of who may speak for others (see `auth::front_proxy`)
//! <dir>/front-proxy-client.{crt,key}        what the API server shows extension servers
//! <dir>/etcd/ca.{crt,key}                   the authority of who may see the store as it is
//! <dir>/etcd/server.{crt,key}               what the store's etcd API shows its clients
//! <dir>/apiserver-etcd-client.{crt,key}     a client's there
//! <dir>/sa.{key,pub}                        signs ServiceAccount tokens (see `auth::token`)
//! <dir>/<component>.{crt,key}               client certificates: admin, controller-manager, scheduler, kube-proxy
//! <dir>/kubelet-<node>.{crt,key}            a node's, for clients and servers both
//! ```
//!
//! It is idempotent and runs at every start: what is there and good stays; a certificate that is about to
//! expire, was signed by another authority, or lacks a name it should carry is issued anew. Private keys
//! are ECDSA P-256 and readable by their owner only.

mod files;
mod kubeconfig;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_api::certificates::subject;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * 86_400);
const LEAF_VALIDITY: Duration = Duration::from_secs(365 * 86_400);
/// A certificate with less than this left is replaced at the next start.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 86_400);
/// Certificates are valid from a little before their making, for clocks that are behind.
const BACKDATE: Duration = Duration::from_secs(300);

/// Why the certificates could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// One of a certificate and its key exists, the other does not.
    #[error("{present} exists but {missing} does not: restore it, or remove both to have them made anew")]
    HalfMissing {
        /// The file that exists.
        present: PathBuf,
        /// The file that does not.
        missing: PathBuf,
    },
    /// A key or certificate could not be made.
    #[error("cannot issue {name}: {source}")]
    Issue {
        /// Which one.
        name: String,
        /// What went wrong.
        source: rcgen::Error,
    },
    /// A file does not hold what its name says.
    #[error("{name}: {why}")]
    Malformed {
        /// Which one.
        name: String,
        /// What is wrong with it.
        why: String,
    },
}

/// A certificate and its private key, as PEM.
#[derive(Clone)]
pub struct CertKey {
    /// The certificate.
    pub cert_pem: String,
    /// The private key (PKCS #8).
    pub key_pem: String,
}

impl std::fmt::Debug for CertKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertKey").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

impl CertKey {
    /// The certificate chain for rustls.
    pub fn certs(&self) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        CertificateDer::pem_slice_iter(self.cert_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|e| PkiError::Malformed { name: "certificate".into(), why: e.to_string() })
    }

    /// The private key for rustls.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, PkiError> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())
            .map_err(|e| PkiError::Malformed { name: "private key".into(), why: e.to_string() })
    }
}

/// What a leaf certificate says.
#[derive(Clone, Debug, Default)]
pub struct LeafSpec {
    /// The common name: the user.
    pub common_name: String,
    /// The organisation: the user's group. (X.509 allows several; the certificate library keeps one.)
    pub organization: Option<String>,
    /// DNS names it serves as.
    pub names: Vec<String>,
    /// Addresses it serves as.
    pub ips: Vec<IpAddr>,
    /// Whether a server may show it.
    pub server: bool,
    /// Whether a client may show it.
    pub client: bool,
}

impl LeafSpec {
    /// A client certificate: user and group.
    pub fn client(user: &str, group: Option<&str>) -> Self {
        LeafSpec {
            common_name: user.to_owned(),
            organization: group.map(str::to_owned),
            client: true,
            ..Self::default()
        }
    }

    /// A node's certificate: client of the API server and server for it.
    pub fn node(node: &str, ips: &[IpAddr]) -> Self {
        LeafSpec {
            names: vec![node.to_owned()],
            ips: ips.to_vec(),
            server: true,
            ..Self::client(&format!("system:node:{node}"), Some("system:nodes"))
        }
    }
}

/// The names under which pods and people reach the API server, whatever the machine is called.
const SERVER_NAMES: [&str; 5] =
    ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"];

/// The client certificates besides nodes': file name, user, group.
const CLIENTS: [(&str, &str, Option<&str>); 5] = [
    ("apiserver-kubelet-client", "kube-apiserver-kubelet-client", Some("system:masters")),
    ("admin", "kubernetes-admin", Some("kubeadm:cluster-admins")),
    ("controller-manager", "system:kube-controller-manager", None),
    ("scheduler", "system:kube-scheduler", None),
    ("kube-proxy", "system:kube-proxy", None),
];

/// The common name of the API server as a front proxy, and the name of its files.
pub const FRONT_PROXY: &str = "front-proxy-client";

/// The name of the files of the certificate with which the store's etcd API lets its clients in.
pub const ETCD_CLIENT: &str = "apiserver-etcd-client";

/// The cluster's authority and where its files lie.
pub struct Pki {
    dir: PathBuf,
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
    server: CertKey,
    clients: Vec<CertKey>,
    front_proxy_ca_pem: String,
    front_proxy_client: CertKey,
    etcd_ca_pem: String,
    etcd_server: CertKey,
    service_account_key: String,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Pki {
    /// Reads or makes everything under `dir`. `names` and `ips` are what the API server is called besides
    /// its usual names: the host's name, the address it is advertised at.
    pub fn ensure(dir: &Path, names: &[String], ips: &[IpAddr]) -> Result<Pki, PkiError> {
        files::create_private_dir(dir)?;
        let (ca_pem, issuer) = ensure_ca(dir, "ca", "kubernetes")?;
        let (front_proxy_ca_pem, front_proxy) = ensure_ca(dir, "front-proxy-ca", "front-proxy-ca")?;
        let spec = LeafSpec::client(FRONT_PROXY, None);
        let front_proxy_client = ensure_leaf(dir, FRONT_PROXY, &spec, &front_proxy_ca_pem, &front_proxy)?;
        files::create_private_dir(&dir.join("etcd"))?;
        let (etcd_ca_pem, etcd) = ensure_ca(dir, "etcd/ca", "etcd-ca")?;
        let spec = LeafSpec {
            common_name: "etcd".into(),
            names: vec!["localhost".into()],
            ips: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            server: true,
            ..LeafSpec::client("etcd", None)
        };
        let etcd_server = ensure_leaf(dir, "etcd/server", &spec, &etcd_ca_pem, &etcd)?;
        ensure_leaf(dir, ETCD_CLIENT, &LeafSpec::client("kube-apiserver-etcd-client", None), &etcd_ca_pem, &etcd)?;
        let server = LeafSpec {
            common_name: "kube-apiserver".into(),
            names: SERVER_NAMES.iter().map(|n| (*n).to_owned()).chain(names.iter().cloned()).collect(),
            ips: [[127, 0, 0, 1], [10, 96, 0, 1], [10, 244, 0, 1]]
                .into_iter()
                .map(IpAddr::from)
                .chain([IpAddr::from(Ipv6Addr::LOCALHOST)])
                .chain(ips.iter().copied())
                .collect(),
            server: true,
            ..LeafSpec::default()
        };
        let server = ensure_leaf(dir, "apiserver", &server, &ca_pem, &issuer)?;
        let clients = CLIENTS
            .iter()
            .map(|(file, user, group)| ensure_leaf(dir, file, &LeafSpec::client(user, *group), &ca_pem, &issuer))
            .collect::<Result<_, _>>()?;
        let service_account_key = ensure_service_account_key(dir)?;
        Ok(Pki {
            dir: dir.to_owned(),
            ca_pem,
            issuer,
            server,
            clients,
            front_proxy_ca_pem,
            front_proxy_client,
            etcd_ca_pem,
            etcd_server,
            service_account_key,
        })
    }

    /// The authority's certificate: `kube-root-ca.crt`.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The authority's private key, PEM; whoever has it can be anybody.
    pub fn ca_key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// What the API server shows its clients.
    pub fn server(&self) -> &CertKey {
        &self.server
    }

    /// What the API server shows kubelets.
    pub fn kubelet_client(&self) -> &CertKey {
        &self.clients[0]
    }

    /// The authority of front proxies.
    pub fn front_proxy_ca_pem(&self) -> &str {
        &self.front_proxy_ca_pem
    }

    /// What the API server shows extension servers: common name [`FRONT_PROXY`].
    pub fn front_proxy_client(&self) -> &CertKey {
        &self.front_proxy_client
    }

    /// The authority of the store's etcd API, and of its clients: not the cluster's, whose certificates nodes have too.
    pub fn etcd_ca_pem(&self) -> &str {
        &self.etcd_ca_pem
    }

    /// What the store's etcd API shows its clients.
    pub fn etcd_server(&self) -> &CertKey {
        &self.etcd_server
    }

    /// The administrator's: user `kubernetes-admin`, group `kubeadm:cluster-admins`.
    pub fn admin(&self) -> &CertKey {
        &self.clients[1]
    }

    /// The private key that signs ServiceAccount tokens, as PEM.
    pub fn service_account_key(&self) -> &str {
        &self.service_account_key
    }

    /// A node's certificate, kept in `kubelet-<node>.{crt,key}`: user `system:node:<node>`, group
    /// `system:nodes`, fit for its server on `ips` too.
    pub fn node(&self, node: &str, ips: &[IpAddr]) -> Result<CertKey, PkiError> {
        ensure_leaf(&self.dir, &format!("kubelet-{node}"), &LeafSpec::node(node, ips), &self.ca_pem, &self.issuer)
    }

    /// Issues a certificate that is kept nowhere.
    pub fn issue(&self, spec: &LeafSpec) -> Result<CertKey, PkiError> {
        issue_leaf(&spec.common_name, spec, &self.issuer)
    }

    /// A kubeconfig with everything embedded; cluster, context and user are all named `coracle`.
    /// `server` is the URL, such as `https://127.0.0.1:6443`.
    pub fn kubeconfig(&self, server: &str, client: &CertKey) -> String {
        kubeconfig::render(server, &self.ca_pem, client)
    }
}

fn ensure_ca(dir: &Path, file: &str, name: &str) -> Result<(String, Issuer<'static, KeyPair>), PkiError> {
    let issue = |source| PkiError::Issue { name: file.to_owned(), source };
    if let Some(pair) = files::read_pair(dir, file)? {
        let key = KeyPair::from_pem(&pair.key_pem).map_err(issue)?;
        let good = inspect(&pair, |cert| cert.is_ca() && lasts(cert) && holds_key(cert, &key))?;
        if good {
            let issuer = Issuer::from_ca_cert_pem(&pair.cert_pem, key).map_err(issue)?;
            return Ok((pair.cert_pem, issuer));
        }
    }
    let key = new_key(file)?;
    let mut params = base_params(name, None, CA_VALIDITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![dns_name(name)?];
    let cert = params.self_signed(&key).map_err(issue)?;
    let pair = CertKey { cert_pem: cert.pem(), key_pem: key.serialize_pem() };
    files::write_pair(dir, file, &pair)?;
    Ok((pair.cert_pem, Issuer::new(params, key)))
}

fn ensure_leaf(
    dir: &Path,
    file: &str,
    spec: &LeafSpec,
    ca_pem: &str,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<CertKey, PkiError> {
    if let Ok(Some(pair)) = files::read_pair(dir, file)
        && still_good(&pair, spec, ca_pem)?
    {
        return Ok(pair);
    }
    let pair = issue_leaf(file, spec, issuer)?;
    files::write_pair(dir, file, &pair)?;
    Ok(pair)
}

fn issue_leaf(name: &str, spec: &LeafSpec, issuer: &Issuer<'_, KeyPair>) -> Result<CertKey, PkiError> {
    let key = new_key(name)?;
    let mut params = base_params(&spec.common_name, spec.organization.as_deref(), LEAF_VALIDITY);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    if spec.server {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    if spec.client {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    for name in &spec.names {
        params.subject_alt_names.push(dns_name(name)?);
    }
    params.subject_alt_names.extend(spec.ips.iter().copied().map(SanType::IpAddress));
    let cert = params.signed_by(&key, issuer).map_err(|source| PkiError::Issue { name: name.to_owned(), source })?;
    Ok(CertKey { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
}

/// A server's certificate that nobody vouches for.
pub fn self_signed(name: &str, ips: &[IpAddr]) -> Result<CertKey, PkiError> {
    let key = new_key(name)?;
    let mut params = base_params(name, None, CA_VALIDITY);
    params.subject_alt_names = vec![dns_name(name)?];
    params.subject_alt_names.extend(ips.iter().map(|ip| SanType::IpAddress(*ip)));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let cert = params.self_signed(&key).map_err(|source| PkiError::Issue { name: name.to_owned(), source })?;
    Ok(CertKey { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
}

fn ensure_service_account_key(dir: &Path) -> Result<String, PkiError> {
    if let Some(pem) = files::read(&dir.join("sa.key"))? {
        return Ok(pem);
    }
    let key = new_key("sa")?;
    let pem = key.serialize_pem();
    files::write_private(&dir.join("sa.key"), &pem)?;
    files::write_public(&dir.join("sa.pub"), &key.public_key_pem())?;
    Ok(pem)
}

fn new_key(name: &str) -> Result<KeyPair, PkiError> {
    KeyPair::generate().map_err(|source| PkiError::Issue { name: name.to_owned(), source })
}

fn dns_name(name: &str) -> Result<SanType, PkiError> {
    let text = name.try_into().map_err(|source| PkiError::Issue { name: name.to_owned(), source })?;
    Ok(SanType::DnsName(text))
}

fn base_params(common_name: &str, organization: Option<&str>, validity: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = Duration::from_secs(coracle_clock::now().as_second().unsigned_abs());
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BACKDATE);
    params.not_after = epoch + now + validity;
    params
}

/// Looks into the certificate of a pair; a certificate that cannot be read fails no test but is an answer: no.
fn inspect(pair: &CertKey, test: impl Fn(&X509Certificate<'_>) -> bool) -> Result<bool, PkiError> {
    let Ok(certs) = pair.certs() else { return Ok(false) };
    Ok(certs.first().is_some_and(|der| X509Certificate::from_der(der).is_ok_and(|(_, cert)| test(&cert))))
}

fn lasts(cert: &X509Certificate<'_>) -> bool {
    let now = coracle_clock::now().as_second();
    let left = cert.validity().not_after.timestamp() - now;
    left > RENEW_BEFORE.as_secs() as i64 && cert.validity().not_before.timestamp() <= now
}

fn holds_key(cert: &X509Certificate<'_>, key: &KeyPair) -> bool {
    *cert.public_key().subject_public_key.data == *key.public_key_raw()
}

/// Whether a leaf is what would be issued now, but for its age.
fn still_good(pair: &CertKey, spec: &LeafSpec, ca_pem: &str) -> Result<bool, PkiError> {
    let Ok(key) = KeyPair::from_pem(&pair.key_pem) else { return Ok(false) };
    let ca = CertKey { cert_pem: ca_pem.to_owned(), key_pem: String::new() }.certs()?;
    let Some((_, ca)) = ca.first().and_then(|der| X509Certificate::from_der(der).ok()) else { return Ok(false) };
    inspect(pair, |cert| {
        let usage = cert.extended_key_usage().ok().flatten();
        let usable =
            usage.is_some_and(|u| (u.value.server_auth || !spec.server) && (u.value.client_auth || !spec.client));
        usable
            && lasts(cert)
            && holds_key(cert, &key)
            && cert.verify_signature(Some(ca.public_key())).is_ok()
            && subject(cert.subject()) == (spec.common_name.clone(), spec.organization.iter().cloned().collect())
            && alternative_names(cert).is_superset(&wanted_names(spec))
    })
}

fn wanted_names(spec: &LeafSpec) -> BTreeSet<String> {
    spec.names.iter().cloned().chain(spec.ips.iter().map(ToString::to_string)).collect()
}

fn alternative_names(cert: &X509Certificate<'_>) -> BTreeSet<String> {
    let Ok(Some(names)) = cert.subject_alternative_name() else { return BTreeSet::new() };
    names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
                Ok(v4) => Some(IpAddr::from(v4).to_string()),
                Err(_) => <[u8; 16]>::try_from(*bytes).ok().map(|v6| IpAddr::from(v6).to_string()),
            },
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests;
