//! `/openapi/v2`: a document that describes nothing, for clients that will not do without one.
//!
//! Schemas are served as OpenAPI v3 ([`crate::openapi`]), which every current client reads. Yet kubectl, when a
//! manifest's kind is unknown to v3, asks for v2 before it says so. A document without definitions lets it go on
//! to its real answer ("no matches for kind"); an error here would stand in its place.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Response};
use serde_json::json;

use crate::body::Body;
use crate::{render, version};

const TITLE: &str = "Kubernetes";

/// Answers in JSON, or in protobuf where that is asked for.
pub fn answer(headers: &HeaderMap) -> Response<Body> {
    let version = version::document()["gitVersion"].as_str().unwrap_or_default().to_owned();
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !accept.contains("proto-openapi.spec.v2") {
        let document = json!({ "swagger": "2.0", "info": { "title": TITLE, "version": version }, "paths": {} });
        return render::json_bytes(200, document.to_string());
    }
    let mut response = render::json_bytes(200, protobuf(&version));
    let kind = HeaderValue::from_static("application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// The document as gnostic's `openapi.v2.Document`: swagger = 1, info = 2 { title = 1, version = 2 }, paths = 8.
fn protobuf(version: &str) -> Bytes {
    let info = [field(1, TITLE.as_bytes()), field(2, version.as_bytes())].concat();
    [field(1, b"2.0"), field(2, &info), field(8, b"")].concat().into()
}

/// A length-delimited field; number and length are small enough for one byte each.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).unwrap_or(0) & 0x7f;
    let mut encoded = vec![number << 3 | 2, length];
    encoded.extend_from_slice(&bytes[..length.into()]);
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_in_protobuf_has_a_version_a_title_and_no_paths() {
        assert_eq!(&protobuf("v1")[..], b"\x0a\x032.0\x12\x10\x0a\x0aKubernetes\x12\x02v1\x42\x00");
    }
}
