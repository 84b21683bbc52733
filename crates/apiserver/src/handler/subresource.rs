//! Subresources with bodies of their own: `scale`, `binding`.

use std::sync::Arc;

use coracle_api::custom::{at, put_at};
use coracle_api::kinds::KindStrategy;
use coracle_api::managed_fields;
use coracle_api::patch::PatchType;
use coracle_api::schema::type_of;
use coracle_api::selector::Selector;
use coracle_api::table;
use coracle_api::{ApiError, ApiResult, FieldErrors, Resource};
use http::Response;
use http::request::Parts;
use serde_json::{Value, json};

use super::Call;
use super::delete::success;
use super::modify::Outcome;
use super::ownership::typing;
use super::patch::Patch;
use crate::body::{Body, RequestBody};
use crate::render;

/// How the wanted Scale is made from the present one.
type Rescale = Box<dyn Fn(&Value) -> ApiResult<Value> + Send + Sync>;

/// Where objects keep the number that a Scale sets.
pub(crate) fn replicas_path(resource: &Resource) -> &str {
    let scale = resource.custom.as_ref().and_then(|kind| kind.scale.as_ref());
    scale.map_or(".spec.replicas", |scale| &scale.spec)
}

/// The Scale of a workload (`autoscaling/v1`), or of a custom resource that says where its numbers are.
pub(crate) fn scale_of(resource: &Resource, object: &Value) -> ApiResult<Value> {
    let custom = resource.custom.as_ref().and_then(|kind| kind.scale.as_ref());
    let (spec, status) = (replicas_path(resource), custom.map_or(".status.replicas", |scale| &scale.status));
    let replicas = at(object, spec).as_i64();
    if custom.is_some() && replicas.is_none() {
        return Err(ApiError::internal(format!("the spec replicas field {spec:?} does not exist")));
    }
    let meta = &object["metadata"];
    let mut answer = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {},
        "spec": { "replicas": replicas.unwrap_or(0) },
        "status": { "replicas": at(object, status).as_i64().unwrap_or(0) },
    });
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = meta.get(field) {
            answer["metadata"][field] = value.clone();
        }
    }
    if let Some(scale) = custom {
        if let (false, Some(text)) = (scale.selector.is_empty(), at(object, &scale.selector).as_str()) {
            answer["status"]["selector"] = text.into();
        }
        return Ok(answer);
    }
    let selector = &object["spec"]["selector"];
    // A ReplicationController's selector is a plain map of labels.
    let plain = object["kind"] == "ReplicationController";
    let selector = if plain { json!({ "matchLabels": selector }) } else { selector.clone() };
    let text = Selector::from_json(&selector).map(|selector| selector.to_string()).unwrap_or_default();
    if !text.is_empty() {
        answer["status"]["selector"] = text.into();
    }
    Ok(answer)
}

impl Call {
    /// `get`, `update` and `patch` of `…/scale`.
    pub(super) async fn scale(&mut self, parts: &Parts, body: RequestBody) -> ApiResult<Response<Body>> {
        let name = self.info.name.clone();
        let kind = Arc::new(Resource {
            group: "autoscaling".into(),
            version: "v1".into(),
            kind: "Scale".into(),
            definition: "io.k8s.api.autoscaling.v1.Scale".into(),
            columns: table::layout("autoscaling.v1.Scale").columns().to_vec(),
            strategy: Arc::new(KindStrategy::of("autoscaling.v1.Scale")),
            custom: None,
            ..(*self.row.resource).clone()
        });
        let mut applied = None;
        let rescale: Rescale = match self.info.verb.as_str() {
            "get" => {
                let entry = self.current(&name).await?.ok_or_else(|| self.not_found())?;
                return self.answer_scale(&kind, &self.read(&entry).await?);
            }
            "update" => {
                let scale = self.decode_subresource(parts, body).await?;
                Box::new(move |_| Ok(scale.clone()))
            }
            _ => {
                let (patch, kind) = (Patch::read(parts, body, true).await?, kind.clone());
                if patch.kind == PatchType::Apply {
                    let config = self.configuration(&kind, &patch.bytes)?;
                    applied = Some(config["spec"]["replicas"].clone());
                    Box::new(move |scale| Ok(managed_fields::merge(scale, &config, typing(&kind))))
                } else {
                    Box::new(move |scale| patch.apply(scale, type_of(&kind.definition)))
                }
            }
        };
        let mut edit = |call: &mut Call, old: &Value| {
            let scale = rescale(&scale_of(&call.row.resource, old)?)?;
            call.check_preconditions(&call.info.name, &scale["metadata"], &old["metadata"])?;
            let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
            if replicas < 0 {
                let mut errors = FieldErrors::default();
                errors.invalid("spec.replicas", replicas, "must be greater than or equal to 0");
                return Err(ApiError::invalid("autoscaling", "Scale", &call.info.name, &errors.0));
            }
            let resource = call.row.resource.clone();
            let path = replicas_path(&resource);
            let mut new = old.clone();
            match &applied {
                // Of the object the one number is applied, or none any more.
                Some(replicas) => {
                    let mut part = json!({ "apiVersion": old["apiVersion"], "kind": old["kind"] });
                    if !replicas.is_null() {
                        put_at(&mut part, path, replicas.clone());
                    }
                    new = call.merged(Some(old), &part)?;
                    if at(&new, path).is_null() {
                        put_at(&mut new, path, 0.into());
                    }
                }
                None => {
                    put_at(&mut new, path, replicas.into());
                    call.track(&mut new, Some(old));
                }
            }
            Ok(new)
        };
        let object = match self.modify(&name, &mut edit).await? {
            Outcome::Stored(stored) => self.read_stored(&stored).await?,
            Outcome::Unwritten(object) => object,
        };
        self.answer_scale(&kind, &object)
    }

    fn answer_scale(&self, kind: &Resource, object: &Value) -> ApiResult<Response<Body>> {
        let scale = scale_of(&self.row.resource, object)?.to_string();
        Ok(render::object(200, scale.into(), kind, self.accept, self.options.include_object))
    }

    /// `POST pods/binding`: the scheduler's decision.
    pub(super) async fn bind(&mut self, parts: &Parts, body: RequestBody) -> ApiResult<Response<Body>> {
        let binding = self.decode_subresource(parts, body).await?;
        let target = &binding["target"];
        let node = target["name"].as_str().unwrap_or_default().to_owned();
        let name = self.info.name.clone();
        let mut errors = FieldErrors::default();
        if !matches!(target["kind"].as_str(), None | Some("" | "Node")) {
            errors.not_supported("target.kind", target["kind"].clone(), &["Node", "<empty>"]);
        }
        if node.is_empty() {
            errors.required("target.name", "");
        }
        if !errors.0.is_empty() {
            return Err(ApiError::invalid("", "Binding", &name, &errors.0));
        }
        let given = self.admit_subresource(binding).await?["metadata"].take();
        self.modify(&name, &mut |call, pod| {
            call.check_preconditions(&call.info.name, &given, &pod["metadata"])?;
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                return Err(call.binding_conflict(format!(
                    "pod {} is being deleted, cannot be assigned to a host",
                    call.info.name
                )));
            }
            let there = pod["spec"]["nodeName"].as_str().unwrap_or_default();
            if !there.is_empty() {
                return Err(
                    call.binding_conflict(format!("pod {} is already assigned to node {there:?}", call.info.name))
                );
            }
            if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
                let why = format!("pod {} has non-empty .spec.schedulingGates", call.info.name);
                return Err(call.binding_conflict(why));
            }
            let mut new = pod.clone();
            new["spec"]["nodeName"] = node.as_str().into();
            for field in ["annotations", "labels"] {
                for (key, value) in given[field].as_object().into_iter().flatten() {
                    new["metadata"][field][key] = value.clone();
                }
            }
            if let Some(status) = new["status"].as_object_mut() {
                status.remove("nominatedNodeName");
            }
            set_condition(&mut new, "PodScheduled", Value::Null);
            Ok(new)
        })
        .await?;
        Ok(self.answer(201, success(Value::Null).to_string()))
    }

    fn binding_conflict(&self, why: String) -> ApiError {
        ApiError::conflict("", "pods/binding", &self.info.name, why)
    }
}

/// Sets a condition of a pod to true, with what `more` says besides.
pub(super) fn set_condition(pod: &mut Value, kind: &str, more: Value) {
    let mut condition = json!({
        "type": kind,
        "status": "True",
        "observedGeneration": pod["metadata"]["generation"],
        "lastProbeTime": null,
        "lastTransitionTime": coracle_clock::now_seconds().to_string(),
    });
    more.as_object().into_iter().flatten().for_each(|(key, value)| condition[key] = value.clone());
    let conditions = pod["status"]["conditions"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let others = conditions.into_iter().filter(|condition| condition["type"] != kind);
    pod["status"]["conditions"] = others.chain([condition]).collect();
}
