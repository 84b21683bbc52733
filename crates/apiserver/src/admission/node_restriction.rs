//! NodeRestriction: a kubelet writes its own Node, its own Lease, and the pods bound to it, nothing else.

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use coracle_api::certificates::{CertificateRequest, KUBE_APISERVER_CLIENT_KUBELET, KUBELET_SERVING};
use coracle_api::{ApiError, ApiResult};
use serde_json::Value;

use super::{items, refuse, text};
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Attributes, Decision, Operation};
use crate::rbac::node::{Kind, names};
use crate::rbac::node_of;

/// Labels of this domain are the cluster's, so that a node cannot draw pods to itself by claiming them.
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// Kubernetes' own labels that a kubelet may set all the same, besides those of [`OWN_DOMAINS`].
const OWN_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
const OWN_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

#[derive(Debug)]
pub(super) struct NodeRestriction;

/// Why it may not, if it may not.
type Objection = Option<String>;

#[async_trait]
impl AdmissionPlugin for NodeRestriction {
    fn handles(&self, request: &AdmissionRequest) -> bool {
        request.operation != Operation::Connect
    }

    async fn admit(&self, request: &mut AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        let Some(node) = node_of(&request.user).map(str::to_owned) else { return Ok(()) };
        let objection = match (request.resource.qualified().as_str(), request.subresource.as_str()) {
            ("pods", "") => pods(request, context, &node).await?,
            ("pods", "status") => pod_status(request, &node),
            ("pods", "eviction") => (!runs(request, context, &node).await?)
                .then(|| format!("node {node} can only evict pods with spec.nodeName set to itself")),
            ("pods", other) => {
                Some(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
            }
            ("nodes", _) => nodes(request, &node),
            ("persistentvolumeclaims", "status") => claim_status(request, &node),
            ("persistentvolumeclaims", _) => Some("may only update PVC status".to_owned()),
            ("serviceaccounts", "token") => token(request, context, &node).await?,
            ("leases.coordination.k8s.io", _) => leases(request, &node),
            ("csinodes.storage.k8s.io", _) => (object_name(request) != node)
                .then(|| "can only access CSINode with the same name as the requesting node".to_owned()),
            ("resourceslices.resource.k8s.io", _) => resource_slices(request, &node),
            ("certificatesigningrequests.certificates.k8s.io", _) => certificates(request, &node),
            _ => None,
        };
        objection.map_or(Ok(()), |why| Err(refuse(request, why)))
    }
}

fn object_name(request: &AdmissionRequest) -> &str {
    match request.name.as_str() {
        "" => text(&request.object, "/metadata/name"),
        name => name,
    }
}

/// Whether the pod that the request names is bound to the node.
async fn runs(request: &AdmissionRequest, context: &AdmissionContext, node: &str) -> ApiResult<bool> {
    let name = object_name(request);
    let pod = context.storage.get("", "pods", &request.namespace, name).await?;
    let pod = pod.ok_or_else(|| ApiError::not_found("", "pods", name))?;
    Ok(text(&pod, "/spec/nodeName") == node)
}

async fn pods(request: &AdmissionRequest, context: &AdmissionContext, node: &str) -> ApiResult<Objection> {
    Ok(match request.operation {
        Operation::Create => match mirror_pod(&request.object, node) {
            None => owner(&request.object, context, node).await?.or_else(|| references(&request.object, node)),
            objection => objection,
        },
        Operation::Delete => (!runs(request, context, node).await?)
            .then(|| format!("node {node:?} can only delete pods with spec.nodeName set to itself")),
        _ => Some(format!("unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods")),
    })
}

/// Static pods show in the API as mirrors of what runs on the node anyway: these a kubelet creates, and no others.
fn mirror_pod(pod: &Value, node: &str) -> Objection {
    const MIRROR: &str = "kubernetes.io/config.mirror";
    if pod["metadata"]["annotations"][MIRROR].is_null() {
        return Some(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"));
    }
    let own = text(pod, "/spec/nodeName") == node;
    (!own).then(|| format!("node {node:?} can only create pods with spec.nodeName set to itself"))
}

/// A mirror pod belongs to its Node.
async fn owner(pod: &Value, context: &AdmissionContext, node: &str) -> ApiResult<Objection> {
    let owners: Vec<&Value> = items(&pod["metadata"]["ownerReferences"]).collect();
    let can = |what: &str| Some(format!("node {node:?} can only create pods with {what}"));
    let [owner] = owners.as_slice() else {
        return Ok(match owners.len() {
            0 => can("an owner reference set to itself"),
            _ => can("a single owner reference set to itself"),
        });
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return Ok(can("an owner reference set to itself"));
    }
    if owner["controller"] != true {
        return Ok(can("a controller owner reference set to itself"));
    }
    if owner["blockOwnerDeletion"] == true {
        return Ok(Some(format!("node {node:?} must not set blockOwnerDeletion on an owner reference")));
    }
    let object = context.storage.get("", "nodes", "", node).await?;
    let object = object.ok_or_else(|| ApiError::not_found("", "nodes", node))?;
    let (given, uid) = (text(owner, "/uid"), text(&object, "/metadata/uid"));
    Ok((given != uid).then(|| format!("node {node} UID mismatch: expected {given} got {uid}")))
}

/// A pod that referred to other objects would open them to the node that runs it.
fn references(pod: &Value, node: &str) -> Objection {
    let spec = &pod["spec"];
    let projected = |field: &str| {
        let mut sources = items(&spec["volumes"]).flat_map(|volume| items(&volume["projected"]["sources"]));
        sources.any(|source| !source[field].is_null())
    };
    let what = match () {
        () if !text(spec, "/serviceAccountName").is_empty() => "a service account",
        () if !names(pod, Kind::Secret).is_empty() => "secrets",
        () if !names(pod, Kind::ConfigMap).is_empty() => "configmaps",
        () if projected("clusterTrustBundle") => "clustertrustbundles",
        () if items(&spec["volumes"]).any(|v| !v["persistentVolumeClaim"].is_null()) => "persistentvolumeclaims",
        () if items(&spec["resourceClaims"]).next().is_some() => "resourceclaims",
        () => return None,
    };
    Some(format!("node {node:?} can not create pods that reference {what}"))
}

fn pod_status(request: &AdmissionRequest, node: &str) -> Objection {
    let (new, old) = (&request.object, &request.old_object);
    if text(old, "/spec/nodeName") != node {
        return Some(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
    }
    if new["metadata"]["labels"] != old["metadata"]["labels"] {
        return Some(format!("node {node:?} cannot update labels through pod status"));
    }
    let claims = |pod: &Value| pod["status"]["resourceClaimStatuses"].clone();
    (claims(new) != claims(old)).then(|| format!("node {node:?} cannot update resource claim statuses"))
}

fn nodes(request: &AdmissionRequest, node: &str) -> Objection {
    let name = object_name(request);
    if name != node {
        return Some(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    if request.operation == Operation::Delete {
        return None;
    }
    let (new, old) = (&request.object, &request.old_object);
    let forbidden = forbidden_labels(&new["metadata"]["labels"], &old["metadata"]["labels"]).join(", ");
    let (config, old_config) = (&new["spec"]["configSource"], &old["spec"]["configSource"]);
    match request.operation {
        Operation::Create if !config.is_null() => {
            Some(format!("node {node:?} is not allowed to create pods with a non-nil configSource"))
        }
        Operation::Create if !forbidden.is_empty() => {
            Some(format!("node {node:?} is not allowed to set the following labels: {forbidden}"))
        }
        Operation::Create => None,
        _ if !config.is_null() && config != old_config => {
            Some(format!("node {node:?} is not allowed to update configSource to a new non-nil configSource"))
        }
        _ if new["spec"]["taints"] != old["spec"]["taints"] => {
            Some(format!("node {node:?} is not allowed to modify taints"))
        }
        _ => (!forbidden.is_empty()).then(|| format!("is not allowed to modify labels: {forbidden}")),
    }
}

/// The labels that differ and are not the kubelet's to set.
fn forbidden_labels<'a>(new: &'a Value, old: &'a Value) -> Vec<&'a str> {
    let of = |labels: &'a Value| labels.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
    let within = |key: &str, domain: &str| {
        let given = key.split_once('/').map_or("", |(given, _)| given);
        given.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let forbidden = |key: &str| {
        let kubernetes = within(key, "kubernetes.io") || within(key, "k8s.io");
        let own = OWN_LABELS.contains(&key) || OWN_DOMAINS.iter().any(|domain| within(key, domain));
        within(key, RESTRICTED) || kubernetes && !own
    };
    let mut keys: Vec<&str> = of(new).chain(of(old)).filter(|key| new[*key] != old[*key] && forbidden(key)).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn claim_status(request: &AdmissionRequest, node: &str) -> Objection {
    let rest = |claim: &Value| {
        let mut claim = claim.clone();
        let outside = ["resourceVersion", "managedFields"];
        let inside = ["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"];
        for (part, fields) in [("metadata", &outside[..]), ("status", &inside[..])] {
            let part = claim[part].as_object_mut().into_iter();
            part.for_each(|part| part.retain(|key, _| !fields.contains(&key.as_str())));
        }
        claim
    };
    (rest(&request.object) != rest(&request.old_object)).then(|| {
        format!("node {node:?} is not allowed to update fields other than status.capacity and status.conditions")
    })
}

/// A kubelet asks for tokens for the pods that it runs, and for no others.
async fn token(request: &AdmissionRequest, context: &AdmissionContext, node: &str) -> ApiResult<Objection> {
    let bound = &request.object["spec"]["boundObjectRef"];
    let (name, uid) = (text(bound, "/name"), text(bound, "/uid"));
    if bound["apiVersion"] != "v1" || bound["kind"] != "Pod" || name.is_empty() {
        return Ok(Some("node requested token not bound to a pod".into()));
    }
    if uid.is_empty() {
        return Ok(Some("node requested token with a pod binding without a uid".into()));
    }
    let pod = context.storage.get("", "pods", &request.namespace, name).await?;
    let pod = pod.ok_or_else(|| ApiError::not_found("", "pods", name))?;
    if text(&pod, "/metadata/uid") != uid {
        return Ok(Some(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have \
             been deleted and then recreated"
        )));
    }
    if text(&pod, "/spec/nodeName") != node {
        return Ok(Some("node requested token bound to a pod scheduled on a different node".into()));
    }
    let audience = match items(&request.object["spec"]["audiences"]).collect::<Vec<_>>().as_slice() {
        [] => "",
        [one] => one.as_str().unwrap_or_default(),
        _ => return Ok(Some("node may only request 0 or 1 audiences".into())),
    };
    if mounts_token_for(audience, &pod, context).await? {
        return Ok(None);
    }
    let wanted = Attributes {
        verb: "request-serviceaccounts-token-audience".into(),
        is_resource: true,
        resource: audience.into(),
        namespace: request.namespace.clone(),
        name: request.name.clone(),
        ..Attributes::default()
    };
    Ok((context.authorizer.authorize(&request.user, &wanted).await != Decision::Allow).then(|| {
        let user = &request.user.name;
        format!(
            "audience {audience:?} not found in pod spec volume, {user} is not authorized to request tokens for this \
             audience"
        )
    }))
}

/// Whether a volume of the pod is, or has a driver that wants, a token for this audience.
async fn mounts_token_for(audience: &str, pod: &Value, context: &AdmissionContext) -> ApiResult<bool> {
    let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
    for volume in items(&pod["spec"]["volumes"]) {
        let projected = items(&volume["projected"]["sources"]).map(|source| &source["serviceAccountToken"]);
        if projected.filter(|token| token.is_object()).any(|token| text(token, "/audience") == audience) {
            return Ok(true);
        }
        let claim = match () {
            () if volume["ephemeral"].is_object() => format!("{name}-{}", text(volume, "/name")),
            () => text(volume, "/persistentVolumeClaim/claimName").to_owned(),
        };
        let driver = match text(volume, "/csi/driver") {
            "" => driver_of_claim(namespace, &claim, context).await?,
            inline => inline.to_owned(),
        };
        let driver = found(context, "storage.k8s.io", "csidrivers", "", &driver).await?;
        if items(&driver["spec"]["tokenRequests"]).any(|wanted| text(wanted, "/audience") == audience) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The CSI driver of the volume that a claim is bound to; empty if there is none.
async fn driver_of_claim(namespace: &str, claim: &str, context: &AdmissionContext) -> ApiResult<String> {
    let claim = found(context, "", "persistentvolumeclaims", namespace, claim).await?;
    let volume = found(context, "", "persistentvolumes", "", text(&claim, "/spec/volumeName")).await?;
    Ok(text(&volume, "/spec/csi/driver").to_owned())
}

/// An object, or null; no name is nobody's.
async fn found(context: &AdmissionContext, group: &str, plural: &str, ns: &str, name: &str) -> ApiResult<Value> {
    match name {
        "" => Ok(Value::Null),
        name => Ok(context.storage.get(group, plural, ns, name).await?.unwrap_or_default()),
    }
}

fn leases(request: &AdmissionRequest, node: &str) -> Objection {
    if request.namespace != "kube-node-lease" {
        return Some("can only access leases in the \"kube-node-lease\" system namespace".into());
    }
    let own = object_name(request) == node;
    (!own).then(|| "can only access node lease with the same name as the requesting node".into())
}

fn resource_slices(request: &AdmissionRequest, node: &str) -> Objection {
    let (verb, slice) = match request.operation {
        Operation::Create => ("create", &request.object),
        Operation::Delete => ("delete", &request.old_object),
        _ => return None,
    };
    let own = text(slice, "/spec/nodeName") == node;
    (!own).then(|| format!("can only {verb} ResourceSlice with the same NodeName as the requesting node"))
}

fn certificates(request: &AdmissionRequest, node: &str) -> Objection {
    let signer = text(&request.object, "/spec/signerName");
    if request.operation != Operation::Create || ![KUBELET_SERVING, KUBE_APISERVER_CLIENT_KUBELET].contains(&signer) {
        return None;
    }
    let pem = BASE64_STANDARD.decode(text(&request.object, "/spec/request")).unwrap_or_default();
    match CertificateRequest::parse(&pem) {
        Err(why) => Some(format!("unable to parse csr: {why}")),
        Ok(parsed) => (parsed.common_name != format!("system:node:{node}"))
            .then(|| format!("can only create a node CSR with CN=system:node:{node}")),
    }
}

#[cfg(test)]
mod tests;
