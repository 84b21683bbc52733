//! Pods: the STATUS that everybody looks at first.

use serde_json::{Value, json};

use super::cells::{condition, is_true};
use super::{int_at, list, since, str_at};

/// What `kubectl get` may leave out: pods that have ended.
pub fn row_conditions(pod: &Value) -> Option<Value> {
    let (reason, message) = match str_at(pod, "status.phase") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{ "type": "Completed", "status": "True", "reason": reason, "message": message }]))
}

/// How many containers are ready, what the pod is doing, and how often it had to begin anew.
pub(super) fn pod(pod: &Value) -> Vec<Value> {
    let summary = summarise(pod);
    vec![
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts(summary.restarts, summary.last_restart).into(),
    ]
}

/// `3 (5m ago)`, or `0`.
fn restarts(count: i64, last: &str) -> String {
    if count == 0 || last.is_empty() { count.to_string() } else { format!("{count} ({} ago)", since(&last.into())) }
}

/// How many readiness gates are open, such as `1/2`.
pub(super) fn readiness_gates(pod: &Value) -> String {
    let gates = list(&pod["spec"], "readinessGates");
    let open = gates.iter().filter(|gate| condition(pod, str_at(gate, "conditionType")).is_some_and(is_true)).count();
    if gates.is_empty() { "<none>".into() } else { format!("{open}/{}", gates.len()) }
}

struct Summary<'a> {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    /// When a container last ended before it was restarted; empty if never. RFC 3339 in UTC sorts as text.
    last_restart: &'a str,
}

/// A sidecar: an init container that keeps running.
fn is_sidecar(pod: &Value, name: &str) -> bool {
    list(&pod["spec"], "initContainers").iter().any(|c| c["name"] == name && c["restartPolicy"] == "Always")
}

fn last_end(status: &Value) -> &str {
    str_at(status, "lastState.terminated.finishedAt")
}

fn summarise(pod: &Value) -> Summary<'_> {
    let phase = str_at(pod, "status.phase");
    let stated = str_at(pod, "status.reason");
    let mut reason = if stated.is_empty() { phase.to_owned() } else { stated.to_owned() };
    if condition(pod, "PodScheduled").is_some_and(|c| c["reason"] == "SchedulingGated") {
        reason = "SchedulingGated".into();
    }
    let inits = list(&pod["spec"], "initContainers");
    let sidecars = inits.iter().filter(|c| c["restartPolicy"] == "Always").count();
    let mut summary = Summary {
        ready: 0,
        total: list(&pod["spec"], "containers").len() + sidecars,
        reason: String::new(),
        restarts: 0,
        last_restart: "",
    };
    let (mut sidecar_restarts, mut sidecar_last) = (0, "");
    let mut initializing = false;
    for (i, status) in list(&pod["status"], "initContainerStatuses").iter().enumerate() {
        let sidecar = is_sidecar(pod, str_at(status, "name"));
        summary.restarts += int_at(status, "restartCount");
        summary.last_restart = summary.last_restart.max(last_end(status));
        if sidecar {
            sidecar_restarts += int_at(status, "restartCount");
            sidecar_last = sidecar_last.max(last_end(status));
        }
        let ended = &status["state"]["terminated"];
        if ended.is_object() && int_at(ended, "exitCode") == 0 {
            continue;
        }
        if sidecar && status["started"] == true {
            summary.ready += usize::from(status["ready"] == true);
            continue;
        }
        let waiting = str_at(status, "state.waiting.reason");
        reason = match () {
            () if ended.is_object() => format!("Init:{}", ending(ended)),
            () if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            () => format!("Init:{i}/{}", inits.len()),
        };
        initializing = true;
        break;
    }
    if !initializing || condition(pod, "Initialized").is_some_and(is_true) {
        (summary.restarts, summary.last_restart) = (sidecar_restarts, sidecar_last);
        let mut running = false;
        for status in list(&pod["status"], "containerStatuses").iter().rev() {
            summary.restarts += int_at(status, "restartCount");
            summary.last_restart = summary.last_restart.max(last_end(status));
            let state = &status["state"];
            let waiting = str_at(state, "waiting.reason");
            if !waiting.is_empty() {
                reason = waiting.into();
            } else if state["terminated"].is_object() {
                reason = ending(&state["terminated"]);
            } else if status["ready"] == true && state["running"].is_object() {
                running = true;
                summary.ready += 1;
            }
        }
        // A pod with a container that ended well and one that still runs is running.
        if reason == "Completed" && running {
            let ready = condition(pod, "Ready").is_some_and(is_true);
            reason = if ready { "Running" } else { "NotReady" }.into();
        }
    }
    if pod["metadata"]["deletionTimestamp"].is_string() {
        if stated == "NodeLost" {
            reason = "Unknown".into();
        } else if !matches!(phase, "Failed" | "Succeeded") {
            reason = "Terminating".into();
        }
    }
    summary.reason = reason;
    summary
}

/// Why a container ended: its reason, else the signal, else the exit code.
fn ending(terminated: &Value) -> String {
    match (str_at(terminated, "reason"), int_at(terminated, "signal")) {
        ("", 0) => format!("ExitCode:{}", int_at(terminated, "exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(status: Value, init: Value) -> (String, String, String) {
        let object = json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "a"}], "initContainers": init},
            "status": status,
        });
        let cells = pod(&object);
        let text = |i: usize| cells[i].as_str().unwrap().to_owned();
        (text(0), text(1), text(2))
    }

    #[test]
    fn the_status_says_what_the_pod_is_doing() {
        let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
        for (what, status, init, ready, reason) in [
            ("new", json!({"phase": "Pending"}), json!([]), "0/1", "Pending"),
            (
                "gated",
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
                json!([]),
                "0/1",
                "SchedulingGated",
            ),
            (
                "running",
                json!({"phase": "Running", "containerStatuses": [{"name": "a", "ready": true, "state": running}]}),
                json!([]),
                "1/1",
                "Running",
            ),
            (
                "backing off",
                json!({"phase": "Running", "containerStatuses": [{"name": "a", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
                json!([]),
                "0/1",
                "CrashLoopBackOff",
            ),
            (
                "out of memory",
                json!({"phase": "Running", "containerStatuses": [{"name": "a", "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}]}),
                json!([]),
                "0/1",
                "OOMKilled",
            ),
            (
                "failed without a reason",
                json!({"phase": "Failed", "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 2}}}]}),
                json!([]),
                "0/1",
                "ExitCode:2",
            ),
            (
                "initialising",
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": running}]}),
                json!([{"name": "i"}]),
                "0/1",
                "Init:0/1",
            ),
            (
                "failing to initialise",
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
                json!([{"name": "i"}]),
                "0/1",
                "Init:CrashLoopBackOff",
            ),
            (
                "with a sidecar",
                json!({"phase": "Running", "initContainerStatuses": [{"name": "i", "started": true, "ready": true, "state": running}],
                       "containerStatuses": [{"name": "a", "ready": true, "state": running}]}),
                json!([{"name": "i", "restartPolicy": "Always"}]),
                "2/2",
                "Running",
            ),
        ] {
            let (is_ready, is_reason, _) = row(status, init);
            assert_eq!((is_ready.as_str(), is_reason.as_str()), (ready, reason), "{what}");
        }
    }

    #[test]
    fn restarts_tell_when_the_last_one_was() {
        let ended = (coracle_clock::now_seconds() - jiff::SignedDuration::from_secs(300)).to_string();
        let status = json!({"phase": "Running", "containerStatuses": [
            {"name": "a", "restartCount": 3, "lastState": {"terminated": {"finishedAt": ended}}}]});
        assert_eq!(row(status, json!([])).2, "3 (5m ago)");
    }

    #[test]
    fn a_deleted_pod_is_terminating() {
        let object = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}});
        assert_eq!(pod(&object)[1], "Terminating");
    }
}
