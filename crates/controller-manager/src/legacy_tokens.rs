//! Legacy ServiceAccount token cleaner: tokens that old versions made of themselves, one for each ServiceAccount, go
//! when nobody has used them for a year.
//!
//! Such a token's Secret is named in its ServiceAccount's `secrets`. It is marked invalid first, so that it can be
//! brought back, and deleted after another year. The API server notes when a token is used, and since when it does.
//! Looks at all Secrets of that type once a day.

use std::collections::BTreeSet;
use std::time::Duration;

use coracle_client::{Informer, ObjectKey, Requeue, WorkQueue};
use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::{IgnoreNotFound, Result};
use crate::service_account_token::{ACCOUNT, ACCOUNT_UID, TYPE};

const NAME: &str = "legacy-serviceaccount-token-cleaner-controller";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// In this ConfigMap of `kube-system` the API server says since when it notes uses.
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
const PERIOD: Duration = Duration::from_secs(86_400);
const CLEAN_UP_DAYS: i64 = 365;

#[derive(Debug, PartialEq)]
enum Action {
    Leave,
    Invalidate,
    Delete,
}

/// What becomes of a token: `account` is the ServiceAccount that it names, `mounted` tells whether a pod has it.
fn act(secret: &Secret, account: Option<&ServiceAccount>, mounted: impl FnOnce() -> bool, now: Timestamp) -> Action {
    let keep_from = now - (CLEAN_UP_DAYS * 24).hours();
    let keep_from_day = day(keep_from);
    if secret.metadata.deletion_timestamp.is_some()
        || secret.creation_timestamp().is_none_or(|created| created.0 >= keep_from)
    {
        return Action::Leave;
    }
    let label = |key: &str| secret.labels().get(key).map(|text| text.parse::<Date>());
    match label(LAST_USED) {
        Some(Ok(used)) if used < keep_from_day => {}
        // Not since uses are noted.
        None => {}
        Some(_) => return Action::Leave,
    }
    let uid = secret.annotations().get(ACCOUNT_UID).filter(|uid| !uid.is_empty());
    let account = account.filter(|account| uid.is_none() || account.metadata.uid.as_ref() == uid);
    let named = account.is_some_and(|account| {
        account.secrets.iter().flatten().any(|reference| reference.name.as_ref() == secret.metadata.name.as_ref())
    });
    if !named || mounted() {
        return Action::Leave;
    }
    match label(INVALID_SINCE) {
        Some(Ok(since)) if since >= keep_from_day => Action::Leave,
        Some(Ok(_)) => Action::Delete,
        Some(Err(_)) | None => Action::Invalidate,
    }
}

fn day(at: Timestamp) -> Date {
    at.to_zoned(jiff::tz::TimeZone::UTC).date()
}

/// The Secrets that pods refer to, in volumes, environments and for pulling images: wherever a pod's spec says so.
fn secrets_of(pod: &Pod) -> BTreeSet<String> {
    fn collect(value: &Value, found: &mut BTreeSet<String>) {
        for (key, value) in value.as_object().into_iter().flatten() {
            let name = match key.as_str() {
                "secretName" => value.as_str(),
                "secretRef" | "secretKeyRef" | "secret" => value["name"].as_str(),
                _ => None,
            };
            found.extend(name.map(str::to_owned));
            collect(value, found);
        }
        value.as_array().into_iter().flatten().for_each(|value| collect(value, found));
    }
    let mut found = BTreeSet::new();
    let spec = serde_json::to_value(&pod.spec).unwrap_or_default();
    collect(&spec, &mut found);
    let pulls = spec["imagePullSecrets"].as_array().into_iter().flatten().filter_map(|pull| pull["name"].as_str());
    found.extend(pulls.map(str::to_owned));
    found
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let secrets = context.informer_of_type(TYPE);
    let accounts: Informer<ServiceAccount> = context.informer();
    let pods: Informer<Pod> = context.informer();
    secrets.wait_for_sync().await;
    accounts.wait_for_sync().await;
    pods.wait_for_sync().await;
    queue.add(ObjectKey::default());
    let clean = async |_| -> Result<Requeue> {
        let now = coracle_clock::now();
        if !tracked_long_enough(&context, now).await? {
            return Ok(Requeue::After(PERIOD));
        }
        for secret in secrets.list() {
            let namespace = secret.namespace().unwrap_or_default();
            let account = secret.annotations().get(ACCOUNT).map(|name| ObjectKey::new(&namespace, name));
            let account = account.and_then(|key| accounts.get(&key));
            let name = secret.name_any();
            let mounted = || pods.list_namespace(&namespace).iter().any(|pod| secrets_of(pod).contains(&name));
            let api: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
            match act(&secret, account.as_deref(), mounted, now) {
                Action::Leave => {}
                Action::Invalidate => {
                    let labels = json!({ INVALID_SINCE: day(now).to_string() });
                    let patch = Patch::Merge(json!({ "metadata": { "uid": secret.uid(), "labels": labels } }));
                    api.patch(&name, &PatchParams::default(), &patch).await.ignore_not_found()?;
                }
                Action::Delete => {
                    let as_seen = Preconditions { uid: None, resource_version: secret.resource_version() };
                    api.delete(&name, &DeleteParams::default().preconditions(as_seen)).await.ignore_not_found()?;
                }
            }
        }
        Ok(Requeue::After(PERIOD))
    };
    context.work(NAME, &queue, clean).await;
}

/// Whether uses have been noted for so long that what was not seen was not used.
async fn tracked_long_enough(context: &Context, now: Timestamp) -> Result<bool> {
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), "kube-system");
    let since = maps.get_opt(TRACKING).await?.and_then(|map| map.data?.get("since")?.parse::<Date>().ok());
    // From the end of that day.
    Ok(since.is_some_and(|since| since.saturating_add((CLEAN_UP_DAYS + 1).days()) <= day(now)))
}

#[cfg(test)]
mod tests {
    use serde_json::from_value;

    use super::*;

    #[test]
    fn a_token_made_for_an_account_goes_when_it_was_not_used_for_long_enough() {
        let account: ServiceAccount =
            from_value(json!({ "metadata": { "name": "robot", "uid": "u" }, "secrets": [{ "name": "robot-token" }] }))
                .unwrap();
        let (old, long_ago, lately) = ("2024-01-01T00:00:00Z", "2024-06-01", "2026-05-01");
        for (created, used, invalid, mounted, expected) in [
            (old, None, None, false, Action::Invalidate),
            (old, Some(long_ago), None, false, Action::Invalidate),
            (old, Some(lately), None, false, Action::Leave),
            (old, Some("?"), None, false, Action::Leave),
            ("2026-05-01T00:00:00Z", None, None, false, Action::Leave),
            (old, None, None, true, Action::Leave),
            (old, None, Some(lately), false, Action::Leave),
            (old, None, Some(long_ago), false, Action::Delete),
            (old, None, Some("?"), false, Action::Invalidate),
        ] {
            let mut labels = json!({});
            for (key, value) in [(LAST_USED, used), (INVALID_SINCE, invalid)] {
                value.into_iter().for_each(|value| labels[key] = json!(value));
            }
            let meta = json!({ "name": "robot-token", "creationTimestamp": created, "labels": labels });
            let secret: Secret = from_value(json!({ "metadata": meta })).unwrap();
            let now = "2026-06-01T00:00:00Z".parse().unwrap();
            assert_eq!(act(&secret, Some(&account), || mounted, now), expected, "{secret:?}");
            let others = ServiceAccount { secrets: None, ..account.clone() };
            assert_eq!(act(&secret, Some(&others), || mounted, now), Action::Leave, "one made by hand");
        }
    }

    #[test]
    fn a_pod_uses_secrets_in_volumes_and_environments_and_for_images() {
        let pod = from_value(json!({ "spec": {
            "imagePullSecrets": [{ "name": "a" }],
            "containers": [{ "name": "c", "envFrom": [{ "secretRef": { "name": "b" } }],
                             "env": [{ "name": "e", "valueFrom": { "secretKeyRef": { "name": "c", "key": "k" } } }] }],
            "volumes": [{ "name": "v", "secret": { "secretName": "d" } },
                        { "name": "w", "projected": { "sources": [{ "secret": { "name": "e" } }] } }],
        } }));
        let found = secrets_of(&pod.unwrap());
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), ["a", "b", "c", "d", "e"]);
    }
}
