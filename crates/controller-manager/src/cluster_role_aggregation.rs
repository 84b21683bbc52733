//! ClusterRole aggregation: a ClusterRole with an `aggregationRule` has the rules of all those its selectors find.
//!
//! Watches ClusterRoles; a key is a ClusterRole. Any change of one may concern any that aggregates.

use coracle_api::selector::Selector;
use coracle_client::{Informer, ObjectKey, Requeue, WorkQueue};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::{IgnoreNotFound, Result};

const NAME: &str = "clusterrole-aggregation-controller";

/// The rules of the roles that `role` aggregates, by their names, each rule once; none if it aggregates nothing.
fn aggregated(role: &ClusterRole, all: &[impl AsRef<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        let Ok(selector) =
            serde_json::to_value(selector).map_err(|_| ()).and_then(|json| Selector::from_json(&json).map_err(|_| ()))
        else {
            continue;
        };
        for part in all.iter().map(AsRef::as_ref) {
            let labels: Value = json!(part.metadata.labels.clone().unwrap_or_default());
            if part.metadata.name == role.metadata.name || !selector.matches(&labels) {
                continue;
            }
            for rule in part.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Some(rules)
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue = WorkQueue::new();
    let roles: Informer<ClusterRole> = context.informer();
    let (all, to) = (roles.clone(), queue.clone());
    roles.on_change(move |change| {
        let aggregates = all.list().into_iter().chain(change.new.cloned());
        for role in aggregates.filter(|role| role.aggregation_rule.is_some()) {
            to.add(ObjectKey::of(role.as_ref()));
        }
    });
    roles.wait_for_sync().await;
    context.work(NAME, &queue, |key| sync(context.client.clone(), &roles, key)).await;
}

async fn sync(client: Client, roles: &Informer<ClusterRole>, key: ObjectKey) -> Result<Requeue> {
    let Some(role) = roles.get(&key) else { return Ok(Requeue::Never) };
    let Some(rules) = aggregated(&role, &roles.list()) else { return Ok(Requeue::Never) };
    if role.rules.as_deref().unwrap_or_default() != rules {
        let changed = ClusterRole { rules: Some(rules), ..role.as_ref().clone() };
        let api: Api<ClusterRole> = Api::all(client);
        api.replace(&key.name, &PostParams::default(), &changed).await.ignore_not_found()?;
    }
    Ok(Requeue::Never)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn role(name: &str, label: &str, verb: &str, aggregates: Option<&str>) -> Arc<ClusterRole> {
        let mut role = json!({
            "metadata": { "name": name, "labels": { label: "true" } },
            "rules": [{ "verbs": [verb], "apiGroups": [""], "resources": ["pods"] }],
        });
        if let Some(label) = aggregates {
            role["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": { label: "true" } }] });
        }
        Arc::new(serde_json::from_value(role).unwrap())
    }

    #[test]
    fn an_aggregating_role_has_the_rules_of_its_parts_once() {
        let all = [
            role("all", "x", "old", Some("part")),
            role("a", "part", "get", None),
            role("b", "part", "list", None),
            role("c", "part", "get", None),
            role("d", "other", "delete", None),
        ];
        let verbs = |rules: Vec<PolicyRule>| rules.into_iter().flat_map(|rule| rule.verbs).collect::<Vec<_>>();
        assert_eq!(verbs(aggregated(&all[0], &all).unwrap()), ["get", "list"]);
        assert!(aggregated(&all[1], &all).is_none());
    }
}
