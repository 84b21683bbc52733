//! Who a StatefulSet's pods are: names, network identity, and the claims that belong to an ordinal.

use coracle_client::controller_reference;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};

use crate::history::REVISION_LABEL;
use crate::pods;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The spec; the API server lets no StatefulSet be without.
pub(super) fn spec(set: &StatefulSet) -> StatefulSetSpec {
    set.spec.clone().unwrap_or_default()
}

/// The ordinal in the name of one of the set's pods; none for other pods. Wider than its start and its number of
/// replicas are, so that counting cannot overflow.
pub(super) fn ordinal_of(set: &StatefulSet, pod: &Pod) -> Option<i64> {
    let (parent, ordinal) = pod.metadata.name.as_deref()?.rsplit_once('-')?;
    let digits = ordinal.bytes().all(|byte| byte.is_ascii_digit());
    if digits && Some(parent) == set.metadata.name.as_deref() { ordinal.parse().ok() } else { None }
}

/// The pod's revision, by name.
pub(super) fn revision_of(pod: &Pod) -> &str {
    pod.labels().get(REVISION_LABEL).map(String::as_str).unwrap_or_default()
}

/// The pod of an ordinal, at a revision.
pub(super) fn new_pod(set: &StatefulSet, ordinal: i64, revision: &str, template: &PodTemplateSpec) -> Pod {
    let mut pod = pods::from_template(template, "", controller_reference(set));
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(format!("{}-{ordinal}", set.name_any()));
    pod.labels_mut().insert(REVISION_LABEL.into(), revision.into());
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.hostname.clone_from(&pod.metadata.name);
    pod_spec.subdomain = spec(set).service_name;
    identify(set, ordinal, &mut pod);
    pod
}

/// Gives a pod the labels and volumes of its ordinal, which an adopted one may lack.
pub(super) fn identify(set: &StatefulSet, ordinal: i64, pod: &mut Pod) {
    let name = pod.name_any();
    pod.labels_mut().insert(POD_NAME.into(), name);
    pod.labels_mut().insert(POD_INDEX.into(), ordinal.to_string());
    let templates = spec(set).volume_claim_templates.unwrap_or_default();
    let pod_spec = pod.spec.get_or_insert_default();
    for template in &templates {
        let source =
            PersistentVolumeClaimVolumeSource { claim_name: claim_name(set, template, ordinal), read_only: None };
        let volumes = pod_spec.volumes.get_or_insert_default();
        let claimed = |volume: &Volume| {
            let claim = volume.persistent_volume_claim.as_ref();
            claim.is_some_and(|claim| claim.claim_name == source.claim_name)
        };
        match volumes.iter().position(|volume| volume.name == template.name_any()) {
            Some(index) if claimed(&volumes[index]) => continue,
            Some(index) => drop(volumes.remove(index)),
            None => {}
        }
        let name = template.name_any();
        volumes.push(Volume { name, persistent_volume_claim: Some(source), ..Default::default() });
    }
}

/// What a template's claim for an ordinal is called.
pub(super) fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i64) -> String {
    format!("{}-{}-{ordinal}", template.name_any(), set.name_any())
}

/// The claim of a template for an ordinal.
pub(super) fn new_claim(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i64) -> PersistentVolumeClaim {
    let mut labels = template.labels().clone();
    labels.extend(spec(set).selector.match_labels.unwrap_or_default());
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(claim_name(set, template, ordinal)),
            labels: (!labels.is_empty()).then_some(labels),
            annotations: template.metadata.annotations.clone(),
            finalizers: template.metadata.finalizers.clone(),
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Whether the retention policy deletes claims when the set is deleted, and when it is scaled down.
pub(super) fn deletes_claims(set: &StatefulSet) -> (bool, bool) {
    let policy = spec(set).persistent_volume_claim_retention_policy.unwrap_or_default();
    (policy.when_deleted.as_deref() == Some("Delete"), policy.when_scaled.as_deref() == Some("Delete"))
}

fn names<K: Resource<DynamicType = ()>>(owner: &OwnerReference, object: &K) -> bool {
    owner.api_version == K::api_version(&()) && owner.kind == K::kind(&()) && owner.name == object.name_any()
}

/// Whether the claim belongs to a former pod of this name, with which it is going to be deleted.
pub(super) fn is_of_former_pod(claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    claim.owner_references().iter().any(|owner| names(owner, pod) && Some(&owner.uid) != pod.metadata.uid.as_ref())
}

/// The owners that the retention policy wants a claim to have: the set, that it goes when the set does, or the pod if
/// it is `condemned` by scaling down. A claim that another controller or a namesake owns is left to that one.
pub(super) fn claim_owners(
    set: &StatefulSet,
    claim: &PersistentVolumeClaim,
    pod: &Pod,
    condemned: bool,
) -> Vec<OwnerReference> {
    let ours = |owner: &OwnerReference| names(owner, set) || names(owner, pod);
    let uids = [set.metadata.uid.as_ref(), pod.metadata.uid.as_ref()];
    let foreign = claim.owner_references().iter().any(|owner| match ours(owner) {
        true => !uids.contains(&Some(&owner.uid)),
        false => owner.controller == Some(true),
    });
    let mut owners: Vec<_> = claim.owner_references().iter().filter(|owner| !ours(owner)).cloned().collect();
    let (when_deleted, when_scaled) = deletes_claims(set);
    if foreign && (when_deleted || when_scaled) {
        return owners;
    }
    if when_scaled && condemned {
        owners.push(controller_reference(pod));
    } else if when_deleted {
        owners.push(controller_reference(set));
    }
    owners
}
