//! One visitor of a web server: a connection, and requests on it one after the other.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use coracle_client::transport::{Trust, client_config, dial_error};
use coracle_clock::Instant;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// A connection serves no longer than this: a Service chooses a pod for each connection, and pods that come later are
/// to get their share.
const CONNECTION_LIFE: Duration = Duration::from_secs(1);

/// Where requests go.
#[derive(Debug)]
pub struct Aim {
    host: String,
    port: u16,
    authority: String,
    path: String,
    tls: Option<Arc<ClientConfig>>,
}

impl Aim {
    /// Reads a URL. `insecure`: whatever certificate the server shows is good.
    pub fn parse(url: &str, insecure: bool) -> anyhow::Result<Aim> {
        let what = || format!("{url:?} is not a URL such as http://HOST[:PORT]/PATH");
        let uri: Uri = url.parse().with_context(what)?;
        let trust = if insecure { Trust::Anyone } else { Trust::System };
        let (tls, port) = match uri.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => (Some(Arc::new(client_config(trust, None)?)), 443),
            Some(other) => bail!("{}: the scheme {other:?} is neither http nor https", what()),
            None => bail!("{}: it has no scheme", what()),
        };
        let authority = uri.authority().with_context(what)?;
        Ok(Aim {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(port),
            authority: authority.as_str().rsplit('@').next().unwrap_or_default().to_owned(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            tls,
        })
    }
}

/// An open connection.
pub struct Visitor {
    sender: SendRequest<Empty<Bytes>>,
    since: Instant,
}

impl Visitor {
    /// Connects.
    ///
    /// # Errors
    /// Why not.
    pub async fn new(aim: &Aim) -> Result<Visitor, String> {
        let address = format!("{}:{}", aim.host, aim.port);
        let dialled = |error: io::Error| dial_error(&address, &error);
        let connect = async {
            let stream = TcpStream::connect((aim.host.as_str(), aim.port)).await.map_err(dialled)?;
            stream.set_nodelay(true).map_err(dialled)?;
            let sender = match &aim.tls {
                None => speak(stream).await,
                Some(config) => {
                    let name = ServerName::try_from(aim.host.clone()).map_err(|error| error.to_string())?;
                    speak(TlsConnector::from(config.clone()).connect(name, stream).await.map_err(dialled)?).await
                }
            };
            Ok(Visitor { sender: sender?, since: coracle_clock::instant() })
        };
        coracle_clock::timeout(PATIENCE, connect)
            .await
            .unwrap_or_else(|_| Err(format!("dial tcp {address}: i/o timeout")))
    }
}

async fn speak<S>(stream: S) -> Result<SendRequest<Empty<Bytes>>, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Sends a request and reads the answer to its end: its status. Connects first where there is no good connection.
///
/// # Errors
/// What went wrong, as one would count it.
pub async fn exchange(aim: &Aim, visitor: &mut Option<Visitor>) -> Result<u16, String> {
    let kept = match visitor.take().filter(|visitor| visitor.since.elapsed() < CONNECTION_LIFE) {
        // A server may close what it kept open.
        Some(mut kept) => kept.sender.ready().await.is_ok().then_some(kept),
        None => None,
    };
    let mut current = match kept {
        Some(kept) => kept,
        None => Visitor::new(aim).await?,
    };
    let request = Request::get(&aim.path).header("host", &aim.authority).header("user-agent", "coracle-load");
    let request = request.body(Empty::new()).map_err(|error| error.to_string())?;
    let answer = async {
        let response = current.sender.send_request(request).await?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            frame?;
        }
        Ok::<_, hyper::Error>(status)
    };
    let status = coracle_clock::timeout(PATIENCE, answer).await.map_err(|_| "timeout")?;
    let status = status.map_err(|error| error.to_string())?;
    *visitor = Some(current);
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_to_go() {
        for (url, expected) in [
            ("http://localhost", ("localhost", 80, "localhost", "/")),
            ("http://10.112.0.1:8080/a?b=c", ("10.112.0.1", 8080, "10.112.0.1:8080", "/a?b=c")),
            ("http://[::1]/", ("::1", 80, "[::1]", "/")),
        ] {
            let aim = Aim::parse(url, false).unwrap();
            assert_eq!((aim.host.as_str(), aim.port, aim.authority.as_str(), aim.path.as_str()), expected);
        }
        for (url, expected) in [
            ("example.com", "it has no scheme"),
            ("ftp://example.com", "neither http nor https"),
            ("http://", "is not a URL such as"),
            ("what is this", "is not a URL such as"),
        ] {
            let error = format!("{:#}", Aim::parse(url, false).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
