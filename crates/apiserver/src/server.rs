//! The server: what it is made of, and the way a request takes through it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use coracle_api::ApiError;
use http::{Request, Response};
use http_body_util::BodyExt;
use tower::Service;

use crate::body::{Body, BoxError, RequestBody};
use crate::hooks::{AdmissionPlugin, Authenticator, Authorizer, Connector, UserInfo, VirtualResource};
use crate::storage::Storage;

/// What an API server is made of.
#[derive(Debug)]
pub struct Config {
    /// The stored objects; made first, since policy looks at them.
    pub storage: Arc<Storage>,
    /// Asked in order until one knows the user. Not asked for in-process clients.
    pub authenticators: Vec<Box<dyn Authenticator>>,
    /// Whether requests without credentials go on as `system:anonymous`.
    pub anonymous_auth: bool,
    /// Asked in order until one allows or denies.
    pub authorizers: Vec<Box<dyn Authorizer>>,
    /// Run in order.
    pub admission: Vec<Box<dyn AdmissionPlugin>>,
    /// Resources and subresources answered by code, by `resource.group` and `resource.group/subresource`:
    /// `tokenreviews.authentication.k8s.io`, `serviceaccounts/token`.
    pub virtual_resources: BTreeMap<String, Arc<dyn VirtualResource>>,
    /// Connecting subresources, by the same names: `pods/exec`, `nodes/proxy`.
    pub connectors: BTreeMap<String, Arc<dyn Connector>>,
    /// Where clients reach this server, as `host:port`; discovery tells it.
    pub advertise: String,
}

impl Config {
    /// A server for `storage` that lets nobody in but in-process clients, and those do nothing: add authorizers.
    pub fn new(storage: Arc<Storage>) -> Self {
        Config {
            storage,
            authenticators: Vec::new(),
            anonymous_auth: true,
            authorizers: Vec::new(),
            admission: Vec::new(),
            virtual_resources: BTreeMap::new(),
            connectors: BTreeMap::new(),
            advertise: "127.0.0.1:6443".into(),
        }
    }
}

/// The API server.
#[derive(Debug)]
pub struct ApiServer {
    /// What it is made of.
    pub config: Config,
}

impl ApiServer {
    /// Puts a server together.
    pub fn new(config: Config) -> Arc<Self> {
        Arc::new(ApiServer { config })
    }

    /// The server as a service of HTTP requests. Cheap to clone.
    pub fn service(self: &Arc<Self>) -> ApiService {
        ApiService { server: self.clone(), user: None }
    }

    /// The server as a service whose every request comes from `user`.
    pub fn service_as(self: &Arc<Self>, user: UserInfo) -> ApiService {
        ApiService { server: self.clone(), user: Some(user) }
    }

    /// A client in this process: no socket, no TLS, no second way in. Must be called inside a tokio runtime.
    pub fn client_as(self: &Arc<Self>, user: UserInfo) -> kube::Client {
        kube::Client::new(self.service_as(user), "default")
    }

    /// Answers one request.
    pub async fn handle(&self, _request: Request<RequestBody>) -> Response<Body> {
        let status = ApiError::no_such_resource().to_status().to_string();
        let mut response = Response::new(Body::full(status));
        *response.status_mut() = http::StatusCode::NOT_FOUND;
        response
    }
}

/// The server as a [`tower::Service`]; generic over the request's body, so that hyper and in-process clients share it.
#[derive(Clone, Debug)]
pub struct ApiService {
    server: Arc<ApiServer>,
    user: Option<UserInfo>,
}

impl<B> Service<Request<B>> for ApiService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        if let Some(user) = &self.user {
            request.extensions_mut().insert(user.clone());
        }
        let server = self.server.clone();
        Box::pin(async move { Ok(server.handle(request).await) })
    }
}
