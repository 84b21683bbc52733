//! The Pod Security Standards: what each level objects to in which version, in upstream's order and words.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::{containers, items, text};
use super::policy::{Level, Policy};

/// What a pod does that it may not.
#[derive(Debug)]
pub(super) struct Violation {
    /// The rule, such as `host namespaces`.
    pub(super) reason: &'static str,
    /// What breaks it.
    pub(super) detail: String,
}

/// A pod, or what a template makes one of, and the minor version of the standards that it is held to.
pub(super) struct Pod<'a> {
    annotations: &'a Value,
    spec: &'a Value,
    minor: u32,
}

/// A rule, the minor version that it came with, and what breaks it, if something does.
type Check = (&'static str, u32, fn(&Pod<'_>) -> Option<String>);

const BASELINE: [Check; 13] = [
    ("forbidden AppArmor profile", 0, |pod| apparmor(pod, false)),
    ("forbidden AppArmor profiles", 0, |pod| apparmor(pod, true)),
    ("non-default capabilities", 0, default_capabilities),
    ("host namespaces", 0, host_namespaces),
    ("hostPath volumes", 0, host_path_volumes),
    ("hostPort", 0, host_ports),
    ("probe or lifecycle host", 34, probe_hosts),
    ("privileged", 0, privileged),
    ("procMount", 0, |pod| if in_user_namespace(pod) { None } else { proc_mount(pod) }),
    ("seLinuxOptions", 0, selinux),
    ("seccompProfile", 0, |pod| if pod.minor < 19 { seccomp_annotations(pod) } else { seccomp(pod) }),
    ("forbidden sysctls", 0, sysctls),
    ("hostProcess", 0, host_process),
];
const RESTRICTED: [Check; 7] = [
    ("allowPrivilegeEscalation != false", 8, privilege_escalation),
    ("unrestricted capabilities", 22, dropped_capabilities),
    ("procMount", 35, proc_mount),
    ("restricted volume types", 0, restricted_volumes),
    ("runAsNonRoot != true", 0, |pod| if in_user_namespace(pod) { None } else { run_as_non_root(pod) }),
    ("runAsUser=0", 23, |pod| if in_user_namespace(pod) { None } else { run_as_user(pod) }),
    ("seccompProfile", 19, required_seccomp),
];
/// Rules of `baseline`, and the stricter forms that `restricted` has of them.
const OVERRIDDEN: [(&str, &str); 4] = [
    ("non-default capabilities", "unrestricted capabilities"),
    ("hostPath volumes", "restricted volume types"),
    ("procMount", "procMount"),
    ("seccompProfile", "seccompProfile"),
];

/// Everything that a policy objects to in a pod, or in the one that a template makes.
pub(super) fn violations(policy: Policy, pod: &Value) -> Vec<Violation> {
    let minor = policy.minor.unwrap_or(u32::MAX);
    let pod = Pod { annotations: &pod["metadata"]["annotations"], spec: &pod["spec"], minor };
    let there = |(_, since, _): &&Check| *since <= minor;
    let restricted = if policy.level == Level::Restricted { &RESTRICTED[..] } else { &[] };
    let kept = |(reason, ..): &&Check| {
        !restricted.iter().filter(there).any(|(stricter, ..)| OVERRIDDEN.contains(&(reason, stricter)))
    };
    let baseline = if policy.level == Level::Privileged { &[] } else { &BASELINE[..] };
    let checks = baseline.iter().filter(kept).chain(restricted).filter(there);
    checks.filter_map(|(reason, _, check)| Some(Violation { reason, detail: check(&pod)? })).collect()
}

fn quoted<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    format!("\"{}\"", texts.into_iter().collect::<Vec<_>>().join("\", \""))
}

/// `container "a"` or `containers "a", "b"`; nothing of none.
fn plural(noun: &str, names: &[&str]) -> Option<String> {
    let end = if names.len() == 1 { "" } else { "s" };
    (!names.is_empty()).then(|| format!("{noun}{end} {}", quoted(names.iter().copied())))
}

/// The names of the containers for which `bad` holds.
fn bad_containers<'a>(pod: &Pod<'a>, bad: impl Fn(&Value) -> bool) -> Vec<&'a str> {
    containers(pod.spec)
        .filter(|(_, container)| bad(container))
        .map(|(_, container)| text(container, "/name"))
        .collect()
}

/// The containers for which `bad` holds, and what they break: `containers "a", "b" must not`.
fn complain(pod: &Pod<'_>, rule: &str, bad: impl Fn(&Value) -> bool) -> Option<String> {
    Some(format!("{} {rule}", plural("container", &bad_containers(pod, bad))?))
}

/// Who says something bad in its `securityContext`: `pod and container "a"`.
fn setters(pod: &Pod<'_>, bad: impl Fn(&Value) -> bool) -> Option<String> {
    let itself = bad(&pod.spec["securityContext"]).then(|| "pod".to_owned());
    let names = bad_containers(pod, |container| bad(&container["securityContext"]));
    let who: Vec<String> = itself.into_iter().chain(plural("container", &names)).collect();
    (!who.is_empty()).then(|| who.join(" and "))
}

/// All values at a path in the security contexts of the pod and its containers.
fn all<'a>(pod: &Pod<'a>, path: &str) -> BTreeSet<&'a str> {
    let contexts = containers(pod.spec).map(|(_, container)| &container["securityContext"]);
    contexts.chain([&pod.spec["securityContext"]]).map(|context| text(context, path)).collect()
}

/// Rules about Linux do not concern such pods since 1.25.
fn on_windows(pod: &Pod<'_>) -> bool {
    pod.minor >= 25 && pod.spec["os"]["name"] == "windows"
}

/// Root in such a pod is nobody outside, which the standards know since 1.35.
fn in_user_namespace(pod: &Pod<'_>) -> bool {
    pod.minor >= 35 && pod.spec["hostUsers"] == false
}

/// Annotations of a key with this beginning whose values are none of the good ones: `key="value"`.
fn bad_annotations(pod: &Pod<'_>, good: &[&str], key: impl Fn(&str) -> bool) -> Vec<String> {
    let all = pod.annotations.as_object().into_iter().flatten();
    let all = all.filter_map(|(name, value)| Some((name, value.as_str()?)));
    let bad = all.filter(|(name, value)| key(name) && !good.contains(value) && !value.starts_with("localhost/"));
    let mut shown: Vec<String> = bad.map(|(name, value)| format!("{name}={value:?}")).collect();
    shown.sort_unstable();
    shown
}

fn apparmor(pod: &Pod<'_>, several: bool) -> Option<String> {
    let path = "/appArmorProfile/type";
    let bad = |value: &str| !["", "RuntimeDefault", "Localhost"].contains(&value);
    let annotations = bad_annotations(pod, &["", "runtime/default"], |name| {
        name.starts_with("container.apparmor.security.beta.kubernetes.io/")
    });
    let values: Vec<&str> =
        all(pod, path).into_iter().filter(|value| bad(value)).chain(annotations.iter().map(String::as_str)).collect();
    let by_annotation = match annotations.len() {
        0 => None,
        1 => Some("annotation".to_owned()),
        _ => Some("annotations".to_owned()),
    };
    let who: Vec<String> = setters(pod, |context| bad(text(context, path))).into_iter().chain(by_annotation).collect();
    (!values.is_empty() && several == (values.len() > 1))
        .then(|| format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(values)))
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

/// `containers "a" must not include "X" in securityContext.capabilities.add`, if one does.
fn forbidden_capabilities(pod: &Pod<'_>, allowed: &[&str]) -> Option<String> {
    let added = |container: &Value| -> BTreeSet<String> {
        let added = items(&container["securityContext"]["capabilities"]["add"]).filter_map(Value::as_str);
        added.filter(|capability| !allowed.contains(capability)).map(str::to_owned).collect()
    };
    let all: BTreeSet<String> = containers(pod.spec).flat_map(|(_, container)| added(container)).collect();
    let list = quoted(all.iter().map(String::as_str));
    let rule = format!("must not include {list} in securityContext.capabilities.add");
    complain(pod, &rule, |container| !added(container).is_empty())
}

fn default_capabilities(pod: &Pod<'_>) -> Option<String> {
    forbidden_capabilities(pod, &DEFAULT_CAPABILITIES)
}

fn dropped_capabilities(pod: &Pod<'_>) -> Option<String> {
    let drops_all = |container: &Value| {
        items(&container["securityContext"]["capabilities"]["drop"]).any(|capability| capability == "ALL")
    };
    let rule = "must set securityContext.capabilities.drop=[\"ALL\"]";
    let kept = complain(pod, rule, |container| !drops_all(container));
    let complaints: Vec<String> = kept.into_iter().chain(forbidden_capabilities(pod, &["NET_BIND_SERVICE"])).collect();
    (!complaints.is_empty() && !on_windows(pod)).then(|| complaints.join("; "))
}

fn host_namespaces(pod: &Pod<'_>) -> Option<String> {
    let used: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|field| pod.spec[**field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    (!used.is_empty()).then(|| used.join(", "))
}

fn host_path_volumes(pod: &Pod<'_>) -> Option<String> {
    let names: Vec<&str> =
        items(&pod.spec["volumes"]).filter(|v| v["hostPath"].is_object()).map(|v| text(v, "/name")).collect();
    plural("volume", &names)
}

/// `container "a" uses hostPort 80` or `containers "a", "b" use hostPorts 80, 81`.
fn uses(pod: &Pod<'_>, noun: &str, of: impl Fn(&Value) -> BTreeSet<String>, quote: bool) -> Option<String> {
    let names = bad_containers(pod, |container| !of(container).is_empty());
    let used: BTreeSet<String> = containers(pod.spec).flat_map(|(_, container)| of(container)).collect();
    let list: Vec<String> = used.iter().map(|used| if quote { format!("{used:?}") } else { used.clone() }).collect();
    let (verb, end) = (if names.len() == 1 { "uses" } else { "use" }, if used.len() == 1 { "" } else { "s" });
    Some(format!("{} {verb} {noun}{end} {}", plural("container", &names)?, list.join(", ")))
}

fn host_ports(pod: &Pod<'_>) -> Option<String> {
    let ports = |container: &Value| -> BTreeSet<String> {
        let ports = items(&container["ports"]).filter_map(|port| port["hostPort"].as_u64());
        ports.filter(|port| *port != 0).map(|port| port.to_string()).collect()
    };
    uses(pod, "hostPort", ports, false)
}

fn probe_hosts(pod: &Pod<'_>) -> Option<String> {
    let hosts = |container: &Value| -> BTreeSet<String> {
        let handlers =
            ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];
        let hosts = handlers.iter().flat_map(|handler| {
            ["httpGet", "tcpSocket"].map(|sort| text(container, &format!("{handler}/{sort}/host")).to_owned())
        });
        hosts.filter(|host| !host.is_empty()).collect()
    };
    uses(pod, "probe or lifecycle host", hosts, true)
}

fn privileged(pod: &Pod<'_>) -> Option<String> {
    let rule = "must not set securityContext.privileged=true";
    complain(pod, rule, |container| container["securityContext"]["privileged"] == true)
}

fn proc_mount(pod: &Pod<'_>) -> Option<String> {
    let rule = "must not set securityContext.procMount to \"Unmasked\"";
    complain(pod, rule, |container| container["securityContext"]["procMount"] == "Unmasked")
}

fn selinux(pod: &Pod<'_>) -> Option<String> {
    let allowed = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
    let allowed = if pod.minor < 31 { &allowed[..4] } else { &allowed[..] };
    let set = |context: &Value, field: &str| !text(context, &format!("/seLinuxOptions/{field}")).is_empty();
    let who = setters(pod, |context| {
        !allowed.contains(&text(context, "/seLinuxOptions/type")) || set(context, "user") || set(context, "role")
    })?;
    let types: Vec<&str> =
        all(pod, "/seLinuxOptions/type").into_iter().filter(|value| !allowed.contains(value)).collect();
    let mut what: Vec<String> = plural("type", &types).into_iter().collect();
    for field in ["user", "role"] {
        if setters(pod, |context| set(context, field)).is_some() {
            what.push(format!("{field} may not be set"));
        }
    }
    Some(format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; ")))
}

/// How seccomp profiles were chosen before there was a field.
fn seccomp_annotations(pod: &Pod<'_>) -> Option<String> {
    let names = containers(pod.spec).map(|(_, container)| text(container, "/name"));
    let mut keys: Vec<String> =
        names.map(|name| format!("container.seccomp.security.alpha.kubernetes.io/{name}")).collect();
    keys.push("seccomp.security.alpha.kubernetes.io/pod".into());
    let bad = bad_annotations(pod, &["runtime/default", "docker/default"], |name| keys.iter().any(|key| key == name));
    let end = if bad.len() == 1 { "" } else { "s" };
    (!bad.is_empty()).then(|| format!("forbidden annotation{end} {}", bad.join(", ")))
}

fn seccomp(pod: &Pod<'_>) -> Option<String> {
    let who = setters(pod, |context| text(context, "/seccompProfile/type") == "Unconfined")?;
    Some(format!("{who} must not set securityContext.seccompProfile.type to \"Unconfined\""))
}

fn required_seccomp(pod: &Pod<'_>) -> Option<String> {
    let path = "/seccompProfile/type";
    let good = |kind: &str| matches!(kind, "RuntimeDefault" | "Localhost");
    let bad = |kind: &str| !kind.is_empty() && !good(kind);
    if on_windows(pod) {
        return None;
    }
    if let Some(who) = setters(pod, |context| bad(text(context, path))) {
        let values = quoted(all(pod, path).into_iter().filter(|kind| bad(kind)));
        return Some(format!("{who} must not set securityContext.seccompProfile.type to {values}"));
    }
    let whole = good(text(&pod.spec["securityContext"], path));
    let rule = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
    let complaint = complain(pod, rule, |c| !whole && text(&c["securityContext"], path).is_empty())?;
    Some(format!("pod or {complaint}"))
}

/// Sysctls that harm nobody else, and since which minor version that is known.
const SAFE_SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.tcp_wmem", 32),
];

fn sysctls(pod: &Pod<'_>) -> Option<String> {
    let names = items(&pod.spec["securityContext"]["sysctls"]).map(|sysctl| text(sysctl, "/name"));
    let safe = |name: &str| SAFE_SYSCTLS.iter().any(|(safe, since)| *safe == name && *since <= pod.minor);
    let bad: Vec<&str> = names.filter(|name| !safe(name)).collect();
    (!bad.is_empty()).then(|| bad.join(", "))
}

fn host_process(pod: &Pod<'_>) -> Option<String> {
    let who = setters(pod, |context| context["windowsOptions"]["hostProcess"] == true)?;
    Some(format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

fn privilege_escalation(pod: &Pod<'_>) -> Option<String> {
    let rule = "must set securityContext.allowPrivilegeEscalation=false";
    let complaint = complain(pod, rule, |c| c["securityContext"]["allowPrivilegeEscalation"] != false)?;
    (!on_windows(pod)).then_some(complaint)
}

const PLAIN_VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn restricted_volumes(pod: &Pod<'_>) -> Option<String> {
    let kind = |volume: &Value| -> Option<String> {
        volume.as_object()?.keys().find(|key| *key != "name" && !PLAIN_VOLUMES.contains(&key.as_str())).cloned()
    };
    let bad: Vec<(&str, String)> =
        items(&pod.spec["volumes"]).filter_map(|volume| Some((text(volume, "/name"), kind(volume)?))).collect();
    let names: Vec<&str> = bad.iter().map(|(name, _)| *name).collect();
    let kinds: BTreeSet<&str> = bad.iter().map(|(_, kind)| kind.as_str()).collect();
    let kinds = plural("restricted volume type", &kinds.into_iter().collect::<Vec<_>>())?;
    let verb = if names.len() == 1 { "uses" } else { "use" };
    Some(format!("{} {verb} {kinds}", plural("volume", &names)?))
}

fn run_as_non_root(pod: &Pod<'_>) -> Option<String> {
    if let Some(who) = setters(pod, |context| context["runAsNonRoot"] == false) {
        return Some(format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let whole = pod.spec["securityContext"]["runAsNonRoot"] == true;
    let rule = "must set securityContext.runAsNonRoot=true";
    let complaint = complain(pod, rule, |c| !whole && c["securityContext"]["runAsNonRoot"].is_null())?;
    Some(format!("pod or {complaint}"))
}

fn run_as_user(pod: &Pod<'_>) -> Option<String> {
    let who = setters(pod, |context| context["runAsUser"] == 0)?;
    Some(format!("{who} must not set runAsUser=0"))
}
