//! The watch cache of one resource: its objects as bytes, and the changes that led to them.
//!
//! Every object is there once, as the JSON that reads and watches answer with. The log of changes is
//! what watches read; they hold a position in it, not a queue of their own, so a watcher costs nothing
//! while nothing happens and cannot slow anybody else. Changes older than [`RETAIN`] are forgotten
//! (but the last [`KEEP_CHANGES`] always stay); a watcher that needs them gets 410 and lists again.
//!
//! Pods are also kept by the node they are bound to, as upstream indexes them, and nodes by their names: a kubelet lists,
//! watches and is woken for its own, however many others there are.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;
use coracle_api::Resource;
use coracle_clock::Instant;
use coracle_clock::watch;
use coracle_store::Revision;
use serde_json::{Value, json};

use super::{codec, convert};

/// For how long a change can be watched again, at least.
pub const RETAIN: Duration = Duration::from_secs(75);
/// How many changes stay, however old.
pub const KEEP_CHANGES: usize = 100;
/// How many changes stay at most, however young.
pub const MAX_CHANGES: usize = 100_000;

/// The field by whose values a resource's objects are kept, too; of the core group.
const INDEXED: [(&str, &str); 2] = [("pods", "spec.nodeName"), ("nodes", NAME)];
const NAME: &str = "metadata.name";
/// Those who watch by a value of it are woken for others' changes too, but only this often: so that
/// none of them falls behind the log.
const WAKE_ALL: (Duration, usize) = (Duration::from_secs(20), MAX_CHANGES / 8);

/// An object at one revision.
#[derive(Debug)]
pub struct Entry {
    /// The key below the resource's prefix, such as `default/web-0`.
    pub key: Arc<str>,
    /// The revision that made it so: its `resourceVersion`.
    pub revision: Revision,
    /// The JSON as the store has it, and shared with it: without `resourceVersion`.
    pub stored: Bytes,
    /// Whether the store holds it in another form than it would be written in now: a custom resource that an older
    /// definition let in.
    pub stale: bool,
    /// The indexed field and its value (or that it has none: empty), if the resource is kept by one.
    pub indexed: Option<(&'static str, Arc<str>)>,
    /// The same object in other versions, as a webhook converted it.
    views: Mutex<Vec<Arc<Entry>>>,
    /// What selectors look at; read from the JSON when a selector first asks.
    selectable: OnceLock<Selectable>,
    /// The object, if somebody wants it to stay parsed.
    parsed: OnceLock<Arc<Value>>,
}

/// What selectors look at.
#[derive(Debug, Default)]
pub struct Selectable {
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The selectable fields' values; missing ones are empty.
    pub fields: BTreeMap<String, String>,
}

impl Entry {
    /// An object of the store: `stored` are the bytes without `resourceVersion`.
    pub fn new(key: impl Into<Arc<str>>, stored: impl Into<Bytes>, revision: Revision) -> Self {
        Entry {
            key: key.into(),
            revision,
            stored: stored.into(),
            stale: false,
            indexed: None,
            views: Mutex::default(),
            selectable: OnceLock::new(),
            parsed: OnceLock::new(),
        }
    }

    /// The JSON, with `resourceVersion`.
    pub fn json(&self) -> Bytes {
        codec::stamp(&self.stored, self.revision)
    }

    /// Its value of the indexed field.
    pub(crate) fn value(&self) -> Option<&Arc<str>> {
        self.indexed.as_ref().map(|(_, value)| value)
    }

    /// Its `apiVersion`.
    pub fn api_version(&self) -> &str {
        codec::api_version(&self.stored).unwrap_or_default()
    }

    /// The same object in another version, if it is known.
    pub(crate) fn view(&self, api_version: &str) -> Option<Arc<Entry>> {
        let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        views.iter().find(|view| view.api_version() == api_version).cloned()
    }

    /// The same object in another version; `keep`: to be known from now on.
    pub(crate) fn seen_as(&self, object: &Value, keep: bool) -> Arc<Entry> {
        let view = Arc::new(Entry::new(self.key.clone(), codec::encode(object), self.revision));
        if keep {
            self.views.lock().unwrap_or_else(PoisonError::into_inner).push(view.clone());
        }
        view
    }

    /// The object, parsed. Null if somebody stored what is no JSON.
    pub fn parse(&self) -> Value {
        let mut object: Value = serde_json::from_slice(&self.stored).unwrap_or_default();
        if object.is_object() {
            if !object["metadata"].is_object() {
                object["metadata"] = json!({});
            }
            object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        }
        object
    }

    /// The object, which stays parsed: for those that are asked for again and again.
    pub fn parsed(&self) -> Arc<Value> {
        self.parsed.get_or_init(|| Arc::new(self.parse())).clone()
    }

    /// The same object with another version, as the event of its deletion shows it.
    pub(crate) fn restamped(&self, revision: Revision) -> Self {
        let (stored, indexed) = (self.stored.clone(), self.indexed.clone());
        Entry { indexed, ..Entry::new(self.key.clone(), stored, revision) }
    }

    /// Labels and selectable fields.
    pub fn selectable(&self, fields: &[String]) -> &Selectable {
        self.selectable.get_or_init(|| Selectable::of(&self.parse(), fields))
    }
}

impl Selectable {
    /// Reads them from an object.
    pub fn of(object: &Value, fields: &[String]) -> Self {
        let labels = object["metadata"]["labels"].as_object();
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Selectable {
            labels: labels.into_iter().flatten().map(|(key, value)| (key.clone(), text(value))).collect(),
            fields: ["metadata.name", "metadata.namespace"]
                .into_iter()
                .chain(fields.iter().map(String::as_str))
                .map(|field| (field.to_owned(), coracle_api::selector::field_value(object, field)))
                .collect(),
        }
    }
}

/// One change of one object.
#[derive(Clone, Debug)]
pub struct Change {
    /// When, in the store's time.
    pub revision: Revision,
    /// The object before; `None`: it did not exist.
    pub before: Option<Arc<Entry>>,
    /// The object after; for a deletion its last state with the deletion's version.
    pub after: Arc<Entry>,
    /// Whether it was deleted.
    pub deleted: bool,
}

impl Change {
    /// Whether the object has, or had, that value of the indexed field.
    pub fn concerns(&self, value: &str) -> bool {
        self.before.iter().chain([&self.after]).any(|entry| entry.value().is_some_and(|of| **of == *value))
    }
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Arc<str>, Arc<Entry>>,
    /// The keys of those that have a value of the indexed field, by that.
    by_value: BTreeSet<(Arc<str>, Arc<str>)>,
    log: VecDeque<(Instant, Change)>,
    /// Every change after this revision is in the log.
    complete_after: Revision,
    last_change: Revision,
    /// When, and how many changes ago, everybody was woken.
    woken: (Option<Instant>, usize),
}

impl State {
    /// Puts an object in, or takes it out.
    fn set(&mut self, key: &Arc<str>, entry: Option<&Arc<Entry>>) {
        let before = match entry {
            Some(entry) => self.objects.insert(key.clone(), entry.clone()),
            None => self.objects.remove(key),
        };
        let value = |entry: &Arc<Entry>| entry.value().filter(|value| !value.is_empty()).cloned();
        let (old, new) = (before.as_ref().and_then(value), entry.and_then(value));
        if old != new {
            old.map(|value| self.by_value.remove(&(value, key.clone())));
            new.map(|value| self.by_value.insert((value, key.clone())));
        }
    }
}

/// The watch cache of one resource (of all its versions).
#[derive(Debug)]
pub struct ResourceCache {
    prefix: String,
    /// The versions of a custom resource, that in which objects are stored now first; none of a built-in one.
    versions: Vec<Arc<Resource>>,
    /// By the values of which field objects are kept too.
    indexed: Option<&'static str>,
    state: RwLock<State>,
    wake: watch::Sender<()>,
    /// Wakes those who watch by a value of the indexed field.
    wake_by_value: Mutex<BTreeMap<Arc<str>, watch::Sender<()>>>,
}

/// The revision asked for is no longer in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// The oldest revision a watch can start from.
    pub oldest: Revision,
}

impl ResourceCache {
    /// An empty cache.
    pub fn new(resource: &Resource) -> Self {
        Self::of_versions(resource, Vec::new())
    }

    /// An empty cache of a custom resource's versions, the first of which is stored.
    pub fn of_versions(resource: &Resource, versions: Vec<Arc<Resource>>) -> Self {
        let indexed = INDEXED.iter().find(|(plural, _)| resource.group.is_empty() && resource.plural == *plural);
        let indexed = indexed.map(|(_, field)| *field);
        let (state, wake, wake_by_value) = (RwLock::default(), watch::Sender::new(()), Mutex::default());
        ResourceCache { prefix: resource.key_prefix(), versions, indexed, state, wake, wake_by_value }
    }

    /// By the values of which field objects are kept too.
    pub fn indexed(&self) -> Option<&'static str> {
        self.indexed
    }

    /// The prefix of its keys in the store.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// An object as the store holds it, in the form in which it is kept here.
    pub fn entry(&self, key: impl Into<Arc<str>>, stored: &Bytes, revision: Revision) -> Entry {
        let Some(storage) = self.versions.first() else {
            let entry = Entry::new(key, codec::readable(stored), revision);
            let indexed = self.indexed.map(|field| match field {
                NAME => (field, entry.key.clone()),
                _ => (field, codec::text_at(&entry.stored, field).into()),
            });
            return Entry { indexed, ..entry };
        };
        let settled = convert::settled(stored, &self.versions);
        let stale = settled.is_some();
        let entry = Entry::new(key, settled.map_or_else(|| stored.clone(), Bytes::from), revision);
        Entry { stale: stale || entry.api_version() != storage.api_version(), ..entry }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// One object.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.read().objects.get(key).cloned()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects (of `namespace`, unless that is empty), in key order, and the revision they are as of;
    /// `applied` is the revision up to which all caches are known to be complete.
    pub fn list(&self, namespace: &str, applied: Revision) -> (Vec<Arc<Entry>>, Revision) {
        let state = self.read();
        let revision = applied.max(state.last_change);
        if namespace.is_empty() {
            return (state.objects.values().cloned().collect(), revision);
        }
        let start = format!("{namespace}/");
        let range = state.objects.range::<str, _>((Bound::Included(start.as_str()), Bound::Unbounded));
        let entries = range.take_while(|(key, _)| key.starts_with(&start)).map(|(_, entry)| entry.clone()).collect();
        (entries, revision)
    }

    /// As [`ResourceCache::list`], of the objects with that value of the indexed field.
    pub fn list_by_value(&self, value: &str, namespace: &str, applied: Revision) -> (Vec<Arc<Entry>>, Revision) {
        let state = self.read();
        let start = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        let from = (Arc::from(value), Arc::from(start.as_str()));
        let range = state.by_value.range((Bound::Included(from), Bound::Unbounded));
        let keys = range.take_while(|(found, key)| **found == *value && key.starts_with(&start)).map(|(_, key)| key);
        (keys.filter_map(|key| state.objects.get(key).cloned()).collect(), applied.max(state.last_change))
    }

    /// The revision of the last change, 0 for none yet.
    pub fn last_change(&self) -> Revision {
        self.read().last_change
    }

    /// The changes after `cursor` that are `wanted`, about `max` at most, and the revision up to which they are complete.
    pub fn changes(
        &self,
        cursor: Revision,
        max: usize,
        applied: Revision,
        wanted: impl Fn(&Change) -> bool,
    ) -> Result<(Vec<Change>, Revision), Gone> {
        let state = self.read();
        if cursor < state.complete_after {
            return Err(Gone { oldest: state.complete_after });
        }
        let from = state.log.partition_point(|(_, change)| change.revision <= cursor);
        let mut changes: Vec<Change> = Vec::new();
        for (_, change) in state.log.range(from..) {
            // Never split a revision: a cursor stands between revisions.
            if let Some(last) = changes.last()
                && changes.len() >= max
                && last.revision < change.revision
            {
                let complete = last.revision;
                return Ok((changes, complete));
            }
            if wanted(change) {
                changes.push(change.clone());
            }
        }
        Ok((changes, applied.max(state.last_change).max(cursor)))
    }

    /// Wakes when there may be new changes.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.wake.subscribe()
    }

    /// Wakes when there may be new changes of objects with that value of the indexed field.
    pub fn subscribe_to(&self, value: &str) -> watch::Receiver<()> {
        let mut wake = self.wake_by_value.lock().unwrap_or_else(PoisonError::into_inner);
        wake.entry(value.into()).or_insert_with(|| watch::Sender::new(())).subscribe()
    }

    /// Forgets everything and starts from a snapshot; earlier revisions can no longer be watched.
    pub(super) fn reset(&self, objects: impl IntoIterator<Item = Entry>, revision: Revision) {
        let mut state = self.write();
        (state.objects, state.by_value) = Default::default();
        objects.into_iter().for_each(|entry| state.set(&entry.key.clone(), Some(&Arc::new(entry))));
        state.log.clear();
        state.complete_after = revision;
        state.last_change = state.objects.values().map(|entry| entry.revision).max().unwrap_or(0);
        drop(state);
        self.wake(None);
    }

    /// Wakes those who watch everything, and those who watch by one of these values (by any, if not told).
    fn wake(&self, values: Option<&BTreeSet<Arc<str>>>) {
        self.wake.send_replace(());
        let mut by_value = self.wake_by_value.lock().unwrap_or_else(PoisonError::into_inner);
        match values {
            Some(values) => {
                values.iter().filter_map(|value| by_value.get(value)).for_each(|wake| wake.send_replace(()))
            }
            None => {
                by_value.retain(|_, wake| !wake.is_alone());
                by_value.values().for_each(|wake| wake.send_replace(()));
            }
        }
    }

    /// Applies changes in order: key below the prefix, revision, stored bytes (`None`: deleted).
    pub(super) fn apply<'a>(&self, changes: impl IntoIterator<Item = (&'a str, Revision, Option<&'a Bytes>)>) {
        let mut state = self.write();
        let now = coracle_clock::instant();
        let mut values = BTreeSet::new();
        for (key, revision, value) in changes {
            let before = state.objects.get(key).cloned();
            let after = match (value, &before) {
                (Some(stored), Some(before)) => Arc::new(self.entry(before.key.clone(), stored, revision)),
                (Some(stored), None) => Arc::new(self.entry(key, stored, revision)),
                (None, Some(last)) => Arc::new(last.restamped(revision)),
                (None, None) => continue,
            };
            state.set(&after.key, value.map(|_| &after));
            state.last_change = revision;
            state.woken.1 += 1;
            values.extend(before.iter().chain([&after]).filter_map(|entry| entry.value().cloned()));
            state.log.push_back((now, Change { revision, before, after, deleted: value.is_none() }));
        }
        Self::trim(&mut state, now);
        let (at, changes) = state.woken;
        let all = changes >= WAKE_ALL.1 || at.is_none_or(|at| now.duration_since(at) >= WAKE_ALL.0);
        if all {
            state.woken = (Some(now), 0);
        }
        drop(state);
        self.wake((!all).then_some(&values));
    }

    /// Forgets changes that are old enough.
    pub(super) fn forget(&self) {
        let mut state = self.write();
        let now = coracle_clock::instant();
        let missed = std::mem::replace(&mut state.woken, (Some(now), 0)).1;
        Self::trim(&mut state, now);
        drop(state);
        if missed > 0 {
            self.wake(None);
        }
    }

    fn trim(state: &mut State, now: Instant) {
        while let Some((at, change)) = state.log.front() {
            let len = state.log.len();
            if len <= KEEP_CHANGES || (len <= MAX_CHANGES && now.duration_since(*at) < RETAIN) {
                break;
            }
            state.complete_after = change.revision;
            state.log.pop_front();
        }
        // After a burst: give the memory back.
        if state.log.capacity() > 4 * state.log.len().max(KEEP_CHANGES) {
            state.log.shrink_to(2 * state.log.len());
        }
    }
}
