//! `update` (PUT): the client's object replaces the stored one.

use coracle_api::{ApiError, ApiResult};
use http::Response;
use http::request::Parts;
use serde_json::Value;

use super::Call;
use super::modify::Outcome;
use crate::body::{Body, RequestBody};

impl Call {
    /// Replaces the object, or what a subresource such as `status` shows of it.
    pub(super) async fn update(&mut self, parts: &Parts, body: RequestBody) -> ApiResult<Response<Body>> {
        let object = self.decode(parts, body).await?;
        let name = self.info.name.clone();
        let meta = &object["metadata"];
        let given = meta["name"].as_str().unwrap_or_default();
        if given.is_empty() {
            return Err(ApiError::bad_request("name must be provided"));
        }
        if given != name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
        let namespace = meta["namespace"].as_str().unwrap_or_default();
        if self.row.resource.namespaced() && !namespace.is_empty() && namespace != self.info.namespace {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        let namespaced = self.row.resource.namespaced();
        let mut edit = |call: &mut Call, old: &Value| {
            let mut new = object.clone();
            if namespaced {
                new["metadata"]["namespace"] = call.info.namespace.as_str().into();
            }
            call.track(&mut new, Some(old));
            Ok(new)
        };
        match self.modify(&name, &mut edit).await? {
            Outcome::Stored(stored) => Ok(self.answer_object(200, &stored)),
            Outcome::Dry(object) => Ok(self.answer_value(200, &object)),
        }
    }
}
