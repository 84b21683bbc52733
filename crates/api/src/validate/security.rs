//! What a pod and its containers may do on their node: namespaces, sysctls, profiles, operating systems.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{each, join, list, text};
use crate::field::FieldErrors;

/// What a pod spec's security context needs the rest of the spec for.
pub(super) fn pod(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let context_path = join(path, "securityContext");
    if spec["hostPID"] == true && spec["shareProcessNamespace"] == true {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&join(&context_path, "shareProcessNamespace"), true, why);
    }
    sysctls(spec, &context_path, errors);
    host_process(spec, path, errors);
    if spec["hostUsers"] == false {
        for (key, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
            if spec[key] == true {
                errors.forbidden(&join(path, shown), "when `pod.Spec.HostUsers` is false");
            }
        }
    } else {
        for (path, container) in every_container(spec, path) {
            if container["securityContext"]["procMount"] == "Unmasked" {
                let why = "`hostUsers` must be false to use `Unmasked`";
                errors.invalid(&join(&path, "securityContext.procMount"), "Unmasked", why);
            }
        }
    }
    match text(&spec["os"], "name") {
        "" => {}
        "linux" => linux(spec, path, errors),
        "windows" => windows(spec, path, errors),
        other => errors.not_supported(&join(path, "os"), other, &["linux", "windows"]),
    }
}

fn every_container<'a>(spec: &'a Value, path: &'a str) -> impl Iterator<Item = (String, &'a Value)> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(move |key| each(spec, path, key))
}

fn is_sysctl(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let segment = |part: &str| {
        part.starts_with(plain) && part.ends_with(plain) && part.chars().all(|c| plain(c) || "-_".contains(c))
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

fn sysctls(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let mut names = BTreeSet::new();
    for (path, sysctl) in each(&spec["securityContext"], path, "sysctls") {
        let (name, path) = (text(sysctl, "name"), join(&path, "name"));
        if name.is_empty() {
            errors.required(&path, "");
        } else if !is_sysctl(name) {
            let segment = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
            let why = format!("must have at most 253 characters and match regex ^({segment}[\\./])*{segment}$");
            errors.invalid(&path, name, why);
        } else if !names.insert(name) {
            errors.duplicate(&path, name);
        }
        let dotted = name.replace('/', ".");
        let of_ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| dotted.starts_with(prefix));
        let of_ipc = of_ipc || dotted == "kernel.sem";
        for (shared, flag) in [(dotted.starts_with("net."), "hostNetwork"), (of_ipc, "hostIPC")] {
            if shared && spec[flag] == true {
                errors.invalid(&path, name, format!("may not be specified when '{flag}' is true"));
            }
        }
    }
}

/// Containers of Windows that are processes of their host: all of a pod's, or none.
fn host_process(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let of = |context: &Value| context["windowsOptions"]["hostProcess"].as_bool();
    let pod = of(&spec["securityContext"]);
    let (mut all, mut host) = (0, 0);
    for (path, container) in every_container(spec, path) {
        let own = of(&container["securityContext"]);
        if let (Some(pod), Some(own)) = (pod, own)
            && pod != own
        {
            let why = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            errors.invalid(&join(&path, "securityContext.windowsOptions.hostProcess"), own, why);
        }
        all += 1;
        host += usize::from(own.or(pod) == Some(true));
    }
    if host == 0 {
        return;
    }
    if host != all {
        let why = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.invalid(path, "", why);
    }
    if spec["hostNetwork"] != true {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.invalid(&join(path, "hostNetwork"), false, why);
    }
}

fn linux(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let own = [(path.to_owned(), spec)];
    for (path, of) in own.into_iter().chain(every_container(spec, path)) {
        if of["securityContext"]["windowsOptions"].is_object() {
            let why = "windows options cannot be set for a linux pod";
            errors.forbidden(&join(&path, "securityContext.windowsOptions"), why);
        }
    }
}

fn windows(spec: &Value, path: &str, errors: &mut FieldErrors) {
    const WHY: &str = "cannot be set for a windows pod";
    const OF_POD: [&str; 12] = [
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "fsGroup",
        "fsGroupChangePolicy",
        "sysctls",
        "runAsUser",
        "runAsGroup",
        "supplementalGroups",
        "supplementalGroupsPolicy",
        "seLinuxChangePolicy",
        "procMount",
    ];
    const OF_CONTAINER: [&str; 10] = [
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "capabilities",
        "readOnlyRootFilesystem",
        "privileged",
        "allowPrivilegeEscalation",
        "procMount",
        "runAsUser",
        "runAsGroup",
    ];
    let mut refuse = |of: &Value, path: &str, keys: &[&str]| {
        for key in keys.iter().filter(|key| !crate::rules::is_empty(&of[**key])) {
            errors.forbidden(&join(path, key), WHY);
        }
    };
    refuse(&spec["securityContext"], &join(path, "securityContext"), &OF_POD);
    refuse(spec, path, &["hostUsers", "shareProcessNamespace"]);
    let shared: Vec<&str> = ["hostPID", "hostIPC"].into_iter().filter(|key| spec[*key] == true).collect();
    refuse(spec, path, &shared);
    for (path, container) in every_container(spec, path) {
        refuse(&container["securityContext"], &join(&path, "securityContext"), &OF_CONTAINER);
    }
}

/// A seccomp or AppArmor profile: it names a file of the node if it is `Localhost`, and only then.
pub(super) fn profile(profile: &Value, path: &str, errors: &mut FieldErrors, noun: &str) {
    let (kind, file) = (text(profile, "type"), &profile["localhostProfile"]);
    let path = join(path, "localhostProfile");
    match (kind, file.as_str()) {
        ("Localhost", Some(file)) if noun == "seccomp" => {
            super::report(crate::names::check_descending_path(file), &path, file, errors);
        }
        ("Localhost", None | Some("")) => {
            errors.required(&path, format!("must be set when {noun} type is Localhost"));
        }
        ("Localhost", Some(file)) if file.trim() != file => {
            errors.invalid(&path, file, "must not be padded with whitespace");
        }
        ("RuntimeDefault" | "Unconfined", Some(file)) => {
            errors.invalid(&path, file, format!("can only be set when {noun} type is Localhost"));
        }
        _ => {}
    }
}

/// A container's security context.
pub(super) fn container(context: &Value, path: &str, errors: &mut FieldErrors) {
    if context["allowPrivilegeEscalation"] != false {
        return;
    }
    if context["privileged"] == true {
        let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.invalid(path, context.clone(), why);
    }
    if list(&context["capabilities"], "add").iter().any(|capability| capability == "CAP_SYS_ADMIN") {
        let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
        errors.invalid(path, context.clone(), why);
    }
}

/// What is special about the user and credentials of a container of Windows.
pub(super) fn windows_options(options: &Value, path: &str, errors: &mut FieldErrors) {
    if let Some(name) = options["gmsaCredentialSpecName"].as_str() {
        super::report(crate::names::check_dns_subdomain(name), &join(path, "gmsaCredentialSpecName"), name, errors);
    }
    if let Some(spec) = options["gmsaCredentialSpec"].as_str() {
        let path = join(path, "gmsaCredentialSpec");
        if spec.is_empty() {
            errors.invalid(&path, spec, "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > 64 << 10 {
            errors.invalid(&path, spec, "gmsaCredentialSpec size must be under 64 KiB");
        }
    }
    if let Some(name) = options["runAsUserName"].as_str()
        && let Some(why) = bad_user(name)
    {
        errors.invalid(&join(path, "runAsUserName"), name, format!("runAsUserName{why}"));
    }
}

fn bad_user(name: &str) -> Option<&'static str> {
    let parts: Vec<&str> = name.split('\\').collect();
    let (domain, user) = match parts.as_slice() {
        [user] => ("", *user),
        [domain, user] => (*domain, *user),
        _ => return Some(" cannot contain more than one backslash"),
    };
    [
        (name.is_empty(), " cannot be an empty string"),
        (name.contains(|c: char| c.is_ascii_control()), " cannot contain control characters"),
        (domain.len() >= 256, "'s Domain length must be under 256 characters"),
        (user.is_empty(), "'s User cannot be empty"),
        (user.len() > 104, "'s User length must not be longer than 104 characters"),
        (user.chars().all(|c| c == '.' || c == ' '), "'s User cannot contain only periods or spaces"),
        (
            user.contains(|c| "\"/\\:;|=,+*?<>@[]".contains(c)),
            "'s User cannot contain the following characters: \"/\\:;|=,+*?<>@[]",
        ),
    ]
    .into_iter()
    .find_map(|(bad, why)| bad.then_some(why))
}
