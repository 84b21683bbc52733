//! Frames: what travels on a SPDY connection.
//!
//! A frame begins with eight bytes. In a control frame: a one bit, the version (15 bits), the type (16), flags (8) and
//! the length of what follows (24). In a data frame: a zero bit, the stream (31), flags (8) and the length (24).

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use super::headers::{Compressor, Decompressor, Headers};

const VERSION: u16 = 3;
const CONTROL: u32 = 1 << 31;
const FRAME_HEADER_BYTES: usize = 8;
const FLAG_FIN: u8 = 1;
/// The length field's greatest value; data is sent in far smaller pieces.
const MAX_LENGTH: usize = (1 << 24) - 1;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// A frame. Those that mean nothing here (settings, flow control) are left out on reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream {
        /// The new stream.
        stream: u32,
        /// Whether the sender will send nothing more on it.
        fin: bool,
        /// What it is for.
        headers: Headers,
    },
    /// Accepts a stream.
    SynReply {
        /// The stream.
        stream: u32,
        /// Whether the sender will send nothing on it.
        fin: bool,
        /// The answer.
        headers: Headers,
    },
    /// Ends a stream at once.
    RstStream {
        /// The stream.
        stream: u32,
        /// Why: 1 protocol error, 3 refused, 5 cancelled.
        status: u32,
    },
    /// Asks for the same in return.
    Ping {
        /// Odd when it comes from a client.
        id: u32,
    },
    /// Announces that no more streams will be accepted.
    GoAway {
        /// The last stream that was accepted.
        last_stream: u32,
        /// Why: 0 all is well.
        status: u32,
    },
    /// More headers for a stream.
    Headers {
        /// The stream.
        stream: u32,
        /// Whether the sender will send nothing more on it.
        fin: bool,
        /// The headers.
        headers: Headers,
    },
    /// Bytes on a stream.
    Data {
        /// The stream.
        stream: u32,
        /// Whether the sender will send nothing more on it.
        fin: bool,
        /// The bytes.
        data: Bytes,
    },
}

/// Reads and writes the frames of one connection.
pub struct Codec {
    compressor: Compressor,
    decompressor: Decompressor,
}

impl Codec {
    /// A codec at the beginning of a connection.
    pub fn new() -> io::Result<Codec> {
        Ok(Codec { compressor: Compressor::new()?, decompressor: Decompressor::new() })
    }

    fn parse_control(&mut self, kind: u16, flags: u8, mut body: &[u8]) -> io::Result<Option<Frame>> {
        let fin = flags & FLAG_FIN != 0;
        Ok(Some(match kind {
            SYN_STREAM => {
                let stream = stream_id(&mut body)?;
                // The associated stream, priority and slot mean nothing here.
                body.try_get_u32().and_then(|_| body.try_get_u16()).map_err(|_| short())?;
                Frame::SynStream { stream, fin, headers: self.decompressor.decompress(body)? }
            }
            SYN_REPLY => {
                let stream = stream_id(&mut body)?;
                Frame::SynReply { stream, fin, headers: self.decompressor.decompress(body)? }
            }
            HEADERS => {
                let stream = stream_id(&mut body)?;
                Frame::Headers { stream, fin, headers: self.decompressor.decompress(body)? }
            }
            RST_STREAM => Frame::RstStream { stream: stream_id(&mut body)?, status: number(&mut body)? },
            PING => Frame::Ping { id: number(&mut body)? },
            GOAWAY => Frame::GoAway { last_stream: stream_id(&mut body)?, status: number(&mut body)? },
            _ => return Ok(None),
        }))
    }
}

impl Decoder for Codec {
    type Item = Frame;
    type Error = io::Error;

    fn decode(&mut self, source: &mut BytesMut) -> io::Result<Option<Frame>> {
        loop {
            let Some(mut header) = source.get(..FRAME_HEADER_BYTES) else { return Ok(None) };
            let (first, second) = (header.get_u32(), header.get_u32());
            let length = (second & MAX_LENGTH as u32) as usize;
            if source.len() < FRAME_HEADER_BYTES + length {
                source.reserve(FRAME_HEADER_BYTES + length - source.len());
                return Ok(None);
            }
            source.advance(FRAME_HEADER_BYTES);
            let body = source.split_to(length).freeze();
            let flags = (second >> 24) as u8;
            if first & CONTROL == 0 {
                return Ok(Some(Frame::Data { stream: first, fin: flags & FLAG_FIN != 0, data: body }));
            }
            let (version, kind) = ((first >> 16) as u16 & 0x7fff, first as u16);
            if version != VERSION {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("SPDY of version {version}")));
            }
            if let Some(frame) = self.parse_control(kind, flags, &body)? {
                return Ok(Some(frame));
            }
        }
    }
}

impl Encoder<Frame> for Codec {
    type Error = io::Error;

    fn encode(&mut self, frame: Frame, to: &mut BytesMut) -> io::Result<()> {
        match frame {
            Frame::Data { stream, fin, data } => {
                put_header(to, stream, fin, data.len())?;
                to.put_slice(&data);
            }
            Frame::SynStream { stream, fin, headers } => {
                let block = self.compressor.compress(&headers)?;
                put_header(to, control(SYN_STREAM), fin, 10 + block.len())?;
                to.put_u32(stream);
                to.put_u32(0);
                to.put_u16(0);
                to.put_slice(&block);
            }
            Frame::SynReply { stream, fin, headers } => self.put_headers(to, SYN_REPLY, stream, fin, &headers)?,
            Frame::Headers { stream, fin, headers } => self.put_headers(to, HEADERS, stream, fin, &headers)?,
            Frame::RstStream { stream, status } => put_numbers(to, RST_STREAM, &[stream, status])?,
            Frame::Ping { id } => put_numbers(to, PING, &[id])?,
            Frame::GoAway { last_stream, status } => put_numbers(to, GOAWAY, &[last_stream, status])?,
        }
        Ok(())
    }
}

impl Codec {
    fn put_headers(
        &mut self,
        to: &mut BytesMut,
        kind: u16,
        stream: u32,
        fin: bool,
        headers: &Headers,
    ) -> io::Result<()> {
        let block = self.compressor.compress(headers)?;
        put_header(to, control(kind), fin, 4 + block.len())?;
        to.put_u32(stream);
        to.put_slice(&block);
        Ok(())
    }
}

fn put_numbers(to: &mut BytesMut, kind: u16, numbers: &[u32]) -> io::Result<()> {
    put_header(to, control(kind), false, 4 * numbers.len())?;
    numbers.iter().for_each(|number| to.put_u32(*number));
    Ok(())
}

fn control(kind: u16) -> u32 {
    CONTROL | u32::from(VERSION) << 16 | u32::from(kind)
}

fn put_header(to: &mut BytesMut, first: u32, fin: bool, length: usize) -> io::Result<()> {
    if length > MAX_LENGTH {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a frame is too long"));
    }
    let flags = if fin { u32::from(FLAG_FIN) } else { 0 };
    to.reserve(FRAME_HEADER_BYTES + length);
    to.put_u32(first);
    to.put_u32(flags << 24 | length as u32);
    Ok(())
}

fn number(body: &mut &[u8]) -> io::Result<u32> {
    body.try_get_u32().map_err(|_| short())
}

fn stream_id(body: &mut &[u8]) -> io::Result<u32> {
    Ok(number(body)? & !CONTROL)
}

fn short() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a frame is too short")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers() -> impl Strategy<Value = Headers> {
        prop::collection::vec(("[a-z]{1,12}", "[ -~]{0,40}"), 0..5)
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let stream = || 0u32..1 << 31;
        let data = prop::collection::vec(any::<u8>(), 0..2000);
        prop_oneof![
            (stream(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Frame::SynStream {
                stream,
                fin,
                headers
            }),
            (stream(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Frame::SynReply {
                stream,
                fin,
                headers
            }),
            (stream(), any::<bool>(), headers()).prop_map(|(stream, fin, headers)| Frame::Headers {
                stream,
                fin,
                headers
            }),
            (stream(), any::<u32>()).prop_map(|(stream, status)| Frame::RstStream { stream, status }),
            any::<u32>().prop_map(|id| Frame::Ping { id }),
            (stream(), any::<u32>()).prop_map(|(last_stream, status)| Frame::GoAway { last_stream, status }),
            (stream(), any::<bool>(), data).prop_map(|(stream, fin, data)| Frame::Data {
                stream,
                fin,
                data: data.into()
            }),
        ]
    }

    proptest! {
        #[test]
        fn frames_survive_being_cut_anywhere(frames in prop::collection::vec(frame(), 1..10), cut in 1usize..100) {
            let (mut sender, mut receiver) = (Codec::new().unwrap(), Codec::new().unwrap());
            let mut wire = BytesMut::new();
            for frame in &frames {
                sender.encode(frame.clone(), &mut wire).unwrap();
            }
            let (mut received, mut buffer) = (Vec::new(), BytesMut::new());
            for piece in wire.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = receiver.decode(&mut buffer).unwrap() {
                    received.push(frame);
                }
            }
            prop_assert_eq!(received, frames);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            let mut codec = Codec::new().unwrap();
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = codec.decode(&mut buffer) {}
        }
    }

    #[test]
    fn settings_and_flow_control_are_left_out() {
        let mut wire = BytesMut::new();
        put_numbers(&mut wire, 4, &[0]).unwrap();
        put_numbers(&mut wire, 9, &[1, 65536]).unwrap();
        put_numbers(&mut wire, PING, &[7]).unwrap();
        assert_eq!(Codec::new().unwrap().decode(&mut wire).unwrap(), Some(Frame::Ping { id: 7 }));
    }
}
