//! The generic handler: every verb of every resource, built in or custom, one file a verb.
//!
//! A handler asks the resource's row of the registry for all that differs between kinds.

mod admit;
mod apply;
mod body;
mod component_status;
mod create;
mod delete;
mod delete_collection;
mod eviction;
mod get;
mod list;
mod modify;
mod ownership;
mod patch;
mod rules;
mod subresource;
mod update;

pub(crate) use body::read as read_body;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_api::{ApiError, ApiResult, Resource};
use http::request::Parts;
use http::{Request, Response};
use serde_json::Value;

use self::modify::Outcome;
pub(crate) use self::ownership::typing;
pub(crate) use self::subresource::{replicas_path, scale_of};
use crate::body::{Body, RequestBody};
use crate::hooks::{AdmissionContext, Notes, UserInfo};
use crate::negotiate::{self, Accept, Offer, View};
use crate::options::Options;
use crate::render;
use crate::request_info::RequestInfo;
use crate::server::ApiServer;
use crate::storage::{Entry, Row, Stored, codec};

/// One request for a resource, on its way through its handler.
pub(crate) struct Call {
    pub(crate) server: Arc<ApiServer>,
    pub(crate) info: RequestInfo,
    pub(crate) row: Row,
    pub(crate) user: UserInfo,
    pub(crate) options: Options,
    pub(crate) accept: Accept,
    /// Who owns the fields it sets: `fieldManager`, or the program the client says it is.
    pub(crate) manager: String,
    /// Texts for the response's `Warning` headers.
    pub(crate) warnings: Vec<String>,
    /// What admission noted.
    pub(crate) notes: Notes,
    /// What admission may look at.
    context: AdmissionContext,
    /// What a webhook made of its object.
    views: ownership::Views,
}

/// The annotations of a request's audit event, in the response's extensions.
#[derive(Clone, Debug, Default)]
pub struct AuditAnnotations(pub BTreeMap<String, String>);

/// Answers an authorised request for a resource.
pub(crate) async fn handle(
    server: Arc<ApiServer>,
    info: RequestInfo,
    user: UserInfo,
    request: Request<RequestBody>,
) -> ApiResult<Response<Body>> {
    let find = || server.config.storage.table().find(&info.group, &info.version, &info.resource).cloned();
    let row = match find() {
        Some(row) if row.resource.builtin() => row,
        // Custom resources are what their definition says now.
        _ => {
            server.config.storage.fresh().await?;
            find().ok_or_else(ApiError::no_such_resource)?
        }
    };
    let resource = &row.resource;
    if info.namespace.is_empty() && resource.namespaced() && !info.name.is_empty() {
        return Err(ApiError::no_such_resource());
    }
    if !info.namespace.is_empty() && !resource.namespaced() && resource.plural != "namespaces" {
        return Err(ApiError::no_such_resource());
    }
    let wanted = match info.subresource.as_str() {
        "" => &resource.verbs,
        name => &resource.subresource(name).ok_or_else(ApiError::no_such_resource)?.verbs,
    };
    // Collections are created in, objects are everything else.
    let misplaced = match info.verb.as_str() {
        "create" => info.subresource.is_empty() && !info.name.is_empty(),
        "update" | "patch" => info.name.is_empty(),
        "deletecollection" => resource.namespaced() && info.namespace.is_empty(),
        _ => false,
    };
    if misplaced || !wanted.contains(&info.verb) {
        return Err(ApiError::method_not_allowed());
    }
    check_name(&info)?;
    let options = Options::parse(request.uri())?;
    let accept = accept(&request, &info, resource)?;
    match info.verb.as_str() {
        "create" => options.check_write("CreateOptions")?,
        "update" => options.check_write("UpdateOptions")?,
        "patch" => options.check_write("PatchOptions")?,
        "delete" | "deletecollection" => options.check_write("DeleteOptions")?,
        _ => {}
    }
    let manager = manager(&options, &request);
    let config = &server.config;
    let context = AdmissionContext::new(config.storage.clone(), server.clone(), config.webhooks.clone());
    let mut call = Call {
        manager,
        server,
        info,
        row,
        user,
        options,
        accept,
        warnings: Vec::new(),
        notes: Notes::default(),
        context,
        views: ownership::Views::default(),
    };
    if let Some(warning) = call.row.resource.custom.as_ref().and_then(|kind| kind.deprecation.clone()) {
        call.warnings.push(warning);
    }
    if let Some(warning) = deprecated(&call.row.resource) {
        call.warnings.push(warning);
    }
    // Warnings go with a refusal, too.
    let mut response = call.route(request).await.unwrap_or_else(|error| render::refusal(&error, accept));
    call.warnings.extend(call.notes.warnings());
    render::add_warnings(&mut response, &call.warnings);
    let annotations = call.notes.annotations();
    if !annotations.is_empty() {
        response.extensions_mut().insert(AuditAnnotations(annotations));
    }
    Ok(response)
}

/// Negotiates in what shape and format the answer goes back.
fn accept(request: &Request<RequestBody>, info: &RequestInfo, resource: &Resource) -> ApiResult<Accept> {
    // What a kubelet, or a server behind it, answers is not ours to choose.
    if matches!(info.subresource.as_str(), "attach" | "exec" | "log" | "portforward" | "proxy") {
        return Ok(Accept::default());
    }
    let stream = info.verb == "watch";
    let offer =
        Offer { protobuf: resource.builtin(), transforms: resource.verbs.iter().any(|verb| verb == "list"), stream };
    let mut accept = negotiate::accept(request.headers(), offer)?;
    accept.pretty = negotiate::pretty(request.uri()).unwrap_or(accept.pretty);
    let package = resource.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
    let list = matches!(info.verb.as_str(), "list" | "deletecollection");
    let refused = match accept.view {
        View::Metadata(_) if list => {
            format!(
                "you requested PartialObjectMetadata, but the requested object is a list (*{package}.{})",
                resource.list_kind
            )
        }
        View::MetadataList(_) if !list && !stream => {
            format!(
                "you requested PartialObjectMetadataList, but the requested object is not a list (*{package}.{})",
                resource.kind
            )
        }
        _ => return Ok(accept),
    };
    Err(ApiError { message: refused, ..ApiError::not_acceptable("") })
}

/// Names and namespaces become parts of keys: `..` must not.
fn check_name(info: &RequestInfo) -> ApiResult<()> {
    for (what, name) in [("Name", &info.name), ("Namespace", &info.namespace)] {
        let problem = match name.as_str() {
            "." => "may not be '.'",
            ".." => "may not be '..'",
            name if name.contains('/') => "may not contain '/'",
            name if name.contains('%') => "may not contain '%'",
            _ => continue,
        };
        return Err(ApiError::bad_request(format!("{what} parameter invalid: {name:?}: {problem}")));
    }
    Ok(())
}

/// What is said of every request for a kind that is on its way out.
fn deprecated(resource: &Resource) -> Option<String> {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "endpoints") => {
            Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_owned())
        }
        ("", "componentstatuses") => Some("v1 ComponentStatus is deprecated in v1.19+".to_owned()),
        _ => None,
    }
}

/// `fieldManager`, or the name in `User-Agent` up to its version.
fn manager(options: &Options, request: &Request<RequestBody>) -> String {
    if !options.field_manager.is_empty() {
        return options.field_manager.clone();
    }
    let agent = request.headers().get(http::header::USER_AGENT).and_then(|value| value.to_str().ok());
    agent.and_then(|text| text.split('/').next()).filter(|name| !name.is_empty()).unwrap_or("unknown").to_owned()
}

impl Call {
    /// To a connector, to code that answers in an object's place, or to the stored objects.
    async fn route(&mut self, request: Request<RequestBody>) -> ApiResult<Response<Body>> {
        let name = match self.info.subresource.as_str() {
            "" => self.row.resource.qualified(),
            subresource => format!("{}/{subresource}", self.row.resource.qualified()),
        };
        if let Some(connector) = self.server.config.connectors.get(&name).cloned() {
            self.admit_connect(request.uri()).await?;
            return connector.connect(&self.info, &self.user, request).await;
        }
        let (parts, body) = request.into_parts();
        match self.server.config.virtual_resources.get(&name).cloned() {
            Some(resource) if self.info.verb == "create" => {
                let mut object = self.decode_subresource(&parts, body).await?;
                if !self.info.subresource.is_empty() {
                    object = self.admit_subresource(object).await?;
                }
                let answer = resource.create(&self.info, &self.user, object).await?;
                Ok(self.answer(201, answer.to_string()))
            }
            _ => self.dispatch(&parts, body).await,
        }
    }

    async fn dispatch(&mut self, parts: &Parts, body: RequestBody) -> ApiResult<Response<Body>> {
        if self.row.resource.qualified() == "componentstatuses" {
            return self.component_status().await;
        }
        if !self.row.resource.stored {
            return Err(ApiError::method_not_allowed());
        }
        let (subresource, verb) = (self.info.subresource.clone(), self.info.verb.clone());
        match (subresource.as_str(), verb.as_str()) {
            ("scale", _) => self.scale(parts, body).await,
            ("binding", "create") => self.bind(parts, body).await,
            ("eviction", "create") => self.evict(parts, body).await,
            (_, "get") => self.get().await,
            ("", "list") => self.list().await,
            ("", "watch") => self.watch().await,
            ("", "create") => self.create(parts, body).await,
            (_, "update") => self.update(parts, body).await,
            (_, "patch") => self.patch(parts, body).await,
            ("", "delete") => self.delete(parts, body).await,
            ("", "deletecollection") => self.delete_collection(parts, body).await,
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    /// The 404 of this request's object.
    fn not_found(&self) -> ApiError {
        let resource = &self.row.resource;
        ApiError::not_found(&resource.group, &resource.plural, &self.info.name)
    }

    /// A conflict about an object of this resource.
    fn conflict(&self, name: &str, why: impl std::fmt::Display) -> ApiError {
        let resource = &self.row.resource;
        ApiError::conflict(&resource.group, &resource.plural, name, why)
    }

    /// The object this request names, as of now.
    async fn current(&self, name: &str) -> ApiResult<Option<Arc<Entry>>> {
        self.server.config.storage.fresh().await?;
        Ok(self.row.get(&self.info.namespace, name))
    }

    /// An answer in JSON that is no object of this resource (or is to be shown as it is).
    fn answer(&self, code: u16, json: String) -> Response<Body> {
        render::finish(code, json.into(), self.accept)
    }

    /// Stored objects as this request's version shows them.
    async fn present(&self, entries: Vec<Arc<Entry>>) -> ApiResult<Vec<Arc<Entry>>> {
        self.server.config.webhooks.present(&self.row, entries).await
    }

    async fn present_one(&self, entry: Arc<Entry>) -> ApiResult<Arc<Entry>> {
        Ok(self.present(vec![entry.clone()]).await?.pop().unwrap_or(entry))
    }

    /// A stored object, parsed, in this request's version.
    async fn read(&self, entry: &Arc<Entry>) -> ApiResult<Value> {
        Ok(self.present_one(entry.clone()).await?.parse())
    }

    /// As [`Call::read`], for who is about to write it.
    async fn read_to_write(&self, entry: &Arc<Entry>, name: &str) -> ApiResult<Value> {
        if self.is_rewritten() {
            let key = self.row.key(&self.info.namespace, name);
            if let Some(object) = self.server.config.storage.recent().take(&key, entry.revision) {
                return Ok(object);
            }
        }
        self.read(entry).await
    }

    /// Keeps an object that was written, if somebody will write it again soon.
    fn keep(&self, key: String, stored: &Stored, object: Value) {
        if self.is_rewritten() {
            self.server.config.storage.recent().keep(key, stored.revision, object);
        }
    }

    /// Whether objects of this resource are written again and again, as those are that have a status; and lie in the
    /// store in the version that requests see.
    fn is_rewritten(&self) -> bool {
        self.row.resource.builtin() && self.row.stored_as.is_none() && self.row.resource.subresource("status").is_some()
    }

    /// What a write left behind, parsed, in this request's version.
    async fn read_stored(&self, stored: &Stored) -> ApiResult<Value> {
        let object = serde_json::from_slice(&stored.json).map_err(ApiError::internal)?;
        self.server.config.webhooks.convert_one(object, &self.row.resource).await
    }

    /// An object of this request's version as it is to be stored.
    async fn as_stored<'a>(&self, object: &'a Value) -> ApiResult<Cow<'a, Value>> {
        match &self.row.stored_as {
            None => Ok(Cow::Borrowed(object)),
            Some(version) => self.server.config.webhooks.convert_one(object.clone(), version).await.map(Cow::Owned),
        }
    }

    /// An object of this resource as the answer, in the shape asked for.
    async fn answer_object(&self, code: u16, outcome: Outcome) -> ApiResult<Response<Body>> {
        let json = match outcome {
            Outcome::Stored(stored) if self.row.shows(&stored.json) => stored.json,
            Outcome::Stored(stored) => codec::whole(&self.read_stored(&stored).await?),
            Outcome::Unwritten(object) => codec::whole(&object),
        };
        Ok(render::object(code, json, &self.row.resource, self.accept, self.options.include_object))
    }
}
