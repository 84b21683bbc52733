//! What is refused, and how: each as upstream says it, and nothing half written.

use coracle_tests::{Cluster, Kubectl, eventually, sections, specification, wait_until};

fn main() {
    let sections = sections![
        unreadable_manifests_are_refused,
        unknown_fields_are_refused,
        fields_of_the_wrong_type_are_refused,
        invalid_objects_are_refused_with_every_cause,
        what_must_not_change_does_not,
        what_is_not_there_is_said_not_to_be,
        a_lost_race_is_a_conflict,
        who_has_no_right_is_told_which,
        a_service_account_has_the_rights_it_was_given,
        nobody_gives_rights_they_lack,
        images_that_are_missing_show_in_the_pods_status,
        configuration_that_is_missing_shows_in_the_pods_status,
        pods_that_fit_nowhere_say_why,
    ];
    let missing = coracle_tests::cluster::missing;
    specification(sections, missing, || Cluster::start(&["busybox:1.37"]), Cluster::report);
}

fn absent(kubectl: &Kubectl, what: &str) {
    assert_eq!(kubectl.ok(&format!("get {what} --ignore-not-found -o name")), "", "nothing is half written");
}

fn unreadable_manifests_are_refused(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.run_with("apply -f -", "kind: ConfigMap\n  apiVersion: v1").fails("error converting YAML to JSON");
    kubectl.run_with("apply -f -", "apiVersion: v1\nmetadata: {name: x}").fails("error validating data: kind not set");
    kubectl
        .run_with("apply -f -", "apiVersion: v1\nkind: Boat\nmetadata: {name: x}")
        .fails("no matches for kind \"Boat\" in version \"v1\"");
    kubectl.run("get boats").fails("error: the server doesn't have a resource type \"boats\"");
}

fn unknown_fields_are_refused(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let manifest = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: typo}
spec:
  replica: 2
  selector: {matchLabels: {app: typo}}
  template:
    metadata: {labels: {app: typo}}
    spec: {containers: [{name: c, image: busybox:1.37, comand: [sh]}]}
"#;
    let said = kubectl.run_with("apply -f -", manifest).fails("Error from server (BadRequest): ");
    let expected = "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: \
                    unknown field \"spec.replica\", unknown field \"spec.template.spec.containers[0].comand\"";
    assert!(said.contains(expected), "{said}");
    absent(&kubectl, "deployment typo");
    let lenient = kubectl.run_with("apply --validate=warn --dry-run=server -f -", manifest);
    assert!(lenient.stderr.contains("Warning: unknown field \"spec.replica\""), "{lenient}");
    assert_eq!(lenient.ok(), "deployment.apps/typo created (server dry run)\n");
    absent(&kubectl, "deployment typo");
}

fn fields_of_the_wrong_type_are_refused(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: typed}\ndata: {a: 1}";
    kubectl
        .run_with("apply -f -", manifest)
        .fails("json: cannot unmarshal number into Go struct field ConfigMap.data of type string");
    absent(&kubectl, "configmap typed");
}

fn invalid_objects_are_refused_with_every_cause(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let name = kubectl.run("create configmap Bad_Name").fails("ConfigMap \"Bad_Name\" is invalid: metadata.name: ");
    let rule = "Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
                characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', \
                regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    assert!(name.contains(rule), "{name}");
    let service = r#"
apiVersion: v1
kind: Service
metadata: {name: wrong}
spec: {ports: [{port: 70000}, {port: 80, protocol: FTP}]}
"#;
    let said = kubectl.run_with("apply -f -", service).fails("The Service \"wrong\" is invalid: ");
    for cause in [
        "* spec.ports[0].name: Required value",
        "* spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
        "* spec.ports[1].protocol: Unsupported value: \"FTP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
    ] {
        assert!(said.contains(cause), "no {cause:?} in {said}");
    }
    absent(&kubectl, "service wrong");
    let deployment = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: wrong}
spec:
  replicas: -1
  selector: {matchLabels: {app: a}}
  template:
    metadata: {labels: {app: b}}
    spec: {containers: [{name: c, image: busybox:1.37, resources: {requests: {cpu: 2}, limits: {cpu: 1}}}]}
"#;
    let said = kubectl.run_with("apply -f -", deployment).fails("The Deployment \"wrong\" is invalid: ");
    for cause in [
        "* spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        "`selector` does not match template `labels`",
        "* spec.template.spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
    ] {
        assert!(said.contains(cause), "no {cause:?} in {said}");
    }
    absent(&kubectl, "deployment wrong");
    kubectl.ok("create service nodeport one --tcp=80 --node-port=30999");
    kubectl
        .run("create service nodeport two --tcp=80 --node-port=30999")
        .fails("spec.ports[0].nodePort: Invalid value: 30999: provided port is already allocated");
    absent(&kubectl, "service two");
    kubectl.ok("delete service one");
}

fn what_must_not_change_does_not(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.ok("create deployment fixed --image=busybox:1.37 --replicas=0");
    let other =
        r#"{"spec":{"selector":{"matchLabels":{"app":"other"}},"template":{"metadata":{"labels":{"app":"other"}}}}}"#;
    kubectl.run(&format!("patch deployment fixed --type=merge -p '{other}'")).fails("field is immutable");
    kubectl.ok("delete deployment fixed");
    kubectl.ok("create configmap frozen --from-literal=a=b");
    kubectl.ok(r#"patch configmap frozen -p '{"immutable":true}'"#);
    kubectl
        .run(r#"patch configmap frozen -p '{"data":{"a":"c"}}'"#)
        .fails("data: Forbidden: field is immutable when `immutable` is set");
    assert_eq!(kubectl.field("configmap frozen", "{.data.a}"), "b");
}

fn what_is_not_there_is_said_not_to_be(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.run("get pod none").fails("Error from server (NotFound): pods \"none\" not found");
    kubectl.run("delete deployment none").fails("Error from server (NotFound): deployments.apps \"none\" not found");
    kubectl
        .run("logs none")
        .fails("error: error from server (NotFound): pods \"none\" not found in namespace \"default\"");
    kubectl
        .run("scale deployment none --replicas=1")
        .fails("error: no objects passed to scale deployments.apps \"none\" not found");
    kubectl
        .run("create configmap x --namespace=nowhere")
        .fails("error: failed to create configmap: namespaces \"nowhere\" not found");
    kubectl.ok("create configmap twice");
    kubectl
        .run("create configmap twice")
        .fails("error: failed to create configmap: configmaps \"twice\" already exists");
}

fn a_lost_race_is_a_conflict(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.ok("create configmap raced --from-literal=a=1");
    let mut mine = kubectl.json("configmap raced");
    kubectl.ok(r#"patch configmap raced -p '{"data":{"a":"2"}}'"#);
    mine["data"]["a"] = "3".into();
    kubectl.run_with("replace -f -", &mine.to_string()).fails(
        "Operation cannot be fulfilled on configmaps \"raced\": the object has been modified; \
         please apply your changes to the latest version and try again",
    );
    assert_eq!(kubectl.field("configmap raced", "{.data.a}"), "2");
    let manifest =
        |value: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: owned}}\ndata: {{a: {value}}}");
    kubectl.run_with("apply --server-side --field-manager=one -f -", &manifest("first")).ok();
    let said = kubectl
        .run_with("apply --server-side --field-manager=two -f -", &manifest("second"))
        .fails("Apply failed with 1 conflict: conflict with \"one\": .data.a");
    assert!(said.contains("--force-conflicts"), "{said}");
    kubectl.run_with("apply --server-side --field-manager=two --force-conflicts -f -", &manifest("second")).ok();
    assert_eq!(kubectl.field("configmap owned", "{.data.a}"), "second");
}

fn who_has_no_right_is_told_which(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.run("get pods --as=jane").fails(
        "Error from server (Forbidden): pods is forbidden: User \"jane\" cannot list resource \"pods\" \
         in API group \"\" in the namespace \"default\"",
    );
    kubectl.run("create configmap janes --as=jane").fails(
        "configmaps is forbidden: User \"jane\" cannot create resource \"configmaps\" in API group \"\" in the namespace \"default\"",
    );
    absent(&kubectl, "configmap janes");
    kubectl.run("get nodes --as=jane").fails("cannot list resource \"nodes\" in API group \"\" at the cluster scope");
    kubectl.run("delete deployment none --as=jane").fails(
        "deployments.apps \"none\" is forbidden: User \"jane\" cannot delete resource \"deployments\" in API group \"apps\"",
    );
    let answer = kubectl.run("auth can-i delete nodes --as=jane");
    assert_eq!((answer.code, answer.stdout.as_str()), (1, "no\n"));
    assert_eq!(kubectl.ok("auth can-i delete nodes"), "yes\n");
}

/// kubectl with a ServiceAccount's token and nothing else.
fn by_token(cluster: &Cluster, account: &str) -> Kubectl {
    let admin = cluster.kubectl();
    let token = admin.ok(&format!("create token {account}"));
    let kubeconfig = cluster.folder().join(format!("{account}.conf"));
    std::fs::copy(&admin.kubeconfig, &kubeconfig).expect("a copy of the kubeconfig");
    let kubectl = Kubectl { kubeconfig, ..admin };
    kubectl.ok(&format!("config set-credentials {account} --token={}", token.trim()));
    kubectl.ok(&format!("config set-context --current --user={account}"));
    kubectl
}

fn a_service_account_has_the_rights_it_was_given(cluster: &Cluster) {
    let admin = cluster.kubectl();
    admin.ok("create serviceaccount reader");
    let reader = by_token(cluster, "reader");
    assert!(reader.ok("auth whoami").contains("system:serviceaccount:default:reader"));
    reader
        .run("get configmaps")
        .fails("User \"system:serviceaccount:default:reader\" cannot list resource \"configmaps\"");
    admin.ok("create role reader --verb=get,list,watch --resource=configmaps");
    admin.ok("create rolebinding reader --role=reader --serviceaccount=default:reader");
    eventually("the right is given", 5, || reader.run("get configmaps").code == 0);
    reader.run("get configmaps -n kube-system").fails("in the namespace \"kube-system\"");
    reader.run("delete configmap kube-root-ca.crt").fails("cannot delete resource \"configmaps\"");
    admin.ok("delete rolebinding reader");
    eventually("the right is taken", 5, || reader.run("get configmaps").code != 0);
    admin.ok("delete serviceaccount reader");
    eventually("the token is worthless", 15, || {
        reader.run("get configmaps").stderr.contains("You must be logged in to the server")
    });
}

fn nobody_gives_rights_they_lack(cluster: &Cluster) {
    let admin = cluster.kubectl();
    admin.ok("create clusterrole granter --verb=create --resource=roles,rolebindings");
    admin.ok("create clusterrolebinding granter --clusterrole=granter --user=eve");
    admin.run("create role everything --verb=* --resource=secrets --as=eve").fails(
        "user \"eve\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held",
    );
    absent(&admin, "role everything");
    admin.ok("delete clusterrole,clusterrolebinding granter");
}

fn waiting(kubectl: &Kubectl, pod: &str) -> (String, String) {
    let path =
        "{.status.containerStatuses[0].state.waiting.reason}|{.status.containerStatuses[0].state.waiting.message}";
    let state = kubectl.field(&format!("pod {pod}"), path);
    let (reason, message) = state.split_once('|').unwrap_or_default();
    (reason.to_owned(), message.to_owned())
}

fn events(kubectl: &Kubectl, pod: &str) -> String {
    kubectl.ok(&format!("get events --field-selector involvedObject.name={pod}"))
}

fn images_that_are_missing_show_in_the_pods_status(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.ok("run unpullable --image=localhost:1/none:1");
    kubectl.ok("run unpulled --image=none:1 --image-pull-policy=Never");
    kubectl.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: unnamed}, spec: {containers: [{name: c, image: Not//AnImage}]}}",
    );
    let mut seen = vec![];
    eventually("the pull is given up for now", 30, || {
        let (reason, message) = waiting(&kubectl, "unpullable");
        if reason == "ImagePullBackOff" {
            assert!(message.starts_with("Back-off pulling image \"localhost:1/none:1\""), "{message}");
        }
        seen.push(reason);
        seen.last().is_some_and(|reason| reason == "ImagePullBackOff")
    });
    assert!(
        seen.iter()
            .all(|reason| ["", "ContainerCreating", "ErrImagePull", "ImagePullBackOff"].contains(&reason.as_str())),
        "{seen:?}"
    );
    let story = events(&kubectl, "unpullable");
    for event in [
        "Pulling image \"localhost:1/none:1\"",
        "Failed to pull image \"localhost:1/none:1\": ",
        "Error: ErrImagePull",
        "Back-off pulling image \"localhost:1/none:1\"",
        "Error: ImagePullBackOff",
    ] {
        assert!(story.contains(event), "no {event:?} in\n{story}");
    }
    eventually("it is never pulled", 20, || {
        waiting(&kubectl, "unpulled")
            == (
                "ErrImageNeverPull".into(),
                "Container image \"none:1\" is not present with pull policy of Never".into(),
            )
    });
    eventually("the name is no image's", 20, || waiting(&kubectl, "unnamed").0 == "InvalidImageName");
    assert_eq!(kubectl.field("pod unpullable", "{.status.phase}"), "Pending");
    kubectl.ok("delete pod unpullable unpulled unnamed --grace-period=1");
}

fn configuration_that_is_missing_shows_in_the_pods_status(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: unconfigured}
spec:
  containers:
    - name: c
      image: busybox:1.37
      command: [sleep, "1000"]
      env: [{name: A, valueFrom: {configMapKeyRef: {name: late, key: a}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: unmounted}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: busybox:1.37, command: [sleep, "1000"], volumeMounts: [{name: v, mountPath: /v}]}]
  volumes: [{name: v, secret: {secretName: late}}]
---
apiVersion: v1
kind: Pod
metadata: {name: misspelt}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: busybox:1.37, command: [sleeep]}]
"#,
    );
    eventually("the ConfigMap is missed", 30, || {
        waiting(&kubectl, "unconfigured")
            == ("CreateContainerConfigError".into(), "configmap \"late\" not found".into())
    });
    wait_until("the Secret is missed", 30, || {
        let missed = "MountVolume.SetUp failed for volume \"v\" : secret \"late\" not found";
        events(&kubectl, "unmounted").contains(missed).then_some(())
    });
    assert_eq!(waiting(&kubectl, "unmounted").0, "ContainerCreating");
    eventually("the program is missed", 30, || {
        kubectl.ok("describe pod misspelt").contains("exec: \"sleeep\": executable file not found in $PATH")
    });
    // Once it is there, all goes on by itself.
    kubectl.ok("create configmap late --from-literal=a=b");
    kubectl.ok("create secret generic late --from-literal=a=b");
    kubectl.ok("wait --for=condition=Ready pod unconfigured unmounted --timeout=120s");
    kubectl.ok("delete pod unconfigured unmounted misspelt --grace-period=0 --force");
}

fn pods_that_fit_nowhere_say_why(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: large}
spec: {containers: [{name: c, image: busybox:1.37, resources: {requests: {cpu: 1k, memory: 1Ki}}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: picky}
spec: {nodeSelector: {disk: golden}, containers: [{name: c, image: busybox:1.37, command: [sleep, "1000"]}], terminationGracePeriodSeconds: 0}
"#,
    );
    let unschedulable = |pod: &str| {
        let path = "{.status.conditions[?(@.type==\"PodScheduled\")].reason}|{.status.conditions[?(@.type==\"PodScheduled\")].message}";
        kubectl.field(&format!("pod {pod}"), path)
    };
    let said = [
        ("large", "0/2 nodes are available: 2 Insufficient cpu. "),
        ("picky", "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. "),
    ];
    for (pod, message) in said {
        eventually("the scheduler says why", 20, || {
            unschedulable(pod).starts_with(&format!("Unschedulable|{message}"))
        });
        let story = events(&kubectl, pod);
        assert!(story.contains("FailedScheduling") && story.contains(message), "{story}");
        assert!(story.contains("preemption: 0/2 nodes are available: 2 "), "{story}");
        assert_eq!(kubectl.field(&format!("pod {pod}"), "{.status.phase}"), "Pending");
    }
    kubectl.ok("label node coracle-2 disk=golden");
    kubectl.ok("wait --for=condition=Ready pod picky --timeout=30s");
    assert_eq!(kubectl.field("pod picky", "{.spec.nodeName}"), "coracle-2");
    kubectl.ok("delete pod large picky --wait=false");
}
