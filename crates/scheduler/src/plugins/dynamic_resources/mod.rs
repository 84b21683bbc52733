//! DynamicResources: a pod's ResourceClaims must be allocated, or allocatable where the pod goes.
//!
//! The plugin is the allocator of structured parameters: it looks at the devices that drivers publish in
//! ResourceSlices, less those that other claims have, and finds for each node devices for all that the pod's claims
//! ask for ([`allocator`]). What it finds on the chosen node is reserved at once and written into the claims' status
//! before the pod is bound.

mod allocator;

use std::collections::BTreeSet;
use std::sync::Arc;

use coracle_client::scheduling::selector_matches;
use coracle_client::{ObjectKey, controlled_by};
use k8s_openapi::api::core::v1::NodeSelector;
use k8s_openapi::api::resource::v1::{AllocationResult, ResourceClaim, ResourceClaimConsumerReference};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::framework::{
    Assumption, ClusterEvent, Declined, Filter, Happening, Placement, Plugin, Point, PostFilter, PreFilter, Prepared,
    Refusal, Unfit, Work,
};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

const NOT_HERE: &str = "resourceclaim not available on the node";
const IN_USE: &str = "resourceclaim in use";
const CANNOT_ALLOCATE: &str = "cannot allocate all claims";
const NO_CLAIMS: &str = "no new claims to deallocate";
const STILL_NOT: &str = "still not schedulable";
/// Keeps an allocated claim until it is given back.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// So many pods share a claim at most.
const MAX_USERS: usize = 256;

#[derive(Debug)]
pub(super) struct DynamicResources;

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PostFilter, Point::Reserve, Point::PreBind]
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

    /// Of pods without claims nothing is refused here.
    fn hint(&self, pod: &PodInfo, _: &Happening) -> bool {
        has_claims(pod)
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> PreFilter<'a> {
        match Wanted::of(pod, snapshot)? {
            Some(wanted) => Prepared::filter(wanted),
            None => Prepared::none(),
        }
    }

    fn post_filter(&self, unfit: &Unfit<'_>) -> PostFilter {
        let message = if has_claims(unfit.pod) { STILL_NOT } else { NO_CLAIMS };
        Err(Declined { message: message.into(), gives_up: false })
    }

    fn reserve(&self, pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> Result<Vec<Assumption>, Refusal> {
        let Some(wanted) = Wanted::of(pod, snapshot)? else { return Ok(Vec::new()) };
        let allocations = wanted.allocate(node)?;
        let mut open = allocations.into_iter();
        let reserved = wanted.claims.iter().filter_map(|claim| {
            let mut claim = claim.as_ref().clone();
            let status = claim.status.get_or_insert_default();
            if status.allocation.is_none() {
                status.allocation = open.next();
                let finalizers = claim.metadata.finalizers.get_or_insert_default();
                if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
                    finalizers.push(FINALIZER.into());
                }
            } else if is_user(&claim, pod) {
                return None;
            }
            let status = claim.status.get_or_insert_default();
            status.reserved_for.get_or_insert_default().push(ResourceClaimConsumerReference {
                api_group: None,
                resource: "pods".into(),
                name: pod.key.name.clone(),
                uid: pod.uid().to_owned(),
            });
            Some(Assumption::ResourceClaim(Arc::new(claim)))
        });
        Ok(reserved.collect())
    }

    fn pre_bind(&self, placement: &Placement) -> Option<Work<anyhow::Result<()>>> {
        let claims = placement.assumed.iter().filter_map(|assumed| match assumed {
            Assumption::ResourceClaim(claim) => Some(claim.clone()),
            _ => None,
        });
        let claims: Vec<_> = claims.collect();
        let client = placement.client.clone();
        (!claims.is_empty()).then(|| -> Work<_> { Box::pin(write(client, claims)) })
    }
}

/// First the finalizer, then what is allocated: so an allocated claim cannot go unseen.
async fn write(client: Client, claims: Vec<Arc<ResourceClaim>>) -> anyhow::Result<()> {
    for claim in claims {
        let key = ObjectKey::of(claim.as_ref());
        let api: Api<ResourceClaim> = Api::namespaced(client.clone(), &key.namespace);
        // Refused if somebody else wrote meanwhile: then the pod is looked at again.
        let written = api.replace(&key.name, &PostParams::default(), &claim).await?;
        let mut claim = claim.as_ref().clone();
        claim.metadata.resource_version = written.metadata.resource_version;
        api.replace_status(&key.name, &PostParams::default(), &claim).await?;
    }
    Ok(())
}

fn has_claims(pod: &PodInfo) -> bool {
    pod.spec().resource_claims.as_ref().is_some_and(|claims| !claims.is_empty())
}

fn is_user(claim: &ResourceClaim, pod: &PodInfo) -> bool {
    let users = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
    users.into_iter().any(|user| user.uid == pod.uid())
}

/// The pod's claims, and what is to be allocated for them.
struct Wanted<'a> {
    claims: Vec<&'a Arc<ResourceClaim>>,
    /// Where claims that are allocated can be used.
    nodes: Vec<&'a NodeSelector>,
    /// None if all are allocated.
    allocator: Option<allocator::Allocator<'a>>,
}

impl<'a> Wanted<'a> {
    /// None if the pod has no claims.
    fn of(pod: &PodInfo, snapshot: &'a Snapshot) -> Result<Option<Self>, Refusal> {
        if !has_claims(pod) {
            return Ok(None);
        }
        let (mut claims, mut nodes, mut open) = (Vec::new(), Vec::new(), Vec::new());
        for (name, generated) in names(pod)? {
            let key = ObjectKey::new(&pod.key.namespace, &name);
            let claim = snapshot.resource_claims.get(&key);
            let refuse = |why: String| Err(Refusal::unresolvable(why));
            let Some(claim) = claim else { return refuse(format!("resourceclaim.resource.k8s.io {name:?} not found")) };
            if claim.metadata.deletion_timestamp.is_some() {
                return refuse(format!("resourceclaim {name:?} is being deleted"));
            }
            if generated && !controlled_by(&claim.metadata, pod.uid()) {
                return refuse(format!("ResourceClaim {key} was not created for pod {} (pod is not owner)", pod.key));
            }
            match claim.status.as_ref().and_then(|status| status.allocation.as_ref()) {
                Some(allocation) => {
                    let users =
                        claim.status.as_ref().and_then(|status| status.reserved_for.as_ref()).map_or(0, Vec::len);
                    if !is_user(claim, pod) && users >= MAX_USERS {
                        return Err(Refusal::unresolvable(IN_USE));
                    }
                    nodes.extend(&allocation.node_selector);
                }
                None => open.push(claim.as_ref()),
            }
            claims.push(claim);
        }
        let allocator = match open.is_empty() {
            true => None,
            false => Some(allocator::Allocator::new(open, snapshot).map_err(Refusal::unresolvable)?),
        };
        Ok(Some(Wanted { claims, nodes, allocator }))
    }

    fn allocate(&self, node: &NodeInfo) -> Result<Vec<AllocationResult>, Refusal> {
        if !self.nodes.iter().all(|selector| selector_matches(selector, &node.node)) {
            return Err(Refusal::unresolvable(NOT_HERE));
        }
        let Some(allocator) = &self.allocator else { return Ok(Vec::new()) };
        allocator.allocate(node).ok_or_else(|| Refusal::unresolvable(CANNOT_ALLOCATE))
    }
}

impl Filter for Wanted<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        self.allocate(node).map(drop)
    }
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

#[cfg(test)]
mod tests;
