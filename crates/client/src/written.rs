//! Writes whose answers are of little interest, and not decoded.

use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, Request};
use kube::{Client, Error, Resource, Result};
use serde::{Deserialize, Serialize};

/// What a writer may want to know of what it has written; the rest of the object is not even decoded.
#[derive(Debug, Deserialize)]
pub struct Written {
    metadata: Metadata,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    resource_version: String,
}

impl Written {
    /// The object's name, which the server may have made up.
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    /// The object's version as a number: later ones are greater.
    pub fn version(&self) -> u64 {
        self.metadata.resource_version.parse().unwrap_or_default()
    }
}

/// Creates an object.
///
/// # Errors
/// As `kube::Api::create`.
pub async fn create<K>(client: &Client, namespace: &str, object: &K) -> Result<Written>
where
    K: Resource<DynamicType = ()> + Serialize,
{
    let body = serde_json::to_vec(object).map_err(Error::SerdeError)?;
    let url = Request::new(K::url_path(&(), Some(namespace)));
    client.request(url.create(&PostParams::default(), body).map_err(Error::BuildRequest)?).await
}

/// Patches the `status` of an object.
///
/// # Errors
/// As `kube::Api::patch_status`.
pub async fn patch_status<K>(
    client: &Client,
    namespace: &str,
    name: &str,
    patch: &Patch<impl Serialize>,
) -> Result<Written>
where
    K: Resource<DynamicType = ()>,
{
    let url = Request::new(K::url_path(&(), Some(namespace)));
    let request = url.patch_subresource("status", name, &PatchParams::default(), patch);
    client.request(request.map_err(Error::BuildRequest)?).await
}

/// Replaces the `status` of an object.
///
/// # Errors
/// As `kube::Api::replace_status`.
pub async fn replace_status<K>(client: &Client, namespace: &str, name: &str, object: &K) -> Result<Written>
where
    K: Resource<DynamicType = ()> + Serialize,
{
    let body = serde_json::to_vec(object).map_err(Error::SerdeError)?;
    let url = Request::new(K::url_path(&(), Some(namespace)));
    let request = url.replace_subresource("status", name, &PostParams::default(), body);
    client.request(request.map_err(Error::BuildRequest)?).await
}

/// Deletes all objects of a namespace of the kind that `resource` says.
///
/// # Errors
/// As `kube::Api::delete_collection`.
pub async fn delete_all(client: &Client, namespace: &str, resource: &ApiResource, params: &DeleteParams) -> Result<()> {
    let url = Request::new(DynamicObject::url_path(resource, Some(namespace)));
    let request = url.delete_collection(params, &ListParams::default()).map_err(Error::BuildRequest)?;
    client.request_text(request).await.map(drop)
}
