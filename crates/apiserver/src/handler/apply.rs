//! Server-side apply: `patch` with `application/apply-patch+yaml`. It creates what is not there.

use coracle_api::decode::{self, FieldValidation};
use coracle_api::managed_fields;
use coracle_api::schema::type_of;
use coracle_api::{ApiError, ApiResult, FieldErrors, Resource};
use http::Response;
use serde_json::Value;

use super::Call;
use super::ownership::typing;
use crate::body::Body;
use crate::hooks::Attributes;

impl Call {
    /// Applies the configuration in a patch's body.
    pub(super) async fn apply(&mut self, bytes: &[u8]) -> ApiResult<Response<Body>> {
        let config = self.configuration(&self.row.resource.clone(), bytes)?;
        let name = self.info.name.clone();
        if self.info.subresource.is_empty() && self.current(&name).await?.is_none() {
            match self.apply_new(&config).await {
                Err(error) if error.reason == "AlreadyExists" => {} // somebody was faster: merge
                answer => return answer,
            }
        }
        let mut edit = |call: &mut Call, live: &Value| {
            let mut new = call.merged(Some(live), &config)?;
            call.check_identity(&mut new)?;
            // A version or uid in the configuration is a precondition.
            for field in ["resourceVersion", "uid"] {
                if let Some(value) = config["metadata"].get(field) {
                    new["metadata"][field] = value.clone();
                }
            }
            Ok(new)
        };
        let outcome = self.modify(&name, &mut edit).await?;
        self.answer_object(200, outcome).await
    }

    /// The configuration in a body, as it was sent: nothing is added, and what the schema does not know is refused.
    pub(super) fn configuration(&mut self, resource: &Resource, bytes: &[u8]) -> ApiResult<Value> {
        if self.options.field_manager.is_empty() {
            let mut errors = FieldErrors::default();
            errors.required("fieldManager", "is required for apply patch");
            return Err(ApiError::invalid("meta.k8s.io", "PatchOptions", "", &errors.0));
        }
        let unreadable = |why| ApiError::bad_request(format!("error decoding YAML: {why}"));
        let (mut config, duplicates) = decode::parse_yaml(bytes).map_err(unreadable)?;
        self.check_depth(&config)?;
        decode::check_kind(resource, &mut config)?;
        let mut unknown = Vec::new();
        match type_of(&resource.definition) {
            Some(ty) => decode::normalise_sparse(ty, &mut config, &mut unknown)
                .map_err(|why| decode::unhandled(resource, why))?,
            None => decode::decode(resource, &mut config, &mut unknown)?,
        }
        let undeclared = unknown.iter().filter_map(|text| text.split('"').nth(1));
        let mut flaws: Vec<String> = undeclared.map(|path| format!(".{path}: field not declared in schema")).collect();
        flaws.extend(managed_fields::flaws(&config, typing(resource)));
        if !flaws.is_empty() {
            return Err(self.untyped(resource, &flaws));
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
    fn untyped(&self, resource: &Resource, flaws: &[String]) -> ApiError {
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
        let mut object = self.merged(None, config)?;
        self.check_identity(&mut object)?;
        let outcome = self.create_object(object, false).await?;
        self.answer_object(201, outcome).await
    }
}
