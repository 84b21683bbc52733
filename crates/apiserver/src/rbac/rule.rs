//! One RBAC rule: which verbs on which resources or paths, and whether one set of rules covers another.

use serde::Deserialize;

use crate::hooks::Attributes;

/// A `rbac.authorization.k8s.io/v1` PolicyRule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// The verbs; `*` is all.
    pub verbs: Vec<String>,
    /// The API groups; empty text is core, `*` is all.
    pub api_groups: Vec<String>,
    /// The resources: `pods`, `pods/log`, `*/scale`, `*`.
    pub resources: Vec<String>,
    /// The objects' names; none is all.
    pub resource_names: Vec<String>,
    /// The paths that are no resource; a `*` at the end matches what begins so.
    #[serde(rename = "nonResourceURLs")]
    pub non_resource_urls: Vec<String>,
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

fn path_matches(pattern: &str, path: &str) -> bool {
    pattern == path || pattern.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

impl Rule {
    /// Whether the rule permits this.
    pub fn allows(&self, wanted: &Attributes) -> bool {
        if !has(&self.verbs, &wanted.verb) {
            return false;
        }
        if !wanted.is_resource {
            return self.non_resource_urls.iter().any(|pattern| path_matches(pattern, &wanted.path));
        }
        has(&self.api_groups, &wanted.group)
            && self.has_resource(&wanted.resource, &wanted.subresource)
            && (self.resource_names.is_empty() || self.resource_names.contains(&wanted.name))
    }

    fn has_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|item| {
            item == "*"
                || match item.split_once('/') {
                    None => subresource.is_empty() && item == resource,
                    Some((first, second)) => second == subresource && (first == "*" || first == resource),
                }
        })
    }

    /// The rule taken apart: each piece one verb on one resource (of one name) or one path.
    pub fn pieces(&self) -> Vec<Rule> {
        let one = |item: &String| vec![item.clone()];
        let mut pieces = Vec::new();
        for verb in &self.verbs {
            for url in &self.non_resource_urls {
                pieces.push(Rule { verbs: one(verb), non_resource_urls: one(url), ..Rule::default() });
            }
            for group in &self.api_groups {
                for resource in &self.resources {
                    let whole =
                        Rule { verbs: one(verb), api_groups: one(group), resources: one(resource), ..Rule::default() };
                    if self.resource_names.is_empty() {
                        pieces.push(whole);
                    } else {
                        pieces.extend(
                            self.resource_names.iter().map(|name| Rule { resource_names: one(name), ..whole.clone() }),
                        );
                    }
                }
            }
        }
        pieces
    }

    /// Whether this rule permits all that `piece` (one verb, one resource or path, at most one name) does.
    pub fn covers(&self, piece: &Rule) -> bool {
        let each = |wanted: &[String], held: &[String]| wanted.iter().all(|item| has(held, item));
        if !each(&piece.verbs, &self.verbs) {
            return false;
        }
        if !piece.non_resource_urls.is_empty() {
            return piece
                .non_resource_urls
                .iter()
                .all(|url| self.non_resource_urls.iter().any(|pattern| path_matches(pattern, url)));
        }
        let resources = piece.resources.iter().all(|item| {
            let (resource, subresource) = item.split_once('/').unwrap_or((item, ""));
            has(&self.resources, item) || self.has_resource(resource, subresource)
        });
        let names = self.resource_names.is_empty()
            || (!piece.resource_names.is_empty()
                && piece.resource_names.iter().all(|n| self.resource_names.contains(n)));
        each(&piece.api_groups, &self.api_groups) && resources && names
    }
}

/// The rule as upstream's escalation refusal prints it: `{APIGroups:["apps"], Resources:["*"], Verbs:["get"]}`.
impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fields = [
            ("NonResourceURLs", &self.non_resource_urls),
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        let shown: Vec<String> =
            fields.iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| format!("{name}:{list:?}")).collect();
        write!(f, "{{{}}}", shown.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &str, groups: &str, resources: &str, names: &str, urls: &str) -> Rule {
        let list = |text: &str| match text {
            "" => Vec::new(),
            "core" => vec![String::new()],
            text => text.split(',').map(str::to_owned).collect(),
        };
        Rule {
            verbs: list(verbs),
            api_groups: list(groups),
            resources: list(resources),
            resource_names: list(names),
            non_resource_urls: list(urls),
        }
    }

    #[test]
    fn a_rule_permits_its_verbs_on_its_resources_and_paths_only() {
        // rule: verbs, groups, resources, names, paths; wanted: verb, group, resource[/subresource] or path, name
        let table = [
            (("get,list", "core", "pods", "", ""), ("list", "", "pods", ""), true),
            (("get,list", "core", "pods", "", ""), ("delete", "", "pods", ""), false),
            (("get", "core", "pods", "", ""), ("get", "", "pods/log", "a"), false),
            (("get", "core", "pods/log", "", ""), ("get", "", "pods/log", "a"), true),
            (("update", "*", "*/scale", "", ""), ("update", "apps", "deployments/scale", "a"), true),
            (("update", "*", "*/scale", "", ""), ("update", "apps", "deployments", "a"), false),
            (("*", "*", "*", "", ""), ("update", "apps", "deployments/status", "a"), true),
            (("get", "core", "secrets", "one", ""), ("get", "", "secrets", "one"), true),
            (("get", "core", "secrets", "one", ""), ("get", "", "secrets", "two"), false),
            (("get", "core", "secrets", "one", ""), ("list", "", "secrets", ""), false),
            (("get", "", "", "", "/healthz,/api/*"), ("get", "", "/api/v1", ""), true),
            (("get", "", "", "", "/healthz,/api/*"), ("get", "", "/apis", ""), false),
            (("*", "*", "*", "", ""), ("get", "", "/metrics", ""), false),
        ];
        for ((verbs, groups, resources, names, urls), (verb, group, what, name), expected) in table {
            let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
            let wanted = Attributes {
                verb: verb.into(),
                is_resource: !what.starts_with('/'),
                group: group.into(),
                resource: resource.into(),
                subresource: subresource.into(),
                name: name.into(),
                path: what.into(),
                ..Attributes::default()
            };
            let rule = rule(verbs, groups, resources, names, urls);
            assert_eq!(rule.allows(&wanted), expected, "{rule} {verb} {what}");
        }
    }

    #[test]
    fn a_rule_is_covered_when_every_piece_of_it_is() {
        let wide = rule("get,list", "core", "pods,services", "", "");
        let covered = |other: &Rule| other.pieces().iter().all(|piece| wide.covers(piece));
        assert!(covered(&rule("get", "core", "pods,services", "", "")));
        assert!(covered(&rule("get", "core", "pods", "web", "")));
        assert!(!covered(&rule("get,watch", "core", "pods", "", "")));
        assert!(!covered(&rule("get", "core", "pods/log", "", "")));
        assert!(!rule("get", "core", "pods", "web", "").covers(&rule("get", "core", "pods", "", "")));
    }
}
