//! Claiming: which objects are an owner's.
//!
//! An owner manages the objects whose controller reference holds its UID. Objects that its selector
//! matches and nobody manages it *adopts*; objects of its own that the selector no longer matches it
//! *releases*. That is how a pod can be taken out of a ReplicaSet for debugging by changing a label.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use coracle_client::{Change, Informer, ObjectKey, controller_of, controller_reference};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::api::{Patch, PatchParams};
use kube::core::{Selector, SelectorExt};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::error::{Error, IgnoreNotFound, Result};

/// The index over dependents by controller: its UID, or `orphan/<namespace>` for those without.
pub(crate) const BY_CONTROLLER: &str = "controller";

/// Makes [`dependents`] work on an informer.
pub(crate) fn index_by_controller<K: Owned>(informer: &Informer<K>) {
    informer.add_index(BY_CONTROLLER, |object| {
        let meta = object.meta();
        vec![match controller_of(meta) {
            Some(owner) => owner.uid.clone(),
            None => format!("orphan/{}", meta.namespace.as_deref().unwrap_or_default()),
        }]
    });
}

/// What an owner may own.
pub(crate) trait Owned:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
}
impl<K> Owned for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static
{
}

/// The objects controlled by `uid`, from an informer with [`index_by_controller`].
pub(crate) fn dependents<K: Owned>(informer: &Informer<K>, uid: &str) -> Vec<Arc<K>> {
    informer.by_index(BY_CONTROLLER, uid)
}

/// A selector in a form that matches. An invalid one matches nothing, as in upstream's controllers.
pub(crate) fn selector(selector: &LabelSelector) -> Result<Selector> {
    Selector::try_from(selector.clone()).map_err(|error| Error::Other(format!("invalid selector: {error}")))
}

/// Whether the selector matches the object's labels.
pub(crate) fn matches<K: Resource>(selector: &Selector, object: &K) -> bool {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    selector.matches(object.meta().labels.as_ref().unwrap_or(&NONE))
}

/// Which owners a dependent's change concerns: its controller, its former controller, or all that may adopt it.
pub(crate) fn owners_of<O: Owned, K: Owned>(
    change: &Change<'_, K>,
    owners: &Informer<O>,
    adopts: impl Fn(&O, &K) -> bool,
) -> Vec<ObjectKey> {
    let namespace = change.object().namespace().unwrap_or_default();
    let owner_of = |object: &Arc<K>| {
        let owner = controller_of(object.meta()).filter(|owner| owner.kind == O::kind(&()))?;
        Some(ObjectKey::new(&namespace, &owner.name))
    };
    let mut keys: Vec<_> = [change.old, change.new].into_iter().flatten().filter_map(owner_of).collect();
    keys.dedup();
    if let Some(orphan) = change.new.filter(|object| controller_of(object.meta()).is_none()) {
        let adopters = owners.list_namespace(&namespace).into_iter().filter(|owner| adopts(owner, orphan));
        keys.extend(adopters.map(|owner| ObjectKey::of(owner.as_ref())));
    }
    keys
}

/// What an owner does about one object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    Keep,
    Adopt,
    Release,
    Ignore,
}

/// The decision over one object for an owner.
pub(crate) fn decide(object: &ObjectMeta, owner: &ObjectMeta, matches: bool) -> Claim {
    let owner_deleting = owner.deletion_timestamp.is_some();
    match controller_of(object) {
        Some(reference) if Some(&reference.uid) != owner.uid.as_ref() => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if owner_deleting => Claim::Ignore,
        Some(_) => Claim::Release,
        None if matches && !owner_deleting && object.deletion_timestamp.is_none() => Claim::Adopt,
        None => Claim::Ignore,
    }
}

/// Adopts and releases as needed, and returns what is the owner's then.
pub(crate) async fn claim<O: Owned, K: Owned>(
    client: &Client,
    owner: &O,
    selector: &Selector,
    informer: &Informer<K>,
) -> Result<Vec<Arc<K>>> {
    claim_if(client, owner, |object| matches(selector, object), informer).await
}

/// [`claim`] by another rule than a selector alone.
pub(crate) async fn claim_if<O: Owned, K: Owned>(
    client: &Client,
    owner: &O,
    matches: impl Fn(&K) -> bool,
    informer: &Informer<K>,
) -> Result<Vec<Arc<K>>> {
    let namespace = owner.namespace().unwrap_or_default();
    let mut candidates = dependents(informer, &owner.uid().unwrap_or_default());
    candidates.extend(informer.by_index(BY_CONTROLLER, &format!("orphan/{namespace}")));
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    let mut owner_is_current = false;
    let mut claimed = Vec::new();
    for object in candidates {
        match decide(object.meta(), owner.meta(), matches(object.as_ref())) {
            Claim::Keep => claimed.push(object),
            Claim::Ignore => {}
            Claim::Release => {
                let patch = json!({ "metadata": {
                    "uid": object.uid(),
                    "ownerReferences": [{ "$patch": "delete", "uid": owner.uid() }],
                }});
                api.patch(&object.name_any(), &PatchParams::default(), &Patch::Strategic(patch))
                    .await
                    .ignore_not_found()?;
            }
            Claim::Adopt => {
                if !owner_is_current {
                    // The cache may not know yet that the owner is on its way out or was replaced.
                    let fresh = Api::<O>::namespaced(client.clone(), &namespace).get(&owner.name_any()).await?;
                    if fresh.uid() != owner.uid() || fresh.meta().deletion_timestamp.is_some() {
                        return Err(Error::Other(format!("{namespace}/{} is being deleted", owner.name_any())));
                    }
                    owner_is_current = true;
                }
                let patch = json!({ "metadata": {
                    "uid": object.uid(),
                    "ownerReferences": [controller_reference(owner)],
                }});
                let adopted = api.patch(&object.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await;
                claimed.extend(adopted.ignore_not_found()?.map(Arc::new));
            }
        }
    }
    Ok(claimed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(controller: Option<&str>, deleting: bool) -> ObjectMeta {
        serde_json::from_value(json!({
            "uid": "me",
            "ownerReferences": controller.map(|uid| [json!({
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": uid, "controller": true,
            })]),
            "deletionTimestamp": deleting.then_some("2026-01-01T00:00:00Z"),
        }))
        .unwrap()
    }

    #[test]
    fn orphans_that_match_are_adopted_and_dependents_that_do_not_are_released() {
        for (controller, object_deleting, owner_deleting, matches, expected) in [
            (None, false, false, true, Claim::Adopt),
            (None, false, false, false, Claim::Ignore),
            (None, true, false, true, Claim::Ignore),
            (None, false, true, true, Claim::Ignore),
            (Some("me"), false, false, true, Claim::Keep),
            (Some("me"), false, false, false, Claim::Release),
            (Some("me"), false, true, false, Claim::Ignore),
            (Some("other"), false, false, true, Claim::Ignore),
        ] {
            let decision = decide(&meta(controller, object_deleting), &meta(None, owner_deleting), matches);
            assert_eq!(decision, expected, "{controller:?} {object_deleting} {owner_deleting} {matches}");
        }
    }
}
