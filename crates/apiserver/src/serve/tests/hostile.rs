//! Clients that open connections and go no further, and those that flood HTTP/2: they lose their connection, and nobody
//! else notices.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::*;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RESET: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
/// `GET https://localhost/`, by HPACK's static table and one literal.
pub(super) const GET: &[u8] = b"\x82\x84\x87\x41\x09localhost";

/// A frame of HTTP/2.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// For how many seconds the server puts up with a peer that sends nothing more.
async fn patience(mut stream: impl AsyncRead + Unpin) -> u64 {
    tokio::time::pause();
    let start = coracle_clock::instant();
    // The server may say goodbye first.
    let _ = stream.read_to_end(&mut Vec::new()).await;
    let seconds = start.elapsed().as_secs();
    tokio::time::resume();
    seconds
}

#[tokio::test]
async fn who_opens_a_connection_and_goes_no_further_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (pki, address, ..) = start(dir.path()).await;
    for hello in [&b""[..], b"\x16\x03\x01"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(hello).await.unwrap();
        assert_eq!(patience(stream).await, super::HANDSHAKE.as_secs(), "the handshake {hello:?}");
    }
    let opening = stall::OPENING.as_secs();
    let settings = [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat();
    for (protocol, sent, seconds) in [
        ("http/1.1", &b""[..], opening),
        ("http/1.1", b"GET / ", opening),
        ("http/1.1", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", super::HEADERS.as_secs()),
        ("http/1.1", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", super::HEADERS.as_secs()),
        ("h2", b"", opening),
        ("h2", &PREFACE[..20], opening),
        // Pings are not answered: 30 seconds until one is sent, and 20 for its answer.
        ("h2", &settings, 50),
    ] {
        let mut stream = connect(address, client_config(&pki, None, protocol)).await.unwrap();
        stream.write_all(sent).await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(patience(stream).await, seconds, "{protocol} {:?}", String::from_utf8_lossy(sent));
    }
}

#[tokio::test]
async fn what_is_no_request_is_answered_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let (pki, address, ..) = start(dir.path()).await;
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer.as_bytes(), NO_TLS);

    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n\r\n", "x".repeat(300 << 10));
    for (request, code) in [("nonsense\r\n\r\n", 400), ("GET / HTTP/1.1\r\nX Y\r\n\r\n", 400), (&long, 431)] {
        let mut stream = connect(address, client_config(&pki, None, "http/1.1")).await.unwrap();
        // The server may have heard enough before the end.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {code}"));
    }
}

/// What is sent as the n-th piece of a flood.
type Piece<'a> = &'a dyn Fn(u32) -> Vec<u8>;

/// Sends what `piece` makes of 1, 2, 3 …, while what comes is read (or not). Answers how many were sent before the
/// connection broke.
async fn flood(address: SocketAddr, config: ClientConfig, reads: bool, piece: Piece<'_>) -> u32 {
    let stream = connect(address, config).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    if reads {
        tokio::spawn(async move { while let Ok(1..) = reader.read(&mut [0; 4096]).await {} });
    } else {
        // The server waits for a while; that need not be real time.
        tokio::time::pause();
    }
    writer.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat()).await.unwrap();
    for number in 1..MOST {
        if writer.write_all(&piece(number)).await.and(writer.flush().await).is_err() {
            return number;
        }
    }
    MOST
}

/// More than anybody may send.
const MOST: u32 = 2_000_000;

#[tokio::test]
async fn floods_end_their_connection_and_disturb_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (pki, address, ..) = start(dir.path()).await;
    let stream_of = |number: u32| 2 * number - 1;
    let reset = |number: u32| {
        let stream = stream_of(number);
        let head = frame(HEADERS, END_HEADERS | END_STREAM, stream, GET);
        [head, frame(RESET, 0, stream, &8u32.to_be_bytes())].concat()
    };
    let continuation = |number: u32| {
        let filler = [&b"\x40\x01x\x7f\x81\x7f"[..], &[b'x'; 256]].concat();
        let (kind, payload) = if number == 1 { (HEADERS, GET.to_vec()) } else { (CONTINUATION, filler) };
        frame(kind, 0, 1, &payload)
    };
    let empty_continuation = |number: u32| frame(if number == 1 { HEADERS } else { CONTINUATION }, 0, 1, b"");
    let empty_data = |number: u32| match number {
        1 => frame(HEADERS, END_HEADERS, 1, GET),
        _ => frame(DATA, 0, 1, b""),
    };
    let ping = |_| frame(PING, 0, 0, b"12345678");
    let settings = |_| frame(SETTINGS, 0, 0, b"");
    let pieces: [(&str, bool, Piece<'_>); 6] = [
        ("streams that are reset at once", true, &reset),
        ("headers without end", true, &continuation),
        ("empty headers without end", true, &empty_continuation),
        ("empty data without end", true, &empty_data),
        ("pings whose answers are not read", false, &ping),
        ("settings whose answers are not read", false, &settings),
    ];
    for (what, reads, piece) in pieces {
        let sent = flood(address, client_config(&pki, None, "h2"), reads, piece).await;
        if !reads {
            tokio::time::resume();
        }
        assert!(sent < MOST, "{what} went on");
        assert_eq!(ask(address, client_config(&pki, None, "h2")).await.unwrap(), "nobody", "after {what}");
    }
}
