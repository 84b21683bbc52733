use serde_json::json;

use super::*;

fn policy() -> Policy {
    let rule =
        |verbs: &[&str], resources: &[&str]| json!({ "verbs": verbs, "apiGroups": [""], "resources": resources });
    let subject = |kind: &str, name: &str| json!({ "kind": kind, "name": name, "namespace": "default" });
    Policy {
        roles: vec![
            json!({ "metadata": { "name": "reader", "namespace": "dev" }, "rules": [rule(&["get"], &["pods"])] }),
        ],
        cluster_roles: vec![
            json!({ "metadata": { "name": "lister" }, "rules": [rule(&["list"], &["nodes", "pods"])] }),
            json!({ "metadata": { "name": "part", "labels": { "to": "view" } }, "rules": [rule(&["watch"], &["pods"])] }),
            json!({ "metadata": { "name": "view" },
                "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "to": "view" } }] } }),
        ],
        role_bindings: vec![
            json!({ "metadata": { "namespace": "dev" }, "roleRef": { "kind": "Role", "name": "reader" },
                "subjects": [subject("User", "alice"), subject("ServiceAccount", "robot")] }),
            json!({ "metadata": { "namespace": "dev" }, "roleRef": { "kind": "ClusterRole", "name": "lister" },
                "subjects": [subject("Group", "devs")] }),
            json!({ "metadata": { "namespace": "dev" }, "roleRef": { "kind": "Role", "name": "gone" },
                "subjects": [subject("User", "alice")] }),
        ],
        cluster_role_bindings: vec![
            json!({ "metadata": { "name": "x" }, "roleRef": { "kind": "ClusterRole", "name": "lister" },
                "subjects": [subject("User", "carol")] }),
            json!({ "metadata": { "name": "y" }, "roleRef": { "kind": "ClusterRole", "name": "view" },
                "subjects": [subject("User", "dave")] }),
        ],
    }
}

fn wanted(verb: &str, resource: &str, namespace: &str) -> Attributes {
    Attributes {
        verb: verb.into(),
        is_resource: true,
        resource: resource.into(),
        namespace: namespace.into(),
        ..Attributes::default()
    }
}

#[test]
fn bindings_give_roles_to_users_groups_and_service_accounts_where_they_stand() {
    let index = Index::build(&policy());
    let robot = "system:serviceaccount:default:robot";
    let table = [
        (("alice", &[][..]), ("get", "pods", "dev"), true),
        (("alice", &[]), ("get", "pods", "prod"), false),
        (("alice", &[]), ("get", "pods", ""), false),
        ((robot, &[]), ("get", "pods", "dev"), true),
        (("bob", &["devs"]), ("list", "pods", "dev"), true),
        (("bob", &["devs"]), ("list", "nodes", ""), false),
        (("carol", &[]), ("list", "nodes", ""), true),
        (("carol", &[]), ("list", "pods", "prod"), true),
        (("dave", &[]), ("watch", "pods", "prod"), true),
        (("eve", &[]), ("watch", "pods", "prod"), false),
    ];
    for ((name, groups), (verb, resource, namespace), expected) in table {
        let user = UserInfo::new(name, groups);
        assert_eq!(
            index.allows(&user, &wanted(verb, resource, namespace)),
            expected,
            "{name} {verb} {resource} {namespace}"
        );
    }
}

#[test]
fn what_somebody_does_not_hold_is_missing_piece_by_piece() {
    let index = Index::build(&policy());
    let rules = [Rule {
        verbs: vec!["get".into(), "delete".into()],
        api_groups: vec![String::new()],
        resources: vec!["pods".into()],
        ..Rule::default()
    }];
    let missing = index.missing(&UserInfo::new("alice", &[]), "dev", &rules);
    let shown: Vec<String> = missing.iter().map(ToString::to_string).collect();
    assert_eq!(shown, [r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}"#]);
}

#[test]
fn a_refusal_says_who_may_not_do_what_where() {
    let alice = UserInfo::new("alice", &[]);
    let table = [
        (
            wanted("list", "pods", "default"),
            r#"pods is forbidden: User "alice" cannot list resource "pods" in API group "" in the namespace "default""#,
        ),
        (
            wanted("list", "nodes", ""),
            r#"nodes is forbidden: User "alice" cannot list resource "nodes" in API group "" at the cluster scope"#,
        ),
        (
            Attributes {
                group: "apps".into(),
                subresource: "scale".into(),
                name: "web".into(),
                ..wanted("update", "deployments", "dev")
            },
            r#"deployments.apps "web" is forbidden: User "alice" cannot update resource "deployments/scale" in API group "apps" in the namespace "dev""#,
        ),
        (
            Attributes { verb: "get".into(), path: "/metrics".into(), ..Attributes::default() },
            r#"forbidden: User "alice" cannot get path "/metrics""#,
        ),
    ];
    for (wanted, message) in table {
        let error = forbidden(&alice, &wanted, "");
        assert_eq!((error.code, error.message.as_str()), (403, message));
    }
}
