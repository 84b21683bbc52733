//! A SPDY connection as a server sees it: the client opens streams, each is bytes both ways.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::codec::{FramedRead, FramedWrite};
use tokio_util::sync::CancellationToken;

use super::codec::{Codec, Frame};
use super::headers::Headers;

/// Data frames that wait for a stream's reader before the whole connection waits.
const STREAM_QUEUE: usize = 64;
/// Frames that wait to be written.
const WRITE_QUEUE: usize = 64;
/// Streams that wait to be accepted.
const ACCEPT_QUEUE: usize = 16;
/// Status of a stream that was ended by its user.
const CANCEL: u32 = 5;

/// A connection whose frames are read and written by a task of its own. Closed when dropped.
pub struct Connection {
    accepted: mpsc::Receiver<Stream>,
    closing: CancellationToken,
    writing: tokio::task::JoinHandle<()>,
}

/// A stream that the client opened.
pub struct Stream {
    /// Its number; odd.
    pub id: u32,
    /// What it is for.
    pub headers: Headers,
    /// What the client sends.
    pub reader: StreamReader,
    /// What is sent to the client.
    pub writer: StreamWriter,
}

impl Stream {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The client's half of a stream.
pub struct StreamReader(mpsc::Receiver<Bytes>);

impl StreamReader {
    /// The next bytes; `None` after the last.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }
}

/// The server's half of a stream.
#[derive(Clone)]
pub struct StreamWriter {
    id: u32,
    frames: mpsc::Sender<Frame>,
}

impl StreamWriter {
    /// Sends bytes. Fails when the connection is gone.
    pub async fn send(&self, data: Bytes) -> io::Result<()> {
        self.write(Frame::Data { stream: self.id, fin: false, data }).await
    }

    /// Says that nothing more comes.
    pub async fn finish(&self) -> io::Result<()> {
        self.write(Frame::Data { stream: self.id, fin: true, data: Bytes::new() }).await
    }

    /// Ends the stream in both directions.
    pub async fn reset(&self) -> io::Result<()> {
        self.write(Frame::RstStream { stream: self.id, status: CANCEL }).await
    }

    async fn write(&self, frame: Frame) -> io::Result<()> {
        self.frames.send(frame).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Connection {
    /// Speaks SPDY on a connection.
    pub fn new(io: impl AsyncRead + AsyncWrite + Send + 'static) -> io::Result<Connection> {
        let (read, write) = tokio::io::split(io);
        let (accept, accepted) = mpsc::channel(ACCEPT_QUEUE);
        let (frames, queue) = mpsc::channel(WRITE_QUEUE);
        let closing = CancellationToken::new();
        let reading = read_frames(FramedRead::new(read, Codec::new()?), accept, frames);
        let writing = write_frames(FramedWrite::new(write, Codec::new()?), queue, closing.clone());
        let stopped = closing.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = stopped.cancelled() => {}
                result = reading => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "a SPDY connection broke");
                    }
                }
            }
        });
        Ok(Connection { accepted, closing, writing: tokio::spawn(writing) })
    }

    /// The next stream that the client opens; `None` when the connection is gone.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.accepted.recv().await
    }

    /// Writes what is queued and closes.
    pub async fn close(mut self) {
        self.closing.cancel();
        // It cannot panic, and nobody aborts it.
        let _ = (&mut self.writing).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

async fn read_frames<R: AsyncRead + Unpin>(
    mut incoming: FramedRead<R, Codec>,
    accept: mpsc::Sender<Stream>,
    frames: mpsc::Sender<Frame>,
) -> io::Result<()> {
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    let mut streams: BTreeMap<u32, mpsc::Sender<Bytes>> = BTreeMap::new();
    while let Some(frame) = incoming.next().await {
        match frame? {
            Frame::SynStream { stream: id, fin, headers } => {
                let (sender, receiver) = mpsc::channel(STREAM_QUEUE);
                if !fin {
                    streams.insert(id, sender);
                }
                let reply = Frame::SynReply { stream: id, fin: false, headers: Vec::new() };
                frames.send(reply).await.map_err(|_| gone())?;
                let writer = StreamWriter { id, frames: frames.clone() };
                let stream = Stream { id, headers, reader: StreamReader(receiver), writer };
                // Nobody accepts any more: what is open goes on.
                let _ = accept.send(stream).await;
            }
            Frame::Data { stream, fin, data } => {
                if let Some(sender) = streams.get(&stream)
                    && !data.is_empty()
                {
                    // A reader that was dropped wants no more.
                    let _ = sender.send(data).await;
                }
                if fin {
                    streams.remove(&stream);
                }
            }
            Frame::RstStream { stream, .. } => {
                streams.remove(&stream);
            }
            Frame::Headers { stream, fin: true, .. } => {
                streams.remove(&stream);
            }
            Frame::Ping { id } => frames.send(Frame::Ping { id }).await.map_err(|_| gone())?,
            // A client that goes away closes the connection when its streams have ended.
            Frame::GoAway { .. } | Frame::SynReply { .. } | Frame::Headers { .. } => {}
        }
    }
    Ok(())
}

async fn write_frames<W: AsyncWrite + Unpin>(
    mut outgoing: FramedWrite<W, Codec>,
    mut queue: mpsc::Receiver<Frame>,
    closing: CancellationToken,
) {
    let write = async {
        let mut open = true;
        while open {
            tokio::select! {
                biased;
                frame = queue.recv() => match frame {
                    Some(frame) => outgoing.feed(frame).await?,
                    None => open = false,
                },
                () = closing.cancelled() => open = false,
            }
            // Frames that are ready go out together.
            while let Ok(frame) = queue.try_recv() {
                outgoing.feed(frame).await?;
            }
            outgoing.flush().await?;
        }
        outgoing.close().await
    };
    if let Err(error) = write.await {
        tracing::debug!(%error, "a SPDY connection broke");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Client = tokio_util::codec::Framed<tokio::io::DuplexStream, Codec>;

    fn connect() -> (Client, Connection) {
        let (client, server) = tokio::io::duplex(1024);
        (tokio_util::codec::Framed::new(client, Codec::new().unwrap()), Connection::new(server).unwrap())
    }

    #[tokio::test]
    async fn a_stream_carries_bytes_both_ways() {
        let (mut client, mut server) = connect();
        let headers = vec![("streamtype".to_string(), "data".to_string())];
        client.send(Frame::SynStream { stream: 1, fin: false, headers }).await.unwrap();
        client.send(Frame::Data { stream: 1, fin: true, data: "ping".into() }).await.unwrap();
        let mut stream = server.accept().await.unwrap();
        assert_eq!(stream.header("streamtype"), Some("data"));
        assert_eq!(stream.reader.next().await, Some("ping".into()));
        assert_eq!(stream.reader.next().await, None);
        stream.writer.send("pong".into()).await.unwrap();
        stream.writer.finish().await.unwrap();
        server.close().await;
        let heard: Vec<_> = client.map(Result::unwrap).collect().await;
        let reply = Frame::SynReply { stream: 1, fin: false, headers: Vec::new() };
        let data = |fin, data: &'static str| Frame::Data { stream: 1, fin, data: data.into() };
        assert_eq!(heard, [reply, data(false, "pong"), data(true, "")]);
    }

    #[tokio::test]
    async fn a_ping_is_answered_with_itself() {
        let (mut client, _server) = connect();
        client.send(Frame::Ping { id: 41 }).await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Frame::Ping { id: 41 });
    }

    #[tokio::test]
    async fn a_broken_connection_ends_its_streams() {
        let (mut client, mut server) = connect();
        client.send(Frame::SynStream { stream: 1, fin: false, headers: Vec::new() }).await.unwrap();
        let mut stream = server.accept().await.unwrap();
        drop(client);
        assert_eq!(stream.reader.next().await, None);
        assert!(server.accept().await.is_none());
    }
}
