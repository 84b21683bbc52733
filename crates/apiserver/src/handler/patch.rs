//! `patch`: JSON patch, merge patch, strategic merge patch and server-side apply, by `Content-Type`.
//!
//! A patch is applied to the stored object and the result goes the way of an update; when somebody else
//! writes in between, the patch is applied again to what they wrote.

use bytes::Bytes;
use coracle_api::patch::{self, PatchType};
use coracle_api::schema::{Type, type_of};
use coracle_api::{ApiError, ApiResult, FieldErrors, decode};
use http::Response;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use serde_json::{Map, Value};

use super::Call;
use super::body;
use crate::body::{Body, RequestBody};

/// A patch.
#[derive(Clone, Debug)]
pub(super) struct Patch {
    pub(super) kind: PatchType,
    /// As it came.
    pub(super) bytes: Bytes,
    /// What it says, if it is an object in JSON.
    document: Option<Value>,
    /// The fields that come twice in it.
    duplicates: Vec<String>,
}

impl Patch {
    /// Reads it from a request. `strategic`: whether strategic merge is possible.
    pub(super) async fn read(parts: &Parts, body: RequestBody, strategic: bool) -> ApiResult<Self> {
        let media = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (kind, bytes) = (PatchType::of(media, strategic)?, body::read(body).await?);
        let (document, mut duplicates) = match kind {
            PatchType::Apply => Default::default(),
            _ => decode::parse_json(&bytes).map(|(value, found)| (Some(value), found)).unwrap_or_default(),
        };
        if kind == PatchType::Json {
            duplicates.iter_mut().for_each(|problem| problem.insert_str(0, "json patch "));
        }
        let document = document.filter(Value::is_object);
        Ok(Patch { kind, bytes, document, duplicates })
    }

    /// The object with the patch applied.
    pub(super) fn apply(&self, object: &Value, ty: Option<&'static Type>) -> ApiResult<Value> {
        match &self.document {
            Some(document) if self.kind != PatchType::Json => patch::merge(self.kind, object, document, ty),
            _ => patch::apply(self.kind, object, &self.bytes, ty),
        }
    }

    /// Takes those fields out of a patched object of a built-in kind that the patch did not touch: they are as they were
    /// stored, and need not be decoded.
    fn take_untouched(&self, patched: &mut Value) -> Map<String, Value> {
        match (&self.document, patched) {
            (Some(document), Value::Object(fields)) if self.kind != PatchType::Json => {
                let untouched = |key: &str| document.get(key).is_none() && key != "kind" && key != "apiVersion";
                let (untouched, touched) = std::mem::take(fields).into_iter().partition(|(key, _)| untouched(key));
                *fields = touched;
                untouched
            }
            _ => Map::new(),
        }
    }
}

/// 422: the patch makes of the object what is none.
fn unfit(error: ApiError, patched: impl FnOnce() -> String) -> ApiError {
    if error.code != 400 {
        return error;
    }
    let mut errors = FieldErrors::default();
    errors.invalid("patch", patched(), error.message);
    ApiError::invalid("", "", "", &errors.0)
}

impl Call {
    /// Patches the object or a subresource of it.
    pub(super) async fn patch(&mut self, parts: &Parts, body: RequestBody) -> ApiResult<Response<Body>> {
        let ty = type_of(&self.row.resource.definition);
        let patch = Patch::read(parts, body, ty.is_some()).await?;
        if patch.kind == PatchType::Apply {
            return self.apply(&patch.bytes).await;
        }
        if self.options.force.is_some() {
            self.options.problems.forbidden("force", "may not be specified for non-apply patch");
            self.options.check_write("PatchOptions")?;
        }
        let name = self.info.name.clone();
        let mut edit = |call: &mut Call, old: &Value| {
            let mut patched = patch.apply(old, ty)?;
            let untouched = ty.map(|_| patch.take_untouched(&mut patched)).unwrap_or_default();
            let resource = call.row.resource.clone();
            let accepted = call.accept_object(&resource, patched, patch.duplicates.clone());
            let text = || patch.apply(old, ty).unwrap_or_default().to_string();
            let mut patched = accepted.map_err(|error| unfit(error, text))?;
            if let Value::Object(fields) = &mut patched {
                fields.extend(untouched);
            }
            call.check_identity(&mut patched)?;
            call.track(&mut patched, Some(old));
            Ok(patched)
        };
        let outcome = self.modify(&name, &mut edit).await?;
        self.answer_object(200, outcome).await
    }
}
