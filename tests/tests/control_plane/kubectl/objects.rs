//! Objects: got, labelled, patched, replaced, edited, refused, deleted.

use coracle_tests::{Parts, Section, eventually, sections};

use super::{POD, deployment, each, has};

pub const SECTIONS: &[Section<Parts>] = sections![
    run_with_restart_never_makes_one_pod,
    a_server_side_dry_run_of_a_patch_changes_nothing,
    what_is_left_out_is_filled_in,
    objects_are_got_in_every_form,
    labels_and_annotations_are_put_on_and_taken_off,
    objects_are_patched_replaced_and_edited,
    what_cannot_be_is_refused_in_kubectls_words,
    deletion_cascades_as_told,
    collections_are_deleted_by_label_and_all_at_once,
    kubectl_waits_for_conditions_fields_and_ends,
    events_are_listed_for_their_object,
];

fn run_with_restart_never_makes_one_pod(parts: &Parts) {
    each(parts, "run", |kubectl, _| {
        assert_eq!(
            kubectl.ok("run e2e-test-httpd-pod --restart=Never --image=httpd:1"),
            "pod/e2e-test-httpd-pod created\n"
        );
        let pod = kubectl.json("pod e2e-test-httpd-pod");
        assert_eq!(
            (&pod["spec"]["restartPolicy"], &pod["spec"]["containers"][0]["image"]),
            (&"Never".into(), &"httpd:1".into())
        );
        assert_eq!(kubectl.names("pods").len(), 1);
        assert_eq!(pod["metadata"]["labels"]["run"], "e2e-test-httpd-pod");
        kubectl.ok("run dry --image=httpd:1 --dry-run=server");
        kubectl.run("get pod dry").fails("not found");
    });
}

fn a_server_side_dry_run_of_a_patch_changes_nothing(parts: &Parts) {
    each(parts, "dry", |kubectl, _| {
        kubectl.ok("run e2e-test-httpd-pod --image=httpd:1 --labels=run=e2e-test-httpd-pod");
        let patch = r#"{"spec":{"containers":[{"name":"e2e-test-httpd-pod","image":"busybox:1"}]}}"#;
        let said = kubectl.ok(&format!("patch pod e2e-test-httpd-pod -p '{patch}' --dry-run=server"));
        assert_eq!(said, "pod/e2e-test-httpd-pod patched\n");
        assert_eq!(kubectl.field("pod e2e-test-httpd-pod", "{.spec.containers[0].image}"), "httpd:1");
        for line in
            ["label pod e2e-test-httpd-pod a=b", "annotate pod e2e-test-httpd-pod a=b", "delete pod e2e-test-httpd-pod"]
        {
            has(&kubectl.ok(&format!("{line} --dry-run=server")), &["(server dry run)"]);
        }
        assert_eq!(kubectl.field("pod e2e-test-httpd-pod", "{.metadata.labels.a}{.metadata.annotations.a}"), "");
    });
}

fn what_is_left_out_is_filled_in(parts: &Parts) {
    each(parts, "defaults", |kubectl, _| {
        kubectl.run_with("create -f -", POD).ok();
        kubectl.run_with("create -f -", &deployment("web", "serve:latest")).ok();
        let pod = "{.spec.restartPolicy} {.spec.dnsPolicy} {.spec.schedulerName} {.spec.serviceAccountName}";
        assert_eq!(kubectl.field("pod valid-pod", pod), "Always ClusterFirst default-scheduler default");
        let container = "{.spec.containers[0].resources.requests.memory} {.spec.containers[0].imagePullPolicy}";
        assert_eq!(kubectl.field("pod valid-pod", container), "512Mi IfNotPresent");
        let rollout = "{.spec.strategy.rollingUpdate.maxSurge} {.spec.revisionHistoryLimit} {.spec.template.spec.containers[0].imagePullPolicy}";
        assert_eq!(kubectl.field("deployment web", rollout), "25% 10 Always");
        let generation = || kubectl.field("deployment web", "{.metadata.generation}");
        assert_eq!(generation(), "1");
        kubectl.ok("label deployment web a=b");
        assert_eq!(generation(), "1", "labels are no wish");
        kubectl.ok("scale deployment web --replicas=0");
        assert_eq!(generation(), "2");
        let nameless = POD.replace("name: valid-pod,", "generateName: made-,");
        let made = kubectl.run_with("create -o name -f -", &nameless).ok();
        assert!(made.starts_with("pod/made-") && made.trim_end().len() == "pod/made-".len() + 5, "{made}");
    });
}

fn objects_are_got_in_every_form(parts: &Parts) {
    each(parts, "get", |kubectl, namespace| {
        assert_eq!(kubectl.run("get pods").stderr, format!("No resources found in {namespace} namespace.\n"));
        kubectl.run("get pods abc").fails("pods \"abc\" not found");
        assert_eq!(kubectl.ok("get pods abc --ignore-not-found"), "");
        kubectl.run("get strange").fails("the server doesn't have a resource type \"strange\"");
        kubectl.run_with("create -f -", POD).ok();
        kubectl.ok("run other --image=serve:1 --labels=tier=back");
        assert_eq!(kubectl.ok("get pods -o name"), "pod/other\npod/valid-pod\n");
        assert_eq!(kubectl.ok("get po/valid-pod -o jsonpath='{.metadata.name}'"), "valid-pod");
        assert_eq!(
            kubectl.ok("get pods -l tier=back -o go-template='{{range .items}}{{.metadata.name}}{{end}}'"),
            "other"
        );
        assert_eq!(kubectl.ok("get pods -l 'name in (valid-pod),!tier' -o name"), "pod/valid-pod\n");
        assert_eq!(kubectl.ok("get pods --field-selector metadata.name=other -o name"), "pod/other\n");
        kubectl.run("get pods --field-selector spec.nothing=1").fails("field label not supported: spec.nothing");
        let columns = kubectl
            .ok("get pods -o custom-columns=N:.metadata.name,I:.spec.containers[0].image --sort-by=.metadata.name");
        assert_eq!(
            columns.split_whitespace().collect::<Vec<_>>(),
            ["N", "I", "other", "serve:1", "valid-pod", "serve:1"]
        );
        has(&kubectl.ok("get pods --show-labels -L tier"), &["TIER", "LABELS", "name=valid-pod"]);
        has(&kubectl.ok("get pods,services --show-kind -A"), &["pod/valid-pod", "service/kubernetes"]);
        has(&kubectl.ok("get pods --chunk-size=1 -o wide"), &["NODE", "other", "valid-pod"]);
        has(&kubectl.ok("get pod valid-pod -o yaml"), &["kind: Pod", "qosClass: Guaranteed"]);
        let all = kubectl.json("pods,configmaps");
        assert_eq!(all["kind"], "List");
        assert_eq!(kubectl.json("pods")["items"][0]["kind"], "Pod");
        has(
            &kubectl.ok("describe pods valid-pod"),
            &["Name:", "valid-pod", "Limits:", "cpu:", "QoS Class:", "Guaranteed"],
        );
        let watch = kubectl.start("get pods --watch-only -o name");
        eventually("the watch sees a change", 20, || {
            kubectl.ok("annotate pod other --overwrite seen=yes");
            kubectl.ok("annotate pod other seen-");
            true
        });
        watch.expect("pod/other");
        kubectl.run("get pods --request-timeout=1ns").fails("deadline exceeded");
    });
}

fn labels_and_annotations_are_put_on_and_taken_off(parts: &Parts) {
    each(parts, "labels", |kubectl, _| {
        kubectl.run_with("create -f -", POD).ok();
        assert_eq!(kubectl.ok("label pods valid-pod new-name=new-valid-pod"), "pod/valid-pod labeled\n");
        kubectl.run("label pods valid-pod new-name=other").fails("--overwrite is false");
        kubectl.ok("label pods valid-pod new-name=other --overwrite");
        kubectl.ok("label pods valid-pod emptylabel=");
        kubectl.run("label pods valid-pod bad=a/b").fails("a valid label must be");
        assert_eq!(kubectl.field("pods -l emptylabel=", "{.items[0].metadata.labels.new-name}"), "other");
        kubectl.ok("annotate pods valid-pod note='two words'");
        kubectl.ok("annotate pods valid-pod note-");
        kubectl.ok("label pods --all emptylabel-");
        assert_eq!(kubectl.field("pod valid-pod", "{.metadata.annotations.note}{.metadata.labels.emptylabel}"), "");
        kubectl.run("label pods valid-pod a=b --resource-version=1").fails("the object has been modified");
        assert_eq!(
            kubectl.run_with("label --local -f - local=yes -o jsonpath='{.metadata.labels.local}'", POD).ok(),
            "yes"
        );
        assert_eq!(kubectl.field("pod valid-pod", "{.metadata.labels.local}"), "");
    });
}

fn objects_are_patched_replaced_and_edited(parts: &Parts) {
    let script = parts.path("editor.sh");
    std::fs::write(&script, "#!/bin/sh\nsed -i 's/serve:1/edited:1/' \"$1\"\n").expect("a file");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, executable).expect("it is ours");
    each(parts, "patch", |kubectl, _| {
        kubectl.run_with("create -f -", POD).ok();
        let image = || kubectl.field("pod valid-pod", "{.spec.containers[0].image}");
        kubectl.ok(r#"patch pod valid-pod -p '{"spec":{"containers":[{"name":"main","image":"second:1"}]}}'"#);
        assert_eq!(image(), "second:1");
        kubectl.ok(r#"patch pod valid-pod --type=json -p '[{"op":"replace","path":"/spec/containers/0/image","value":"third:1"}]'"#);
        assert_eq!(image(), "third:1");
        kubectl.ok(r#"patch pod valid-pod --type=merge -p '{"metadata":{"labels":{"merged":"yes"}}}'"#);
        kubectl
            .run(r#"patch pod valid-pod --type=json -p '[{"op":"remove","path":"/spec/nothing"}]'"#)
            .fails("the server rejected our request due to an error in our request");
        has(
            &kubectl.ok(r#"patch pod valid-pod -p '{"metadata":{"labels":{"merged":"yes"}}}'"#),
            &["patched (no change)"],
        );
        // Numbers beyond a double's precision are kept.
        kubectl.ok(r#"patch pod valid-pod -p '{"spec":{"activeDeadlineSeconds":2147483647}}'"#);
        assert_eq!(kubectl.field("pod valid-pod", "{.spec.activeDeadlineSeconds}"), "2147483647");
        kubectl
            .run(r#"patch pod valid-pod -p '{"spec":{"nodeName":"nowhere"}}'"#)
            .fails("pod updates may not change fields other than");
        assert_eq!(kubectl.run_with("replace --force --grace-period=0 -f -", POD).code, 0);
        assert_eq!(image(), "serve:1");
        let edited = kubectl.run_env("edit pod valid-pod", "EDITOR", script.to_str().expect("text"));
        has(&edited.ok(), &["pod/valid-pod edited"]);
        assert_eq!(image(), "edited:1");
        assert_eq!(kubectl.run_with("replace -f -", &POD.replace("valid-pod", "absent")).code, 1);
    });
}

fn what_cannot_be_is_refused_in_kubectls_words(parts: &Parts) {
    each(parts, "refused", |kubectl, _| {
        let unknown = deployment("bad", "x").replace("replicas: 1", "replicsa: 1");
        kubectl.run_with("create -f -", &unknown).fails("strict decoding error: unknown field \"spec.replicsa\"");
        let warned = kubectl.run_with("create -f - --validate=warn", &unknown);
        has(&warned.stderr, &["Warning: unknown field \"spec.replicsa\""]);
        kubectl.run_with("create -f -", &deployment("bad", "x")).fails("deployments.apps \"bad\" already exists");
        let negative = deployment("worse", "x").replace("replicas: 1", "replicas: -1");
        kubectl
            .run_with("create -f -", &negative)
            .fails("spec.replicas: Invalid value: -1: must be greater than or equal to 0");
        let mismatch = deployment("worse", "x").replacen("{app: worse}}\n", "{app: other}}\n", 2);
        assert_ne!(
            kubectl
                .run_with(
                    "create -f -",
                    &mismatch.replace("metadata: {labels: {app: worse}}", "metadata: {labels: {app: else}}")
                )
                .code,
            0
        );
        kubectl
            .run_with("create -f -", "apiVersion: v1\nkind: Strange\nmetadata: {name: x}")
            .fails("no matches for kind \"Strange\" in version \"v1\"");
        kubectl.run("create configmap Bad_Name").fails("a lowercase RFC 1123 subdomain must consist of");
        kubectl.run("delete pod absent").fails("pods \"absent\" not found");
        assert_eq!(kubectl.ok("delete pod absent --ignore-not-found"), "");
    });
}

fn deletion_cascades_as_told(parts: &Parts) {
    each(parts, "cascade", |kubectl, _| {
        let sets = || kubectl.names("replicasets");
        kubectl.run_with("create -f -", &deployment("nginx", "serve:1")).ok();
        eventually("its ReplicaSet is there", 20, || sets().len() == 1);
        kubectl.ok("delete deployment nginx --cascade=orphan");
        assert_eq!(sets().len(), 1);
        kubectl.run_with("create -f -", &deployment("nginx", "serve:1")).ok();
        eventually("it is adopted", 20, || {
            kubectl.field("replicasets", "{.items[*].metadata.ownerReferences[*].name}") == "nginx"
        });
        kubectl.ok("delete deployment nginx --cascade=foreground --timeout=60s");
        assert!(sets().is_empty());
        kubectl.run_with("create -f -", POD).ok();
        assert_eq!(kubectl.run("delete pod valid-pod --now").code, 0);
        assert!(!kubectl.names("pods").contains(&"valid-pod".into()));
        kubectl.run_with("create -f -", POD).ok();
        has(
            &kubectl.run("delete pod valid-pod --grace-period=0 --force").stderr,
            &["Immediate deletion does not wait"],
        );
        assert!(!kubectl.names("pods").contains(&"valid-pod".into()));
    });
}

fn collections_are_deleted_by_label_and_all_at_once(parts: &Parts) {
    each(parts, "collections", |kubectl, _| {
        for (name, colour) in [("one", "red"), ("two", "red"), ("three", "blue")] {
            kubectl.ok(&format!("create configmap {name}"));
            kubectl.ok(&format!("label configmap {name} colour={colour}"));
        }
        kubectl.ok("delete configmaps -l colour=red --dry-run=server");
        assert_eq!(kubectl.names("configmaps -l colour").len(), 3);
        kubectl.ok("delete configmaps -l colour=red");
        assert_eq!(kubectl.names("configmaps -l colour"), ["three"]);
        kubectl.ok("delete configmaps --field-selector metadata.name=three");
        assert!(kubectl.names("configmaps -l colour").is_empty());
        kubectl.ok("create configmap left");
        kubectl.ok("delete configmaps,secrets --all");
        assert!(!kubectl.names("configmaps").contains(&"left".into()));
    });
}

fn kubectl_waits_for_conditions_fields_and_ends(parts: &Parts) {
    each(parts, "wait", |kubectl, _| {
        for name in ["one", "two"] {
            kubectl.run_with("create -f -", &deployment(name, "serve:1")).ok();
        }
        let said = kubectl.ok("wait deployments --all --for=condition=Available --timeout=60s");
        has(&said, &["deployment.apps/one condition met", "deployment.apps/two condition met"]);
        kubectl.ok("wait --for=jsonpath='{.status.readyReplicas}'=1 deployment/one --timeout=30s");
        kubectl
            .run("wait --for=condition=Nothing deployment/one --timeout=1s")
            .fails("timed out waiting for the condition");
        kubectl.ok("delete deployment one --wait=false");
        kubectl.ok("wait --for=delete deployment/one --timeout=30s");
        kubectl.run("wait --for=condition=Available deployment/none --timeout=1s").fails("not found");
    });
}

fn events_are_listed_for_their_object(parts: &Parts) {
    each(parts, "events", |kubectl, _| {
        kubectl.run_with("create -f -", &deployment("nginx", "serve:1")).ok();
        kubectl.ok("rollout status deployment/nginx --timeout=60s");
        has(&kubectl.ok("events --for=deployment/nginx"), &["ScalingReplicaSet", "Scaled up replica set"]);
        has(&kubectl.ok("get events --sort-by=.lastTimestamp"), &["SuccessfulCreate", "Scheduled"]);
        let normal = kubectl.ok(
            "get events --field-selector involvedObject.kind=ReplicaSet -o jsonpath='{.items[*].involvedObject.kind}'",
        );
        assert!(normal.split_whitespace().all(|kind| kind == "ReplicaSet") && !normal.is_empty(), "{normal}");
        assert_eq!(kubectl.run("events --types=Warning --for=deployment/nginx").stdout, "");
    });
}
