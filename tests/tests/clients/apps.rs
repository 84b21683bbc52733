//! Workloads whose processes decide what becomes of them: the conformance suite's rows of area `apps` for which a process
//! must really run.

use coracle_tests::{Cluster, Kubectl, Section, eventually, sections};
use serde_json::{Value, json};

pub const SECTIONS: &[Section<Cluster>] = sections![
    jobs_end_as_their_processes_and_policies_say,
    evicted_indexes_run_again_where_disruptions_are_ignored,
    a_suspended_job_is_resumed_and_completes,
    a_stateful_set_scales_in_order_and_halts_at_an_unhealthy_pod,
    a_parallel_stateful_set_scales_although_its_pods_are_unhealthy,
    a_stateful_set_is_updated_and_rolled_back_from_the_top,
    a_pod_of_a_stateful_set_that_its_node_refuses_is_made_anew,
    a_stuck_rollout_is_scaled_in_proportion_and_overtaken,
];

/// A template of one container that runs a script in the shell, with a directory of the pod's own at `/scratch`.
fn template(labels: &Value, script: &str) -> Value {
    json!({
        "metadata": { "labels": labels },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "c", "image": "busybox:1.37", "command": ["sh", "-c", script],
                "volumeMounts": [{ "name": "scratch", "mountPath": "/scratch" }],
            }],
            "volumes": [{ "name": "scratch", "emptyDir": {} }],
        },
    })
}

fn job(name: &str, more: &Value, script: &str) -> Value {
    let mut spec = more.clone();
    let restart = spec["restartPolicy"].take();
    spec.as_object_mut().map(|spec| spec.remove("restartPolicy"));
    spec["template"] = template(&json!({ "of": name }), script);
    spec["template"]["spec"]["restartPolicy"] = if restart.is_null() { json!("Never") } else { restart };
    json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name, "labels": { "suite": "apps" } }, "spec": spec })
}

/// A failure policy of one rule.
fn on_exit(action: &str, code: i32) -> Value {
    json!({ "rules": [{ "action": action, "onExitCodes": { "operator": "In", "values": [code] } }] })
}

fn succeeds_with(rule: Value) -> Value {
    json!({ "completions": 5, "parallelism": 5, "completionMode": "Indexed", "successPolicy": { "rules": [rule] } })
}

fn jobs_end_as_their_processes_and_policies_say(cluster: &Cluster) {
    let kubectl = &cluster.kubectl();
    let indexed = |completions: i32, more: Value| {
        let mut spec = json!({ "completions": completions, "parallelism": completions, "completionMode": "Indexed" });
        more.as_object().into_iter().flatten().for_each(|(key, value)| spec[key] = value.clone());
        spec
    };
    const INDEXES: &str = "{.status.completedIndexes} {.status.failedIndexes} {.status.succeeded} {.status.failed}.";
    // What it is, what each process does, how the Job ends and why, and what its status says then: that far, as how many
    // were still running is chance.
    let rows = [
        (
            "indexed",
            indexed(4, json!({ "parallelism": 2 })),
            "[ $(hostname) = indexed-$JOB_COMPLETION_INDEX ]",
            ("Complete", "CompletionsReached"),
            "0-3  4 .",
        ),
        (
            "each-index",
            indexed(4, json!({ "backoffLimitPerIndex": 1 })),
            "exit $((1 - JOB_COMPLETION_INDEX % 2))",
            ("Failed", "FailedIndexes"),
            "1,3 0,2 2 4.",
        ),
        (
            "fail-index",
            indexed(2, json!({ "backoffLimitPerIndex": 2, "podFailurePolicy": on_exit("FailIndex", 43) })),
            "exit $((43 - 43 * JOB_COMPLETION_INDEX))",
            ("Failed", "FailedIndexes"),
            "1 0 1 1.",
        ),
        (
            "too-many",
            indexed(4, json!({ "parallelism": 1, "backoffLimitPerIndex": 0, "maxFailedIndexes": 1 })),
            "exit 1",
            ("Failed", "MaxFailedIndexesExceeded"),
            " 0,1  2.",
        ),
        (
            "exit-code",
            json!({ "completions": 4, "parallelism": 2, "podFailurePolicy": on_exit("FailJob", 42) }),
            "exit 42",
            ("Failed", "PodFailurePolicy"),
            "   ",
        ),
        (
            "locally",
            json!({ "completions": 2, "parallelism": 2, "restartPolicy": "OnFailure" }),
            "[ -e /scratch/tried ] || { touch /scratch/tried; exit 1; }",
            ("Complete", "CompletionsReached"),
            "  2 .",
        ),
        ("all", succeeds_with(json!({ "succeededIndexes": "0-4" })), "true", ("Complete", "SuccessPolicy"), "0-4  5 ."),
        (
            "enough",
            succeeds_with(json!({ "succeededCount": 2 })),
            "case $JOB_COMPLETION_INDEX in 1|4) ;; *) exec sleep 10000;; esac",
            ("Complete", "SuccessPolicy"),
            "1,4  2 ",
        ),
        (
            "right",
            succeeds_with(json!({ "succeededIndexes": "2" })),
            "[ $JOB_COMPLETION_INDEX = 2 ] || exec sleep 10000",
            ("Complete", "SuccessPolicy"),
            "2  1 ",
        ),
    ];
    // A few at a time: each is up to five containers.
    for rows in rows.chunks(3) {
        for (name, spec, script, ..) in rows {
            kubectl.apply(&job(name, spec, script).to_string());
        }
        for (name, _, _, (condition, reason), status) in rows {
            kubectl.ok(&format!("wait --for=condition={condition} job/{name} --timeout=120s"));
            let path = format!("{{.status.conditions[?(@.type==\"{condition}\")].reason}}");
            assert_eq!(kubectl.field(&format!("job {name}"), &path), *reason, "{name}");
            let said = kubectl.field(&format!("job {name}"), INDEXES);
            assert!(said.starts_with(status), "{name}: {said}");
            let running = format!("pods -l of={name} --field-selector status.phase=Running");
            eventually("none of its pods runs on", 60, || kubectl.names(&running).is_empty());
        }
    }
    kubectl.ok("delete jobs -l suite=apps");
    eventually("their pods go with them", 60, || kubectl.names("pods -l job-name").is_empty());
}

/// Lets the process of a pod go on.
fn release(kubectl: &Kubectl, pod: &str) {
    kubectl.ok(&format!("exec {pod} -- touch /scratch/go"));
}

const UNTIL_RELEASED: &str = "until [ -e /scratch/go ]; do sleep 0.1; done";

/// A Job's pods that run, by name; so many that there must be.
fn running(kubectl: &Kubectl, job: &str, count: usize) -> Vec<String> {
    let query = format!("pods -l of={job} --field-selector status.phase=Running");
    eventually(&format!("{count} pods of {job} run"), 60, || kubectl.names(&query).len() == count);
    kubectl.names(&query)
}

fn evicted_indexes_run_again_where_disruptions_are_ignored(cluster: &Cluster) {
    let kubectl = &cluster.kubectl();
    let ignore = json!({ "rules": [{
        "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }],
    }] });
    let spec = json!({
        "completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimit": 0, "podFailurePolicy": ignore,
    });
    kubectl.apply(&job("evicted", &spec, UNTIL_RELEASED).to_string());
    let first = running(kubectl, "evicted", 2);
    for pod in &first {
        let eviction = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": pod } });
        let path = format!("/api/v1/namespaces/default/pods/{pod}/eviction");
        kubectl.run_with(&format!("create --raw {path} -f -"), &eviction.to_string()).ok();
    }
    let others = || running(kubectl, "evicted", 2).iter().all(|pod| !first.contains(pod));
    eventually("others take their places", 60, others);
    running(kubectl, "evicted", 2).iter().for_each(|pod| release(kubectl, pod));
    kubectl.ok("wait --for=condition=Complete job/evicted --timeout=60s");
    assert_eq!(kubectl.field("job evicted", "{.status.completedIndexes} {.status.failed}"), "0,1 ");
    kubectl.ok("delete job evicted");
}

fn a_suspended_job_is_resumed_and_completes(cluster: &Cluster) {
    let kubectl = &cluster.kubectl();
    let spec = json!({ "suspend": true, "completions": 2, "parallelism": 2 });
    kubectl.apply(&job("suspended", &spec, "true").to_string());
    kubectl.ok("wait --for=condition=Suspended job/suspended --timeout=30s");
    assert!(kubectl.names("pods -l of=suspended").is_empty());
    kubectl.ok(r#"patch job suspended -p '{"spec":{"suspend":false},"metadata":{"labels":{"patched":"yes"}}}'"#);
    kubectl.ok("wait --for=condition=Complete job/suspended --timeout=60s");
    assert_eq!(kubectl.field("job suspended", "{.status.succeeded}"), "2");
    kubectl.ok("delete jobs -l patched=yes");
    assert_eq!(kubectl.field("job suspended", "{.metadata.name}"), "");
}

/// A StatefulSet whose pods are ready as long as their processes want to be.
fn stateful_set(kubectl: &Kubectl, replicas: i32, more: Value) {
    let labels = json!({ "app": "ss" });
    let mut template = template(&labels, "touch /scratch/well; exec sleep 10000");
    template["spec"]["containers"][0]["readinessProbe"] =
        json!({ "exec": { "command": ["test", "-e", "/scratch/well"] }, "periodSeconds": 1, "failureThreshold": 1 });
    let mut set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "ss" },
        "spec": { "replicas": replicas, "serviceName": "ss", "selector": { "matchLabels": labels }, "template": template },
    });
    more.as_object().into_iter().flatten().for_each(|(key, value)| set["spec"][key] = value.clone());
    kubectl.apply(&set.to_string());
    ready(kubectl, replicas);
}

fn ready(kubectl: &Kubectl, replicas: i32) {
    let status = || kubectl.field("statefulset ss", "{.status.replicas} {.status.readyReplicas}");
    eventually("all pods are ready", 90, || status() == format!("{replicas} {replicas}"));
}

fn set_healthy(kubectl: &Kubectl, pods: &[&str], healthy: bool) {
    for pod in pods {
        kubectl.ok(&format!("exec {pod} -- {} /scratch/well", if healthy { "touch" } else { "rm" }));
    }
    for pod in pods {
        kubectl.ok(&format!("wait --for=condition=Ready={healthy} pod {pod} --timeout=60s"));
    }
}

/// Changes the set and waits until its controller has acted on that.
fn change(kubectl: &Kubectl, line: &str) {
    kubectl.ok(line);
    let seen = || kubectl.field("statefulset ss", "{.metadata.generation} {.status.observedGeneration}");
    eventually("the controller has seen it", 30, || seen().split_once(' ').is_some_and(|(a, b)| a == b));
}

fn gone(kubectl: &Kubectl) {
    kubectl.ok("delete statefulset ss");
    eventually("its pods go with it", 60, || kubectl.names("pods -l app=ss").is_empty());
}

fn a_stateful_set_scales_in_order_and_halts_at_an_unhealthy_pod(cluster: &Cluster) {
    let kubectl = &cluster.kubectl();
    stateful_set(kubectl, 1, json!({}));
    set_healthy(kubectl, &["ss-0"], false);
    change(kubectl, "scale statefulset ss --replicas=3");
    assert_eq!(kubectl.names("pods -l app=ss"), ["ss-0"], "it waits");
    set_healthy(kubectl, &["ss-0"], true);
    ready(kubectl, 3);
    let all = ["ss-0", "ss-1", "ss-2"];
    let born = all.map(|pod| kubectl.field(&format!("pod {pod}"), "{.metadata.creationTimestamp}"));
    assert!(born.is_sorted(), "{born:?}");
    set_healthy(kubectl, &all, false);
    change(kubectl, "scale statefulset ss --replicas=0");
    assert_eq!(kubectl.names("pods -l app=ss"), all, "it waits");
    // As soon as the last is well they begin to go, so none is waited for.
    all.iter().for_each(|pod| drop(kubectl.ok(&format!("exec {pod} -- touch /scratch/well"))));
    eventually("all go", 60, || kubectl.names("pods -l app=ss").is_empty());
    gone(kubectl);
}

fn a_parallel_stateful_set_scales_although_its_pods_are_unhealthy(cluster: &Cluster) {
    let kubectl = &cluster.kubectl();
    stateful_set(kubectl, 1, json!({ "podManagementPolicy": "Parallel" }));
    set_healthy(kubectl, &["ss-0"], false);
    change(kubectl, "scale statefulset ss --replicas=3");
    kubectl.ok("wait --for=condition=Ready pod ss-1 ss-2 --timeout=60s");
    set_healthy(kubectl, &["ss-1", "ss-2"], false);
    change(kubectl, "scale statefulset ss --replicas=0");
    eventually("all go", 60, || kubectl.names("pods -l app=ss").is_empty());
    gone(kubectl);
}

fn a_stateful_set_is_updated_and_rolled_back_from_the_top(cluster: &Cluster) {
    let kubectl = &cluster.kubectl();
    let path = "{range .items[*]}{.metadata.name}={.spec.containers[0].env[0].value} {end}";
    let values = || kubectl.field("pods -l app=ss", path);
    stateful_set(kubectl, 3, json!({}));
    set_healthy(kubectl, &["ss-1"], false);
    change(kubectl, "set env statefulset ss WHICH=second");
    assert_eq!(values(), "ss-0= ss-1= ss-2= ", "it halts");
    set_healthy(kubectl, &["ss-1"], true);
    kubectl.ok("rollout status statefulset/ss --timeout=120s");
    assert_eq!(values(), "ss-0=second ss-1=second ss-2=second ");
    change(kubectl, "rollout undo statefulset/ss");
    kubectl.ok("rollout status statefulset/ss --timeout=120s");
    assert_eq!(values(), "ss-0= ss-1= ss-2= ");
    let born =
        ["ss-2", "ss-1", "ss-0"].map(|pod| kubectl.field(&format!("pod {pod}"), "{.metadata.creationTimestamp}"));
    assert!(born.is_sorted(), "{born:?}");
    gone(kubectl);
}

fn a_pod_of_a_stateful_set_that_its_node_refuses_is_made_anew(cluster: &Cluster) {
    let kubectl = &cluster.kubectl();
    let on_port = |mut template: Value| {
        template["spec"]["nodeName"] = "coracle-1".into();
        template["spec"]["containers"][0]["ports"] = json!([{ "containerPort": 80, "hostPort": 21_017 }]);
        template
    };
    let mut holder = on_port(template(&json!({}), "exec sleep 10000"));
    (holder["apiVersion"], holder["kind"]) = ("v1".into(), "Pod".into());
    holder["metadata"] = json!({ "name": "holder" });
    kubectl.apply(&holder.to_string());
    kubectl.ok("wait --for=condition=Ready pod holder --timeout=60s");
    let labels = json!({ "app": "refused" });
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": { "name": "refused" },
        "spec": {
            "replicas": 1, "serviceName": "refused", "selector": { "matchLabels": labels },
            "template": on_port(template(&labels, "exec sleep 10000")),
        },
    });
    kubectl.apply(&set.to_string());
    let uid = || kubectl.field("pod refused-0", "{.metadata.uid}");
    eventually("there is a pod", 30, || !uid().is_empty());
    let first = uid();
    eventually("it is made anew", 60, || !uid().is_empty() && uid() != first);
    kubectl.ok("delete pod holder");
    eventually("it runs", 60, || kubectl.field("pod refused-0", "{.status.phase}") == "Running");
    kubectl.ok("delete statefulset refused");
}

fn a_stuck_rollout_is_scaled_in_proportion_and_overtaken(cluster: &Cluster) {
    let kubectl = &cluster.kubectl();
    let labels = json!({ "app": "rolled" });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "rolled" },
        "spec": {
            "replicas": 4, "selector": { "matchLabels": labels }, "template": template(&labels, "exec sleep 10000"),
            "strategy": { "rollingUpdate": { "maxSurge": 2, "maxUnavailable": 1 } },
        },
    });
    kubectl.apply(&deployment.to_string());
    kubectl.ok("rollout status deployment/rolled --timeout=90s");
    let path = "{range .items[*]}{.spec.template.spec.containers[0].image}={.spec.replicas} {end}";
    let sizes = || {
        let text = kubectl.field("replicasets -l app=rolled", path);
        let mut sizes: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
        sizes.sort();
        sizes.join(" ")
    };
    // An image that nobody has: its containers never start.
    kubectl.ok("set image deployment/rolled c=coracle.invalid/none:404");
    eventually("it is stuck", 30, || sizes() == "busybox:1.37=3 coracle.invalid/none:404=3");
    kubectl.ok("scale deployment rolled --replicas=8");
    eventually("both grow", 30, || sizes() == "busybox:1.37=5 coracle.invalid/none:404=5");
    kubectl.ok("set image deployment/rolled c=coracle/echo:1.0");
    kubectl.ok(r#"patch deployment rolled --type=json -p '[{"op":"remove","path":"/spec/template/spec/containers/0/command"}]'"#);
    kubectl.ok("rollout status deployment/rolled --timeout=120s");
    eventually("the others are gone", 30, || {
        sizes().split(' ').filter(|size| !size.ends_with("=0")).collect::<Vec<_>>() == ["coracle/echo:1.0=8"]
    });
    kubectl.ok("delete deployment rolled");
    eventually("its pods go with it", 60, || kubectl.names("pods -l app=rolled").is_empty());
}
