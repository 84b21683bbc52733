//! The kubelet's HTTPS server: what the API server asks a node for on behalf of `kubectl logs`, `exec`, `attach`,
//! `cp`, `port-forward` and `top`.
//!
//! | path | answers |
//! |---|---|
//! | `/healthz` | `ok`, to everybody |
//! | `/pods`, `/runningpods` | the node's pods as wanted, and as they run |
//! | `/containerLogs/{namespace}/{pod}/{container}` | a log |
//! | `/exec/{namespace}/{pod}/{container}`, `/attach/…` | a session ([`streaming`]) |
//! | `/portForward/{namespace}/{pod}` | connections to a pod |
//! | `/metrics` | what this process' clients and queues count |
//! | `/stats/summary`, `/metrics/resource` | what pods use |
//!
//! The server knows containers only by id: [`PodLookup`] says which one a request means, the
//! [`Runtime`] does the rest. Clients are known by certificates of the cluster's CA, or by tokens of the cluster; what
//! they may, it says, too ([`access`]).

mod access;
mod logs;
mod lookup;
mod query;
mod routes;
pub mod spdy;
mod stats;
mod streaming;
mod tls;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::transport::peer::Authorities;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::tls::Client;

pub use lookup::{LookupError, PodLookup};
pub use routes::{Body, Routes};
pub use stats::Meter;
pub use tls::ServerCertificate;

/// How long a client may take to agree on TLS, and to send a request's head.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The wait after a failure to accept, which is mostly for want of file descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// What a server needs.
pub struct Server {
    /// The node's identity and whom it trusts.
    pub certificate: ServerCertificate,
    /// What it answers.
    pub routes: Routes,
}

impl Server {
    /// Serves until told to stop. Sessions that are open then are cut off.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
        let acceptor = TlsAcceptor::from(self.certificate.server_config()?);
        let routes = Arc::new(self.routes);
        let authorities = self.certificate.authorities()?;
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let Ok((connection, _)) = accepted else {
                coracle_clock::sleep(ACCEPT_BACKOFF).await;
                continue;
            };
            let (acceptor, routes, shutdown) = (acceptor.clone(), routes.clone(), shutdown.clone());
            let authorities = authorities.clone();
            connections.spawn(async move {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => {}
                    served = serve_connection(connection, acceptor, authorities, routes) => {
                        if let Err(error) = served {
                            tracing::debug!(%error, "a connection broke");
                        }
                    }
                }
            });
        }
        connections.close();
        connections.wait().await;
        Ok(())
    }
}

async fn serve_connection(
    connection: TcpStream,
    acceptor: TlsAcceptor,
    authorities: Authorities,
    routes: Arc<Routes>,
) -> io::Result<()> {
    // Keystrokes do not wait for company.
    connection.set_nodelay(true)?;
    let connection = coracle_clock::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(connection)).await??;
    let client = connection.get_ref().1.peer_certificates().and_then(Client::of).map(Arc::new);
    let service = service_fn(move |request: Request<Incoming>| {
        let (routes, client, authorities) = (routes.clone(), client.clone(), authorities.clone());
        async move {
            let known = client.as_ref().and_then(|client| client.known_to(&authorities));
            Ok::<_, std::convert::Infallible>(routes.answer(request, known).await)
        }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_TIMEOUT)
        .serve_connection(TokioIo::new(connection), service)
        .with_upgrades()
        .await
        .map_err(io::Error::other)
}
