//! Answers: objects, lists, Tables and metadata as response bodies.
//!
//! The usual answer copies bytes that are already there. Only Tables, metadata views, YAML and pretty
//! printing parse.

use std::io::Write;

use bytes::Bytes;
use coracle_api::{ApiError, Resource};
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::body::Body;
use crate::negotiate::{Accept, Format, View};
use crate::options::IncludeObject;

/// Bodies larger than this are compressed for clients that understand gzip.
const GZIP_FROM_BYTES: usize = 128 * 1024;

/// A response with a JSON body that is already serialised.
pub fn json_bytes(code: u16, json: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::full(json));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A response with a text body.
pub fn text(code: u16, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = json_bytes(code, text);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A refusal as a response.
pub fn refusal(error: &ApiError) -> Response<Body> {
    let mut response = json_bytes(error.code, error.to_status().to_string());
    if let Some(seconds) = error.details["retryAfterSeconds"].as_i64() {
        response.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
    }
    response
}

/// Serialised JSON as the client wants it: pretty, YAML, compressed, or as it is.
pub fn finish(code: u16, json: Bytes, accept: Accept) -> Response<Body> {
    let (body, yaml) = match (accept.format, accept.pretty) {
        (Format::Json, false) => (json, false),
        (format, _) => {
            let value: Value = serde_json::from_slice(&json).unwrap_or_default();
            match format {
                Format::Json => (serde_json::to_vec_pretty(&value).map_or(json, Bytes::from), false),
                Format::Yaml => (serde_yaml_ng::to_string(&value).map_or(json, Bytes::from), true),
            }
        }
    };
    let compress = accept.gzip && body.len() > GZIP_FROM_BYTES;
    let packed = compress.then(|| gzip(&body)).flatten();
    let compressed = packed.is_some();
    let mut response = json_bytes(code, packed.unwrap_or(body));
    let headers = response.headers_mut();
    if yaml {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/yaml"));
    }
    if compressed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    response
}

/// Compresses, quickly rather than well.
pub fn gzip(body: &[u8]) -> Option<Bytes> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(body.len() / 4), flate2::Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

/// One object as a response.
pub fn object(code: u16, json: Bytes, resource: &Resource, accept: Accept, include: IncludeObject) -> Response<Body> {
    finish(code, view(json, resource, accept.view, include, true), accept)
}

/// One object's JSON in the shape asked for. `columns`: whether a Table says what its columns are.
pub fn view(json: Bytes, resource: &Resource, view: View, include: IncludeObject, columns: bool) -> Bytes {
    let parse = || serde_json::from_slice::<Value>(&json).unwrap_or_default();
    match view {
        View::Object => json,
        View::Metadata(version) => metadata_only(&parse(), version).to_string().into(),
        View::Table(version) => {
            let object = parse();
            let meta = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
            let rows = vec![row(&object, resource, include, version)];
            let definitions = if columns { column_definitions(resource) } else { Value::Null };
            table(version, meta, definitions, rows).to_string().into()
        }
    }
}

/// A list as a response body. `meta` is its ListMeta, `items` the objects' JSON.
pub fn list(
    resource: &Resource,
    meta: Value,
    items: &[Bytes],
    accept: Accept,
    include: IncludeObject,
) -> Response<Body> {
    let parsed = || items.iter().map(|item| serde_json::from_slice::<Value>(item).unwrap_or_default());
    let json = match accept.view {
        View::Object => {
            let head = format!(
                "{{\"kind\":{:?},\"apiVersion\":{:?},\"metadata\":{meta},\"items\":[",
                resource.list_kind,
                resource.api_version()
            );
            let mut out = Vec::with_capacity(head.len() + 2 + items.iter().map(|item| item.len() + 1).sum::<usize>());
            out.extend_from_slice(head.as_bytes());
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(item);
            }
            out.extend_from_slice(b"]}");
            Bytes::from(out)
        }
        View::Metadata(version) => {
            let items: Vec<Value> = parsed().map(|object| metadata_only(&object, version)).collect();
            let kind = "PartialObjectMetadataList";
            json!({ "kind": kind, "apiVersion": version, "metadata": meta, "items": items }).to_string().into()
        }
        View::Table(version) => {
            let rows = parsed().map(|object| row(&object, resource, include, version)).collect();
            table(version, meta, column_definitions(resource), rows).to_string().into()
        }
    };
    finish(200, json, accept)
}

fn table(version: &str, meta: Value, columns: Value, rows: Vec<Value>) -> Value {
    json!({ "kind": "Table", "apiVersion": version, "metadata": meta, "columnDefinitions": columns, "rows": rows })
}

fn column_definitions(resource: &Resource) -> Value {
    let columns = resource.columns.iter().map(|column| {
        json!({
            "name": column.name,
            "type": column.kind,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        })
    });
    columns.collect()
}

fn row(object: &Value, resource: &Resource, include: IncludeObject, version: &str) -> Value {
    let mut row = json!({ "cells": resource.strategy.cells(object) });
    match include {
        IncludeObject::None => {}
        IncludeObject::Metadata => row["object"] = metadata_only(object, version),
        IncludeObject::Object => row["object"] = object.clone(),
    }
    row
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
