//! The way to the cluster: a connection to one member, and to the next one when that fails.
//!
//! Whether a call may be made again is for the caller to say. A read may. Of a write whose answer was lost nobody
//! knows whether it happened, and to do it twice can be wrong: that is an error, and whoever asked looks for himself.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use coracle_client::transport::{self, Identity, Trust, dial_error};
use coracle_store::{Result, Revision, StoreError};
use http::Uri;
use http::uri::PathAndQuery;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::EtcdConfig;
use crate::proto;
use crate::wire::refused;

/// How long a member may take to accept a connection and tell how it is.
const DIAL: Duration = Duration::from_secs(3);
/// How long it may take for one answer.
const ANSWER: Duration = Duration::from_secs(30);
/// For how long a call that may be repeated is.
const PATIENCE: Duration = Duration::from_secs(10);
/// The rest between attempts when no member answers.
pub(super) const RETRY: Duration = Duration::from_millis(200);
/// A member that owes an answer and is silent is asked so often whether it is there (etcd bears no more than every
/// five seconds), and given up after as long again.
const PING: Duration = Duration::from_secs(6);

/// A member's address.
#[derive(Clone, Debug)]
struct Endpoint {
    /// As a URI without a path.
    origin: Uri,
    /// As `host:port`.
    address: String,
}

/// A connection to a member that answered.
#[derive(Clone)]
pub(super) struct Connection {
    wire: SendRequest<Body>,
    endpoint: Endpoint,
    /// Whether what it says of a watch's progress is true: see [`tells_progress`].
    pub(super) tells_progress: bool,
}

/// The members, and what is known of them.
pub(super) struct Cluster {
    endpoints: Vec<Endpoint>,
    tls: Option<TlsConnector>,
    /// The connection that calls share. Who finds it broken makes a new one, and everybody else waits.
    shared: Mutex<Option<Connection>>,
    /// Which member is next.
    turn: AtomicUsize,
    /// The newest revision seen.
    revision: AtomicI64,
    pub(super) closed: CancellationToken,
}

impl Cluster {
    pub(super) fn new(config: &EtcdConfig) -> Result<Cluster> {
        let endpoints: Vec<_> =
            config.endpoints.iter().map(|text| endpoint(text, config.is_secure())).collect::<Result<_>>()?;
        if endpoints.is_empty() {
            return Err(StoreError::Engine("there is no etcd endpoint".into()));
        }
        let tls = match endpoints.iter().any(Endpoint::is_secure) {
            true => Some(tls(config).map_err(|error| StoreError::Engine(format!("etcd's certificates: {error}")))?),
            false => None,
        };
        Ok(Cluster {
            endpoints,
            tls,
            shared: Mutex::default(),
            turn: AtomicUsize::new(0),
            revision: AtomicI64::new(0),
            closed: CancellationToken::new(),
        })
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision.load(Ordering::Acquire)
    }

    /// Notes how far the store is.
    pub(super) fn seen(&self, revision: Revision) -> Revision {
        self.revision.fetch_max(revision, Ordering::AcqRel);
        revision
    }

    /// A new connection to the first member that answers, from that on whose turn it is.
    pub(super) async fn dial(&self) -> Result<Connection> {
        let first = self.turn.load(Ordering::Relaxed);
        let mut faults = Vec::new();
        for turn in first..first + self.endpoints.len() {
            let endpoint = &self.endpoints[turn % self.endpoints.len()];
            let dialed = coracle_clock::timeout(DIAL, self.dial_one(endpoint)).await;
            match dialed.unwrap_or_else(|_| Err("i/o timeout".into())) {
                Ok(connection) => return Ok(connection),
                Err(why) => faults.push(format!("{}: {why}", endpoint.origin)),
            }
            self.next_turn(endpoint);
        }
        Err(StoreError::Engine(format!("no etcd answers: {}", faults.join("; "))))
    }

    async fn dial_one(&self, endpoint: &Endpoint) -> Result<Connection, String> {
        let dial_error = |error| dial_error(&endpoint.address, &error);
        let stream = TcpStream::connect(&endpoint.address).await.map_err(dial_error)?;
        stream.set_nodelay(true).map_err(dial_error)?;
        let wire = match (&self.tls, endpoint.is_secure()) {
            (Some(tls), true) => {
                let host = endpoint.origin.host().unwrap_or_default().trim_matches(['[', ']']);
                let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
                handshake(tls.connect(name, stream).await.map_err(dial_error)?).await
            }
            _ => handshake(stream).await,
        };
        let wire = wire.map_err(|error| said(&error))?;
        let mut connection = Connection { wire, endpoint: endpoint.clone(), tells_progress: false };
        let status: proto::StatusResponse =
            connection.unary("Maintenance/Status", proto::Empty {}).await.map_err(|status| said(&status))?;
        if status.leader == 0 {
            return Err("the member knows no leader".into());
        }
        connection.tells_progress = tells_progress(&status.version);
        self.seen(status.header.map_or(0, |header| header.revision));
        Ok(connection)
    }

    /// The member failed; the next is asked, unless somebody saw to that already.
    fn next_turn(&self, failed: &Endpoint) {
        let turn = self.turn.load(Ordering::Relaxed);
        if self.endpoints[turn % self.endpoints.len()].address == failed.address {
            _ = self.turn.compare_exchange(turn, turn + 1, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// The member behind this connection failed.
    pub(super) fn failed(&self, connection: &Connection) {
        self.next_turn(&connection.endpoint);
    }

    async fn shared(&self) -> Result<Connection> {
        let mut shared = self.shared.lock().await;
        match &*shared {
            // After a failure it is the next one's turn, even if the connection itself seems well.
            Some(connection) if !connection.wire.is_closed() && self.is_its_turn(connection) => Ok(connection.clone()),
            _ => Ok(shared.insert(self.dial().await?).clone()),
        }
    }

    fn is_its_turn(&self, connection: &Connection) -> bool {
        let turn = self.turn.load(Ordering::Relaxed) % self.endpoints.len();
        self.endpoints.len() == 1 || self.endpoints[turn].address == connection.endpoint.address
    }

    /// One question, one answer; asked again after a failure only if it may be `repeated`. A refusal of the store's is
    /// as bare as the wire has it: see [`refused`].
    pub(super) async fn call<Q, A>(&self, method: &'static str, request: Q, repeated: bool) -> Result<A>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let attempts = async {
            let since = coracle_clock::instant();
            loop {
                let failure = match self.shared().await {
                    Ok(connection) => {
                        let answer = coracle_clock::timeout(ANSWER, connection.unary(method, request.clone())).await;
                        let status = match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("i/o timeout"))) {
                            Ok(answer) => return Ok(answer),
                            Err(status) => status,
                        };
                        if !is_failure(&status) {
                            return Err(refused(&status));
                        }
                        self.failed(&connection);
                        let (origin, why) = (&connection.endpoint.origin, said(&status));
                        if !repeated {
                            let unknown = format!("etcd {origin}: {why}; whether the change was made is not known");
                            return Err(StoreError::Engine(unknown));
                        }
                        StoreError::Engine(format!("etcd {origin}: {why}"))
                    }
                    // Nobody was asked, so nothing happened.
                    Err(failure) => failure,
                };
                if since.elapsed() >= PATIENCE {
                    return Err(failure);
                }
                coracle_clock::sleep(RETRY).await;
            }
        };
        self.closed.run_until_cancelled(attempts).await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Connection {
    async fn unary<Q, A>(&self, method: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let codec = ProstCodec::<Q, A>::default();
        Ok(self.grpc().unary(led(request), path(method), codec).await?.into_inner())
    }

    /// A stream of questions, a stream of answers.
    pub(super) async fn streaming<Q, A>(
        &self,
        method: &'static str,
        requests: impl futures::Stream<Item = Q> + Send + 'static,
    ) -> Result<Streaming<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let codec = ProstCodec::<Q, A>::default();
        Ok(self.grpc().streaming(led(requests), path(method), codec).await?.into_inner())
    }

    fn grpc(
        &self,
    ) -> Grpc<
        impl tower::Service<
            http::Request<Body>,
            Response = http::Response<hyper::body::Incoming>,
            Error = hyper::Error,
            Future = impl Future<Output = hyper::Result<http::Response<hyper::body::Incoming>>> + Send,
        >,
    > {
        let mut wire = self.wire.clone();
        let service = service_fn(move |request| wire.send_request(request));
        Grpc::with_origin(service, self.endpoint.origin.clone()).max_decoding_message_size(usize::MAX)
    }
}

fn path(method: &'static str) -> PathAndQuery {
    let path = format!("/etcdserverpb.{method}");
    PathAndQuery::from_maybe_shared(path).expect("a method's name is a path")
}

/// A request that a member answers only while it knows a leader, instead of leaving it waiting for one.
fn led<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
    request
}

async fn handshake(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> hyper::Result<SendRequest<Body>> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PING);
    let (wire, connection) = builder.handshake(TokioIo::new(stream)).await?;
    // It ends with the last of those who can send.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = said(&error), "the connection to etcd broke");
        }
    });
    Ok(wire)
}

/// Whether a member has failed, or the way to it, rather than refused.
fn is_failure(status: &Status) -> bool {
    use Code::{Cancelled, DeadlineExceeded, Internal, Unavailable, Unknown};
    matches!(status.code(), Cancelled | DeadlineExceeded | Internal | Unavailable | Unknown)
}

/// The innermost reason: those around it say only that there was an error.
fn said(error: &(dyn Error + 'static)) -> String {
    if let Some(status) = error.downcast_ref::<Status>()
        && status.source().is_none()
    {
        return status.message().to_owned();
    }
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

/// Before 3.4.31 and 3.5.13, an answer to how far a watch is could overtake the changes it speaks of.
fn tells_progress(version: &str) -> bool {
    let mut numbers = version.split(['.', '-', '+']).map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    match (next(), next(), next()) {
        (3, 4, patch) => patch >= 31,
        (3, 5, patch) => patch >= 13,
        version => version >= (3, 6, 0),
    }
}

impl Endpoint {
    fn is_secure(&self) -> bool {
        self.origin.scheme_str() == Some("https")
    }
}

/// `host:port`, with a scheme or without.
fn endpoint(text: &str, secure: bool) -> Result<Endpoint> {
    let scheme = if secure { "https" } else { "http" };
    let full = if text.contains("://") { text.to_owned() } else { format!("{scheme}://{text}") };
    let parse = || {
        let uri: Uri = full.parse().ok()?;
        let known = matches!(uri.scheme_str(), Some("http" | "https")) && matches!(uri.path(), "" | "/");
        let address = format!("{}:{}", uri.host()?, uri.port_u16().unwrap_or(2379));
        known.then_some(Endpoint { origin: uri, address })
    };
    parse().ok_or_else(|| StoreError::Engine(format!("an etcd endpoint is http(s)://host:port, not {text:?}")))
}

fn tls(config: &EtcdConfig) -> Result<TlsConnector, transport::TransportError> {
    let trust = config.ca_pem.as_deref().map_or(Trust::System, Trust::Authorities);
    let identity = config.identity.as_ref().map(|(cert_pem, key_pem)| Identity { cert_pem, key_pem });
    let mut tls = transport::client_config(trust, identity)?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(tls).into())
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints: Vec<_> = self.endpoints.iter().map(|endpoint| endpoint.origin.to_string()).collect();
        f.debug_struct("Cluster").field("endpoints", &endpoints).field("revision", &self.revision()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_have_a_scheme_or_get_one() {
        let table = [
            ("a:2379", false, Some(("http", "a:2379"))),
            ("a:2379", true, Some(("https", "a:2379"))),
            ("http://a:1/", true, Some(("http", "a:1"))),
            ("https://[::1]", false, Some(("https", "[::1]:2379"))),
            ("unix:///etcd", false, None),
            ("http://a/b", false, None),
            ("", false, None),
        ];
        for (text, secure, expected) in table {
            let found = endpoint(text, secure).ok();
            let found = found.as_ref().map(|found| (found.origin.scheme_str().unwrap(), &found.address[..]));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn only_newer_etcds_are_believed_about_progress() {
        for (version, expected) in [
            ("3.4.23", false),
            ("3.4.31", true),
            ("3.5.12", false),
            ("3.5.13", true),
            ("3.6.0-rc.1", true),
            ("", false),
        ] {
            assert_eq!(tells_progress(version), expected, "{version}");
        }
    }
}
