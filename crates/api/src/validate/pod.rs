//! Pods, pod templates, and what the fields of a pod spec must be to each other.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container::containers;
use super::{each, join, list, report, resources, security, text};
use crate::field::FieldErrors;
use crate::names::check_dns_subdomain;

/// A Pod, besides what it shares with templates.
pub(super) fn pod(pod: &Value, path: &str, errors: &mut FieldErrors) {
    let spec = &pod["spec"];
    let path = join(path, "spec");
    for key in ["containers", "initContainers", "ephemeralContainers"] {
        for (path, container) in each(spec, &path, key) {
            let image = text(container, "image");
            if image.trim() != image {
                errors.invalid(&join(&path, "image"), image, "must not have leading or trailing whitespace");
            }
        }
    }
    if spec["hostNetwork"] == true {
        host_ports(spec, &path, true, errors);
    }
    for (path, volume) in each(spec, &path, "volumes") {
        for (path, source) in each(&volume["projected"], &join(&path, "projected"), "sources") {
            if text(spec, "serviceAccountName").is_empty() && source["serviceAccountToken"].is_object() {
                let why = "must not be specified when serviceAccountName is not set";
                errors.forbidden(&join(&path, "serviceAccountToken"), why);
            }
        }
        if volume["image"].is_object() && text(&volume["image"], "reference").is_empty() {
            errors.required(&join(&path, "image.reference"), "");
        }
        let name = text(&pod["metadata"], "name");
        let claim = format!("{name}-{}", text(volume, "name"));
        let named = text(&volume["persistentVolumeClaim"], "claimName");
        let makes = |v: &Value| v["ephemeral"].is_object() && format!("{name}-{}", text(v, "name")) == named;
        if !name.is_empty() && list(spec, "volumes").iter().any(makes) {
            let why = "must not reference a PVC that gets created for an ephemeral volume";
            errors.invalid(&join(&path, "persistentVolumeClaim.claimName"), named, why);
        }
        if volume["ephemeral"].is_object() && !text(&pod["metadata"], "name").is_empty() {
            for problem in check_dns_subdomain(&claim) {
                errors.invalid(&join(&path, "name"), text(volume, "name"), format!("PVC name {claim:?}: {problem}"));
            }
        }
    }
    annotations(&pod["metadata"]["annotations"], spec, "metadata.annotations", errors);
    if pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string() && text(spec, "nodeName").is_empty() {
        let (key, value) =
            ("kubernetes.io/config.mirror", &pod["metadata"]["annotations"]["kubernetes.io/config.mirror"]);
        let why = "must set spec.nodeName if mirror pod annotation is set";
        errors.invalid(&format!("metadata.annotations[{key}]"), value.clone(), why);
    }
}

/// A Pod that is to be made.
pub fn pod_create(pod: &Value, errors: &mut FieldErrors) {
    let spec = &pod["spec"];
    if !list(spec, "ephemeralContainers").is_empty() {
        errors.forbidden("spec.ephemeralContainers", "cannot be set on create");
    }
    if !text(spec, "nodeName").is_empty() && !list(spec, "schedulingGates").is_empty() {
        errors.forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared");
    }
}

/// A PodTemplateSpec. Upstream names its labels and annotations without their metadata.
pub(super) fn template(template: &Value, path: &str, errors: &mut FieldErrors) {
    let meta = &template["metadata"];
    crate::meta::validate_labels(&meta["labels"], &join(path, "labels"), errors);
    crate::meta::validate_annotations(&meta["annotations"], &join(path, "annotations"), errors);
    annotations(&meta["annotations"], &template["spec"], &join(path, "annotations"), errors);
    if !list(&template["spec"], "ephemeralContainers").is_empty() {
        errors.forbidden(&join(path, "spec.ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
    if template["spec"]["hostNetwork"] == true {
        host_ports(&template["spec"], &join(path, "spec"), false, errors);
    }
}

const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Annotations of pods that mean something.
fn annotations(annotations: &Value, spec: &Value, path: &str, errors: &mut FieldErrors) {
    if let Some(cost) = annotations[DELETION_COST].as_str() {
        let canonical = cost.parse::<i32>().is_ok_and(|number| number.to_string() == cost);
        if !canonical {
            errors.invalid(&format!("{path}[{DELETION_COST}]"), cost, "must be a 32bit integer");
        }
    }
    for (key, profile) in annotations.as_object().into_iter().flatten() {
        let Some(container) = key.strip_prefix(APP_ARMOR) else { continue };
        let lists = ["containers", "initContainers", "ephemeralContainers"].into_iter();
        if !lists.flat_map(|key| list(spec, key)).any(|c| text(c, "name") == container) {
            errors.invalid(&format!("{path}[{key}]"), container, "container not found");
        }
        let profile = profile.as_str().unwrap_or_default();
        if !matches!(profile, "" | "runtime/default" | "unconfined") && !profile.starts_with("localhost/") {
            let why = format!("invalid AppArmor profile name: {profile:?}");
            errors.invalid(&format!("{path}[{key}]"), profile, why);
        }
    }
}

/// On the host's network a container's port is the host's; a template may leave the host's open.
fn host_ports(spec: &Value, path: &str, required: bool, errors: &mut FieldErrors) {
    for (path, container) in each(spec, path, "containers") {
        for (path, port) in each(container, &path, "ports") {
            let (host, own) = (port["hostPort"].as_i64().unwrap_or_default(), &port["containerPort"]);
            if (required || host != 0) && *own != host {
                let why = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid(&join(&path, "hostPort"), host, why);
            }
        }
    }
}

/// A pod spec.
pub(super) fn spec(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let claims: BTreeSet<&str> =
        list(spec, "resourceClaims").iter().map(|claim| text(claim, "name")).filter(|name| !name.is_empty()).collect();
    containers(spec, path, &claims, errors);
    resources::pod_level(spec, path, errors);
    let overhead = join(path, "overhead.limits");
    resources::amounts(&spec["overhead"], &overhead, resources::container_resource_name, errors);
    security::pod(spec, path, errors);
    dns(spec, path, errors);
    let mut gates = BTreeSet::new();
    for (path, gate) in each(spec, path, "schedulingGates") {
        let name = text(gate, "name");
        report(crate::names::check_qualified_name(name), &path, name, errors);
        if !gates.insert(name) {
            errors.duplicate(&path, name);
        }
    }
    let spreads = list(spec, "topologySpreadConstraints");
    for (i, constraint) in spreads.iter().enumerate() {
        let pair = |c: &Value| format!("{{{}, {}}}", text(c, "topologyKey"), text(c, "whenUnsatisfiable"));
        if spreads[i + 1..].iter().any(|other| pair(other) == pair(constraint)) {
            let path = format!("{path}.topologySpreadConstraints[{i}].{{topologyKey, whenUnsatisfiable}}");
            errors.duplicate(&path, pair(constraint));
        }
    }
    if spec["hostnameOverride"].is_string() && spec["hostNetwork"] == true {
        errors.forbidden(&join(path, "hostnameOverride"), "may not be specified when `hostNetwork` is true");
    }
}

/// A claim of a pod on devices: an existing one, or one made for the pod.
pub(super) fn resource_claim(claim: &Value, path: &str, errors: &mut FieldErrors) {
    let sources = ["resourceClaimName", "resourceClaimTemplateName"];
    match sources.iter().filter(|key| claim[**key].is_string()).count() {
        0 => {
            let why = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
            errors.invalid(path, claim.clone(), why);
        }
        1 => {}
        _ => {
            let why = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
            errors.invalid(path, claim.clone(), why);
        }
    }
    for key in sources.iter().filter(|key| claim[**key].is_string()) {
        report(check_dns_subdomain(text(claim, key)), &join(path, key), text(claim, key), errors);
    }
}

/// How many search domains and how long a list of them resolvers take.
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_LENGTH: usize = 2048;

fn dns(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let config = &spec["dnsConfig"];
    let path = join(path, "dnsConfig");
    if text(spec, "dnsPolicy") == "None" {
        if config.is_null() {
            return errors.required(&path, "must provide `dnsConfig` when `dnsPolicy` is None");
        } else if list(config, "nameservers").is_empty() {
            let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return errors.required(&join(&path, "nameservers"), why);
        }
    }
    if list(config, "nameservers").len() > 3 {
        let why = "must not have more than 3 nameservers";
        errors.invalid(&join(&path, "nameservers"), config["nameservers"].clone(), why);
    }
    let searches: Vec<&str> = list(config, "searches").iter().filter_map(Value::as_str).collect();
    let searches_path = join(&path, "searches");
    if searches.len() > MAX_SEARCHES {
        let why = format!("must not have more than {MAX_SEARCHES} search paths");
        errors.invalid(&searches_path, config["searches"].clone(), why);
    }
    if searches.join(" ").len() > MAX_SEARCH_LENGTH {
        let why =
            format!("must not have more than {MAX_SEARCH_LENGTH} characters (including spaces) in the search list");
        errors.invalid(&searches_path, config["searches"].clone(), why);
    }
    for (path, option) in each(config, &path, "options") {
        if text(option, "name").is_empty() {
            errors.required(&path, "must not be empty");
        }
    }
}
