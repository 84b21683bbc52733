//! Speaking for somebody else: `Impersonate-User`, `-Uid`, `-Group` and `-Extra-*` headers (`kubectl --as`).
//!
//! Who sends them must be permitted the verb `impersonate` on each thing they claim to be.

use coracle_api::{ApiError, ApiResult};
use http::HeaderMap;

use crate::hooks::{Attributes, Authorizer, Decision, UserInfo};
use crate::rbac::forbidden;
use crate::request_info::RequestInfo;

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// The user a request is to be taken as, if its headers name one and `real` may speak for them.
///
/// There are two ways to have that right. Constrained impersonation (KEP-5284) asks for the identity, by a verb that
/// says of what sort it is (`impersonate:user-info`), and for what is then done (`impersonate-on:user-info:list` on the
/// resource itself). Who has not both needs the plain verb `impersonate`, which is good for everything.
///
/// # Errors
/// 400 for headers that make no sense, 403 for who may not.
pub async fn impersonated(
    authorizer: &dyn Authorizer,
    real: &UserInfo,
    headers: &HeaderMap,
    info: &RequestInfo,
) -> ApiResult<Option<UserInfo>> {
    let Some(claimed) = claim(headers)? else { return Ok(None) };
    if let Some(mode) = mode(&claimed, real) {
        let mut wanted = constrained(&claimed, mode);
        wanted.push(Attributes { verb: format!("impersonate-on:{mode}:{}", info.verb), ..Attributes::from(info) });
        let mut all = true;
        for wanted in &wanted {
            all = all && authorizer.authorize(real, wanted).await == Decision::Allow;
        }
        if all {
            return Ok(Some(completed(claimed)));
        }
    }
    for wanted in needed(&claimed) {
        match authorizer.authorize(real, &wanted).await {
            Decision::Allow => {}
            Decision::Deny(reason) => return Err(forbidden(real, &wanted, &reason)),
            Decision::NoOpinion => return Err(forbidden(real, &wanted, "")),
        }
    }
    Ok(Some(completed(claimed)))
}

/// The sort of constrained impersonation this is. Groups and the rest may be claimed only for plain users.
fn mode(claimed: &UserInfo, real: &UserInfo) -> Option<&'static str> {
    let alone = claimed.groups.is_empty() && claimed.uid.is_empty() && claimed.extra.is_empty();
    match claimed.name.strip_prefix("system:node:") {
        Some(node) => alone.then(|| {
            let own = real.extra.get("authentication.kubernetes.io/node-name").is_some_and(|names| names == &[node]);
            if own { "associated-node" } else { "arbitrary-node" }
        }),
        None if service_account(&claimed.name).is_some() => alone.then_some("serviceaccount"),
        None => Some("user-info"),
    }
}

/// The identity checks of constrained impersonation.
fn constrained(claimed: &UserInfo, mode: &str) -> Vec<Attributes> {
    let mut checks = needed(claimed);
    for check in &mut checks {
        check.verb = format!("impersonate:{mode}");
        check.group = AUTHENTICATION.into();
    }
    if let (Some(node), Some(first)) = (claimed.name.strip_prefix("system:node:"), checks.first_mut()) {
        first.resource = "nodes".into();
        first.name = if mode == "associated-node" { "*".into() } else { node.to_owned() };
    }
    checks
}

/// The user the headers claim to be; `None` without such headers.
fn claim(headers: &HeaderMap) -> ApiResult<Option<UserInfo>> {
    let all = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
    };
    let mut claimed = UserInfo { groups: all(GROUP), ..UserInfo::default() };
    for name in headers.keys() {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            claimed.extra.insert(key.replace("%2f", "/"), all(name.as_str()));
        }
    }
    claimed.uid = all(UID).into_iter().next().unwrap_or_default();
    match all(USER).into_iter().next() {
        Some(name) => Ok(Some(UserInfo { name, ..claimed })),
        None if claimed == UserInfo::default() => Ok(None),
        None => Err(ApiError::bad_request(format!("requested {claimed:?} without impersonating a user"))),
    }
}

/// The namespace and name of a ServiceAccount's user name.
fn service_account(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix("system:serviceaccount:")?.split_once(':')
}

/// What one must be permitted to claim this.
fn needed(claimed: &UserInfo) -> Vec<Attributes> {
    let thing = |group: &str, resource: &str, namespace: &str, name: &str| Attributes {
        verb: "impersonate".into(),
        is_resource: true,
        group: group.into(),
        resource: resource.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..Attributes::default()
    };
    let mut needed = vec![match service_account(&claimed.name) {
        Some((namespace, name)) => thing("", "serviceaccounts", namespace, name),
        None => thing("", "users", "", &claimed.name),
    }];
    needed.extend(claimed.groups.iter().map(|group| thing("", "groups", "", group)));
    if !claimed.uid.is_empty() {
        needed.push(thing(AUTHENTICATION, "uids", "", &claimed.uid));
    }
    for (key, values) in &claimed.extra {
        for value in values {
            let extra = thing(AUTHENTICATION, "userextras", "", value);
            needed.push(Attributes { subresource: key.clone(), ..extra });
        }
    }
    needed
}

/// The groups that everybody of their sort is in.
fn completed(mut claimed: UserInfo) -> UserInfo {
    let mut implied: Vec<String> = Vec::new();
    if let (Some((namespace, _)), true) = (service_account(&claimed.name), claimed.groups.is_empty()) {
        implied.push("system:serviceaccounts".into());
        implied.push(format!("system:serviceaccounts:{namespace}"));
    }
    let everybody = if claimed.name == "system:anonymous" { "system:unauthenticated" } else { "system:authenticated" };
    implied.push(everybody.into());
    for group in implied {
        if !claimed.groups.contains(&group) {
            claimed.groups.push(group);
        }
    }
    claimed
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use http::{HeaderName, HeaderValue, Method};

    use super::*;

    /// Permits `boss` to impersonate users, and `deputy` to list pods in their name.
    #[derive(Debug)]
    struct Policy;

    #[async_trait]
    impl Authorizer for Policy {
        async fn authorize(&self, user: &UserInfo, wanted: &Attributes) -> Decision {
            let allowed = match (user.name.as_str(), wanted.verb.as_str(), wanted.resource.as_str()) {
                ("boss", "impersonate", "users") => true,
                ("deputy", "impersonate:user-info", "users") => wanted.group == AUTHENTICATION,
                ("deputy", "impersonate-on:user-info:list", "pods") => true,
                _ => false,
            };
            if allowed { Decision::Allow } else { Decision::NoOpinion }
        }
    }

    async fn ask(who: &str, url: &str, headers: &[(&str, &str)]) -> ApiResult<Option<UserInfo>> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let info = RequestInfo::parse(&Method::GET, &url.parse().unwrap());
        impersonated(&Policy, &UserInfo::new(who, &[]), &map, &info).await
    }

    #[tokio::test]
    async fn who_may_impersonate_becomes_the_user_they_claim_to_be() {
        assert_eq!(ask("boss", "/api", &[]).await.unwrap(), None);
        let user = ask("boss", "/api", &[("Impersonate-User", "alice")]).await.unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.groups.as_slice()), ("alice", &["system:authenticated".to_owned()][..]));
    }

    #[tokio::test]
    async fn who_may_not_impersonate_is_told_what_is_missing() {
        let error = ask("mallory", "/api", &[("Impersonate-User", "boss")]).await.unwrap_err();
        assert_eq!(
            error.message,
            r#"users "boss" is forbidden: User "mallory" cannot impersonate resource "users" in API group "" at the cluster scope"#
        );
        let group = [("Impersonate-User", "alice"), ("Impersonate-Group", "system:masters")];
        assert_eq!(ask("boss", "/api", &group).await.unwrap_err().code, 403);
        assert_eq!(ask("boss", "/api", &[("Impersonate-Group", "x")]).await.unwrap_err().code, 400);
    }

    #[tokio::test]
    async fn a_constrained_right_is_good_for_what_it_names_only() {
        let alice = [("Impersonate-User", "alice")];
        assert_eq!(ask("deputy", "/api/v1/pods", &alice).await.unwrap().unwrap().name, "alice");
        assert_eq!(ask("deputy", "/api/v1/secrets", &alice).await.unwrap_err().code, 403);
        let account = [("Impersonate-User", "system:serviceaccount:d:robot")];
        assert_eq!(ask("deputy", "/api/v1/pods", &account).await.unwrap_err().code, 403);
    }
}
