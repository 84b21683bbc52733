//! `list` and `watch`.
//!
//! A list shows one revision. Asked for in pieces (`limit`, `continue`), every piece shows the revision of
//! the first: while nothing changed from the cache, after that from the store's history.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use coracle_api::{ApiError, ApiResult};
use coracle_store::{KeyRange, RangeRequest, Revision, StoreError};
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Call;
use crate::body::Body;
use crate::filter::Filter;
use crate::options::VersionMatch;
use crate::render;
use crate::storage::{Entry, refusal};
use crate::watch::{self, WatchRequest};

/// What `continue` tokens hold, as base64 of JSON: opaque to clients.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Continue {
    /// The token's format.
    v: String,
    /// The revision the list shows.
    rv: Revision,
    /// The key, below the resource's prefix, after which it goes on.
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

impl Continue {
    fn encode(&self) -> ApiResult<String> {
        Ok(BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).map_err(ApiError::internal)?))
    }

    fn decode(token: &str) -> ApiResult<Self> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
        bytes
            .and_then(|bytes| serde_json::from_slice::<Continue>(&bytes).ok())
            .filter(|token| token.v == TOKEN_VERSION && token.rv > 0)
            .ok_or_else(|| ApiError::bad_request("continue key is not valid"))
    }
}

/// The objects of a list before selectors, in key order, and the revision they are as of.
type Snapshot = (Vec<Arc<Entry>>, Revision);

impl Call {
    fn filter(&self) -> ApiResult<Filter> {
        Filter::of(&self.row.resource, &self.info.namespace, &self.options, self.row.cache.fields())
    }

    /// Answers with the selected objects.
    pub(super) async fn list(&mut self) -> ApiResult<Response<Body>> {
        let filter = self.filter()?;
        let (entries, meta) = self.select(&filter).await?;
        let items: Vec<_> = entries.iter().map(|entry| self.row.json(entry)).collect();
        Ok(render::list(&self.row.resource, meta, &items, self.accept, self.options.include_object))
    }

    /// The selected objects, at most `limit`, and the list's metadata.
    pub(super) async fn select(&self, filter: &Filter) -> ApiResult<(Vec<Arc<Entry>>, Value)> {
        let token = match self.options.continue_token.as_str() {
            "" => None,
            token => Some(Continue::decode(token)?),
        };
        let (entries, revision) = match &token {
            Some(_) if !matches!(self.options.resource_version.as_str(), "" | "0") => {
                return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
            }
            Some(token) => self.snapshot_at(token.rv, filter).await?,
            None => self.snapshot(filter).await?,
        };
        let start = token.as_ref().map_or("", |token| token.start.as_str());
        let limit = if self.options.limit == 0 { usize::MAX } else { self.options.limit };
        let mut rest = entries.iter().filter(|entry| start.is_empty() || &*entry.key > start);
        let selected: Vec<Arc<Entry>> =
            rest.by_ref().filter(|entry| filter.matches(entry)).take(limit).cloned().collect();
        let mut meta = json!({ "resourceVersion": revision.to_string() });
        if selected.len() == limit {
            // More may be selected: then there is a next page, and how much is left is known without selectors.
            let left = rest.filter(|entry| filter.matches(entry)).count();
            if left > 0 {
                let last = selected.last().map(|entry| entry.key.to_string()).unwrap_or_default();
                let next = Continue { v: TOKEN_VERSION.into(), rv: revision, start: last };
                meta["continue"] = next.encode()?.into();
                if !filter.selects() {
                    meta["remainingItemCount"] = left.into();
                }
            }
        }
        Ok((selected, meta))
    }

    /// The objects as `resourceVersion` and `resourceVersionMatch` ask for them.
    async fn snapshot(&self, filter: &Filter) -> ApiResult<Snapshot> {
        let storage = &self.server.config.storage;
        match (self.options.version()?, self.options.version_match) {
            (None, Some(_)) => {
                return Err(ApiError::bad_request(
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            (Some(0), Some(VersionMatch::Exact)) => {
                return Err(ApiError::bad_request(
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
            (Some(version), Some(VersionMatch::Exact)) => return self.snapshot_at(version, filter).await,
            (None, None) => storage.fresh().await?,
            (Some(version), _) => storage.wait_for(version).await?,
        }
        // A list of one name is a get.
        if let (Some(name), true) = (filter.name(), !filter.namespace.is_empty() || !self.row.resource.namespaced()) {
            let applied = storage.applied();
            let entry = self.row.get(&filter.namespace, name);
            let revision = entry.as_ref().map_or(applied, |entry| entry.revision.max(applied));
            return Ok((entry.into_iter().collect(), revision));
        }
        Ok(self.row.cache.list(&filter.namespace, storage.applied()))
    }

    /// The objects as they were at a revision.
    async fn snapshot_at(&self, revision: Revision, filter: &Filter) -> ApiResult<Snapshot> {
        let storage = &self.server.config.storage;
        storage.wait_for(revision).await?;
        let (entries, _) = self.row.cache.list(&filter.namespace, storage.applied());
        if self.row.cache.last_change() <= revision {
            return Ok((entries, revision));
        }
        let prefix = match filter.namespace.as_str() {
            "" => self.row.cache.prefix().to_owned(),
            namespace => format!("{}{namespace}/", self.row.cache.prefix()),
        };
        let request =
            RangeRequest { revision: Some(revision), ..RangeRequest::new(KeyRange::prefix(prefix.into_bytes())) };
        let range = storage.store().range(request).await.map_err(|error| match error {
            StoreError::Compacted { compact_revision } if self.options.continue_token.is_empty() => {
                ApiError::expired(format!("too old resource version: {revision} ({compact_revision})"))
            }
            other => refusal(other),
        })?;
        Ok((range.kvs.iter().map(|kv| Arc::new(self.row.entry(kv))).collect(), revision))
    }

    /// Answers with a stream of changes.
    pub(super) async fn watch(&mut self) -> ApiResult<Response<Body>> {
        let mut filter = self.filter()?;
        if !self.info.name.is_empty() {
            self.options.field_selector = format!("metadata.name={}", self.info.name);
            filter = self.filter()?;
        }
        let request = WatchRequest {
            row: self.row.clone(),
            filter,
            view: self.accept.view,
            include: self.options.include_object,
        };
        let stream = watch::start(&self.server.config.storage, request, &self.options).await?;
        let mut response = Response::new(Body::stream(stream));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continue_token_survives_its_way_and_nonsense_is_refused() {
        let token = Continue { v: TOKEN_VERSION.into(), rv: 7, start: "default/web-0".into() };
        assert_eq!(Continue::decode(&token.encode().unwrap()).unwrap(), token);
        for nonsense in ["x", "eyJ2IjoieCJ9", "§"] {
            assert_eq!(Continue::decode(nonsense).unwrap_err().code, 400);
        }
    }
}
