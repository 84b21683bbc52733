//! Validation: what is wrong with an object of a kind, field by field, in upstream's words.
//!
//! Most of it is in the table that [`crate::rules`] reads. Here is the code for what a line of it cannot say: one
//! function a type, wherever the type stands ([`of_type`]), and one a kind. The `*_update` functions say what a change
//! may not touch; metadata is [`crate::meta`]'s.

mod admission_policies;
mod api_service;
mod apps;
mod batch;
mod certificates;
mod container;
mod core;
mod devices;
mod flowcontrol;
mod job_status;
mod pod;
mod pod_update;
mod policy;
mod quota;
mod rbac;
mod resources;
mod scheduling;
mod security;
mod service;
mod storage;
#[cfg(test)]
mod tests;
mod volume;
pub(crate) mod webhooks;

use serde_json::Value;

use crate::field::FieldErrors;
use crate::names::Problems;
use crate::quantity::Quantity;

pub use admission_policies::validating_policy;
pub use api_service::api_service;
pub use apps::{daemon_set, deployment, replica_set, replication_controller, stateful_set, stateful_set_update};
pub use batch::{cron_job, job, job_create, job_update};
pub use certificates::{certificate_signing_request, certificate_signing_request_update};
pub use core::{
    config_map, config_map_update, endpoint_slice, endpoints, event, event_regarding, event_update, event_v1, lease,
    namespace, namespace_update, node, node_update, secret, secret_update,
};
pub use devices::claim_status;
pub use flowcontrol::{flow_schema, priority_level};
pub use pod::pod_create;
pub use pod_update::pod_update;
pub use policy::{
    hpa, hpa_create, hpa_update, ingress, ingress_create, pod_disruption_budget, priority_class, service_cidr_update,
};
pub use quota::{limit_range, resource_quota, resource_quota_update};
pub use rbac::{cluster_role, cluster_role_binding, role};
pub use service::{service, service_update};
pub use storage::{csi_node_update, persistent_volume_claim_update, persistent_volume_update};

/// The code that judges a value of a type, wherever it stands.
pub(crate) fn of_type(name: &str) -> Option<fn(&Value, &str, &mut FieldErrors)> {
    Some(match name {
        "meta.v1.LabelSelector" => label_selector,
        "core.v1.Pod" => pod::pod,
        "core.v1.PodTemplateSpec" => pod::template,
        "core.v1.PodSpec" => pod::spec,
        "core.v1.PodResourceClaim" => pod::resource_claim,
        "core.v1.Probe" | "core.v1.LifecycleHandler" => container::handler,
        "core.v1.EnvVar" => container::env,
        "core.v1.EnvFromSource" => container::env_from,
        "core.v1.SecurityContext" => security::container,
        "core.v1.SeccompProfile" => |profile, path, errors| security::profile(profile, path, errors, "seccomp"),
        "core.v1.AppArmorProfile" => |profile, path, errors| security::profile(profile, path, errors, "AppArmor"),
        "core.v1.WindowsSecurityContextOptions" => security::windows_options,
        "core.v1.Volume" => volume::volume,
        "core.v1.DownwardAPIVolumeFile" => volume::downward_file,
        "core.v1.ProjectedVolumeSource" => volume::projected,
        "core.v1.ISCSIVolumeSource" | "core.v1.ISCSIPersistentVolumeSource" => volume::iscsi,
        "core.v1.FCVolumeSource" => volume::fibre_channel,
        "core.v1.FlockerVolumeSource" => volume::flocker,
        "core.v1.Toleration" => scheduling::toleration,
        "core.v1.NodeSelectorTerm" => scheduling::node_term,
        "core.v1.PodAffinityTerm" => scheduling::pod_term,
        "core.v1.TopologySpreadConstraint" => scheduling::spread,
        "core.v1.PersistentVolumeSpec" => storage::volume_spec,
        "core.v1.PersistentVolumeClaimSpec" => storage::claim_spec,
        "apps.v1.StatefulSetSpec" => apps::stateful_set_template,
        "batch.v1.JobSpec" => batch::job_spec,
        "batch.v1.SuccessPolicyRule" => batch::success_rule,
        "autoscaling.v2.MetricSpec" => policy::metric,
        "autoscaling.v2.MetricTarget" => policy::metric_target,
        "autoscaling.v2.ContainerResourceMetricSource" => policy::container_metric,
        "networking.v1.IngressBackend" => policy::backend,
        "networking.v1.HTTPIngressPath" => policy::http_path,
        "networking.v1.IngressClassParametersReference" => policy::class_parameters,
        "networking.v1.NetworkPolicySpec" => policy::policy_types,
        "networking.v1.ServiceCIDRSpec" => policy::service_cidrs,
        "networking.v1.NetworkPolicyPeer" => policy::peer,
        "node.v1.Overhead" => |overhead, path, errors| {
            let path = join(path, "limits");
            resources::amounts(&overhead["podFixed"], &path, resources::container_resource_name, errors);
        },
        "networking.v1.NetworkPolicyPort" => policy::policy_port,
        "rbac.v1.Subject" => rbac::subject,
        "resource.v1.DeviceRequest" => devices::request,
        "resource.v1.ExactDeviceRequest" | "resource.v1.DeviceSubRequest" => devices::count,
        "resource.v1.DeviceConstraint" => devices::constraint,
        "resource.v1.DeviceToleration" => scheduling::device_toleration,
        "resource.v1.DeviceClaim" => devices::claim,
        "resource.v1.ResourceSliceSpec" => devices::slice,
        "resource.v1.Device" => |device, path, errors| {
            devices::device(device, path, errors);
            devices::binding(device, path, errors);
        },
        "resource.v1.DeviceRequestAllocationResult" => devices::binding,
        "resource.v1.CounterSet" | "resource.v1.DeviceCounterConsumption" => devices::counters,
        "resource.v1.OpaqueDeviceConfiguration" => devices::parameters,
        "resource.v1.DeviceClassSpec" => devices::class,
        "resource.v1.DeviceAttribute" => devices::attribute,
        "admissionregistration.v1.MutatingWebhook" | "admissionregistration.v1.ValidatingWebhook" => webhooks::webhook,
        "admissionregistration.v1.MatchCondition" => webhooks::match_condition,
        "admissionregistration.v1.Rule" => webhooks::resources,
        "admissionregistration.v1.ParamKind" => admission_policies::param_kind,
        "admissionregistration.v1.ParamRef" => admission_policies::param_ref,
        "admissionregistration.v1.Validation" => admission_policies::validation,
        "admissionregistration.v1.ValidatingAdmissionPolicyBindingSpec" => admission_policies::validation_actions,
        "flowcontrol.v1.PolicyRulesWithSubjects" => flowcontrol::policy_rules,
        "flowcontrol.v1.ResourcePolicyRule" => flowcontrol::resource_rule,
        "flowcontrol.v1.NonResourcePolicyRule" => flowcontrol::non_resource_rule,
        "flowcontrol.v1.Subject" => flowcontrol::subject,
        "flowcontrol.v1.LimitResponse" => flowcontrol::limit_response,
        "flowcontrol.v1.QueuingConfiguration" => flowcontrol::queues,
        "storage.v1.VolumeAttachmentSource" => storage::attachment_source,
        _ => return None,
    })
}

/// What may not be changed.
pub(crate) const IMMUTABLE: &str = "field is immutable";

pub(crate) fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_default()
}

pub(crate) fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Each item of a list with its path.
pub(crate) fn each<'a>(object: &'a Value, path: &str, key: &str) -> impl Iterator<Item = (String, &'a Value)> {
    let base = join(path, key);
    list(object, key).iter().enumerate().map(move |(i, item)| (format!("{base}[{i}]"), item))
}

pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// One `Invalid` per problem.
pub(crate) fn report(problems: Problems, path: &str, value: &str, errors: &mut FieldErrors) {
    for problem in problems {
        errors.invalid(path, value, problem);
    }
}

/// A quantity; malformed ones do not come this far.
pub(crate) fn quantity(value: &Value) -> Quantity {
    Quantity::from_json(value).unwrap_or_default()
}

/// A LabelSelector.
pub(crate) fn label_selector(selector: &Value, path: &str, errors: &mut FieldErrors) {
    crate::meta::validate_labels(&selector["matchLabels"], &join(path, "matchLabels"), errors);
    for (path, expression) in each(selector, path, "matchExpressions") {
        requirement(expression, &path, &["In", "NotIn", "Exists", "DoesNotExist"], errors);
        label_values(expression, &path, errors);
    }
}

/// One requirement of a selector by labels: whether its values suit its operator, and its key.
pub(crate) fn requirement(expression: &Value, path: &str, operators: &[&str], errors: &mut FieldErrors) {
    let values = list(expression, "values");
    match text(expression, "operator") {
        other if !operators.contains(&other) => {
            errors.invalid(&join(path, "operator"), other, "not a valid selector operator");
        }
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&join(path, "values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.forbidden(&join(path, "values"), why);
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.required(&join(path, "values"), why);
        }
        _ => {}
    }
    let key = text(expression, "key");
    report(crate::names::check_qualified_name(key), &join(path, "key"), key, errors);
}

/// Values of a requirement, which must be such as labels can have.
pub(crate) fn label_values(expression: &Value, path: &str, errors: &mut FieldErrors) {
    for (i, value) in list(expression, "values").iter().filter_map(Value::as_str).enumerate() {
        report(crate::names::check_label_value(value), &format!("{path}.values[{i}]"), value, errors);
    }
}

/// A percentage, however large.
fn percent(value: &Value) -> Option<u64> {
    let digits =
        value.as_str()?.strip_suffix('%').filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))?;
    Some(digits.parse().unwrap_or(u64::MAX))
}

/// Whether an IntOrString is nothing: 0 or `0%`.
pub(crate) fn is_zero(value: &Value) -> bool {
    *value == 0 || percent(value) == Some(0)
}

/// An IntOrString that must not be more than all.
pub(crate) fn at_most_all(object: &Value, path: &str, key: &str, errors: &mut FieldErrors) {
    if percent(&object[key]) > Some(100) {
        errors.invalid(&join(path, key), object[key].clone(), "must not be greater than 100%");
    }
}

/// An IntOrString that must be a number ≥ 0 or a percentage.
pub(crate) fn count_or_percent(object: &Value, path: &str, key: &str, errors: &mut FieldErrors) {
    let path = join(path, key);
    match &object[key] {
        Value::String(text) if percent(&object[key]).is_none() => {
            let why = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or \
                       '93%', regex used for validation is '[0-9]+%')";
            errors.invalid(&path, text.as_str(), why);
        }
        Value::Number(number) if number.as_i64().is_some_and(|n| n < 0) => {
            errors.invalid(&path, object[key].clone(), "must be greater than or equal to 0");
        }
        _ => {}
    }
}

#[cfg(test)]
pub(crate) fn updated(update: fn(&Value, &Value, &str, &mut FieldErrors), new: &Value, old: &Value) -> Vec<String> {
    let mut errors = FieldErrors::default();
    update(new, old, "", &mut errors);
    errors.0.iter().map(ToString::to_string).collect()
}

/// What a change of an object is told.
#[cfg(test)]
pub(crate) fn told_of_change(definition: &str, new: &Value, old: &Value, subresource: &str) -> Vec<String> {
    use crate::resource::Strategy;
    let mut errors = FieldErrors::default();
    let strategy = crate::kinds::KindStrategy::of(definition);
    let (mut new, mut old) = (new.clone(), old.clone());
    strategy.default(&mut new);
    strategy.default(&mut old);
    strategy.validate_update(&new, &old, subresource, &mut errors);
    errors.0.iter().map(ToString::to_string).collect()
}

/// The table, the types' code and the kind's: all that a new object is told.
#[cfg(test)]
pub(crate) fn told(definition: &str, object: &Value) -> Vec<String> {
    use crate::resource::Strategy;
    let mut errors = FieldErrors::default();
    let strategy = crate::kinds::KindStrategy::of(definition);
    let mut object = object.clone();
    strategy.default(&mut object);
    strategy.validate(&object, &mut errors);
    strategy.validate_create(&object, &mut errors);
    errors.0.iter().map(ToString::to_string).collect()
}
