//! Aggregation: group versions that another server serves, behind a Service.
//!
//! An APIService with `spec.service` says so for one group version. Requests for it are authenticated and
//! authorised here, and then passed on as they are ([`Aggregator::pass_on`]): the extension server learns who
//! asks from the headers `X-Remote-User`, `-Uid`, `-Group` and `-Extra-…`, and believes them because the
//! connection shows the front proxy's client certificate.
//!
//! [`run`] is the aggregator's controllers in one loop: it registers the group versions of custom resources
//! ([`registration`]), keeps each APIService's `Available` condition ([`availability`]), and learns what available
//! servers serve, for discovery and OpenAPI ([`learned`]).

pub mod availability;
pub mod learned;
pub mod registration;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use coracle_api::ApiResult;
use coracle_client::transport::{Identity, Trust, client_config};
use futures::future::{BoxFuture, select_all};
use http::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Limited};
use rustls::ClientConfig;
use serde_json::Value;

use self::learned::Learned;
use crate::body::{Body, RequestBody};
use crate::hooks::UserInfo;
use crate::kubelet_proxy::forward::{Secure, forward};
use crate::kubelet_proxy::target::{Target, Transport};
use crate::pki::CertKey;
use crate::render;
use crate::server::ApiServer;
use crate::storage::Storage;
use crate::webhook::resolve;

const GROUP: &str = "apiregistration.k8s.io";
/// How long the aggregator itself waits for an extension server.
const PATIENCE: Duration = Duration::from_secs(6);
/// No more of an extension server's own documents is read than this.
const DOCUMENT_BYTES: usize = 8 * 1024 * 1024;
/// A server that is not available is tried again after this; one that is, after [`RESYNC`].
const RETRY: Duration = Duration::from_secs(2);
const RESYNC: Duration = Duration::from_secs(30);

/// A group version that another server serves.
#[derive(Clone, Debug)]
pub struct Remote {
    /// The APIService's name, such as `v1.metrics.k8s.io`.
    pub name: String,
    /// The group.
    pub group: String,
    /// The version.
    pub version: String,
    /// `spec.groupPriorityMinimum` and `spec.versionPriority`.
    pub priority: (i64, i64),
    namespace: String,
    service: String,
    port: u16,
    available: bool,
    /// How to trust the server; the error is what is wrong with `caBundle`.
    tls: Result<Arc<ClientConfig>, String>,
}

/// All [`Remote`]s as of some version of the APIServices, the greatest priority first.
type Remotes = Arc<Vec<Remote>>;

type Answer = dyn Fn(Parts) -> BoxFuture<'static, Response<Bytes>> + Send + Sync;

/// An extension server in this process, which needs no socket. It is only read from.
#[derive(Clone)]
struct Extension(Arc<Answer>);

impl std::fmt::Debug for Extension {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Extension")
    }
}

/// Passes requests on to extension servers.
#[derive(Debug)]
pub struct Aggregator {
    storage: Arc<Storage>,
    /// The front proxy's client certificate.
    identity: Option<CertKey>,
    remotes: Mutex<(i64, Remotes)>,
    learned: Mutex<Learned>,
    /// Those in this process, by namespace and name of the Service before them.
    extensions: Mutex<BTreeMap<(String, String), Extension>>,
}

/// Whether a path is the one of a group version, or below it.
fn is_below(path: &str, group: &str, version: &str) -> bool {
    let rest = path.strip_prefix("/apis/").and_then(|rest| rest.strip_prefix(group));
    let rest = rest.and_then(|rest| rest.strip_prefix('/')).and_then(|rest| rest.strip_prefix(version));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Aggregator {
    /// Shows `identity` to extension servers.
    pub fn new(storage: Arc<Storage>, identity: Option<CertKey>) -> Arc<Self> {
        let remotes = Mutex::new((-1, Arc::default()));
        Arc::new(Aggregator { storage, identity, remotes, learned: Mutex::default(), extensions: Mutex::default() })
    }

    /// Puts an extension server of this process behind a Service. It answers for as long as that has no selector: one
    /// that selects pods is somebody else's.
    pub fn attach<F, Fut>(&self, namespace: &str, service: &str, answer: F)
    where
        F: Fn(Parts) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Response<Bytes>> + Send + 'static,
    {
        let extension = Extension(Arc::new(move |parts| Box::pin(answer(parts))));
        let mut all = self.extensions.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert((namespace.to_owned(), service.to_owned()), extension);
    }

    /// The extension server of this process behind a Service, if there is one.
    fn extension(&self, service: &Value) -> Option<Extension> {
        let text = |field: &str| service["metadata"][field].as_str().unwrap_or_default().to_owned();
        let selects = service["spec"]["selector"].as_object().is_some_and(|selector| !selector.is_empty());
        let all = self.extensions.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&(text("namespace"), text("name"))).filter(|_| !selects).cloned()
    }

    async fn extension_of(&self, remote: &Remote) -> Option<Extension> {
        let service = self.storage.get("", "services", &remote.namespace, &remote.service).await.ok()??;
        self.extension(&service)
    }

    async fn is_in_process(&self, remote: &Remote) -> bool {
        self.extension_of(remote).await.is_some()
    }

    /// The group versions that other servers serve, as of now.
    pub fn remotes(&self) -> Remotes {
        let table = self.storage.table();
        let Some(row) = table.find_any(GROUP, "apiservices") else { return Remotes::default() };
        let revision = row.cache.last_change();
        let mut known = self.remotes.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != revision {
            let (entries, _) = row.cache.list("", revision);
            let mut remotes: Vec<Remote> = entries.iter().filter_map(|entry| self.remote(&entry.parse())).collect();
            remotes.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.name.cmp(&b.name)));
            *known = (revision, Arc::new(remotes));
        }
        known.1.clone()
    }

    fn remote(&self, object: &Value) -> Option<Remote> {
        let spec = &object["spec"];
        let service = spec["service"].as_object()?;
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let conditions = object["status"]["conditions"].as_array();
        let available = |c: &Value| c["type"] == "Available" && c["status"] == "True";
        Some(Remote {
            name: text(object.pointer("/metadata/name")),
            group: text(spec.get("group")),
            version: text(spec.get("version")),
            priority: (
                spec["groupPriorityMinimum"].as_i64().unwrap_or(0),
                spec["versionPriority"].as_i64().unwrap_or(0),
            ),
            namespace: text(service.get("namespace")),
            service: text(service.get("name")),
            port: service.get("port").and_then(Value::as_u64).and_then(|port| port.try_into().ok()).unwrap_or(443),
            available: conditions.into_iter().flatten().any(available),
            tls: self.tls(spec),
        })
    }

    fn tls(&self, spec: &Value) -> Result<Arc<ClientConfig>, String> {
        let identity = self.identity.as_ref();
        let identity = identity.map(|pair| Identity { cert_pem: &pair.cert_pem, key_pem: &pair.key_pem });
        let bundle = spec["caBundle"].as_str().unwrap_or_default();
        let pem = BASE64_STANDARD.decode(bundle).map_err(|error| error.to_string())?;
        let pem = String::from_utf8(pem).map_err(|error| error.to_string())?;
        let trust = match (spec["insecureSkipTLSVerify"] == true, pem.is_empty()) {
            (true, _) => Trust::Anyone,
            (false, true) => Trust::System,
            (false, false) => Trust::Authorities(&pem),
        };
        client_config(trust, identity).map(Arc::new).map_err(|error| error.to_string())
    }

    /// The extension server of a path, or of the OpenAPI document of a path.
    pub fn remote_of(&self, path: &str) -> Option<Remote> {
        let path = path.strip_prefix("/openapi/v3").unwrap_or(path);
        if !path.starts_with("/apis/") {
            return None;
        }
        self.remotes().iter().find(|remote| is_below(path, &remote.group, &remote.version)).cloned()
    }

    /// Passes a request of `user` on to its extension server, upgrades included, and the answer back.
    pub async fn pass_on(&self, remote: &Remote, user: &UserInfo, request: Request<RequestBody>) -> Response<Body> {
        if !remote.available {
            return render::text(503, "service unavailable\n");
        }
        match self.send(remote, user, request).await {
            Ok(response) => response,
            Err(why) => {
                tracing::warn!(api_service = remote.name, %why, "an extension server cannot be reached");
                render::text(503, format!("{why}\n"))
            }
        }
    }

    async fn send(
        &self,
        remote: &Remote,
        user: &UserInfo,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Body>, String> {
        if let Some(extension) = self.extension_of(remote).await {
            identify(request.headers_mut(), user);
            return Ok(extension.0(request.into_parts().0).await.map(Body::full));
        }
        let config = remote.tls.clone()?;
        let found = resolve::service(&self.storage, &remote.namespace, &remote.service, remote.port).await;
        let (host, port) = found.map_err(|error| {
            tracing::debug!(%error, api_service = remote.name, "no endpoint");
            "service unavailable".to_owned()
        })?;
        identify(request.headers_mut(), user);
        let path = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
        let target = Target { transport: Transport::Https, host, port, path };
        let secure = Secure { config, server_name: format!("{}.{}.svc", remote.service, remote.namespace) };
        forward(&target, Some(secure), request).await
    }

    /// Reads one of an extension server's documents, as the aggregator itself: status, headers' media type, body.
    async fn read(&self, remote: &Remote, path: &str, accept: &str) -> Result<(u16, String, Bytes), String> {
        let user = UserInfo {
            name: "system:kube-aggregator".into(),
            groups: vec!["system:masters".into()],
            ..UserInfo::default()
        };
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = Request::get(path).header(ACCEPT, accept).body(body).map_err(|error| error.to_string())?;
        let exchange = async {
            let response = self.send(remote, &user, request).await?;
            let media =
                response.headers().get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
            let (code, media) = (response.status().as_u16(), media.to_owned());
            let body = Limited::new(response.into_body(), DOCUMENT_BYTES).collect().await;
            Ok((code, media, body.map_err(|error| error.to_string())?.to_bytes()))
        };
        coracle_clock::timeout(PATIENCE, exchange).await.unwrap_or_else(|_| Err("context deadline exceeded".into()))
    }
}

/// Says in the headers who asks; what the client wrote there goes.
fn identify(headers: &mut HeaderMap, user: &UserInfo) {
    let claimed: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    for name in claimed {
        headers.remove(name);
    }
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    user.groups.iter().for_each(|group| add("x-remote-group", group));
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", escaped(&key.to_lowercase()));
        values.iter().for_each(|value| add(&name, value));
    }
}

/// A key as part of a header's name: what may not stand there is percent-encoded.
fn escaped(key: &str) -> String {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    key.bytes().map(|b| if legal(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// What the controllers look at; without extension servers only the first two.
const WATCHED: [(&str, &str); 5] = [
    (GROUP, "apiservices"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("", "services"),
    ("", "endpoints"),
    ("discovery.k8s.io", "endpointslices"),
];

/// Runs the aggregator's controllers for as long as the server is there.
pub async fn run(server: Weak<ApiServer>) {
    loop {
        // Subscribed before anything is read, so that no change is missed.
        let Some(server) = server.upgrade() else { return };
        let table = server.config.storage.table();
        let rows = WATCHED.iter().filter_map(|(group, plural)| table.find_any(group, plural));
        let mut changes: Vec<_> = rows.map(|row| row.cache.subscribe()).collect();
        let (all_available, polls) = pass(&server).await;
        drop((server, table));
        changes.truncate(if polls { WATCHED.len() } else { 2 });
        let changed = select_all(changes.iter_mut().map(|change| Box::pin(change.changed())));
        let pause = if all_available { RESYNC } else { RETRY };
        tokio::select! {
            biased;
            _ = changed => {}
            // Without extension servers nothing is polled.
            () = coracle_clock::sleep(pause), if polls => {}
        }
    }
}

/// One round of all controllers. Answers whether all APIServices are available, and whether there are extension servers.
async fn pass(server: &Arc<ApiServer>) -> (bool, bool) {
    let aggregator = &server.config.aggregator;
    let client = server.client_as(UserInfo::new("system:apiserver", &["system:masters"]));
    registration::register(&server.config.storage, &client).await;
    let all_available = availability::check(aggregator, &client).await;
    let remotes = aggregator.remotes();
    let news = learned::learn(aggregator, &remotes).await;
    aggregator.learned.lock().unwrap_or_else(PoisonError::into_inner).replace(news);
    (all_available, !remotes.is_empty())
}

/// The answer of an API call that may fail: failures are logged, since everything is tried again.
fn logged<T>(what: &str, name: &str, result: ApiResult<T>) {
    if let Err(error) = result {
        tracing::warn!(%error, name, "{what}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_belongs_to_its_group_version() {
        let table = [
            ("/apis/g.io/v1", true),
            ("/apis/g.io/v1/namespaces/x/things", true),
            ("/apis/g.io/v1beta1", false),
            ("/apis/g.io", false),
            ("/apis/g.io2/v1", false),
            ("/api/v1", false),
        ];
        for (path, expected) in table {
            assert_eq!(is_below(path, "g.io", "v1"), expected, "{path}");
        }
    }

    #[test]
    fn the_headers_say_who_asks_and_nobody_else_can() {
        let mut headers = HeaderMap::new();
        headers.insert("x-remote-user", "system:admin".parse().unwrap());
        headers.insert("x-remote-group", "system:masters".parse().unwrap());
        headers.insert("x-remote-extra-evil", "1".parse().unwrap());
        let extra = BTreeMap::from([("example.com/Key".to_owned(), vec!["a".to_owned(), "b".to_owned()])]);
        let user = UserInfo { name: "alice".into(), uid: "7".into(), groups: vec!["g".into(), "h".into()], extra };
        identify(&mut headers, &user);
        let mut found: Vec<(String, String)> =
            headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        found.sort();
        let expected = [
            ("x-remote-extra-example.com%2fkey", "a"),
            ("x-remote-extra-example.com%2fkey", "b"),
            ("x-remote-group", "g"),
            ("x-remote-group", "h"),
            ("x-remote-uid", "7"),
            ("x-remote-user", "alice"),
        ];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
