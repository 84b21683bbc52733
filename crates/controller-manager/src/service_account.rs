//! ServiceAccount: each namespace has a ServiceAccount `default`, for pods that name none.
//!
//! Watches namespaces and the ServiceAccounts of that name; a key is a namespace.

use coracle_client::{Informer, ObjectKey, Requeue, WorkQueue};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::context::{Context, enqueue_changes};
use crate::error::{Error, Result};

const NAME: &str = "serviceaccount-controller";
const DEFAULT: &str = "default";

/// Whether the namespace is in use, so that objects may be made in it.
pub(crate) fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let namespaces: Informer<Namespace> = context.informer();
    let accounts: Informer<ServiceAccount> = context.informer_of_name(DEFAULT);
    enqueue_changes(&namespaces, &queue);
    let to = queue.clone();
    accounts.on_change(move |change| to.add(ObjectKey::new("", change.key().namespace)));
    namespaces.wait_for_sync().await;
    accounts.wait_for_sync().await;
    context.work(NAME, &queue, |key| sync(context.client.clone(), &namespaces, &accounts, key)).await;
}

async fn sync(
    client: Client,
    namespaces: &Informer<Namespace>,
    accounts: &Informer<ServiceAccount>,
    key: ObjectKey,
) -> Result<Requeue> {
    let active = namespaces.get(&key).is_some_and(|namespace| is_active(&namespace));
    if !active || accounts.get(&ObjectKey::new(&key.name, DEFAULT)).is_some() {
        return Ok(Requeue::Never);
    }
    let metadata = ObjectMeta { name: Some(DEFAULT.into()), namespace: Some(key.name.clone()), ..Default::default() };
    let account = ServiceAccount { metadata, ..Default::default() };
    let api: Api<ServiceAccount> = Api::namespaced(client, &key.name);
    match api.create(&PostParams::default(), &account).await.map_err(Error::from) {
        Err(error) if error.reason() != "AlreadyExists" && !error.namespace_is_terminating() => Err(error),
        _ => Ok(Requeue::Never),
    }
}
