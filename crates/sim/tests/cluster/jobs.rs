//! Work that ends.

use serde_json::{Value, json};

use crate::support::*;

fn job(name: &str, command: &[&str], more: Value) -> Value {
    let mut template = one_container("busybox:1", command);
    template["restartPolicy"] = json!("Never");
    let mut spec = json!({ "template": { "spec": template } });
    for (field, value) in more.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name }, "spec": spec })
}

#[test]
fn a_job_completes() {
    simulate(async |cluster| {
        cluster.create(job("sum", &["sleep", "30"], json!({ "completions": 5, "parallelism": 2 }))).await?;
        cluster.advance(seconds(150)).await;
        let sum = get(cluster, "jobs", "sum").await?;
        assert_eq!(condition(&sum, "Complete"), "True", "{:#}", sum["status"]);
        assert_eq!(sum["status"]["succeeded"], 5);
        Ok(())
    });
}

#[test]
fn a_failing_job_gives_up_after_its_backoff_limit() {
    simulate(async |cluster| {
        cluster.create(job("bad", &["sh", "-c", "sleep 1; exit 1"], json!({ "backoffLimit": 3 }))).await?;
        cluster.advance(seconds(600)).await;
        let bad = get(cluster, "jobs", "bad").await?;
        assert_eq!(condition(&bad, "Failed"), "True", "{:#}", bad["status"]);
        assert_eq!(bad["status"]["failed"], 4);
        let reason = bad["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Failed");
        assert_eq!(reason.map(|c| c["reason"].clone()), Some(json!("BackoffLimitExceeded")));
        Ok(())
    });
}
