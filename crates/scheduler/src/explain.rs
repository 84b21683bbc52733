//! Explain: what a decision was made of, for whoever asks why.
//!
//! Kept for the last decisions, and only if that was asked for: a decision whose trace nobody keeps costs nothing
//! more than the question whether one is kept.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Display};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::cycle::Refused;
use crate::node::NodeInfo;
use crate::pod::PodInfo;

/// All that went into one decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    /// `namespace/name` of the pod.
    pub pod: String,
    /// Its UID.
    pub uid: String,
    /// When, as RFC 3339.
    pub time: String,
    /// By which profile.
    pub scheduler: String,
    /// How often it was tried before, plus one.
    pub attempt: u32,
    /// How many nodes there are. Not all need to be looked at if enough are possible.
    pub nodes: usize,
    /// The nodes that are not possible.
    pub refused: Vec<NodeVerdict>,
    /// The nodes that are, best first.
    pub scores: Vec<NodeScore>,
    /// What came of it.
    pub outcome: Outcome,
}

/// Why a node is not possible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeVerdict {
    /// The node.
    pub node: String,
    /// The plugin that refused it.
    pub plugin: Cow<'static, str>,
    /// Why.
    pub reasons: Vec<Cow<'static, str>>,
    /// Whether it stays impossible whoever leaves it.
    pub unresolvable: bool,
}

impl NodeVerdict {
    pub(crate) fn new(node: &NodeInfo, refused: &Refused) -> Self {
        NodeVerdict {
            node: node.name.clone(),
            plugin: refused.plugin.into(),
            reasons: refused.refusal.reasons.clone(),
            unresolvable: refused.refusal.unresolvable,
        }
    }
}

/// How good a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeScore {
    /// The node.
    pub node: String,
    /// The sum of normalised scores times weights. Of a single possible node none is made.
    pub total: i64,
    /// Of what it is made.
    pub plugins: Vec<PluginScore>,
}

/// How good a plugin finds a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginScore {
    /// The plugin.
    pub plugin: Cow<'static, str>,
    /// On the plugin's own scale.
    pub raw: i64,
    /// From 0 to 100.
    pub normalized: i64,
    /// How much it counts.
    pub weight: i64,
}

/// What came of a decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "result")]
pub enum Outcome {
    /// It is still being made.
    #[default]
    Open,
    /// The pod goes to a node.
    #[serde(rename_all = "camelCase")]
    Scheduled {
        /// The node.
        node: String,
    },
    /// The pod must wait.
    #[serde(rename_all = "camelCase")]
    Unschedulable {
        /// FailedScheduling's message.
        message: String,
        /// Per plugin that refused, the events that make the pod be looked at again.
        unblocked_by: BTreeMap<String, Vec<String>>,
        /// The node on which room is being made, if any.
        nominated_node: Option<String>,
        /// The pods that go for it.
        victims: Vec<String>,
    },
    /// A plugin keeps the pod out of the queue.
    #[serde(rename_all = "camelCase")]
    Gated {
        /// The plugin's words.
        message: String,
    },
}

impl Trace {
    /// A decision on a pod that begins now.
    pub(crate) fn new(pod: &PodInfo, scheduler: &str, attempt: u32) -> Self {
        Trace {
            pod: pod.key.to_string(),
            uid: pod.uid().to_owned(),
            time: coracle_clock::now().to_string(),
            scheduler: scheduler.to_owned(),
            attempt,
            ..Trace::default()
        }
    }
}

/// So many nodes' scores are told to people.
const TOLD_NODES: usize = 5;

/// For people.
impl Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "pod {}, attempt {} of {} at {}", self.pod, self.attempt, self.scheduler, self.time)?;
        match &self.outcome {
            Outcome::Open => {}
            Outcome::Gated { message } => writeln!(f, "not considered: {message}")?,
            Outcome::Scheduled { node } => {
                writeln!(f, "goes to {node}: {}", self.why_there())?;
            }
            Outcome::Unschedulable { message, .. } => writeln!(f, "must wait: {message}")?,
        }
        if !self.scores.iter().all(|score| score.plugins.is_empty()) {
            self.table(f)?;
        }
        self.refusals(f)?;
        let Outcome::Unschedulable { unblocked_by, nominated_node, victims, .. } = &self.outcome else { return Ok(()) };
        if let Some(node) = nominated_node {
            writeln!(f, "\nroom is made on {node}; there go: {}", victims.join(", "))?;
        }
        if !unblocked_by.is_empty() {
            writeln!(f, "\nit is tried again when one of these happens, and every five minutes:")?;
            for (plugin, events) in unblocked_by {
                writeln!(f, "  {plugin}: {}", events.join(", "))?;
            }
        }
        Ok(())
    }
}

impl Trace {
    fn why_there(&self) -> String {
        let possible = self.scores.len();
        let looked_at = possible + self.refused.len();
        match &self.scores[..] {
            [_] => format!("the only possible one of {looked_at} looked at"),
            [best, ..] => {
                let equal = self.scores.iter().filter(|score| score.total == best.total).count();
                let drawn = if equal > 1 { format!(", drawn from {equal} equally good ones") } else { String::new() };
                format!("the best of {possible} possible ones{drawn} ({looked_at} of {} looked at)", self.nodes)
            }
            [] => "room had been made there".into(),
        }
    }

    /// Nodes in columns, the chosen one first; plugins in rows: `normalised×weight`.
    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_chosen = |score: &NodeScore| matches!(&self.outcome, Outcome::Scheduled { node } if *node == score.node);
        let mut shown: Vec<_> = self.scores.iter().collect();
        shown.sort_by_key(|score| !is_chosen(score));
        shown.truncate(TOLD_NODES);
        let width = |node: &NodeScore| node.node.len().max(8) + 2;
        write!(f, "\n{:34}", "score")?;
        for node in &shown {
            write!(f, "{:>1$}", node.node, width(node))?;
        }
        for (at, plugin) in shown[0].plugins.iter().enumerate() {
            write!(f, "\n{:34}", plugin.plugin)?;
            for node in &shown {
                let own = &node.plugins[at];
                write!(f, "{:>1$}", format!("{}×{}", own.normalized, own.weight), width(node))?;
            }
        }
        write!(f, "\n{:34}", "sum")?;
        for node in &shown {
            write!(f, "{:>1$}", node.total, width(node))?;
        }
        writeln!(f)?;
        if self.scores.len() > shown.len() {
            writeln!(f, "({} more possible nodes)", self.scores.len() - shown.len())?;
        }
        Ok(())
    }

    /// Nodes that are refused for the same reasons stand together.
    fn refusals(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut groups: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
        for verdict in &self.refused {
            let why = verdict.reasons.join(", ");
            groups.entry((&verdict.plugin, why)).or_default().push(&verdict.node);
        }
        if !groups.is_empty() {
            writeln!(f, "\nnot possible:")?;
        }
        for ((plugin, why), nodes) in groups {
            let named = nodes[..nodes.len().min(TOLD_NODES)].join(", ");
            let more = nodes.len().saturating_sub(TOLD_NODES);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            writeln!(f, "  {named}{more}: {why} ({plugin})")?;
        }
        Ok(())
    }
}

/// The traces of the last decisions, shared between the scheduler and whoever asks.
#[derive(Clone, Debug, Default)]
pub struct Decisions {
    kept: Arc<Mutex<VecDeque<Arc<Trace>>>>,
    most: usize,
}

impl Decisions {
    /// Keeps the last so many; of 0 none, and none is made.
    pub fn keep(most: usize) -> Self {
        Decisions { kept: Arc::default(), most }
    }

    /// Whether traces are kept at all.
    pub fn is_on(&self) -> bool {
        self.most > 0
    }

    /// One more decision.
    pub(crate) fn push(&self, trace: Trace) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= self.most {
            kept.pop_front();
        }
        kept.push_back(Arc::new(trace));
    }

    /// The decisions on a pod (`namespace/name`) that are still kept, newest first.
    pub fn of(&self, pod: &str) -> Vec<Arc<Trace>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().rev().filter(|trace| trace.pod == pod).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cycle::{Search, schedule};
    use crate::profile::default_profile;
    use crate::snapshot::Snapshot;
    use crate::testing::{TestPod, first, node, pod, snapshot};

    fn trace(pod: TestPod, nodes: &Snapshot) -> Trace {
        let mut trace = Trace { pod: "default/p".into(), scheduler: "default-scheduler".into(), ..Trace::default() };
        trace.attempt = 1;
        trace.time = "now".into();
        let mut search = Search { start: 0, tie_break: first };
        let decision = schedule(&default_profile(), &pod.info(), nodes, &mut search, Some(&mut trace));
        trace.outcome = match decision {
            Ok(node) => Outcome::Scheduled { node },
            Err(error) => Outcome::Unschedulable {
                message: error.message(),
                unblocked_by: BTreeMap::from([("NodeResourcesFit".into(), vec!["NodeAdd".into()])]),
                nominated_node: Some("b".into()),
                victims: vec!["default/x".into()],
            },
        };
        trace
    }

    fn nodes() -> Snapshot {
        snapshot(vec![node("a").with(pod("x").cpu("2")), node("b"), node("c").taint("k", "v", "NoSchedule")])
    }

    #[test]
    fn a_placed_pod_is_explained_by_scores() {
        assert_eq!(
            trace(pod("p").cpu("1"), &nodes()).to_string(),
            "pod default/p, attempt 1 of default-scheduler at now
goes to b: the best of 2 possible ones (3 of 3 looked at)

score                                      b         a
TaintToleration                        100×3     100×3
NodeResourcesFit                        86×1      60×1
NodeResourcesBalancedAllocation         87×1      62×1
sum                                      473       422

not possible:
  c: node(s) had untolerated taint(s) (TaintToleration)
"
        );
    }

    #[test]
    fn the_chosen_one_of_many_equals_is_shown() {
        let many = snapshot((0..9).map(|number| node(&format!("n{number}"))).collect());
        let mut trace = trace(pod("p"), &many);
        trace.outcome = Outcome::Scheduled { node: "n8".into() };
        let text = trace.to_string();
        let columns: Vec<_> = text.lines().find(|line| line.starts_with("score")).unwrap().split_whitespace().collect();
        assert_eq!(columns, ["score", "n8", "n0", "n1", "n2", "n3"]);
    }

    #[test]
    fn a_waiting_pod_is_explained_by_refusals_and_what_lifts_them() {
        assert_eq!(
            trace(pod("p").cpu("9"), &nodes()).to_string(),
            "pod default/p, attempt 1 of default-scheduler at now
must wait: 0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu.

not possible:
  a, b: Insufficient cpu (NodeResourcesFit)
  c: node(s) had untolerated taint(s) (TaintToleration)

room is made on b; there go: default/x

it is tried again when one of these happens, and every five minutes:
  NodeResourcesFit: NodeAdd
"
        );
    }

    #[test]
    fn a_trace_is_json_and_back() {
        let trace = trace(pod("p").cpu("1"), &nodes());
        let json = serde_json::to_value(&trace).unwrap();
        assert_eq!(json["outcome"], serde_json::json!({ "result": "scheduled", "node": "b" }));
        assert_eq!(serde_json::from_value::<Trace>(json).unwrap(), trace);
    }

    #[test]
    fn the_last_decisions_are_kept_newest_first_and_none_if_none_are_wanted() {
        let decisions = Decisions::keep(2);
        for (pod, attempt) in [("a", 1), ("b", 1), ("a", 2)] {
            decisions.push(Trace { pod: pod.into(), attempt, ..Trace::default() });
        }
        let kept: Vec<_> = decisions.of("a").iter().map(|trace| trace.attempt).collect();
        assert_eq!(kept, [2]);
        assert!(!Decisions::default().is_on());
    }
}
