//! Port-forward over plain WebSocket channels, the protocol before SPDY was tunnelled.
//!
//! The ports stand in the query. Port number i has channel 2i for data and 2i+1 for errors; the server's first message
//! on each is the port's number, two bytes, little end first.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::port_forward::PortForward;
use super::upgrade::WebSocket;

/// The protocols, most wanted first.
pub const PROTOCOLS: [&str; 3] = ["v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""];
const QUEUE: usize = 16;
const BUFFER_BYTES: usize = 32 * 1024;

/// Serves a client until it is gone or all ports have hung up.
pub async fn serve(socket: WebSocket, protocol: &str, to: PortForward) {
    let base64 = protocol.contains("base64");
    let (mut sink, mut stream) = socket.split();
    let (outgoing, mut messages) = mpsc::channel::<(u8, Bytes)>(QUEUE);
    let mut inputs = Vec::new();
    let mut ports = tokio::task::JoinSet::new();
    // A channel's number is a digit of sorts, counted from `0`.
    for (channel, port) in (0u8..=200).step_by(2).zip(to.ports.clone()) {
        let (input, incoming) = mpsc::channel(QUEUE);
        inputs.push(input);
        ports.spawn(forward(channel, port, to.clone(), incoming, outgoing.clone()));
    }
    drop(outgoing);
    let write = async {
        while let Some((channel, data)) = messages.recv().await {
            let message = if base64 {
                Message::text(format!("{}{}", char::from(b'0' + channel), STANDARD.encode(&data)))
            } else {
                Message::binary([&[channel], &data[..]].concat())
            };
            if sink.send(message).await.is_err() {
                return;
            }
        }
        // A client that is gone needs no farewell.
        let _ = sink.close().await;
    };
    let read = async {
        while let Some(Ok(message)) = stream.next().await {
            let data: Bytes = match message {
                Message::Binary(data) => data,
                Message::Text(text) => text.into(),
                _ => continue,
            };
            let Some((first, rest)) = data.split_first() else { continue };
            let parsed = if base64 {
                first.checked_sub(b'0').zip(STANDARD.decode(rest).ok().map(Bytes::from))
            } else {
                Some((*first, data.slice(1..)))
            };
            if let Some((channel, data)) = parsed
                && channel % 2 == 0
                && let Some(input) = inputs.get(usize::from(channel / 2))
            {
                // A port that has hung up wants no more.
                let _ = input.send(data).await;
            }
        }
    };
    tokio::select! {
        biased;
        () = write => {}
        () = read => {}
    }
}

async fn forward(
    channel: u8,
    port: u16,
    to: PortForward,
    mut incoming: mpsc::Receiver<Bytes>,
    outgoing: mpsc::Sender<(u8, Bytes)>,
) {
    let number = Bytes::copy_from_slice(&port.to_le_bytes());
    for channel in [channel, channel + 1] {
        if outgoing.send((channel, number.clone())).await.is_err() {
            return;
        }
    }
    let pod = match to.runtime.port_forward(&to.sandbox, port).await {
        Ok(pod) => pod,
        Err(error) => {
            let message = format!("error forwarding port {port} to pod {}, uid : {error}", to.pod);
            // The client may be gone.
            let _ = outgoing.send((channel + 1, message.into())).await;
            return;
        }
    };
    let (mut from_pod, mut to_pod) = tokio::io::split(pod);
    let upstream = async {
        while let Some(data) = incoming.recv().await {
            if to_pod.write_all(&data).await.is_err() {
                return;
            }
        }
    };
    let downstream = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(BUFFER_BYTES);
            match from_pod.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    if outgoing.send((channel, buffer.split().freeze())).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = downstream => {}
        () = upstream => {}
    }
}
