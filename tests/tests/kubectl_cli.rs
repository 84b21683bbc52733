//! What kubectl's own integration scripts ask of a server, with the oldest and the newest kubectl there is: the real
//! API server, controllers and scheduler, and a simulated node.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use coracle_tests::kubectl::oldest_and_newest;
use coracle_tests::parts::missing;
use coracle_tests::{Kubectl, Parts, Session, eventually, sections, specification};

fn main() {
    let sections = sections![
        api_versions_lists_v1,
        cluster_info_names_the_control_plane,
        version_prints_client_and_server,
        proxy_serves_the_api_on_a_unix_socket,
        proxy_on_port_0_picks_a_port_and_serves_the_api,
        resources_are_discovered_and_explained,
        run_with_restart_never_makes_one_pod,
        a_server_side_dry_run_of_a_patch_changes_nothing,
        diff_shows_a_changed_image_of_a_deployment,
        objects_are_got_in_every_form,
        labels_and_annotations_are_put_on_and_taken_off,
        objects_are_patched_replaced_and_edited,
        what_cannot_be_is_refused_in_kubectls_words,
        secrets_and_config_maps_are_made_of_literals_and_files,
        services_are_made_exposed_and_selected,
        deployments_are_rolled_out_undone_paused_and_restarted,
        images_environments_and_resources_are_set,
        workloads_are_scaled,
        jobs_are_made_of_cron_jobs,
        deletion_cascades_as_told,
        collections_are_deleted_by_label_and_all_at_once,
        applied_manifests_are_remembered_pruned_and_forced,
        applying_on_the_server_finds_conflicts,
        a_configuration_is_saved_with_the_object,
        roles_and_bindings_are_made_asked_and_reconciled,
        nodes_are_cordoned_and_tainted,
        volumes_claims_and_classes_are_kept,
        quotas_and_priorities_are_made,
        kubectl_waits_for_conditions_fields_and_ends,
        events_are_listed_for_their_object,
        custom_resources_are_as_good_as_built_in_ones,
    ];
    specification(sections, missing, start, Parts::report);
}

fn start() -> Parts {
    let parts = Parts::api_server();
    parts.controllers();
    parts.scheduler("scheduler");
    parts.kubelet("a");
    let kubectl = parts.kubectl("admin");
    eventually("the node is there", 20, || kubectl.names("nodes") == ["a"]);
    kubectl.ok("wait --for=condition=Ready node a --timeout=30s");
    parts
}

/// Plays a section with each kubectl, at home in a namespace of its own, whose name it is given.
#[track_caller]
fn each(parts: &Parts, section: &str, play: impl Fn(&Kubectl, &str)) {
    let admin = parts.kubectl("admin");
    for (number, program) in oldest_and_newest().iter().enumerate() {
        let namespace = format!("{section}-{number}");
        admin.ok(&format!("create namespace {namespace}"));
        eventually("the namespace has its ServiceAccount", 20, || {
            admin.names(&format!("serviceaccounts -n {namespace}")).contains(&"default".into())
        });
        eprintln!("with {}", program.display());
        play(&parts.kubectl_in(program, "admin", &namespace), &namespace);
        admin.ok(&format!("delete namespace {namespace} --wait=false"));
    }
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    parts.iter().for_each(|part| assert!(text.contains(part), "no {part:?} in {text}"));
}

const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: valid-pod, labels: {name: valid-pod}}
spec: {containers: [{name: main, image: 'serve:1', resources: {limits: {cpu: '1', memory: 512Mi}}}]}
";

fn deployment(name: &str, image: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec: {{containers: [{{name: nginx, image: '{image}'}}]}}
"
    )
}

fn api_versions_lists_v1(parts: &Parts) {
    each(parts, "versions", |kubectl, _| {
        let versions = kubectl.ok("api-versions");
        assert!(versions.lines().any(|line| line == "v1"), "{versions}");
        assert!(versions.lines().any(|line| line == "apps/v1"), "{versions}");
    });
}

fn cluster_info_names_the_control_plane(parts: &Parts) {
    each(parts, "info", |kubectl, _| {
        has(&kubectl.ok("cluster-info"), &["Kubernetes control plane", "is running at", "https://127.0.0.1:"]);
        let dump = kubectl.ok("cluster-info dump");
        has(&dump, &["\"kind\": \"NodeList\"", "\"kind\": \"PodList\""]);
    });
}

fn version_prints_client_and_server(parts: &Parts) {
    each(parts, "version", |kubectl, _| {
        has(&kubectl.ok("version"), &["Client Version", "Server Version"]);
        let json = kubectl.ok("version -o json");
        let version: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(
            (&version["serverVersion"]["major"], &version["serverVersion"]["minor"]),
            (&"1".into(), &"36".into())
        );
        for field in ["gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"] {
            assert!(version["serverVersion"][field].is_string(), "{field} in {version:#}");
        }
    });
}

fn proxy_serves_the_api_on_a_unix_socket(parts: &Parts) {
    each(parts, "socket", |kubectl, namespace| {
        let socket = parts.path(&format!("{namespace}.sock"));
        let proxy = kubectl.start(&format!("proxy --unix-socket={}", socket.display()));
        proxy.expect("Starting to serve on");
        let mut stream = UnixStream::connect(&socket).expect("it serves");
        stream.write_all(b"GET /api/ HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("it listens");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        has(&answer, &["200 OK", "APIVersions"]);
    });
}

fn proxy_on_port_0_picks_a_port_and_serves_the_api(parts: &Parts) {
    each(parts, "port0", |kubectl, _| {
        let proxy = kubectl.start("proxy --port=0 --disable-filter");
        let line = proxy.expect("Starting to serve on");
        let address = line.trim_start_matches("Starting to serve on").trim();
        assert!(!address.ends_with(":0"), "{line}");
        let answer = Session::new(address).request("GET", "/api/", "").expect("it answers");
        assert_eq!(answer.status, 200);
        has(&answer.body, &["APIVersions", "v1"]);
    });
}

fn resources_are_discovered_and_explained(parts: &Parts) {
    each(parts, "discovery", |kubectl, _| {
        let namespaced = kubectl.ok("api-resources --namespaced=true -o name");
        assert!(namespaced.lines().any(|line| line == "deployments.apps") && !namespaced.contains("nodes"));
        let not = kubectl.ok("api-resources --namespaced=false -o name");
        assert!(not.lines().any(|line| line == "nodes") && !not.contains("deployments.apps"));
        let all = kubectl.ok("api-resources --categories=all -o name");
        assert!(all.lines().all(|line| !line.contains("configmaps")) && all.contains("services"), "{all}");
        let wide = kubectl.ok("api-resources --api-group=apps -o wide --no-headers");
        let row = wide.lines().find(|line| line.starts_with("deployments")).expect("it is there");
        has(row, &["deploy", "apps/v1", "true", "Deployment", "create", "deletecollection", "watch"]);
        has(&kubectl.ok("explain pods"), &["KIND:", "Pod", "spec", "<PodSpec>"]);
        has(&kubectl.ok("explain deployments.spec.strategy.rollingUpdate"), &["maxSurge", "maxUnavailable"]);
        has(&kubectl.ok("explain cronjobs --api-version=batch/v1"), &["VERSION:", "schedule"]);
        has(&kubectl.ok("explain pods --recursive"), &["readinessProbe", "terminationGracePeriodSeconds"]);
        kubectl.run("explain pods.spec.nothing").fails("field \"nothing\" does not exist");
        has(&kubectl.ok("get --raw /openapi/v3"), &["apis/apps/v1"]);
        has(&kubectl.ok("get --raw /api/v1/namespaces/default"), &["\"name\":\"default\""]);
    });
}

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

fn secrets_and_config_maps_are_made_of_literals_and_files(parts: &Parts) {
    let file = parts.path("words.txt");
    std::fs::write(&file, "a\nb\n").expect("a file");
    let file = file.to_str().expect("text").to_owned();
    each(parts, "data", |kubectl, _| {
        kubectl.ok(&format!("create configmap map --from-literal=k=v --from-file={file}"));
        assert_eq!(kubectl.field("configmap map", r"{.data.k}{.data.words\.txt}"), "va\nb\n");
        kubectl.ok("create secret generic plain --from-literal=key-1=value1 --type=test-type");
        assert_eq!(kubectl.field("secret plain", "{.type} {.data.key-1}"), "test-type dmFsdWUx");
        kubectl.ok(
            "create secret docker-registry pull --docker-username=u --docker-password=p --docker-email=e@example.com",
        );
        assert_eq!(kubectl.field("secret pull", "{.type}"), "kubernetes.io/dockerconfigjson");
        has(&kubectl.ok("describe secret plain"), &["key-1:", "6 bytes"]);
        let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: text}\nstringData: {k: value1}";
        kubectl.apply(text);
        assert_eq!(kubectl.field("secret text", "{.data.k}{.stringData}"), "dmFsdWUx");
        kubectl.ok("create token default --duration=10m");
        kubectl.ok("create serviceaccount robot");
        has(&kubectl.ok("describe serviceaccount robot"), &["Name:", "robot"]);
    });
}

fn services_are_made_exposed_and_selected(parts: &Parts) {
    each(parts, "services", |kubectl, _| {
        kubectl.ok("create service clusterip plain --tcp=80:8080");
        kubectl.ok("create service nodeport np --tcp=80");
        kubectl.ok("create service externalname far --external-name=example.com");
        kubectl.ok("create service clusterip none --clusterip=None");
        assert_eq!(kubectl.field("service none", "{.spec.clusterIP}"), "None");
        let port: u32 = kubectl.field("service np", "{.spec.ports[0].nodePort}").parse().expect("a number");
        assert!((30000..32768).contains(&port));
        kubectl.ok("set selector service plain role=backend");
        assert_eq!(kubectl.field("service plain", "{.spec.selector}"), r#"{"role":"backend"}"#);
        kubectl.ok("create deployment web --image=serve:1 --replicas=2 --port=8080");
        kubectl.ok("expose deployment web --port=80 --target-port=8080 --name=front");
        assert_eq!(kubectl.field("service front", "{.spec.selector.app} {.spec.ports[0].targetPort}"), "web 8080");
        eventually("its endpoints are there", 30, || {
            kubectl.field("endpoints front", "{.subsets[*].addresses[*].ip}").split_whitespace().count() == 2
        });
        has(&kubectl.ok("describe service front"), &["Selector:", "app=web", "Endpoints:", ":8080"]);
        kubectl.ok("create ingress way --rule='example.com/a*=front:80,tls=cert' --class=default");
        has(&kubectl.ok("get ingress way"), &["example.com", "80, 443"]);
        let taken = kubectl.field("service front", "{.spec.clusterIP}");
        let twice = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: twice}}\nspec: {{clusterIP: {taken}, ports: [{{port: 1}}]}}"
        );
        kubectl.run_with("create -f -", &twice).fails("provided IP is already allocated");
    });
}

fn deployments_are_rolled_out_undone_paused_and_restarted(parts: &Parts) {
    each(parts, "rollout", |kubectl, _| {
        let image = || kubectl.field("deployment nginx", "{.spec.template.spec.containers[0].image}");
        let settled = || kubectl.ok("rollout status deployment/nginx --timeout=60s");
        kubectl.run_with("create -f -", &deployment("nginx", "serve:1")).ok();
        settled();
        kubectl.apply(&deployment("nginx", "serve:2"));
        settled();
        has(&kubectl.ok("rollout undo deployment nginx --dry-run=server"), &["rolled back (server dry run)"]);
        assert_eq!(image(), "serve:2");
        kubectl.ok("rollout undo deployment nginx --to-revision=1");
        assert_eq!(image(), "serve:1");
        kubectl
            .run("rollout undo deployment nginx --to-revision=1000000")
            .fails("unable to find specified revision 1000000");
        settled();
        kubectl.ok("rollout undo deployment nginx");
        assert_eq!(image(), "serve:2");
        settled();
        kubectl.ok("rollout pause deployment nginx");
        kubectl.run("rollout undo deployment nginx").fails("paused");
        kubectl.run("rollout restart deployment nginx").fails("paused");
        kubectl.ok("rollout resume deployment nginx");
        kubectl.ok("rollout restart deployment/nginx");
        settled();
        let history = kubectl.ok("rollout history deployment nginx");
        has(&history, &["REVISION", "CHANGE-CAUSE", "5"]);
        has(&kubectl.ok("rollout history deployment nginx --revision=5"), &["Pod Template:", "restartedAt", "serve:2"]);
        kubectl.run("rollout status deployment/nginx --revision=3").fails("error");
        has(
            &kubectl.ok("describe deployment nginx"),
            &["StrategyType:", "RollingUpdate", "NewReplicaSet:", "ScalingReplicaSet"],
        );
        kubectl.ok("autoscale deployment nginx --min=2 --max=3");
        assert_eq!(kubectl.field("hpa nginx", "{.spec.minReplicas} {.spec.maxReplicas}"), "2 3");
        kubectl.ok("delete hpa nginx");
    });
}

fn images_environments_and_resources_are_set(parts: &Parts) {
    each(parts, "set", |kubectl, _| {
        kubectl.run_with("create -f -", &deployment("nginx", "serve:1")).ok();
        let container =
            |path: &str| kubectl.field("deployment nginx", &format!("{{.spec.template.spec.containers[0].{path}}}"));
        kubectl.ok("set image deployment nginx nginx=serve:2 --dry-run=server");
        assert_eq!(container("image"), "serve:1");
        kubectl.ok("set image deployment nginx '*=serve:3'");
        assert_eq!(container("image"), "serve:3");
        kubectl.run("set image deployment nginx redis=redis").fails("unable to find container named \"redis\"");
        kubectl.ok("create configmap words --from-literal=a=b");
        kubectl.ok("set env deployment/nginx X=y");
        kubectl.ok("set env deployment nginx --from=configmap/words --prefix=MAP_");
        assert_eq!(container("env[*].name"), "X MAP_A");
        has(&kubectl.ok("set env deployment nginx --list"), &["X=y", "MAP_A from configmap words, key a"]);
        kubectl.ok("set env deployment/nginx X-");
        assert_eq!(container("env[*].name"), "MAP_A");
        kubectl.ok("set resources deployment nginx --limits=cpu=100m,memory=64Mi --requests=cpu=50m");
        assert_eq!(container("resources.limits.cpu"), "100m");
        kubectl.ok("set serviceaccount deployment nginx default");
        assert_eq!(kubectl.field("deployment nginx", "{.spec.template.spec.serviceAccountName}"), "default");
        kubectl.ok("create rolebinding b --role=r --user=ann");
        kubectl.ok("set subject rolebinding b --user=bob --group=crew");
        assert_eq!(kubectl.field("rolebinding b", "{.subjects[*].name}"), "ann bob crew");
    });
}

fn workloads_are_scaled(parts: &Parts) {
    each(parts, "scale", |kubectl, _| {
        for name in ["one", "two"] {
            kubectl.run_with("create -f -", &deployment(name, "serve:1")).ok();
        }
        let replicas = || kubectl.field("deployments", "{.items[*].spec.replicas}");
        kubectl.ok("scale deployment one two --replicas=2");
        assert_eq!(replicas(), "2 2");
        kubectl.run("scale deployment one --current-replicas=5 --replicas=1").fails("Expected replicas to be 5, was 2");
        kubectl.ok("scale deployments --all --replicas=0");
        assert_eq!(replicas(), "0 0");
        let rc = "apiVersion: v1\nkind: ReplicationController\nmetadata: {name: rc}\nspec: {replicas: 0, selector: {a: b}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: 'serve:1'}]}}}";
        kubectl.apply(rc);
        kubectl.ok("scale rc rc --replicas=1");
        eventually("its pod is there", 30, || kubectl.names("pods -l a=b").len() == 1);
        kubectl.run("scale deployment one --replicas=-1").fails("The --replicas=COUNT flag is required");
    });
}

fn jobs_are_made_of_cron_jobs(parts: &Parts) {
    each(parts, "jobs", |kubectl, _| {
        kubectl.ok("create cronjob pi --schedule='59 23 31 * *' --image=task:1 -- echo pi");
        kubectl.ok("create job test-job --from=cronjob/pi");
        assert_eq!(
            kubectl.field("job test-job", r"{.metadata.annotations.cronjob\.kubernetes\.io/instantiate}"),
            "manual"
        );
        kubectl.ok("create job once --image=task:1 -- echo once");
        kubectl.run("create cronjob bad --schedule='not a time' --image=x").fails("spec.schedule: Invalid value");
        has(&kubectl.ok("describe job once"), &["Parallelism:", "Completions:"]);
        has(&kubectl.ok("get cronjob pi"), &["59 23 31 * *", "False"]);
        kubectl.ok("delete cronjob pi");
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

fn roles_and_bindings_are_made_asked_and_reconciled(parts: &Parts) {
    each(parts, "rbac", |kubectl, namespace| {
        kubectl.ok("create role pod-admin --verb=* --resource=pods");
        assert_eq!(kubectl.field("role pod-admin", "{.rules[0].verbs} {.rules[0].resources}"), r#"["*"] ["pods"]"#);
        kubectl
            .run("create role bad --verb=get --resource=strange")
            .fails("the server doesn't have a resource type \"strange\"");
        kubectl.ok("create role scaler --verb=get,patch --resource=deployments.apps,deployments.apps/scale");
        kubectl.ok(&format!("create clusterrole {namespace} --verb=get --non-resource-url=/logs/*"));
        kubectl.ok(&format!("create clusterrolebinding {namespace} --clusterrole={namespace} --user=ann"));
        kubectl.ok("create rolebinding ann --role=pod-admin --user=ann");
        let can = |what: &str| kubectl.run(&format!("auth can-i {what} --as=ann")).stdout.trim().to_owned();
        assert_eq!([can("get pods"), can("get secrets"), can("get /logs/x")], ["yes", "no", "yes"]);
        assert_eq!(kubectl.ok("auth can-i '*' '*'"), "yes\n");
        has(&kubectl.ok("auth can-i --list --as=ann"), &["pods", "[*]"]);
        kubectl.run("get secrets --as=ann").fails(&format!("secrets is forbidden: User \"ann\" cannot list resource \"secrets\" in API group \"\" in the namespace \"{namespace}\""));
        let more = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: pod-admin, namespace: NS}\nrules: [{apiGroups: [''], resources: [services], verbs: [get]}]";
        has(&kubectl.run_with("auth reconcile -f -", &more.replace("NS", namespace)).ok(), &["reconciled"]);
        assert_eq!(kubectl.field("role pod-admin", "{.rules[*].resources[0]}"), "pods services");
        has(&kubectl.ok("describe role pod-admin"), &["PolicyRule:", "pods", "services"]);
        kubectl.ok(&format!("delete clusterrole,clusterrolebinding {namespace}"));
    });
}

fn nodes_are_cordoned_and_tainted(parts: &Parts) {
    each(parts, "nodes", |kubectl, namespace| {
        let node = "apiVersion: v1\nkind: Node\nmetadata: {name: NAME}\nstatus: {capacity: {memory: 1Gi}}"
            .replace("NAME", namespace);
        kubectl.run_with("create -f -", &node).ok();
        let taints = || kubectl.field(&format!("node {namespace}"), "{.spec.taints[*].key}");
        assert_eq!(
            kubectl.ok(&format!("taint node {namespace} dedicated=foo:PreferNoSchedule")),
            format!("node/{namespace} tainted\n")
        );
        has(&taints(), &["dedicated"]);
        kubectl.ok(&format!("taint node {namespace} dedicated-"));
        assert!(!taints().contains("dedicated"));
        kubectl.ok(&format!("cordon {namespace} --dry-run=server"));
        assert_eq!(kubectl.field(&format!("node {namespace}"), "{.spec.unschedulable}"), "");
        kubectl.ok(&format!("cordon {namespace}"));
        has(&kubectl.run(&format!("cordon {namespace}")).stdout, &["already cordoned"]);
        has(&kubectl.ok(&format!("get node {namespace}")), &["SchedulingDisabled"]);
        has(&kubectl.ok(&format!("drain {namespace}")), &["drained"]);
        kubectl.ok(&format!("uncordon {namespace}"));
        kubectl.ok(&format!("label node {namespace} zone=east"));
        assert_eq!(kubectl.names("nodes -l zone=east"), [namespace]);
        kubectl.ok(&format!("delete node {namespace}"));
    });
}

fn volumes_claims_and_classes_are_kept(parts: &Parts) {
    each(parts, "storage", |kubectl, namespace| {
        let pv = format!(
            "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {namespace}}}\nspec: {{capacity: {{storage: 10Gi}}, accessModes: [ReadWriteOnce], storageClassName: slow, hostPath: {{path: /tmp/data01}}}}"
        );
        kubectl.apply(&pv);
        has(&kubectl.ok(&format!("get pv {namespace}")), &["10Gi", "RWO", "Retain", "slow"]);
        let pvc = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: myclaim-1}\nspec: {storageClassName: slow, accessModes: [ReadWriteOnce], resources: {requests: {storage: 3Gi}}}";
        kubectl.apply(pvc);
        kubectl.ok("wait --for=jsonpath='{.status.phase}'=Bound pvc/myclaim-1 --timeout=30s");
        has(&kubectl.ok("describe pvc myclaim-1"), &["Status:", "Bound", "Capacity:", "10Gi"]);
        kubectl.ok("delete pvc myclaim-1");
        kubectl.ok(&format!("delete pv {namespace}"));
        let class = format!(
            "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {{name: {namespace}}}\nprovisioner: kubernetes.io/fake-provisioner-type\nparameters: {{zone: us-east-1b}}"
        );
        kubectl.apply(&class);
        has(
            &kubectl.ok(&format!("get sc {namespace}")),
            &["kubernetes.io/fake-provisioner-type", "Delete", "Immediate"],
        );
        kubectl.ok(&format!("delete sc {namespace}"));
    });
}

fn quotas_and_priorities_are_made(parts: &Parts) {
    each(parts, "quotas", |kubectl, namespace| {
        kubectl.ok("create quota test-quota --hard=cpu=1,pods=1 --scopes=NotTerminating");
        assert_eq!(kubectl.field("quota test-quota", "{.spec.hard.pods} {.spec.scopes[0]}"), "1 NotTerminating");
        kubectl.run_with("create -f -", POD).ok();
        let second = POD.replace("valid-pod", "second");
        kubectl.run_with("create -f -", &second).fails("exceeded quota: test-quota");
        eventually("the status counts it", 20, || kubectl.field("quota test-quota", "{.status.used.pods}") == "1");
        has(&kubectl.ok("describe quota test-quota"), &["Resource", "Used", "Hard"]);
        kubectl.ok(&format!("create priorityclass {namespace} --value=10 --description=test"));
        has(&kubectl.ok(&format!("get priorityclass {namespace}")), &["10", "false"]);
        kubectl.ok(&format!("delete priorityclass {namespace}"));
        for (name, flag, path) in
            [("b1", "--min-available=2", "minAvailable"), ("b2", "--max-unavailable=50%", "maxUnavailable")]
        {
            kubectl.ok(&format!("create pdb {name} --selector=app=rails {flag}"));
            assert_eq!(
                kubectl.field(&format!("pdb {name}"), &format!("{{.spec.{path}}}")),
                flag.split_once('=').expect("a value").1
            );
        }
        let limits = "apiVersion: v1\nkind: LimitRange\nmetadata: {name: limits}\nspec: {limits: [{type: Pod, max: {cpu: '2'}}]}";
        kubectl.apply(limits);
        has(&kubectl.ok("describe limits limits"), &["Pod", "cpu", "2"]);
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

fn custom_resources_are_as_good_as_built_in_ones(parts: &Parts) {
    each(parts, "crd", |kubectl, namespace| {
        let group = format!("{namespace}.example.com");
        kubectl.apply(&format!(
            "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: foos.{group}}}
spec:
  group: {group}
  scope: Namespaced
  names: {{plural: foos, kind: Foo, shortNames: [f]}}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns: [{{name: Field, type: string, jsonPath: .someField}}]
    schema: {{openAPIV3Schema: {{type: object, properties: {{someField: {{type: string}}}}}}}}
"
        ));
        kubectl.ok(&format!("wait --for=condition=Established crd/foos.{group} --timeout=30s"));
        let custom =
            |value: &str| format!("apiVersion: {group}/v1\nkind: Foo\nmetadata: {{name: test}}\nsomeField: {value}");
        eventually("it is served", 20, || kubectl.run(&format!("get foos.{group}")).code == 0);
        kubectl.apply(&custom("field1"));
        has(&kubectl.ok(&format!("get foos.{group}")), &["FIELD", "field1"]);
        kubectl.ok(&format!(r#"patch foos.{group}/test --type=merge -p '{{"someField":"field2"}}'"#));
        assert_eq!(kubectl.field(&format!("foos.{group} test"), "{.someField}"), "field2");
        kubectl.run(&format!(r#"patch foos.{group}/test -p '{{"someField":"x"}}'"#)).fails("strategic");
        kubectl.ok(&format!("label foos.{group}/test a=b"));
        assert_eq!(kubectl.names(&format!("foos.{group} -l a=b")), ["test"]);
        kubectl
            .run_with("create -f - --validate=strict", &custom("3").replace("name: test", "name: other"))
            .fails("someField");
        kubectl.ok(&format!("delete foos.{group} --all"));
        kubectl.ok(&format!("delete crd foos.{group}"));
    });
}
