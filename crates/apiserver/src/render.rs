//! Answers: objects, lists, Tables and metadata as response bodies.
//!
//! The usual answer copies bytes that are already there: one object as it lies in the cache, a list piece by
//! piece as the client takes it. Only Tables, metadata views, YAML, protobuf and pretty printing parse.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use coracle_api::schema::{Type, type_of};
use coracle_api::{ApiError, Resource, protobuf, table};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY};
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::body::Body;
use crate::negotiate::{Accept, Format, View};
use crate::options::IncludeObject;

/// Bodies larger than this are compressed for clients that understand gzip, and lists are sent in pieces.
const GZIP_FROM_BYTES: usize = 128 * 1024;
/// How much of a list is put together at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// A response of some media type.
fn response(code: u16, body: Body, media_type: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A response with a JSON body that is already serialised.
pub fn json_bytes(code: u16, json: impl Into<Bytes>) -> Response<Body> {
    response(code, Body::full(json), "application/json")
}

/// A response with a text body.
pub fn text(code: u16, text: impl Into<Bytes>) -> Response<Body> {
    response(code, Body::full(text), "text/plain; charset=utf-8")
}

/// A refusal as a response.
pub fn refusal(error: &ApiError, accept: Accept) -> Response<Body> {
    let mut response = finish(error.code, error.to_status().to_string().into(), accept);
    if let Some(seconds) = error.details["retryAfterSeconds"].as_i64() {
        response.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
    }
    response
}

/// Serialised JSON as the client wants it: YAML, protobuf, pretty, compressed, or as it is.
pub fn finish(code: u16, json: Bytes, accept: Accept) -> Response<Body> {
    let parse = || serde_json::from_slice::<Value>(&json).unwrap_or_default();
    let converted = match (accept.format, accept.pretty) {
        (Format::Json, false) => None,
        (Format::Json, true) => serde_json::to_vec_pretty(&parse()).ok(),
        (Format::Yaml, _) => serde_yaml_ng::to_string(&parse()).ok().map(String::into_bytes),
        (Format::Protobuf, _) => protobuf::encode(&parse()),
    };
    match converted {
        Some(body) => whole(code, body.into(), accept, accept.format),
        // What cannot be written otherwise is JSON, and says so.
        None => whole(code, json, accept, Format::Json),
    }
}

/// A body that is there as a whole.
fn whole(code: u16, body: Bytes, accept: Accept, format: Format) -> Response<Body> {
    match (accept.gzip && body.len() > GZIP_FROM_BYTES).then(|| gzip(&body)).flatten() {
        Some(packed) => compressed(response(code, Body::full(packed), format.media_type())),
        None => response(code, Body::full(body), format.media_type()),
    }
}

fn compressed(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

/// Compresses, quickly rather than well.
pub fn gzip(body: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

/// A body that comes in pieces. Short ones are sent as a whole all the same.
fn pieces(mut pieces: impl Iterator<Item = Bytes> + Send + 'static, accept: Accept) -> Response<Body> {
    let mut start = Vec::new();
    while start.len() <= GZIP_FROM_BYTES {
        match pieces.next() {
            Some(piece) => start.extend_from_slice(&piece),
            None => return json_bytes(200, start),
        }
    }
    let pieces = std::iter::once(Bytes::from(start)).chain(pieces);
    if accept.gzip {
        let body = Body::stream(futures::stream::iter(gzip_pieces(pieces)));
        return compressed(response(200, body, "application/json"));
    }
    response(200, Body::stream(futures::stream::iter(pieces)), "application/json")
}

fn gzip_pieces(mut pieces: impl Iterator<Item = Bytes>) -> impl Iterator<Item = Bytes> {
    let mut encoder = Some(GzEncoder::new(Vec::with_capacity(PIECE_BYTES), Compression::fast()));
    std::iter::from_fn(move || {
        while let Some(packer) = &mut encoder {
            match pieces.next() {
                // Writing to memory cannot fail.
                Some(piece) => drop(packer.write_all(&piece)),
                None => return encoder.take()?.finish().ok().map(Bytes::from),
            }
            if packer.get_ref().len() >= PIECE_BYTES / 4 {
                return Some(std::mem::take(packer.get_mut()).into());
            }
        }
        None
    })
}

/// One object as a response.
pub fn object(code: u16, json: Bytes, resource: &Resource, accept: Accept, include: IncludeObject) -> Response<Body> {
    finish(code, view(json, resource, accept.view, include, true), accept)
}

fn parse(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap_or_default()
}

/// One object's JSON in the shape asked for. `columns`: whether a Table says what its columns are.
pub fn view(json: Bytes, resource: &Resource, view: View, include: IncludeObject, columns: bool) -> Bytes {
    match view {
        View::Object => json,
        View::Metadata(version) | View::MetadataList(version) => metadata_of(&json, version),
        View::Table(version) => {
            let object = parse(&json);
            let meta = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
            let rows = [row(&object, resource, include, version)];
            let definitions = if columns { column_definitions(resource) } else { Value::Null };
            let table = json!({
                "kind": "Table",
                "apiVersion": version,
                "metadata": meta,
                "columnDefinitions": definitions,
                "rows": rows,
            });
            table.to_string().into()
        }
    }
}

/// A list as a response body. `meta` is its ListMeta, `items` the objects' JSON.
pub fn list(
    resource: &Arc<Resource>,
    meta: Value,
    items: impl Iterator<Item = Bytes> + Send + 'static,
    accept: Accept,
    include: IncludeObject,
) -> Response<Body> {
    let (api_version, kind) = match accept.view {
        View::Object => (resource.api_version(), resource.list_kind.clone()),
        View::Metadata(version) | View::MetadataList(version) => (version.into(), "PartialObjectMetadataList".into()),
        View::Table(version) => (version.into(), "Table".into()),
    };
    if accept.format == Format::Protobuf
        && let Some(ty) = item_type(resource, accept.view)
    {
        let items = items.map(|item| protobuf::encode_message(ty, &parse(&item)));
        let body = protobuf::encode_list(&api_version, &kind, &meta, items);
        return whole(200, body.into(), accept, Format::Protobuf);
    }
    let field = match accept.view {
        View::Table(_) => format!("\"columnDefinitions\":{},\"rows\"", column_definitions(resource)),
        _ => "\"items\"".to_owned(),
    };
    let head = format!("{{\"kind\":{kind:?},\"apiVersion\":{api_version:?},\"metadata\":{meta},{field}:[");
    let resource = resource.clone();
    let items = items.map(move |item| match accept.view {
        View::Object => item,
        View::Metadata(version) | View::MetadataList(version) => metadata_of(&item, version),
        View::Table(version) => row(&parse(&item), &resource, include, version).to_string().into(),
    });
    let joined = joined(head, items);
    if accept.format == Format::Json && !accept.pretty {
        return pieces(joined, accept);
    }
    let json = joined.fold(Vec::new(), |mut all, piece| {
        all.extend_from_slice(&piece);
        all
    });
    finish(200, json.into(), accept)
}

/// The protobuf type of a list's items.
fn item_type(resource: &Resource, view: View) -> Option<&'static Type> {
    match view {
        View::Object => type_of(&resource.definition),
        View::Metadata(_) | View::MetadataList(_) => type_of("meta.v1.PartialObjectMetadata"),
        View::Table(_) => None,
    }
}

/// The pieces of a document: its head, its items with commas between them, and the brackets at its end.
fn joined(head: String, mut items: impl Iterator<Item = Bytes>) -> impl Iterator<Item = Bytes> {
    let mut piece = head.into_bytes();
    let (mut first, mut over) = (true, false);
    std::iter::from_fn(move || {
        while !over {
            match items.next() {
                Some(item) => {
                    if !std::mem::take(&mut first) {
                        piece.push(b',');
                    }
                    piece.extend_from_slice(&item);
                }
                None => {
                    over = true;
                    piece.extend_from_slice(b"]}");
                }
            }
            if over || piece.len() >= PIECE_BYTES {
                let next = Vec::with_capacity(if over { 0 } else { PIECE_BYTES + PIECE_BYTES / 4 });
                return Some(std::mem::replace(&mut piece, next).into());
            }
        }
        None
    })
}

fn column_definitions(resource: &Resource) -> Value {
    let columns = resource.columns.iter().map(|column| {
        json!({
            "name": column.name,
            "type": column.kind,
            "format": column.format,
            "description": table::description(column),
            "priority": column.priority,
        })
    });
    columns.collect()
}

fn row(object: &Value, resource: &Resource, include: IncludeObject, version: &str) -> Value {
    let mut row = json!({ "cells": resource.strategy.cells(object) });
    if resource.group.is_empty()
        && resource.kind == "Pod"
        && let Some(conditions) = table::row_conditions(object)
    {
        row["conditions"] = conditions;
    }
    match include {
        IncludeObject::None => {}
        IncludeObject::Metadata => row["object"] = metadata_only(object, version),
        IncludeObject::Object => row["object"] = object.clone(),
    }
    row
}

/// An object's metadata as an object of its own, copied as it is written.
fn metadata_of(json: &[u8], version: &str) -> Bytes {
    #[derive(Deserialize)]
    struct Part<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    let metadata = serde_json::from_slice(json).map_or("null", |part: Part<'_>| part.metadata.get());
    format!(r#"{{"apiVersion":"{version}","kind":"PartialObjectMetadata","metadata":{metadata}}}"#).into()
}

fn metadata_only(object: &Value, version: &str) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": version, "metadata": object["metadata"] })
}

/// `Warning` headers (RFC 7234, code 299), as kubectl prints them.
pub fn add_warnings(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let text: String = warning
            .chars()
            .filter(|c| !c.is_control())
            .flat_map(|c| if matches!(c, '"' | '\\') { vec!['\\', c] } else { vec![c] })
            .collect();
        if let Ok(value) = HeaderValue::try_from(format!("299 - \"{text}\"").into_bytes()) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
}
