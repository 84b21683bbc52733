//! Sets of paths, in the `FieldsV1` format: `{"f:spec": {"f:replicas": {}}}`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A set of paths as a tree. The keys are `FieldsV1`'s: `f:<field>`, `k:<keys of a list's item>`, `v:<value>`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Whether the path that leads here is in the set.
    pub member: bool,
    /// What follows.
    pub children: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// Reads `fieldsV1`.
    pub fn from_json(value: &Value) -> FieldSet {
        let mut set = FieldSet::default();
        for (key, child) in value.as_object().into_iter().flatten() {
            if key == "." {
                set.member = true;
                continue;
            }
            let mut child_set = FieldSet::from_json(child);
            // An empty object is a leaf.
            child_set.member |= child.as_object().is_none_or(Map::is_empty);
            set.children.insert(key.clone(), child_set);
        }
        set
    }

    /// Writes `fieldsV1`.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".into(), json!({}));
        }
        map.extend(self.children.iter().map(|(key, child)| (key.clone(), child.to_json())));
        Value::Object(map)
    }

    /// A path by itself.
    pub fn leaf() -> FieldSet {
        FieldSet { member: true, children: BTreeMap::new() }
    }

    /// Whether no path is in it.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(FieldSet::is_empty)
    }

    /// Drops branches without members.
    pub fn tidy(&mut self) {
        self.children.values_mut().for_each(FieldSet::tidy);
        self.children.retain(|_, child| !child.is_empty());
    }

    /// The paths in either.
    pub fn union(&self, other: &FieldSet) -> FieldSet {
        let mut set = self.clone();
        set.add(other.clone());
        set
    }

    /// Takes in the paths of another.
    pub fn add(&mut self, other: FieldSet) {
        self.member |= other.member;
        for (key, child) in other.children {
            self.children.entry(key).or_default().add(child);
        }
    }

    /// Takes out the paths of another.
    pub fn subtract(&mut self, other: &FieldSet) {
        self.member &= !other.member;
        for (key, theirs) in &other.children {
            if let Some(mine) = self.children.get_mut(key) {
                mine.subtract(theirs);
                if mine.is_empty() {
                    self.children.remove(key);
                }
            }
        }
    }

    /// The paths in both.
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let both = |(key, mine): (&String, &FieldSet)| Some((key.clone(), mine.intersection(other.children.get(key)?)));
        let children = self.children.iter().filter_map(both).filter(|(_, child)| !child.is_empty()).collect();
        FieldSet { member: self.member && other.member, children }
    }

    /// The paths in this one only.
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        let mut set = self.clone();
        set.subtract(other);
        set
    }

    /// The paths as people read them: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.collect("", &mut found);
        found
    }

    fn collect(&self, path: &str, found: &mut Vec<String>) {
        if self.member {
            found.push(path.to_owned());
        }
        for (key, child) in &self.children {
            child.collect(&format!("{path}{}", readable(key)), found);
        }
    }
}

/// Takes the paths of a set out of `fieldsV1`, where they lie; tells whether nothing is left of it.
pub(super) fn subtract(fields: &mut Value, set: &FieldSet) -> bool {
    let Some(map) = fields.as_object_mut() else { return true };
    let member = (map.is_empty() || map.contains_key(".")) && !set.member;
    for (key, theirs) in &set.children {
        if map.get_mut(key).is_some_and(|mine| subtract(mine, theirs)) {
            map.remove(key);
        }
    }
    mark(map, member);
    map.is_empty() && !member
}

/// Adds the paths of a set to `fieldsV1`, where they lie.
pub(super) fn add(fields: &mut Value, set: &FieldSet) {
    let Some(map) = fields.as_object_mut() else { return };
    let member = map.is_empty() || map.contains_key(".") || set.member;
    for (key, theirs) in &set.children {
        match map.get_mut(key) {
            Some(mine) => add(mine, theirs),
            None => drop(map.insert(key.clone(), theirs.to_json())),
        }
    }
    mark(map, member);
}

/// Says of a path whether it is a member itself: what is empty is one anyway.
fn mark(map: &mut Map<String, Value>, member: bool) {
    if !member || map.len() == usize::from(map.contains_key(".")) {
        map.remove(".");
    } else if !map.contains_key(".") {
        map.insert(".".into(), json!({}));
    }
}

/// A key as people read it.
pub(super) fn readable(key: &str) -> String {
    match key.split_at_checked(2) {
        Some(("f:", name)) => format!(".{name}"),
        Some(("v:", value)) => format!("[={value}]"),
        Some(("k:", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let texts: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", texts.join(","))
        }
        _ => key.to_owned(),
    }
}
