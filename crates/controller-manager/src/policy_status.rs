//! ValidatingAdmissionPolicy status: whether a policy's expressions fit the kinds that it is about.
//!
//! Watches ValidatingAdmissionPolicies; a key is a policy. Each generation is checked once: against the schemas of all
//! kinds that its rules name without wildcards, Kubernetes' own and custom ones. What does not fit is a warning in
//! `status.typeChecking`; the policy holds as it is.

use std::collections::BTreeSet;
use std::sync::Arc;

use coracle_api::registry::builtin;
use coracle_cel::admission::{Composition, env};
use coracle_cel::{Decl, Env, builtin as declared};
use coracle_client::{Informer, ObjectKey, Requeue, WorkQueue};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::context::{Context, enqueue_changes};
use crate::error::{IgnoreNotFound, Result};

const NAME: &str = "validatingadmissionpolicy-status-controller";
/// So many kinds of one rule are looked at.
const MAX_KINDS: usize = 10;

/// Group, version and kind, in the order they are told.
type GroupVersionKind = (String, String, String);

/// What resources there are, and what their objects look like.
struct Kinds<'a>(&'a [Arc<CustomResourceDefinition>]);

impl Kinds<'_> {
    /// The kind of a resource.
    fn of(&self, group: &str, version: &str, plural: &str) -> Option<String> {
        let known = builtin().into_iter().find(|r| r.group == group && r.version == version && r.plural == plural);
        let custom = || {
            let mut all = self.0.iter().map(|definition| &definition.spec);
            let found = all.find(|spec| spec.group == group && spec.names.plural == plural)?;
            let served = found.versions.iter().any(|served| served.name == version && served.served);
            served.then(|| found.names.kind.clone())
        };
        known.map(|resource| resource.kind.clone()).or_else(custom)
    }

    /// What a kind's objects are declared as.
    fn declaration(&self, (group, version, kind): &GroupVersionKind) -> Option<Arc<Decl>> {
        let api_version = if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
        let custom = || {
            let mut all = self.0.iter().map(|definition| &definition.spec);
            let found = all.find(|spec| spec.group == *group && spec.names.kind == *kind)?;
            let served = found.versions.iter().find(|served| served.name == *version)?;
            let schema = served.schema.as_ref()?.open_api_v3_schema.as_ref()?;
            declared::of_custom(&serde_json::to_value(schema).ok()?, kind)
        };
        declared::of_kind(&api_version, kind).or_else(custom)
    }
}

fn texts(list: &Value) -> BTreeSet<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The kinds that a policy's rules name. A wildcard in a rule's groups or versions leaves the rule out; resources with
/// wildcards and subresources are passed over.
fn kinds_to_check(spec: &Value, kinds: &Kinds<'_>) -> BTreeSet<GroupVersionKind> {
    let mut found = BTreeSet::new();
    for rule in spec["matchConstraints"]["resourceRules"].as_array().into_iter().flatten() {
        let (groups, versions) = (texts(&rule["apiGroups"]), texts(&rule["apiVersions"]));
        if groups.iter().chain(&versions).any(|name| name.contains('*')) {
            continue;
        }
        let resources = texts(&rule["resources"]);
        let plain = || resources.iter().filter(|name| !name.contains(['*', '/']));
        let all = groups.iter().flat_map(|group| {
            versions.iter().flat_map(move |version| plain().map(move |plural| (*group, *version, *plural)))
        });
        let named = all.filter_map(|(group, version, plural)| {
            Some((group.to_owned(), version.to_owned(), kinds.of(group, version, plural)?))
        });
        let before = found.len();
        found.extend(named.take(MAX_KINDS));
        if found.len() == before + MAX_KINDS {
            break;
        }
    }
    found
}

/// What does not fit, as `status.typeChecking.expressionWarnings`.
fn warnings(spec: &Value, kinds: &Kinds<'_>) -> Vec<Value> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let params = &spec["paramKind"];
    let params = params.is_object().then(|| {
        let api_version = text(&params["apiVersion"]);
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        kinds.declaration(&(group.to_owned(), version.to_owned(), text(&params["kind"])))
    });
    let params = params.flatten();
    let envs: Vec<(String, Env)> = kinds_to_check(spec, kinds)
        .into_iter()
        .filter_map(|kind| {
            let env = env(kinds.declaration(&kind)?, params.clone(), true);
            let (group, version, kind) = kind;
            let (_, env) = Composition::compile(&spec["variables"], env);
            Some((format!("{group}/{version}, Kind={kind}"), env))
        })
        .collect();
    let mut warnings = Vec::new();
    for (index, validation) in spec["validations"].as_array().into_iter().flatten().enumerate() {
        for field in ["expression", "messageExpression"] {
            let Some(expression) = validation[field].as_str().filter(|text| !text.is_empty()) else { continue };
            let wrong = envs.iter().filter_map(|(kind, env)| {
                let error = env.compile(expression).err()?;
                Some(format!("{kind}: {}\n", error.marked()))
            });
            let wrong: Vec<String> = wrong.collect();
            if !wrong.is_empty() {
                let at = format!("spec.validations[{index}].{field}");
                warnings.push(json!({ "fieldRef": at, "warning": wrong.join("\n") }));
            }
        }
    }
    warnings
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let policies: Informer<ValidatingAdmissionPolicy> = context.informer();
    let definitions: Informer<CustomResourceDefinition> = context.informer();
    enqueue_changes(&policies, &queue);
    policies.wait_for_sync().await;
    definitions.wait_for_sync().await;
    context.work(NAME, &queue, |key| sync(context.client.clone(), &policies, &definitions, key)).await;
}

async fn sync(
    client: Client,
    policies: &Informer<ValidatingAdmissionPolicy>,
    definitions: &Informer<CustomResourceDefinition>,
    key: ObjectKey,
) -> Result<Requeue> {
    let Some(policy) = policies.get(&key) else { return Ok(Requeue::Never) };
    let generation = policy.metadata.generation.unwrap_or(0);
    let observed = policy.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
    if generation <= observed {
        return Ok(Requeue::Never);
    }
    let spec = serde_json::to_value(&policy.spec).unwrap_or_default();
    let mut checked = json!({});
    let warnings = warnings(&spec, &Kinds(&definitions.list()));
    if !warnings.is_empty() {
        checked["expressionWarnings"] = warnings.into();
    }
    let status = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": { "name": key.name },
        "status": { "observedGeneration": generation, "typeChecking": checked },
    });
    let api: Api<ValidatingAdmissionPolicy> = Api::all(client);
    api.patch_status(&key.name, &PatchParams::apply(NAME).force(), &Patch::Apply(&status)).await.ignore_not_found()?;
    Ok(Requeue::Never)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(groups: &[&str], versions: &[&str], resources: &[&str]) -> Value {
        json!({ "apiGroups": groups, "apiVersions": versions, "resources": resources, "operations": ["*"] })
    }

    fn widgets() -> Vec<Arc<CustomResourceDefinition>> {
        let schema = json!({ "type": "object", "properties": {
            "spec": { "type": "object", "properties": { "size": { "type": "integer" } } } } });
        let definition = json!({ "metadata": { "name": "widgets.example.com" }, "spec": {
            "group": "example.com", "scope": "Namespaced", "names": { "plural": "widgets", "kind": "Widget" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } }],
        } });
        vec![Arc::new(serde_json::from_value(definition).unwrap())]
    }

    #[test]
    fn the_kinds_are_those_that_rules_name() {
        let widgets = widgets();
        for (rules, expected) in [
            (vec![rule(&["apps"], &["v1"], &["deployments", "deployments/scale", "*"])], "apps/v1/Deployment"),
            (vec![rule(&["*"], &["v1"], &["deployments"])], ""),
            (vec![rule(&[""], &["*"], &["pods"])], ""),
            (vec![rule(&["apps", ""], &["v1"], &["pods", "replicasets"])], "/v1/Pod apps/v1/ReplicaSet"),
            (
                vec![rule(&["example.com"], &["v1", "v2"], &["widgets"]), rule(&["no.such"], &["v1"], &["things"])],
                "example.com/v1/Widget",
            ),
        ] {
            let spec = json!({ "matchConstraints": { "resourceRules": rules } });
            let found = kinds_to_check(&spec, &Kinds(&widgets));
            let found: Vec<String> = found.into_iter().map(|(g, v, k)| format!("{g}/{v}/{k}")).collect();
            assert_eq!(found.join(" "), expected, "{spec}");
        }
        let all = builtin();
        let many = all.iter().filter(|r| r.group.is_empty() && r.stored).map(|r| r.plural.as_str());
        let spec =
            json!({ "matchConstraints": { "resourceRules": [rule(&[""], &["v1"], &many.collect::<Vec<_>>())] } });
        assert_eq!(kinds_to_check(&spec, &Kinds(&[])).len(), MAX_KINDS);
    }

    #[test]
    fn what_does_not_fit_is_told_by_kind() {
        let spec = json!({
            "paramKind": { "apiVersion": "example.com/v1", "kind": "Widget" },
            "matchConstraints": { "resourceRules": [rule(&["apps"], &["v1"], &["deployments", "daemonsets"])] },
            "variables": [{ "name": "replicas", "expression": "object.spec.replicas" }],
            "validations": [
                { "expression": "object.spec.template.spec.containers.size() > params.spec.size" },
                { "expression": "object.spec.replicas > 1", "messageExpression": "'has ' + string(params.spec.width)" },
                { "expression": "object.replicas > 1" },
            ],
        });
        let replicas = "object.spec.replicas > 1\n | ...........^\n";
        let width = "ERROR: <input>:1:28: undefined field 'width'\n | 'has ' + string(params.spec.width)\n | ...........................^\n";
        let top = "ERROR: <input>:1:7: undefined field 'replicas'\n | object.replicas > 1\n | ......^\n";
        assert_eq!(
            warnings(&spec, &Kinds(&widgets())),
            [
                json!({ "fieldRef": "spec.validations[1].expression",
                    "warning": format!("apps/v1, Kind=DaemonSet: ERROR: <input>:1:12: undefined field 'replicas'\n | {replicas}") }),
                json!({ "fieldRef": "spec.validations[1].messageExpression",
                    "warning": format!("apps/v1, Kind=DaemonSet: {width}\napps/v1, Kind=Deployment: {width}") }),
                json!({ "fieldRef": "spec.validations[2].expression",
                    "warning": format!("apps/v1, Kind=DaemonSet: {top}\napps/v1, Kind=Deployment: {top}") }),
            ]
        );
    }
}
