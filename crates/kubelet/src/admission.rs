//! Admission: whether this node takes a pod that is bound to it.
//!
//! The scheduler has looked before, but it may have seen another state of the node, and who sets a pod's `nodeName` by
//! hand has asked nobody. A pod that is not taken fails at once, with upstream's reason and message. For a critical one
//! that lacks nothing but room, others [make room](crate::preemption).

use std::sync::Arc;

use coracle_client::scheduling::resources::{CPU, MEMORY, PODS, Resources, pod_requests};
use coracle_client::scheduling::{host_ports, node_matches, tolerates};
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};

use crate::preemption::{self, Shortage, is_critical};
use crate::status::PodFailure;

const OS: &str = "linux";
const OS_LABEL: &str = "kubernetes.io/os";
const EPHEMERAL_STORAGE: &str = "ephemeral-storage";
/// What a pod may set of its own network's and its own processes' kernel, and whose it is.
const SAFE_SYSCTLS: [(&str, &str); 12] = [
    ("kernel.shm_rmid_forced", "IPC"),
    ("net.ipv4.ip_local_port_range", "Net"),
    ("net.ipv4.ip_local_reserved_ports", "Net"),
    ("net.ipv4.ip_unprivileged_port_start", "Net"),
    ("net.ipv4.ping_group_range", "Net"),
    ("net.ipv4.tcp_fin_timeout", "Net"),
    ("net.ipv4.tcp_keepalive_intvl", "Net"),
    ("net.ipv4.tcp_keepalive_probes", "Net"),
    ("net.ipv4.tcp_keepalive_time", "Net"),
    ("net.ipv4.tcp_rmem", "Net"),
    ("net.ipv4.tcp_syncookies", "Net"),
    ("net.ipv4.tcp_wmem", "Net"),
];
/// The reason that a node seen afresh may no longer give.
pub(crate) const NODE_AFFINITY: &str = "NodeAffinity";

/// Whether a node with `others` on it takes a pod, and which of them have to go for it; if not, why. One that has been
/// started is not turned away by what
/// was said about the node since. `unsafe_sysctls` are those that this node allows besides the safe ones.
pub(crate) fn admit(
    pod: &Pod,
    node: &Node,
    others: &[Arc<Pod>],
    unsafe_sysctls: &[String],
) -> Result<Vec<Arc<Pod>>, PodFailure> {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    sysctls(spec, unsafe_sysctls)?;
    if pod.metadata.labels.as_ref().and_then(|labels| labels.get(OS_LABEL)).is_some_and(|os| os != OS) {
        let message = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return Err(PodFailure::rejected("PodOSSelectorNodeLabelDoesNotMatch", message));
    }
    if spec.os.as_ref().is_some_and(|os| os.name != OS) {
        let message = "Failed to admit pod as the OS field doesn't match node OS";
        return Err(PodFailure::rejected("PodOSNotSupported", message));
    }
    let groups = spec.security_context.as_ref().and_then(|security| security.supplemental_groups_policy.as_deref());
    let features = node.status.as_ref().and_then(|status| status.features.as_ref());
    if groups == Some("Strict") && features.and_then(|features| features.supplemental_groups_policy) != Some(true) {
        let message = "SupplementalGroupsPolicy=Strict is not supported in this node";
        return Err(PodFailure::rejected("SupplementalGroupsPolicyNotSupported", message));
    }
    let (missing, failure) = fits(spec, node, others);
    match failure {
        Some(failure) if !is_critical(pod) => return Err(failure),
        _ => suits(pod, spec, node, others)?,
    }
    if missing.is_empty() {
        return Ok(vec![]);
    }
    preemption::victims(pod, others, &missing).map_err(|why| {
        let why = format!("preemption: error finding a set of pods to preempt: {why}");
        let message = format!("Unexpected error while attempting to recover from admission failure: {why}");
        PodFailure::rejected("UnexpectedAdmissionError", &message)
    })
}

/// Whether the node is one for this pod, room aside.
fn suits(pod: &Pod, spec: &PodSpec, node: &Node, others: &[Arc<Pod>]) -> Result<(), PodFailure> {
    let failed = |predicate: &str, why: &str| {
        Err(PodFailure::rejected(predicate, &format!("Predicate {predicate} failed: {why}")))
    };
    let started = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
    if !started && !node_matches(spec, node) {
        return failed(NODE_AFFINITY, "node(s) didn't match Pod's node affinity/selector");
    }
    let mut taken = others.iter().filter_map(|other| other.spec.as_ref()).flat_map(host_ports);
    if taken.any(|taken| host_ports(spec).any(|wanted| wanted.collides(&taken))) {
        return failed("NodePorts", "node(s) didn't have free ports for the requested pod ports");
    }
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let tolerated = |taint| spec.tolerations.iter().flatten().any(|toleration| tolerates(toleration, taint));
    if !started && taints.any(|taint| taint.effect == "NoExecute" && !tolerated(taint)) {
        return failed("TaintToleration", "node(s) had untolerated taint(s)");
    }
    Ok(())
}

/// Whether the pod may set all that it wants to set of the kernel. An entry of `allowed` may end in `*`.
fn sysctls(spec: &PodSpec, allowed: &[String]) -> Result<(), PodFailure> {
    let namespace_of = |name: &str| {
        let unsafe_one = |pattern: &&String| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => *pattern == name,
        };
        let safe = SAFE_SYSCTLS.iter().find(|(safe, _)| *safe == name).map(|(_, namespace)| *namespace);
        let by_name = || if name.starts_with("net.") { "Net" } else { "IPC" };
        safe.or_else(|| allowed.iter().find(unsafe_one).map(|_| by_name()))
    };
    let wanted = spec.security_context.iter().flat_map(|security| security.sysctls.iter().flatten());
    for name in wanted.map(|sysctl| sysctl.name.replace('/', ".")) {
        let why = match namespace_of(&name) {
            None => format!("{name:?} not allowlisted"),
            Some("IPC") if spec.host_ipc == Some(true) => format!("{name:?} not allowed with host IPC enabled"),
            Some("Net") if spec.host_network == Some(true) => format!("{name:?} not allowed with host Net enabled"),
            Some(_) => continue,
        };
        return Err(PodFailure::rejected("SysctlForbidden", &format!("forbidden sysctl: {why}")));
    }
    Ok(())
}

/// What there is not enough room of, and what is said of the first of that. Extended resources that the node does not
/// name are not its to hand out.
fn fits(spec: &PodSpec, node: &Node, others: &[Arc<Pod>]) -> (Vec<Shortage>, Option<PodFailure>) {
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let capacity = allocatable.map(Resources::from_list).unwrap_or_default();
    let mut used = Resources::default();
    others.iter().filter_map(|other| other.spec.as_ref()).for_each(|other| used.add(&pod_requests(other)));
    used.set(PODS, i64::try_from(others.len()).unwrap_or(i64::MAX));
    let mut wanted = pod_requests(spec);
    wanted.set(PODS, 1);
    let first = [PODS, CPU, MEMORY, EPHEMERAL_STORAGE];
    let rest = wanted.iter().map(|(name, _)| name).filter(|name| !first.contains(name));
    let (mut missing, mut failure) = (Vec::new(), None);
    for name in first.into_iter().chain(rest) {
        let (requested, used, capacity_of) = (wanted.get(name), used.get(name), capacity.get(name));
        if requested > 0 && requested > capacity_of - used && (capacity.has(name) || !name.contains('/')) {
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity_of}"
            );
            failure.get_or_insert_with(|| PodFailure::rejected(&format!("OutOf{name}"), &message));
            missing.push((name.to_owned(), requested - (capacity_of - used)));
        }
    }
    (missing, failure)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;
    use crate::testing::pod;

    fn node() -> Node {
        from_value(json!({
            "metadata": { "name": "n", "labels": { "disk": "ssd" } },
            "spec": { "taints": [
                { "key": "gone", "effect": "NoExecute" }, { "key": "full", "effect": "NoSchedule" },
            ] },
            "status": { "allocatable": { "cpu": "2", "memory": "1Gi", "pods": "3", "example.com/gpu": "1" } },
        }))
        .unwrap()
    }

    fn asking(requests: Value) -> Value {
        json!({
            "containers": [{
                "name": "c", "resources": { "requests": requests }, "ports": [{ "containerPort": 80, "hostPort": 80 }],
            }],
            "tolerations": [{ "key": "gone", "operator": "Exists" }],
        })
    }

    #[test]
    fn a_pod_is_taken_if_the_node_has_room_for_it_and_is_one_of_its_nodes() {
        let others =
            [Arc::new(pod("other", asking(json!({ "cpu": "1500m", "memory": "512Mi", "example.com/gpu": 1 }))))];
        let cases = [
            ("", json!(null), ""),
            ("/nodeSelector", json!({ "disk": "ssd" }), ""),
            (
                "/nodeSelector",
                json!({ "disk": "hdd" }),
                "NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
            ),
            (
                "/containers/0/ports/0/hostPort",
                json!(80),
                "NodePorts: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
            ),
            ("/containers/0/ports/0/protocol", json!("UDP"), ""),
            (
                "/tolerations",
                json!([]),
                "TaintToleration: Predicate TaintToleration failed: node(s) had untolerated taint(s)",
            ),
            ("/containers/0/resources/requests", json!({ "cpu": "500m" }), ""),
            (
                "/containers/0/resources/requests",
                json!({ "cpu": "600m", "memory": "1Gi" }),
                "OutOfcpu: Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000",
            ),
            (
                "/containers/0/resources/requests",
                json!({ "memory": "1Gi" }),
                "OutOfmemory: Node didn't have enough resource: memory, requested: 1073741824, used: 536870912, \
              capacity: 1073741824",
            ),
            (
                "/containers/0/resources/requests",
                json!({ "example.com/gpu": "1" }),
                "OutOfexample.com/gpu: Node didn't have enough resource: example.com/gpu, requested: 1, used: 1, \
              capacity: 1",
            ),
            ("/containers/0/resources/requests", json!({ "example.com/elsewhere": "1" }), ""),
            (
                "/os",
                json!({ "name": "windows" }),
                "PodOSNotSupported: Failed to admit pod as the OS field doesn't match node OS",
            ),
            (
                "/securityContext",
                json!({ "supplementalGroupsPolicy": "Strict" }),
                "SupplementalGroupsPolicyNotSupported: SupplementalGroupsPolicy=Strict is not supported in this node",
            ),
        ];
        for (path, value, expected) in cases {
            let mut spec = asking(json!({}));
            spec["containers"][0]["ports"][0]["hostPort"] = json!(8080);
            for field in ["os", "nodeSelector", "securityContext"] {
                spec[field] = json!(null);
            }
            spec["containers"][0]["ports"][0]["protocol"] = json!("TCP");
            if let Some(at) = spec.pointer_mut(path).filter(|_| !path.is_empty()) {
                *at = value.clone();
            }
            let verdict = admit(&pod("new", spec), &node(), &others, &[]);
            let said = verdict.err().map(|failure| format!("{}: {}", failure.reason, failure.message));
            assert_eq!(said.unwrap_or_default(), expected, "{path} {value}");
        }
    }

    #[test]
    fn a_pod_sets_of_the_kernel_what_is_safe_or_allowed_and_its_own() {
        for (name, host, expected) in [
            ("net.ipv4.tcp_syncookies", "", ""),
            ("net/ipv4/tcp_syncookies", "", ""),
            ("net.ipv4.tcp_syncookies", "hostNetwork", "\"net.ipv4.tcp_syncookies\" not allowed with host Net enabled"),
            ("kernel.shm_rmid_forced", "hostNetwork", ""),
            ("kernel.shm_rmid_forced", "hostIPC", "\"kernel.shm_rmid_forced\" not allowed with host IPC enabled"),
            ("kernel.msgmax", "", "\"kernel.msgmax\" not allowlisted"),
            ("net.core.somaxconn", "", ""),
            ("net.core.somaxconn", "hostNetwork", "\"net.core.somaxconn\" not allowed with host Net enabled"),
        ] {
            let mut spec = asking(json!({}));
            spec["securityContext"] = json!({ "sysctls": [{ "name": name, "value": "1" }] });
            if !host.is_empty() {
                spec[host] = json!(true);
            }
            let said = admit(&pod("p", spec), &node(), &[], &["net.core.*".to_owned()]).err();
            let expected = (!expected.is_empty()).then(|| format!("SysctlForbidden: forbidden sysctl: {expected}"));
            assert_eq!(said.map(|said| format!("{}: {}", said.reason, said.message)), expected, "{name} {host}");
        }
    }

    #[test]
    fn a_node_takes_only_so_many_pods() {
        let others: Vec<_> = ["a", "b", "c"].map(|name| Arc::new(pod(name, json!({ "containers": [] })))).into();
        let new = pod("new", asking(json!({})));
        assert_eq!(admit(&new, &node(), &others[..2], &[]), Ok(vec![]));
        let failure = admit(&new, &node(), &others, &[]).unwrap_err();
        assert_eq!(failure.reason, "OutOfpods");
        assert_eq!(failure.message, "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3");
    }

    #[test]
    fn what_is_said_about_the_node_later_does_not_turn_a_started_pod_away() {
        let mut running = pod("running", json!({ "containers": [], "nodeSelector": { "disk": "hdd" } }));
        running.metadata.labels = Some([(OS_LABEL.to_owned(), OS.to_owned())].into());
        assert_eq!(admit(&running, &node(), &[], &[]).unwrap_err().reason, NODE_AFFINITY);
        running.status = from_value(json!({ "startTime": "2026-01-01T00:00:00Z" })).unwrap();
        assert_eq!(admit(&running, &node(), &[], &[]), Ok(vec![]));
        running.metadata.labels = Some([(OS_LABEL.to_owned(), "windows".to_owned())].into());
        assert_eq!(admit(&running, &node(), &[], &[]).unwrap_err().reason, "PodOSSelectorNodeLabelDoesNotMatch");
    }
}
