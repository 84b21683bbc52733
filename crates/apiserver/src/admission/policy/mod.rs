//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy: rules in CEL that judge or change what is written.
//!
//! A policy does nothing by itself; its bindings say where it holds and with which parameters. For a
//! request, [`select`] finds the policies, bindings and parameters that concern it; [`validating`] and
//! [`mutating`] evaluate them. Policies are never asked about policies.

mod compiled;
mod mutating;
mod validating;
mod validation;

use std::sync::Arc;

use coracle_api::selector::Selector;
use coracle_api::{ApiResult, Resource};
use coracle_cel::admission::Request;
use coracle_cel::authorizer::{Answer, Authorizer, Question, Subject};
use futures::FutureExt;
use serde_json::{Value, json};

use self::compiled::{Cache, Policy};
use super::webhook::{matching, review};
use super::{items, text};
use crate::hooks::{AdmissionContext, AdmissionRequest, Attributes, Decision, Operation, UserInfo};

pub use mutating::MutatingAdmissionPolicy;
pub use validating::ValidatingAdmissionPolicy;
pub(crate) use validation::check;

const GROUP: &str = "admissionregistration.k8s.io";

/// A policy that concerns a request, with one of its bindings and one of the binding's parameters.
#[derive(Debug)]
struct Invocation {
    policy: Arc<Policy>,
    binding: Arc<Value>,
    /// The resource it matched: the request's own or an equivalent one.
    resource: Arc<Resource>,
    /// Null if there are none.
    params: Value,
}

/// Why a policy or binding cannot be used; `failurePolicy` decides what that means.
#[derive(Debug)]
struct Misconfigured {
    policy: Arc<Policy>,
    binding: String,
    message: String,
}

/// What concerns a request of the policies `<sort>policies` and their bindings, by name.
async fn select(
    sort: &str,
    cache: &Cache,
    request: &AdmissionRequest,
    context: &AdmissionContext,
) -> ApiResult<Vec<Result<Invocation, Misconfigured>>> {
    let mut selected = Vec::new();
    let bindings = context.list(GROUP, &format!("{sort}policybindings"), "").await?;
    if bindings.is_empty() {
        return Ok(selected);
    }
    let policies = context.list(GROUP, &format!("{sort}policies"), "").await?;
    cache.retain(&policies.iter().map(|policy| text(policy, "/metadata/name")).collect::<Vec<_>>());
    for object in policies {
        let name = text(&object, "/metadata/name");
        let bound: Vec<_> = bindings.iter().filter(|binding| text(binding, "/spec/policyName") == name).collect();
        if bound.is_empty() {
            continue;
        }
        let constraints = &object["spec"]["matchConstraints"];
        let Some(resource) = matches(constraints, false, request, context).await? else { continue };
        let policy = cache.get(object);
        for binding in bound {
            if matches(&binding["spec"]["matchResources"], true, request, context).await?.is_none() {
                continue;
            }
            let kind = &policy.object["spec"]["paramKind"];
            match params(kind, &binding["spec"]["paramRef"], request, context).await? {
                Ok(found) => selected.extend(found.into_iter().map(|params| {
                    let (policy, binding, resource) = (policy.clone(), binding.clone(), resource.clone());
                    Ok(Invocation { policy, binding, resource, params })
                })),
                Err(why) => selected.push(Err(Misconfigured {
                    policy: policy.clone(),
                    binding: text(binding, "/metadata/name").to_owned(),
                    message: format!("failed to configure binding: {why}"),
                })),
            }
        }
    }
    Ok(selected)
}

/// The resource as which a request matches `matchConstraints` or `matchResources`. Without rules a
/// binding takes everything (`all`).
async fn matches(
    wanted: &Value,
    all: bool,
    request: &AdmissionRequest,
    context: &AdmissionContext,
) -> ApiResult<Option<Arc<Resource>>> {
    let table = context.storage.table();
    let equivalents = matching::equivalents(&table, &request.resource);
    let name = if request.name.is_empty() { text(&request.old_object, "/metadata/name") } else { &request.name };
    let called = |field: &str| {
        let named = |rule: &&Value| {
            let mut names = items(&rule["resourceNames"]).peekable();
            names.peek().is_none() || names.any(|wanted| wanted == name)
        };
        let rules: Vec<&Value> = items(&wanted[field]).filter(named).collect();
        let hook = json!({ "rules": rules, "matchPolicy": wanted["matchPolicy"] });
        matching::called_for(&hook, request, &equivalents)
    };
    if called("excludeResourceRules").is_some() {
        return Ok(None);
    }
    let everything = all && items(&wanted["resourceRules"]).next().is_none();
    let resource = if everything { Some(request.resource.clone()) } else { called("resourceRules") };
    let Some(resource) = resource else { return Ok(None) };
    let presented = review::presented(&request.resource, &request.object, &request.subresource);
    let selected = matching::object_selected(&wanted["objectSelector"], &[&presented, &request.old_object])
        && matching::namespace_selected(&wanted["namespaceSelector"], request, context).await?;
    Ok(selected.then_some(resource))
}

/// The objects a binding gives its policy as `params`; null if there is no such thing.
async fn params(
    kind: &Value,
    wanted: &Value,
    request: &AdmissionRequest,
    context: &AdmissionContext,
) -> ApiResult<Result<Vec<Value>, String>> {
    if kind.is_null() || wanted.is_null() {
        return Ok(Ok(vec![Value::Null]));
    }
    let (api_version, name) = (text(kind, "/apiVersion"), text(kind, "/kind"));
    let table = context.storage.table();
    let row = table.rows().iter().find(|row| row.resource.kind == name && row.resource.api_version() == api_version);
    let Some(row) = row.filter(|row| row.resource.stored) else {
        return Ok(Err(format!("paramKind kind `{api_version}, Kind={name}` not known")));
    };
    let namespace = match (row.resource.namespaced(), text(wanted, "/namespace")) {
        (false, "") => "",
        (false, _) => {
            return Ok(Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into()));
        }
        (true, "") if request.namespace.is_empty() => {
            let why = "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
            return Ok(Err(why.into()));
        }
        (true, "") => request.namespace.as_str(),
        (true, namespace) => namespace,
    };
    context.storage.fresh().await?;
    let (entries, selector) = match text(wanted, "/name") {
        "" => {
            let selector = Selector::from_json(&wanted["selector"]).unwrap_or_else(|_| Selector::nothing());
            (row.cache.list(namespace, context.storage.applied()).0, selector)
        }
        name => (row.get(namespace, name).into_iter().collect(), Selector::everything()),
    };
    let objects = context.webhooks.present(row, entries).await?.into_iter().map(|entry| entry.parse());
    let found: Vec<Value> = objects.filter(|object| selector.matches(&object["metadata"]["labels"])).collect();
    if found.is_empty() && wanted["parameterNotFoundAction"] == "Deny" {
        return Ok(Err("no params found for policy binding with `Deny` parameterNotFoundAction".into()));
    }
    Ok(Ok(found))
}

/// The variables of expressions about a request that matched as one of `resource`.
async fn variables(
    request: &AdmissionRequest,
    resource: &Arc<Resource>,
    context: &AdmissionContext,
) -> ApiResult<Request> {
    let is_namespace = request.resource.qualified() == "namespaces";
    let namespace = match request.namespace.as_str() {
        "" => Arc::default(),
        _ if is_namespace => Arc::default(),
        name => context.get("", "namespaces", "", name).await?.unwrap_or_default(),
    };
    let [object, old] = &super::webhook::in_version(request, resource, context).await?;
    let review = review::Review::new(request, resource, [Value::Null, Value::Null]).body("v1");
    let (asker, question) = asker(request, context);
    Ok(Request::new(object, old, &review["request"], &namespace).with_authorizer(asker, question))
}

/// The authorizer of expressions about a request, and the question whether its user may do just that.
pub(super) fn asker(request: &AdmissionRequest, context: &AdmissionContext) -> (Arc<dyn Authorizer>, Question) {
    let operation = match request.operation {
        Operation::Create => "create",
        Operation::Update => "update",
        Operation::Delete => "delete",
        Operation::Connect => "connect",
    };
    let question = Question {
        verb: operation.into(),
        group: request.resource.group.clone(),
        resource: request.resource.plural.clone(),
        subresource: request.subresource.clone(),
        namespace: request.namespace.clone(),
        name: request.name.clone(),
        ..Question::default()
    };
    (Arc::new(Asker { authorizer: context.authorizer.clone(), user: request.user.clone() }), question)
}

/// Asks the server's authorizers for expressions.
#[derive(Debug)]
struct Asker {
    authorizer: Arc<dyn crate::hooks::Authorizer>,
    user: UserInfo,
}

impl Authorizer for Asker {
    fn decide(&self, subject: &Subject, question: &Question) -> Answer {
        let user = match subject {
            Subject::User => self.user.clone(),
            Subject::ServiceAccount(namespace, name) => {
                let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")];
                UserInfo::new(format!("system:serviceaccount:{namespace}:{name}"), &groups)
            }
        };
        let question = question.clone();
        let attributes = Attributes {
            verb: question.verb,
            is_resource: question.path.is_empty(),
            group: question.group,
            version: "*".into(),
            resource: question.resource,
            subresource: question.subresource,
            namespace: question.namespace,
            name: question.name,
            path: question.path,
            ..Attributes::default()
        };
        // Ours answer from memory; one that had to wait could not be asked here.
        match self.authorizer.authorize(&user, &attributes).now_or_never() {
            Some(Decision::Allow) => Answer { allowed: true, ..Answer::default() },
            Some(Decision::Deny(reason)) => Answer { reason, ..Answer::default() },
            Some(Decision::NoOpinion) => Answer::default(),
            None => Answer { error: Some("the authorizer cannot answer at once".into()), ..Answer::default() },
        }
    }
}
