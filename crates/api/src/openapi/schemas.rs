//! The schemas of a document.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::reference;
use crate::resource::Resource;
use crate::schema::{Field, Kind, Shape, type_of};

/// Asks the generator for the schema of each definition; the Rust type is found by its path in `k8s-openapi`.
macro_rules! definitions {
    ($($name:literal => $($part:ident)::+,)*) => {
        fn generate(definition: &str, generator: &mut SchemaGenerator) {
            match definition {
                $($name => { generator.subschema_for::<k8s_openapi::$($part)::+>(); })*
                _ => {}
            }
        }
    };
}

definitions! {
    "io.k8s.api.core.v1.Binding" => api::core::v1::Binding,
    "io.k8s.api.core.v1.ComponentStatus" => api::core::v1::ComponentStatus,
    "io.k8s.api.core.v1.ConfigMap" => api::core::v1::ConfigMap,
    "io.k8s.api.core.v1.Endpoints" => api::core::v1::Endpoints,
    "io.k8s.api.core.v1.Event" => api::core::v1::Event,
    "io.k8s.api.core.v1.LimitRange" => api::core::v1::LimitRange,
    "io.k8s.api.core.v1.Namespace" => api::core::v1::Namespace,
    "io.k8s.api.core.v1.Node" => api::core::v1::Node,
    "io.k8s.api.core.v1.PersistentVolumeClaim" => api::core::v1::PersistentVolumeClaim,
    "io.k8s.api.core.v1.PersistentVolume" => api::core::v1::PersistentVolume,
    "io.k8s.api.core.v1.Pod" => api::core::v1::Pod,
    "io.k8s.api.core.v1.PodTemplate" => api::core::v1::PodTemplate,
    "io.k8s.api.core.v1.ReplicationController" => api::core::v1::ReplicationController,
    "io.k8s.api.core.v1.ResourceQuota" => api::core::v1::ResourceQuota,
    "io.k8s.api.core.v1.Secret" => api::core::v1::Secret,
    "io.k8s.api.core.v1.ServiceAccount" => api::core::v1::ServiceAccount,
    "io.k8s.api.core.v1.Service" => api::core::v1::Service,
    "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService" => kube_aggregator::pkg::apis::apiregistration::v1::APIService,
    "io.k8s.api.apps.v1.ControllerRevision" => api::apps::v1::ControllerRevision,
    "io.k8s.api.apps.v1.DaemonSet" => api::apps::v1::DaemonSet,
    "io.k8s.api.apps.v1.Deployment" => api::apps::v1::Deployment,
    "io.k8s.api.apps.v1.ReplicaSet" => api::apps::v1::ReplicaSet,
    "io.k8s.api.apps.v1.StatefulSet" => api::apps::v1::StatefulSet,
    "io.k8s.api.events.v1.Event" => api::events::v1::Event,
    "io.k8s.api.authentication.v1.SelfSubjectReview" => api::authentication::v1::SelfSubjectReview,
    "io.k8s.api.authentication.v1.TokenReview" => api::authentication::v1::TokenReview,
    "io.k8s.api.authorization.v1.LocalSubjectAccessReview" => api::authorization::v1::LocalSubjectAccessReview,
    "io.k8s.api.authorization.v1.SelfSubjectAccessReview" => api::authorization::v1::SelfSubjectAccessReview,
    "io.k8s.api.authorization.v1.SelfSubjectRulesReview" => api::authorization::v1::SelfSubjectRulesReview,
    "io.k8s.api.authorization.v1.SubjectAccessReview" => api::authorization::v1::SubjectAccessReview,
    "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler" => api::autoscaling::v2::HorizontalPodAutoscaler,
    "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler" => api::autoscaling::v1::HorizontalPodAutoscaler,
    "io.k8s.api.batch.v1.CronJob" => api::batch::v1::CronJob,
    "io.k8s.api.batch.v1.Job" => api::batch::v1::Job,
    "io.k8s.api.certificates.v1.CertificateSigningRequest" => api::certificates::v1::CertificateSigningRequest,
    "io.k8s.api.networking.v1.IngressClass" => api::networking::v1::IngressClass,
    "io.k8s.api.networking.v1.Ingress" => api::networking::v1::Ingress,
    "io.k8s.api.networking.v1.IPAddress" => api::networking::v1::IPAddress,
    "io.k8s.api.networking.v1.NetworkPolicy" => api::networking::v1::NetworkPolicy,
    "io.k8s.api.networking.v1.ServiceCIDR" => api::networking::v1::ServiceCIDR,
    "io.k8s.api.policy.v1.PodDisruptionBudget" => api::policy::v1::PodDisruptionBudget,
    "io.k8s.api.rbac.v1.ClusterRoleBinding" => api::rbac::v1::ClusterRoleBinding,
    "io.k8s.api.rbac.v1.ClusterRole" => api::rbac::v1::ClusterRole,
    "io.k8s.api.rbac.v1.RoleBinding" => api::rbac::v1::RoleBinding,
    "io.k8s.api.rbac.v1.Role" => api::rbac::v1::Role,
    "io.k8s.api.storage.v1.CSIDriver" => api::storage::v1::CSIDriver,
    "io.k8s.api.storage.v1.CSINode" => api::storage::v1::CSINode,
    "io.k8s.api.storage.v1.CSIStorageCapacity" => api::storage::v1::CSIStorageCapacity,
    "io.k8s.api.storage.v1.StorageClass" => api::storage::v1::StorageClass,
    "io.k8s.api.storage.v1.VolumeAttachment" => api::storage::v1::VolumeAttachment,
    "io.k8s.api.storage.v1.VolumeAttributesClass" => api::storage::v1::VolumeAttributesClass,
    "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy" => api::admissionregistration::v1::MutatingAdmissionPolicy,
    "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBinding" => api::admissionregistration::v1::MutatingAdmissionPolicyBinding,
    "io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration" => api::admissionregistration::v1::MutatingWebhookConfiguration,
    "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy" => api::admissionregistration::v1::ValidatingAdmissionPolicy,
    "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding" => api::admissionregistration::v1::ValidatingAdmissionPolicyBinding,
    "io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration" => api::admissionregistration::v1::ValidatingWebhookConfiguration,
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition" => apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    "io.k8s.api.scheduling.v1.PriorityClass" => api::scheduling::v1::PriorityClass,
    "io.k8s.api.coordination.v1.Lease" => api::coordination::v1::Lease,
    "io.k8s.api.node.v1.RuntimeClass" => api::node::v1::RuntimeClass,
    "io.k8s.api.discovery.v1.EndpointSlice" => api::discovery::v1::EndpointSlice,
    "io.k8s.api.resource.v1.DeviceClass" => api::resource::v1::DeviceClass,
    "io.k8s.api.resource.v1.ResourceClaim" => api::resource::v1::ResourceClaim,
    "io.k8s.api.resource.v1.ResourceClaimTemplate" => api::resource::v1::ResourceClaimTemplate,
    "io.k8s.api.resource.v1.ResourceSlice" => api::resource::v1::ResourceSlice,
    "io.k8s.api.flowcontrol.v1.FlowSchema" => api::flowcontrol::v1::FlowSchema,
    "io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration" => api::flowcontrol::v1::PriorityLevelConfiguration,
    "io.k8s.api.autoscaling.v1.Scale" => api::autoscaling::v1::Scale,
    "io.k8s.api.policy.v1.Eviction" => api::policy::v1::Eviction,
    "io.k8s.api.authentication.v1.TokenRequest" => api::authentication::v1::TokenRequest,
    "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions" => apimachinery::pkg::apis::meta::v1::DeleteOptions,
    "io.k8s.apimachinery.pkg.apis.meta.v1.Status" => apimachinery::pkg::apis::meta::v1::Status,
    "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta" => apimachinery::pkg::apis::meta::v1::ListMeta,
}

const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

/// The definition of a subresource's bodies that are of another kind.
pub(super) fn subresource_definition(kind: &(String, String, String)) -> Option<&'static str> {
    match (kind.0.as_str(), kind.2.as_str()) {
        ("autoscaling", "Scale") => Some("io.k8s.api.autoscaling.v1.Scale"),
        ("policy", "Eviction") => Some("io.k8s.api.policy.v1.Eviction"),
        ("authentication.k8s.io", "TokenRequest") => Some("io.k8s.api.authentication.v1.TokenRequest"),
        ("", "Binding") => Some("io.k8s.api.core.v1.Binding"),
        _ => None,
    }
}

/// The schemas of the resources, of what they refer to, and of what every document has.
pub(super) fn components(resources: &[Arc<Resource>], custom: &BTreeMap<String, Value>) -> Map<String, Value> {
    let mut generator = SchemaSettings::openapi3().into_generator();
    for definition in [DELETE_OPTIONS, STATUS, LIST_META] {
        generate(definition, &mut generator);
    }
    for resource in resources {
        generate(&resource.definition, &mut generator);
        for subresource in &resource.subresources {
            subresource_definition(&subresource.kind).into_iter().for_each(|name| generate(name, &mut generator));
        }
    }
    if !custom.is_empty() {
        generator.subschema_for::<k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>();
    }
    let mut schemas = generator.take_definitions(true);
    for (name, schema) in &mut schemas {
        extend(name, schema);
    }
    schemas.insert(
        PATCH.into(),
        json!({
            "type": "object",
            "description": "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body.",
        }),
    );
    schemas.extend(custom.iter().map(|(name, schema)| (name.clone(), schema.clone())));
    for resource in resources {
        if let Some(schema) = schemas.get_mut(&resource.definition) {
            schema["x-kubernetes-group-version-kind"] = json!([gvk(resource, &resource.kind)]);
        }
    }
    schemas
}

pub(super) fn gvk(resource: &Resource, kind: &str) -> Value {
    json!({ "group": resource.group, "version": resource.version, "kind": kind })
}

/// The name of the list's schema.
pub(super) fn list_definition(resource: &Resource) -> String {
    match resource.definition.rsplit_once('.') {
        Some((prefix, _)) => format!("{prefix}.{}", resource.list_kind),
        None => resource.list_kind.clone(),
    }
}

/// Adds the list of each resource that can be listed.
pub(super) fn add_lists(schemas: &mut Map<String, Value>, resources: &[Arc<Resource>]) {
    for resource in resources.iter().filter(|r| r.verbs.iter().any(|verb| verb == "list")) {
        let item = reference(&resource.definition);
        let schema = json!({
            "type": "object",
            "description": format!("{} is a list of {}.", resource.list_kind, resource.kind),
            "required": ["items"],
            "properties": {
                "apiVersion": { "type": "string", "description": "APIVersion defines the versioned schema of this representation of an object." },
                "kind": { "type": "string", "description": "Kind is a string value representing the REST resource this object represents." },
                "metadata": { "allOf": [reference(LIST_META)], "default": {}, "description": "Standard list metadata." },
                "items": { "type": "array", "items": item, "description": "The items of the list." },
            },
            "x-kubernetes-group-version-kind": [gvk(resource, &resource.list_kind)],
        });
        schemas.insert(list_definition(resource), schema);
    }
}

/// Adds to a schema what the schema table knows.
fn extend(name: &str, schema: &mut Value) {
    let Some(ty) = type_of(name) else { return };
    // `k8s-openapi` requires the metadata of every object; upstream does not.
    if let Some(map) = schema.as_object_mut() {
        let required = map.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
        let named = |name: &Value| name.as_str().and_then(|name| ty.field(name)).is_none_or(|field| field.required);
        let required: Vec<Value> = required.into_iter().filter(named).collect();
        map.remove("required");
        if !required.is_empty() {
            map.insert("required".into(), required.into());
        }
    }
    if ty.atomic {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (name, property) in properties {
        if let Some(field) = ty.field(name) {
            extend_property(field, property);
        }
        wrap_reference(property);
    }
}

/// A `$ref` hides what stands beside it; inside `allOf` it does not.
fn wrap_reference(property: &mut Value) {
    let Some(map) = property.as_object_mut().filter(|map| map.len() > 1) else { return };
    if let Some(reference) = map.remove("$ref") {
        map.insert("allOf".into(), json!([{ "$ref": reference }]));
    }
}

fn extend_property(field: &Field, property: &mut Value) {
    if field.always && matches!(field.kind, Kind::Message(_)) {
        property["default"] = json!({});
    }
    // What Go always writes has Go's zero for a default.
    if field.required && field.shape == Shape::One {
        match field.kind {
            Kind::String => property["default"] = "".into(),
            Kind::Int32 | Kind::Int64 => property["default"] = 0.into(),
            Kind::Bool => property["default"] = false.into(),
            _ => {}
        }
    }
    if let Some((list_type, keys)) = field.declared_list_type() {
        let of = if field.shape == Shape::List { "x-kubernetes-list-type" } else { "x-kubernetes-map-type" };
        property[of] = list_type.into();
        if !keys.is_empty() {
            property["x-kubernetes-list-map-keys"] = keys.split(',').collect();
        }
    }
    if let Some((strategy, key)) = field.patch_strategy() {
        property["x-kubernetes-patch-strategy"] = strategy.into();
        if !key.is_empty() {
            property["x-kubernetes-patch-merge-key"] = key.into();
        }
    }
}
