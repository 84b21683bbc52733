//! The machines behind the node groups: which there are, in which zones, on which power, and what they cost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context;
use coracle_kubelet::runtime::simulated::policy::PolicySpec;
use coracle_kubelet::runtime::simulated::{InstanceType, SimulatedConfig};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Taint;

use super::autoscaler::{Group, Room};
use super::check::{Scenario, bounds, zones};
use super::spec::Nodes;
use super::view::View;
use crate::{Cluster, Component};

/// A node group and its machines.
struct GroupState {
    name: String,
    instance: InstanceType,
    zones: Vec<String>,
    min: usize,
    max: usize,
    price: f64,
    spot: bool,
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
    machine: SimulatedConfig,
    /// The number of the last node that there was.
    last: u32,
}

struct Machine {
    group: usize,
    zone: String,
    /// Without power.
    down: bool,
    /// Since when nothing but DaemonSets' pods has been on it.
    empty_since: Option<Duration>,
    /// How often the autoscaler has seen it ready. Until the second time it is as good as on its way: the scheduler may not
    /// have made use of it yet.
    scans_ready: usize,
}

/// All machines.
pub(super) struct Fleet {
    groups: Vec<GroupState>,
    machines: BTreeMap<String, Machine>,
    zones_down: BTreeSet<String>,
    /// How many machines of each group are on their way.
    starting: Vec<usize>,
    /// Up to when costs are counted.
    counted: Duration,
}

impl Fleet {
    pub(super) fn new(scenario: &Scenario) -> Fleet {
        let policies = scenario.policies.iter().rev();
        let machine = policies.fold(SimulatedConfig::default(), |machine, policy| PolicySpec::apply(policy, machine));
        let group = |group: &super::spec::NodeGroup| {
            let (min, max) = bounds(group);
            let taint = |taint: &super::spec::Taint| Taint {
                key: taint.key.clone(),
                value: Some(taint.value.clone()).filter(|value| !value.is_empty()),
                effect: taint.effect.clone(),
                time_added: None,
            };
            GroupState {
                name: group.name.to_string(),
                instance: *group.instance_type,
                zones: zones(group).into_iter().map(str::to_owned).collect(),
                min: min as usize,
                max: max as usize,
                price: group.price_per_hour.as_ref().map_or(group.instance_type.price_per_hour, |price| price.0),
                spot: group.spot,
                labels: group.labels.clone(),
                taints: group.taints.iter().map(|text| taint(text)).collect(),
                machine: group.instance_type.machine(machine.clone()),
                last: 0,
            }
        };
        let groups: Vec<_> = scenario.spec.cluster.node_groups.iter().map(|spec| group(spec)).collect();
        let starting = vec![0; groups.len()];
        Fleet { groups, machines: BTreeMap::new(), zones_down: BTreeSet::new(), starting, counted: Duration::ZERO }
    }

    pub(super) fn group(&self, name: &str) -> Option<usize> {
        self.groups.iter().position(|group| group.name == name)
    }

    /// That a machine of a group is on its way, and is paid for.
    pub(super) fn order(&mut self, group: usize) {
        self.starting[group] += 1;
    }

    /// Whether a zone of the group has power.
    fn zone_for_new(&self, group: usize) -> Option<&String> {
        let count = |zone: &String| {
            self.machines.values().filter(|machine| machine.group == group && machine.zone == *zone).count()
        };
        self.groups[group].zones.iter().filter(|zone| !self.zones_down.contains(*zone)).min_by_key(|zone| count(zone))
    }

    /// Starts a machine that was ordered; in the zone of the group that has power and the fewest. Its name, unless no
    /// zone has power.
    pub(super) async fn launch(&mut self, cluster: &mut Cluster, group: usize) -> anyhow::Result<Option<String>> {
        let Some(zone) = self.zone_for_new(group).cloned() else { return Ok(None) };
        self.starting[group] = self.starting[group].saturating_sub(1);
        let state = &mut self.groups[group];
        state.last += 1;
        let name = format!("{}-{}", state.name, state.last);
        let node = cluster.add_node_as(state.machine.clone(), |kubelet| {
            kubelet.node_name = name;
            state.instance.configure(kubelet, &state.name, &zone, state.spot);
            kubelet.labels.extend(state.labels.clone());
            kubelet.taints.extend(state.taints.clone());
        });
        let node = node.await.context("a new node")?;
        self.machines.insert(node.clone(), Machine { group, zone, down: false, empty_since: None, scans_ready: 0 });
        Ok(Some(node))
    }

    /// Cuts machines off from power.
    pub(super) async fn power_off(&mut self, cluster: &mut Cluster, nodes: &[String]) {
        // The dead write nothing: what they put off must be there when they are.
        join_all(nodes.iter().map(|node| cluster.heartbeats.look(Some(node)))).await;
        for node in nodes {
            if let Some(machine) = self.machines.get_mut(node) {
                machine.down = true;
                cluster.power_off(node);
            }
        }
    }

    /// Gives power back to machines that are still there.
    pub(super) async fn power_on(&mut self, cluster: &mut Cluster, nodes: &[String]) -> anyhow::Result<()> {
        for node in nodes {
            if let Some(machine) = self.machines.get_mut(node).filter(|machine| machine.down) {
                machine.down = false;
                cluster.restart(&Component::Kubelet(node.clone())).await?;
            }
        }
        Ok(())
    }

    /// Cuts a zone off; the machines that lose their power.
    pub(super) fn zone_down(&mut self, zone: &str) -> Vec<String> {
        self.zones_down.insert(zone.to_owned());
        let of_zone = self.machines.iter().filter(|(_, machine)| machine.zone == zone && !machine.down);
        of_zone.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn zone_up(&mut self, zone: &str) {
        self.zones_down.remove(zone);
    }

    /// Takes a machine away for good.
    pub(super) async fn terminate(&mut self, cluster: &mut Cluster, node: &str) -> anyhow::Result<()> {
        match self.machines.remove(node) {
            Some(_) => cluster.remove_node(node).await,
            None => Ok(()),
        }
    }

    /// The nodes that are meant: one, or by chance some of a group that have power.
    pub(super) fn choose(&self, nodes: &Nodes) -> Vec<String> {
        if let Some(node) = &nodes.node {
            return self.machines.keys().filter(|name| **name == ***node).cloned().collect();
        }
        let group = nodes.group.as_ref().and_then(|group| self.group(group));
        let fits = |machine: &Machine| !machine.down && group.is_none_or(|group| machine.group == group);
        let mut left: Vec<String> =
            self.machines.iter().filter(|(_, machine)| fits(machine)).map(|(name, _)| name.clone()).collect();
        let count = nodes.count.as_ref().map_or(1, |count| count.0 as usize).min(left.len());
        (0..count).map(|_| left.swap_remove(coracle_clock::random_below(left.len()))).collect()
    }

    /// Whether a node's machine runs.
    pub(super) fn is_up(&self, node: &str) -> bool {
        self.machines.get(node).is_some_and(|machine| !machine.down)
    }

    /// The machines that run.
    pub(super) fn up(&self) -> impl Iterator<Item = &String> {
        self.machines.iter().filter(|(_, machine)| !machine.down).map(|(name, _)| name)
    }

    /// The processors of a node, in thousandths.
    pub(super) fn cpu_milli(&self, node: &str) -> f64 {
        self.machines.get(node).map_or(0.0, |machine| self.groups[machine.group].instance.cpus as f64 * 1000.0)
    }

    /// USD per hour.
    pub(super) fn rate(&self) -> f64 {
        let running: f64 = self.machines.values().map(|machine| self.groups[machine.group].price).sum();
        let ordered = self.starting.iter().zip(&self.groups).map(|(count, group)| *count as f64 * group.price);
        running + ordered.sum::<f64>()
    }

    /// What was spent since the last time it was asked, in USD.
    pub(super) fn spend(&mut self, now: Duration) -> f64 {
        let hours = (now.saturating_sub(self.counted)).as_secs_f64() / 3600.0;
        self.counted = now;
        self.rate() * hours
    }

    /// The groups as the autoscaler sees them.
    pub(super) fn seen(&mut self, view: &View, now: Duration) -> Vec<Group> {
        let mut busy = BTreeSet::new();
        for pod in view.pods.values().filter(|pod| !pod.of_daemon_set) {
            busy.extend(pod.node.as_deref());
        }
        for (name, machine) in &mut self.machines {
            let ready = view.nodes.get(name).is_some_and(|node| node.ready);
            let empty = ready && !busy.contains(name.as_str());
            machine.empty_since = machine.empty_since.filter(|_| empty).or(empty.then_some(now));
            machine.scans_ready += usize::from(ready);
        }
        let group = |(number, group): (usize, &GroupState)| {
            let mine = self.machines.iter().filter(|(_, machine)| machine.group == number);
            let (mine, young): (Vec<_>, Vec<_>) = mine.partition(|(_, machine)| machine.scans_ready > 1);
            let mine = mine.into_iter();
            let nodes = mine.map(|(name, machine)| (name.clone(), machine.empty_since.map(|since| now - since)));
            let room = Room {
                cpu_milli: (group.instance.cpus * 1000 - group.instance.reserved_cpu_milli()) as f64,
                memory: group.instance.memory_bytes.saturating_sub(group.instance.reserved_memory_bytes()) as f64,
                pods: f64::from(group.instance.max_pods),
            };
            Group {
                name: group.name.clone(),
                min: group.min,
                max: group.max,
                labels: self.labels(number),
                taints: group.taints.iter().map(|taint| taint.key.clone()).collect(),
                room,
                starting: self.starting[number] + young.len(),
                nodes: nodes.collect(),
            }
        };
        self.groups.iter().enumerate().map(group).collect()
    }

    /// The labels of a group's nodes; a zone only where there is but one.
    fn labels(&self, group: usize) -> BTreeMap<String, String> {
        let state = &self.groups[group];
        let capacity = if state.spot { "SPOT" } else { "ON_DEMAND" };
        let known = [
            ("eks.amazonaws.com/nodegroup", state.name.as_str()),
            ("eks.amazonaws.com/capacityType", capacity),
            ("node.kubernetes.io/instance-type", state.instance.name),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", "amd64"),
        ];
        let mut labels = state.labels.clone();
        labels.extend(known.map(|(key, value)| (key.to_owned(), value.to_owned())));
        if let [only] = state.zones.as_slice() {
            labels.insert("topology.kubernetes.io/zone".into(), only.clone());
        }
        labels
    }
}
