//! The line between a client and the API server: in place of a network.
//!
//! A request takes a few milliseconds, as many as chance will have it: so requests overtake each other, and whoever
//! asks in a circle at least lets time pass. A line counts what goes over it and can fail in the ways that matter. When
//! the *server* stops, requests are refused and watches end, as TCP connections would. When the *client's* process is
//! killed, nothing that its remaining tasks still ask is ever answered: to the world it has ended at that very instant.
//! What else can be wrong with a line, and is with no process, stands in [`crate::faults`].

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use coracle_apiserver::{ApiServer, Body, UserInfo};
use coracle_kubelet::heartbeat::{Heartbeats, Watching};
use coracle_store::Revision;
use futures::StreamExt;
use http::{Method, Request, Response};
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::faults::Link;

/// Where the API server of the moment is found.
pub(crate) type Switchboard = Arc<Mutex<Option<Server>>>;

/// A running API server, and the end of its life.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) api: Arc<ApiServer>,
    pub(crate) stopped: CancellationToken,
}

/// What was asked: `system:kube-scheduler POST /api/v1/…`.
#[derive(Default)]
pub(crate) struct Asked {
    /// Nobody counts.
    pub(crate) off: bool,
    /// The last request, if nobody counts.
    pub(crate) last: String,
    /// How often.
    pub(crate) counts: BTreeMap<String, u64>,
    /// Which request made a revision, of those whose answer is the object.
    pub(crate) authors: BTreeMap<Revision, String>,
}

impl Asked {
    /// Takes a request in; whether it is counted.
    fn note(&mut self, what: &str) -> bool {
        match self.off {
            true => what.clone_into(&mut self.last),
            false => *self.counts.entry(what.to_owned()).or_default() += 1,
        }
        !self.off
    }
}

pub(crate) type Requests = Arc<Mutex<Asked>>;

/// One client's connection.
pub(crate) struct Line {
    pub(crate) server: Switchboard,
    pub(crate) user: UserInfo,
    pub(crate) requests: Requests,
    pub(crate) process: Process,
    pub(crate) link: Link,
    pub(crate) heartbeats: Heartbeats,
}

/// The process at the client's end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Process {
    /// It has ended.
    pub(crate) killed: CancellationToken,
    /// It ends with the answer to its so manieth write from now; 0: not by itself.
    pub(crate) writes_left: Arc<AtomicU64>,
    /// It ends when it is about to send its so manieth request from now; 0: not by itself.
    pub(crate) requests_left: Arc<AtomicU64>,
}

/// Counts one; whether it was the last.
fn was_last(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) == Ok(1)
}

/// A connection that did not come about, or no answer on one that did.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) &'static str);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Broken {}

const REFUSED: Broken = Broken("connection refused");

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Request<kube::client::Body>> for Line {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let query = request.uri().query().unwrap_or_default();
        let is_watch = query.contains("watch=");
        let watch = if is_watch { "?watch" } else { "" };
        let what = format!("{} {} {}{watch}", self.user.name, request.method(), request.uri().path());
        let is_write = request.method() != Method::GET;
        let from_cache = !is_write && (is_watch || query.split('&').any(|pair| pair == "resourceVersion=0"));
        let link = self.link.clone();
        let behind = if from_cache { link.view() } else { None };
        let server = behind.or_else(|| self.server.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let watched = is_watch.then(|| crate::faults::plural(request.uri().path()));
        let heartbeats = (!self.user.name.starts_with("system:")).then(|| self.heartbeats.clone());
        let (user, requests, process) = (self.user.clone(), self.requests.clone(), self.process.clone());
        Box::pin(async move {
            if was_last(&process.requests_left) {
                process.killed.cancel();
            }
            let answer = async {
                coracle_clock::sleep(Duration::from_millis(1 + coracle_clock::random_u64() % 4)).await;
                link.reach().await?;
                let Some(Server { api, stopped }) = server else { return Err(REFUSED.into()) };
                let watching = match heartbeats {
                    Some(heartbeats) => look(&heartbeats, request.method(), request.uri().path(), is_watch).await,
                    None => None,
                };
                let counted = requests.lock().unwrap_or_else(PoisonError::into_inner).note(&what);
                let mut service = api.service_as(user);
                drop(api);
                let answer = stopped.run_until_cancelled(service.call(request)).await;
                let Some(Ok(response)) = answer else { return Err(REFUSED.into()) };
                if let Some(revision) = (is_write && counted).then(|| revision(response.body())).flatten() {
                    // The first to tell of it: whoever changes nothing is answered with what there is.
                    let mut asked = requests.lock().unwrap_or_else(PoisonError::into_inner);
                    asked.authors.entry(revision).or_insert(what);
                }
                if is_write && was_last(&process.writes_left) {
                    process.killed.cancel();
                }
                link.reach().await?;
                Ok(response.map(|body| link.disturb(until(hold(body, watching), stopped), watched)))
            };
            let answer = process.killed.run_until_cancelled(answer).await;
            match answer {
                Some(answer) if !process.killed.is_cancelled() => answer,
                _ => std::future::pending().await,
            }
        })
    }
}

/// Which node's heartbeats a path shows (none: every node's), if it shows any.
fn shows(path: &str) -> Option<Option<&str>> {
    const SHOWING: [&str; 3] = [
        "/api/v1/nodes",
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases",
        "/apis/coordination.k8s.io/v1/leases",
    ];
    let below = SHOWING.iter().find_map(|prefix| path.strip_prefix(prefix))?;
    match below.split('/').collect::<Vec<_>>()[..] {
        [""] | ["", ""] => Some(None),
        ["", node] | ["", node, "status"] => Some(Some(node)),
        _ => None,
    }
}

/// Brings heartbeats up to date for somebody outside who asks to see them; for as long as it is held, if that is a watch.
pub(crate) async fn look(heartbeats: &Heartbeats, method: &Method, path: &str, is_watch: bool) -> Option<Watching> {
    let node = shows(path).filter(|_| method == Method::GET)?;
    let watching = is_watch.then(|| heartbeats.watched());
    heartbeats.look(node).await;
    watching
}

/// A body that holds something for as long as it is read.
pub(crate) fn hold(body: Body, watching: Option<Watching>) -> Body {
    match (body, watching) {
        (Body::Stream(chunks), Some(watching)) => Body::Stream(
            chunks
                .map(move |chunk| {
                    let _ = &watching;
                    chunk
                })
                .boxed(),
        ),
        (body, _) => body,
    }
}

/// The version of the object that a body is.
fn revision(body: &Body) -> Option<Revision> {
    let Body::Full(Some(bytes)) = body else { return None };
    let object: kube::core::PartialObjectMeta = serde_json::from_slice(bytes).ok()?;
    object.metadata.resource_version?.parse().ok()
}

/// A body that breaks off when the server stops.
fn until(body: Body, stopped: CancellationToken) -> Body {
    match body {
        Body::Stream(chunks) => Body::Stream(chunks.take_until(stopped.cancelled_owned()).boxed()),
        full => full,
    }
}
