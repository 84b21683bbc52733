//! The paths of a resource: the operations that its verbs mean.

use serde_json::{Value, json};

use super::capitalised;
use super::descriptions::Descriptions;
use super::operation::{Answer, DELETE_OPTIONS, Operation, PATCH, Shared, path_item, path_parameter};
use super::schemas::{gvk, reference};
use crate::resource::{Resource, Subresource};
use crate::schema::definition_of;

const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const WATCH_EVENT: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent";
const LIST: &[&str] = &["meta.v1.ListOptions"];

/// The methods of a proxy, whatever discovery says of them.
const PROXY_METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

/// `CoreV1`, `AppsV1`, `RbacAuthorizationV1`: what operations of a group are called after their verb.
pub(super) fn prefix(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.strip_suffix(".k8s.io").unwrap_or(group) };
    group.split(['.', '-']).chain([version]).map(capitalised).collect()
}

/// `core_v1`, `rbacAuthorization_v1`; without version, the group's own.
pub(super) fn tag(group: &str, version: &str) -> String {
    let mut prefix = prefix(group, "");
    if let Some(first) = prefix.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    if version.is_empty() { prefix } else { format!("{prefix}_{version}") }
}

/// `/api/v1` or `/apis/apps/v1`.
pub(super) fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// The name of a list's schema.
pub(super) fn list_definition(resource: &Resource) -> String {
    match resource.definition.rsplit_once('.') {
        Some((prefix, _)) => format!("{prefix}.{}", resource.list_kind),
        None => resource.list_kind.clone(),
    }
}

/// `a Pod`, `an Ingress`, `Endpoints`.
fn article(kind: &str) -> &'static str {
    match kind.chars().next().map(|c| c.to_ascii_lowercase()) {
        _ if kind.ends_with('s') && !kind.ends_with("ss") => " ",
        Some('a' | 'e' | 'i' | 'o' | 'u') => " an ",
        _ => " a ",
    }
}

/// Gives every path of a resource to `add`.
pub(super) fn paths(resource: &Resource, texts: &Descriptions, add: &mut dyn FnMut(String, Value)) {
    let (group, version, kind) = (&resource.group, &resource.version, &resource.kind);
    let (root, tag) = (root(group, version), tag(group, version));
    let shared = Shared { texts, tag: &tag, gvk: gvk(group, version, kind), builtin: resource.builtin() };
    let namespaced = resource.namespaced();
    let scope = if namespaced { "/namespaces/{namespace}" } else { "" };
    let at = |watch: &str, scope: &str| format!("{root}{watch}{scope}/{}", resource.plural);
    let collection = at("", scope);
    let names = Names { prefix: prefix(group, version), kind, middle: if namespaced { "Namespaced" } else { "" } };
    let namespace = path_parameter("namespace", "object name and auth scope, such as for teams and projects");
    let in_namespace = if namespaced { vec![namespace] } else { Vec::new() };
    let list_definition = list_definition(resource);
    let has = |verb: &str| resource.verbs.iter().any(|v| v == verb);

    let list = |id: String| Operation {
        method: "get",
        action: "list",
        id,
        description: format!("list {}objects of kind {kind}", if has("watch") { "or watch " } else { "" }),
        options: LIST,
        except: &[],
        body: None,
        answer: Answer::List(&list_definition),
    };
    let mut on_collection = Vec::new();
    if has("list") {
        on_collection.push(list(names.id("list", "")));
        if namespaced {
            let all = list(format!("list{}{kind}ForAllNamespaces", names.prefix));
            add(at("", ""), path_item(&[all], &shared, &[]));
        }
    }
    if has("create") {
        on_collection.push(write(
            "post",
            "create",
            &names,
            &resource.definition,
            format!("create{}{kind}", article(kind)),
        ));
    }
    if has("deletecollection") {
        on_collection.push(Operation {
            method: "delete",
            action: "deletecollection",
            id: format!("delete{}Collection{}{kind}", names.prefix, names.middle),
            description: format!("delete collection of {kind}"),
            options: &["meta.v1.DeleteOptions", "meta.v1.ListOptions"],
            except: &["watch", "allowWatchBookmarks"],
            body: Some(DELETE_OPTIONS),
            answer: Answer::Object(STATUS),
        });
    }
    add(collection.clone(), path_item(&on_collection, &shared, &in_namespace));

    let in_item = |kind: &str| {
        let mut parameters = in_namespace.clone();
        parameters.push(path_parameter("name", &format!("name of the {kind}")));
        parameters
    };
    let mut on_item = Vec::new();
    if has("get") {
        on_item.push(read(&names, "", &resource.definition));
    }
    if has("update") {
        on_item.push(write("put", "replace", &names, &resource.definition, format!("replace the specified {kind}")));
    }
    if has("patch") {
        let text = format!("partially update the specified {kind}");
        on_item.push(write("patch", "patch", &names, &resource.definition, text));
    }
    if has("delete") {
        on_item.push(Operation {
            method: "delete",
            action: "delete",
            id: names.id("delete", ""),
            description: format!("delete{}{kind}", article(kind)),
            options: &["meta.v1.DeleteOptions"],
            except: &[],
            body: Some(DELETE_OPTIONS),
            answer: Answer::Object(if resource.delete_returns_object() { &resource.definition } else { STATUS }),
        });
    }
    if !on_item.is_empty() {
        add(format!("{collection}/{{name}}"), path_item(&on_item, &shared, &in_item(kind)));
    }
    if has("watch") && resource.builtin() {
        let advice = "deprecated: use the 'watch' parameter with a list operation instead";
        let watch = |action: &'static str, id: String, description: String| Operation {
            method: "get",
            action,
            id,
            description,
            options: LIST,
            except: &[],
            body: None,
            answer: Answer::List(WATCH_EVENT),
        };
        let all =
            |id: String| watch("watchlist", id, format!("watch individual changes to a list of {kind}. {advice}."));
        let one = "filtered to a single item with the 'fieldSelector' parameter.";
        let one = watch(
            "watch",
            names.id("watch", ""),
            format!("watch changes to an object of kind {kind}. {advice}, {one}"),
        );
        if namespaced {
            let id = format!("watch{}{kind}ListForAllNamespaces", names.prefix);
            add(at("/watch", ""), path_item(&[all(id)], &shared, &[]));
        }
        add(at("/watch", scope), path_item(&[all(names.id("watch", "List"))], &shared, &in_namespace));
        add(at("/watch", scope) + "/{name}", path_item(&[one], &shared, &in_item(kind)));
    }
    for subresource in &resource.subresources {
        let path = format!("{collection}/{{name}}/{}", subresource.name);
        subresource_paths(resource, subresource, &names, &shared, path, &in_item, add);
    }
}

/// What operations of a resource are called.
struct Names<'a> {
    prefix: String,
    kind: &'a str,
    middle: &'static str,
}

impl Names<'_> {
    fn id(&self, verb: &str, suffix: &str) -> String {
        format!("{verb}{}{}{}{suffix}", self.prefix, self.middle, self.kind)
    }
}

fn read<'a>(names: &Names, subresource: &str, definition: &'a str) -> Operation<'a> {
    let of = if subresource.is_empty() { String::new() } else { format!("{subresource} of ") };
    Operation {
        method: "get",
        action: "get",
        id: names.id("read", &capitalised(subresource)),
        description: format!("read {of}the specified {}", names.kind),
        options: &[],
        except: &[],
        body: None,
        answer: Answer::Object(definition),
    }
}

fn write<'a>(
    method: &'static str,
    verb: &str,
    names: &Names,
    definition: &'a str,
    description: String,
) -> Operation<'a> {
    let (options, body): (&[&str], _) = match method {
        "post" => (&["meta.v1.CreateOptions"], definition),
        "put" => (&["meta.v1.UpdateOptions"], definition),
        _ => (&["meta.v1.PatchOptions"], PATCH),
    };
    let (action, id, answer) = (method, names.id(verb, ""), Answer::Object(definition));
    Operation { method, action, id, description, options, except: &[], body: Some(body), answer }
}

fn subresource_paths(
    resource: &Resource,
    subresource: &Subresource,
    names: &Names,
    shared: &Shared,
    path: String,
    in_item: &dyn Fn(&str) -> Vec<Value>,
    add: &mut dyn FnMut(String, Value),
) {
    let name = subresource.name.as_str();
    let (group, version, kind) = &subresource.kind;
    let version = if version.is_empty() { &resource.version } else { version };
    let own = *kind == resource.kind && group.is_empty();
    let suffix = capitalised(name);
    let kind_gvk = if own { shared.gvk.clone() } else { gvk(group, version, kind) };
    let shared = Shared { texts: shared.texts, tag: shared.tag, gvk: kind_gvk, builtin: shared.builtin };
    // Options for a stream or a proxy are no object: the operation connects.
    if kind.ends_with("Options") {
        let options = format!("{}.{version}.{kind}", if group.is_empty() { "core" } else { group });
        let methods = if name == "proxy" { PROXY_METHODS.to_vec() } else { vec!["get", "post"] };
        let connect = |id_suffix: &str| -> Vec<(&'static str, String, String)> {
            let one = |method: &&'static str| {
                let (upper, verb) = (method.to_uppercase(), capitalised(method));
                let id = format!("connect{}{verb}{}{}{id_suffix}", names.prefix, names.middle, names.kind);
                (*method, id, format!("connect {upper} requests to {name} of {}", names.kind))
            };
            methods.iter().map(one).collect()
        };
        let options = [options.as_str()];
        let operations = |id_suffix: &str| -> Vec<Operation> {
            let one = |(method, id, description)| Operation {
                method,
                action: "connect",
                id,
                description,
                options: &options,
                except: &[],
                body: None,
                answer: Answer::Any,
            };
            connect(id_suffix).into_iter().map(one).collect()
        };
        add(path.clone(), path_item(&operations(&suffix), &shared, &in_item(kind)));
        if name == "proxy" {
            let mut parameters = in_item(kind);
            parameters.push(path_parameter("path", "path to the resource"));
            let item = path_item(&operations(&format!("{suffix}WithPath")), &shared, &parameters);
            add(path + "/{path}", item);
        }
        return;
    }
    let package = match group.as_str() {
        "" => "core",
        group => group.split('.').next().unwrap_or(group),
    };
    let definition =
        if own { resource.definition.clone() } else { definition_of(&format!("{package}.{version}.{kind}")) };
    let mut operations = Vec::new();
    for verb in &subresource.verbs {
        let of = |what: &str, article: &str| format!("{what} {name} of{article}{}", names.kind);
        let mut operation = match verb.as_str() {
            "get" => read(names, name, &definition),
            "create" => write("post", "create", names, &definition, of("create", article(names.kind))),
            "update" => write("put", "replace", names, &definition, of("replace", " the specified ")),
            "patch" => write("patch", "patch", names, &definition, of("partially update", " the specified ")),
            _ => continue,
        };
        if operation.method != "get" {
            operation.id.push_str(&suffix);
        }
        if name == "log" {
            (operation.options, operation.answer) = (&["core.v1.PodLogOptions"], Answer::Log);
        }
        operations.push(operation);
    }
    add(path, path_item(&operations, &shared, &in_item(kind)));
}

/// The path of a document of discovery or of a fact about the server, such as `/apis/apps/`.
pub(super) fn fact(id: &str, tag: &str, description: &str, types: &[&str], definition: Option<&str>) -> Value {
    let schema = definition.map_or(json!({ "type": "string" }), reference);
    let content: Value = types.iter().map(|media| ((*media).to_owned(), json!({ "schema": schema }))).collect();
    json!({ "get": {
        "operationId": id,
        "description": description,
        "tags": [tag],
        "responses": { "200": { "description": "OK", "content": content }, "401": { "description": "Unauthorized" } },
    }})
}
