//! Fields of one object in several versions: an entry of `managedFields` is about the version that it names.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use super::walk::{self, Node};
use super::{Entry, FieldSet, Typing};

/// How an object is seen in the version with that `apiVersion`: the object there, and the types of its fields; nothing
/// if there is no such version.
pub type View<'a> = dyn Fn(&Value, &str) -> Option<(Value, Typing<'a>)> + 'a;

/// The versions of a kind.
#[derive(Clone, Copy)]
pub struct Versions<'a> {
    /// The types of an object's fields, in the version in which it is handed in.
    pub typing: Typing<'a>,
    /// The others.
    pub view: &'a View<'a>,
}

impl fmt::Debug for Versions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.typing.fmt(f)
    }
}

/// What changed, and what is no longer there.
pub(super) type Difference = (FieldSet, FieldSet);

impl<'a> Versions<'a> {
    /// A kind that has no other version.
    pub fn only(typing: Typing<'a>) -> Self {
        Versions { typing, view: &|_, _| None }
    }

    fn see(&self, object: &Value, api_version: &str) -> Option<(Value, Node<'a>)> {
        if object["apiVersion"] == api_version {
            return Some((object.clone(), Node::root(self.typing)));
        }
        (self.view)(object, api_version).map(|(object, typing)| (object, Node::root(typing)))
    }

    /// The differences between two objects by the version in which entries see them; those of versions that are no more
    /// are dropped. `own` is the difference in the objects' own version.
    pub(super) fn differences(
        &self,
        entries: &mut Vec<Entry>,
        old: &Value,
        new: &Value,
        own: Difference,
    ) -> BTreeMap<String, Difference> {
        let own_version = new["apiVersion"].as_str().unwrap_or_default();
        let mut found = BTreeMap::from([(own_version.to_owned(), own)]);
        entries.retain(|entry| {
            let version = entry.api_version();
            if !found.contains_key(version) {
                let Some((new, node)) = self.see(new, version) else { return false };
                // Of a new object, what was before is in no version.
                let old = if old.get("apiVersion").is_some() { self.see(old, version) } else { None };
                let old = old.map_or_else(|| json!({}), |(old, _)| old);
                found.insert(version.to_owned(), walk::compare(node, &old, &new));
            }
            true
        });
        found
    }

    /// An object without what `last` held and no one of `owners` holds.
    pub(super) fn without(&self, object: Value, last: &Entry, owners: &[&Entry]) -> Value {
        let Some((merged, node)) = self.see(&object, last.api_version()) else { return object };
        let mut owned: BTreeMap<&str, FieldSet> = BTreeMap::new();
        for owner in owners {
            let set = owned.entry(owner.api_version()).or_default();
            set.add(owner.fields());
        }
        let kept = owned.remove(last.api_version()).unwrap_or_default();
        let mut pruned = merged.clone();
        walk::prune(node, &mut pruned, &last.fields().difference(&kept), &kept);
        if pruned == merged {
            return object;
        }
        // What goes in one version may be what somebody holds in another.
        for (version, owned) in owned {
            let seen = self.see(&object, version).zip(self.see(&pruned, version));
            let Some(((mut before, node), (after, _))) = seen else { continue };
            let gone = walk::compare(node, &before, &after).1.difference(&owned);
            walk::prune(node, &mut before, &gone, &owned.union(&walk::fields(node, &after, true)));
            pruned = before;
        }
        let version = object["apiVersion"].as_str().unwrap_or_default();
        self.see(&pruned, version).map_or(object.clone(), |(pruned, _)| pruned)
    }
}
