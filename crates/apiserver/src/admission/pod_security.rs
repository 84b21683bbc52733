//! PodSecurity: a namespace's labels say how much a pod may dare (Pod Security Standards).
//!
//! `pod-security.kubernetes.io/enforce: baseline` refuses pods that reach for the node; `restricted` asks
//! them besides to give up what they do not need. `warn` says the same as a warning, for pod templates too, and
//! `audit` in the audit log. Who is held to what is in [`policy`], what the standards say in [`standards`].

mod policy;
mod standards;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use coracle_api::{ApiError, ApiResult};
use serde_json::Value;

pub(super) use self::policy::PodSecurityConfiguration;
use self::policy::{Level, PREFIX, Policies, Policy, aggregate};
use self::standards::{Violation, violations};
use super::{items, refuse, text};
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};

/// When a namespace becomes stricter, so many of its pods are looked at.
const MAX_PODS: usize = 3000;

#[derive(Debug)]
pub(super) struct PodSecurity(pub(super) PodSecurityConfiguration);

#[async_trait]
impl AdmissionPlugin for PodSecurity {
    fn handles(&self, request: &AdmissionRequest) -> bool {
        matches!(request.operation, Operation::Create | Operation::Update)
    }

    async fn validate(&self, request: &AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        if request.resource.qualified() == "namespaces" {
            return if request.subresource.is_empty() { self.namespace(request, context).await } else { Ok(()) };
        }
        let Some(pod) = pod(request) else { return Ok(()) };
        let note = |key: &str, value: String| request.notes.annotate(format!("{PREFIX}{key}"), value);
        if let Some(why) = self.exemption(request, pod) {
            note("exempt", why.into());
            return Ok(());
        }
        let namespace = context.get("", "namespaces", "", &request.namespace).await?.unwrap_or_default();
        let (policies, errors) = Policies::of(&namespace, &self.0.defaults);
        let judge = |policy: Policy| {
            let found = violations(policy, pod);
            (!found.is_empty()).then(|| format!("violate PodSecurity {:?}: {}", policy.to_string(), details(&found)))
        };
        if !errors.0.is_empty() {
            note("error", format!("Failed to parse policy: {}", aggregate(&errors)));
        }
        if let Some(why) = judge(policies.audit) {
            note("audit-violations", format!("would {why}"));
        }
        if request.resource.qualified() == "pods" {
            note("enforce-policy", policies.enforce.to_string());
            if let Some(why) = judge(policies.enforce) {
                return Err(refuse(request, why.replacen("violate", "violates", 1)));
            }
        }
        if let Some(why) = judge(policies.warn) {
            request.notes.warn(format!("would {why}"));
        }
        Ok(())
    }
}

impl PodSecurity {
    /// What of a request is exempt, if something is.
    fn exemption(&self, request: &AdmissionRequest, pod: &Value) -> Option<&'static str> {
        let exempt = &self.0.exemptions;
        let among = |list: &[String], name: &str| list.iter().any(|one| one == name);
        match () {
            () if among(&exempt.namespaces, &request.namespace) => Some("namespace"),
            () if among(&exempt.usernames, &request.user.name) => Some("user"),
            () if self.exempt_class(pod) => Some("runtimeClass"),
            () => None,
        }
    }

    fn exempt_class(&self, pod: &Value) -> bool {
        self.0.exemptions.runtime_classes.iter().any(|class| class == text(pod, "/spec/runtimeClassName"))
    }

    /// Refuses labels that make no sense, and warns of the pods that a stricter level would not let in.
    async fn namespace(&self, request: &AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        let defaults = &self.0.defaults;
        let (new, errors) = Policies::of(&request.object, defaults);
        let (old, old_errors) = Policies::of(&request.old_object, defaults);
        if !errors.0.is_empty() && errors.0 != old_errors.0 {
            return Err(ApiError::invalid("", "Namespace", &request.name, &errors.0));
        }
        let created = request.operation == Operation::Create;
        let (stricter, was) = (new.enforce, old.enforce);
        let relaxed = stricter.minor == was.minor && stricter.level <= was.level;
        if !created && (stricter == was || stricter.level == Level::Privileged || relaxed) {
            return Ok(());
        }
        if self.0.exemptions.namespaces.contains(&request.name) {
            let labels = &request.object["metadata"]["labels"];
            let set =
                |mode: &str| ["", "-version"].iter().any(|end| labels[format!("{PREFIX}{mode}{end}")].is_string());
            let told: Vec<String> = new
                .demanding()
                .filter(|(mode, _)| set(mode))
                .map(|(mode, policy)| format!("{mode}={policy}"))
                .collect();
            if new.demanding().next().is_some() && new != *defaults {
                let (name, told) = (&request.name, told.join(", "));
                request.notes.warn(format!(
                    "namespace {name:?} is exempt from Pod Security, and the policy ({told}) will be ignored"
                ));
            }
        } else if !created {
            self.look_at_pods(stricter, request, context).await?;
        }
        Ok(())
    }

    /// Warns of the pods of a namespace that violate the policy that it gets.
    async fn look_at_pods(
        &self,
        policy: Policy,
        request: &AdmissionRequest,
        context: &AdmissionContext,
    ) -> ApiResult<()> {
        let pods = context.storage.list("", "pods", &request.name).await?;
        // One pod of each controller first: the others are like it.
        let mut seen = BTreeSet::new();
        let (mut pods, alike): (Vec<&Value>, Vec<&Value>) =
            pods.iter().filter(|pod| !self.exempt_class(pod)).partition(|pod| {
                let mut owners = items(&pod["metadata"]["ownerReferences"]);
                owners.find(|owner| owner["controller"] == true).is_none_or(|owner| seen.insert(text(owner, "/uid")))
            });
        pods.extend(alike);
        if pods.len() > MAX_PODS {
            let (some, all) = (MAX_PODS, pods.len());
            request.notes.warn(format!(
                "new PodSecurity enforce level only checked against the first {some} of {all} existing pods"
            ));
        }
        // By what is wrong: the first pod's name, and how many there are.
        let mut found: BTreeMap<String, (&str, usize)> = BTreeMap::new();
        for pod in pods.into_iter().take(MAX_PODS) {
            let why: Vec<&str> = violations(policy, pod).iter().map(|violation| violation.reason).collect();
            if !why.is_empty() {
                let name = text(pod, "/metadata/name");
                let (first, count) = found.entry(why.join(", ")).or_insert((name, 0));
                (*first, *count) = (name.min(*first), *count + 1);
            }
        }
        if !found.is_empty() {
            let (name, policy) = (&request.name, policy.to_string());
            request.notes.warn(format!(
                "existing pods in namespace {name:?} violate the new PodSecurity enforce level {policy:?}"
            ));
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
}

/// `hostPort (container "c" uses hostPort 80), privileged (…)`.
fn details(found: &[Violation]) -> String {
    let shown = |violation: &Violation| format!("{} ({})", violation.reason, violation.detail);
    found.iter().map(shown).collect::<Vec<_>>().join(", ")
}

/// The pod in a request, or the template of one that a request's object has; `None` if there is nothing to judge.
fn pod(request: &AdmissionRequest) -> Option<&Value> {
    let path = match (request.resource.qualified().as_str(), request.subresource.as_str()) {
        ("pods", "" | "ephemeralcontainers" | "resize") => {
            let made = request.operation == Operation::Create;
            return (made || significant(&request.object, &request.old_object)).then_some(&request.object);
        }
        ("cronjobs.batch", "") => "/spec/jobTemplate/spec/template",
        ("podtemplates", "") => "/template",
        ("deployments.apps" | "replicasets.apps" | "statefulsets.apps" | "daemonsets.apps", "")
        | ("jobs.batch" | "replicationcontrollers", "") => "/spec/template",
        _ => return None,
    };
    request.object.pointer(path)
}

/// Whether a pod's update changes an image, an old annotation about seccomp, or adds a container; nothing else that
/// matters can change.
fn significant(new_pod: &Value, old_pod: &Value) -> bool {
    ["initContainers", "containers", "ephemeralContainers"].iter().any(|field| {
        let (new, old) = (&new_pod["spec"][field], &old_pod["spec"][field]);
        let same = |container: &Value| {
            let key = format!("container.seccomp.security.alpha.kubernetes.io/{}", text(container, "/name"));
            let annotation = |pod: &Value| pod["metadata"]["annotations"][&key].clone();
            let image = |was: &Value| was["name"] == container["name"] && was["image"] == container["image"];
            items(old).any(image) && annotation(new_pod) == annotation(old_pod)
        };
        items(new).count() != items(old).count() || !items(new).all(same)
    })
}

#[cfg(test)]
mod tests;
