//! CronJobs and disruption budgets.

use std::time::Duration;

use coracle_sim::Cluster;
use kube::api::Patch;
use serde_json::{Value, json};

use crate::lifecycle::takes_every_verb;
use crate::objects::Objects;
use crate::support::*;

/// A CronJob of every minute, whose jobs take five.
fn cron_job(name: &str, policy: &str) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": name },
        "spec": {
            "schedule": "*/1 * * * ?", "concurrencyPolicy": policy,
            "jobTemplate": { "spec": { "parallelism": 1, "completions": 1, "template": { "spec": {
                "restartPolicy": "OnFailure",
                "containers": [{ "name": "c", "image": "busybox:1", "command": ["sleep", "300"] }],
            } } } },
        },
    })
}

/// How many Jobs the CronJob's status calls active, and the names of the Jobs that are not finished.
async fn active(cluster: &Cluster, cron_job: &str) -> anyhow::Result<(usize, Vec<String>)> {
    let status = Objects::find(cluster, "batch/v1", "CronJob").await?.get(cron_job).await?["status"].clone();
    let jobs = Objects::find(cluster, "batch/v1", "Job").await?.list("").await?;
    let running = jobs.iter().filter(|job| job["status"]["completionTime"].is_null());
    Ok((status["active"].as_array().map_or(0, Vec::len), running.map(|job| name(job).to_owned()).collect()))
}

async fn create(cluster: &Cluster, object: &Value) -> anyhow::Result<Value> {
    Ok(Objects::of(cluster, object).await?.create(object).await?)
}

#[test]
fn jobs_of_a_cron_job_run_concurrently_if_it_allows_that() {
    cluster(async |cluster| {
        create(cluster, &cron_job("concurrent", "Allow")).await?;
        until("two jobs are active", async || Ok(active(cluster, "concurrent").await?.0 >= 2)).await?;
        assert!(active(cluster, "concurrent").await?.1.len() >= 2);
        let jobs = Objects::find(cluster, "batch/v1", "Job").await?.list("").await?;
        let owner = &jobs[0]["metadata"]["ownerReferences"][0];
        assert_eq!(
            (&owner["kind"], &owner["name"], &owner["controller"]),
            (&json!("CronJob"), &json!("concurrent"), &json!(true))
        );
        let scheduled = &jobs[0]["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"];
        assert!(scheduled.as_str().is_some_and(|time| time.ends_with(":00Z")), "{scheduled}");
        Ok(())
    });
}

#[test]
fn a_suspended_cron_job_starts_no_job() {
    cluster(async |cluster| {
        let mut suspended = cron_job("suspended", "Allow");
        suspended["spec"]["suspend"] = true.into();
        create(cluster, &suspended).await?;
        cluster.advance(Duration::from_secs(300)).await;
        assert_eq!(active(cluster, "suspended").await?, (0, vec![]));
        Ok(())
    });
}

#[test]
fn a_cron_job_that_forbids_concurrency_starts_no_second_job() {
    cluster(async |cluster| {
        create(cluster, &cron_job("forbid", "Forbid")).await?;
        until("a job is active", async || Ok(active(cluster, "forbid").await?.0 == 1)).await?;
        let (_, first) = active(cluster, "forbid").await?;
        assert_eq!(first.len(), 1);
        cluster.advance(Duration::from_secs(240)).await;
        assert_eq!(active(cluster, "forbid").await?, (1, first));
        Ok(())
    });
}

#[test]
fn a_cron_job_that_replaces_ends_the_active_job_for_a_newer_one() {
    cluster(async |cluster| {
        create(cluster, &cron_job("replace", "Replace")).await?;
        until("a job is active", async || Ok(active(cluster, "replace").await?.0 == 1)).await?;
        let (_, first) = active(cluster, "replace").await?;
        until("another job is active", async || {
            let (count, jobs) = active(cluster, "replace").await?;
            assert!(count <= 1, "never two");
            Ok(count == 1 && !jobs.contains(&first[0]))
        })
        .await
    });
}

#[test]
fn a_cron_job_and_its_status_take_every_verb() {
    takes_every_verb(
        cron_job("test-api", "Allow"),
        json!({ "spec": { "suspend": true } }),
        json!({ "lastScheduleTime": "2026-01-01T00:00:00Z" }),
    );
}

fn budget(name: &str, namespace: &str) -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": { "name": name, "namespace": namespace, "labels": { "foo": "bar" } },
        "spec": { "selector": { "matchLabels": { "foo": "bar" } }, "minAvailable": "1%" },
    })
}

/// Waits until the disruption controller has seen the budget as it is.
async fn processed(budgets: &Objects, name: &str) -> anyhow::Result<()> {
    until("the budget is processed", async || {
        let budget = budgets.get(name).await?;
        Ok(budget["status"]["observedGeneration"] == budget["metadata"]["generation"])
    })
    .await
}

#[test]
fn budgets_are_listed_over_all_namespaces_and_deleted_as_a_collection() {
    control_plane(async |cluster| {
        create(cluster, &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "disruption-2" } }))
            .await?;
        let budgets = Objects::of(cluster, &budget("foo", "default")).await?;
        for (name, namespace) in [("foo", "default"), ("foo2", "default"), ("foo3", "disruption-2")] {
            create(cluster, &budget(name, namespace)).await?;
            processed(&budgets.in_namespace(namespace), name).await?;
        }
        assert_eq!(budgets.everywhere().list("foo=bar").await?.len(), 3);
        assert_eq!(budgets.list("foo=bar").await?.len(), 2);
        budgets.delete_collection("foo=bar").await?;
        assert!(budgets.list("foo=bar").await?.is_empty());
        assert_eq!(budgets.everywhere().list("foo=bar").await?.len(), 1);
        Ok(())
    });
}

#[test]
fn a_budget_is_created_updated_patched_and_deleted_and_the_controller_follows() {
    control_plane(async |cluster| {
        let budgets = Objects::of(cluster, &budget("foo", "default")).await?;
        create(cluster, &budget("foo", "default")).await?;
        processed(&budgets, "foo").await?;
        let mut changed = budgets.get("foo").await?;
        changed["spec"]["minAvailable"] = "2%".into();
        assert_eq!(budgets.replace(&changed).await?["metadata"]["generation"], 2);
        processed(&budgets, "foo").await?;
        let patched = budgets.merge("foo", json!({ "spec": { "minAvailable": "3%" } })).await?;
        assert_eq!((&patched["spec"]["minAvailable"], &patched["metadata"]["generation"]), (&json!("3%"), &json!(3)));
        processed(&budgets, "foo").await?;
        budgets.delete("foo").await?;
        assert!(!budgets.exists("foo").await?);
        Ok(())
    });
}

/// Two running pods that a budget counts.
async fn guarded(cluster: &Cluster, min_available: i32) -> anyhow::Result<Objects> {
    let mut guarded = budget("guard", "default");
    guarded["spec"]["minAvailable"] = min_available.into();
    for name in ["one", "two"] {
        let mut pod = pod(name, json!({}), json!({}));
        pod["metadata"]["labels"] = json!({ "foo": "bar" });
        create(cluster, &pod).await?;
    }
    let budgets = Objects::of(cluster, &guarded).await?;
    budgets.create(&guarded).await?;
    until("both pods are healthy", async || Ok(budgets.get("guard").await?["status"]["currentHealthy"] == 2)).await?;
    Ok(budgets)
}

#[test]
fn a_budgets_status_shows_what_healthy_pods_allow() {
    cluster(async |cluster| {
        let status = guarded(cluster, 1).await?.get("guard").await?["status"].clone();
        let counts = ["disruptionsAllowed", "desiredHealthy", "currentHealthy", "expectedPods"]
            .map(|count| status[count].clone());
        assert_eq!(counts, [1, 1, 2, 2].map(Value::from));
        Ok(())
    });
}

#[test]
fn a_budgets_status_is_updated_and_patched() {
    cluster(async |cluster| {
        let budgets = guarded(cluster, 1).await?;
        let mut changed = budgets.get("guard").await?;
        let now = coracle_clock::now_seconds().to_string();
        changed["status"]["disruptedPods"] = json!({ "one": now });
        let updated = budgets.replace_sub("status", &changed).await?;
        assert_eq!(updated["status"]["disruptedPods"], json!({ "one": now }));
        let patch = Patch::Merge(json!({ "status": { "disruptedPods": { "one": null, "two": now } } }));
        let patched = budgets.patch_sub("status", "guard", &patch).await?;
        assert_eq!(patched["status"]["disruptedPods"], json!({ "two": now }));
        until("the controller counts it out", async || {
            let status = budgets.get("guard").await?["status"].clone();
            Ok(status["currentHealthy"] == 1 && status["disruptionsAllowed"].as_i64().unwrap_or_default() == 0)
        })
        .await
    });
}

#[test]
fn an_eviction_waits_until_the_budget_allows_it() {
    cluster(async |cluster| {
        let budgets = guarded(cluster, 2).await?;
        let evict = async || {
            let eviction = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": "one" } });
            let request = http::Request::post("/api/v1/namespaces/default/pods/one/eviction");
            let body = serde_json::to_vec(&eviction).expect("it is JSON");
            let request = request.header("content-type", "application/json").body(body).expect("it is a request");
            cluster.client().request::<Value>(request).await
        };
        refused(evict().await, 429, "TooManyRequests");
        budgets.merge("guard", json!({ "spec": { "minAvailable": 1 } })).await?;
        processed(&budgets, "guard").await?;
        evict().await?;
        let pods = Objects::find(cluster, "v1", "Pod").await?;
        until("it is gone", async || Ok(!pods.exists("one").await?)).await?;
        budgets.merge("guard", json!({ "spec": { "minAvailable": 3 } })).await?;
        until("nothing more may go", async || Ok(budgets.get("guard").await?["status"]["desiredHealthy"] == 3)).await?;
        budgets.delete("guard").await?;
        Ok(())
    });
}
