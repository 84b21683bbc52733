//! Who owns whom: the graph over all objects of the cluster, by UID, kept from watches of their metadata.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use coracle_client::ObjectKey;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::ApiResource;

use crate::discovery::Served;

/// Marks an object whose deletion waits for its dependents.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Marks an object whose dependents are to be set free before it goes.
pub(super) const ORPHAN: &str = "orphan";
/// So many owners known not to be there are remembered.
const ABSENT_MAX: usize = 500;

/// One object: of it, only what ownership needs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// Which resource it is of: its place in the graph's list.
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

    /// Whether it holds up the deletion of the owner with this UID.
    fn blocks(&self, owner: &str) -> bool {
        self.owners.iter().any(|reference| reference.uid == owner && reference.block_owner_deletion == Some(true))
    }
}

/// What a change of the graph gives to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Objects (by UID) to look at: are they to be deleted?
    pub(super) delete: BTreeSet<String>,
    /// Objects whose dependents are to be set free.
    pub(super) orphan: BTreeSet<String>,
}

/// Where an owner is, or is looked for: its apiVersion and kind, its namespace and name, and its UID.
type Place = (String, String, ObjectKey, String);

/// The graph.
#[derive(Clone, Debug, Default)]
pub(super) struct Graph {
    /// The resources watched; nodes name theirs by its place here.
    pub(super) resources: Vec<Served>,
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

    /// What is to be done about an object that was looked at: `finalizers` are what it has, and `owners` how it is with each
    /// of its owners.
    pub(super) fn actions(&self, uid: &str, finalizers: &[String], owners: &[(String, OwnerState)]) -> Vec<Action> {
        let dependents = self.dependents(uid);
        match verdict(owners, !dependents.is_empty()) {
            Verdict::Keep => vec![],
            Verdict::Release(gone) => vec![Action::Release(gone)],
            Verdict::DeleteInForeground => {
                // A dependent that waits itself may be an owner further up. So that nobody waits in a circle for ever,
                // this one no longer holds its owners up.
                let circle = dependents.iter().any(|(_, dependent)| dependent.waits_for_dependents);
                let unblock = circle.then_some(Action::Unblock);
                unblock.into_iter().chain([Action::Delete(Some(FOREGROUND))]).collect()
            }
            Verdict::Delete => {
                let kept = [ORPHAN, FOREGROUND].into_iter().find(|name| finalizers.iter().any(|f| f == name));
                vec![Action::Delete(kept)]
            }
        }
    }

    /// What is to be done about an object that waits for its dependents.
    pub(super) fn finish_foreground(&self, uid: &str) -> Action {
        let blocking = self.blocking(uid);
        if blocking.is_empty() {
            return Action::Finish(FOREGROUND);
        }
        Action::LookAt(blocking.into_iter().filter(|(_, node)| !node.deleting).map(|(uid, _)| uid).collect())
    }

    /// All UIDs of a resource.
    pub(super) fn of_resource(&self, resource: usize) -> BTreeSet<String> {
        self.nodes.iter().filter(|(_, node)| node.resource == resource).map(|(uid, _)| uid.clone()).collect()
    }

    /// A node's resource.
    pub(super) fn served(&self, node: &Node) -> Option<&Served> {
        self.resources.get(node.resource)
    }

    /// Whether a reference with a node's UID means it indeed, from an object in this namespace: by its kind, version and
    /// name; and whoever is in a namespace owns nothing outside of it.
    pub(super) fn is_meant(&self, node: &Node, reference: &OwnerReference, namespace: &str) -> bool {
        let of_kind = |served: &Served| {
            let ApiResource { api_version, kind, .. } = &served.resource;
            (api_version, kind) == (&reference.api_version, &reference.kind)
        };
        node.key.name == reference.name
            && (node.key.namespace.is_empty() || node.key.namespace == namespace)
            && self.served(node).is_some_and(of_kind)
    }

    /// Whether an owner is known not to be there, neither in the namespace nor outside of all.
    pub(super) fn is_absent(&self, reference: &OwnerReference, namespace: &str) -> bool {
        self.absent.contains(&place(reference, "")) || self.absent.contains(&place(reference, namespace))
    }

    /// Remembers that there is no such owner in this namespace, or, with none, outside of all.
    pub(super) fn note_absent(&mut self, reference: &OwnerReference, namespace: &str) {
        let place = place(reference, namespace);
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
        if old.as_ref() == Some(&node) {
            return work; // what changed is none of ours: a status, a lease that was renewed
        }
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
            !self.is_meant(owner, reference, &dependent.key.namespace)
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
        if let Some(Served { resource, .. }) = self.served(&node) {
            let reference = OwnerReference {
                api_version: resource.api_version.clone(),
                kind: resource.kind.clone(),
                name: node.key.name.clone(),
                uid: uid.to_owned(),
                ..OwnerReference::default()
            };
            self.note_absent(&reference, &node.key.namespace);
        }
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

fn place(reference: &OwnerReference, namespace: &str) -> Place {
    let OwnerReference { api_version, kind, name, uid, .. } = reference;
    (api_version.clone(), kind.clone(), ObjectKey::new(namespace, name), uid.clone())
}

fn owner_uids(node: Option<&Node>) -> BTreeSet<String> {
    node.into_iter().flat_map(|node| &node.owners).map(|owner| owner.uid.clone()).collect()
}

/// One thing to do about an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Take the references to these owners off.
    Release(BTreeSet<String>),
    /// Let it no longer hold up the deletion of its owners.
    Unblock,
    /// Delete it, and with its dependents do as this finalizer says; without one, they are looked at afterwards.
    Delete(Option<&'static str>),
    /// Take this finalizer off: it has been done what it stands for.
    Finish(&'static str),
    /// These are to be looked at first.
    LookAt(BTreeSet<String>),
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
enum Verdict {
    Keep,
    /// Keep it, without the references to these owners.
    Release(BTreeSet<String>),
    DeleteInForeground,
    /// Delete it as its own finalizers say.
    Delete,
}

/// An object lives as long as one of its owners does. One with no owner that lives, but one that waits, is deleted
/// in the foreground if it has dependents itself, so that the wait goes all the way down.
fn verdict(owners: &[(String, OwnerState)], has_dependents: bool) -> Verdict {
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
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use kube::core::GroupVersionKind;
    use proptest::prelude::*;
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

    /// A graph of objects of kind `v1` `X`.
    fn graph() -> Graph {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "X"));
        Graph { resources: vec![Served { resource, namespaced: true, verbs: Vec::new() }], ..Graph::default() }
    }

    fn set(uids: &[&str]) -> BTreeSet<String> {
        uids.iter().map(|&uid| uid.to_owned()).collect()
    }

    #[test]
    fn a_deleted_owner_gives_its_dependents_to_look_at() {
        let mut graph = graph();
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
        let mut graph = graph();
        assert_eq!(graph.apply("dependent", dependent.clone()).delete, set(&["dependent"]));
        assert_eq!(graph.apply("owner", owner).delete, set(&["dependent"]));
        assert_eq!(graph.apply("another", dependent.clone()).delete, set(&["another"]));
        assert_eq!(graph.apply("another", dependent), Work::default());
    }

    #[test]
    fn a_reference_to_another_kind_or_version_means_nobody() {
        for (field, value) in [("kind", "Y"), ("apiVersion", "v2"), ("name", "y")] {
            let mut dependent = node(&[("owner", true)], false, &[]);
            let mut wrong = serde_json::to_value(&dependent.owners[0]).unwrap();
            wrong[field] = value.into();
            dependent.owners = vec![serde_json::from_value(wrong).unwrap()];
            let mut graph = graph();
            graph.apply("owner", node(&[], false, &[]));
            assert_eq!(graph.apply("dependent", dependent.clone()).delete, set(&["dependent"]), "{field}");
            // That it is absent says nothing of the object that has the UID.
            graph.note_absent(&dependent.owners[0], "n");
            assert!(graph.is_absent(&dependent.owners[0], "n"));
            assert!(!graph.is_absent(&node(&[("owner", true)], false, &[]).owners[0], "n"));
        }
    }

    #[test]
    fn an_object_of_an_unknown_owner_is_looked_at() {
        let work = graph().apply("dependent", node(&[("nobody", false)], false, &[]));
        assert_eq!(work.delete, set(&["dependent"]));
    }

    #[test]
    fn foreground_deletion_goes_down_and_comes_back_up() {
        let mut graph = graph();
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
        let mut graph = graph();
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

    /// What the API has, and what the collector makes of it.
    #[derive(Clone, Default)]
    struct World {
        objects: BTreeMap<String, ObjectMeta>,
        graph: Graph,
        work: Work,
    }

    impl World {
        fn of(objects: &BTreeMap<String, ObjectMeta>) -> World {
            let mut world = World { graph: graph(), ..World::default() };
            objects.iter().for_each(|(uid, meta)| world.put(uid, meta.clone()));
            world
        }

        fn enqueue(&mut self, work: Work) {
            self.work.delete.extend(work.delete);
            self.work.orphan.extend(work.orphan);
        }

        /// Stores an object, which goes if it is being deleted and nothing holds it.
        fn put(&mut self, uid: &str, meta: ObjectMeta) {
            let gone = meta.deletion_timestamp.is_some() && meta.finalizers.iter().flatten().next().is_none();
            let work = if gone { self.graph.remove(uid) } else { self.graph.apply(uid, Node::new(0, &meta)) };
            self.enqueue(work);
            if gone {
                self.objects.remove(uid);
            } else {
                self.objects.insert(uid.to_owned(), meta);
            }
        }

        fn owner_state(&self, owner: &OwnerReference) -> OwnerState {
            match self.objects.get(&owner.uid).map(|meta| Node::new(0, meta)) {
                None => OwnerState::Dangling,
                Some(node) if node.waits_for_dependents => OwnerState::Waiting,
                Some(_) => OwnerState::Solid,
            }
        }

        fn act(&mut self, uid: &str, mut meta: ObjectMeta, action: Action) {
            match action {
                Action::LookAt(dependents) => return self.work.delete.extend(dependents),
                Action::Release(gone) => {
                    meta.owner_references.iter_mut().for_each(|o| o.retain(|o| !gone.contains(&o.uid)))
                }
                Action::Unblock => {
                    meta.owner_references
                        .iter_mut()
                        .flatten()
                        .for_each(|owner| owner.block_owner_deletion = Some(false));
                }
                Action::Finish(finalizer) => meta.finalizers.iter_mut().for_each(|all| all.retain(|f| f != finalizer)),
                Action::Delete(kept) => {
                    let finalizers = meta.finalizers.get_or_insert_default();
                    finalizers.retain(|finalizer| ![ORPHAN, FOREGROUND].contains(&finalizer.as_str()));
                    finalizers.extend(kept.map(str::to_owned));
                    meta.deletion_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
                }
            }
            self.put(uid, meta);
        }

        /// Does what is first in the queue. Whether there was anything.
        fn step(&mut self) -> bool {
            if let Some(uid) = self.work.orphan.pop_first() {
                for (dependent, _) in self.graph.dependents(&uid) {
                    let meta = self.objects[&dependent].clone();
                    self.act(&dependent, meta, Action::Release(set(&[&uid])));
                }
                if let Some(meta) = self.objects.get(&uid).cloned() {
                    self.act(&uid, meta, Action::Finish(ORPHAN));
                }
                return true;
            }
            let Some(uid) = self.work.delete.pop_first() else { return false };
            let Some(meta) = self.objects.get(&uid).cloned() else { return true };
            let node = Node::new(0, &meta);
            let actions = match () {
                () if node.waits_for_dependents => vec![self.graph.finish_foreground(&uid)],
                () if node.deleting => vec![],
                () => {
                    let owners: Vec<_> = node.owners.iter().map(|o| (o.uid.clone(), self.owner_state(o))).collect();
                    self.graph.actions(&uid, &node.finalizers, &owners)
                }
            };
            for action in actions {
                let meta = self.objects[&uid].clone();
                self.act(&uid, meta, action);
            }
            true
        }
    }

    proptest! {
        #[test]
        fn from_any_graph_the_collector_comes_to_rest_with_no_orphan_left(
            objects in proptest::collection::vec(
                // Owners (8 and 9 are nobody) and whether it blocks them, whether it is being deleted, and finalizers.
                (proptest::collection::btree_map(0..10usize, any::<bool>(), 0..4), any::<bool>(), 0..8u8), 0..8,
            ),
        ) {
            let finalizers = |bits: u8| {
                [FOREGROUND, ORPHAN, "held"].into_iter().enumerate().filter(move |(bit, _)| bits & 1 << bit != 0).map(|(_, f)| f)
            };
            let meta = |(i, (owners, deleting, bits)): (usize, &(BTreeMap<usize, bool>, bool, u8))| {
                let names: Vec<_> = owners.iter().filter(|(owner, _)| **owner != i).map(|(owner, block)| (owner.to_string(), *block)).collect();
                let owners: Vec<_> = names.iter().map(|(name, block)| (name.as_str(), *block)).collect();
                // What is being deleted is held by something, and what is not by nothing of the collector's.
                let bits = if *deleting && *bits == 0 { 4 } else { *bits };
                let held = finalizers(bits).filter(|f| *deleting || *f == "held").collect::<Vec<_>>();
                let node = node(&owners, *deleting, &held);
                let meta = ObjectMeta {
                    name: Some("x".into()),
                    namespace: Some("n".into()),
                    owner_references: Some(node.owners),
                    finalizers: Some(node.finalizers),
                    deletion_timestamp: deleting.then(|| Time("2026-01-01T00:00:00Z".parse().unwrap())),
                    ..ObjectMeta::default()
                };
                (i.to_string(), meta)
            };
            let mut world = World::of(&objects.iter().enumerate().map(meta).collect());
            let steps = (0..1000).take_while(|_| world.step()).count();
            prop_assert!(steps < 1000, "still at it");
            for (uid, meta) in &world.objects {
                let node = Node::new(0, meta);
                let there = |owner: &OwnerReference| world.objects.contains_key(&owner.uid);
                if node.deleting {
                    let held = node.finalizers.iter().any(|finalizer| finalizer == "held");
                    prop_assert!(held || !world.graph.blocking(uid).is_empty(), "nothing holds {uid}: {node:?}");
                } else {
                    prop_assert!(node.owners.is_empty() || node.owners.iter().any(there), "{uid} is an orphan");
                }
            }
            // Who starts anew and looks at everything finds nothing to do.
            let mut again = World::of(&world.objects);
            again.work.delete.extend(world.objects.keys().cloned());
            while again.step() {}
            prop_assert_eq!(again.objects, world.objects);
        }
    }
}
