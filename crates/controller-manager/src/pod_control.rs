//! Creating and deleting a workload's pods: events, expectations, and slow start.

use std::sync::Arc;

use coracle_client::{EventRecorder, EventType, Informer, ObjectKey, WorkQueue, written};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client, ResourceExt};

use crate::claim::{self, Owned};
use crate::error::{Error, IgnoreNotFound, Result};
use crate::expectations::Expectations;
use crate::pods;

/// The hands of a controller that owns pods.
#[derive(Clone)]
pub(crate) struct PodControl {
    pub(crate) client: Client,
    pub(crate) recorder: EventRecorder,
    pub(crate) expectations: Arc<Expectations>,
}

impl PodControl {
    pub(crate) fn new(client: Client, recorder: EventRecorder) -> Self {
        PodControl { client, recorder, expectations: Arc::default() }
    }

    /// For each change of a pod: notes what was expected of it, and adds the keys of the owners it concerns, unless the pod
    /// is to them the `same` as before.
    pub(crate) fn follow<O: Owned>(
        &self,
        pods: &Informer<Pod>,
        owners: &Informer<O>,
        queue: &WorkQueue<ObjectKey>,
        same: fn(&Pod, &Pod) -> bool,
        adopts: impl Fn(&O, &Pod) -> bool + Send + 'static,
    ) {
        let (owners, queue, expectations) = (owners.clone(), queue.clone(), self.expectations.clone());
        pods.on_change(move |change| {
            if let (Some(old), Some(new)) = (change.old, change.new)
                && same(old, new)
            {
                return;
            }
            for key in claim::owners_of(&change, &owners, &adopts) {
                if change.old.is_none() {
                    expectations.created(&key);
                }
                if change.new.is_none_or(|pod| pods::is_terminating(pod)) {
                    expectations.deleted(&key, &change.object().uid().unwrap_or_default());
                }
                queue.add(key);
            }
        });
    }

    /// Creates pods for `owner`, in batches of 1, 2, 4, … as long as all goes well: when a quota or an admission
    /// plugin refuses, it refuses once and not five hundred times.
    pub(crate) async fn create(&self, key: &ObjectKey, owner: &ObjectReference, pods: Vec<Pod>) -> Result<()> {
        self.expectations.expect_creations(key, pods.len());
        let (mut error, mut size) = (None, 1);
        let mut rest = pods.as_slice();
        while !rest.is_empty() && error.is_none() {
            let (batch, later) = rest.split_at(size.min(rest.len()));
            for result in join_all(batch.iter().map(|pod| self.create_one(key, owner, pod))).await {
                error = error.or(result.err());
            }
            (rest, size) = (later, size * 2);
        }
        rest.iter().for_each(|_| self.expectations.created(key));
        error.map_or(Ok(()), Err)
    }

    async fn create_one(&self, key: &ObjectKey, owner: &ObjectReference, pod: &Pod) -> Result<()> {
        match written::create(&self.client, &key.namespace, pod).await.map_err(Error::from) {
            Ok(pod) => {
                let message = format!("Created pod: {}", pod.name());
                self.recorder.event(owner, EventType::Normal, "SuccessfulCreate", message);
                Ok(())
            }
            Err(error) => {
                self.expectations.created(key);
                if error.namespace_is_terminating() {
                    return Ok(()); // the owner goes with its namespace
                }
                self.recorder.event(owner, EventType::Warning, "FailedCreate", format!("Error creating: {error}"));
                Err(error)
            }
        }
    }

    /// Deletes pods of `owner`, all at once.
    pub(crate) async fn delete(&self, key: &ObjectKey, owner: &ObjectReference, pods: &[Arc<Pod>]) -> Result<()> {
        self.expectations.expect_deletions(key, pods.iter().filter_map(|pod| pod.uid()));
        let mut error = None;
        for result in join_all(pods.iter().map(|pod| self.delete_one(key, owner, pod))).await {
            error = error.or(result.err());
        }
        error.map_or(Ok(()), Err)
    }

    async fn delete_one(&self, key: &ObjectKey, owner: &ObjectReference, pod: &Pod) -> Result<()> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = DeleteParams::default().preconditions(Preconditions { uid: pod.uid(), resource_version: None });
        match api.delete(&pod.name_any(), &params).await.ignore_not_found() {
            Ok(Some(_)) => {
                let message = format!("Deleted pod: {}", pod.name_any());
                self.recorder.event(owner, EventType::Normal, "SuccessfulDelete", message);
                Ok(())
            }
            Ok(None) => {
                self.expectations.deleted(key, &pod.uid().unwrap_or_default());
                Ok(())
            }
            Err(error) => {
                self.expectations.deleted(key, &pod.uid().unwrap_or_default());
                self.recorder.event(owner, EventType::Warning, "FailedDelete", format!("Error deleting: {error}"));
                Err(error)
            }
        }
    }
}
