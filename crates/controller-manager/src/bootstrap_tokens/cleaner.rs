//! Token cleaner: bootstrap tokens that have expired are deleted.
//!
//! Watches Secrets of the bootstrap tokens' type; a key is one.

use coracle_client::{Informer, ObjectKey, Requeue, WorkQueue};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client, ResourceExt};

use super::{NAMESPACE, TYPE, expires, is_token};
use crate::context::{Context, enqueue_changes};
use crate::error::{IgnoreNotFound, Result};

const NAME: &str = "token-cleaner-controller";

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let secrets: Informer<Secret> = context.informer_of_type(TYPE);
    enqueue_changes(&secrets, &queue);
    secrets.wait_for_sync().await;
    context.work(NAME, &queue, |key| sync(context.client.clone(), &secrets, key)).await;
}

async fn sync(client: Client, secrets: &Informer<Secret>, key: ObjectKey) -> Result<Requeue> {
    let Some(secret) = secrets.get(&key).filter(|secret| is_token(secret)) else { return Ok(Requeue::Never) };
    let Some(expires) = expires(&secret) else { return Ok(Requeue::Never) };
    let left = expires.duration_since(coracle_clock::now());
    if left.is_positive() {
        return Ok(Requeue::After(left.unsigned_abs()));
    }
    let api: Api<Secret> = Api::namespaced(client, NAMESPACE);
    let this = Preconditions { uid: secret.uid(), resource_version: None };
    api.delete(&key.name, &DeleteParams::default().preconditions(this)).await.ignore_not_found()?;
    Ok(Requeue::Never)
}
