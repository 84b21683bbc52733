//! The places where policy plugs into the way of a request: who is it, may they, and what must be
//! changed or refused before an object is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use coracle_api::{ApiError, ApiResult, Resource};
use http::request::Parts;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::body::{Body, RequestBody};
use crate::request_info::RequestInfo;
use crate::storage::{Entry, Storage};
use crate::webhook::Webhooks;

/// Who sends a request (`authentication.k8s.io` UserInfo).
///
/// A request that carries one in its extensions is already authenticated: this is how in-process
/// clients say who they are, and no bytes from a wire can.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The name, such as `system:kube-scheduler`.
    pub name: String,
    /// Identifies the user over time where names may be reused; may be empty.
    pub uid: String,
    /// The groups, such as `system:masters`.
    pub groups: Vec<String>,
    /// Whatever else the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user in `groups` and in `system:authenticated`.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        if !groups.iter().any(|group| group == "system:authenticated") {
            groups.push("system:authenticated".into());
        }
        UserInfo { name: name.into(), groups, ..UserInfo::default() }
    }

    /// The user of requests without credentials.
    pub fn anonymous() -> Self {
        UserInfo {
            name: "system:anonymous".into(),
            groups: vec!["system:unauthenticated".into()],
            ..UserInfo::default()
        }
    }

    /// As an `authentication.k8s.io` UserInfo.
    pub fn to_json(&self) -> Value {
        let mut json = json!({ "username": self.name });
        if !self.uid.is_empty() {
            json["uid"] = self.uid.clone().into();
        }
        if !self.groups.is_empty() {
            json["groups"] = self.groups.clone().into();
        }
        if !self.extra.is_empty() {
            json["extra"] = json!(self.extra);
        }
        json
    }

    /// Whether the user is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// Finds out who sends a request.
#[async_trait]
pub trait Authenticator: fmt::Debug + Send + Sync {
    /// `None` when the request carries no credentials of this sort (the next authenticator is asked);
    /// an error when it carries them and they are wrong.
    async fn authenticate(&self, parts: &Parts) -> Option<Result<UserInfo, ApiError>>;
}

#[async_trait]
impl<T: Authenticator + ?Sized> Authenticator for Arc<T> {
    async fn authenticate(&self, parts: &Parts) -> Option<Result<UserInfo, ApiError>> {
        self.as_ref().authenticate(parts).await
    }
}

/// What somebody wants to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The verb: `get`, `list`, `watch`, `create`, …; for paths that are no resource the HTTP method in lower case.
    pub verb: String,
    /// Whether a resource (else a path) is meant.
    pub is_resource: bool,
    /// The API group; empty for core.
    pub group: String,
    /// The version.
    pub version: String,
    /// The plural resource name.
    pub resource: String,
    /// The subresource, or empty.
    pub subresource: String,
    /// The namespace, or empty.
    pub namespace: String,
    /// The object's name, or empty.
    pub name: String,
    /// The path of the URL.
    pub path: String,
    /// What the field selector of a list, watch or deletion of a collection demands: field and value.
    pub fields: Vec<(String, String)>,
}

impl From<&RequestInfo> for Attributes {
    fn from(info: &RequestInfo) -> Self {
        Attributes {
            verb: info.verb.clone(),
            is_resource: info.is_resource,
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            namespace: info.namespace.clone(),
            name: if info.name.is_empty() { info.selected_name.clone() } else { info.name.clone() },
            path: info.path.clone(),
            fields: info.selected_fields.clone(),
        }
    }
}

/// An authorizer's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// They may.
    Allow,
    /// They may not, whatever other authorizers say. The text goes into the refusal.
    Deny(String),
    /// This authorizer does not know; without anybody's permission the answer is no.
    NoOpinion,
}

/// Decides who may do what.
#[async_trait]
pub trait Authorizer: fmt::Debug + Send + Sync {
    /// May `user` do this?
    async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision;

    /// Why `user` may do this, for those who ask: the audit log, access reviews. Empty if there is nothing to say.
    async fn reason(&self, _user: &UserInfo, _attributes: &Attributes) -> String {
        String::new()
    }
}

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It comes to be.
    Create,
    /// It (or a subresource of it) is replaced.
    Update,
    /// It goes.
    Delete,
    /// A connection to what it stands for is opened (`exec`, `attach`, `portforward`, `proxy`, `log`).
    Connect,
}

/// What an admission plugin sees, and may change.
#[derive(Clone, Debug)]
pub struct AdmissionRequest {
    /// What is done.
    pub operation: Operation,
    /// To which resource.
    pub resource: Arc<Resource>,
    /// To which subresource; empty for the object itself.
    pub subresource: String,
    /// The namespace; empty for cluster-wide objects.
    pub namespace: String,
    /// The name; empty while it is still to be generated, and for deletions of collections.
    pub name: String,
    /// The new object, null for a deletion. `admit` may change it, `validate` may not.
    pub object: Value,
    /// The object as it is stored, null for a creation.
    pub old_object: Value,
    /// Who asks.
    pub user: UserInfo,
    /// Whether nothing will be stored in the end.
    pub dry_run: bool,
    /// The request's options (`DeleteOptions` for deletions), or null.
    pub options: Value,
    /// What plugins have to say besides yes and no.
    pub notes: Notes,
    /// What plugins that may run twice remember of the first time.
    pub reinvocation: Reinvocation,
}

/// What is noted about a request on its way. Clones share the notes.
#[derive(Clone, Debug, Default)]
pub struct Notes(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    warnings: Vec<String>,
    annotations: BTreeMap<String, String>,
}

impl Notes {
    fn inner(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A text for the response's `Warning` headers; the same one twice is shown once.
    pub fn warn(&self, text: impl Into<String>) {
        let (mut inner, text) = (self.inner(), text.into());
        if !inner.warnings.contains(&text) {
            inner.warnings.push(text);
        }
    }

    /// An annotation of the request's audit event. The first one of a key stays.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        self.inner().annotations.entry(key.into()).or_insert_with(|| value.into());
    }

    /// The warnings so far.
    pub fn warnings(&self) -> Vec<String> {
        self.inner().warnings.clone()
    }

    /// The audit annotations so far.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.inner().annotations.clone()
    }

    /// Forgets all, since everything is done again.
    pub fn clear(&self) {
        *self.inner() = Noted::default();
    }
}

/// Mutating webhooks and policies run once more, after all plugins, if one of them changed the object:
/// an earlier one (and every built-in plugin) then sees what a later one did.
#[derive(Clone, Debug, Default)]
pub struct Reinvocation {
    /// Somebody changed the object, so that there is to be a second round.
    pub wanted: bool,
    /// This is the second round.
    pub again: bool,
    /// Who was invoked and wants to be invoked again when others changed the object afterwards (`IfNeeded`).
    pub ran: BTreeSet<String>,
    /// Those of them after whom the object did change.
    pub due: BTreeSet<String>,
    /// The object as the last of them left it, if anybody wants to know.
    pub left: Value,
}

impl Reinvocation {
    /// The object changed: all who ran before are to see it.
    pub fn others_are_due(&mut self) {
        self.due.append(&mut self.ran);
    }
}

/// What an admission plugin may look at.
#[derive(Clone, Debug)]
pub struct AdmissionContext {
    /// The stored objects.
    pub storage: Arc<Storage>,
    /// Who may do what, for plugins that ask for a right besides that to the request itself.
    pub authorizer: Arc<dyn Authorizer>,
    /// The way to webhooks.
    pub webhooks: Arc<Webhooks>,
    /// Set once everything is known that was acknowledged when the request came.
    heard: Arc<OnceCell<()>>,
}

impl AdmissionContext {
    /// For one request.
    pub fn new(storage: Arc<Storage>, authorizer: Arc<dyn Authorizer>, webhooks: Arc<Webhooks>) -> Self {
        AdmissionContext { storage, authorizer, webhooks, heard: Arc::default() }
    }

    /// One object, not older than the request; for objects that are few and asked for again and again, as those that
    /// say what is allowed: they stay parsed.
    pub async fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> ApiResult<Option<Arc<Value>>> {
        Ok(self.entry(group, plural, namespace, name).await?.map(|entry| entry.parsed()))
    }

    /// The labels of an object, not older than the request.
    pub async fn labels(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> ApiResult<Option<BTreeMap<String, String>>> {
        let table = self.storage.table();
        let fields = table.find_any(group, plural).map_or(&[][..], |row| &row.resource.selectable_fields);
        Ok(self.entry(group, plural, namespace, name).await?.map(|entry| entry.selectable(fields).labels.clone()))
    }

    /// All objects of a resource (in `namespace`, unless that is empty) in key order; otherwise as
    /// [`get`](AdmissionContext::get).
    pub async fn list(&self, group: &str, plural: &str, namespace: &str) -> ApiResult<Vec<Arc<Value>>> {
        let table = self.storage.table();
        let Some(row) = table.find_any(group, plural) else { return Ok(Vec::new()) };
        self.hear().await?;
        Ok(row.cache.list(namespace, self.storage.applied()).0.iter().map(|entry| entry.parsed()).collect())
    }

    async fn entry(&self, group: &str, plural: &str, namespace: &str, name: &str) -> ApiResult<Option<Arc<Entry>>> {
        let table = self.storage.table();
        let Some(row) = table.find_any(group, plural) else { return Ok(None) };
        self.hear().await?;
        Ok(row.get(namespace, name))
    }

    async fn hear(&self) -> ApiResult<()> {
        self.heard.get_or_try_init(|| self.storage.fresh()).await.copied()
    }
}

/// Changes or refuses objects on their way to the store. Its type is named as `--enable-admission-plugins` knows it.
///
/// On a write all plugins' `admit` run first, in order (those up to the last one that [reinvokes] maybe twice);
/// then the object is defaulted and validated;
/// then all plugins' `validate` run.
///
/// [reinvokes]: AdmissionPlugin::reinvokes
#[async_trait]
pub trait AdmissionPlugin: fmt::Debug + Send + Sync {
    /// Whether it cares about such a request.
    fn handles(&self, request: &AdmissionRequest) -> bool;

    /// Whether it runs in the second round too, if it asks for one (see [`Reinvocation`]).
    fn reinvokes(&self) -> bool {
        false
    }

    /// Changes the object, or refuses it.
    async fn admit(&self, _request: &mut AdmissionRequest, _context: &AdmissionContext) -> ApiResult<()> {
        Ok(())
    }

    /// Refuses the final object, or does not.
    async fn validate(&self, _request: &AdmissionRequest, _context: &AdmissionContext) -> ApiResult<()> {
        Ok(())
    }

    /// Writes what it counts, as Prometheus text.
    fn metrics(&self, _out: &mut String) {}
}

/// A resource or subresource that is answered by code and never stored: token requests, reviews.
#[async_trait]
pub trait VirtualResource: fmt::Debug + Send + Sync {
    /// Answers a creation. `object` is the decoded body (`status` still as the client sent it);
    /// what is returned goes back with code 201.
    async fn create(&self, info: &RequestInfo, user: &UserInfo, object: Value) -> ApiResult<Value>;
}

/// A subresource that is a connection, not an object: `exec`, `attach`, `portforward`, `log`, `proxy`.
#[async_trait]
pub trait Connector: fmt::Debug + Send + Sync {
    /// Answers the request, which is already authenticated, authorised and admitted. An upgrade is in
    /// the request's extensions as hyper put it there.
    async fn connect(
        &self,
        info: &RequestInfo,
        user: &UserInfo,
        request: http::Request<RequestBody>,
    ) -> ApiResult<http::Response<Body>>;
}
