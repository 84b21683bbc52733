//! A small operator: whoever writes a `Website` gets a Deployment and a Service.
//!
//! Nothing here knows of Coracle: it runs against any Kubernetes. `tests/website.rs` shows how it is tested with a whole
//! cluster in the test's own process.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::{conditions, wait, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;

const OPERATOR: &str = "website-operator";

/// The kind, as clients name it.
pub fn website() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Website"))
}

/// Makes the kind known to the API server, and waits until it is served.
///
/// # Errors
/// The API server's.
pub async fn install(client: Client) -> anyhow::Result<()> {
    const NAME: &str = "websites.example.com";
    let spec = json!({ "type": "object", "required": ["image"], "properties": {
        "image": { "type": "string" }, "replicas": { "type": "integer", "minimum": 0, "default": 1 },
    } });
    let schema = json!({ "openAPIV3Schema": { "type": "object", "properties": { "spec": spec } } });
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": { "name": NAME },
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": { "plural": "websites", "singular": "website", "kind": "Website" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": schema }],
        },
    });
    let definitions: Api<CustomResourceDefinition> = Api::all(client);
    definitions.patch(NAME, &PatchParams::apply(OPERATOR).force(), &Patch::Apply(definition)).await?;
    wait::await_condition(definitions, NAME, conditions::is_crd_established()).await?;
    Ok(())
}

/// Runs the operator, for ever.
pub async fn run(client: Client) {
    let websites: Api<DynamicObject> = Api::all_with(client.clone(), &website());
    let config = watcher::Config::default;
    Controller::new_with(websites, config(), website())
        .owns(Api::<Deployment>::all(client.clone()), config())
        .owns(Api::<Service>::all(client.clone()), config())
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_secs(5)), Arc::new(client))
        .for_each(|result| async move {
            if let Err(error) = result {
                eprintln!("{error}");
            }
        })
        .await;
}

async fn reconcile(site: Arc<DynamicObject>, client: Arc<Client>) -> Result<Action, kube::Error> {
    let (namespace, name) = (site.namespace().unwrap_or_default(), site.name_any());
    let labels = json!({ "website": name });
    let meta = json!({ "name": name, "labels": labels, "ownerReferences": [site.controller_owner_ref(&website())] });
    let container = json!({ "name": "site", "image": site.data["spec"]["image"], "ports": [{ "containerPort": 80 }] });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
        "spec": {
            "replicas": site.data["spec"]["replicas"], "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": { "containers": [container] } },
        },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": meta,
        "spec": { "selector": labels, "ports": [{ "port": 80 }] },
    });
    let params = PatchParams::apply(OPERATOR).force();
    let client = client.as_ref().clone();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    deployments.patch(&name, &params, &Patch::Apply(deployment)).await?;
    let services: Api<Service> = Api::namespaced(client, &namespace);
    services.patch(&name, &params, &Patch::Apply(service)).await?;
    Ok(Action::await_change())
}
