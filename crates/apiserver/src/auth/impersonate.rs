//! Speaking for somebody else: `Impersonate-User`, `-Uid`, `-Group` and `-Extra-*` headers (`kubectl --as`).
//!
//! Who sends them must be permitted the verb `impersonate` on each thing they claim to be.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_api::{ApiError, ApiResult};
use http::HeaderMap;
use http::request::Parts;

use crate::hooks::{Attributes, Authenticator, UserInfo};
use crate::rbac::Union;

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA: &str = "impersonate-extra-";

/// Authenticates by the authenticators below it, then honours impersonation.
#[derive(Debug)]
pub struct Impersonation {
    inner: Vec<Arc<dyn Authenticator>>,
    authorizer: Union,
}

impl Impersonation {
    /// Over `inner`, permitted by `authorizer`.
    pub fn new(inner: Vec<Arc<dyn Authenticator>>, authorizer: Union) -> Self {
        Impersonation { inner, authorizer }
    }
}

#[async_trait]
impl Authenticator for Impersonation {
    async fn authenticate(&self, parts: &Parts) -> Option<ApiResult<UserInfo>> {
        let mut user = None;
        for authenticator in &self.inner {
            user = authenticator.authenticate(parts).await;
            if user.is_some() {
                break;
            }
        }
        let claimed = match claim(&parts.headers) {
            Ok(None) => return user,
            Ok(Some(claimed)) => claimed,
            Err(refusal) => return Some(Err(refusal)),
        };
        let real = match user {
            Some(Err(refusal)) => return Some(Err(refusal)),
            Some(Ok(user)) => user,
            None => UserInfo::anonymous(),
        };
        for wanted in needed(&claimed) {
            if let Err(refusal) = self.authorizer.require(&real, &wanted).await {
                return Some(Err(refusal));
            }
        }
        Some(Ok(completed(claimed)))
    }
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
        needed.push(thing("authentication.k8s.io", "uids", "", &claimed.uid));
    }
    for (key, values) in &claimed.extra {
        for value in values {
            let extra = thing("authentication.k8s.io", "userextras", "", value);
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
    use super::*;
    use crate::hooks::{Authorizer, Decision};

    #[derive(Debug)]
    struct Known(&'static str);

    #[async_trait]
    impl Authenticator for Known {
        async fn authenticate(&self, _: &Parts) -> Option<ApiResult<UserInfo>> {
            Some(Ok(UserInfo::new(self.0, &[])))
        }
    }

    /// `boss` may impersonate users.
    #[derive(Debug)]
    struct Boss;

    #[async_trait]
    impl Authorizer for Boss {
        async fn authorize(&self, user: &UserInfo, wanted: &Attributes) -> Decision {
            let allowed = user.name == "boss" && wanted.verb == "impersonate" && wanted.resource == "users";
            if allowed { Decision::Allow } else { Decision::NoOpinion }
        }
    }

    async fn ask(who: &'static str, headers: &[(&str, &str)]) -> ApiResult<UserInfo> {
        let mut request = http::Request::get("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let union = Union(Arc::new([Arc::new(Boss) as Arc<dyn Authorizer>]));
        let parts = request.body(()).unwrap().into_parts().0;
        Impersonation::new(vec![Arc::new(Known(who))], union).authenticate(&parts).await.unwrap()
    }

    #[tokio::test]
    async fn who_may_impersonate_becomes_the_user_they_claim_to_be() {
        assert_eq!(ask("boss", &[]).await.unwrap().name, "boss");
        let user = ask("boss", &[("Impersonate-User", "alice")]).await.unwrap();
        assert_eq!((user.name.as_str(), user.groups.as_slice()), ("alice", &["system:authenticated".to_owned()][..]));
    }

    #[tokio::test]
    async fn who_may_not_impersonate_is_told_what_is_missing() {
        let error = ask("mallory", &[("Impersonate-User", "boss")]).await.unwrap_err();
        assert_eq!(
            error.message,
            r#"users "boss" is forbidden: User "mallory" cannot impersonate resource "users" in API group "" at the cluster scope"#
        );
        let group = [("Impersonate-User", "alice"), ("Impersonate-Group", "system:masters")];
        assert_eq!(ask("boss", &group).await.unwrap_err().code, 403);
        assert_eq!(ask("boss", &[("Impersonate-Group", "x")]).await.unwrap_err().code, 400);
    }
}
