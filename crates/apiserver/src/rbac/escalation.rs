//! Nobody gives away what they do not hold.
//!
//! Whoever may write Roles and bindings could make themselves anything. So a Role may only hold rules,
//! and a binding only give away roles, that the writer holds in that place, unless policy permits them
//! the verbs `escalate` or `bind` on the role. An admission plugin, since it must see the final object.

use std::sync::Arc;

use async_trait::async_trait;
use coracle_api::{ApiError, ApiResult};

use super::index::rules_of;
use super::{GROUP, RbacAuthorizer, Rule};
use crate::hooks::{AdmissionContext, AdmissionPlugin, AdmissionRequest, Attributes, Authorizer, Decision, Operation};

/// Refuses Roles and bindings that exceed their writer's own rights.
#[derive(Debug)]
pub struct EscalationCheck {
    rbac: Arc<RbacAuthorizer>,
}

impl EscalationCheck {
    /// By the policy that `rbac` decides by.
    pub fn new(rbac: Arc<RbacAuthorizer>) -> Self {
        EscalationCheck { rbac }
    }

    async fn may(&self, request: &AdmissionRequest, verb: &str, resource: &str, name: &str) -> bool {
        let wanted = Attributes {
            verb: verb.into(),
            is_resource: true,
            group: GROUP.into(),
            version: "v1".into(),
            resource: resource.into(),
            namespace: request.namespace.clone(),
            name: name.into(),
            ..Attributes::default()
        };
        self.rbac.authorize(&request.user, &wanted).await == Decision::Allow
    }
}

/// All there is: an aggregated role may come to hold anything that somebody labels so.
fn everything() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    [
        Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() },
        Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() },
    ]
}

#[async_trait]
impl AdmissionPlugin for EscalationCheck {
    fn handles(&self, request: &AdmissionRequest) -> bool {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        writes && request.resource.group == GROUP && !request.user.in_group("system:masters")
    }

    async fn validate(&self, request: &AdmissionRequest, _: &AdmissionContext) -> ApiResult<()> {
        let plural = request.resource.plural.as_str();
        let unchanged = |field: &str| request.object[field] == request.old_object[field];
        let index = self.rbac.index();
        let given: Vec<Rule> = match plural {
            "roles" | "clusterroles" => {
                let aggregates = !request.object["aggregationRule"].is_null() && !unchanged("aggregationRule");
                if aggregates && !index.missing(&request.user, "", &everything()).is_empty() {
                    let why = "must have cluster-admin privileges to use the aggregationRule";
                    return Err(ApiError::forbidden(GROUP, plural, &request.name, why));
                }
                if unchanged("rules") || self.may(request, "escalate", plural, &request.name).await {
                    return Ok(());
                }
                rules_of(&request.object)
            }
            "rolebindings" | "clusterrolebindings" => {
                let role = &request.object["roleRef"];
                let kind = if role["kind"] == "Role" { "roles" } else { "clusterroles" };
                let same = unchanged("roleRef") && unchanged("subjects");
                if same || self.may(request, "bind", kind, role["name"].as_str().unwrap_or_default()).await {
                    return Ok(());
                }
                match index.referenced(&request.object, &request.namespace) {
                    Some(rules) => rules.to_vec(),
                    None => {
                        let name = role["name"].as_str().unwrap_or_default();
                        return Err(ApiError::not_found(GROUP, kind.trim_end_matches('s'), name));
                    }
                }
            }
            _ => return Ok(()),
        };
        let missing = index.missing(&request.user, &request.namespace, &given);
        if missing.is_empty() {
            return Ok(());
        }
        let list: Vec<String> = missing.iter().map(ToString::to_string).collect();
        let why = format!(
            "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
            request.user.name,
            request.user.groups,
            list.join("\n")
        );
        Err(ApiError::forbidden(GROUP, plural, &request.name, why))
    }
}
