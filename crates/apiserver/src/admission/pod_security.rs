//! PodSecurity: a namespace's labels say how much a pod may dare (Pod Security Standards).
//!
//! `pod-security.kubernetes.io/enforce: baseline` refuses pods that reach for the node; `restricted` asks
//! them besides to give up what they do not need. `warn` says the same as a warning, for pod templates too, and
//! `audit` in the audit log. What the standards say is in [`standards`].

mod standards;

use std::collections::BTreeMap;

use async_trait::async_trait;
use coracle_api::{ApiError, ApiResult, FieldErrors};
use serde_json::Value;

use self::standards::{Violation, violations};
use super::{items, refuse, text};
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};

const PREFIX: &str = "pod-security.kubernetes.io/";
/// When a namespace becomes stricter, so many of its pods are looked at.
const MAX_PODS: usize = 3000;

#[derive(Debug)]
pub(super) struct PodSecurity;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A level and the version of the standards, as `baseline:latest`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Policy {
    level: Level,
    version: String,
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        write!(f, "{level}:{}", self.version)
    }
}

/// What a namespace's labels ask for.
struct Policies {
    enforce: Policy,
    audit: Policy,
    warn: Policy,
    /// Labels that make no sense: `enforce` is then restricted, the others privileged.
    errors: FieldErrors,
}

impl Policies {
    fn of(namespace: &Value) -> Policies {
        let labels = &namespace["metadata"]["labels"];
        let mut errors = FieldErrors::default();
        let mut policy = |mode: &str, otherwise: Level| {
            let mut wrong = |key: &str, value: &str, why: &str| {
                errors.invalid(&format!("metadata.labels[{key}]"), value, why);
            };
            let key = format!("{PREFIX}{mode}");
            let level = match labels[&key].as_str() {
                None | Some("privileged") => Level::Privileged,
                Some("baseline") => Level::Baseline,
                Some("restricted") => Level::Restricted,
                Some(other) => {
                    wrong(&key, other, "must be one of privileged, baseline, restricted");
                    otherwise
                }
            };
            let key = format!("{PREFIX}{mode}-version");
            let version = labels[&key].as_str().unwrap_or("latest");
            let minor = version.strip_prefix("v1.").filter(|minor| *minor == "0" || !minor.starts_with('0'));
            let known = version == "latest" || minor.is_some_and(|minor| minor.parse::<u32>().is_ok());
            if !known {
                wrong(&key, version, "must be \"latest\" or \"v1.x\"");
            }
            Policy { level, version: if known { version } else { "latest" }.to_owned() }
        };
        let enforce = policy("enforce", Level::Restricted);
        let (audit, mut warn) = (policy("audit", Level::Privileged), policy("warn", Level::Privileged));
        let silent = labels[format!("{PREFIX}warn")].is_null() && labels[format!("{PREFIX}warn-version")].is_null();
        if silent && enforce.level > warn.level {
            warn = enforce.clone();
        }
        Policies { enforce, audit, warn, errors }
    }
}

#[async_trait]
impl AdmissionPlugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, request: &AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        if request.resource.qualified() == "namespaces" {
            return if request.subresource.is_empty() { namespace(request, context).await } else { Ok(()) };
        }
        let Some(spec) = pod_spec(request) else { return Ok(()) };
        let namespace = context.storage.get("", "namespaces", "", &request.namespace).await?.unwrap_or_default();
        let policies = Policies::of(&namespace);
        let judge = |policy: &Policy| {
            let found = violations(policy.level, spec);
            (!found.is_empty()).then(|| format!("violate PodSecurity {:?}: {}", policy.to_string(), details(&found)))
        };
        let note = |key: &str, value: String| request.notes.annotate(format!("{PREFIX}{key}"), value);
        if !policies.errors.0.is_empty() {
            let all: Vec<String> = policies.errors.0.iter().map(ToString::to_string).collect();
            note("error", format!("Failed to parse policy: {}", all.join(", ")));
        }
        if let Some(why) = judge(&policies.audit) {
            note("audit-violations", format!("would {why}"));
        }
        if request.resource.qualified() == "pods" {
            note("enforce-policy", policies.enforce.to_string());
            if let Some(why) = judge(&policies.enforce) {
                return Err(refuse(request, why.replacen("violate", "violates", 1)));
            }
        }
        if let Some(why) = judge(&policies.warn) {
            request.notes.warn(format!("would {why}"));
        }
        Ok(())
    }
}

/// Refuses labels that make no sense, and warns of the pods that a stricter level would not let in.
async fn namespace(request: &AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
    let (new, old) = (Policies::of(&request.object), Policies::of(&request.old_object));
    if !new.errors.0.is_empty() && new.errors.0 != old.errors.0 {
        return Err(ApiError::invalid("", "Namespace", &request.name, &new.errors.0));
    }
    let (new, old) = (new.enforce, old.enforce);
    let relaxed = new.version == old.version && new.level <= old.level;
    if request.operation == Operation::Create || new == old || new.level == Level::Privileged || relaxed {
        return Ok(());
    }
    let pods = context.storage.list("", "pods", &request.name).await?;
    if pods.len() > MAX_PODS {
        let (some, all) = (MAX_PODS, pods.len());
        request.notes.warn(format!(
            "new PodSecurity enforce level only checked against the first {some} of {all} existing pods"
        ));
    }
    // By what is wrong: the first pod's name, and how many there are.
    let mut found: BTreeMap<String, (&str, usize)> = BTreeMap::new();
    for pod in pods.iter().take(MAX_PODS) {
        let why: Vec<&str> = violations(new.level, &pod["spec"]).iter().map(|violation| violation.reason).collect();
        if !why.is_empty() {
            let name = text(pod, "/metadata/name");
            let (first, count) = found.entry(why.join(", ")).or_insert((name, 0));
            (*first, *count) = (name.min(*first), *count + 1);
        }
    }
    if !found.is_empty() {
        let (name, policy) = (&request.name, new.to_string());
        request
            .notes
            .warn(format!("existing pods in namespace {name:?} violate the new PodSecurity enforce level {policy:?}"));
    }
    let mut warnings: Vec<String> = found
        .iter()
        .map(|(why, (pod, count))| match count {
            1 => format!("{pod}: {why}"),
            2 => format!("{pod} (and 1 other pod): {why}"),
            more => format!("{pod} (and {} other pods): {why}", more - 1),
        })
        .collect();
    warnings.sort_unstable();
    warnings.into_iter().for_each(|warning| request.notes.warn(warning));
    Ok(())
}

/// `hostPort (container "c" uses hostPort 80), privileged (…)`.
fn details(found: &[Violation]) -> String {
    let shown = |violation: &Violation| format!("{} ({})", violation.reason, violation.detail);
    found.iter().map(shown).collect::<Vec<_>>().join(", ")
}

/// The pod in a request, or the one that a request's object is a template for; `None` if there is nothing to judge.
fn pod_spec(request: &AdmissionRequest) -> Option<&Value> {
    let path = match (request.resource.qualified().as_str(), request.subresource.as_str()) {
        ("pods", "" | "ephemeralcontainers" | "resize") => {
            let made = request.operation == Operation::Create;
            return (made || significant(&request.object, &request.old_object)).then_some(&request.object["spec"]);
        }
        ("cronjobs.batch", "") => "/spec/jobTemplate/spec/template/spec",
        ("podtemplates", "") => "/template/spec",
        ("deployments.apps" | "replicasets.apps" | "statefulsets.apps" | "daemonsets.apps", "")
        | ("jobs.batch" | "replicationcontrollers", "") => "/spec/template/spec",
        _ => return None,
    };
    request.object.pointer(path)
}

/// Whether a pod's update changes an image or adds a container; nothing else that matters can change.
fn significant(new: &Value, old: &Value) -> bool {
    ["initContainers", "containers", "ephemeralContainers"].iter().any(|field| {
        let (new, old) = (&new["spec"][field], &old["spec"][field]);
        let same = |container: &Value| {
            items(old).any(|was| was["name"] == container["name"] && was["image"] == container["image"])
        };
        items(new).count() != items(old).count() || !items(new).all(same)
    })
}

#[cfg(test)]
mod tests;
