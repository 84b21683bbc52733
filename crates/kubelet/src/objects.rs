//! Single objects of the API server kept current: the ConfigMaps and Secrets that this node's pods refer to.
//!
//! A kubelet may read only what its pods need, so it watches each such object by name, as long as a pod needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use coracle_client::{Informer, ObjectKey};
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};
use k8s_openapi::{NamespaceResourceScope, Resource as KubernetesResource};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long to wait for an object's first appearance in the cache.
const SYNC_TIMEOUT: Duration = Duration::from_secs(10);

/// One watched object.
struct Watched<K> {
    informer: Informer<K>,
    changed: Arc<Mutex<Vec<Weak<Notify>>>>,
    _running: DropGuard,
}

/// Keeps an object watched, and a listener told of its changes, until dropped.
pub struct Watch<K> {
    watched: Arc<Watched<K>>,
    key: ObjectKey,
}

impl<K: Watchable> Watch<K> {
    /// The object as last seen, `None` when it does not exist.
    ///
    /// # Errors
    /// The API server has not answered in time.
    pub async fn get(&self) -> Result<Option<Arc<K>>, String> {
        if coracle_clock::timeout(SYNC_TIMEOUT, self.watched.informer.wait_for_sync()).await.is_err() {
            let kind = K::kind(&()).to_lowercase();
            return Err(format!("failed to sync {kind} cache: timed out waiting for the condition"));
        }
        Ok(self.watched.informer.get(&self.key))
    }
}

/// The kinds that can be watched by name.
pub trait Watchable:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + KubernetesResource
    + Clone
    + DeserializeOwned
    + std::fmt::Debug
    + Send
    + Sync
    + 'static
{
}
impl Watchable for ConfigMap {}
impl Watchable for Secret {}

/// Watches objects of one kind by name, each once however many pods need it.
pub struct ObjectCache<K> {
    client: Client,
    config: watcher::Config,
    watched: Mutex<BTreeMap<ObjectKey, Weak<Watched<K>>>>,
}

impl<K: Watchable> ObjectCache<K> {
    /// A cache that watches through `client`, each object with this configuration.
    pub fn new(client: Client, config: watcher::Config) -> ObjectCache<K> {
        ObjectCache { client, config, watched: Mutex::new(BTreeMap::new()) }
    }

    /// Watches an object; `listener` is told of its changes.
    pub fn watch(&self, namespace: &str, name: &str, listener: &Arc<Notify>) -> Watch<K> {
        let key = ObjectKey::new(namespace, name);
        let mut all = self.watched.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.retain(|_, watched| watched.strong_count() > 0);
        let watched = all.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            let watched = Arc::new(self.start(&key));
            all.insert(key.clone(), Arc::downgrade(&watched));
            watched
        });
        let mut listeners = watched.changed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(Arc::downgrade(listener));
        drop(listeners);
        Watch { watched, key }
    }

    fn start(&self, key: &ObjectKey) -> Watched<K> {
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
        let only = self.config.clone().fields(&format!("metadata.name={}", key.name));
        let informer = Informer::new(api, only);
        let changed: Arc<Mutex<Vec<Weak<Notify>>>> = Arc::default();
        let listeners = changed.clone();
        informer.on_change(move |_| {
            let listeners = listeners.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            listeners.iter().filter_map(Weak::upgrade).for_each(|listener| listener.notify_one());
        });
        let shutdown = CancellationToken::new();
        let running = informer.clone();
        let token = shutdown.clone();
        tokio::spawn(async move { running.run(token).await });
        Watched { informer, changed, _running: shutdown.drop_guard() }
    }
}

/// The names of the ConfigMaps and Secrets that a pod refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Of ConfigMaps.
    pub config_maps: BTreeSet<String>,
    /// Of Secrets.
    pub secrets: BTreeSet<String>,
}

impl References {
    /// Those of a pod: by its volumes, its containers' environments and its image pull secrets.
    pub fn of(pod: &Pod) -> References {
        let mut found = References::default();
        let Some(spec) = &pod.spec else { return found };
        for volume in spec.volumes.iter().flatten() {
            found.config_maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
            found.secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
            let parts = volume.projected.iter().flat_map(|source| source.sources.iter().flatten());
            for part in parts {
                found.config_maps.extend(part.config_map.iter().map(|source| source.name.clone()));
                found.secrets.extend(part.secret.iter().map(|source| source.name.clone()));
            }
        }
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            found.add_container(container);
        }
        found.secrets.extend(spec.image_pull_secrets.iter().flatten().map(|secret| secret.name.clone()));
        found
    }

    fn add_container(&mut self, container: &Container) {
        for source in container.env_from.iter().flatten() {
            self.config_maps.extend(source.config_map_ref.iter().map(|from| from.name.clone()));
            self.secrets.extend(source.secret_ref.iter().map(|from| from.name.clone()));
        }
        for from in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            self.config_maps.extend(from.config_map_key_ref.iter().map(|key| key.name.clone()));
            self.secrets.extend(from.secret_key_ref.iter().map(|key| key.name.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::pod;

    #[test]
    fn a_pod_refers_to_objects_in_many_places() {
        let pod = pod(
            "p",
            json!({
                "imagePullSecrets": [{ "name": "pull" }],
                "volumes": [
                    { "name": "a", "configMap": { "name": "c1" } },
                    { "name": "b", "secret": { "secretName": "s1" } },
                    { "name": "c", "projected": { "sources": [{ "configMap": { "name": "c2" } }, { "secret": { "name": "s2" } }] } },
                ],
                "initContainers": [{ "name": "i", "envFrom": [{ "configMapRef": { "name": "c3" } }] }],
                "containers": [{ "name": "m", "env": [{ "name": "X", "valueFrom": { "secretKeyRef": { "name": "s3", "key": "k" } } }] }],
            }),
        );
        let found = References::of(&pod);
        assert_eq!(found.config_maps.into_iter().collect::<Vec<_>>(), ["c1", "c2", "c3"]);
        assert_eq!(found.secrets.into_iter().collect::<Vec<_>>(), ["pull", "s1", "s2", "s3"]);
    }
}
