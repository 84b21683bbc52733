//! Revisions: which ReplicaSet is the new one, what it is called, and the annotations that carry history.
//!
//! Each ReplicaSet of a Deployment is one revision of its template. `kubectl rollout history` and `undo` read
//! the annotation `deployment.kubernetes.io/revision`; a template that comes back makes its old ReplicaSet the
//! newest revision again.

use std::collections::BTreeMap;

use coracle_client::controller_reference;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::sizes;
use crate::hash::content_hash;

/// The label that tells a Deployment's ReplicaSets, and their pods, apart.
pub(super) const HASH_LABEL: &str = "pod-template-hash";
/// The revision's number.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// `spec.replicas` of the Deployment when the ReplicaSet was last sized; a difference means "scaled since".
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// The most pods the Deployment might have had then.
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations that stay with the Deployment.
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];
/// The longest revision history kept, in characters.
const HISTORY_MAX: usize = 2000;

/// The revision an object carries; 0 when none.
pub(super) fn revision_of(annotations: &BTreeMap<String, String>) -> i64 {
    annotations.get(REVISION).and_then(|revision| revision.parse().ok()).unwrap_or_default()
}

/// The ReplicaSet whose template is the Deployment's, the oldest of several.
pub(super) fn find_new(deployment: &Deployment, replica_sets: &[ReplicaSet]) -> Option<usize> {
    let wanted = &deployment.spec.as_ref()?.template;
    let same = |replica_set: &ReplicaSet| {
        let template = replica_set.spec.as_ref().and_then(|spec| spec.template.as_ref());
        template.is_some_and(|template| equal_ignoring_hash(template, wanted))
    };
    let candidates = replica_sets.iter().enumerate().filter(|(_, replica_set)| same(replica_set));
    candidates.min_by_key(|(_, rs)| (rs.creation_timestamp(), rs.name_any())).map(|(index, _)| index)
}

/// Whether two templates are the same but for the hash label.
pub(super) fn equal_ignoring_hash(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let strip = |template: &PodTemplateSpec| {
        let mut meta = template.metadata.clone().unwrap_or_default();
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH_LABEL);
        }
        meta.labels = meta.labels.filter(|labels| !labels.is_empty());
        meta.annotations = meta.annotations.filter(|annotations| !annotations.is_empty());
        meta
    };
    a.spec == b.spec && strip(a) == strip(b)
}

/// The ReplicaSet for the Deployment's present template, without replicas yet.
pub(super) fn new_replica_set(deployment: &Deployment, revision: i64) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = content_hash(&spec.template, collisions);
    let mut template = spec.template;
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.into(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
    let mut replica_set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.namespace(),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference(deployment)]),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    annotate_new(&mut replica_set, deployment, revision);
    annotate_size(&mut replica_set, deployment);
    replica_set
}

/// Gives the new ReplicaSet the Deployment's annotations and at least this revision; whether that changed it.
pub(super) fn annotate_new(replica_set: &mut ReplicaSet, deployment: &Deployment, revision: i64) -> bool {
    let annotations = replica_set.annotations_mut();
    let mut changed = false;
    for (key, value) in deployment.annotations() {
        if !NOT_COPIED.contains(&key.as_str()) && annotations.get(key) != Some(value) {
            annotations.insert(key.clone(), value.clone());
            changed = true;
        }
    }
    let old = revision_of(annotations);
    if old >= revision {
        return changed;
    }
    if old > 0 {
        let mut history: Vec<_> = annotations
            .get(REVISION_HISTORY)
            .map_or(Vec::new(), |h| h.split(',').filter(|entry| !entry.is_empty()).map(ToOwned::to_owned).collect());
        history.push(old.to_string());
        while history.join(",").len() > HISTORY_MAX {
            history.remove(0);
        }
        annotations.insert(REVISION_HISTORY.into(), history.join(","));
    }
    annotations.insert(REVISION.into(), revision.to_string());
    true
}

/// Notes the size the Deployment has now; whether that changed the annotations.
pub(super) fn annotate_size(replica_set: &mut ReplicaSet, deployment: &Deployment) -> bool {
    let desired = sizes::replicas(deployment);
    let most = desired.saturating_add(sizes::max_surge(deployment));
    let annotations = replica_set.annotations_mut();
    let mut changed = false;
    for (key, value) in [(DESIRED_REPLICAS, desired), (MAX_REPLICAS, most)] {
        changed |= annotations.insert(key.into(), value.to_string()) != Some(value.to_string());
    }
    changed
}

/// A number noted by [`annotate_size`].
pub(super) fn noted(replica_set: &ReplicaSet, annotation: &str) -> Option<i32> {
    replica_set.annotations().get(annotation)?.parse().ok()
}
