//! Which nodes a pod may be on, as the scheduler, the kubelet, the DaemonSet controller and the eviction by taints all
//! see it.

pub mod resources;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

/// Whether a toleration covers a taint: empty effect or key cover all, `Exists` ignores the value, and
/// `Lt`/`Gt` compare it as a number.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    fn text(value: &Option<String>) -> &str {
        value.as_deref().unwrap_or_default()
    }
    let (effect, key, value) = (text(&toleration.effect), text(&toleration.key), text(&toleration.value));
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    let actual = text(&taint.value);
    let numbers = || Some((actual.parse::<i64>().ok()?, value.parse::<i64>().ok()?));
    match text(&toleration.operator) {
        "" | "Equal" => value == actual,
        "Exists" => true,
        "Lt" => numbers().is_some_and(|(actual, bound)| actual < bound),
        "Gt" => numbers().is_some_and(|(actual, bound)| actual > bound),
        _ => false,
    }
}

/// Whether a pod's node selector and required node affinity allow a node.
pub fn node_matches(pod: &PodSpec, node: &Node) -> bool {
    let labels = labels(node);
    let selected = pod.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = pod.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|selector| selector_matches(selector, node))
}

/// Whether any term of a node selector matches.
pub fn selector_matches(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, node))
}

/// A term matches if all its expressions (on labels) and fields (on `metadata.name`) do; an empty one matches nothing.
pub fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let labels = labels(node);
    let field = |key: &str| node.metadata.name.as_deref().filter(|_| key == "metadata.name");
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|e| requirement_matches(e, labels.get(&e.key).map(String::as_str)))
        && fields.iter().all(|e| requirement_matches(e, field(&e.key)))
}

/// A port that a pod takes on its node.
#[derive(Clone, Copy, Debug)]
pub struct HostPort<'a> {
    /// Empty for all addresses.
    address: &'a str,
    protocol: &'a str,
    port: i32,
}

impl HostPort<'_> {
    /// Whether two pods cannot have these ports of one node: all addresses collide with any.
    pub fn collides(&self, other: &HostPort<'_>) -> bool {
        let addresses = self.address == other.address || self.address.is_empty() || other.address.is_empty();
        addresses && self.protocol == other.protocol && self.port == other.port
    }
}

/// The ports that a pod's containers and sidecars take on its node.
pub fn host_ports(spec: &PodSpec) -> impl Iterator<Item = HostPort<'_>> {
    let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container));
    spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten()).filter_map(|port| {
        let address = port.host_ip.as_deref().filter(|ip| *ip != "0.0.0.0").unwrap_or_default();
        let port_number = port.host_port.filter(|port| *port > 0)?;
        Some(HostPort { address, protocol: port.protocol.as_deref().unwrap_or("TCP"), port: port_number })
    })
}

/// Whether an init container stays beside the main ones.
fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn labels(node: &Node) -> &BTreeMap<String, String> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    node.metadata.labels.as_ref().unwrap_or(&NONE)
}

fn requirement_matches(requirement: &NodeSelectorRequirement, actual: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = actual.is_some_and(|actual| values.iter().any(|value| value == actual));
    let compare = |holds: fn(&i64, &i64) -> bool| {
        let bound = values.first().and_then(|value| value.parse().ok());
        let actual = actual.and_then(|actual| actual.parse().ok());
        actual.zip(bound).is_some_and(|(actual, bound)| holds(&actual, &bound))
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => actual.is_some(),
        "DoesNotExist" => actual.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_know_all_operators() {
        let check = |operator: &str, values: &[&str], actual: Option<&str>| {
            let values = Some(values.iter().map(|value| (*value).to_owned()).collect());
            let requirement = NodeSelectorRequirement { key: "k".into(), operator: operator.into(), values };
            requirement_matches(&requirement, actual)
        };
        assert!(check("In", &["a", "b"], Some("b")));
        assert!(!check("In", &["a"], None));
        assert!(check("NotIn", &["a"], None));
        assert!(check("Exists", &[], Some("")));
        assert!(check("DoesNotExist", &[], None));
        assert!(check("Gt", &["3"], Some("4")));
        assert!(!check("Gt", &["4"], Some("4")));
        assert!(!check("Lt", &["4"], Some("four")));
    }

    #[test]
    fn an_empty_term_matches_nothing() {
        assert!(!term_matches(&NodeSelectorTerm::default(), &Node::default()));
    }

    #[test]
    fn a_toleration_covers_a_taint_by_effect_key_operator_and_value() {
        let taint = |key: &str, value: &str, effect: &str| Taint {
            key: key.into(),
            value: Some(value.into()),
            effect: effect.into(),
            time_added: None,
        };
        let toleration = |operator: &str, key: &str, value: &str, effect: &str| Toleration {
            operator: Some(operator.into()),
            key: Some(key.into()),
            value: Some(value.into()),
            effect: Some(effect.into()),
            toleration_seconds: None,
        };
        let node = taint("k", "v", "NoSchedule");
        for (toleration, expected) in [
            (toleration("Equal", "k", "v", "NoSchedule"), true),
            (toleration("", "k", "v", ""), true),
            (toleration("Equal", "k", "w", "NoSchedule"), false),
            (toleration("Exists", "k", "", ""), true),
            (toleration("Exists", "", "", ""), true),
            (toleration("Exists", "other", "", ""), false),
            (toleration("Exists", "k", "", "NoExecute"), false),
            (toleration("Sideways", "k", "v", ""), false),
        ] {
            assert_eq!(tolerates(&toleration, &node), expected, "{toleration:?}");
        }
        assert!(tolerates(&toleration("Gt", "sla", "950", ""), &taint("sla", "990", "NoSchedule")));
        assert!(!tolerates(&toleration("Gt", "sla", "950", ""), &taint("sla", "900", "NoSchedule")));
    }
}
