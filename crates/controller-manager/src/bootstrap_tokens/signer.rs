//! Bootstrap signer: `cluster-info` in `kube-public` carries a signature by each bootstrap token.
//!
//! The signature of the kubeconfig in it is a JSON Web Signature without its payload (RFC 7515, appendix F), HS256 with
//! the token's secret, under the key `jws-kubeconfig-<token id>`. Watches that ConfigMap and the tokens; there is one key.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use coracle_client::{Informer, ObjectKey, Requeue, WorkQueue};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use kube::api::PostParams;
use ring::hmac;

use super::{PREFIX, TYPE, expires, is_token, text};
use crate::context::{Context, enqueue_changes};
use crate::error::{IgnoreNotFound, Result};

const NAME: &str = "bootstrap-signer-controller";
const CLUSTER_INFO: &str = "cluster-info";
const PUBLIC: &str = "kube-public";
const KUBECONFIG: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";

/// The detached signature of a text by a token.
fn sign(text: &str, id: &str, secret: &str) -> String {
    let header = BASE64_URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"HS256","kid":{id:?}}}"#));
    let payload = BASE64_URL_SAFE_NO_PAD.encode(text);
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = hmac::sign(&key, format!("{header}.{payload}").as_bytes());
    format!("{header}..{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

/// What `cluster-info` should hold; `None` if it holds no kubeconfig to sign.
fn signed(
    data: &BTreeMap<String, String>,
    tokens: &[Arc<Secret>],
    now: jiff::Timestamp,
) -> Option<BTreeMap<String, String>> {
    let kubeconfig = data.get(KUBECONFIG)?;
    let mut signed = data.clone();
    signed.retain(|key, _| !key.starts_with(SIGNATURE));
    for token in tokens.iter().filter(|token| is_token(token)) {
        let (id, secret) = (text(token, "token-id"), text(token, "token-secret"));
        let named = token.metadata.name.as_deref().and_then(|name| name.strip_prefix(PREFIX)) == Some(id);
        let good = expires(token).is_none_or(|expires| expires > now);
        if named && good && !id.is_empty() && !secret.is_empty() && text(token, "usage-bootstrap-signing") == "true" {
            signed.insert(format!("{SIGNATURE}{id}"), sign(kubeconfig, id, secret));
        }
    }
    Some(signed)
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let infos: Informer<ConfigMap> = context.informer_of_name(CLUSTER_INFO);
    let tokens: Informer<Secret> = context.informer_of_type(TYPE);
    let key = || ObjectKey::new(PUBLIC, CLUSTER_INFO);
    enqueue_changes(&infos, &queue);
    let to = queue.clone();
    tokens.on_change(move |_| to.add(key()));
    infos.wait_for_sync().await;
    tokens.wait_for_sync().await;
    context.work(NAME, &queue, |key| sync(&context, &infos, &tokens, key)).await;
}

async fn sync(
    context: &Context,
    infos: &Informer<ConfigMap>,
    tokens: &Informer<Secret>,
    key: ObjectKey,
) -> Result<Requeue> {
    let Some(info) = infos.get(&key).filter(|_| key.namespace == PUBLIC) else { return Ok(Requeue::Never) };
    let data = info.data.clone().unwrap_or_default();
    let Some(signed) = signed(&data, &tokens.list(), coracle_clock::now()) else { return Ok(Requeue::Never) };
    if signed != data {
        let changed = ConfigMap { data: Some(signed), ..info.as_ref().clone() };
        let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), PUBLIC);
        api.replace(CLUSTER_INFO, &PostParams::default(), &changed).await.ignore_not_found()?;
    }
    Ok(Requeue::Never)
}

#[cfg(test)]
mod tests {
    use super::super::token;
    use super::*;

    #[test]
    fn cluster_info_is_signed_by_every_good_token_and_no_other() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let signing = ("usage-bootstrap-signing", "true");
        let tokens = [
            token("aaaaaa", &[signing]),
            token("bbbbbb", &[]),
            token("cccccc", &[signing, ("expiration", "2025-12-31T00:00:00Z")]),
            token("dddddd", &[signing, ("expiration", "2026-01-02T00:00:00Z")]),
        ];
        let data = [("kubeconfig", "x"), ("jws-kubeconfig-gone", "y"), ("other", "z")];
        let data = data.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let signed = signed(&data, &tokens, now).unwrap();
        let keys: Vec<_> = signed.keys().map(String::as_str).collect();
        assert_eq!(keys, ["jws-kubeconfig-aaaaaa", "jws-kubeconfig-dddddd", "kubeconfig", "other"]);
        assert!(super::signed(&BTreeMap::new(), &tokens, now).is_none());
    }

    #[test]
    fn a_signature_is_a_detached_jws() {
        let signature = sign("payload", "joshua", "my voice is my passphrase");
        let parts: Vec<_> = signature.split('.').collect();
        assert_eq!(parts[0], BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","kid":"joshua"}"#));
        assert_eq!((parts[1], parts[2].len()), ("", 43));
    }
}
