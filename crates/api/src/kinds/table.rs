//! The table of kinds that have code: one row each, what is left out is [`GENERIC`]'s.

use super::{GENERIC, Kind, prepare};
use crate::custom::definition;
use crate::{defaults, table, validate, warnings};

#[rustfmt::skip]
pub(super) static KINDS: &[Kind] = &[
    Kind { definition: "io.k8s.api.core.v1.Pod", prepare_create: prepare::pod, prepare_update: prepare::pod_update, validate_create: validate::pod_create, validate_update: validate::pod_update, warnings: warnings::pod, columns: table::POD_COLUMNS, cells: table::pod, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.Service", validate: validate::service, validate_update: validate::service_update, columns: table::SERVICE_COLUMNS, cells: table::service, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.Node", keeps_status: true, validate: validate::node, validate_update: validate::node_update, columns: table::NODE_COLUMNS, cells: table::node, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.Namespace", prepare_create: prepare::namespace, prepare_update: prepare::namespace_update, prepare_delete: prepare::namespace_delete, columns: table::NAMESPACE_COLUMNS, cells: table::namespace, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.ConfigMap", validate: validate::config_map, validate_update: validate::config_map_update, columns: table::CONFIG_MAP_COLUMNS, cells: table::config_map, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.Secret", validate: validate::secret, validate_update: validate::secret_update, columns: table::SECRET_COLUMNS, cells: table::secret, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.ServiceAccount", columns: table::SERVICE_ACCOUNT_COLUMNS, cells: table::service_account, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.Endpoints", validate: validate::endpoints, columns: table::ENDPOINTS_COLUMNS, cells: table::endpoints, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.Event", validate: validate::event, columns: table::EVENT_COLUMNS, cells: table::event, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.PersistentVolume", prepare_create: prepare::pending, validate: validate::persistent_volume, validate_update: validate::persistent_volume_update, columns: table::PERSISTENT_VOLUME_COLUMNS, cells: table::persistent_volume, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.PersistentVolumeClaim", prepare_create: prepare::pending, validate_update: validate::persistent_volume_claim_update, columns: table::CLAIM_COLUMNS, cells: table::persistent_volume_claim, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.ReplicationController", validate: validate::replication_controller, warnings: warnings::template, columns: table::REPLICA_SET_COLUMNS, cells: table::replication_controller, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.ResourceQuota", validate: validate::resource_quota, validate_update: validate::resource_quota_update, columns: table::QUOTA_COLUMNS, cells: table::resource_quota, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.LimitRange", validate: validate::limit_range, columns: table::CREATED_AT_COLUMNS, cells: table::created_at, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.PodTemplate", warnings: warnings::pod_template, columns: table::POD_TEMPLATE_COLUMNS, cells: table::pod_template, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.ComponentStatus", columns: table::COMPONENT_STATUS_COLUMNS, cells: table::component_status, ..GENERIC },
    Kind { definition: "io.k8s.api.apps.v1.Deployment", validate: validate::deployment, warnings: warnings::template, columns: table::DEPLOYMENT_COLUMNS, cells: table::deployment, ..GENERIC },
    Kind { definition: "io.k8s.api.apps.v1.ReplicaSet", validate: validate::replica_set, warnings: warnings::template, columns: table::REPLICA_SET_COLUMNS, cells: table::replica_set, ..GENERIC },
    Kind { definition: "io.k8s.api.apps.v1.StatefulSet", validate: validate::stateful_set, validate_update: validate::stateful_set_update, warnings: warnings::template, columns: table::STATEFUL_SET_COLUMNS, cells: table::stateful_set, ..GENERIC },
    Kind { definition: "io.k8s.api.apps.v1.DaemonSet", validate: validate::daemon_set, warnings: warnings::template, columns: table::DAEMON_SET_COLUMNS, cells: table::daemon_set, ..GENERIC },
    Kind { definition: "io.k8s.api.apps.v1.ControllerRevision", columns: table::CONTROLLER_REVISION_COLUMNS, cells: table::controller_revision, ..GENERIC },
    Kind { definition: "io.k8s.api.batch.v1.Job", prepare_create: prepare::job, validate: validate::job, validate_update: validate::job_update, warnings: warnings::template, columns: table::JOB_COLUMNS, cells: table::job, ..GENERIC },
    Kind { definition: "io.k8s.api.batch.v1.CronJob", validate: validate::cron_job, warnings: warnings::cron_job, columns: table::CRON_JOB_COLUMNS, cells: table::cron_job, ..GENERIC },
    Kind { definition: "io.k8s.api.discovery.v1.EndpointSlice", validate: validate::endpoint_slice, columns: table::ENDPOINT_SLICE_COLUMNS, cells: table::endpoint_slice, ..GENERIC },
    Kind { definition: "io.k8s.api.events.v1.Event", validate: validate::event_regarding, validate_create: validate::event_v1, validate_update: validate::event_update, columns: table::EVENT_COLUMNS, cells: table::event_v1, ..GENERIC },
    Kind { definition: "io.k8s.api.rbac.v1.Role", validate: validate::role, columns: table::CREATED_AT_COLUMNS, cells: table::created_at, ..GENERIC },
    Kind { definition: "io.k8s.api.rbac.v1.ClusterRole", validate: validate::cluster_role, columns: table::CREATED_AT_COLUMNS, cells: table::created_at, ..GENERIC },
    Kind { definition: "io.k8s.api.rbac.v1.RoleBinding", validate: validate::role_binding, validate_update: validate::role_binding_update, columns: table::BINDING_COLUMNS, cells: table::role_binding, ..GENERIC },
    Kind { definition: "io.k8s.api.rbac.v1.ClusterRoleBinding", validate: validate::cluster_role_binding, validate_update: validate::role_binding_update, columns: table::BINDING_COLUMNS, cells: table::role_binding, ..GENERIC },
    Kind { definition: "io.k8s.api.storage.v1.StorageClass", columns: table::STORAGE_CLASS_COLUMNS, cells: table::storage_class, ..GENERIC },
    Kind { definition: "io.k8s.api.storage.v1.VolumeAttachment", prepare_create: prepare::attachment, validate: validate::volume_attachment, columns: table::VOLUME_ATTACHMENT_COLUMNS, cells: table::volume_attachment, ..GENERIC },
    Kind { definition: "io.k8s.api.storage.v1.CSINode", validate_update: validate::csi_node_update, columns: table::CSI_NODE_COLUMNS, cells: table::csi_node, ..GENERIC },
    Kind { definition: "io.k8s.api.storage.v1.CSIDriver", columns: table::CSI_DRIVER_COLUMNS, cells: table::csi_driver, ..GENERIC },
    Kind { definition: "io.k8s.api.storage.v1.CSIStorageCapacity", columns: table::CSI_CAPACITY_COLUMNS, cells: table::csi_storage_capacity, ..GENERIC },
    Kind { definition: "io.k8s.api.storage.v1.VolumeAttributesClass", columns: table::ATTRIBUTES_CLASS_COLUMNS, cells: table::volume_attributes_class, ..GENERIC },
    Kind { definition: "io.k8s.api.resource.v1.ResourceClaim", columns: table::RESOURCE_CLAIM_COLUMNS, cells: table::resource_claim, ..GENERIC },
    Kind { definition: "io.k8s.api.resource.v1.ResourceSlice", columns: table::RESOURCE_SLICE_COLUMNS, cells: table::resource_slice, ..GENERIC },
    Kind { definition: "io.k8s.api.coordination.v1.Lease", validate: validate::lease, columns: table::LEASE_COLUMNS, cells: table::lease, ..GENERIC },
    Kind { definition: "io.k8s.api.scheduling.v1.PriorityClass", validate: validate::priority_class, columns: table::PRIORITY_CLASS_COLUMNS, cells: table::priority_class, ..GENERIC },
    Kind { definition: "io.k8s.api.node.v1.RuntimeClass", columns: table::RUNTIME_CLASS_COLUMNS, cells: table::runtime_class, ..GENERIC },
    Kind { definition: "io.k8s.api.policy.v1.PodDisruptionBudget", validate: validate::pod_disruption_budget, columns: table::BUDGET_COLUMNS, cells: table::pod_disruption_budget, ..GENERIC },
    Kind { definition: "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler", validate: validate::hpa, columns: table::HPA_COLUMNS, cells: table::hpa_v1, ..GENERIC },
    Kind { definition: "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler", validate: validate::hpa, columns: table::HPA_COLUMNS, cells: table::hpa_v2, ..GENERIC },
    Kind { definition: "io.k8s.api.networking.v1.Ingress", validate: validate::ingress, columns: table::INGRESS_COLUMNS, cells: table::ingress, ..GENERIC },
    Kind { definition: "io.k8s.api.networking.v1.IngressClass", columns: table::INGRESS_CLASS_COLUMNS, cells: table::ingress_class, ..GENERIC },
    Kind { definition: "io.k8s.api.networking.v1.NetworkPolicy", columns: table::NETWORK_POLICY_COLUMNS, cells: table::network_policy, ..GENERIC },
    Kind { definition: "io.k8s.api.networking.v1.IPAddress", columns: table::IP_ADDRESS_COLUMNS, cells: table::ip_address, ..GENERIC },
    Kind { definition: "io.k8s.api.networking.v1.ServiceCIDR", validate_update: validate::service_cidr_update, columns: table::SERVICE_CIDR_COLUMNS, cells: table::service_cidr, ..GENERIC },
    Kind { definition: "io.k8s.api.certificates.v1.CertificateSigningRequest", requested_by: prepare::certificate_requester, prepare_update: prepare::certificate_update, validate: validate::certificate_signing_request, validate_update: validate::certificate_signing_request_update, columns: table::CSR_COLUMNS, cells: table::certificate_signing_request, ..GENERIC },
    Kind { definition: "io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration", default: defaults::mutating_webhooks, validate: validate::mutating_webhooks, columns: table::WEBHOOKS_COLUMNS, cells: table::webhooks, ..GENERIC },
    Kind { definition: "io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration", default: defaults::validating_webhooks, validate: validate::validating_webhooks, columns: table::WEBHOOKS_COLUMNS, cells: table::webhooks, ..GENERIC },
    Kind { definition: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBinding", default: defaults::admission_policy_binding, ..GENERIC },
    Kind { definition: "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicy", default: defaults::admission_policy, ..GENERIC },
    Kind { definition: "io.k8s.api.admissionregistration.v1.MutatingAdmissionPolicyBinding", default: defaults::admission_policy_binding, ..GENERIC },
    Kind { definition: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy", default: defaults::admission_policy, columns: table::ADMISSION_POLICY_COLUMNS, cells: table::admission_policy, ..GENERIC },
    Kind { definition: "io.k8s.api.flowcontrol.v1.FlowSchema", default: defaults::flow_schema, validate: validate::flow_schema, columns: table::FLOW_SCHEMA_COLUMNS, cells: table::flow_schema, ..GENERIC },
    Kind { definition: "io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration", default: defaults::priority_level, validate: validate::priority_level, columns: table::PRIORITY_LEVEL_COLUMNS, cells: table::priority_level, ..GENERIC },
    Kind { definition: "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService", default: defaults::api_service, prepare_create: prepare::api_service, validate: validate::api_service, columns: table::API_SERVICE_COLUMNS, cells: table::api_service, ..GENERIC },
    Kind { definition: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition", default: defaults::custom_resource_definition, prepare_create: definition::prepare_create, prepare_update: definition::prepare_update, prepare_delete: definition::prepare_delete, validate: definition::validate, validate_update: definition::validate_update, columns: table::CREATED_AT_COLUMNS, cells: table::created_at, ..GENERIC },
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::builtin;

    #[test]
    fn every_row_is_a_resource_and_has_a_cell_for_each_column() {
        for kind in KINDS {
            assert!(builtin().iter().any(|r| r.definition == kind.definition), "{}", kind.definition);
            assert_eq!((kind.cells)(&json!({})).len(), kind.columns.len(), "{}", kind.definition);
        }
    }
}
