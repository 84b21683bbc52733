//! How messages become bytes: into room that is made at once.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

/// Sends `A`, receives `Q`.
pub(super) struct Messages<A, Q>(PhantomData<(A, Q)>);

impl<A, Q> Messages<A, Q> {
    pub(super) fn new() -> Self {
        Messages(PhantomData)
    }
}

impl<A: Message + 'static, Q: Message + Default + 'static> Codec for Messages<A, Q> {
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

impl<A: Message + 'static, Q> Encoder for Messages<A, Q> {
    type Item = A;
    type Error = Status;

    fn encode(&mut self, message: A, mut out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(message.encoded_len());
        message.encode_raw(&mut out);
        Ok(())
    }
}
