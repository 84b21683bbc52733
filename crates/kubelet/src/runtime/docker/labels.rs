//! Names and labels: how a kubelet finds its own objects in a Docker Engine that it shares with others.
//!
//! Docker keeps labels with each container, so they are the runtime's only memory: which cluster and node an object
//! belongs to, which pod and container it is, and what the caller attached to it.

use std::collections::BTreeMap;

use crate::runtime::{ContainerConfig, PodRef, SandboxConfig};

/// The cluster's id.
pub const CLUSTER: &str = "io.coracle.cluster";
/// The node's name.
pub const NODE: &str = "io.coracle.node";
/// [`KIND_SANDBOX`] or [`KIND_CONTAINER`].
pub const KIND: &str = "io.coracle.kind";
/// The value of [`KIND`] for sandboxes.
pub const KIND_SANDBOX: &str = "sandbox";
/// The value of [`KIND`] for containers.
pub const KIND_CONTAINER: &str = "container";
/// The pod's name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// The pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// The pod's uid.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// The container's name in the pod.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// How many such sandboxes or containers there were before.
pub const ATTEMPT: &str = "io.kubernetes.container.restartCount";
/// The id of the sandbox a container lives in.
pub const SANDBOX_ID: &str = "io.kubernetes.sandbox.id";
/// Before the name of each annotation of the caller's.
const ANNOTATION_PREFIX: &str = "annotation.";

const OWN: [&str; 9] = [CLUSTER, NODE, KIND, POD_NAME, POD_NAMESPACE, POD_UID, CONTAINER_NAME, ATTEMPT, SANDBOX_ID];

/// Whose objects these are.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub cluster: String,
    pub node: String,
}

impl Owner {
    /// The labels of a sandbox.
    pub fn sandbox_labels(&self, config: &SandboxConfig) -> BTreeMap<String, String> {
        self.labels(KIND_SANDBOX, &config.pod, config.attempt, &config.labels, &config.annotations)
    }

    /// The labels of a container.
    pub fn container_labels(&self, sandbox_id: &str, config: &ContainerConfig) -> BTreeMap<String, String> {
        let mut labels = self.labels(KIND_CONTAINER, &config.pod, config.attempt, &config.labels, &config.annotations);
        labels.insert(CONTAINER_NAME.into(), config.name.clone());
        labels.insert(SANDBOX_ID.into(), sandbox_id.into());
        labels
    }

    fn labels(
        &self,
        kind: &str,
        pod: &PodRef,
        attempt: u32,
        labels: &BTreeMap<String, String>,
        annotations: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let annotations = annotations.iter().map(|(name, value)| (format!("{ANNOTATION_PREFIX}{name}"), value.clone()));
        let own = [
            (CLUSTER, self.cluster.clone()),
            (NODE, self.node.clone()),
            (KIND, kind.to_string()),
            (POD_NAME, pod.name.clone()),
            (POD_NAMESPACE, pod.namespace.clone()),
            (POD_UID, pod.uid.clone()),
            (ATTEMPT, attempt.to_string()),
        ];
        let own = own.into_iter().map(|(name, value)| (name.to_string(), value));
        labels.clone().into_iter().chain(annotations).chain(own).collect()
    }

    /// The values of Docker's `label` filter that select this owner's objects.
    pub fn filter(&self, kind: Option<&str>) -> Vec<String> {
        let mut filter = vec![format!("{CLUSTER}={}", self.cluster), format!("{NODE}={}", self.node)];
        filter.extend(kind.map(|kind| format!("{KIND}={kind}")));
        filter
    }
}

/// What labels say about an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    pub kind: String,
    pub pod: PodRef,
    pub container: Option<String>,
    pub attempt: u32,
    pub sandbox_id: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

impl Identity {
    /// Reads the labels of an object.
    pub fn read(labels: impl IntoIterator<Item = (String, String)>) -> Identity {
        let mut all: BTreeMap<String, String> = labels.into_iter().collect();
        let mut take = |name: &str| all.remove(name);
        let kind = take(KIND).unwrap_or_default();
        let pod = PodRef {
            namespace: take(POD_NAMESPACE).unwrap_or_default(),
            name: take(POD_NAME).unwrap_or_default(),
            uid: take(POD_UID).unwrap_or_default(),
        };
        let container = take(CONTAINER_NAME);
        let attempt = take(ATTEMPT).and_then(|attempt| attempt.parse().ok()).unwrap_or_default();
        let sandbox_id = take(SANDBOX_ID).unwrap_or_default();
        all.retain(|name, _| !OWN.contains(&name.as_str()));
        let (annotations, labels) =
            all.into_iter().partition::<BTreeMap<_, _>, _>(|(name, _)| name.starts_with(ANNOTATION_PREFIX));
        let annotations =
            annotations.into_iter().map(|(name, value)| (name[ANNOTATION_PREFIX.len()..].to_string(), value)).collect();
        Identity { kind, pod, container, attempt, sandbox_id, labels, annotations }
    }
}

/// A sandbox's name: unique for cluster, pod and attempt, and telling to whoever runs `docker ps`.
pub(super) fn sandbox_name(config: &SandboxConfig) -> String {
    object_name("POD", &config.pod, config.attempt)
}

/// A container's name.
pub(super) fn container_name(config: &ContainerConfig) -> String {
    object_name(&config.name, &config.pod, config.attempt)
}

fn object_name(what: &str, pod: &PodRef, attempt: u32) -> String {
    format!("k8s_{what}_{}_{}_{}_{attempt}", pod.name, pod.namespace, pod.uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_carry_everything_there_and_back() {
        let owner = Owner { cluster: "c1".into(), node: "n1".into() };
        let config = ContainerConfig {
            pod: PodRef { namespace: "default".into(), name: "web".into(), uid: "u-1".into() },
            name: "nginx".into(),
            attempt: 3,
            labels: [("app".to_string(), "web".to_string())].into(),
            annotations: [("hash".to_string(), "abc".to_string())].into(),
            ..Default::default()
        };
        let identity = Identity::read(owner.container_labels("s-1", &config));
        let expected = Identity {
            kind: KIND_CONTAINER.into(),
            pod: config.pod.clone(),
            container: Some("nginx".into()),
            attempt: 3,
            sandbox_id: "s-1".into(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        };
        assert_eq!(identity, expected);
        assert_eq!(container_name(&config), "k8s_nginx_web_default_u-1_3");
    }
}
