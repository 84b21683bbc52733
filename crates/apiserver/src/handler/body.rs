//! Reading bodies: size, format, and the object in them.

use bytes::Bytes;
use coracle_api::decode::{self, FieldValidation};
use coracle_api::{ApiError, ApiResult, Resource, protobuf};
use http::request::Parts;
use http_body_util::BodyExt;
use serde_json::Value;

use super::Call;
use crate::body::RequestBody;
use crate::negotiate::{BodyFormat, body_format};

/// The largest body that is read.
const LIMIT_BYTES: usize = 3 * 1024 * 1024;

/// All of a body.
///
/// # Errors
/// 413 beyond the limit, 400 if it breaks off.
pub(super) async fn read(mut body: RequestBody) -> ApiResult<Bytes> {
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
pub(super) fn parse(resource: &Resource, bytes: &[u8], format: BodyFormat) -> ApiResult<(Value, Vec<String>)> {
    let text = match format {
        BodyFormat::Json => decode::parse_json(bytes),
        BodyFormat::Yaml => decode::parse_yaml(bytes),
        BodyFormat::Protobuf => return Ok((protobuf::decode(bytes)?, Vec::new())),
    };
    text.map_err(|why| decode::unreadable(resource, why))
}

impl Call {
    /// The object in a body: parsed, of the right kind, pruned of unknown fields as `fieldValidation` says.
    pub(super) async fn decode(&mut self, parts: &Parts, body: RequestBody) -> ApiResult<Value> {
        let format = body_format(&parts.headers)?;
        let bytes = read(body).await?;
        let resource = self.row.resource.clone();
        let (object, problems) = parse(&resource, &bytes, format)?;
        self.accept_object(&resource, object, problems)
    }

    /// The body of a subresource with a kind of its own, such as a Scale or Binding.
    pub(super) async fn decode_subresource(&mut self, parts: &Parts, body: RequestBody) -> ApiResult<Value> {
        let format = body_format(&parts.headers)?;
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
        mut problems: Vec<String>,
    ) -> ApiResult<Value> {
        decode::check_kind(resource, &mut object)?;
        decode::decode(resource, &mut object, &mut problems)?;
        match self.options.field_validation {
            _ if problems.is_empty() => {}
            FieldValidation::Ignore => {}
            FieldValidation::Warn => self.warnings.append(&mut problems),
            FieldValidation::Strict => return Err(decode::strict_error(resource, &problems)),
        }
        Ok(object)
    }

    /// `DeleteOptions`: the body's, completed by the query's. An empty body is fine.
    pub(super) async fn delete_options(&self, parts: &Parts, body: RequestBody) -> ApiResult<Value> {
        let bytes = read(body).await?;
        let mut options = match bytes.as_ref() {
            b"" => Value::Object(serde_json::Map::new()),
            bytes => parse(&self.row.resource, bytes, body_format(&parts.headers)?)?.0,
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
