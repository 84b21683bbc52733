//! Server-side apply: `patch` with `application/apply-patch+yaml`. It creates what is not there.

use coracle_api::decode::{self, FieldValidation};
use coracle_api::managed_fields::{self, Manager, Typing};
use coracle_api::schema::type_of;
use coracle_api::{ApiError, ApiResult, FieldErrors};
use http::Response;
use serde_json::Value;

use super::Call;
use super::modify::Outcome;
use crate::body::Body;
use crate::hooks::Attributes;

/// The schema of kinds that have none.
static UNKNOWN: Value = Value::Null;

impl Call {
    /// Applies the configuration in a patch's body.
    pub(super) async fn apply(&mut self, bytes: &[u8]) -> ApiResult<Response<Body>> {
        let mut errors = FieldErrors::default();
        if self.options.field_manager.is_empty() {
            errors.required("fieldManager", "is required for apply patch");
            return Err(ApiError::invalid("meta.k8s.io", "PatchOptions", "", &errors.0));
        }
        let config = self.configuration(bytes)?;
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

    /// The configuration in a body, as it was sent: nothing is added, and what the schema does not know is refused.
    fn configuration(&mut self, bytes: &[u8]) -> ApiResult<Value> {
        let resource = self.row.resource.clone();
        let unreadable = |why| ApiError::bad_request(format!("error decoding YAML: {why}"));
        let (mut config, duplicates) = decode::parse_yaml(bytes).map_err(unreadable)?;
        self.check_depth(&config)?;
        decode::check_kind(&resource, &mut config)?;
        let mut unknown = Vec::new();
        match type_of(&resource.definition) {
            Some(ty) => decode::normalise_sparse(ty, &mut config, &mut unknown)
                .map_err(|why| decode::unhandled(&resource, why))?,
            None => decode::decode(&resource, &mut config, &mut unknown)?,
        }
        let undeclared = unknown.iter().filter_map(|text| text.split('"').nth(1));
        let mut flaws: Vec<String> = undeclared.map(|path| format!(".{path}: field not declared in schema")).collect();
        flaws.extend(managed_fields::flaws(&config, self.typing()));
        if !flaws.is_empty() {
            return Err(self.untyped(&flaws));
        }
        let problems: Vec<String> = duplicates
            .iter()
            .filter_map(|text| text.split('"').nth(1))
            .map(|path| {
                let key = path.rsplit('.').next().unwrap_or(path);
                format!("line {}: key {key:?} already set in map", decode::line_of_duplicate(bytes, path))
            })
            .collect();
        match self.options.field_validation {
            _ if problems.is_empty() => {}
            FieldValidation::Ignore => {}
            FieldValidation::Warn => self.warnings.extend(problems),
            FieldValidation::Strict => {
                return Err(ApiError::bad_request(format!(
                    "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {}",
                    problems.join("\n  ")
                )));
            }
        }
        Ok(config)
    }

    /// 500, as upstream has it: a configuration that does not fit the schema.
    fn untyped(&self, flaws: &[String]) -> ApiError {
        let resource = &self.row.resource;
        let problems = match flaws {
            [one] => one.clone(),
            many => format!("errors:\n  {}", many.join("\n  ")),
        };
        let message = format!(
            "failed to create typed patch object ({}/{}; {}, Kind={}): {problems}",
            self.info.namespace,
            self.info.name,
            resource.api_version(),
            resource.kind,
        );
        ApiError { code: 500, reason: "", message, details: Value::Null }
    }

    async fn apply_new(&mut self, config: &Value) -> ApiResult<Response<Body>> {
        // What makes an object needs the right to make it.
        let create = Attributes { verb: "create".into(), ..Attributes::from(&self.info) };
        self.server.permit(&self.user, &create).await?;
        if let Some(uid) = config["metadata"]["uid"].as_str() {
            let why =
                format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(self.conflict(&self.info.name, why));
        }
        let object = self.merged(None, config)?;
        match self.create_object(object, false).await? {
            Outcome::Stored(stored) => Ok(self.answer_object(201, &stored)),
            Outcome::Dry(object) => Ok(self.answer_value(201, &object)),
        }
    }

    fn merged(&self, live: Option<&Value>, config: &Value) -> ApiResult<Value> {
        managed_fields::apply(live, config, self.typing(), self.field_manager(), self.options.force == Some(true))
    }

    fn typing(&self) -> Typing<'_> {
        let custom = self.row.resource.custom.as_ref().map_or(&UNKNOWN, |custom| &custom.document);
        type_of(&self.row.resource.definition).map_or(Typing::Custom(custom), Typing::Known)
    }

    fn field_manager(&self) -> Manager<'_> {
        let split = self.row.resource.subresource("status").is_some();
        Manager { name: &self.manager, subresource: &self.info.subresource, split }
    }

    /// Records who changed what.
    pub(super) fn track(&self, new: &mut Value, old: Option<&Value>) {
        managed_fields::track_update(old, new, self.typing(), self.field_manager());
    }
}
