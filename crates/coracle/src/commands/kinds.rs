//! What a kind's name means: by discovery, as kubectl has it.

use anyhow::bail;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource;
use kube::Client;

/// A kind that is served.
#[derive(Clone, Debug)]
pub struct Kind {
    /// Its group; empty for the core's.
    pub group: String,
    /// The path of its group and version: `/api/v1`, `/apis/apps/v1`.
    pub path: String,
    /// What discovery says of it.
    pub resource: APIResource,
}

impl Kind {
    /// `pods` or `deployments.apps`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.resource.name.clone()
        } else {
            format!("{}.{}", self.resource.name, self.group)
        }
    }

    /// The path of the objects of a namespace, or of all.
    pub fn collection(&self, namespace: Option<&str>) -> String {
        let Kind { path, resource, .. } = self;
        match namespace.filter(|_| resource.namespaced) {
            Some(namespace) => format!("{path}/namespaces/{namespace}/{}", resource.name),
            None => format!("{path}/{}", resource.name),
        }
    }

    /// The key of an object in the store.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        let builtin = coracle_api::registry::builtin();
        let known = builtin.iter().find(|known| known.group == self.group && known.plural == self.resource.name);
        let prefix = known
            .map_or_else(|| format!("/registry/{}/{}/", self.group, self.resource.name), |known| known.key_prefix());
        if self.resource.namespaced { format!("{prefix}{namespace}/{name}") } else { format!("{prefix}{name}") }
    }

    fn is_called(&self, name: &str) -> bool {
        let APIResource { name: plural, singular_name, kind, short_names, .. } = &self.resource;
        let short = short_names.iter().flatten().any(|short| short.eq_ignore_ascii_case(name));
        short || [plural, singular_name, kind].iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

/// The kind of a name: `deployments`, `deployment`, `deploy`, `deployments.apps`, `deployments.v1.apps`.
///
/// # Errors
/// If nothing is called so.
pub async fn resolve(client: &Client, name: &str) -> anyhow::Result<Kind> {
    let (short, group) = name.split_once('.').unwrap_or((name, ""));
    let mut places = vec![(String::new(), "/api/v1".to_owned(), client.list_core_api_resources("v1").await?)];
    for found in client.list_api_groups().await?.groups {
        let versions = found.preferred_version.clone().into_iter();
        let named = found.versions.iter().filter(|version| group == format!("{}.{}", version.version, found.name));
        for version in named.cloned().chain(versions) {
            let resources = client.list_api_group_resources(&version.group_version).await?;
            let group = format!("{}.{}", version.version, found.name);
            places.push((group, format!("/apis/{}", version.group_version), resources));
        }
    }
    for (versioned, path, resources) in places {
        let own = versioned.split_once('.').map_or("", |(_, group)| group);
        if !group.is_empty() && group != own && group != versioned {
            continue;
        }
        let kinds = resources.resources.into_iter().filter(|resource| !resource.name.contains('/'));
        let mut kinds = kinds.map(|resource| Kind { group: own.into(), path: path.clone(), resource });
        if let Some(kind) = kinds.find(|kind| kind.is_called(short)) {
            return Ok(kind);
        }
    }
    bail!("the server doesn't have a resource type {name:?}")
}
