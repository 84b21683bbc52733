//! JSON patch, RFC 6902.

use serde_json::Value;

use json_patch::PatchOperation;

use super::does_not_apply;
use crate::decode::deeper_than;
use crate::status::{ApiError, ApiResult};

/// Upstream's limits, so that a patch cannot make a small object huge.
const MAX_OPERATIONS: usize = 10_000;
const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;
/// How deep a patch may nest what it makes, on the way; what is stored must be flatter than this.
const MAX_DEPTH: usize = 200;

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
    let mut copied = 0;
    for operation in &patch.0 {
        let (path, value) = match operation {
            PatchOperation::Add(add) => (Some(&add.path), Some(&add.value)),
            PatchOperation::Replace(replace) => (Some(&replace.path), Some(&replace.value)),
            PatchOperation::Move(moved) => (Some(&moved.path), result.pointer(moved.from.as_str())),
            PatchOperation::Copy(copy) => {
                let value = result.pointer(copy.from.as_str());
                copied += value.map_or(0, |value| value.to_string().len());
                (Some(&copy.path), value)
            }
            PatchOperation::Remove(_) | PatchOperation::Test(_) => (None, None),
        };
        let left = MAX_DEPTH.checked_sub(path.map_or(0, |path| path.tokens().count())).ok_or_else(does_not_apply)?;
        if copied > MAX_COPIED_BYTES || value.is_some_and(|value| deeper_than(value, left)) {
            return Err(does_not_apply());
        }
        json_patch::patch(&mut result, std::slice::from_ref(operation)).map_err(|_| does_not_apply())?;
    }
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

    #[test]
    fn a_patch_that_copies_what_it_copied_does_not_grow_without_bound() {
        let object = json!({"spec": {"a": ["x".repeat(100)]}});
        let wider = json!([{"op": "copy", "from": "/spec", "path": "/spec/a/-"}]);
        let deeper = json!([{"op": "add", "path": "/spec/a", "value": [[[[]]]]}]);
        let times = |op: &Value| Value::Array(vec![op[0].clone(); 64]).to_string();
        assert_eq!(apply(&object, times(&wider).as_bytes()).unwrap_err().code, 422);
        assert!(apply(&object, times(&deeper).as_bytes()).is_ok());
        let path = |depth: usize| format!("/spec{}", "/a".repeat(depth));
        let nest: Vec<Value> = (1..300).map(|depth| json!({"op": "add", "path": path(depth), "value": {}})).collect();
        assert_eq!(apply(&object, Value::from(nest).to_string().as_bytes()).unwrap_err().code, 422);
    }
}
