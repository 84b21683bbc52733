//! ServiceAccount tokens in Secrets: a Secret of type `kubernetes.io/service-account-token` that names a ServiceAccount
//! (by annotation) is given a token of it that does not expire, the cluster's CA, and its namespace.
//!
//! It goes when its ServiceAccount does. Watches Secrets of that type and ServiceAccounts; a key is a Secret. This is
//! the old way; pods get tokens that expire, straight from the API server.

use coracle_client::{Informer, ObjectKey, Requeue, WorkQueue};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::context::{Context, enqueue_changes};
use crate::error::{Error, IgnoreNotFound, Result};

const NAME: &str = "serviceaccount-token-controller";
pub(crate) const TYPE: &str = "kubernetes.io/service-account-token";
pub(crate) const ACCOUNT: &str = "kubernetes.io/service-account.name";
pub(crate) const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// What becomes of a Secret.
#[derive(Debug, PartialEq)]
enum Action {
    Leave,
    Delete,
    Fill(Box<Secret>),
}

/// The claims of a token that is kept in a Secret.
fn claims(secret: &Secret, account: &ServiceAccount) -> Value {
    let (namespace, name) = (account.namespace().unwrap_or_default(), account.name_any());
    json!({
        "iss": "kubernetes/serviceaccount",
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/secret.name": secret.name_any(),
        "kubernetes.io/serviceaccount/service-account.name": name,
        "kubernetes.io/serviceaccount/service-account.uid": account.uid(),
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
    })
}

/// `sign` makes a token of claims.
fn act(
    secret: &Secret,
    account: Option<&ServiceAccount>,
    ca: &str,
    sign: impl Fn(&Value) -> Result<String>,
) -> Result<Action> {
    if secret.type_.as_deref() != Some(TYPE) || secret.metadata.deletion_timestamp.is_some() {
        return Ok(Action::Leave);
    }
    let annotation = |key: &str| secret.annotations().get(key).map(String::as_str).unwrap_or_default();
    let Some(account) = account else {
        // Its ServiceAccount is gone (or was never there: then nobody is waiting for it either).
        return Ok(if annotation(ACCOUNT).is_empty() { Action::Leave } else { Action::Delete });
    };
    let uid = account.uid().unwrap_or_default();
    if !annotation(ACCOUNT_UID).is_empty() && annotation(ACCOUNT_UID) != uid {
        return Ok(Action::Delete);
    }
    let mut filled = secret.clone();
    filled.annotations_mut().insert(ACCOUNT_UID.into(), uid);
    let data = filled.data.get_or_insert_default();
    let namespace = account.namespace().unwrap_or_default();
    data.insert("ca.crt".into(), ByteString(ca.as_bytes().to_vec()));
    data.insert("namespace".into(), ByteString(namespace.into_bytes()));
    if data.get("token").is_none_or(|token| token.0.is_empty()) {
        data.insert("token".into(), ByteString(sign(&claims(secret, account))?.into_bytes()));
    }
    Ok(if filled == *secret { Action::Leave } else { Action::Fill(filled.into()) })
}

/// Runs the controller; without a key there is nothing to run.
pub(crate) async fn run(context: Context) {
    if context.config.token_signer.is_none() {
        return tracing::info!("Secrets get no ServiceAccount tokens: no --service-account-private-key-file");
    }
    let queue = WorkQueue::new();
    let secrets: Informer<Secret> = context.informer_of_type(TYPE);
    let accounts: Informer<ServiceAccount> = context.informer();
    enqueue_changes(&secrets, &queue);
    let (all, to) = (secrets.clone(), queue.clone());
    accounts.on_change(move |change| {
        let account = change.object();
        for secret in all.list_namespace(&account.namespace().unwrap_or_default()) {
            if secret.annotations().get(ACCOUNT) == account.metadata.name.as_ref() {
                to.add(ObjectKey::of(secret.as_ref()));
            }
        }
    });
    secrets.wait_for_sync().await;
    accounts.wait_for_sync().await;
    context.work(NAME, &queue, |key| sync(&context, &secrets, &accounts, key)).await;
}

async fn sync(
    context: &Context,
    secrets: &Informer<Secret>,
    accounts: &Informer<ServiceAccount>,
    key: ObjectKey,
) -> Result<Requeue> {
    let (Some(secret), Some(signer)) = (secrets.get(&key), &context.config.token_signer) else {
        return Ok(Requeue::Never);
    };
    let named = secret.annotations().get(ACCOUNT).cloned().unwrap_or_default();
    let mut account = accounts.get(&ObjectKey::new(&key.namespace, &named));
    if account.is_none() && !named.is_empty() {
        // Deleting hangs on this: the cache may be behind.
        let api: Api<ServiceAccount> = Api::namespaced(context.client.clone(), &key.namespace);
        account = api.get_opt(&named).await?.map(Into::into);
    }
    let sign = |claims: &Value| signer(claims).map_err(Error::Other);
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &key.namespace);
    match act(&secret, account.as_deref(), &context.config.cluster_ca, sign)? {
        Action::Leave => {}
        Action::Fill(filled) => {
            api.replace(&key.name, &PostParams::default(), &filled).await.ignore_not_found()?;
        }
        Action::Delete => {
            let this = Preconditions { uid: secret.uid(), resource_version: None };
            api.delete(&key.name, &DeleteParams::default().preconditions(this)).await.ignore_not_found()?;
        }
    }
    Ok(Requeue::Never)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(annotations: Value, data: Value) -> Secret {
        let meta = json!({ "name": "robot-token", "namespace": "d", "annotations": annotations });
        serde_json::from_value(json!({ "metadata": meta, "type": TYPE, "data": data })).unwrap()
    }

    fn account(uid: &str) -> ServiceAccount {
        serde_json::from_value(json!({ "metadata": { "name": "robot", "namespace": "d", "uid": uid } })).unwrap()
    }

    #[test]
    fn a_secret_that_names_a_service_account_is_filled_and_goes_with_it() {
        let act = |secret: &Secret, account: Option<&ServiceAccount>| {
            super::act(secret, account, "ca", |claims| Ok(claims["sub"].as_str().unwrap().to_owned())).unwrap()
        };
        let named = secret(json!({ ACCOUNT: "robot" }), json!({}));
        let Action::Fill(filled) = act(&named, Some(&account("u1"))) else { panic!("it is filled") };
        assert_eq!(filled.data.as_ref().unwrap()["token"].0, b"system:serviceaccount:d:robot");
        assert_eq!(filled.annotations()[ACCOUNT_UID], "u1");
        assert_eq!(act(&filled, Some(&account("u1"))), Action::Leave);
        assert_eq!(act(&filled, Some(&account("u2"))), Action::Delete, "another of that name");
        assert_eq!(act(&filled, None), Action::Delete);
        assert_eq!(act(&secret(json!({}), json!({})), None), Action::Leave);
    }
}
