//! The audit policy: how much of which request is written down.
//!
//! A list of rules in a file (`--audit-policy-file`, kind `Policy` of `audit.k8s.io/v1`); the first that matches says
//! the level. What no rule matches is not written down.

use serde::Deserialize;

use crate::hooks::UserInfo;
use crate::request_info::RequestInfo;

/// How much is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who did what when, but no bodies.
    Metadata,
    /// The request's body too.
    Request,
    /// And the answer's.
    RequestResponse,
}

impl Level {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// When something is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Stage {
    /// As soon as it is known who asks.
    RequestReceived,
    /// When a long answer, such as a watch, begins.
    ResponseStarted,
    /// When the answer is complete.
    ResponseComplete,
    /// Never: this server does not panic.
    Panic,
}

impl Stage {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Stage::RequestReceived => "RequestReceived",
            Stage::ResponseStarted => "ResponseStarted",
            Stage::ResponseComplete => "ResponseComplete",
            Stage::Panic => "Panic",
        }
    }
}

/// A policy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    api_version: String,
    kind: String,
    #[serde(default)]
    #[allow(dead_code, reason = "a policy may have a name")]
    metadata: serde_json::Value,
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Rule {
    level: Level,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// A policy file is no good.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It cannot be read as a policy.
    #[error("failed decoding: {0}")]
    Decode(#[from] serde_yaml_ng::Error),
    /// It is something else.
    #[error("no kind \"Policy\" of audit.k8s.io/v1 but {kind:?} of {version:?}")]
    Kind {
        /// The kind it says it is.
        kind: String,
        /// Of which version.
        version: String,
    },
    /// It says nothing.
    #[error("loaded illegal policy with 0 rules")]
    Empty,
}

/// What the policy says of one request.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// How much is written down.
    pub level: Level,
    /// Not at these stages.
    pub omit_stages: Vec<Stage>,
    /// Whether `managedFields` are left out of bodies.
    pub omit_managed_fields: bool,
}

impl Policy {
    /// Reads a policy, YAML or JSON.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let policy: Policy = serde_yaml_ng::from_str(text)?;
        if policy.kind != "Policy" || policy.api_version != "audit.k8s.io/v1" {
            return Err(PolicyError::Kind { kind: policy.kind, version: policy.api_version });
        }
        if policy.rules.is_empty() { Err(PolicyError::Empty) } else { Ok(policy) }
    }

    /// What is to be written down of this request.
    pub fn judge(&self, user: &UserInfo, info: &RequestInfo) -> Verdict {
        let Some(rule) = self.rules.iter().find(|rule| rule.matches(user, info)) else { return Verdict::default() };
        Verdict {
            level: rule.level,
            omit_stages: self.omit_stages.iter().chain(&rule.omit_stages).copied().collect(),
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
        }
    }
}

impl Rule {
    fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        let among = |list: &[String], item: &str| list.is_empty() || list.iter().any(|word| word == item);
        if !among(&self.users, &user.name) || !among(&self.verbs, &info.verb) {
            return false;
        }
        if !self.user_groups.is_empty() && !self.user_groups.iter().any(|group| user.in_group(group)) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return info.is_resource
                && among(&self.namespaces, &info.namespace)
                && (self.resources.is_empty() || self.resources.iter().any(|resources| resources.has(info)));
        }
        self.non_resource_urls.is_empty()
            || !info.is_resource
                && self.non_resource_urls.iter().any(|url| {
                    url == &info.path || url.strip_suffix('*').is_some_and(|prefix| info.path.starts_with(prefix))
                })
    }
}

impl GroupResources {
    fn has(&self, info: &RequestInfo) -> bool {
        if self.group != info.group {
            return false;
        }
        let named = self.resource_names.is_empty() || self.resource_names.contains(&info.name);
        let combined = match info.subresource.as_str() {
            "" => info.resource.clone(),
            subresource => format!("{}/{subresource}", info.resource),
        };
        self.resources.is_empty()
            || named
                && self.resources.iter().any(|wanted| {
                    wanted == "*"
                        || *wanted == combined
                        || !info.subresource.is_empty()
                            && (wanted.strip_prefix("*/") == Some(&info.subresource)
                                || wanted.strip_suffix("/*") == Some(&info.resource))
                })
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ["system:kube-proxy"]
  verbs: [watch]
- level: RequestResponse
  omitManagedFields: true
  resources: [{group: "", resources: [pods, pods/status]}]
- level: Metadata
  resources: [{group: "", resources: [secrets, "*/log"]}]
- level: Request
  namespaces: [kube-system]
- level: None
  nonResourceURLs: ["/healthz*", "/version"]
- level: Metadata
  userGroups: [dev]
"#;

    #[test]
    fn the_first_rule_that_matches_says_how_much_is_written_down() {
        let policy = Policy::parse(POLICY).unwrap();
        let level = |user: &str, url: &str| {
            let info = RequestInfo::parse(&Method::GET, &url.parse().unwrap());
            policy.judge(&UserInfo::new(user, &["dev"]), &info).level
        };
        assert_eq!(level("system:kube-proxy", "/api/v1/pods?watch=1"), Level::None);
        assert_eq!(level("alice", "/api/v1/pods?watch=1"), Level::RequestResponse);
        assert_eq!(level("alice", "/api/v1/namespaces/d/pods/p/status"), Level::RequestResponse);
        assert_eq!(level("alice", "/api/v1/namespaces/d/pods/p/log"), Level::Metadata);
        assert_eq!(level("alice", "/apis/apps/v1/namespaces/kube-system/deployments"), Level::Request);
        assert_eq!(level("alice", "/version"), Level::None);
        assert_eq!(level("alice", "/metrics"), Level::Metadata);
        let stranger = UserInfo::anonymous();
        let info = RequestInfo::parse(&Method::GET, &"/metrics".parse().unwrap());
        assert_eq!(policy.judge(&stranger, &info).level, Level::None);
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        let head = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";
        assert!(matches!(Policy::parse(&format!("{head}rules: []")), Err(PolicyError::Empty)));
        assert!(matches!(Policy::parse("apiVersion: v1\nkind: Pod\nrules: []"), Err(PolicyError::Kind { .. })));
        for bad in ["rules: [{level: Everything}]", "rules: [{level: None, colour: red}]", "rules: x", ""] {
            assert!(matches!(Policy::parse(&format!("{head}{bad}")), Err(PolicyError::Decode(_))), "{bad}");
        }
    }
}
