//! `create`: a new object, from decoded body to key in the store.

use coracle_api::{ApiError, ApiResult, FieldErrors, meta};
use http::Response;
use http::request::Parts;
use serde_json::{Value, json};

use super::Call;
use super::modify::{Outcome, has_generation};
use crate::admission;
use crate::body::{Body, RequestBody};
use crate::flow_control;
use crate::hooks::Operation;

/// How often a generated name that is taken is thrown away for another one.
const GENERATE_ATTEMPTS: usize = 8;

impl Call {
    /// Creates the body's object.
    pub(super) async fn create(&mut self, parts: &Parts, body: RequestBody) -> ApiResult<Response<Body>> {
        let object = self.decode(parts, body).await?;
        let outcome = self.create_object(object, true).await?;
        self.answer_object(201, outcome).await
    }

    /// Creates an object: admitted, completed, validated, stored. `track`: whether its fields are still to be recorded
    /// as this request's.
    pub(super) async fn create_object(&mut self, mut object: Value, track: bool) -> ApiResult<Outcome> {
        let resource = self.row.resource.clone();
        self.place(&mut object)?;
        if !matches!(object["metadata"]["resourceVersion"].as_str(), None | Some("")) {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        resource.strategy.default(&mut object);
        if track {
            let given = object["metadata"].get("managedFields").cloned();
            loop {
                self.track(&mut object, None);
                if !self.learn().await? {
                    break;
                }
                // Found out anew, from what the client sent.
                if let Some(meta) = object["metadata"].as_object_mut() {
                    meta.remove("managedFields");
                    meta.extend(given.clone().map(|given| ("managedFields".to_owned(), given)));
                }
            }
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let mut admission = self.admission(Operation::Create, "", &name);
        admission.object = object;
        self.admit(&mut admission).await?;
        resource.strategy.default(&mut admission.object);
        let object = std::mem::take(&mut admission.object);
        let template = generated(&object).then(|| object.clone());
        let mut next = Some(object);
        for attempt in 1.. {
            let Some(mut object) = next.take().or_else(|| template.clone()) else { break };
            let managed = object["metadata"].get("managedFields").cloned();
            meta::fill_on_create(&mut object);
            if !has_generation(&resource, &object)
                && let Some(meta) = object["metadata"].as_object_mut()
            {
                meta.remove("generation");
            }
            if let Some(managed) = managed {
                object["metadata"]["managedFields"] = managed;
            }
            resource.strategy.prepare_for_create(&mut object);
            resource.strategy.requested_by(&mut object, &self.user.to_json());
            self.validate_new(&object)?;
            admission.object = object;
            self.admit_final(&admission).await?;
            let object = std::mem::take(&mut admission.object);
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let warnings = resource.strategy.warnings(&object);
            match self.insert(&name, object).await? {
                Ok(outcome) => {
                    self.warnings.extend(warnings);
                    return Ok(outcome);
                }
                Err(_) if template.is_some() && attempt < GENERATE_ATTEMPTS => {}
                Err(existing) => return Err(self.already_exists(&name, &existing)),
            }
        }
        Err(ApiError::internal("no name could be generated"))
    }

    /// Holds the object's namespace against the URL's.
    pub(super) fn place(&self, object: &mut Value) -> ApiResult<()> {
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        let namespace = &self.info.namespace;
        if !self.row.resource.namespaced() {
            return Ok(());
        }
        match object["metadata"]["namespace"].as_str() {
            None | Some("") => object["metadata"]["namespace"] = namespace.as_str().into(),
            Some(given) if given == namespace => {}
            Some(_) => {
                return Err(ApiError::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
        }
        Ok(())
    }

    /// Holds the name and namespace of an object that has one against the URL's.
    pub(super) fn check_identity(&self, object: &mut Value) -> ApiResult<()> {
        let (name, given) = (&self.info.name, object["metadata"]["name"].as_str().unwrap_or_default());
        if given.is_empty() {
            let why = "was undeterminable: name must be provided";
            return Err(ApiError::bad_request(format!("the name of the object ({name} based on URL) {why}")));
        }
        if given != name {
            let why = format!("the name of the object ({given}) does not match the name on the URL ({name})");
            return Err(ApiError::bad_request(why));
        }
        self.place(object)
    }

    fn validate_new(&self, object: &Value) -> ApiResult<()> {
        let resource = &self.row.resource;
        let mut errors = FieldErrors::default();
        meta::validate_create(resource, object, &mut errors);
        resource.strategy.validate(object, &mut errors);
        resource.strategy.validate_create(object, &mut errors);
        self.check_rules(object, None, &mut errors);
        admission::check_expressions(resource, object, &mut errors);
        flow_control::bootstrap::check(resource, object, &mut errors);
        if errors.0.is_empty() {
            return Ok(());
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        Err(ApiError::invalid(&resource.group, &resource.kind, name, &errors.0))
    }

    /// Stores a new object; the error is the object of that name that is there already.
    async fn insert(&self, name: &str, object: Value) -> ApiResult<Result<Outcome, Value>> {
        let storage = &self.server.config.storage;
        if self.options.dry_run {
            return Ok(match self.current(name).await? {
                Some(existing) => Err(existing.parse()),
                None => Ok(Outcome::Unwritten(object)),
            });
        }
        let form = self.as_stored(&object).await?;
        let key = self.row.key(&self.info.namespace, name);
        let lease = storage.lease_for(&self.row).await?;
        let written = storage.put_with(&key, 0, &form, lease, self.beside(&Value::Null, &object)).await?;
        drop(form);
        Ok(match written {
            Ok(stored) => {
                self.keep(key, &stored, object);
                Ok(Outcome::Stored(stored))
            }
            Err(error) => Err(error.current.and_then(|kv| serde_json::from_slice(&kv.value).ok()).unwrap_or_default()),
        })
    }

    fn already_exists(&self, name: &str, existing: &Value) -> ApiError {
        let resource = &self.row.resource;
        let mut error = ApiError::already_exists(&resource.group, &resource.plural, name);
        if !existing["metadata"]["deletionTimestamp"].is_null() {
            error.message = format!("object is being deleted: {}", error.message);
        }
        error
    }
}

fn generated(template: &Value) -> bool {
    template["metadata"]["name"].as_str().unwrap_or_default().is_empty()
}
