//! Certificate requests.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

/// A certificate request of a user of a group (PEM), and the key it is made with.
pub fn certificate_request(user: &str, group: &str) -> (String, KeyPair) {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, group);
    params.distinguished_name.push(DnType::CommonName, user);
    let key = KeyPair::generate().expect("a key");
    let request = params.serialize_request(&key).and_then(|request| request.pem()).expect("a request");
    (request, key)
}

/// A CertificateSigningRequest for a client certificate, for one of Kubernetes' signers.
pub fn request_manifest(name: &str, request: &str, signer: &str) -> String {
    format!(
        "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\n\
         spec:\n  request: {}\n  signerName: kubernetes.io/{signer}\n  expirationSeconds: 3600\n  \
         usages: [digital signature, client auth]\n",
        BASE64_STANDARD.encode(request)
    )
}
