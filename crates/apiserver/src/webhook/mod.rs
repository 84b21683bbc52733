//! Calls to other programs' HTTPS servers: admission and conversion webhooks.
//!
//! Both kinds of webhook are addressed by one shape, `clientConfig`: a `url`, or a `service` (namespace,
//! name, port, path), and the `caBundle` that vouches for the server. [`Webhooks::call`] posts a review
//! there and reads the answer. A Service is resolved anew for each connection ([`resolve`]); its server
//! must show a certificate for `<name>.<namespace>.svc`. Connections are kept and used again, per
//! `clientConfig` and authority.

mod conversion;
pub mod resolve;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use coracle_client::transport::{Trust, client_config, dial_error, tls_error};
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;
use tower::Service;

use crate::storage::Storage;
use crate::version;

/// No more of an answer is read than this: an object and a patch of it in base64.
const ANSWER_BYTES: usize = 8 * 1024 * 1024;
/// So many clients are kept; beyond that all start anew.
const CLIENTS: usize = 200;

type Client = legacy::Client<HttpsConnector<Dialer>, Full<Bytes>>;

/// Why a call brought no answer, worded as a Go client words it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The `clientConfig` cannot be used.
    #[error("{0}")]
    Config(String),
    /// No answer came.
    #[error("Post {url:?}: {why}")]
    Failed {
        /// Where to.
        url: String,
        /// What happened.
        why: String,
    },
    /// An answer came that is none: an error status, or no JSON.
    #[error("{0}")]
    Answer(String),
}

/// Answers in the place of the programs behind webhooks: URL and review to answer.
type StandIn = dyn Fn(&str, &Value) -> Result<Value, CallError> + Send + Sync;

/// The client of all webhooks. One per server.
pub struct Webhooks {
    storage: Weak<Storage>,
    /// By trusted authorities (base64): who trusts the same may share connections.
    clients: Mutex<BTreeMap<String, Client>>,
    stand_in: Option<Box<StandIn>>,
    conversions: conversion::Conversions,
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Webhooks")
    }
}

impl Webhooks {
    /// A client that finds Services in `storage`.
    pub fn new(storage: &Arc<Storage>) -> Arc<Self> {
        Arc::new(Self::with(Arc::downgrade(storage), None))
    }

    /// A client that calls nobody: `stand_in` answers at once. For worlds without a network, such as tests in virtual
    /// time.
    pub fn answered_by(
        stand_in: impl Fn(&str, &Value) -> Result<Value, CallError> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self::with(Weak::new(), Some(Box::new(stand_in))))
    }

    fn with(storage: Weak<Storage>, stand_in: Option<Box<StandIn>>) -> Self {
        Webhooks { storage, clients: Mutex::default(), stand_in, conversions: conversion::Conversions::default() }
    }

    /// Writes what is counted of conversions.
    pub(crate) fn metrics(&self, out: &mut String) {
        self.conversions.render(out);
    }

    /// Posts `review` to where `client_config` (a `WebhookClientConfig`) says, and answers with the JSON that
    /// comes back within `timeout`. The server is told the timeout as `?timeout=10s`.
    pub async fn call(&self, client_config: &Value, review: &Value, timeout: Duration) -> Result<Value, CallError> {
        let url = url(client_config)?;
        let separator = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{separator}timeout={}s", timeout.as_secs_f64().ceil());
        if let Some(answer) = &self.stand_in {
            return answer(&url, review);
        }
        let failed = |why: String| CallError::Failed { url: url.clone(), why };
        let client = self.client(client_config["caBundle"].as_str().unwrap_or_default())?;
        let request = Request::post(&url)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, */*")
            .header(USER_AGENT, format!("kube-apiserver-admission/{}", version::GIT_VERSION))
            .body(Full::from(review.to_string()))
            .map_err(|error| CallError::Config(error.to_string()))?;
        let exchange = async {
            let response = client.request(request).await.map_err(|error| reason(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
            Ok((status, body.map_err(|error| reason(&*error))?.to_bytes()))
        };
        match coracle_clock::timeout(timeout, exchange).await {
            Err(_) => Err(failed("context deadline exceeded".into())),
            Ok(Err(why)) => Err(failed(why)),
            Ok(Ok((status, body))) => answer(status, &body),
        }
    }

    fn client(&self, ca_bundle: &str) -> Result<Client, CallError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(ca_bundle) {
            return Ok(client.clone());
        }
        let bad = |why: &dyn fmt::Display| CallError::Config(why.to_string());
        let pem = BASE64_STANDARD.decode(ca_bundle).map_err(|e| bad(&e))?;
        let pem = String::from_utf8(pem).map_err(|e| bad(&e))?;
        let trust = if pem.is_empty() { Trust::System } else { Trust::Authorities(&pem) };
        let tls = client_config(trust, None).map_err(|e| bad(&e))?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http1()
            .enable_http2()
            .wrap_connector(Dialer(self.storage.clone()));
        let client: Client = legacy::Client::builder(TokioExecutor::new()).build(connector);
        if clients.len() >= CLIENTS {
            clients.clear();
        }
        clients.insert(ca_bundle.to_owned(), client.clone());
        Ok(client)
    }
}

/// The URL of a `clientConfig`; for a Service its name stands for the host, as in its certificate.
fn url(config: &Value) -> Result<String, CallError> {
    if let Some(url) = config["url"].as_str() {
        return Ok(url.to_owned());
    }
    let service = &config["service"];
    let text = |field: &str| service[field].as_str().unwrap_or_default();
    if text("name").is_empty() {
        return Err(CallError::Config("webhook configuration must have either service or URL".into()));
    }
    let port = service["port"].as_u64().unwrap_or(443);
    let path = text("path").trim_start_matches('/');
    Ok(format!("https://{}.{}.svc:{port}/{path}", text("name"), text("namespace")))
}

fn answer(status: StatusCode, body: &[u8]) -> Result<Value, CallError> {
    let parsed = serde_json::from_slice::<Value>(body);
    if status.is_success() {
        return parsed
            .map_err(|error| CallError::Answer(format!("couldn't get version/kind; json parse error: {error}")));
    }
    if let Ok(object) = &parsed
        && object["kind"] == "Status"
        && let Some(message) = object["message"].as_str()
    {
        return Err(CallError::Answer(message.to_owned()));
    }
    Err(CallError::Answer(match status {
        StatusCode::NOT_FOUND => "the server could not find the requested resource".into(),
        StatusCode::METHOD_NOT_ALLOWED => "the server does not allow this method on the requested resource".into(),
        status if status.is_server_error() => {
            let text = String::from_utf8_lossy(&body[..body.len().min(2048)]);
            let text = if text.trim().is_empty() { "unknown".into() } else { text };
            format!("an error on the server ({:?}) has prevented the request from succeeding", text.trim())
        }
        status => {
            format!("the server responded with the status code {} but did not return more information", status.as_u16())
        }
    }))
}

/// The innermost cause that says something, in Go's words.
fn reason(error: &(dyn Error + 'static)) -> String {
    let mut cause = Some(error);
    let mut last = error.to_string();
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return tls_error(tls);
        }
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message) {
            return "EOF".into();
        }
        last = error.to_string();
        // An io::Error passes for its inner error, whose own source alone it would tell.
        cause = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    last
}

/// Connects to a host, or to a Service by its name.
#[derive(Clone)]
struct Dialer(Weak<Storage>);

impl Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<TcpStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let storage = self.0.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let (mut address, mut port) = (host.clone(), uri.port_u16().unwrap_or(443));
            if let [name, namespace, "svc"] = host.split('.').collect::<Vec<_>>()[..]
                && let Some(storage) = storage.upgrade()
            {
                let found = resolve::service(&storage, namespace, name, port).await;
                (address, port) = found.map_err(|error| io::Error::other(error.message))?;
            }
            let stream = TcpStream::connect((address.as_str(), port)).await.map_err(|error| {
                let shown =
                    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
                io::Error::other(dial_error(&shown, &error))
            })?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(stream))
        })
    }
}
