//! A byte stream inside a WebSocket: each binary message is a piece of it, wherever it was cut (KEP-4006).

use bytes::BytesMut;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::tungstenite::Message;

use super::upgrade::WebSocket;

const BUFFER_BYTES: usize = 64 * 1024;

/// The byte stream inside a WebSocket, carried by a task until either side closes it.
pub fn untunnel(socket: WebSocket) -> DuplexStream {
    let (inside, outside) = tokio::io::duplex(BUFFER_BYTES);
    tokio::spawn(async move {
        let (mut sink, mut stream) = socket.split();
        let (mut read, mut write) = tokio::io::split(outside);
        let incoming = async {
            while let Some(Ok(message)) = stream.next().await {
                if let Message::Binary(data) = message
                    && write.write_all(&data).await.is_err()
                {
                    break;
                }
            }
            // The reader sees the end; it may have left before.
            let _ = write.shutdown().await;
        };
        let outgoing = async {
            let mut buffer = BytesMut::new();
            loop {
                buffer.reserve(BUFFER_BYTES);
                match read.read_buf(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {
                        if sink.send(Message::Binary(buffer.split().freeze())).await.is_err() {
                            break;
                        }
                    }
                }
            }
            // A client that is gone needs no farewell.
            let _ = sink.close().await;
        };
        tokio::select! {
            biased;
            () = outgoing => {}
            () = incoming => {}
        }
    });
    inside
}
