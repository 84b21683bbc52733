//! Whether an APIService is available: its Service, its endpoints, and the server's own answer.

use coracle_api::ApiResult;
use futures::future::join_all;
use serde_json::{Value, json};

use super::registration::{local_condition, request};
use super::{Aggregator, GROUP, Remote, logged};
use crate::webhook::resolve;

/// An `Available` condition as of now.
pub fn condition(status: &str, reason: &str, message: &str) -> Value {
    json!({
        "type": "Available",
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": coracle_clock::now_seconds().to_string(),
    })
}

/// What `conditions` become with a new `Available`: the time of a status that stays is kept. `None` if nothing changes.
fn merged(conditions: &Value, mut new: Value) -> Option<Value> {
    let mut list = conditions.as_array().cloned().unwrap_or_default();
    match list.iter_mut().find(|condition| condition["type"] == new["type"]) {
        Some(old) => {
            if old["status"] == new["status"] {
                new["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            if *old == new {
                return None;
            }
            *old = new;
        }
        None => list.push(new),
    }
    Some(list.into())
}

/// Brings the conditions of all APIServices up to date. Answers whether all are available.
pub(super) async fn check(aggregator: &Aggregator, client: &kube::Client) -> bool {
    let Ok(objects) = aggregator.storage.list(GROUP, "apiservices", "").await else { return false };
    let remotes = aggregator.remotes();
    let conditions = join_all(objects.iter().map(|object| async {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        match remotes.iter().find(|remote| remote.name == name) {
            None => local_condition(),
            Some(remote) => of(aggregator, remote).await.unwrap_or_else(|error| {
                let why =
                    format!("service/{} in {:?} cannot be checked due to: {error}", remote.service, remote.namespace);
                condition("Unknown", "ServiceAccessError", &why)
            }),
        }
    }))
    .await;
    let mut all = true;
    for (object, condition) in objects.iter().zip(conditions) {
        all &= condition["status"] == "True";
        let Some(conditions) = merged(&object["status"]["conditions"], condition) else { continue };
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let patch = json!({ "status": { "conditions": conditions } });
        let written = request(client, "PATCH", &format!("/{name}/status"), &patch).await;
        logged("an APIService's status cannot be written", name, written);
    }
    all
}

/// The condition of an APIService that another server serves.
async fn of(aggregator: &Aggregator, remote: &Remote) -> ApiResult<Value> {
    let storage = &aggregator.storage;
    let (namespace, name) = (&remote.namespace, &remote.service);
    let no = |reason: &str, why: String| Ok(condition("False", reason, &why));
    let Some(service) = storage.get("", "services", namespace, name).await? else {
        return no("ServiceNotFound", format!("service/{name} in {namespace:?} is not present"));
    };
    let has_endpoints = aggregator.extension(&service).is_none();
    if has_endpoints && matches!(service["spec"]["type"].as_str(), None | Some("ClusterIP")) {
        let Ok(port_name) = resolve::port_name(&service, remote.port.into()) else {
            let why = format!("service/{name} in {namespace:?} is not listening on port {}", remote.port);
            return no("ServicePortError", why);
        };
        if resolve::all(storage, &service, port_name).await?.is_empty() {
            let slices = storage.list("discovery.k8s.io", "endpointslices", namespace).await?;
            let mine = |slice: &&Value| slice["metadata"]["labels"]["kubernetes.io/service-name"] == name.as_str();
            if slices.iter().find(mine).is_none() {
                let why = format!("cannot find endpointslices for service/{name} in {namespace:?}");
                return no("EndpointsNotFound", why);
            }
            let why = format!(
                "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
            );
            return no("MissingEndpoints", why);
        }
    }
    let path = format!("/apis/{}/{}", remote.group, remote.version);
    let url = format!("https://{name}.{namespace}.svc:{}{path}", remote.port);
    let why = match aggregator.read(remote, &path, "application/json").await {
        Ok((200..300, ..)) => return Ok(condition("True", "Passed", "all checks passed")),
        Ok((code, ..)) => format!("bad status from {url}: {code}"),
        Err(why) => why,
    };
    no("FailedDiscoveryCheck", format!("failing or missing response from {url}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_condition_is_that_of_its_status() {
        let old = json!([{ "type": "Available", "status": "False", "reason": "A", "message": "", "lastTransitionTime": "t" }]);
        let same = merged(&old, condition("False", "B", "")).unwrap();
        assert_eq!((&same[0]["reason"], &same[0]["lastTransitionTime"]), (&json!("B"), &json!("t")));
        assert_ne!(merged(&old, condition("True", "Passed", "")).unwrap()[0]["lastTransitionTime"], "t");
        assert_eq!(merged(&old, condition("False", "A", "")), None);
        assert_eq!(merged(&Value::Null, condition("True", "Passed", "")).unwrap().as_array().unwrap().len(), 1);
    }
}
