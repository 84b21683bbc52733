//! `/openapi/v3` and `/openapi/v2`: the schema of everything that is served.
//!
//! The index of v3 names each document with a hash of its content in the URL, so that clients may keep a document
//! for ever: `Cache-Control: public, immutable`. Documents are made when asked for; what is kept of them is the hash,
//! and the compressed document once somebody read it (core's is 2 MB), for as long as its resources are the same.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use coracle_api::openapi::{Document, Encoding, documents, write_v2};
use coracle_api::{ApiError, ApiResult, Resource};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH,
    LOCATION, VARY,
};
use http::request::Parts;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha512};

use crate::aggregator::Aggregator;
use crate::body::Body;
use crate::request_info::query_param;
use crate::storage::ResourceTable;
use crate::{render, version};

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// What is known of each document, by its path; v2's are `v2` and `v2.protobuf`.
#[derive(Debug, Default)]
pub struct Documents(Mutex<BTreeMap<String, Known>>);

#[derive(Debug)]
struct Known {
    /// What it was made of.
    resources: Vec<Arc<Resource>>,
    others: Vec<Arc<Value>>,
    hash: String,
    gzip: Option<Bytes>,
}

/// Hashes what is written, and compresses it if it is to be read.
struct Sink {
    hash: Sha512,
    gzip: Option<GzEncoder<Vec<u8>>>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.gzip.as_mut().map_or(Ok(()), |gzip| gzip.write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Documents {
    /// A document's hash and, if it is to be read, its compressed content. It is made by `write`, unless it is known.
    fn get(
        &self,
        path: &str,
        resources: &[Arc<Resource>],
        others: &[Arc<Value>],
        read: bool,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<(String, Bytes)> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        fn same<T>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
        }
        let same = |known: &&Known| same(&known.resources, resources) && same(&known.others, others);
        if let Some(known) = all.get(path).filter(same)
            && (!read || known.gzip.is_some())
        {
            return Ok((known.hash.clone(), known.gzip.clone().unwrap_or_default()));
        }
        let gzip = read.then(|| GzEncoder::new(Vec::new(), Compression::default()));
        let mut sink = io::BufWriter::with_capacity(16 * 1024, Sink { hash: Sha512::new(), gzip });
        write(&mut sink)?;
        let sink = sink.into_inner().map_err(io::IntoInnerError::into_error)?;
        let hash: String = sink.hash.finalize().iter().map(|byte| format!("{byte:02X}")).collect();
        let gzip = sink.gzip.map(GzEncoder::finish).transpose()?.map(Bytes::from);
        let (resources, others) = (resources.to_vec(), others.to_vec());
        let known = Known { resources, others, hash: hash.clone(), gzip: gzip.clone() };
        all.insert(path.to_owned(), known);
        Ok((hash, gzip.unwrap_or_default()))
    }

    /// Answers for `/openapi/v2` (with what extension servers add), `/openapi/v3` and what is below.
    ///
    /// # Errors
    /// 404 if there is no such document, 406 if it is not to be had in that form.
    pub fn answer(
        &self,
        table: &ResourceTable,
        aggregator: &Aggregator,
        path: &str,
        parts: &Parts,
    ) -> ApiResult<Response<Body>> {
        let resources: Vec<Arc<Resource>> = table.rows().iter().map(|row| row.resource.clone()).collect();
        let documents = documents(&resources);
        if path == "/openapi/v2" {
            let v2 = self.v2(&documents, &resources, &aggregator.openapi_v2(), parts);
            return v2.ok_or_else(|| ApiError::not_acceptable(JSON))?;
        }
        let path = path.trim_start_matches("/openapi/v3").trim_matches('/');
        if path.is_empty() {
            return self.index(documents, parts).map_err(ApiError::internal);
        }
        let document = documents.iter().find(|document| document.path == path);
        let document = document.ok_or_else(ApiError::no_such_resource)?;
        self.v3(document, parts).map_err(ApiError::internal)
    }

    fn index(&self, documents: Vec<Document>, parts: &Parts) -> io::Result<Response<Body>> {
        let mut paths = BTreeMap::new();
        for document in &documents {
            let (hash, _) = self.get(&document.path, &document.resources, &[], false, |out| document.write_v3(out))?;
            let url = url(&document.path, &hash);
            paths.insert(&document.path, json!({ "serverRelativeURL": url }));
        }
        // Documents of groups that are gone.
        let served = |path: &str| path.starts_with("v2") || documents.iter().any(|document| document.path == path);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|path, _| served(path));
        let index = json!({ "paths": paths }).to_string();
        let hash: String = Sha512::digest(&index).iter().map(|byte| format!("{byte:02X}")).collect();
        Ok(tagged(render::json_bytes(200, index), &hash, parts))
    }

    fn v3(&self, document: &Document, parts: &Parts) -> io::Result<Response<Body>> {
        let (hash, gzip) = self.get(&document.path, &document.resources, &[], true, |out| document.write_v3(out))?;
        let wanted = query_param(&parts.uri, "hash");
        if wanted.as_ref().is_some_and(|wanted| *wanted != hash) {
            let mut moved = render::json_bytes(301, Bytes::new());
            if let Ok(location) = HeaderValue::try_from(url(&document.path, &hash)) {
                moved.headers_mut().insert(LOCATION, location);
            }
            return Ok(moved);
        }
        let mut response = tagged(content(gzip, JSON, parts)?, &hash, parts);
        if wanted.is_some() {
            let year = jiff::SignedDuration::from_hours(24 * 365);
            let expires = (coracle_clock::now() + year).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
            if let Ok(expires) = HeaderValue::try_from(expires) {
                response.headers_mut().insert(EXPIRES, expires);
            }
        }
        Ok(response)
    }

    /// All documents as one of v2; `None` if the client takes neither form.
    fn v2(
        &self,
        documents: &[Document],
        resources: &[Arc<Resource>],
        others: &[Arc<Value>],
        parts: &Parts,
    ) -> Option<ApiResult<Response<Body>>> {
        let encoding = encoding(parts)?;
        let (path, media) = match encoding {
            Encoding::Json => ("v2", JSON),
            Encoding::Protobuf => ("v2.protobuf", PROTOBUF),
        };
        let version = version::document()["gitVersion"].as_str().unwrap_or_default().to_owned();
        let made = self.get(path, resources, others, true, |out| write_v2(documents, others, &version, encoding, out));
        let response = made.and_then(|(hash, gzip)| Ok(tagged(content(gzip, media, parts)?, &hash, parts)));
        Some(response.map_err(ApiError::internal))
    }
}

fn url(path: &str, hash: &str) -> String {
    format!("/openapi/v3/{path}?hash={hash}")
}

fn header(parts: &Parts, name: http::HeaderName) -> &str {
    parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The form of v2 that the client takes first.
fn encoding(parts: &Parts) -> Option<Encoding> {
    let accept = header(parts, ACCEPT);
    let one = |range: &str| match range.split(';').next().unwrap_or_default().trim() {
        JSON | "*/*" | "application/*" => Some(Encoding::Json),
        // Clients before 1.26 have an @ where no media type may have one.
        PROTOBUF | "application/com.github.proto-openapi.spec.v2@v1.0+protobuf" => Some(Encoding::Protobuf),
        _ => None,
    };
    if accept.is_empty() { Some(Encoding::Json) } else { accept.split(',').find_map(one) }
}

/// Compressed content, or what it was, as the client takes it.
fn content(gzip: Bytes, media: &'static str, parts: &Parts) -> io::Result<Response<Body>> {
    let packed = header(parts, ACCEPT_ENCODING).contains("gzip");
    let mut response = if packed {
        render::json_bytes(200, gzip)
    } else {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&gzip[..]).read_to_end(&mut plain)?;
        render::json_bytes(200, plain)
    };
    let headers = response.headers_mut();
    if packed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    Ok(response)
}

/// An answer with its hash as ETag, without content for clients that have it.
fn tagged(mut response: Response<Body>, hash: &str, parts: &Parts) -> Response<Body> {
    let etag = format!("\"{hash}\"");
    if header(parts, IF_NONE_MATCH).contains(&etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = Body::empty();
        response.headers_mut().remove(CONTENT_ENCODING);
    }
    if let Ok(etag) = HeaderValue::try_from(etag) {
        response.headers_mut().insert(ETAG, etag);
    }
    response
}
