//! `update` (PUT): the client's object replaces the stored one.

use coracle_api::ApiResult;
use http::Response;
use http::request::Parts;
use serde_json::Value;

use super::Call;
use crate::body::{Body, RequestBody};

impl Call {
    /// Replaces the object, or what a subresource such as `status` shows of it.
    pub(super) async fn update(&mut self, parts: &Parts, body: RequestBody) -> ApiResult<Response<Body>> {
        let mut object = self.decode(parts, body).await?;
        self.check_identity(&mut object)?;
        let mut edit = |call: &mut Call, old: &Value| {
            let mut new = object.clone();
            call.track(&mut new, Some(old));
            Ok(new)
        };
        let name = self.info.name.clone();
        let outcome = self.modify(&name, &mut edit).await?;
        self.answer_object(200, outcome).await
    }
}
