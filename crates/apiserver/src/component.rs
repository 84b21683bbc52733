//! The servers of components that run alone: whether they live, and what they count.
//!
//! With TLS (controller manager and scheduler), health is for everybody, all else for those whom the cluster permits:
//! who asks, and whether they may, the API server is asked (TokenReview and SubjectAccessReview), as upstream's
//! components ask it. Without (the proxy), there is nothing to hide.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use coracle_api::{ApiError, ApiResult};
use coracle_client::delegated;
use coracle_client::transport::TransportError;
use coracle_client::transport::peer::Authorities;
use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::auth::x509::X509Authenticator;
use crate::body::Body;
use crate::hooks::{Attributes, Authenticator, UserInfo};
use crate::negotiate::Accept;
use crate::pages::Pages;
use crate::pki::{self, CertKey, PkiError};
use crate::serve::{self, ServeError};
use crate::{health, metrics, rbac, render};

/// Why a component does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// The address is not to be had.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// There is no certificate to show.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The certificates are no good.
    #[error(transparent)]
    Tls(#[from] TransportError),
}

/// A component, as its server shows it.
#[derive(Clone)]
pub struct Component {
    /// Its client: by it the API server is asked about others.
    pub client: Client,
    /// What it runs with, as `/configz` shows it.
    pub config: Value,
    /// Parts of it that run, each a check of its health.
    pub running: Arc<dyn Fn() -> Vec<&'static str> + Send + Sync>,
    /// What else it shows.
    pub pages: Pages,
    /// Told when it ends.
    pub shutdown: CancellationToken,
}

impl Component {
    /// Listens with TLS at an address, and serves until the end. Without a certificate it makes one for itself.
    ///
    /// # Errors
    /// If the address is taken or a certificate is no good.
    pub async fn serve(self, address: SocketAddr, certificate: Option<CertKey>) -> Result<(), ComponentError> {
        let shown = match certificate {
            Some(certificate) => certificate,
            None => pki::self_signed("localhost", &[IpAddr::from([127, 0, 0, 1]), address.ip()])?,
        };
        let authority = self.client_authority().await;
        let tls = serve::tls(&shown, &authority)?;
        let x509 = match authority.as_str() {
            "" => None,
            pem => Some(X509Authenticator { authorities: Authorities::new(pem)? }),
        };
        let listener = serve::bind(address).await?;
        tracing::info!(%address, "serving health and metrics");
        let shutdown = self.shutdown.clone();
        let server = Arc::new(Server { component: self, x509, health: health::Outcomes::default() });
        let service = tower::service_fn(move |request: Request<Incoming>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request.into_parts().0).await) }
        });
        tokio::spawn(serve::serve(listener, tls, service, shutdown));
        Ok(())
    }

    /// Whose client certificates the cluster takes. Without that, nobody's are.
    async fn client_authority(&self) -> String {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), "kube-system");
        match api.get("extension-apiserver-authentication").await {
            Ok(found) => found.data.and_then(|mut data| data.remove("client-ca-file")).unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%error, "client certificates are not taken: the cluster does not tell its authority");
                String::new()
            }
        }
    }
}

struct Server {
    component: Component,
    /// Knows users by their certificates, if the cluster tells who vouches for them.
    x509: Option<X509Authenticator>,
    health: health::Outcomes,
}

impl Server {
    async fn answer(&self, parts: Parts) -> Response<Body> {
        let path = parts.uri.path();
        if health::is_check(path) {
            let running = (self.component.running)();
            let mut checks: Vec<_> = ["ping"].into_iter().chain(running).map(|name| (name.to_owned(), true)).collect();
            if path.starts_with("/readyz") {
                checks.push(("shutdown".to_owned(), !self.component.shutdown.is_cancelled()));
            }
            return health::report(&checks, &self.health, &parts.uri);
        }
        match self.permit(&parts).await {
            Err(error) => render::refusal(&error, Accept::default()),
            Ok(()) => match path {
                "/metrics" => render::text(200, metrics::of_component()),
                "/metrics/slis" => render::text(200, self.health.render()),
                "/configz" => render::json_bytes(200, self.component.config.to_string()),
                path => {
                    let page = self.component.pages.answer(path);
                    page.unwrap_or_else(|| render::text(404, "404 page not found\n"))
                }
            },
        }
    }

    async fn permit(&self, parts: &Parts) -> ApiResult<()> {
        let user = self.authenticate(parts).await?;
        let (path, verb) = (parts.uri.path().to_owned(), parts.method.as_str().to_lowercase());
        let asked = NonResourceAttributes { path: Some(path.clone()), verb: Some(verb.clone()) };
        let spec = SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            uid: Some(user.uid.clone()),
            groups: Some(user.groups.clone()),
            extra: Some(user.extra.clone()),
            non_resource_attributes: Some(asked),
            ..SubjectAccessReviewSpec::default()
        };
        let status = delegated::review_access(&self.component.client, spec).await.map_err(ApiError::internal)?;
        match status.allowed {
            true => Ok(()),
            false => {
                let wanted = Attributes { verb, path, ..Attributes::default() };
                Err(rbac::forbidden(&user, &wanted, status.reason.as_deref().unwrap_or_default()))
            }
        }
    }

    async fn authenticate(&self, parts: &Parts) -> ApiResult<UserInfo> {
        if let Some(x509) = &self.x509
            && let Some(answer) = x509.authenticate(parts).await
        {
            return answer;
        }
        let Some(token) = delegated::bearer_token(&parts.headers) else { return Ok(UserInfo::anonymous()) };
        let user = delegated::review_token(&self.component.client, token).await.map_err(ApiError::internal)?;
        let user = user.ok_or_else(ApiError::unauthorized)?;
        Ok(UserInfo {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        })
    }
}

/// Answers a path, without TLS.
pub type Answers = Arc<dyn Fn(&str) -> Response<Body> + Send + Sync>;

/// Listens without TLS at an address, and serves until shutdown.
///
/// # Errors
/// If the address is taken.
pub async fn serve_plain(address: SocketAddr, answers: Answers, shutdown: CancellationToken) -> Result<(), ServeError> {
    let listener = serve::bind(address).await?;
    tracing::info!(%address, "serving");
    tokio::spawn(async move {
        while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
            let Ok((stream, _)) = accepted else { continue };
            let (answers, shutdown) = (answers.clone(), shutdown.clone());
            tokio::spawn(async move {
                let service = hyper::service::service_fn(|request: Request<Incoming>| {
                    let response = answers(request.uri().path());
                    async move { Ok::<_, Infallible>(response) }
                });
                let mut builder = auto::Builder::new(TokioExecutor::new());
                builder.http1().timer(TokioTimer::new()).header_read_timeout(serve::HEADERS);
                let connection = builder.serve_connection(TokioIo::new(stream), service);
                shutdown.run_until_cancelled(connection).await
            });
        }
    });
    Ok(())
}
