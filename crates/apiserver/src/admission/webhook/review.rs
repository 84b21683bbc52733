//! `AdmissionReview`: the question to a webhook, and its answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use coracle_api::{ApiError, Resource};
use serde_json::{Value, json};

use super::text;
use crate::handler::scale_of;
use crate::hooks::{AdmissionRequest, Operation};

/// The question, without its version.
#[derive(Debug)]
pub(in crate::admission) struct Review {
    /// As one of which the object is asked about.
    pub(super) resource: Arc<Resource>,
    request: Value,
}

/// A webhook's answer.
#[derive(Debug, Default, PartialEq)]
pub(in crate::admission) struct Verdict {
    /// A Status (or null) if it said no.
    pub(in crate::admission) rejection: Option<Rejection>,
    /// A JSON patch.
    pub(in crate::admission) patch: Option<Vec<u8>>,
    pub(in crate::admission) audit_annotations: BTreeMap<String, String>,
    pub(in crate::admission) warnings: Vec<String>,
}

/// The Status of a refusal, or null.
#[derive(Debug, PartialEq)]
pub(in crate::admission) struct Rejection(Value);

/// What a webhook sees as the object: for the subresource `scale` a Scale.
pub(in crate::admission) fn presented(resource: &Resource, object: &Value, subresource: &str) -> Value {
    if subresource == "scale" && object.is_object() && object["kind"] != "Scale" {
        scale_of(resource, object).unwrap_or_default()
    } else {
        object.clone()
    }
}

/// Group, version and kind of the bodies of a request to `resource` or a subresource of it.
fn kind_of(resource: &Resource, subresource: &str) -> Value {
    let (mut group, mut version, mut kind) = (&resource.group, &resource.version, &resource.kind);
    if let Some(subresource) = resource.subresource(subresource)
        && subresource.kind.2 != resource.kind
    {
        kind = &subresource.kind.2;
        if !subresource.kind.1.is_empty() {
            (group, version) = (&subresource.kind.0, &subresource.kind.1);
        }
    }
    json!({ "group": group, "version": version, "kind": kind })
}

fn resource_of(resource: &Resource) -> Value {
    json!({ "group": resource.group, "version": resource.version, "resource": resource.plural })
}

fn options(request: &AdmissionRequest) -> Value {
    let kind = match request.operation {
        Operation::Create => "CreateOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
        Operation::Connect => return Value::Null,
    };
    let mut options = match &request.options {
        Value::Object(_) => request.options.clone(),
        _ => json!({}),
    };
    options["kind"] = kind.into();
    options["apiVersion"] = "meta.k8s.io/v1".into();
    if request.dry_run {
        options["dryRun"] = json!(["All"]);
    }
    options
}

impl Review {
    /// About `request` as one of `resource`; `objects` are the new and the old one in that version.
    pub(in crate::admission) fn new(
        request: &AdmissionRequest,
        resource: &Arc<Resource>,
        [object, old]: [Value; 2],
    ) -> Self {
        let name = match request.name.as_str() {
            "" => text(&old, "/metadata/name"),
            name => name,
        };
        let operation = match request.operation {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        };
        let mut body = json!({
            "uid": coracle_clock::uuid(),
            "kind": kind_of(resource, &request.subresource),
            "resource": resource_of(resource),
            "requestKind": kind_of(&request.resource, &request.subresource),
            "requestResource": resource_of(&request.resource),
            "operation": operation,
            "userInfo": request.user.to_json(),
            "object": object,
            "oldObject": old,
            "dryRun": request.dry_run,
            "options": options(request),
        });
        let optional = [
            ("subResource", request.subresource.as_str()),
            ("requestSubResource", request.subresource.as_str()),
            ("name", name),
            ("namespace", request.namespace.as_str()),
        ];
        for (field, value) in optional {
            if !value.is_empty() {
                body[field] = value.into();
            }
        }
        Review { resource: resource.clone(), request: body }
    }

    /// Names the question; the answer must repeat it.
    pub(in crate::admission) fn uid(&self) -> &str {
        text(&self.request, "/uid")
    }

    /// The new object as the webhook sees it.
    pub(in crate::admission) fn object(&self) -> &Value {
        &self.request["object"]
    }

    /// The old object as the webhook sees it.
    pub(super) fn old_object(&self) -> &Value {
        &self.request["oldObject"]
    }

    /// The question's `request`, but for the objects.
    pub(super) fn without_objects(&self) -> Value {
        let mut request = self.request.clone();
        (request["object"], request["oldObject"]) = (Value::Null, Value::Null);
        request
    }

    /// The whole question, in a version of `AdmissionReview`.
    pub(in crate::admission) fn body(&self, version: &str) -> Value {
        json!({ "kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": self.request })
    }
}

/// The first of a webhook's versions that is spoken here.
pub(in crate::admission) fn version(accepted: &Value) -> Option<&str> {
    super::items(accepted).filter_map(Value::as_str).find(|version| matches!(*version, "v1" | "v1beta1"))
}

/// Reads an answer.
///
/// # Errors
/// What is wrong with it, if it is none.
pub(in crate::admission) fn verdict(
    answer: &Value,
    uid: &str,
    version: &str,
    mutating: bool,
) -> Result<Verdict, String> {
    let response = &answer["response"];
    if !response.is_object() {
        return Err("webhook response was absent".into());
    }
    let given = |field: &str| !matches!(&response[field], Value::Null) && response[field] != "";
    if version == "v1" {
        if text(response, "/uid") != uid {
            return Err(format!("expected response.uid={uid:?}, got {:?}", text(response, "/uid")));
        }
        let (group_version, kind) = (text(answer, "/apiVersion"), text(answer, "/kind"));
        if (group_version, kind) != ("admission.k8s.io/v1", "AdmissionReview") {
            return Err(format!(
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {group_version}, Kind={kind}"
            ));
        }
        let problem = match (mutating, given("patch"), !response["patchType"].is_null()) {
            (true, true, false) => "webhook returned response.patch but not response.patchType",
            (true, false, true) => "webhook returned response.patchType but not response.patch",
            (false, true, _) => "validating webhook may not return response.patch",
            (false, _, true) => "validating webhook may not return response.patchType",
            _ => "",
        };
        if !problem.is_empty() {
            return Err(problem.into());
        }
    }
    let patch_type = response["patchType"].as_str();
    if mutating && let Some(other) = patch_type.filter(|ty| *ty != "JSONPatch") {
        return Err(match other {
            "" => "webhook returned invalid response.patchType of \"\"".into(),
            other => format!("unsupported patch type {other:?}"),
        });
    }
    let patch = match response["patch"].as_str().filter(|text| mutating && !text.is_empty()) {
        None => None,
        Some(text) => Some(BASE64_STANDARD.decode(text).map_err(|error| format!("response.patch: {error}"))?),
    };
    let annotations = response["auditAnnotations"].as_object().into_iter().flatten();
    let warnings = super::items(&response["warnings"]);
    Ok(Verdict {
        rejection: (response["allowed"] != true).then(|| Rejection(response["status"].clone())),
        patch,
        audit_annotations: annotations
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect(),
        warnings: warnings.filter_map(|warning| warning.as_str().map(str::to_owned)).collect(),
    })
}

/// The reasons a Status may give.
const REASONS: [&str; 18] = [
    "AlreadyExists",
    "BadRequest",
    "Conflict",
    "Expired",
    "Forbidden",
    "Gone",
    "InternalError",
    "Invalid",
    "MethodNotAllowed",
    "NotAcceptable",
    "NotFound",
    "RequestEntityTooLarge",
    "ServerTimeout",
    "ServiceUnavailable",
    "Timeout",
    "TooManyRequests",
    "Unauthorized",
    "UnsupportedMediaType",
];

impl Rejection {
    /// The refusal that the client gets. Never a code that means success.
    pub(in crate::admission) fn refusal(self, webhook: &str) -> ApiError {
        let status = self.0;
        let denied = format!("admission webhook {webhook:?} denied the request");
        let (message, reason) = (text(&status, "/message"), text(&status, "/reason"));
        let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).filter(|c| (400..600).contains(c));
        ApiError {
            code: code.unwrap_or(400),
            reason: REASONS.into_iter().find(|known| *known == reason).unwrap_or_default(),
            message: match (message, reason) {
                ("", "") => format!("{denied} without explanation"),
                ("", reason) => format!("{denied}: {reason}"),
                (message, _) => format!("{denied}: {message}"),
            },
            details: status["details"].clone(),
        }
    }
}
