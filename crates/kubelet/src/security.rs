//! As whom and with which rights a container runs: the pod's and the container's `securityContext` put together.

use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile};

use crate::runtime::{Capabilities, ImageUser, Seccomp, SecurityContext};
use crate::text::pod_in_messages;

/// The security context for the runtime. Profiles of type `Localhost` are read below `seccomp_root`.
///
/// # Errors
/// The message of `CreateContainerConfigError`: `runAsNonRoot` would be broken, or a profile cannot be read.
pub fn security_context(
    pod: &Pod,
    container: &Container,
    image_user: &ImageUser,
    seccomp_root: &Path,
) -> Result<SecurityContext, String> {
    let of_pod = pod.spec.as_ref().and_then(|s| s.security_context.clone()).unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let run_as_user = own.run_as_user.or(of_pod.run_as_user);
    if own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) {
        verify_non_root(pod, container, run_as_user, image_user)?;
    }
    let capabilities = own.capabilities.unwrap_or_default();
    let privileged = own.privileged.unwrap_or(false);
    let profile = own.seccomp_profile.or(of_pod.seccomp_profile);
    Ok(SecurityContext {
        run_as_user,
        run_as_group: own.run_as_group.or(of_pod.run_as_group),
        supplemental_groups: of_pod.supplemental_groups.into_iter().flatten().chain(of_pod.fs_group).collect(),
        capabilities: Capabilities {
            add: capabilities.add.unwrap_or_default(),
            drop: capabilities.drop.unwrap_or_default(),
        },
        privileged,
        read_only_root: own.read_only_root_filesystem.unwrap_or(false),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        seccomp: if privileged { Seccomp::Unconfined } else { seccomp(profile.as_ref(), seccomp_root)? },
    })
}

/// Without a profile a container is unconfined: Kubernetes' default, unlike Docker's.
fn seccomp(profile: Option<&SeccompProfile>, root: &Path) -> Result<Seccomp, String> {
    let Some(profile) = profile else { return Ok(Seccomp::Unconfined) };
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(Seccomp::RuntimeDefault),
        "Localhost" => {
            let path = root.join(profile.localhost_profile.as_deref().unwrap_or_default());
            let text = std::fs::read_to_string(&path);
            text.map(Seccomp::Profile).map_err(|error| format!("failed to load seccomp profile {path:?}: {error}"))
        }
        _ => Ok(Seccomp::Unconfined),
    }
}

fn verify_non_root(pod: &Pod, container: &Container, uid: Option<i64>, image_user: &ImageUser) -> Result<(), String> {
    let whose = format!("(pod: \"{}\", container: {})", pod_in_messages(pod), container.name);
    match (uid, image_user) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {whose}")),
        (None, ImageUser::Uid(0)) => Err(format!("container has runAsNonRoot and image will run as root {whose}")),
        (None, ImageUser::Name(name)) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {whose}"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::observed::containers;
    use crate::testing::pod;

    fn context(of_pod: Value, own: Value, user: &ImageUser) -> Result<SecurityContext, String> {
        let pod =
            pod("p", json!({ "securityContext": of_pod, "containers": [{ "name": "a", "securityContext": own }] }));
        security_context(&pod, &containers(&pod)[0], user, Path::new("/nowhere"))
    }

    #[test]
    fn the_container_overrides_the_pod() {
        let of_pod = json!({ "runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4] });
        let got = context(of_pod, json!({ "runAsUser": 5, "capabilities": { "drop": ["ALL"] } }), &ImageUser::Uid(0))
            .unwrap();
        assert_eq!((got.run_as_user, got.run_as_group), (Some(5), Some(2)));
        assert_eq!(got.supplemental_groups, [4, 3]);
        assert_eq!(got.capabilities.drop, ["ALL"]);
        assert_eq!(got.seccomp, Seccomp::Unconfined);
    }

    #[test]
    fn root_is_refused_where_it_is_not_wanted() {
        let non_root = || json!({ "runAsNonRoot": true });
        for (own, user, message) in [
            (json!({}), ImageUser::Uid(0), Some("container has runAsNonRoot and image will run as root")),
            (json!({ "runAsUser": 0 }), ImageUser::Uid(7), Some("container's runAsUser breaks non-root policy")),
            (
                json!({}),
                ImageUser::Name("web".into()),
                Some("container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root"),
            ),
            (json!({ "runAsUser": 7 }), ImageUser::Uid(0), None),
            (json!({ "runAsNonRoot": false }), ImageUser::Uid(0), None),
        ] {
            let whole = message.map(|m| format!("{m} (pod: \"p_default(uid-p)\", container: a)"));
            assert_eq!(context(non_root(), own, &user).err(), whole);
        }
    }
}
