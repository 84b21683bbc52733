//! Authorisation: may this user do that?
//!
//! A request must be permitted by one authorizer; until one says yes, the answer is no.
//!
//! - [`RbacAuthorizer`]: rules that Roles and ClusterRoles hold and bindings give away.
//! - [`NodeAuthorizer`]: what a kubelet may do: its own node's business (see [`node`]).
//! - [`Privileged`]: the group `system:masters` may do everything, whatever the policy says, so that
//!   nobody locks the last door from inside.

mod escalation;
mod index;
pub(crate) mod node;
mod rule;

use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use coracle_api::ApiError;
use coracle_store::Revision;
use serde_json::Value;

use crate::hooks::{Attributes, Authorizer, Decision, UserInfo};
use crate::storage::Storage;

pub use escalation::EscalationCheck;
pub use index::{Index, Policy};
pub use node::{NodeAuthorizer, node_of};
pub use rule::Rule;

/// RBAC's API group.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// The refusal, worded as upstream words it. `reason` is what an authorizer has to say, or empty.
pub fn forbidden(user: &UserInfo, wanted: &Attributes, reason: &str) -> ApiError {
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    if !wanted.is_resource {
        let why = format!("User {:?} cannot {} path {:?}{reason}", user.name, wanted.verb, wanted.path);
        return ApiError::forbidden("", "", "", why);
    }
    let subresource = if wanted.subresource.is_empty() { String::new() } else { format!("/{}", wanted.subresource) };
    let place = match wanted.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let resource = format!("{}{subresource}", wanted.resource);
    let why = format!(
        "User {:?} cannot {} resource {resource:?} in API group {:?} {place}{reason}",
        user.name, wanted.verb, wanted.group
    );
    ApiError::forbidden(&wanted.group, &wanted.resource, &wanted.name, why)
}

/// All objects of a resource as the cache has them now.
pub(crate) fn cached(storage: &Storage, group: &str, plural: &str, namespace: &str) -> Vec<Value> {
    let table = storage.table();
    let Some(row) = table.find_any(group, plural) else { return Vec::new() };
    row.cache.list(namespace, storage.applied()).0.iter().map(|entry| entry.parse()).collect()
}

/// Permits by Roles, ClusterRoles and their bindings.
#[derive(Debug)]
pub struct RbacAuthorizer {
    storage: Arc<Storage>,
    /// The index and the revision of the last change it has seen.
    index: RwLock<(Revision, Arc<Index>)>,
}

const KINDS: [&str; 4] = ["roles", "clusterroles", "rolebindings", "clusterrolebindings"];

impl RbacAuthorizer {
    /// By the policy in `storage`, as it changes.
    pub fn new(storage: Arc<Storage>) -> Arc<Self> {
        Arc::new(RbacAuthorizer { storage, index: RwLock::new((-1, Arc::default())) })
    }

    /// The policy as of now. It is turned around anew only after a change.
    pub fn index(&self) -> Arc<Index> {
        // Revisions grow, so the newest of the four tells whether any has changed.
        let newest = KINDS.iter().map(|kind| self.storage.last_change(GROUP, kind)).max().unwrap_or(0);
        {
            let held = self.index.read().unwrap_or_else(PoisonError::into_inner);
            if held.0 == newest {
                return held.1.clone();
            }
        }
        let [roles, cluster_roles, role_bindings, cluster_role_bindings] =
            KINDS.map(|kind| cached(&self.storage, GROUP, kind, ""));
        let policy = Policy { roles, cluster_roles, role_bindings, cluster_role_bindings };
        let index = Arc::new(Index::build(&policy));
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = (newest, index.clone());
        index
    }
}

#[async_trait]
impl Authorizer for RbacAuthorizer {
    async fn authorize(&self, user: &UserInfo, wanted: &Attributes) -> Decision {
        let index = self.index();
        if index.allows(user, wanted) {
            return Decision::Allow;
        }
        // Whoever has just been given a right may use it: before saying no, hear all that is acknowledged.
        if self.storage.fresh().await.is_ok() {
            let newer = self.index();
            if !Arc::ptr_eq(&index, &newer) && newer.allows(user, wanted) {
                return Decision::Allow;
            }
        }
        Decision::NoOpinion
    }

    async fn reason(&self, user: &UserInfo, wanted: &Attributes) -> String {
        self.index().reason(user, wanted)
    }
}

/// Permits everything to `system:masters`.
#[derive(Debug)]
pub struct Privileged;

#[async_trait]
impl Authorizer for Privileged {
    async fn authorize(&self, user: &UserInfo, _: &Attributes) -> Decision {
        if user.in_group("system:masters") { Decision::Allow } else { Decision::NoOpinion }
    }
}

/// Permits everything to everybody: `--authorization-mode=AlwaysAllow`.
#[derive(Debug)]
pub struct AlwaysAllow;

#[async_trait]
impl Authorizer for AlwaysAllow {
    async fn authorize(&self, _: &UserInfo, _: &Attributes) -> Decision {
        Decision::Allow
    }
}

/// Permits nothing to anybody: `--authorization-mode=AlwaysDeny`.
#[derive(Debug)]
pub struct AlwaysDeny;

#[async_trait]
impl Authorizer for AlwaysDeny {
    async fn authorize(&self, _: &UserInfo, _: &Attributes) -> Decision {
        Decision::NoOpinion
    }

    async fn reason(&self, _: &UserInfo, _: &Attributes) -> String {
        "Everything is forbidden.".into()
    }
}

/// Several authorizers as one: the first that allows or denies decides.
#[derive(Clone, Debug)]
pub struct Union(pub Arc<[Arc<dyn Authorizer>]>);

#[async_trait]
impl Authorizer for Union {
    async fn authorize(&self, user: &UserInfo, wanted: &Attributes) -> Decision {
        for authorizer in self.0.iter() {
            match authorizer.authorize(user, wanted).await {
                Decision::NoOpinion => {}
                decided => return decided,
            }
        }
        Decision::NoOpinion
    }

    async fn reason(&self, user: &UserInfo, wanted: &Attributes) -> String {
        reason(self.0.iter().map(AsRef::as_ref), user, wanted).await
    }
}

/// What the authorizer that decides, or else the first with something to say, says.
pub(crate) async fn reason<'a>(
    authorizers: impl Iterator<Item = &'a (dyn Authorizer + 'static)> + Send,
    user: &UserInfo,
    wanted: &Attributes,
) -> String {
    let mut said = String::new();
    for authorizer in authorizers {
        let decision = authorizer.authorize(user, wanted).await;
        let reason = authorizer.reason(user, wanted).await;
        match decision {
            Decision::NoOpinion if said.is_empty() => said = reason,
            Decision::NoOpinion => {}
            Decision::Deny(why) => return why,
            Decision::Allow => return reason,
        }
    }
    said
}

impl Union {
    /// Nothing, or the refusal.
    pub async fn require(&self, user: &UserInfo, wanted: &Attributes) -> Result<(), ApiError> {
        match self.authorize(user, wanted).await {
            Decision::Allow => Ok(()),
            Decision::Deny(reason) => Err(forbidden(user, wanted, &reason)),
            Decision::NoOpinion => Err(forbidden(user, wanted, "")),
        }
    }
}

#[cfg(test)]
mod tests;
