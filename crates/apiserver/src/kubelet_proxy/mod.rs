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

mod forward;
mod target;

use std::sync::Arc;

use async_trait::async_trait;
use coracle_api::{ApiError, ApiResult};
use coracle_client::transport::{Identity, TransportError, Trust, client_config};
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;

use self::forward::{Tls, forward};
use self::target::{Target, Transport};
use crate::body::{Body, RequestBody};
use crate::hooks::{Connector, UserInfo};
use crate::pki::CertKey;
use crate::request_info::RequestInfo;
use crate::storage::Storage;

/// The names under which [`KubeletProxy`] is put among the server's connectors.
pub const CONNECTORS: [&str; 7] =
    ["pods/log", "pods/exec", "pods/attach", "pods/portforward", "pods/proxy", "services/proxy", "nodes/proxy"];

/// A kubelet's complaint is read up to so many bytes.
const COMPLAINT_BYTES: usize = 50 * 1024;

/// Connects clients with pods, nodes and Services.
#[derive(Debug)]
pub struct KubeletProxy {
    storage: Arc<Storage>,
    tls: Tls,
}

impl KubeletProxy {
    /// Shows `client` to kubelets, and takes those whose certificate an authority in `ca_pem` signed.
    pub fn new(storage: Arc<Storage>, client: &CertKey, ca_pem: &str) -> Result<Arc<Self>, TransportError> {
        let identity = Identity { cert_pem: &client.cert_pem, key_pem: &client.key_pem };
        let kubelet = Arc::new(client_config(Trust::Authorities(ca_pem), Some(identity))?);
        let any = Arc::new(client_config(Trust::Anyone, None)?);
        Ok(Arc::new(KubeletProxy { storage, tls: Tls { kubelet, any } }))
    }

    async fn get(&self, plural: &str, namespace: &str, name: &str) -> ApiResult<Value> {
        let object = self.storage.get("", plural, namespace, name).await?;
        object.ok_or_else(|| ApiError::not_found("", plural, name))
    }

    async fn on_kubelet(&self, node: &str, path: String) -> ApiResult<Target> {
        let (host, port) = target::kubelet(&self.get("nodes", "", node).await?)?;
        Ok(Target { transport: Transport::Kubelet, host, port, path })
    }

    async fn proxy_target(&self, info: &RequestInfo, path: String) -> ApiResult<Target> {
        let (https, name, port) = target::scheme_name_port(&info.name)?;
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
                let slices = self.storage.list("discovery.k8s.io", "endpointslices", &info.namespace).await?;
                target::service_proxy(&service, &slices, https, port, path, coracle_clock::random_below)
            }
        }
    }
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
            let target = self.proxy_target(info, proxied_path(&request, info)).await?;
            return forward(&target, &self.tls, request).await;
        }
        let pod = self.get("pods", &info.namespace, &info.name).await?;
        let path = target::kubelet_path(&info.subresource, &pod, request.uri())?;
        if info.subresource == "log" {
            // Nothing runs yet, so nothing was said yet.
            let Ok(node) = target::host_of(&pod) else { return Ok(logs(Body::empty())) };
            let target = self.on_kubelet(node, path).await?;
            return checked_logs(forward(&target, &self.tls, request).await?).await;
        }
        let target = self.on_kubelet(target::host_of(&pod)?, path).await?;
        forward(&target, &self.tls, request).await
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
