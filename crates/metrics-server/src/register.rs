//! How the API server finds this server: an APIService, and the Service it names.

use std::time::Duration;

use http::Request;
use kube::Client;
use serde_json::{Value, json};

/// The namespace of [`SERVICE`].
pub const NAMESPACE: &str = "kube-system";
/// The Service that stands for this server.
pub const SERVICE: &str = "metrics-server";
/// Whom this server acts as.
pub const USER: &str = "system:serviceaccount:kube-system:metrics-server";

/// How long to wait before the API server is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Makes the two objects, unless they are there: what somebody else put in their place stays.
pub async fn register(client: &Client) {
    while let Err(error) = try_register(client).await {
        tracing::debug!(%error, "metrics-server is not registered yet");
        coracle_clock::sleep(RETRY).await;
    }
}

async fn try_register(client: &Client) -> kube::Result<()> {
    let labels = json!({ "k8s-app": SERVICE });
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": SERVICE, "namespace": NAMESPACE, "labels": labels },
        "spec": { "ports": [{ "name": "https", "port": 443, "protocol": "TCP", "targetPort": "https" }] },
    });
    let api_service = json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": { "name": "v1beta1.metrics.k8s.io", "labels": labels },
        "spec": {
            "group": "metrics.k8s.io",
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": true,
            "service": { "name": SERVICE, "namespace": NAMESPACE },
        },
    });
    create(client, &format!("/api/v1/namespaces/{NAMESPACE}/services"), &service).await?;
    create(client, "/apis/apiregistration.k8s.io/v1/apiservices", &api_service).await
}

async fn create(client: &Client, path: &str, object: &Value) -> kube::Result<()> {
    let request = Request::post(path).header("content-type", "application/json");
    let request = request.body(object.to_string().into_bytes()).map_err(kube::Error::HttpError)?;
    match client.request::<Value>(request).await {
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
        other => other.map(drop),
    }
}
