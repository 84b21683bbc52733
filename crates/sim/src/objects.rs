//! Objects as JSON, by resource name: as short in a scenario as on kubectl's command line.

use anyhow::{Context, bail};
use coracle_api::registry;
use coracle_api::resource::{Resource, Scope};
use http::{Method, Request};
use serde_json::{Value, json};

use crate::Cluster;

/// The URL path of a resource, without an object's name. Names without a namespace are in `default`.
fn path(resource: &Resource, namespace: Option<&str>) -> String {
    let root = if resource.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", resource.group) };
    match namespace.filter(|_| resource.scope == Scope::Namespaced) {
        Some(namespace) => format!("{root}/{}/namespaces/{namespace}/{}", resource.version, resource.plural),
        None => format!("{root}/{}/{}", resource.version, resource.plural),
    }
}

fn object_path(plural: &str, name: &str) -> anyhow::Result<String> {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    Ok(format!("{}/{name}", path(&*by_plural(plural)?, Some(namespace))))
}

fn by_plural(plural: &str) -> anyhow::Result<std::sync::Arc<Resource>> {
    registry::builtin().into_iter().find(|r| r.plural == plural).with_context(|| format!("no resource {plural:?}"))
}

/// What the API server said, if it is a refusal; else the whole error.
pub(crate) fn said(error: &anyhow::Error) -> String {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => status.message.clone(),
        _ => format!("{error:#}"),
    }
}

impl Cluster {
    /// Creates an object; without a namespace in `default`.
    ///
    /// # Errors
    /// The API server's refusal.
    pub async fn create(&self, object: Value) -> anyhow::Result<Value> {
        let path = self.collection(&object).await?;
        self.send(Method::POST, &path, "application/json", &object).await
    }

    /// An object by its resource (`deployments`) and name (`web`, or `kube-system/web`), if it exists.
    ///
    /// # Errors
    /// The API server's refusal for any other reason than that it does not exist.
    pub async fn get(&self, plural: &str, name: &str) -> anyhow::Result<Option<Value>> {
        match self.send(Method::GET, &object_path(plural, name)?, "", &Value::Null).await {
            Ok(object) => Ok(Some(object)),
            Err(error) => match error.downcast_ref::<kube::Error>() {
                Some(kube::Error::Api(status)) if status.code == 404 => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// A resource's objects, of all namespaces or of one.
    ///
    /// # Errors
    /// The API server's refusal.
    pub async fn list(&self, plural: &str, namespace: Option<&str>) -> anyhow::Result<Vec<Value>> {
        let list = self.send(Method::GET, &path(&*by_plural(plural)?, namespace), "", &Value::Null).await?;
        let Value::Array(items) = list["items"].clone() else { bail!("no list: {list}") };
        Ok(items)
    }

    /// Changes an object by a JSON merge patch. `name` may go on to a subresource: `web/scale` needs the namespace, as
    /// in `default/web/scale`.
    ///
    /// # Errors
    /// The API server's refusal.
    pub async fn patch(&self, plural: &str, name: &str, patch: Value) -> anyhow::Result<Value> {
        self.send(Method::PATCH, &object_path(plural, name)?, "application/merge-patch+json", &patch).await
    }

    /// Deletes an object, with the default propagation.
    ///
    /// # Errors
    /// The API server's refusal.
    pub async fn delete(&self, plural: &str, name: &str) -> anyhow::Result<Value> {
        self.delete_with(plural, name, json!({})).await
    }

    /// Deletes an object with `DeleteOptions`.
    ///
    /// # Errors
    /// The API server's refusal.
    pub async fn delete_with(&self, plural: &str, name: &str, options: Value) -> anyhow::Result<Value> {
        self.send(Method::DELETE, &object_path(plural, name)?, "application/json", &options).await
    }

    /// Applies an object as `kubectl apply --server-side` does: makes it, or changes what differs.
    ///
    /// # Errors
    /// The API server's refusal.
    pub async fn apply(&self, object: &Value) -> anyhow::Result<Value> {
        let path = self.collection(object).await?;
        let name = object["metadata"]["name"].as_str().context("an object without a name")?;
        let path = format!("{path}/{name}?fieldManager=kubectl&force=true");
        self.send(Method::PATCH, &path, "application/apply-patch+yaml", object).await
    }

    /// Evicts a pod (`default/web`), as a drain does.
    ///
    /// # Errors
    /// The API server's refusal: a PodDisruptionBudget may forbid it for now.
    pub async fn evict(&self, pod: &str) -> anyhow::Result<Value> {
        let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "namespace": namespace, "name": name },
        });
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction");
        self.send(Method::POST, &path, "application/json", &eviction).await
    }

    /// The URL path of what an object is one of. Where a custom resource is, is asked of the API server, as kubectl does.
    async fn collection(&self, object: &Value) -> anyhow::Result<String> {
        let text = |field: &str| object[field].as_str().unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
        if let Some(resource) = registry::lookup_kind(version, kind) {
            return Ok(path(&resource, Some(namespace)));
        }
        let served = self.send(Method::GET, &format!("/apis/{version}"), "", &Value::Null).await?;
        let mut served = served["resources"].as_array().into_iter().flatten();
        let found = served.find(|found| found["kind"] == kind).with_context(|| format!("no kind {version}/{kind}"))?;
        let plural = found["name"].as_str().unwrap_or_default();
        Ok(match found["namespaced"] == true {
            true => format!("/apis/{version}/namespaces/{namespace}/{plural}"),
            false => format!("/apis/{version}/{plural}"),
        })
    }

    async fn send(&self, method: Method, path: &str, content_type: &str, body: &Value) -> anyhow::Result<Value> {
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let request = Request::builder().method(method).uri(path).header("content-type", content_type).body(body)?;
        Ok(self.client().request(request).await?)
    }
}
