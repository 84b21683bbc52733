//! A small HTTPS server of a test's own, and the objects that make it a Service.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use base64::Engine;
use coracle_apiserver::auth::x509::PeerCertificate;
use coracle_apiserver::pki::{LeafSpec, Pki};
use coracle_apiserver::{Body, serve};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What a server answers: code and body, from path, query and body.
pub type Handler = dyn Fn(&str, Value) -> (u16, Value) + Send + Sync;

/// A request that was answered.
#[derive(Clone, Debug)]
struct Seen {
    path: String,
    body: Value,
    headers: HeaderMap,
    /// The common name of the client's certificate, if it showed one.
    peer: String,
}

/// A server on a free port of this machine. Gone when dropped.
pub struct HttpsServer {
    pub port: u16,
    pub ca_pem: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    _stop: DropGuard,
    _dir: tempfile::TempDir,
}

impl HttpsServer {
    /// Shows a certificate for `name`.
    pub async fn start(name: &str, handler: impl Fn(&str, Value) -> (u16, Value) + Send + Sync + 'static) -> Self {
        Self::start_for(name, "", handler).await
    }

    /// Shows a certificate for `name`, and takes client certificates that an authority in `client_ca_pem` signed.
    pub async fn start_for(
        name: &str,
        client_ca_pem: &str,
        handler: impl Fn(&str, Value) -> (u16, Value) + Send + Sync + 'static,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::ensure(dir.path(), &[], &[]).unwrap();
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let leaf = LeafSpec { common_name: name.into(), names: vec![name.into()], server: true, ..LeafSpec::default() };
        let listener = serve::bind(SocketAddr::new(local, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tls = serve::tls(&pki.issue(&leaf).unwrap(), &format!("{}{client_ca_pem}", pki.ca_pem())).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (handler, log): (Arc<Handler>, _) = (Arc::new(handler), seen.clone());
        let service = tower::service_fn(move |request: Request<Incoming>| {
            let (handler, log) = (handler.clone(), log.clone());
            async move {
                let path = request.uri().path_and_query().unwrap().to_string();
                let headers = request.headers().clone();
                let peer = request.extensions().get::<Arc<PeerCertificate>>().map(|peer| peer.user().name.clone());
                let bytes = request.into_body().collect().await.unwrap().to_bytes();
                let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                let peer = peer.unwrap_or_default();
                log.lock().unwrap().push(Seen { path: path.clone(), body: body.clone(), headers, peer });
                if path.starts_with("/slow") {
                    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
                }
                let (code, answer) = handler(&path, body);
                let text = answer.as_str().map_or_else(|| answer.to_string(), str::to_owned);
                let mut response = Response::new(Body::full(text));
                *response.status_mut() = StatusCode::from_u16(code).unwrap();
                Ok::<_, Infallible>(response)
            }
        });
        let stop = CancellationToken::new();
        tokio::spawn(serve::serve(listener, tls, service, stop.clone()));
        HttpsServer { port, ca_pem: pki.ca_pem().to_owned(), seen, _stop: stop.drop_guard(), _dir: dir }
    }

    pub fn ca_bundle(&self) -> String {
        base64::prelude::BASE64_STANDARD.encode(&self.ca_pem)
    }

    /// The requests so far: path with query, and body.
    pub fn requests(&self) -> Vec<(String, Value)> {
        self.seen.lock().unwrap().iter().map(|seen| (seen.path.clone(), seen.body.clone())).collect()
    }

    fn seen(&self, path: &str) -> Seen {
        self.seen.lock().unwrap().iter().find(|seen| seen.path == path).cloned().unwrap()
    }

    /// The headers of the first request for a path.
    pub fn headers_of(&self, path: &str) -> HeaderMap {
        self.seen(path).headers
    }

    /// The common name of who sent the first request for a path.
    pub fn peer_of(&self, path: &str) -> String {
        self.seen(path).peer
    }

    /// A `clientConfig` for a Service and a path.
    pub fn client_config(&self, namespace: &str, name: &str, path: &str) -> Value {
        json!({
            "service": { "namespace": namespace, "name": name, "path": path, "port": 8443 },
            "caBundle": self.ca_bundle(),
        })
    }
}

/// A Service without selector, port 8443, and its EndpointSlice with one local port.
pub fn service_objects(namespace: &str, name: &str, port: u16) -> (Value, Value) {
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "ports": [{ "name": "https", "port": 8443, "targetPort": port }] },
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{name}-1"), "namespace": namespace,
            "labels": { "kubernetes.io/service-name": name },
        },
        "addressType": "IPv4",
        // Endpoints on loopback are for tests: validation refuses them in the API.
        "endpoints": [{ "addresses": ["127.0.0.1"], "conditions": { "ready": true } }],
        "ports": [{ "name": "https", "port": port }],
    });
    (service, slice)
}
