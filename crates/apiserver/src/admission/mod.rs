//! Admission: what policy changes in an object, or refuses, between authorisation and the store.
//!
//! One file a plugin; [`PLUGINS`] lists them in the order they run, with upstream's names, so that
//! `--enable-admission-plugins` and `--disable-admission-plugins` mean what they mean elsewhere.

mod always_pull_images;
mod certificates;
mod claim_resize;
mod configuration;
mod default_ingress_class;
mod default_storage_class;
mod default_toleration_seconds;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod pod_security;
mod pod_topology_labels;
mod policy;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_protection;
mod taint_nodes;
mod webhook;

use coracle_api::ApiError;
use serde_json::{Value, json};

use crate::hooks::{AdmissionPlugin, AdmissionRequest};

pub use configuration::{AdmissionConfiguration, ConfigurationError};
pub(crate) use policy::check as check_expressions;
pub use service_account::ServiceAccount;

/// A plugin's name, whether it runs unless disabled, and its maker.
type Row = (&'static str, bool, fn(&AdmissionConfiguration) -> Box<dyn AdmissionPlugin>);

/// All plugins, in the order they run.
pub const PLUGINS: [Row; 23] = [
    ("NamespaceLifecycle", true, |_| Box::new(namespace_lifecycle::NamespaceLifecycle)),
    ("LimitRanger", true, |_| Box::new(limit_ranger::LimitRanger)),
    ("ServiceAccount", true, |_| Box::new(service_account::ServiceAccount)),
    ("NodeRestriction", true, |_| Box::new(node_restriction::NodeRestriction)),
    ("TaintNodesByCondition", true, |_| Box::new(taint_nodes::TaintNodesByCondition)),
    ("AlwaysPullImages", false, |_| Box::new(always_pull_images::AlwaysPullImages)),
    ("PodSecurity", true, |told| Box::new(pod_security::PodSecurity(told.pod_security.clone()))),
    ("Priority", true, |_| Box::new(priority::Priority)),
    ("DefaultTolerationSeconds", true, |_| Box::new(default_toleration_seconds::DefaultTolerationSeconds)),
    ("DefaultStorageClass", true, |_| Box::new(default_storage_class::DefaultStorageClass)),
    ("StorageObjectInUseProtection", true, |_| Box::new(storage_protection::StorageObjectInUseProtection)),
    ("PersistentVolumeClaimResize", true, |_| Box::new(claim_resize::PersistentVolumeClaimResize)),
    ("RuntimeClass", true, |_| Box::new(runtime_class::RuntimeClass)),
    ("CertificateApproval", true, |_| Box::new(certificates::CertificateApproval)),
    ("CertificateSigning", true, |_| Box::new(certificates::CertificateSigning)),
    ("CertificateSubjectRestriction", true, |_| Box::new(certificates::CertificateSubjectRestriction)),
    ("DefaultIngressClass", true, |_| Box::new(default_ingress_class::DefaultIngressClass)),
    ("PodTopologyLabels", true, |_| Box::new(pod_topology_labels::PodTopologyLabels)),
    ("MutatingAdmissionPolicy", true, |_| Box::<policy::MutatingAdmissionPolicy>::default()),
    ("MutatingAdmissionWebhook", true, |_| Box::new(webhook::MutatingAdmissionWebhook)),
    ("ValidatingAdmissionPolicy", true, |_| Box::<policy::ValidatingAdmissionPolicy>::default()),
    ("ValidatingAdmissionWebhook", true, |_| Box::new(webhook::ValidatingAdmissionWebhook)),
    // Last: what another plugin refuses spends no quota.
    ("ResourceQuota", true, |_| Box::new(resource_quota::ResourceQuota)),
];

/// Upstream's plugins that are not here: they may be disabled, since they are, but not enabled.
const ELSEWHERE: [&str; 14] = [
    "AlwaysAdmit",
    "AlwaysDeny",
    "ClusterTrustBundleAttest",
    "DenyServiceExternalIPs",
    "EventRateLimit",
    "ExtendedResourceToleration",
    "ImagePolicyWebhook",
    "LimitPodHardAntiAffinityTopology",
    "NamespaceAutoProvision",
    "NamespaceExists",
    "OwnerReferencesPermissionEnforcement",
    "PodNodeSelector",
    "PodTolerationRestriction",
    "SecurityContextDeny",
];

/// A flag names a plugin that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("admission plugin {name:?} is unknown; known are {known}")]
pub struct UnknownPlugin {
    /// The name.
    pub name: String,
    /// Those that exist.
    pub known: String,
}

/// The plugins that run by default, with `enable` and without `disable` (which wins), in their order.
pub fn plugins(
    enable: &[String],
    disable: &[String],
    told: &AdmissionConfiguration,
) -> Result<Vec<Box<dyn AdmissionPlugin>>, UnknownPlugin> {
    let elsewhere = disable.iter().filter(|name| !ELSEWHERE.contains(&name.as_str()));
    for name in enable.iter().chain(elsewhere) {
        if !PLUGINS.iter().any(|(known, ..)| known == name) {
            let known: Vec<&str> = PLUGINS.iter().map(|(name, ..)| *name).collect();
            return Err(UnknownPlugin { name: name.clone(), known: known.join(", ") });
        }
    }
    let named = |list: &[String], name: &str| list.iter().any(|item| item == name);
    Ok(PLUGINS
        .iter()
        .filter(|(name, default, _)| (*default || named(enable, name)) && !named(disable, name))
        .map(|(.., make)| make(told))
        .collect())
}

/// The text at a JSON pointer, or nothing.
fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// The items of a list, or none.
fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The list in a field of an object, made if it is not there. `None` only if `object` is no object.
fn list_mut<'a>(object: &'a mut Value, field: &str) -> Option<&'a mut Vec<Value>> {
    if !object[field].is_array() {
        object.as_object_mut()?.insert(field.to_owned(), json!([]));
    }
    object[field].as_array_mut()
}

/// What the object is called in refusals: its name, or the beginning of the one it will get.
fn shown_name(request: &AdmissionRequest) -> &str {
    match request.name.as_str() {
        "" => text(&request.object, "/metadata/generateName"),
        name => name,
    }
}

/// The refusal of a request: `pods "web" is forbidden: …`.
fn refuse(request: &AdmissionRequest, why: impl std::fmt::Display) -> ApiError {
    ApiError::forbidden(&request.resource.group, &request.resource.plural, shown_name(request), why)
}

/// Whether the request is about an object of this resource itself, not one of its subresources.
pub(crate) fn is(request: &AdmissionRequest, qualified: &str) -> bool {
    request.subresource.is_empty() && request.resource.qualified() == qualified
}

/// A pod's containers of all sorts: field name and container.
fn containers(spec: &Value) -> impl Iterator<Item = (&'static str, &Value)> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|field| items(&spec[field]).map(move |container| (field, container)))
}

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_switched_by_name_and_keep_their_order() {
        let named = |plugin: &dyn AdmissionPlugin| {
            let text = format!("{plugin:?}");
            text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
        };
        let names = |enable: &[&str], disable: &[&str]| {
            let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
            plugins(&list(enable), &list(disable), &AdmissionConfiguration::default())
                .map(|all| all.iter().map(|p| named(p.as_ref())).collect::<Vec<_>>())
        };
        let default = names(&[], &[]).unwrap();
        assert_eq!(
            (default.first(), default.last()),
            (Some(&"NamespaceLifecycle".into()), Some(&"ResourceQuota".into()))
        );
        assert!(!default.contains(&"AlwaysPullImages".into()));
        assert!(names(&["AlwaysPullImages"], &[]).unwrap().contains(&"AlwaysPullImages".into()));
        assert!(!names(&["LimitRanger"], &["LimitRanger"]).unwrap().contains(&"LimitRanger".into()));
        assert!(
            names(&["Nonsense"], &[]).unwrap_err().to_string().starts_with("admission plugin \"Nonsense\" is unknown")
        );
        assert!(names(&[], &["EventRateLimit"]).is_ok() && names(&["EventRateLimit"], &[]).is_err());
        for (name, _, make) in PLUGINS {
            assert_eq!(named(make(&AdmissionConfiguration::default()).as_ref()), name);
        }
    }
}
