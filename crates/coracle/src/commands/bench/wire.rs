//! A client that costs little, so that what is measured is the server: HTTP over TLS, without kube's layers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::ConfigExt;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A server to drive.
#[derive(Clone)]
pub struct Target {
    address: String,
    host: String,
    token: Option<String>,
    tls: Arc<ClientConfig>,
}

/// How many requests ran, how long all took, and how long each.
pub struct Phase {
    pub took: Duration,
    times: Vec<Duration>,
}

impl Phase {
    pub fn new(took: Duration, mut times: Vec<Duration>) -> Self {
        times.sort();
        Phase { took, times }
    }

    pub fn rate(&self) -> f64 {
        self.times.len() as f64 / self.took.as_secs_f64()
    }

    /// The time that so many of a hundred requests do not exceed.
    pub fn percentile(&self, percent: usize) -> Duration {
        let last = self.times.len().saturating_sub(1);
        self.times.get((self.times.len() * percent / 100).min(last)).copied().unwrap_or_default()
    }

    pub fn line(&self, what: &str) -> String {
        let ms = |percent| self.percentile(percent).as_secs_f64() * 1e3;
        format!("{what}: {:.0}/s; p50 {:.2} ms, p99 {:.2} ms", self.rate(), ms(50), ms(99))
    }
}

impl Target {
    pub fn new(config: &kube::Config) -> anyhow::Result<Self> {
        let host = config.cluster_url.host().context("the server's URL has no host")?.to_owned();
        let port = config.cluster_url.port_u16().unwrap_or(443);
        // The one way to a secret's text that needs no other crate.
        let token = serde_json::to_value(&config.auth_info)?["token"].as_str().map(str::to_owned);
        let tls = Arc::new(config.rustls_client_config()?);
        Ok(Target { address: format!("{host}:{port}"), host, token, tls })
    }

    async fn connect(&self, protocol: &str) -> anyhow::Result<TokioIo<TlsStream<TcpStream>>> {
        let mut tls = ClientConfig::clone(&self.tls);
        tls.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(self.host.clone())?;
        Ok(TokioIo::new(TlsConnector::from(Arc::new(tls)).connect(name, stream).await?))
    }

    pub async fn http1(&self) -> anyhow::Result<http1::SendRequest<Full<Bytes>>> {
        let (sender, connection) = http1::handshake(self.connect("http/1.1").await?).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    pub async fn http2(&self) -> anyhow::Result<http2::SendRequest<Full<Bytes>>> {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), self.connect("h2").await?).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    pub fn request(&self, method: &str, path: &str, body: impl Into<Bytes>) -> anyhow::Result<Request<Full<Bytes>>> {
        // HTTP/2 wants the authority in the URL, HTTP/1.1 takes it there, too.
        let mut request = Request::builder().method(method).uri(format!("https://{}{path}", self.address));
        request = request.header("host", &self.host).header("content-type", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        Ok(request.body(Full::new(body.into()))?)
    }

    /// Sends `count` requests over `connections` connections, as fast as they are answered.
    pub async fn drive<F>(&self, connections: usize, count: usize, make: F) -> anyhow::Result<Phase>
    where
        F: Fn(&Target, usize) -> anyhow::Result<Request<Full<Bytes>>> + Send + Sync + 'static,
    {
        let (make, next) = (Arc::new(make), Arc::new(AtomicUsize::new(0)));
        let mut senders = Vec::new();
        for _ in 0..connections {
            senders.push(self.http1().await?);
        }
        let start = coracle_clock::instant();
        let workers = senders.into_iter().map(|mut sender| {
            let (target, make, next) = (self.clone(), make.clone(), next.clone());
            tokio::spawn(async move {
                let mut times = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return anyhow::Ok(times);
                    }
                    let request = make(&target, number)?;
                    let begin = coracle_clock::instant();
                    sender.ready().await?;
                    read(sender.send_request(request).await?).await?;
                    times.push(begin.elapsed());
                }
            })
        });
        let mut times = Vec::new();
        for worker in workers.collect::<Vec<_>>() {
            times.extend(worker.await??);
        }
        Ok(Phase::new(start.elapsed(), times))
    }
}

/// Reads an answer to its end: its size. A refusal is an error.
pub async fn read(response: Response<Incoming>) -> anyhow::Result<usize> {
    let status = response.status();
    let mut body = response.into_body();
    if !status.is_success() {
        bail!("{status}: {}", String::from_utf8_lossy(&body.collect().await?.to_bytes()));
    }
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        size += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(size)
}
