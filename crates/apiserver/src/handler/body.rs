//! Reading bodies: size, format, and the object in them.

use std::time::Duration;

use bytes::Bytes;
use coracle_api::decode::{self, FieldValidation};
use coracle_api::{ApiError, ApiResult, Resource, protobuf};
use http::request::Parts;
use http_body::Body as _;
use http_body_util::BodyExt;
use serde_json::Value;

use super::Call;
use crate::body::RequestBody;
use crate::negotiate::{Format, body_format};

/// The largest body that is read.
const LIMIT_BYTES: usize = 3 * 1024 * 1024;
/// How long a client may take to send it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How deep an object may be nested: what is stored must be read again, with its `managedFields`, by parsers that go
/// 128 levels deep.
const MAX_DEPTH: usize = 100;

/// All of a body.
///
/// # Errors
/// 413 beyond the limit, 400 if it breaks off, 504 if it does not come.
pub(crate) async fn read(body: RequestBody) -> ApiResult<Bytes> {
    let late = || ApiError::timeout("request did not complete within the allowed duration", 0);
    coracle_clock::timeout(PATIENCE, read_all(body)).await.map_err(|_| late())?
}

async fn read_all(mut body: RequestBody) -> ApiResult<Bytes> {
    // What is announced need not be waited for.
    if body.size_hint().lower() > LIMIT_BYTES as u64 {
        return Err(ApiError::too_large(LIMIT_BYTES));
    }
    let mut first = Bytes::new();
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::bad_request(format!("cannot read the request's body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + whole.len() + data.len() > LIMIT_BYTES {
            return Err(ApiError::too_large(LIMIT_BYTES));
        }
        // Most bodies come in one piece, which need not be copied.
        if first.is_empty() && whole.is_empty() {
            first = data;
            continue;
        }
        whole.extend_from_slice(&std::mem::take(&mut first));
        whole.extend_from_slice(&data);
    }
    Ok(if whole.is_empty() { first } else { whole.into() })
}

/// A body as a value, and what was odd about its text (duplicate fields).
pub(super) fn parse(resource: &Resource, bytes: &[u8], format: Format) -> ApiResult<(Value, Vec<String>)> {
    let text = match format {
        Format::Json => decode::parse_json(bytes),
        Format::Yaml => decode::parse_yaml(bytes),
        Format::Protobuf => return Ok((protobuf::decode(bytes)?, Vec::new())),
    };
    text.map_err(|why| decode::unreadable(resource, format_args!("{why} ({})", summary(bytes))))
}

/// How a body begins, as upstream shows it: text as it is, anything else in hexadecimal.
fn summary(bytes: &[u8]) -> String {
    const SHOWN_BYTES: usize = 30;
    let start = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let more = if bytes.len() > SHOWN_BYTES { " ..." } else { "" };
    match start.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(start)),
        Some(_) => format!("{}{more}", start.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
}

impl Call {
    /// The object in a body: parsed, of the right kind, pruned of unknown fields as `fieldValidation` says.
    pub(super) async fn decode(&mut self, parts: &Parts, body: RequestBody) -> ApiResult<Value> {
        let resource = self.row.resource.clone();
        let format = body_format(&parts.headers, resource.builtin())?;
        let bytes = read(body).await?;
        let (object, problems) = parse(&resource, &bytes, format)?;
        self.accept_object(&resource, object, problems)
    }

    /// The body of a subresource with a kind of its own, such as a Scale or Binding.
    pub(super) async fn decode_subresource(&mut self, parts: &Parts, body: RequestBody) -> ApiResult<Value> {
        let format = body_format(&parts.headers, true)?;
        let bytes = read(body).await?;
        let resource = self.row.resource.clone();
        let (mut object, problems) = parse(&resource, &bytes, format)?;
        match resource.subresource(&self.info.subresource) {
            None => self.accept_object(&resource, object, problems),
            Some(subresource) => {
                let (group, version, kind) = &subresource.kind;
                if !object.is_object() {
                    return Err(decode::unreadable(&resource, "not an object"));
                }
                let version = match (group.as_str(), version.as_str()) {
                    (_, "") => "v1".to_owned(),
                    ("", version) => version.to_owned(),
                    (group, version) => format!("{group}/{version}"),
                };
                for (field, value) in [("apiVersion", &version), ("kind", kind)] {
                    if object[field].as_str().unwrap_or_default().is_empty() {
                        object[field] = value.as_str().into();
                    }
                }
                Ok(object)
            }
        }
    }

    /// Checks a parsed object's kind and fields.
    pub(super) fn accept_object(
        &mut self,
        resource: &Resource,
        mut object: Value,
        duplicates: Vec<String>,
    ) -> ApiResult<Value> {
        self.check_depth(&object)?;
        decode::check_kind(resource, &mut object)?;
        let mut problems = Vec::new();
        decode::decode(resource, &mut object, &mut problems)?;
        problems.extend(duplicates);
        match self.options.field_validation {
            _ if problems.is_empty() => {}
            FieldValidation::Ignore => {}
            FieldValidation::Warn => self.warnings.append(&mut problems),
            FieldValidation::Strict => return Err(decode::strict_error(resource, &problems)),
        }
        Ok(object)
    }

    /// Refuses what is nested too deeply to be stored.
    pub(super) fn check_depth(&self, object: &Value) -> ApiResult<()> {
        match decode::deeper_than(object, MAX_DEPTH) {
            true => Err(decode::unhandled(&self.row.resource, "exceeded max depth")),
            false => Ok(()),
        }
    }

    /// `DeleteOptions`: the body's, completed by the query's. An empty body is fine.
    pub(super) async fn delete_options(&self, parts: &Parts, body: RequestBody) -> ApiResult<Value> {
        let bytes = read(body).await?;
        let mut options = match bytes.as_ref() {
            b"" => Value::Object(serde_json::Map::new()),
            bytes => parse(&self.row.resource, bytes, body_format(&parts.headers, true)?)?.0,
        };
        if !options.is_object() {
            return Err(ApiError::bad_request("the body of a deletion must be DeleteOptions"));
        }
        let query = &self.options;
        let given = [
            ("gracePeriodSeconds", query.grace_period_seconds.map(Value::from)),
            ("propagationPolicy", query.propagation_policy.clone().map(Value::from)),
            ("orphanDependents", query.orphan_dependents.map(Value::from)),
        ];
        for (field, value) in given {
            if let Some(value) = value {
                options[field] = value;
            }
        }
        Ok(options)
    }
}
