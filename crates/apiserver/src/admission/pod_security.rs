//! PodSecurity: a namespace's labels say how much a pod may dare (Pod Security Standards).
//!
//! `pod-security.kubernetes.io/enforce: baseline` refuses pods that reach for the node; `restricted` asks
//! them besides to give up what they do not need. `warn` says the same as a warning, for pod templates too.

use std::collections::BTreeSet;

use async_trait::async_trait;
use coracle_api::ApiResult;
use serde_json::Value;

use super::{containers, items, refuse, text};
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Operation};

#[derive(Debug)]
pub(super) struct PodSecurity;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    /// The level a label asks for; upstream takes what it does not know for the strictest.
    fn of(label: Option<&str>) -> Level {
        match label {
            None | Some("privileged") => Level::Privileged,
            Some("baseline") => Level::Baseline,
            Some(_) => Level::Restricted,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }
}

/// What finds something to object to in a pod, in words, or nothing.
type Check = fn(&Value) -> Option<String>;

const BASELINE: [Check; 7] =
    [host_namespaces, privileged, baseline_capabilities, host_path_volumes, host_ports, proc_mount, sysctls];
/// `restricted` has stricter forms of these.
const BASELINE_ONLY: [Check; 1] = [baseline_seccomp];
const RESTRICTED: [Check; 6] = [
    privilege_escalation,
    restricted_capabilities,
    restricted_volumes,
    run_as_non_root,
    run_as_user,
    restricted_seccomp,
];

/// Everything a level objects to in a pod.
fn violations(level: Level, spec: &Value) -> Vec<String> {
    let checks: Vec<Check> = match level {
        Level::Privileged => Vec::new(),
        Level::Baseline => [&BASELINE[..], &BASELINE_ONLY].concat(),
        Level::Restricted => BASELINE
            .iter()
            .filter(|check| !std::ptr::fn_addr_eq(**check, baseline_capabilities as Check))
            .chain(&RESTRICTED)
            .copied()
            .collect(),
    };
    checks.iter().filter_map(|check| check(spec)).collect()
}

#[async_trait]
impl AdmissionPlugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }

    async fn admit(&self, request: &mut AdmissionRequest, context: &AdmissionContext) -> ApiResult<()> {
        let Some(spec) = pod_spec(request) else { return Ok(()) };
        let Some(namespace) = context.storage.get("", "namespaces", "", &request.namespace).await? else {
            return Ok(());
        };
        let label = |mode: &str| namespace["metadata"]["labels"][format!("pod-security.kubernetes.io/{mode}")].as_str();
        let version = |mode: &str| label(&format!("{mode}-version")).unwrap_or("latest");
        if request.resource.qualified() == "pods" {
            let level = Level::of(label("enforce"));
            let found = violations(level, spec);
            if !found.is_empty() {
                let policy = format!("{}:{}", level.name(), version("enforce"));
                return Err(refuse(request, format!("violates PodSecurity {policy:?}: {}", found.join(", "))));
            }
        }
        let level = Level::of(label("warn"));
        let found = violations(level, spec);
        if !found.is_empty() {
            let policy = format!("{}:{}", level.name(), version("warn"));
            request.notes.warn(format!("would violate PodSecurity {policy:?}: {}", found.join(", ")));
        }
        Ok(())
    }
}

/// The pod in a request, or the one that a request's object is a template for; `None` if that has not changed.
fn pod_spec(request: &AdmissionRequest) -> Option<&Value> {
    let path = match request.resource.plural.as_str() {
        "pods" => "/spec",
        "cronjobs" => "/spec/jobTemplate/spec/template/spec",
        "podtemplates" => "/template/spec",
        "deployments" | "replicasets" | "statefulsets" | "daemonsets" | "jobs" | "replicationcontrollers" => {
            "/spec/template/spec"
        }
        _ => return None,
    };
    if !matches!(request.subresource.as_str(), "" | "ephemeralcontainers") {
        return None;
    }
    let spec = request.object.pointer(path)?;
    let changed = request.operation == Operation::Create || request.old_object.pointer(path) != Some(spec);
    changed.then_some(spec)
}

/// `container "a"` or `containers "a", "b"`.
fn plural(noun: &str, names: &[&str]) -> String {
    let list: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    format!("{noun}{} {}", if names.len() == 1 { "" } else { "s" }, list.join(", "))
}

/// The names of the containers for which `bad` holds.
fn bad_containers(spec: &Value, bad: impl Fn(&Value) -> bool) -> Vec<&str> {
    containers(spec).filter(|(_, container)| bad(container)).map(|(_, container)| text(container, "/name")).collect()
}

/// One complaint about the containers for which `bad` holds: `label (containers "a", "b" rule)`.
fn complain(spec: &Value, label: &str, rule: &str, bad: impl Fn(&Value) -> bool) -> Option<String> {
    let names = bad_containers(spec, bad);
    (!names.is_empty()).then(|| format!("{label} ({} {rule})", plural("container", &names)))
}

fn host_namespaces(spec: &Value) -> Option<String> {
    let used: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|field| spec[**field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    (!used.is_empty()).then(|| format!("host namespaces ({})", used.join(", ")))
}

fn privileged(spec: &Value) -> Option<String> {
    let rule = "must not set securityContext.privileged=true";
    complain(spec, "privileged", rule, |c| c["securityContext"]["privileged"] == true)
}

const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

fn added<'a>(container: &'a Value, allowed: &'a [&str]) -> impl Iterator<Item = &'a str> {
    items(&container["securityContext"]["capabilities"]["add"])
        .filter_map(Value::as_str)
        .filter(|capability| !allowed.contains(capability))
}

/// `containers "a" must not include "X" in securityContext.capabilities.add`, if one does.
fn forbidden_capabilities(spec: &Value, allowed: &[&str]) -> Option<String> {
    let names = bad_containers(spec, |c| added(c, allowed).next().is_some());
    let all: BTreeSet<String> =
        containers(spec).flat_map(|(_, c)| added(c, allowed)).map(|capability| format!("{capability:?}")).collect();
    let list: Vec<String> = all.into_iter().collect();
    (!names.is_empty()).then(|| {
        let who = plural("container", &names);
        format!("{who} must not include {} in securityContext.capabilities.add", list.join(", "))
    })
}

fn baseline_capabilities(spec: &Value) -> Option<String> {
    forbidden_capabilities(spec, &DEFAULT_CAPABILITIES).map(|why| format!("non-default capabilities ({why})"))
}

fn restricted_capabilities(spec: &Value) -> Option<String> {
    let keeps = |container: &Value| {
        !items(&container["securityContext"]["capabilities"]["drop"]).any(|capability| capability == "ALL")
    };
    let names = bad_containers(spec, keeps);
    let mut complaints = Vec::new();
    if !names.is_empty() {
        let who = plural("container", &names);
        complaints.push(format!("{who} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    complaints.extend(forbidden_capabilities(spec, &["NET_BIND_SERVICE"]));
    (!complaints.is_empty()).then(|| format!("unrestricted capabilities ({})", complaints.join("; ")))
}

fn host_path_volumes(spec: &Value) -> Option<String> {
    let names: Vec<&str> =
        items(&spec["volumes"]).filter(|v| v["hostPath"].is_object()).map(|v| text(v, "/name")).collect();
    (!names.is_empty()).then(|| format!("hostPath volumes ({})", plural("volume", &names)))
}

fn host_ports(spec: &Value) -> Option<String> {
    let used = |container: &Value| -> Vec<String> {
        items(&container["ports"])
            .filter_map(|port| port["hostPort"].as_u64())
            .filter(|port| *port != 0)
            .map(|port| port.to_string())
            .collect()
    };
    let names = bad_containers(spec, |container| !used(container).is_empty());
    let ports: BTreeSet<String> = containers(spec).flat_map(|(_, container)| used(container)).collect();
    let ports: Vec<String> = ports.into_iter().collect();
    (!names.is_empty()).then(|| {
        let (verb, noun) = (if names.len() == 1 { "uses" } else { "use" }, if ports.len() == 1 { "" } else { "s" });
        format!("hostPort ({} {verb} hostPort{noun} {})", plural("container", &names), ports.join(", "))
    })
}

fn proc_mount(spec: &Value) -> Option<String> {
    let rule = "must not set securityContext.procMount to \"Unmasked\"";
    complain(spec, "procMount", rule, |c| c["securityContext"]["procMount"] == "Unmasked")
}

const SAFE_SYSCTLS: [&str; 11] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
];

fn sysctls(spec: &Value) -> Option<String> {
    let bad: Vec<&str> = items(&spec["securityContext"]["sysctls"])
        .map(|sysctl| text(sysctl, "/name"))
        .filter(|name| !SAFE_SYSCTLS.contains(name))
        .collect();
    (!bad.is_empty()).then(|| format!("forbidden sysctls ({})", bad.join(", ")))
}

fn seccomp(context: &Value) -> &str {
    text(context, "/seccompProfile/type")
}

fn baseline_seccomp(spec: &Value) -> Option<String> {
    let mut who: Vec<String> = Vec::new();
    if seccomp(&spec["securityContext"]) == "Unconfined" {
        who.push("pod".into());
    }
    let names = bad_containers(spec, |container| seccomp(&container["securityContext"]) == "Unconfined");
    if !names.is_empty() {
        who.push(plural("container", &names));
    }
    (!who.is_empty()).then(|| {
        format!(
            "seccompProfile ({} must not set securityContext.seccompProfile.type to \"Unconfined\")",
            who.join(" and ")
        )
    })
}

fn restricted_seccomp(spec: &Value) -> Option<String> {
    let good = |kind: &str| matches!(kind, "RuntimeDefault" | "Localhost");
    let pod = seccomp(&spec["securityContext"]);
    if !pod.is_empty() && !good(pod) {
        return Some(format!("seccompProfile (pod must not set securityContext.seccompProfile.type to {pod:?})"));
    }
    let names = bad_containers(spec, |container| {
        let own = seccomp(&container["securityContext"]);
        if own.is_empty() { !good(pod) } else { !good(own) }
    });
    (!names.is_empty()).then(|| {
        let who = plural("container", &names);
        format!(
            "seccompProfile (pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        )
    })
}

fn privilege_escalation(spec: &Value) -> Option<String> {
    let rule = "must set securityContext.allowPrivilegeEscalation=false";
    complain(spec, "allowPrivilegeEscalation != false", rule, |container| {
        container["securityContext"]["allowPrivilegeEscalation"] != false
    })
}

const PLAIN_VOLUMES: [&str; 8] =
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];

fn restricted_volumes(spec: &Value) -> Option<String> {
    let kind = |volume: &Value| -> Option<String> {
        volume.as_object()?.keys().find(|key| *key != "name" && !PLAIN_VOLUMES.contains(&key.as_str())).cloned()
    };
    let bad: Vec<(&str, String)> =
        items(&spec["volumes"]).filter_map(|volume| Some((text(volume, "/name"), kind(volume)?))).collect();
    if bad.is_empty() {
        return None;
    }
    let names: Vec<&str> = bad.iter().map(|(name, _)| *name).collect();
    let kinds: BTreeSet<String> = bad.iter().map(|(_, kind)| format!("{kind:?}")).collect();
    let kinds: Vec<String> = kinds.into_iter().collect();
    let verb = if names.len() == 1 { "uses" } else { "use" };
    let noun = if kinds.len() == 1 { "type" } else { "types" };
    let who = plural("volume", &names);
    Some(format!("restricted volume types ({who} {verb} restricted volume {noun} {})", kinds.join(", ")))
}

fn run_as_non_root(spec: &Value) -> Option<String> {
    let flag = |context: &Value| context["runAsNonRoot"].as_bool();
    let pod = flag(&spec["securityContext"]);
    let explicit = bad_containers(spec, |container| flag(&container["securityContext"]) == Some(false));
    let implicit = bad_containers(spec, |c| flag(&c["securityContext"]).is_none() && pod != Some(true));
    let label = "runAsNonRoot != true";
    if pod == Some(false) && !implicit.is_empty() {
        return Some(format!("{label} (pod must not set securityContext.runAsNonRoot=false)"));
    }
    if !explicit.is_empty() {
        let who = plural("container", &explicit);
        return Some(format!("{label} ({who} must not set securityContext.runAsNonRoot=false)"));
    }
    (!implicit.is_empty()).then(|| {
        format!("{label} (pod or {} must set securityContext.runAsNonRoot=true)", plural("container", &implicit))
    })
}

fn run_as_user(spec: &Value) -> Option<String> {
    let mut who: Vec<String> = Vec::new();
    if spec["securityContext"]["runAsUser"] == 0 {
        who.push("pod".into());
    }
    let names = bad_containers(spec, |container| container["securityContext"]["runAsUser"] == 0);
    if !names.is_empty() {
        who.push(plural("container", &names));
    }
    (!who.is_empty()).then(|| format!("runAsUser=0 ({} must not set runAsUser=0)", who.join(" and ")))
}
