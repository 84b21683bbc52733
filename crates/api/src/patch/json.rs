//! JSON patch, RFC 6902.

use serde_json::Value;

use super::does_not_apply;
use crate::status::{ApiError, ApiResult};

/// Upstream's limit, so that a patch cannot make a small object huge.
const MAX_OPERATIONS: usize = 10_000;

/// Applies the operations in order, all or none.
///
/// # Errors
/// 400 if it is no JSON patch, 413 if it is too long, 422 if an operation (a `test` too) fails.
pub fn apply(object: &Value, patch: &[u8]) -> ApiResult<Value> {
    let patch: json_patch::Patch = serde_json::from_slice(patch)
        .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
    if patch.0.len() > MAX_OPERATIONS {
        let mut error = ApiError::too_large(MAX_OPERATIONS);
        error.message =
            format!("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}", patch.0.len());
        return Err(error);
    }
    let mut result = object.clone();
    json_patch::patch(&mut result, &patch).map_err(|_| does_not_apply())?;
    Ok(result)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operations_apply_in_order_or_not_at_all() {
        let object = json!({"spec": {"replicas": 1, "list": [1, 2]}});
        let patch = |patch: Value| apply(&object, patch.to_string().as_bytes());
        assert_eq!(
            patch(json!([{"op": "replace", "path": "/spec/replicas", "value": 3},
                         {"op": "add", "path": "/spec/list/-", "value": 3},
                         {"op": "remove", "path": "/spec/list/0"}]))
            .unwrap(),
            json!({"spec": {"replicas": 3, "list": [2, 3]}})
        );
        let failed = patch(json!([{"op": "test", "path": "/spec/replicas", "value": 2}])).unwrap_err();
        assert_eq!((failed.code, failed.reason), (422, "Invalid"));
        assert_eq!(patch(json!([{"op": "remove", "path": "/nope"}])).unwrap_err().code, 422);
        assert_eq!(patch(json!({"op": "remove"})).unwrap_err().code, 400);
    }
}
