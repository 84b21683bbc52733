//! MutatingAdmissionWebhook and ValidatingAdmissionWebhook: programs outside the cluster's own that change
//! or refuse what is written, each asked over HTTPS with an `AdmissionReview`.
//!
//! Which are asked is decided by [`matching`] and [`conditions`], what they are asked and how their answer is read by
//! [`review`]. Mutating ones are called one after the other, by the configurations' names and then in
//! their order there, each with what the ones before it made; those with `reinvocationPolicy: IfNeeded`
//! once more if something was changed after them. Validating ones are called all at once.
//!
//! Configurations of admission itself are exempt: a webhook can never lock itself in.

pub(super) mod conditions;
pub(super) mod matching;
pub(super) mod review;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coracle_api::custom::put_at;
use coracle_api::{ApiError, ApiResult, Resource, decode, patch};
use futures::future::join_all;
use serde_json::{Value, json};

use self::review::{Rejection, Review};
use super::{items, refuse, text};
use crate::handler::replicas_path;
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};
use crate::webhook::CallError;

const GROUP: &str = "admissionregistration.k8s.io";
/// What webhooks are never asked about.
const EXEMPT: [&str; 6] = [
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
    "mutatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "validatingwebhookconfigurations",
];

/// Asks the webhooks of MutatingWebhookConfigurations.
#[derive(Debug)]
pub(super) struct MutatingAdmissionWebhook;

/// Asks the webhooks of ValidatingWebhookConfigurations.
#[derive(Debug)]
pub(super) struct ValidatingAdmissionWebhook;

/// One webhook of a configuration.
#[derive(Debug)]
struct Hook {
    configuration: String,
    /// Its place among all webhooks of its sort.
    index: usize,
    /// Names it among all.
    uid: String,
    spec: Value,
}

impl Hook {
    fn name(&self) -> &str {
        text(&self.spec, "/name")
    }

    fn fails_open(&self) -> bool {
        self.spec["failurePolicy"] == "Ignore"
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.spec["timeoutSeconds"].as_u64().unwrap_or(10))
    }
}

/// Why a webhook did not let a request pass.
#[derive(Debug)]
enum Failure {
    /// It could not be asked, or its answer made no sense; `failurePolicy` decides.
    Calling(String),
    /// It said no, or the request can have nothing to do with it.
    Refused(ApiError),
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Failure::Refused(error)
    }
}

/// All webhooks of a sort, in the order they are called.
async fn hooks(context: &AdmissionContext, plural: &str) -> ApiResult<Vec<Hook>> {
    let mut hooks = Vec::new();
    for configuration in context.list(GROUP, plural, "").await? {
        let name = text(&configuration, "/metadata/name");
        for (position, spec) in items(&configuration["webhooks"]).enumerate() {
            let uid = format!("{name}/{}/{position}", text(spec, "/name"));
            hooks.push(Hook { configuration: name.to_owned(), index: hooks.len(), uid, spec: spec.clone() });
        }
    }
    Ok(hooks)
}

pub(super) fn exempt(request: &AdmissionRequest) -> bool {
    // A binding was asked about when it was created; that it changes the pod is its execution.
    let binding = request.operation == Operation::Update && request.subresource == "binding";
    binding || request.resource.group == GROUP && EXEMPT.contains(&request.resource.plural.as_str())
}

/// The review to ask `hook` with, if it is to be asked about `request` at all.
async fn wanted(hook: &Hook, request: &AdmissionRequest, context: &AdmissionContext) -> ApiResult<Option<Review>> {
    let table = context.storage.table();
    let equivalents = matching::equivalents(&table, &request.resource);
    let Some(resource) = matching::called_for(&hook.spec, request, &equivalents) else { return Ok(None) };
    let presented = review::presented(&request.resource, &request.object, &request.subresource);
    if !matching::object_selected(&hook.spec["objectSelector"], &[&presented, &request.old_object])
        || !matching::namespace_selected(&hook.spec["namespaceSelector"], request, context).await?
    {
        return Ok(None);
    }
    let objects = in_version(request, &resource, context).await?;
    let objects = objects.map(|object| review::presented(&resource, &object, &request.subresource));
    let review = Review::new(request, &resource, objects);
    Ok(conditions::met(hook, request, &review, context)?.then_some(review))
}

/// A request's new and old object in the version a webhook or policy asked for.
pub(super) async fn in_version(
    request: &AdmissionRequest,
    resource: &Resource,
    context: &AdmissionContext,
) -> ApiResult<[Value; 2]> {
    let mut objects = [request.object.clone(), request.old_object.clone()];
    for object in objects.iter_mut().filter(|object| object["kind"] == resource.kind.as_str()) {
        *object = context.webhooks.convert_one(object.take(), resource).await?;
    }
    Ok(objects)
}

/// Asks one webhook. What it says about the object comes back; warnings and annotations are noted.
async fn ask(
    hook: &Hook,
    review: &Review,
    mutating: bool,
    request: &AdmissionRequest,
    context: &AdmissionContext,
) -> Result<Option<Vec<u8>>, Failure> {
    if request.dry_run && !matches!(text(&hook.spec, "/sideEffects"), "None" | "NoneOnDryRun") {
        let why = format!("admission webhook {:?} does not support dry run", hook.name());
        return Err(Failure::Refused(ApiError::bad_request(why)));
    }
    let version = review::version(&hook.spec["admissionReviewVersions"]).ok_or_else(|| {
        Failure::Calling(
            "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)"
                .into(),
        )
    })?;
    let body = review.body(version);
    let answer = context.webhooks.call(&hook.spec["clientConfig"], &body, hook.timeout()).await;
    let answer = answer.map_err(|error| {
        let step =
            if matches!(error, CallError::Config(_)) { "could not get REST client" } else { "failed to call webhook" };
        Failure::Calling(format!("{step}: {error}"))
    })?;
    let verdict = review::verdict(&answer, review.uid(), version, mutating)
        .map_err(|why| Failure::Calling(format!("received invalid webhook response: {why}")))?;
    for (key, value) in verdict.audit_annotations {
        request.notes.annotate(format!("{}/{key}", hook.name()), value);
    }
    for warning in verdict.warnings {
        request.notes.warn(warning);
    }
    match verdict.rejection {
        Some(rejection) => Err(Failure::Refused(Rejection::refusal(rejection, hook.name()))),
        None => Ok(verdict.patch),
    }
}

/// What a failure means for the request: nothing, if the webhook may fail.
fn judge(hook: &Hook, failure: Failure, sort: &str, round: usize, request: &AdmissionRequest) -> ApiResult<()> {
    let why = match failure {
        Failure::Refused(error) => return Err(error),
        Failure::Calling(why) => format!("failed calling webhook {:?}: {why}", hook.name()),
    };
    tracing::warn!(webhook = hook.name(), fails_open = hook.fails_open(), "{why}");
    if !hook.fails_open() {
        return Err(ApiError::internal(why));
    }
    let key = format!("failed-open.{sort}.webhook.admission.k8s.io/round_{round}_index_{}", hook.index);
    request.notes.annotate(key, hook.name().to_owned());
    Ok(())
}

/// The object with a webhook's patch, in the request's own version again.
async fn patched(
    request: &AdmissionRequest,
    review: &Review,
    patch: &[u8],
    hook: &Hook,
    context: &AdmissionContext,
) -> ApiResult<Option<Value>> {
    let operations: Value = serde_json::from_slice(patch).map_err(ApiError::internal)?;
    if operations.as_array().is_some_and(Vec::is_empty) {
        return Ok(None);
    }
    if review.object().is_null() {
        return Err(ApiError::internal(format!(
            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
            hook.name()
        )));
    }
    let new = patch::apply(patch::PatchType::Json, review.object(), patch, None).map_err(ApiError::internal)?;
    if new == *review.object() {
        return Ok(None);
    }
    read_back(request, new, &review.resource, context).await.map(Some)
}

/// What admission made of the object (a Scale, if that is asked about), seen as one of `resource`, as one of the
/// request's own version: read as what a client wrote, so unknown fields go and defaults come.
pub(super) async fn read_back(
    request: &AdmissionRequest,
    mut new: Value,
    resource: &Resource,
    context: &AdmissionContext,
) -> ApiResult<Value> {
    if request.subresource == "scale" {
        let mut object = request.object.clone();
        put_at(&mut object, replicas_path(&request.resource), new["spec"]["replicas"].take());
        return Ok(object);
    }
    // Connections' options, Evictions, Bindings and the like are not of the resource's own kind.
    if request.operation == Operation::Connect || request.object["kind"] != request.resource.kind.as_str() {
        return Ok(new);
    }
    decode::decode(resource, &mut new, &mut Vec::new()).map_err(ApiError::internal)?;
    resource.strategy.default(&mut new);
    context.webhooks.convert_one(new, &request.resource).await
}

#[async_trait]
impl AdmissionPlugin for MutatingAdmissionWebhook {
    fn handles(&self, _: &AdmissionRequest) -> bool {
        true
    }

    fn reinvokes(&self) -> bool {
        true
    }

    async fn admit(&self, request: &mut AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        if exempt(request) {
            return Ok(());
        }
        let again = request.reinvocation.again;
        if again && request.reinvocation.left != request.object {
            request.reinvocation.others_are_due();
        }
        for hook in hooks(context, "mutatingwebhookconfigurations").await? {
            if again && !request.reinvocation.due.contains(&hook.uid) {
                continue;
            }
            let Some(review) = wanted(&hook, request, context).await? else { continue };
            let round = usize::from(again);
            let outcome = match ask(&hook, &review, true, request, context).await {
                Ok(None) => Ok(None),
                Ok(Some(patch)) => patched(request, &review, &patch, &hook, context).await.map_err(Failure::from),
                Err(failure) => Err(failure),
            };
            let changed = matches!(outcome, Ok(Some(_)));
            let key = format!("mutation.webhook.admission.k8s.io/round_{round}_index_{}", hook.index);
            let mutation = json!({ "configuration": hook.configuration, "webhook": hook.name(), "mutated": changed });
            request.notes.annotate(key, mutation.to_string());
            match outcome {
                Ok(None) => {}
                Ok(Some(object)) => {
                    request.object = object;
                    request.reinvocation.others_are_due();
                    request.reinvocation.wanted = true;
                }
                Err(failure) => judge(&hook, failure, "mutating", round, request)?,
            }
            if hook.spec["reinvocationPolicy"] == "IfNeeded" {
                request.reinvocation.ran.insert(hook.uid.clone());
            }
        }
        if !request.reinvocation.ran.is_empty() {
            request.reinvocation.left = request.object.clone();
        }
        Ok(())
    }
}

#[async_trait]
impl AdmissionPlugin for ValidatingAdmissionWebhook {
    fn handles(&self, _: &AdmissionRequest) -> bool {
        true
    }

    async fn validate(&self, request: &AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        if exempt(request) {
            return if request.resource.group == GROUP { conditions::check(request) } else { Ok(()) };
        }
        let mut asked = Vec::new();
        for hook in hooks(context, "validatingwebhookconfigurations").await? {
            if let Some(review) = wanted(&hook, request, context).await? {
                asked.push((hook, review));
            }
        }
        let calls = asked.iter().map(|(hook, review)| ask(hook, review, false, request, context));
        let answers = join_all(calls).await;
        let mut first = Ok(());
        for ((hook, _), answer) in asked.iter().zip(answers) {
            if let Err(failure) = answer {
                first = first.and(judge(hook, failure, "validating", 0, request));
            }
        }
        first
    }
}

/// The resources that are the same objects in other versions.
pub(super) type Equivalents = Vec<Arc<Resource>>;
