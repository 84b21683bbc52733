//! `/openapi/v3`: the schema of every group and version.
//!
//! The index names each group's document with a hash of its content in the URL, so that clients may keep
//! a document for ever: `Cache-Control: public, immutable`. Documents are kept compressed (core's is 2 MB).

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use coracle_api::Resource;
use coracle_api::openapi::openapi_v3;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH, VARY};
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::body::Body;
use crate::render;
use crate::storage::ResourceTable;

/// All documents, by their path below `/openapi/v3/`, such as `apis/apps/v1`.
#[derive(Debug)]
pub struct Documents(BTreeMap<String, Document>);

#[derive(Debug)]
struct Document {
    hash: String,
    gzip: Bytes,
}

impl Documents {
    fn of(table: &ResourceTable) -> Self {
        let mut groups: BTreeMap<(&str, &str), Vec<Arc<Resource>>> = BTreeMap::new();
        for row in table.rows() {
            let resource = &row.resource;
            groups.entry((&resource.group, &resource.version)).or_default().push(resource.clone());
        }
        let documents = groups.into_iter().filter_map(|((group, version), resources)| {
            let json = openapi_v3(group, version, &resources).to_string();
            let hash = Sha256::digest(&json).iter().map(|byte| format!("{byte:02X}")).collect();
            let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            Some((path, Document { hash, gzip: render::gzip(json.as_bytes())? }))
        });
        Documents(documents.collect())
    }
}

/// Answers the index or a document; `None` if there is no such group.
pub fn answer(table: &ResourceTable, path: &str, headers: &HeaderMap) -> Option<Response<Body>> {
    let documents = table.openapi.get_or_init(|| Documents::of(table));
    let path = path.trim_start_matches("/openapi/v3").trim_matches('/');
    if path.is_empty() {
        let paths: BTreeMap<&String, Value> = documents
            .0
            .iter()
            .map(|(path, document)| {
                (path, json!({ "serverRelativeURL": format!("/openapi/v3/{path}?hash={}", document.hash) }))
            })
            .collect();
        return Some(render::json_bytes(200, json!({ "paths": paths }).to_string()));
    }
    let document = documents.0.get(path)?;
    let etag = format!("\"{}\"", document.hash);
    let has = |name, text: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains(text))
    };
    let gzip = has(ACCEPT_ENCODING, "gzip");
    let mut response = if has(IF_NONE_MATCH, &etag) {
        let mut response = render::json_bytes(200, Bytes::new());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else if gzip {
        let mut response = render::json_bytes(200, document.gzip.clone());
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    } else {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&document.gzip[..]).read_to_end(&mut plain).ok()?;
        render::json_bytes(200, plain)
    };
    let expires =
        (coracle_clock::now() + jiff::SignedDuration::from_hours(24 * 365)).strftime("%a, %d %b %Y %H:%M:%S GMT");
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    for (name, value) in [(ETAG, etag), (EXPIRES, expires.to_string())] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    Some(response)
}
