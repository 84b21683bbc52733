//! Writes together what is written at a time: an answer's head, its body and its trailers, and the answers to several
//! requests of one connection, are one record of TLS and one call of the system instead of one each.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::eager::Again;

/// No more is held back than TLS takes at a time; frames of HTTP/2 are shorter.
const LIMIT: usize = 64 << 10;

#[derive(Debug)]
struct Held<S> {
    inner: S,
    bytes: BytesMut,
    /// Whether [`Cork::drive`] sees to what is held.
    driven: bool,
}

impl<S: AsyncWrite + Unpin> Held<S> {
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.bytes.len() + bytes.len() > LIMIT {
            ready!(self.poll_release(cx))?;
        }
        if bytes.len() > LIMIT {
            return Pin::new(&mut self.inner).poll_write(cx, bytes);
        }
        self.bytes.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.bytes.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, &self.bytes))? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                written => self.bytes.advance(written),
            }
        }
        // A quiet connection keeps no room.
        self.bytes = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_release(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }
}

/// A stream that holds back what is written to it.
#[derive(Debug)]
pub(super) struct Cork<S>(Arc<Mutex<Held<S>>>);

impl<S: AsyncWrite + Unpin> Cork<S> {
    pub(super) fn new(inner: S) -> Self {
        Cork(Arc::new(Mutex::new(Held { inner, bytes: BytesMut::new(), driven: true })))
    }

    fn held(&self) -> MutexGuard<'_, Held<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a connection over this stream: whenever it has nothing more to do for now, what it wrote is sent. Once it has
    /// ended, whoever it left the stream to writes without delay.
    pub(super) async fn drive<T, E: From<io::Error>>(
        &self,
        connection: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let (mut connection, again) = (pin!(connection), Arc::new(Again::default()));
        let waker = Waker::from(again.clone());
        let ended = std::future::poll_fn(|cx| {
            let mut polled = again.poll(connection.as_mut(), cx, &waker);
            if let Poll::Ready(Err(error)) = self.held().poll_flush(cx)
                && polled.is_pending()
            {
                polled = Poll::Ready(Err(error.into()));
            }
            polled
        });
        let ended = ended.await;
        self.held().driven = false;
        std::future::poll_fn(|cx| self.held().poll_flush(cx)).await?;
        ended
    }
}

impl<S> Clone for Cork<S> {
    fn clone(&self) -> Self {
        Cork(self.0.clone())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Cork<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.held().inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cork<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.held().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let (mut held, mut written) = (self.held(), 0);
        for part in parts {
            match held.poll_write(cx, part) {
                Poll::Ready(Ok(more)) => written += more,
                _ if written > 0 => break,
                failed => return failed,
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = self.held();
        if held.driven { Poll::Ready(Ok(())) } else { held.poll_flush(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = self.held();
        ready!(held.poll_release(cx))?;
        Pin::new(&mut held.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_is_written_at_a_time_arrives_at_once_and_nothing_stays_behind() {
        let (mut peer, ours) = tokio::io::duplex(4 * LIMIT);
        let cork = Cork::new(ours);
        let mut stream = cork.clone();
        let mut arrives = async |expected: usize| {
            assert_eq!(peer.read(&mut vec![0; 4 * LIMIT]).await.unwrap(), expected);
        };
        let parts = async |stream: &mut Cork<_>| {
            for part in [1, 300, 2] {
                stream.write_all(&vec![0; part]).await?;
                stream.flush().await?;
            }
            Ok::<_, io::Error>(())
        };
        let waits = cork.drive(async {
            parts(&mut stream).await?;
            std::future::pending::<io::Result<()>>().await
        });
        assert!(waits.now_or_never().is_none());
        arrives(303).await;
        cork.drive(async { stream.write_all(&vec![0; LIMIT + 1]).await }).await.unwrap();
        arrives(LIMIT + 1).await;
        cork.drive(parts(&mut stream)).await.unwrap();
        arrives(303).await;
        // The connection has ended; whoever has the stream now is not held back.
        stream.write_all(&[0; 5]).await.unwrap();
        stream.flush().await.unwrap();
        arrives(5).await;
    }
}
