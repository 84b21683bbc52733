//! What the API serves, for controllers that deal with objects of every kind.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource;
use kube::core::ApiResource;
use kube::{Api, Client, core::DynamicObject, core::PartialObjectMeta};

use crate::error::{IgnoreNotFound, Result};

/// One resource in its preferred version.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Served {
    pub(crate) resource: ApiResource,
    pub(crate) namespaced: bool,
    pub(crate) verbs: Vec<String>,
}

impl Served {
    /// `pods.`, `deployments.apps`: as upstream prints a group-resource.
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.resource.plural, self.resource.group)
    }

    pub(crate) fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|can| can == verb)
    }

    /// The same resource in that version of its group; none if the group is not served in it, or has no such kind there.
    pub(crate) async fn in_version(self, client: &Client, api_version: &str) -> Result<Option<Served>> {
        if self.resource.api_version == api_version {
            return Ok(Some(self));
        }
        let ApiResource { group, kind, .. } = &self.resource;
        let version = api_version.rsplit_once('/').map_or(api_version, |(_, version)| version);
        let list = match group.as_str() {
            "" => client.list_core_api_resources(version).await,
            _ => client.list_api_group_resources(api_version).await,
        };
        let resources = list.ignore_not_found()?.map(|list| list.resources).unwrap_or_default();
        let mut entries = resources.into_iter().filter_map(|resource| entry(group, version, resource));
        Ok(entries.find(|served| served.resource.kind == *kind))
    }

    /// The metadata of its objects, in all namespaces or one.
    pub(crate) fn metadata(&self, client: &Client, namespace: Option<&str>) -> Api<PartialObjectMeta<DynamicObject>> {
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &self.resource),
            None => Api::all_with(client.clone(), &self.resource),
        }
    }

    /// Its objects themselves.
    pub(crate) fn objects(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        if self.namespaced {
            Api::namespaced_with(client.clone(), namespace, &self.resource)
        } else {
            Api::all_with(client.clone(), &self.resource)
        }
    }
}

/// All resources, each in the version that its group prefers of those that have it, in the order the server lists them,
/// by two requests. A group version that cannot be asked (an aggregated server that is down) is told by its error; the
/// others are returned all the same.
pub(crate) async fn served(client: &Client) -> Result<(Vec<Served>, Vec<String>)> {
    let groups = [client.list_core_api_versions_aggregated().await?, client.list_api_groups_aggregated().await?];
    let (mut all, mut failures) = (Vec::new(), Vec::new());
    for group in groups.into_iter().flat_map(|list| list.items) {
        let name = group.metadata.and_then(|meta| meta.name).unwrap_or_default();
        let mut known = BTreeSet::new();
        for listed in group.versions {
            let version = listed.version.unwrap_or_default();
            if listed.freshness.as_deref() == Some("Stale") {
                let api_version = api_version(&name, &version);
                failures.push(format!("{api_version}: stale GroupVersion discovery: {api_version}"));
                continue;
            }
            for resource in listed.resources {
                let plural = resource.resource.unwrap_or_default();
                if !known.insert(plural.clone()) {
                    continue;
                }
                let kind = resource.response_kind.and_then(|kind| kind.kind).unwrap_or_default();
                let namespaced = resource.scope.as_deref() == Some("Namespaced");
                all.push(Served { resource: named(&name, &version, kind, plural), namespaced, verbs: resource.verbs });
            }
        }
    }
    Ok((all, failures))
}

/// What a kind's resource is called, in the version that its group prefers.
pub(crate) async fn of_kind(client: &Client, group: &str, kind: &str) -> Result<Option<ApiResource>> {
    let (version, list) = if group.is_empty() {
        ("v1".to_owned(), client.list_core_api_resources("v1").await?)
    } else {
        let groups = client.list_api_groups().await?.groups;
        let Some(known) = groups.into_iter().find(|known| known.name == group) else { return Ok(None) };
        let Some(preferred) = known.preferred_version.or_else(|| known.versions.into_iter().next()) else {
            return Ok(None);
        };
        (preferred.version, client.list_api_group_resources(&preferred.group_version).await?)
    };
    let mut entries = list.resources.into_iter().filter_map(|resource| entry(group, &version, resource));
    Ok(entries.find(|served| served.resource.kind == kind).map(|served| served.resource))
}

fn entry(group: &str, version: &str, resource: APIResource) -> Option<Served> {
    if resource.name.contains('/') {
        return None;
    }
    Some(Served {
        resource: named(group, version, resource.kind, resource.name),
        namespaced: resource.namespaced,
        verbs: resource.verbs,
    })
}

fn named(group: &str, version: &str, kind: String, plural: String) -> ApiResource {
    ApiResource { group: group.into(), version: version.into(), api_version: api_version(group, version), kind, plural }
}

fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}
