//! The RBAC policy a cluster is born with, read from `policy.tsv`.

use serde_json::{Map, Value, json};

use crate::rbac::GROUP;

/// The policy's text; its head explains its form.
const TEXT: &str = include_str!("policy.tsv");
/// ClusterRoles of this prefix are controllers' roles: bound to the controller's account and to the
/// controller manager, in which all controllers run as one user.
const CONTROLLER: &str = "system:controller:";

/// One object of the policy: its resource's plural name, and the object.
pub type PolicyObject = (&'static str, Value);

fn words(list: &str) -> Vec<&str> {
    list.split(',').map(|word| if word == "core" { "" } else { word }).collect()
}

fn labels(list: Option<&str>) -> Map<String, Value> {
    let mut labels: Map<String, Value> = list
        .unwrap_or_default()
        .split(',')
        .filter_map(|l| l.split_once('='))
        .map(|(k, v)| (k.into(), v.into()))
        .collect();
    labels.insert("kubernetes.io/bootstrapping".into(), "rbac-defaults".into());
    labels
}

fn object(kind: &str, namespace: Option<&str>, name: &str, label_list: Option<&str>) -> Value {
    let mut metadata = json!({
        "name": name,
        "labels": labels(label_list),
        // Policy with this annotation is completed at every start; people turn it off to keep their changes.
        "annotations": { "rbac.authorization.kubernetes.io/autoupdate": "true" },
    });
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    json!({ "apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata })
}

fn role(kind: &str, namespace: Option<&str>, name: &str, label_list: Option<&str>) -> Value {
    let mut role = object(kind, namespace, name, label_list);
    role["rules"] = json!([]);
    role
}

fn aggregate(name: &str, selector: &str, label_list: Option<&str>) -> Value {
    let mut role = role("ClusterRole", None, name, label_list);
    let (label, value) = selector.split_once('=').unwrap_or((selector, "true"));
    role["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": { label: value } }] });
    role
}

fn subject(word: &str) -> Option<Value> {
    let (sort, name) = word.split_once(':')?;
    match sort {
        "u" => Some(json!({ "kind": "User", "apiGroup": GROUP, "name": name })),
        "g" => Some(json!({ "kind": "Group", "apiGroup": GROUP, "name": name })),
        _ => {
            let (namespace, name) = name.split_once('/')?;
            Some(json!({ "kind": "ServiceAccount", "namespace": namespace, "name": name }))
        }
    }
}

fn binding(namespace: Option<&str>, name: &str, role: &str, subjects: &str) -> Value {
    let kind = if namespace.is_some() { "RoleBinding" } else { "ClusterRoleBinding" };
    let mut binding = object(kind, namespace, name, None);
    let role = match role.strip_prefix("clusterrole/") {
        Some(role) => ("ClusterRole", role),
        None if namespace.is_some() => ("Role", role),
        None => ("ClusterRole", role),
    };
    binding["roleRef"] = json!({ "apiGroup": GROUP, "kind": role.0, "name": role.1 });
    let subjects: Vec<Value> = subjects.split(',').filter_map(subject).collect();
    if !subjects.is_empty() {
        binding["subjects"] = subjects.into();
    }
    binding
}

fn rule(columns: &[&str]) -> Value {
    match columns {
        ["url", paths, verbs] => json!({ "nonResourceURLs": words(paths), "verbs": words(verbs) }),
        [groups, resources, verbs, names @ ..] => {
            let mut rule = json!({ "apiGroups": words(groups), "resources": words(resources), "verbs": words(verbs) });
            if let Some(names) = names.first() {
                rule["resourceNames"] = json!(words(names));
            }
            rule
        }
        _ => Value::Null,
    }
}

/// Every Role, ClusterRole and binding of the policy, roles before what binds them.
pub fn objects() -> Vec<PolicyObject> {
    let mut roles: Vec<PolicyObject> = Vec::new();
    let mut bindings: Vec<PolicyObject> = Vec::new();
    for line in TEXT.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let columns: Vec<&str> = line.split_whitespace().collect();
        if line.starts_with('\t') {
            if let Some(rules) = roles.last_mut().and_then(|(_, role)| role["rules"].as_array_mut()) {
                rules.push(rule(&columns));
            }
            continue;
        }
        match columns.as_slice() {
            ["role", name, rest @ ..] => {
                roles.push(("clusterroles", role("ClusterRole", None, name, rest.first().copied())));
                if let Some(controller) = name.strip_prefix(CONTROLLER) {
                    let subjects = format!("s:kube-system/{controller},u:system:kube-controller-manager");
                    bindings.push(("clusterrolebindings", binding(None, name, name, &subjects)));
                }
            }
            ["aggregate", name, selector, rest @ ..] => {
                roles.push(("clusterroles", aggregate(name, selector, rest.first().copied())));
            }
            ["local-role", namespace, name] => roles.push(("roles", role("Role", Some(namespace), name, None))),
            ["binding", name, role, subjects] => {
                bindings.push(("clusterrolebindings", binding(None, name, role, subjects)));
            }
            ["local-binding", namespace, name, role, subjects] => {
                bindings.push(("rolebindings", binding(Some(namespace), name, role, subjects)));
            }
            _ => {}
        }
    }
    fill_aggregates(&mut roles);
    roles.extend(bindings);
    roles
}

/// Writes into each aggregated role the rules of its parts, so that people see what it permits.
fn fill_aggregates(roles: &mut [PolicyObject]) {
    let all: Vec<Value> = roles.iter().map(|(_, role)| role.clone()).collect();
    // An aggregate may be part of another one (`view` of `edit`, `edit` of `admin`): follow it down.
    fn rules_of(role: &Value, all: &[Value]) -> Vec<Value> {
        let mut rules = role["rules"].as_array().cloned().unwrap_or_default();
        for selector in role["aggregationRule"]["clusterRoleSelectors"].as_array().into_iter().flatten() {
            let wanted = selector["matchLabels"].as_object();
            for part in all.iter().filter(|part| {
                wanted.is_some_and(|w| w.iter().all(|(k, v)| part["metadata"]["labels"].get(k) == Some(v)))
            }) {
                rules.extend(rules_of(part, all));
            }
        }
        rules
    }
    for (_, role) in roles.iter_mut() {
        if role["aggregationRule"].is_object() {
            role["rules"] = rules_of(role, &all).into();
        }
    }
}

/// What the stored object lacks of the wanted one: the object to store instead, or `None` if it has all.
/// Rules, subjects and labels that people added stay.
pub fn completed(stored: &Value, wanted: &Value) -> Option<Value> {
    if stored["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] == "false" {
        return None;
    }
    let mut result = stored.clone();
    for field in ["rules", "subjects"] {
        let Some(list) = wanted[field].as_array() else { continue };
        if !result[field].is_array() {
            result[field] = json!([]);
        }
        if let Some(held) = result[field].as_array_mut() {
            for item in list {
                if !held.contains(item) {
                    held.push(item.clone());
                }
            }
        }
    }
    if wanted["aggregationRule"].is_object() {
        result["aggregationRule"] = wanted["aggregationRule"].clone();
    }
    for (key, value) in wanted["metadata"]["labels"].as_object().into_iter().flatten() {
        result["metadata"]["labels"][key] = value.clone();
    }
    (result != *stored).then_some(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::{Attributes, UserInfo};
    use crate::rbac::{Index, Policy};

    fn index() -> Index {
        let mut policy = Policy::default();
        for (plural, object) in objects() {
            match plural {
                "roles" => policy.roles.push(object),
                "clusterroles" => policy.cluster_roles.push(object),
                "rolebindings" => policy.role_bindings.push(object),
                _ => policy.cluster_role_bindings.push(object),
            }
        }
        Index::build(&policy)
    }

    #[test]
    fn every_rule_of_the_policy_is_well_formed_and_every_binding_has_its_role() {
        let all = objects();
        for (plural, object) in &all {
            for rule in object["rules"].as_array().into_iter().flatten() {
                assert!(rule["verbs"].is_array(), "{rule} in {}", object["metadata"]["name"]);
            }
            if plural.ends_with("bindings") {
                let (kind, name) = (&object["roleRef"]["kind"], &object["roleRef"]["name"]);
                assert!(all.iter().any(|(_, o)| o["kind"] == *kind && o["metadata"]["name"] == *name), "{object}");
            }
        }
    }

    /// Upstream's ClusterRoles that its testdata lists for the features that are on, besides the controllers'.
    const UPSTREAM: [&str; 31] = [
        "admin",
        "cluster-admin",
        "edit",
        "system:aggregate-to-admin",
        "system:aggregate-to-edit",
        "system:aggregate-to-view",
        "system:auth-delegator",
        "system:basic-user",
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        "system:certificates.k8s.io:kubelet-serving-approver",
        "system:certificates.k8s.io:legacy-unknown-approver",
        "system:discovery",
        "system:heapster",
        "system:kube-aggregator",
        "system:kube-controller-manager",
        "system:kube-dns",
        "system:kube-scheduler",
        "system:kubelet-api-admin",
        "system:monitoring",
        "system:node",
        "system:node-bootstrapper",
        "system:node-problem-detector",
        "system:node-proxier",
        "system:persistent-volume-provisioner",
        "system:public-info-viewer",
        "system:service-account-issuer-discovery",
        "system:volume-scheduler",
        "view",
    ];

    #[test]
    fn the_policy_has_every_cluster_role_of_upstreams() {
        let all = objects();
        let has = |name: &str| {
            all.iter().any(|(plural, object)| *plural == "clusterroles" && object["metadata"]["name"] == name)
        };
        let missing: Vec<_> = UPSTREAM.iter().filter(|name| !has(name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn the_policy_permits_what_each_component_is_for() {
        let index = index();
        let may = |user: &str, groups: &[&str], verb: &str, group: &str, resource: &str, namespace: &str| {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let wanted = Attributes {
                verb: verb.into(),
                is_resource: true,
                group: group.into(),
                resource: resource.into(),
                subresource: subresource.into(),
                namespace: namespace.into(),
                ..Attributes::default()
            };
            index.allows(&UserInfo::new(user, groups), &wanted)
        };
        let table = [
            ("kubernetes-admin", &["kubeadm:cluster-admins"][..], "delete", "", "nodes", "", true),
            ("system:kube-scheduler", &[], "create", "", "pods/binding", "default", true),
            ("system:kube-scheduler", &[], "list", "", "secrets", "", false),
            ("system:kube-controller-manager", &[], "create", "apps", "replicasets", "default", true),
            ("system:kube-controller-manager", &[], "update", "apps", "deployments/status", "default", true),
            ("system:kube-controller-manager", &[], "create", "", "pods", "default", true),
            ("system:kube-proxy", &[], "watch", "discovery.k8s.io", "endpointslices", "", true),
            ("system:kube-proxy", &[], "get", "", "secrets", "default", false),
            ("somebody", &[], "create", "authorization.k8s.io", "selfsubjectaccessreviews", "", true),
            ("somebody", &[], "list", "", "pods", "default", false),
        ];
        for (user, groups, verb, group, resource, namespace, expected) in table {
            assert_eq!(may(user, groups, verb, group, resource, namespace), expected, "{user} {verb} {resource}");
        }
    }

    #[test]
    fn admin_edit_and_view_each_contain_the_next() {
        let all = objects();
        let rules = |name: &str| {
            let role = all.iter().find(|(_, o)| o["metadata"]["name"] == name).unwrap();
            role.1["rules"].as_array().unwrap().clone()
        };
        let (admin, edit, view) = (rules("admin"), rules("edit"), rules("view"));
        assert!(view.iter().all(|rule| edit.contains(rule)) && view.len() < edit.len());
        assert!(edit.iter().all(|rule| admin.contains(rule)) && edit.len() < admin.len());
    }

    #[test]
    fn what_people_added_to_the_policy_stays_and_what_they_took_comes_back() {
        let (_, wanted) = objects().remove(0);
        assert_eq!(completed(&wanted, &wanted), None);
        let mut changed = wanted.clone();
        changed["rules"] = json!([{ "verbs": ["get"], "apiGroups": ["x"], "resources": ["y"] }]);
        let result = completed(&changed, &wanted).unwrap();
        assert_eq!(result["rules"].as_array().unwrap().len(), 3);
        changed["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] = "false".into();
        assert_eq!(completed(&changed, &wanted), None);
    }
}
