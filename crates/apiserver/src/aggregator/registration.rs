//! The APIServices of what is served here: built-in groups, and those of custom resources.
//!
//! Built-in ones are written at every start (see [`crate::bootstrap`]); custom resources' come and go with
//! their definitions. They make `kubectl get apiservices` whole, and say that these groups are served here.

use coracle_api::{ApiResult, Resource};
use serde_json::{Value, json};

use super::{GROUP, logged};
use crate::storage::{ResourceTable, Storage};

/// Says who keeps an APIService: `onstart` for built-in groups, `true` for custom resources'.
pub const AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// Priorities of built-in groups, and of a version in its group.
const PRIORITIES: [(&str, &str, i64, i64); 24] = [
    ("", "v1", 18000, 1),
    ("apps", "v1", 17800, 15),
    ("events.k8s.io", "v1", 17750, 15),
    ("authentication.k8s.io", "v1", 17700, 15),
    ("authorization.k8s.io", "v1", 17600, 15),
    ("autoscaling", "v1", 17500, 15),
    ("autoscaling", "v2", 17500, 30),
    ("batch", "v1", 17400, 15),
    ("certificates.k8s.io", "v1", 17300, 15),
    ("networking.k8s.io", "v1", 17200, 15),
    ("policy", "v1", 17100, 15),
    ("rbac.authorization.k8s.io", "v1", 17000, 15),
    ("storage.k8s.io", "v1", 16800, 15),
    ("apiextensions.k8s.io", "v1", 16700, 15),
    ("admissionregistration.k8s.io", "v1", 16700, 15),
    ("scheduling.k8s.io", "v1", 16600, 15),
    ("coordination.k8s.io", "v1", 16500, 15),
    ("node.k8s.io", "v1", 16300, 15),
    ("discovery.k8s.io", "v1", 16200, 15),
    ("flowcontrol.apiserver.k8s.io", "v1", 16100, 21),
    ("internal.apiserver.k8s.io", "v1alpha1", 16000, 9),
    ("resource.k8s.io", "v1", 15900, 21),
    ("resource.k8s.io", "v1beta2", 15900, 20),
    ("storagemigration.k8s.io", "v1", 15800, 15),
];

fn local(group: &str, version: &str, priority: (i64, i64), automanaged: &str) -> Value {
    json!({
        "kind": "APIService",
        "apiVersion": "apiregistration.k8s.io/v1",
        "metadata": { "name": format!("{version}.{group}"), "labels": { AUTOMANAGED: automanaged } },
        "spec": {
            "group": group,
            "version": version,
            "groupPriorityMinimum": priority.0,
            "versionPriority": priority.1,
        },
    })
}

/// The condition of an APIService that is served here.
pub fn local_condition() -> Value {
    super::availability::condition("True", "Local", "Local APIServices are always available")
}

/// The APIServices of the built-in groups among `resources`. `apiregistration.k8s.io` itself has none.
pub fn builtin<'a>(resources: impl Iterator<Item = &'a Resource>) -> Vec<Value> {
    let mut served: Vec<(&str, &str)> = resources.map(|r| (r.group.as_str(), r.version.as_str())).collect();
    served.sort_unstable();
    served.dedup();
    let rows = PRIORITIES.iter().filter(|(group, version, ..)| served.contains(&(*group, *version)));
    rows.map(|(group, version, of_group, of_version)| {
        let mut object = local(group, version, (*of_group, *of_version), "onstart");
        object["status"] = json!({ "conditions": [local_condition()] });
        object
    })
    .collect()
}

/// The APIServices that the served custom resources call for.
fn custom(table: &ResourceTable) -> Vec<Value> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for resource in table.rows().iter().map(|row| &row.resource).filter(|resource| !resource.builtin()) {
        if !wanted.contains(&(&resource.group, &resource.version)) {
            wanted.push((&resource.group, &resource.version));
        }
    }
    // The first version of a group is its preferred one.
    let versions_before = |at: usize| wanted[..at].iter().filter(|(group, _)| *group == wanted[at].0).count();
    let priority = |at: usize| (1000, 100 - i64::try_from(versions_before(at)).unwrap_or(99).min(99));
    wanted.iter().enumerate().map(|(at, (group, version))| local(group, version, priority(at), "true")).collect()
}

/// Creates, corrects and deletes the APIServices of custom resources. A hand-made one stays as it is.
pub(super) async fn register(storage: &Storage, client: &kube::Client) {
    let Ok(present) = storage.list(GROUP, "apiservices", "").await else { return };
    let wanted = custom(&storage.table());
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    for object in &wanted {
        match present.iter().find(|there| name(there) == name(object)) {
            None => logged("an APIService cannot be created", &name(object), request(client, "POST", "", object).await),
            Some(there) if there["metadata"]["labels"][AUTOMANAGED] == "true" && there["spec"] != object["spec"] => {
                let patch = json!({ "spec": object["spec"] });
                let path = format!("/{}", name(object));
                logged("an APIService cannot be updated", &name(object), request(client, "PATCH", &path, &patch).await);
            }
            Some(_) => {}
        }
    }
    let kept = |there: &Value| wanted.iter().any(|object| name(object) == name(there));
    for there in present.iter().filter(|there| there["metadata"]["labels"][AUTOMANAGED] == "true" && !kept(there)) {
        let path = format!("/{}", name(there));
        logged("an APIService cannot be deleted", &name(there), request(client, "DELETE", &path, &json!({})).await);
    }
}

/// A request about APIServices.
pub(super) async fn request(client: &kube::Client, method: &str, path: &str, body: &Value) -> ApiResult<Value> {
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = http::Request::builder()
        .method(method)
        .uri(format!("/apis/{GROUP}/v1/apiservices{path}"))
        .header(http::header::CONTENT_TYPE, media)
        .body(body.to_string().into_bytes())
        .map_err(coracle_api::ApiError::internal)?;
    client.request(request).await.map_err(coracle_api::ApiError::internal)
}

#[cfg(test)]
mod tests {
    use coracle_api::registry;

    use super::*;

    #[test]
    fn every_built_in_group_version_has_an_api_service() {
        let resources = registry::builtin();
        let objects = builtin(resources.iter().map(AsRef::as_ref));
        let mut missing: Vec<String> = resources
            .iter()
            .filter(|resource| resource.group != GROUP)
            .map(|resource| format!("{}.{}", resource.version, resource.group))
            .filter(|name| !objects.iter().any(|object| object["metadata"]["name"] == name.as_str()))
            .collect();
        missing.dedup();
        assert!(missing.is_empty(), "{missing:?}");
        let core = &objects[0];
        assert_eq!((&core["metadata"]["name"], &core["spec"]["groupPriorityMinimum"]), (&json!("v1."), &json!(18000)));
        assert_eq!(core["status"]["conditions"][0]["reason"], "Local");
    }
}
