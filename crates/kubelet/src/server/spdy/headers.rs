//! Header blocks: name-value pairs, compressed with zlib and a dictionary of words that headers are made of.
//!
//! Each direction of a connection is one zlib stream that is flushed, but never ended, after each block; so each
//! block's compression depends on all before it.

use std::io;

use bytes::{Buf, BufMut, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// The pairs of a header block, in order. A name may occur once; several values are joined by NUL.
pub type Headers = Vec<(String, String)>;

/// More than any client of ours has reason to send in a block, against blocks that inflate without end.
const MAX_BLOCK_BYTES: usize = 256 * 1024;
const CHUNK_BYTES: usize = 4096;

/// The dictionary's first part: each word is preceded by its length in four bytes.
const WORDS: [&str; 65] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];
/// The dictionary's second part.
const PHRASES: &str = concat!(
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505",
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized",
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable",
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT",
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,",
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
);

/// The dictionary of the specification's section 2.6.10.1.
fn dictionary() -> Vec<u8> {
    let mut dictionary = Vec::new();
    for word in WORDS {
        put_text(&mut dictionary, word);
    }
    dictionary.extend_from_slice(PHRASES.as_bytes());
    dictionary
}

/// Text preceded by its length in four bytes.
fn put_text(to: &mut impl BufMut, text: &str) {
    to.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    to.put_slice(text.as_bytes());
}

/// One direction's compressor.
pub struct Compressor(Compress);

impl Compressor {
    /// A compressor at the beginning of a connection.
    pub fn new() -> io::Result<Compressor> {
        let mut compress = Compress::new(Compression::default(), true);
        compress.set_dictionary(&dictionary()).map_err(io::Error::other)?;
        Ok(Compressor(compress))
    }

    /// The compressed block of these headers.
    pub fn compress(&mut self, headers: &Headers) -> io::Result<Vec<u8>> {
        let mut plain = BytesMut::new();
        plain.put_u32(u32::try_from(headers.len()).map_err(io::Error::other)?);
        for (name, value) in headers {
            put_text(&mut plain, name);
            put_text(&mut plain, value);
        }
        let start = self.0.total_in();
        let mut block = Vec::with_capacity(CHUNK_BYTES);
        loop {
            let done = usize::try_from(self.0.total_in() - start).map_err(io::Error::other)?;
            self.0.compress_vec(&plain[done..], &mut block, FlushCompress::Sync).map_err(io::Error::other)?;
            // Room left over means that everything came out.
            if block.len() < block.capacity() {
                return Ok(block);
            }
            block.reserve(CHUNK_BYTES);
        }
    }
}

/// One direction's decompressor.
pub struct Decompressor(Decompress);

impl Decompressor {
    /// A decompressor at the beginning of a connection.
    pub fn new() -> Decompressor {
        Decompressor(Decompress::new(true))
    }

    /// The headers of a compressed block.
    pub fn decompress(&mut self, block: &[u8]) -> io::Result<Headers> {
        let start = self.0.total_in();
        let mut plain = Vec::with_capacity(CHUNK_BYTES);
        loop {
            let done = usize::try_from(self.0.total_in() - start).map_err(io::Error::other)?;
            match self.0.decompress_vec(&block[done..], &mut plain, FlushDecompress::Sync) {
                Ok(Status::Ok | Status::BufError | Status::StreamEnd) => {}
                // The stream's beginning asks for its dictionary.
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&dictionary()).map_err(io::Error::other)?;
                    continue;
                }
                Err(error) => return Err(invalid(&error.to_string())),
            }
            if plain.len() < plain.capacity() {
                return parse(&plain);
            }
            if plain.len() >= MAX_BLOCK_BYTES {
                return Err(invalid("a header block is too long"));
            }
            plain.reserve(plain.len());
        }
    }
}

impl Default for Decompressor {
    fn default() -> Decompressor {
        Decompressor::new()
    }
}

fn parse(mut plain: &[u8]) -> io::Result<Headers> {
    let count = plain.try_get_u32().map_err(|_| invalid("a header block is too short"))?;
    (0..count).map(|_| Ok((take_text(&mut plain)?.to_ascii_lowercase(), take_text(&mut plain)?))).collect()
}

fn take_text(from: &mut &[u8]) -> io::Result<String> {
    let short = |_| invalid("a header block is too short");
    let length = from.try_get_u32().map_err(short)? as usize;
    if from.len() < length {
        return Err(invalid("a header block is too short"));
    }
    let (text, rest) = from.split_at(length);
    *from = rest;
    String::from_utf8(text.to_vec()).map_err(|_| invalid("a header is not text"))
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_dictionary_is_that_of_the_specification() {
        let dictionary = dictionary();
        assert_eq!(dictionary.len(), 1423);
        let mut compress = Compress::new(Compression::default(), true);
        assert_eq!(compress.set_dictionary(&dictionary).unwrap(), 0xe3c6_a7c2);
    }

    #[test]
    fn garbage_is_refused() {
        assert!(Decompressor::new().decompress(&[1, 2, 3, 4, 5]).is_err());
        let mut compressor = Compressor::new().unwrap();
        let block = compressor.compress(&vec![("a".into(), "b".into())]).unwrap();
        assert!(Decompressor::new().decompress(&block[..block.len() / 2]).is_err());
    }

    proptest! {
        #[test]
        fn blocks_survive_the_way_in_order(
            blocks in prop::collection::vec(prop::collection::vec(("[a-z-]{1,20}", ".{0,200}"), 0..20), 1..8)
        ) {
            let (mut compressor, mut decompressor) = (Compressor::new().unwrap(), Decompressor::new());
            for headers in blocks {
                let block = compressor.compress(&headers).unwrap();
                prop_assert_eq!(decompressor.decompress(&block).unwrap(), headers);
            }
        }
    }
}
