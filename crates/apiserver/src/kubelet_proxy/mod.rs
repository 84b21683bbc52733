//! Connections to what objects stand for: logs, exec, attach, port-forward, and HTTP proxies.
//!
//! The API server only finds the way (object → node → kubelet, see [`target`]) and passes bytes on (see
//! [`forward`]). What flows over an upgraded connection, be it WebSocket or SPDY, is between the client
//! and the kubelet.
//!
//! | resource | goes to |
//! |---|---|
//! | `pods/log`, `pods/exec`, `pods/attach`, `pods/portforward` | the kubelet of the pod's node |
//! | `nodes/proxy` | that node's kubelet |
//! | `pods/proxy`, `services/proxy` | a port of the pod, or of one of the Service's endpoints |

pub(crate) mod forward;
mod rewrite;
pub mod target;

use std::sync::Arc;

use async_trait::async_trait;
use coracle_api::{ApiError, ApiResult};
use coracle_client::transport::{Identity, TransportError, Trust, client_config};
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use rustls::ClientConfig;
use serde_json::Value;

use self::forward::{Secure, forward, unreachable};
use self::target::{Target, Transport};
use crate::body::{Body, RequestBody};
use crate::hooks::{Connector, UserInfo};
use crate::pki::CertKey;
use crate::request_info::RequestInfo;
use crate::storage::Storage;
use crate::webhook::resolve;

/// The names under which [`KubeletProxy`] is put among the server's connectors.
pub const CONNECTORS: [&str; 7] =
    ["pods/log", "pods/exec", "pods/attach", "pods/portforward", "pods/proxy", "services/proxy", "nodes/proxy"];

/// A kubelet's complaint is read up to so many bytes.
const COMPLAINT_BYTES: usize = 50 * 1024;

/// The largest HTML page whose links are rewritten.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Connects clients with pods, nodes and Services.
#[derive(Debug)]
pub struct KubeletProxy {
    storage: Arc<Storage>,
    /// TLS to kubelets.
    kubelet: Arc<ClientConfig>,
    /// TLS to pods.
    any: Arc<ClientConfig>,
}

impl KubeletProxy {
    /// Shows `client` to kubelets, and takes those whose certificate an authority in `ca_pem` signed.
    pub fn new(storage: Arc<Storage>, client: &CertKey, ca_pem: &str) -> Result<Arc<Self>, TransportError> {
        let identity = Identity { cert_pem: &client.cert_pem, key_pem: &client.key_pem };
        let kubelet = Arc::new(client_config(Trust::Authorities(ca_pem), Some(identity))?);
        let any = Arc::new(client_config(Trust::Anyone, None)?);
        Ok(Arc::new(KubeletProxy { storage, kubelet, any }))
    }

    /// To a kubelet, or to whatever a proxied name stands for.
    async fn reach(&self, target: &Target, request: Request<RequestBody>) -> Result<Response<Body>, String> {
        let config = match target.transport {
            Transport::Http => None,
            Transport::Kubelet => Some(self.kubelet.clone()),
            Transport::Https => Some(self.any.clone()),
        };
        let secure = config.map(|config| Secure { config, server_name: target.host.clone() });
        forward(target, secure, request).await
    }

    async fn forward(&self, target: &Target, request: Request<RequestBody>) -> ApiResult<Response<Body>> {
        let method = request.method().clone();
        self.reach(target, request).await.map_err(|why| unreachable(&method, target, &why))
    }

    async fn get(&self, plural: &str, namespace: &str, name: &str) -> ApiResult<Value> {
        let object = self.storage.get("", plural, namespace, name).await?;
        object.ok_or_else(|| ApiError::not_found("", plural, name))
    }

    async fn on_kubelet(&self, node: &str, path: String) -> ApiResult<Target> {
        let (host, port) = target::kubelet(&self.get("nodes", "", node).await?)?;
        Ok(Target { transport: Transport::Kubelet, host, port, path })
    }

    /// Answers a request below `…/proxy`.
    async fn proxy(&self, info: &RequestInfo, mut request: Request<RequestBody>) -> ApiResult<Response<Body>> {
        let path = proxied_path(&request, info);
        let whole = request.uri().path();
        // A page without a slash at its end would have its relative links one level too high.
        let readable = request.method() == Method::GET || request.method() == Method::HEAD;
        if whole.ends_with("/proxy") && info.rest.is_empty() && readable {
            let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            let location = HeaderValue::try_from(format!("{whole}/{query}")).map_err(ApiError::internal)?;
            response.headers_mut().insert(header::LOCATION, location);
            return Ok(response);
        }
        let below = path.split('?').next().unwrap_or_default();
        let prefix = whole.strip_suffix(below).unwrap_or(whole).trim_end_matches('/').to_owned();
        if let Ok(uri) = HeaderValue::try_from(whole) {
            request.headers_mut().insert("x-forwarded-uri", uri);
        }
        let target = self.proxy_target(info, path).await?;
        let response = self.reach(&target, request).await;
        let response =
            response.map_err(|why| ApiError::unavailable(format!("error trying to reach service: {why}")))?;
        seen_through(response, &prefix, &target.authority()).await
    }

    async fn proxy_target(&self, info: &RequestInfo, path: String) -> ApiResult<Target> {
        let (https, name, port) = target::scheme_name_port(&info.name, &info.resource)?;
        match info.resource.as_str() {
            "nodes" => {
                let kubelet = self.on_kubelet(name, path.clone()).await?;
                if port.is_empty() || port == kubelet.port.to_string() {
                    return Ok(kubelet);
                }
                let port = port.parse().map_err(|_| ApiError::bad_request(format!("invalid node port {port:?}")))?;
                let transport = if https { Transport::Https } else { Transport::Http };
                Ok(Target { transport, port, ..kubelet })
            }
            "pods" => target::pod_proxy(&self.get("pods", &info.namespace, name).await?, https, port, path),
            _ => {
                let service = self.get("services", &info.namespace, name).await?;
                let port_name = target::service_port(&service, port)?;
                let found = resolve::all(&self.storage, &service, &port_name).await?;
                target::service_proxy(&service, found, https, path, coracle_clock::random_below)
            }
        }
    }
}

/// An answer as it is seen through the proxy: places it names are below `prefix`.
async fn seen_through(response: Response<Body>, prefix: &str, host: &str) -> ApiResult<Response<Body>> {
    let (mut parts, body) = response.into_parts();
    let text = |name| parts.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if let Some(location) = text(header::LOCATION) {
        let location = HeaderValue::try_from(rewrite::url(location, prefix, host)).map_err(ApiError::internal)?;
        parts.headers.insert(header::LOCATION, location);
        return Ok(Response::from_parts(parts, body));
    }
    let html = text(header::CONTENT_TYPE).is_some_and(|media| media.split(';').next() == Some("text/html"));
    let length = text(header::CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    // What is packed, endless or huge goes through as it is.
    if !html || text(header::CONTENT_ENCODING).is_some() || length.is_none_or(|length| length > PAGE_BYTES) {
        return Ok(Response::from_parts(parts, body));
    }
    let page = body.collect().await.map_err(ApiError::internal)?.to_bytes();
    if page.is_empty() {
        return Ok(Response::from_parts(parts, Body::empty())); // of a HEAD
    }
    let Ok(page) = std::str::from_utf8(&page) else { return Ok(Response::from_parts(parts, Body::full(page))) };
    let page = rewrite::html(page, prefix, host);
    parts.headers.insert(header::CONTENT_LENGTH, page.len().into());
    Ok(Response::from_parts(parts, Body::full(page)))
}

/// What follows `/proxy` in the URL, with the query.
fn proxied_path(request: &Request<RequestBody>, info: &RequestInfo) -> String {
    let path = request.uri().path();
    let after_resource = path.find(&format!("/{}/", info.resource)).map_or(0, |at| at + info.resource.len() + 2);
    let rest = path[after_resource..].split_once("/proxy").map_or("", |(_, rest)| rest);
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}{query}", if rest.is_empty() { "/" } else { rest })
}

#[async_trait]
impl Connector for KubeletProxy {
    async fn connect(
        &self,
        info: &RequestInfo,
        _: &UserInfo,
        request: Request<RequestBody>,
    ) -> ApiResult<Response<Body>> {
        if info.subresource == "proxy" {
            return self.proxy(info, request).await;
        }
        let pod = self.get("pods", &info.namespace, &info.name).await?;
        let path = target::kubelet_path(&info.subresource, &pod, request.uri())?;
        if info.subresource == "log" {
            // Nothing runs yet, so nothing was said yet.
            let Ok(node) = target::host_of(&pod) else { return Ok(logs(Body::empty())) };
            let target = self.on_kubelet(node, path).await?;
            return checked_logs(self.forward(&target, request).await?).await;
        }
        let target = self.on_kubelet(target::host_of(&pod)?, path).await?;
        self.forward(&target, request).await
    }
}

fn logs(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// A kubelet that has no logs to give says why as plain text; clients expect a Status.
async fn checked_logs(response: Response<Body>) -> ApiResult<Response<Body>> {
    let (parts, body) = response.into_parts();
    if parts.status.is_success() {
        return Ok(logs(body));
    }
    let body = http_body_util::Limited::new(body, COMPLAINT_BYTES).collect().await;
    let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()).unwrap_or_default();
    Err(match parts.status {
        StatusCode::BAD_REQUEST => ApiError::bad_request(text),
        StatusCode::INTERNAL_SERVER_ERROR => ApiError::internal(text),
        StatusCode::NOT_FOUND => ApiError { message: text, ..ApiError::no_such_resource() },
        status => ApiError { code: status.as_u16(), reason: "", message: text, details: Value::Null },
    })
}

#[cfg(test)]
mod tests;
