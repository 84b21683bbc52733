//! Informers: one watch and one cache per kind.
//!
//! ```text
//! list ──► cache ◄── watch events        each change, in order:  handler(Change { old, new })
//! ```
//!
//! The watch itself is kube's [`watcher`]: it lists, watches from there, and lists again when told
//! that its version is too old. Here its events become changes of an ordered cache. A re-list is
//! turned into the difference, so handlers never miss a deletion. All of it works on objects of no
//! particular kind ([`Raw`]); a kind adds only the function that decodes its objects.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::ops::Bound;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use coracle_clock::watch;
use futures::StreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::ObjectKey;
use crate::raw::{Object, Raw};

/// The kinds an informer can hold: what kube can watch, without per-object type data.
pub trait Informable: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static {}
impl<K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static> Informable for K {}

/// One change of one object: `old` is none for an addition, `new` for a deletion.
#[derive(Debug)]
pub struct Change<'a, K> {
    /// What the cache held before.
    pub old: Option<&'a Arc<K>>,
    /// What it holds now.
    pub new: Option<&'a Arc<K>>,
}

impl<K: Informable> Change<'_, K> {
    /// The newer of the two states; a change has at least one.
    pub fn object(&self) -> &Arc<K> {
        self.new.or(self.old).expect("a change without an old state has a new one")
    }

    /// The object's key.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::of(self.object().as_ref())
    }
}

/// Told of a change: what the cache held before, and what it holds now.
type Handler = Box<dyn FnMut(Option<&Object>, Option<&Object>) + Send>;
type IndexFn = Box<dyn Fn(&Object) -> Vec<String> + Send + Sync>;

struct Index {
    function: IndexFn,
    /// Index value and object key, ordered, so that one value's objects are one range.
    entries: BTreeMap<(String, ObjectKey), Object>,
}

/// An object, which one it is, and its resource version.
#[derive(Clone)]
struct Cached {
    uid: Option<String>,
    version: Option<String>,
    object: Object,
}

#[derive(Default)]
struct Cache {
    objects: BTreeMap<ObjectKey, Cached>,
    indices: BTreeMap<&'static str, Index>,
}

impl Cache {
    fn replace(&mut self, key: &ObjectKey, new: Option<Cached>) -> Option<Cached> {
        let old = match &new {
            Some(cached) => self.objects.insert(key.clone(), cached.clone()),
            None => self.objects.remove(key),
        };
        for index in self.indices.values_mut() {
            for value in old.iter().flat_map(|cached| (index.function)(&cached.object)) {
                index.entries.remove(&(value, key.clone()));
            }
            if let Some(Cached { object, .. }) = &new {
                for value in (index.function)(object) {
                    index.entries.insert((value, key.clone()), object.clone());
                }
            }
        }
        old
    }
}

/// All of an informer but its type.
struct Shared {
    api: Api<Raw>,
    kind: String,
    config: watcher::Config,
    decode: fn(&Raw) -> serde_json::Result<Object>,
    cache: RwLock<Cache>,
    handlers: Mutex<Vec<Handler>>,
    synced: watch::Sender<bool>,
}

/// A shared, indexed, ordered cache of one kind, kept current by a watch. Cloning shares it.
pub struct Informer<K>(Arc<Shared>, PhantomData<fn() -> K>);

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Informer(self.0.clone(), PhantomData)
    }
}

impl<K> Debug for Informer<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Informer<{}>", self.0.kind)
    }
}

const LOCK: &str = "no code panics while it holds an informer's lock";

/// The object as what its informer decodes.
fn typed<K: Informable>(object: &Object) -> Arc<K> {
    object.clone().downcast().expect("an informer decodes all its objects as its kind")
}

impl<K: Informable> Informer<K> {
    /// An informer of what `api` and `config` select. It does nothing until [`Informer::run`].
    pub fn new(api: Api<K>, config: watcher::Config) -> Self {
        let shared = Shared {
            api: Raw::api(api),
            kind: K::kind(&()).into_owned(),
            config,
            decode: Raw::decode::<K>,
            cache: RwLock::default(),
            handlers: Mutex::default(),
            synced: watch::Sender::new(false),
        };
        Informer(Arc::new(shared), PhantomData)
    }

    /// Calls `handler` for every change from now on, in order, after telling it of all objects already cached.
    /// Handlers run on the informer's task: they look, add a key to a queue, and return.
    pub fn on_change(&self, mut handler: impl FnMut(Change<'_, K>) + Send + 'static) {
        self.0.on_change(Box::new(move |old, new| {
            let (old, new) = (old.map(typed), new.map(typed));
            handler(Change { old: old.as_ref(), new: new.as_ref() });
        }));
    }

    /// Adds an index: `function` gives the values under which an object is found by [`Informer::by_index`].
    /// Adding an index of the same name again changes nothing.
    pub fn add_index(&self, name: &'static str, function: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) {
        self.0.add_index(name, Box::new(move |object| function(&typed::<K>(object))));
    }

    /// The objects that an index holds under `value`, in key order; none if there is no such index.
    pub fn by_index(&self, index: &'static str, value: &str) -> Vec<Arc<K>> {
        self.0.by_index(index, value).iter().map(typed).collect()
    }

    /// The object, as last seen.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.0.cache.read().expect(LOCK).objects.get(key).map(|cached| typed(&cached.object))
    }

    /// All objects, in key order.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.0.cache.read().expect(LOCK).objects.values().map(|cached| typed(&cached.object)).collect()
    }

    /// A namespace's objects, in name order.
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.0.list_namespace(namespace).iter().map(typed).collect()
    }

    /// Whether a namespace has none.
    pub fn is_empty_in(&self, namespace: &str) -> bool {
        let cache = self.0.cache.read().expect(LOCK);
        let mut from = cache.objects.range(ObjectKey::new(namespace, "")..);
        from.next().is_none_or(|(key, _)| key.namespace != namespace)
    }

    /// Whether the first list is in the cache.
    pub fn has_synced(&self) -> bool {
        *self.0.synced.borrow()
    }

    /// Waits until the first list is in the cache.
    pub async fn wait_for_sync(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.0.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Keeps the cache current until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        self.0.run(shutdown).await;
    }
}

impl Shared {
    fn on_change(&self, mut handler: Handler) {
        let mut handlers = self.handlers.lock().expect(LOCK);
        let cached: Vec<_> = self.cache.read().expect(LOCK).objects.values().cloned().collect();
        for Cached { object, .. } in cached {
            handler(None, Some(&object));
        }
        handlers.push(handler);
    }

    fn add_index(&self, name: &'static str, function: IndexFn) {
        let mut cache = self.cache.write().expect(LOCK);
        if cache.indices.contains_key(name) {
            return;
        }
        let mut entries = BTreeMap::new();
        for (key, Cached { object, .. }) in &cache.objects {
            for value in function(object) {
                entries.insert((value, key.clone()), object.clone());
            }
        }
        cache.indices.insert(name, Index { function, entries });
    }

    fn by_index(&self, index: &'static str, value: &str) -> Vec<Object> {
        let cache = self.cache.read().expect(LOCK);
        let Some(index) = cache.indices.get(index) else { return Vec::new() };
        let first = (value.to_owned(), ObjectKey::default());
        index.entries.range(first..).take_while(|((v, _), _)| v == value).map(|(_, object)| object.clone()).collect()
    }

    fn list_namespace(&self, namespace: &str) -> Vec<Object> {
        let cache = self.cache.read().expect(LOCK);
        let first = Bound::Included(ObjectKey::new(namespace, ""));
        cache
            .objects
            .range((first, Bound::Unbounded))
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, cached)| cached.object.clone())
            .collect()
    }

    async fn run(&self, shutdown: CancellationToken) {
        let stream = watcher(self.api.clone(), self.config.clone());
        let mut stream = std::pin::pin!(stream);
        let mut listed = BTreeMap::new();
        let mut failures = 0;
        loop {
            let event = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                event = stream.next() => event,
            };
            match event {
                Some(Ok(event)) => {
                    failures = 0;
                    self.handle(event, &mut listed);
                }
                Some(Err(error)) => {
                    // client-go's reflector: from 0.8 s, doubled, to 30 s.
                    let delay = Duration::from_millis(800) * 2u32.pow(failures);
                    failures = (failures + 1).min(6);
                    tracing::debug!(kind = self.kind, %error, "watch failed; trying again");
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => return,
                        () = coracle_clock::sleep(coracle_clock::jitter(delay.min(Duration::from_secs(30)), 0.5)) => {}
                    }
                }
                None => return,
            }
        }
    }

    /// Decodes an object. One that cannot be decoded is passed over: it must not hide the others.
    fn decode(&self, key: &ObjectKey, raw: &Raw) -> Option<Cached> {
        match (self.decode)(raw) {
            Ok(object) => {
                let meta = raw.meta();
                Some(Cached { uid: meta.uid.clone(), version: meta.resource_version.clone(), object })
            }
            Err(error) => {
                tracing::warn!(kind = self.kind, %key, %error, "cannot decode an object; passing it over");
                None
            }
        }
    }

    fn handle(&self, event: watcher::Event<Raw>, listed: &mut BTreeMap<ObjectKey, Cached>) {
        match event {
            watcher::Event::Init => listed.clear(),
            watcher::Event::InitApply(raw) => {
                let key = ObjectKey::of(&raw);
                if let Some(cached) = self.decode(&key, &raw) {
                    listed.insert(key, cached);
                }
            }
            watcher::Event::InitDone => {
                let gone: Vec<_> = {
                    let cache = self.cache.read().expect(LOCK);
                    cache.objects.keys().filter(|key| !listed.contains_key(key)).cloned().collect()
                };
                for key in gone {
                    self.change(&key, None);
                }
                for (key, cached) in std::mem::take(listed) {
                    self.change(&key, Some(cached));
                }
                self.synced.send_replace(true);
            }
            watcher::Event::Apply(raw) => {
                let key = ObjectKey::of(&raw);
                if let Some(cached) = self.decode(&key, &raw) {
                    self.change(&key, Some(cached));
                }
            }
            watcher::Event::Delete(raw) => self.change(&ObjectKey::of(&raw), None),
        }
    }

    /// Changes the cache, then tells the handlers. The handlers' lock is held over both, so that one who
    /// registers meanwhile sees each object once.
    fn change(&self, key: &ObjectKey, new: Option<Cached>) {
        let mut handlers = self.handlers.lock().expect(LOCK);
        let old = self.cache.write().expect(LOCK).replace(key, new.clone());
        if old.is_none() && new.is_none() || old.as_ref().zip(new.as_ref()).is_some_and(|(a, b)| a.version == b.version)
        {
            return;
        }
        // Another one of the same name, after a list: that the one before it went was missed, and is told now.
        let replaced = old.as_ref().zip(new.as_ref()).is_some_and(|(a, b)| a.uid != b.uid);
        let (old, new) = (old.map(|cached| cached.object), new.map(|cached| cached.object));
        let steps = if replaced { vec![(old, None), (None, new)] } else { vec![(old, new)] };
        for (old, new) in steps {
            handlers.iter_mut().for_each(|handler| handler(old.as_ref(), new.as_ref()));
        }
    }
}

/// One informer per kind for all who share a client: client-go's SharedInformerFactory.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    shutdown: CancellationToken,
    started: Arc<Mutex<BTreeMap<TypeId, Box<dyn Any + Send>>>>,
}

impl Debug for Informers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Informers")
    }
}

impl Informers {
    /// Informers over `client` that live until `shutdown`.
    pub fn new(client: Client, shutdown: CancellationToken) -> Self {
        Informers { client, shutdown, started: Arc::default() }
    }

    /// The client below.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The cluster-wide informer of a kind; created, and started on a task of its own, by the first who asks.
    pub fn get<K: Informable>(&self) -> Informer<K> {
        let mut started = self.started.lock().expect(LOCK);
        let entry = started.entry(TypeId::of::<K>()).or_insert_with(|| {
            let informer: Informer<K> = Informer::new(Api::all(self.client.clone()), watcher::Config::default());
            let (running, shutdown) = (informer.clone(), self.shutdown.clone());
            tokio::spawn(async move { running.run(shutdown).await });
            Box::new(informer)
        });
        entry.downcast_ref::<Informer<K>>().expect("the map's key is the informer's type").clone()
    }
}
