//! One kind's objects through kube-rs, as JSON.

use std::time::Duration;

use anyhow::{Context, bail};
use coracle_sim::Cluster;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use kube::Api;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiCapabilities, Scope, pinned_kind};
use serde_json::Value;

use crate::support::text;

/// A kind's objects in one namespace; those of a cluster-scoped kind have none.
pub struct Objects {
    client: kube::Client,
    pub resource: ApiResource,
    pub capabilities: ApiCapabilities,
    api: Api<DynamicObject>,
}

impl Objects {
    /// Finds the kind in discovery, as any dynamic client does.
    pub async fn find(cluster: &Cluster, api_version: &str, kind: &str) -> anyhow::Result<Objects> {
        let client = cluster.client();
        let (group, version) = api_version.rsplit_once('/').unwrap_or_default();
        let version = if version.is_empty() { api_version } else { version };
        let (resource, capabilities) = pinned_kind(&client, &GroupVersionKind::gvk(group, version, kind)).await?;
        let api = Api::all_with(client.clone(), &resource);
        let objects = Objects { client, resource, capabilities, api };
        Ok(if objects.namespaced() { objects.in_namespace("default") } else { objects })
    }

    /// The objects of a manifest's kind, in its namespace or in `default`.
    pub async fn of(cluster: &Cluster, manifest: &Value) -> anyhow::Result<Objects> {
        let objects = Objects::find(cluster, text(manifest, "/apiVersion"), text(manifest, "/kind")).await?;
        let namespace = text(manifest, "/metadata/namespace");
        Ok(if namespace.is_empty() { objects } else { objects.in_namespace(namespace) })
    }

    pub fn namespaced(&self) -> bool {
        self.capabilities.scope == Scope::Namespaced
    }

    fn with(&self, api: Api<DynamicObject>) -> Objects {
        let (resource, capabilities) = (self.resource.clone(), self.capabilities.clone());
        Objects { client: self.client.clone(), resource, capabilities, api }
    }

    pub fn in_namespace(&self, namespace: &str) -> Objects {
        self.with(Api::namespaced_with(self.client.clone(), namespace, &self.resource))
    }

    /// Those of all namespaces, to list and watch.
    pub fn everywhere(&self) -> Objects {
        self.with(Api::all_with(self.client.clone(), &self.resource))
    }

    pub async fn create(&self, object: &Value) -> kube::Result<Value> {
        self.create_with(object, &PostParams::default()).await
    }

    pub async fn create_with(&self, object: &Value, params: &PostParams) -> kube::Result<Value> {
        self.api.create(params, &dynamic(object)).await.map(json)
    }

    pub async fn get(&self, name: &str) -> kube::Result<Value> {
        self.api.get(name).await.map(json)
    }

    pub async fn exists(&self, name: &str) -> kube::Result<bool> {
        Ok(self.api.get_opt(name).await?.is_some())
    }

    /// `…/status`, or another subresource that answers with the object.
    pub async fn get_sub(&self, sub: &str, name: &str) -> kube::Result<Value> {
        self.api.get_subresource(sub, name).await.map(json)
    }

    /// The objects that a label selector matches; all if it is empty.
    pub async fn list(&self, labels: &str) -> kube::Result<Vec<Value>> {
        self.list_with(&ListParams::default().labels(labels)).await
    }

    pub async fn list_with(&self, params: &ListParams) -> kube::Result<Vec<Value>> {
        let list = self.api.list(params).await?;
        assert_eq!(list.types.kind, format!("{}List", self.resource.kind));
        Ok(list.items.into_iter().map(json).collect())
    }

    /// The resource version of a list of now: where a watch can start.
    pub async fn now(&self) -> kube::Result<String> {
        Ok(self.api.list(&ListParams::default()).await?.metadata.resource_version.unwrap_or_default())
    }

    pub async fn merge(&self, name: &str, patch: Value) -> kube::Result<Value> {
        self.patch(name, &Patch::Merge(patch)).await
    }

    pub async fn patch(&self, name: &str, patch: &Patch<Value>) -> kube::Result<Value> {
        let params = match patch {
            Patch::Apply(_) => PatchParams::apply("conformance"),
            _ => PatchParams::default(),
        };
        self.api.patch(name, &params, patch).await.map(json)
    }

    pub async fn patch_sub(&self, sub: &str, name: &str, patch: &Patch<Value>) -> kube::Result<Value> {
        self.api.patch_subresource(sub, name, &PatchParams::default(), patch).await.map(json)
    }

    pub async fn replace(&self, object: &Value) -> kube::Result<Value> {
        self.api.replace(text(object, "/metadata/name"), &PostParams::default(), &dynamic(object)).await.map(json)
    }

    pub async fn replace_sub(&self, sub: &str, object: &Value) -> kube::Result<Value> {
        let body = dynamic(object);
        self.api.replace_subresource(sub, text(object, "/metadata/name"), &PostParams::default(), &body).await.map(json)
    }

    pub async fn delete(&self, name: &str) -> kube::Result<()> {
        self.delete_with(name, &DeleteParams::default()).await
    }

    pub async fn delete_with(&self, name: &str, params: &DeleteParams) -> kube::Result<()> {
        self.api.delete(name, params).await.map(drop)
    }

    pub async fn delete_collection(&self, labels: &str) -> kube::Result<()> {
        self.api.delete_collection(&DeleteParams::default(), &ListParams::default().labels(labels)).await.map(drop)
    }

    /// Watches those that a label selector matches, from a resource version.
    pub async fn watch(&self, labels: &str, from: &str) -> kube::Result<Watch> {
        Ok(Watch(self.api.watch(&WatchParams::default().labels(labels), from).await?.boxed()))
    }
}

/// A watch that is being read.
pub struct Watch(BoxStream<'static, kube::Result<WatchEvent<DynamicObject>>>);

impl Watch {
    /// The next event but bookmarks, as `ADDED` and the like with the object; an error if none comes in a minute.
    pub async fn next(&mut self) -> anyhow::Result<(&'static str, Value)> {
        loop {
            let next = tokio::time::timeout(Duration::from_secs(60), self.0.try_next()).await;
            return Ok(match next.context("no event in a minute")??.context("the watch ended")? {
                WatchEvent::Added(object) => ("ADDED", json(object)),
                WatchEvent::Modified(object) => ("MODIFIED", json(object)),
                WatchEvent::Deleted(object) => ("DELETED", json(object)),
                WatchEvent::Bookmark(_) => continue,
                WatchEvent::Error(status) => bail!("{status:?}"),
            });
        }
    }
}

fn dynamic(object: &Value) -> DynamicObject {
    serde_json::from_value(object.clone()).expect("a manifest is an object")
}

fn json(object: DynamicObject) -> Value {
    serde_json::to_value(object).expect("an object is JSON")
}
