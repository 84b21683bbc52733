//! Bootstrap tokens: `abcdef.0123456789abcdef`, by which a machine joins the cluster.
//!
//! The token `<id>.<secret>` is the Secret `bootstrap-token-<id>` of `kube-system`. Its bearer is the user
//! `system:bootstrap:<id>` of the group `system:bootstrappers` and those the Secret adds.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use coracle_api::ApiResult;
use coracle_client::delegated::bearer_token;
use http::request::Parts;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::hooks::{Authenticator, UserInfo};
use crate::storage::Storage;

const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";

/// Authenticates by bootstrap tokens.
#[derive(Debug)]
pub struct BootstrapTokens {
    storage: Arc<Storage>,
}

/// Id and secret of what looks like a bootstrap token.
fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let word = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    (word(id, 6) && word(secret, 16)).then_some((id, secret))
}

/// The groups that a Secret adds; those outside `system:bootstrappers:` are nobody's to give.
fn extra_groups(text: &str) -> Option<Vec<&str>> {
    let groups: Vec<&str> = text.split(',').filter(|group| !group.is_empty()).collect();
    let good = |group: &&str| {
        let rest = group.strip_prefix("system:bootstrappers:").unwrap_or_default();
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(rest.chars().next())
            && edge(rest.chars().last())
            && rest.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, ':' | '-'))
    };
    groups.iter().all(good).then_some(groups)
}

fn user_of(secret: &Value, id: &str, token_secret: &str, now: jiff::Timestamp) -> Option<UserInfo> {
    let text = |key: &str| {
        let bytes = BASE64_STANDARD.decode(secret["data"][key].as_str()?).ok()?;
        String::from_utf8(bytes).ok()
    };
    // Digests are compared: how long that takes tells nothing about the secret.
    let equal = |key: &str, wanted: &str| text(key).is_some_and(|held| Sha256::digest(held) == Sha256::digest(wanted));
    let expired = || match text("expiration").unwrap_or_default().as_str() {
        "" => false,
        time => time.parse::<jiff::Timestamp>().map_or(true, |end| end <= now),
    };
    let good = secret["type"] == TYPE
        && secret["metadata"]["deletionTimestamp"].is_null()
        && equal("token-secret", token_secret)
        && equal("token-id", id)
        && !expired()
        && text("usage-bootstrap-authentication").as_deref() == Some("true");
    let extra = text("auth-extra-groups").unwrap_or_default();
    let groups = extra_groups(&extra).filter(|_| good)?;
    Some(UserInfo::new(format!("system:bootstrap:{id}"), &[&[GROUP], groups.as_slice()].concat()))
}

impl BootstrapTokens {
    /// By the Secrets in `storage`.
    pub fn new(storage: Arc<Storage>) -> Arc<Self> {
        Arc::new(BootstrapTokens { storage })
    }

    /// The user of a token; `None` if it is no (good) bootstrap token.
    pub async fn user(&self, token: &str) -> Option<UserInfo> {
        let (id, token_secret) = parse(token)?;
        let name = format!("bootstrap-token-{id}");
        let secret = self.storage.get("", "secrets", "kube-system", &name).await.ok()??;
        user_of(&secret, id, token_secret, coracle_clock::now())
    }
}

#[async_trait]
impl Authenticator for BootstrapTokens {
    async fn authenticate(&self, parts: &Parts) -> Option<ApiResult<UserInfo>> {
        self.user(bearer_token(&parts.headers)?).await.map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bootstrap_token_is_a_user_while_its_secret_says_so() {
        let secret = |changes: &[(&str, &str)]| {
            let mut data = json!({});
            let good = [
                ("token-id", "abcdef"),
                ("token-secret", "0123456789abcdef"),
                ("usage-bootstrap-authentication", "true"),
                ("expiration", "2026-06-01T00:00:00Z"),
                ("auth-extra-groups", "system:bootstrappers:kubeadm:default-node-token"),
            ];
            for (key, value) in good.iter().chain(changes) {
                data[key] = BASE64_STANDARD.encode(value).into();
            }
            json!({ "type": TYPE, "metadata": {}, "data": data })
        };
        let user = |changes: &[(&str, &str)], day: &str| {
            let now = format!("2026-{day}T00:00:00Z").parse().unwrap();
            user_of(&secret(changes), "abcdef", "0123456789abcdef", now)
        };
        let known = user(&[], "05-01").unwrap();
        assert_eq!(known.name, "system:bootstrap:abcdef");
        assert_eq!(
            known.groups,
            ["system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token", "system:authenticated"]
        );
        assert!(user(&[], "07-01").is_none(), "expired");
        assert!(user(&[("token-secret", "x")], "05-01").is_none());
        assert!(user(&[("usage-bootstrap-authentication", "false")], "05-01").is_none());
        assert!(user(&[("auth-extra-groups", "system:masters")], "05-01").is_none());
        assert_eq!(parse("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for bad in ["abcdef", "ABCDEF.0123456789abcdef", "abc.0123456789abcdef", "abcdef.x"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
