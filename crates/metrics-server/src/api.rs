//! What can be asked for: lists and single objects, as they are or as tables, and what describes them.

use bytes::Bytes;
use coracle_api::ApiError;
use coracle_api::quantity::Quantity;
use http::request::Parts;
use http::{Method, Request, header};
use jiff::SignedDuration;
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::MetricsServer;
use crate::kinds::{self, GROUP, KINDS, Kind, VERSION};
use crate::usage::{Usage, Use};

/// A refusal in Kubernetes' form.
pub(crate) struct Refusal {
    pub(crate) code: u16,
    pub(crate) status: Value,
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Refusal { code: error.code, status: error.to_status() }
    }
}

impl From<kube::Error> for Refusal {
    /// What the API server refuses to this server, such as a selector that is none, is refused to its client.
    fn from(error: kube::Error) -> Self {
        let kube::Error::Api(refused) = error else { return ApiError::internal(error).into() };
        let mut status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {} });
        status["status"] = "Failure".into();
        status["message"] = refused.message.clone().into();
        status["reason"] = refused.reason.clone().into();
        status["code"] = refused.code.into();
        Refusal { code: refused.code, status }
    }
}

/// What a path below the group version means.
struct Asked<'a> {
    kind: &'static Kind,
    namespace: Option<&'a str>,
    name: Option<&'a str>,
}

fn asked(path: &str) -> Option<Asked<'_>> {
    let rest = path.strip_prefix("/apis/")?.strip_prefix(GROUP)?.strip_prefix('/')?.strip_prefix(VERSION)?;
    let parts: Vec<&str> = rest.trim_matches('/').split('/').collect();
    let (namespace, rest) = match parts[..] {
        ["namespaces", namespace, ref rest @ ..] => (Some(namespace), rest),
        ref rest => (None, rest),
    };
    let (plural, name) = match *rest {
        [plural] => (plural, None),
        [plural, name] => (plural, Some(name)),
        _ => return None,
    };
    let kind = KINDS.iter().find(|kind| kind.plural == plural)?;
    // One pod is named by its namespace and name.
    let complete = if kind.namespaced { namespace.is_some() || name.is_none() } else { namespace.is_none() };
    complete.then_some(Asked { kind, namespace, name })
}

pub(crate) async fn answer(server: &MetricsServer, parts: &Parts) -> Result<Bytes, Refusal> {
    let path = parts.uri.path();
    let fact = match path.trim_end_matches('/') {
        "/apis" => Some(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [kinds::group()] })),
        "/apis/metrics.k8s.io" => Some(kinds::group()),
        "/apis/metrics.k8s.io/v1beta1" => Some(kinds::resources()),
        _ => None,
    };
    if let Some(fact) = fact {
        return Ok(fact.to_string().into());
    }
    if path.starts_with("/openapi/") {
        return Ok(kinds::openapi(path).ok_or_else(ApiError::no_such_resource)?.into());
    }
    let asked = asked(path).ok_or_else(ApiError::no_such_resource)?;
    if parts.method != Method::GET {
        return Err(ApiError::method_not_allowed().into());
    }
    objects(server, &asked, parts).await
}

async fn objects(server: &MetricsServer, asked: &Asked<'_>, parts: &Parts) -> Result<Bytes, Refusal> {
    let Asked { kind, namespace, name } = asked;
    let query = Query::of(parts);
    if query.get("watch").is_some_and(|watch| watch == "true" || watch == "1") {
        return Err(ApiError::method_not_allowed().into());
    }
    let known = list(server, listing(asked, &query)).await?;
    let metrics = server.with_usage(|usage| known.iter().filter_map(|known| metrics(kind, known, usage)).collect());
    let mut metrics: Vec<Value> = metrics.await;
    let table = parts.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let table = table.is_some_and(|accept| accept.contains("as=Table"));
    if let Some(name) = name {
        let full = namespace.map_or_else(|| (*name).to_owned(), |namespace| format!("{namespace}/{name}"));
        let missing = || {
            ApiError::not_found(GROUP, kind.plural, if metrics.is_empty() && known.is_empty() { name } else { &full })
        };
        if metrics.is_empty() {
            return Err(missing().into());
        }
        if !table {
            return Ok(metrics.remove(0).to_string().into());
        }
    }
    if table {
        return Ok(self::table(&metrics, query.get("includeObject").unwrap_or("Metadata")).to_string().into());
    }
    for item in &mut metrics {
        // Items of a list do not repeat what the list says.
        item.as_object_mut().map(|item| (item.remove("kind"), item.remove("apiVersion")));
    }
    let list_kind = format!("{}List", kind.kind);
    let list =
        json!({ "kind": list_kind, "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {}, "items": metrics });
    Ok(list.to_string().into())
}

/// The parameters of a request.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(parts: &Parts) -> Self {
        Query(form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Where the nodes or running pods are listed that are asked for.
fn listing(Asked { kind, namespace, name }: &Asked<'_>, query: &Query) -> String {
    let mut fields: Vec<String> = query.get("fieldSelector").map(str::to_owned).into_iter().collect();
    fields.extend(name.map(|name| format!("metadata.name={name}")));
    if kind.namespaced {
        fields.push("status.phase=Running".into());
    }
    let labels = query.get("labelSelector").filter(|_| name.is_none()).map(|labels| ("labelSelector", labels));
    let fields = fields.join(",");
    let query = [("fieldSelector", fields.as_str())].into_iter().chain(labels);
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    let within = namespace.map(|namespace| format!("namespaces/{namespace}/")).unwrap_or_default();
    format!("/api/v1/{within}{}?{query}", kind.plural)
}

/// The metadata of the objects at a URL.
async fn list(server: &MetricsServer, url: String) -> Result<Vec<Value>, Refusal> {
    let request = Request::get(url)
        .header(header::ACCEPT, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")
        .body(Vec::new())
        .map_err(ApiError::internal)?;
    let mut list: Value = server.client.request(request).await?;
    let Value::Array(items) = list["items"].take() else { return Ok(Vec::new()) };
    Ok(items.into_iter().map(|mut item| item["metadata"].take()).collect())
}

/// The metrics of a node or pod; none if they are not known yet.
fn metrics(Kind { kind, namespaced, .. }: &Kind, metadata: &Value, usage: &Usage) -> Option<Value> {
    let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
    let mut object = json!({
        "kind": kind,
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": { "name": metadata["name"], "creationTimestamp": coracle_clock::now_seconds().to_string() },
    });
    for field in ["namespace", "labels"] {
        if !metadata[field].is_null() {
            object["metadata"][field] = metadata[field].clone();
        }
    }
    let measured = if *namespaced {
        let containers = usage.pod(&(text("namespace"), text("name")))?;
        let of = containers.iter().map(|(name, of)| json!({ "name": name, "usage": amounts(of) }));
        object["containers"] = of.collect();
        containers.iter().map(|(_, of)| *of).min_by_key(|of| of.at)?
    } else {
        let of = usage.node(&text("name"))?;
        object["usage"] = amounts(&of);
        of
    };
    let at = jiff::Timestamp::from_second(measured.at.as_second()).unwrap_or(measured.at);
    object["timestamp"] = at.to_string().into();
    object["window"] = window(measured.window).into();
    Some(object)
}

fn amounts(of: &Use) -> Value {
    let cpu = format!("{}n", of.cpu_nano_cores).parse().unwrap_or(Quantity::ZERO);
    let memory = Quantity::from_bytes(i64::try_from(of.memory_bytes).unwrap_or(i64::MAX));
    json!({ "cpu": cpu.to_string(), "memory": memory.to_string() })
}

/// A duration as Go prints it, such as `1m0.5s`.
fn window(window: SignedDuration) -> String {
    let (minutes, seconds) = (window.as_secs() / 60, (window.as_millis() % 60_000) as f64 / 1e3);
    if minutes == 0 { format!("{seconds}s") } else { format!("{minutes}m{seconds}s") }
}

/// The table that `kubectl get podmetrics` prints: what a pod's containers use together.
fn table(metrics: &[Value], include: &str) -> Value {
    let column = |name: &str, format: &str, about: &str| json!({ "name": name, "type": "string", "format": format, "description": about, "priority": 0 });
    let columns = [
        column("Name", "name", "Name of the resource"),
        column("cpu", "quantity", ""),
        column("memory", "quantity", ""),
        column("Window", "duration", ""),
    ];
    let rows = metrics.iter().map(|object| {
        let whole = std::slice::from_ref(object);
        let parts = object["containers"].as_array().map_or(whole, Vec::as_slice);
        let sum = |resource: &str, zero: Quantity| {
            let each = parts.iter().filter_map(|part| Quantity::from_json(&part["usage"][resource]).ok());
            each.fold(zero, |sum, one| sum + one).to_string()
        };
        let cells = json!([object["metadata"]["name"], sum("cpu", Quantity::ZERO), sum("memory", Quantity::from_bytes(0)), object["window"]]);
        let included = match include {
            "Object" => object.clone(),
            "None" => Value::Null,
            _ => json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"] }),
        };
        json!({ "cells": cells, "object": included })
    });
    // Upstream has no columns to tell where nothing is measured.
    let columns = if metrics.is_empty() { json!([]) } else { json!(columns) };
    json!({ "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "columnDefinitions": columns, "rows": rows.collect::<Vec<_>>() })
}
