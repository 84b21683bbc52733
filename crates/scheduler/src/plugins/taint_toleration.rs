//! TaintToleration: a node keeps away pods that do not tolerate its taints.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{ClusterEvent, Filter, Plugin, PreFilter, Refusal, Score, default_normalize};

const REASON: &str = "node(s) had untolerated taint(s)";

#[derive(Debug)]
pub(super) struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn unblocked_by(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeChanged, ClusterEvent::PodChanged]
    }

    fn filter<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> PreFilter<'a> {
        Ok(Some(Box::new(Tolerations(pod.spec().tolerations.as_deref().unwrap_or_default()))))
    }

    fn score<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
        Some(Box::new(Tolerations(pod.spec().tolerations.as_deref().unwrap_or_default())))
    }
}

struct Tolerations<'a>(&'a [Toleration]);

impl Tolerations<'_> {
    fn untolerated<'n>(&self, node: &'n NodeInfo, effects: &'n [&str]) -> impl Iterator<Item = &'n Taint> {
        let taints = node.node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        let tolerations = self.0.to_vec();
        taints
            .filter(move |taint| effects.contains(&taint.effect.as_str()))
            .filter(move |taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
    }
}

impl Filter for Tolerations<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Refusal> {
        match self.untolerated(node, &["NoSchedule", "NoExecute"]).next() {
            None => Ok(()),
            Some(_) => Err(Refusal::unresolvable(REASON)),
        }
    }
}

impl Score for Tolerations<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        self.untolerated(node, &["PreferNoSchedule"]).count() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        default_normalize(scores, true);
    }
}

/// Whether a toleration covers a taint: empty effect or key cover all, `Exists` ignores the value, and
/// `Lt`/`Gt` compare it as a number.
pub(super) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (effect, key, value) = (text(&toleration.effect), text(&toleration.key), text(&toleration.value));
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    let actual = taint.value.as_deref().unwrap_or_default();
    let numbers = || Some((actual.parse::<i64>().ok()?, value.parse::<i64>().ok()?));
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => value == actual,
        "Exists" => true,
        "Lt" => numbers().is_some_and(|(actual, bound)| actual < bound),
        "Gt" => numbers().is_some_and(|(actual, bound)| actual > bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toleration_covers_a_taint_by_effect_key_operator_and_value() {
        let taint = |key: &str, value: &str, effect: &str| Taint {
            key: key.into(),
            value: Some(value.into()),
            effect: effect.into(),
            time_added: None,
        };
        let toleration = |operator: &str, key: &str, value: &str, effect: &str| Toleration {
            operator: Some(operator.into()),
            key: Some(key.into()),
            value: Some(value.into()),
            effect: Some(effect.into()),
            toleration_seconds: None,
        };
        let node = taint("k", "v", "NoSchedule");
        for (toleration, expected) in [
            (toleration("Equal", "k", "v", "NoSchedule"), true),
            (toleration("", "k", "v", ""), true),
            (toleration("Equal", "k", "w", "NoSchedule"), false),
            (toleration("Exists", "k", "", ""), true),
            (toleration("Exists", "", "", ""), true),
            (toleration("Exists", "other", "", ""), false),
            (toleration("Exists", "k", "", "NoExecute"), false),
            (toleration("Sideways", "k", "v", ""), false),
        ] {
            assert_eq!(tolerates(&toleration, &node), expected, "{toleration:?}");
        }
        assert!(tolerates(&toleration("Gt", "sla", "950", ""), &taint("sla", "990", "NoSchedule")));
        assert!(!tolerates(&toleration("Gt", "sla", "950", ""), &taint("sla", "900", "NoSchedule")));
    }
}
