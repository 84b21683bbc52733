//! Who owns whom: the graph over all objects of the cluster, by UID, kept from watches of their metadata.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use coracle_client::ObjectKey;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// Marks an object whose deletion waits for its dependents.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Marks an object whose dependents are to be set free before it goes.
pub(super) const ORPHAN: &str = "orphan";
/// So many owners known not to be there are remembered.
const ABSENT_MAX: usize = 500;

/// One object: of it, only what ownership needs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// Which resource it is of: an index into the collector's list.
    pub(super) resource: usize,
    pub(super) key: ObjectKey,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) deleting: bool,
    /// Being deleted, and waiting for its dependents.
    pub(super) waits_for_dependents: bool,
    /// Being deleted, and its dependents are to be set free first.
    pub(super) orphans_dependents: bool,
    pub(super) finalizers: Vec<String>,
}

impl Node {
    pub(super) fn new(resource: usize, meta: &ObjectMeta) -> Self {
        let finalizers = meta.finalizers.clone().unwrap_or_default();
        let deleting = meta.deletion_timestamp.is_some();
        let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
        Node {
            resource,
            key: ObjectKey::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default()),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting,
            waits_for_dependents: deleting && has(FOREGROUND),
            orphans_dependents: deleting && has(ORPHAN),
            finalizers,
        }
    }

    /// Whether a reference with its UID means it indeed, from an object in this namespace: whoever is in a namespace
    /// owns nothing outside of it.
    pub(super) fn is_meant(&self, reference: &OwnerReference, namespace: &str) -> bool {
        self.key.name == reference.name && (self.key.namespace.is_empty() || self.key.namespace == namespace)
    }

    /// Whether it holds up the deletion of the owner with this UID.
    fn blocks(&self, owner: &str) -> bool {
        self.owners.iter().any(|reference| reference.uid == owner && reference.block_owner_deletion == Some(true))
    }
}

/// What a change of the graph gives to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Objects (by UID) to look at: are they to be deleted?
    pub(super) delete: BTreeSet<String>,
    /// Objects whose dependents are to be set free.
    pub(super) orphan: BTreeSet<String>,
}

/// Where an owner is, or is looked for, and its UID.
type Place = (ObjectKey, String);

/// The graph.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: BTreeMap<String, Node>,
    /// Owner to dependents; the owner need not be known.
    dependents: BTreeMap<String, BTreeSet<String>>,
    absent: BTreeSet<Place>,
    absent_order: VecDeque<Place>,
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// Those that name `uid` as an owner.
    pub(super) fn dependents(&self, uid: &str) -> Vec<(String, Node)> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| Some((uid.clone(), self.nodes.get(uid)?.clone()))).collect()
    }

    /// The dependents that hold up the owner's deletion in the foreground.
    pub(super) fn blocking(&self, owner: &str) -> Vec<(String, Node)> {
        self.dependents(owner).into_iter().filter(|(_, node)| node.blocks(owner)).collect()
    }

    /// All UIDs of a resource.
    pub(super) fn of_resource(&self, resource: usize) -> BTreeSet<String> {
        self.nodes.iter().filter(|(_, node)| node.resource == resource).map(|(uid, _)| uid.clone()).collect()
    }

    /// Whether an owner is known not to be there, neither in the namespace nor outside of all.
    pub(super) fn is_absent(&self, reference: &OwnerReference, namespace: &str) -> bool {
        let place = |namespace| (ObjectKey::new(namespace, &reference.name), reference.uid.clone());
        self.absent.contains(&place("")) || self.absent.contains(&place(namespace))
    }

    /// Remembers that there is no object with this UID at this place.
    pub(super) fn note_absent(&mut self, key: ObjectKey, uid: &str) {
        let place = (key, uid.to_owned());
        if self.absent.insert(place.clone()) {
            self.absent_order.push_back(place);
        }
        if self.absent_order.len() > ABSENT_MAX
            && let Some(oldest) = self.absent_order.pop_front()
        {
            self.absent.remove(&oldest);
        }
    }

    /// An object appeared or changed.
    pub(super) fn apply(&mut self, uid: &str, node: Node) -> Work {
        let mut work = Work::default();
        let old = self.nodes.get(uid).cloned();
        let (before, after) = (owner_uids(old.as_ref()), owner_uids(Some(&node)));
        for owner in before.difference(&after) {
            self.unlink(owner, uid);
        }
        for owner in &after {
            self.dependents.entry(owner.clone()).or_default().insert(uid.to_owned());
            if !self.nodes.contains_key(owner) {
                work.delete.insert(uid.to_owned()); // is there such an owner at all?
            }
        }
        // Who names an owner where it is not, has none.
        let lost = |dependent: &Node, reference: &OwnerReference, owner: &Node| {
            !owner.is_meant(reference, &dependent.key.namespace)
        };
        let known = |reference: &OwnerReference| old.as_ref().is_some_and(|old| old.owners.contains(reference));
        let mut new = node.owners.iter().filter(|reference| !known(reference));
        if new.any(|reference| self.nodes.get(&reference.uid).is_some_and(|owner| lost(&node, reference, owner))) {
            work.delete.insert(uid.to_owned());
        }
        if old.is_none() {
            let mut dependents = self.dependents(uid);
            dependents.retain(|(_, it)| it.owners.iter().any(|owner| owner.uid == uid && lost(it, owner, &node)));
            work.delete.extend(dependents.into_iter().map(|(dependent, _)| dependent));
        }
        // An owner that waited for this object, which no longer holds it up, may go.
        for owner in before {
            let was_blocking = old.as_ref().is_some_and(|old| old.blocks(&owner));
            if was_blocking && !node.blocks(&owner) {
                work.delete.insert(owner);
            }
        }
        if node.orphans_dependents && !old.as_ref().is_some_and(|old| old.orphans_dependents) {
            work.orphan.insert(uid.to_owned());
        }
        let new_wait = node.waits_for_dependents && !old.as_ref().is_some_and(|old| old.waits_for_dependents);
        if new_wait {
            work.delete.insert(uid.to_owned());
            work.delete.extend(self.dependents.get(uid).into_iter().flatten().cloned());
        }
        // A dependent that joins an owner on its way out goes too.
        if after.iter().any(|owner| self.nodes.get(owner).is_some_and(|owner| owner.waits_for_dependents)) {
            work.delete.insert(uid.to_owned());
        }
        self.nodes.insert(uid.to_owned(), node);
        work
    }

    /// An object is gone: its dependents lose an owner, and its owners may have waited for it.
    pub(super) fn remove(&mut self, uid: &str) -> Work {
        let mut work = Work::default();
        let Some(node) = self.nodes.remove(uid) else { return work };
        self.note_absent(node.key.clone(), uid);
        for owner in owner_uids(Some(&node)) {
            self.unlink(&owner, uid);
            if self.nodes.get(&owner).is_some_and(|owner| owner.waits_for_dependents) {
                work.delete.insert(owner);
            }
        }
        work.delete.extend(self.dependents.get(uid).into_iter().flatten().cloned());
        work
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}

fn owner_uids(node: Option<&Node>) -> BTreeSet<String> {
    node.into_iter().flat_map(|node| &node.owners).map(|owner| owner.uid.clone()).collect()
}

/// How it is with one owner of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnerState {
    /// It is there.
    Solid,
    /// There is no such object.
    Dangling,
    /// It is being deleted and waits for its dependents.
    Waiting,
    /// Nobody can say: the object is in no namespace, and its owner must be in one.
    Unknowable,
}

/// What becomes of an object, given its owners.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    /// Keep it, without the references to these owners.
    Release(BTreeSet<String>),
    DeleteInForeground,
    /// Delete it as its own finalizers say.
    Delete,
}

/// An object lives as long as one of its owners does. One with no owner that lives, but one that waits, is deleted
/// in the foreground if it has dependents itself, so that the wait goes all the way down.
pub(super) fn verdict(owners: &[(String, OwnerState)], has_dependents: bool) -> Verdict {
    if owners.iter().any(|(_, state)| *state == OwnerState::Unknowable) {
        return Verdict::Keep;
    }
    let gone = || owners.iter().filter(|(_, state)| *state != OwnerState::Solid).map(|(uid, _)| uid.clone());
    if owners.iter().any(|(_, state)| *state == OwnerState::Solid) {
        let gone: BTreeSet<_> = gone().collect();
        return if gone.is_empty() { Verdict::Keep } else { Verdict::Release(gone) };
    }
    if owners.is_empty() {
        return Verdict::Keep;
    }
    let waits = owners.iter().any(|(_, state)| *state == OwnerState::Waiting);
    if waits && has_dependents { Verdict::DeleteInForeground } else { Verdict::Delete }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(owners: &[(&str, bool)], deleting: bool, finalizers: &[&str]) -> Node {
        let owners: Vec<_> = owners
            .iter()
            .map(|(uid, block)| {
                json!({ "apiVersion": "v1", "kind": "X", "name": "x", "uid": uid, "blockOwnerDeletion": block })
            })
            .collect();
        let meta: ObjectMeta = serde_json::from_value(json!({
            "name": "x", "namespace": "n", "ownerReferences": owners, "finalizers": finalizers,
            "deletionTimestamp": deleting.then_some("2026-01-01T00:00:00Z"),
        }))
        .unwrap();
        Node::new(0, &meta)
    }

    fn set(uids: &[&str]) -> BTreeSet<String> {
        uids.iter().map(|&uid| uid.to_owned()).collect()
    }

    #[test]
    fn a_deleted_owner_gives_its_dependents_to_look_at() {
        let mut graph = Graph::default();
        graph.apply("owner", node(&[], false, &[]));
        assert_eq!(graph.apply("dependent", node(&[("owner", true)], false, &[])), Work::default());
        assert_eq!(graph.remove("owner").delete, set(&["dependent"]));
        let reference = &node(&[("owner", true)], false, &[]).owners[0];
        assert!(graph.is_absent(reference, "n") && !graph.is_absent(reference, "m"));
    }

    #[test]
    fn an_owner_in_another_namespace_is_none() {
        let (owner, mut dependent) = (node(&[], false, &[]), node(&[("owner", true)], false, &[]));
        dependent.key.namespace = "m".into();
        let mut graph = Graph::default();
        assert_eq!(graph.apply("dependent", dependent.clone()).delete, set(&["dependent"]));
        assert_eq!(graph.apply("owner", owner).delete, set(&["dependent"]));
        assert_eq!(graph.apply("another", dependent.clone()).delete, set(&["another"]));
        assert_eq!(graph.apply("another", dependent), Work::default());
    }

    #[test]
    fn an_object_of_an_unknown_owner_is_looked_at() {
        let work = Graph::default().apply("dependent", node(&[("nobody", false)], false, &[]));
        assert_eq!(work.delete, set(&["dependent"]));
    }

    #[test]
    fn foreground_deletion_goes_down_and_comes_back_up() {
        let mut graph = Graph::default();
        graph.apply("owner", node(&[], false, &[]));
        graph.apply("dependent", node(&[("owner", true)], false, &[]));
        let work = graph.apply("owner", node(&[], true, &[FOREGROUND]));
        assert_eq!(work.delete, set(&["dependent", "owner"]));
        assert_eq!(graph.blocking("owner").len(), 1);
        assert_eq!(graph.remove("dependent").delete, set(&["owner"]));
        assert!(graph.blocking("owner").is_empty());
    }

    #[test]
    fn an_orphaning_owner_is_told_once() {
        let mut graph = Graph::default();
        graph.apply("owner", node(&[], false, &[]));
        assert_eq!(graph.apply("owner", node(&[], true, &[ORPHAN])).orphan, set(&["owner"]));
        assert_eq!(graph.apply("owner", node(&[], true, &[ORPHAN])), Work::default());
    }

    #[test]
    fn an_object_lives_as_long_as_one_owner_does() {
        use OwnerState::{Dangling, Solid, Unknowable, Waiting};
        for (states, has_dependents, expected) in [
            (vec![], false, Verdict::Keep),
            (vec![Solid], true, Verdict::Keep),
            (vec![Solid, Dangling], false, Verdict::Release(set(&["1"]))),
            (vec![Dangling], true, Verdict::Delete),
            (vec![Waiting], false, Verdict::Delete),
            (vec![Dangling, Unknowable], false, Verdict::Keep),
            (vec![Waiting, Dangling], true, Verdict::DeleteInForeground),
        ] {
            let owners: Vec<_> = states.iter().enumerate().map(|(i, state)| (i.to_string(), *state)).collect();
            assert_eq!(verdict(&owners, has_dependents), expected, "{states:?}");
        }
    }
}
