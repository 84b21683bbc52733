//! How many requests one HTTP/2 connection may have under way: others wait, and nothing breaks.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::hostile::{END_HEADERS, END_STREAM, GET, HEADERS, PING, PREFACE, RESET, SETTINGS, frame};
use super::*;

/// HTTP/2's error code for a stream of which nothing was done: the client may try again.
const REFUSED_STREAM: u32 = 7;

/// A service whose requests wait at a gate; `/count` says at once how many do.
#[derive(Clone)]
struct Gate {
    open: Arc<Semaphore>,
    waiting: Arc<AtomicU32>,
}

impl Gate {
    fn new() -> Self {
        Gate { open: Arc::new(Semaphore::new(0)), waiting: Arc::default() }
    }

    fn service(
        self,
    ) -> impl Service<
        Request<Incoming>,
        Response = Response<Body>,
        Error = Infallible,
        Future = impl Future<Output = Result<Response<Body>, Infallible>> + Send,
    > + Clone
    + Send
    + Sync {
        tower::service_fn(move |request: Request<Incoming>| {
            let gate = self.clone();
            async move {
                if request.uri().path() != "/count" {
                    gate.waiting.fetch_add(1, Ordering::SeqCst);
                    gate.open.acquire().await.unwrap().forget();
                    gate.waiting.fetch_sub(1, Ordering::SeqCst);
                }
                Ok(Response::new(Body::full(gate.waiting.load(Ordering::SeqCst).to_string())))
            }
        })
    }
}

/// How many requests wait, asked over a connection of its own.
async fn waiting(pki: &Pki, address: SocketAddr) -> u32 {
    let stream = connect(address, client_config(pki, None, "http/1.1")).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/count").header("host", "localhost").body(Empty::<Bytes>::new()).unwrap();
    let body = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    String::from_utf8_lossy(&body).parse().unwrap()
}

#[tokio::test]
async fn a_client_with_more_requests_than_streams_waits_and_gets_all_its_answers() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let (pki, address, ..) = start_with(dir.path(), gate.clone().service()).await;
    let io = TokioIo::new(connect(address, client_config(&pki, None, "h2")).await.unwrap());
    let (sender, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let all = 3 * STREAMS;
    let requests: Vec<_> = (0..all)
        .map(|_| {
            let mut sender = sender.clone();
            let request = Request::get("https://localhost/").body(Empty::<Bytes>::new()).unwrap();
            tokio::spawn(async move { sender.send_request(request).await.map(|answer| answer.status()) })
        })
        .collect();
    while waiting(&pki, address).await < STREAMS {}
    for _ in 0..5 {
        assert_eq!(waiting(&pki, address).await, STREAMS);
    }
    gate.open.add_permits(all as usize);
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap(), 200);
    }
    assert_eq!(waiting(&pki, address).await, 0);
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_their_connection_lives_on() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::new();
    let (pki, address, ..) = start_with(dir.path(), gate.clone().service()).await;
    let stream = connect(address, client_config(&pki, None, "h2")).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    writer.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat()).await.unwrap();
    let extra = 5;
    for number in 0..STREAMS + extra {
        writer.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, GET)).await.unwrap();
    }
    writer.write_all(&frame(PING, 0, 0, b"12345678")).await.unwrap();
    writer.flush().await.unwrap();
    let (mut refused, mut pong, mut opened, mut answered) = (0, false, false, 0);
    while answered < STREAMS {
        if refused == extra && pong && !opened {
            // The others are still under way.
            while waiting(&pki, address).await < STREAMS {}
            gate.open.add_permits(STREAMS as usize);
            opened = true;
        }
        let mut head = [0; 9];
        reader.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        reader.read_exact(&mut payload).await.unwrap();
        match head[3] {
            RESET => {
                assert_eq!(payload, REFUSED_STREAM.to_be_bytes());
                refused += 1;
            }
            PING => pong = true,
            HEADERS => answered += 1,
            _ => {}
        }
    }
    assert_eq!((refused, pong), (extra, true));
}
