//! The ways to change an object in part: JSON patch, merge patch, strategic merge patch.
//!
//! Which one a request means is its `Content-Type`. All work on the object's JSON; the caller decodes, defaults
//! and validates the result as if it had come by PUT.

pub mod json;
pub mod merge;
pub mod strategic;

use serde_json::Value;

use crate::schema::Type;
use crate::status::{ApiError, ApiResult};

/// The kinds of patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own: lists merge by key.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl PatchType {
    /// Reads a `Content-Type`, parameters and all. `strategic`: whether the kind has merge keys, which custom
    /// resources lack.
    ///
    /// # Errors
    /// 415 for any other type.
    pub fn of(content_type: &str, strategic: bool) -> ApiResult<Self> {
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        match media_type {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" if strategic => Ok(Self::Strategic),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            _ => Err(ApiError::unsupported_media_type(if strategic {
                "application/json-patch+json, application/merge-patch+json, \
                 application/strategic-merge-patch+json, application/apply-patch+yaml"
            } else {
                "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
            })),
        }
    }
}

/// Applies a JSON, merge or strategic patch to `object`. `ty` is the object's type, for strategic merge.
///
/// # Errors
/// 400 if the patch cannot be read, 422 if it does not apply, 415 for strategic merge without a type.
pub fn apply(patch_type: PatchType, object: &Value, patch: &[u8], ty: Option<&'static Type>) -> ApiResult<Value> {
    match patch_type {
        PatchType::Json => json::apply(object, patch),
        _ => merge(patch_type, object, &read(patch)?, ty),
    }
}

/// Applies a merge or strategic patch that is read already.
///
/// # Errors
/// 422 if it does not apply, 415 for any other patch and for strategic merge without a type.
pub fn merge(patch_type: PatchType, object: &Value, patch: &Value, ty: Option<&'static Type>) -> ApiResult<Value> {
    let mut result = object.clone();
    match (patch_type, ty) {
        (PatchType::Merge, _) => {
            merge::apply(&mut result, patch);
            Ok(result)
        }
        (PatchType::Strategic, Some(ty)) => {
            strategic::apply(&mut result, patch, ty)?;
            Ok(result)
        }
        _ => Err(ApiError::unsupported_media_type("application/json-patch+json, application/merge-patch+json")),
    }
}

/// A patch that must be an object; kubectl may send YAML for JSON, so YAML is understood too.
fn read(patch: &[u8]) -> ApiResult<Value> {
    let value = serde_json::from_slice::<Value>(patch)
        .or_else(|error| crate::decode::parse_yaml(patch).map(|(value, _)| value).map_err(|_| error))
        .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
    if value.is_object() { Ok(value) } else { Err(ApiError::bad_request("Invalid JSON document")) }
}

/// 422: the patch was understood but does not fit the object.
fn does_not_apply() -> ApiError {
    ApiError::unprocessable("the server rejected our request due to an error in our request")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategic_merge_is_for_built_in_kinds_only() {
        let strategic = "application/strategic-merge-patch+json; charset=utf-8";
        assert_eq!(PatchType::of(strategic, true).unwrap(), PatchType::Strategic);
        assert_eq!(PatchType::of(strategic, false).unwrap_err().code, 415);
        assert_eq!(PatchType::of("text/plain", true).unwrap_err().code, 415);
    }

    #[test]
    fn a_patch_that_is_no_object_is_a_bad_request() {
        for patch_type in [PatchType::Merge, PatchType::Strategic] {
            let ty = crate::schema::type_of("core.v1.Pod");
            assert_eq!(apply(patch_type, &Value::Null, b"[1]", ty).unwrap_err().code, 400);
        }
    }
}
