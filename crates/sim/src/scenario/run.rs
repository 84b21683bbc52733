//! Playing a scenario: time passes in small steps, in each of which what is due happens and what is to be seen is seen.
//!
//! ```text
//! each second:  events that are due ─► traffic: requests → processor time ─► drains ─► conditions of events
//! every 10 s:   the autoscaler of the node groups
//! at every change of the store: the view, and with it every expectation
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use coracle_kubelet::runtime::simulated::{Curve, Span};
use serde_json::{Value, json};

use super::autoscaler::{Room, Step, Waiting, decide};
use super::check::Scenario;
use super::fleet::Fleet;
use super::object::ObjectRef;
use super::pace::Pace;
use super::report::{Report, Sample};
use super::spec::{AutoscalerSpec, Event, Nodes};
use super::traffic::{Demand, Endpoint, answered, grant};
use super::view::{PodView, Sort, View};
use crate::objects::said;
use crate::{Cluster, Component};

const STEP: Duration = Duration::from_secs(1);
/// A report has about so many samples.
const SAMPLES: u32 = 400;
/// An action that the API server refuses is tried again each second, so many times.
const TRIES: u32 = 120;
/// kubectl drain tries again after so long.
const EVICTION_RETRY: Duration = Duration::from_secs(5);
/// When nothing has changed for so long although something is waited for, that is said.
const STALLED: Duration = Duration::from_secs(300);
/// How long spot instances know before.
const SPOT_NOTICE: Duration = Duration::from_secs(120);

/// Something that is to happen.
#[derive(Clone)]
enum Act {
    /// The event of this number; so many tries before.
    Event(usize, u32),
    Launch(usize),
    PowerOn(Vec<String>),
    ZoneUp(String, Vec<String>),
    Terminate(Vec<String>),
    Restart(Component),
}

/// More traffic for a while.
struct Spike {
    service: ObjectRef,
    factor: f64,
    from: Duration,
    to: Duration,
}

/// A node that is being drained.
#[derive(Default)]
struct Drain {
    next: Duration,
    blocked: bool,
}

/// A scenario being played.
pub(super) struct Player<'a> {
    scenario: &'a Scenario,
    cluster: &'a mut Cluster,
    view: Arc<Mutex<View>>,
    fleet: Fleet,
    start: coracle_clock::Instant,
    agenda: BTreeMap<(Duration, u64), Act>,
    next: u64,
    traffic: Vec<(ObjectRef, f64, Curve)>,
    spikes: Vec<Spike>,
    loads: BTreeMap<String, f64>,
    drains: BTreeMap<String, Drain>,
    waiting_events: BTreeSet<usize>,
    samples: Vec<Sample>,
    progress: (u64, Duration),
    stalled: Vec<String>,
}

impl<'a> Player<'a> {
    /// Starts the nodes; the scenario begins when they are ready.
    pub(super) async fn begin(scenario: &'a Scenario, cluster: &'a mut Cluster) -> anyhow::Result<Player<'a>> {
        let mut fleet = Fleet::new(scenario);
        let view = Arc::new(Mutex::new(View::default()));
        let (start, seen) = (coracle_clock::instant(), view.clone());
        cluster.on_change(move |change| {
            seen.lock().unwrap_or_else(PoisonError::into_inner).apply(start.elapsed(), change);
        });
        let mut count = 0;
        for (number, group) in scenario.spec.cluster.node_groups.iter().enumerate() {
            for _ in 0..group.count.0 {
                fleet.order(number);
                fleet.launch(cluster, number).await?;
                count += 1;
            }
        }
        let lock = || view.lock().unwrap_or_else(PoisonError::into_inner);
        while lock().nodes.values().filter(|node| node.ready).count() < count {
            coracle_clock::sleep(Duration::from_millis(100)).await;
            if start.elapsed() > STALLED {
                bail!("the cluster waits for its nodes: {} of {count} are ready", lock().nodes.len());
            }
        }
        cluster.settle().await;
        // What was until now is no part of the scenario.
        let start = coracle_clock::instant();
        let seen = view.clone();
        cluster.on_change(move |change| {
            seen.lock().unwrap_or_else(PoisonError::into_inner).apply(start.elapsed(), change);
        });
        {
            let mut view = lock();
            let expected = scenario.spec.expect.iter();
            let trackers = expected.map(|expected| super::expect::Tracker::new((**expected).clone())).collect();
            *view = View::beginning(std::mem::take(&mut view), trackers);
        }
        let curve = |traffic: &super::spec::Traffic| {
            let points = traffic.curve.iter().map(|point| (point.at.0, point.rps.0)).collect();
            // A request each second that costs 20 ms of processor time needs 20 thousandths of a processor.
            let cost = traffic.cost.0.as_secs_f64() * 1000.0;
            Curve::through(points).map(|curve| ((*traffic.service).clone(), cost, curve)).map_err(anyhow::Error::msg)
        };
        let traffic = scenario.spec.traffic.iter().map(|traffic| curve(traffic)).collect::<Result<_, _>>()?;
        let mut player = Player {
            scenario,
            cluster,
            view,
            fleet,
            start,
            agenda: BTreeMap::new(),
            next: 0,
            traffic,
            spikes: Vec::new(),
            loads: BTreeMap::new(),
            drains: BTreeMap::new(),
            waiting_events: BTreeSet::new(),
            samples: Vec::new(),
            progress: (0, Duration::ZERO),
            stalled: Vec::new(),
        };
        for (number, event) in scenario.spec.events.iter().enumerate() {
            match &event.at {
                Some(at) => player.later(at.0, Act::Event(number, 0)),
                None => drop(player.waiting_events.insert(number)),
            }
        }
        for object in &scenario.objects {
            player.apply_at_first(object).await?;
        }
        Ok(player)
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn later(&mut self, at: Duration, act: Act) {
        self.next += 1;
        self.agenda.insert((at, self.next), act);
    }

    fn tell(&self, text: impl Into<String>) {
        let mut view = self.view();
        view.pass(self.now());
        view.tell(Sort::Event, text);
    }

    /// Plays to the end.
    pub(super) async fn play(mut self, pace: &mut Pace) -> anyhow::Result<Report> {
        let end = self.scenario.duration();
        let every = STEP.max(end / SAMPLES);
        let every = Duration::from_secs(every.as_secs_f64().ceil() as u64);
        let autoscaler = self.scenario.spec.cluster.autoscaler.clone();
        let scan =
            autoscaler.as_ref().and_then(|spec| spec.scan_interval).map_or(Duration::from_secs(10), |scan| scan.0);
        let (mut next_scan, mut next_sample, mut tick) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        loop {
            pace.until(self.cluster, self.start, tick).await;
            let now = self.now();
            {
                let spent = self.fleet.spend(now);
                let mut view = self.view();
                view.pass(now);
                view.cost += spent;
            }
            self.due(now).await?;
            self.serve(tick);
            self.drain(now).await;
            self.conditions();
            if let Some(spec) = autoscaler.as_ref().filter(|_| now >= next_scan) {
                self.autoscale(spec, now).await?;
                next_scan = now + scan;
            }
            if tick >= next_sample {
                self.sample(tick);
                next_sample = tick + every;
            }
            self.notice_stall(now);
            if tick >= end {
                break;
            }
            tick = (tick + STEP).min(end);
        }
        Ok(self.report())
    }

    /// Does what is due. What is refused for the moment is tried again.
    async fn due(&mut self, now: Duration) -> anyhow::Result<()> {
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                Act::Event(number, tries) => {
                    let event = &self.scenario.spec.events[number];
                    match self.event(number, event).await {
                        Err(error) if tries < TRIES => {
                            if tries == 0 {
                                self.tell(format!("not yet: {}", said(&error)));
                            }
                            self.later(now + STEP, Act::Event(number, tries + 1));
                        }
                        other => other.with_context(|| format!("event {} of the scenario", number + 1))?,
                    }
                }
                Act::Launch(group) => match self.fleet.launch(self.cluster, group).await? {
                    Some(node) => self.tell(format!("node {node} starts")),
                    None => self.later(now + Duration::from_secs(30), Act::Launch(group)),
                },
                Act::PowerOn(nodes) => {
                    self.tell(format!("power is back: {}", list(&nodes)));
                    self.fleet.power_on(self.cluster, &nodes).await?;
                }
                Act::ZoneUp(zone, nodes) => {
                    self.tell(format!("zone {zone} is back: {}", list(&nodes)));
                    self.fleet.zone_up(&zone);
                    self.fleet.power_on(self.cluster, &nodes).await?;
                }
                Act::Terminate(nodes) => {
                    self.tell(format!("the cloud takes back {}", list(&nodes)));
                    for node in &nodes {
                        self.drains.remove(node);
                        // The machine is gone even if the API server does not hear of it.
                        if let Err(error) = self.fleet.terminate(self.cluster, node).await {
                            self.tell(format!("node {node} stays in the API: {}", said(&error)));
                        }
                    }
                }
                Act::Restart(component) => {
                    self.tell(format!("{} is back", name(&component)));
                    self.cluster.restart(&component).await?;
                }
            }
        }
        Ok(())
    }

    async fn event(&mut self, number: usize, event: &Event) -> anyhow::Result<()> {
        let now = self.now();
        if let Some(outage) = &event.zone_outage {
            let zone = outage.zone.to_string();
            let nodes = self.fleet.zone_down(&zone);
            self.tell(format!("zone {zone} loses its power: {}", list(&nodes)));
            self.fleet.power_off(self.cluster, &nodes).await;
            if let Some(time) = outage.r#for {
                self.later(now + time.0, Act::ZoneUp(zone, nodes));
            }
        } else if let Some(nodes) = &event.node_crash {
            let chosen = self.fleet.choose(nodes);
            self.tell(format!("power lost: {}", list(&chosen)));
            self.fleet.power_off(self.cluster, &chosen).await;
            if let Some(time) = nodes.r#for {
                self.later(now + time.0, Act::PowerOn(chosen));
            }
        } else if let Some(nodes) = &event.spot_reclaim {
            let chosen = self.fleet.choose(nodes);
            let notice = nodes.notice.map_or(SPOT_NOTICE, |notice| notice.0);
            self.tell(format!("notice of {}: the cloud wants back {}", Span(notice), list(&chosen)));
            self.cordon(&chosen, true).await?;
            self.drains.extend(chosen.iter().map(|node| (node.clone(), Drain::default())));
            self.later(now + notice, Act::Terminate(chosen));
        } else if let Some(nodes) = &event.drain {
            let chosen = self.fleet.choose(nodes);
            self.tell(format!("drain: {}", list(&chosen)));
            self.cordon(&chosen, true).await?;
            self.drains.extend(chosen.into_iter().map(|node| (node, Drain::default())));
        } else if let Some(nodes) = &event.uncordon {
            let chosen = match nodes {
                Nodes { node: None, group: None, count: None, .. } => self.fleet.up().cloned().collect(),
                nodes => self.fleet.choose(nodes),
            };
            self.tell(format!("uncordon: {}", list(&chosen)));
            self.drains.retain(|node, _| !chosen.contains(node));
            self.cordon(&chosen, false).await?;
        } else if let Some(more) = &event.add_nodes {
            self.tell(format!("{} more nodes for {}", more.count.0, *more.group));
            let group = self.fleet.group(&more.group).context("no such node group")?;
            for _ in 0..more.count.0 {
                self.fleet.order(group);
                self.later(now, Act::Launch(group));
            }
        } else if event.apply.is_some() {
            for object in self.scenario.applied.get(&number).into_iter().flatten() {
                self.cluster.apply(object).await?;
                let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
                self.tell(format!("apply {kind}/{}", object["metadata"]["name"].as_str().unwrap_or_default()));
            }
        } else if let Some(object) = &event.delete {
            self.cluster.delete(&object.plural, &object.full_name()).await?;
            self.tell(format!("delete {}", **object));
        } else if let Some(scale) = &event.scale {
            let (target, replicas) = (&scale.target, scale.replicas.0);
            let patch = json!({ "spec": { "replicas": replicas } });
            self.cluster.patch(&target.plural, &target.full_name(), patch).await?;
            self.tell(format!("scale {} to {replicas}", **target));
        } else if let Some(rollout) = &event.rollout {
            self.rollout(&rollout.target, &rollout.image, rollout.container.as_deref()).await?;
            self.tell(format!("rollout of {}: image {}", *rollout.target, *rollout.image));
        } else if let Some(target) = &event.rollback {
            self.rollback(target).await?;
            self.tell(format!("rollback of {}", **target));
        } else if let Some(spike) = &event.load_spike {
            let (from, to) = (now, now + spike.r#for.0);
            self.tell(format!("{} times the requests to {} for {}", spike.factor.0, *spike.service, *spike.r#for));
            self.spikes.push(Spike { service: (*spike.service).clone(), factor: spike.factor.0, from, to });
        } else if let Some(crash) = &event.crash {
            self.tell(format!("{} dies for {}", name(&crash.component.0), crash.r#for));
            self.cluster.crash(&crash.component.0);
            self.later(now + crash.r#for.0, Act::Restart(crash.component.0.clone()));
        }
        Ok(())
    }

    /// Applies an object of the beginning. Namespaces' ServiceAccounts come a moment after them, so it may take tries.
    async fn apply_at_first(&self, object: &Value) -> anyhow::Result<()> {
        let mut tries = 0;
        loop {
            match self.cluster.apply(object).await {
                Err(error) if tries >= 10 => {
                    let (kind, name) = (&object["kind"], &object["metadata"]["name"]);
                    let named = format!("{} {}", kind.as_str().unwrap_or_default(), name.as_str().unwrap_or_default());
                    return Err(error).context(named);
                }
                Err(_) => coracle_clock::sleep(Duration::from_millis(500)).await,
                Ok(_) => return Ok(()),
            }
            tries += 1;
        }
    }

    async fn cordon(&self, nodes: &[String], cordoned: bool) -> anyhow::Result<()> {
        for node in nodes {
            self.cluster.patch("nodes", node, json!({ "spec": { "unschedulable": cordoned } })).await?;
        }
        Ok(())
    }

    async fn rollout(&self, target: &ObjectRef, image: &str, container: Option<&str>) -> anyhow::Result<()> {
        let found = self.cluster.get(&target.plural, &target.full_name()).await?;
        let mut found = found.with_context(|| format!("there is no {target}"))?;
        let containers = found.pointer_mut("/spec/template/spec/containers").and_then(Value::as_array_mut);
        let mut containers = containers.into_iter().flatten();
        let changed = containers.find(|found| container.is_none_or(|name| found["name"] == name));
        let changed = changed.with_context(|| format!("{target} has no such container"))?;
        changed["image"] = image.into();
        let containers = found["spec"]["template"]["spec"]["containers"].take();
        let patch = json!({ "spec": { "template": { "spec": { "containers": containers } } } });
        self.cluster.patch(&target.plural, &target.full_name(), patch).await.map(drop)
    }

    /// As `kubectl rollout undo`: the template of the ReplicaSet with the revision before the last.
    async fn rollback(&self, target: &ObjectRef) -> anyhow::Result<()> {
        let revision = |set: &Value| {
            let text = set["metadata"]["annotations"]["deployment.kubernetes.io/revision"].as_str();
            text.and_then(|text| text.parse::<u64>().ok())
        };
        let mut sets = self.cluster.list("replicasets", Some(&target.namespace)).await?;
        sets.retain(|set| set["metadata"]["ownerReferences"][0]["name"] == *target.name && revision(set).is_some());
        sets.sort_by_key(revision);
        let Some(before) = sets.len().checked_sub(2).map(|index| &sets[index]) else {
            bail!("no rollout history found for {target}");
        };
        let mut template = before["spec"]["template"].clone();
        if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
            labels.remove("pod-template-hash");
        }
        let containers = template["spec"]["containers"].take();
        let patch = json!({ "spec": { "template": { "spec": { "containers": containers } } } });
        self.cluster.patch(&target.plural, &target.full_name(), patch).await.map(drop)
    }

    /// Lets the pods behind Services use what their share of the requests costs.
    fn serve(&mut self, now: Duration) {
        let mut demands: BTreeMap<String, f64> = BTreeMap::new();
        let mut endpoints: Vec<(f64, Vec<String>)> = Vec::new();
        let view = self.view.clone();
        let mut view = view.lock().unwrap_or_else(PoisonError::into_inner);
        for (service, cost, curve) in &self.traffic {
            let spikes = self.spikes.iter().filter(|s| s.service == *service && s.from <= now && now < s.to);
            let rate = curve.at(now) * spikes.map(|spike| spike.factor).product::<f64>();
            let selector = view.services.get(&service.full_name()).filter(|selector| !selector.is_empty());
            let behind = |pod: &PodView| {
                let fits =
                    |selector: &BTreeMap<String, String>| selector.iter().all(|(k, v)| pod.labels.get(k) == Some(v));
                pod.ready && !pod.deleting && pod.namespace == service.namespace && selector.is_some_and(fits)
            };
            let keys: Vec<String> =
                view.pods.iter().filter(|(_, pod)| behind(pod)).map(|(key, _)| key.clone()).collect();
            for key in &keys {
                *demands.entry(key.clone()).or_default() += rate / keys.len() as f64 * cost;
            }
            endpoints.push((rate, keys));
        }
        let granted = self.grant(&view, &demands);
        for ((service, cost, _), (rate, keys)) in self.traffic.iter().zip(endpoints) {
            // A pod behind two Services answers each in proportion.
            let each = rate / keys.len().max(1) as f64 * cost;
            let part = |key: &String| match demands.get(key) {
                Some(all) if *all > 0.0 => granted.get(key).copied().unwrap_or_default() * each / all,
                _ => 0.0,
            };
            let endpoints: Vec<_> = keys.iter().map(|key| Endpoint { granted_milli: part(key) }).collect();
            let answered = answered(rate, *cost, &endpoints);
            let served = view.served.entry(service.clone()).or_default();
            (served.rate, served.answered) = (rate, answered);
            served.total += rate * STEP.as_secs_f64();
            served.total_answered += answered * STEP.as_secs_f64();
        }
        // Who has no traffic any more uses nothing for it.
        let gone: Vec<String> = self.loads.keys().filter(|key| !granted.contains_key(*key)).cloned().collect();
        let changed = granted.into_iter().chain(gone.into_iter().map(|key| (key, 0.0)));
        for (key, milli) in changed.collect::<Vec<_>>() {
            if self.loads.get(&key).copied().unwrap_or_default() == milli {
                continue;
            }
            let node = view.pods.get(&key).and_then(|pod| pod.node.clone());
            if let (Some(node), Some((namespace, name))) = (node.filter(|n| self.fleet.is_up(n)), key.split_once('/')) {
                self.cluster.machine(&node).set_load(namespace, name, milli);
            }
            match milli {
                0.0 => drop(self.loads.remove(&key)),
                _ => drop(self.loads.insert(key, milli)),
            }
        }
    }

    /// What the pods with traffic get of their nodes' processors, beside what else runs there.
    fn grant(&self, view: &View, demands: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
        let node = |key: &String| view.pods.get(key).and_then(|pod| pod.node.clone());
        let nodes: BTreeSet<String> = demands.keys().filter_map(node).filter(|node| self.fleet.is_up(node)).collect();
        let mut all = BTreeMap::new();
        for node in nodes {
            let own = self.cluster.machine(&node).own_use();
            let own = own.into_iter().map(|((namespace, name), milli)| (format!("{namespace}/{name}"), milli));
            let pods: Vec<_> = own.collect();
            let demand = |(key, own): &(String, f64)| {
                let pod = view.pods.get(key);
                Demand {
                    wants: own + demands.get(key).copied().unwrap_or_default(),
                    weight: pod.map_or(0.0, |pod| pod.cpu_milli),
                    limit: pod.map_or(f64::INFINITY, |pod| pod.cpu_limit_milli),
                }
            };
            let granted = grant(self.fleet.cpu_milli(&node), &pods.iter().map(demand).collect::<Vec<_>>());
            for ((key, own), milli) in pods.into_iter().zip(granted) {
                if demands.contains_key(&key) {
                    all.insert(key, (milli - own).max(0.0));
                }
            }
        }
        all
    }

    /// Evicts the pods of nodes that are being drained, as kubectl does.
    async fn drain(&mut self, now: Duration) {
        let due: Vec<String> =
            self.drains.iter().filter(|(_, drain)| drain.next <= now).map(|(node, _)| node.clone()).collect();
        for node in due {
            let there: Vec<(String, bool)> = {
                let view = self.view();
                let on = |pod: &&PodView| {
                    pod.node.as_ref() == Some(&node)
                        && !pod.of_daemon_set
                        && !matches!(pod.phase.as_str(), "Succeeded" | "Failed")
                };
                view.pods
                    .values()
                    .filter(on)
                    .map(|pod| (format!("{}/{}", pod.namespace, pod.name), pod.deleting))
                    .collect()
            };
            if there.is_empty() {
                self.drains.remove(&node);
                self.tell(format!("node {node} is drained"));
                continue;
            }
            let mut refused = None;
            for (pod, _) in there.into_iter().filter(|(_, deleting)| !deleting) {
                if let Err(error) = self.cluster.evict(&pod).await {
                    refused.get_or_insert(format!("drain of {node} waits: {pod}: {}", said(&error)));
                }
            }
            let blocked = self.drains.get(&node).is_some_and(|drain| drain.blocked);
            if let Some(text) = refused.as_ref().filter(|_| !blocked) {
                self.tell(text.clone());
            }
            let drain = Drain { next: now + EVICTION_RETRY, blocked: refused.is_some() || blocked };
            self.drains.insert(node, drain);
        }
    }

    /// Lets events happen whose condition has come to hold.
    fn conditions(&mut self) {
        let now = self.now();
        for number in self.waiting_events.clone() {
            let Some(when) = &self.scenario.spec.events[number].when else { continue };
            let holds = {
                let view = self.view();
                when.holds(view.measure(when, false))
            };
            if holds {
                self.waiting_events.remove(&number);
                self.tell(format!("it has come to hold: {}", **when));
                self.later(now, Act::Event(number, 0));
            }
        }
    }

    async fn autoscale(&mut self, spec: &AutoscalerSpec, now: Duration) -> anyhow::Result<()> {
        let delay = spec.provision_delay.map_or(Duration::from_secs(60), |delay| delay.0);
        let empty_for = spec.scale_down_after.map_or(Duration::from_secs(600), |time| time.0);
        let (groups, waiting) = {
            let view = self.view.clone();
            let view = view.lock().unwrap_or_else(PoisonError::into_inner);
            // No node helps a pod that waits for its volume.
            let for_room = |why: &String| !why.contains("PersistentVolumeClaim");
            let waiting = view
                .pods
                .values()
                .filter(|pod| pod.unschedulable && !pod.deleting && pod.waits.as_ref().is_none_or(for_room));
            let waiting: Vec<_> = waiting.map(wait_of).collect();
            (self.fleet.seen(&view, now), waiting)
        };
        for step in decide(&groups, &waiting, empty_for) {
            match step {
                Step::Grow(name, count) => {
                    let group = self.fleet.group(&name).context("no such node group")?;
                    let why =
                        if waiting.is_empty() { String::new() } else { format!(" for {} waiting pods", waiting.len()) };
                    self.tell(format!("cluster autoscaler: {count} more nodes in {name}{why}"));
                    for _ in 0..count {
                        self.fleet.order(group);
                        self.later(now + delay, Act::Launch(group));
                    }
                }
                Step::Remove(node) => {
                    self.tell(format!("cluster autoscaler: node {node} is not needed"));
                    self.fleet.terminate(self.cluster, &node).await?;
                }
            }
        }
        Ok(())
    }

    fn sample(&mut self, at: Duration) {
        let (mut cpu, mut memory) = (0.0, 0.0);
        for node in self.fleet.up() {
            let (cpu_milli, bytes) = self.cluster.machine(node).total_use();
            cpu += cpu_milli;
            memory += bytes as f64;
        }
        let sample = Sample::take(&self.view(), at, (cpu, memory), self.fleet.rate());
        self.samples.push(sample);
    }

    /// Says what is waited for when nothing goes on.
    fn notice_stall(&mut self, now: Duration) {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        if view.progress != self.progress.0 {
            self.progress = (view.progress, now);
            return;
        }
        if now - self.progress.1 < STALLED {
            return;
        }
        self.progress.1 = now;
        let mut waits = view.waits();
        waits.extend(self.waiting_events.iter().filter_map(|number| {
            let when = self.scenario.spec.events[*number].when.as_ref()?;
            Some(format!("event {} waits for: {}", number + 1, **when))
        }));
        waits.extend(self.drains.keys().map(|node| format!("the drain of node {node}")));
        if !waits.is_empty() && waits != self.stalled {
            view.tell(
                Sort::Stall,
                format!("nothing has changed for {}; waited for: {}", Span(STALLED), waits.join("; ")),
            );
        }
        self.stalled = waits;
    }

    fn report(mut self) -> Report {
        let end = self.scenario.duration();
        let hash = self.cluster.history_hash();
        let mut view = std::mem::take(&mut *self.view());
        view.pass(end);
        let waiting = std::mem::take(&mut self.waiting_events);
        let never = waiting.iter().filter_map(|number| self.scenario.spec.events[*number].when.as_ref());
        let never: Vec<String> = never.map(|when| format!("an event waited in vain for: {}", **when)).collect();
        let waits: Vec<String> = never.into_iter().chain(view.waits()).collect();
        Report::new(self.scenario, hash, view, self.samples, waits)
    }
}

fn wait_of(pod: &PodView) -> Waiting {
    let need = Room { cpu_milli: pod.cpu_milli, memory: pod.memory, pods: 1.0 };
    Waiting { need, selector: pod.node_selector.clone(), tolerates: pod.tolerates.clone() }
}

fn list(nodes: &[String]) -> String {
    match nodes {
        [] => "no node".into(),
        few if few.len() <= 6 => few.join(", "),
        many => format!("{}, … ({} nodes)", many[..5].join(", "), many.len()),
    }
}

fn name(component: &Component) -> &'static str {
    match component {
        Component::ApiServer => "the API server",
        Component::ControllerManager => "the controller manager",
        Component::Scheduler => "the scheduler",
        Component::Kubelet(_) | Component::Client(_) => "a client",
    }
}
