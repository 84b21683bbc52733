//! Namespace: the deletion of a namespace is the deletion of all that is in it.
//!
//! Watches namespaces, and pods for the last of a namespace to end. A namespace being deleted is emptied kind by kind,
//! as discovery tells them, pods first; its conditions say what is still there. When nothing is, the finalizer `kubernetes` is taken off through the
//! subresource `finalize`, and the API server lets the namespace go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::{Informer, ObjectKey, Requeue, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};

use crate::context::{Context, enqueue_changes};
use crate::discovery::{self, Served};
use crate::error::{IgnoreNotFound, Result};

const NAME: &str = "namespace-controller";
const FINALIZER: &str = "kubernetes";
/// How soon a namespace that is not empty yet is looked at again.
const RETRY: Duration = Duration::from_secs(5);

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
}

impl Found {
    fn is_empty(&self) -> bool {
        self.undiscovered.is_empty() && self.failures.is_empty() && self.remaining.is_empty()
    }
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
                format!("Discovery failed for some groups, {} failing: {undiscovered}", found.undiscovered.len()),
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
    let queue = WorkQueue::new();
    let namespaces: Informer<Namespace> = context.informer();
    enqueue_changes(&namespaces, &queue);
    let pods: Informer<Pod> = context.informer();
    pods.on_change({
        let (pods, namespaces, queue) = (pods.clone(), namespaces.clone(), queue.clone());
        move |change| {
            let namespace = change.key().namespace;
            if change.new.is_none() && pods.is_empty_in(&namespace) {
                let key = ObjectKey::new("", namespace);
                let ends = |namespace: Arc<Namespace>| namespace.metadata.deletion_timestamp.is_some();
                if namespaces.get(&key).is_some_and(ends) {
                    queue.add(key);
                }
            }
        }
    });
    namespaces.wait_for_sync().await;
    context.work(NAME, &queue, |key| sync(&context.client, &namespaces, key)).await;
}

async fn sync(client: &Client, namespaces: &Informer<Namespace>, key: ObjectKey) -> Result<Requeue> {
    let Some(namespace) = namespaces.get(&key) else { return Ok(Requeue::Never) };
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
    if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|name| name == FINALIZER) {
        return Ok(Requeue::Never);
    }
    let found = empty(client, &key.name).await?;
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
    if !found.is_empty() {
        return Ok(Requeue::After(RETRY));
    }
    finalize(client, namespace).await?;
    Ok(Requeue::Never)
}

/// Deletes what is in the namespace: pods first, and all else when they are gone, so that what pods need to end
/// well (their network policies, their secrets) outlives them.
async fn empty(client: &Client, namespace: &str) -> Result<Found> {
    let (resources, undiscovered) = discovery::served(client).await?;
    let mut found = Found { undiscovered, ..Found::default() };
    let deletable = |served: &&Served| served.namespaced && served.can("delete") && served.can("list");
    let is_pods = |served: &Served| served.resource.plural == "pods" && served.resource.group.is_empty();
    let (pods, others): (Vec<_>, Vec<_>) = resources.iter().filter(deletable).partition(|served| is_pods(served));
    for served in pods.iter().chain(&others) {
        if !is_pods(served) && found.remaining.keys().any(|name| name == "pods.") {
            break;
        }
        if let Err(error) = empty_of(client, namespace, served, &mut found).await {
            found.failures.push(error.to_string());
        }
    }
    Ok(found)
}

async fn empty_of(client: &Client, namespace: &str, served: &Served, found: &mut Found) -> Result<()> {
    let api = served.metadata(client, Some(namespace));
    let present = api.list(&ListParams::default()).await.ignore_not_found()?;
    if present.is_none_or(|present| present.items.is_empty()) {
        return Ok(());
    }
    let params = DeleteParams::background();
    let objects = served.objects(client, namespace);
    if served.can("deletecollection") {
        objects.delete_collection(&params, &ListParams::default()).await?;
    } else {
        for object in api.list(&ListParams::default()).await? {
            objects.delete(&object.name_any(), &params).await.ignore_not_found()?;
        }
    }
    let remaining = api.list(&ListParams::default()).await?.items;
    if remaining.is_empty() {
        return Ok(());
    }
    found.remaining.insert(served.name(), remaining.len());
    for finalizer in remaining.iter().flat_map(|object| object.finalizers()) {
        *found.finalizers.entry(finalizer.clone()).or_default() += 1;
    }
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
    use super::*;

    #[test]
    fn the_conditions_say_what_is_still_there() {
        let (early, late) = ("2026-01-01T00:00:00Z".parse().unwrap(), "2026-01-01T00:00:09Z".parse().unwrap());
        let found = Found {
            remaining: BTreeMap::from([("pods.".into(), 2), ("deployments.apps".into(), 1)]),
            finalizers: BTreeMap::from([("example.com/keep".into(), 1)]),
            ..Found::default()
        };
        let first = conditions(&[], &found, early);
        let messages: Vec<_> =
            first.iter().filter(|c| c.status == "True").map(|c| c.message.clone().unwrap()).collect();
        assert_eq!(
            messages,
            [
                "Some resources are remaining: deployments.apps has 1 resource instances, pods. has 2 resource instances",
                "Some content in the namespace has finalizers remaining: example.com/keep in 1 resource instances",
            ]
        );
        let done = conditions(&first, &Found::default(), late);
        assert!(done.iter().all(|condition| condition.status == "False"));
        assert_eq!(done[0].last_transition_time, Some(Time(early)), "it was False before");
        assert_eq!(done[3].last_transition_time, Some(Time(late)));
    }
}
