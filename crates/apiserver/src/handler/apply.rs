//! Server-side apply: `patch` with `application/apply-patch+yaml`. It creates what is not there.

use coracle_api::managed_fields::{self, Manager};
use coracle_api::schema::type_of;
use coracle_api::{ApiError, ApiResult, FieldErrors};
use http::Response;
use serde_json::Value;

use super::modify::Outcome;
use super::{Call, body};
use crate::body::Body;
use crate::negotiate::BodyFormat;

impl Call {
    /// Applies the configuration in a patch's body.
    pub(super) async fn apply(&mut self, bytes: &[u8]) -> ApiResult<Response<Body>> {
        let resource = self.row.resource.clone();
        let mut errors = FieldErrors::default();
        if self.options.field_manager.is_empty() {
            errors.required("fieldManager", "is required for apply patch");
            return Err(ApiError::invalid("meta.k8s.io", "PatchOptions", "", &errors.0));
        }
        let (config, problems) = body::parse(&resource, bytes, BodyFormat::Yaml)?;
        let config = self.accept_object(&resource, config, problems)?;
        let name = self.info.name.clone();
        let given = config["metadata"]["name"].as_str().unwrap_or_default();
        if given != name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
        if self.info.subresource.is_empty() && self.current(&name).await?.is_none() {
            match self.apply_new(&config).await {
                Err(error) if error.reason == "AlreadyExists" => {} // somebody was faster: merge
                answer => return answer,
            }
        }
        let mut edit = |call: &mut Call, live: &Value| {
            let mut new = call.merged(Some(live), &config)?;
            // A version or uid in the configuration is a precondition.
            for field in ["resourceVersion", "uid"] {
                if let Some(value) = config["metadata"].get(field) {
                    new["metadata"][field] = value.clone();
                }
            }
            Ok(new)
        };
        match self.modify(&name, &mut edit).await? {
            Outcome::Stored(stored) => Ok(self.answer_object(200, &stored)),
            Outcome::Dry(object) => Ok(self.answer_value(200, &object)),
        }
    }

    async fn apply_new(&mut self, config: &Value) -> ApiResult<Response<Body>> {
        if let Some(uid) = config["metadata"]["uid"].as_str() {
            let why =
                format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(self.conflict(&self.info.name, why));
        }
        let object = self.merged(None, config)?;
        match self.create_object(object).await? {
            Outcome::Stored(stored) => Ok(self.answer_object(201, &stored)),
            Outcome::Dry(object) => Ok(self.answer_value(201, &object)),
        }
    }

    fn merged(&self, live: Option<&Value>, config: &Value) -> ApiResult<Value> {
        let ty = type_of(&self.row.resource.definition);
        managed_fields::apply(live, config, ty, self.field_manager(), self.options.force)
    }

    fn field_manager(&self) -> Manager<'_> {
        Manager { name: &self.manager, subresource: &self.info.subresource }
    }

    /// Records who changed what, on objects somebody applied to.
    pub(super) fn track(&self, new: &mut Value, old: &Value) {
        managed_fields::track_update(old, new, type_of(&self.row.resource.definition), self.field_manager());
    }
}
