//! The table of served resources, each with its cache.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::{Resource, custom};
use coracle_cel::Validator;
use coracle_store::KeyValue;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::cache::{Entry, ResourceCache};
use super::codec;

/// A served resource and its objects.
#[derive(Clone, Debug)]
pub struct Row {
    /// The kind's row of the registry.
    pub resource: Arc<Resource>,
    /// Its objects, in whatever version they lie in the store. Versions of one resource share one cache.
    pub cache: Arc<ResourceCache>,
    /// The row whose version is stored, if this is not it.
    pub stored_as: Option<Arc<Resource>>,
    /// The rules of a custom resource's schema (`x-kubernetes-validations`), compiled.
    pub rules: Option<Arc<Validator>>,
    /// Cancelled when the row is replaced by another: watches end, and begin anew on that.
    pub ended: CancellationToken,
}

/// The rows of one CustomResourceDefinition.
#[derive(Clone, Debug)]
struct Definition {
    /// What the rows were made of.
    made_of: [u8; 32],
    rows: Vec<Row>,
    cache: Arc<ResourceCache>,
    ended: CancellationToken,
}

/// All served resources. Immutable: a change of the set makes a new table.
#[derive(Debug, Default)]
pub struct ResourceTable {
    /// In the order in which discovery lists them.
    rows: Vec<Row>,
    caches: Vec<Arc<ResourceCache>>,
    /// By the definition's name. Their rows and caches are among the above, after the built-in ones.
    definitions: BTreeMap<String, Definition>,
    builtin: usize,
}

/// An object's key below its resource's prefix: `default/web-0`, or `node-1` without namespace.
pub fn suffix(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

impl Row {
    /// Whether an object is in this row's version, so that it can be shown as it is.
    pub fn shows(&self, json: &[u8]) -> bool {
        self.resource.builtin() && self.stored_as.is_none()
            || codec::api_version(json).is_some_and(|version| version == self.resource.api_version())
    }

    /// The key in the store of an object.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        let namespace = if self.resource.namespaced() { namespace } else { "" };
        format!("{}{}", self.cache.prefix(), suffix(namespace, name))
    }

    /// An object as it was in the store at some revision.
    pub fn entry(&self, kv: &KeyValue) -> Entry {
        let key = String::from_utf8_lossy(&kv.key);
        self.cache.entry(key.strip_prefix(self.cache.prefix()).unwrap_or_default(), &kv.value, kv.mod_revision)
    }

    /// The object with that name, from the cache.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        let namespace = if self.resource.namespaced() { namespace } else { "" };
        self.cache.get(&suffix(namespace, name))
    }
}

impl ResourceTable {
    /// A table with empty caches.
    pub fn new(resources: Vec<Arc<Resource>>) -> Self {
        let mut table = ResourceTable { rows: Vec::with_capacity(resources.len()), ..ResourceTable::default() };
        for resource in resources {
            let prefix = resource.key_prefix();
            let shared = table.caches.iter().find(|cache| resource.stored && cache.prefix() == prefix);
            let first = |row: &&Row| shared.is_some_and(|cache| Arc::ptr_eq(cache, &row.cache));
            let stored_as = table.rows.iter().find(first).map(|row| row.resource.clone());
            let cache = shared.cloned().unwrap_or_else(|| {
                let cache = Arc::new(ResourceCache::new(&resource));
                if resource.stored {
                    table.caches.push(cache.clone());
                }
                cache
            });
            table.rows.push(Row { resource, cache, stored_as, rules: None, ended: CancellationToken::new() });
        }
        table.builtin = table.rows.len();
        table
    }

    /// The table after changes of definitions (none: deleted), and the caches that are new in it and still empty. Rows
    /// whose definition says what it said stay as they are; others get a new cache, since their objects may look
    /// different now.
    pub fn redefined(&self, changes: Vec<(String, Option<Value>)>) -> (Self, Vec<Arc<ResourceCache>>) {
        let mut definitions = self.definitions.clone();
        let mut fresh = Vec::new();
        for (name, definition) in changes {
            let served = definition.as_ref().and_then(custom::served);
            let (Some(definition), Some(served)) = (definition, served) else {
                definitions.remove(&name);
                continue;
            };
            let status = &definition["status"];
            let made_of = json!([definition["spec"], status["acceptedNames"]]).to_string();
            let made_of: [u8; 32] = Sha256::digest(made_of).into();
            let known = definitions.get(&name).filter(|known| known.made_of == made_of);
            let (cache, ended) = match known {
                Some(known) => (known.cache.clone(), known.ended.clone()),
                None => {
                    let mut versions = served.versions.clone();
                    versions.sort_by_key(|version| !Arc::ptr_eq(version, &served.storage));
                    let cache = Arc::new(ResourceCache::of_versions(&served.storage, versions));
                    fresh.push(cache.clone());
                    (cache, CancellationToken::new())
                }
            };
            let row = |resource: Arc<Resource>| Row {
                rules: resource.custom.as_ref().and_then(|kind| Validator::new(&kind.document, true)).map(Arc::new),
                stored_as: (!Arc::ptr_eq(&resource, &served.storage)).then(|| served.storage.clone()),
                resource,
                cache: cache.clone(),
                ended: ended.clone(),
            };
            let builtin = |row: &Row| {
                self.rows[..self.builtin].iter().any(|r| r.resource.qualified() == row.resource.qualified())
            };
            let rows = served.rows.iter().cloned().map(row).filter(|row| !builtin(row)).collect();
            definitions.insert(name, Definition { made_of, rows, cache, ended });
        }
        let own = self.definitions.values().map(|definition| &definition.cache);
        let own: Vec<_> = own.collect();
        let mut rows: Vec<Row> = definitions.values().flat_map(|definition| definition.rows.clone()).collect();
        rows.sort_by_cached_key(|row| {
            let resource = &row.resource;
            (resource.group.clone(), custom::rows::version_order(&resource.version), resource.plural.clone())
        });
        let mut table = ResourceTable {
            rows: self.rows[..self.builtin].to_vec(),
            caches: self
                .caches
                .iter()
                .filter(|cache| !own.iter().any(|own| Arc::ptr_eq(own, cache)))
                .cloned()
                .collect(),
            builtin: self.builtin,
            ..ResourceTable::default()
        };
        table.rows.append(&mut rows);
        table.caches.extend(definitions.values().map(|definition| definition.cache.clone()));
        table.definitions = definitions;
        (table, fresh)
    }

    /// Ends the watches of rows that `next` does not have any more.
    pub fn retire(&self, next: &ResourceTable) {
        for (name, definition) in &self.definitions {
            let kept = next.definitions.get(name).is_some_and(|kept| Arc::ptr_eq(&kept.cache, &definition.cache));
            if !kept {
                definition.ended.cancel();
            }
        }
    }

    /// The names of the definitions that are served.
    pub fn definitions(&self) -> impl Iterator<Item = &String> {
        self.definitions.keys()
    }

    /// The cache of a definition's objects, by the definition's name.
    pub fn cache_of_definition(&self, name: &str) -> Option<&Arc<ResourceCache>> {
        self.definitions.get(name).map(|definition| &definition.cache)
    }

    /// All rows, in discovery's order.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The row of a group, version and plural name.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.resource.plural == plural && row.resource.version == version && row.resource.group == group)
    }

    /// The row of a group and plural name, whatever its version.
    pub fn find_any(&self, group: &str, plural: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.resource.plural == plural && row.resource.group == group)
    }

    /// Every cache of stored objects, once.
    pub fn caches(&self) -> impl Iterator<Item = &Arc<ResourceCache>> {
        self.caches.iter()
    }

    /// The cache whose prefix `key` begins with.
    pub fn cache_of(&self, key: &str) -> Option<&Arc<ResourceCache>> {
        self.caches.iter().find(|cache| key.starts_with(cache.prefix()))
    }
}
