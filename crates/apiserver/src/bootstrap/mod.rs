//! What a cluster is born with.
//!
//! At every start, before the first request: the namespaces, the RBAC policy, the priority classes, and
//! the Service `kubernetes` by which pods reach this server. What is missing is created, what is there
//! stays as people made it (see [`policy::completed`] for what is completed). It is written in as few
//! transactions as etcd's limit on one allows, before anybody is served.

pub mod policy;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use bytes::Bytes;
use coracle_api::{ApiResult, registry};
use coracle_store::{Compare, Op, Txn};
use serde_json::{Value, json};

use crate::aggregator::registration;
use crate::allocate::{Ipv4Cidr, NETWORKING, Used, ip_address, service_ip};
use crate::auth::front_proxy::RequestHeaders;
use crate::flow_control;
use crate::rbac::{GROUP as RBAC, cached};
use crate::storage::table::suffix;
use crate::storage::{Storage, codec, refusal};

/// An etcd takes no more conditions or writes in one transaction, unless told to (`--max-txn-ops`).
const MAX_TXN_OPS: usize = 128;

/// What the first objects tell about this cluster.
#[derive(Clone, Debug)]
pub struct BootstrapConfig {
    /// Where pods reach this server: what the `kubernetes` Service's endpoints are.
    pub advertise_ip: Ipv4Addr,
    /// The port there.
    pub advertise_port: u16,
    /// The range of Services' cluster IPs.
    pub service_cidr: Ipv4Cidr,
    /// The certificate of the authority that signs client certificates, as PEM.
    pub client_ca_pem: Option<String>,
    /// Whom extension servers believe when they speak for others: this server.
    pub request_headers: Option<RequestHeaders>,
}

/// A first object and what to do when it is already there.
#[derive(Debug)]
struct First {
    group: &'static str,
    plural: &'static str,
    object: Value,
    existing: Existing,
}

#[derive(Clone, Copy, Debug)]
enum Existing {
    /// Leave it as it is.
    Keep,
    /// Put in what it lacks of the policy.
    Complete,
    /// These fields are ours.
    Own(&'static [&'static str]),
    /// It is of priority and fairness; whether people must leave it as it is.
    Flow(bool),
}

/// Creates or completes the first objects. Harmless to run again.
pub async fn ensure(storage: &Storage, config: &BootstrapConfig) -> ApiResult<()> {
    settle(storage, || first_objects(storage, config)).await
}

/// Makes the Service `kubernetes` lead to the servers at these addresses, and to no other.
pub(crate) async fn ensure_endpoints(storage: &Storage, ips: &[String], port: u16) -> ApiResult<()> {
    settle(storage, || kubernetes_endpoints(ips, port, Existing::Own).collect()).await
}

/// Creates or corrects the objects of priority and fairness alone.
pub(crate) async fn ensure_flow_control(storage: &Storage) -> ApiResult<()> {
    settle(storage, flow_objects).await
}

async fn settle(storage: &Storage, wanted: impl Fn() -> Vec<First>) -> ApiResult<()> {
    storage.fresh().await?;
    // Another server on the same store may be doing the same: then look again.
    loop {
        let txn = plan(storage, &wanted());
        if txn.success.is_empty() {
            return Ok(());
        }
        let mut compare = txn.compare.into_iter();
        let mut success = txn.success.into_iter();
        while success.len() > 0 {
            let compare = compare.by_ref().take(MAX_TXN_OPS).collect();
            let success = success.by_ref().take(MAX_TXN_OPS).collect();
            let part = Txn { compare, success, ..Txn::default() };
            storage.store().txn(part).await.map_err(refusal)?;
        }
        storage.fresh().await?;
    }
}

/// What brings the store to what `wanted` says: a condition and a write for each object.
fn plan(storage: &Storage, wanted: &[First]) -> Txn {
    let table = storage.table();
    let mut txn = Txn::default();
    for first in wanted {
        let Some(row) = table.find_any(first.group, first.plural) else { continue };
        let text = |field: &str| first.object["metadata"][field].as_str().unwrap_or_default();
        let suffix = suffix(text("namespace"), text("name"));
        let stored = row.cache.get(&suffix);
        let object = match &stored {
            None => born(&first.object),
            Some(entry) => match changed(&entry.parse(), first) {
                Some(object) => object,
                None => continue,
            },
        };
        let key = Bytes::from(format!("{}{suffix}", row.resource.key_prefix()));
        txn.compare.push(Compare::unchanged(key.clone(), stored.map_or(0, |entry| entry.revision)));
        txn.success.push(Op::Put { key, value: codec::encode(&object).into(), lease: 0 });
    }
    txn
}

fn changed(stored: &Value, first: &First) -> Option<Value> {
    match first.existing {
        Existing::Keep => None,
        Existing::Complete => policy::completed(stored, &first.object),
        Existing::Flow(mandatory) => flow_control::bootstrap::updated(stored, &first.object, mandatory),
        Existing::Own(fields) => {
            let mut object = stored.clone();
            for field in fields {
                object[*field] = first.object[*field].clone();
            }
            (object != *stored).then_some(object)
        }
    }
}

/// A new object with the metadata that creation gives.
pub(crate) fn born(object: &Value) -> Value {
    let mut object = object.clone();
    object["metadata"]["uid"] = coracle_clock::uuid().into();
    object["metadata"]["creationTimestamp"] = coracle_clock::now_seconds().to_string().into();
    object
}

/// The FlowSchemas and PriorityLevelConfigurations.
fn flow_objects() -> Vec<First> {
    let first = |(plural, mut object, mandatory): flow_control::bootstrap::FlowObject| {
        if plural == "flowschemas" {
            object["status"] = json!({ "conditions": [flow_control::bootstrap::dangling(&object, true)] });
        }
        First { group: flow_control::GROUP, plural, object, existing: Existing::Flow(mandatory) }
    };
    flow_control::bootstrap::objects().into_iter().map(first).collect()
}

fn first_objects(storage: &Storage, config: &BootstrapConfig) -> Vec<First> {
    let keep = |group, plural, object| First { group, plural, object, existing: Existing::Keep };
    let mut all: Vec<First> = ["default", "kube-system", "kube-public", "kube-node-lease"]
        .into_iter()
        .map(|name| keep("", "namespaces", namespace(name)))
        .collect();
    all.extend(policy::objects().into_iter().map(|(plural, object)| First {
        group: RBAC,
        plural,
        object,
        existing: Existing::Complete,
    }));
    all.extend(
        PRIORITY_CLASSES.iter().map(|class| keep("scheduling.k8s.io", "priorityclasses", priority_class(class))),
    );
    all.extend(flow_objects());
    all.push(keep(NETWORKING, "servicecidrs", service_cidr(config)));
    // All Services, since those of an older server have no IPAddresses.
    let mut services = cached(storage, "", "services", "");
    if !services
        .iter()
        .any(|service| service["metadata"]["name"] == "kubernetes" && service["metadata"]["namespace"] == "default")
    {
        let service = kubernetes_service(config);
        services.push(service.clone());
        all.push(keep("", "services", service));
    }
    let owned = services.iter().flat_map(|service| Used::of(service).ips.into_iter().map(move |ip| (ip, service)));
    // Two may have the same one, and only one of them can.
    let owned: BTreeMap<Ipv4Addr, &Value> = owned.collect();
    all.extend(owned.iter().map(|(ip, service)| keep(NETWORKING, "ipaddresses", ip_address(*ip, service))));
    all.extend(kubernetes_endpoints(&[config.advertise_ip.to_string()], config.advertise_port, |_| Existing::Keep));
    all.extend(registration::builtin(registry::builtin().iter().map(AsRef::as_ref)).into_iter().map(|object| First {
        group: "apiregistration.k8s.io",
        plural: "apiservices",
        object,
        existing: Existing::Own(&["spec"]),
    }));
    // Since when it is noted which of the tokens in Secrets are used.
    let metadata =
        json!({ "name": "kube-apiserver-legacy-service-account-token-tracking", "namespace": "kube-system" });
    let data = json!({ "since": coracle_clock::today() });
    let tracking = json!({ "kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata, "data": data });
    all.push(keep("", "configmaps", tracking));
    if let Some(ca) = &config.client_ca_pem {
        let mut data = config.request_headers.as_ref().map_or_else(|| json!({}), RequestHeaders::published);
        data["client-ca-file"] = ca.as_str().into();
        let object = json!({
            "kind": "ConfigMap",
            "apiVersion": "v1",
            "metadata": { "name": "extension-apiserver-authentication", "namespace": "kube-system" },
            "data": data,
        });
        all.push(First { group: "", plural: "configmaps", object, existing: Existing::Own(&["data"]) });
        // Signatures by bootstrap tokens are added to it, so it is not put back.
        all.push(keep("", "configmaps", cluster_info(config, ca)));
    }
    all
}

/// By which a machine that holds a bootstrap token finds the cluster, as kubeadm publishes it.
fn cluster_info(config: &BootstrapConfig, ca_pem: &str) -> Value {
    use base64::Engine;
    let ca = base64::prelude::BASE64_STANDARD.encode(ca_pem);
    let server = format!("https://{}:{}", config.advertise_ip, config.advertise_port);
    let kubeconfig = format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {ca}\n    server: {server}\n  name: \"\"\n\
         contexts: null\ncurrent-context: \"\"\nkind: Config\nusers: null\n"
    );
    json!({
        "kind": "ConfigMap",
        "apiVersion": "v1",
        "metadata": { "name": "cluster-info", "namespace": "kube-public" },
        "data": { "kubeconfig": kubeconfig },
    })
}

fn namespace(name: &str) -> Value {
    json!({
        "kind": "Namespace",
        "apiVersion": "v1",
        "metadata": { "name": name, "labels": { "kubernetes.io/metadata.name": name } },
        "spec": { "finalizers": ["kubernetes"] },
        "status": { "phase": "Active" },
    })
}

/// The system's priority classes: name, value, description.
pub const PRIORITY_CLASSES: [(&str, i64, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

fn priority_class((name, value, description): &(&str, i64, &str)) -> Value {
    json!({
        "kind": "PriorityClass",
        "apiVersion": "scheduling.k8s.io/v1",
        "metadata": { "name": name, "generation": 1 },
        "value": value,
        "description": description,
        "preemptionPolicy": "PreemptLowerPriority",
    })
}

fn service_cidr(config: &BootstrapConfig) -> Value {
    let ready = json!({
        "type": "Ready",
        "status": "True",
        "reason": "",
        "message": "Kubernetes Service CIDR is ready",
        "lastTransitionTime": coracle_clock::now_seconds().to_string(),
    });
    json!({
        "kind": "ServiceCIDR",
        "apiVersion": "networking.k8s.io/v1",
        "metadata": { "name": "kubernetes" },
        "spec": { "cidrs": [config.service_cidr.to_string()] },
        "status": { "conditions": [ready] },
    })
}

fn kubernetes_service(config: &BootstrapConfig) -> Value {
    let ip = service_ip(&config.service_cidr).to_string();
    json!({
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": { "component": "apiserver", "provider": "kubernetes" },
        },
        "spec": {
            "ports": [{ "name": "https", "protocol": "TCP", "port": 443, "targetPort": config.advertise_port }],
            "clusterIP": ip,
            "clusterIPs": [ip],
            "type": "ClusterIP",
            "sessionAffinity": "None",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
        },
        "status": { "loadBalancer": {} },
    })
}

/// Endpoints and EndpointSlice of the Service `kubernetes`: nobody but the servers themselves know where they are.
fn kubernetes_endpoints(
    ips: &[String],
    port: u16,
    existing: fn(&'static [&'static str]) -> Existing,
) -> impl Iterator<Item = First> + use<> {
    let ports = json!([{ "name": "https", "port": port, "protocol": "TCP" }]);
    let addresses: Vec<_> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
    let subsets = if ips.is_empty() { json!([]) } else { json!([{ "addresses": addresses, "ports": ports }]) };
    let endpoints = json!({
        "kind": "Endpoints",
        "apiVersion": "v1",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" },
        },
        "subsets": subsets,
    });
    let each: Vec<_> = ips.iter().map(|ip| json!({ "addresses": [ip], "conditions": { "ready": true } })).collect();
    let slice = json!({
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": { "kubernetes.io/service-name": "kubernetes" },
        },
        "addressType": "IPv4",
        "endpoints": each,
        "ports": ports,
    });
    let first = |group, plural, object, existing| First { group, plural, object, existing };
    let slice = first("discovery.k8s.io", "endpointslices", slice, existing(&["endpoints", "ports"]));
    [first("", "endpoints", endpoints, existing(&["subsets"])), slice].into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{in_simulation, put, storage};

    fn config(port: u16) -> BootstrapConfig {
        BootstrapConfig {
            advertise_ip: Ipv4Addr::new(10, 244, 0, 1),
            advertise_port: port,
            service_cidr: "10.96.0.0/12".parse().unwrap(),
            client_ca_pem: None,
            request_headers: None,
        }
    }

    #[test]
    fn a_new_cluster_gets_its_first_objects_in_few_transactions_and_an_old_one_nothing() {
        in_simulation(async || {
            let storage = storage().await;
            let before = storage.store().revision();
            let objects = plan(&storage, &first_objects(&storage, &config(6443))).success.len();
            ensure(&storage, &config(6443)).await.unwrap();
            let after = storage.store().revision();
            assert_eq!((after - before) as usize, objects.div_ceil(MAX_TXN_OPS));
            let service = storage.get("", "services", "default", "kubernetes").await.unwrap().unwrap();
            assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
            assert!(storage.get(RBAC, "clusterroles", "", "cluster-admin").await.unwrap().is_some());
            ensure(&storage, &config(6443)).await.unwrap();
            assert_eq!(storage.store().revision(), after);
        });
    }

    #[test]
    fn services_of_an_older_server_get_their_ip_addresses() {
        in_simulation(async || {
            let storage = storage().await;
            let spec = json!({ "clusterIP": "10.96.0.7" });
            put(&storage, "", "services", json!({ "metadata": { "name": "old", "namespace": "a" }, "spec": spec }))
                .await;
            ensure(&storage, &config(6443)).await.unwrap();
            let addresses = storage.list(NETWORKING, "ipaddresses", "").await.unwrap();
            let owners: Vec<&Value> = addresses.iter().map(|address| &address["spec"]["parentRef"]["name"]).collect();
            assert_eq!(owners, ["kubernetes", "old"]);
        });
    }

    #[test]
    fn a_role_that_lost_a_rule_gets_it_back() {
        in_simulation(async || {
            let storage = storage().await;
            ensure(&storage, &config(6443)).await.unwrap();
            let mut role = storage.get(RBAC, "clusterroles", "", "cluster-admin").await.unwrap().unwrap();
            role["rules"] = json!([]);
            put(&storage, RBAC, "clusterroles", role).await;
            ensure(&storage, &config(6443)).await.unwrap();
            let role = storage.get(RBAC, "clusterroles", "", "cluster-admin").await.unwrap().unwrap();
            assert_eq!(role["rules"].as_array().unwrap().len(), 2);
        });
    }
}
