//! Passing a request on: connect, send, and either stream the answer back or, after an upgrade, splice
//! the two connections so that neither side sees that somebody is between.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use coracle_api::ApiError;
use coracle_client::transport::dial_error;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::target::Target;
use crate::body::{Body, RequestBody};

const CONNECT: Duration = Duration::from_secs(10);

/// TLS to a target.
#[derive(Clone, Debug)]
pub struct Secure {
    /// Whom to trust, and what to show.
    pub config: Arc<ClientConfig>,
    /// The name in the target's certificate.
    pub server_name: String,
}

/// Headers that are about one connection, not about the message (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Anything bytes flow through both ways.
trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// The refusal when the target cannot be reached, worded as a Go client words it.
pub fn unreachable(method: &http::Method, target: &Target, why: &dyn std::fmt::Display) -> ApiError {
    let mut verb = method.as_str().to_ascii_lowercase();
    if let Some(first) = verb.get_mut(0..1) {
        first.make_ascii_uppercase();
    }
    let message = format!("{verb} {:?}: {why}", target.url());
    ApiError { code: 500, reason: "", message, details: serde_json::Value::Null }
}

async fn connect(target: &Target, secure: Option<Secure>) -> io::Result<Box<dyn Io>> {
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await?;
    stream.set_nodelay(true)?;
    let Some(Secure { config, server_name }) = secure else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(server_name).map_err(io::Error::other)?;
    Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?))
}

/// What of the client's headers goes on. Credentials were for us.
fn forwarded_headers(headers: &HeaderMap, upgrade: bool) -> HeaderMap {
    let mut out = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let ours = name == header::HOST || name == header::AUTHORIZATION || name.as_str().starts_with("impersonate-");
        if !ours && (upgrade || !HOP_BY_HOP.contains(name)) {
            out.append(name, value.clone());
        }
    }
    out
}

/// Sends `request` to `target`, over TLS if it is `secure`, and answers with what comes back.
///
/// # Errors
/// Why nothing came back, as Go's clients word it.
pub async fn forward(
    target: &Target,
    secure: Option<Secure>,
    request: Request<RequestBody>,
) -> Result<Response<Body>, String> {
    let (mut parts, body) = request.into_parts();
    let client = parts.extensions.remove::<OnUpgrade>();
    let upgrade = client.is_some() && parts.headers.contains_key(header::UPGRADE);

    let stream = match coracle_clock::timeout(CONNECT, connect(target, secure)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(dial_error(&target.authority(), &error)),
        Err(_) => return Err(dial_error(&target.authority(), &io::ErrorKind::TimedOut.into())),
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection ended");
        }
    });

    let mut outgoing = Request::new(body);
    *outgoing.method_mut() = parts.method;
    *outgoing.uri_mut() = target.path.parse().map_err(|e| format!("{}: {e}", target.path))?;
    *outgoing.headers_mut() = forwarded_headers(&parts.headers, upgrade);
    let host = HeaderValue::from_str(&target.authority()).map_err(|e| e.to_string())?;
    outgoing.headers_mut().insert(header::HOST, host);
    let mut response = sender.send_request(outgoing).await.map_err(|e| e.to_string())?;

    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = client else {
            return Err("the backend switched protocols without having been asked".into());
        };
        let backend = hyper::upgrade::on(&mut response);
        tokio::spawn(splice(client, backend));
        return Ok(Response::from_parts(response.into_parts().0, Body::empty()));
    }
    let (mut parts, body) = response.into_parts();
    for name in &HOP_BY_HOP {
        parts.headers.remove(name);
    }
    Ok(Response::from_parts(parts, Body::forward(body)))
}

/// A stream whose peer may leave without TLS' goodbye. What was said until then still counts, and the
/// other side must be told of the end in good order; what flows here marks its own end.
struct Abrupt<T>(T);

impl<T: AsyncRead + Unpin> AsyncRead for Abrupt<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.0).poll_read(cx, buf)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Abrupt<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Copies bytes both ways until both sides are done.
async fn splice(client: OnUpgrade, backend: OnUpgrade) {
    let (client, backend) = match tokio::try_join!(client, backend) {
        Ok(pair) => pair,
        Err(error) => {
            tracing::debug!(%error, "an upgrade did not happen");
            return;
        }
    };
    let (mut client, mut backend) = (Abrupt(TokioIo::new(client)), Abrupt(TokioIo::new(backend)));
    let result = tokio::io::copy_bidirectional(&mut client, &mut backend).await;
    if let Err(error) = result {
        tracing::debug!(%error, "an upgraded connection broke off");
    }
}
