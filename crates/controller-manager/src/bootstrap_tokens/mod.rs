//! Bootstrap tokens: by which a machine that has nothing yet joins the cluster.
//!
//! A token is a Secret `bootstrap-token-<id>` in `kube-system`. [`signer`] signs the public ConfigMap `cluster-info`
//! with each, so that who holds one can tell the cluster from an impostor; [`cleaner`] deletes those that have expired.

pub(crate) mod cleaner;
pub(crate) mod signer;

use k8s_openapi::api::core::v1::Secret;

const TYPE: &str = "bootstrap.kubernetes.io/token";
const NAMESPACE: &str = "kube-system";
const PREFIX: &str = "bootstrap-token-";

fn text<'a>(secret: &'a Secret, key: &str) -> &'a str {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok()).unwrap_or_default()
}

fn is_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(TYPE) && secret.metadata.namespace.as_deref() == Some(NAMESPACE)
}

/// When a token expires; `None` if it does not. What cannot be read has expired.
fn expires(secret: &Secret) -> Option<jiff::Timestamp> {
    match text(secret, "expiration") {
        "" => None,
        time => Some(time.parse().unwrap_or(jiff::Timestamp::UNIX_EPOCH)),
    }
}

#[cfg(test)]
pub(crate) fn token(id: &str, data: &[(&str, &str)]) -> std::sync::Arc<Secret> {
    let mut secret = Secret { type_: Some(TYPE.into()), ..Secret::default() };
    secret.metadata.name = Some(format!("{PREFIX}{id}"));
    secret.metadata.namespace = Some(NAMESPACE.into());
    let all = [("token-id", id), ("token-secret", "0123456789abcdef")];
    let all = all.iter().chain(data);
    secret.data = Some(all.map(|(k, v)| ((*k).to_owned(), k8s_openapi::ByteString(v.as_bytes().to_vec()))).collect());
    std::sync::Arc::new(secret)
}
