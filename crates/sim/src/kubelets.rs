//! The API server's way to kubelets: in place of their HTTPS servers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use coracle_api::{ApiError, ApiResult};
use coracle_apiserver::hooks::Connector;
use coracle_apiserver::{Body, RequestBody, RequestInfo, UserInfo};
use coracle_kubelet::server::Routes;
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio_util::sync::CancellationToken;

/// The kubelets that run, by their nodes' names.
#[derive(Clone, Default)]
pub(crate) struct Kubelets(Arc<Mutex<BTreeMap<String, (Routes, CancellationToken)>>>);

impl std::fmt::Debug for Kubelets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kubelets")
    }
}

impl Kubelets {
    /// A kubelet answers, until it is killed.
    pub(crate) fn add(&self, node: &str, routes: Routes, killed: CancellationToken) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(node.to_owned(), (routes, killed));
    }

    fn get(&self, node: &str) -> Option<Routes> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(node).filter(|(_, killed)| !killed.is_cancelled()).map(|(routes, _)| routes.clone())
    }
}

#[async_trait]
impl Connector for Kubelets {
    async fn connect(
        &self,
        info: &RequestInfo,
        _: &UserInfo,
        mut request: Request<RequestBody>,
    ) -> ApiResult<Response<Body>> {
        let routes = self.get(&info.name);
        let refused = || ApiError::unavailable("error trying to reach service: connection refused");
        let routes = routes.ok_or_else(refused)?;
        let below = request.uri().path_and_query().map_or("", |path| path.as_str()).split_once("/proxy");
        *request.uri_mut() = below.map_or("/", |(_, below)| below).parse().map_err(ApiError::internal)?;
        let (parts, body) = routes.answer_api_server(request).await.into_parts();
        let body = body.collect().await.map_err(ApiError::internal)?.to_bytes();
        Ok(Response::from_parts(parts, Body::full(body)))
    }
}
