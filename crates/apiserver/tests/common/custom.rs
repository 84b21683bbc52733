//! Definitions of custom resources.

use std::time::Duration;

use serde_json::{Value, json};

use super::Server;

pub const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

pub fn definition(group: &str, kind: &str, versions: Value) -> Value {
    let singular = kind.to_lowercase();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{singular}s.{group}") },
        "spec": {
            "group": group, "scope": "Namespaced", "versions": versions,
            "names": { "plural": format!("{singular}s"), "singular": singular, "kind": kind },
        },
    })
}

/// Creates a definition and waits until it is established.
pub async fn define(server: &Server, definition: Value) -> Value {
    let name = definition["metadata"]["name"].as_str().unwrap().to_owned();
    server.post(CRDS, definition).await.expect(201);
    established(server, &name).await
}

pub async fn established(server: &Server, name: &str) -> Value {
    for _ in 0..100 {
        let definition = server.get(&format!("{CRDS}/{name}")).await.expect(200);
        let conditions = definition["status"]["conditions"].as_array().unwrap();
        if conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True") {
            return definition;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{name} is not established");
}

/// The definition's version, changed and put back.
pub async fn redefine(server: &Server, name: &str, change: impl Fn(&mut Value)) -> Value {
    let path = format!("{CRDS}/{name}");
    let mut definition = server.get(&path).await.expect(200);
    change(&mut definition["spec"]);
    server.put(&path, definition).await.expect(200)
}
