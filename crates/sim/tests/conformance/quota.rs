//! ResourceQuota: what is counted, refused and released.

use coracle_sim::Cluster;
use kube::api::{DeleteParams, Patch};
use serde_json::{Value, json};

use crate::objects::Objects;
use crate::support::*;

const NAME: &str = "test-quota";

fn quota(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": { "name": name, "labels": { "e2e-rq-label": name } }, "spec": spec,
    })
}

/// The quota of upstream's tests, with `more` limits.
fn test_quota(more: &[(&str, &str)]) -> Value {
    let mut hard = json!({
        "pods": "5", "services": "10", "services.nodeports": "1", "services.loadbalancers": "1",
        "replicationcontrollers": "10", "resourcequotas": "1", "configmaps": "10", "secrets": "10",
        "persistentvolumeclaims": "10", "requests.storage": "10Gi",
        "cpu": "1", "memory": "500Mi", "ephemeral-storage": "50Gi",
        "requests.example.com/dongle": "3", "count/replicasets.apps": "5",
    });
    for (name, amount) in more {
        hard[*name] = (*amount).into();
    }
    quota(NAME, json!({ "hard": hard }))
}

struct Quotas<'a> {
    cluster: &'a Cluster,
    quotas: Objects,
}

impl Quotas<'_> {
    async fn on(cluster: &Cluster) -> anyhow::Result<Quotas<'_>> {
        Ok(Quotas { cluster, quotas: Objects::find(cluster, "v1", "ResourceQuota").await? })
    }

    /// Creates a quota and waits until its status says what is allowed, and that `used` is used.
    async fn create(&self, quota: Value, used: Value) -> anyhow::Result<()> {
        self.quotas.create(&quota).await?;
        self.used(name(&quota), used).await?;
        assert_eq!(self.quotas.get(name(&quota)).await?["status"]["hard"], quota["spec"]["hard"]);
        Ok(())
    }

    /// Waits until the quota's status says that so much is used.
    async fn used(&self, name: &str, used: Value) -> anyhow::Result<()> {
        let mut last = Value::Null;
        let waited = until("the quota's status is right", async || {
            last = self.quotas.get(name).await?["status"]["used"].clone();
            Ok(contains(&last, &used))
        });
        let waited = waited.await;
        waited.map_err(|error| error.context(format!("{name}: {used} of {last}")))
    }

    /// The life of an object that the quota counts by `count`, beside `before` that are there already.
    async fn life_of(&self, object: Value, count: &str, before: usize) -> anyhow::Result<()> {
        let (without, with) = (before.to_string(), (before + 1).to_string());
        self.create(test_quota(&[(count, &with)]), json!({ "resourcequotas": "1", count: without })).await?;
        let objects = Objects::of(self.cluster, &object).await?;
        objects.create(&object).await?;
        self.used(NAME, json!({ "resourcequotas": "1", count: with })).await?;
        let mut one_more = object.clone();
        one_more["metadata"]["name"] = "one-more".into();
        let why = refused(objects.create(&one_more).await, 403, "Forbidden").message;
        let expected =
            format!("exceeded quota: {NAME}, requested: {count}=1, used: {count}={with}, limited: {count}={with}");
        assert!(why.ends_with(&expected), "{why}");
        objects.delete_with(name(&object), &DeleteParams::background()).await?;
        self.used(NAME, json!({ count: without })).await
    }
}

#[test]
fn a_quotas_status_is_calculated_promptly() {
    control_plane(async |cluster| {
        let quotas = Quotas::on(cluster).await?;
        quotas.create(test_quota(&[]), json!({ "resourcequotas": "1" })).await
    });
}

#[test]
fn a_quota_counts_services_node_ports_and_load_balancers_and_refuses_more() {
    control_plane(async |cluster| {
        let quotas = Quotas::on(cluster).await?;
        let services = Objects::find(cluster, "v1", "Service").await?;
        let before = services.list("").await?.len(); // `kubernetes` itself
        let used = |services: usize, node_ports: usize| json!({ "services": (before + services).to_string(), "services.nodeports": node_ports.to_string() });
        quotas.create(test_quota(&[]), json!({ "resourcequotas": "1" })).await?;
        let service = |name: &str, kind: &str| {
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
                "spec": { "type": kind, "ports": [{ "port": 80, "targetPort": 80 }] },
            })
        };
        services.create(&service("test-service", "ClusterIP")).await?;
        services.create(&service("test-service-np", "NodePort")).await?;
        let why = refused(services.create(&service("test-service-lb", "LoadBalancer")).await, 403, "Forbidden").message;
        assert!(why.contains("requested: services.nodeports=1, used: services.nodeports=1"), "{why}");
        quotas.used(NAME, used(2, 1)).await?;
        services.delete("test-service").await?;
        services.delete("test-service-np").await?;
        quotas.used(NAME, used(0, 0)).await
    });
}

#[test]
fn a_quotas_counts_follow_a_secret() {
    control_plane(async |cluster| {
        let quotas = Quotas::on(cluster).await?;
        let secrets = Objects::find(cluster, "v1", "Secret").await?;
        let before = secrets.list("").await?.len();
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "test-secret" }, "data": { "data-1": "dmFsdWU=" },
        });
        quotas.life_of(secret, "secrets", before).await
    });
}

#[test]
fn a_quotas_counts_follow_a_config_map() {
    control_plane(async |cluster| {
        let quotas = Quotas::on(cluster).await?;
        let maps = Objects::find(cluster, "v1", "ConfigMap").await?;
        let before = maps.list("").await?.len();
        let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "test-configmap" }, "data": { "a": "b" } });
        quotas.life_of(map, "configmaps", before).await
    });
}

#[test]
fn a_quotas_counts_follow_a_replication_controller() {
    control_plane(async |cluster| {
        let quotas = Quotas::on(cluster).await?;
        let controller = json!({
            "apiVersion": "v1", "kind": "ReplicationController", "metadata": { "name": "test-rc" },
            "spec": { "replicas": 0, "selector": { "name": "test-rc" }, "template": {
                "metadata": { "labels": { "name": "test-rc" } },
                "spec": { "containers": [{ "name": "c", "image": "nginx:1" }] },
            } },
        });
        quotas.life_of(controller, "replicationcontrollers", 0).await
    });
}

#[test]
fn a_quotas_counts_follow_a_replica_set() {
    control_plane(async |cluster| {
        let quotas = Quotas::on(cluster).await?;
        let set = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": { "name": "test-rs" },
            "spec": { "replicas": 0, "selector": { "matchLabels": { "name": "test-rs" } }, "template": {
                "metadata": { "labels": { "name": "test-rs" } },
                "spec": { "containers": [{ "name": "c", "image": "nginx:1" }] },
            } },
        });
        quotas.life_of(set, "count/replicasets.apps", 0).await
    });
}

#[test]
fn a_quota_counts_a_pods_resources_and_refuses_what_exceeds_it() {
    control_plane(async |cluster| {
        let quotas = Quotas::on(cluster).await?;
        quotas.create(test_quota(&[]), json!({ "resourcequotas": "1", "pods": "0" })).await?;
        let pods = Objects::find(cluster, "v1", "Pod").await?;
        let dongles = json!({ "example.com/dongle": "2" });
        let requests =
            json!({ "cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi", "example.com/dongle": "2" });
        pods.create(&pod("test-pod", requests.clone(), dongles.clone())).await?;
        let used = json!({
            "resourcequotas": "1", "pods": "1", "cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi",
            "requests.example.com/dongle": "2",
        });
        quotas.used(NAME, used.clone()).await?;
        let large = pod("fail-pod", json!({ "cpu": "600m", "memory": "100Mi", "ephemeral-storage": "1Gi" }), json!({}));
        let why = refused(pods.create(&large).await, 403, "Forbidden").message;
        assert!(
            why.ends_with("exceeded quota: test-quota, requested: cpu=600m, used: cpu=500m, limited: cpu=1"),
            "{why}"
        );
        let mut more = requests;
        more["memory"] = "100Mi".into();
        more["ephemeral-storage"] = "10Gi".into();
        let why = refused(pods.create(&pod("fail-pod-2", more, dongles)).await, 403, "Forbidden").message;
        assert!(why.contains("requested: requests.example.com/dongle=2, used: requests.example.com/dongle=2"), "{why}");
        let mut fits = pods.get("test-pod").await?;
        fits["spec"]["containers"][0]["resources"]["requests"] = json!({ "cpu": "100m", "memory": "100Mi" });
        refused(pods.replace(&fits).await, 422, "Invalid");
        quotas.used(NAME, used).await?;
        pods.delete_with("test-pod", &DeleteParams::default().grace_period(0)).await?;
        quotas
            .used(
                NAME,
                json!({
                    "resourcequotas": "1", "pods": "0", "cpu": "0", "memory": "0", "ephemeral-storage": "0",
                    "requests.example.com/dongle": "0",
                }),
            )
            .await
    });
}

#[test]
fn a_quota_is_read_updated_and_deleted() {
    control_plane(async |cluster| {
        let quotas = Quotas::on(cluster).await?.quotas;
        quotas.create(&quota(NAME, json!({ "hard": { "cpu": "1", "memory": "500Mi" } }))).await?;
        let mut read = quotas.get(NAME).await?;
        assert_eq!(read["spec"]["hard"], json!({ "cpu": "1", "memory": "500Mi" }));
        read["spec"]["hard"] = json!({ "cpu": "2", "memory": "1Gi" });
        // The controller writes the status meanwhile: a conflict would be its doing.
        let update = Patch::Merge(json!({ "spec": read["spec"] }));
        assert_eq!(quotas.patch(NAME, &update).await?["spec"]["hard"], json!({ "cpu": "2", "memory": "1Gi" }));
        assert_eq!(quotas.get(NAME).await?["spec"]["hard"], json!({ "cpu": "2", "memory": "1Gi" }));
        quotas.delete(NAME).await?;
        assert!(!quotas.exists(NAME).await?);
        Ok(())
    });
}

#[test]
fn quotas_are_listed_by_label_patched_and_deleted_as_a_collection() {
    control_plane(async |cluster| {
        let quotas = Quotas::on(cluster).await?.quotas;
        quotas.create(&quota("e2e-quota", json!({ "hard": { "cpu": "1", "memory": "500Mi" } }))).await?;
        let listed = quotas.everywhere().list("e2e-rq-label=e2e-quota").await?;
        assert_eq!(listed.len(), 1);
        let patch =
            json!({ "metadata": { "labels": { "e2e-quota": "patched" } }, "spec": { "hard": { "memory": "750Mi" } } });
        let patched = quotas.patch("e2e-quota", &Patch::Strategic(patch.clone())).await?;
        assert_contains(&patched, &patch);
        assert_eq!(patched["spec"]["hard"]["cpu"], "1");
        assert!(version(&patched) > version(&listed[0]));
        quotas.delete_collection("e2e-rq-label=e2e-quota").await?;
        refused(quotas.get("e2e-quota").await, 404, "NotFound");
        Ok(())
    });
}

#[test]
fn a_quotas_status_is_updated_and_patched_and_the_controller_restores_it() {
    control_plane(async |cluster| {
        let quotas = Quotas::on(cluster).await?;
        let hard = |cpu: &str, memory: &str| json!({ "hard": { "cpu": cpu, "memory": memory } });
        quotas.create(quota("e2e-rq-status", hard("500m", "500Mi")), json!({ "cpu": "0" })).await?;
        let all = &quotas.quotas;
        let mut watch = all.watch("", &all.now().await?).await?;
        let mut update = all.get("e2e-rq-status").await?;
        update["status"] = hard("700m", "700Mi");
        let updated = all.replace_sub("status", &update).await?;
        assert_contains(&updated["status"], &hard("700m", "700Mi"));
        assert_eq!(watch.next().await?.1["status"], updated["status"]);

        let patch = json!({ "spec": hard("1", "1Gi") });
        all.patch("e2e-rq-status", &Patch::Strategic(patch)).await?;
        let restored = async || {
            until("the status is the spec's", async || {
                Ok(contains(&all.get("e2e-rq-status").await?["status"], &hard("1", "1Gi")))
            })
            .await
        };
        restored().await?;
        assert_contains(&all.get_sub("status", "e2e-rq-status").await?["status"], &hard("1", "1Gi"));
        let patch = Patch::Strategic(json!({ "status": hard("2", "2Gi") }));
        let patched = all.patch_sub("status", "e2e-rq-status", &patch).await?;
        assert_contains(&patched, &json!({ "spec": hard("1", "1Gi"), "status": hard("2", "2Gi") }));
        restored().await
    });
}

/// Two quotas with complementary scopes: each of the pods counts in one of them.
#[track_caller]
fn scopes_count_the_right_pods(scopes: [&str; 2], pods: [Value; 2]) {
    control_plane(async |cluster| {
        let quotas = Quotas::on(cluster).await?;
        let names = scopes.map(|scope| format!("quota-{}", scope.to_lowercase()));
        for (name, scope) in names.iter().zip(scopes) {
            quotas
                .create(quota(name, json!({ "hard": { "pods": "5" }, "scopes": [scope] })), json!({ "pods": "0" }))
                .await?;
        }
        let all = Objects::of(cluster, &pods[0]).await?;
        for (mine, pod) in pods.iter().enumerate() {
            all.create(pod).await?;
            quotas.used(&names[mine], json!({ "pods": "1" })).await?;
            quotas.used(&names[1 - mine], json!({ "pods": "0" })).await?;
            all.delete_with(name(pod), &DeleteParams::default().grace_period(0)).await?;
            quotas.used(&names[mine], json!({ "pods": "0" })).await?;
        }
        Ok(())
    });
}

#[test]
fn the_best_effort_scopes_count_the_right_pods() {
    let burstable =
        pod("burstable-pod", json!({ "cpu": "500m", "memory": "200Mi" }), json!({ "cpu": "1", "memory": "500Mi" }));
    let best_effort = pod("best-effort-pod", json!({}), json!({}));
    scopes_count_the_right_pods(["BestEffort", "NotBestEffort"], [best_effort, burstable]);
}

#[test]
fn the_terminating_scopes_count_the_right_pods() {
    let long = pod("test-pod", json!({ "cpu": "500m" }), json!({ "cpu": "1" }));
    let mut terminating = pod("terminating-pod", json!({ "cpu": "500m" }), json!({ "cpu": "1" }));
    terminating["spec"]["activeDeadlineSeconds"] = 3600.into();
    scopes_count_the_right_pods(["Terminating", "NotTerminating"], [terminating, long]);
}
