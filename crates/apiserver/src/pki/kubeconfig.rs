//! The file that tells a client where a cluster is and who to be there.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::CertKey;

/// A kubeconfig for one user of one cluster, with all certificates inside.
pub(super) fn render(server: &str, ca_pem: &str, client: &CertKey) -> String {
    let ca = BASE64_STANDARD.encode(ca_pem);
    let cert = BASE64_STANDARD.encode(&client.cert_pem);
    let key = BASE64_STANDARD.encode(&client.key_pem);
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: coracle
  cluster:
    certificate-authority-data: {ca}
    server: {server}
contexts:
- name: coracle
  context:
    cluster: coracle
    user: coracle
current-context: coracle
preferences: {{}}
users:
- name: coracle
  user:
    client-certificate-data: {cert}
    client-key-data: {key}
"
    )
}
