//! What extension servers say they serve, merged into this server's discovery and OpenAPI.
//!
//! A server is asked for aggregated discovery, and where it has none for the plain list of each group version.
//! What a server said last is kept while it does not answer, and marked as stale.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::openapi;
use futures::future::join_all;
use serde_json::{Value, json};

use super::{Aggregator, Remote};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList, \
                          application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList, application/json";

/// What is known of one group version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupVersion {
    /// Its resources as aggregated discovery lists them.
    pub resources: Value,
    /// Whether the server said so just now.
    pub fresh: bool,
    /// The URL of its OpenAPI v3 document, with hash, if there is one.
    pub openapi: Option<String>,
    /// What is said of it in the server's OpenAPI v2 document.
    pub openapi_v2: Arc<Value>,
}

/// By group and version.
#[derive(Debug, Default)]
pub struct Learned(BTreeMap<(String, String), GroupVersion>);

impl Learned {
    /// Takes what was learned now; group versions that are no longer asked for are forgotten.
    pub(super) fn replace(&mut self, news: Vec<((String, String), Option<GroupVersion>)>) {
        let mut old = std::mem::take(&mut self.0);
        for (key, learned) in news {
            let old = old.remove(&key).unwrap_or_default();
            let before = old.openapi_v2.clone();
            let mut learned = learned.unwrap_or(GroupVersion { fresh: false, ..old });
            // What is equal is the same, so that what was made of it is known to be good.
            if learned.openapi_v2 == before {
                learned.openapi_v2 = before;
            }
            self.0.insert(key, learned);
        }
    }
}

/// Asks every server that is available.
pub(super) async fn learn(
    aggregator: &Aggregator,
    remotes: &[Remote],
) -> Vec<((String, String), Option<GroupVersion>)> {
    join_all(remotes.iter().map(|remote| async {
        let known = aggregator.known(remote);
        let learned = match remote.available {
            // What runs in this process says the same until it ends.
            true if known.fresh && aggregator.is_in_process(remote).await => Some(known),
            true => of(aggregator, remote).await,
            false => None,
        };
        ((remote.group.clone(), remote.version.clone()), learned)
    }))
    .await
}

async fn of(aggregator: &Aggregator, remote: &Remote) -> Option<GroupVersion> {
    let resources = match document(aggregator, remote, "/apis", AGGREGATED).await {
        Some(list) if list["kind"] == "APIGroupDiscoveryList" => in_aggregated(&list, remote),
        _ => None,
    };
    let resources = match resources {
        Some(resources) => resources,
        None => {
            let path = format!("/apis/{}/{}", remote.group, remote.version);
            from_plain(&document(aggregator, remote, &path, "application/json").await?, remote)
        }
    };
    let read = async |path| document(aggregator, remote, path, "application/json").await.unwrap_or_default();
    let (index, v2) = (read("/openapi/v3").await, read("/openapi/v2").await);
    let path = format!("apis/{}/{}", remote.group, remote.version);
    let openapi = index["paths"][&path]["serverRelativeURL"].as_str().map(str::to_owned);
    let openapi_v2 = Arc::new(openapi::below(v2, &format!("/{path}")));
    Some(GroupVersion { resources, fresh: true, openapi, openapi_v2 })
}

async fn document(aggregator: &Aggregator, remote: &Remote, path: &str, accept: &str) -> Option<Value> {
    match aggregator.read(remote, path, accept).await {
        Ok((200, _, body)) => serde_json::from_slice(&body).ok(),
        _ => None,
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn in_aggregated(list: &Value, remote: &Remote) -> Option<Value> {
    let group = items(&list["items"]).find(|group| group["metadata"]["name"] == remote.group.as_str())?;
    let version = items(&group["versions"]).find(|version| version["version"] == remote.version.as_str())?;
    Some(version["resources"].clone())
}

/// A plain `APIResourceList` as aggregated discovery has it.
fn from_plain(list: &Value, remote: &Remote) -> Value {
    let kind = |resource: &Value| {
        let or = |field: &str, own: &str| match resource[field].as_str() {
            None | Some("") => own.to_owned(),
            Some(text) => text.to_owned(),
        };
        json!({ "group": or("group", &remote.group), "version": or("version", &remote.version), "kind": resource["kind"] })
    };
    let mut out: Vec<Value> = Vec::new();
    for resource in items(&list["resources"]) {
        let name = resource["name"].as_str().unwrap_or_default();
        let Some((parent, subresource)) = name.split_once('/') else {
            let mut entry = json!({
                "resource": name,
                "responseKind": kind(resource),
                "scope": if resource["namespaced"] == true { "Namespaced" } else { "Cluster" },
                "singularResource": resource["singularName"],
                "verbs": resource["verbs"],
            });
            for field in ["shortNames", "categories"] {
                if resource[field].is_array() {
                    entry[field] = resource[field].clone();
                }
            }
            out.push(entry);
            continue;
        };
        let sub = json!({ "subresource": subresource, "responseKind": kind(resource), "verbs": resource["verbs"] });
        if let Some(entry) = out.iter_mut().find(|entry| entry["resource"] == parent) {
            match entry["subresources"].as_array_mut() {
                Some(list) => list.push(sub),
                None => entry["subresources"] = json!([sub]),
            }
        }
    }
    out.into()
}

impl Aggregator {
    fn known(&self, remote: &Remote) -> GroupVersion {
        let learned = self.learned.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        learned.0.get(&(remote.group.clone(), remote.version.clone())).cloned().unwrap_or_default()
    }

    /// The parts of extension servers' OpenAPI v2 documents that are served here.
    pub fn openapi_v2(&self) -> Vec<Arc<Value>> {
        let learned = self.learned.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        learned.0.values().map(|known| known.openapi_v2.clone()).filter(|document| !document.is_null()).collect()
    }

    /// Adds what extension servers serve to a discovery document of this server's, or makes the document of a group
    /// that only they have. `path` is `/apis`, `/apis/<group>` or `/openapi/v3`.
    pub fn merge(&self, path: &str, document: Option<Value>) -> Option<Value> {
        let remotes = self.remotes();
        let known = |remote: &Remote| self.known(remote);
        if let Some(group) = path.strip_prefix("/apis/").map(|rest| rest.trim_end_matches('/')) {
            let mut group_document =
                document.unwrap_or_else(|| json!({ "kind": "APIGroup", "apiVersion": "v1", "name": group }));
            remotes
                .iter()
                .filter(|remote| remote.group == group)
                .for_each(|remote| add_version(&mut group_document, remote));
            return Some(group_document).filter(|document| document["versions"].is_array());
        }
        let mut document = document?;
        for remote in remotes.iter() {
            if path.starts_with("/openapi") {
                if let Some(url) = known(remote).openapi {
                    document["paths"][format!("apis/{}/{}", remote.group, remote.version)] =
                        json!({ "serverRelativeURL": url });
                }
            } else if let Some(groups) = document["groups"].as_array_mut() {
                let at = groups.iter().position(|group| group["name"] == remote.group.as_str()).unwrap_or_else(|| {
                    groups.push(json!({ "name": remote.group }));
                    groups.len() - 1
                });
                add_version(&mut groups[at], remote);
            } else if let Some(groups) = document["items"].as_array_mut() {
                let at = groups
                    .iter()
                    .position(|group| group["metadata"]["name"] == remote.group.as_str())
                    .unwrap_or_else(|| {
                        let meta = json!({ "name": remote.group, "creationTimestamp": null });
                        groups.push(json!({ "metadata": meta, "versions": [] }));
                        groups.len() - 1
                    });
                let known = known(remote);
                let resources = if known.resources.is_array() { known.resources } else { json!([]) };
                let freshness = if known.fresh { "Current" } else { "Stale" };
                let entry = json!({ "version": remote.version, "resources": resources, "freshness": freshness });
                if let Some(versions) = groups[at]["versions"].as_array_mut() {
                    versions.retain(|version| version["version"] != remote.version.as_str());
                    versions.push(entry);
                }
            }
        }
        Some(document)
    }
}

/// Adds a version to an `APIGroup`.
fn add_version(group: &mut Value, remote: &Remote) {
    let entry = json!({ "groupVersion": format!("{}/{}", remote.group, remote.version), "version": remote.version });
    match group["versions"].as_array_mut() {
        Some(versions) if versions.contains(&entry) => {}
        Some(versions) => versions.push(entry),
        None => {
            group["versions"] = json!([entry]);
            group["preferredVersion"] = entry;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote() -> Remote {
        Remote {
            name: "v1.g.io".into(),
            group: "g.io".into(),
            version: "v1".into(),
            priority: (1, 1),
            namespace: "n".into(),
            service: "s".into(),
            port: 443,
            available: true,
            tls: Err(String::new()),
        }
    }

    #[test]
    fn a_plain_list_becomes_an_aggregated_one() {
        let list = json!({ "resources": [
            { "name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"], "shortNames": ["fl"] },
            { "name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["update"] },
        ] });
        let kind = json!({ "group": "g.io", "version": "v1", "kind": "Flunder" });
        let expected = json!([{
            "resource": "flunders", "responseKind": kind, "scope": "Namespaced", "singularResource": "flunder",
            "verbs": ["get"], "shortNames": ["fl"],
            "subresources": [{ "subresource": "status", "responseKind": kind, "verbs": ["update"] }],
        }]);
        assert_eq!(from_plain(&list, &remote()), expected);
    }

    #[test]
    fn what_was_learned_stays_as_stale_until_nobody_asks() {
        let key = ("g.io".to_owned(), "v1".to_owned());
        let fresh = GroupVersion { resources: json!([1]), fresh: true, openapi: None, openapi_v2: Arc::default() };
        let mut learned = Learned::default();
        learned.replace(vec![(key.clone(), Some(fresh.clone()))]);
        assert_eq!(learned.0[&key], fresh);
        learned.replace(vec![(key.clone(), None)]);
        assert_eq!(learned.0[&key], GroupVersion { fresh: false, ..fresh });
        learned.replace(Vec::new());
        assert!(learned.0.is_empty());
    }
}
