//! The table of Kubernetes' own resources: every GA resource of v1.36, one line of `data/resources.tsv` each.
//!
//! The rows give names, verbs and scope; [`crate::kinds`] adds the code a kind may have. The order is
//! discovery's: groups by priority, the preferred version of a group first.

use std::sync::{Arc, LazyLock};

use crate::kinds::KindStrategy;
use crate::resource::{Resource, Scope, Subresource};
use crate::table;

const ROWS: &str = include_str!("../data/resources.tsv");

/// The verbs a row means by `*`.
const ALL_VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// The verbs of a subresource that names none.
const SUBRESOURCE_VERBS: [&str; 3] = ["get", "patch", "update"];

static BUILTIN: LazyLock<Vec<Arc<Resource>>> =
    LazyLock::new(|| ROWS.lines().filter(|line| !line.starts_with('#')).filter_map(parse_row).map(Arc::new).collect());

/// All built-in resources, in discovery's order.
pub fn builtin() -> Vec<Arc<Resource>> {
    BUILTIN.clone()
}

/// The built-in resource of that group, version and plural name.
pub fn lookup(group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
    BUILTIN.iter().find(|r| r.group == group && r.version == version && r.plural == plural).cloned()
}

/// The built-in resource whose objects have that `apiVersion` and `kind`.
pub fn lookup_kind(api_version: &str, kind: &str) -> Option<Arc<Resource>> {
    BUILTIN.iter().find(|r| r.kind == kind && r.api_version() == api_version).cloned()
}

/// `-` stands for "none" in the table.
fn cell(text: &str) -> &str {
    if text == "-" { "" } else { text }
}

fn list(text: &str, separator: char) -> Vec<String> {
    cell(text).split(separator).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// A row of the table; a malformed one is skipped, which the test that pins the table would show.
fn parse_row(line: &str) -> Option<Resource> {
    let columns: Vec<&str> = line.split('\t').collect();
    let [group, version, kind, plural, singular, short, categories, scope, verbs, subresources, definition, fields] =
        columns[..]
    else {
        return None;
    };
    let strategy = KindStrategy::of(definition);
    Some(Resource {
        group: cell(group).to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        plural: plural.to_owned(),
        singular: if singular == "-" { kind.to_lowercase() } else { singular.to_owned() },
        short_names: list(short, ','),
        categories: list(categories, ','),
        scope: if scope == "N" { Scope::Namespaced } else { Scope::Cluster },
        verbs: if verbs == "*" { ALL_VERBS.map(str::to_owned).to_vec() } else { list(verbs, ',') },
        subresources: list(subresources, ' ').iter().map(|text| parse_subresource(text, kind)).collect(),
        definition: definition.to_owned(),
        columns: table::layout(strategy.ty.map_or("", |ty| ty.name)).columns().to_vec(),
        selectable_fields: list(fields, ' '),
        stored: verbs == "*" || verbs.contains("delete"),
        strategy: Arc::new(strategy),
        custom: None,
    })
}

/// `name[:verb+verb][=group/version/Kind]`; without a kind its bodies are the resource's own.
fn parse_subresource(text: &str, own_kind: &str) -> Subresource {
    let (head, kind) = text.split_once('=').unwrap_or((text, ""));
    let (name, verbs) = head.split_once(':').unwrap_or((head, ""));
    let mut gvk = kind.split('/');
    let mut next = || gvk.next().unwrap_or_default().to_owned();
    let (group, version, kind) = (next(), next(), next());
    Subresource {
        name: name.to_owned(),
        verbs: if verbs.is_empty() { SUBRESOURCE_VERBS.map(str::to_owned).to_vec() } else { list(verbs, '+') },
        kind: (group, version, if kind.is_empty() { own_kind.to_owned() } else { kind }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_is_a_resource() {
        let rows = ROWS.lines().filter(|l| !l.starts_with('#')).count();
        assert_eq!((rows, builtin().len()), (68, 68));
    }

    #[test]
    fn pods_and_deployments_look_as_in_discovery() {
        let pods = lookup("", "v1", "pods").unwrap();
        assert_eq!((pods.singular.as_str(), pods.short_names[0].as_str()), ("pod", "po"));
        assert_eq!(pods.categories, ["all"]);
        assert_eq!(pods.subresource("eviction").unwrap().kind, ("policy".into(), "v1".into(), "Eviction".into()));
        assert_eq!(pods.subresource("log").unwrap().verbs, ["get"]);
        let deployments = lookup_kind("apps/v1", "Deployment").unwrap();
        assert_eq!(deployments.subresource("scale").unwrap().kind.0, "autoscaling");
        assert_eq!(deployments.key_prefix(), "/registry/deployments/");
        assert!(!lookup("authorization.k8s.io", "v1", "subjectaccessreviews").unwrap().stored);
        assert!(lookup("", "v1", "namespaces").unwrap().stored);
    }

    #[test]
    fn keys_lie_where_upstream_keeps_them() {
        for (group, version, plural, prefix) in [
            ("", "v1", "pods", "/registry/pods/"),
            ("", "v1", "services", "/registry/services/specs/"),
            ("", "v1", "nodes", "/registry/minions/"),
            ("apps", "v1", "replicasets", "/registry/replicasets/"),
            ("events.k8s.io", "v1", "events", "/registry/events/"),
            ("rbac.authorization.k8s.io", "v1", "roles", "/registry/roles/"),
            ("coordination.k8s.io", "v1", "leases", "/registry/leases/"),
            ("autoscaling", "v2", "horizontalpodautoscalers", "/registry/horizontalpodautoscalers/"),
        ] {
            assert_eq!(lookup(group, version, plural).unwrap().key_prefix(), prefix);
        }
    }
}
