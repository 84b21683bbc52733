//! Who holds which rules where: all bindings and roles, turned around so that a decision looks up the
//! user and their groups and reads nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::rule::Rule;
use crate::hooks::{Attributes, UserInfo};

/// A role's rules, shared by everything that is bound to it.
type Rules = Arc<[Rule]>;

/// Somebody a binding names: `u:<user>` or `g:<group>`.
type Subject = String;

/// What a binding gives: a role's rules, and the binding and role in words.
#[derive(Clone, Debug)]
struct Grant {
    rules: Rules,
    by: Arc<str>,
}

/// The bindings of one namespace, or those of the cluster.
type Grants = BTreeMap<Subject, Vec<Grant>>;

/// All roles and bindings.
#[derive(Debug, Default)]
pub struct Index {
    cluster: Grants,
    namespaces: BTreeMap<String, Grants>,
    /// By namespace (empty for ClusterRoles) and name.
    roles: BTreeMap<(String, String), Rules>,
}

/// The objects an index is made of.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The Roles.
    pub roles: Vec<Value>,
    /// The ClusterRoles.
    pub cluster_roles: Vec<Value>,
    /// The RoleBindings.
    pub role_bindings: Vec<Value>,
    /// The ClusterRoleBindings.
    pub cluster_role_bindings: Vec<Value>,
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// The rules of a Role or ClusterRole; none if they make no sense.
pub fn rules_of(role: &Value) -> Vec<Rule> {
    serde_json::from_value(role["rules"].clone()).unwrap_or_default()
}

fn matches_labels(selector: &Value, role: &Value) -> bool {
    let Some(wanted) = selector["matchLabels"].as_object() else { return false };
    !wanted.is_empty() && wanted.iter().all(|(key, value)| role["metadata"]["labels"].get(key) == Some(value))
}

/// Aggregates of aggregates are followed so deep: `view` is part of `edit`, `edit` of `admin`.
const AGGREGATION_DEPTH: usize = 4;

/// The rules of a ClusterRole with those of the roles it aggregates.
fn effective_rules(role: &Value, all: &[Value], depth: usize) -> Vec<Rule> {
    let mut rules = rules_of(role);
    for selector in role["aggregationRule"]["clusterRoleSelectors"].as_array().into_iter().flatten() {
        for part in all.iter().filter(|other| depth > 0 && matches_labels(selector, other)) {
            for rule in effective_rules(part, all, depth - 1) {
                if !rules.contains(&rule) {
                    rules.push(rule);
                }
            }
        }
    }
    rules
}

/// The subjects of a binding; a ServiceAccount is the user of its tokens.
fn subjects(binding: &Value) -> impl Iterator<Item = Subject> {
    binding["subjects"].as_array().into_iter().flatten().filter_map(|subject| {
        let name = text(subject, "/name");
        match text(subject, "/kind") {
            "User" => Some(format!("u:{name}")),
            "Group" => Some(format!("g:{name}")),
            "ServiceAccount" => {
                // In a RoleBinding the namespace may be left out: the binding's own.
                let namespace = match text(subject, "/namespace") {
                    "" => text(binding, "/metadata/namespace"),
                    namespace => namespace,
                };
                Some(format!("u:system:serviceaccount:{namespace}:{name}"))
            }
            _ => None,
        }
    })
}

/// A binding and its role, in words: `ClusterRoleBinding "x" of ClusterRole "y"`.
fn described(binding: &Value) -> String {
    let (name, namespace) = (text(binding, "/metadata/name"), text(binding, "/metadata/namespace"));
    let (kind, name) = match namespace {
        "" => ("ClusterRoleBinding", name.to_owned()),
        namespace => ("RoleBinding", format!("{name}/{namespace}")),
    };
    format!("{kind} {name:?} of {} {:?}", text(binding, "/roleRef/kind"), text(binding, "/roleRef/name"))
}

impl Index {
    /// Turns policy around.
    pub fn build(policy: &Policy) -> Self {
        let mut index = Index::default();
        for role in &policy.cluster_roles {
            let key = (String::new(), text(role, "/metadata/name").to_owned());
            index.roles.insert(key, effective_rules(role, &policy.cluster_roles, AGGREGATION_DEPTH).into());
        }
        for role in &policy.roles {
            let key = (text(role, "/metadata/namespace").to_owned(), text(role, "/metadata/name").to_owned());
            index.roles.insert(key, rules_of(role).into());
        }
        for binding in &policy.cluster_role_bindings {
            if let Some(rules) = index.referenced(binding, "") {
                let grant = Grant { rules, by: described(binding).into() };
                for subject in subjects(binding) {
                    index.cluster.entry(subject).or_default().push(grant.clone());
                }
            }
        }
        for binding in &policy.role_bindings {
            let namespace = text(binding, "/metadata/namespace");
            if let Some(rules) = index.referenced(binding, namespace) {
                let grant = Grant { rules, by: described(binding).into() };
                let grants = index.namespaces.entry(namespace.to_owned()).or_default();
                for subject in subjects(binding) {
                    grants.entry(subject).or_default().push(grant.clone());
                }
            }
        }
        index
    }

    /// The rules a binding's `roleRef` names; `None` if there is no such role.
    pub fn referenced(&self, binding: &Value, namespace: &str) -> Option<Rules> {
        let name = text(binding, "/roleRef/name").to_owned();
        let namespace = if text(binding, "/roleRef/kind") == "Role" { namespace } else { "" };
        self.roles.get(&(namespace.to_owned(), name)).cloned()
    }

    /// Every rule `user` holds in `namespace` (empty: in the whole cluster only).
    pub fn rules<'a>(&'a self, user: &'a UserInfo, namespace: &str) -> impl Iterator<Item = &'a Rule> {
        self.grants(user, namespace).flat_map(|(_, grant)| grant.rules.iter())
    }

    /// Every grant to `user` in `namespace`, and to whom it is given: them or a group of theirs.
    fn grants<'a>(&'a self, user: &'a UserInfo, namespace: &str) -> impl Iterator<Item = (Subject, &'a Grant)> {
        let local = self.namespaces.get(namespace);
        let subjects = std::iter::once(format!("u:{}", user.name)).chain(user.groups.iter().map(|g| format!("g:{g}")));
        subjects.flat_map(move |subject| {
            let here = local.and_then(|grants| grants.get(&subject));
            let grants = self.cluster.get(&subject).into_iter().chain(here).flatten();
            grants.map(move |grant| (subject.clone(), grant)).collect::<Vec<_>>()
        })
    }

    /// Which binding permits this, in upstream's words; empty if none does.
    pub fn reason(&self, user: &UserInfo, wanted: &Attributes) -> String {
        let namespace = if wanted.is_resource { wanted.namespace.as_str() } else { "" };
        let found = self.grants(user, namespace).find(|(_, grant)| grant.rules.iter().any(|rule| rule.allows(wanted)));
        let Some((subject, grant)) = found else { return String::new() };
        let to = match subject.split_once(':') {
            Some(("g", name)) => format!("Group {name:?}"),
            Some((_, name)) => match name.strip_prefix("system:serviceaccount:").and_then(|sa| sa.split_once(':')) {
                Some((namespace, name)) => format!("ServiceAccount {:?}", format!("{name}/{namespace}")),
                None => format!("User {name:?}"),
            },
            None => subject.clone(),
        };
        format!("RBAC: allowed by {} to {to}", grant.by)
    }

    /// Whether any rule permits this.
    pub fn allows(&self, user: &UserInfo, wanted: &Attributes) -> bool {
        let namespace = if wanted.is_resource { wanted.namespace.as_str() } else { "" };
        let local = self.namespaces.get(namespace);
        let mut subjects =
            std::iter::once(format!("u:{}", user.name)).chain(user.groups.iter().map(|g| format!("g:{g}")));
        subjects.any(|subject| {
            let here = local.and_then(|grants| grants.get(&subject));
            let mut grants = self.cluster.get(&subject).into_iter().chain(here).flatten();
            grants.any(|grant| grant.rules.iter().any(|rule| rule.allows(wanted)))
        })
    }

    /// The pieces of `rules` that `user` does not hold in `namespace`: what they may not give to others.
    pub fn missing(&self, user: &UserInfo, namespace: &str, rules: &[Rule]) -> Vec<Rule> {
        let held: Vec<&Rule> = self.rules(user, namespace).collect();
        let pieces = rules.iter().flat_map(Rule::pieces);
        pieces.filter(|piece| !held.iter().any(|rule| rule.covers(piece))).collect()
    }
}
