//! What a scenario must be before anything starts: everything in it exists, can be, and comes in order of time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use coracle_kubelet::runtime::simulated::policy::{API_VERSION, PolicySpec};
use coracle_kubelet::runtime::simulated::{SimulationPolicy, Span};
use serde_json::Value;

use super::expect::{Bound, Expectation, Op, Subject, When};
use super::manifests::{self, Kinds};
use super::object::ObjectRef;
use super::place::{At, Count, Refusal, Text, Wrong, locate, read};
use super::spec::{Event, File, Manifest, NodeGroup, Nodes, Spec};

/// Kinds that controllers do not make: who names one must have applied it.
const APPLIED: [&str; 8] = [
    "deployments",
    "statefulsets",
    "daemonsets",
    "services",
    "horizontalpodautoscalers",
    "cronjobs",
    "poddisruptionbudgets",
    "replicationcontrollers",
];
/// The most nodes that a cluster has addresses for.
const NODES_MAX: u32 = 30_000;

/// A scenario that can be run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// What it says.
    pub spec: Spec,
    /// What is applied at the beginning.
    pub objects: Vec<Value>,
    /// What is applied by each event, by its number.
    pub applied: BTreeMap<usize, Vec<Value>>,
    /// The rules for pods, the first first.
    pub policies: Vec<PolicySpec>,
}

impl Scenario {
    /// Reads a scenario's file and those that it names.
    ///
    /// # Errors
    /// Something in it is wrong: where, what, and what to do.
    pub fn load(path: &Path) -> Result<Scenario, Refusal> {
        let file = path.display().to_string();
        let refused = |error| Refusal { file: file.clone(), line: 1, message: format!("cannot be read: {error}") };
        let text = std::fs::read_to_string(path).map_err(refused)?;
        Scenario::parse(&file, &text, path.parent().unwrap_or(Path::new(".")))
    }

    /// A scenario from its text; paths in it begin in `dir`.
    ///
    /// # Errors
    /// Something in it is wrong: where, what, and what to do.
    pub fn parse(file: &str, text: &str, dir: &Path) -> Result<Scenario, Refusal> {
        let parsed: File = read(file, text)?;
        check(parsed, dir).map_err(|wrong| locate::<File>(file, text, wrong))
    }

    /// How long it takes.
    pub fn duration(&self) -> Duration {
        self.spec.duration.0
    }
}

fn check(file: File, dir: &Path) -> Result<Scenario, Wrong> {
    if **file.api_version != *API_VERSION {
        return Err(file.api_version.wrong(format!("{:?} is not {API_VERSION}", &**file.api_version)));
    }
    if &**file.kind != "Scenario" {
        return Err(file.kind.wrong(format!("{:?} is no Scenario", &**file.kind)));
    }
    let spec = file.spec;
    if spec.duration.0.is_zero() {
        return Err(spec.duration.wrong("a scenario takes some time, such as 1h"));
    }
    check_groups(&spec)?;
    let (mut objects, mut kinds) = (Vec::new(), Kinds::new());
    for manifest in &spec.manifests {
        objects.extend(load(manifest, dir, &mut kinds).map_err(|message| manifest.wrong(message))?);
    }
    let mut policies = Vec::new();
    for policy in &spec.policies {
        let loaded = match (&policy.path, &policy.spec) {
            (Some(path), None) => policy_file(&dir.join(&***path)).map_err(|message| path.wrong(message))?,
            (None, Some(spec)) => spec.clone(),
            _ => return Err(policy.wrong("a policy has either a path or a spec")),
        };
        policies.push(loaded);
    }
    let mut known = Known { objects: objects.iter().filter_map(named).collect(), scaled: BTreeSet::new(), kinds };
    known.scaled.extend(objects.iter().filter_map(autoscaled));
    let applied = check_events(&spec, dir, &mut known)?;
    check_traffic(&spec, &known)?;
    for expectation in &spec.expect {
        check_expectation(&spec, &known, expectation)?;
    }
    Ok(Scenario { name: file.metadata.name.to_string(), spec, objects, applied, policies })
}

impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self)
    }
}

fn load(manifest: &Manifest, dir: &Path, kinds: &mut Kinds) -> Result<Vec<Value>, String> {
    match (&manifest.path, manifest.objects.is_empty()) {
        (Some(path), true) => {
            let path = dir.join(&***path);
            let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            manifests::read(&text, kinds).map_err(|error| format!("{}: {error}", path.display()))
        }
        (None, false) => {
            let mut objects = Vec::new();
            manifest.objects.iter().cloned().try_for_each(|object| manifests::add(object, kinds, &mut objects))?;
            Ok(objects)
        }
        _ => Err("manifests have either a path or objects".into()),
    }
}

fn policy_file(path: &Path) -> Result<PolicySpec, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let policy: SimulationPolicy = read(&path.display().to_string(), &text).map_err(|refusal| refusal.to_string())?;
    policy.into_spec().map_err(|message| format!("{}: {message}", path.display()))
}

fn check_groups(spec: &Spec) -> Result<(), Wrong> {
    let Some(first) = spec.cluster.node_groups.first() else {
        return Err(spec.duration.wrong("cluster.nodeGroups is empty: a cluster needs nodes"));
    };
    let (mut names, mut nodes) = (BTreeSet::new(), 0_u32);
    for group in &spec.cluster.node_groups {
        let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if group.name.is_empty() || !group.name.chars().all(ok) || group.name.starts_with('-') {
            return Err(group.name.wrong("a node group's name is of small letters, digits and -"));
        }
        if !names.insert(group.name.to_string()) {
            return Err(group.name.wrong(format!("there are two node groups {}", &**group.name)));
        }
        let (min, max) = bounds(group);
        if min > group.count.0 {
            let place = group.min.as_ref().unwrap_or(&group.count);
            return Err(place.wrong(format!("min {min} is more than count {}", group.count.0)));
        }
        if max < group.count.0 {
            let place = group.max.as_ref().unwrap_or(&group.count);
            return Err(place.wrong(format!("max {max} is less than count {}", group.count.0)));
        }
        let bounded = group.min.as_ref().or(group.max.as_ref()).filter(|_| spec.cluster.autoscaler.is_none());
        if let Some(bound) = bounded {
            return Err(bound.wrong("min and max mean nothing without cluster.autoscaler; write `autoscaler: {}`"));
        }
        let zones: BTreeSet<&str> = group.zones.iter().map(|zone| &***zone).collect();
        if zones.len() < group.zones.len() {
            return Err(group.zones[0].wrong("a zone is named twice"));
        }
        nodes = nodes.saturating_add(max);
    }
    match nodes {
        0 => Err(first.count.wrong("there is never a node: write a count, or a max and an autoscaler")),
        nodes if nodes > NODES_MAX => {
            Err(first.count.wrong(format!("{nodes} nodes are more than the {NODES_MAX} that have addresses")))
        }
        _ => Ok(()),
    }
}

/// The least and the greatest number of nodes of a group.
pub fn bounds(group: &NodeGroup) -> (u32, u32) {
    let bound = |bound: &Option<At<Count>>| bound.as_ref().map_or(group.count.0, |bound| bound.0);
    (bound(&group.min), bound(&group.max))
}

/// What there is, by the time that is looked at.
struct Known {
    /// With the replicas that they want.
    objects: BTreeMap<ObjectRef, Option<u64>>,
    /// What autoscalers or events give another number of replicas.
    scaled: BTreeSet<ObjectRef>,
    /// Kinds of custom resources.
    kinds: Kinds,
}

/// An object's name, and how many replicas it wants.
fn named(object: &Value) -> Option<(ObjectRef, Option<u64>)> {
    let kind = object["kind"].as_str()?.to_lowercase();
    let (name, namespace) = (object["metadata"]["name"].as_str()?, object["metadata"]["namespace"].as_str());
    let found = format!("{kind}/{}/{name}", namespace.unwrap_or("default")).parse().ok()?;
    let replicas = matches!(kind.as_str(), "deployment" | "statefulset").then(|| object["spec"]["replicas"].as_u64());
    Some((found, replicas.map(|replicas| replicas.unwrap_or(1))))
}

/// What an autoscaler scales.
fn autoscaled(object: &Value) -> Option<ObjectRef> {
    let target = object.pointer("/spec/scaleTargetRef")?;
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    let kind = target["kind"].as_str()?.to_lowercase();
    format!("{kind}/{namespace}/{}", target["name"].as_str()?).parse().ok()
}

impl Known {
    fn check(&self, object: &ObjectRef) -> Result<(), String> {
        if !APPLIED.contains(&object.plural.as_str()) || self.objects.contains_key(object) {
            return Ok(());
        }
        let alike = self.objects.keys().filter(|other| other.plural == object.plural).map(ToString::to_string);
        let alike: Vec<_> = alike.collect();
        Err(match alike.as_slice() {
            [] => format!("nobody makes {object}; apply it with manifests"),
            alike => format!("nobody makes {object}; there is {}", alike.join(", ")),
        })
    }
}

fn check_events(spec: &Spec, dir: &Path, known: &mut Known) -> Result<BTreeMap<usize, Vec<Value>>, Wrong> {
    let (mut applied, mut before) = (BTreeMap::new(), Duration::ZERO);
    for (number, event) in spec.events.iter().enumerate() {
        match (&event.at, &event.when) {
            (Some(at), None) => {
                if at.0 < before {
                    let (at_text, before) = (Span(at.0), Span(before));
                    return Err(at.wrong(format!(
                        "time runs backwards: {at_text} comes after {before}; put events in order of time"
                    )));
                }
                if at.0 > spec.duration.0 {
                    return Err(at.wrong(format!("the scenario ends before, after {}", *spec.duration)));
                }
                before = at.0;
            }
            (None, Some(when)) if when.when != When::End => {
                return Err(when.wrong("a condition has no time: it is waited for"));
            }
            (None, Some(when)) => check_subject(spec, known, when)?,
            _ => return Err(event.wrong("an event has either `at` (a time) or `when` (a condition)")),
        }
        let actions = actions(event);
        if actions.len() != 1 {
            let what = if actions.is_empty() { "nothing".to_owned() } else { actions.join(" and ") };
            return Err(event.wrong(format!("an event does one thing; this does {what}")));
        }
        if let Some(manifest) = &event.apply {
            let objects = load(manifest, dir, &mut known.kinds).map_err(|message| event.wrong(message))?;
            known.objects.extend(objects.iter().filter_map(named));
            known.scaled.extend(objects.iter().filter_map(autoscaled));
            known.scaled.extend(objects.iter().filter_map(named).map(|(object, _)| object));
            applied.insert(number, objects);
        }
        check_action(spec, event, known)?;
    }
    Ok(applied)
}

/// The names of what an event does.
pub fn actions(event: &Event) -> Vec<&'static str> {
    let all = [
        ("zoneOutage", event.zone_outage.is_some()),
        ("nodeCrash", event.node_crash.is_some()),
        ("spotReclaim", event.spot_reclaim.is_some()),
        ("drain", event.drain.is_some()),
        ("uncordon", event.uncordon.is_some()),
        ("addNodes", event.add_nodes.is_some()),
        ("apply", event.apply.is_some()),
        ("delete", event.delete.is_some()),
        ("scale", event.scale.is_some()),
        ("rollout", event.rollout.is_some()),
        ("rollback", event.rollback.is_some()),
        ("loadSpike", event.load_spike.is_some()),
        ("crash", event.crash.is_some()),
    ];
    all.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}

fn check_action(spec: &Spec, event: &Event, known: &mut Known) -> Result<(), Wrong> {
    let group = |name: &At<Text>| match spec.cluster.node_groups.iter().find(|group| **group.name == ***name) {
        Some(group) => Ok(group),
        None => {
            let names: Vec<_> = spec.cluster.node_groups.iter().map(|group| group.name.to_string()).collect();
            Err(name.wrong(format!("there is no node group {:?}; there is {}", &***name, names.join(", "))))
        }
    };
    if let Some(outage) = &event.zone_outage {
        let zones: BTreeSet<&str> = spec.cluster.node_groups.iter().flat_map(|group| zones(group)).collect();
        if !zones.contains(&**outage.zone) {
            let zones: Vec<_> = zones.into_iter().collect();
            return Err(outage.zone.wrong(format!(
                "no node is in zone {:?}; zones are {}",
                &**outage.zone,
                zones.join(", ")
            )));
        }
    }
    for nodes in [&event.node_crash, &event.spot_reclaim, &event.drain, &event.uncordon].into_iter().flatten() {
        let Nodes { node, group: of, count, .. } = nodes;
        if let Some(node) = node {
            let its = spec.cluster.node_groups.iter().find(|group| {
                let number = node.strip_prefix(&**group.name).and_then(|rest| rest.strip_prefix('-'));
                number.is_some_and(|number| number.parse::<u32>().is_ok_and(|number| number > 0))
            });
            if its.is_none() {
                return Err(
                    node.wrong(format!("no node is called {:?}; they are called GROUP-1, GROUP-2, …", &***node))
                );
            }
            if of.is_some() || count.is_some() {
                return Err(node.wrong("write either a node, or a group and a count"));
            }
        }
        if let Some(of) = of {
            let most = bounds(group(of)?).1;
            if let Some(count) = count.as_ref().filter(|count| count.0 > most) {
                return Err(count.wrong(format!("the group never has {} nodes, but {most} at most", count.0)));
            }
        }
    }
    if let Some(more) = &event.add_nodes {
        group(&more.group)?;
    }
    if let Some(object) = &event.delete {
        known.check(object).map_err(|message| object.wrong(message))?;
    }
    let targets = [
        event.scale.as_ref().map(|scale| &scale.target),
        event.rollout.as_ref().map(|rollout| &rollout.target),
        event.rollback.as_ref(),
        event.load_spike.as_ref().map(|spike| &spike.service),
    ];
    for target in targets.into_iter().flatten() {
        known.check(target).map_err(|message| target.wrong(message))?;
    }
    if let Some(scale) = &event.scale {
        known.scaled.insert((*scale.target).clone());
    }
    if let Some(target) = event.rollback.as_ref().filter(|target| target.kind != "deployment") {
        return Err(target.wrong("only a deployment is rolled back"));
    }
    if let Some(spike) = &event.load_spike
        && !spec.traffic.iter().any(|traffic| *traffic.service == *spike.service)
    {
        return Err(spike.service.wrong(format!("{} has no traffic that could rise", *spike.service)));
    }
    Ok(())
}

/// The zones of a group.
pub fn zones(group: &NodeGroup) -> Vec<&str> {
    if group.zones.is_empty() { vec!["a"] } else { group.zones.iter().map(|zone| &***zone).collect() }
}

fn check_traffic(spec: &Spec, known: &Known) -> Result<(), Wrong> {
    for traffic in &spec.traffic {
        if traffic.service.kind != "service" {
            return Err(traffic.service.wrong(format!("{} is no service", *traffic.service)));
        }
        known.check(&traffic.service).map_err(|message| traffic.service.wrong(message))?;
        let mut before = None;
        for point in &traffic.curve {
            if before.is_some_and(|before| point.at.0 <= before) {
                let before = Span(before.unwrap_or_default());
                return Err(point.at.wrong(format!(
                    "time runs backwards: {} comes after {before}; put the points in order of time",
                    *point.at
                )));
            }
            before = Some(point.at.0);
        }
        if traffic.curve.is_empty() {
            return Err(traffic.wrong("a curve needs a point, such as {at: 0s, rps: 100}"));
        }
    }
    Ok(())
}

/// That what is looked at exists.
fn check_subject(spec: &Spec, known: &Known, expectation: &At<Expectation>) -> Result<(), Wrong> {
    match &expectation.subject {
        Subject::Object(object, _) | Subject::Condition(object, _) => {
            known.check(object).map_err(|message| expectation.wrong(message))
        }
        Subject::Served(service) => {
            let has = spec.traffic.iter().any(|traffic| *traffic.service == *service);
            if has {
                Ok(())
            } else {
                Err(expectation.wrong(format!("{service} has no traffic; describe it in traffic")))
            }
        }
        Subject::Nodes(Some(group), _) if !spec.cluster.node_groups.iter().any(|known| **known.name == **group) => {
            Err(expectation.wrong(format!("there is no node group {group:?}")))
        }
        _ => Ok(()),
    }
}

fn check_expectation(spec: &Spec, known: &Known, expectation: &At<Expectation>) -> Result<(), Wrong> {
    check_subject(spec, known, expectation)?;
    let times = match expectation.when {
        When::At(time) => vec![time],
        When::Eventually(time) => time.into_iter().collect(),
        When::Always { from, to } => from.into_iter().chain(to).collect(),
        When::End => Vec::new(),
    };
    if let Some(late) = times.into_iter().find(|time| *time > spec.duration.0) {
        let late = Span(late);
        return Err(expectation.wrong(format!("{late} is never: the scenario ends after {}", *spec.duration)));
    }
    let (Bound::Number(bound), Op::AtLeast | Op::More | Op::Equal) = (expectation.bound, expectation.op) else {
        return Ok(());
    };
    match &expectation.subject {
        Subject::Nodes(group, _) => {
            let groups =
                spec.cluster.node_groups.iter().filter(|known| group.as_ref().is_none_or(|g| **known.name == **g));
            let added = spec.events.iter().filter_map(|event| event.add_nodes.as_ref()).map(|more| more.count.0);
            let most = groups.map(|group| bounds(group).1).chain(added).fold(0, u32::saturating_add);
            if bound > f64::from(most) {
                return Err(expectation.wrong(format!("it can never be: there are at most {most} nodes")));
            }
        }
        Subject::Object(object, field) if matches!(field.as_str(), "available" | "ready") => {
            if let Some(Some(replicas)) = known.objects.get(object)
                && !known.scaled.contains(object)
                && bound > *replicas as f64
            {
                return Err(expectation
                    .wrong(format!("it can never be: {object} wants {replicas} replicas, and nobody scales it")));
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "apiVersion: simulation.coracle.dev/v1\nkind: Scenario\nmetadata: {name: t}\nspec:\n  duration: 10m\n";
    const CLUSTER: &str =
        "  cluster:\n    nodeGroups:\n    - {name: a, instanceType: m5.large, zones: [x, y], count: 2}\n";
    const WEB: &str = "  manifests:\n  - objects:\n    - apiVersion: apps/v1\n      kind: Deployment\n      metadata: {name: web}\n      spec: {replicas: 3}\n";

    fn refusal(text: &str) -> Refusal {
        match Scenario::parse("s.yaml", text, Path::new(".")) {
            Ok(_) => panic!("it was taken:\n{text}"),
            Err(refusal) => refusal,
        }
    }

    #[test]
    fn the_least_scenario_is_taken() {
        let scenario = Scenario::parse("s.yaml", &format!("{HEAD}{CLUSTER}{WEB}"), Path::new(".")).unwrap();
        assert_eq!((scenario.name.as_str(), scenario.objects.len()), ("t", 1));
    }

    #[test]
    fn bad_scenarios_are_refused_with_line_and_hint() {
        let group = |fields: &str| format!("{HEAD}  cluster:\n    nodeGroups:\n    - {{name: a, {fields}}}\n");
        let rest = |text: &str| format!("{HEAD}{CLUSTER}{WEB}{text}");
        // The line counts from the beginning: the head has 5, the cluster 3, the manifest 6.
        for (text, line, hint) in [
            ("kind: Pod\n".to_owned(), 1, "missing field `apiVersion`"),
            (format!("{HEAD}{CLUSTER}").replace("Scenario", "Scenery"), 2, "no Scenario"),
            (format!("{HEAD}{CLUSTER}").replace("10m", "soon"), 5, "90s"),
            (format!("{HEAD}{CLUSTER}").replace("10m", "0s"), 5, "some time"),
            (format!("{HEAD}  cluster: {{nodeGroups: []}}\n"), 5, "needs nodes"),
            (group("instanceType: m5.huge, count: 1"), 8, "m5.large"),
            (group("instanceType: m5.large, count: -1"), 8, "whole number"),
            (group("instanceType: m5.large, count: 0"), 8, "never a node"),
            (group("instanceType: m5.large, count: 40000"), 8, "addresses"),
            (group("instanceType: m5.large, count: 2, max: 1"), 8, "less than count"),
            (group("instanceType: m5.large, count: 2, min: 3"), 8, "more than count"),
            (group("instanceType: m5.large, count: 2, max: 3"), 8, "autoscaler: {}"),
            (group("instanceType: m5.large, count: 2, zone: x"), 8, "did you mean `zones`?"),
            (group("instanceType: m5.large, count: 2, taints: [dedicated]"), 8, "NoSchedule"),
            (rest("  events:\n  - {at: 5m, delete: deployment/web}\n  - {at: 4m, drain: {}}\n"), 17, "runs backwards"),
            (rest("  events:\n  - {at: 11m, drain: {}}\n"), 16, "ends before"),
            (rest("  events:\n  - {drain: {}}\n"), 16, "either `at`"),
            (rest("  events:\n  - {at: 1m}\n"), 16, "does nothing"),
            (rest("  events:\n  - {at: 1m, drain: {}, uncordon: {}}\n"), 16, "drain and uncordon"),
            (rest("  events:\n  - at: 1m\n    zoneOutage: {zone: z}\n"), 17, "zones are x, y"),
            (rest("  events:\n  - at: 1m\n    nodeCrash: {group: b}\n"), 17, "there is a"),
            (rest("  events:\n  - at: 1m\n    nodeCrash: {group: a, count: 3}\n"), 17, "2 at most"),
            (rest("  events:\n  - at: 1m\n    nodeCrash: {node: b-1}\n"), 17, "GROUP-1"),
            (
                rest("  events:\n  - at: 1m\n    scale: {target: deployment/wbe, replicas: 2}\n"),
                17,
                "there is deployment/web",
            ),
            (rest("  events:\n  - at: 1m\n    crash: {component: kubelet, for: 1m}\n"), 17, "scheduler"),
            (rest("  events:\n  - when: deployment/web ready == 3 always\n    drain: {}\n"), 16, "no time"),
            (
                rest("  traffic:\n  - {service: service/web, cost: 5ms, curve: [{at: 0s, rps: 1}]}\n"),
                16,
                "nobody makes service/web",
            ),
            (rest("  expect:\n  - deployment/web available >= 120% always\n"), 16, "at most 100%"),
            (rest("  expect:\n  - at 20m deployment/web ready == 3\n"), 16, "ends after 10m"),
            (
                rest("  expect:\n  - deployment/web ready == 3 always\n  - deployment/db ready == 3\n"),
                17,
                "nobody makes deployment/db",
            ),
            (rest("  expect:\n  - deployment/web ready == 5\n"), 16, "wants 3 replicas"),
            (rest("  expect:\n  - nodes ready >= 9 always\n"), 16, "at most 2 nodes"),
            (rest("  expect:\n  - service/web served >= 99%\n"), 16, "has no traffic"),
            (rest("  policies:\n  - {}\n"), 16, "either a path or a spec"),
            (rest("  policies:\n  - spec: {rules: [{cpu: much}]}\n"), 16, "250m"),
            (format!("{HEAD}{CLUSTER}  manifests:\n  - path: none.yaml\n"), 10, "none.yaml"),
        ] {
            let refused = refusal(&text);
            assert_eq!((refused.line, refused.message.contains(hint)), (line, true), "{refused}\n{text}");
        }
    }
}
