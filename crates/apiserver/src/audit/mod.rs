//! The audit log: who did what when, one event a line (`audit.k8s.io/v1`).
//!
//! [`policy`] says how much of a request is written down. A [`Record`] accompanies the request: it learns who asks,
//! whether they may, what was sent and what came of it, and writes an event at each stage.

pub mod file;
pub mod policy;

use std::io::{Read, Write};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use coracle_api::{decode, protobuf};
use flate2::read::GzDecoder;
use http::request::Parts;
use http::{HeaderMap, Response};
use serde_json::{Value, json};

use crate::body::Body;
use crate::hooks::{Decision, UserInfo};
use crate::request_info::RequestInfo;
use policy::{Level, Policy, Stage, Verdict};

/// The address a request's connection comes from; the listener puts it into the extensions.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub IpAddr);

/// `--audit-log-format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON document a line.
    #[default]
    Json,
    /// One line of text an event.
    Legacy,
}

/// Writes down what the policy says.
pub struct Audit {
    policy: Policy,
    format: Format,
    out: Mutex<Box<dyn Write + Send>>,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("format", &self.format).finish_non_exhaustive()
    }
}

impl Audit {
    /// By a policy, to wherever `out` goes.
    pub fn new(policy: Policy, format: Format, out: Box<dyn Write + Send>) -> Arc<Self> {
        Arc::new(Audit { policy, format, out: Mutex::new(out) })
    }

    /// A record of a request, unless nothing of it is to be written down.
    pub fn begin(self: &Arc<Self>, id: &str, user: &UserInfo, info: &RequestInfo, parts: &Parts) -> Option<Record> {
        let verdict = self.policy.judge(user, info);
        if verdict.level == Level::None {
            return None;
        }
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut event = json!({
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": verdict.level.name(),
            "auditID": id,
            "stage": "",
            "requestURI": parts.uri.path_and_query().map_or("", |uri| uri.as_str()),
            "verb": info.verb,
            "user": user.to_json(),
            "sourceIPs": source_ips(parts),
            "userAgent": header("user-agent"),
        });
        if info.is_resource {
            event["objectRef"] = object_reference(info);
        }
        event["requestReceivedTimestamp"] = timestamp().into();
        Some(Record { audit: self.clone(), verdict, event })
    }

    fn write(&self, event: &Value) {
        let mut line = match self.format {
            Format::Json => event.to_string(),
            Format::Legacy => legacy(event),
        };
        line.push('\n');
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = out.write_all(line.as_bytes()).and_then(|()| out.flush()) {
            tracing::error!(%error, "the audit log cannot be written");
        }
    }
}

/// Microseconds, as upstream's MicroTime.
fn timestamp() -> String {
    coracle_clock::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Where a request comes from: through whom, as proxies say, and the peer itself.
fn source_ips(parts: &Parts) -> Vec<String> {
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut ips: Vec<String> = header("x-forwarded-for")
        .split(',')
        .chain([header("x-real-ip")])
        .filter_map(|ip| ip.trim().parse::<IpAddr>().ok().map(|ip| ip.to_string()))
        .collect();
    // Requests of this process come from nowhere else.
    let peer = parts.extensions.get::<PeerAddress>().map_or(IpAddr::from(std::net::Ipv6Addr::LOCALHOST), |peer| peer.0);
    if ips.last() != Some(&peer.to_string()) {
        ips.push(peer.to_string());
    }
    ips
}

fn object_reference(info: &RequestInfo) -> Value {
    let mut reference = json!({ "resource": info.resource });
    for (field, value) in [
        ("namespace", &info.namespace),
        ("name", &info.name),
        ("apiGroup", &info.group),
        ("apiVersion", &info.version),
        ("subresource", &info.subresource),
    ] {
        if !value.is_empty() {
            reference[field] = value.as_str().into();
        }
    }
    reference
}

/// A line of the old text format.
fn legacy(event: &Value) -> String {
    let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let or = |path: &str, otherwise: &'static str| match text(path) {
        "" => otherwise.to_owned(),
        text => text.to_owned(),
    };
    let groups = |path: &str, otherwise: &'static str| match event.pointer(path).and_then(Value::as_array) {
        None => otherwise.to_owned(),
        Some(list) => list.iter().map(Value::to_string).collect::<Vec<_>>().join(","),
    };
    let response = event["responseStatus"]["code"].as_i64().map_or("<deferred>".to_owned(), |code| code.to_string());
    format!(
        "{} AUDIT: id={:?} stage={:?} ip={:?} method={:?} user={:?} groups={:?} as={:?} asgroups={:?} \
         user-agent={:?} namespace={:?} uri={:?} response={response:?}",
        timestamp(),
        text("/auditID"),
        text("/stage"),
        text("/sourceIPs/0"),
        text("/verb"),
        or("/user/username", "<none>"),
        groups("/user/groups", "<none>"),
        or("/impersonatedUser/username", "<self>"),
        groups("/impersonatedUser/groups", "<lookup>"),
        text("/userAgent"),
        or("/objectRef/namespace", "<none>"),
        text("/requestURI"),
    )
}

/// What is known of one request.
#[derive(Debug)]
pub struct Record {
    audit: Arc<Audit>,
    verdict: Verdict,
    event: Value,
}

impl Record {
    /// How much is written down of it.
    pub fn level(&self) -> Level {
        self.verdict.level
    }

    /// It is asked in the name of somebody else.
    pub fn impersonates(&mut self, user: &UserInfo) {
        self.event["impersonatedUser"] = user.to_json();
    }

    /// It is permitted or not, and why.
    pub fn decided(&mut self, decision: &Decision, reason: &str) {
        let word = if *decision == Decision::Allow { "allow" } else { "forbid" };
        self.event["annotations"]["authorization.k8s.io/decision"] = word.into();
        self.event["annotations"]["authorization.k8s.io/reason"] = reason.into();
    }

    /// Its body, in which its object may have a name.
    pub fn requested(&mut self, headers: &HeaderMap, body: &[u8]) {
        if body.is_empty() {
            return;
        }
        if let Some(object) = parsed(headers, body) {
            let metadata = &object["metadata"];
            for (field, from) in [("name", "name"), ("uid", "uid"), ("resourceVersion", "resourceVersion")] {
                let empty = self.event["objectRef"][field].as_str().is_none_or(str::is_empty);
                if let (true, Some(text)) = (empty, metadata[from].as_str().filter(|text| !text.is_empty())) {
                    self.event["objectRef"][field] = text.into();
                }
            }
            if self.level() >= Level::Request {
                self.event["requestObject"] = self.shown(object);
            }
        }
    }

    fn shown(&self, mut object: Value) -> Value {
        if self.verdict.omit_managed_fields {
            let forget = |object: &mut Value| {
                if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.remove("managedFields");
                }
            };
            forget(&mut object);
            object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(forget);
        }
        object
    }

    /// Writes down how things stand.
    pub fn write(&mut self, stage: Stage) {
        if self.verdict.omit_stages.contains(&stage) {
            return;
        }
        self.event["stage"] = stage.name().into();
        self.event["stageTimestamp"] = timestamp().into();
        self.audit.write(&self.event);
    }

    /// Writes down the answer: at once, or, when it is a stream, its beginning and its end.
    pub fn answered(mut self, response: Response<Body>) -> Response<Body> {
        let code = response.status().as_u16();
        self.event["responseStatus"] = json!({ "metadata": {}, "code": code });
        if let Body::Full(Some(bytes)) = response.body() {
            let wanted = self.verdict.level == Level::RequestResponse;
            let object = (wanted || code >= 400).then(|| parsed(response.headers(), bytes)).flatten();
            if let Some(object) = object {
                if object["kind"] == "Status" {
                    self.event["responseStatus"] = object.clone();
                    let fields = self.event["responseStatus"].as_object_mut();
                    fields.into_iter().for_each(|fields| fields.retain(|key, _| key != "kind" && key != "apiVersion"));
                    self.event["responseStatus"]["code"] = code.into();
                }
                if wanted && self.event["objectRef"].is_object() {
                    self.event["responseObject"] = self.shown(object);
                }
            }
        }
        if let Body::Stream(_) = response.body() {
            self.write(Stage::ResponseStarted);
            return response.map(|body| body.holding(Ended(self)));
        }
        self.write(Stage::ResponseComplete);
        response
    }

    /// Writes down that nobody was recognised.
    pub fn refused(mut self, attempted: bool) {
        let how = if attempted { "attempted: bearer" } else { "no credentials provided" };
        self.event["responseStatus"] = json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("Authentication failed, {how}"),
            "reason": "Unauthorized",
            "code": 401,
        });
        self.write(Stage::ResponseStarted);
    }
}

/// The object in a body, whatever its encoding and format.
fn parsed(headers: &HeaderMap, body: &[u8]) -> Option<Value> {
    let mut unpacked = Vec::new();
    let mut body = body;
    if headers.contains_key(http::header::CONTENT_ENCODING) {
        GzDecoder::new(body).read_to_end(&mut unpacked).ok()?;
        body = &unpacked;
    }
    match headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default() {
        kind if kind.contains("protobuf") => protobuf::decode(body).ok(),
        kind if kind.contains("yaml") => decode::parse_yaml(body).ok().map(|(object, _)| object),
        _ => serde_json::from_slice(body).ok(),
    }
}

/// Writes down that an answer is over, whether the server or the client ended it.
struct Ended(Record);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.write(Stage::ResponseComplete);
    }
}
