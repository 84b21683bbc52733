//! Pods and pod templates.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::container::{Containers, containers};
use super::volume::volumes;
use super::{each, join, label_selector, list, not_negative, one_of, report, text};
use crate::field::FieldErrors;
use crate::names::{Problems, check_dns_label, check_dns_subdomain, check_ip, check_label_value, check_qualified_name};

/// A Pod.
pub fn pod(object: &Value, errors: &mut FieldErrors) {
    pod_spec(&object["spec"], "spec", errors);
}

/// A PodTemplateSpec at `path`.
pub fn pod_template(template: &Value, path: &str, errors: &mut FieldErrors) {
    let meta = join(path, "metadata");
    crate::meta::validate_labels(&template["metadata"]["labels"], &join(path, "metadata.labels"), errors);
    crate::meta::validate_annotations(&template["metadata"]["annotations"], &join(&meta, "annotations"), errors);
    let spec = join(path, "spec");
    pod_spec(&template["spec"], &spec, errors);
    if !list(&template["spec"], "ephemeralContainers").is_empty() {
        errors.forbidden(&join(&spec, "ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

fn pod_spec(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let volume_names = volumes(spec, path, errors);
    let claims: BTreeSet<&str> = list(spec, "resourceClaims").iter().map(|claim| text(claim, "name")).collect();
    containers(spec, path, &Containers { volumes: &volume_names, claims: &claims }, errors);
    one_of(spec, path, "restartPolicy", &["Always", "OnFailure", "Never"], errors);
    one_of(spec, path, "dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], errors);
    not_negative(spec, path, "terminationGracePeriodSeconds", errors);
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64().filter(|s| *s < 1) {
        errors.invalid(&join(path, "activeDeadlineSeconds"), seconds, "must be between 1 and 2147483647, inclusive");
    }
    for (key, check) in [
        ("serviceAccountName", check_dns_subdomain as fn(&str) -> Problems),
        ("nodeName", check_dns_subdomain),
        ("hostname", check_dns_label),
        ("subdomain", check_dns_label),
        ("priorityClassName", check_dns_subdomain),
        ("runtimeClassName", check_dns_subdomain),
        ("schedulerName", check_qualified_name),
    ] {
        let value = text(spec, key);
        if !value.is_empty() {
            report(check(value), &join(path, key), value, errors);
        }
    }
    crate::meta::validate_labels(&spec["nodeSelector"], &join(path, "nodeSelector"), errors);
    security_context(spec, path, errors);
    tolerations(spec, path, errors);
    dns(spec, path, errors);
    for (path, alias) in each(spec, path, "hostAliases") {
        report(check_ip(text(alias, "ip")), &join(&path, "ip"), text(alias, "ip"), errors);
        for (i, name) in list(alias, "hostnames").iter().filter_map(Value::as_str).enumerate() {
            report(check_dns_subdomain(name), &format!("{path}.hostnames[{i}]"), name, errors);
        }
    }
    for (path, secret) in each(spec, path, "imagePullSecrets") {
        if text(secret, "name").is_empty() {
            errors.required(&join(&path, "name"), "");
        }
    }
    affinity(&spec["affinity"], &join(path, "affinity"), errors);
    spread(spec, path, errors);
}

fn security_context(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let context = &spec["securityContext"];
    let path = join(path, "securityContext");
    if spec["hostPID"] == true && spec["shareProcessNamespace"] == true {
        errors.invalid(
            &join(&path, "shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    for key in ["runAsUser", "runAsGroup", "fsGroup"] {
        let bad = context[key].as_i64().filter(|id| !(0..=i64::from(i32::MAX)).contains(id));
        if let Some(id) = bad {
            errors.invalid(&join(&path, key), id, "must be between 0 and 2147483647, inclusive");
        }
    }
    one_of(context, &path, "fsGroupChangePolicy", &["Always", "OnRootMismatch"], errors);
}

fn tolerations(spec: &Value, path: &str, errors: &mut FieldErrors) {
    for (path, toleration) in each(spec, path, "tolerations") {
        let (key, operator, effect) =
            (text(toleration, "key"), text(toleration, "operator"), text(toleration, "effect"));
        if key.is_empty() {
            if operator != "Exists" {
                let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
                errors.invalid(&join(&path, "operator"), operator, why);
            }
        } else {
            report(check_qualified_name(key), &join(&path, "key"), key, errors);
        }
        match operator {
            "" | "Equal" => report(
                check_label_value(text(toleration, "value")),
                &join(&path, "operator"),
                text(toleration, "value"),
                errors,
            ),
            "Exists" if !text(toleration, "value").is_empty() => {
                errors.invalid(
                    &join(&path, "operator"),
                    toleration.clone(),
                    "value must be empty when `operator` is 'Exists'",
                );
            }
            "Exists" => {}
            other => errors.not_supported(&join(&path, "operator"), other, &["Equal", "Exists"]),
        }
        if toleration["tolerationSeconds"].is_i64() && effect != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(&join(&path, "effect"), effect, why);
        }
        one_of(toleration, &path, "effect", &["NoSchedule", "PreferNoSchedule", "NoExecute"], errors);
    }
}

fn dns(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let config = &spec["dnsConfig"];
    let config_path = join(path, "dnsConfig");
    if text(spec, "dnsPolicy") == "None" {
        if config.is_null() {
            errors.required(&config_path, "must provide `dnsConfig` when `dnsPolicy` is None");
        } else if list(config, "nameservers").is_empty() {
            let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.required(&join(&config_path, "nameservers"), why);
        }
    }
    if list(config, "nameservers").len() > 3 {
        errors.invalid(
            &join(&config_path, "nameservers"),
            config["nameservers"].clone(),
            "must not have more than 3 nameservers",
        );
    }
    for (i, server) in list(config, "nameservers").iter().filter_map(Value::as_str).enumerate() {
        report(check_ip(server), &format!("{config_path}.nameservers[{i}]"), server, errors);
    }
}

/// The operators of a node selector.
const NODE_OPERATORS: [&str; 6] = ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"];

fn affinity(affinity: &Value, path: &str, errors: &mut FieldErrors) {
    let node = &affinity["nodeAffinity"];
    let node_path = join(path, "nodeAffinity");
    let required = &node["requiredDuringSchedulingIgnoredDuringExecution"];
    if required.is_object() {
        let path = join(&node_path, "requiredDuringSchedulingIgnoredDuringExecution");
        if list(required, "nodeSelectorTerms").is_empty() {
            errors.required(&join(&path, "nodeSelectorTerms"), "must have at least one node selector term");
        }
        for (path, term) in each(required, &path, "nodeSelectorTerms") {
            node_term(term, &path, errors);
        }
    }
    for (path, term) in each(node, &node_path, "preferredDuringSchedulingIgnoredDuringExecution") {
        weight(term, &path, errors);
        node_term(&term["preference"], &join(&path, "preference"), errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let (of, path) = (&affinity[kind], join(path, kind));
        for (path, term) in each(of, &path, "requiredDuringSchedulingIgnoredDuringExecution") {
            pod_term(term, &path, errors);
        }
        for (path, term) in each(of, &path, "preferredDuringSchedulingIgnoredDuringExecution") {
            weight(term, &path, errors);
            pod_term(&term["podAffinityTerm"], &join(&path, "podAffinityTerm"), errors);
        }
    }
}

fn weight(term: &Value, path: &str, errors: &mut FieldErrors) {
    let weight = term["weight"].as_i64().unwrap_or_default();
    if !(1..=100).contains(&weight) {
        errors.invalid(&join(path, "weight"), weight, "must be in the range 1-100");
    }
}

fn node_term(term: &Value, path: &str, errors: &mut FieldErrors) {
    for (path, expression) in each(term, path, "matchExpressions") {
        let values = list(expression, "values");
        match text(expression, "operator") {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(&join(&path, "values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(&join(&path, "values"), why);
            }
            "Gt" | "Lt" if values.len() != 1 => {
                let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                errors.required(&join(&path, "values"), why);
            }
            operator if NODE_OPERATORS.contains(&operator) => {}
            other => errors.invalid(&join(&path, "operator"), other, "not a valid selector operator"),
        }
        let key = text(expression, "key");
        report(check_qualified_name(key), &join(&path, "key"), key, errors);
    }
}

fn pod_term(term: &Value, path: &str, errors: &mut FieldErrors) {
    label_selector(&term["labelSelector"], &join(path, "labelSelector"), errors);
    match text(term, "topologyKey") {
        "" => errors.required(&join(path, "topologyKey"), "can not be empty"),
        key => report(check_qualified_name(key), &join(path, "topologyKey"), key, errors),
    }
}

fn spread(spec: &Value, path: &str, errors: &mut FieldErrors) {
    for (path, constraint) in each(spec, path, "topologySpreadConstraints") {
        let skew = constraint["maxSkew"].as_i64().unwrap_or_default();
        if skew <= 0 {
            errors.invalid(&join(&path, "maxSkew"), skew, "must be greater than zero");
        }
        if text(constraint, "topologyKey").is_empty() {
            errors.required(&join(&path, "topologyKey"), "can not be empty");
        }
        one_of(constraint, &path, "whenUnsatisfiable", &["DoNotSchedule", "ScheduleAnyway"], errors);
        label_selector(&constraint["labelSelector"], &join(&path, "labelSelector"), errors);
    }
}

/// What an update of a pod may change, as upstream lists it.
const UPDATABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
                         `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
                         additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set \
                         to 1 if it was previously negative)";

/// An update of a Pod: images, the deadline and more tolerations; everything else only by making a new pod.
pub fn pod_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    if !matches!(subresource, "") {
        return;
    }
    let (spec, was) = (&new["spec"], &old["spec"]);
    for key in ["containers", "initContainers"] {
        if list(spec, key).len() != list(was, key).len() {
            errors.forbidden(&format!("spec.{key}"), "pod updates may not add or remove containers");
            return;
        }
        for (path, container) in each(spec, "spec", key) {
            if text(container, "image").is_empty() {
                errors.required(&join(&path, "image"), "");
            }
        }
    }
    let kept = list(was, "tolerations").iter().all(|t| list(spec, "tolerations").contains(t));
    if !kept {
        errors.forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds");
        return;
    }
    deadline(spec, was, errors);
    // A gated pod may still be narrowed down, and its gates removed.
    let gated = !list(was, "schedulingGates").is_empty();
    let mut munged = spec.clone();
    for key in ["containers", "initContainers"] {
        let images: Vec<Value> = list(was, key).iter().map(|c| c["image"].clone()).collect();
        for (container, image) in munged.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().zip(images) {
            container["image"] = image;
        }
    }
    let mut free = vec!["activeDeadlineSeconds", "tolerations"];
    if was["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0)
        && spec["terminationGracePeriodSeconds"] == 1
    {
        free.push("terminationGracePeriodSeconds");
    }
    if gated {
        free.extend(["schedulingGates", "nodeSelector", "affinity"]);
    }
    let of = |spec: &Value| {
        let mut spec = spec.as_object().cloned().unwrap_or_default();
        free.iter().for_each(|key| drop(spec.remove(*key)));
        spec
    };
    if of(&munged) != of(was) {
        errors.forbidden("spec", UPDATABLE);
    }
}

fn deadline(spec: &Value, was: &Value, errors: &mut FieldErrors) {
    const PATH: &str = "spec.activeDeadlineSeconds";
    match (spec["activeDeadlineSeconds"].as_i64(), was["activeDeadlineSeconds"].as_i64()) {
        (Some(new), Some(old)) if new > old => {
            errors.invalid(PATH, new, "must be less than or equal to previous value");
        }
        (None, Some(_)) => errors.invalid(PATH, json!(null), "must not update from a positive integer to nil value"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::errors_of;

    fn good() -> Value {
        let mut object = json!({"spec": {"containers": [{"name": "c", "image": "nginx"}]}});
        crate::defaults::pod(&mut object);
        object
    }

    fn with(path: &str, value: Value) -> Vec<String> {
        let mut object = good();
        *object.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
        errors_of(pod, &object)
    }

    #[test]
    fn a_defaulted_minimal_pod_is_valid() {
        assert_eq!(errors_of(pod, &good()), Vec::<String>::new());
    }

    #[test]
    fn what_people_get_wrong_is_named() {
        assert_eq!(with("/spec/containers", json!([])), ["spec.containers: Required value"]);
        assert_eq!(
            with("/spec/restartPolicy", json!("Sometimes")),
            [r#"spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never""#]
        );
        assert!(
            with("/spec/containers/0/name", json!("Bad_Name"))[0]
                .starts_with(r#"spec.containers[0].name: Invalid value: "Bad_Name": a lowercase RFC 1123 label must"#)
        );
        assert_eq!(with("/spec/containers/0/image", json!("")), ["spec.containers[0].image: Required value"]);
    }

    #[test]
    fn an_update_may_change_images_and_little_else() {
        let update = |new: &Value| {
            let mut errors = FieldErrors::default();
            pod_update(new, &good(), "", &mut errors);
            errors.0.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let mut image = good();
        image["spec"]["containers"][0]["image"] = "nginx:2".into();
        image["spec"]["tolerations"] = json!([{"key": "a", "operator": "Exists"}]);
        assert_eq!(update(&image), Vec::<String>::new());
        let mut command = good();
        command["spec"]["containers"][0]["command"] = json!(["x"]);
        assert!(
            update(&command)[0].starts_with(
                "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`"
            )
        );
        let mut more = good();
        more["spec"]["containers"] = json!([]);
        assert_eq!(update(&more), ["spec.containers: Forbidden: pod updates may not add or remove containers"]);
    }
}
