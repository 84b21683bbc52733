//! Root CA publisher: each namespace has a ConfigMap `kube-root-ca.crt`, by which pods trust the API server.
//!
//! Watches namespaces and the ConfigMaps of that name; a key is a namespace.

use std::collections::BTreeMap;

use coracle_client::{Informer, ObjectKey, Requeue, WorkQueue};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;

use crate::context::{Context, enqueue_changes};
use crate::error::{Error, Result};
use crate::service_account::is_active;

const NAME: &str = "root-ca-certificate-publisher-controller";
const CONFIG_MAP: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
    endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
    distributions of Kubernetes clusters.";

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let namespaces: Informer<Namespace> = context.informer();
    let config_maps: Informer<ConfigMap> = context.informer_of_name(CONFIG_MAP);
    enqueue_changes(&namespaces, &queue);
    let to = queue.clone();
    config_maps.on_change(move |change| to.add(ObjectKey::new("", change.key().namespace)));
    namespaces.wait_for_sync().await;
    config_maps.wait_for_sync().await;
    context.work(NAME, &queue, |key| sync(&context, &namespaces, &config_maps, key)).await;
}

async fn sync(
    context: &Context,
    namespaces: &Informer<Namespace>,
    config_maps: &Informer<ConfigMap>,
    key: ObjectKey,
) -> Result<Requeue> {
    if namespaces.get(&key).is_none_or(|namespace| !is_active(&namespace)) {
        return Ok(Requeue::Never);
    }
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &key.name);
    let data = Some(BTreeMap::from([("ca.crt".to_owned(), context.config.cluster_ca.clone())]));
    let result = match config_maps.get(&ObjectKey::new(&key.name, CONFIG_MAP)) {
        Some(existing) if existing.data == data => return Ok(Requeue::Never),
        Some(existing) => {
            let changed = ConfigMap { data, ..existing.as_ref().clone() };
            api.replace(CONFIG_MAP, &PostParams::default(), &changed).await
        }
        None => {
            let metadata = ObjectMeta {
                name: Some(CONFIG_MAP.into()),
                namespace: Some(key.name.clone()),
                annotations: Some([("kubernetes.io/description".into(), DESCRIPTION.into())].into()),
                ..Default::default()
            };
            api.create(&PostParams::default(), &ConfigMap { metadata, data, ..Default::default() }).await
        }
    };
    match result.map_err(Error::from) {
        Err(error) if error.reason() != "AlreadyExists" && !error.namespace_is_terminating() => Err(error),
        _ => Ok(Requeue::Never),
    }
}
