//! A client of etcd that costs as little as it can, so that what is measured is the server: it sends messages made
//! of bytes, and of the answers it reads no more than it must to know that they are there.

use anyhow::{Context, ensure};
use bytes::{Buf, Bytes, BytesMut};
use coracle_client::transport::{Identity, Trust, client_config};
use futures::Stream;
use futures::stream::try_unfold;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// No answer of a load is kept waiting for the client to make room.
const WINDOW_BYTES: u32 = 64 << 20;
/// Whether it is compressed, and its length, stand before each message.
const PREFIX_BYTES: usize = 5;

/// Field `number` of a message: bytes.
pub fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = value.len();
    while length > 0x7f {
        field.push(length as u8 | 0x80);
        length >>= 7;
    }
    field.push(length as u8);
    [&field, value].concat()
}

/// How often field `number` is in a message.
fn occurrences(number: u64, mut message: &[u8]) -> anyhow::Result<usize> {
    let mut count = 0;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        count += usize::from(tag >> 3 == number);
        let value = varint(&mut message)?;
        if tag & 7 == 2 {
            message = message.get(value as usize..).context("a field is cut off")?;
        }
    }
    Ok(count)
}

fn varint(message: &mut &[u8]) -> anyhow::Result<u64> {
    let mut value = 0;
    for place in 0..10 {
        let (&byte, rest) = message.split_first().context("a number is cut off")?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            break;
        }
    }
    Ok(value)
}

fn framed(message: &[u8]) -> Bytes {
    [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat().into()
}

/// A connection over TLS.
#[derive(Clone)]
pub struct Channel {
    wire: SendRequest<Bytes>,
    origin: String,
}

impl Channel {
    pub async fn connect(address: &str, ca_pem: &str, identity: Identity<'_>) -> anyhow::Result<Channel> {
        let mut tls = client_config(Trust::Authorities(ca_pem), Some(identity))?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let host = ServerName::try_from("localhost")?;
        let stream = TlsConnector::from(std::sync::Arc::new(tls)).connect(host, stream).await?;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
        let (wire, connection) = builder.handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Channel { wire, origin: format!("https://{address}/etcdserverpb.") })
    }

    /// Sends a first message, which may be the last: the way for more, the head of the answer, and its body.
    async fn call(
        &self,
        method: &str,
        message: &[u8],
        last: bool,
    ) -> anyhow::Result<(SendStream<Bytes>, HeaderMap, RecvStream)> {
        let request = Request::post(format!("{}{method}", self.origin));
        let request = request.header("content-type", "application/grpc").header("te", "trailers").body(())?;
        let (response, mut sender) = self.wire.clone().ready().await?.send_request(request, false)?;
        sender.send_data(framed(message), last)?;
        let (head, body) = response.await?.into_parts();
        Ok((sender, head.headers, body))
    }

    /// One message, one answer; how long it is.
    pub async fn unary(&self, method: &str, message: &[u8]) -> anyhow::Result<usize> {
        let (_, head, mut body) = self.call(method, message, true).await?;
        let mut bytes = 0;
        while let Some(data) = body.data().await {
            let length = data?.len();
            body.flow_control().release_capacity(length)?;
            bytes += length;
        }
        let trailers = body.trailers().await?.unwrap_or(head);
        let status = trailers.get("grpc-status");
        ensure!(status.is_some_and(|status| status == "0"), "{method}: {trailers:?}");
        Ok(bytes)
    }

    /// One stream of watches of every key that begins with `prefix`: how many answers came at a time, and how many
    /// events are in them.
    pub async fn watch(
        &self,
        prefix: &str,
        watches: usize,
    ) -> anyhow::Result<impl Stream<Item = anyhow::Result<(usize, usize)>> + Send + use<>> {
        let mut end = prefix.as_bytes().to_vec();
        *end.last_mut().context("a prefix is not empty")? += 1;
        let create = field(1, &[field(1, prefix.as_bytes()), field(2, &end)].concat());
        let (mut sender, _, body) = self.call("Watch/Watch", &create, false).await?;
        for _ in 1..watches {
            sender.send_data(framed(&create), false)?;
        }
        let answers = try_unfold((body, sender, BytesMut::new()), async |(mut body, sender, mut unread)| {
            let Some(data) = body.data().await else { return Ok(None) };
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            unread.extend_from_slice(&data);
            let (mut answers, mut events) = (0, 0);
            while let Some(prefix) = unread.first_chunk::<PREFIX_BYTES>() {
                let length = PREFIX_BYTES + u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
                let Some(message) = unread.get(PREFIX_BYTES..length) else { break };
                (answers, events) = (answers + 1, events + occurrences(11, message)?);
                unread.advance(length);
            }
            Ok(Some(((answers, events), (body, sender, unread))))
        });
        Ok(answers)
    }
}
