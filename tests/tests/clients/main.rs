//! What kubectl can do beside the main story, with each promised version; and what programs in pods can.

use coracle_tests::kubectl::{self, columns};
use coracle_tests::{Cluster, Kubectl, Section, Session, eventually, sections, specification};

mod apps;
mod nodes;
mod replicas;
mod streams;

const SECTIONS: &[Section<Cluster>] = sections![
    objects_are_created_by_command,
    manifests_are_applied_compared_and_changed,
    manifests_are_applied_on_the_server,
    the_api_describes_itself,
    a_pod_is_run_exposed_and_asked,
    a_job_completes,
    a_pod_sees_all_that_it_was_given,
    names_are_resolved_in_pods,
    a_program_in_a_pod_uses_the_api_with_its_token,
    a_running_pod_is_debugged,
    a_node_is_drained,
    a_namespace_goes_with_all_that_is_in_it,
];

fn main() {
    let missing = coracle_tests::cluster::missing;
    let start = || Cluster::start(&["busybox:1.37", "coracle/echo:1.0"]);
    specification(
        &[streams::SECTIONS, replicas::SECTIONS, apps::SECTIONS, nodes::SECTIONS, SECTIONS].concat(),
        missing,
        start,
        Cluster::report,
    );
}

/// Each kubectl with a namespace of its own.
fn versions(cluster: &Cluster) -> Vec<(Kubectl, String)> {
    let programs = kubectl::programs();
    let each = programs.iter().enumerate();
    each.map(|(i, program)| (cluster.kubectl_by(program), format!("version-{i}"))).collect()
}

fn objects_are_created_by_command(cluster: &Cluster) {
    for (kubectl, ns) in versions(cluster) {
        assert_eq!(kubectl.ok(&format!("create namespace {ns}")), format!("namespace/{ns} created\n"));
        let created = [
            ("configmap settings --from-literal=a=b", "configmap/settings"),
            ("secret generic password --from-literal=p=q", "secret/password"),
            ("deployment web --image=coracle/echo:1.0 --replicas=2 --port=8080", "deployment.apps/web"),
            ("service clusterip web --tcp=80:8080", "service/web"),
            ("service externalname far --external-name=example.com", "service/far"),
            ("job once --image=busybox:1.37 -- echo once", "job.batch/once"),
            ("cronjob often --image=busybox:1.37 --schedule='0 0 1 1 *' -- echo often", "cronjob.batch/often"),
            ("serviceaccount robot", "serviceaccount/robot"),
            ("role reader --verb=get --resource=pods", "role.rbac.authorization.k8s.io/reader"),
            ("rolebinding reader --role=reader --user=ann", "rolebinding.rbac.authorization.k8s.io/reader"),
            ("ingress web --rule=example.com/=web:80", "ingress.networking.k8s.io/web"),
            ("quota limits --hard=pods=20", "resourcequota/limits"),
            ("poddisruptionbudget web --selector=app=web --min-available=1", "poddisruptionbudget.policy/web"),
        ];
        for (line, object) in created {
            assert_eq!(kubectl.ok(&format!("create -n {ns} {line}")), format!("{object} created\n"));
        }
        assert_eq!(kubectl.field(&format!("secret password -n {ns}"), "{.data.p}"), "cQ==");
        kubectl.ok(&format!("rollout status deployment/web -n {ns} --timeout=60s"));
        kubectl.ok(&format!("wait --for=condition=complete job/once -n {ns} --timeout=60s"));
        assert_eq!(kubectl.ok(&format!("logs job/once -n {ns}")), "once\n");
        let dry =
            format!("create deployment dry --image=x -n {ns} --dry-run=server -o jsonpath='{{.spec.strategy.type}}'");
        assert_eq!(kubectl.ok(&dry), "RollingUpdate");
        kubectl.run(&format!("get deployment dry -n {ns}")).fails("not found");
        kubectl.ok(&format!("delete ingress,cronjob,quota,poddisruptionbudget --all -n {ns}"));
    }
}

fn manifests_are_applied_compared_and_changed(cluster: &Cluster) {
    for (kubectl, ns) in versions(cluster) {
        let manifest = |colour: &str, second: &str| {
            format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: boat, namespace: {ns}, labels: {{colour: {colour}}}}}\ndata: {{first: a{second}}}"
            )
        };
        let (old, new) = (manifest("red", ", second: b"), manifest("blue", ""));
        assert_eq!(kubectl.apply(&old), "configmap/boat created\n");
        assert_eq!(kubectl.apply(&old), "configmap/boat unchanged\n");
        assert_eq!(kubectl.run_with("diff -f -", &old).ok(), "");
        let diff = kubectl.run_with("diff -f -", &new);
        assert_eq!(diff.code, 1, "{diff}");
        assert!(diff.stdout.contains("-  second: b") && diff.stdout.contains("+    colour: blue"), "{diff}");
        assert_eq!(kubectl.apply(&new), "configmap/boat configured\n");
        // What others wrote stays; what the manifest no longer has goes.
        assert_eq!(
            kubectl.field(&format!("configmap boat -n {ns}"), "{.data.second}{.metadata.labels.colour}"),
            "blue"
        );
        kubectl.ok(&format!("annotate configmap boat -n {ns} by=others"));
        kubectl.apply(&old);
        assert_eq!(
            kubectl.field(&format!("configmap boat -n {ns}"), "{.data.second}{.metadata.annotations.by}"),
            "bothers"
        );
        assert_eq!(kubectl.run_with("delete -f -", &old).ok(), "configmap \"boat\" deleted\n");
    }
}

fn manifests_are_applied_on_the_server(cluster: &Cluster) {
    for (kubectl, ns) in versions(cluster) {
        let manifest = |replicas: &str| {
            format!(
                r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: shared, namespace: {ns}}}
spec:
  {replicas}
  selector: {{matchLabels: {{app: shared}}}}
  template:
    metadata: {{labels: {{app: shared}}}}
    spec: {{containers: [{{name: c, image: "coracle/echo:1.0"}}]}}
"#
            )
        };
        let apply = "apply --server-side -f -";
        assert_eq!(
            kubectl.run_with(apply, &manifest("replicas: 0")).ok(),
            "deployment.apps/shared serverside-applied\n"
        );
        let managers = kubectl.field(&format!("deployment shared -n {ns}"), "{.metadata.managedFields[*].manager}");
        assert!(managers.contains("kubectl"), "{managers}");
        // A field that the applier gives up and nobody else holds falls back to its default.
        kubectl.run_with(apply, &manifest("")).ok();
        assert_eq!(kubectl.field(&format!("deployment shared -n {ns}"), "{.spec.replicas}"), "1");
        kubectl.ok(&format!("delete deployment shared -n {ns}"));
    }
}

fn the_api_describes_itself(cluster: &Cluster) {
    for (kubectl, _) in versions(cluster) {
        let explained = kubectl.ok("explain deployment.spec.strategy");
        for expected in [
            "GROUP:      apps",
            "KIND:       Deployment",
            "FIELD: strategy <DeploymentStrategy>",
            "rollingUpdate\t<RollingUpdateDeployment>",
        ] {
            assert!(explained.contains(expected), "no {expected:?} in {explained}");
        }
        assert!(kubectl.ok("explain pod.spec.containers --recursive").contains("livenessProbe"));
        let resources = kubectl.ok("api-resources");
        assert_eq!(columns(&resources), ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"]);
        for resource in ["pods", "deployments", "jobs", "storageclasses", "roles", "endpointslices", "leases", "events"]
        {
            assert!(resources.lines().any(|line| line.starts_with(&format!("{resource} "))), "no {resource}");
        }
        assert!(kubectl.ok("api-versions").lines().any(|version| version == "apps/v1"));
        assert!(kubectl.ok("cluster-info").contains("is running at"));
        assert!(kubectl.ok("version").contains("Server Version: v1.36."));
        assert_eq!(kubectl.ok("get --raw /readyz"), "ok");
        assert!(kubectl.ok("get --raw /readyz?verbose").ends_with("readyz check passed\n"));
        assert!(kubectl.ok("get --raw /api/v1/namespaces/default").contains("\"kind\":\"Namespace\""));
        assert!(kubectl.ok("get --raw /metrics").contains("# TYPE apiserver_request_total counter"));
        assert_eq!(kubectl.ok("auth can-i '*' '*'"), "yes\n");
        assert!(kubectl.ok("auth can-i --list").contains("*.*"));
        assert!(kubectl.ok("auth whoami").contains("kubernetes-admin"));
        assert_eq!(kubectl.ok("config current-context").lines().count(), 1);
    }
}

fn a_pod_is_run_exposed_and_asked(cluster: &Cluster) {
    for (kubectl, ns) in versions(cluster) {
        assert_eq!(
            kubectl.ok(&format!("run asked --image=coracle/echo:1.0 --port=8080 -n {ns}")),
            "pod/asked created\n"
        );
        assert_eq!(
            kubectl.ok(&format!("expose pod asked --port=80 --target-port=8080 --type=NodePort -n {ns}")),
            "service/asked exposed\n"
        );
        kubectl.ok(&format!("wait --for=condition=Ready pod asked -n {ns} --timeout=60s"));
        let field = |path: &str| kubectl.field(&format!("service asked -n {ns}"), path);
        let addresses = [field("{.spec.clusterIP}"), format!("127.0.0.1:{}", field("{.spec.ports[0].nodePort}"))];
        for address in addresses {
            let mut session = Session::new(&address);
            eventually(&format!("{address} answers"), 10, || {
                session.get("/").is_ok_and(|response| response.body.contains("hostname=asked\n"))
            });
        }
        // It reads before it speaks, or it might be over before kubectl listens.
        let script = "read way; wget -qO- http://asked/$way";
        let line = "run asking --rm -i --quiet --restart=Never --image=busybox:1.37";
        let said = kubectl.run_with(&format!("{line} -n {ns} -- sh -c '{script}'"), "way\n");
        assert!(said.stdout.contains("hostname=asked") && said.stdout.contains("GET /way"), "{said}");
        kubectl.run(&format!("get pod asking -n {ns}")).fails("not found");
        kubectl.ok(&format!("delete pod,service asked -n {ns}"));
    }
}

fn a_job_completes(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.apply(
        r#"
apiVersion: batch/v1
kind: Job
metadata: {name: five}
spec:
  completions: 5
  parallelism: 3
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: busybox:1.37, command: [sh, -c, "echo number $JOB_COMPLETION_INDEX"]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: hopeless}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: busybox:1.37, command: ["false"]}]
"#,
    );
    assert_eq!(kubectl.ok("wait --for=condition=complete job/five --timeout=90s"), "job.batch/five condition met\n");
    let row = kubectl.ok("get job five --no-headers");
    assert_eq!(row.split_whitespace().take(3).collect::<Vec<_>>(), ["five", "Complete", "5/5"]);
    let logs = kubectl.ok("logs -l job-name=five --tail=-1");
    assert!((0..5).all(|index| logs.contains(&format!("number {index}\n"))), "{logs}");
    kubectl.ok("wait --for=condition=failed job/hopeless --timeout=60s");
    let reason = kubectl.field("job hopeless", "{.status.conditions[?(@.type==\"Failed\")].reason}");
    assert_eq!(reason, "BackoffLimitExceeded");
    kubectl.ok("delete job five hopeless");
    eventually("its pods go with it", 30, || kubectl.names("pods -l job-name").is_empty());
}

fn a_pod_sees_all_that_it_was_given(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.ok("create configmap given --from-literal=word=bread --from-literal=other=butter");
    kubectl.ok("create secret generic given --from-literal=word=salt");
    kubectl.apply(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: given
  labels: {colour: red}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {runAsUser: 1234, runAsGroup: 1235, fsGroup: 1236}
  initContainers:
    - name: first
      image: busybox:1.37
      command: [sh, -c, "echo from the first > /scratch/note"]
      volumeMounts: [{name: scratch, mountPath: /scratch}]
    - name: side
      image: busybox:1.37
      restartPolicy: Always
      command: [sh, -c, "touch /scratch/side; trap exit TERM; while :; do sleep 0.2; done"]
      startupProbe: {exec: {command: [cat, /scratch/side]}, periodSeconds: 1}
      volumeMounts: [{name: scratch, mountPath: /scratch}]
  containers:
    - name: c
      image: busybox:1.37
      command: [sh, -c]
      args:
        - |
          echo "$NAME $COLOUR $WORD $SECRET $(GREETING) $LIMIT $other"
          cat /scratch/note /all/word /all/labels /all/hidden/word /one/bread
          ls /scratch; id -u; id -g; pwd
          touch /all/word 2>&1; touch /root-file 2>&1
          exec sleep 1000
      workingDir: /scratch
      env:
        - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: COLOUR, valueFrom: {fieldRef: {fieldPath: "metadata.labels['colour']"}}}
        - {name: WORD, valueFrom: {configMapKeyRef: {name: given, key: word}}}
        - {name: SECRET, valueFrom: {secretKeyRef: {name: given, key: word}}}
        - {name: GREETING, value: "hello $(NAME)"}
        - {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
      envFrom: [{configMapRef: {name: given}}]
      resources: {limits: {memory: 32Mi, cpu: 500m}}
      securityContext: {readOnlyRootFilesystem: true}
      readinessProbe: {exec: {command: [cat, /one/bread]}, periodSeconds: 1}
      volumeMounts:
        - {name: scratch, mountPath: /scratch}
        - {name: all, mountPath: /all}
        - {name: config, mountPath: /one/bread, subPath: word}
  volumes:
    - {name: scratch, emptyDir: {}}
    - {name: config, configMap: {name: given}}
    - name: all
      projected:
        sources:
          - configMap: {name: given, items: [{key: word, path: word}]}
          - secret: {name: given, items: [{key: word, path: hidden/word}]}
          - downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}
"#,
    );
    kubectl.ok("wait --for=condition=Ready pod given --timeout=60s");
    assert_eq!(kubectl.ok("get pod given --no-headers").split_whitespace().nth(1), Some("2/2"));
    eventually("it has said all", 10, || kubectl.ok("logs given").contains("root-file"));
    let said = kubectl.ok("logs given");
    let lines: Vec<&str> = said.lines().collect();
    let expected = [
        "given red bread salt hello given 32 butter",
        "from the first",
        "breadcolour=\"red\"saltbreadnote",
        "side",
        "1234",
        "1235",
        "/scratch",
        "touch: /all/word: Read-only file system",
        "touch: /root-file: Read-only file system",
    ];
    assert_eq!(lines, expected);
    // What changes in a ConfigMap arrives in the volume.
    kubectl.ok(r#"patch configmap given -p '{"data":{"word":"cake"}}'"#);
    eventually("the new word arrives", 90, || kubectl.ok("exec given -- cat /all/word") == "cake");
    kubectl.ok("delete pod given");
}

fn names_are_resolved_in_pods(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: resolver, labels: {app: named}}
spec:
  hostname: host-a
  subdomain: named
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: busybox:1.37, command: [sleep, "10000"]}]
---
apiVersion: v1
kind: Service
metadata: {name: named}
spec: {clusterIP: None, selector: {app: named}}
"#,
    );
    kubectl.ok("wait --for=condition=Ready pod resolver --timeout=60s");
    let ip = kubectl.field("pod resolver", "{.status.podIP}");
    let api = kubectl.field("service kubernetes", "{.spec.clusterIP}");
    let names = [
        ("kubernetes", &api),
        ("kubernetes.default", &api),
        ("kubernetes.default.svc.cluster.local", &api),
        ("named", &ip),
        ("host-a.named.default.svc.cluster.local", &ip),
    ];
    for (name, address) in names {
        // The whole way: search path, DNS Service, server.
        let line = format!("exec resolver -- ping -c1 -W1 {name}");
        eventually(&format!("{name} is {address}"), 10, || kubectl.run(&line).stdout.contains(&format!("({address})")));
    }
    let full = kubectl.run("exec resolver -- nslookup kubernetes.default.svc.cluster.local");
    assert!(full.stdout.contains(&api), "{full}");
    let none = kubectl.run("exec resolver -- nslookup none.default.svc.cluster.local");
    assert_ne!(none.code, 0, "{none}");
    kubectl.ok("delete service named");
    kubectl.ok("delete pod resolver");
}

fn a_program_in_a_pod_uses_the_api_with_its_token(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let program = kubectl.program.canonicalize().expect("it was found");
    kubectl.ok("create serviceaccount insider");
    kubectl.ok("create role insider --verb=get,list --resource=pods");
    kubectl.ok("create rolebinding insider --role=insider --serviceaccount=default:insider");
    kubectl.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: insider}}
spec:
  serviceAccountName: insider
  terminationGracePeriodSeconds: 0
  containers:
    - name: c
      image: busybox:1.37
      command: [sleep, "10000"]
      volumeMounts: [{{name: kubectl, mountPath: /kubectl}}]
  volumes: [{{name: kubectl, hostPath: {{path: {}, type: File}}}}]
"#,
        program.display()
    ));
    kubectl.ok("wait --for=condition=Ready pod insider --timeout=60s");
    assert_eq!(kubectl.ok("exec insider -- cat /var/run/secrets/kubernetes.io/serviceaccount/namespace"), "default");
    // kubectl finds the server by the environment, trusts it by the mounted certificate, and shows the mounted token.
    assert!(kubectl.ok("exec insider -- /kubectl auth whoami").contains("system:serviceaccount:default:insider"));
    assert_eq!(kubectl.ok("exec insider -- /kubectl get pod insider -o name"), "pod/insider\n");
    kubectl
        .run("exec insider -- /kubectl get secrets")
        .fails("secrets is forbidden: User \"system:serviceaccount:default:insider\" cannot list resource \"secrets\"");
    kubectl.ok("delete pod,role,rolebinding insider");
}

fn a_running_pod_is_debugged(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.ok("run subject --image=coracle/echo:1.0");
    kubectl.ok("wait --for=condition=Ready pod subject --timeout=60s");
    kubectl.ok("debug subject --image=busybox:1.37 --container=looker --target=subject --profile=general -- sh -c 'ps; sleep 1000'");
    eventually("the ephemeral container runs", 30, || kubectl.run("logs subject -c looker").stdout.contains("echo"));
    assert!(kubectl.ok("exec subject -c looker -- wget -qO- http://127.0.0.1:8080/").contains("hostname=subject"));
    kubectl.ok("delete pod subject --grace-period=1");
}

fn a_node_is_drained(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    kubectl.ok("create deployment moving --image=coracle/echo:1.0 --replicas=4");
    kubectl.ok("rollout status deployment/moving --timeout=60s");
    let on = |node: &str| kubectl.names(&format!("pods -l app=moving --field-selector spec.nodeName={node}")).len();
    assert!(on("coracle-1") > 0 && on("coracle-2") > 0);
    assert_eq!(kubectl.ok("cordon coracle-2"), "node/coracle-2 cordoned\n");
    let row = kubectl.ok("get node coracle-2 --no-headers");
    assert_eq!(row.split_whitespace().nth(1), Some("Ready,SchedulingDisabled"));
    let said = kubectl.ok("drain coracle-2 --ignore-daemonsets --delete-emptydir-data --force --timeout=90s");
    assert!(said.ends_with("node/coracle-2 drained\n"), "{said}");
    kubectl.ok("rollout status deployment/moving --timeout=60s");
    assert_eq!((on("coracle-1"), on("coracle-2")), (4, 0));
    assert_eq!(kubectl.ok("uncordon coracle-2"), "node/coracle-2 uncordoned\n");
    kubectl.ok("scale deployment moving --replicas=8");
    kubectl.ok("rollout status deployment/moving --timeout=60s");
    assert!(on("coracle-2") > 0);
    kubectl.ok("delete deployment moving");
}

fn a_namespace_goes_with_all_that_is_in_it(cluster: &Cluster) {
    for (kubectl, ns) in versions(cluster) {
        assert!(!kubectl.names(&format!("pods -n {ns}")).is_empty());
        assert_eq!(
            kubectl.ok(&format!("delete namespace {ns} --timeout=90s")),
            format!("namespace \"{ns}\" deleted\n")
        );
        kubectl.run(&format!("get namespace {ns}")).fails(&format!("namespaces \"{ns}\" not found"));
        assert_eq!(
            kubectl
                .ok("get all,configmaps,secrets -A -o jsonpath='{.items[*].metadata.namespace}'")
                .matches(&ns)
                .count(),
            0
        );
    }
    let kubectl = cluster.kubectl();
    kubectl
        .run("delete namespace default")
        .fails("namespaces \"default\" is forbidden: this namespace may not be deleted");
}
