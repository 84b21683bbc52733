//! What is played for which controllers.

use std::sync::{Arc, LazyLock};

use coracle_controller_manager::{Authority, Config};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use serde_json::{Value, json};

use crate::support::*;

/// What is done to the cluster; after each step a minute passes.
pub enum Step {
    Create(Value),
    Patch(&'static str, &'static str, Value),
    Delete(&'static str, &'static str),
    Orphan(&'static str, &'static str),
    PowerOff(&'static str),
    PowerOn(&'static str),
    Wait(u64),
    /// So many thousandths of a processor for each of an app's pods that are there.
    Use(&'static str, u64),
    /// A controller manager that starts so much later: some look once a day, and count in years.
    Later(u64),
}
use Step::{Create, Delete, Later, Orphan, Patch, PowerOff, PowerOn, Use, Wait};

pub struct Scenario {
    pub name: &'static str,
    pub controllers: &'static [&'static str],
    pub nodes: usize,
    pub steps: Vec<Step>,
}

const KEYS: &str = "keys and certificates are made of nothing but chance";

/// What controllers need to be told to have something to do.
pub fn configure(config: &mut Config) {
    let (key, mut params) = (KeyPair::generate().expect(KEYS), CertificateParams::default());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).expect(KEYS).pem();
    config.signer = Some(Arc::new(Authority::from_pem(&ca, &key.serialize_pem()).expect(KEYS)));
    config.token_signer = Some(Arc::new(|claims| Ok(format!("signed {}", claims["sub"]))));
    config.cluster_ca = "the CA".into();
    config.cluster_cidrs = vec![("10.200.0.0/16".into(), 24)];
    config.autoscaler.downscale_stabilization = seconds(60);
}

fn object(api_version: &str, kind: &str, name: &str, fields: Value) -> Value {
    let mut object = json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": name } });
    for (field, value) in fields.as_object().into_iter().flatten() {
        match (field.as_str(), value) {
            ("metadata", Value::Object(more)) => {
                more.iter().for_each(|(key, value)| object["metadata"][key] = value.clone());
            }
            _ => object[field] = value.clone(),
        }
    }
    object
}

fn image(app: &str, image: &str) -> Value {
    json!({ "spec": { "template": pod_template(app, image) } })
}

fn service(name: &str, spec: Value) -> Value {
    let mut service = object("v1", "Service", name, json!({ "spec": { "ports": [{ "port": 80 }] } }));
    spec.as_object().into_iter().flatten().for_each(|(key, value)| service["spec"][key] = value.clone());
    service
}

fn claim_spec(size: &str) -> Value {
    json!({ "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": size } } })
}

fn pod_with_volume(name: &str, volume: Value) -> Value {
    let mut spec = one_container("nginx:1", &[]);
    spec["volumes"] = json!([volume]);
    pod(name, spec)
}

fn gpu() -> Value {
    json!({ "devices": { "requests": [{ "name": "gpu", "exactly": { "deviceClassName": "gpus" } }] } })
}

fn slice(taints: Value) -> Value {
    let pool = json!({ "name": "coracle-1", "generation": 1, "resourceSliceCount": 1 });
    let device = json!({ "name": "gpu-0", "taints": taints });
    json!({ "driver": "gpu.example.com", "nodeName": "coracle-1", "pool": pool, "devices": [device] })
}

/// Bound to a node from the start: here nobody gives devices out but the scenario.
fn pod_with_claim(name: &str, mut claim: Value) -> Value {
    let mut spec = one_container("cuda:1", &[]);
    claim["name"] = json!("gpu");
    spec["nodeName"] = json!("coracle-1");
    spec["resourceClaims"] = json!([claim]);
    pod(name, spec)
}

fn job_spec(seconds: &str, more: Value) -> Value {
    let mut pod = one_container("busybox:1", &["sleep", seconds]);
    pod["restartPolicy"] = json!("Never");
    let mut spec = json!({ "template": { "spec": pod } });
    more.as_object().into_iter().flatten().for_each(|(key, value)| spec[key] = value.clone());
    spec
}

/// A certificate request of a kubelet for another year.
fn csr(name: &str, user: &str) -> Value {
    use base64::Engine;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, user);
    let key = KeyPair::generate().expect(KEYS);
    let pem = params.serialize_request(&key).and_then(|request| request.pem()).expect(KEYS);
    object(
        "certificates.k8s.io/v1",
        "CertificateSigningRequest",
        name,
        json!({ "spec": {
        "request": base64::prelude::BASE64_STANDARD.encode(pem), "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
        "usages": ["digital signature", "client auth"],
    } }),
    )
}

fn bootstrap_token(id: &str, more: Value) -> Value {
    let mut data = json!({ "token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true" });
    more.as_object().into_iter().flatten().for_each(|(key, value)| data[key] = value.clone());
    object(
        "v1",
        "Secret",
        &format!("bootstrap-token-{id}"),
        json!({
            "metadata": { "namespace": "kube-system" }, "type": "bootstrap.kubernetes.io/token", "stringData": data,
        }),
    )
}

fn account_token(name: &str, account: &str) -> Value {
    let meta = json!({ "annotations": { "kubernetes.io/service-account.name": account } });
    let kind = "kubernetes.io/service-account-token";
    object("v1", "Secret", name, json!({ "metadata": meta, "type": kind }))
}

fn cluster_role(name: &str, verb: &str, more: Value) -> Value {
    let rule = json!({ "apiGroups": [""], "resources": ["pods"], "verbs": [verb] });
    let mut role = object(
        "rbac.authorization.k8s.io/v1",
        "ClusterRole",
        name,
        json!({
            "metadata": { "labels": { "gather": "yes" } }, "rules": [rule],
        }),
    );
    more.as_object().into_iter().flatten().for_each(|(key, value)| role[key] = value.clone());
    role
}

/// All of them, made once: certificate requests have new keys each time.
pub static SCENARIOS: LazyLock<Vec<Scenario>> = LazyLock::new(scenarios);

#[rustfmt::skip] // a table
fn scenarios() -> Vec<Scenario> {
    let row = |name, nodes, controllers, steps| Scenario { name, controllers, nodes, steps };
    vec![
        row("a Deployment is rolled, scaled and deleted", 1, &["deployment-controller", "replicaset-controller"], vec![
            Create(deployment("web", 3, "nginx:1")),
            Create(deployment("old", 1, "nginx:1")),
            Patch("deployments", "web", image("web", "nginx:2")),
            Patch("deployments", "web", json!({ "spec": { "replicas": 2 } })),
            Patch("deployments", "web", json!({ "spec": { "paused": true, "replicas": 4 } })),
            Delete("deployments", "old"),
        ]),
        row("a ReplicationController is scaled", 1, &["replicationcontroller-controller"], vec![
            Create(object("v1", "ReplicationController", "rc", json!({ "spec": { "replicas": 3, "template": pod_template("rc", "nginx:1") } }))),
            Patch("replicationcontrollers", "rc", json!({ "spec": { "replicas": 1 } })),
        ]),
        row("a StatefulSet is scaled and rolled", 1, &["statefulset-controller"], vec![
            Create(workload("StatefulSet", "db", "mysql:8", json!({ "replicas": 2, "serviceName": "db", "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": claim_spec("1Gi") }] }))),
            Delete("pods", "db-0"),
            Patch("statefulsets", "db", json!({ "spec": { "replicas": 3, "template": pod_template("db", "mysql:9") } })),
            Patch("statefulsets", "db", json!({ "spec": { "replicas": 1 } })),
        ]),
        row("a DaemonSet is rolled", 2, &["daemonset-controller"], vec![
            Create(workload("DaemonSet", "log", "fluentd:1", json!({}))),
            Patch("daemonsets", "log", image("log", "fluentd:2")),
            Patch("nodes", "coracle-2", json!({ "metadata": { "labels": { "quiet": "yes" } } })),
        ]),
        row("a Service's pods come and go", 1, &["endpointslice-controller", "endpoints-controller"], vec![
            Create(service("web", json!({ "selector": { "app": "web" } }))),
            Create(pod("web", one_container("nginx:1", &[]))),
            Create(deployment("web", 2, "nginx:1")),
            Delete("pods", "web"),
            Create(service("gone", json!({ "selector": { "app": "web" } }))),
            Delete("services", "gone"),
        ]),
        row("somebody's Endpoints are mirrored", 0, &["endpointslice-mirroring-controller"], vec![
            Create(service("outside", json!({}))),
            Create(object("v1", "Endpoints", "outside", json!({ "subsets": [{ "addresses": [{ "ip": "192.0.2.1" }], "ports": [{ "port": 80 }] }] }))),
            Patch("endpoints", "outside", json!({ "subsets": [{ "addresses": [{ "ip": "192.0.2.2" }], "ports": [{ "port": 81 }] }] })),
        ]),
        row("a namespace comes, loses things, and another goes", 1, &["namespace-controller", "serviceaccount-controller", "root-ca-certificate-publisher-controller"], vec![
            Create(object("v1", "Namespace", "shop", json!({}))),
            Create(object("v1", "Namespace", "stay", json!({}))),
            Create({ let mut web = deployment("web", 2, "nginx:1"); web["metadata"]["namespace"] = json!("shop"); web }),
            Delete("serviceaccounts", "stay/default"),
            Delete("configmaps", "stay/kube-root-ca.crt"),
            Delete("namespaces", "shop"),
        ]),
        row("a ServiceAccount's token is filled in and goes with it", 0, &["serviceaccount-token-controller"], vec![
            Create(object("v1", "ServiceAccount", "robot", json!({}))),
            Create(object("v1", "ServiceAccount", "stays", json!({}))),
            Create(account_token("robot", "robot")),
            Create(account_token("stays", "stays")),
            Delete("serviceaccounts", "robot"),
        ]),
        row("ClusterRoles are gathered", 0, &["clusterrole-aggregation-controller"], vec![
            Create(cluster_role("all", "none", json!({ "metadata": { "name": "all" }, "rules": [], "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "gather": "yes" } }] } }))),
            Create(cluster_role("a", "get", json!({}))),
            Create(cluster_role("b", "list", json!({}))),
            Delete("clusterroles", "a"),
        ]),
        row("bootstrap tokens sign and expire", 0, &["bootstrap-signer-controller", "token-cleaner-controller"], vec![
            Create(object("v1", "ConfigMap", "cluster-info", json!({ "metadata": { "namespace": "kube-public" }, "data": { "kubeconfig": "how to reach it" } }))),
            Create(bootstrap_token("aaaaaa", json!({}))),
            Create(bootstrap_token("bbbbbb", json!({ "expiration": "2026-01-01T00:05:00Z" }))),
        ]),
        row("a ServiceCIDR is born and deleted", 0, &["service-cidr-controller"], vec![
            Create(object("networking.k8s.io/v1", "ServiceCIDR", "more", json!({ "spec": { "cidrs": ["10.180.0.0/24"] } }))),
            Create(object("networking.k8s.io/v1", "ServiceCIDR", "gone", json!({ "spec": { "cidrs": ["10.181.0.0/24"] } }))),
            Delete("servicecidrs", "gone"),
        ]),
        row("load balancers get addresses and give them back", 0, &["service-lb-controller"], vec![
            Create(service("a", json!({ "type": "LoadBalancer" }))),
            Create(service("b", json!({ "type": "LoadBalancer" }))),
            Patch("services", "a", json!({ "spec": { "type": "ClusterIP" } })),
            Delete("services", "b"),
        ]),
        row("claims are bound, grow, and go with their volumes", 1, &["persistentvolume-binder-controller", "persistentvolume-expander-controller",
            "persistentvolumeclaim-protection-controller", "persistentvolume-protection-controller"], vec![
            Create(object("storage.k8s.io/v1", "StorageClass", "grows", json!({ "provisioner": "coracle.io/host-path", "allowVolumeExpansion": true }))),
            Create(object("v1", "PersistentVolumeClaim", "data", json!({ "spec": { "storageClassName": "grows", "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } }))),
            Create(object("v1", "PersistentVolumeClaim", "gone", json!({ "spec": claim_spec("1Gi") }))),
            Create(pod_with_volume("user", json!({ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }))),
            Create(pod_with_volume("other", json!({ "name": "data", "persistentVolumeClaim": { "claimName": "gone" } }))),
            Patch("persistentvolumeclaims", "data", json!({ "spec": { "resources": { "requests": { "storage": "2Gi" } } } })),
            Delete("persistentvolumeclaims", "gone"),
            Delete("pods", "other"),
        ]),
        row("a pod's own volume comes and goes with it", 1, &["ephemeral-volume-controller"], vec![
            Create(pod_with_volume("stays", json!({ "name": "scratch", "ephemeral": { "volumeClaimTemplate": { "spec": claim_spec("1Gi") } } }))),
            Create(pod_with_volume("goes", json!({ "name": "scratch", "ephemeral": { "volumeClaimTemplate": { "spec": claim_spec("1Gi") } } }))),
            Delete("pods", "goes"),
        ]),
        row("a VolumeAttributesClass outlives who names it", 0, &["volumeattributesclass-protection-controller"], vec![
            Create(object("storage.k8s.io/v1", "VolumeAttributesClass", "fast", json!({ "driverName": "csi.example", "parameters": { "iops": "9" } }))),
            Create(object("storage.k8s.io/v1", "VolumeAttributesClass", "slow", json!({ "driverName": "csi.example", "parameters": { "iops": "1" } }))),
            Create(object("v1", "PersistentVolumeClaim", "named", json!({ "spec": { "storageClassName": "none", "volumeAttributesClassName": "fast", "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } }))),
            Delete("volumeattributesclasses", "fast"),
            Delete("volumeattributesclasses", "slow"),
        ]),
        row("owners go and leave nothing, or orphans", 1, &["garbage-collector-controller"], vec![
            Create(deployment("gone", 2, "nginx:1")),
            Create(deployment("left", 2, "nginx:1")),
            Delete("deployments", "gone"),
            Orphan("deployments", "left"),
            Create(object("v1", "ConfigMap", "lost", json!({ "metadata": { "ownerReferences": [{ "apiVersion": "v1", "kind": "ConfigMap", "name": "never", "uid": "00000000-0000-0000-0000-000000000000" }] } }))),
        ]),
        row("a node dies, comes back, and another is removed", 3, &["node-lifecycle-controller", "taint-eviction-controller", "pod-garbage-collector-controller", "ttl-controller"], vec![
            Create(workload("DaemonSet", "log", "fluentd:1", json!({}))),
            Create({ let mut lone = pod("lone", one_container("nginx:1", &[])); lone["spec"]["nodeName"] = json!("coracle-2"); lone }),
            Create({ let mut lone = pod("lost", one_container("nginx:1", &[])); lone["spec"]["nodeName"] = json!("coracle-3"); lone }),
            PowerOff("coracle-2"),
            Wait(400),
            PowerOn("coracle-2"),
            PowerOff("coracle-3"),
            Delete("nodes", "coracle-3"),
            Wait(200),
        ]),
        row("a node gets its part of the network", 0, &["node-ipam-controller"], vec![
            Create(object("v1", "Node", "bare", json!({}))),
            Create(object("v1", "Node", "gone", json!({}))),
            Delete("nodes", "gone"),
        ]),
        row("Jobs run to their end, and old ones go", 1, &["job-controller", "ttl-after-finished-controller", "cronjob-controller"], vec![
            Create(object("batch/v1", "Job", "work", json!({ "spec": job_spec("5", json!({ "completions": 4, "parallelism": 2 })) }))),
            Create(object("batch/v1", "Job", "brief", json!({ "spec": job_spec("5", json!({ "ttlSecondsAfterFinished": 30 })) }))),
            Create(object("batch/v1", "CronJob", "tick", json!({ "spec": { "schedule": "*/2 * * * *", "successfulJobsHistoryLimit": 2, "jobTemplate": { "spec": job_spec("5", json!({})) } } }))),
            Wait(300),
            Patch("cronjobs", "tick", json!({ "spec": { "suspend": true } })),
        ]),
        row("a kubelet's certificate request is approved, signed and forgotten", 0, &["certificatesigningrequest-approving-controller",
            "certificatesigningrequest-signing-controller", "certificatesigningrequest-cleaner-controller"], vec![
            Create(csr("renew", "system:node:coracle-1")),
            Create(cluster_role("nobody", "get", json!({}))),
            Patch("certificatesigningrequests", "default/renew/approval", json!({ "status": { "conditions": [{ "type": "Approved", "status": "True", "reason": "ByHand", "message": "yes" }] } })),
            Later(3700),
            Create(csr("stays", "system:node:coracle-2")),
        ]),
        row("a budget counts", 1, &["disruption-controller"], vec![
            Create(object("policy/v1", "PodDisruptionBudget", "web", json!({ "spec": { "minAvailable": 1, "selector": { "matchLabels": { "app": "web" } } } }))),
            Create(deployment("web", 2, "nginx:1")),
            Patch("deployments", "web", json!({ "spec": { "replicas": 3 } })),
        ]),
        row("devices are claimed, shared, taken away and given back", 1, &["resourceclaim-controller", "device-taint-eviction-controller"], vec![
            Create(object("resource.k8s.io/v1", "ResourceClaim", "mine", json!({ "spec": gpu() }))),
            Create(object("resource.k8s.io/v1", "ResourceClaimTemplate", "each", json!({ "spec": { "spec": gpu() } }))),
            Create(object("resource.k8s.io/v1", "ResourceSlice", "s", json!({ "spec": slice(json!([])) }))),
            Create(pod_with_claim("a", json!({ "resourceClaimName": "mine" }))),
            Create(pod_with_claim("b", json!({ "resourceClaimName": "mine" }))),
            Create(pod_with_claim("own", json!({ "resourceClaimTemplateName": "each" }))),
            Create(pod_with_claim("gone", json!({ "resourceClaimTemplateName": "each" }))),
            Patch("resourceclaims", "mine", json!({ "metadata": { "finalizers": ["resource.kubernetes.io/delete-protection"] } })),
            Patch("resourceclaims", "default/mine/status", json!({ "status": { "allocation": { "devices": { "results": [
                { "request": "gpu", "driver": "gpu.example.com", "pool": "coracle-1", "device": "gpu-0" }] } } } })),
            Delete("pods", "gone"),
            Patch("resourceslices", "s", json!({ "spec": slice(json!([{ "key": "broken", "effect": "NoExecute" }])) })),
        ]),
        row("an autoscaler keeps to its bounds and follows load", 1, &["horizontal-pod-autoscaler-controller"], vec![
            Create({ let mut web = deployment("web", 1, "nginx:1"); web["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": "100m" } }); web }),
            Create(object("autoscaling/v2", "HorizontalPodAutoscaler", "web", json!({ "spec": { "minReplicas": 2, "maxReplicas": 5, "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "web" },
                "metrics": [{ "type": "Resource", "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": 50 } } }] } }))),
            Use("web", 100),
            Patch("horizontalpodautoscalers", "web", json!({ "spec": { "maxReplicas": 3 } })),
            Use("web", 0),
        ]),
        row("old tokens of ServiceAccounts are disabled and deleted", 0, &["legacy-serviceaccount-token-cleaner-controller"], vec![
            Patch("configmaps", "kube-system/kube-apiserver-legacy-service-account-token-tracking", json!({ "data": { "since": "2020-01-01" } })),
            Create(object("v1", "ServiceAccount", "robot", json!({ "secrets": [{ "name": "unused" }, { "name": "used" }] }))),
            Create(account_token("unused", "robot")),
            Create(account_token("used", "robot")),
            Create(account_token("by-hand", "robot")),
            Patch("secrets", "used", json!({ "metadata": { "labels": { "kubernetes.io/legacy-token-last-used": "2026-12-31" } } })),
            Later(366 * 86_400),
            Later(366 * 86_400),
        ]),
        row("a quota is counted anew", 1, &["resourcequota-controller"], vec![
            Create(object("v1", "ResourceQuota", "few", json!({ "spec": { "hard": { "pods": "4", "configmaps": "5" } } }))),
            Create(deployment("web", 3, "nginx:1")),
            Create(object("v1", "ConfigMap", "one", json!({}))),
            Patch("deployments", "web", json!({ "spec": { "replicas": 1 } })),
            Delete("configmaps", "one"),
        ]),
        row("a policy's expressions are checked", 0, &["validatingadmissionpolicy-status-controller"], vec![
            Create(object("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", "odd", json!({ "spec": {
                "matchConstraints": { "resourceRules": [{ "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"] }] },
                "validations": [{ "expression": "object.spec.nonsense > 1" }] } }))),
            Patch("validatingadmissionpolicies", "odd", json!({ "spec": { "validations": [{ "expression": "object.spec.replicas > 1" }] } })),
        ]),
    ]
}
