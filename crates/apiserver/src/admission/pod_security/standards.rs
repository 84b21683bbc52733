//! The Pod Security Standards: what each level objects to, in upstream's order and words.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::{containers, items, text};
use super::Level;

/// What a pod does that it may not.
#[derive(Debug)]
pub(super) struct Violation {
    /// The rule, such as `host namespaces`.
    pub(super) reason: &'static str,
    /// What breaks it.
    pub(super) detail: String,
}

/// What finds something to object to in a pod's `spec`: the rule, and what breaks it, if something does.
type Check = (&'static str, fn(&Value) -> Option<String>);

const BASELINE: [Check; 12] = [
    ("forbidden AppArmor profile", apparmor),
    ("non-default capabilities", default_capabilities),
    ("host namespaces", host_namespaces),
    ("hostPath volumes", host_path_volumes),
    ("hostPort", host_ports),
    ("probe or lifecycle host", probe_hosts),
    ("privileged", privileged),
    ("procMount", |spec| if in_user_namespace(spec) { None } else { proc_mount(spec) }),
    ("seLinuxOptions", selinux),
    ("seccompProfile", seccomp),
    ("forbidden sysctls", sysctls),
    ("hostProcess", host_process),
];
/// Those of `baseline` that `restricted` has stricter forms of.
const OVERRIDDEN: [&str; 4] = ["non-default capabilities", "hostPath volumes", "procMount", "seccompProfile"];
const RESTRICTED: [Check; 7] = [
    ("allowPrivilegeEscalation != false", privilege_escalation),
    ("unrestricted capabilities", dropped_capabilities),
    ("procMount", proc_mount),
    ("restricted volume types", restricted_volumes),
    ("runAsNonRoot != true", |spec| if in_user_namespace(spec) { None } else { run_as_non_root(spec) }),
    ("runAsUser=0", |spec| if in_user_namespace(spec) { None } else { run_as_user(spec) }),
    ("seccompProfile", required_seccomp),
];

/// Everything a level objects to in a pod.
pub(super) fn violations(level: Level, spec: &Value) -> Vec<Violation> {
    let kept = |(reason, _): &&Check| level == Level::Baseline || !OVERRIDDEN.contains(reason);
    let (baseline, restricted) = match level {
        Level::Privileged => (&BASELINE[..0], &RESTRICTED[..0]),
        Level::Baseline => (&BASELINE[..], &RESTRICTED[..0]),
        Level::Restricted => (&BASELINE[..], &RESTRICTED[..]),
    };
    let checks = baseline.iter().filter(kept).chain(restricted);
    checks.filter_map(|(reason, check)| Some(Violation { reason, detail: check(spec)? })).collect()
}

fn quoted<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    texts.into_iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", ")
}

/// `container "a"` or `containers "a", "b"`; nothing of none.
fn plural(noun: &str, names: &[&str]) -> Option<String> {
    let end = if names.len() == 1 { "" } else { "s" };
    (!names.is_empty()).then(|| format!("{noun}{end} {}", quoted(names.iter().copied())))
}

/// The names of the containers for which `bad` holds.
fn bad_containers(spec: &Value, bad: impl Fn(&Value) -> bool) -> Vec<&str> {
    containers(spec).filter(|(_, container)| bad(container)).map(|(_, container)| text(container, "/name")).collect()
}

/// The containers for which `bad` holds, and what they break: `containers "a", "b" must not`.
fn complain(spec: &Value, rule: &str, bad: impl Fn(&Value) -> bool) -> Option<String> {
    Some(format!("{} {rule}", plural("container", &bad_containers(spec, bad))?))
}

/// Who says something bad in its `securityContext`: `pod and container "a"`.
fn setters(spec: &Value, bad: impl Fn(&Value) -> bool) -> Option<String> {
    let pod = bad(&spec["securityContext"]).then(|| "pod".to_owned());
    let names = bad_containers(spec, |container| bad(&container["securityContext"]));
    let who: Vec<String> = pod.into_iter().chain(plural("container", &names)).collect();
    (!who.is_empty()).then(|| who.join(" and "))
}

/// All values at a path in the security contexts of the pod and its containers.
fn all<'a>(spec: &'a Value, path: &str) -> BTreeSet<&'a str> {
    let contexts = containers(spec).map(|(_, container)| &container["securityContext"]);
    contexts.chain([&spec["securityContext"]]).map(|context| text(context, path)).collect()
}

fn on_windows(spec: &Value) -> bool {
    spec["os"]["name"] == "windows"
}

/// Root in such a pod is nobody outside.
fn in_user_namespace(spec: &Value) -> bool {
    spec["hostUsers"] == false
}

fn apparmor(spec: &Value) -> Option<String> {
    let path = "/appArmorProfile/type";
    let bad = |value: &str| !["", "RuntimeDefault", "Localhost"].contains(&value);
    let who = setters(spec, |context| bad(text(context, path)))?;
    let values = quoted(all(spec, path).into_iter().filter(|value| bad(value)));
    Some(format!("{who} must not set AppArmor profile type to {values}"))
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
fn forbidden_capabilities(spec: &Value, allowed: &[&str]) -> Option<String> {
    let added = |container: &Value| -> BTreeSet<String> {
        let added = items(&container["securityContext"]["capabilities"]["add"]).filter_map(Value::as_str);
        added.filter(|capability| !allowed.contains(capability)).map(str::to_owned).collect()
    };
    let all: BTreeSet<String> = containers(spec).flat_map(|(_, container)| added(container)).collect();
    let list = quoted(all.iter().map(String::as_str));
    let rule = format!("must not include {list} in securityContext.capabilities.add");
    complain(spec, &rule, |container| !added(container).is_empty())
}

fn default_capabilities(spec: &Value) -> Option<String> {
    forbidden_capabilities(spec, &DEFAULT_CAPABILITIES)
}

fn dropped_capabilities(spec: &Value) -> Option<String> {
    let drops_all = |container: &Value| {
        items(&container["securityContext"]["capabilities"]["drop"]).any(|capability| capability == "ALL")
    };
    let rule = "must set securityContext.capabilities.drop=[\"ALL\"]";
    let kept = complain(spec, rule, |container| !drops_all(container));
    let complaints: Vec<String> = kept.into_iter().chain(forbidden_capabilities(spec, &["NET_BIND_SERVICE"])).collect();
    (!complaints.is_empty() && !on_windows(spec)).then(|| complaints.join("; "))
}

fn host_namespaces(spec: &Value) -> Option<String> {
    let used: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|field| spec[**field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    (!used.is_empty()).then(|| used.join(", "))
}

fn host_path_volumes(spec: &Value) -> Option<String> {
    let names: Vec<&str> =
        items(&spec["volumes"]).filter(|v| v["hostPath"].is_object()).map(|v| text(v, "/name")).collect();
    plural("volume", &names)
}

/// `container "a" uses hostPort 80` or `containers "a", "b" use hostPorts 80, 81`.
fn uses(spec: &Value, noun: &str, of: impl Fn(&Value) -> BTreeSet<String>, quote: bool) -> Option<String> {
    let names = bad_containers(spec, |container| !of(container).is_empty());
    let used: BTreeSet<String> = containers(spec).flat_map(|(_, container)| of(container)).collect();
    let list: Vec<String> = used.iter().map(|used| if quote { format!("{used:?}") } else { used.clone() }).collect();
    let (verb, end) = (if names.len() == 1 { "uses" } else { "use" }, if used.len() == 1 { "" } else { "s" });
    Some(format!("{} {verb} {noun}{end} {}", plural("container", &names)?, list.join(", ")))
}

fn host_ports(spec: &Value) -> Option<String> {
    let ports = |container: &Value| -> BTreeSet<String> {
        let ports = items(&container["ports"]).filter_map(|port| port["hostPort"].as_u64());
        ports.filter(|port| *port != 0).map(|port| port.to_string()).collect()
    };
    uses(spec, "hostPort", ports, false)
}

fn probe_hosts(spec: &Value) -> Option<String> {
    let hosts = |container: &Value| -> BTreeSet<String> {
        let handlers =
            ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];
        let hosts = handlers.iter().flat_map(|handler| {
            ["httpGet", "tcpSocket"].map(|sort| text(container, &format!("{handler}/{sort}/host")).to_owned())
        });
        hosts.filter(|host| !host.is_empty()).collect()
    };
    uses(spec, "probe or lifecycle host", hosts, true)
}

fn privileged(spec: &Value) -> Option<String> {
    let rule = "must not set securityContext.privileged=true";
    complain(spec, rule, |container| container["securityContext"]["privileged"] == true)
}

fn proc_mount(spec: &Value) -> Option<String> {
    let rule = "must not set securityContext.procMount to \"Unmasked\"";
    complain(spec, rule, |container| container["securityContext"]["procMount"] == "Unmasked")
}

fn selinux(spec: &Value) -> Option<String> {
    let allowed = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
    let set = |context: &Value, field: &str| !text(context, &format!("/seLinuxOptions/{field}")).is_empty();
    let who = setters(spec, |context| {
        !allowed.contains(&text(context, "/seLinuxOptions/type")) || set(context, "user") || set(context, "role")
    })?;
    let types: Vec<&str> =
        all(spec, "/seLinuxOptions/type").into_iter().filter(|value| !allowed.contains(value)).collect();
    let mut what: Vec<String> = plural("type", &types).into_iter().collect();
    for field in ["user", "role"] {
        if setters(spec, |context| set(context, field)).is_some() {
            what.push(format!("{field} may not be set"));
        }
    }
    Some(format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; ")))
}

fn seccomp(spec: &Value) -> Option<String> {
    let who = setters(spec, |context| text(context, "/seccompProfile/type") == "Unconfined")?;
    Some(format!("{who} must not set securityContext.seccompProfile.type to \"Unconfined\""))
}

fn required_seccomp(spec: &Value) -> Option<String> {
    let path = "/seccompProfile/type";
    let good = |kind: &str| matches!(kind, "RuntimeDefault" | "Localhost");
    let bad = |kind: &str| !kind.is_empty() && !good(kind);
    if on_windows(spec) {
        return None;
    }
    if let Some(who) = setters(spec, |context| bad(text(context, path))) {
        let values = quoted(all(spec, path).into_iter().filter(|kind| bad(kind)));
        return Some(format!("{who} must not set securityContext.seccompProfile.type to {values}"));
    }
    let pod = good(text(&spec["securityContext"], path));
    let rule = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
    let complaint = complain(spec, rule, |c| !pod && text(&c["securityContext"], path).is_empty())?;
    Some(format!("pod or {complaint}"))
}

const SAFE_SYSCTLS: [&str; 12] = [
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
    "net.ipv4.tcp_wmem",
];

fn sysctls(spec: &Value) -> Option<String> {
    let names = items(&spec["securityContext"]["sysctls"]).map(|sysctl| text(sysctl, "/name"));
    let bad: Vec<&str> = names.filter(|name| !SAFE_SYSCTLS.contains(name)).collect();
    (!bad.is_empty()).then(|| bad.join(", "))
}

fn host_process(spec: &Value) -> Option<String> {
    let who = setters(spec, |context| context["windowsOptions"]["hostProcess"] == true)?;
    Some(format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

fn privilege_escalation(spec: &Value) -> Option<String> {
    let rule = "must set securityContext.allowPrivilegeEscalation=false";
    let complaint = complain(spec, rule, |c| c["securityContext"]["allowPrivilegeEscalation"] != false)?;
    (!on_windows(spec)).then_some(complaint)
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

fn restricted_volumes(spec: &Value) -> Option<String> {
    let kind = |volume: &Value| -> Option<String> {
        volume.as_object()?.keys().find(|key| *key != "name" && !PLAIN_VOLUMES.contains(&key.as_str())).cloned()
    };
    let bad: Vec<(&str, String)> =
        items(&spec["volumes"]).filter_map(|volume| Some((text(volume, "/name"), kind(volume)?))).collect();
    let names: Vec<&str> = bad.iter().map(|(name, _)| *name).collect();
    let kinds: BTreeSet<&str> = bad.iter().map(|(_, kind)| kind.as_str()).collect();
    let kinds = plural("restricted volume type", &kinds.into_iter().collect::<Vec<_>>())?;
    let verb = if names.len() == 1 { "uses" } else { "use" };
    Some(format!("{} {verb} {kinds}", plural("volume", &names)?))
}

fn run_as_non_root(spec: &Value) -> Option<String> {
    if let Some(who) = setters(spec, |context| context["runAsNonRoot"] == false) {
        return Some(format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let pod = spec["securityContext"]["runAsNonRoot"] == true;
    let rule = "must set securityContext.runAsNonRoot=true";
    let complaint = complain(spec, rule, |c| !pod && c["securityContext"]["runAsNonRoot"].is_null())?;
    Some(format!("pod or {complaint}"))
}

fn run_as_user(spec: &Value) -> Option<String> {
    let who = setters(spec, |context| context["runAsUser"] == 0)?;
    Some(format!("{who} must not set runAsUser=0"))
}
