//! Certificate requests: what `certificates.k8s.io` carries in `spec.request`, a PKCS #10 request in one PEM block.
//!
//! Three ask: validation (is it one, and signed with its own key?), admission (does it reach for `system:masters`?)
//! and the controllers that approve and sign.

use std::net::IpAddr;

use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::{
    FromDer, GeneralName, ParsedExtension, X509Certificate, X509CertificationRequest, X509Name,
};

/// The signer of client certificates for people and programs.
pub const KUBE_APISERVER_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// The signer of kubelets' client certificates.
pub const KUBE_APISERVER_CLIENT_KUBELET: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// The signer of kubelets' serving certificates.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// The signer of requests from before there were signers' names; `v1` takes no new ones.
pub const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";

const REQUEST_LABEL: &str = "CERTIFICATE REQUEST";
const CERTIFICATE_LABEL: &str = "CERTIFICATE";

/// A parsed request, its signature checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateRequest {
    /// The subject's common name: the user.
    pub common_name: String,
    /// The subject's organisations: the groups.
    pub organizations: Vec<String>,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
    /// Email addresses.
    pub emails: Vec<String>,
    /// URIs.
    pub uris: Vec<String>,
    /// The whole subject, DER.
    pub subject_der: Vec<u8>,
    /// The SubjectPublicKeyInfo, DER.
    pub public_key_der: Vec<u8>,
}

/// The common name and the organisations of a subject.
pub fn subject(name: &X509Name<'_>) -> (String, Vec<String>) {
    let common_name = name.iter_common_name().filter_map(|a| a.as_str().ok()).last().unwrap_or_default().to_owned();
    let organizations = name.iter_organization().filter_map(|a| a.as_str().ok()).map(str::to_owned).collect();
    (common_name, organizations)
}

impl CertificateRequest {
    /// Reads the PEM of a request.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(pem: &[u8]) -> Result<Self, String> {
        let block = parse_x509_pem(pem).ok().map(|(_, block)| block).filter(|block| block.label == REQUEST_LABEL);
        let block = block.ok_or_else(|| format!("PEM block type must be {REQUEST_LABEL}"))?;
        let (rest, request) = X509CertificationRequest::from_der(&block.contents).map_err(|e| format!("x509: {e}"))?;
        if !rest.is_empty() {
            return Err("asn1: syntax error: trailing data".into());
        }
        request.verify_signature().map_err(|e| format!("x509: {e}"))?;
        let info = &request.certification_request_info;
        let (common_name, organizations) = subject(&info.subject);
        let mut parsed = CertificateRequest {
            common_name,
            organizations,
            subject_der: info.subject.as_raw().to_vec(),
            public_key_der: info.subject_pki.raw.to_vec(),
            ..Self::default()
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            names.general_names.iter().try_for_each(|name| parsed.add_name(name))?;
        }
        Ok(parsed)
    }

    fn add_name(&mut self, name: &GeneralName<'_>) -> Result<(), String> {
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => self.emails.push((*name).to_owned()),
            GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
            GeneralName::IPAddress(bytes) => self.ips.push(match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).map(IpAddr::from).map_err(|e| e.to_string())?,
                16 => <[u8; 16]>::try_from(*bytes).map(IpAddr::from).map_err(|e| e.to_string())?,
                length => return Err(format!("x509: cannot parse IP address of length {length}")),
            }),
            _ => {}
        }
        Ok(())
    }

    /// Whether this asks for what a kubelet shows the API server.
    ///
    /// # Errors
    /// Why not.
    pub fn check_kubelet_client(&self, usages: &[String]) -> Result<(), String> {
        self.check_node_group()?;
        self.refuse(&[
            (self.dns_names.is_empty(), "DNS"),
            (self.emails.is_empty(), "Email"),
            (self.ips.is_empty(), "IP"),
            (self.uris.is_empty(), "URI"),
        ])?;
        self.check_node_name()?;
        check_usages(usages, "client auth")
    }

    /// Whether this asks for what a kubelet's own server shows.
    ///
    /// # Errors
    /// Why not.
    pub fn check_kubelet_serving(&self, usages: &[String]) -> Result<(), String> {
        self.check_node_group()?;
        if self.dns_names.is_empty() && self.ips.is_empty() {
            return Err("DNS or IP subjectAltName is required".into());
        }
        self.refuse(&[(self.emails.is_empty(), "Email"), (self.uris.is_empty(), "URI")])?;
        check_usages(usages, "server auth")?;
        self.check_node_name()
    }

    fn check_node_group(&self) -> Result<(), String> {
        let only = self.organizations == ["system:nodes"];
        only.then_some(()).ok_or_else(|| "subject organization is not system:nodes".into())
    }

    fn check_node_name(&self) -> Result<(), String> {
        let node = self.common_name.starts_with("system:node:");
        node.then_some(()).ok_or_else(|| "subject common name does not begin with system:node:".into())
    }

    fn refuse(&self, sorts: &[(bool, &str)]) -> Result<(), String> {
        match sorts.iter().find(|(absent, _)| !absent) {
            Some((_, sort)) => Err(format!("{sort} subjectAltNames are not allowed")),
            None => Ok(()),
        }
    }
}

/// Exactly this purpose and the signing of handshakes; with RSA keys, their encipherment too.
fn check_usages(usages: &[String], purpose: &str) -> Result<(), String> {
    let mut sorted: Vec<&str> = usages.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    sorted.dedup();
    let mut wanted = vec![purpose, "digital signature", "key encipherment"];
    wanted.sort_unstable();
    let without_rsa: Vec<&str> = wanted.iter().copied().filter(|usage| *usage != "key encipherment").collect();
    if sorted == wanted || sorted == without_rsa {
        return Ok(());
    }
    Err(format!("usages did not match [{}]", wanted.join(" ")))
}

/// Whether a text is one or more PEM certificates and nothing else.
///
/// # Errors
/// What else it is.
pub fn check_certificates(pem: &[u8]) -> Result<(), String> {
    let (mut rest, mut blocks) = (pem, 0);
    while let Ok((after, block)) = parse_x509_pem(rest) {
        if block.label != CERTIFICATE_LABEL {
            return Err(format!("only {CERTIFICATE_LABEL} PEM blocks are allowed, found {:?}", block.label));
        }
        X509Certificate::from_der(&block.contents).map_err(|e| format!("x509: {e}"))?;
        (rest, blocks) = (after, blocks + 1);
    }
    if blocks == 0 { Err(format!("must contain at least one {CERTIFICATE_LABEL} PEM block")) } else { Ok(()) }
}

/// When the first certificate of a PEM text stops to be valid, in seconds since 1970.
pub fn not_after(pem: &[u8]) -> Option<i64> {
    let (_, block) = parse_x509_pem(pem).ok()?;
    let (_, certificate) = X509Certificate::from_der(&block.contents).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(common_name: &str, organization: &str) -> CertificateRequest {
        CertificateRequest {
            common_name: common_name.into(),
            organizations: vec![organization.into()],
            ..CertificateRequest::default()
        }
    }

    fn usages(list: &str) -> Vec<String> {
        list.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn a_kubelets_requests_are_recognised_by_subject_names_and_usages() {
        let client = "key encipherment,client auth,digital signature";
        let node = || request("system:node:a", "system:nodes");
        let named = CertificateRequest { dns_names: vec!["a".into()], ..node() };
        for (request, usage, expected) in [
            (node(), client, Ok(())),
            (node(), "client auth,digital signature", Ok(())),
            (node(), "client auth", Err("usages did not match [client auth digital signature key encipherment]")),
            (request("system:node:a", "dev"), client, Err("subject organization is not system:nodes")),
            (request("a", "system:nodes"), client, Err("subject common name does not begin with system:node:")),
            (named.clone(), client, Err("DNS subjectAltNames are not allowed")),
        ] {
            assert_eq!(request.check_kubelet_client(&usages(usage)), expected.map_err(str::to_owned));
        }
        let serving = usages("server auth,digital signature");
        assert_eq!(named.check_kubelet_serving(&serving), Ok(()));
        assert_eq!(node().check_kubelet_serving(&serving), Err("DNS or IP subjectAltName is required".into()));
        let mailed = CertificateRequest { emails: vec!["a@b".into()], ..named };
        assert_eq!(mailed.check_kubelet_serving(&serving), Err("Email subjectAltNames are not allowed".into()));
    }

    #[test]
    fn what_is_no_request_is_refused_and_never_a_panic() {
        let label = "PEM block type must be CERTIFICATE REQUEST";
        assert_eq!(CertificateRequest::parse(b"").unwrap_err(), label);
        let other = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        assert_eq!(CertificateRequest::parse(other).unwrap_err(), label);
        let empty = b"-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n";
        assert!(CertificateRequest::parse(empty).is_err());
        assert_eq!(check_certificates(b"x").unwrap_err(), "must contain at least one CERTIFICATE PEM block");
    }
}
