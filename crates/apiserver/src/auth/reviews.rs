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
use coracle_api::{ApiError, ApiResult, FieldErrors};
use serde_json::{Value, json};

use super::bootstrap_token::BootstrapTokens;
use super::static_token::StaticTokens;
use super::token::{ISSUER, ServiceAccountTokens};
use crate::hooks::{Attributes, Authorizer, Decision, UserInfo, VirtualResource};
use crate::rbac::{RbacAuthorizer, Rule, Union};
use crate::request_info::{RequestInfo, selected_fields};

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
    /// Bootstrap tokens.
    pub bootstrap_tokens: Option<Arc<BootstrapTokens>>,
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
        let mut listed = self.static_tokens.as_ref().and_then(|tokens| tokens.user(&token)).cloned();
        if let (None, Some(tokens)) = (&listed, &self.bootstrap_tokens) {
            listed = tokens.user(&token).await;
        }
        // Tokens that are for no audience in particular are for the API server.
        let here = audiences.iter().any(|audience| audience == ISSUER);
        let answer = match listed {
            Some(user) if here => Ok((user, vec![ISSUER.to_owned()])),
            Some(_) => {
                let audience = vec![ISSUER];
                Err(format!("token audiences {audience:?} is invalid for the target audiences {audiences:?}"))
            }
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
fn attributes(spec: &Value) -> Attributes {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if !resource.is_object() {
        return Attributes { verb: text(&path["verb"]), path: text(&path["path"]), ..Attributes::default() };
    }
    let selector = &resource["fieldSelector"];
    let required = selector["requirements"].as_array().into_iter().flatten().filter_map(|requirement| {
        let [value]: [String; 1] = texts(&requirement["values"]).try_into().ok()?;
        (requirement["operator"] == "In").then(|| (text(&requirement["key"]), value))
    });
    Attributes {
        verb: text(&resource["verb"]),
        is_resource: true,
        group: text(&resource["group"]),
        version: text(&resource["version"]),
        resource: text(&resource["resource"]),
        subresource: text(&resource["subresource"]),
        namespace: text(&resource["namespace"]),
        name: text(&resource["name"]),
        path: String::new(),
        fields: required.chain(selected_fields(&text(&selector["rawSelector"]))).collect(),
    }
}

fn named(spec: &Value) -> UserInfo {
    let extra: BTreeMap<String, Vec<String>> =
        spec["extra"].as_object().into_iter().flatten().map(|(key, values)| (key.clone(), texts(values))).collect();
    UserInfo { name: text(&spec["user"]), uid: text(&spec["uid"]), groups: texts(&spec["groups"]), extra }
}

/// A field or label selector says what it selects in one way.
fn check_selector(selector: &Value, path: &str, errors: &mut FieldErrors) {
    if !selector.is_object() {
        return;
    }
    let requirements = selector["requirements"].as_array().map(Vec::as_slice).unwrap_or_default();
    let raw = text(&selector["rawSelector"]);
    if !raw.is_empty() && !requirements.is_empty() {
        let why = "may not specified at the same time as requirements";
        errors.invalid(&format!("{path}.rawSelector"), raw.as_str(), why);
    }
    if raw.is_empty() && requirements.is_empty() {
        let why = format!("when {path} is specified, requirements or rawSelector is required");
        errors.required(&format!("{path}.requirements"), why);
    }
    for (index, requirement) in requirements.iter().enumerate() {
        let (path, values) = (format!("{path}.requirements[{index}]"), texts(&requirement["values"]));
        if text(&requirement["key"]).is_empty() {
            errors.required(&format!("{path}.key"), "must be specified");
        }
        match text(&requirement["operator"]).as_str() {
            "In" | "NotIn" if values.is_empty() => {
                let why = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.required(&format!("{path}.values"), why);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(&format!("{path}.values"), why);
            }
            _ => {}
        }
    }
}

impl AccessReviews {
    /// What is wrong with a review.
    fn check(&self, review: &Value, namespace: &str) -> FieldErrors {
        let mut errors = FieldErrors::default();
        let spec = &review["spec"];
        let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
        if resource.is_object() && path.is_object() {
            let why = "cannot be specified in combination with resourceAttributes";
            errors.invalid("spec.nonResourceAttributes", path.clone(), why);
        }
        if !resource.is_object() && !path.is_object() {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.invalid("spec.resourceAttributes", Value::Null, why);
        }
        if self.subject != Subject::Asker && text(&spec["user"]).is_empty() && texts(&spec["groups"]).is_empty() {
            errors.invalid("spec.user", "", "at least one of user or group must be specified");
        }
        for selector in ["fieldSelector", "labelSelector"] {
            check_selector(&resource[selector], &format!("spec.resourceAttributes.{selector}"), &mut errors);
        }
        if self.subject == Subject::NamedLocally {
            if resource.is_object() && text(&resource["namespace"]) != namespace {
                let field = "spec.resourceAttributes.namespace";
                errors.invalid(field, text(&resource["namespace"]), "must match metadata.namespace");
            }
            if path.is_object() {
                errors.invalid("spec.nonResourceAttributes", path.clone(), "disallowed on this kind of request");
            }
        }
        errors
    }
}

#[async_trait]
impl VirtualResource for AccessReviews {
    async fn create(&self, info: &RequestInfo, asker: &UserInfo, mut review: Value) -> ApiResult<Value> {
        let errors = self.check(&review, &info.namespace);
        if !errors.0.is_empty() {
            return Err(ApiError::invalid("authorization.k8s.io", &text(&review["kind"]), "", &errors.0));
        }
        let spec = &review["spec"];
        let wanted = attributes(spec);
        let user = match self.subject {
            Subject::Asker => asker.clone(),
            Subject::Named | Subject::NamedLocally => named(spec),
        };
        let decision = self.authorizer.authorize(&user, &wanted).await;
        let reason = self.authorizer.reason(&user, &wanted).await;
        review["status"] = match decision {
            Decision::Allow => json!({ "allowed": true }),
            Decision::Deny(_) => json!({ "allowed": false, "denied": true }),
            Decision::NoOpinion => json!({ "allowed": false }),
        };
        if !reason.is_empty() {
            review["status"]["reason"] = reason.into();
        }
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
