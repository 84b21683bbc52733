//! Updates of Pods: little of a spec may change, and each subresource changes its own part.

use serde_json::{Value, json};

use super::{join, list, quantity, report, text};
use crate::field::FieldErrors;
use crate::names::{check_dns_subdomain, check_ip};

/// What an update of a pod may change, as upstream lists it.
const UPDATABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
                         `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
                         additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set \
                         to 1 if it was previously negative)";

/// An update of a Pod or of one of its subresources.
pub fn pod_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    mirror_annotation(new, old, errors);
    match subresource {
        "" => spec_update(&new["spec"], &old["spec"], errors),
        "status" => status_update(new, old, errors),
        "ephemeralcontainers" => ephemeral_update(new, old, errors),
        "resize" => resize(new, old, errors),
        _ => {}
    }
}

const MIRROR: &str = "kubernetes.io/config.mirror";

fn mirror_annotation(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let of = |pod: &Value| pod["metadata"]["annotations"][MIRROR].clone();
    let verb = match (of(new), of(old)) {
        (new, old) if new == old => return,
        (_, Value::Null) => "add",
        _ => "remove or update",
    };
    errors.forbidden(&format!("metadata.annotations[{MIRROR}]"), format!("may not {verb} mirror pod annotation"));
}

fn spec_update(spec: &Value, was: &Value, errors: &mut FieldErrors) {
    for key in ["containers", "initContainers"] {
        if list(spec, key).len() != list(was, key).len() {
            return errors.forbidden(&format!("spec.{key}"), "pod updates may not add or remove containers");
        }
    }
    deadline(spec, was, errors);
    let bare = |toleration: &Value| {
        let mut fields = toleration.as_object().cloned().unwrap_or_default();
        fields.remove("tolerationSeconds");
        fields
    };
    let kept = |old: &Value| list(spec, "tolerations").iter().any(|new| bare(new) == bare(old));
    if !list(was, "tolerations").iter().all(kept) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden("spec.tolerations", why);
    }
    for (i, gate) in list(spec, "schedulingGates").iter().enumerate() {
        if !list(was, "schedulingGates").contains(gate) {
            let name = text(gate, "name");
            let why = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.forbidden(&format!("spec.schedulingGates[{i}].name"), why);
        }
    }
    let mut munged = spec.clone();
    for key in ["containers", "initContainers"] {
        let images: Vec<Value> = list(was, key).iter().map(|c| c["image"].clone()).collect();
        for (container, image) in munged.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().zip(images) {
            container["image"] = image;
        }
    }
    let mut free = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    if was["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0)
        && spec["terminationGracePeriodSeconds"] == 1
    {
        free.push("terminationGracePeriodSeconds");
    }
    // A gated pod may still be narrowed down.
    if !list(was, "schedulingGates").is_empty() {
        narrowed(spec, was, errors);
        free.push("nodeSelector");
        munged["affinity"]["nodeAffinity"] = was["affinity"]["nodeAffinity"].clone();
    }
    if without(&munged, &free) != without(was, &free) {
        errors.forbidden("spec", UPDATABLE);
    }
}

/// An object without some fields, and without what is empty anywhere.
fn without(object: &Value, fields: &[&str]) -> Value {
    let map = object.as_object().into_iter().flatten().filter(|(key, _)| !fields.contains(&key.as_str()));
    Value::Object(
        map.map(|(key, value)| (key.clone(), dense(value))).filter(|(_, v)| !crate::rules::is_empty(v)).collect(),
    )
}

fn dense(value: &Value) -> Value {
    match value {
        Value::Object(_) => without(value, &[]),
        Value::Array(items) => items.iter().map(dense).collect(),
        other => other.clone(),
    }
}

fn narrowed(spec: &Value, was: &Value, errors: &mut FieldErrors) {
    let selector = &spec["nodeSelector"];
    if was["nodeSelector"].as_object().into_iter().flatten().any(|(key, value)| selector[key.as_str()] != *value) {
        let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.invalid("spec.nodeSelector", selector.clone(), why);
    }
    const PATH: &str = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    fn terms(spec: &Value) -> &[Value] {
        list(&spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"], "nodeSelectorTerms")
    }
    let (new, old) = (terms(spec), terms(was));
    if !old.is_empty() && old.len() != new.len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return errors.invalid(PATH, json!(new), why);
    }
    for (i, (new, old)) in new.iter().zip(old).enumerate() {
        let keys = ["matchExpressions", "matchFields"];
        let extends = keys.iter().all(|key| list(new, key).starts_with(list(old, key)));
        let was_none = keys.iter().all(|key| list(old, key).is_empty());
        if !extends || was_none && keys.iter().any(|key| !list(new, key).is_empty()) {
            let why = "only additions are allowed (no mutations or deletions)";
            errors.invalid(&format!("{PATH}[{i}]"), new.clone(), why);
        }
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

fn status_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (status, was) = (&new["status"], &old["status"]);
    if !text(was, "qosClass").is_empty() && status["qosClass"] != was["qosClass"] {
        errors.invalid("status.qosClass", status["qosClass"].clone(), super::IMMUTABLE);
    }
    let nominated = text(status, "nominatedNodeName");
    if nominated != text(was, "nominatedNodeName") && !nominated.is_empty() {
        report(check_dns_subdomain(nominated), "status.nominatedNodeName", nominated, errors);
    }
    for key in ["podIPs", "hostIPs"] {
        let ips: Vec<&str> = list(status, key).iter().map(|address| text(address, "ip")).collect();
        for (i, ip) in ips.iter().enumerate() {
            report(check_ip(ip), &format!("status.{key}[{i}]"), ip, errors);
        }
        if ips.len() > 2 || ips.len() == 2 && ips[0].contains(':') == ips[1].contains(':') {
            let why = "may specify no more than one IP for each IP family";
            errors.invalid(&join("status", key), status[key].clone(), why);
        }
    }
    let claims = list(status, "resourceClaimStatuses");
    for (i, claim) in claims.iter().enumerate() {
        let (name, path) = (text(claim, "name"), format!("status.resourceClaimStatuses[{i}].name"));
        if !list(&new["spec"], "resourceClaims").iter().any(|claim| text(claim, "name") == name) {
            errors.invalid(&path, name, "must match the name of an entry in `spec.resourceClaims`");
        }
        if claims[..i].iter().any(|other| text(other, "name") == name) {
            errors.duplicate(&path, name);
        }
    }
    let policy = text(&old["spec"], "restartPolicy");
    let sidecar = |name: &Value| {
        list(&old["spec"], "initContainers").iter().any(|c| c["name"] == *name && text(c, "restartPolicy") == "Always")
    };
    // Containers with a policy of their own restart by that.
    let own_policy = |name: &Value| {
        let all = || ["containers", "initContainers"].into_iter().flat_map(|key| list(&old["spec"], key));
        all().any(|c| c["name"] == *name && !text(c, "restartPolicy").is_empty())
    };
    for (key, policy) in
        [("containerStatuses", policy), ("initContainerStatuses", policy), ("ephemeralContainerStatuses", "Never")]
    {
        if policy == "Always" {
            continue;
        }
        for (i, ended) in list(was, key).iter().enumerate() {
            let state = &ended["state"]["terminated"];
            let may_restart = policy == "OnFailure" && state["exitCode"] != 0
                || sidecar(&ended["name"])
                || own_policy(&ended["name"]);
            let back = |c: &Value| c["name"] == ended["name"] && c["state"]["terminated"].is_null();
            if state.is_object() && !may_restart && list(status, key).iter().any(back) {
                let why = "may not be transitioned to non-terminated state";
                errors.forbidden(&format!("status.{key}[{i}].state"), why);
            }
        }
    }
}

fn ephemeral_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if old["metadata"]["annotations"][MIRROR].is_string() {
        errors.0.clear();
        return errors.forbidden("", "static pods do not support ephemeral containers");
    }
    const PATH: &str = "spec.ephemeralContainers";
    for was in list(&old["spec"], "ephemeralContainers") {
        let name = text(was, "name");
        match list(&new["spec"], "ephemeralContainers").iter().find(|c| text(c, "name") == name) {
            None => errors.forbidden(PATH, format!("existing ephemeral containers {name:?} may not be removed\n")),
            Some(now) if now != was => {
                errors.forbidden(PATH, format!("existing ephemeral containers {name:?} may not be changed\n"));
            }
            Some(_) => {}
        }
    }
}

fn resize(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (spec, was) = (&new["spec"], &old["spec"]);
    for (refused, why) in [
        (old["metadata"]["annotations"][MIRROR].is_string(), "static pods cannot be resized"),
        (text(&was["os"], "name") == "windows", "windows pods cannot be resized"),
    ] {
        if refused {
            errors.0.clear();
            return errors.forbidden("", why);
        }
    }
    let class = crate::kinds::qos_class(spec);
    if class != text(&old["status"], "qosClass") {
        errors.invalid(
            "spec",
            text(&new["status"], "qosClass"),
            "Pod QOS Class may not change as a result of resizing",
        );
    }
    let running = list(&old["status"], "containerStatuses").iter().find(|c| c["state"]["running"].is_object());
    if running.is_some_and(|status| status["resources"].is_null()) {
        errors.forbidden("spec", "Pod running on node without support for resize");
    }
    for key in ["containers", "initContainers"] {
        for (i, (now, before)) in list(spec, key).iter().zip(list(was, key)).enumerate() {
            if key == "initContainers" && text(before, "restartPolicy") != "Always" {
                if now != before {
                    errors.forbidden("spec", "resources for non-sidecar init containers are immutable");
                }
                continue;
            }
            container_resize(now, before, &format!("spec.{key}[{i}].resources"), errors);
            if fixed_part(now) != fixed_part(before) {
                let of = if key == "containers" { "" } else { " for sidecar containers" };
                errors.forbidden("spec", format!("only cpu and memory resources{of} are mutable"));
            }
        }
    }
}

/// A container without the amounts that a resize may change.
fn fixed_part(container: &Value) -> Value {
    let mut fixed = container.clone();
    for of in ["requests", "limits"] {
        for name in ["cpu", "memory"] {
            fixed["resources"].get_mut(of).and_then(Value::as_object_mut).map(|map| map.remove(name));
        }
    }
    dense(&without(&fixed, &["resizePolicy"]))
}

fn container_resize(now: &Value, before: &Value, path: &str, errors: &mut FieldErrors) {
    for (of, why) in
        [("requests", "resource requests cannot be removed"), ("limits", "resource limits cannot be removed")]
    {
        let (now, before) = (&now["resources"][of], &before["resources"][of]);
        if before.as_object().into_iter().flatten().any(|(name, _)| now[name.as_str()].is_null()) {
            errors.forbidden(&join(path, of), why);
        }
        for (name, amount) in now.as_object().into_iter().flatten() {
            if quantity(amount).is_negative() {
                errors.invalid(&format!("{path}.{of}[{name}]"), amount.clone(), "must be greater than or equal to 0");
            }
        }
    }
}
