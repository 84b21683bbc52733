//! The downward API: what a pod may learn about itself, by field path or resource.

use coracle_api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::observed::{containers, init_containers};
use crate::resources::{limit, request};

/// What is known of a pod besides its own object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// The pod's addresses.
    pub pod_ips: Vec<String>,
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// The node's processors, the cpu limit of who has none.
    pub node_cpus: u64,
    /// The node's memory in bytes, the memory limit of who has none.
    pub node_memory_bytes: u64,
}

/// The value of a field of the pod, such as `metadata.name`, `metadata.labels['app']` or `status.podIP`.
///
/// # Errors
/// The path is none that the downward API knows.
pub fn field_value(pod: &Pod, facts: &PodFacts, path: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|rest| rest.split_once("['")) {
        let values = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(unsupported(path)),
        };
        return Ok(values.and_then(|values| values.get(key)).cloned().unwrap_or_default());
    }
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    Ok(match path {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "metadata.labels" => format_map(meta.labels.iter().flatten()),
        "metadata.annotations" => format_map(meta.annotations.iter().flatten()),
        "spec.nodeName" => text(spec.and_then(|s| s.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|s| s.service_account_name.as_ref())),
        "status.hostIP" => text(facts.host_ips.first()),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => text(facts.pod_ips.first()),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(unsupported(path)),
    })
}

fn unsupported(path: &str) -> String {
    format!("unsupported fieldPath: {path}")
}

/// A map as a downward API file shows it: one `key="value"` a line.
fn format_map<'a>(entries: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    entries.map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
}

/// The value of a container's request or limit, divided by the selector's divisor and rounded up. A limit that is not
/// set is the node's.
///
/// # Errors
/// There is no such container or resource.
pub fn resource_value(
    pod: &Pod,
    own: Option<&Container>,
    facts: &PodFacts,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match named {
        Some(name) => containers(pod).iter().chain(init_containers(pod)).find(|c| c.name == name),
        None => own,
    };
    let container = container.ok_or_else(|| format!("container {} not found", named.unwrap_or_default()))?;
    let (kind, resource) = selector.resource.split_once('.').unwrap_or_default();
    let count = |number: u64| Quantity::from_value(i64::try_from(number).unwrap_or(i64::MAX));
    let node = match resource {
        "cpu" => count(facts.node_cpus),
        "memory" => count(facts.node_memory_bytes),
        _ => Quantity::ZERO,
    };
    let amount = match kind {
        "limits" => limit(container, resource).unwrap_or(node),
        "requests" => request(container, resource).unwrap_or_default(),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    let divisor = selector.divisor.as_ref().map(Quantity::of).filter(|divisor| !divisor.is_zero());
    Ok(amount.divided_by(divisor.unwrap_or(Quantity::from_value(1))).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::pod;

    fn facts() -> PodFacts {
        PodFacts {
            pod_ips: vec!["10.244.1.2".into()],
            host_ips: vec!["10.244.1.1".into()],
            node_cpus: 2,
            node_memory_bytes: 8 << 30,
        }
    }

    #[test]
    fn a_pod_learns_about_itself() {
        let mut pod = pod("p", json!({ "nodeName": "n", "serviceAccountName": "sa", "containers": [] }));
        pod.metadata.labels = Some([("app".into(), "web".into()), ("b".into(), "a \"q\"".into())].into());
        for (path, expected) in [
            ("metadata.name", "p"),
            ("metadata.namespace", "default"),
            ("metadata.uid", "uid-p"),
            ("metadata.labels['app']", "web"),
            ("metadata.annotations['none']", ""),
            ("metadata.labels", "app=\"web\"\nb=\"a \\\"q\\\"\""),
            ("spec.nodeName", "n"),
            ("spec.serviceAccountName", "sa"),
            ("status.podIP", "10.244.1.2"),
            ("status.hostIP", "10.244.1.1"),
        ] {
            assert_eq!(field_value(&pod, &facts(), path).as_deref(), Ok(expected), "{path}");
        }
        assert!(field_value(&pod, &facts(), "spec.secret").is_err());
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        let resources = json!({ "requests": { "cpu": "250m" }, "limits": { "memory": "100Mi" } });
        let pod = pod("p", json!({ "containers": [{ "name": "a", "resources": resources }] }));
        for (resource, divisor, expected) in [
            ("requests.cpu", "1", "1"),
            ("requests.cpu", "1m", "250"),
            ("limits.memory", "1Mi", "100"),
            ("limits.cpu", "1", "2"),
            ("requests.memory", "1", "0"),
        ] {
            let selector = serde_json::from_value(json!({ "resource": resource, "divisor": divisor })).unwrap();
            let value = resource_value(&pod, Some(&containers(&pod)[0]), &facts(), &selector);
            assert_eq!(value.as_deref(), Ok(expected), "{resource} in {divisor}");
        }
    }
}
