//! The server: what it is made of, and the way a request takes through it.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use coracle_api::{ApiError, ApiResult};
use coracle_client::metrics::Meter;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, Entry, HeaderValue, USER_AGENT};
use http::request::Parts;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::sync::OwnedSemaphorePermit;
use tower::Service;

use crate::aggregator::Aggregator;
use crate::audit::policy::{Level, Stage};
use crate::audit::{Audit, Record};
use crate::auth::impersonate::impersonated;
use crate::body::{Body, BoxError, RequestBody};
use crate::flow_control::in_flight::InFlight;
use crate::flow_control::{FlowControl, Pass, lasts};
use crate::health::{self, StartHooks};
use crate::hooks::{
    AdmissionPlugin, Attributes, Authenticator, Authorizer, Connector, Decision, UserInfo, VirtualResource,
};
use crate::metrics::Metrics;
use crate::negotiate::{self, Accept, Offer};
use crate::openapi::Documents;
use crate::pages::Pages;
use crate::request_info::RequestInfo;
use crate::storage::Storage;
use crate::webhook::Webhooks;
use crate::{discovery, handler, rbac, render, version};

/// The header by which a request is known in the audit log.
const AUDIT_ID: &str = "audit-id";

/// What an API server is made of.
#[derive(Debug)]
pub struct Config {
    /// The stored objects; made first, since policy looks at them.
    pub storage: Arc<Storage>,
    /// Asked in order until one knows the user. Not asked for in-process clients.
    pub authenticators: Vec<Arc<dyn Authenticator>>,
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
    /// Documents served as they are, by path: `/openid/v1/jwks`.
    pub documents: BTreeMap<String, serde_json::Value>,
    /// What components of this process show below some paths.
    pub pages: Pages,
    /// Passes group versions of extension servers on to them.
    pub aggregator: Arc<Aggregator>,
    /// Calls admission and conversion webhooks.
    pub webhooks: Arc<Webhooks>,
    /// Who waits when there is too much to do.
    pub overload: Overload,
    /// Writes down who did what.
    pub audit: Option<Arc<Audit>>,
    /// Where clients reach this server, as `host:port`; discovery tells it.
    pub advertise: String,
}

/// What keeps the server from doing too much at once.
#[derive(Debug)]
pub enum Overload {
    /// Nothing.
    Unlimited,
    /// Priority and fairness.
    Fair(Arc<FlowControl>),
    /// Two limits.
    InFlight(InFlight),
}

/// A request's permission to go on, held until its answer begins.
#[derive(Debug, Default)]
struct Admitted {
    pass: Option<Pass>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Overload {
    async fn admit(&self, user: &UserInfo, info: &RequestInfo) -> ApiResult<Admitted> {
        Ok(match self {
            Overload::Unlimited => Admitted::default(),
            Overload::Fair(control) => Admitted { pass: control.admit(user, info).await?, _place: None },
            Overload::InFlight(limits) => Admitted { pass: None, _place: limits.admit(user, info)? },
        })
    }
}

impl Config {
    /// A server for `storage` that lets nobody in but in-process clients, and those do nothing: add authorizers.
    pub fn new(storage: Arc<Storage>) -> Self {
        Config {
            aggregator: Aggregator::new(storage.clone(), None),
            webhooks: Webhooks::new(&storage),
            storage,
            authenticators: Vec::new(),
            anonymous_auth: true,
            authorizers: Vec::new(),
            admission: Vec::new(),
            virtual_resources: BTreeMap::new(),
            connectors: BTreeMap::new(),
            documents: BTreeMap::new(),
            pages: Pages::default(),
            overload: Overload::Unlimited,
            audit: None,
            advertise: "127.0.0.1:6443".into(),
        }
    }
}

/// The API server.
#[derive(Debug)]
pub struct ApiServer {
    /// What it is made of.
    pub config: Config,
    /// What must be done before it is ready.
    pub start_hooks: StartHooks,
    health: health::Outcomes,
    metrics: Metrics,
    openapi: Documents,
}

impl ApiServer {
    /// Puts a server together.
    pub fn new(config: Config) -> Arc<Self> {
        Arc::new(ApiServer {
            config,
            start_hooks: StartHooks::default(),
            health: health::Outcomes::default(),
            metrics: Metrics::default(),
            openapi: Documents::default(),
        })
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
        kube::Client::new(Meter::new(self.service_as(user), "localhost"), "default")
    }

    /// Answers one request.
    pub async fn handle(self: Arc<Self>, request: Request<RequestBody>) -> Response<Body> {
        let info = RequestInfo::parse(request.method(), request.uri());
        // Who takes nothing that a refusal can be written in gets it in JSON.
        let mut accept = negotiate::accept(request.headers(), Offer::PLAIN).unwrap_or_default();
        accept.pretty = negotiate::pretty(request.uri()).unwrap_or(accept.pretty);
        let id = request.headers().get(AUDIT_ID).filter(|id| !id.is_empty() && id.len() <= 64).cloned();
        let id = id.or_else(|| HeaderValue::from_str(&coracle_clock::uuid()).ok());
        let counted = self.metrics.begin(request.method(), &info, &self.config.storage.table());
        let answer = self.clone().answer(info, id.as_ref(), accept, request).await;
        let mut response = answer.unwrap_or_else(|error| render::refusal(&error, accept));
        if let Some(id) = id {
            response.headers_mut().insert(AUDIT_ID, id);
        }
        match self.metrics.end(counted, response.status().as_u16()) {
            Some(ongoing) => response.map(|body| body.holding(ongoing)),
            None => response,
        }
    }

    /// The way of a request: who, is there room, may they, and then what.
    async fn answer(
        self: Arc<Self>,
        info: RequestInfo,
        id: Option<&HeaderValue>,
        accept: Accept,
        request: Request<RequestBody>,
    ) -> ApiResult<Response<Body>> {
        if health::is_check(&info.path) {
            return Ok(health::answer(&self.config.storage, &self.start_hooks, &self.health, request.uri()).await);
        }
        let (mut parts, mut body) = request.into_parts();
        let user = match parts.extensions.remove::<UserInfo>() {
            Some(user) => Ok(user),
            None => self.authenticate(&parts).await,
        };
        let begin = |user: &UserInfo| {
            let id = id.and_then(|id| id.to_str().ok()).unwrap_or_default();
            self.config.audit.as_ref().and_then(|audit| audit.begin(id, user, &info, &parts))
        };
        let user = match user {
            Ok(user) => user,
            Err(error) => {
                if let Some(record) = begin(&UserInfo::default()) {
                    record.refused(parts.headers.contains_key(http::header::AUTHORIZATION));
                }
                return Err(error);
            }
        };
        let mut record = begin(&user);
        if let Some(record) = &mut record {
            record.write(Stage::RequestReceived);
            // The name of what is created stands in the body.
            let wanted = if info.verb == "create" { Level::Metadata } else { Level::Request };
            if record.level() >= wanted && info.is_resource && parts.method != Method::GET && !lasts(&info) {
                let bytes = handler::read_body(body).await?;
                record.requested(&parts.headers, &bytes);
                body = Full::new(bytes).map_err(Into::into).boxed_unsync();
            }
        }
        let answer = self.permitted(info, user, &mut record, accept, parts, body).await;
        let response = answer.unwrap_or_else(|error| render::refusal(&error, accept));
        Ok(match record {
            Some(record) => record.answered(response),
            None => response,
        })
    }

    /// Answers a request of a known user.
    async fn permitted(
        self: Arc<Self>,
        info: RequestInfo,
        mut user: UserInfo,
        record: &mut Option<Record>,
        accept: Accept,
        parts: Parts,
        body: RequestBody,
    ) -> ApiResult<Response<Body>> {
        if let Some(claimed) = impersonated(self.as_ref(), &user, &parts.headers, &info).await? {
            if let Some(record) = record {
                record.impersonates(&claimed);
            }
            user = claimed;
        }
        let admitted = self.config.overload.admit(&user, &info).await?;
        let server = self.clone();
        let answer = async {
            let wanted = Attributes::from(&info);
            let decision = server.authorize(&user, &wanted).await;
            if let Some(record) = record {
                record.decided(&decision, &server.reason(&user, &wanted).await);
            }
            refuse_unless_allowed(&user, &wanted, decision)?;
            if let Some(remote) = server.config.aggregator.remote_of(&info.path) {
                let request = Request::from_parts(parts, body);
                return Ok(server.config.aggregator.pass_on(&remote, &user, request).await);
            }
            if info.is_resource {
                return handler::handle(server, info, user, Request::from_parts(parts, body)).await;
            }
            if parts.method != Method::GET && parts.method != Method::HEAD {
                return Err(ApiError::method_not_allowed());
            }
            let merged = match info.path.trim_end_matches('/') {
                "/apis" | "/openapi/v3" => true,
                path => path.strip_prefix("/apis/").is_some_and(|group| !group.contains('/')),
            };
            if !merged || server.config.aggregator.remotes().is_empty() {
                return server.document(&info.path, &parts).await;
            }
            server.merged(&info.path, parts).await
        };
        let mut response = answer.await.unwrap_or_else(|error| render::refusal(&error, accept));
        if let Some(pass) = &admitted.pass {
            pass.mark(response.headers_mut());
        }
        Ok(response)
    }

    /// A document of this server's with what extension servers add to it.
    async fn merged(&self, path: &str, mut parts: Parts) -> ApiResult<Response<Body>> {
        // What is to be merged must be whole and not packed.
        parts.headers.remove(http::header::IF_NONE_MATCH);
        parts.headers.remove(http::header::ACCEPT_ENCODING);
        let (aggregator, place) = (&self.config.aggregator, path.trim_end_matches('/'));
        let own = match self.document(path, &parts).await {
            Ok(own) => own,
            Err(error) => {
                let document = aggregator.merge(place, None).ok_or(error)?;
                return Ok(render::json_bytes(200, document.to_string()));
            }
        };
        let (mut head, body) = own.into_parts();
        let bytes = body.collect().await.map_err(ApiError::internal)?.to_bytes();
        let document = aggregator.merge(place, serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        head.headers.remove(http::header::ETAG);
        Ok(Response::from_parts(head, Body::full(document.to_string())))
    }

    /// Refuses what the user may not do.
    pub(crate) async fn permit(&self, user: &UserInfo, wanted: &Attributes) -> ApiResult<()> {
        refuse_unless_allowed(user, wanted, self.authorize(user, wanted).await)
    }

    async fn authenticate(&self, parts: &Parts) -> ApiResult<UserInfo> {
        let mut wrong = !self.config.anonymous_auth;
        for authenticator in &self.config.authenticators {
            match authenticator.authenticate(parts).await {
                Some(Ok(user)) => return Ok(user),
                Some(Err(_)) => wrong = true,
                None => {}
            }
        }
        if wrong { Err(ApiError::unauthorized()) } else { Ok(UserInfo::anonymous()) }
    }

    fn metrics(&self, storage: &Storage) -> String {
        let mut text = self.metrics.render(storage);
        self.config.webhooks.metrics(&mut text);
        self.config.admission.iter().for_each(|plugin| plugin.metrics(&mut text));
        if let Overload::Fair(control) = &self.config.overload {
            control.metrics(&mut text);
        }
        text
    }

    /// Paths that are no resource.
    async fn document(&self, path: &str, parts: &Parts) -> ApiResult<Response<Body>> {
        let storage = &self.config.storage;
        if let Some(document) = self.config.documents.get(path) {
            return Ok(well_known(path, document));
        }
        let known = match path {
            "/" => Some(render::json_bytes(200, serde_json::json!({ "paths": self.paths().await }).to_string())),
            "/version" | "/version/" => Some(render::json_bytes(200, format!("{:#}", version::document()))),
            "/metrics" => Some(render::text(200, self.metrics(storage))),
            "/metrics/slis" => Some(render::text(200, self.health.render())),
            path if path == "/openapi/v2" || path == "/openapi/v3" || path.starts_with("/openapi/v3/") => {
                return self.openapi.answer(&storage.table(), &self.config.aggregator, path, parts);
            }
            path => discovery::answer(&storage.table(), path, &parts.headers, &self.config.advertise)
                .or_else(|| self.config.pages.answer(path)),
        };
        known.ok_or_else(ApiError::no_such_resource)
    }

    /// All paths that are no resource, in order.
    async fn paths(&self) -> BTreeSet<String> {
        let storage = &self.config.storage;
        let mut paths: BTreeSet<String> = health::paths(storage, &self.start_hooks).await.into_iter().collect();
        let fixed = ["/apis/", "/metrics", "/metrics/slis", "/openapi/v2", "/openapi/v3", "/openapi/v3/", "/version"];
        paths.extend(fixed.map(str::to_owned));
        paths.extend(discovery::paths(&storage.table()));
        paths.extend(self.config.documents.keys().cloned());
        paths
    }
}

/// The issuer's configuration and keys, which whoever checks a token may keep for an hour.
fn well_known(path: &str, document: &serde_json::Value) -> Response<Body> {
    let mut response = render::json_bytes(200, document.to_string());
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    if path.ends_with("/jwks") {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
    }
    response
}

fn refuse_unless_allowed(user: &UserInfo, wanted: &Attributes, decision: Decision) -> ApiResult<()> {
    match decision {
        Decision::Allow => Ok(()),
        Decision::Deny(reason) => Err(rbac::forbidden(user, wanted, &reason)),
        Decision::NoOpinion => Err(rbac::forbidden(user, wanted, "")),
    }
}

#[async_trait]
impl Authorizer for ApiServer {
    async fn authorize(&self, user: &UserInfo, wanted: &Attributes) -> Decision {
        for authorizer in &self.config.authorizers {
            match authorizer.authorize(user, wanted).await {
                Decision::NoOpinion => {}
                decided => return decided,
            }
        }
        Decision::NoOpinion
    }

    async fn reason(&self, user: &UserInfo, wanted: &Attributes) -> String {
        rbac::reason(self.config.authorizers.iter().map(AsRef::as_ref), user, wanted).await
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
            // Field managers are named after it: `kube-scheduler`, `kubelet`.
            let name = user.name.trim_start_matches("system:").split(':').next().unwrap_or_default();
            let agent = HeaderValue::from_str(if name == "node" { "kubelet" } else { name });
            if let (Entry::Vacant(entry), Ok(agent)) = (request.headers_mut().entry(USER_AGENT), agent) {
                entry.insert(agent);
            }
        }
        let server = self.server.clone();
        Box::pin(async move { Ok(server.handle(request).await) })
    }
}
