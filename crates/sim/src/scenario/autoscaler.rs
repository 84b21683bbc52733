//! A simple cluster autoscaler: pods that fit nowhere call for nodes, and nodes that nobody needs go.
//!
//! As upstream's does by default: it looks every ten seconds; pods that could be scheduled on a new node of a group
//! call for one (the first group in the scenario's order that can hold them); a node without pods but those of
//! DaemonSets goes after ten minutes; no group passes its bounds. It never moves pods.

use std::collections::BTreeMap;
use std::time::Duration;

/// Processor thousandths and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Room {
    /// Thousandths of a processor.
    pub cpu_milli: f64,
    /// Bytes of memory.
    pub memory: f64,
    /// Pods.
    pub pods: f64,
}

impl Room {
    fn holds(&self, need: &Room) -> bool {
        need.cpu_milli <= self.cpu_milli && need.memory <= self.memory && need.pods <= self.pods
    }

    /// What is left when something has taken its part.
    pub fn without(&self, need: &Room) -> Room {
        Room {
            cpu_milli: self.cpu_milli - need.cpu_milli,
            memory: self.memory - need.memory,
            pods: self.pods - need.pods,
        }
    }
}

/// A pod that fits nowhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Waiting {
    /// What it needs.
    pub need: Room,
    /// Labels that its node must have.
    pub selector: BTreeMap<String, String>,
    /// The keys of taints that it tolerates; `*` is all of them.
    pub tolerates: Vec<String>,
}

/// A node group as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// The least number of nodes.
    pub min: usize,
    /// The greatest.
    pub max: usize,
    /// The labels of its nodes.
    pub labels: BTreeMap<String, String>,
    /// The keys of the taints of its nodes.
    pub taints: Vec<String>,
    /// What a new node offers to pods.
    pub room: Room,
    /// How many nodes are on their way.
    pub starting: usize,
    /// Its nodes: name, and for how long nothing has been on it.
    pub nodes: Vec<(String, Option<Duration>)>,
}

impl Group {
    fn takes(&self, pod: &Waiting) -> bool {
        self.room.holds(&pod.need)
            && pod.selector.iter().all(|(key, value)| self.labels.get(key) == Some(value))
            && self.taints.iter().all(|taint| pod.tolerates.iter().any(|key| key == taint || key == "*"))
    }

    fn size(&self) -> usize {
        self.nodes.len() + self.starting
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many more nodes for a group.
    Grow(String, usize),
    /// This node goes.
    Remove(String),
}

/// Decides. `waiting` are pods that are unschedulable now.
pub fn decide(groups: &[Group], waiting: &[Waiting], empty_for: Duration) -> Vec<Step> {
    let mut steps = Vec::new();
    // What is on its way counts as if it were there already.
    let mut bins: Vec<(usize, Room)> =
        groups.iter().enumerate().flat_map(|(i, group)| std::iter::repeat_n((i, group.room), group.starting)).collect();
    let mut more: Vec<usize> = groups.iter().map(|group| group.min.saturating_sub(group.size())).collect();
    for (i, group) in groups.iter().enumerate() {
        bins.extend(std::iter::repeat_n((i, group.room), more[i]));
    }
    for pod in waiting {
        let bin = bins.iter_mut().find(|(i, left)| groups[*i].takes(pod) && left.holds(&pod.need));
        if let Some((_, left)) = bin {
            *left = left.without(&pod.need);
            continue;
        }
        let growing = |(i, group): &(usize, &Group)| group.takes(pod) && group.size() + more[*i] < group.max;
        if let Some((i, group)) = groups.iter().enumerate().find(growing) {
            more[i] += 1;
            bins.push((i, group.room.without(&pod.need)));
        }
    }
    for (group, more) in groups.iter().zip(more) {
        if more > 0 {
            steps.push(Step::Grow(group.name.clone(), more));
            continue;
        }
        let spare = group.size().saturating_sub(group.min);
        let unneeded = group.nodes.iter().filter(|(_, empty)| empty.is_some_and(|empty| empty >= empty_for));
        // While pods wait, what is empty may be just what they wait for.
        let going = if waiting.is_empty() { spare } else { 0 };
        steps.extend(unneeded.take(going).map(|(name, _)| Step::Remove(name.clone())));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(cpu_milli: f64) -> Room {
        Room { cpu_milli, memory: 1e9, pods: 10.0 }
    }

    fn pod(cpu_milli: f64) -> Waiting {
        Waiting { need: Room { cpu_milli, memory: 1e6, pods: 1.0 }, ..Waiting::default() }
    }

    fn group(name: &str, min: usize, max: usize, nodes: &[Option<u64>]) -> Group {
        let nodes = nodes.iter().enumerate();
        let nodes = nodes.map(|(i, empty)| (format!("{name}-{i}"), empty.map(Duration::from_secs))).collect();
        Group { name: name.into(), min, max, room: room(2000.0), nodes, ..Group::default() }
    }

    #[test]
    fn nodes_come_for_waiting_pods_and_go_when_empty() {
        let grow = |name: &str, count| Step::Grow(name.into(), count);
        let tainted = Group { taints: vec!["gpu".into()], ..group("gpu", 0, 5, &[]) };
        let zoned = Group { labels: [("disk".to_owned(), "ssd".to_owned())].into(), ..group("ssd", 0, 5, &[]) };
        let starting = Group { starting: 1, ..group("a", 1, 5, &[None]) };
        let ssd = Waiting { selector: [("disk".to_owned(), "ssd".to_owned())].into(), ..pod(100.0) };
        let gpu = Waiting { tolerates: vec!["gpu".into()], ..pod(100.0) };
        for (what, groups, waiting, expected) in [
            ("nobody waits", vec![group("a", 1, 5, &[None])], vec![], vec![]),
            ("pods share new nodes", vec![group("a", 1, 5, &[None])], vec![pod(900.0); 5], vec![grow("a", 3)]),
            ("what is on its way counts", vec![starting], vec![pod(900.0); 3], vec![grow("a", 1)]),
            ("bounds hold", vec![group("a", 1, 2, &[None])], vec![pod(900.0); 9], vec![grow("a", 1)]),
            (
                "the next group helps",
                vec![group("a", 1, 1, &[None]), group("b", 0, 9, &[])],
                vec![pod(1500.0); 2],
                vec![grow("b", 2)],
            ),
            ("too large for any", vec![group("a", 0, 5, &[])], vec![pod(3000.0)], vec![]),
            ("taints keep off", vec![tainted.clone(), group("a", 0, 5, &[])], vec![pod(100.0)], vec![grow("a", 1)]),
            ("unless tolerated", vec![tainted], vec![gpu], vec![grow("gpu", 1)]),
            ("labels are wanted", vec![group("a", 0, 5, &[]), zoned], vec![ssd], vec![grow("ssd", 1)]),
            ("a lost node is replaced", vec![group("a", 2, 5, &[None])], vec![], vec![grow("a", 1)]),
            (
                "empty nodes go, to the least",
                vec![group("a", 1, 5, &[Some(700), Some(700)])],
                vec![],
                vec![Step::Remove("a-0".into())],
            ),
            ("not at once", vec![group("a", 1, 5, &[Some(500), None])], vec![], vec![]),
            ("nor while pods wait", vec![group("a", 1, 2, &[Some(700), None])], vec![pod(9000.0)], vec![]),
        ] {
            assert_eq!(decide(&groups, &waiting, Duration::from_secs(600)), expected, "{what}");
        }
    }
}
