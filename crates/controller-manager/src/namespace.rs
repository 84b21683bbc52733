//! Namespace: the deletion of a namespace is the deletion of all that is in it.
//!
//! Watches namespaces, and pods for the last of a namespace to end. A namespace being deleted is emptied kind by kind,
//! as discovery tells them, pods first; its conditions say what is still there. When nothing is, the finalizer
//! `kubernetes` is taken off through the subresource `finalize`, and the API server lets the namespace go. Until then it
//! is looked at again in half the time that pods may still take, or finalizers are thought to; what stays for no known
//! reason is a failure, and waited for with back-off.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::{Informer, ObjectKey, Requeue, WorkQueue, written};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::core::ApiResource;
use kube::{Api, Client, ResourceExt};

use crate::context::Context;
use crate::discovery::{self, Served};
use crate::error::{Error, IgnoreNotFound, Result};
use crate::pods;

const NAME: &str = "namespace-controller";
const FINALIZER: &str = "kubernetes";
/// How long whoever holds an object by a finalizer is thought to take.
const FINALIZER_SECONDS: i64 = 15;
/// How soon a namespace in which less remains than before is looked at again.
const PROGRESS: Duration = Duration::from_secs(1);
/// The longest that a namespace waits after failures.
const MAX_DELAY: Duration = Duration::from_secs(60);

/// What emptying a namespace found.
#[derive(Debug, Default, PartialEq)]
struct Found {
    /// Groups that discovery could not ask.
    undiscovered: Vec<String>,
    /// Deletions that failed.
    failures: Vec<String>,
    /// How many objects of each resource are still there.
    remaining: BTreeMap<String, usize>,
    /// How many of them each finalizer keeps.
    finalizers: BTreeMap<String, usize>,
    /// In how many seconds they should be gone.
    estimate: i64,
}

/// What comes after that.
#[derive(Debug, PartialEq)]
enum Next {
    /// Nothing is left.
    Finalize,
    /// It takes time.
    Wait(Duration),
    /// It is not as it should be.
    Fail(String),
}

impl Found {
    /// Notes what is left of a resource: the finalizers of each object. `estimate` is how many seconds it may still take
    /// for reasons of its own.
    fn note(&mut self, resource: &Served, namespace: &str, objects: &[&[String]], estimate: i64) {
        if objects.is_empty() {
            return;
        }
        self.remaining.insert(resource.name(), objects.len());
        for finalizer in objects.iter().copied().flatten() {
            *self.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
        let held = objects.iter().any(|finalizers| !finalizers.is_empty());
        if estimate == 0 && !held {
            let ApiResource { group, version, plural, .. } = &resource.resource;
            self.failures.push(format!(
                "unexpected items still remain in namespace: {namespace} for gvr: {group}/{version}, Resource={plural}"
            ));
        }
        self.estimate = self.estimate.max(if estimate == 0 && held { FINALIZER_SECONDS } else { estimate });
    }

    fn next(&self) -> Next {
        let failures: Vec<_> = self.undiscovered.iter().chain(&self.failures).map(String::as_str).collect();
        if !failures.is_empty() {
            return Next::Fail(failures.join(", "));
        }
        match self.estimate {
            0 => Next::Finalize,
            estimate => Next::Wait(Duration::from_secs(estimate.unsigned_abs() / 2 + 1)),
        }
    }
}

/// How many seconds pods may still take to end, in a namespace deleted at that time; none if they should have by now.
fn pods_estimate(pods: &[Arc<Pod>], deleted: Timestamp, now: Timestamp) -> i64 {
    let ends = |pod: &&Arc<Pod>| !pods::is_finished(pod);
    let grace = |pod: &Arc<Pod>| pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    let estimate = pods.iter().filter(ends).filter_map(grace).max().unwrap_or_default();
    if now.duration_since(deleted).as_secs() >= estimate { 0 } else { estimate }
}

fn list(counts: &BTreeMap<String, usize>, preposition: &str) -> String {
    let entries = counts.iter().map(|(name, count)| format!("{name} {preposition} {count} resource instances"));
    entries.collect::<Vec<_>>().join(", ")
}

/// The conditions of a namespace being deleted. A problem that goes away leaves its condition behind as False.
fn conditions(old: &[NamespaceCondition], found: &Found, now: Timestamp) -> Vec<NamespaceCondition> {
    let undiscovered = found.undiscovered.join(", ");
    let failures = found.failures.join(", ");
    let remaining = format!("Some resources are remaining: {}", list(&found.remaining, "has"));
    let finalizers =
        format!("Some content in the namespace has finalizers remaining: {}", list(&found.finalizers, "in"));
    let table = [
        (
            "NamespaceDeletionDiscoveryFailure",
            !found.undiscovered.is_empty(),
            (
                "DiscoveryFailed",
                format!(
                    "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server \
                     APIs: {undiscovered}",
                    found.undiscovered.len()
                ),
            ),
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            ("", String::new()),
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            !found.failures.is_empty(),
            (
                "ContentDeletionFailed",
                format!("Failed to delete all resource types, {} remaining: {failures}", found.failures.len()),
            ),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        (
            "NamespaceContentRemaining",
            !found.remaining.is_empty(),
            ("SomeResourcesRemain", remaining),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            !found.finalizers.is_empty(),
            ("SomeFinalizersRemain", finalizers),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ];
    let condition =
        |(type_, bad, (bad_reason, bad_message), (reason, message)): (&str, bool, (&str, String), (&str, &str))| {
            let (reason, message) = if bad { (bad_reason, bad_message) } else { (reason, message.to_owned()) };
            let status = if bad { "True" } else { "False" };
            let before = old.iter().find(|condition| condition.type_ == type_ && condition.status == status);
            NamespaceCondition {
                type_: type_.into(),
                status: status.into(),
                reason: Some(reason.into()),
                message: Some(message),
                last_transition_time: before.map_or(Some(Time(now)), |before| before.last_transition_time.clone()),
            }
        };
    table.map(condition).to_vec()
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::with_max_delay(MAX_DELAY);
    let namespaces: Informer<Namespace> = context.informer();
    let keys = queue.clone();
    namespaces.on_change(move |change| match change.new {
        Some(namespace) if is_terminating(namespace) => {
            // One that has conditions was looked at before.
            let begun = namespace.status.as_ref().is_some_and(|status| status.conditions.is_some());
            keys.add_after(change.key(), if begun { PROGRESS } else { Duration::ZERO });
        }
        _ => {}
    });
    let pods: Informer<Pod> = context.informer();
    pods.on_change({
        let (pods, namespaces, queue) = (pods.clone(), namespaces.clone(), queue.clone());
        move |change| {
            let namespace = change.key().namespace;
            if change.new.is_none() && pods.is_empty_in(&namespace) {
                let key = ObjectKey::new("", namespace);
                if namespaces.get(&key).is_some_and(|namespace| is_terminating(&namespace)) {
                    queue.add(key);
                }
            }
        }
    });
    namespaces.wait_for_sync().await;
    pods.wait_for_sync().await;
    context.work(NAME, &queue, |key| sync(&context.client, &namespaces, &pods, key)).await;
}

async fn sync(
    client: &Client,
    namespaces: &Informer<Namespace>,
    pods: &Informer<Pod>,
    key: ObjectKey,
) -> Result<Requeue> {
    let Some(namespace) = namespaces.get(&key) else { return Ok(Requeue::Never) };
    if !is_terminating(&namespace) {
        return Ok(Requeue::Never);
    }
    let deleted = namespace.metadata.deletion_timestamp.as_ref().map(|at| at.0).unwrap_or_default();
    let estimate = pods_estimate(&pods.list_namespace(&key.name), deleted, coracle_clock::now());
    let found = empty(client, &key.name, estimate).await?;
    let mut namespace = namespace.as_ref().clone();
    let old = namespace.status.clone().unwrap_or_default();
    let new = conditions(old.conditions.as_deref().unwrap_or_default(), &found, coracle_clock::now_seconds());
    if old.conditions.as_ref() != Some(&new) || old.phase.as_deref() != Some("Terminating") {
        namespace.status = Some(NamespaceStatus { phase: Some("Terminating".into()), conditions: Some(new) });
        let api: Api<Namespace> = Api::all(client.clone());
        let written = api.replace_status(&key.name, &PostParams::default(), &namespace).await.ignore_not_found()?;
        let Some(written) = written else { return Ok(Requeue::Never) };
        namespace = written;
    }
    match found.next() {
        Next::Finalize => finalize(client, namespace).await.map(|()| Requeue::Never),
        Next::Wait(time) => Ok(Requeue::After(time)),
        Next::Fail(why) => Err(Error::Other(why)),
    }
}

/// Whether it is being deleted, and this controller is not done with it.
fn is_terminating(namespace: &Namespace) -> bool {
    let mut finalizers = namespace.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten());
    namespace.metadata.deletion_timestamp.is_some() && finalizers.any(|name| name == FINALIZER)
}

/// Deletes what is in the namespace: pods first, and all else when they are gone, so that what pods need to end
/// well (their network policies, their secrets) outlives them. `estimate` is how many seconds pods may still take.
async fn empty(client: &Client, namespace: &str, estimate: i64) -> Result<Found> {
    let (resources, undiscovered) = discovery::served(client).await?;
    let mut found = Found { undiscovered, ..Found::default() };
    let deletable = |served: &&Served| served.namespaced && served.can("delete") && served.can("list");
    let is_pods = |served: &Served| served.resource.plural == "pods" && served.resource.group.is_empty();
    let (pods, others): (Vec<_>, Vec<_>) = resources.iter().filter(deletable).partition(|served| is_pods(served));
    for served in pods.iter().chain(&others) {
        if !is_pods(served) && found.remaining.keys().any(|name| name == "pods.") {
            break;
        }
        let estimate = if is_pods(served) { estimate } else { 0 };
        if let Err(error) = empty_of(client, namespace, served, estimate, &mut found).await {
            found.failures.push(error.to_string());
        }
    }
    Ok(found)
}

async fn empty_of(client: &Client, namespace: &str, served: &Served, estimate: i64, found: &mut Found) -> Result<()> {
    let api = served.metadata(client, Some(namespace));
    let present = api.list(&ListParams::default().limit(1)).await.ignore_not_found()?;
    if present.is_none_or(|present| present.items.is_empty()) {
        return Ok(());
    }
    let params = DeleteParams::background();
    if served.can("deletecollection") {
        written::delete_all(client, namespace, &served.resource, &params).await?;
    } else {
        let objects = served.objects(client, namespace);
        for object in api.list(&ListParams::default()).await? {
            objects.delete(&object.name_any(), &params).await.ignore_not_found()?;
        }
    }
    let remaining = api.list(&ListParams::default()).await?.items;
    let finalizers: Vec<_> = remaining.iter().map(|object| object.finalizers()).collect();
    found.note(served, namespace, &finalizers, estimate);
    Ok(())
}

/// Takes our finalizer off `spec.finalizers`.
async fn finalize(client: &Client, mut namespace: Namespace) -> Result<()> {
    let name = namespace.name_any();
    namespace.spec.get_or_insert_default().finalizers.get_or_insert_default().retain(|f| f != FINALIZER);
    let api: Api<Namespace> = Api::all(client.clone());
    api.replace_subresource("finalize", &name, &PostParams::default(), &namespace).await.ignore_not_found()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use kube::core::GroupVersionKind;
    use proptest::prelude::*;
    use serde_json::{from_value, json};

    use super::*;
    use crate::fixed_point::rest;

    fn resource(group: &str, plural: &str) -> Served {
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", "X"), plural);
        Served { resource, namespaced: true, verbs: Vec::new() }
    }

    #[test]
    fn the_conditions_say_what_is_still_there() {
        let (early, late) = ("2026-01-01T00:00:00Z".parse().unwrap(), "2026-01-01T00:00:09Z".parse().unwrap());
        let held = ["example.com/keep".to_owned()];
        let mut found = Found { undiscovered: vec!["g/v1: down".into()], ..Found::default() };
        found.note(&resource("", "pods"), "n", &[&[], &[]], 30);
        found.note(&resource("apps", "deployments"), "n", &[&held], 0);
        found.note(&resource("", "secrets"), "n", &[], 0);
        found.note(&resource("apps", "replicasets"), "n", &[&[]], 0);
        let first = conditions(&[], &found, early);
        let messages: Vec<_> =
            first.iter().filter(|c| c.status == "True").map(|c| c.message.clone().unwrap()).collect();
        assert_eq!(
            messages,
            [
                "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: g/v1: down",
                "Failed to delete all resource types, 1 remaining: unexpected items still remain in namespace: n for gvr: \
                 apps/v1, Resource=replicasets",
                "Some resources are remaining: deployments.apps has 1 resource instances, pods. has 2 resource instances, \
                 replicasets.apps has 1 resource instances",
                "Some content in the namespace has finalizers remaining: example.com/keep in 1 resource instances",
            ]
        );
        let done = conditions(&first, &Found::default(), late);
        assert!(done.iter().all(|condition| condition.status == "False"));
        assert_eq!(done[1].last_transition_time, Some(Time(early)), "it was False before");
        assert_eq!(done[3].last_transition_time, Some(Time(late)));
    }

    #[test]
    fn a_namespace_is_looked_at_again_when_what_is_there_may_be_gone() {
        let seconds = |seconds| Next::Wait(Duration::from_secs(seconds));
        let held = ["f".to_owned()];
        for (objects, estimate, expected) in [
            (vec![], 0, Next::Finalize),
            (vec![], 30, Next::Finalize),
            (vec![&[][..]], 30, seconds(16)),
            (vec![&held[..]], 30, seconds(16)),
            (vec![&held[..], &[]], 0, seconds(8)),
        ] {
            let mut found = Found::default();
            found.note(&resource("", "pods"), "n", &objects, estimate);
            assert_eq!(found.next(), expected, "{objects:?} {estimate}");
        }
        let mut found = Found::default();
        found.note(&resource("", "pods"), "n", &[&[]], 0);
        let why = "unexpected items still remain in namespace: n for gvr: /v1, Resource=pods";
        assert_eq!(found.next(), Next::Fail(why.into()));
    }

    #[test]
    fn pods_are_given_their_grace_from_the_deletion_of_the_namespace() {
        let pod = |grace: i64, phase: &str| {
            let pod = json!({ "spec": { "containers": [], "terminationGracePeriodSeconds": grace }, "status": { "phase": phase } });
            Arc::new(from_value::<Pod>(pod).unwrap())
        };
        let at = |second| Timestamp::from_second(second).unwrap();
        let pods = [pod(5, "Running"), pod(30, "Pending"), pod(600, "Succeeded")];
        for (now, expected) in [(0, 30), (29, 30), (30, 0)] {
            assert_eq!(pods_estimate(&pods, at(0), at(now)), expected);
        }
    }

    proptest! {
        /// Objects go in the order of their number, or never, until somebody takes their finalizer off.
        #[test]
        fn from_any_content_a_namespace_comes_to_rest(
            pods in proptest::collection::vec((0..9u32, any::<bool>()), 0..4),
            others in proptest::collection::vec((0..9u32, any::<bool>()), 0..4),
            releases in any::<bool>(),
        ) {
            let held = ["f".to_owned()];
            let left = |objects: &[(u32, bool)], step: u32| -> Vec<(u32, bool)> {
                objects.iter().copied().filter(|(ends, held)| *held && !releases || *ends > step).collect()
            };
            let step = |(step, pods, others, old, _): &(u32, Vec<_>, Vec<_>, Vec<_>, Option<Next>)| {
                let mut found = Found::default();
                let kinds = [("pods", pods), ("things", others)].map(|(plural, objects)| {
                    // What is no pod stays until there are none.
                    if !found.remaining.is_empty() {
                        return objects.clone();
                    }
                    let objects = left(objects, *step);
                    let finalizers = objects.iter().map(|(_, keeps)| if *keeps { &held[..] } else { &[] });
                    found.note(&resource("", plural), "n", &finalizers.collect::<Vec<_>>(), 0);
                    objects
                });
                let [pods, others] = kinds;
                let now = Timestamp::from_second((*step).into()).unwrap();
                let conditions = conditions(old, &found, now);
                let next = found.next();
                ((step + 1).min(10), pods, others, conditions, Some(next))
            };
            let (_, pods, others, conditions, next) = rest((0, pods, others, Vec::new(), None), step);
            let is_empty = pods.is_empty() && others.is_empty();
            prop_assert_eq!(next == Some(Next::Finalize), is_empty);
            prop_assert_eq!(conditions.iter().all(|condition| condition.status == "False"), is_empty);
        }
    }
}
