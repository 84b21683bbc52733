//! IPAddress objects: whose which cluster IP is; and keys that say the same of NodePorts, which have no objects.

use std::net::Ipv4Addr;

use bytes::Bytes;
use coracle_store::{Compare, KeyRange, Op, Txn};
use serde_json::{Value, json};

use super::{Used, owner_of};
use crate::bootstrap::born;
use crate::storage::table::suffix;
use crate::storage::{Storage, codec};

/// The group of IPAddresses and ServiceCIDRs.
pub(crate) const NETWORKING: &str = "networking.k8s.io";
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const MANAGER: &str = "ipallocator.k8s.io";

/// The IPAddress that says that `ip` is this Service's.
pub(crate) fn ip_address(ip: Ipv4Addr, service: &Value) -> Value {
    let meta = &service["metadata"];
    json!({
        "kind": "IPAddress",
        "apiVersion": "networking.k8s.io/v1",
        "metadata": { "name": ip.to_string(), "labels": { FAMILY: "IPv4", MANAGED_BY: MANAGER } },
        "spec": { "parentRef": { "resource": "services", "namespace": meta["namespace"], "name": meta["name"] } },
    })
}

/// Whether an IPAddress says that it is of a Service, by its label.
pub(super) fn managed(address: &Value) -> bool {
    address["metadata"]["labels"][MANAGED_BY] == MANAGER
}

/// Whether an IPAddress has the labels of a Service's.
pub(super) fn labelled(address: &Value) -> bool {
    managed(address) && address["metadata"]["labels"][FAMILY] == "IPv4"
}

/// Below it, a key for each NodePort with the name of the Service that has it. Only transactions look at them: so no two
/// servers give the same port at the same time.
const NODE_PORTS: &str = "/registry/ranges/servicenodeports/";

/// What becomes of IPAddresses and NodePorts in the transaction that makes the Service `new` of `old`; either may be
/// null.
pub(crate) fn addresses(storage: &Storage, old: &Value, new: &Value) -> Txn {
    let (before, after) = (Used::of(old), Used::of(new));
    let (table, mut txn) = (storage.table(), Txn::default());
    let Some(row) = table.find_any(NETWORKING, "ipaddresses") else { return txn };
    let key = |ip: &Ipv4Addr| Bytes::from(row.key("", &ip.to_string()));
    let port_key = |port: &u16| Bytes::from(format!("{NODE_PORTS}{port}"));
    let ips = after.ips.difference(&before.ips).map(|ip| (key(ip), codec::encode(&born(&ip_address(*ip, new)))));
    let (namespace, name) = owner_of(new);
    let ports =
        after.ports.difference(&before.ports).map(|port| (port_key(port), suffix(&namespace, &name).into_bytes()));
    for (key, value) in ips.chain(ports) {
        txn.compare.push(Compare::unchanged(key.clone(), 0));
        txn.success.push(Op::Put { key, value: value.into(), lease: 0 });
    }
    let free = before.ips.difference(&after.ips).map(key).chain(before.ports.difference(&after.ports).map(port_key));
    txn.success.extend(free.map(|key| Op::Delete(KeyRange::key(key))));
    txn
}
