//! The API server's way to kubelets: in place of their HTTPS servers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use coracle_api::{ApiError, ApiResult};
use coracle_apiserver::hooks::Connector;
use coracle_apiserver::kubelet_proxy::target;
use coracle_apiserver::{Body, RequestBody, RequestInfo, UserInfo};
use coracle_kubelet::server::Routes;
use futures::StreamExt;
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// What is asked of kubelets.
pub(crate) const CONNECTORS: [&str; 5] = ["nodes/proxy", "pods/log", "pods/exec", "pods/attach", "pods/portforward"];

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

    /// A node is gone for good.
    pub(crate) fn remove(&self, node: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    fn get(&self, node: &str) -> Option<Routes> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(node).filter(|(_, killed)| !killed.is_cancelled()).map(|(routes, _)| routes.clone())
    }

    /// The kubelet that has a pod, and the pod.
    async fn of_pod(&self, namespace: &str, name: &str) -> Option<(Routes, Value)> {
        let all: Vec<String> = self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        for routes in all.iter().filter_map(|node| self.get(node)) {
            let pods = routes.pods.pods().await;
            let is_it = |m: &kube::core::ObjectMeta| {
                m.namespace.as_deref() == Some(namespace) && m.name.as_deref() == Some(name)
            };
            if let Some(pod) = pods.into_iter().find(|pod| is_it(&pod.metadata)) {
                return serde_json::to_value(pod).ok().map(|pod| (routes, pod));
            }
        }
        None
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
        let refused = || ApiError::unavailable("error trying to reach service: connection refused");
        let (routes, path) = if info.resource == "nodes" {
            let below = request.uri().path_and_query().map_or("", |path| path.as_str()).split_once("/proxy");
            let path = below.map_or("/", |(_, below)| below).to_owned();
            (self.get(&info.name).ok_or_else(refused)?, path)
        } else {
            let (routes, pod) = self.of_pod(&info.namespace, &info.name).await.ok_or_else(refused)?;
            (routes, target::kubelet_path(&info.subresource, &pod, request.uri())?)
        };
        *request.uri_mut() = path.parse().map_err(ApiError::internal)?;
        let (parts, body) = routes.answer_api_server(request).await.into_parts();
        // A log that is followed has no end: it is passed on as it comes.
        let chunks = body.into_data_stream().map(|chunk| chunk.map_err(Into::into)).boxed();
        Ok(Response::from_parts(parts, Body::Stream(chunks)))
    }
}
