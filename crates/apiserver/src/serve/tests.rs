use std::net::Ipv4Addr;
use std::path::Path;

use bytes::Bytes;
use coracle_client::transport::{self, Trust};
use http_body_util::{BodyExt, Empty};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::Body;
use crate::pki::Pki;

mod hostile;
mod streams;

const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A service that answers with the user's name.
fn whoami() -> impl Service<
    Request<Incoming>,
    Response = Response<Body>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Body>, Infallible>> + Send,
> + Clone
+ Send
+ Sync {
    tower::service_fn(|request: Request<Incoming>| async move {
        let user = request.extensions().get::<Arc<PeerCertificate>>().map(|peer| peer.user().name.clone());
        Ok(Response::new(Body::full(user.unwrap_or_else(|| "nobody".into()))))
    })
}

fn client_config(pki: &Pki, client: Option<&CertKey>, protocol: &str) -> ClientConfig {
    let identity = client.map(|pair| Identity { cert_pem: &pair.cert_pem, key_pem: &pair.key_pem });
    let mut config = transport::client_config(Trust::Authorities(pki.ca_pem()), identity).unwrap();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    config
}

async fn connect(address: SocketAddr, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Asks over TLS who we are.
async fn ask(address: SocketAddr, config: ClientConfig) -> std::io::Result<String> {
    let http2 = config.alpn_protocols[0] == b"h2";
    let io = TokioIo::new(connect(address, config).await?);
    let request = Request::get("https://localhost/").body(Empty::<Bytes>::new()).unwrap();
    let response = if http2 {
        let (mut sender, connection) = hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io)
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        sender.send_request(request).await
    } else {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(io).await.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        sender.send_request(request).await
    };
    let body = response.map_err(std::io::Error::other)?.into_body().collect().await.map_err(std::io::Error::other)?;
    Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
}

async fn start(dir: &Path) -> (Pki, SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
    start_with(dir, whoami()).await
}

async fn start_with<S>(dir: &Path, service: S) -> (Pki, SocketAddr, CancellationToken, tokio::task::JoinHandle<()>)
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let pki = Pki::ensure(dir, &[], &[]).unwrap();
    let listener = bind(LOCAL).await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let config = tls(pki.server(), pki.ca_pem()).unwrap();
    let task = tokio::spawn(serve(listener, config, service, shutdown.clone()));
    (pki, address, shutdown, task)
}

#[tokio::test]
async fn a_client_certificate_says_who_its_bearer_is_over_both_http_versions() {
    let dir = tempfile::tempdir().unwrap();
    let (pki, address, shutdown, task) = start(dir.path()).await;
    for protocol in ["h2", "http/1.1"] {
        let admin = client_config(&pki, Some(pki.admin()), protocol);
        assert_eq!(ask(address, admin).await.unwrap(), "kubernetes-admin");
        assert_eq!(ask(address, client_config(&pki, None, protocol)).await.unwrap(), "nobody");
    }
    shutdown.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_its_holder() {
    let listener = bind(LOCAL).await.unwrap();
    let address = listener.local_addr().unwrap();
    let message = bind(address).await.unwrap_err().to_string();
    assert!(message.starts_with(&format!("{address} is taken by ")), "{message}");
    if cfg!(target_os = "linux") {
        assert!(message.contains(&format!("process {} (", std::process::id())), "{message}");
    }
}
