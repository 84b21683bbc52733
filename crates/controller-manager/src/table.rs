//! The controllers by name.

use std::future::Future;
use std::pin::Pin;

use crate::context::Context;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One controller: what it is called, and how it starts.
pub struct Controller {
    /// Upstream's name, such as `deployment-controller`.
    pub name: &'static str,
    /// The older, shorter name that `--controllers` takes too.
    pub alias: &'static str,
    pub(crate) start: fn(Context) -> Task,
}

macro_rules! controllers {
    ($($name:literal, $alias:literal, $run:path;)*) => {
        /// All controllers, in the order they start.
        pub const CONTROLLERS: &[Controller] = &[$(
            Controller { name: $name, alias: $alias, start: |context| Box::pin($run(context)) },
        )*];
    };
}

// Upstream's others are not here, because
// - their APIs are off by default: `kube-apiserver-serving-clustertrustbundle-publisher-controller`,
//   `podcertificaterequest-cleaner-controller`, `podgroup-protection-controller`,
//   `resourcepoolstatusrequest-controller`, `storageversion-garbage-collector-controller`,
//   `storage-version-migrator-controller`;
// - they are off by default: `selinux-warning-controller`;
// - they serve what upstream leaves to a cloud: `cloud-node-lifecycle-controller`, `node-route-controller`;
// - no volume of ours is attached to a node before it is mounted: `persistentvolume-attach-detach-controller`.
controllers! {
    "replicaset-controller", "replicaset", crate::replica_set::run_replica_sets;
    "replicationcontroller-controller", "replicationcontroller", crate::replica_set::run_replication_controllers;
    "deployment-controller", "deployment", crate::deployment::run;
    "statefulset-controller", "statefulset", crate::stateful_set::run;
    "daemonset-controller", "daemonset", crate::daemon_set::run;
    "endpointslice-controller", "endpointslice", crate::endpoints::slices::run;
    "endpoints-controller", "endpoint", crate::endpoints::legacy::run;
    "endpointslice-mirroring-controller", "endpointslicemirroring", crate::endpoints::mirroring::run;
    "serviceaccount-controller", "serviceaccount", crate::service_account::run;
    "serviceaccount-token-controller", "serviceaccount-token", crate::service_account_token::run;
    "legacy-serviceaccount-token-cleaner-controller", "legacy-service-account-token-cleaner",
        crate::legacy_tokens::run;
    "clusterrole-aggregation-controller", "clusterrole-aggregation", crate::cluster_role_aggregation::run;
    "bootstrap-signer-controller", "bootstrapsigner", crate::bootstrap_tokens::signer::run;
    "token-cleaner-controller", "tokencleaner", crate::bootstrap_tokens::cleaner::run;
    "root-ca-certificate-publisher-controller", "root-ca-cert-publisher", crate::root_ca::run;
    "service-cidr-controller", "service-cidr-controller", crate::service_cidr::run;
    "service-lb-controller", "service", crate::load_balancer::run;
    "persistentvolume-binder-controller", "persistentvolume-binder", crate::volumes::run;
    "persistentvolume-expander-controller", "persistentvolume-expander", crate::volumes::expand::run;
    "ephemeral-volume-controller", "ephemeral-volume", crate::volumes::ephemeral::run;
    "persistentvolumeclaim-protection-controller", "pvc-protection", crate::volumes::protection::run_claims;
    "persistentvolume-protection-controller", "pv-protection", crate::volumes::protection::run_volumes;
    "volumeattributesclass-protection-controller", "volumeattributesclass-protection-controller",
        crate::volumes::protection::run_attributes_classes;
    "resourceclaim-controller", "resource-claim-controller", crate::resource_claim::run;
    "namespace-controller", "namespace", crate::namespace::run;
    "garbage-collector-controller", "garbagecollector", crate::garbage_collector::run;
    "node-ipam-controller", "nodeipam", crate::node_ipam::run;
    "node-lifecycle-controller", "nodelifecycle", crate::node_lifecycle::run;
    "taint-eviction-controller", "taint-eviction", crate::taint_eviction::run_nodes;
    "device-taint-eviction-controller", "device-taint-eviction-controller", crate::taint_eviction::run_devices;
    "ttl-controller", "ttl", crate::node_ttl::run;
    "pod-garbage-collector-controller", "podgc", crate::pod_gc::run;
    "job-controller", "job", crate::job::run;
    "certificatesigningrequest-approving-controller", "csrapproving", crate::certificates::approve::run;
    "certificatesigningrequest-signing-controller", "csrsigning", crate::certificates::sign::run;
    "certificatesigningrequest-cleaner-controller", "csrcleaner", crate::certificates::clean::run;
    "cronjob-controller", "cronjob", crate::cron_job::run;
    "horizontal-pod-autoscaler-controller", "horizontalpodautoscaling", crate::horizontal_pod_autoscaler::run;
    "disruption-controller", "disruption", crate::disruption::run;
    "resourcequota-controller", "resourcequota", crate::resource_quota::run;
    "validatingadmissionpolicy-status-controller", "validatingadmissionpolicy-status", crate::policy_status::run;
    "ttl-after-finished-controller", "ttl-after-finished", crate::job::run_ttl;
}

/// Whether a list such as `*,-foo` lets a controller run. What names it decides, the first such entry first;
/// otherwise `*` does.
pub fn is_enabled(controller: &Controller, list: &[String]) -> bool {
    let named = |entry: &str| entry == controller.name || entry == controller.alias;
    for entry in list {
        match entry.strip_prefix('-') {
            Some(name) if named(name) => return false,
            None if named(entry) => return true,
            _ => {}
        }
    }
    list.iter().any(|entry| entry == "*")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_enables_all_but_those_named_with_a_minus() {
        let enabled = |list: &[&str]| {
            let list: Vec<_> = list.iter().map(|&entry| entry.to_owned()).collect();
            CONTROLLERS.iter().filter(|controller| is_enabled(controller, &list)).map(|c| c.name).collect::<Vec<_>>()
        };
        assert_eq!(enabled(&["*"]).len(), CONTROLLERS.len());
        assert_eq!(
            enabled(&["deployment", "replicaset-controller"]),
            ["replicaset-controller", "deployment-controller"]
        );
        assert_eq!(enabled(&["*", "-deployment"]).len(), CONTROLLERS.len() - 1);
        assert!(enabled(&[]).is_empty());
    }
}
