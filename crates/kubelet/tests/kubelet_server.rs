//! The kubelet's server as its clients meet it: over TLS on the loopback, speaking their protocols byte for byte.

// A test that cannot go on has failed.
#![allow(clippy::unwrap_used)]

#[path = "server/fake.rs"]
mod fake;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use coracle_kubelet::server::spdy::codec::{Codec, Frame};
use fake::{As, Kubelet};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_util::codec::Framed;

type WebSocket = tokio_tungstenite::WebSocketStream<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>;

const SUCCESS: &str = r#"{"metadata":{},"status":"Success"}"#;

async fn websocket(kubelet: &Kubelet, path: &str, protocol: &str) -> WebSocket {
    let mut request = format!("wss://127.0.0.1{path}").into_client_request().unwrap();
    if !protocol.is_empty() {
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    }
    let connection = kubelet.connect(As::Administrator).await;
    let (socket, response) = tokio_tungstenite::client_async(request, connection).await.unwrap();
    let agreed = response.headers().get("sec-websocket-protocol");
    assert_eq!(agreed.map_or("", |value| value.to_str().unwrap()), protocol);
    socket
}

/// Reads until the server closes; answers what came on each channel.
async fn channels(socket: &mut WebSocket) -> BTreeMap<u8, String> {
    let mut channels: BTreeMap<u8, String> = BTreeMap::new();
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(data) => {
                channels.entry(data[0]).or_default().push_str(std::str::from_utf8(&data[1..]).unwrap());
            }
            Message::Close(frame) => {
                assert_eq!(u16::from(frame.unwrap().code), 1000);
                return channels;
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn only_administrators_see_into_containers() {
    let kubelet = Kubelet::start().await;
    assert_eq!(kubelet.get(As::Nobody, "/healthz").await, (200, "ok".into()));
    for unknown in [As::Nobody, As::Former] {
        let (status, message) = kubelet.get(unknown, "/pods").await;
        assert_eq!((status, message.trim()), (401, "Unauthorized"));
    }
    let (status, message) = kubelet.get(As::SomebodyElse, "/pods").await;
    assert_eq!((status, message.starts_with("Forbidden (user=someone, verb=get")), (403, true), "{message}");
    let (status, pods) = kubelet.get(As::Administrator, "/pods").await;
    let pods: serde_json::Value = serde_json::from_str(&pods).unwrap();
    assert_eq!((status, pods["kind"].as_str(), pods["items"].as_array().unwrap().len()), (200, Some("PodList"), 1));
    assert_eq!(kubelet.get(As::Administrator, "/nonsense").await.0, 404);
    assert_eq!(kubelet.get(As::Administrator, "/stats/summary").await.0, 200);
}

#[tokio::test]
async fn what_the_cluster_permits_on_a_node_its_kubelet_answers() {
    let kubelet = Kubelet::start().await;
    let ask = async |token: &str, path: &str| {
        kubelet.get_with(As::Nobody, &format!("Authorization: Bearer {token}\r\n"), path).await
    };
    for path in ["/metrics", "/pods"] {
        assert_eq!(ask("scraper", path).await.0, 200, "{path}");
    }
    for (path, subresources) in [("/stats/summary", "stats"), ("/containerLogs/default/web/main", "proxy")] {
        let message =
            format!("Forbidden (user=metrics-server, verb=get, resource=nodes, subresource(s)=[{subresources}])");
        assert_eq!(ask("scraper", path).await, (403, message + "\n"));
    }
    assert_eq!(ask("unknown", "/metrics").await.0, 401);
}

#[tokio::test]
async fn logs_are_plain_text() {
    let kubelet = Kubelet::start().await;
    let log = async |rest: &str| kubelet.get(As::Administrator, &format!("/containerLogs/default/web/{rest}")).await;
    let (status, text) = log("main").await;
    assert_eq!((status, text.contains("main-now 1\n") && text.contains("2\n")), (200, true), "{text}");
    assert!(log("main?previous=true").await.1.contains("main-before 1\n"));
    assert!(log("main?timestamps=true").await.1.contains("2026-01-01T00:00:00.000000000Z main-now 1\n"));
    // A limit ends a log that is followed.
    assert!(log("main?follow=true&limitBytes=4").await.1.contains("main"));
    let (status, text) = log("side").await;
    let expected = "container \"side\" in pod \"web\" is waiting to start: ContainerCreating\n";
    assert_eq!((status, text.as_str()), (400, expected));
}

#[tokio::test]
async fn exec_over_websocket_tells_output_and_exit_code() {
    let kubelet = Kubelet::start().await;
    for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io"] {
        let path = "/exec/default/web/main?command=exit&command=3&stdout=true&stderr=true";
        let heard = channels(&mut websocket(&kubelet, path, protocol).await).await;
        assert_eq!((heard[&1].as_str(), heard[&2].as_str()), ("out", "err"));
        let status: serde_json::Value = serde_json::from_str(&heard[&3]).unwrap();
        assert_eq!((&status["status"], &status["reason"]), (&"Failure".into(), &"NonZeroExitCode".into()));
        assert_eq!(status["details"]["causes"][0]["message"], "3");
    }
    // The oldest protocol says nothing when all is well.
    let path = "/exec/default/web/main?command=exit&command=0&output=1";
    let heard = channels(&mut websocket(&kubelet, path, "").await).await;
    assert_eq!(heard, BTreeMap::from([(1, "out".to_string())]));
}

#[tokio::test]
async fn exec_over_websocket_takes_input_to_its_end() {
    let kubelet = Kubelet::start().await;
    let path = "/exec/default/web/main?command=cat&stdin=true&stdout=true";
    let mut socket = websocket(&kubelet, path, "v5.channel.k8s.io").await;
    let long = "x".repeat(5000);
    for message in [&[b"\0", long.as_bytes()].concat()[..], b"\0end", b"\xff\0"] {
        socket.send(Message::binary(message.to_vec())).await.unwrap();
    }
    let heard = channels(&mut socket).await;
    assert_eq!((heard[&1].as_str(), heard[&3].as_str()), (format!("{long}end").as_str(), SUCCESS));
}

#[tokio::test]
async fn the_bytes_end_with_the_session_whatever_the_client_says() {
    let kubelet = Kubelet::start().await;
    let path = "/exec/default/web/main?command=exit&command=0&stdout=true";
    let mut socket = websocket(&kubelet, path, "v4.channel.k8s.io").await;
    channels(&mut socket).await;
    let mut rest = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(5), socket.get_mut().read_to_end(&mut rest)).await;
    assert_eq!(end.expect("at once").unwrap(), 0);
}

#[tokio::test]
async fn a_terminal_takes_the_size_of_the_clients() {
    let kubelet = Kubelet::start().await;
    let path = "/exec/default/web/main?command=size&stdin=true&stdout=true&tty=true";
    let mut socket = websocket(&kubelet, path, "v5.channel.k8s.io").await;
    socket.send(Message::binary(&b"\x04{\"Width\":120,\"Height\":40}\n"[..])).await.unwrap();
    assert_eq!(channels(&mut socket).await[&1], "120x40");
}

#[tokio::test]
async fn attach_does_not_tell_the_exit_code() {
    let kubelet = Kubelet::start().await;
    let path = "/attach/default/web/main?stdout=true&stderr=true";
    let heard = channels(&mut websocket(&kubelet, path, "v5.channel.k8s.io").await).await;
    assert_eq!((heard[&1].as_str(), heard[&3].as_str()), ("out", SUCCESS));
}

#[tokio::test]
async fn requests_that_cannot_be_served_are_refused_before_the_upgrade() {
    let kubelet = Kubelet::start().await;
    let get = async |path: &str| kubelet.get(As::Administrator, path).await;
    assert_eq!(get("/exec/default/web/main?command=cat").await.0, 400);
    assert_eq!(get("/exec/default/web/main?command=cat&stdout=true").await.0, 400);
    let (status, text) = get("/exec/default/web/side?command=cat&stdout=true").await;
    assert_eq!((status, text.as_str()), (500, "container not found (\"side\")\n"));
    assert_eq!(get("/portForward/default/gone").await.0, 404);
}

/// A client's half of a SPDY connection.
struct Spdy<T> {
    frames: Framed<T, Codec>,
    heard: BTreeMap<u32, String>,
    ended: Vec<u32>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Spdy<T> {
    fn new(connection: T) -> Spdy<T> {
        Spdy { frames: Framed::new(connection, Codec::new().unwrap()), heard: BTreeMap::new(), ended: Vec::new() }
    }

    async fn open(&mut self, stream: u32, headers: &[(&str, &str)]) {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        self.frames.send(Frame::SynStream { stream, fin: false, headers }).await.unwrap();
    }

    async fn send(&mut self, stream: u32, data: &'static str, fin: bool) {
        self.frames.send(Frame::Data { stream, fin, data: Bytes::from_static(data.as_bytes()) }).await.unwrap();
    }

    /// Listens until these streams have ended.
    async fn listen(&mut self, streams: &[u32]) {
        while !streams.iter().all(|stream| self.ended.contains(stream)) {
            if let Frame::Data { stream, fin, data } = self.frames.next().await.unwrap().unwrap() {
                self.heard.entry(stream).or_default().push_str(std::str::from_utf8(&data).unwrap());
                self.ended.extend(fin.then_some(stream));
            }
        }
    }
}

#[tokio::test]
async fn exec_over_spdy_uses_a_stream_for_each() {
    let kubelet = Kubelet::start().await;
    let path = "/exec/default/web/main?command=exit&command=4&stdout=true&stderr=true";
    let (connection, protocol) =
        kubelet.spdy(path, &["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"]).await;
    assert_eq!(protocol, "v4.channel.k8s.io");
    let mut client = Spdy::new(connection);
    for (stream, kind) in [(1, "error"), (3, "stdout"), (5, "stderr")] {
        client.open(stream, &[("streamtype", kind)]).await;
    }
    client.listen(&[1, 3, 5]).await;
    assert_eq!((client.heard[&3].as_str(), client.heard[&5].as_str()), ("out", "err"));
    assert!(client.heard[&1].contains(r#""causes":[{"message":"4","reason":"ExitCode"}]"#), "{:?}", client.heard);

    let path = "/exec/default/web/main?command=cat&stdin=true&stdout=true";
    let mut client = Spdy::new(kubelet.spdy(path, &["v4.channel.k8s.io"]).await.0);
    for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
        client.open(stream, &[("streamtype", kind)]).await;
    }
    client.send(3, "hello", true).await;
    client.listen(&[1, 5]).await;
    assert_eq!((client.heard[&5].as_str(), client.heard[&1].as_str()), ("hello", SUCCESS));
}

async fn forward_two_connections<T: AsyncRead + AsyncWrite + Unpin>(mut client: Spdy<T>) {
    for (request, port) in [("0", "80"), ("1", "81")] {
        let first = request.parse::<u32>().unwrap() * 4 + 1;
        let headers = |kind| [("streamtype", kind), ("port", port), ("requestid", request)];
        client.open(first, &headers("error")).await;
        client.send(first, "", true).await;
        client.open(first + 2, &headers("data")).await;
    }
    client.send(3, "ping", false).await;
    client.send(7, "other", true).await;
    client.listen(&[5, 7]).await;
    assert_eq!((client.heard[&7].as_str(), client.heard[&5].as_str()), ("OTHER", ""));
    client.send(3, "!", true).await;
    client.listen(&[1, 3]).await;
    assert_eq!((client.heard[&3].as_str(), client.heard[&1].as_str()), ("PING!", ""));
    // What nobody listens on.
    let headers = |kind| [("streamtype", kind), ("port", "1"), ("requestid", "2")];
    client.open(9, &headers("error")).await;
    client.open(11, &headers("data")).await;
    client.listen(&[9]).await;
    assert!(client.heard[&9].contains("connection refused"), "{:?}", client.heard);
}

#[tokio::test]
async fn ports_are_forwarded_over_spdy() {
    let kubelet = Kubelet::start().await;
    let (connection, protocol) = kubelet.spdy("/portForward/default/web", &["portforward.k8s.io"]).await;
    assert_eq!(protocol, "portforward.k8s.io");
    forward_two_connections(Spdy::new(connection)).await;
}

#[tokio::test]
async fn ports_are_forwarded_over_spdy_inside_a_websocket() {
    let kubelet = Kubelet::start().await;
    let socket = websocket(&kubelet, "/portForward/default/web", "SPDY/3.1+portforward.k8s.io").await;
    // Frames are cut into messages anywhere: here after every seventh byte.
    let (near, far) = tokio::io::duplex(7);
    tokio::spawn(async move {
        let (mut sink, mut stream) = socket.split();
        let (mut read, mut write) = tokio::io::split(far);
        let up = async {
            let mut buffer = [0; 7];
            while let Ok(count @ 1..) = tokio::io::AsyncReadExt::read(&mut read, &mut buffer).await {
                sink.send(Message::binary(buffer[..count].to_vec())).await.unwrap();
                sink.send(Message::binary(Vec::new())).await.unwrap();
            }
        };
        let down = async {
            while let Some(Ok(Message::Binary(data))) = stream.next().await {
                tokio::io::AsyncWriteExt::write_all(&mut write, &data).await.unwrap();
            }
        };
        tokio::join!(up, down);
    });
    forward_two_connections(Spdy::new(near)).await;
}

#[tokio::test]
async fn ports_are_forwarded_over_plain_websocket_channels() {
    let kubelet = Kubelet::start().await;
    let mut socket = websocket(&kubelet, "/portForward/default/web?port=80", "v4.channel.k8s.io").await;
    for channel in [0, 1] {
        let first = socket.next().await.unwrap().unwrap().into_data();
        assert_eq!(&first[..], [channel, 80, 0]);
    }
    socket.send(Message::binary(&b"\0shout"[..])).await.unwrap();
    assert_eq!(&socket.next().await.unwrap().unwrap().into_data()[..], b"\0SHOUT");
}
