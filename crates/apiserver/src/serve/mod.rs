//! The way in from the network: TLS listeners in front of the service.
//!
//! ```text
//! TCP accept → TLS (a client certificate is asked for, and must be the client's own)
//!            → HTTP/1.1 or HTTP/2, as ALPN settled → the service
//! ```
//!
//! What the client certificate says goes with every request of the connection, as a [`PeerCertificate`] in its
//! extensions; whether to believe it is for authentication to say.

mod cork;
mod eager;
mod holder;
mod stall;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::transport::{Identity, TransportError, peer};
use http::{Request, Response};
use http_body::Body as HttpBody;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::audit::PeerAddress;
use crate::auth::x509::PeerCertificate;
use crate::body::BoxError;
use crate::pki::CertKey;

pub use holder::Holder;

/// How long a client may take over the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take over a request's headers, or keep an HTTP/1.1 connection idle.
pub(crate) const HEADERS: Duration = Duration::from_secs(90);
/// How long open connections may go on after shutdown began: watches never end by themselves.
const GRACE: Duration = Duration::from_secs(1);
/// Streams of one HTTP/2 connection. client-go opens another connection when it has more to ask.
const STREAMS: u32 = 100;
/// How large a request's headers may be; beyond it HTTP itself answers 431.
const HEADER_BYTES: u32 = 256 * 1024;
/// HTTP/2 windows: large lists flow without waiting for the reader.
const WINDOW_BYTES: u32 = 1 << 20;

/// What Go's servers say to plain HTTP.
const NO_TLS: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Somebody else listens there.
    #[error("{address} is taken by {holder}; stop it, or choose another port with --port")]
    Taken {
        /// The address.
        address: SocketAddr,
        /// Who holds it.
        holder: Holder,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Listens on an address; port 0 lets the system choose.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ServeError::Taken { address, holder: holder::of_port(address.port()) },
        _ => ServeError::Bind { address, source },
    })
}

/// TLS as the API server speaks it: shows `server`, and asks for client certificates of the authorities in
/// `client_ca_pem`.
pub fn tls(server: &CertKey, client_ca_pem: &str) -> Result<Arc<ServerConfig>, TransportError> {
    let identity = Identity { cert_pem: &server.cert_pem, key_pem: &server.key_pem };
    peer::server_config(identity, client_ca_pem, &["h2", "http/1.1"])
}

/// Serves connections until `shutdown`, then lets requests that are under way finish for a moment.
pub async fn serve<S, B>(listener: TcpListener, tls: Arc<ServerConfig>, service: S, shutdown: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
    B: HttpBody<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let acceptor = TlsAcceptor::from(tls);
    let connections = TaskTracker::new();
    loop {
        let stream = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: others will close theirs.
                    tracing::warn!(%error, "cannot accept a connection");
                    coracle_clock::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        connections.spawn(connection(stream, acceptor.clone(), service.clone(), shutdown.clone()));
    }
    connections.close();
    connections.wait().await;
}

async fn handshake(mut stream: TcpStream, acceptor: TlsAcceptor) -> io::Result<TlsStream<TcpStream>> {
    let mut first = [0];
    stream.peek(&mut first).await?;
    if first[0].is_ascii_uppercase() {
        // What is not read would make the system reset the connection before the answer arrives.
        let _ = stream.read(&mut [0; 4096]).await?;
        stream.write_all(NO_TLS).await?;
        return Err(io::ErrorKind::InvalidData.into());
    }
    acceptor.accept(stream).await
}

async fn connection<S, B>(stream: TcpStream, acceptor: TlsAcceptor, service: S, shutdown: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
    B: HttpBody<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    // Small writes (watch events, terminal keystrokes) must not wait for one another.
    let _ = stream.set_nodelay(true);
    let address = stream.peer_addr().ok().map(|address| PeerAddress(address.ip()));
    let Ok(Ok(stream)) = coracle_clock::timeout(HANDSHAKE, handshake(stream, acceptor)).await else { return };
    let peer = stream.get_ref().1.peer_certificates().and_then(PeerCertificate::parse).map(Arc::new);
    let stream = cork::Cork::new(stall::Impatient::new(stream));
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        if let Some(address) = address {
            request.extensions_mut().insert(address);
        }
        service.clone().call(request)
    });
    let mut builder = auto::Builder::new(eager::Eager);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(HEADER_BYTES as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADER_BYTES)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .keep_alive_interval(Duration::from_secs(30));
    let serving = async {
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream.clone()), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                coracle_clock::timeout(GRACE, connection).await.unwrap_or(Ok(()))
            }
            result = connection.as_mut() => result,
        }
    };
    let result = stream.drive(serving).await;
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

#[cfg(test)]
mod tests;
