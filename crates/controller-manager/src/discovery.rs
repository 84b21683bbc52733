//! What the API serves, for controllers that deal with objects of every kind.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource;
use kube::core::ApiResource;
use kube::{Api, Client, core::DynamicObject, core::PartialObjectMeta};

use crate::error::Result;

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

/// All resources, without subresources, in the order the server lists them. A group that cannot be asked (an
/// aggregated server that is down) is told by its error; the others are returned all the same.
pub(crate) async fn served(client: &Client) -> Result<(Vec<Served>, Vec<String>)> {
    let mut all = Vec::new();
    let core = client.list_core_api_resources("v1").await?;
    all.extend(core.resources.into_iter().filter_map(|resource| entry("", "v1", resource)));
    let mut failures = Vec::new();
    for group in client.list_api_groups().await?.groups {
        let Some(preferred) = group.preferred_version.or_else(|| group.versions.into_iter().next()) else { continue };
        match client.list_api_group_resources(&preferred.group_version).await {
            Ok(list) => {
                let entries = list.resources.into_iter();
                all.extend(entries.filter_map(|resource| entry(&group.name, &preferred.version, resource)));
            }
            Err(error) => failures.push(format!("{}: {}", preferred.group_version, crate::Error::from(error))),
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
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(Served {
        resource: ApiResource {
            group: group.into(),
            version: version.into(),
            api_version,
            kind: resource.kind,
            plural: resource.name,
        },
        namespaced: resource.namespaced,
        verbs: resource.verbs,
    })
}
