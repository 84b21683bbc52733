//! The FlowSchemas and PriorityLevelConfigurations that every cluster has.
//!
//! Mandatory ones (`exempt`, `catch-all`) are as they are; suggested ones follow this list while their annotation
//! `apf.kubernetes.io/autoupdate-spec` says `true`. After each change the server looks after them, and tells of
//! FlowSchemas whether their level is there (condition `Dangling`).

use coracle_api::{ApiError, ApiResult, FieldErrors, Resource};
use serde_json::{Value, json};

use super::{GROUP, text};
use crate::bootstrap::ensure_flow_control;
use crate::storage::Storage;

const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// Name, shares, lendable percent, and the queues: how many, hand size, length limit. All limited.
type Level = (&'static str, u32, u32, Option<(u32, u32, u32)>);

const LEVELS: [Level; 7] = [
    ("catch-all", 5, 0, None),
    ("global-default", 20, 50, Some((128, 6, 50))),
    ("leader-election", 10, 0, Some((16, 4, 50))),
    ("node-high", 40, 25, Some((64, 6, 50))),
    ("system", 30, 33, Some((64, 6, 50))),
    ("workload-high", 40, 50, Some((128, 6, 50))),
    ("workload-low", 100, 90, Some((128, 6, 50))),
];

/// The schemas: name, level, precedence, distinguisher, subjects (u:user, g:group, s:ServiceAccount of kube-system),
/// and rules: verbs, groups, resources, and whether in the whole cluster too; or verbs and paths.
const SCHEMAS: &str = "\
exempt exempt 1 - g:system:masters *|*|*|cluster *|*
probes exempt 2 - g:system:unauthenticated,g:system:authenticated get|/healthz,/readyz,/livez
system-leader-election leader-election 100 ByUser u:system:kube-controller-manager,u:system:kube-scheduler,s:* get,create,update|coordination.k8s.io|leases|-
endpoint-controller workload-high 150 ByUser u:system:kube-controller-manager,s:endpoint-controller,s:endpointslicemirroring-controller get,create,update|core|endpoints|-
workload-leader-election leader-election 200 ByUser s:* get,create,update|core|endpoints,configmaps|- get,create,update|coordination.k8s.io|leases|-
system-node-high node-high 400 ByUser g:system:nodes *|core|nodes,nodes/status|cluster *|coordination.k8s.io|leases|-
system-nodes system 500 ByUser g:system:nodes *|*|*|cluster *|*
kube-controller-manager workload-high 800 ByNamespace u:system:kube-controller-manager *|*|*|cluster *|*
kube-scheduler workload-high 800 ByNamespace u:system:kube-scheduler *|*|*|cluster *|*
kube-system-service-accounts workload-high 900 ByNamespace s:* *|*|*|cluster *|*
service-accounts workload-low 9000 ByUser g:system:serviceaccounts *|*|*|cluster *|*
global-default global-default 9900 ByUser g:system:unauthenticated,g:system:authenticated *|*|*|cluster *|*
catch-all catch-all 10000 ByUser g:system:unauthenticated,g:system:authenticated *|*|*|cluster *|*";

/// An object of this list: its resource's plural name, itself, and whether it is mandatory.
pub type FlowObject = (&'static str, Value, bool);

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "kind": kind,
        "apiVersion": format!("{GROUP}/v1"),
        "metadata": { "name": name, "generation": 1, "annotations": { AUTO_UPDATE: "true" } },
        "spec": spec,
    })
}

fn limited((name, shares, lendable, queues): &Level) -> Value {
    let response = match queues {
        None => json!({ "type": "Reject" }),
        Some((queues, hand, limit)) => json!({
            "type": "Queue",
            "queuing": { "queues": queues, "handSize": hand, "queueLengthLimit": limit },
        }),
    };
    let limited = json!({ "nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response });
    object("PriorityLevelConfiguration", name, json!({ "type": "Limited", "limited": limited }))
}

fn subject(word: &str) -> Value {
    match word.split_once(':') {
        Some(("u", name)) => json!({ "kind": "User", "user": { "name": name } }),
        Some(("g", name)) => json!({ "kind": "Group", "group": { "name": name } }),
        Some((_, name)) => {
            json!({ "kind": "ServiceAccount", "serviceAccount": { "namespace": "kube-system", "name": name } })
        }
        None => Value::Null,
    }
}

fn words(list: &str) -> Vec<&str> {
    list.split(',').map(|word| if word == "core" { "" } else { word }).collect()
}

fn schema(line: &str) -> Value {
    let mut columns = line.split_whitespace();
    let mut next = || columns.next().unwrap_or_default();
    let (name, level, precedence, by, subjects) = (next(), next(), next(), next(), next());
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in columns {
        match rule.split('|').collect::<Vec<_>>()[..] {
            [verbs, urls] => paths.push(json!({ "verbs": words(verbs), "nonResourceURLs": words(urls) })),
            [verbs, groups, kinds, scope] => {
                let mut rule = json!({ "verbs": words(verbs), "apiGroups": words(groups), "resources": words(kinds),
                                       "namespaces": ["*"] });
                if scope == "cluster" {
                    rule["clusterScope"] = true.into();
                }
                resources.push(rule);
            }
            _ => {}
        }
    }
    let mut rule = json!({ "subjects": subjects.split(',').map(subject).collect::<Vec<_>>() });
    for (field, rules) in [("resourceRules", resources), ("nonResourceRules", paths)] {
        if !rules.is_empty() {
            rule[field] = rules.into();
        }
    }
    let mut spec = json!({
        "priorityLevelConfiguration": { "name": level },
        "matchingPrecedence": precedence.parse::<i64>().unwrap_or(1000),
        "rules": [rule],
    });
    if by != "-" {
        spec["distinguisherMethod"] = json!({ "type": by });
    }
    object("FlowSchema", name, spec)
}

/// All of them.
pub fn objects() -> Vec<FlowObject> {
    let exempt = json!({ "nominalConcurrencyShares": 0, "lendablePercent": 0 });
    let exempt = object("PriorityLevelConfiguration", "exempt", json!({ "type": "Exempt", "exempt": exempt }));
    let mut all = vec![("prioritylevelconfigurations", exempt)];
    all.extend(LEVELS.iter().map(|level| ("prioritylevelconfigurations", limited(level))));
    all.extend(SCHEMAS.lines().map(|line| ("flowschemas", schema(line))));
    let mandatory = |object: &Value| matches!(text(object, "/metadata/name"), "exempt" | "catch-all");
    all.into_iter().map(|(plural, object)| (plural, object.clone(), mandatory(&object))).collect()
}

/// Mandatory objects are as they are, but for the sizes of `exempt`.
pub(crate) fn check(resource: &Resource, object: &Value, errors: &mut FieldErrors) {
    if resource.group != GROUP {
        return;
    }
    let name = text(object, "/metadata/name");
    let wanted = objects().into_iter().find(|(plural, wanted, mandatory)| {
        *mandatory && *plural == resource.plural && text(wanted, "/metadata/name") == name
    });
    let Some((_, mut wanted, _)) = wanted else { return };
    let sized = wanted["spec"]["exempt"].is_object();
    if sized {
        wanted["spec"]["exempt"] = object["spec"]["exempt"].clone();
    }
    if object["spec"] != wanted["spec"] {
        let but = if sized { " except the 'spec.exempt' field" } else { "" };
        errors.invalid("spec", object["spec"].clone(), format!("spec of '{name}'{but} must equal the fixed value"));
    }
}

/// What a stored object is to be replaced by to be as it should; `None` if it is.
pub fn updated(stored: &Value, wanted: &Value, mandatory: bool) -> Option<Value> {
    let follows = match stored["metadata"]["annotations"][AUTO_UPDATE].as_str() {
        Some(word) => word == "true",
        // Objects from before the annotation: ours as long as nobody has changed them.
        None => stored["metadata"]["generation"] == 1,
    };
    let mut spec = wanted["spec"].clone();
    if mandatory && !follows && wanted["kind"] == "PriorityLevelConfiguration" {
        // People may size a mandatory level, nothing else.
        let sort = if spec["type"] == "Exempt" { "exempt" } else { "limited" };
        for field in ["nominalConcurrencyShares", "lendablePercent"] {
            if stored["spec"][sort][field].is_number() {
                spec[sort][field] = stored["spec"][sort][field].clone();
            }
        }
    }
    if stored["spec"] == spec || !(mandatory || follows) {
        return None;
    }
    let mut object = stored.clone();
    object["spec"] = spec;
    object["metadata"]["generation"] = (stored["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
    Some(object)
}

/// The condition that tells whether a FlowSchema's level is there.
pub fn dangling(schema: &Value, exists: bool) -> Value {
    let name = text(schema, "/spec/priorityLevelConfiguration/name");
    let (status, reason, state) = match exists {
        true => ("False", "Found", "it exists"),
        false => ("True", "NotFound", "there is no such object"),
    };
    json!({
        "type": "Dangling",
        "status": status,
        "lastTransitionTime": coracle_clock::now_seconds().to_string(),
        "reason": reason,
        "message": format!("This FlowSchema references the PriorityLevelConfiguration object named {name:?} and {state}"),
    })
}

/// Creates and corrects what is ours, and brings the FlowSchemas' conditions up to date.
pub async fn maintain(storage: &Storage) -> ApiResult<()> {
    ensure_flow_control(storage).await?;
    let levels = storage.list(GROUP, "prioritylevelconfigurations", "").await?;
    let table = storage.table();
    let row = table.find_any(GROUP, "flowschemas").ok_or_else(ApiError::no_such_resource)?;
    for mut schema in storage.list(GROUP, "flowschemas", "").await? {
        let level = schema["spec"]["priorityLevelConfiguration"]["name"].clone();
        let exists = levels.iter().any(|object| object["metadata"]["name"] == level);
        let wanted = dangling(&schema, exists);
        let mut conditions = schema["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let held = conditions.iter().find(|condition| condition["type"] == "Dangling");
        if held.is_some_and(|held| held["status"] == wanted["status"] && held["message"] == wanted["message"]) {
            continue;
        }
        conditions.retain(|condition| condition["type"] != "Dangling");
        conditions.push(wanted);
        schema["status"] = json!({ "conditions": conditions });
        let version = text(&schema, "/metadata/resourceVersion").parse().unwrap_or(0);
        let key = row.key("", text(&schema, "/metadata/name"));
        // Who was faster has changed it, and so has us look again.
        let _ = storage.put(&key, version, &schema, 0).await?;
    }
    Ok(())
}
