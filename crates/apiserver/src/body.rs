//! Bodies: what the service reads, whoever sends it, and what it answers, whoever reads it.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use futures::stream::BoxStream;
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body, whether it comes from hyper or from an in-process client.
pub type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// A response's body: bytes that are there, or a stream of them (watches, logs).
pub enum Body {
    /// All of it at once; taken by the first poll.
    Full(Option<Bytes>),
    /// Chunk by chunk, until the stream ends.
    Stream(BoxStream<'static, Result<Bytes, BoxError>>),
}

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Body::Full(None)
    }

    /// All of `bytes`.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Body::Full(Some(bytes.into()))
    }

    /// The chunks of a stream that cannot fail.
    pub fn stream(chunks: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        use futures::StreamExt;
        Body::Stream(chunks.map(|chunk| Ok::<_, Infallible>(chunk).map_err(Into::into)).boxed())
    }

    /// The chunks of a stream that may break off with an error.
    pub fn try_stream(chunks: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Self {
        use futures::StreamExt;
        Body::Stream(chunks.boxed())
    }

    /// The same body, with something that lives as long as it is read.
    pub fn holding(self, held: impl Send + 'static) -> Self {
        use futures::StreamExt;
        match self {
            Body::Full(_) => self,
            Body::Stream(chunks) => Body::Stream(
                chunks
                    .map(move |chunk| {
                        let _ = &held;
                        chunk
                    })
                    .boxed(),
            ),
        }
    }

    /// Another body, such as a kubelet's answer, passed on.
    pub fn forward<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        use futures::TryStreamExt;
        Self::try_stream(http_body_util::BodyDataStream::new(body).map_err(Into::into))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Body::Full(bytes) => write!(f, "Full({} bytes)", bytes.as_ref().map_or(0, Bytes::len)),
            Body::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Body::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Stream(stream) => Pin::new(stream).poll_next(cx).map(|item| item.map(|chunk| chunk.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Body::Stream(_) => SizeHint::default(),
        }
    }
}
