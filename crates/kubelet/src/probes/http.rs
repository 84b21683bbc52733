//! HTTP requests of probes and lifecycle hooks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coracle_client::transport::{Trust, client_config, dial_error};
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;

use super::{HttpRequest, Outcome};

/// No more of an answer is read than this.
const BODY_MAX: usize = 10 * 1024;

/// Sends a `GET` and judges the answer: statuses from 200 to 399 are a success.
pub async fn get(request: &HttpRequest, timeout: Duration) -> Outcome {
    let scheme = if request.tls { "https" } else { "http" };
    let url = format!("{scheme}://{}:{}{}", request.host, request.port, request.path);
    match coracle_clock::timeout(timeout, exchange(request)).await {
        Ok(Ok(status)) if (200..400).contains(&status) => Outcome::Success,
        Ok(Ok(status)) => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
        Ok(Err(why)) => Outcome::Failure(format!("Get {url:?}: {why}")),
        Err(_) => Outcome::Failure(format!(
            "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

async fn exchange(request: &HttpRequest) -> Result<u16, String> {
    let address = format!("{}:{}", request.host, request.port);
    let tcp = TcpStream::connect(&address).await.map_err(|error| dial_error(&address, &error))?;
    if !request.tls {
        return send(TokioIo::new(tcp), request).await;
    }
    let name = ServerName::try_from(request.host.clone()).map_err(|error| error.to_string())?;
    // A probe asks whether a server answers, not who it is.
    let config = client_config(Trust::Anyone, None).map_err(|error| error.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let tls = connector.connect(name, tcp).await.map_err(|error| error.to_string())?;
    send(TokioIo::new(tls), request).await
}

async fn send<S>(stream: TokioIo<S>, request: &HttpRequest) -> Result<u16, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let words = |error: hyper::Error| if error.is_incomplete_message() { "EOF".to_owned() } else { error.to_string() };
    let (mut sender, connection) = http1::handshake(stream).await.map_err(words)?;
    let driver = tokio::spawn(connection);
    let mut head = Request::get(&request.path).header("Connection", "close");
    let has = |name: &str| request.headers.iter().any(|(header, _)| header.eq_ignore_ascii_case(name));
    if !has("Host") {
        head = head.header("Host", format!("{}:{}", request.host, request.port));
    }
    if !has("User-Agent") {
        head = head.header("User-Agent", &request.user_agent);
    }
    if !has("Accept") {
        head = head.header("Accept", "*/*");
    }
    for (name, value) in &request.headers {
        head = head.header(name, value);
    }
    let message = head.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let answer = sender.send_request(message).await.map_err(words);
    let status = match answer {
        Ok(answer) => {
            let status = answer.status().as_u16();
            // Reading the answer spares the server a reset connection; what it says does not matter.
            let _ = Limited::new(answer.into_body(), BODY_MAX).collect().await;
            Ok(status)
        }
        Err(why) => Err(why),
    };
    driver.abort();
    status
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn probe_a_server_that_answers(answer: &'static str) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let read = stream.read(&mut head).await.unwrap();
            assert!(String::from_utf8_lossy(&head[..read]).to_lowercase().contains("user-agent: kube-probe/1.36"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let request = HttpRequest {
            tls: false,
            host: "127.0.0.1".into(),
            port,
            path: "/".into(),
            headers: Vec::new(),
            user_agent: "kube-probe/1.36".into(),
        };
        get(&request, Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn the_status_decides() {
        let ok = probe_a_server_that_answers("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(ok, Outcome::Success);
        let bad = probe_a_server_that_answers("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n").await;
        assert_eq!(bad, Outcome::Failure("HTTP probe failed with statuscode: 500".into()));
    }
}
