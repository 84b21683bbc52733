//! A kubelet's server with nothing behind it: one pod `web` with the container `main`, run by a runtime whose commands
//! are played by this file.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_kubelet::runtime::*;
use coracle_kubelet::server::{LookupError, PodLookup, Routes, Server, ServerCertificate};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

/// Plays commands: `cat` copies, `size` tells terminal sizes, `exit N` ends with N and a word on both outputs.
pub struct FakeRuntime;

fn no<T>() -> Result<T> {
    Err(RuntimeError::Other("not played".into()))
}

fn chunk(stream: OutputStream, data: impl Into<Bytes>) -> Result<OutputChunk> {
    Ok(OutputChunk { stream, data: data.into() })
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn exec(&self, _: &str, options: &ExecOptions) -> Result<Session> {
        let (stdin, mut input) = tokio::io::duplex(1024);
        let (resize, mut sizes) = tokio::sync::mpsc::channel(4);
        let words: Vec<&str> = options.command.iter().map(String::as_str).collect();
        let (output, code): (BoxStream<'static, _>, i32) = match words[..] {
            ["cat"] => {
                let copied = async move {
                    let mut all = Vec::new();
                    input.read_to_end(&mut all).await.unwrap();
                    chunk(OutputStream::Stdout, all)
                };
                (stream::once(copied).boxed(), 0)
            }
            ["size"] => {
                let size = async move {
                    let TerminalSize { width, height } = sizes.recv().await.unwrap();
                    chunk(OutputStream::Stdout, format!("{width}x{height}"))
                };
                (stream::once(size).boxed(), 0)
            }
            ["exit", code] => {
                let said = [chunk(OutputStream::Stdout, "out"), chunk(OutputStream::Stderr, "err")];
                (stream::iter(said).boxed(), code.parse().unwrap())
            }
            _ => return no(),
        };
        let stdin = options.stdin.then(|| Box::pin(stdin) as _);
        Ok(Session { stdin, output, resize, exit_code: async move { Ok(code) }.boxed() })
    }

    async fn attach(&self, id: &str, options: &ExecOptions) -> Result<Session> {
        self.exec(id, &ExecOptions { command: vec!["exit".into(), "9".into()], ..options.clone() }).await
    }

    async fn port_forward(&self, _: &str, port: u16) -> Result<Box<dyn ByteStream>> {
        if port == 1 {
            return Err(RuntimeError::Other("connection refused".into()));
        }
        // A server that shouts back.
        let (near, far) = tokio::io::duplex(64);
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(far);
            let mut buffer = [0; 64];
            while let Ok(count @ 1..) = read.read(&mut buffer).await {
                buffer[..count].make_ascii_uppercase();
                write.write_all(&buffer[..count]).await.unwrap();
            }
        });
        Ok(Box::new(near))
    }

    async fn logs(&self, id: &str, options: &LogOptions) -> Result<BoxStream<'static, Result<LogChunk>>> {
        let line = |text: String| {
            Ok(LogChunk {
                stream: OutputStream::Stdout,
                at: Some("2026-01-01T00:00:00Z".parse().unwrap()),
                data: text.into(),
            })
        };
        let lines = stream::iter([line(format!("{id} 1\n")), line("2\n".into())]);
        Ok(if options.follow { lines.chain(stream::pending()).boxed() } else { lines.boxed() })
    }

    async fn version(&self) -> Result<RuntimeVersion> {
        no()
    }
    async fn run_sandbox(&self, _: &SandboxConfig) -> Result<String> {
        no()
    }
    async fn stop_sandbox(&self, _: &str) -> Result<()> {
        no()
    }
    async fn remove_sandbox(&self, _: &str) -> Result<()> {
        no()
    }
    async fn sandbox_status(&self, _: &str) -> Result<SandboxStatus> {
        no()
    }
    async fn list_sandboxes(&self, _: &SandboxFilter) -> Result<Vec<SandboxStatus>> {
        no()
    }
    async fn create_container(&self, _: &str, _: &ContainerConfig) -> Result<String> {
        no()
    }
    async fn start_container(&self, _: &str) -> Result<()> {
        no()
    }
    async fn stop_container(&self, _: &str, _: Duration) -> Result<()> {
        no()
    }
    async fn remove_container(&self, _: &str) -> Result<()> {
        no()
    }
    async fn container_status(&self, _: &str) -> Result<ContainerStatus> {
        no()
    }
    async fn list_containers(&self, _: &ContainerFilter) -> Result<Vec<ContainerStatus>> {
        Ok(Vec::new())
    }
    async fn update_resources(&self, _: &str, _: &Resources) -> Result<()> {
        no()
    }
    async fn exec_sync(&self, _: &str, _: &[String], _: Option<Duration>) -> Result<ExecOutput> {
        no()
    }
    async fn container_stats(&self, _: &str) -> Result<ContainerStats> {
        no()
    }
    async fn list_stats(&self) -> Result<Vec<ContainerStats>> {
        Ok(Vec::new())
    }
    async fn pull_image(&self, _: &str, _: Option<&RegistryAuth>) -> Result<String> {
        no()
    }
    async fn image_status(&self, _: &str) -> Result<Option<ImageInfo>> {
        no()
    }
    async fn list_images(&self) -> Result<Vec<ImageInfo>> {
        no()
    }
    async fn remove_image(&self, _: &str) -> Result<()> {
        no()
    }
    async fn events(&self) -> Result<BoxStream<'static, Result<ContainerEvent>>> {
        no()
    }
}

struct OnePod;

#[async_trait]
impl PodLookup for OnePod {
    async fn pods(&self) -> Vec<Pod> {
        vec![Pod::default()]
    }

    async fn log_container(
        &self,
        _: &str,
        pod: &str,
        container: &str,
        previous: bool,
    ) -> std::result::Result<String, LookupError> {
        match container {
            "main" if previous => Ok("main-before".into()),
            "main" => Ok("main-now".into()),
            name => Err(LookupError::BadRequest(format!(
                "container {name:?} in pod {pod:?} is waiting to start: ContainerCreating"
            ))),
        }
    }

    async fn running_container(&self, _: &str, _: &str, name: &str) -> std::result::Result<String, LookupError> {
        match name {
            "main" => Ok("main-now".into()),
            name => Err(LookupError::Internal(format!("container not found ({name:?})"))),
        }
    }

    async fn sandbox(&self, _: &str, pod: &str) -> std::result::Result<String, LookupError> {
        if pod == "web" { Ok("sandbox".into()) } else { Err(LookupError::NotFound("pod does not exist".into())) }
    }
}

/// A cluster that knows the token `scraper`, whose owner may see what nodes count and which pods they have.
fn cluster() -> kube::Client {
    let answer = |request: http::Request<kube::client::Body>| async move {
        let mut review: Value = serde_json::from_slice(&request.into_body().collect_bytes().await.unwrap()).unwrap();
        review["status"] = match review["kind"].as_str() {
            Some("TokenReview") if review["spec"]["token"] == "scraper" => {
                json!({ "authenticated": true, "user": { "username": "metrics-server", "groups": ["scrapers"] } })
            }
            Some("TokenReview") => json!({}),
            _ => {
                let (wanted, groups) = (&review["spec"]["resourceAttributes"], &review["spec"]["groups"]);
                let on_node = wanted["resource"] == "nodes" && wanted["name"] == "node-1" && wanted["verb"] == "get";
                let permitted = wanted["subresource"] == "metrics" || wanted["subresource"] == "pods";
                json!({ "allowed": on_node && permitted && *groups == json!(["scrapers"]) })
            }
        };
        Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::from(
            review.to_string().into_bytes(),
        )))
    };
    kube::Client::new(tower::service_fn(answer), "default")
}

/// A serving kubelet and a CA that makes clients.
pub struct Kubelet {
    issuer: CertifiedIssuer<'static, KeyPair>,
    address: std::net::SocketAddr,
    shutdown: CancellationToken,
}

/// As whom to connect.
#[derive(Clone, Copy)]
pub enum As {
    Administrator,
    /// An administrator whose certificate is over.
    Former,
    SomebodyElse,
    Nobody,
}

impl Kubelet {
    pub async fn start() -> Kubelet {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let mut server = CertificateParams::default();
        server.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        let key = KeyPair::generate().unwrap();
        let certificate = ServerCertificate {
            chain_pem: server.signed_by(&key, &issuer).unwrap().pem(),
            key_pem: key.serialize_pem(),
            client_ca_pem: issuer.pem(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let routes = Routes {
            node: "node-1".into(),
            pods: Arc::new(OnePod),
            runtime: Arc::new(FakeRuntime),
            client: cluster(),
            meter: Arc::default(),
        };
        let server = Server { certificate, routes };
        tokio::spawn(server.serve(listener, shutdown.clone()));
        Kubelet { issuer, address, shutdown }
    }

    pub async fn connect(&self, who: As) -> TlsStream<TcpStream> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let group = match who {
            As::Administrator | As::Former => Some("kubeadm:cluster-admins"),
            As::SomebodyElse => Some("system:nodes"),
            As::Nobody => None,
        };
        let config = match group {
            None => builder.with_no_client_auth(),
            Some(group) => {
                let mut client = CertificateParams::default();
                client.distinguished_name.push(DnType::CommonName, "someone");
                client.distinguished_name.push(DnType::OrganizationName, group);
                if matches!(who, As::Former) {
                    client.not_after = rcgen::date_time_ymd(2020, 1, 1);
                }
                let key = KeyPair::generate().unwrap();
                let pem = client.signed_by(&key, &self.issuer).unwrap().pem();
                let chain = vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("127.0.0.1").unwrap();
        connector.connect(name, TcpStream::connect(self.address).await.unwrap()).await.unwrap()
    }

    /// Sends a request; answers the status and the body.
    pub async fn get(&self, who: As, path: &str) -> (u16, String) {
        self.get_with(who, "", path).await
    }

    /// The same with a header.
    pub async fn get_with(&self, who: As, header: &str, path: &str) -> (u16, String) {
        let mut connection = self.connect(who).await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: kubelet\r\n{header}Connection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_string())
    }

    /// Upgrades a connection to SPDY; answers the connection and the protocol that was agreed on.
    pub async fn spdy(&self, path: &str, protocols: &[&str]) -> (TlsStream<TcpStream>, String) {
        let mut connection = self.connect(As::Administrator).await;
        let mut request =
            format!("POST {path} HTTP/1.1\r\nHost: kubelet\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n");
        for protocol in protocols {
            request += &format!("X-Stream-Protocol-Version: {protocol}\r\n");
        }
        connection.write_all((request + "\r\n").as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(connection.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101"), "{head}");
        let chosen = head.lines().find_map(|line| line.strip_prefix("x-stream-protocol-version: "));
        (connection, chosen.unwrap_or_default().to_string())
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
