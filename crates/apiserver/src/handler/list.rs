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
use crate::negotiate::{Format, View};
use crate::render;
use crate::storage::{Entry, refusal};
use crate::watch::{self, WatchRequest};

/// What `continue` tokens hold, as base64 of JSON: opaque to clients.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Continue {
    /// The token's format.
    v: String,
    /// The revision the list shows; [`LATEST`] for whatever is newest.
    rv: Revision,
    /// The key, below the resource's prefix, after which it goes on.
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";
/// In a token: the list's own revision is forgotten, go on with the newest.
const LATEST: Revision = -1;

impl Continue {
    fn encode(&self) -> ApiResult<String> {
        Ok(BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).map_err(ApiError::internal)?))
    }

    fn decode(token: &str) -> ApiResult<Self> {
        let refused = |why: &dyn std::fmt::Display| {
            ApiError::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).map_err(|error| refused(&error))?;
        let token: Continue = serde_json::from_slice(&bytes).map_err(|error| refused(&error))?;
        let dotted = |segment: &str| matches!(segment, "" | "." | "..");
        if token.v != TOKEN_VERSION {
            return Err(refused(&format_args!("server does not recognize this encoded version {:?}", token.v)));
        }
        if token.rv == 0 {
            return Err(refused(&format_args!("incorrect encoded start resourceVersion (version {TOKEN_VERSION})")));
        }
        if token.start.is_empty() {
            return Err(refused(&format_args!("encoded start key empty (version {TOKEN_VERSION})")));
        }
        if token.start.split('/').any(dotted) {
            return Err(refused(&token.start));
        }
        Ok(token)
    }
}

/// The objects of a list before selectors, in key order, and the revision they are as of.
type Snapshot = (Vec<Arc<Entry>>, Revision);

impl Call {
    pub(super) fn filter(&self) -> ApiResult<Filter> {
        Filter::of(&self.row.resource, &self.info.namespace, &self.options)
    }

    /// Answers with the selected objects.
    pub(super) async fn list(&mut self) -> ApiResult<Response<Body>> {
        let filter = self.filter()?;
        let (mut entries, meta) = match self.select(&filter).await {
            Err(error) if error.reason == "Expired" && !self.options.continue_token.is_empty() => {
                return self.expired(&error);
            }
            selected => selected?,
        };
        if matches!(self.accept.view, View::Table(_)) && self.row.resource.plural == "flowschemas" {
            // They are shown in the order in which they are tried.
            entries.sort_by_cached_key(|entry| {
                let schema: Value = serde_json::from_slice(&entry.json()).unwrap_or_default();
                (schema["spec"]["matchingPrecedence"].as_i64(), entry.key.clone())
            });
        }
        let items = entries.into_iter().map(|entry| entry.json());
        Ok(render::list(&self.row.resource, meta, items, self.accept, self.options.include_object))
    }

    /// A list that cannot go on at its own revision: the client may take the rest as it is now.
    fn expired(&self, error: &ApiError) -> ApiResult<Response<Body>> {
        let token = Continue { rv: LATEST, ..Continue::decode(&self.options.continue_token)? };
        let mut status = error.to_status();
        status["metadata"]["continue"] = token.encode()?.into();
        Ok(self.answer(error.code, status.to_string()))
    }

    /// The selected objects, at most `limit`, in this request's version, and the list's metadata.
    pub(super) async fn select(&self, filter: &Filter) -> ApiResult<(Vec<Arc<Entry>>, Value)> {
        self.options.check_list()?;
        let token = match self.options.continue_token.as_str() {
            "" => None,
            token => Some(Continue::decode(token)?),
        };
        let (entries, revision) = match &token {
            Some(_) if !matches!(self.options.resource_version.as_str(), "" | "0") => {
                return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
            }
            Some(token) if token.rv < 0 => {
                self.server.config.storage.fresh().await?;
                filter.candidates(&self.row.cache, self.server.config.storage.applied())
            }
            Some(token) => self.snapshot_at(token.rv, filter).await?,
            None => self.snapshot(filter).await?,
        };
        let start = token.as_ref().map_or("", |token| token.start.as_str());
        let limit = if self.options.limit == 0 { usize::MAX } else { self.options.limit };
        let mut entries = entries;
        entries.retain(|entry| start.is_empty() || &*entry.key > start);
        // Selectors are about this request's version; without any, a page is all that must be in it.
        if filter.selects() {
            entries = self.present(entries).await?;
        }
        let mut rest = entries.iter();
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
        Ok((self.present(selected).await?, meta))
    }

    /// The objects as `resourceVersion` and `resourceVersionMatch` ask for them.
    async fn snapshot(&self, filter: &Filter) -> ApiResult<Snapshot> {
        let storage = &self.server.config.storage;
        match self.options.version()? {
            Some(version) if self.options.exact() => return self.snapshot_at(version, filter).await,
            Some(version) => storage.wait_for(version).await?,
            None => storage.fresh().await?,
        }
        // A list of one name is a get.
        if let (Some(name), true) = (filter.name(), !filter.namespace.is_empty() || !self.row.resource.namespaced()) {
            let applied = storage.applied();
            let entry = self.row.get(&filter.namespace, name);
            let revision = entry.as_ref().map_or(applied, |entry| entry.revision.max(applied));
            return Ok((entry.into_iter().collect(), revision));
        }
        Ok(filter.candidates(&self.row.cache, storage.applied()))
    }

    /// The objects as they were at a revision.
    async fn snapshot_at(&self, revision: Revision, filter: &Filter) -> ApiResult<Snapshot> {
        let storage = &self.server.config.storage;
        storage.wait_for(revision).await?;
        let (entries, _) = filter.candidates(&self.row.cache, storage.applied());
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
            StoreError::Compacted { .. } if self.options.continue_token.is_empty() => {
                ApiError::expired("The resourceVersion for the provided list is too old.")
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
            webhooks: self.server.config.webhooks.clone(),
            filter,
            view: self.accept.view,
            format: self.accept.format,
            include: self.options.include_object,
        };
        let stream = watch::start(&self.server.config.storage, request, &self.options).await?;
        let mut response = Response::new(Body::stream(stream));
        let media = match self.accept.format {
            Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            _ => "application/json",
        };
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continue_token_survives_its_way_and_nonsense_is_refused() {
        let token = |start: &str| Continue { v: TOKEN_VERSION.into(), rv: 7, start: start.into() };
        assert_eq!(Continue::decode(&token("default/web-0").encode().unwrap()).unwrap(), token("default/web-0"));
        for (nonsense, why) in [
            ("x", "Invalid"),
            ("§", "Invalid"),
            ("e30", "missing field"),
            (&Continue { v: "v2".into(), ..token("a") }.encode().unwrap(), "server does not recognize"),
            (&Continue { rv: 0, ..token("a") }.encode().unwrap(), "incorrect encoded start resourceVersion"),
            (&token("").encode().unwrap(), "encoded start key empty"),
            (&token("../secrets/a").encode().unwrap(), "../secrets/a"),
        ] {
            let error = Continue::decode(nonsense).unwrap_err();
            let start = format!("invalid continue token: continue key is not valid: {why}");
            assert!(error.code == 400 && error.message.starts_with(&start), "{}", error.message);
        }
    }
}
