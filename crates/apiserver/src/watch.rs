//! Watches: a stream of a resource's changes, one JSON document a line or one protobuf frame each.
//!
//! A watch is a position in the resource's log of changes and a filter. It has no task and no queue:
//! when whoever reads the response asks for more, it looks into the log, and waits to be woken if there
//! is nothing. Who falls behind what the log retains is told so (410) and lists again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_api::{ApiError, ApiResult, protobuf};
use coracle_clock::Instant;
use coracle_store::Revision;
use futures::Stream;
use serde_json::{Value, json};

use crate::filter::Filter;
use crate::negotiate::{Format, View};
use crate::options::{IncludeObject, Options};
use crate::render;
use crate::storage::cache::Change;
use crate::storage::{Entry, Row, Storage};
use crate::webhook::Webhooks;

/// How often a watch that asked for bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// A last bookmark goes out so long before the watch times out.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// A watch without `timeoutSeconds` ends after this, or up to twice this, so that not all end at once.
const MIN_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// How many changes are looked at for one chunk of the response, and from which size on it is full. A reader that
/// is slower than the changes costs one chunk, never a queue.
const CHUNK: usize = 64;
const CHUNK_BYTES: usize = 64 * 1024;

/// What somebody wants to watch.
#[derive(Debug)]
pub struct WatchRequest {
    /// The resource.
    pub row: Row,
    /// Brings its objects into the row's version.
    pub webhooks: Arc<Webhooks>,
    /// Which of its objects.
    pub filter: Filter,
    /// In which shape.
    pub view: View,
    /// In which format: JSON or protobuf.
    pub format: Format,
    /// What Tables' rows carry.
    pub include: IncludeObject,
}

struct Watcher {
    storage: Arc<Storage>,
    request: WatchRequest,
    wake: coracle_clock::watch::Receiver<()>,
    /// Objects that are there already and are sent first, as ADDED.
    initial: VecDeque<Arc<Entry>>,
    /// Send the bookmark that ends the initial events.
    mark_initial_end: bool,
    /// Everything up to here was sent.
    cursor: Revision,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    /// Whether a Table must still say what its columns are.
    columns: bool,
    /// An error was sent; nothing follows.
    over: bool,
}

/// Starts a watch: waits until it can begin and answers with its stream of lines.
///
/// # Errors
/// For options that contradict each other, when a version from the future does not come to pass, and when objects
/// cannot be converted.
pub async fn start(
    storage: &Arc<Storage>,
    request: WatchRequest,
    options: &Options,
) -> ApiResult<impl Stream<Item = Bytes> + Send + use<>> {
    options.check_watch()?;
    let version = options.version()?;
    let cache = &request.row.cache;
    let wake = request.filter.indexed(cache).map_or_else(|| cache.subscribe(), |value| cache.subscribe_to(value));
    let synthetic = options.send_initial_events.unwrap_or(matches!(version, None | Some(0)));
    let mut initial = VecDeque::new();
    let cursor = if synthetic || version.is_none() {
        match version {
            None => storage.fresh().await?,
            Some(version) => storage.wait_for(version).await?,
        }
        let (entries, revision) = request.filter.candidates(cache, storage.applied());
        if synthetic {
            let entries = request.webhooks.present(&request.row, entries).await?;
            initial.extend(entries.into_iter().filter(|entry| request.filter.matches(entry)));
        }
        revision
    } else {
        version.unwrap_or_default()
    };
    let now = coracle_clock::instant();
    let timeout = match options.timeout_seconds {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds),
        _ => coracle_clock::jitter(MIN_TIMEOUT, 1.0),
    };
    let watcher = Watcher {
        storage: storage.clone(),
        request,
        wake,
        initial,
        mark_initial_end: options.bookmarks && options.send_initial_events == Some(true),
        cursor,
        bookmarks: options.bookmarks,
        next_bookmark: now + BOOKMARK_EVERY.min(timeout.saturating_sub(LAST_BOOKMARK)),
        deadline: now + timeout,
        columns: true,
        over: false,
    };
    Ok(futures::stream::unfold(watcher, |mut watcher| async move {
        let chunk = watcher.next().await?;
        Some((chunk, watcher))
    }))
}

impl Watcher {
    /// The next lines; `None` when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        if !self.initial.is_empty() {
            let mut out = Vec::new();
            while out.len() < CHUNK_BYTES
                && let Some(entry) = self.initial.pop_front()
            {
                self.line(&mut out, "ADDED", &entry);
            }
            return Some(out.into());
        }
        if std::mem::take(&mut self.mark_initial_end) {
            return Some(self.bookmark(json!({ "k8s.io/initial-events-end": "true" })));
        }
        loop {
            self.wake.borrow_and_update();
            let changes = match self.changes().await {
                Ok(changes) => changes,
                Err(error) => {
                    self.over = true;
                    let mut out = Vec::new();
                    self.event(&mut out, "ERROR", error.to_status().to_string().as_bytes());
                    return Some(out.into());
                }
            };
            let mut out = Vec::new();
            let mut rest = changes.iter().peekable();
            while let Some(change) = rest.next() {
                self.change(&mut out, change);
                // Full: the rest is read from the log again, unless that would split a revision.
                if out.len() >= CHUNK_BYTES && rest.peek().is_some_and(|next| next.revision > change.revision) {
                    self.cursor = change.revision;
                    break;
                }
            }
            if !out.is_empty() {
                return Some(out.into());
            }
            if !changes.is_empty() {
                continue; // there may be more behind those that were filtered out
            }
            let now = coracle_clock::instant();
            if now >= self.deadline {
                return None;
            }
            if self.bookmarks && now >= self.next_bookmark {
                let last = self.deadline - LAST_BOOKMARK;
                let regular = now + BOOKMARK_EVERY;
                self.next_bookmark = if now >= last { self.deadline } else { regular.min(last) };
                return Some(self.bookmark(Value::Null));
            }
            let until = if self.bookmarks { self.deadline.min(self.next_bookmark) } else { self.deadline };
            tokio::select! {
                biased;
                changed = self.wake.changed() => changed.ok()?,
                () = self.storage.stopped() => return None,
                () = self.request.row.ended.cancelled() => return None,
                () = coracle_clock::sleep_until(until) => {}
            }
        }
    }

    /// The next changes in the namespace, in the row's version, of those that are looked at for one chunk.
    async fn changes(&mut self) -> ApiResult<Vec<Change>> {
        let WatchRequest { row, webhooks, filter, .. } = &self.request;
        let value = filter.indexed(&row.cache);
        let wanted = |change: &Change| {
            filter.in_namespace(&change.after.key) && value.is_none_or(|value| change.concerns(value))
        };
        let found = row.cache.changes(self.cursor, CHUNK, self.storage.applied(), wanted);
        let (mut changes, cursor) = found.map_err(|gone| {
            ApiError::expired(format!("too old resource version: {} ({})", self.cursor, gone.oldest))
        })?;
        self.cursor = cursor;
        // What an object was matters to selectors alone.
        let selects = filter.selects();
        let states = changes.iter_mut().flat_map(|change| {
            let before = change.before.iter_mut().filter(move |_| selects);
            before.chain([&mut change.after])
        });
        let strange: Vec<&mut Arc<Entry>> = states.filter(|entry| !row.shows(&entry.stored)).collect();
        if !strange.is_empty() {
            let entries = strange.iter().map(|entry| Arc::clone(entry)).collect();
            let entries = webhooks.present(row, entries).await.map_err(ApiError::internal)?;
            strange.into_iter().zip(entries).for_each(|(place, entry)| *place = entry);
        }
        Ok(changes)
    }

    /// The line a change makes for this filter, if any. An object that ceases to match is DELETED for
    /// this watch, one that begins to match is ADDED.
    fn change(&mut self, out: &mut Vec<u8>, change: &Change) {
        let filter = &self.request.filter;
        let was = change.before.as_ref().is_some_and(|before| filter.matches(before));
        let is = !change.deleted && filter.matches(&change.after);
        match (was, is, &change.before) {
            (false, false, _) => {}
            (false, true, _) => self.line(out, "ADDED", &change.after),
            (true, true, _) => self.line(out, "MODIFIED", &change.after),
            (true, false, Some(before)) if !change.deleted => {
                self.line(out, "DELETED", &before.restamped(change.revision));
            }
            (true, false, _) => self.line(out, "DELETED", &change.after),
        }
    }

    fn line(&mut self, out: &mut Vec<u8>, kind: &str, entry: &Entry) {
        let WatchRequest { row, view, include, .. } = &self.request;
        let json = render::view(entry.json(), &row.resource, *view, *include, self.columns);
        self.columns = false;
        self.event(out, kind, &json);
    }

    fn event(&self, out: &mut Vec<u8>, kind: &str, json: &[u8]) {
        if self.request.format == Format::Protobuf {
            let object = serde_json::from_slice(json).ok().and_then(|object| protobuf::encode(&object));
            return out.extend_from_slice(&protobuf::watch_frame(kind, &object.unwrap_or_default()));
        }
        out.reserve(json.len() + 40);
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        out.extend_from_slice(json);
        out.extend_from_slice(b"}\n");
    }

    fn bookmark(&mut self, annotations: Value) -> Bytes {
        let WatchRequest { row, view, .. } = &self.request;
        let mut meta = json!({ "resourceVersion": self.cursor.to_string(), "creationTimestamp": null });
        if !annotations.is_null() {
            meta["annotations"] = annotations;
        }
        let object = match view {
            View::Object => {
                json!({ "kind": row.resource.kind, "apiVersion": row.resource.api_version(), "metadata": meta })
            }
            View::Metadata(version) | View::MetadataList(version) => {
                json!({ "kind": "PartialObjectMetadata", "apiVersion": version, "metadata": meta })
            }
            View::Table(version) => json!({
                "kind": "Table",
                "apiVersion": version,
                "metadata": { "resourceVersion": meta["resourceVersion"] },
                "columnDefinitions": null,
                "rows": [],
            }),
        };
        let mut out = Vec::new();
        self.event(&mut out, "BOOKMARK", object.to_string().as_bytes());
        out.into()
    }
}
