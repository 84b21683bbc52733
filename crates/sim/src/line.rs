//! The line between a client and the API server: in place of a network.
//!
//! A request takes a few milliseconds, as many as chance will have it: so requests overtake each other, and whoever
//! asks in a circle at least lets time pass. A line counts what goes over it and can fail in the two ways that matter. When the *server* stops, requests are
//! refused and watches end, as TCP connections would. When the *client's* process is killed, nothing that its
//! remaining tasks still ask is ever answered: to the world it has ended at that very instant.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use coracle_apiserver::{ApiServer, Body, UserInfo};
use futures::StreamExt;
use http::{Method, Request, Response};
use tokio_util::sync::CancellationToken;
use tower::Service;

/// Where the API server of the moment is found.
pub(crate) type Switchboard = Arc<Mutex<Option<Server>>>;

/// A running API server, and the end of its life.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) api: Arc<ApiServer>,
    pub(crate) stopped: CancellationToken,
}

/// How many requests there were, by who asked and what: `system:kube-scheduler POST /api/v1/…`.
pub(crate) type Requests = Arc<Mutex<BTreeMap<String, u64>>>;

/// One client's connection.
pub(crate) struct Line {
    pub(crate) server: Switchboard,
    pub(crate) user: UserInfo,
    pub(crate) requests: Requests,
    pub(crate) process: Process,
}

/// The process at the client's end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Process {
    /// It has ended.
    pub(crate) killed: CancellationToken,
    /// It ends with the answer to its so manieth write from now; 0: not by itself.
    pub(crate) writes_left: Arc<AtomicU64>,
}

impl Process {
    /// Counts a write; whether it was the last.
    fn wrote_its_last(&self) -> bool {
        let counted = self.writes_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        counted == Ok(1)
    }
}

#[derive(Debug)]
struct Refused;

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("connection refused")
    }
}

impl std::error::Error for Refused {}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Request<kube::client::Body>> for Line {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let watch = if request.uri().query().is_some_and(|query| query.contains("watch=")) { "?watch" } else { "" };
        let what = format!("{} {} {}{watch}", self.user.name, request.method(), request.uri().path());
        let (user, requests, process) = (self.user.clone(), self.requests.clone(), self.process.clone());
        let is_write = request.method() != Method::GET;
        Box::pin(async move {
            if process.killed.is_cancelled() {
                return std::future::pending().await;
            }
            coracle_clock::sleep(Duration::from_millis(1 + coracle_clock::random_u64() % 4)).await;
            let Some(Server { api, stopped }) = server else { return Err(Refused.into()) };
            *requests.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += 1;
            let mut service = api.service_as(user);
            drop(api);
            tokio::select! {
                biased;
                () = process.killed.cancelled() => std::future::pending().await,
                () = stopped.cancelled() => Err(Refused.into()),
                answer = service.call(request) => {
                    let Ok(response) = answer;
                    if is_write && process.wrote_its_last() {
                        process.killed.cancel();
                        return std::future::pending().await;
                    }
                    Ok(response.map(|body| until(body, stopped.clone())))
                }
            }
        })
    }
}

/// A body that breaks off when the server stops.
fn until(body: Body, stopped: CancellationToken) -> Body {
    match body {
        Body::Stream(chunks) => Body::Stream(chunks.take_until(stopped.cancelled_owned()).boxed()),
        full => full,
    }
}
