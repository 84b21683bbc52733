//! What plugins' tests share: a cluster in which objects are admitted, but not stored.

use std::sync::Arc;

use coracle_api::ApiResult;

pub(super) use super::{items, text};
pub(super) use crate::hooks::{Operation, UserInfo};
pub(super) use crate::testing::{in_simulation, put};
pub(super) use serde_json::{Value, json};

use super::PLUGINS;
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Authorizer, Notes, Reinvocation};
use crate::rbac::Union;
use crate::storage::Storage;
use crate::testing::storage;
use crate::webhook::Webhooks;

/// Such a cluster, with one plugin.
pub(super) struct World {
    pub(super) plugin: Box<dyn AdmissionPlugin>,
    pub(super) storage: Arc<Storage>,
    pub(super) authorizer: Arc<dyn Authorizer>,
    pub(super) user: UserInfo,
}

/// Tests a plugin in virtual time.
pub(super) fn in_world(plugin: &str, test: impl AsyncFnOnce(World)) {
    in_simulation(async || test(World::new(plugin).await).await);
}

impl World {
    pub(super) async fn new(plugin: &str) -> World {
        let (.., make) = PLUGINS.iter().find(|(name, ..)| *name == plugin).unwrap();
        let storage = storage().await;
        put(&storage, "", "namespaces", json!({ "metadata": { "name": "default" }, "status": { "phase": "Active" } }))
            .await;
        put(&storage, "", "serviceaccounts", json!({ "metadata": { "name": "default", "namespace": "default" } }))
            .await;
        World {
            plugin: make(&Default::default()),
            storage,
            authorizer: Arc::new(Union(Arc::new([]))),
            user: UserInfo::new("alice", &[]),
        }
    }

    pub(super) fn request(&self, operation: Operation, group: &str, plural: &str, object: Value) -> AdmissionRequest {
        let resource = self.storage.table().find_any(group, plural).unwrap().resource.clone();
        let namespace = if resource.namespaced() { "default" } else { "" };
        AdmissionRequest {
            operation,
            resource,
            subresource: String::new(),
            namespace: namespace.into(),
            name: text(&object, "/metadata/name").into(),
            object,
            old_object: Value::Null,
            user: self.user.clone(),
            dry_run: false,
            options: Value::Null,
            notes: Notes::default(),
            reinvocation: Reinvocation::default(),
        }
    }

    /// Runs the plugin over a request.
    pub(super) async fn run(&self, mut request: AdmissionRequest) -> ApiResult<AdmissionRequest> {
        let webhooks = Webhooks::new(&self.storage);
        let context = AdmissionContext::new(self.storage.clone(), self.authorizer.clone(), webhooks);
        if self.plugin.handles(&request) {
            self.plugin.admit(&mut request, &context).await?;
            self.plugin.validate(&request, &context).await?;
        }
        Ok(request)
    }

    pub(super) async fn create(&self, group: &str, plural: &str, object: Value) -> Result<Value, String> {
        let request = self.request(Operation::Create, group, plural, object);
        self.run(request).await.map(|r| r.object).map_err(|e| e.message)
    }

    pub(super) async fn delete(&self, plural: &str, name: &str) -> Result<(), String> {
        let mut request = self.request(Operation::Delete, "", plural, Value::Null);
        request.name = name.into();
        self.run(request).await.map(|_| ()).map_err(|e| e.message)
    }
}

/// A pod of one container, with this in its `spec`.
pub(super) fn pod(spec: Value) -> Value {
    let mut pod =
        json!({ "metadata": { "name": "web", "namespace": "default" }, "spec": { "containers": [{ "name": "c" }] } });
    for (key, value) in spec.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}
