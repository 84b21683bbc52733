//! Reviews: other programs' questions about users and rights.
//!
//! | resource | question |
//! |---|---|
//! | `tokenreviews` | whose token is this? |
//! | `selfsubjectreviews` | who am I? (`kubectl auth whoami`) |
//! | `subjectaccessreviews`, `localsubjectaccessreviews` | may they do that? |
//! | `selfsubjectaccessreviews` | may I do that? (`kubectl auth can-i`) |
//! | `selfsubjectrulesreviews` | what may I do? (`kubectl auth can-i --list`) |
//!
//! They are created and answered in one go and never stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use coracle_api::{ApiError, ApiResult};
use serde_json::{Value, json};

use super::static_token::StaticTokens;
use super::token::{ISSUER, ServiceAccountTokens};
use crate::hooks::{Attributes, Authorizer, Decision, UserInfo, VirtualResource};
use crate::rbac::{RbacAuthorizer, Rule, Union};
use crate::request_info::RequestInfo;

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

/// `tokenreviews.authentication.k8s.io`.
#[derive(Debug)]
pub struct TokenReviews {
    /// ServiceAccounts' tokens.
    pub service_accounts: Arc<ServiceAccountTokens>,
    /// Those of the token file.
    pub static_tokens: Option<Arc<StaticTokens>>,
}

#[async_trait]
impl VirtualResource for TokenReviews {
    async fn create(&self, _: &RequestInfo, _: &UserInfo, mut review: Value) -> ApiResult<Value> {
        let token = text(&review["spec"]["token"]);
        if token.is_empty() {
            return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
        }
        let mut audiences = texts(&review["spec"]["audiences"]);
        if audiences.is_empty() {
            audiences.push(ISSUER.into());
        }
        let asked: Vec<&str> = audiences.iter().map(String::as_str).collect();
        let listed = self.static_tokens.as_ref().and_then(|tokens| tokens.user(&token));
        let answer = match listed {
            Some(user) => Ok((user.clone(), audiences.clone())),
            None => self.service_accounts.verify(&token, &asked).await,
        };
        review["status"] = match answer {
            Ok((user, audiences)) => json!({ "authenticated": true, "user": user.to_json(), "audiences": audiences }),
            Err(why) => json!({ "user": {}, "error": format!("[invalid bearer token, {why}]") }),
        };
        Ok(review)
    }
}

/// `selfsubjectreviews.authentication.k8s.io`.
#[derive(Debug)]
pub struct SelfSubjectReviews;

#[async_trait]
impl VirtualResource for SelfSubjectReviews {
    async fn create(&self, _: &RequestInfo, user: &UserInfo, mut review: Value) -> ApiResult<Value> {
        review["status"] = json!({ "userInfo": user.to_json() });
        Ok(review)
    }
}

/// Whose rights an access review asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// `subjectaccessreviews`: those of the user it names.
    Named,
    /// `localsubjectaccessreviews`: the same, in the review's own namespace.
    NamedLocally,
    /// `selfsubjectaccessreviews`: the asker's.
    Asker,
}

/// `subjectaccessreviews`, `localsubjectaccessreviews`, `selfsubjectaccessreviews` of `authorization.k8s.io`.
#[derive(Debug)]
pub struct AccessReviews {
    /// Who decides.
    pub authorizer: Union,
    /// Whose rights are asked about.
    pub subject: Subject,
}

/// What a review's `spec` wants to be done.
fn attributes(spec: &Value) -> ApiResult<Attributes> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    match (resource.is_object(), path.is_object()) {
        (true, false) => Ok(Attributes {
            verb: text(&resource["verb"]),
            is_resource: true,
            group: text(&resource["group"]),
            version: text(&resource["version"]),
            resource: text(&resource["resource"]),
            subresource: text(&resource["subresource"]),
            namespace: text(&resource["namespace"]),
            name: text(&resource["name"]),
            path: String::new(),
        }),
        (false, true) => {
            Ok(Attributes { verb: text(&path["verb"]), path: text(&path["path"]), ..Attributes::default() })
        }
        _ => Err(ApiError::bad_request(
            "spec.resourceAttributes: Invalid value: exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
    }
}

fn named(spec: &Value) -> ApiResult<UserInfo> {
    let extra: BTreeMap<String, Vec<String>> =
        spec["extra"].as_object().into_iter().flatten().map(|(key, values)| (key.clone(), texts(values))).collect();
    let user = UserInfo { name: text(&spec["user"]), uid: text(&spec["uid"]), groups: texts(&spec["groups"]), extra };
    if user.name.is_empty() && user.groups.is_empty() {
        return Err(ApiError::bad_request(
            "spec.user: Invalid value: \"\": at least one of user or group must be specified",
        ));
    }
    Ok(user)
}

#[async_trait]
impl VirtualResource for AccessReviews {
    async fn create(&self, info: &RequestInfo, asker: &UserInfo, mut review: Value) -> ApiResult<Value> {
        let spec = &review["spec"];
        let wanted = attributes(spec)?;
        let user = match self.subject {
            Subject::Asker => asker.clone(),
            Subject::Named | Subject::NamedLocally => named(spec)?,
        };
        if self.subject == Subject::NamedLocally && wanted.namespace != info.namespace {
            return Err(ApiError::bad_request(format!(
                "spec.resourceAttributes.namespace: Invalid value: {:?}: must match metadata.namespace",
                wanted.namespace
            )));
        }
        review["status"] = match self.authorizer.authorize(&user, &wanted).await {
            Decision::Allow => json!({ "allowed": true }),
            Decision::Deny(reason) => json!({ "allowed": false, "denied": true, "reason": reason }),
            Decision::NoOpinion => json!({ "allowed": false }),
        };
        Ok(review)
    }
}

/// `selfsubjectrulesreviews.authorization.k8s.io`: the rules RBAC gives the asker in a namespace.
#[derive(Debug)]
pub struct RulesReviews {
    /// Who knows them.
    pub rbac: Arc<RbacAuthorizer>,
}

#[async_trait]
impl VirtualResource for RulesReviews {
    async fn create(&self, _: &RequestInfo, user: &UserInfo, mut review: Value) -> ApiResult<Value> {
        let namespace = text(&review["spec"]["namespace"]);
        if namespace.is_empty() {
            return Err(ApiError::bad_request("no namespace on request"));
        }
        let everything = Rule {
            verbs: vec!["*".into()],
            api_groups: vec!["*".into()],
            resources: vec!["*".into()],
            ..Rule::default()
        };
        let everywhere = Rule { verbs: vec!["*".into()], non_resource_urls: vec!["*".into()], ..Rule::default() };
        let index = self.rbac.index();
        let mut rules: Vec<Rule> = index.rules(user, &namespace).cloned().collect();
        if user.in_group("system:masters") {
            rules.extend([everything, everywhere]);
        }
        let (paths, resources): (Vec<Rule>, Vec<Rule>) =
            rules.into_iter().partition(|rule| !rule.non_resource_urls.is_empty());
        let resources: Vec<Value> = resources
            .iter()
            .map(|rule| {
                let mut json =
                    json!({ "verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources });
                if !rule.resource_names.is_empty() {
                    json["resourceNames"] = rule.resource_names.clone().into();
                }
                json
            })
            .collect();
        let paths: Vec<Value> = paths
            .iter()
            .map(|rule| json!({ "verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls }))
            .collect();
        review["status"] = json!({ "resourceRules": resources, "nonResourceRules": paths, "incomplete": false });
        Ok(review)
    }
}
