//! What a kubelet may do.
//!
//! A kubelet is the user `system:node:<name>` of the group `system:nodes`. It may do what the ClusterRole
//! `system:node` says, narrowed to its own: its Node, the pods that are bound to it, and of Secrets, ConfigMaps,
//! claims and volumes those that these pods use. A node that is broken into gives away its own pods' secrets and no others.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use coracle_store::Revision;
use memchr::memmem;
use serde_json::Value;

use super::GROUP;
use super::rule::Rule;
use crate::hooks::{Attributes, Authorizer, Decision, UserInfo};
use crate::storage::table::suffix;
use crate::storage::{Entry, Storage};

/// The name of the node that this user is the kubelet of.
pub fn node_of(user: &UserInfo) -> Option<&str> {
    user.name.strip_prefix("system:node:").filter(|node| !node.is_empty() && user.in_group("system:nodes"))
}

/// Permits to kubelets what is their node's business.
#[derive(Debug)]
pub struct NodeAuthorizer {
    storage: Arc<Storage>,
    /// The rules of the ClusterRole `system:node`, and the revision they are of.
    role: Mutex<(Revision, Arc<[Rule]>)>,
}

impl NodeAuthorizer {
    /// By the pods in `storage`.
    pub fn new(storage: Arc<Storage>) -> Self {
        NodeAuthorizer { storage, role: Mutex::new((0, Arc::default())) }
    }

    /// The pods of a node, in `namespace` or (if that is empty) everywhere.
    fn pods(&self, node: &str, namespace: &str) -> Vec<Arc<Entry>> {
        let table = self.storage.table();
        let pods = table.find_any("", "pods").map(|row| row.cache.list_by_value(node, namespace, 0).0);
        pods.unwrap_or_default()
    }

    /// Whether a pod of the node refers to the object.
    fn uses(&self, node: &str, kind: Kind, wanted: &Attributes) -> bool {
        // A name stands in the pod as it is, but for that of a claim which is made for the pod. To look for it spares
        // most pods their parsing.
        let name = memmem::Finder::new(&wanted.name);
        let may = |pod: &Entry| kind == Kind::Claim || name.find(&pod.stored).is_some();
        let pods = self.pods(node, &wanted.namespace);
        pods.iter().filter(|pod| may(pod)).any(|pod| names(&pod.parse(), kind).contains(&wanted.name))
    }

    /// Whether a volume is that of a claim which a pod of the node uses.
    fn uses_volume(&self, node: &str, volume: &str) -> bool {
        let table = self.storage.table();
        let Some(claims) = table.find_any("", "persistentvolumeclaims") else { return false };
        self.pods(node, "").iter().map(|pod| pod.parse()).any(|pod| {
            let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
            names(&pod, Kind::Claim).iter().any(|claim| {
                let claim = claims.cache.get(&suffix(namespace, claim));
                claim.is_some_and(|claim| claim.parse()["spec"]["volumeName"] == volume)
            })
        })
    }
}

/// What a pod may refer to by name in its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Secret,
    ConfigMap,
    Claim,
    ServiceAccount,
}

/// The names of one kind that a pod refers to.
pub(crate) fn names(pod: &Value, kind: Kind) -> Vec<String> {
    let spec = &pod["spec"];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut found: Vec<Value> = Vec::new();
    let containers: Vec<Value> =
        ["initContainers", "containers", "ephemeralContainers"].iter().flat_map(|field| list(&spec[field])).collect();
    let volumes = list(&spec["volumes"]);
    let sources = volumes.iter().flat_map(|volume| list(&volume["projected"]["sources"]));
    match kind {
        Kind::Secret => {
            found.extend(list(&spec["imagePullSecrets"]).iter().map(|r| r["name"].clone()));
            for volume in volumes.iter().filter_map(Value::as_object).flat_map(|volume| volume.values()) {
                let references = [&volume["secretRef"]["name"], &volume["nodePublishSecretRef"]["name"]];
                found.extend([&volume["secretName"]].into_iter().chain(references).cloned());
            }
            found.extend(sources.map(|s| s["secret"]["name"].clone()));
        }
        Kind::ConfigMap => {
            found.extend(volumes.iter().map(|v| v["configMap"]["name"].clone()));
            found.extend(sources.map(|s| s["configMap"]["name"].clone()));
        }
        Kind::Claim => {
            let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
            for volume in &volumes {
                found.push(volume["persistentVolumeClaim"]["claimName"].clone());
                if volume["ephemeral"].is_object() {
                    found.push(format!("{pod_name}-{}", volume["name"].as_str().unwrap_or_default()).into());
                }
            }
        }
        Kind::ServiceAccount => found.push(spec["serviceAccountName"].clone()),
    }
    for container in &containers {
        let (env, from) = match kind {
            Kind::Secret => ("secretKeyRef", "secretRef"),
            Kind::ConfigMap => ("configMapKeyRef", "configMapRef"),
            _ => break,
        };
        found.extend(list(&container["env"]).iter().map(|e| e["valueFrom"][env]["name"].clone()));
        found.extend(list(&container["envFrom"]).iter().map(|e| e[from]["name"].clone()));
    }
    found.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, user: &UserInfo, wanted: &Attributes) -> Decision {
        let Some(node) = node_of(user) else { return Decision::NoOpinion };
        if self.permits(node, wanted) {
            return Decision::Allow;
        }
        // What the kubelet has just seen may permit it: before saying no, hear all that is acknowledged.
        let heard = self.storage.fresh().await.is_ok();
        if heard && self.permits(node, wanted) { Decision::Allow } else { Decision::NoOpinion }
    }
}

impl NodeAuthorizer {
    fn permits(&self, node: &str, wanted: &Attributes) -> bool {
        let uses = |kind| self.uses(node, kind, wanted);
        let reading = matches!(wanted.verb.as_str(), "get" | "list" | "watch");
        let what = (wanted.group.as_str(), wanted.resource.as_str(), wanted.subresource.as_str());
        match what {
            ("", "secrets", "") => reading && !wanted.name.is_empty() && uses(Kind::Secret),
            ("", "configmaps", "") => reading && !wanted.name.is_empty() && uses(Kind::ConfigMap),
            ("", "persistentvolumeclaims", "") => wanted.verb == "get" && uses(Kind::Claim),
            ("", "persistentvolumes", "") => wanted.verb == "get" && self.uses_volume(node, &wanted.name),
            ("", "serviceaccounts", "token") => wanted.verb == "create" && uses(Kind::ServiceAccount),
            ("", "pods", "") if wanted.verb == "get" => self.runs(node, &wanted.namespace, &wanted.name),
            ("", "pods", "") if reading => selects(wanted, "spec.nodeName", node),
            ("", "nodes", "") if reading => wanted.name == node,
            ("coordination.k8s.io", "leases", "") => {
                wanted.namespace == "kube-node-lease" && (wanted.name == node || wanted.verb == "create")
            }
            ("storage.k8s.io", "csinodes", "") => wanted.name == node || wanted.verb == "create",
            _ => self.role_allows(wanted),
        }
    }
}

/// Whether the request's field selector demands this.
fn selects(wanted: &Attributes, field: &str, value: &str) -> bool {
    wanted.fields.iter().any(|(name, demanded)| name == field && demanded == value)
}

impl NodeAuthorizer {
    /// Whether a pod is bound to the node.
    fn runs(&self, node: &str, namespace: &str, name: &str) -> bool {
        let table = self.storage.table();
        let pod = table.find_any("", "pods").and_then(|row| row.cache.get(&suffix(namespace, name)));
        pod.is_some_and(|pod| pod.value().is_some_and(|name| **name == *node))
    }

    fn role_allows(&self, wanted: &Attributes) -> bool {
        let table = self.storage.table();
        let role = table.find_any(GROUP, "clusterroles").and_then(|row| row.cache.get("system:node"));
        let Some(role) = role else { return false };
        let rules = {
            let mut known = self.role.lock().unwrap_or_else(PoisonError::into_inner);
            if known.0 != role.revision {
                *known = (role.revision, super::index::rules_of(&role.parse()).into());
            }
            known.1.clone()
        };
        rules.iter().any(|rule| rule.allows(wanted))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_refers_to_objects_in_many_places() {
        let pod = json!({ "metadata": { "name": "web" }, "spec": {
            "serviceAccountName": "robot",
            "imagePullSecrets": [{ "name": "registry" }],
            "containers": [{
                "env": [
                    { "name": "A", "valueFrom": { "secretKeyRef": { "name": "password", "key": "p" } } },
                    { "name": "B", "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "s" } } },
                ],
                "envFrom": [{ "secretRef": { "name": "all" } }],
            }],
            "volumes": [
                { "name": "tls", "secret": { "secretName": "tls" } },
                { "name": "data", "persistentVolumeClaim": { "claimName": "data" } },
                { "name": "scratch", "ephemeral": {} },
                { "name": "api", "projected": { "sources": [{ "configMap": { "name": "kube-root-ca.crt" } }] } },
            ],
        } });
        assert_eq!(names(&pod, Kind::Secret), ["registry", "tls", "password", "all"]);
        assert_eq!(names(&pod, Kind::ConfigMap), ["kube-root-ca.crt", "settings"]);
        assert_eq!(names(&pod, Kind::Claim), ["data", "web-scratch"]);
        assert_eq!(names(&pod, Kind::ServiceAccount), ["robot"]);
    }
}
