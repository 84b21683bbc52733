//! HorizontalPodAutoscalers between autoscaling/v1, which knows one CPU percentage, and v2.
//!
//! What v1 has no field for lies in annotations there, so that clients of v1 who write back what they read lose
//! nothing. Metrics have an older, flatter form in those.

use serde_json::{Map, Value, json};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
/// The CPU percentage of an autoscaler that names no metric.
const DEFAULT_UTILIZATION: i64 = 80;

/// A kind of metric a line: the field that holds it, and its parts: what the flat form calls them, and where v2 has them.
const KINDS: &str = "\
resource name=name targetAverageUtilization=target.averageUtilization targetAverageValue=target.averageValue
containerResource name=name container=container targetAverageUtilization=target.averageUtilization \
                  targetAverageValue=target.averageValue
pods metricName=metric.name selector=metric.selector targetAverageValue=target.averageValue
object target=describedObject metricName=metric.name selector=metric.selector targetValue=target.value \
       averageValue=target.averageValue
external metricName=metric.name metricSelector=metric.selector targetValue=target.value \
         targetAverageValue=target.averageValue";

/// What kind a metric is, by its field and parts.
fn kinds(metric: &Value) -> impl Iterator<Item = (&'static str, impl Iterator<Item = (&'static str, &'static str)>)> {
    let lines = KINDS.lines().filter_map(|line| line.split_once(' '));
    let there = lines.filter(|(kind, _)| metric[*kind].is_object());
    there.map(|(kind, parts)| (kind, parts.split_whitespace().filter_map(|part| part.split_once('='))))
}

/// `target.averageValue` of what is wanted is `current.averageValue` of what is, `targetValue` is `currentValue`.
fn name_of(name: &str, current: bool) -> String {
    match name.strip_prefix("target").filter(|rest| current && !rest.is_empty()) {
        Some(rest) => format!("current{rest}"),
        None => name.to_owned(),
    }
}

fn flat(metric: &Value, current: bool) -> Value {
    let mut flat = json!({ "type": metric["type"] });
    for (kind, parts) in kinds(metric) {
        for (name, path) in parts {
            let value = name_of(path, current).split('.').fold(&metric[kind], |value, key| &value[key]);
            if !value.is_null() {
                flat[kind][name_of(name, current)] = value.clone();
            }
        }
    }
    flat
}

fn deep(metric: &Value, current: bool) -> Value {
    let mut deep = json!({ "type": metric["type"] });
    for (kind, parts) in kinds(metric) {
        for (name, path) in parts {
            let value = &metric[kind][name_of(name, current)];
            if !value.is_null() {
                let place = name_of(path, current);
                *place.split('.').fold(&mut deep[kind], |target, key| &mut target[key]) = value.clone();
            }
        }
        let sorts = [("averageUtilization", "Utilization"), ("averageValue", "AverageValue"), ("value", "Value")];
        if let Some((_, sort)) = sorts.iter().find(|(field, _)| !deep[kind]["target"][*field].is_null()) {
            deep[kind]["target"]["type"] = (*sort).into();
        }
    }
    deep
}

fn is_cpu(metric: &Value, at: &str) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && metric["resource"][at]["averageUtilization"].is_number()
}

fn list(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

/// A part of an object as a map, an empty one if it has none.
fn part<'a>(object: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    if !object[name].is_object() {
        object[name] = json!({});
    }
    object[name].as_object_mut().unwrap_or_else(|| unreachable!("it was made an object"))
}

pub(super) fn to_v1(object: &mut Value) {
    let spec = part(object, "spec");
    let (cpu, others): (Vec<_>, Vec<_>) =
        list(spec.remove("metrics")).into_iter().partition(|metric| is_cpu(metric, "target"));
    let behavior = spec.remove("behavior");
    if let Some(cpu) = cpu.first() {
        let target = cpu["resource"]["target"]["averageUtilization"].clone();
        spec.insert("targetCPUUtilizationPercentage".into(), target);
    }
    let status = part(object, "status");
    let (current, conditions) = (list(status.remove("currentMetrics")), status.remove("conditions"));
    if let Some(cpu) = current.iter().find(|metric| is_cpu(metric, "current")) {
        let current = cpu["resource"]["current"]["averageUtilization"].clone();
        status.insert("currentCPUUtilizationPercentage".into(), current);
    }
    let flattened = |metrics: &[Value], current| metrics.iter().map(|metric| flat(metric, current)).collect();
    for (annotation, value) in [
        (METRICS, flattened(&others, false)),
        (CURRENT_METRICS, flattened(&current, true)),
        (CONDITIONS, conditions.unwrap_or_default()),
        (BEHAVIOR, behavior.unwrap_or_default()),
    ] {
        if !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty()) {
            part(&mut object["metadata"], "annotations").insert(annotation.into(), value.to_string().into());
        }
    }
}

pub(super) fn to_v2(object: &mut Value) {
    let mut annotated = |name: &str| {
        let value = object.pointer_mut("/metadata/annotations")?.as_object_mut()?.remove(name)?;
        serde_json::from_str::<Value>(value.as_str()?).ok()
    };
    let deepened = |value, current| list(value).iter().map(|metric| deep(metric, current)).collect::<Vec<_>>();
    let mut metrics = deepened(annotated(METRICS), false);
    let mut current = deepened(annotated(CURRENT_METRICS), true);
    let (conditions, behavior) = (annotated(CONDITIONS), annotated(BEHAVIOR));
    if object["metadata"]["annotations"].as_object().is_some_and(Map::is_empty) {
        part(object, "metadata").remove("annotations");
    }
    let spec = part(object, "spec");
    let cpu = |at: &str, value: Value| json!({ "type": "Resource", "resource": { "name": "cpu", at: value } });
    let asked = spec.remove("targetCPUUtilizationPercentage");
    if let Some(target) = asked.or_else(|| metrics.is_empty().then(|| DEFAULT_UTILIZATION.into())) {
        metrics.push(cpu("target", json!({ "type": "Utilization", "averageUtilization": target })));
    }
    spec.insert("metrics".into(), metrics.into());
    spec.extend(behavior.map(|behavior| ("behavior".to_owned(), behavior)));
    let status = part(object, "status");
    let percentage = status.remove("currentCPUUtilizationPercentage");
    if let Some(percentage) = percentage.filter(|_| current.is_empty()) {
        current.push(cpu("current", json!({ "averageUtilization": percentage })));
    }
    if !current.is_empty() {
        status.insert("currentMetrics".into(), current.into());
    }
    status.extend(conditions.map(|conditions| ("conditions".to_owned(), conditions)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_v1_loses_nothing_of_v2() {
        let metric = |kind: &str, field: &str, value: Value| json!({ "type": kind, field: value });
        let of = |name: &str| json!({ "name": name, "selector": { "matchLabels": { "a": "b" } } });
        let average = json!({ "type": "AverageValue", "averageValue": "5" });
        let described = json!({ "kind": "Service", "name": "s", "apiVersion": "v1" });
        let original = json!({
            "metadata": { "name": "a" },
            "spec": { "maxReplicas": 3, "behavior": { "scaleDown": { "selectPolicy": "Min" } }, "metrics": [
                metric("Resource", "resource", json!({ "name": "memory", "target": average })),
                metric("ContainerResource", "containerResource", json!({ "name": "cpu", "container": "c",
                    "target": { "type": "Utilization", "averageUtilization": 7 } })),
                metric("Pods", "pods", json!({ "metric": of("p"), "target": average })),
                metric("Object", "object", json!({ "metric": of("o"), "describedObject": described,
                    "target": { "type": "Value", "value": "9" } })),
                metric("External", "external", json!({ "metric": of("e"), "target": average })),
                metric("Resource", "resource", json!({ "name": "cpu",
                    "target": { "type": "Utilization", "averageUtilization": 50 } })),
            ] },
            "status": { "conditions": [{ "type": "AbleToScale", "status": "True" }], "currentMetrics": [
                metric("Pods", "pods", json!({ "metric": of("p"), "current": { "averageValue": "4" } })),
                metric("Resource", "resource", json!({ "name": "cpu",
                    "current": { "averageUtilization": 40, "averageValue": "400m" } })),
            ] },
        });
        let mut object = original.clone();
        to_v1(&mut object);
        assert_eq!(object["spec"], json!({ "maxReplicas": 3, "targetCPUUtilizationPercentage": 50 }));
        assert_eq!(object["status"], json!({ "currentCPUUtilizationPercentage": 40 }));
        let metrics: Value =
            serde_json::from_str(object["metadata"]["annotations"][METRICS].as_str().unwrap()).unwrap();
        assert_eq!(metrics[0], metric("Resource", "resource", json!({ "name": "memory", "targetAverageValue": "5" })));
        assert_eq!(metrics[3]["object"]["target"], described);
        to_v2(&mut object);
        assert_eq!(object, original);
    }

    #[test]
    fn an_autoscaler_that_names_no_metric_wants_its_cpus_busy_at_80_percent() {
        let mut object = json!({ "metadata": { "annotations": { METRICS: "no JSON" } }, "spec": { "maxReplicas": 3 } });
        to_v2(&mut object);
        assert_eq!(object["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], DEFAULT_UTILIZATION);
        assert_eq!(object["metadata"], json!({}));
        to_v2(&mut object);
        assert_eq!(object["metadata"], json!({}));
        to_v1(&mut object);
        assert_eq!(object["spec"]["targetCPUUtilizationPercentage"], DEFAULT_UTILIZATION);
    }
}
