//! The table of kinds that have code: one row each, what is left out is [`GENERIC`]'s.

use super::{GENERIC, Kind, prepare};
use crate::custom::definition;
use crate::{validate, warnings};

#[rustfmt::skip]
pub(super) static KINDS: &[Kind] = &[
    Kind { definition: "io.k8s.api.core.v1.Pod", prepare_create: prepare::pod, prepare_update: prepare::pod_update, validate_create: validate::pod_create, validate_update: validate::pod_update, warnings: warnings::pod, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.Service", validate: validate::service, validate_update: validate::service_update, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.Node", keeps_status: true, validate: validate::node, validate_update: validate::node_update, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.Namespace", prepare_create: prepare::namespace, prepare_update: prepare::namespace_update, prepare_delete: prepare::namespace_delete, validate: validate::namespace, validate_update: validate::namespace_update, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.ConfigMap", validate: validate::config_map, validate_update: validate::config_map_update, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.Secret", validate: validate::secret, validate_update: validate::secret_update, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.Endpoints", validate: validate::endpoints, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.Event", validate: validate::event, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.PersistentVolume", prepare_create: prepare::pending, validate_update: validate::persistent_volume_update, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.PersistentVolumeClaim", prepare_create: prepare::pending, validate_update: validate::persistent_volume_claim_update, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.ReplicationController", validate: validate::replication_controller, warnings: warnings::template, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.ResourceQuota", validate: validate::resource_quota, validate_update: validate::resource_quota_update, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.LimitRange", validate: validate::limit_range, ..GENERIC },
    Kind { definition: "io.k8s.api.core.v1.PodTemplate", warnings: warnings::pod_template, ..GENERIC },
    Kind { definition: "io.k8s.api.apps.v1.Deployment", validate: validate::deployment, warnings: warnings::template, ..GENERIC },
    Kind { definition: "io.k8s.api.apps.v1.ReplicaSet", validate: validate::replica_set, warnings: warnings::template, ..GENERIC },
    Kind { definition: "io.k8s.api.apps.v1.StatefulSet", prepare_create: prepare::stateful_set, prepare_update: |new, _, _| prepare::stateful_set(new), validate: validate::stateful_set, validate_update: validate::stateful_set_update, warnings: warnings::template, ..GENERIC },
    Kind { definition: "io.k8s.api.apps.v1.DaemonSet", prepare_create: prepare::daemon_set, prepare_update: prepare::daemon_set_update, validate: validate::daemon_set, warnings: warnings::template, ..GENERIC },
    Kind { definition: "io.k8s.api.batch.v1.Job", prepare_create: prepare::job, validate: validate::job, validate_create: validate::job_create, validate_update: validate::job_update, warnings: warnings::template, ..GENERIC },
    Kind { definition: "io.k8s.api.batch.v1.CronJob", validate: validate::cron_job, warnings: warnings::cron_job, ..GENERIC },
    Kind { definition: "io.k8s.api.discovery.v1.EndpointSlice", validate: validate::endpoint_slice, ..GENERIC },
    Kind { definition: "io.k8s.api.events.v1.Event", validate: validate::event_regarding, validate_create: validate::event_v1, validate_update: validate::event_update, ..GENERIC },
    Kind { definition: "io.k8s.api.rbac.v1.Role", validate: validate::role, ..GENERIC },
    Kind { definition: "io.k8s.api.rbac.v1.ClusterRole", validate: validate::cluster_role, ..GENERIC },
    Kind { definition: "io.k8s.api.rbac.v1.ClusterRoleBinding", validate: validate::cluster_role_binding, ..GENERIC },
    Kind { definition: "io.k8s.api.storage.v1.VolumeAttachment", prepare_create: prepare::attachment, ..GENERIC },
    Kind { definition: "io.k8s.api.storage.v1.CSINode", validate_update: validate::csi_node_update, ..GENERIC },
    Kind { definition: "io.k8s.api.coordination.v1.Lease", validate: validate::lease, ..GENERIC },
    Kind { definition: "io.k8s.api.scheduling.v1.PriorityClass", validate: validate::priority_class, ..GENERIC },
    Kind { definition: "io.k8s.api.policy.v1.PodDisruptionBudget", validate: validate::pod_disruption_budget, ..GENERIC },
    Kind { definition: "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler", validate: validate::hpa, validate_create: validate::hpa_create, validate_update: validate::hpa_update, ..GENERIC },
    Kind { definition: "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler", validate: validate::hpa, validate_create: validate::hpa_create, validate_update: validate::hpa_update, ..GENERIC },
    Kind { definition: "io.k8s.api.networking.v1.Ingress", validate: validate::ingress, validate_create: validate::ingress_create, ..GENERIC },
    Kind { definition: "io.k8s.api.networking.v1.ServiceCIDR", validate_update: validate::service_cidr_update, ..GENERIC },
    Kind { definition: "io.k8s.api.certificates.v1.CertificateSigningRequest", requested_by: prepare::certificate_requester, prepare_update: prepare::certificate_update, validate: validate::certificate_signing_request, validate_update: validate::certificate_signing_request_update, ..GENERIC },
    Kind { definition: "io.k8s.api.resource.v1.ResourceClaim", validate_update: validate::claim_status, ..GENERIC },
    Kind { definition: "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy", validate: validate::validating_policy, ..GENERIC },
    Kind { definition: "io.k8s.api.flowcontrol.v1.FlowSchema", validate: validate::flow_schema, ..GENERIC },
    Kind { definition: "io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration", validate: validate::priority_level, ..GENERIC },
    Kind { definition: "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService", prepare_create: prepare::api_service, validate: validate::api_service, ..GENERIC },
    Kind { definition: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition", prepare_create: definition::prepare_create, prepare_update: definition::prepare_update, prepare_delete: definition::prepare_delete, validate: definition::validate, validate_update: definition::validate_update, ..GENERIC },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::builtin;

    #[test]
    fn every_row_is_a_resource() {
        for kind in KINDS {
            assert!(builtin().iter().any(|r| r.definition == kind.definition), "{}", kind.definition);
        }
    }
}
