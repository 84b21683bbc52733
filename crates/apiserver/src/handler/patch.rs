//! `patch`: JSON patch, merge patch, strategic merge patch and server-side apply, by `Content-Type`.
//!
//! A patch is applied to the stored object and the result goes the way of an update; when somebody else
//! writes in between, the patch is applied again to what they wrote.

use bytes::Bytes;
use coracle_api::patch::{self, PatchType};
use coracle_api::schema::{Type, type_of};
use coracle_api::{ApiError, ApiResult};
use http::Response;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use serde_json::Value;

use super::Call;
use super::body;
use super::modify::Outcome;
use crate::body::{Body, RequestBody};

/// A patch as it came.
#[derive(Clone, Debug)]
pub(super) struct Patch {
    kind: PatchType,
    bytes: Bytes,
}

impl Patch {
    /// Reads it from a request. `strategic`: whether strategic merge is possible.
    pub(super) async fn read(parts: &Parts, body: RequestBody, strategic: bool) -> ApiResult<Self> {
        let media = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        Ok(Patch { kind: PatchType::of(media, strategic)?, bytes: body::read(body).await? })
    }

    /// The object with the patch applied.
    pub(super) fn apply(&self, object: &Value, ty: Option<&'static Type>) -> ApiResult<Value> {
        patch::apply(self.kind, object, &self.bytes, ty)
    }
}

impl Call {
    /// Patches the object or a subresource of it.
    pub(super) async fn patch(&mut self, parts: &Parts, body: RequestBody) -> ApiResult<Response<Body>> {
        let ty = type_of(&self.row.resource.definition);
        let patch = Patch::read(parts, body, ty.is_some()).await?;
        if patch.kind == PatchType::Apply {
            return self.apply(&patch.bytes).await;
        }
        let name = self.info.name.clone();
        let mut edit = |call: &mut Call, old: &Value| {
            let patched = patch.apply(old, ty)?;
            let resource = call.row.resource.clone();
            let mut patched = call.accept_object(&resource, patched, Vec::new())?;
            let renamed =
                ["name", "namespace"].iter().any(|field| patched["metadata"][*field] != old["metadata"][*field]);
            if renamed {
                return Err(ApiError::bad_request("the name of the object does not match the name on the URL"));
            }
            call.track(&mut patched, old);
            Ok(patched)
        };
        match self.modify(&name, &mut edit).await? {
            Outcome::Stored(stored) => Ok(self.answer_object(200, &stored)),
            Outcome::Dry(object) => Ok(self.answer_value(200, &object)),
        }
    }
}
