//! The API server's door for programs outside: TLS, as every cluster has it.
//!
//! Who shows a certificate of the authority that the listener trusts is the cluster's administrator. The authority is
//! none of the cluster's own, and nothing of it is stored there, so a simulation that is looked at has the same history
//! as one that is not, as long as whoever looks changes nothing, and does not look at nodes whose
//! [heartbeats](coracle_kubelet::heartbeat) are put off until somebody does.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll};

use coracle_apiserver::pki::CertKey;
use coracle_apiserver::{Body, UserInfo, serve};
use coracle_client::transport::{Identity, TransportError, peer};
use coracle_kubelet::heartbeat::Heartbeats;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::Cluster;
use crate::line::{Server, Switchboard, hold, look};

/// Whoever runs as API server at the moment.
#[derive(Clone)]
struct Front {
    server: Switchboard,
    user: UserInfo,
    heartbeats: Heartbeats,
}

impl Service<Request<Incoming>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match server {
            Some(Server { api, .. }) => {
                let (mut service, heartbeats) = (api.service_as(self.user.clone()), self.heartbeats.clone());
                Box::pin(async move {
                    let is_watch = request.uri().query().unwrap_or_default().contains("watch=");
                    let watching = look(&heartbeats, request.method(), request.uri().path(), is_watch).await;
                    Ok(service.call(request).await?.map(|body| hold(body, watching)))
                })
            }
            None => {
                let mut response = Response::new(Body::full("the API server is down: the scenario has it so\n"));
                *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
                Box::pin(async { Ok(response) })
            }
        }
    }
}

impl Cluster {
    /// Serves the API to whoever shows a certificate of the authority in `client_ca_pem`, as the administrator; shows
    /// `server` to them. It goes on until the cluster's end.
    ///
    /// # Errors
    /// The certificates are none.
    pub fn serve(&self, listener: TcpListener, server: &CertKey, client_ca_pem: &str) -> Result<(), TransportError> {
        let identity = Identity { cert_pem: &server.cert_pem, key_pem: &server.key_pem };
        let tls = peer::mutual_server_config(identity, client_ca_pem, &["h2", "http/1.1"])?;
        let user = UserInfo::new("kubernetes-admin", &["kubeadm:cluster-admins"]);
        let front = Front { server: self.switchboard(), user, heartbeats: self.heartbeats.clone() };
        tokio::spawn(serve::serve(listener, tls, front, CancellationToken::new()));
        Ok(())
    }
}
