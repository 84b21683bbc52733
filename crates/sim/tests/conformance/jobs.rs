//! Jobs. Their containers run until the test ends them, each with the exit code it chooses.

use std::time::Duration;

use coracle_kubelet::runtime::simulated::{Behaviour, Rule, SimulatedConfig};
use coracle_sim::Cluster;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::lifecycle::takes_every_verb;
use crate::objects::Objects;
use crate::support::*;
use crate::workloads::create;

fn job(more: Value) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "job", "labels": { "app": "job" } },
        "spec": { "template": {
            "metadata": { "labels": { "app": "job" } },
            "spec": { "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
                "containers": [{ "name": "c", "image": "busybox:1" }] },
        } },
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        job["spec"][field] = value.clone();
    }
    job
}

/// A Job of so many indexes, all at once.
fn indexed(completions: i32, more: Value) -> Value {
    let mut job = job(more);
    job["spec"]["completionMode"] = "Indexed".into();
    job["spec"]["completions"] = completions.into();
    job["spec"]["parallelism"] = completions.into();
    job
}

async fn pods(cluster: &Cluster) -> anyhow::Result<Vec<Value>> {
    Ok(Objects::find(cluster, "v1", "Pod").await?.list("app=job").await?)
}

fn index(pod: &Value) -> &str {
    text(pod, "/metadata/annotations/batch.kubernetes.io~1job-completion-index")
}

async fn running(cluster: &Cluster) -> anyhow::Result<Vec<Value>> {
    let runs = |pod: &Value| !pod["status"]["containerStatuses"][0]["state"]["running"].is_null();
    let stays = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_null();
    Ok(pods(cluster).await?.into_iter().filter(|pod| runs(pod) && stays(pod)).collect())
}

/// Ends the running pod of an index (any pod, if empty) with an exit code.
async fn end(cluster: &Cluster, of: &str, code: i32) -> anyhow::Result<()> {
    until("the pod runs", async || {
        let running = running(cluster).await?;
        let Some(pod) = running.iter().find(|pod| index(pod) == of) else { return Ok(false) };
        Ok(cluster.machine(text(pod, "/spec/nodeName")).crash("default", name(pod), "c", code))
    })
    .await
}

/// Waits until the Job has a condition; its reason.
async fn becomes(cluster: &Cluster, condition: &str) -> anyhow::Result<(Value, String)> {
    let jobs = Objects::find(cluster, "batch/v1", "Job").await?;
    let mut found = Value::Null;
    until(condition, async || {
        let conditions = jobs.get("job").await?["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let it = conditions.into_iter().find(|it| it["type"] == condition && it["status"] == "True");
        found = it.unwrap_or_default();
        Ok(!found.is_null())
    })
    .await?;
    Ok((jobs.get("job").await?["status"].clone(), text(&found, "/reason").to_owned()))
}

#[test]
fn a_job_adopts_matching_orphans_and_releases_pods_that_match_no_longer() {
    cluster(async |cluster| {
        create(cluster, &job(json!({ "parallelism": 2, "completions": 2 }))).await?;
        until("two pods run", async || Ok(running(cluster).await?.len() == 2)).await?;
        let all = Objects::find(cluster, "v1", "Pod").await?;
        let pod = running(cluster).await?.remove(0);
        let owner = async || anyhow::Ok(all.get(name(&pod)).await?["metadata"]["ownerReferences"][0]["kind"].clone());
        all.merge(name(&pod), json!({ "metadata": { "ownerReferences": null } })).await?;
        until("it is adopted", async || Ok(owner().await? == "Job")).await?;
        all.merge(name(&pod), json!({ "metadata": { "labels": null } })).await?;
        until("it is released", async || Ok(owner().await?.is_null())).await?;
        until("another takes its place", async || Ok(running(cluster).await?.len() == 2)).await
    });
}

#[test]
fn evicted_indexes_run_again_if_the_failure_policy_ignores_disruptions() {
    // Containers that do not end when asked to, and so fail when they are killed.
    let behaviour = Behaviour { stop_delay: Duration::from_secs(60), ..Default::default() };
    let machine = SimulatedConfig {
        rules: vec![Rule { image: "busybox".into(), behaviour, ..Default::default() }],
        ..Default::default()
    };
    let cluster = Cluster::builder().seed(7).nodes(2).machine(machine);
    let played = cluster.run(async |cluster| {
        let ignore = json!({ "rules": [{
            "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }],
        }] });
        create(cluster, &indexed(2, json!({ "backoffLimit": 0, "podFailurePolicy": ignore }))).await?;
        until("both run", async || Ok(running(cluster).await?.len() == 2)).await?;
        for pod in running(cluster).await? {
            let eviction = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": name(&pod) } });
            let path = format!("/api/v1/namespaces/default/pods/{}/eviction", name(&pod));
            let request = http::Request::post(path).header("content-type", "application/json");
            cluster.client().request::<Value>(request.body(serde_json::to_vec(&eviction)?)?).await?;
        }
        cluster.settle().await;
        for of in ["0", "1"] {
            end(cluster, of, 0).await?;
        }
        let (status, _) = becomes(cluster, "Complete").await?;
        assert_eq!((&status["completedIndexes"], &status["failed"]), (&json!("0,1"), &Value::Null));
        Ok(())
    });
    played.unwrap_or_else(|error| panic!("{error:?}"));
}

#[test]
fn an_exit_code_ends_a_job_early_if_the_failure_policy_says_so() {
    cluster(async |cluster| {
        let fail = json!({ "rules": [{ "action": "FailJob", "onExitCodes": { "operator": "In", "values": [42] } }] });
        create(
            cluster,
            &job(json!({ "parallelism": 2, "completions": 4, "backoffLimit": 6, "podFailurePolicy": fail })),
        )
        .await?;
        end(cluster, "", 42).await?;
        assert_eq!(becomes(cluster, "Failed").await?.1, "PodFailurePolicy");
        until("no pod is left running", async || Ok(running(cluster).await?.is_empty())).await
    });
}

#[test]
fn a_job_and_its_status_take_every_verb() {
    takes_every_verb(
        job(json!({ "suspend": true })),
        json!({ "spec": { "parallelism": 2 } }),
        json!({ "active": 1, "ready": 1 }),
    );
}

#[test]
fn pods_of_an_indexed_job_have_their_index_in_annotation_environment_and_hostname() {
    cluster(async |cluster| {
        create(cluster, &indexed(4, json!({}))).await?;
        until("all run", async || Ok(running(cluster).await?.len() == 4)).await?;
        for pod in running(cluster).await? {
            assert_eq!(text(&pod, "/spec/hostname"), format!("job-{}", index(&pod)));
            assert_eq!(text(&pod, "/metadata/labels/batch.kubernetes.io~1job-completion-index"), index(&pod));
            let environment = pod["spec"]["containers"][0]["env"].as_array().cloned().unwrap_or_default();
            assert!(environment.iter().any(|variable| variable["name"] == "JOB_COMPLETION_INDEX"));
        }
        for of in ["0", "1", "2", "3"] {
            end(cluster, of, 0).await?;
        }
        let (status, _) = becomes(cluster, "Complete").await?;
        assert_eq!((&status["completedIndexes"], &status["succeeded"]), (&json!("0-3"), &json!(4)));
        Ok(())
    });
}

#[test]
fn deleting_a_job_in_the_background_removes_its_pods() {
    cluster(async |cluster| {
        let jobs = create(cluster, &job(json!({ "parallelism": 2, "completions": 2 }))).await?;
        until("two pods run", async || Ok(running(cluster).await?.len() == 2)).await?;
        jobs.delete_with("job", &DeleteParams::background()).await?;
        until("all is gone", async || Ok(!jobs.exists("job").await? && pods(cluster).await?.is_empty())).await
    });
}

#[test]
fn all_indexes_run_although_some_fail_with_a_limit_for_each() {
    cluster(async |cluster| {
        create(cluster, &indexed(4, json!({ "backoffLimitPerIndex": 1 }))).await?;
        for (of, code) in [("0", 1), ("1", 0), ("2", 1), ("3", 0), ("0", 1), ("2", 1)] {
            end(cluster, of, code).await?;
        }
        let (status, reason) = becomes(cluster, "Failed").await?;
        assert_eq!((&status["failedIndexes"], &status["completedIndexes"]), (&json!("0,2"), &json!("1,3")));
        assert_eq!((&status["failed"], &status["succeeded"], reason.as_str()), (&json!(4), &json!(2), "FailedIndexes"));
        Ok(())
    });
}

#[test]
fn a_suspended_job_is_resumed_completes_and_is_deleted_as_a_collection() {
    cluster(async |cluster| {
        let jobs = create(cluster, &job(json!({ "suspend": true, "parallelism": 2, "completions": 2 }))).await?;
        becomes(cluster, "Suspended").await?;
        cluster.settle().await;
        assert!(pods(cluster).await?.is_empty());
        jobs.merge("job", json!({ "spec": { "suspend": false }, "metadata": { "labels": { "patched": "yes" } } }))
            .await?;
        for _ in 0..2 {
            end(cluster, "", 0).await?;
        }
        assert_eq!(becomes(cluster, "Complete").await?.0["succeeded"], 2);
        jobs.delete_collection("patched=yes").await?;
        until("it is gone", async || Ok(!jobs.exists("job").await?)).await
    });
}

#[test]
fn the_action_fail_index_fails_an_index_at_once() {
    cluster(async |cluster| {
        let fail = json!({ "rules": [{ "action": "FailIndex", "onExitCodes": { "operator": "In", "values": [43] } }] });
        create(cluster, &indexed(2, json!({ "backoffLimitPerIndex": 2, "podFailurePolicy": fail }))).await?;
        end(cluster, "0", 43).await?;
        end(cluster, "1", 0).await?;
        let (status, reason) = becomes(cluster, "Failed").await?;
        assert_eq!((&status["failed"], &status["failedIndexes"]), (&json!(1), &json!("0")));
        assert_eq!(reason, "FailedIndexes");
        Ok(())
    });
}

#[test]
fn a_job_completes_whose_containers_fail_and_are_restarted_on_the_spot() {
    cluster(async |cluster| {
        let mut locally = job(json!({ "parallelism": 1, "completions": 2 }));
        locally["spec"]["template"]["spec"]["restartPolicy"] = "OnFailure".into();
        create(cluster, &locally).await?;
        for code in [1, 0, 1, 0] {
            end(cluster, "", code).await?;
            cluster.settle().await;
        }
        let (status, _) = becomes(cluster, "Complete").await?;
        assert_eq!((&status["succeeded"], &status["failed"]), (&json!(2), &Value::Null));
        Ok(())
    });
}

#[test]
fn too_many_failed_indexes_end_a_job() {
    cluster(async |cluster| {
        create(cluster, &indexed(4, json!({ "backoffLimitPerIndex": 0, "maxFailedIndexes": 1 }))).await?;
        for of in ["0", "1"] {
            end(cluster, of, 1).await?;
        }
        assert_eq!(becomes(cluster, "Failed").await?.1, "MaxFailedIndexesExceeded");
        until("no pod is left running", async || Ok(running(cluster).await?.is_empty())).await
    });
}

/// A Job of five indexes with a success policy succeeds when these have.
#[track_caller]
fn succeeds_with(rule: Value, indexes: &[&str], completed: &str) {
    cluster(async |cluster| {
        create(cluster, &indexed(5, json!({ "successPolicy": { "rules": [rule] } }))).await?;
        for of in indexes {
            end(cluster, of, 0).await?;
        }
        let (status, reason) = becomes(cluster, "Complete").await?;
        assert_eq!((&status["completedIndexes"], reason.as_str()), (&json!(completed), "SuccessPolicy"));
        becomes(cluster, "SuccessCriteriaMet").await?;
        until("no pod is left running", async || Ok(running(cluster).await?.is_empty())).await
    });
}

#[test]
fn a_job_succeeds_by_its_policy_when_all_indexes_have() {
    succeeds_with(json!({ "succeededIndexes": "0-4" }), &["0", "1", "2", "3", "4"], "0-4");
}

#[test]
fn a_job_succeeds_by_its_policy_when_enough_indexes_have() {
    succeeds_with(json!({ "succeededCount": 2 }), &["1", "4"], "1,4");
}

#[test]
fn a_job_succeeds_by_its_policy_when_the_right_indexes_have() {
    succeeds_with(json!({ "succeededIndexes": "2" }), &["2"], "2");
}
