//! What every controller is given.

use std::fmt::Debug;
use std::future::Future;
use std::sync::Arc;

use coracle_client::{EventRecorder, Informer, Informers, ObjectKey, Requeue, WorkQueue, run_workers};
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::error::Result;

/// The client, the shared informers, the configuration, and the end.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) informers: Informers,
    pub(crate) config: Arc<Config>,
    pub(crate) shutdown: CancellationToken,
}

impl Context {
    pub(crate) fn new(client: Client, config: Config, shutdown: CancellationToken) -> Self {
        let informers = Informers::new(client.clone(), shutdown.clone());
        Context { client, informers, config: Arc::new(config), shutdown }
    }

    /// The shared informer of a kind.
    pub(crate) fn informer<K>(&self) -> Informer<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.informers.get()
    }

    /// An informer of all objects of one name in all namespaces, which the cluster has one of each: for kinds too
    /// numerous to keep whole.
    pub(crate) fn informer_of_name<K>(&self, name: &str) -> Informer<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.informer_of(&format!("metadata.name={name}"))
    }

    /// An informer of the Secrets of one type in all namespaces: nobody needs all Secrets.
    pub(crate) fn informer_of_type(&self, kind: &str) -> Informer<Secret> {
        self.informer_of(&format!("type={kind}"))
    }

    fn informer_of<K>(&self, fields: &str) -> Informer<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let config = watcher::Config::default().fields(fields);
        let informer: Informer<K> = Informer::new(Api::all(self.client.clone()), config);
        let (running, shutdown) = (informer.clone(), self.shutdown.clone());
        tokio::spawn(async move { running.run(shutdown).await });
        informer
    }

    /// A recorder in the name of one controller.
    pub(crate) fn recorder(&self, component: &str) -> EventRecorder {
        EventRecorder::new(self.client.clone(), component, None)
    }

    /// Works on the queue's keys until the end.
    pub(crate) async fn work<F, Fut>(&self, name: &'static str, queue: &WorkQueue<ObjectKey>, reconcile: F)
    where
        F: Fn(ObjectKey) -> Fut,
        Fut: Future<Output = Result<Requeue>>,
    {
        run_workers(name, queue, self.config.concurrent_syncs, &self.shutdown, reconcile).await;
    }
}

/// Adds the key of every object of a kind that changes to a queue: the first line of most controllers.
pub(crate) fn enqueue_changes<K>(informer: &Informer<K>, queue: &WorkQueue<ObjectKey>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let queue = queue.clone();
    informer.on_change(move |change| queue.add(change.key()));
}
