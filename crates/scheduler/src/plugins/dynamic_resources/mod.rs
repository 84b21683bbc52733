//! DynamicResources: a pod's ResourceClaims must be allocated, or allocatable where the pod goes.
//!
//! The plugin is the allocator of structured parameters: it looks at the devices that drivers publish in
//! ResourceSlices, less those that other claims have, and finds for each node devices for all that the pod's claims
//! ask for ([`allocator`]). What it finds on the chosen node is reserved at once and written into the claims' status
//! before the pod is bound ([`write`]). A claim that nobody uses, but which keeps the pod from every node, loses what
//! it has.

mod allocator;
mod capacity;
mod extended;
mod write;

use std::collections::BTreeSet;
use std::sync::Arc;

use coracle_client::scheduling::selector_matches;
use coracle_client::{ObjectKey, controlled_by};
use k8s_openapi::api::core::v1::NodeSelector;
use k8s_openapi::api::resource::v1::{
    AllocationResult, DeviceRequestAllocationResult, ResourceClaim, ResourceClaimConsumerReference, ResourceClaimStatus,
};

use crate::framework::{
    Assumption, ClusterEvent, Declined, Filter, Happening, Object, Placement, Plugin, Point, PostFilter, PreFilter,
    Prepared, Refusal, Unfit, Work,
};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;
use allocator::Allocator;
use extended::Extended;
pub(super) use extended::class_of;
pub(crate) use extended::is_for_extended;

const NOT_HERE: &str = "resourceclaim not available on the node";
const IN_USE: &str = "resourceclaim in use";
const CANNOT_ALLOCATE: &str = "cannot allocate all claims";
const NO_CLAIMS: &str = "no new claims to deallocate";
const STILL_NOT: &str = "still not schedulable";
const GIVEN_BACK: &str = "deallocation of ResourceClaim completed";
const DELETED: &str = "deletion of ResourceClaim completed";
const LEFT_OVER: &str = "cannot schedule extended resource claim";
/// Keeps an allocated claim until it is given back.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// So many pods share a claim at most.
const MAX_USERS: usize = 256;
/// So long drivers may take to make devices ready.
const BINDING_TIMEOUT_SECONDS: i64 = 600;

#[derive(Debug)]
pub(super) struct DynamicResources;

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreEnqueue, Point::PreFilter, Point::Filter, Point::PostFilter, Point::Reserve, Point::PreBind]
    }

    fn events(&self) -> &'static [ClusterEvent] {
        use ClusterEvent::*;
        &[
            NodeAdd,
            ResourceClaimAdd,
            ResourceClaimUpdate,
            ResourceClaimDelete,
            ResourceSliceAdd,
            ResourceSliceUpdate,
            DeviceClassAdd,
            DeviceClassUpdate,
            PodGeneratedResourceClaimChange,
        ]
    }

    /// A claim helps that is the pod's own, and any that gives back what it had.
    fn hint(&self, pod: &PodInfo, happened: &Happening) -> bool {
        match &happened.object {
            Object::ResourceClaim(old, new) => {
                let has = |claim: &Option<Arc<ResourceClaim>>| claim.as_ref().is_some_and(|claim| is_allocated(claim));
                let own = |claim: &Arc<ResourceClaim>| {
                    claim.metadata.namespace.as_ref() == Some(&pod.key.namespace)
                        && claim.metadata.name.as_deref().is_some_and(|name| uses(pod, name))
                };
                let changed = || match (old, new) {
                    (Some(old), Some(new)) => old.status != new.status,
                    _ => old.is_none(),
                };
                has(old) && !has(new) || new.as_ref().is_some_and(own) && changed()
            }
            _ => true,
        }
    }

    fn pre_enqueue(&self, pod: &PodInfo, snapshot: &Snapshot) -> Result<(), Refusal> {
        usable(pod, snapshot).map(drop)
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> PreFilter<'a> {
        match Wanted::of(pod, snapshot)? {
            Some(wanted) => Prepared::filter(wanted),
            None => Prepared::none(),
        }
    }

    fn post_filter(&self, unfit: &Unfit<'_>) -> PostFilter {
        let decline = |message: &str, give_back| Err(Declined { message: message.into(), gives_up: false, give_back });
        let wanted = match unfit.error.before_nodes {
            Some(_) => None,
            None => Wanted::of(unfit.pod, unfit.snapshot).ok().flatten(),
        };
        let Some(wanted) = wanted else { return decline(NO_CLAIMS, None) };
        let ours = unfit.error.refused.iter().filter(|(_, refused)| refused.plugin == self.name());
        let nodes: Vec<_> = ours.map(|(turn, _)| unfit.snapshot.nth(*turn)).collect();
        let in_the_way = |claim: &&Arc<ResourceClaim>| nodes.iter().any(|node| is_unavailable(claim, node));
        let idle = |claim: &&Arc<ResourceClaim>| users(claim).all(|user| user.uid == unfit.pod.uid());
        match (wanted.claims.iter().find(|claim| in_the_way(claim) && idle(claim)), wanted.left_over) {
            (Some(claim), _) => decline(GIVEN_BACK, Some(claim.clone())),
            (None, Some(claim)) => decline(DELETED, Some(claim.clone())),
            (None, None) => decline(STILL_NOT, None),
        }
    }

    fn reserve(&self, pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> Result<Vec<Assumption>, Refusal> {
        let Some(wanted) = Wanted::of(pod, snapshot)? else { return Ok(Vec::new()) };
        let mut allocations = wanted.allocate(node)?.into_iter();
        let mut reserved = Vec::new();
        for claim in wanted.claims.iter() {
            let mut claim = claim.as_ref().clone();
            if is_allocated(&claim) && is_user(&claim, pod) && readiness(&claim) == Ok(true) {
                continue;
            }
            if !is_allocated(&claim) {
                claim.status.get_or_insert_default().allocation = allocations.next();
                let finalizers = claim.metadata.finalizers.get_or_insert_default();
                if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
                    finalizers.push(FINALIZER.into());
                }
            }
            reserved.push(claim);
        }
        // What the node does not offer by itself.
        let made = wanted.extended.as_ref().and_then(|extended| extended.claim_on(node));
        reserved.extend(made.map(|claim| ResourceClaim {
            status: Some(ResourceClaimStatus { allocation: allocations.next(), ..Default::default() }),
            ..claim
        }));
        let with_user = |mut claim: ResourceClaim| {
            if !is_user(&claim, pod) {
                let users = claim.status.get_or_insert_default().reserved_for.get_or_insert_default();
                users.push(user(pod));
            }
            Assumption::ResourceClaim(Arc::new(claim))
        };
        Ok(reserved.into_iter().map(with_user).collect())
    }

    fn pre_bind(&self, placement: &Placement) -> Option<Work<anyhow::Result<Vec<Arc<ResourceClaim>>>>> {
        let claims = placement.assumed.iter().filter_map(|assumed| match assumed {
            Assumption::ResourceClaim(claim) => Some(claim.clone()),
            _ => None,
        });
        let claims: Vec<_> = claims.collect();
        let placement = placement.clone();
        (!claims.is_empty()).then(|| -> Work<_> { Box::pin(write::write(placement, claims)) })
    }
}

fn user(pod: &PodInfo) -> ResourceClaimConsumerReference {
    ResourceClaimConsumerReference {
        api_group: None,
        resource: "pods".into(),
        name: pod.key.name.clone(),
        uid: pod.uid().to_owned(),
    }
}

fn users(claim: &ResourceClaim) -> impl Iterator<Item = &ResourceClaimConsumerReference> {
    claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten())
}

fn is_user(claim: &ResourceClaim, pod: &PodInfo) -> bool {
    users(claim).any(|user| user.uid == pod.uid())
}

fn allocation(claim: &ResourceClaim) -> Option<&AllocationResult> {
    claim.status.as_ref()?.allocation.as_ref()
}

fn is_allocated(claim: &ResourceClaim) -> bool {
    allocation(claim).is_some()
}

/// Whether drivers have made ready what is allocated, as far as its devices say that this takes them time; or why
/// they never will.
fn readiness(claim: &ResourceClaim) -> Result<bool, String> {
    let results = allocation(claim).and_then(|allocation| allocation.devices.as_ref()?.results.as_ref());
    let mut ready = true;
    for result in results.into_iter().flatten().filter(|result| waits(result)) {
        let mut devices = claim.status.iter().flat_map(|status| status.devices.iter().flatten());
        let device = devices.find(|device| {
            (&device.driver, &device.pool, &device.device) == (&result.driver, &result.pool, &result.device)
        });
        let is = |name: &String| {
            let mut conditions = device.iter().flat_map(|device| device.conditions.iter().flatten());
            conditions.find(|condition| condition.type_ == *name && condition.status == "True")
        };
        if let Some(failed) = result.binding_failure_conditions.iter().flatten().find_map(is) {
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            let (reason, message) = (&failed.reason, &failed.message);
            return Err(format!("claim {name} binding failed: reason={reason}, message={message:?}"));
        }
        ready &= result.binding_conditions.iter().flatten().all(|name| is(name).is_some());
    }
    Ok(ready)
}

fn waits(result: &DeviceRequestAllocationResult) -> bool {
    result.binding_conditions.as_ref().is_some_and(|conditions| !conditions.is_empty())
}

/// Whether drivers have had their time.
fn is_overdue(claim: &ResourceClaim) -> bool {
    let since = allocation(claim).and_then(|allocation| allocation.allocation_timestamp.as_ref());
    since.is_some_and(|since| coracle_clock::now().duration_since(since.0).as_secs() > BINDING_TIMEOUT_SECONDS)
}

/// Whether a claim has got devices that cannot be used on the node, or never will be.
fn is_unavailable(claim: &ResourceClaim, node: &NodeInfo) -> bool {
    let Some(allocation) = allocation(claim) else { return false };
    let there = |selector: &NodeSelector| selector_matches(selector, &node.node);
    let broken = || readiness(claim).map_or(true, |ready| !ready && is_overdue(claim));
    !allocation.node_selector.as_ref().is_none_or(there) || broken()
}

/// The pod's claims, and what is to be allocated for them.
struct Wanted<'a> {
    claims: Vec<Arc<ResourceClaim>>,
    /// What it asks for as extended resources.
    extended: Option<Arc<Extended>>,
    /// The claim for those that an earlier attempt made in vain.
    left_over: Option<&'a Arc<ResourceClaim>>,
    /// None if all are allocated.
    allocator: Option<Allocator<'a>>,
}

impl<'a> Wanted<'a> {
    /// None if the pod has no claims, and asks for nothing that needs one.
    fn of(pod: &'a PodInfo, snapshot: &'a Snapshot) -> Result<Option<Self>, Refusal> {
        let (claims, extended) = (usable(pod, snapshot)?, Extended::of(pod, snapshot).map(Arc::new));
        if claims.is_empty() && extended.is_none() {
            return Ok(None);
        }
        let refuse = |why: String| Err(Refusal::unresolvable(why));
        for claim in &claims {
            let key = ObjectKey::of(claim.as_ref());
            if is_allocated(claim) && !is_user(claim, pod) && users(claim).count() >= MAX_USERS {
                return Err(Refusal::unresolvable(IN_USE));
            }
            if snapshot.resource_claims.in_flight(&key).is_some_and(|shown| !is_allocated(shown)) {
                return refuse(format!("resource claim {key} is in the process of being allocated"));
            }
        }
        let mut open: Vec<_> = claims.iter().filter(|claim| !is_allocated(claim)).cloned().collect();
        open.extend(extended.iter().map(|extended| Arc::new(extended.claim.clone())));
        let left_over = extended.as_ref().and_then(|_| {
            let mut all = snapshot.resource_claims.of_namespace(&pod.key.namespace);
            all.find(|claim| is_for_extended(claim) && controlled_by(&claim.metadata, pod.uid()))
        });
        let allocator = match open.is_empty() {
            true => None,
            false => Some(Allocator::new(open, extended.clone(), snapshot).map_err(Refusal::unresolvable)?),
        };
        Ok(Some(Wanted { claims, extended, left_over, allocator }))
    }

    /// What to allocate on a node: for the claims that are open, in order, and last for extended resources.
    fn allocate(&self, node: &NodeInfo) -> Result<Vec<AllocationResult>, Refusal> {
        if self.left_over.is_some() {
            return Err(Refusal::unresolvable(LEFT_OVER));
        }
        let allocations = match &self.allocator {
            None => Vec::new(),
            Some(allocator) => allocator.allocate(node).ok_or_else(|| Refusal::unresolvable(CANNOT_ALLOCATE))?,
        };
        match self.claims.iter().any(|claim| is_unavailable(claim, node)) {
            true => Err(Refusal::unresolvable(NOT_HERE)),
            false => Ok(allocations),
        }
    }
}

impl Filter for Wanted<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        self.allocate(node).map(drop)
    }
}

/// Whether one of the pod's claims has that name.
fn uses(pod: &PodInfo, name: &str) -> bool {
    let mut named =
        pod.spec().resource_claims.iter().flatten().filter_map(|claim| claim.resource_claim_name.as_deref());
    let mut made = pod.pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
    named.any(|own| own == name) || made.any(|own| own.resource_claim_name.as_deref() == Some(name))
}

/// The names of the pod's claims, and whether each was made for it of a template.
fn names(pod: &PodInfo) -> Result<BTreeSet<(String, bool)>, Refusal> {
    let mut names = BTreeSet::new();
    for wanted in pod.spec().resource_claims.iter().flatten() {
        if let Some(name) = &wanted.resource_claim_name {
            names.insert((name.clone(), false));
            continue;
        }
        let mut statuses = pod.pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
        match statuses.find(|status| status.name == wanted.name) {
            // One that turned out not to be needed has no name.
            Some(status) => names.extend(status.resource_claim_name.clone().map(|name| (name, true))),
            None => {
                let key = &pod.key;
                return Err(Refusal::unresolvable(format!("pod {:?}: ResourceClaim not created yet", key.to_string())));
            }
        }
    }
    Ok(names)
}

/// The pod's claims, all of which are there and its to use.
fn usable(pod: &PodInfo, snapshot: &Snapshot) -> Result<Vec<Arc<ResourceClaim>>, Refusal> {
    let claims = names(pod)?.into_iter().map(|(name, generated)| {
        let key = ObjectKey::new(&pod.key.namespace, &name);
        let refuse = |why: String| Err(Refusal::unresolvable(why));
        let Some(claim) = snapshot.resource_claims.get(&key) else {
            return refuse(format!("resourceclaim.resource.k8s.io {name:?} not found"));
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return refuse(format!("resourceclaim {name:?} is being deleted"));
        }
        if generated && !controlled_by(&claim.metadata, pod.uid()) {
            return refuse(format!("ResourceClaim {key} was not created for pod {} (pod is not owner)", pod.key));
        }
        Ok(claim.clone())
    });
    claims.collect()
}

#[cfg(test)]
mod tests;
