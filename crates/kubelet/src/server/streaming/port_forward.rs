//! Port-forward over SPDY: for each local connection the client opens two streams with one `requestid`, `error` and
//! `data`; the server connects to the pod's `port` and carries bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::upgrade::{Refusal, Transport, Upgrade, websocket};
use super::{tunnel, websocket_forward};
use crate::runtime::{ByteStream, Runtime};
use crate::server::spdy::connection::{Connection, Stream};

/// SPDY inside a WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const SPDY_PROTOCOLS: [&str; 2] = ["portforward.k8s.io", ""];
const BUFFER_BYTES: usize = 32 * 1024;

/// Where to forward to.
#[derive(Clone)]
pub struct PortForward {
    /// Who connects.
    pub runtime: Arc<dyn Runtime>,
    /// The pod's sandbox.
    pub sandbox: String,
    /// The pod's name, for errors.
    pub pod: String,
    /// The ports named in the request's query: two channels each in the oldest protocol.
    pub ports: Vec<u16>,
}

/// Answers a request to forward ports with a switch of protocols, and serves the connections from then on.
pub fn port_forward<B, R: Default>(mut request: Request<B>, to: PortForward) -> Result<Response<R>, Refusal> {
    let protocols = [&[TUNNEL][..], &websocket_forward::PROTOCOLS].concat();
    let upgrade = Upgrade::negotiate(&mut request, &protocols, &SPDY_PROTOCOLS)?;
    let (response, transport, protocol, connection) = upgrade.accept();
    tokio::spawn(async move {
        let upgraded = match connection.await {
            Ok(upgraded) => upgraded,
            Err(error) => return tracing::debug!(%error, "a client left before its session began"),
        };
        let connection = match transport {
            Transport::Spdy => Connection::new(TokioIo::new(upgraded)),
            Transport::WebSocket if protocol == TUNNEL => Connection::new(tunnel::untunnel(websocket(upgraded).await)),
            Transport::WebSocket => {
                return websocket_forward::serve(websocket(upgraded).await, &protocol, to).await;
            }
        };
        match connection {
            Ok(connection) => serve(connection, to).await,
            Err(error) => tracing::warn!(%error, "cannot speak SPDY"),
        }
    });
    Ok(response)
}

async fn serve(mut connection: Connection, to: PortForward) {
    let mut waiting: BTreeMap<String, Stream> = BTreeMap::new();
    let mut forwards = JoinSet::new();
    while let Some(stream) = connection.accept().await {
        let Some(request) = request_id(&stream) else {
            // Not a stream of this protocol; a client that is gone need not be told.
            let _ = stream.writer.reset().await;
            continue;
        };
        match waiting.remove(&request) {
            Some(other) => {
                let (data, error) =
                    if stream.header("streamtype") == Some("data") { (stream, other) } else { (other, stream) };
                forwards.spawn(forward(data, error, to.clone()));
            }
            None => drop(waiting.insert(request, stream)),
        }
        while forwards.try_join_next().is_some() {}
    }
    // Without the client its connections go too.
}

/// Which connection a stream belongs to. Clients older than request ids open the error stream first and the data
/// stream, whose number is two higher, next.
fn request_id(stream: &Stream) -> Option<String> {
    let kind = stream.header("streamtype")?;
    match (stream.header("requestid"), kind) {
        (Some(id), "data" | "error") => Some(id.to_string()),
        (None, "error") => Some(stream.id.to_string()),
        (None, "data") => Some(stream.id.checked_sub(2)?.to_string()),
        _ => None,
    }
}

/// Carries one connection.
async fn forward(data: Stream, error: Stream, to: PortForward) {
    let port = data.header("port").unwrap_or_default().to_string();
    let connected = match port.parse() {
        Ok(number) => to.runtime.port_forward(&to.sandbox, number).await.map_err(|error| error.to_string()),
        Err(_) => Err("invalid port".to_string()),
    };
    match connected {
        Ok(pod) => carry(pod, data).await,
        Err(reason) => {
            let message = format!("error forwarding port {port} to pod {}, uid : {reason}", to.pod);
            tracing::debug!(message);
            // The client may have hung up already.
            let _ = error.writer.send(message.into()).await;
            let _ = data.writer.finish().await;
        }
    }
    let _ = error.writer.finish().await;
}

async fn carry(pod: Box<dyn ByteStream>, data: Stream) {
    let (mut from_pod, mut to_pod) = tokio::io::split(pod);
    let Stream { mut reader, writer, .. } = data;
    let upstream = async {
        while let Some(bytes) = reader.next().await {
            if to_pod.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // The pod may still answer; if it has hung up, all the better.
        let _ = to_pod.shutdown().await;
    };
    let downstream = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(BUFFER_BYTES);
            match from_pod.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {
                    let bytes: Bytes = buffer.split().freeze();
                    if writer.send(bytes).await.is_err() {
                        return;
                    }
                }
            }
        }
        let _ = writer.finish().await;
    };
    // What the client still sends when the pod has hung up reaches nobody.
    tokio::select! {
        biased;
        () = downstream => {}
        () = async { upstream.await; std::future::pending().await } => {}
    }
}
