//! OpenAPI: what the API says of itself, made when asked for.
//!
//! kubectl reads it for `explain`, and before `apply` and `create -f` to learn whether the server validates fields
//! (the PATCH operation of the kind has a `fieldValidation` parameter). [`schemas`] are made of the
//! [table of fields](crate::schema) and the [`descriptions`], [`paths`] of the registry's rows. One [`Document`]
//! describes a group and version in v3; all of them together are the one document of [`v2`].
//!
//! A document is written piece by piece, so that no more than one type or path of it is in memory at a time.

mod custom;
mod descriptions;
mod gnostic;
mod operation;
mod paths;
mod schemas;
#[cfg(test)]
mod tests;
mod v2;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::sync::Arc;

use serde_json::{Value, json};

pub use schemas::{implied_default, plain_code};
pub use v2::{Encoding, below, write_v2};

use crate::resource::Resource;
use descriptions::Descriptions;

/// The descriptions of fields, such as `core.v1.PodSpec.nodeName`.
pub fn field_descriptions<'a>(fields: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, String> {
    let texts = Descriptions::unpack();
    let find = |field: &'a str| {
        let (ty, name) = field.rsplit_once('.')?;
        Some((field, texts.of(ty).1.get(name)?.as_str()?.to_owned()))
    };
    fields.filter_map(find).collect()
}

/// What one path below `/openapi/v3/` describes.
#[derive(Clone, Debug)]
pub struct Document {
    /// The path, such as `apis/apps/v1`.
    pub path: String,
    /// The resources of that group and version; none for documents of discovery and facts.
    pub resources: Vec<Arc<Resource>>,
}

/// The documents of an API server that serves these resources.
pub fn documents(resources: &[Arc<Resource>]) -> Vec<Document> {
    let facts = [".well-known/openid-configuration", "api", "apis", "openid/v1/jwks", "version"];
    let groups = resources.iter().filter(|r| !r.group.is_empty()).map(|r| format!("apis/{}", r.group));
    let facts: BTreeSet<String> = facts.map(str::to_owned).into_iter().chain(groups).collect();
    let mut documents: Vec<Document> = facts.into_iter().map(|path| Document { path, resources: Vec::new() }).collect();
    for resource in resources {
        let path = paths::root(&resource.group, &resource.version).trim_start_matches('/').to_owned();
        match documents.iter_mut().find(|document| document.path == path) {
            Some(document) => document.resources.push(resource.clone()),
            None => documents.push(Document { path, resources: vec![resource.clone()] }),
        }
    }
    documents
}

impl Document {
    /// Writes the document as OpenAPI v3.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_v3(&self, out: &mut dyn Write) -> io::Result<()> {
        let texts = Descriptions::unpack();
        let mut wanted = BTreeSet::new();
        out.write_all(br#"{"openapi":"3.0.0","info":{"title":"Kubernetes","version":"unversioned"},"paths":{"#)?;
        let mut entries = Entries::new(out);
        self.paths(&texts, &mut |path, item| {
            references(&item, SCHEMAS, &mut wanted);
            entries.add(&path, &item);
        });
        entries.result?;
        out.write_all(br#"},"components":{"schemas":{"#)?;
        let mut entries = Entries::new(out);
        let (group, version) = self.resources.first().map_or(("", ""), |r| (r.group.as_str(), r.version.as_str()));
        let this = std::slice::from_ref(self);
        definitions(this, (group, version), wanted, &texts, false, &mut |name, schema| entries.add(name, &schema));
        entries.result?;
        write!(out, r#"}},"securitySchemes":{}}}}}"#, json!({ "BearerToken": security() }))
    }

    /// Gives every path to `add`.
    fn paths(&self, texts: &Descriptions, add: &mut dyn FnMut(String, Value)) {
        let of_meta = |kind: &str| format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}");
        let objects = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"][..];
        let path = format!("/{}/", self.path);
        if let Some(first) = self.resources.first() {
            let (group, version) = (first.group.as_str(), first.version.as_str());
            let id = format!("get{}APIResources", paths::prefix(group, version));
            let (tag, list) = (paths::tag(group, version), of_meta("APIResourceList"));
            add(path, paths::fact(&id, &tag, "get available resources", objects, Some(&list)));
            self.resources.iter().for_each(|resource| paths::paths(resource, texts, add));
            return;
        }
        let item = match self.path.as_str() {
            "api" => {
                let versions = of_meta("APIVersions");
                paths::fact("getCoreAPIVersions", "core", "get available API versions", objects, Some(&versions))
            }
            "apis" => {
                let groups = of_meta("APIGroupList");
                paths::fact("getAPIVersions", "apis", "get available API versions", objects, Some(&groups))
            }
            "version" => {
                let (text, info) =
                    ("get the version information for this server", "io.k8s.apimachinery.pkg.version.Info");
                paths::fact("getCodeVersion", "version", text, &objects[..1], Some(info))
            }
            "openid/v1/jwks" => {
                let text =
                    "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)";
                let types = &["application/jwk-set+json"];
                paths::fact("getServiceAccountIssuerOpenIDKeyset", "openid", text, types, None)
            }
            ".well-known/openid-configuration" => {
                let text = "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'";
                let id = "getServiceAccountIssuerOpenIDConfiguration";
                paths::fact(id, "WellKnown", text, &objects[..1], None)
            }
            group => {
                let group = group.trim_start_matches("apis/");
                let (id, tag) = (format!("get{}APIGroup", paths::prefix(group, "")), paths::tag(group, ""));
                paths::fact(&id, &tag, "get information of a group", objects, Some(&of_meta("APIGroup")))
            }
        };
        add(path, item);
    }
}

/// Gives to `add` every definition of `wanted`, and what these refer to, as the document of that group and version
/// has them. Custom resources are looked up in `documents`.
fn definitions(
    documents: &[Document],
    (group, version): (&str, &str),
    mut wanted: BTreeSet<String>,
    texts: &Descriptions,
    v2: bool,
    add: &mut dyn FnMut(&str, Value),
) {
    let rows = || documents.iter().flat_map(|document| &document.resources).filter(|resource| !resource.builtin());
    let mut done = BTreeSet::new();
    while let Some(name) = wanted.pop_first() {
        let custom = || rows().find_map(|resource| custom::definition(resource, &name, v2));
        if let Some(schema) = schemas::definition(&name, group, version, texts).or_else(custom) {
            references(&schema, SCHEMAS, &mut wanted);
            add(&name, schema);
        }
        done.insert(name);
        wanted.retain(|name| !done.contains(name));
    }
}

/// The entries of a JSON object, written one after the other.
struct Entries<'a> {
    out: &'a mut dyn Write,
    separator: &'static str,
    /// The first error there was.
    result: io::Result<()>,
}

impl<'a> Entries<'a> {
    fn new(out: &'a mut dyn Write) -> Self {
        Entries { out, separator: "", result: Ok(()) }
    }

    fn add(&mut self, name: &str, value: &Value) {
        if self.result.is_ok() {
            self.result = write!(self.out, "{}{}:{value}", self.separator, Value::from(name));
            self.separator = ",";
        }
    }
}

/// Where v3 has its definitions.
const SCHEMAS: &str = "#/components/schemas/";

/// Adds the names of the definitions that a value refers to.
fn references(value: &Value, place: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| match value.as_str() {
            Some(text) if name == "$ref" => {
                found.extend(text.strip_prefix(place).map(str::to_owned));
            }
            _ => references(value, place, found),
        }),
        Value::Array(items) => items.iter().for_each(|value| references(value, place, found)),
        _ => {}
    }
}

fn security() -> Value {
    let (text, name) = ("Bearer Token authentication", "authorization");
    json!({ "type": "apiKey", "description": text, "name": name, "in": "header" })
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().into_iter().flat_map(char::to_uppercase).chain(chars).collect()
}
