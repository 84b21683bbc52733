//! How messages become bytes: into room that is made at once.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

/// What can be sent.
pub(super) trait Encode: Send + 'static {
    fn encoded_len(&self) -> usize;

    /// Writes so many bytes.
    fn encode(self, out: &mut EncodeBuf<'_>);
}

impl<M: Message + 'static> Encode for M {
    fn encoded_len(&self) -> usize {
        Message::encoded_len(self)
    }

    fn encode(self, mut out: &mut EncodeBuf<'_>) {
        self.encode_raw(&mut out);
    }
}

/// Sends `A`, receives `Q`.
pub(super) struct Messages<A, Q>(PhantomData<(A, Q)>);

impl<A, Q> Messages<A, Q> {
    pub(super) fn new() -> Self {
        Messages(PhantomData)
    }
}

impl<A: Encode, Q: Message + Default + 'static> Codec for Messages<A, Q> {
    type Encode = A;
    type Decode = Q;
    type Encoder = Self;
    type Decoder = ProstDecoder<Q>;

    fn encoder(&mut self) -> Self {
        Messages::new()
    }

    fn decoder(&mut self) -> ProstDecoder<Q> {
        ProstDecoder::default()
    }
}

impl<A: Encode, Q> Encoder for Messages<A, Q> {
    type Item = A;
    type Error = Status;

    fn encode(&mut self, message: A, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(message.encoded_len());
        message.encode(out);
        Ok(())
    }
}
