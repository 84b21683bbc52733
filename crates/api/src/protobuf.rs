//! `application/vnd.kubernetes.protobuf`: objects of built-in kinds, driven by the schema table.
//!
//! A body is the four bytes `k8s\0` and a `runtime.Unknown` message, which names apiVersion and kind and holds the
//! object's own message in `raw`. kubectl 1.32 sends such bodies for most `create` commands.
//!
//! [`decode`] gives JSON as the decoder of JSON bodies gives it before [`crate::decode::normalise`], which the caller
//! runs on both; [`encode`] goes the other way, leaving out what is absent.

mod read;
pub(crate) mod wire;
mod write;

use serde_json::{Value, json};

use crate::schema::{Type, type_of, type_of_kind};
use crate::status::{ApiError, ApiResult};
use wire::{Reader, Wire};

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// How a body begins.
pub const MAGIC: &[u8] = b"k8s\0";

/// Deeper messages than this are refused (JSON schemas nest).
const MAX_DEPTH: usize = 100;

fn malformed(why: &str) -> ApiError {
    ApiError::bad_request(format!("the body could not be decoded as protobuf: {why}"))
}

/// Reads a body: the object as JSON, with `apiVersion` and `kind` as the envelope names them.
///
/// # Errors
/// 400 if it is not such a body or of no known kind.
pub fn decode(body: &[u8]) -> ApiResult<Value> {
    let envelope = body.strip_prefix(MAGIC).ok_or_else(|| {
        malformed("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    })?;
    let (mut api_version, mut kind, mut raw): (String, String, &[u8]) = Default::default();
    for field in Reader(envelope) {
        match field? {
            (1, Wire::Bytes(meta)) => {
                for field in Reader(meta) {
                    match field? {
                        (1, Wire::Bytes(text)) => api_version = String::from_utf8_lossy(text).into_owned(),
                        (2, Wire::Bytes(text)) => kind = String::from_utf8_lossy(text).into_owned(),
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let ty = type_of_kind(&api_version, &kind).ok_or_else(|| {
        ApiError::bad_request(format!("no kind {kind:?} is registered for version {api_version:?} in scheme"))
    })?;
    let mut object = json!({ "apiVersion": api_version, "kind": kind });
    read::message(ty, raw, &mut object, MAX_DEPTH)?;
    Ok(object)
}

/// Reads a bare message of a type, without the envelope.
///
/// # Errors
/// 400 if it is malformed.
pub fn decode_message(ty: &'static Type, body: &[u8]) -> ApiResult<Value> {
    let mut object = json!({});
    read::message(ty, body, &mut object, MAX_DEPTH)?;
    Ok(object)
}

/// Writes an object, a list, a Status or options as a body; nothing if its kind is not in the schema.
pub fn encode(object: &Value) -> Option<Vec<u8>> {
    let (api_version, kind) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
    Some(envelope(api_version, kind, &encode_message(type_of_kind(api_version, kind)?, object)))
}

/// Writes a bare message of a type, without the envelope.
pub fn encode_message(ty: &'static Type, object: &Value) -> Vec<u8> {
    let mut raw = Vec::new();
    write::message(ty, object, &mut raw);
    raw
}

/// A message as a body: the magic bytes and a `runtime.Unknown` that says what `raw` is.
pub fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut meta = Vec::new();
    wire::put_bytes(&mut meta, 1, api_version.as_bytes());
    wire::put_bytes(&mut meta, 2, kind.as_bytes());
    let mut body = Vec::with_capacity(raw.len() + meta.len() + 32);
    body.extend_from_slice(MAGIC);
    wire::put_bytes(&mut body, 1, &meta);
    wire::put_bytes(&mut body, 2, raw);
    // Go reads absent strings as empty, but writes these two; so do we.
    wire::put_bytes(&mut body, 3, b"");
    wire::put_bytes(&mut body, 4, b"");
    body
}

/// A list as a body, from its ListMeta and its items' messages.
pub fn encode_list(api_version: &str, kind: &str, meta: &Value, items: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    // The one list whose fields stand the other way round.
    let old = (api_version, kind) == ("meta.k8s.io/v1beta1", "PartialObjectMetadataList");
    let (meta_number, item_number) = if old { (2, 1) } else { (1, 2) };
    let mut raw = Vec::new();
    let list_meta = type_of("meta.v1.ListMeta").map(|ty| encode_message(ty, meta)).unwrap_or_default();
    wire::put_bytes(&mut raw, meta_number, &list_meta);
    items.for_each(|item| wire::put_bytes(&mut raw, item_number, &item));
    envelope(api_version, kind, &raw)
}

/// One frame of a watch stream: its length in four bytes, then a bare WatchEvent around the object's body.
pub fn watch_frame(event: &str, object: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(object.len() + 8);
    wire::put_bytes(&mut raw, 1, object);
    let mut message = Vec::with_capacity(raw.len() + 24);
    wire::put_bytes(&mut message, 1, event.as_bytes());
    wire::put_bytes(&mut message, 2, &raw);
    // A body is a few MiB at most.
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut frame = length.to_be_bytes().to_vec();
    frame.append(&mut message);
    frame
}

/// Whether a text is a duration as Go prints it, such as `1h30m`.
pub(crate) fn is_duration(text: &str) -> bool {
    text == "0s" || read::duration_nanos(text) != 0
}

#[cfg(test)]
mod tests;
