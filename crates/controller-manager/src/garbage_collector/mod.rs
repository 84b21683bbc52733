//! Garbage collector: what nobody owns any more goes.
//!
//! Watches the metadata of every deletable resource that discovery tells of, and again whenever a
//! CustomResourceDefinition changes. Changes go into a [`graph`] by UID, which says what to look at; a key is a
//! UID. For each: look at the object itself (the graph may lag), at its owners, and delete it, release it from
//! owners that are gone, or let it be. The same queue ends deletions in the foreground: an object that waits for
//! its dependents loses its finalizer when none that blocks is left.

mod graph;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use coracle_client::{EventRecorder, EventType, Informer, ObjectKey, Requeue, WorkQueue, run_workers};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::Notify;

use crate::context::Context;
use crate::discovery::{self, Served};
use crate::error::{IgnoreNotFound, Result};
use graph::{Action, Graph, Node, ORPHAN, OwnerState, Work};

const NAME: &str = "garbage-collector-controller";

/// Resources that own nothing and are too many to watch.
const IGNORED: &[(&str, &str)] = &[("", "events"), ("events.k8s.io", "events")];

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Delete(String),
    Orphan(String),
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let collector = Collector {
        client: context.client.clone(),
        recorder: context.recorder(NAME),
        state: Arc::new(State { graph: Mutex::default(), queue: queue.clone() }),
    };
    let refresh = Arc::new(Notify::new());
    collector.watch_new_resources(&context, &refresh).await;
    let work = run_workers(NAME, &queue, context.config.concurrent_syncs, &context.shutdown, |key| collector.sync(key));
    let follow = async {
        loop {
            refresh.notified().await;
            collector.watch_new_resources(&context, &refresh).await;
        }
    };
    tokio::select! {
        biased;
        () = work => {}
        () = follow => {}
    }
}

/// What the watches and the workers share.
struct State {
    graph: Mutex<Graph>,
    queue: WorkQueue<Key>,
}

const LOCK: &str = "no code panics while it holds the graph";

impl State {
    fn enqueue(&self, work: Work) {
        work.delete.into_iter().for_each(|uid| self.queue.add(Key::Delete(uid)));
        work.orphan.into_iter().for_each(|uid| self.queue.add(Key::Orphan(uid)));
    }

    fn apply(&self, resource: usize, meta: &ObjectMeta) {
        let Some(uid) = &meta.uid else { return };
        let work = self.graph.lock().expect(LOCK).apply(uid, Node::new(resource, meta));
        self.enqueue(work);
    }

    fn remove(&self, uid: &str) {
        let work = self.graph.lock().expect(LOCK).remove(uid);
        self.enqueue(work);
    }

    fn node(&self, uid: &str) -> Option<Node> {
        self.graph.lock().expect(LOCK).get(uid).cloned()
    }

    fn served(&self, node: &Node) -> Option<Served> {
        self.graph.lock().expect(LOCK).served(node).cloned()
    }

    /// Follows one resource until the end. Returns only with `shutdown`.
    async fn watch(self: Arc<Self>, client: Client, resource: usize, synced: Arc<tokio::sync::Semaphore>) {
        let Some(served) = self.graph.lock().expect(LOCK).resources.get(resource).cloned() else { return };
        let stream = watcher(served.metadata(&client, None), watcher::Config::default());
        let mut stream = std::pin::pin!(stream);
        let mut listed = BTreeSet::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitApply(object)) => {
                    listed.extend(object.metadata.uid.clone());
                    self.apply(resource, &object.metadata);
                }
                Ok(watcher::Event::InitDone) => {
                    let known = self.graph.lock().expect(LOCK).of_resource(resource);
                    known.difference(&listed).for_each(|uid| self.remove(uid));
                    listed.clear();
                    synced.add_permits(1);
                }
                Ok(watcher::Event::Apply(object)) => self.apply(resource, &object.metadata),
                Ok(watcher::Event::Delete(object)) => self.remove(object.metadata.uid.as_deref().unwrap_or_default()),
                Err(error) => {
                    tracing::debug!(resource = served.name(), %error, "watch failed; trying again");
                    coracle_clock::sleep(std::time::Duration::from_secs(5)).await;
                }
            }
        }
    }
}

struct Collector {
    client: Client,
    recorder: EventRecorder,
    state: Arc<State>,
}

impl Collector {
    /// Starts watches of resources that are not watched yet, and waits until what is there is in the graph.
    async fn watch_new_resources(&self, context: &Context, refresh: &Arc<Notify>) {
        let served = match discovery::served(&self.client).await {
            Ok((served, _)) => served,
            Err(error) => {
                tracing::debug!(%error, "discovery failed; trying again");
                let (refresh, shutdown) = (refresh.clone(), context.shutdown.clone());
                tokio::spawn(async move {
                    shutdown.run_until_cancelled(coracle_clock::sleep(std::time::Duration::from_secs(5))).await;
                    refresh.notify_one();
                });
                return;
            }
        };
        let follow_definitions = |served: &Served| served.resource.plural == "customresourcedefinitions";
        let known = self.state.graph.lock().expect(LOCK).resources.clone();
        let wanted = |served: &Served| {
            let name = (served.resource.group.as_str(), served.resource.plural.as_str());
            let is_known = known.iter().any(|known| known.name() == served.name());
            !is_known && !IGNORED.contains(&name) && ["delete", "list", "watch"].iter().all(|verb| served.can(verb))
        };
        let synced = Arc::new(tokio::sync::Semaphore::new(0));
        let mut started: u32 = 0;
        for served in served.into_iter().filter(wanted) {
            if follow_definitions(&served) {
                let definitions: Informer<CustomResourceDefinition> = context.informer();
                let refresh = refresh.clone();
                definitions.on_change(move |_| refresh.notify_one());
            }
            let resource = {
                let resources = &mut self.state.graph.lock().expect(LOCK).resources;
                resources.push(served);
                resources.len() - 1
            };
            let watch = self.state.clone().watch(self.client.clone(), resource, synced.clone());
            let shutdown = context.shutdown.clone();
            tokio::spawn(async move { shutdown.run_until_cancelled(watch).await });
            started += 1;
        }
        // A resource that cannot be listed must not keep the rest waiting for long.
        let wait = coracle_clock::timeout(std::time::Duration::from_secs(30), synced.acquire_many(started));
        let _ = context.shutdown.run_until_cancelled(wait).await;
    }

    async fn sync(&self, key: Key) -> Result<Requeue> {
        match key {
            Key::Delete(uid) => self.look_at(&uid).await?,
            Key::Orphan(uid) => self.orphan_dependents(&uid).await?,
        }
        Ok(Requeue::Never)
    }

    async fn look_at(&self, uid: &str) -> Result<()> {
        let Some(node) = self.state.node(uid) else { return Ok(()) };
        if node.deleting && !node.waits_for_dependents {
            return Ok(()); // it goes already
        }
        let Some(meta) = self.live(&node, uid).await? else {
            self.state.remove(uid);
            return Ok(());
        };
        if node.waits_for_dependents {
            let action = self.state.graph.lock().expect(LOCK).finish_foreground(uid);
            return self.act(uid, &node, &meta, action).await;
        }
        let mut owners = Vec::new();
        for reference in meta.owner_references.iter().flatten() {
            owners.push((reference.uid.clone(), self.owner_state(uid, &node, reference).await?));
        }
        let finalizers = meta.finalizers.as_deref().unwrap_or_default();
        let actions = self.state.graph.lock().expect(LOCK).actions(uid, finalizers, &owners);
        for action in actions {
            self.act(uid, &node, &meta, action).await?;
        }
        Ok(())
    }

    async fn act(&self, uid: &str, node: &Node, meta: &ObjectMeta, action: Action) -> Result<()> {
        match action {
            Action::Release(gone) => self.release(node, meta, &gone).await,
            Action::Unblock => self.unblock_owners(node, meta).await,
            Action::Delete(Some(ORPHAN)) => self.delete(node, uid, DeleteParams::orphan()).await,
            Action::Delete(Some(_)) => self.delete(node, uid, DeleteParams::foreground()).await,
            Action::Delete(None) => self.delete(node, uid, DeleteParams::background()).await,
            Action::Finish(finalizer) => self.remove_finalizer(node, meta, finalizer).await,
            Action::LookAt(dependents) => {
                dependents.into_iter().for_each(|dependent| self.state.queue.add(Key::Delete(dependent)));
                Ok(())
            }
        }
    }

    fn api(&self, node: &Node) -> Option<Api<PartialObjectMeta<DynamicObject>>> {
        let served = self.state.served(node)?;
        Some(served.metadata(&self.client, Some(&node.key.namespace)))
    }

    /// The object's metadata as the API has it now; none if it is gone or another of its name is there.
    async fn live(&self, node: &Node, uid: &str) -> Result<Option<ObjectMeta>> {
        let Some(api) = self.api(node) else { return Ok(None) };
        let object = api.get_opt(&node.key.name).await?;
        Ok(object.map(|object| object.metadata).filter(|meta| meta.uid.as_deref() == Some(uid)))
    }

    async fn owner_state(&self, uid: &str, node: &Node, reference: &OwnerReference) -> Result<OwnerState> {
        let namespace = &node.key.namespace;
        let group = reference.api_version.rsplit_once('/').map_or("", |(group, _)| group);
        let served = {
            let graph = self.state.graph.lock().expect(LOCK);
            if graph.is_absent(reference, namespace) {
                return Ok(OwnerState::Dangling);
            }
            match graph.get(&reference.uid) {
                Some(owner) if graph.is_meant(owner, reference, namespace) => {
                    return Ok(if owner.waits_for_dependents { OwnerState::Waiting } else { OwnerState::Solid });
                }
                Some(owner) if ![namespace, ""].contains(&&*owner.key.namespace) => {
                    self.tell(uid, graph.served(node), node, reference);
                }
                _ => {}
            }
            let of_kind = |served: &&Served| served.resource.kind == reference.kind && served.resource.group == group;
            graph.resources.iter().find(of_kind).cloned()
        };
        // Nobody has seen it there: ask. Of a kind that nobody serves, it may come back; then it is not for us to judge.
        let served = match served {
            Some(served) => served.in_version(&self.client, &reference.api_version).await?,
            None => None,
        };
        let Some(served) = served else {
            let message = format!("no matches for kind {:?} in version {:?}", reference.kind, reference.api_version);
            return Err(crate::Error::Other(message));
        };
        if served.namespaced && namespace.is_empty() {
            return Ok(OwnerState::Unknowable);
        }
        let owner = served.metadata(&self.client, Some(namespace)).get_opt(&reference.name).await?;
        match owner.filter(|owner| owner.metadata.uid.as_ref() == Some(&reference.uid)) {
            None => {
                let namespace = if served.namespaced { namespace } else { "" };
                self.state.graph.lock().expect(LOCK).note_absent(reference, namespace);
                Ok(OwnerState::Dangling)
            }
            Some(owner) if Node::new(0, &owner.metadata).waits_for_dependents => Ok(OwnerState::Waiting),
            Some(_) => Ok(OwnerState::Solid),
        }
    }

    /// Tells that an owner is in another namespace.
    fn tell(&self, uid: &str, served: Option<&Served>, node: &Node, owner: &OwnerReference) {
        let Some(Served { resource, .. }) = served.cloned() else { return };
        let ObjectKey { namespace, name } = &node.key;
        let object = ObjectReference {
            api_version: Some(resource.api_version),
            kind: Some(resource.kind),
            namespace: Some(namespace.clone()).filter(|namespace| !namespace.is_empty()),
            name: Some(name.clone()),
            uid: Some(uid.to_owned()),
            ..Default::default()
        };
        let OwnerReference { api_version, kind, name, uid, .. } = owner;
        let message = format!(
            "ownerRef [{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}] does not exist in namespace \
             {namespace:?}"
        );
        self.recorder.event(&object, EventType::Warning, "OwnerRefInvalidNamespace", message);
    }

    async fn delete(&self, node: &Node, uid: &str, params: DeleteParams) -> Result<()> {
        let Some(served) = self.state.served(node) else { return Ok(()) };
        let params = params.preconditions(Preconditions { uid: Some(uid.into()), resource_version: None });
        let api = served.objects(&self.client, &node.key.namespace);
        tracing::debug!(resource = served.name(), key = %node.key, "deleting");
        api.delete(&node.key.name, &params).await.ignore_not_found()?;
        Ok(())
    }

    async fn patch(&self, node: &Node, meta: &ObjectMeta, mut change: serde_json::Value) -> Result<()> {
        let Some(api) = self.api(node) else { return Ok(()) };
        // With the version, a change in between is a conflict and not a loss.
        change["uid"] = json!(meta.uid);
        change["resourceVersion"] = json!(meta.resource_version);
        let patch = Patch::Merge(json!({ "metadata": change }));
        api.patch_metadata(&node.key.name, &PatchParams::default(), &patch).await.ignore_not_found()?;
        Ok(())
    }

    async fn release(&self, node: &Node, meta: &ObjectMeta, gone: &BTreeSet<String>) -> Result<()> {
        let owners = meta.owner_references.iter().flatten();
        let kept: Vec<_> = owners.filter(|owner| !gone.contains(&owner.uid)).collect();
        self.patch(node, meta, json!({ "ownerReferences": kept })).await
    }

    async fn unblock_owners(&self, node: &Node, meta: &ObjectMeta) -> Result<()> {
        let mut owners = meta.owner_references.clone().unwrap_or_default();
        owners.iter_mut().for_each(|owner| owner.block_owner_deletion = Some(false));
        self.patch(node, meta, json!({ "ownerReferences": owners })).await
    }

    async fn remove_finalizer(&self, node: &Node, meta: &ObjectMeta, finalizer: &str) -> Result<()> {
        let kept: Vec<_> = meta.finalizers.iter().flatten().filter(|name| *name != finalizer).collect();
        self.patch(node, meta, json!({ "finalizers": kept })).await
    }

    async fn orphan_dependents(&self, uid: &str) -> Result<()> {
        let Some(node) = self.state.node(uid) else { return Ok(()) };
        let dependents: BTreeMap<_, _> = self.state.graph.lock().expect(LOCK).dependents(uid).into_iter().collect();
        let owner = BTreeSet::from([uid.to_owned()]);
        for (dependent, dependent_node) in dependents {
            if let Some(meta) = self.live(&dependent_node, &dependent).await? {
                self.release(&dependent_node, &meta, &owner).await?;
            }
        }
        match self.live(&node, uid).await? {
            Some(meta) => self.remove_finalizer(&node, &meta, ORPHAN).await,
            None => Ok(()),
        }
    }
}
