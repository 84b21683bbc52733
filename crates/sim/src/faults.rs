//! What can be wrong between a component and the API server while both are well.
//!
//! Each fault lasts until [`Cluster::heal`], also over the component's restarts, and holds for watches that are open
//! already:
//!
//! | fault | what the component sees |
//! |---|---|
//! | [`Cluster::partition`] | no answer to anything: what it asks fails after ten seconds, its watches fall silent |
//! | [`Cluster::delay_watch`] | some kinds' events late, or several changes of an object as one, or not at all |
//! | [`Cluster::lag`] | the past: watches, and lists and gets of `resourceVersion=0`, are some time behind |
//!
//! Writes, and reads that ask for the truth, are always answered with the truth: so it is with real API servers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use coracle_apiserver::auth::jwt::TokenKey;
use coracle_apiserver::security::SecurityConfig;
use coracle_apiserver::{ApiServer, Body, Config, Storage};
use coracle_clock::watch;
use coracle_store::{
    LeaseId, LeaseStatus, RangeRequest, RangeResponse, Result, Revision, SharedStore, Store, Txn, TxnResponse,
    WatchRequest, WatchStream,
};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::line::{BoxError, Broken, Server};
use crate::{Cluster, Component};

/// How long a request waits for a peer that cannot be reached.
const TIMEOUT: Duration = Duration::from_secs(10);
/// After how long without a sign of life an open connection counts as broken.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const NO_ROUTE: Broken = Broken("i/o timeout");

/// How a watch's events come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    /// In order and all, but so late (at most twice as late, when many come).
    Late(Duration),
    /// So late, and of each object only the last of what happened meanwhile.
    Merged(Duration),
    /// Not at all: after this time the watch ends with "too old resource version", and what it should have told is
    /// found by the list that follows, if it is still to be found.
    Lost(Duration),
}

/// What is wrong between one component and the API server.
#[derive(Clone)]
pub(crate) struct Link {
    /// Whether nothing comes through, and how often the component was pointed elsewhere.
    line: watch::Sender<(bool, u64)>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// By plural; `*` is any.
    delays: BTreeMap<String, Delay>,
    view: Option<Server>,
}

impl Default for Link {
    fn default() -> Self {
        Link { line: watch::Sender::new((false, 0)), state: Arc::default() }
    }
}

impl Link {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delay(&self, plural: &str) -> Option<Delay> {
        let state = self.state();
        state.delays.get(plural).or_else(|| state.delays.get("*")).copied()
    }

    /// The API server that lags behind, if this component is to see that one's cache.
    pub(crate) fn view(&self) -> Option<Server> {
        self.state().view.clone()
    }

    fn set_view(&self, view: Option<Server>) {
        let before = std::mem::replace(&mut self.state().view, view);
        before.into_iter().for_each(|before| before.stopped.cancel());
        self.line.send_if_modified(|(_, moves)| {
            *moves += 1;
            true
        });
    }

    fn set_cut(&self, cut: bool) {
        self.line.send_if_modified(|line| std::mem::replace(&mut line.0, cut) != cut);
    }

    /// Whether nothing is wrong with it.
    pub(crate) fn is_well(&self) -> bool {
        let state = self.state();
        !self.is_cut() && state.delays.is_empty() && state.view.is_none()
    }

    fn is_cut(&self) -> bool {
        self.line.borrow().0
    }

    /// Returns when something has come over the line.
    pub(crate) async fn reach(&self) -> Result<(), BoxError> {
        if self.is_cut() {
            coracle_clock::sleep(TIMEOUT).await;
            return Err(NO_ROUTE.into());
        }
        Ok(())
    }

    /// The same body, as it arrives over this line. `watched` is the plural of what is watched.
    pub(crate) fn disturb(&self, body: Body, watched: Option<String>) -> Body {
        let Body::Stream(chunks) = body else { return body };
        let (line, moves) = (self.line.subscribe(), self.line.borrow().1);
        let arriving = Arriving { link: self.clone(), line, moves, chunks, watched };
        Body::Stream(futures::stream::unfold(Some(arriving), |arriving| async { arriving?.next().await }).boxed())
    }
}

/// A stream of chunks of whole lines at the client's end.
struct Arriving {
    link: Link,
    line: watch::Receiver<(bool, u64)>,
    moves: u64,
    chunks: BoxStream<'static, Result<Bytes, BoxError>>,
    watched: Option<String>,
}

impl Arriving {
    async fn next(mut self) -> Option<(Result<Bytes, BoxError>, Option<Self>)> {
        let chunk = tokio::select! {
            biased;
            () = becomes(&mut self.line, |(cut, moves)| cut || moves != self.moves) => None,
            chunk = self.chunks.next() => Some(chunk?),
        };
        let Some(chunk) = chunk else { return self.broken().await };
        let delay = self.watched.as_ref().and_then(|plural| self.link.delay(plural));
        let (Ok(first), Some(delay)) = (&chunk, delay) else { return Some((chunk, Some(self))) };
        let (Delay::Late(time) | Delay::Merged(time) | Delay::Lost(time)) = delay;
        coracle_clock::sleep(time).await;
        if self.link.is_cut() {
            return self.broken().await;
        }
        match delay {
            Delay::Late(_) => Some((chunk, Some(self))),
            Delay::Merged(_) => {
                let mut lines = first.to_vec();
                while let Some(Some(Ok(more))) = self.chunks.next().now_or_never() {
                    lines.extend_from_slice(&more);
                }
                Some((Ok(merge(&lines).into()), Some(self)))
            }
            Delay::Lost(_) => {
                let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": "too old resource version", "reason": "Expired", "code": 410 });
                Some((Ok(line("ERROR", &status).into()), None))
            }
        }
    }

    /// The connection breaks when it is used again, or when it has been silent for too long.
    async fn broken(mut self) -> Option<(Result<Bytes, BoxError>, Option<Self>)> {
        _ = coracle_clock::timeout(KEEP_ALIVE, becomes(&mut self.line, |(cut, _)| !cut)).await;
        Some((Err(NO_ROUTE.into()), None))
    }
}

/// Waits until the line is as `wanted`.
async fn becomes(line: &mut watch::Receiver<(bool, u64)>, wanted: impl Fn((bool, u64)) -> bool) {
    // The sender lives as long as the link.
    drop(line.wait_for(|line| wanted(*line)).await);
}

/// The last event of each object; whoever has never heard of it hears that it was added.
fn merge(lines: &[u8]) -> String {
    let mut merged: Vec<(String, Value)> = Vec::new();
    for event in lines.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok()) {
        let mut kind = event["type"].as_str().unwrap_or_default().to_owned();
        let uid = event["object"]["metadata"]["uid"].clone();
        let before = merged.iter().position(|(_, object)| !uid.is_null() && object["metadata"]["uid"] == uid);
        let before = before.map(|index| merged.remove(index).0);
        if kind == "MODIFIED" && before.is_some_and(|before| before == "ADDED") {
            kind = "ADDED".into();
        }
        merged.push((kind, event["object"].clone()));
    }
    merged.iter().map(|(kind, object)| line(kind, object)).collect()
}

/// An event as servers write it: what it is comes first.
fn line(kind: &str, object: &Value) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

/// Which resource a path is about: the last segment that is neither a name nor a namespace's.
pub(crate) fn plural(path: &str) -> String {
    let mut parts = path.trim_matches('/').split('/').skip(if path.starts_with("/apis/") { 3 } else { 2 });
    match (parts.next(), parts.next(), parts.next()) {
        (Some("namespaces"), Some(_), Some(plural)) | (Some(plural), ..) => plural.to_owned(),
        _ => String::new(),
    }
}

impl Cluster {
    fn link(&mut self, component: &Component) -> &Link {
        self.written = Some(self.heartbeats.watched());
        self.links.entry(component.clone()).or_default()
    }

    /// Cuts a component off from the API server; a node is cut off by its kubelet.
    pub fn partition(&mut self, component: &Component) {
        self.link(component).set_cut(true);
    }

    /// Delays what a component hears of some resources: `["pods"]`, or `["*"]` for all.
    pub fn delay_watch(&mut self, component: &Component, plurals: &[&str], delay: Delay) {
        let mut state = self.link(component).state();
        state.delays.extend(plurals.iter().map(|&plural| (plural.to_owned(), delay)));
    }

    /// Points a component at a second API server whose cache is `behind`. Takes that long.
    ///
    /// # Errors
    /// The server does not start.
    pub async fn lag(&mut self, component: &Component, behind: Duration) -> anyhow::Result<()> {
        let store = Arc::new(Lagging { store: self.store.clone(), behind });
        let mut config = Config::new(Storage::start(store, coracle_api::registry::builtin()).await?);
        let security = SecurityConfig::new(TokenKey::generate()?, "10.96.0.0/12".parse()?);
        security.apply(&mut config, None).context("the second API server")?;
        let server = Server { api: ApiServer::new(config), stopped: CancellationToken::new() };
        self.link(component).set_view(Some(server));
        Ok(())
    }

    /// Mends all that is wrong between a component and the API server. A component that has crashed stays so.
    pub fn heal(&mut self, component: &Component) {
        let link = self.link(component);
        link.set_cut(false);
        link.state().delays.clear();
        if link.view().is_some() {
            link.set_view(None);
        }
    }
}

/// A store whose watches are late, and nothing else.
#[derive(Debug)]
struct Lagging {
    store: SharedStore,
    behind: Duration,
}

#[async_trait]
impl Store for Lagging {
    async fn watch(&self, request: WatchRequest) -> Result<WatchStream> {
        let behind = self.behind;
        let batches = self.store.watch(request).await?;
        let late = batches.map(move |batch| {
            let at = coracle_clock::instant() + behind;
            async move {
                coracle_clock::sleep_until(at).await;
                batch
            }
        });
        Ok(late.buffered(1 << 16).boxed())
    }

    fn revision(&self) -> Revision {
        self.store.revision()
    }
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse> {
        self.store.range(request).await
    }
    async fn txn(&self, txn: Txn) -> Result<TxnResponse> {
        self.store.txn(txn).await
    }
    async fn compact(&self, revision: Revision) -> Result<()> {
        self.store.compact(revision).await
    }
    async fn lease_grant(&self, id: LeaseId, ttl: Duration) -> Result<LeaseId> {
        self.store.lease_grant(id, ttl).await
    }
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Duration> {
        self.store.lease_keep_alive(id).await
    }
    async fn lease_revoke(&self, id: LeaseId) -> Result<()> {
        self.store.lease_revoke(id).await
    }
    async fn lease_status(&self, id: LeaseId) -> Result<LeaseStatus> {
        self.store.lease_status(id).await
    }
    async fn leases(&self) -> Result<Vec<LeaseId>> {
        self.store.leases().await
    }
    async fn size_bytes(&self) -> Result<u64> {
        self.store.size_bytes().await
    }
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}
