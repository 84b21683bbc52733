//! ResourceQuota: what a namespace uses of each quota, in the quota's status.
//!
//! Watches quotas and, by metadata, each resource that some quota counts; a change there is the key of its
//! namespace's quotas. For each: list what is counted and add it up with the functions by which admission refuses
//! ([`coracle_api::quota`]). Counts are also made anew every five minutes.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use coracle_api::quantity::Quantity;
use coracle_api::quota;
use coracle_client::{Informer, ObjectKey, Requeue, WorkQueue};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus};
use kube::api::{ListParams, PostParams};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use crate::context::{Context, enqueue_changes};
use crate::discovery::{self, Served};
use crate::error::{Error, Result};

const NAME: &str = "resourcequota-controller";
const RESYNC: Duration = Duration::from_secs(300);

/// Group and plural name.
type GroupResource = (String, String);

/// Which resource a quota's name counts: `pods` for `requests.cpu`, `jobs.batch` for `count/jobs.batch`.
fn counted(name: &str) -> GroupResource {
    let core = |plural: &str| (String::new(), plural.to_owned());
    if let Some(resource) = name.strip_prefix("count/") {
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        return (group.to_owned(), plural.to_owned());
    }
    if name.contains(".deviceclass.resource.k8s.io/") {
        return ("resource.k8s.io".to_owned(), "resourceclaims".to_owned());
    }
    match name {
        "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => core(name),
        "persistentvolumeclaims" | "requests.storage" => core("persistentvolumeclaims"),
        name if name.contains(".storageclass.storage.k8s.io/") => core("persistentvolumeclaims"),
        name if name == "services" || name.starts_with("services.") => core("services"),
        _ => core("pods"),
    }
}

/// A quota's new status; `objects` are those of the namespace that it may count.
fn status(quota: &ResourceQuota, objects: &[(GroupResource, Vec<Value>)]) -> ResourceQuotaStatus {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
    let scopes = serde_json::to_value(quota).unwrap_or_default();
    let mut used = quota::Amounts::new();
    for ((group, plural), objects) in objects {
        for object in objects.iter().filter(|object| quota::in_scope(&scopes, group, plural, object)) {
            quota::add(&mut used, &quota::usage(group, plural, object));
        }
    }
    let of = |name: &String| used.get(name).copied().unwrap_or(Quantity::ZERO).to_wire();
    let used = hard.keys().map(|name| (name.clone(), of(name))).collect();
    ResourceQuotaStatus { hard: Some(hard), used: Some(used) }
}

/// What the quota's status is to say, if it does not say so.
fn changed(quota: &ResourceQuota, objects: &[(GroupResource, Vec<Value>)]) -> Option<ResourceQuotaStatus> {
    Some(status(quota, objects)).filter(|status| !same(quota.status.as_ref(), status))
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let controller = QuotaController {
        quotas: context.informer(),
        queue: queue.clone(),
        watched: Mutex::default(),
        context: context.clone(),
    };
    enqueue_changes(&controller.quotas, &queue);
    controller.quotas.wait_for_sync().await;
    context.work(NAME, &queue, |key| controller.sync(key)).await;
}

struct QuotaController {
    quotas: Informer<ResourceQuota>,
    queue: WorkQueue<ObjectKey>,
    /// The resources that are followed.
    watched: Mutex<BTreeSet<GroupResource>>,
    context: Context,
}

impl QuotaController {
    async fn sync(&self, key: ObjectKey) -> Result<Requeue> {
        let Some(quota) = self.quotas.get(&key) else { return Ok(Requeue::Never) };
        let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
        let wanted: BTreeSet<GroupResource> = hard.keys().map(|name| counted(name)).collect();
        let mut objects = Vec::new();
        if !wanted.is_empty() {
            let (served, _) = discovery::served(self.client()).await?;
            for resource in wanted {
                let same =
                    |served: &&Served| (&served.resource.group, &served.resource.plural) == (&resource.0, &resource.1);
                // A resource that is not served (yet) is not counted.
                let Some(served) = served.iter().find(same).filter(|served| served.namespaced) else { continue };
                self.follow(&resource, served);
                let listed = served.objects(self.client(), &key.namespace).list(&ListParams::default()).await?;
                let values = listed.items.iter().map(serde_json::to_value).collect::<Result<_, _>>();
                objects.push((resource, values.map_err(|error| Error::Other(error.to_string()))?));
            }
        }
        if let Some(status) = changed(&quota, &objects) {
            let mut changed = quota.as_ref().clone();
            changed.status = Some(status);
            let api: Api<ResourceQuota> = Api::namespaced(self.client().clone(), &key.namespace);
            api.replace_status(&key.name, &PostParams::default(), &changed).await?;
        }
        Ok(Requeue::After(RESYNC))
    }

    fn client(&self) -> &Client {
        &self.context.client
    }

    /// Follows a resource from now on: what changes in a namespace moves its quotas.
    fn follow(&self, resource: &GroupResource, served: &Served) {
        let is_new = self.watched.lock().expect("no code panics while it holds the set").insert(resource.clone());
        if !is_new {
            return;
        }
        let api = served.metadata(self.client(), None);
        let (quotas, queue, shutdown) = (self.quotas.clone(), self.queue.clone(), self.context.shutdown.clone());
        tokio::spawn(async move {
            let mut changes = std::pin::pin!(watcher(api, watcher::Config::default()));
            while let Some(Some(change)) = shutdown.run_until_cancelled(changes.next()).await {
                match change {
                    Ok(watcher::Event::Apply(object) | watcher::Event::Delete(object)) => {
                        let namespace = object.namespace().unwrap_or_default();
                        quotas
                            .list_namespace(&namespace)
                            .iter()
                            .for_each(|quota| queue.add(ObjectKey::of(quota.as_ref())));
                    }
                    // Whatever happened while nobody looked.
                    Ok(watcher::Event::InitDone) => {
                        quotas.list().iter().for_each(|quota| queue.add(ObjectKey::of(quota.as_ref())));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(%error, "watch failed; trying again");
                        coracle_clock::sleep(Duration::from_secs(5)).await;
                    }
                }
            }
        });
    }
}

/// Whether both say the same amounts.
fn same(old: Option<&ResourceQuotaStatus>, new: &ResourceQuotaStatus) -> bool {
    let amounts = |status: &ResourceQuotaStatus| {
        let of = |map: &Option<std::collections::BTreeMap<String, _>>| {
            map.iter().flatten().map(|(name, amount)| (name.clone(), Quantity::of(amount))).collect::<Vec<_>>()
        };
        (of(&status.hard), of(&status.used))
    };
    old.map(amounts) == Some(amounts(new))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::fixed_point::rest;

    #[test]
    fn names_count_resources() {
        for (name, group, plural) in [
            ("pods", "", "pods"),
            ("requests.nvidia.com/gpu", "", "pods"),
            ("limits.memory", "", "pods"),
            ("requests.storage", "", "persistentvolumeclaims"),
            ("fast.storageclass.storage.k8s.io/persistentvolumeclaims", "", "persistentvolumeclaims"),
            ("services.nodeports", "", "services"),
            ("count/jobs.batch", "batch", "jobs"),
            ("count/secrets", "", "secrets"),
        ] {
            assert_eq!(counted(name), (group.into(), plural.into()), "{name}");
        }
    }

    #[test]
    fn what_is_used_is_told_for_what_is_limited() {
        let quota = json!({ "metadata": { "name": "q" }, "spec": { "hard": { "pods": "5", "requests.cpu": "2", "count/jobs.batch": "1" } } });
        let pod = |cpu: &str, phase: &str| json!({ "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": cpu } } }] }, "status": { "phase": phase } });
        let pods = vec![pod("500m", "Running"), pod("1", "Pending"), pod("7", "Succeeded")];
        let objects = [((String::new(), "pods".to_owned()), pods)];
        let status = status(&serde_json::from_value(quota).unwrap(), &objects);
        let used = serde_json::to_value(status.used).unwrap();
        assert_eq!(used, json!({ "pods": "2", "requests.cpu": "1500m", "count/jobs.batch": "0" }));
    }

    proptest! {
        #[test]
        fn from_any_status_a_quota_comes_to_say_what_is_used(
            hard in proptest::collection::btree_map("pods|requests\\.(cpu|memory)|count/secrets|configmaps", "[1-9](k|Mi)?", 0..4),
            said in proptest::option::of(proptest::collection::btree_map("pods|requests\\.cpu|services", "[0-9]{1,3}m?", 0..3)),
            pods in proptest::collection::vec((1..9u32, "Pending|Running|Succeeded|Failed"), 0..5),
        ) {
            let quota = json!({ "spec": { "hard": hard }, "status": said.map(|used| json!({ "hard": used, "used": used })) });
            let pod = |(cpu, phase): &(u32, String)| json!({
                "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": format!("{cpu}00m") } } }] },
                "status": { "phase": phase },
            });
            let objects = [((String::new(), "pods".to_owned()), pods.iter().map(pod).collect::<Vec<_>>())];
            let quota: ResourceQuota = serde_json::from_value(quota).unwrap();
            let quota = rest(quota, |quota| match changed(quota, &objects) {
                Some(status) => ResourceQuota { status: Some(status), ..quota.clone() },
                None => quota.clone(),
            });
            let status = serde_json::to_value(quota.status).unwrap();
            let running = pods.iter().filter(|(_, phase)| phase == "Pending" || phase == "Running");
            let of = |name: &str| status["used"][name].as_str().map(|used| used.parse::<Quantity>().unwrap().to_millis());
            let cpu: i64 = running.clone().map(|(cpu, _)| i64::from(*cpu) * 100).sum();
            for (name, used) in [("pods", running.count() as i64 * 1000), ("requests.cpu", cpu), ("count/secrets", 0)] {
                prop_assert_eq!(of(name), hard.contains_key(name).then_some(used), "{}", name);
            }
        }
    }
}
