//! Drops peers that say nothing or take nothing: a beginning that does not come and a write that makes no progress are
//! errors, which end the connection.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// For how long a peer's window may stay full.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// How long a peer may take over its first bytes: `ReadHeaderTimeout` upstream.
pub(super) const OPENING: Duration = Duration::from_secs(32);
/// With so many bytes HTTP/2 has begun, and HTTP/1.1 counts its own time.
const OPENING_BYTES: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

/// A stream whose first reads and whose writes do not wait for ever.
pub(super) struct Impatient<S> {
    inner: S,
    /// How many of the first bytes have not come, and until when they must.
    opening: Option<(usize, Pin<Box<Sleep>>)>,
    /// Runs while a write waits.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S: Unpin> Impatient<S> {
    pub(super) fn new(inner: S) -> Self {
        let opening = Some((OPENING_BYTES, Box::pin(tokio::time::sleep(OPENING))));
        Impatient { inner, opening, deadline: None }
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.deadline = None;
            return written;
        }
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(PATIENCE)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if let Some((missing, deadline)) = &mut self.opening {
            if read.is_pending() {
                ready!(deadline.as_mut().poll(cx));
                return Poll::Ready(Err(ErrorKind::TimedOut.into()));
            }
            *missing = missing.saturating_sub(buf.filled().len() - before);
            if *missing == 0 {
                self.opening = None;
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.watch(cx, closed)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_dropped_and_a_slow_one_is_not() {
        let (mut peer, ours) = tokio::io::duplex(64);
        let mut ours = Impatient::new(ours);
        let reader = tokio::spawn(async move {
            let mut some = [0; 64];
            for _ in 0..4 {
                tokio::time::sleep(PATIENCE / 2).await;
                peer.read_exact(&mut some).await.unwrap();
            }
            peer
        });
        ours.write_all(&[0; 320]).await.unwrap();
        let _peer = reader.await.unwrap();
        let error = ours.write_all(&[0; 320]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
