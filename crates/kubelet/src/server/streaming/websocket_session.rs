//! Exec and attach over a WebSocket: each message is a channel's number followed by bytes.
//!
//! | channel | carries |
//! |---|---|
//! | 0 | standard input |
//! | 1, 2 | standard output, standard error |
//! | 3 | at the end: how it ended |
//! | 4 | terminal sizes |
//! | 255 | the number of a channel that has ended (version 5, KEP-4006) |
//!
//! In the base64 forms messages are text: the channel as a digit, then base64. Before version 4 channel 3 carries an
//! error's text instead of a Status, and nothing when all went well.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::pump::{FromClient, Protocol, ToClient, encode, terminal_size};
use super::upgrade::WebSocket;
use crate::runtime::{ExecOptions, OutputStream};

/// The protocols, most wanted first. A client that names none speaks the oldest.
pub const PROTOCOLS: [&str; 6] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "",
];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// How long a client may take to answer a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// How messages are written in one of the protocols.
#[derive(Clone, Copy)]
struct Format {
    base64: bool,
    /// The end is told as a Status.
    status: bool,
    /// Channels can be closed.
    close: bool,
}

impl Format {
    fn of(protocol: &str) -> Format {
        Format {
            base64: protocol.contains("base64"),
            status: protocol.starts_with('v'),
            close: protocol.starts_with("v5"),
        }
    }

    fn write(self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            let digit = char::from(b'0' + channel);
            return Message::text(format!("{digit}{}", STANDARD.encode(data)));
        }
        let mut message = Vec::with_capacity(data.len() + 1);
        message.push(channel);
        message.extend_from_slice(data);
        Message::binary(message)
    }

    fn read(self, message: Message) -> Option<(u8, Bytes)> {
        let data: Bytes = match message {
            Message::Binary(data) => data,
            Message::Text(text) => text.into(),
            _ => return None,
        };
        let (channel, rest) = (*data.first()?, data.slice(1..));
        if self.base64 {
            Some((channel.checked_sub(b'0')?, STANDARD.decode(rest).ok()?.into()))
        } else {
            Some((channel, rest))
        }
    }

    /// What a message means to a process.
    fn understand(self, message: Message) -> Option<FromClient> {
        match self.read(message)? {
            (STDIN, data) => Some(FromClient::Stdin(data)),
            (RESIZE, data) => terminal_size(&data).map(FromClient::Resize),
            (CLOSE, data) if self.close && data.first() == Some(&STDIN) => Some(FromClient::StdinClosed),
            _ => None,
        }
    }
}

/// Serves a client until the session has ended or it is gone.
pub async fn serve(socket: WebSocket, protocol: &str, options: &ExecOptions, (from, to): Protocol) {
    let format = Format::of(protocol);
    let (mut sink, mut stream) = socket.split();
    let result = tokio::select! {
        biased;
        result = write(&mut sink, format, options, to) => result,
        // The client is gone; the pump notices as its end of `from` was dropped.
        () = read(&mut stream, format, from) => return,
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a client left its session");
    } else if let Ok(mut socket) = sink.reunite(stream) {
        // A client that waits for bytes, though TLS has read the last ones already, wakes up at their end. Then wait
        // for the client's close, so that nothing it was sent is lost with the connection.
        let _ = socket.get_mut().shutdown().await;
        let closed = async { while let Some(Ok(_)) = socket.next().await {} };
        let _ = coracle_clock::timeout(CLOSE_TIMEOUT, closed).await;
    }
}

async fn read(stream: &mut SplitStream<WebSocket>, format: Format, from: mpsc::Sender<FromClient>) {
    while let Some(Ok(message)) = stream.next().await {
        if let Some(message) = format.understand(message) {
            // Once the session has ended nobody listens.
            let _ = from.send(message).await;
        }
    }
}

async fn write(
    sink: &mut SplitSink<WebSocket, Message>,
    format: Format,
    options: &ExecOptions,
    mut to: mpsc::Receiver<ToClient>,
) -> Result<(), Error> {
    // An empty message tells older clients that the session stands. Those that close channels (kubectl) know, and
    // complain of messages that come before they are ready.
    if !format.close {
        let first = match (options.stdout, options.stderr) {
            (true, _) => STDOUT,
            (false, true) => STDERR,
            (false, false) => ERROR,
        };
        sink.send(format.write(first, b"")).await?;
    }
    while let Some(message) = to.recv().await {
        match message {
            ToClient::Output(OutputStream::Stdout, data) if options.stdout => {
                sink.send(format.write(STDOUT, &data)).await?;
            }
            ToClient::Output(OutputStream::Stderr, data) if options.stderr => {
                sink.send(format.write(STDERR, &data)).await?;
            }
            ToClient::Output(..) => {}
            ToClient::Ended(status) => {
                let failed = status.status.as_deref() != Some("Success");
                if format.status {
                    sink.send(format.write(ERROR, encode(&status).to_string().as_bytes())).await?;
                } else if failed {
                    sink.send(format.write(ERROR, status.message.unwrap_or_default().as_bytes())).await?;
                }
                break;
            }
        }
    }
    sink.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::TerminalSize;

    #[test]
    fn messages_mean_what_their_channel_says() {
        let v5 = Format::of("v5.channel.k8s.io");
        let size = FromClient::Resize(TerminalSize { width: 80, height: 24 });
        assert_eq!(v5.understand(Message::binary(&b"\x00abc"[..])), Some(FromClient::Stdin("abc".into())));
        assert_eq!(v5.understand(Message::binary(&b"\x04{\"Width\":80,\"Height\":24}\n"[..])), Some(size));
        assert_eq!(v5.understand(Message::binary(&b"\xff\x00"[..])), Some(FromClient::StdinClosed));
        assert_eq!(Format::of("v4.channel.k8s.io").understand(Message::binary(&b"\xff\x00"[..])), None);
        assert_eq!(v5.understand(Message::binary(&b""[..])), None);
        let base64 = Format::of("v4.base64.channel.k8s.io");
        assert_eq!(base64.understand(Message::text("0YWJj")), Some(FromClient::Stdin("abc".into())));
        assert_eq!(base64.write(STDOUT, b"abc"), Message::text("1YWJj"));
    }
}
