//! The paths of a document: the operations that the registry's verbs mean.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::reference;
use super::schemas::{gvk, list_definition, subresource_definition};
use crate::resource::{Resource, Subresource};

/// A query parameter: name, type, and what it does.
type Parameter = (&'static str, &'static str, &'static str);

const DRY_RUN: Parameter =
    ("dryRun", "string", "When present, indicates that modifications should not be persisted. Valid values are: All.");
const FIELD_MANAGER: Parameter =
    ("fieldManager", "string", "A name associated with the actor or entity that is making these changes.");
const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "How to handle objects in the request containing unknown or duplicate fields. Valid values are: Ignore, Warn, Strict.",
);
const FORCE: Parameter =
    ("force", "boolean", "Re-acquire conflicting fields owned by others. For apply requests only.");
const GRACE_PERIOD: Parameter =
    ("gracePeriodSeconds", "integer", "The duration in seconds before the object should be deleted.");
const PROPAGATION: Parameter = (
    "propagationPolicy",
    "string",
    "Whether and how garbage collection will be performed. Valid values are: Orphan, Background, Foreground.",
);
const LIST: [Parameter; 10] = [
    ("allowWatchBookmarks", "boolean", "Requests watch events of type BOOKMARK."),
    ("continue", "string", "The token of the previous page, for the next one."),
    ("fieldSelector", "string", "Restricts the list to objects with these fields."),
    ("labelSelector", "string", "Restricts the list to objects with these labels."),
    ("limit", "integer", "The maximum number of objects in one answer."),
    ("resourceVersion", "string", "A constraint on the version the request may be served from."),
    ("resourceVersionMatch", "string", "How resourceVersion is applied to list calls."),
    ("sendInitialEvents", "boolean", "Begins a watch with events for the objects there are."),
    ("timeoutSeconds", "integer", "The time after which a list or watch ends."),
    ("watch", "boolean", "Watch for changes and return them as a stream of notifications."),
];

const CONTENT_TYPES: [&str; 3] = ["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"];

fn parameter(&(name, kind, description): &Parameter) -> Value {
    json!({
        "name": name, "in": "query", "description": description,
        "schema": { "type": kind, "uniqueItems": true },
    })
}

fn path_parameter(name: &str, description: &str) -> Value {
    json!({
        "name": name, "in": "path", "required": true, "description": description,
        "schema": { "type": "string", "uniqueItems": true },
    })
}

/// One operation before it is JSON.
struct Operation<'a> {
    resource: &'a Resource,
    /// `get`, `list`, `post`, `put`, `patch`, `delete`, `deletecollection`, `connect`.
    action: &'a str,
    id: String,
    description: String,
    parameters: Vec<Parameter>,
    /// The schema of the request's body.
    body: Option<String>,
    /// The schema of the answer; none for streams.
    answer: Option<String>,
    gvk: Value,
}

impl Operation<'_> {
    fn to_value(&self) -> Value {
        let content = |definition: &str| -> Value {
            CONTENT_TYPES.iter().map(|t| ((*t).to_owned(), json!({ "schema": reference(definition) }))).collect()
        };
        let answer = match &self.answer {
            Some(definition) => json!({ "description": "OK", "content": content(definition) }),
            None => json!({ "description": "OK", "content": { "*/*": { "schema": { "type": "string" } } } }),
        };
        let mut responses = json!({ "200": answer, "401": { "description": "Unauthorized" } });
        if matches!(self.action, "post" | "put" | "patch") {
            responses["201"] = json!({ "description": "Created", "content": responses["200"]["content"] });
        }
        let mut operation = json!({
            "operationId": self.id,
            "description": self.description,
            "tags": [tag(&self.resource.group, &self.resource.version)],
            "parameters": self.parameters.iter().map(parameter).collect::<Vec<_>>(),
            "responses": responses,
            "x-kubernetes-action": self.action,
            "x-kubernetes-group-version-kind": self.gvk,
        });
        if let Some(definition) = &self.body {
            operation["requestBody"] = match self.action {
                "patch" => json!({ "required": true, "content": patch_content(self.resource) }),
                "delete" | "deletecollection" => json!({ "content": content(definition) }),
                _ => json!({ "required": true, "content": { "*/*": { "schema": reference(definition) } } }),
            };
        }
        operation
    }
}

fn patch_content(resource: &Resource) -> Value {
    let mut types = vec!["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"];
    if resource.builtin() {
        types.push("application/strategic-merge-patch+json");
    }
    let schema = reference("io.k8s.apimachinery.pkg.apis.meta.v1.Patch");
    types.into_iter().map(|t| (t.to_owned(), json!({ "schema": schema }))).collect()
}

/// `CoreV1`, `AppsV1`, `RbacAuthorizationV1`.
fn prefix(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.strip_suffix(".k8s.io").unwrap_or(group) };
    group.split(['.', '-']).chain([version]).map(capitalised).collect()
}

fn tag(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.strip_suffix(".k8s.io").unwrap_or(group) };
    let group: String =
        group.split('.').enumerate().map(|(i, p)| if i == 0 { p.to_owned() } else { capitalised(p) }).collect();
    format!("{group}_{version}")
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().into_iter().flat_map(char::to_uppercase).chain(chars).collect()
}

pub(super) fn paths(group: &str, version: &str, resources: &[Arc<Resource>]) -> Map<String, Value> {
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let mut paths = Map::new();
    paths.insert(
        format!("{root}/"),
        json!({ "get": {
            "description": "get available resources",
            "operationId": format!("get{}APIResources", prefix(group, version)),
            "tags": [tag(group, version)],
            "responses": { "200": { "description": "OK" }, "401": { "description": "Unauthorized" } },
        }}),
    );
    for resource in resources {
        add_resource(&mut paths, &root, resource);
    }
    paths
}

fn add_resource(paths: &mut Map<String, Value>, root: &str, resource: &Resource) {
    let plural = &resource.plural;
    let scope = if resource.namespaced() { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{root}{scope}/{plural}");
    let namespaced: Vec<Value> = resource
        .namespaced()
        .then(|| path_parameter("namespace", "object name and auth scope, such as for teams and projects"))
        .into_iter()
        .collect();
    let middle = if resource.namespaced() { "Namespaced" } else { "" };
    let kind = &resource.kind;
    let definition = &resource.definition;
    let id = |verb: &str, middle: &str| format!("{verb}{}{middle}{kind}", prefix(&resource.group, &resource.version));
    let made = |action, id, description: String, parameters, body: Option<&str>, answer: String| {
        let body = body.map(str::to_owned);
        let gvk = gvk(resource, kind);
        Operation { resource, action, id, description, parameters, body, answer: Some(answer), gvk }.to_value()
    };
    let delete_options = Some("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions");
    let status = || "io.k8s.apimachinery.pkg.apis.meta.v1.Status".to_owned();
    let writing = vec![DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
    let list = |id: String| {
        made(
            "list",
            id,
            format!("list or watch objects of kind {kind}"),
            LIST.to_vec(),
            None,
            list_definition(resource),
        )
    };
    let mut on_collection = Map::new();
    let mut on_item = Map::new();
    for verb in &resource.verbs {
        match verb.as_str() {
            "list" => {
                on_collection.insert("get".into(), list(id("list", middle)));
            }
            "create" => {
                let value = made(
                    "post",
                    id("create", middle),
                    format!("create a {kind}"),
                    writing.clone(),
                    Some(definition),
                    definition.clone(),
                );
                on_collection.insert("post".into(), value);
            }
            "deletecollection" => {
                let parameters = [&LIST[1..8], &[DRY_RUN, GRACE_PERIOD, PROPAGATION]].concat();
                let id = id("delete", &format!("Collection{middle}"));
                let value = made(
                    "deletecollection",
                    id,
                    format!("delete collection of {kind}"),
                    parameters,
                    delete_options,
                    status(),
                );
                on_collection.insert("delete".into(), value);
            }
            "get" => {
                let value = made(
                    "get",
                    id("read", middle),
                    format!("read the specified {kind}"),
                    Vec::new(),
                    None,
                    definition.clone(),
                );
                on_item.insert("get".into(), value);
            }
            "update" => {
                let value = made(
                    "put",
                    id("replace", middle),
                    format!("replace the specified {kind}"),
                    writing.clone(),
                    Some(definition),
                    definition.clone(),
                );
                on_item.insert("put".into(), value);
            }
            "patch" => {
                let parameters = [writing.as_slice(), &[FORCE]].concat();
                let value = made(
                    "patch",
                    id("patch", middle),
                    format!("partially update the specified {kind}"),
                    parameters,
                    Some(definition),
                    definition.clone(),
                );
                on_item.insert("patch".into(), value);
            }
            "delete" => {
                let parameters = vec![DRY_RUN, GRACE_PERIOD, PROPAGATION];
                let value = made(
                    "delete",
                    id("delete", middle),
                    format!("delete a {kind}"),
                    parameters,
                    delete_options,
                    status(),
                );
                on_item.insert("delete".into(), value);
            }
            _ => {}
        }
    }
    if resource.namespaced() && resource.verbs.iter().any(|verb| verb == "list") {
        let all = list(id("list", "").clone() + "ForAllNamespaces");
        paths.insert(format!("{root}/{plural}"), json!({ "get": all }));
    }
    on_collection.insert("parameters".into(), namespaced.clone().into());
    paths.insert(collection.clone(), Value::Object(on_collection));
    let item = [vec![path_parameter("name", &format!("name of the {kind}"))], namespaced].concat();
    if !on_item.is_empty() {
        on_item.insert("parameters".into(), item.clone().into());
        paths.insert(format!("{collection}/{{name}}"), Value::Object(on_item));
    }
    for subresource in &resource.subresources {
        let mut operations = add_subresource(resource, subresource, middle);
        operations.insert("parameters".into(), item.clone().into());
        paths.insert(format!("{collection}/{{name}}/{}", subresource.name), Value::Object(operations));
    }
}

fn add_subresource(resource: &Resource, subresource: &Subresource, middle: &str) -> Map<String, Value> {
    let own = subresource.kind.2 == resource.kind && subresource.kind.0.is_empty();
    let definition = if own { Some(resource.definition.as_str()) } else { subresource_definition(&subresource.kind) };
    // Streams and proxies have no bodies of a kind: upstream calls their operations "connect".
    let connect = definition.is_none() || subresource.name == "log";
    let gvk = match &subresource.kind {
        (_, _, kind) if own => gvk(resource, kind),
        (group, version, kind) => {
            let version = if version.is_empty() { &resource.version } else { version };
            json!({ "group": group, "version": version, "kind": kind })
        }
    };
    let suffix = format!("{middle}{}{}", resource.kind, capitalised(&subresource.name));
    let mut operations = Map::new();
    for verb in &subresource.verbs {
        let (method, action, word) = match verb.as_str() {
            "get" => ("get", "get", "read"),
            "update" => ("put", "put", "replace"),
            "patch" => ("patch", "patch", "patch"),
            "create" => ("post", "post", "create"),
            "delete" => ("delete", "delete", "delete"),
            _ => continue,
        };
        let writes = method != "get";
        let mut parameters =
            if writes && !connect { vec![DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION] } else { Vec::new() };
        parameters.extend((method == "patch" && !connect).then_some(FORCE));
        let prefix = prefix(&resource.group, &resource.version);
        let stream = connect && subresource.name != "log";
        let (word, method_word) = if stream { ("connect", capitalised(method)) } else { (word, String::new()) };
        let operation = Operation {
            resource,
            action: if stream { "connect" } else { action },
            id: format!("{word}{prefix}{method_word}{suffix}"),
            description: format!("{word} {} of the specified {}", subresource.name, resource.kind),
            parameters,
            body: definition.filter(|_| writes && !connect).map(str::to_owned),
            answer: definition.filter(|_| !connect).map(str::to_owned),
            gvk: gvk.clone(),
        };
        operations.insert(method.into(), operation.to_value());
    }
    operations
}
