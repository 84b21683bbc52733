//! IPAddress objects: whose which cluster IP is.

use std::net::Ipv4Addr;

use bytes::Bytes;
use coracle_store::{Compare, KeyRange, Op, Txn};
use serde_json::{Value, json};

use super::Used;
use crate::bootstrap::born;
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

/// What becomes of IPAddresses in the transaction that makes the Service `new` of `old`; either may be null.
pub(crate) fn addresses(storage: &Storage, old: &Value, new: &Value) -> Txn {
    let (before, after) = (Used::of(old).ips, Used::of(new).ips);
    let (table, mut txn) = (storage.table(), Txn::default());
    let Some(row) = table.find_any(NETWORKING, "ipaddresses") else { return txn };
    let key = |ip: &Ipv4Addr| Bytes::from(row.key("", &ip.to_string()));
    for ip in after.difference(&before) {
        let value = codec::encode(&born(&ip_address(*ip, new))).into();
        txn.compare.push(Compare::unchanged(key(ip), 0));
        txn.success.push(Op::Put { key: key(ip), value, lease: 0 });
    }
    txn.success.extend(before.difference(&after).map(|ip| Op::Delete(KeyRange::key(key(ip)))));
    txn
}
