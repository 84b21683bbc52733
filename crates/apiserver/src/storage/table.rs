//! The table of served resources, each with its cache.

use std::sync::Arc;

use bytes::Bytes;
use coracle_api::Resource;
use coracle_store::KeyValue;
use serde_json::Value;

use super::cache::{Entry, ResourceCache};
use super::convert;

/// A served resource and its objects.
#[derive(Clone, Debug)]
pub struct Row {
    /// The kind's row of the registry.
    pub resource: Arc<Resource>,
    /// Its objects. Versions of one resource share one cache.
    pub cache: Arc<ResourceCache>,
    /// The row whose version is stored, if this is not it.
    pub stored_as: Option<Arc<Resource>>,
}

/// All served resources. Immutable: a change of the set makes a new table.
#[derive(Debug)]
pub struct ResourceTable {
    /// In the order in which discovery lists them.
    rows: Vec<Row>,
    caches: Vec<Arc<ResourceCache>>,
}

/// An object's key below its resource's prefix: `default/web-0`, or `node-1` without namespace.
pub fn suffix(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

impl Row {
    /// An object's JSON in this row's version. Versions of one resource share their stored objects, which
    /// are in the version of the first row.
    pub fn json(&self, entry: &Entry) -> Bytes {
        self.json_of(&entry.json)
    }

    /// The same of stored JSON.
    pub fn json_of(&self, json: &Bytes) -> Bytes {
        if self.stored_as.is_some() { convert::bytes(json, &self.resource) } else { json.clone() }
    }

    /// An object, parsed, in this row's version.
    pub fn parse(&self, entry: &Entry) -> Value {
        let mut object = entry.parse();
        if self.stored_as.is_some() {
            convert::to(&mut object, &self.resource);
        }
        object
    }

    /// The key in the store of an object.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        let namespace = if self.resource.namespaced() { namespace } else { "" };
        format!("{}{}", self.cache.prefix(), suffix(namespace, name))
    }

    /// An object as it was in the store at some revision.
    pub fn entry(&self, kv: &KeyValue) -> Entry {
        let key = String::from_utf8_lossy(&kv.key);
        Entry::new(key.strip_prefix(self.cache.prefix()).unwrap_or_default(), &kv.value, kv.mod_revision)
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
        let mut table = ResourceTable { rows: Vec::with_capacity(resources.len()), caches: Vec::new() };
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
            table.rows.push(Row { resource, cache, stored_as });
        }
        table
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
