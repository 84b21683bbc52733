//! What holds at every revision, whatever happens: named functions over the history.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use coracle_sim::Cluster;
use serde_json::Value;

/// One change: of what, by which request (where that is known), from what, to what; null is "not there".
pub struct Step {
    pub revision: i64,
    pub author: String,
    pub resource: String,
    pub name: String,
    pub before: Rc<Value>,
    pub after: Rc<Value>,
}

pub type Invariant = fn(&[Step]) -> Result<(), String>;

pub const INVARIANTS: &[(&str, Invariant)] = &[
    ("nothing vanishes that has a finalizer", nothing_vanishes_that_has_a_finalizer),
    ("a pod on a node vanishes only after its deletion was asked for", pods_go_in_order),
    ("a pod keeps its node", a_pod_keeps_its_node),
    ("what has ended stays ended", what_has_ended_stays_ended),
    ("restarts are never forgotten", restarts_are_never_forgotten),
    ("a ReplicaSet never makes more pods than it was to have", replica_sets_make_no_more_than_asked),
    ("a Deployment's ReplicaSets never exceed its surge", deployments_keep_to_their_surge),
    ("a rollout never takes more than may be unavailable", rollouts_keep_enough),
    ("a StatefulSet's pods are made in order", stateful_sets_go_in_order),
    ("a Job counts each success once", jobs_count_once),
    ("a namespace goes after all that is in it", namespaces_go_last),
    ("nobody is left without an owner", nobody_is_left_without_an_owner),
];

/// The cluster's history as steps.
pub fn steps(cluster: &Cluster) -> Vec<Step> {
    let mut authors = cluster.authors();
    let mut live: BTreeMap<Vec<u8>, Rc<Value>> = BTreeMap::new();
    let null = Rc::new(Value::Null);
    let mut steps = Vec::new();
    for change in cluster.history() {
        let author = authors.remove(&change.revision).unwrap_or_default();
        let (resource, name) = change.object();
        let after = Rc::new(change.json());
        let before = live.insert(change.key.to_vec(), after.clone()).unwrap_or_else(|| null.clone());
        steps.push(Step { revision: change.revision, author, resource, name, before, after });
    }
    steps
}

impl Step {
    fn err(&self, why: impl std::fmt::Display) -> Result<(), String> {
        Err(format!("at revision {}, {} {}: {why}", self.revision, self.resource, self.name))
    }

    /// Whether it is the same object before and after.
    fn same(&self) -> bool {
        !uid(&self.before).is_empty() && uid(&self.before) == uid(&self.after)
    }
}

fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

fn controller(object: &Value) -> &str {
    let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    owners.into_iter().find(|owner| owner["controller"] == true).and_then(|o| o["uid"].as_str()).unwrap_or_default()
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

fn of<'a>(steps: &'a [Step], resource: &'a str) -> impl Iterator<Item = &'a Step> {
    steps.iter().filter(move |step| step.resource == resource)
}

fn is_over(pod: &Value) -> bool {
    pod["status"]["phase"] == "Succeeded" || pod["status"]["phase"] == "Failed"
}

fn each(steps: &[Step], resource: &str, wrong: impl Fn(&Step) -> Option<String>) -> Result<(), String> {
    of(steps, resource).find_map(|step| wrong(step).map(|why| step.err(why))).unwrap_or(Ok(()))
}

/// But whoever takes the last one from what is going deletes it by that, and no version without it is ever stored.
fn nothing_vanishes_that_has_a_finalizer(steps: &[Step]) -> Result<(), String> {
    let held = |step: &&Step| {
        let meta = &step.before["metadata"];
        let released = meta["deletionGracePeriodSeconds"] == 0
            && [" PATCH ", " PUT "].iter().any(|verb| step.author.contains(verb));
        step.after.is_null() && meta["finalizers"][0].is_string() && !released
    };
    let why = |step: &Step| step.err(format_args!("{} by {:?}", step.before["metadata"]["finalizers"], step.author));
    steps.iter().find(held).map_or(Ok(()), why)
}

fn pods_go_in_order(steps: &[Step]) -> Result<(), String> {
    each(steps, "pods", |step| {
        let (bound, asked) = (&step.before["spec"]["nodeName"], &step.before["metadata"]["deletionTimestamp"]);
        let early = step.after.is_null() && bound.is_string() && asked.is_null() && !is_over(&step.before);
        early.then(|| format!("deleted while it ran on {bound}"))
    })
}

fn a_pod_keeps_its_node(steps: &[Step]) -> Result<(), String> {
    each(steps, "pods", |step| {
        let (before, after) = (&step.before["spec"]["nodeName"], &step.after["spec"]["nodeName"]);
        (step.same() && before.is_string() && before != after).then(|| format!("moved from {before} to {after}"))
    })
}

fn what_has_ended_stays_ended(steps: &[Step]) -> Result<(), String> {
    each(steps, "pods", |step| {
        let (before, after) = (&step.before["status"]["phase"], &step.after["status"]["phase"]);
        (step.same() && is_over(&step.before) && before != after).then(|| format!("from {before} to {after}"))
    })
}

fn restarts_are_never_forgotten(steps: &[Step]) -> Result<(), String> {
    let count = |pod: &Value| number(&pod["status"]["containerStatuses"][0]["restartCount"]);
    each(steps, "pods", |step| {
        let fewer = step.same() && count(&step.after) < count(&step.before);
        fewer.then(|| format!("from {} to {} restarts", count(&step.before), count(&step.after)))
    })
}

/// A controller may act on what was true a moment ago, so the most that was ever asked for counts.
fn replica_sets_make_no_more_than_asked(steps: &[Step]) -> Result<(), String> {
    let (mut asked, mut active) = (BTreeMap::<String, i64>::new(), BTreeMap::<String, BTreeSet<String>>::new());
    for step in steps {
        match step.resource.as_str() {
            "replicasets" if !step.after.is_null() => {
                let most = asked.entry(uid(&step.after).into()).or_default();
                *most = (*most).max(number(&step.after["spec"]["replicas"]));
            }
            "pods" => {
                let owner = if step.after.is_null() { controller(&step.before) } else { controller(&step.after) };
                let Some(most) = asked.get(owner) else { continue };
                let pods = active.entry(owner.to_owned()).or_default();
                let counts = !step.after.is_null()
                    && step.after["metadata"]["deletionTimestamp"].is_null()
                    && !is_over(&step.after);
                if !counts {
                    active.values_mut().for_each(|pods| {
                        pods.remove(uid(&step.before));
                    });
                } else if pods.insert(uid(&step.after).into()) && i64::try_from(pods.len()).is_ok_and(|n| n > *most) {
                    return step.err(format_args!("pod {} where {most} were the most ever wanted", pods.len()));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// For each Deployment: its specs so far, and the sizes of its ReplicaSets after a step that changed one.
fn sizes(steps: &[Step], check: impl Fn(&Step, &[Value], i64, i64) -> Result<(), String>) -> Result<(), String> {
    let mut specs: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut sizes: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
    for step in steps {
        match step.resource.as_str() {
            "deployments" if !step.after.is_null() => {
                let specs = specs.entry(uid(&step.after).into()).or_default();
                if specs.last() != Some(&step.after["spec"]) {
                    specs.push(step.after["spec"].clone());
                }
            }
            "replicasets" => {
                let object = if step.after.is_null() { &step.before } else { &step.after };
                let Some(specs) = specs.get(controller(object)) else { continue };
                let sizes = sizes.entry(controller(object).into()).or_default();
                let before: i64 = sizes.values().sum();
                match step.after.is_null() {
                    true => drop(sizes.remove(&step.name)),
                    false => drop(sizes.insert(step.name.clone(), number(&step.after["spec"]["replicas"]))),
                }
                if !step.after.is_null() {
                    check(step, specs, before, sizes.values().sum())?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn share(spec: &Value, field: &str, up: bool) -> i64 {
    let replicas = number(&spec["replicas"]);
    let value = &spec["strategy"]["rollingUpdate"][field];
    match value.as_str().and_then(|text| text.strip_suffix('%')?.parse::<i64>().ok()) {
        Some(percent) if up => (replicas * percent + 99) / 100,
        Some(percent) => replicas * percent / 100,
        None => number(value),
    }
}

fn deployments_keep_to_their_surge(steps: &[Step]) -> Result<(), String> {
    sizes(steps, |step, specs, before, after| {
        let most = specs.iter().map(|spec| number(&spec["replicas"]) + share(spec, "maxSurge", true)).max();
        match most {
            Some(most) if after > most && after > before => {
                step.err(format_args!("{after} pods wanted, {most} allowed"))
            }
            _ => Ok(()),
        }
    })
}

fn rollouts_keep_enough(steps: &[Step]) -> Result<(), String> {
    sizes(steps, |step, specs, before, after| {
        let least = |spec: &Value| {
            let (surge, most) = (share(spec, "maxSurge", true), share(spec, "maxUnavailable", false));
            // Both rounded to nothing: one at least may go.
            number(&spec["replicas"]) - if surge == 0 && most == 0 { 1 } else { most }
        };
        match specs.iter().map(least).min() {
            Some(least) if after < least && after < before => {
                step.err(format_args!("{after} pods left, {least} needed"))
            }
            _ => Ok(()),
        }
    })
}

fn stateful_sets_go_in_order(steps: &[Step]) -> Result<(), String> {
    let mut ready: BTreeSet<(String, i64)> = BTreeSet::new();
    let sets: BTreeSet<String> = of(steps, "statefulsets").map(|step| uid(&step.after).to_owned()).collect();
    for step in of(steps, "pods") {
        let owner = controller(&step.after);
        let ordinal = step.name.rsplit_once('-').and_then(|(_, ordinal)| ordinal.parse::<i64>().ok());
        let Some(ordinal) = ordinal.filter(|_| sets.contains(owner)) else { continue };
        if crate::support::is_ready(&step.after) {
            ready.insert((owner.into(), ordinal));
        }
        if step.before.is_null() && (0..ordinal).any(|earlier| !ready.contains(&(owner.into(), earlier))) {
            return step.err("made before its predecessors were ready");
        }
    }
    Ok(())
}

fn jobs_count_once(steps: &[Step]) -> Result<(), String> {
    let mut succeeded: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for step in steps {
        if step.resource == "pods" && step.after["status"]["phase"] == "Succeeded" {
            succeeded.entry(controller(&step.after).into()).or_default().insert(uid(&step.after).into());
        }
        if step.resource != "jobs" || step.after.is_null() {
            continue;
        }
        let (before, after) = (number(&step.before["status"]["succeeded"]), number(&step.after["status"]["succeeded"]));
        let true_number = succeeded.get(uid(&step.after)).map_or(0, BTreeSet::len);
        if i64::try_from(true_number).is_ok_and(|number| after > number) || step.same() && after < before {
            return step.err(format_args!("{after} counted after {before}, {true_number} succeeded"));
        }
        let completions = step.after["spec"]["completions"].as_i64();
        if completions.is_some_and(|completions| after > completions) {
            return step.err(format_args!("{after} successes of {completions:?}"));
        }
    }
    Ok(())
}

fn namespaces_go_last(steps: &[Step]) -> Result<(), String> {
    let mut live: BTreeSet<(&str, &str)> = BTreeSet::new();
    for step in steps.iter().filter(|step| !matches!(step.resource.as_str(), "events" | "leases")) {
        match step.after.is_null() {
            true => drop(live.remove(&(step.resource.as_str(), step.name.as_str()))),
            false => drop(live.insert((&step.resource, &step.name))),
        }
        if step.resource == "namespaces" && step.after.is_null() {
            let inside = live.iter().find(|(_, name)| name.starts_with(&format!("{}/", step.name)));
            if let Some(left) = inside {
                return step.err(format_args!("{left:?} is still there"));
            }
        }
    }
    Ok(())
}

/// In the end.
fn nobody_is_left_without_an_owner(steps: &[Step]) -> Result<(), String> {
    let last: BTreeMap<_, _> = steps.iter().map(|step| ((&step.resource, &step.name), step)).collect();
    let uids: BTreeSet<&str> = last.values().map(|step| uid(&step.after)).collect();
    let orphan = |step: &&&Step| !controller(&step.after).is_empty() && !uids.contains(controller(&step.after));
    last.values().find(orphan).map_or(Ok(()), |step| step.err("its owner is gone"))
}
