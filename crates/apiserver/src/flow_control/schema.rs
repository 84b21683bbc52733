//! FlowSchemas: which priority level a request belongs to, and to which flow in it.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::text;
use crate::hooks::UserInfo;
use crate::request_info::RequestInfo;

/// What the requests of a flow have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distinguisher {
    /// Nothing: they are one flow.
    None,
    User,
    Namespace,
}

/// A FlowSchema, and the level it names.
#[derive(Debug)]
pub struct Schema {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its level's name.
    pub level: String,
    /// Its level's UID.
    pub level_uid: String,
    precedence: i64,
    by: Distinguisher,
    rules: Vec<Rule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    subjects: Vec<Subject>,
    resource_rules: Vec<ResourceRule>,
    non_resource_rules: Vec<NonResourceRule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Subject {
    user: Option<Named>,
    group: Option<Named>,
    service_account: Option<Named>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
    namespace: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ResourceRule {
    verbs: Vec<String>,
    api_groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster_scope: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NonResourceRule {
    verbs: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    urls: Vec<String>,
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Subject {
    fn is(&self, user: &UserInfo) -> bool {
        let named = |given: &Option<Named>, name: &str| given.as_ref().is_some_and(|n| n.name == "*" || n.name == name);
        let account = || {
            let (wanted, rest) = (self.service_account.as_ref()?, user.name.strip_prefix("system:serviceaccount:")?);
            let (namespace, name) = rest.split_once(':')?;
            Some(namespace == wanted.namespace && (wanted.name == "*" || wanted.name == name))
        };
        named(&self.user, &user.name)
            || self.group.as_ref().is_some_and(|group| group.name == "*" || user.in_group(&group.name))
            || account().unwrap_or(false)
    }
}

impl Rule {
    fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        if !self.subjects.iter().any(|subject| subject.is(user)) {
            return false;
        }
        if !info.is_resource {
            return self
                .non_resource_rules
                .iter()
                .any(|rule| has(&rule.verbs, &info.verb) && rule.urls.iter().any(|url| url_matches(url, &info.path)));
        }
        let resource = match info.subresource.as_str() {
            "" => info.resource.clone(),
            subresource => format!("{}/{subresource}", info.resource),
        };
        self.resource_rules.iter().any(|rule| {
            has(&rule.verbs, &info.verb)
                && has(&rule.api_groups, &info.group)
                && has(&rule.resources, &resource)
                && match info.namespace.as_str() {
                    "" => rule.cluster_scope,
                    namespace => has(&rule.namespaces, namespace),
                }
        })
    }
}

fn url_matches(pattern: &str, path: &str) -> bool {
    pattern == "*" || pattern == path || pattern.ends_with("/*") && path.starts_with(pattern.trim_end_matches('*'))
}

impl Schema {
    /// What tells the request's flow from the schema's others.
    pub fn distinguisher<'a>(&self, user: &'a UserInfo, info: &'a RequestInfo) -> &'a str {
        match self.by {
            Distinguisher::None => "",
            Distinguisher::User => &user.name,
            Distinguisher::Namespace => &info.namespace,
        }
    }

    /// From the object; `None` if there is no such level (the schema is dangling and decides nothing).
    fn of(object: &Value, levels: &[Value]) -> Option<Self> {
        let spec = &object["spec"];
        let name = text(spec, "/priorityLevelConfiguration/name");
        let level = levels.iter().find(|level| text(level, "/metadata/name") == name)?;
        Some(Schema {
            name: text(object, "/metadata/name").to_owned(),
            uid: text(object, "/metadata/uid").to_owned(),
            level: name.to_owned(),
            level_uid: text(level, "/metadata/uid").to_owned(),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
            by: match text(spec, "/distinguisherMethod/type") {
                "ByUser" => Distinguisher::User,
                "ByNamespace" => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: serde_json::from_value(spec["rules"].clone()).unwrap_or_default(),
        })
    }
}

/// All FlowSchemas, in the order in which they are asked.
#[derive(Debug, Default)]
pub struct Schemas(Vec<Arc<Schema>>);

impl Schemas {
    /// From the objects: lowest precedence first, then by name.
    pub fn build(schemas: &[Value], levels: &[Value]) -> Self {
        let mut all: Vec<_> = schemas.iter().filter_map(|object| Schema::of(object, levels)).map(Arc::new).collect();
        all.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        Schemas(all)
    }

    /// The schema of a request.
    pub fn of(&self, user: &UserInfo, info: &RequestInfo) -> Option<&Arc<Schema>> {
        self.0.iter().find(|schema| schema.rules.iter().any(|rule| rule.matches(user, info)))
    }
}
