//! Who may ask a kubelet what: whoever may do the like with the node's subresource in the API (KEP-2862).

use coracle_client::delegated::{bearer_token, review_access, review_token};
use http::{Method, Request, StatusCode};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReviewSpec};

use super::routes::Routes;
use super::streaming::Refusal;
use super::tls::Identity;

impl Routes {
    /// Health is for everybody, all else for administrators, the API server among them, and those whom it permits.
    pub(super) async fn authorize<B>(&self, request: &Request<B>, client: Option<&Identity>) -> Result<(), Refusal> {
        if request.uri().path() == "/healthz" || client.is_some_and(Identity::is_administrator) {
            return Ok(());
        }
        let mut wanted = self.asker(request, client).await?;
        let (verb, subresources) = (verb(request.method()), subresources(request.uri().path()));
        let user = wanted.user.clone().unwrap_or_default();
        for subresource in subresources {
            wanted.resource_attributes = Some(ResourceAttributes {
                verb: Some(verb.into()),
                version: Some("v1".into()),
                resource: Some("nodes".into()),
                subresource: Some((*subresource).into()),
                name: Some(self.node.clone()),
                ..ResourceAttributes::default()
            });
            let answer = review_access(&self.client, wanted.clone()).await.map_err(|error| {
                tracing::warn!(%error, user, "the API server does not say who may do what");
                let what = format!("(user={user}, verb={verb}, resource=nodes, subresource={subresource})");
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("Authorization error {what}"))
            })?;
            if answer.allowed {
                return Ok(());
            }
        }
        let names = subresources.join(" ");
        let message = format!("Forbidden (user={user}, verb={verb}, resource=nodes, subresource(s)=[{names}])");
        Err(Refusal::new(StatusCode::FORBIDDEN, message))
    }

    /// Who asks, by certificate or by token.
    async fn asker<B>(
        &self,
        request: &Request<B>,
        known: Option<&Identity>,
    ) -> Result<SubjectAccessReviewSpec, Refusal> {
        if let Some(Identity { user, groups }) = known {
            let (user, groups) = (Some(user.clone()), Some(groups.clone()));
            return Ok(SubjectAccessReviewSpec { user, groups, ..SubjectAccessReviewSpec::default() });
        }
        let unauthorized = || Refusal::new(StatusCode::UNAUTHORIZED, "Unauthorized");
        let token = bearer_token(request.headers()).ok_or_else(unauthorized)?;
        let found = review_token(&self.client, token).await.map_err(|error| {
            tracing::warn!(%error, "the API server does not say whose a token is");
            unauthorized()
        })?;
        let user = found.ok_or_else(unauthorized)?;
        let (user, groups, uid, extra) = (user.username, user.groups, user.uid, user.extra);
        Ok(SubjectAccessReviewSpec { user, groups, uid, extra, ..SubjectAccessReviewSpec::default() })
    }
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// The subresources of nodes one of which must be permitted.
fn subresources(path: &str) -> &'static [&'static str] {
    match path.split('/').nth(1).unwrap_or_default() {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "pods" | "runningpods" => &["pods", "proxy"],
        _ => &["proxy"],
    }
}
