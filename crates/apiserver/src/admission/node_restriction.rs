//! NodeRestriction: a kubelet writes its own Node, its own Lease, and the pods bound to it, nothing else.

use async_trait::async_trait;
use coracle_api::ApiResult;

use super::{refuse, text};
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};
use crate::rbac::node_of;

/// Labels of this domain are the cluster's, so that a node cannot draw pods to itself by claiming them.
const RESTRICTED: &str = "node-restriction.kubernetes.io";

#[derive(Debug)]
pub(super) struct NodeRestriction;

#[async_trait]
impl AdmissionPlugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }

    async fn admit(&self, request: &mut AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        let Some(node) = node_of(&request.user).map(str::to_owned) else { return Ok(()) };
        let refusal = match (request.resource.group.as_str(), request.resource.plural.as_str()) {
            ("", "pods") => pods(request, context, &node).await?,
            ("", "nodes") => nodes(request, &node),
            ("coordination.k8s.io", "leases") => leases(request, &node),
            ("storage.k8s.io", "csinodes") => {
                let own = object_name(request) == node;
                (!own).then(|| format!("node {node:?} is not allowed to modify CSINode {:?}", object_name(request)))
            }
            _ => None,
        };
        refusal.map_or(Ok(()), |why| Err(refuse(request, why)))
    }
}

fn object_name(request: &AdmissionRequest) -> &str {
    match request.name.as_str() {
        "" => text(&request.object, "/metadata/name"),
        name => name,
    }
}

async fn pods(request: &AdmissionRequest, context: &AdmissionContext, node: &str) -> ApiResult<Option<String>> {
    let stored_on = |pod: &serde_json::Value| text(pod, "/spec/nodeName") == node;
    Ok(match (request.operation, request.subresource.as_str()) {
        (Operation::Create, "") => {
            // Static pods show in the API as mirrors of what runs on the node anyway.
            let mirror = !request.object["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null();
            if !mirror {
                Some(format!(
                    "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
                ))
            } else if !stored_on(&request.object) {
                Some(format!("node {node:?} can only create pods with spec.nodeName set to itself"))
            } else {
                None
            }
        }
        (Operation::Update, "status") => (!stored_on(&request.old_object))
            .then(|| format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself")),
        (Operation::Delete, _) | (Operation::Create, "eviction") => {
            let name = object_name(request);
            let pod = context.storage.get("", "pods", &request.namespace, name).await?;
            let verb = if request.operation == Operation::Delete { "delete" } else { "evict" };
            pod.filter(|pod| !stored_on(pod))
                .map(|_| format!("node {node:?} can only {verb} pods with spec.nodeName set to itself"))
        }
        (Operation::Update, subresource) => Some(match subresource {
            "" => format!("node {node:?} cannot update pods"),
            other => format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"),
        }),
        _ => None,
    })
}

fn nodes(request: &AdmissionRequest, node: &str) -> Option<String> {
    let name = object_name(request);
    if name != node {
        return Some(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    if request.operation == Operation::Delete {
        return Some(format!("node {node:?} is not allowed to delete node {name:?}"));
    }
    let labels = |value: &serde_json::Value| value["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    let (new, old) = (labels(&request.object), labels(&request.old_object));
    let restricted = |key: &String| {
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        domain == RESTRICTED || domain.strip_suffix(RESTRICTED).is_some_and(|rest| rest.ends_with('.'))
    };
    let changed: Vec<String> =
        new.keys().chain(old.keys()).filter(|key| restricted(key) && new.get(*key) != old.get(*key)).cloned().collect();
    if !changed.is_empty() {
        let what = if request.operation == Operation::Create { "set" } else { "modify" };
        return Some(format!("is not allowed to {what} the following labels: {}", changed.join(", ")));
    }
    let taints_changed = request.object["spec"]["taints"] != request.old_object["spec"]["taints"];
    let updating = request.operation == Operation::Update && request.subresource.is_empty();
    (updating && taints_changed).then(|| format!("node {node:?} is not allowed to modify taints"))
}

fn leases(request: &AdmissionRequest, node: &str) -> Option<String> {
    if request.namespace != "kube-node-lease" {
        return Some(format!(
            "can only access leases in the \"kube-node-lease\" system namespace, not {:?}",
            request.namespace
        ));
    }
    let own = object_name(request) == node;
    (!own).then(|| "can only access node lease with the same name as the requesting node".to_owned())
}
