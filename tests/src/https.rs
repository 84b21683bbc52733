//! HTTPS by hand: a small server for what the API server calls (webhooks, extension servers), and connections to the
//! API server for what no client sends.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

use crate::http::{Response, head_of};

const TIMEOUT: Duration = Duration::from_secs(30);

/// A request that a [`Server`] was sent.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path, with its query.
    pub path: String,
    /// The headers as `name: value`, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body; null if it is no JSON.
    pub body: Value,
}

impl Request {
    /// All values of the headers with this (lower-case) name.
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(header, _)| header == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// What a [`Server`] answers: code and body.
pub type Answer = fn(&Request) -> (u16, Value);

/// A server on a free port of this machine, until the test ends. Upgrades it takes, and sends back what comes.
#[derive(Debug)]
pub struct Server {
    /// Its port.
    pub port: u16,
    certificate_pem: String,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Shows a certificate for `name`. With the file of an authority, clients must show one that it signed.
    pub fn start(name: &str, client_ca: Option<&Path>, answer: Answer) -> Server {
        let own = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(own.signing_key.serialize_pem().as_bytes()).expect("a key");
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.expect("ring has them");
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(roots(&std::fs::read_to_string(path).expect("an authority")));
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
                builder.with_client_cert_verifier(verifier.expect("an authority"))
            }
        };
        let tls = Arc::new(builder.with_single_cert(vec![own.cert.der().clone()], key).expect("they belong together"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let port = listener.local_addr().expect("a listener has an address").port();
        let asked = Arc::new(Mutex::default());
        let server = Server { port, certificate_pem: own.cert.pem(), asked: Arc::clone(&asked) };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (tls, asked) = (Arc::clone(&tls), Arc::clone(&asked));
                // Clients that break off are their own affair.
                thread::spawn(move || ServerConnection::new(tls).map(|tls| serve(tls, stream, &asked, answer)));
            }
        });
        server
    }

    /// The `caBundle` of who trusts this server.
    pub fn ca_bundle(&self) -> String {
        BASE64_STANDARD.encode(&self.certificate_pem)
    }

    /// The requests so far for a path.
    pub fn asked(&self, path: &str) -> Vec<Request> {
        let asked = self.asked.lock().expect("no panic holds it");
        asked.iter().filter(|request| request.path == path).cloned().collect()
    }
}

fn serve(tls: ServerConnection, stream: TcpStream, asked: &Mutex<Vec<Request>>, answer: Answer) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut stream = StreamOwned::new(tls, stream);
    let head = read_head(&mut stream)?;
    let (line, headers) = head_of(&head);
    let mut words = line.split(' ').map(str::to_owned);
    let [method, path] = std::array::from_fn(|_| words.next().unwrap_or_default());
    let mut request = Request { method, path, headers, body: Value::Null };
    let length = request.header("content-length").first().and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body)?;
    request.body = serde_json::from_slice(&body).unwrap_or_default();
    asked.lock().expect("no panic holds it").push(request.clone());
    if let Some(protocol) = request.header("upgrade").first() {
        write!(stream, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n")?;
        stream.flush()?;
        let mut part = [0; 1024];
        while let length @ 1.. = stream.read(&mut part)? {
            stream.write_all(&part[..length])?;
            stream.flush()?;
        }
    } else {
        let (code, body) = answer(&request);
        let (body, kind) = (body.to_string(), "Content-Type: application/json");
        let length = body.len();
        write!(stream, "HTTP/1.1 {code} \r\n{kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")?;
    }
    stream.conn.send_close_notify();
    stream.flush()
}

/// Reads up to the empty line that ends a request's or an answer's head.
fn read_head(stream: &mut impl Read) -> io::Result<String> {
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    Ok(String::from_utf8_lossy(&head).trim_end().to_owned())
}

/// A connection to the API server.
#[derive(Debug)]
pub struct Connection(StreamOwned<ClientConnection, TcpStream>);

/// Connects to a port of this machine whose server's certificate `authority` signed; shows a certificate (with its
/// key) if there is one. All are PEM.
pub(crate) fn connect(port: u16, authority: &str, identity: Option<(String, String)>) -> Connection {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.expect("ring has them").with_root_certificates(roots(authority));
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
            builder.with_client_auth_cert(certificates(&certificate), key).expect("they belong together")
        }
    };
    let name = ServerName::try_from("localhost").expect("a name");
    let tls = ClientConnection::new(Arc::new(config), name).expect("a configuration");
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    Connection(StreamOwned::new(tls, stream))
}

impl Connection {
    /// Sends a request as it is: its line, headers and body, or a part of that.
    pub fn send(&mut self, request: &str) {
        self.0.write_all(request.as_bytes()).and_then(|()| self.0.flush()).expect("it is taken");
    }

    /// Sends `GET <path>` with these headers (each with its line's end), and reads the answer.
    pub fn get(mut self, path: &str, headers: &str) -> Response {
        self.send(&format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n"));
        self.answer()
    }

    /// The answer, whose body ends with the connection.
    pub fn answer(mut self) -> Response {
        let mut answer = vec![];
        let read = self.0.read_to_end(&mut answer);
        Response::parse(&answer).unwrap_or_else(|error| panic!("{read:?}: {error}"))
    }

    /// The head of an answer.
    pub fn head(&mut self) -> String {
        read_head(&mut self.0).expect("an answer")
    }

    /// The next so many bytes, as text.
    pub fn read(&mut self, length: usize) -> String {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).expect("they come");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().expect("certificates")
}

fn roots(pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(pem));
    roots
}
