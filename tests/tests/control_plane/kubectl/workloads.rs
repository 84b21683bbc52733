//! Workloads: rolled out, set, scaled, made of one another.

use coracle_tests::{Parts, Section, eventually, sections};

use super::{deployment, each, has};

pub const SECTIONS: &[Section<Parts>] = sections![
    deployments_are_rolled_out_undone_paused_and_restarted,
    images_environments_and_resources_are_set,
    workloads_are_scaled,
    jobs_are_made_of_cron_jobs,
];

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
