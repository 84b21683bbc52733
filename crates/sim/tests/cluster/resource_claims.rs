//! Claims for devices. Where the pod has its node already an administrator allocates, as the scheduler would.

use coracle_sim::{Cluster, Component};
use serde_json::{Value, json};

use crate::support::*;

const API: &str = "resource.k8s.io/v1";

async fn prepare(cluster: &Cluster) -> anyhow::Result<()> {
    let device = json!({ "name": "gpu", "exactly": { "deviceClassName": "gpus" } });
    cluster
        .create(json!({
            "apiVersion": API, "kind": "ResourceClaimTemplate", "metadata": { "name": "one-gpu" },
            "spec": { "metadata": { "labels": { "made": "by-template" } }, "spec": { "devices": { "requests": [device] } } },
        }))
        .await?;
    Ok(())
}

fn with_claim(name: &str, command: &[&str]) -> Value {
    let mut spec = one_container("cuda:1", command);
    spec["nodeName"] = json!("coracle-1");
    spec["restartPolicy"] = json!("Never");
    spec["resourceClaims"] = json!([{ "name": "gpu", "resourceClaimTemplateName": "one-gpu" }]);
    pod(name, spec)
}

async fn claims(cluster: &Cluster) -> anyhow::Result<Vec<Value>> {
    cluster.list("resourceclaims", Some("default")).await
}

/// Gives a claim the device `gpu-0`, tolerating for a minute that it is taken away.
async fn allocate(cluster: &Cluster, claim: &str) -> anyhow::Result<()> {
    let finalizers = json!(["resource.kubernetes.io/delete-protection"]);
    cluster.patch("resourceclaims", claim, json!({ "metadata": { "finalizers": finalizers } })).await?;
    let result = json!({
        "request": "gpu", "driver": "gpu.example.com", "pool": "coracle-1", "device": "gpu-0",
        "tolerations": [{ "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60 }],
    });
    let status = json!({ "allocation": { "devices": { "results": [result] } } });
    cluster.patch("resourceclaims", &format!("default/{claim}/status"), json!({ "status": status })).await?;
    cluster.settle().await;
    Ok(())
}

#[test]
fn a_claim_is_made_for_a_pod_reserved_by_it_and_gone_when_it_is_done() {
    simulate(async |cluster| {
        prepare(cluster).await?;
        cluster.create(with_claim("train", &["sleep", "300"])).await?;
        cluster.settle().await;
        let claim = claims(cluster).await?.remove(0);
        let (name, meta) = (name(&claim), &claim["metadata"]);
        assert!(name.starts_with("train-gpu-"), "{name}");
        assert_eq!(meta["labels"], json!({ "made": "by-template" }));
        assert_eq!(meta["annotations"], json!({ "resource.kubernetes.io/pod-claim-name": "gpu" }));
        let pod = get(cluster, "pods", "train").await?;
        assert_eq!(meta["ownerReferences"][0]["uid"], pod["metadata"]["uid"]);
        assert_eq!(pod["status"]["resourceClaimStatuses"], json!([{ "name": "gpu", "resourceClaimName": name }]));
        assert!(claim["status"]["reservedFor"].is_null());
        allocate(cluster, &name).await?;
        let user = json!({ "resource": "pods", "name": "train", "uid": pod["metadata"]["uid"] });
        assert_eq!(get(cluster, "resourceclaims", &name).await?["status"]["reservedFor"], json!([user]));
        cluster.advance(seconds(310)).await;
        assert_eq!(get(cluster, "pods", "train").await?["status"]["phase"], "Succeeded");
        assert_eq!(claims(cluster).await?, Vec::<Value>::new(), "though the pod is still there");
        Ok(())
    });
}

#[test]
fn a_claim_of_ones_own_is_given_back_by_its_last_user_and_stays() {
    simulate(async |cluster| {
        let device = json!({ "name": "gpu", "exactly": { "deviceClassName": "gpus" } });
        let spec = json!({ "devices": { "requests": [device] } });
        cluster
            .create(json!({ "apiVersion": API, "kind": "ResourceClaim", "metadata": { "name": "mine" }, "spec": spec }))
            .await?;
        for name in ["a", "b"] {
            let mut pod = with_claim(name, &[]);
            pod["spec"]["resourceClaims"] = json!([{ "name": "gpu", "resourceClaimName": "mine" }]);
            cluster.create(pod).await?;
        }
        allocate(cluster, "mine").await?;
        let users = |claim: &Value| claim["status"]["reservedFor"].as_array().map_or(0, Vec::len);
        assert_eq!(users(&get(cluster, "resourceclaims", "mine").await?), 2);
        cluster.delete("pods", "a").await?;
        cluster.settle().await;
        let claim = get(cluster, "resourceclaims", "mine").await?;
        assert_eq!((users(&claim), claim["status"]["allocation"].is_null()), (1, false));
        cluster.delete("pods", "b").await?;
        cluster.settle().await;
        let claim = get(cluster, "resourceclaims", "mine").await?;
        assert_eq!((users(&claim), claim["status"]["allocation"].is_null()), (0, true));
        assert!(claim["metadata"]["finalizers"].is_null(), "{claim}");
        Ok(())
    });
}

#[test]
fn a_pod_waits_for_its_template_and_says_so() {
    simulate(async |cluster| {
        cluster.create(with_claim("train", &[])).await?;
        cluster.settle().await;
        let why = "PodResourceClaim gpu: resource claim template \"one-gpu\": \
                   resourceclaimtemplate.resource.k8s.io \"one-gpu\" not found";
        assert!(messages(cluster, "train").await?.iter().any(|message| message == why));
        prepare(cluster).await?;
        cluster.settle().await;
        assert_eq!(claims(cluster).await?.len(), 1);
        Ok(())
    });
}

#[test]
fn a_crash_after_any_write_leaves_one_claim() {
    for writes in 1..4 {
        simulate(async |cluster| {
            prepare(cluster).await?;
            cluster.crash_after(&Component::ControllerManager, writes);
            cluster.create(with_claim("train", &[])).await?;
            cluster.settle().await;
            cluster.restart(&Component::ControllerManager).await?;
            cluster.settle().await;
            let claims = claims(cluster).await?;
            assert_eq!(claims.len(), 1, "{writes}");
            let pod = get(cluster, "pods", "train").await?;
            assert_eq!(pod["status"]["resourceClaimStatuses"][0]["resourceClaimName"], name(&claims[0]), "{writes}");
            Ok(())
        });
    }
}

#[test]
fn a_pod_leaves_a_tainted_device_when_it_tolerates_it_no_longer() {
    simulate(async |cluster| {
        prepare(cluster).await?;
        let pool = json!({ "name": "coracle-1", "generation": 1, "resourceSliceCount": 1 });
        let spec = |taints: Value| {
            json!({ "driver": "gpu.example.com", "nodeName": "coracle-1", "pool": pool,
                    "devices": [{ "name": "gpu-0", "taints": taints }] })
        };
        let slice =
            json!({ "apiVersion": API, "kind": "ResourceSlice", "metadata": { "name": "s" }, "spec": spec(json!([])) });
        cluster.create(slice).await?;
        cluster.create(with_claim("train", &[])).await?;
        cluster.settle().await;
        let claim = name(&claims(cluster).await?[0]);
        allocate(cluster, &claim).await?;
        let broken = json!([{ "key": "broken", "effect": "NoExecute" }]);
        cluster.patch("resourceslices", "s", json!({ "spec": spec(broken.clone()) })).await?;
        cluster.advance(seconds(40)).await;
        cluster.patch("resourceslices", "s", json!({ "spec": spec(json!([])) })).await?;
        cluster.advance(seconds(60)).await;
        assert!(is_ready(&get(cluster, "pods", "train").await?), "the taint went in time");
        cluster.patch("resourceslices", "s", json!({ "spec": spec(broken) })).await?;
        cluster.advance(seconds(61)).await;
        let history = cluster.history();
        let reason = |change: &coracle_sim::Change| change.json().to_string().contains("DeletionByDeviceTaintManager");
        assert!(history.iter().any(reason), "it is told why");
        assert!(cluster.get("pods", "train").await?.is_none());
        let messages = messages(cluster, "train").await?;
        assert!(
            ["Cancelling deletion", "Marking for deletion"].iter().all(|m| messages.iter().any(|said| said == m)),
            "{messages:?}"
        );
        Ok(())
    });
}

#[test]
fn the_scheduler_allocates_devices_where_they_are() {
    play(Cluster::builder().nodes(2), async |cluster| {
        prepare(cluster).await?;
        let selector = json!({ "cel": { "expression": "device.driver == 'gpu.example.com'" } });
        cluster
            .create(json!({ "apiVersion": API, "kind": "DeviceClass", "metadata": { "name": "gpus" },
                            "spec": { "selectors": [selector] } }))
            .await?;
        cluster
            .create(json!({ "apiVersion": API, "kind": "ResourceSlice", "metadata": { "name": "slice" }, "spec": {
                "driver": "gpu.example.com", "nodeName": "coracle-2", "devices": [{ "name": "gpu-0" }],
                "pool": { "name": "coracle-2", "generation": 1, "resourceSliceCount": 1 } } }))
            .await?;
        let anywhere = |name: &str| {
            let mut pod = with_claim(name, &["sleep", "60"]);
            pod["spec"].as_object_mut().map(|spec| spec.remove("nodeName"));
            pod
        };
        cluster.create(anywhere("first")).await?;
        cluster.settle().await;
        let first = get(cluster, "pods", "first").await?;
        assert_eq!(first["spec"]["nodeName"], "coracle-2", "{}", first["status"]["conditions"]);
        let claim = claims(cluster).await?.remove(0);
        assert_eq!(claim["status"]["allocation"]["devices"]["results"][0]["device"], "gpu-0");
        assert_eq!(claim["status"]["reservedFor"][0]["name"], "first");
        // The only device is in use until the first is done.
        cluster.create(anywhere("second")).await?;
        cluster.advance(seconds(5)).await;
        let waiting = get(cluster, "pods", "second").await?;
        let said = waiting["status"]["conditions"][0]["message"].as_str().unwrap_or_default();
        assert_eq!(
            said,
            "0/2 nodes are available: 2 cannot allocate all claims. still not schedulable, preemption: 0/2 nodes are \
             available: 2 Preemption is not helpful for scheduling."
        );
        cluster.advance(seconds(90)).await;
        assert_eq!(get(cluster, "pods", "second").await?["spec"]["nodeName"], "coracle-2");
        Ok(())
    });
}

#[test]
fn an_extended_resource_is_met_by_a_device_with_a_claim_made_for_it() {
    play(Cluster::builder().nodes(2), async |cluster| {
        let selector = json!({ "cel": { "expression": "device.driver == 'gpu.example.com'" } });
        cluster
            .create(json!({ "apiVersion": API, "kind": "DeviceClass", "metadata": { "name": "gpus" },
                            "spec": { "selectors": [selector], "extendedResourceName": "example.com/gpu" } }))
            .await?;
        cluster
            .create(json!({ "apiVersion": API, "kind": "ResourceSlice", "metadata": { "name": "slice" }, "spec": {
                "driver": "gpu.example.com", "nodeName": "coracle-2", "devices": [{ "name": "gpu-0" }],
                "pool": { "name": "coracle-2", "generation": 1, "resourceSliceCount": 1 } } }))
            .await?;
        let mut spec = one_container("cuda:1", &["sleep", "60"]);
        spec["restartPolicy"] = json!("Never");
        spec["containers"][0]["resources"] = json!({ "limits": { "example.com/gpu": "1" } });
        cluster.create(pod("train", spec)).await?;
        cluster.settle().await;
        let train = get(cluster, "pods", "train").await?;
        assert_eq!(train["spec"]["nodeName"], "coracle-2", "{}", train["status"]["conditions"]);
        let claim = claims(cluster).await?.remove(0);
        assert!(name(&claim).starts_with("train-extended-resources-"), "{}", name(&claim));
        assert_eq!(claim["status"]["allocation"]["devices"]["results"][0]["device"], "gpu-0");
        assert_eq!(claim["status"]["reservedFor"][0]["uid"], train["metadata"]["uid"]);
        let mapping = json!({ "containerName": train["spec"]["containers"][0]["name"],
                              "resourceName": "example.com/gpu", "requestName": "container-0-request-0" });
        assert_eq!(
            train["status"]["extendedResourceClaimStatus"],
            json!({ "resourceClaimName": name(&claim), "requestMappings": [mapping] })
        );
        Ok(())
    });
}
