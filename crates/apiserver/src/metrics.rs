//! `/metrics`: what the server counts, as Prometheus text. Names are upstream's.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use crate::request_info::RequestInfo;
use crate::storage::Storage;

/// Verb, group, version, resource, subresource, code.
type Key = (String, String, String, String, String, u16);

/// Counts of answered requests.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<BTreeMap<Key, u64>>);

impl Metrics {
    /// Counts one answered request.
    pub fn count(&self, info: &RequestInfo, code: u16) {
        let key = (
            info.verb.to_uppercase(),
            info.group.clone(),
            info.version.clone(),
            info.resource.clone(),
            info.subresource.clone(),
            code,
        );
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += 1;
    }

    /// All of it as text.
    pub fn render(&self, storage: &Storage) -> String {
        let mut out = String::from(
            "# HELP apiserver_request_total Counter of apiserver requests broken out for each verb, group, version, \
             resource, subresource and HTTP response code.\n# TYPE apiserver_request_total counter\n",
        );
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for ((verb, group, version, resource, subresource, code), count) in counts.iter() {
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "apiserver_request_total{{code=\"{code}\",group={group:?},resource={resource:?},\
                 subresource={subresource:?},verb={verb:?},version={version:?}}} {count}"
            );
        }
        out.push_str("# HELP apiserver_storage_objects Number of stored objects by kind.\n");
        out.push_str("# TYPE apiserver_storage_objects gauge\n");
        for row in storage.table().rows().iter().filter(|row| row.resource.stored && row.stored_as.is_none()) {
            let _ = writeln!(
                out,
                "apiserver_storage_objects{{resource={:?}}} {}",
                row.resource.qualified(),
                row.cache.len()
            );
        }
        out
    }
}
