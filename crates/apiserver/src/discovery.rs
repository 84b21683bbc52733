//! Discovery: which groups, versions and resources are served.
//!
//! Two forms of the same: aggregated (`APIGroupDiscoveryList`, all in two answers, for who asks for it
//! in `Accept`) and the older documents, one per group and version.

use std::collections::BTreeSet;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use coracle_api::Resource;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::body::Body;
use crate::render;
use crate::storage::{ResourceTable, Row};

/// Answers a discovery path; `None` if it is none, or names a group or version that is not served.
pub fn answer(table: &ResourceTable, path: &str, headers: &HeaderMap, advertise: &str) -> Option<Response<Body>> {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let document = match segments.as_slice() {
        [root @ ("api" | "apis")] => {
            let core = *root == "api";
            if let Some(version) = aggregated_version(headers) {
                return Some(aggregated(table, core, version, headers));
            }
            if core { api_versions(table, advertise) } else { group_list(table) }
        }
        ["api", version] => resource_list(table, "", version)?,
        ["apis", group] => {
            let versions = versions(table, group);
            if versions.is_empty() {
                return None;
            }
            let mut document = group_document(group, &versions);
            document["kind"] = "APIGroup".into();
            document["apiVersion"] = "v1".into();
            document
        }
        ["apis", group, version] => resource_list(table, group, version)?,
        _ => return None,
    };
    Some(render::json_bytes(200, document.to_string()))
}

/// The paths of all documents.
pub fn paths(table: &ResourceTable) -> BTreeSet<String> {
    let mut paths = BTreeSet::from(["/api".to_owned(), "/apis".to_owned()]);
    for row in table.rows() {
        let Resource { group, version, .. } = &*row.resource;
        if group.is_empty() {
            paths.insert(format!("/api/{version}"));
        } else {
            paths.extend([format!("/apis/{group}"), format!("/apis/{group}/{version}")]);
        }
    }
    paths
}

/// The version of the aggregated form that the client prefers, if it asks for one before plain JSON.
fn aggregated_version(headers: &HeaderMap) -> Option<&'static str> {
    let accept = headers.get(ACCEPT)?.to_str().ok()?;
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next()?;
        let parameters: Vec<&str> = parts.collect();
        if parameters.contains(&"as=APIGroupDiscoveryList") && parameters.contains(&"g=apidiscovery.k8s.io") {
            for version in ["v2", "v2beta1"] {
                if parameters.contains(&format!("v={version}").as_str()) {
                    return Some(version);
                }
            }
        } else if matches!(media, "application/json" | "*/*" | "application/*") {
            return None;
        }
    }
    None
}

/// The groups but core, in order.
fn groups(table: &ResourceTable) -> Vec<&str> {
    let mut groups: Vec<&str> = Vec::new();
    for row in table.rows() {
        let group = row.resource.group.as_str();
        if !group.is_empty() && !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}

/// A group's versions, the preferred one first.
fn versions<'a>(table: &'a ResourceTable, group: &str) -> Vec<&'a str> {
    let mut versions: Vec<&str> = Vec::new();
    for row in table.rows().iter().filter(|row| row.resource.group == group) {
        if !versions.contains(&row.resource.version.as_str()) {
            versions.push(&row.resource.version);
        }
    }
    versions
}

/// The rows of a group and version by name.
fn rows<'a>(table: &'a ResourceTable, group: &str, version: &str) -> Vec<&'a Row> {
    let here = |row: &&Row| row.resource.group == group && row.resource.version == version;
    let mut list: Vec<&Row> = table.rows().iter().filter(here).collect();
    list.sort_by(|a, b| a.resource.plural.cmp(&b.resource.plural));
    list
}

fn aggregated(table: &ResourceTable, core: bool, version: &str, headers: &HeaderMap) -> Response<Body> {
    let groups = if core { vec![""] } else { groups(table) };
    let items: Vec<Value> = groups
        .into_iter()
        .map(|group| {
            let meta = if group.is_empty() { json!({}) } else { json!({ "name": group }) };
            let versions: Vec<Value> = versions(table, group)
                .into_iter()
                .map(|version| {
                    let resources: Vec<Value> =
                        rows(table, group, version).into_iter().map(|row| aggregated_resource(&row.resource)).collect();
                    json!({ "version": version, "resources": resources, "freshness": "Current" })
                })
                .collect();
            json!({ "metadata": meta, "versions": versions })
        })
        .collect();
    let body = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
    .to_string();
    let etag = format!("\"{}\"", hex(&body));
    let known = headers.get(IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == etag.as_bytes());
    let mut response = render::json_bytes(200, body);
    if known {
        *response.body_mut() = Body::empty();
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let media = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public"));
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    for (name, value) in [(CONTENT_TYPE, media), (ETAG, etag)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn aggregated_resource(resource: &Resource) -> Value {
    // What is of the resource's own group and version goes without saying, except for custom resources.
    let own = if resource.builtin() { ("", "") } else { (resource.group.as_str(), resource.version.as_str()) };
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": { "group": own.0, "version": own.1, "kind": resource.kind },
        "scope": if resource.namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    for (field, list) in [("shortNames", &resource.short_names), ("categories", &resource.categories)] {
        if !list.is_empty() {
            entry[field] = json!(list);
        }
    }
    let mut subresources: Vec<_> = resource.subresources.iter().collect();
    subresources.sort_by(|a, b| a.name.cmp(&b.name));
    if !subresources.is_empty() {
        let subresources = subresources.into_iter().map(|subresource| {
            let (group, version, kind) = &subresource.kind;
            let (group, version) = if group.is_empty() { own } else { (group.as_str(), version.as_str()) };
            let kind = json!({ "group": group, "version": version, "kind": kind });
            json!({ "subresource": subresource.name, "responseKind": kind, "verbs": subresource.verbs })
        });
        entry["subresources"] = subresources.collect();
    }
    entry
}

fn api_versions(table: &ResourceTable, advertise: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": versions(table, ""),
        "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": advertise }],
    })
}

fn group_list(table: &ResourceTable) -> Value {
    let list: Vec<Value> =
        groups(table).into_iter().map(|group| group_document(group, &versions(table, group))).collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": list })
}

fn group_document(group: &str, versions: &[&str]) -> Value {
    let list: Vec<Value> = versions
        .iter()
        .map(|version| json!({ "groupVersion": format!("{group}/{version}"), "version": version }))
        .collect();
    json!({ "name": group, "preferredVersion": list.first(), "versions": list })
}

fn resource_list(table: &ResourceTable, group: &str, version: &str) -> Option<Value> {
    let mut entries = Vec::new();
    for row in rows(table, group, version) {
        let resource = &row.resource;
        let mut entry = json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced(),
            "kind": resource.kind,
            "verbs": resource.verbs,
        });
        for (field, list) in [("shortNames", &resource.short_names), ("categories", &resource.categories)] {
            if !list.is_empty() {
                entry[field] = json!(list);
            }
        }
        if resource.stored {
            entry["storageVersionHash"] = storage_version_hash(row.stored_as.as_ref().unwrap_or(resource)).into();
        }
        entries.push(entry);
        let mut subresources: Vec<_> = resource.subresources.iter().collect();
        subresources.sort_by(|a, b| a.name.cmp(&b.name));
        for subresource in subresources {
            let (group, version, kind) = &subresource.kind;
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, subresource.name),
                "singularName": "",
                "namespaced": resource.namespaced(),
                "kind": kind,
                "verbs": subresource.verbs,
            });
            for (field, value) in [("group", group), ("version", version)] {
                if !group.is_empty() {
                    entry[field] = value.as_str().into();
                }
            }
            entries.push(entry);
        }
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    (!entries.is_empty()).then(|| {
        let kind = "APIResourceList";
        json!({ "kind": kind, "apiVersion": "v1", "groupVersion": group_version, "resources": entries })
    })
}

/// A hash of the version that objects are stored in, which tells migrations whether there is something to do.
fn storage_version_hash(resource: &Resource) -> String {
    let version = match resource.kind.as_str() {
        // Upstream still stores these as they were first served.
        "CustomResourceDefinition" | "MutatingAdmissionPolicy" | "MutatingAdmissionPolicyBinding" => "v1beta1",
        _ => &resource.version,
    };
    let text = format!("{}/{version}/{}", resource.group, resource.kind);
    BASE64_STANDARD.encode(&Sha256::digest(text)[..8])
}

fn hex(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02X}")).collect()
}

#[cfg(test)]
mod tests {
    use coracle_api::registry;

    use super::*;

    #[test]
    fn kubectls_accept_header_asks_for_the_aggregated_form() {
        let of = |accept: &str| aggregated_version(&HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]));
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(of(kubectl), Some("v2"));
        assert_eq!(of("application/json, */*"), None);
    }

    #[test]
    fn the_storage_version_hash_is_upstreams() {
        let hash = |group, plural| storage_version_hash(&registry::lookup(group, "v1", plural).unwrap());
        assert_eq!(hash("", "configmaps"), "qFsyl6wFWjQ=");
        assert_eq!(hash("", "endpoints"), "fWeeMqaN/OA=");
    }
}
