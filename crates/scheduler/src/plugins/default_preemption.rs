//! DefaultPreemption: when no node fits, whom would removing less important pods help?
//!
//! For nodes that were refused for want of room, all pods of lower priority are taken off in thought. If the pod then
//! fits, the taken ones are put back one by one as long as it still fits: first those whose disruption budget does not
//! allow that they go, then the others, each most important first. Who could not be put back is a *victim*. The node
//! whose victims matter least wins.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use coracle_client::ObjectKey;
use jiff::Timestamp;
use serde::Deserialize;

use crate::cycle::{Filters, histogram, no_node_available};
use crate::framework::{Declined, Nomination, Plugin, Point, PostFilter, Refusal, Unfit};
use crate::node::NodeInfo;
use crate::pod::{PodInfo, parsed};
use crate::snapshot::Snapshot;

const NEVER: &str = "not eligible due to preemptionPolicy=Never.";
const UNDER_WAY: &str = "not eligible due to a terminating pod on the nominated node.";
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
/// Why the victims' `DisruptionTarget` condition is true.
pub(crate) const PREEMPTED: &str = "PreemptionByScheduler";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Args {
    /// So many of the nodes are tried, in percent,
    min_candidate_nodes_percentage: usize,
    /// and at least so many.
    min_candidate_nodes_absolute: usize,
}

impl Default for Args {
    fn default() -> Self {
        Args { min_candidate_nodes_percentage: 10, min_candidate_nodes_absolute: 100 }
    }
}

#[derive(Debug)]
pub(super) struct DefaultPreemption(Args);

impl DefaultPreemption {
    pub(super) fn new(args: Args) -> Result<Self, String> {
        match args.min_candidate_nodes_percentage {
            0 if args.min_candidate_nodes_absolute == 0 => {
                Err("minCandidateNodesPercentage: Invalid value: 0: cannot be zero at the same time as minCandidateNodesAbsolute".into())
            }
            0..=100 => Ok(DefaultPreemption(args)),
            other => Err(format!("minCandidateNodesPercentage: Invalid value: {other}: not in valid range [0, 100]")),
        }
    }
}

impl Plugin for DefaultPreemption {
    fn name(&self) -> &'static str {
        "DefaultPreemption"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PostFilter]
    }

    fn post_filter(&self, unfit: &Unfit<'_>) -> PostFilter {
        let refuse =
            |why: &str, gives_up| Err(Declined { message: format!("preemption: {why}"), gives_up, give_back: None });
        if let Some(why) = not_eligible(unfit) {
            return refuse(why, false);
        }
        let nodes = unfit.snapshot.len();
        let not_helpful = |reasons: Vec<String>| {
            // All nodes that were not tried are beyond help.
            let rest = std::iter::repeat_n(NOT_HELPFUL, nodes - reasons.len().min(nodes));
            let reasons = histogram(reasons.iter().map(String::as_str).chain(rest));
            refuse(&no_node_available(nodes, &reasons), true)
        };
        let Ok(filters) = Filters::prepare(unfit.profile, unfit.pod, unfit.snapshot) else {
            return not_helpful(vec![]);
        };
        let resolvable = unfit.error.refused.iter().filter(|(_, refused)| !refused.refusal.unresolvable);
        let hopeful: Vec<_> = resolvable.map(|(turn, _)| unfit.snapshot.nth(*turn)).collect();
        if hopeful.is_empty() {
            return not_helpful(vec![]);
        }
        let enough = (hopeful.len() * self.0.min_candidate_nodes_percentage / 100)
            .max(self.0.min_candidate_nodes_absolute)
            .min(hopeful.len());
        let offset = (unfit.chance)(hopeful.len());
        let budgets = Budgets::of(unfit.snapshot);
        let (mut candidates, mut reasons, mut harmless) = (Vec::new(), Vec::new(), false);
        for node in hopeful.iter().cycle().skip(offset).take(hopeful.len()) {
            match victims(&filters, unfit.pod, node, &budgets) {
                Ok((victims, violations)) => {
                    harmless |= violations == 0;
                    candidates.push((cost(&victims, violations), node, victims));
                }
                Err(refusal) => reasons.push(refusal.message()),
            }
            if harmless && candidates.len() >= enough {
                break;
            }
        }
        match candidates.into_iter().min_by(|(a, ..), (b, ..)| a.cmp(b)) {
            Some((_, node, victims)) => Ok(Nomination { node: node.name.clone(), victims }),
            None => not_helpful(reasons),
        }
    }
}

/// A pod may want no one to go for it; and who waits for others to go does not send away more.
fn not_eligible(unfit: &Unfit<'_>) -> Option<&'static str> {
    let pod = unfit.pod;
    if pod.spec().preemption_policy.as_deref() == Some("Never") {
        return Some(NEVER);
    }
    let node = unfit.snapshot.node(pod.nominated_node()?)?;
    let mut refused = unfit.error.refused.iter();
    let beyond_help =
        refused.any(|(turn, refused)| unfit.snapshot.nth(*turn).name == node.name && refused.refusal.unresolvable);
    let leaving = node.pods.values().any(|other| other.priority < pod.priority && goes_by_preemption(other));
    (leaving && !beyond_help).then_some(UNDER_WAY)
}

fn goes_by_preemption(pod: &PodInfo) -> bool {
    let mut conditions = pod.pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let target = conditions.find(|condition| condition.type_ == "DisruptionTarget");
    pod.is_terminating() && target.is_some_and(|c| c.status == "True" && c.reason.as_deref() == Some(PREEMPTED))
}

/// Who must go from a node, most important first, and how many of them their budgets do not allow to go.
fn victims(
    filters: &Filters<'_>,
    pod: &PodInfo,
    node: &NodeInfo,
    budgets: &Budgets<'_>,
) -> Result<(Vec<Arc<PodInfo>>, usize), Refusal> {
    let mut lower: Vec<_> = node.pods.values().filter(|other| other.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return Err(Refusal::unresolvable(NO_VICTIMS));
    }
    let (mut filters, mut node) = (filters.imagine(), node.clone());
    for other in &lower {
        filters.remove(&mut node, other);
    }
    filters.check(&node).map_err(|refused| refused.refusal)?;
    lower.sort_by(|a, b| importance(b).cmp(&importance(a)));
    let (protected, others) = budgets.divide(lower);
    let mut stays_out = |other: &Arc<PodInfo>| {
        filters.add(&mut node, other);
        let fits = filters.check(&node).is_ok();
        if !fits {
            filters.remove(&mut node, other);
        }
        !fits
    };
    let mut victims: Vec<_> = protected.into_iter().filter(&mut stays_out).collect();
    let violations = victims.len();
    victims.extend(others.into_iter().filter(&mut stays_out));
    victims.sort_by(|a, b| importance(b).cmp(&importance(a)));
    Ok((victims, violations))
}

/// Higher priority first, then who has been running longer.
fn importance(pod: &PodInfo) -> (i32, Reverse<Option<Timestamp>>, &ObjectKey) {
    (pod.priority, Reverse(started(pod)), &pod.key)
}

fn started(pod: &PodInfo) -> Option<Timestamp> {
    pod.pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0)
}

/// What a node's victims cost, as upstream compares it: budgets violated, the highest priority, the sum of priorities
/// (each made positive), how many they are, and how long the most important have run.
type Cost = (usize, i32, i64, usize, Reverse<Option<Timestamp>>);

fn cost(victims: &[Arc<PodInfo>], violations: usize) -> Cost {
    let highest = victims.iter().map(|victim| victim.priority).max().unwrap_or(i32::MIN);
    let sum = victims.iter().map(|victim| i64::from(victim.priority) + (1 << 31)).sum();
    let oldest = victims.iter().filter(|victim| victim.priority == highest).filter_map(|victim| started(victim)).min();
    (violations, highest, sum, victims.len(), Reverse(oldest))
}

/// The disruption budgets: selector, pods that already go, and how many more may.
struct Budgets<'a>(Vec<(&'a str, coracle_api::selector::Selector, BTreeSet<&'a str>, i32)>);

impl<'a> Budgets<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        let budgets = snapshot.budgets.iter().filter_map(|(key, budget)| {
            let selector = parsed(budget.spec.as_ref()?.selector.as_ref()?);
            let status = budget.status.as_ref();
            let going =
                status.iter().flat_map(|status| status.disrupted_pods.iter().flatten().map(|(name, _)| &name[..]));
            let allowed = status.and_then(|status| status.disruptions_allowed).unwrap_or(0);
            (!selector.is_everything()).then(|| (&key.namespace[..], selector, going.collect(), allowed))
        });
        Budgets(budgets.collect())
    }

    /// Those whose budget would be violated if all before them went too, and the others.
    fn divide(&self, pods: Vec<Arc<PodInfo>>) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
        let mut left: Vec<_> = self.0.iter().map(|(.., allowed)| *allowed).collect();
        pods.into_iter().partition(|pod| {
            let mut violated = false;
            for ((namespace, selector, going, _), left) in self.0.iter().zip(&mut left) {
                let guards = *namespace == pod.key.namespace
                    && !pod.labels().is_empty()
                    && selector.matches(pod.labels())
                    && !going.contains(&pod.key.name[..]);
                if guards {
                    *left -= 1;
                    violated |= *left < 0;
                }
            }
            violated
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::profile::default_profile;
    use crate::testing::{TestPod, decide, node, pod, snapshot};

    fn outcome(pod: TestPod, nodes: &Snapshot) -> Result<(String, Vec<String>), String> {
        let error = decide(pod.clone(), nodes).unwrap_err();
        let (profile, pod) = (default_profile(), pod.info());
        let unfit = Unfit { profile: &profile, pod: &pod, snapshot: nodes, error: &error, chance: |_| 0 };
        let nomination =
            profile.plugin("DefaultPreemption").unwrap().post_filter(&unfit).map_err(|declined| declined.message)?;
        Ok((nomination.node, nomination.victims.iter().map(|victim| victim.key.name.clone()).collect()))
    }

    fn chosen(node: &str, victims: &[&str]) -> Result<(String, Vec<String>), String> {
        Ok((node.to_owned(), victims.iter().map(|victim| (*victim).to_owned()).collect()))
    }

    fn since(pod: TestPod, second: u32) -> TestPod {
        pod.set("/status/startTime", format!("2026-01-01T00:00:{second:02}Z").into())
    }

    #[test]
    fn only_as_many_pods_go_as_must_the_most_important_stay() {
        let nodes = snapshot(vec![
            node("a").cpu("4").with(pod("small").cpu("1").priority(1)).with(pod("large").cpu("3").priority(0)),
        ]);
        assert_eq!(outcome(pod("p").cpu("2").priority(10), &nodes), chosen("a", &["large"]));
    }

    #[test]
    fn the_node_whose_victims_matter_least_wins() {
        let two = |name: &str, priority| pod(name).cpu("2").priority(priority);
        let one = |name: &str, priority| pod(name).cpu("1").priority(priority);
        for (what, a, b, expected) in [
            ("the lower highest priority", vec![two("x", 5)], vec![two("y", 1)], chosen("b", &["y"])),
            (
                "then the lower sum",
                vec![one("v", 3), one("w", 3)],
                vec![one("x", 3), one("y", 1)],
                chosen("b", &["x", "y"]),
            ),
            ("then fewer", vec![one("v", 3), one("w", -2147483648)], vec![two("x", 3)], chosen("b", &["x"])),
            (
                "then those that started later",
                vec![since(two("x", 1), 1)],
                vec![since(two("y", 1), 2)],
                chosen("b", &["y"]),
            ),
            ("then the first", vec![two("x", 1)], vec![two("y", 1)], chosen("a", &["x"])),
        ] {
            let fill =
                |name: &str, pods: Vec<TestPod>| pods.into_iter().fold(node(name).cpu("2"), |node, pod| node.with(pod));
            assert_eq!(outcome(two("p", 10), &snapshot(vec![fill("a", a), fill("b", b)])), expected, "{what}");
        }
    }

    #[test]
    fn budgets_are_kept_if_that_is_possible() {
        let mut nodes = snapshot(vec![
            node("a").cpu("2").with(pod("guarded").label("app", "web").cpu("2")),
            node("b").cpu("2").with(pod("free").cpu("2").priority(3)),
        ]);
        let budget = |allowed: i32, going: serde_json::Value| {
            let budget = json!({ "metadata": { "name": "web", "namespace": "default" },
                "spec": { "selector": { "matchLabels": { "app": "web" } } },
                "status": { "disruptionsAllowed": allowed, "disruptedPods": going, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1 } });
            Some(Arc::new(serde_json::from_value(budget).unwrap()))
        };
        for (allowed, going, expected) in [
            (0, json!({}), chosen("b", &["free"])),
            (1, json!({}), chosen("a", &["guarded"])),
            (0, json!({ "guarded": "2026-01-01T00:00:00Z" }), chosen("a", &["guarded"])),
        ] {
            nodes.budgets.set(ObjectKey::new("default", "web"), budget(allowed, going));
            assert_eq!(outcome(pod("p").cpu("2").priority(10), &nodes), expected);
        }
        // Where there is no other way, they are violated.
        nodes.budgets.set(ObjectKey::new("default", "web"), budget(0, json!({})));
        nodes.remove_node("b");
        nodes.arrange();
        assert_eq!(outcome(pod("p").cpu("2").priority(10), &nodes), chosen("a", &["guarded"]));
    }

    #[test]
    fn pods_that_the_pod_may_not_be_near_go() {
        let away =
            json!([{ "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": { "app": "web" } } }]);
        let lonely = pod("p")
            .priority(10)
            .set("/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution", away);
        let nodes = snapshot(vec![node("a").with(pod("x").label("app", "web")).with(pod("y"))]);
        assert_eq!(outcome(lonely, &nodes), chosen("a", &["x"]));
    }

    #[test]
    fn why_nobody_can_go_is_said_as_upstream_says_it() {
        let full = || node("a").cpu("2").with(pod("x").cpu("2"));
        let big = pod("p").cpu("2").priority(10);
        let leaving = pod("x")
            .cpu("2")
            .set("/metadata/deletionTimestamp", "2026-01-01T00:00:00Z".into())
            .set("/status/conditions", json!([{ "type": "DisruptionTarget", "status": "True", "reason": PREEMPTED }]));
        for (nodes, pod, expected) in [
            (
                vec![full()],
                big.clone().priority(0),
                "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
            ),
            (
                vec![node("a").taint("k", "v", "NoSchedule").with(pod("x").cpu("1")), node("b").cpu("1")],
                big.clone(),
                "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
            ),
            (
                vec![node("a").cpu("3").with(pod("x").cpu("1")).with(pod("y").cpu("2").priority(20))],
                big.clone().priority(1),
                "preemption: 0/1 nodes are available: 1 Insufficient cpu.",
            ),
            (
                vec![full()],
                big.clone().set("/spec/preemptionPolicy", "Never".into()),
                "preemption: not eligible due to preemptionPolicy=Never.",
            ),
            (
                vec![node("a").cpu("2").with(leaving)],
                big.set("/status/nominatedNodeName", "a".into()),
                "preemption: not eligible due to a terminating pod on the nominated node.",
            ),
        ] {
            assert_eq!(outcome(pod, &snapshot(nodes)).unwrap_err(), expected);
        }
    }
}
