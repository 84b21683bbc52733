//! `kubectl apply` and `kubectl diff`: from the client, and on the server.

use coracle_tests::{Parts, Section, sections};

use super::{POD, deployment, each, has};

pub const SECTIONS: &[Section<Parts>] = sections![
    diff_shows_a_changed_image_of_a_deployment,
    applied_manifests_are_remembered_pruned_and_forced,
    applying_on_the_server_finds_conflicts,
    a_configuration_is_saved_with_the_object,
];

fn diff_shows_a_changed_image_of_a_deployment(parts: &Parts) {
    each(parts, "diff", |kubectl, _| {
        let (old, new) = (deployment("httpd", "httpd:1"), deployment("httpd", "busybox:1"));
        let before = kubectl.run_with("diff -f -", &old);
        assert_eq!(before.code, 1, "what is not there differs: {before}");
        has(&before.stdout, &["+kind: Deployment"]);
        kubectl.apply(&old);
        assert_eq!(kubectl.run_with("diff -f -", &old).ok(), "");
        let diff = kubectl.run_with("diff -f -", &new);
        assert_eq!(diff.code, 1, "{diff}");
        has(&diff.stdout, &["-      - image: httpd:1", "+      - image: busybox:1"]);
        let bad = kubectl.run_with("diff -f -", &old.replace("replicas: 1", "replicas: -1"));
        assert!(bad.code > 1, "an error is no difference: {bad}");
    });
}

fn applied_manifests_are_remembered_pruned_and_forced(parts: &Parts) {
    each(parts, "apply", |kubectl, namespace| {
        let map = |name: &str, value: &str| {
            format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{set: one}}}}\ndata: {{k: '{value}'}}\n---\n"
            )
        };
        kubectl.run_with("apply --prune -l set=one -f -", &(map("a", "1") + &map("b", "1"))).ok();
        let pruned =
            kubectl.run_with("apply --prune -l set=one --prune-allowlist=core/v1/ConfigMap -f -", &map("a", "2"));
        has(&pruned.ok(), &["configmap/a configured", "configmap/b pruned"]);
        assert_eq!(kubectl.names("configmaps -l set=one"), ["a"]);
        has(&kubectl.ok("apply view-last-applied configmap/a -o json"), &["\"k\": \"2\""]);
        kubectl.run_with("apply set-last-applied -f -", &map("a", "3")).ok();
        has(&kubectl.ok("apply view-last-applied configmap/a"), &["\"3\""]);
        let list = format!(
            "apiVersion: v1\nkind: List\nitems:\n- {{apiVersion: v1, kind: ConfigMap, metadata: {{name: c, namespace: {namespace}}}}}\n- {{apiVersion: v1, kind: Secret, metadata: {{name: d, namespace: {namespace}}}}}\n"
        );
        assert_eq!(kubectl.apply(&list), "configmap/c created\nsecret/d created\n");
        assert_eq!(kubectl.apply(&list), "configmap/c unchanged\nsecret/d unchanged\n");
        // What is immutable is made anew by force.
        kubectl.apply(&deployment("nginx", "serve:1"));
        let other = deployment("nginx", "serve:1").replace("{app: nginx}", "{app: other}");
        kubectl.run_with("apply -f -", &other).fails("field is immutable");
        kubectl.run_with("apply --force -f -", &other).ok();
        assert_eq!(kubectl.field("deployment nginx", "{.spec.selector.matchLabels.app}"), "other");
        let dry = kubectl.run_with("apply --dry-run=server -f -", &map("new", "1"));
        has(&dry.ok(), &["configmap/new created (server dry run)"]);
        kubectl.run("get configmap new").fails("not found");
        kubectl.ok("apply -k examples/wordpress-mysql --dry-run=server");
    });
}

fn applying_on_the_server_finds_conflicts(parts: &Parts) {
    each(parts, "ssa", |kubectl, _| {
        let map = |value: &str| {
            format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: shared}}\ndata: {{k: '{value}'}}")
        };
        let apply = |manager: &str, more: &str, value: &str| {
            kubectl.run_with(&format!("apply --server-side --field-manager={manager} {more} -f -"), &map(value))
        };
        assert_eq!(apply("one", "", "1").ok(), "configmap/shared serverside-applied\n");
        apply("two", "", "2").fails("Apply failed with 1 conflict: conflict with \"one\": .data.k");
        apply("two", "", "1").ok();
        apply("two", "--force-conflicts", "2").ok();
        let managers = kubectl.field("configmap shared --show-managed-fields", "{.metadata.managedFields[*].manager}");
        assert_eq!(managers, "two", "the other holds nothing any more");
        kubectl.run_with("apply -f -", &map("3")).ok();
        assert_eq!(kubectl.field("configmap shared", "{.data.k}"), "3");
    });
}

fn a_configuration_is_saved_with_the_object(parts: &Parts) {
    each(parts, "save", |kubectl, _| {
        let saved = |what: &str| {
            kubectl.field(what, r"{.metadata.annotations.kubectl\.kubernetes\.io/last-applied-configuration}")
        };
        kubectl.run_with("create --save-config -f -", POD).ok();
        has(&saved("pod valid-pod"), &["\"name\":\"valid-pod\""]);
        kubectl.run_with("create -f -", &deployment("nginx", "serve:1")).ok();
        assert_eq!(saved("deployment nginx"), "");
        kubectl.ok("expose deployment nginx --port=80 --save-config");
        has(&saved("service nginx"), &["\"kind\":\"Service\""]);
        kubectl.ok("autoscale deployment nginx --max=2 --save-config");
        has(&saved("hpa nginx"), &["maxReplicas"]);
    });
}
