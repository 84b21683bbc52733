//! Warnings: what a client is told of an object that is accepted all the same.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::validate::{each, join, list, text};

/// A Pod.
pub fn pod(object: &Value) -> Vec<String> {
    pod_spec(object, "", false)
}

/// The pods that a workload makes by its template.
pub fn template(object: &Value) -> Vec<String> {
    pod_spec(&object["spec"]["template"], "spec.template", true)
}

/// The pods of a PodTemplate.
pub fn pod_template(object: &Value) -> Vec<String> {
    pod_spec(&object["template"], "template", true)
}

/// The pods of a CronJob's Jobs.
pub fn cron_job(object: &Value) -> Vec<String> {
    pod_spec(&object["spec"]["jobTemplate"]["spec"]["template"], "spec.jobTemplate.spec.template", true)
}

/// Node labels that have a successor.
const LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", r#"deprecated since v1.14; use "kubernetes.io/arch" instead"#),
    ("beta.kubernetes.io/os", r#"deprecated since v1.14; use "kubernetes.io/os" instead"#),
    (
        "failure-domain.beta.kubernetes.io/region",
        r#"deprecated since v1.17; use "topology.kubernetes.io/region" instead"#,
    ),
    ("failure-domain.beta.kubernetes.io/zone", r#"deprecated since v1.17; use "topology.kubernetes.io/zone" instead"#),
    ("beta.kubernetes.io/instance-type", r#"deprecated since v1.17; use "node.kubernetes.io/instance-type" instead"#),
];

/// Volumes that no kubelet mounts any more.
const VOLUMES: &[(&str, &str)] = &[
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Annotations that fields have replaced.
const ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        r#"non-functional in v1.16+; use the "priorityClassName" field instead"#,
    ),
    ("seccomp.security.alpha.kubernetes.io/pod", r#"non-functional in v1.27+; use the "seccompProfile" field instead"#),
    ("security.alpha.kubernetes.io/sysctls", r#"non-functional in v1.11+; use the "sysctls" field instead"#),
    ("security.alpha.kubernetes.io/unsafe-sysctls", r#"non-functional in v1.11+; use the "sysctls" field instead"#),
];

fn pod_spec(pod: &Value, path: &str, is_template: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    let (meta, spec) = (&pod["metadata"], &pod["spec"]);
    let (meta_path, path) = (join(path, "metadata"), join(path, "spec"));
    for (key, why) in ANNOTATIONS.iter().filter(|(key, _)| meta["annotations"][*key].is_string()) {
        warnings.push(format!("{meta_path}.annotations[{key}]: {why}"));
    }
    for (key, why) in LABELS {
        if spec["nodeSelector"][*key].is_string() {
            warnings.push(format!("{path}.nodeSelector[{key}]: {why}"));
        }
        let affinity = &spec["affinity"]["nodeAffinity"];
        let required = &affinity["requiredDuringSchedulingIgnoredDuringExecution"];
        let base = format!("{path}.affinity.nodeAffinity");
        let at = format!("{base}.requiredDuringSchedulingIgnoredDuringExecution");
        let terms = each(required, &at, "nodeSelectorTerms");
        let preferred = each(affinity, &base, "preferredDuringSchedulingIgnoredDuringExecution")
            .map(|(path, term)| (join(&path, "preference"), &term["preference"]));
        for (path, term) in terms.chain(preferred) {
            for (path, _) in each(term, &path, "matchExpressions").filter(|(_, e)| text(e, "key") == *key) {
                warnings.push(format!("{path}.key: {key} is {why}"));
            }
        }
    }
    for (path, spread) in each(spec, &path, "topologySpreadConstraints") {
        if spread["labelSelector"].is_null() {
            warnings.push(format!("{path}.labelSelector: a null labelSelector results in matching no pod"));
        }
        for (key, why) in LABELS.iter().filter(|(key, _)| text(spread, "topologyKey") == *key) {
            warnings.push(format!("{path}.topologyKey: {key} is {why}"));
        }
    }
    for (path, volume) in each(spec, &path, "volumes") {
        for (key, why) in VOLUMES.iter().filter(|(key, _)| volume[*key].is_object()) {
            warnings.push(format!("{path}.{key}: {why}"));
        }
    }
    let mut addresses = BTreeSet::new();
    for (path, alias) in each(spec, &path, "hostAliases") {
        if !addresses.insert(text(alias, "ip")) {
            warnings.push(format!("{path}.ip: duplicate ip {:?}", text(alias, "ip")));
        }
    }
    let mut secrets = BTreeSet::new();
    for (path, secret) in each(spec, &path, "imagePullSecrets") {
        let name = text(secret, "name");
        if name.is_empty() {
            warnings.push(format!("{path}: invalid empty name \"\""));
        } else if !secrets.insert(name) {
            warnings.push(format!("{path}: duplicate name {name:?}"));
        }
    }
    for (path, container) in ["initContainers", "containers"].iter().flat_map(|key| each(spec, &path, key)) {
        container_warnings(container, &path, &mut warnings);
    }
    if is_template {
        let annotations = meta["annotations"].as_object().into_iter().flatten();
        for (key, _) in
            annotations.filter(|(key, _)| key.starts_with("container.apparmor.security.beta.kubernetes.io/"))
        {
            let why = r#"deprecated since v1.30; use the "appArmorProfile" field instead"#;
            warnings.push(format!("{meta_path}.annotations[{key}]: {why}"));
        }
    }
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        let why = "must be >= 0; negative values are invalid and will be treated as 1";
        warnings.push(format!("{path}.terminationGracePeriodSeconds: {why}"));
    }
    warnings
}

fn container_warnings(container: &Value, path: &str, warnings: &mut Vec<String>) {
    for kind in ["limits", "requests"] {
        for name in ["memory", "ephemeral-storage"] {
            let amount = text(&container["resources"][kind], name);
            if amount.ends_with('m') {
                let why = format!("fractional byte value {amount:?} is invalid, must be an integer");
                warnings.push(format!("{path}.resources.{kind}[{name}]: {why}"));
            }
        }
    }
    let env = list(container, "env");
    for (i, variable) in env.iter().enumerate() {
        let name = text(variable, "name");
        // One that builds on its predecessor does not hide it.
        let extends = text(variable, "value").contains(&format!("$({name})"));
        if !extends && env[..i].iter().any(|other| text(other, "name") == name) {
            let why = format!("hides previous definition of {name:?}, which may be dropped when using apply");
            warnings.push(format!("{path}.env[{i}]: {why}"));
        }
    }
    let ports = list(container, "ports");
    for (i, port) in ports.iter().enumerate() {
        let same = |other: &Value, keys: &[&str]| keys.iter().all(|key| other[*key] == port[*key]);
        let before =
            ports[..i].iter().position(|other| same(other, &["containerPort", "protocol", "hostPort", "hostIP"]));
        if let Some(before) = before {
            let why = format!("duplicate port definition with {path}.ports[{before}]");
            warnings.push(format!("{path}.ports[{i}]: {why}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_old_or_odd_is_named() {
        for (spec, expected) in [
            (
                json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}}),
                r#"spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead"#,
            ),
            (
                json!({"containers": [{"env": [{"name": "A"}, {"name": "A"}]}]}),
                r#"spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply"#,
            ),
            (
                json!({"containers": [{"ports": [{"containerPort": 1}, {"containerPort": 1}]}]}),
                "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
            ),
            (
                json!({"containers": [{"resources": {"limits": {"memory": "100m"}}}]}),
                r#"spec.containers[0].resources.limits[memory]: fractional byte value "100m" is invalid, must be an integer"#,
            ),
            (json!({"imagePullSecrets": [{"name": ""}]}), r#"spec.imagePullSecrets[0]: invalid empty name """#),
            (json!({"volumes": [{"rbd": {}}]}), "spec.volumes[0].rbd: deprecated in v1.28, non-functional in v1.31+"),
            (
                json!({"terminationGracePeriodSeconds": -1}),
                "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
            ),
        ] {
            assert_eq!(pod(&json!({ "spec": spec })), [expected]);
        }
        assert!(
            pod(&json!({"spec": {"containers": [{"env": [{"name": "A"}, {"name": "A", "value": "$(A):x"}]}]}}))
                .is_empty()
        );
    }
}
