//! Which claims a pod misses and must reserve, and what becomes of a claim.

use std::sync::Arc;

use coracle_client::{controlled_by, controller_of, controller_reference};
use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{
    ResourceClaim, ResourceClaimConsumerReference, ResourceClaimStatus, ResourceClaimTemplate,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use crate::pods;

/// Keeps an allocated claim until it is given back.
pub(super) const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Which of its pod's `resourceClaims` a claim was made for.
pub(super) const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
/// With a hyphen and five random characters behind it, a name of 63.
const BASE_MAX: usize = 57;

/// Which claim is one of a pod's.
enum Which<'a> {
    /// One that is yet to be made, of a template.
    Missing,
    /// None: it turned out not to be needed.
    Unneeded,
    Named(&'a str),
}

fn which<'a>(pod: &'a Pod, wanted: &'a PodResourceClaim) -> Which<'a> {
    if let Some(name) = &wanted.resource_claim_name {
        return Which::Named(name);
    }
    let mut statuses = pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
    match statuses.find(|status| status.name == wanted.name) {
        None => Which::Missing,
        Some(status) => status.resource_claim_name.as_deref().map_or(Which::Unneeded, Which::Named),
    }
}

fn wanted(pod: &Pod) -> impl Iterator<Item = &PodResourceClaim> {
    pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten())
}

/// The names of a pod's claims, and whether each is made for it alone.
pub(crate) fn claims_of(pod: &Pod) -> impl Iterator<Item = (&str, bool)> {
    wanted(pod).filter_map(|wanted| match which(pod, wanted) {
        Which::Named(name) => Some((name, wanted.resource_claim_template_name.is_some())),
        Which::Missing | Which::Unneeded => None,
    })
}

/// Whether a claim is what one of a pod's claims says: one made for a pod must be that pod's.
pub(crate) fn is_of(claim: &ResourceClaim, pod: &Pod, generated: bool) -> bool {
    !generated || controlled_by(&claim.metadata, pod.metadata.uid.as_deref().unwrap_or_default())
}

/// Whether the pod is among a claim's users.
pub(crate) fn is_reserved_for(claim: &ResourceClaim, pod: &Pod) -> bool {
    let mut users = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
    users.any(|user| pod.metadata.uid.as_deref() == Some(&user.uid))
}

/// Whether a pod's containers do not run and never will.
pub(super) fn is_done(pod: &Pod) -> bool {
    pods::is_finished(pod) || pods::is_terminating(pod) && pods::node_name(pod).is_empty()
}

/// Those of a pod's claims that are to be made of their templates; claims that are lost are made again.
pub(super) fn to_make(pod: &Pod, find: impl Fn(&str) -> Option<Arc<ResourceClaim>>) -> Vec<&PodResourceClaim> {
    let of_template = wanted(pod).filter(|wanted| wanted.resource_claim_template_name.is_some());
    let missing = |wanted: &&PodResourceClaim| match which(pod, wanted) {
        Which::Missing => true,
        Which::Unneeded => false,
        Which::Named(name) => find(name).is_none_or(|claim| !is_of(&claim, pod, true)),
    };
    of_template.filter(missing).collect()
}

/// The allocated claims that a bound pod has not reserved. (Schedulers do that; who sets `nodeName` by hand does not.)
pub(super) fn to_reserve(pod: &Pod, find: impl Fn(&str) -> Option<Arc<ResourceClaim>>) -> Vec<ResourceClaim> {
    if pods::node_name(pod).is_empty() || is_done(pod) {
        return Vec::new();
    }
    let claims = claims_of(pod).filter_map(|(name, generated)| Some((find(name)?, generated)));
    let allocated = |claim: &ResourceClaim| claim.status.as_ref().is_some_and(|status| status.allocation.is_some());
    let ours = claims.filter(|(claim, generated)| is_of(claim, pod, *generated) && allocated(claim));
    ours.filter(|(claim, _)| !is_reserved_for(claim, pod)).map(|(claim, _)| claim.as_ref().clone()).collect()
}

/// The claim that is made of a template for a pod.
pub(super) fn from_template(template: &ResourceClaimTemplate, pod: &Pod, wanted: &PodResourceClaim) -> ResourceClaim {
    let meta = template.spec.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM.into(), wanted.name.clone());
    ResourceClaim {
        metadata: ObjectMeta {
            generate_name: Some(base_name(&pod.name_any(), &wanted.name)),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(pod)]),
            ..Default::default()
        },
        spec: template.spec.spec.clone(),
        status: None,
    }
}

/// `pod-claim-`; where that is too long, both are shortened in proportion, so that something of each is left.
fn base_name(pod: &str, claim: &str) -> String {
    let whole = format!("{pod}-{claim}-");
    if whole.len() <= BASE_MAX {
        return whole;
    }
    let short = |name: &str| name[..name.len() * BASE_MAX / whole.len()].to_owned();
    format!("{}-{}", short(pod), short(claim))
}

/// What becomes of a claim.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ClaimPlan {
    /// What its status is to say, if not what it says.
    pub(super) status: Option<ResourceClaimStatus>,
    /// Its finalizer goes.
    pub(super) unprotect: bool,
    /// Nobody will need it again.
    pub(super) delete: bool,
}

/// `users` are those in `status.reservedFor` who may still run, `owner` the pod of the name of that for which the claim
/// was made. When its last user leaves, a claim is given back, so that the next may get it on another node; one that
/// nobody has used yet stays as it is.
pub(super) fn plan_claim(
    claim: &ResourceClaim,
    users: Vec<ResourceClaimConsumerReference>,
    owner: Option<&Pod>,
) -> ClaimPlan {
    let status = claim.status.clone().unwrap_or_default();
    let protected = claim.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER);
    let deleting = claim.metadata.deletion_timestamp.is_some();
    let left = users.len() < status.reserved_for.as_ref().map_or(0, Vec::len);
    let unused = users.is_empty();
    let give_back = protected && unused && (left || deleting);
    let of_this =
        |pod: &Pod| controller_of(&claim.metadata).is_some_and(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref());
    let mut plan = ClaimPlan {
        status: None,
        unprotect: give_back,
        delete: unused && !deleting && owner.is_some_and(|pod| !of_this(pod) || is_done(pod)),
    };
    if left || give_back && status.allocation.is_some() {
        let allocation = status.allocation.clone().filter(|_| !give_back);
        plan.status = Some(ResourceClaimStatus { allocation, reserved_for: Some(users), ..status });
    }
    plan
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use proptest::prelude::*;
    use serde_json::{Value, from_value, json};

    use super::*;
    use crate::fixed_point::rest;

    fn pod(node: &str, phase: &str, claim: Value, made: Value) -> Pod {
        from_value(json!({
            "metadata": { "name": "web", "uid": "p1" },
            "spec": { "containers": [], "nodeName": node, "resourceClaims": [claim] },
            "status": { "phase": phase, "resourceClaimStatuses": made },
        }))
        .unwrap()
    }

    /// A claim with its owner's uid, its users' uids, and whether it is allocated (and protected) and being deleted.
    fn claim(owner: &str, users: &[&str], allocated: bool, deleting: bool) -> ResourceClaim {
        let users: Vec<_> = users.iter().map(|uid| json!({ "resource": "pods", "name": "web", "uid": uid })).collect();
        let owner = json!({ "apiVersion": "v1", "kind": "Pod", "name": "web", "uid": owner, "controller": true });
        from_value(json!({
            "metadata": {
                "name": "web-gpu-x", "ownerReferences": [owner],
                "finalizers": if allocated { json!([FINALIZER]) } else { json!([]) },
                "deletionTimestamp": deleting.then_some("2026-01-01T00:00:00Z"),
            },
            "spec": {},
            "status": { "allocation": allocated.then(|| json!({})), "reservedFor": users },
        }))
        .unwrap()
    }

    #[test]
    fn a_claim_is_made_once_and_again_when_it_is_lost() {
        let of_template = json!({ "name": "gpu", "resourceClaimTemplateName": "t" });
        let made = json!([{ "name": "gpu", "resourceClaimName": "web-gpu-x" }]);
        for (wanted, made, there, missing) in [
            (&of_template, json!([]), None, true),
            (&of_template, made.clone(), Some("p1"), false),
            (&of_template, made.clone(), None, true),
            (&of_template, made, Some("another"), true),
            (&of_template, json!([{ "name": "gpu" }]), None, false),
            (&json!({ "name": "gpu", "resourceClaimName": "mine" }), json!([]), None, false),
        ] {
            let pod = pod("", "Pending", wanted.clone(), made);
            let find = |_: &str| there.map(|owner| Arc::new(claim(owner, &[], false, false)));
            assert_eq!(!to_make(&pod, find).is_empty(), missing, "{wanted} {there:?}");
        }
    }

    #[test]
    fn a_pod_that_was_bound_by_hand_reserves_what_is_allocated() {
        let wanted = json!({ "name": "gpu", "resourceClaimName": "mine" });
        for (node, phase, users, allocated, reserves) in [
            ("n", "Pending", &[][..], true, true),
            ("n", "Pending", &["p1"][..], true, false),
            ("n", "Pending", &["p2"][..], true, true),
            ("n", "Pending", &[][..], false, false),
            ("", "Pending", &[][..], true, false),
            ("n", "Succeeded", &[][..], true, false),
        ] {
            let pod = pod(node, phase, wanted.clone(), json!([]));
            let find = |_: &str| Some(Arc::new(claim("", users, allocated, false)));
            assert_eq!(to_reserve(&pod, find).len(), usize::from(reserves), "{node} {phase} {users:?} {allocated}");
        }
    }

    #[test]
    fn a_claim_is_given_back_when_its_last_user_leaves_and_goes_with_its_pod() {
        let owner = |phase: &str| pod("n", phase, json!({ "name": "gpu" }), json!([]));
        for (claim, users, phase, given_back, unprotect, delete) in [
            (claim("p1", &["p1"], true, false), 1, "Running", None, false, false),
            (claim("p1", &["p1"], true, false), 0, "Succeeded", Some(true), true, true),
            (claim("p1", &["p1", "p2"], true, false), 1, "Running", Some(false), false, false),
            (claim("p1", &[], true, false), 0, "Running", None, false, false),
            (claim("p1", &[], true, true), 0, "Running", Some(true), true, false),
            (claim("p1", &["p1"], true, true), 1, "Running", None, false, false),
            (claim("p1", &[], false, false), 0, "Failed", None, false, true),
            (claim("p0", &[], false, false), 0, "Running", None, false, true),
        ] {
            let all = claim.status.clone().unwrap().reserved_for.unwrap_or_default();
            let plan = plan_claim(&claim, all[..users].to_vec(), Some(&owner(phase)));
            let released = plan.status.map(|status| (status.allocation.is_none(), status.reserved_for.unwrap().len()));
            assert_eq!(released, given_back.map(|given_back| (given_back, users)), "{claim:?}");
            assert_eq!((plan.unprotect, plan.delete), (unprotect, delete), "{claim:?}");
        }
        assert!(!plan_claim(&claim("p1", &[], false, false), vec![], None).delete, "the garbage collector will see");
    }

    #[test]
    fn a_claim_is_named_after_its_pod_and_what_it_is_for() {
        assert_eq!(base_name("web", "gpu"), "web-gpu-");
        let long = base_name(&"p".repeat(60), &"c".repeat(30));
        assert_eq!((long.len(), long.matches('p').count(), long.matches('c').count()), (56, 37, 18));
    }

    proptest! {
        /// Pods of any state with any claims: what a claim's users are, who made it, and whether it is allocated.
        #[test]
        fn from_any_state_pods_and_claims_come_to_rest(
            pods in proptest::collection::btree_map(0..3u8, ("n|", "Pending|Running|Succeeded", any::<bool>()), 0..4),
            claims in proptest::collection::btree_map(0..3u8, (proptest::option::of(0..4u8), proptest::collection::btree_set(0..4u8, 0..3), any::<bool>(), any::<bool>()), 0..4),
        ) {
            let uid = |number: u8| format!("p{number}");
            let pods: Vec<Pod> = pods.iter().map(|(number, (node, phase, deleting))| {
                let wanted = json!({ "name": "gpu", "resourceClaimName": format!("c{number}") });
                let mut pod = pod(node, phase, wanted, json!([]));
                (pod.metadata.name, pod.metadata.uid) = (Some(uid(*number)), Some(uid(*number)));
                pod.metadata.deletion_timestamp = deleting.then(|| Time("2026-01-01T00:00:00Z".parse().unwrap()));
                pod
            }).collect();
            let of_uid = |uid: &str| pods.iter().find(|pod| pod.metadata.uid.as_deref() == Some(uid));
            let claims: BTreeMap<String, ResourceClaim> = claims.iter().map(|(number, (owner, users, allocated, deleting))| {
                let users: Vec<_> = users.iter().map(|number| uid(*number)).collect();
                let mut made = claim(&owner.map(uid).unwrap_or_default(), &users.iter().map(String::as_str).collect::<Vec<_>>(), *allocated, *deleting && *allocated);
                made.metadata.name = Some(format!("c{number}"));
                made.metadata.owner_references = made.metadata.owner_references.filter(|_| owner.is_some());
                (format!("c{number}"), made)
            }).collect();
            let claims = rest(claims, |claims| {
                let mut claims = claims.clone();
                for pod in &pods {
                    for mut claim in to_reserve(pod, |name| claims.get(name).cloned().map(Arc::new)) {
                        let status = claim.status.get_or_insert_default();
                        status.reserved_for.get_or_insert_default().push(ResourceClaimConsumerReference {
                            resource: "pods".into(), name: pod.name_any(), uid: pod.uid().unwrap(), api_group: None,
                        });
                        claims.insert(claim.name_any(), claim);
                    }
                }
                let look = |(name, mut claim): (String, ResourceClaim)| {
                    let users = claim.status.clone().unwrap().reserved_for.unwrap_or_default();
                    let needs = |user: &ResourceClaimConsumerReference| of_uid(&user.uid).is_some_and(|pod| !is_done(pod));
                    let owner = controller_of(&claim.metadata).and_then(|owner| of_uid(&owner.uid));
                    let plan = plan_claim(&claim, users.into_iter().filter(needs).collect(), owner);
                    claim.status = plan.status.or(claim.status);
                    if plan.unprotect {
                        claim.finalizers_mut().retain(|finalizer| finalizer != FINALIZER);
                    }
                    if plan.delete {
                        claim.metadata.deletion_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
                    }
                    let gone = claim.metadata.deletion_timestamp.is_some() && claim.finalizers().is_empty();
                    (!gone).then_some((name, claim))
                };
                claims.into_iter().filter_map(look).collect()
            });
            for claim in claims.values() {
                let status = claim.status.clone().unwrap();
                let users = status.reserved_for.unwrap_or_default();
                prop_assert!(users.iter().all(|user| of_uid(&user.uid).is_some_and(|pod| !is_done(pod))), "{claim:?}");
                prop_assert!(claim.metadata.deletion_timestamp.is_none() || !users.is_empty(), "nobody holds {claim:?}");
                let owner = controller_of(&claim.metadata).and_then(|owner| of_uid(&owner.uid));
                prop_assert!(!owner.is_some_and(is_done) || !users.is_empty(), "outlives its pod: {claim:?}");
            }
        }
    }
}
