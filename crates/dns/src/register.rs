//! How pods find the DNS server: the `kube-dns` Service of every cluster, with this server behind it.

use std::net::{Ipv4Addr, SocketAddr};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";

/// Makes sure that the Service exists under `cluster_ip` and that its endpoint is `address`.
pub(crate) async fn register(client: &Client, cluster_ip: Ipv4Addr, address: SocketAddr) -> kube::Result<()> {
    let labels =
        json!({ "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS" });
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": NAME, "namespace": NAMESPACE, "labels": labels },
        "spec": {
            "clusterIP": cluster_ip,
            "ports": [
                { "name": "dns", "port": 53, "protocol": "UDP", "targetPort": address.port() },
                { "name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": address.port() },
            ],
        },
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": NAME, "namespace": NAMESPACE, "labels": {
            "kubernetes.io/service-name": NAME, "endpointslice.kubernetes.io/managed-by": "coracle-dns",
        } },
        "addressType": "IPv4",
        "ports": [
            { "name": "dns", "port": address.port(), "protocol": "UDP" },
            { "name": "dns-tcp", "port": address.port(), "protocol": "TCP" },
        ],
        "endpoints": [{ "addresses": [address.ip()], "conditions": { "ready": true, "serving": true } }],
    });
    ensure::<Service>(client, service).await?;
    ensure::<EndpointSlice>(client, slice).await
}

async fn ensure<K>(client: &Client, wanted: serde_json::Value) -> kube::Result<()>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + serde::Serialize
        + serde::de::DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), NAMESPACE);
    // Changed first: a Service that is there keeps its address, which a second one cannot be given.
    match api.patch(NAME, &PatchParams::default(), &Patch::Merge(&wanted)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let object: K = serde_json::from_value(wanted).map_err(kube::Error::SerdeError)?;
            api.create(&PostParams::default(), &object).await.map(drop)
        }
        other => other.map(drop),
    }
}
