//! The policies of a Job: what a pod's failure means, for the Job or for one index, and when enough has succeeded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{JobSpec, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::plan::{delay_after, ended_at, index_of, parse_indexes};
use crate::pods;

/// How often pods of an index failed before this one, and how often that did not count.
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// Whether a pod has failed. One that is deleted before it ends has, unless the Job waits for how it ends.
pub(super) fn is_failed(spec: &JobSpec, pod: &Pod) -> bool {
    let waits = spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some();
    let phase = pods::phase(pod);
    phase == "Failed" || !waits && pods::is_terminating(pod) && phase != "Succeeded"
}

/// What a failed pod's failure means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Counts,
    Ignored,
    FailsIndex,
    /// Why, in words.
    FailsJob(String),
}

/// The verdict of the first rule of the pod failure policy that matches.
pub(super) fn judge(spec: &JobSpec, pod: &Pod) -> Verdict {
    let rules = spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules);
    for (position, rule) in rules.enumerate() {
        let Some(why) = matches(rule, pod) else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignored,
            "FailIndex" => Verdict::FailsIndex,
            "FailJob" => Verdict::FailsJob(format!("{why} matching FailJob rule at index {position}")),
            _ => Verdict::Counts,
        };
    }
    Verdict::Counts
}

fn matches(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let (status, name) = (pod.status.as_ref()?, format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()));
    if let Some(codes) = &rule.on_exit_codes {
        let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        let of_name = |container: &str| codes.container_name.as_deref().is_none_or(|name| name == container);
        let ended = all
            .filter(|container| of_name(&container.name))
            .filter_map(|container| Some((&container.name, container.state.as_ref()?.terminated.as_ref()?.exit_code)));
        let chosen = |code: &i32| *code != 0 && codes.values.contains(code) == (codes.operator == "In");
        let (container, code) = ended.into_iter().find(|(_, code)| chosen(code))?;
        return Some(format!("Container {container} for pod {name} failed with exit code {code}"));
    }
    let has = |kind: &str, value: &str| pods::condition(pod, kind).is_some_and(|condition| condition.status == value);
    let patterns = rule.on_pod_conditions.iter().flatten();
    let found =
        patterns.into_iter().find(|pattern| has(&pattern.type_, pattern.status.as_deref().unwrap_or("True")))?;
    Some(format!("Pod {name} has condition {}", found.type_))
}

/// Which rule of the success policy the completed indexes meet, in words.
pub(super) fn success(spec: &JobSpec, completed: &BTreeSet<i32>) -> Option<String> {
    let rules = spec.success_policy.iter().flat_map(|policy| &policy.rules);
    let met = rules.enumerate().find(|(_, rule)| {
        let of = rule.succeeded_indexes.as_deref().map(parse_indexes);
        let succeeded = of.as_ref().map_or(completed.len(), |of| of.intersection(completed).count());
        let needed = rule.succeeded_count.and_then(|count| usize::try_from(count).ok());
        needed.or(of.map(|of| of.len())).is_some_and(|needed| succeeded >= needed)
    });
    met.map(|(position, _)| format!("Matched rules at index {position}"))
}

/// Of a Job with `backoffLimitPerIndex`: the indexes given up, those of before included.
pub(super) fn failed_indexes(spec: &JobSpec, before: &str, all: &[Arc<Pod>]) -> BTreeSet<i32> {
    let mut failed = parse_indexes(before);
    let Some(limit) = spec.backoff_limit_per_index else { return failed };
    for pod in all.iter().filter(|pod| is_failed(spec, pod)) {
        let over = match judge(spec, pod) {
            Verdict::Ignored => false,
            Verdict::FailsIndex => true,
            Verdict::Counts | Verdict::FailsJob(_) => counts(pod).0 >= limit,
        };
        failed.extend(index_of(pod).filter(|index| over && *index < spec.completions.unwrap_or_default()));
    }
    failed
}

fn counts(pod: &Pod) -> (i32, i32) {
    let count = |annotation| pod.annotations().get(annotation).and_then(|count| count.parse().ok()).unwrap_or(0);
    (count(FAILURES), count(IGNORED))
}

/// The failed pod of an index that failed last: the one a new pod takes the count from.
fn last_failed<'a>(spec: &JobSpec, all: &'a [Arc<Pod>], index: i32) -> Option<&'a Arc<Pod>> {
    let failed = all.iter().filter(|pod| index_of(pod) == Some(index) && is_failed(spec, pod));
    failed.max_by_key(|pod| {
        let (failures, ignored) = counts(pod);
        failures + ignored
    })
}

/// How much longer a new pod for an index must wait.
pub(super) fn index_backoff(spec: &JobSpec, all: &[Arc<Pod>], index: i32, now: Timestamp) -> Duration {
    let Some(pod) = last_failed(spec, all, index) else { return Duration::ZERO };
    let (failures, ignored) = counts(pod);
    let earlier = usize::try_from(failures + ignored).unwrap_or_default();
    ended_at(pod).map_or(Duration::ZERO, |at| pods::until(at + delay_after(earlier), now))
}

/// The annotations by which a new pod for an index carries on the count.
pub(super) fn carry_on(spec: &JobSpec, all: &[Arc<Pod>], index: i32) -> BTreeMap<String, String> {
    if spec.backoff_limit_per_index.is_none() {
        return BTreeMap::new();
    }
    let last = last_failed(spec, all, index);
    let (failures, ignored) = last.map_or((0, 0), |pod| match (counts(pod), judge(spec, pod)) {
        ((failures, ignored), Verdict::Ignored) => (failures, ignored + 1),
        ((failures, ignored), _) => (failures + 1, ignored),
    });
    let ignored = (ignored > 0).then(|| (IGNORED.to_owned(), ignored.to_string()));
    [(FAILURES.to_owned(), failures.to_string())].into_iter().chain(ignored).collect()
}

/// Of a Job with `backoffLimitPerIndex`: failed pods (by UID) that must stay until a new pod carries on their count.
pub(super) fn kept(spec: &JobSpec, all: &[Arc<Pod>], settled: &BTreeSet<i32>) -> BTreeSet<String> {
    if spec.backoff_limit_per_index.is_none() {
        return BTreeSet::new();
    }
    let active: BTreeSet<_> = all.iter().filter(|pod| pods::is_active(pod)).filter_map(|pod| index_of(pod)).collect();
    let open: BTreeSet<_> = all.iter().filter_map(|pod| index_of(pod)).collect();
    let open = open.difference(&active).filter(|index| !settled.contains(index));
    open.filter_map(|index| last_failed(spec, all, *index)?.uid()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(exit_code: i32, condition: &str) -> Pod {
        let state = json!({ "terminated": { "exitCode": exit_code } });
        serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "n" },
            "status": { "phase": "Failed", "conditions": [{ "type": condition, "status": "True" }],
                "containerStatuses": [{ "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state }] },
        }))
        .unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let spec = |rules: Value| -> JobSpec {
            serde_json::from_value(json!({ "template": {}, "podFailurePolicy": { "rules": rules } })).unwrap()
        };
        let codes = |action: &str, operator: &str, values: &[i32]| json!({ "action": action, "onExitCodes": { "operator": operator, "values": values } });
        let disrupted = |action: &str| json!({ "action": action, "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] });
        let message = |text: &str| Verdict::FailsJob(text.into());
        for (rules, code, expected) in [
            (json!([]), 1, Verdict::Counts),
            (json!([codes("Ignore", "In", &[2])]), 1, Verdict::Counts),
            (json!([codes("Ignore", "In", &[1, 2])]), 1, Verdict::Ignored),
            (json!([codes("FailIndex", "NotIn", &[2])]), 1, Verdict::FailsIndex),
            (json!([codes("FailIndex", "NotIn", &[2])]), 0, Verdict::Counts),
            (json!([codes("Count", "In", &[1]), disrupted("Ignore")]), 1, Verdict::Counts),
            (
                json!([codes("Count", "In", &[3]), codes("FailJob", "In", &[1])]),
                1,
                message("Container c for pod n/p failed with exit code 1 matching FailJob rule at index 1"),
            ),
            (
                json!([disrupted("FailJob")]),
                1,
                message("Pod n/p has condition DisruptionTarget matching FailJob rule at index 0"),
            ),
        ] {
            assert_eq!(judge(&spec(rules.clone()), &pod(code, "DisruptionTarget")), expected, "{rules}");
        }
    }

    #[test]
    fn a_success_policy_counts_all_or_chosen_indexes() {
        let completed = BTreeSet::from([1, 2, 5]);
        for (rule, met) in [
            (json!({ "succeededCount": 3 }), true),
            (json!({ "succeededCount": 4 }), false),
            (json!({ "succeededIndexes": "1-2" }), true),
            (json!({ "succeededIndexes": "1-3" }), false),
            (json!({ "succeededIndexes": "1-3", "succeededCount": 2 }), true),
        ] {
            let spec = json!({ "template": {}, "successPolicy": { "rules": [{ "succeededIndexes": "9" }, rule] } });
            let spec: JobSpec = serde_json::from_value(spec).unwrap();
            assert_eq!(success(&spec, &completed), met.then(|| "Matched rules at index 1".into()), "{spec:?}");
        }
    }
}
