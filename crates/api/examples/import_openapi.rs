//! Brings `data/` up to a version of Kubernetes.
//!
//! ```console
//! $ for path in $(kubectl get --raw /openapi/v3 | jq -r '.paths | keys[]'); do
//! >   kubectl get --raw /openapi/v3/$path > documents/${path//\//_}.json
//! > done
//! $ cargo run -p coracle-api --example import_openapi -- documents
//! ```
//!
//! `descriptions.tsv` is written anew. In `fields.tsv` everything that OpenAPI knows is: which fields there are,
//! what is required, defaults, how lists and maps merge, unions. OpenAPI knows neither protobuf's numbers nor which
//! fields are pointers in Go: those stay as they are, and what is new gets number 0 and is printed, to be completed
//! from the `generated.proto` of its package. Kinds and names are rows of `resources.tsv`, which is kept by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write;
use std::path::Path;
use std::sync::LazyLock;

use coracle_api::openapi::{implied_default, plain_code};
use coracle_api::registry::builtin;
use coracle_api::schema::{short_name, type_of};
use serde_json::{Map, Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("which folder holds the OpenAPI documents?")?;
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let upstream = Upstream::read(Path::new(&folder))?;
    std::fs::write(data.join("descriptions.tsv"), upstream.descriptions())?;
    let fields = data.join("fields.tsv");
    let (text, new) = upstream.fields(&std::fs::read_to_string(&fields)?);
    std::fs::write(fields, text)?;
    new.iter().for_each(|line| println!("without a protobuf number: {line}"));
    Ok(())
}

/// What the documents say.
#[derive(Default)]
struct Upstream {
    /// By short name, such as `core.v1.Pod`.
    schemas: BTreeMap<String, Value>,
    /// The descriptions of query parameters, by the options' type and the parameter.
    options: BTreeMap<String, BTreeMap<String, String>>,
}

impl Upstream {
    fn read(folder: &Path) -> Result<Self, Box<dyn Error>> {
        let served: BTreeSet<String> = builtin().iter().map(|r| r.api_version()).collect();
        let mut upstream = Upstream::default();
        for file in std::fs::read_dir(folder)? {
            let document: Value = serde_json::from_slice(&std::fs::read(file?.path())?)?;
            let paths = object(&document["paths"]);
            let of_a_version_not_served = paths.keys().any(|path| {
                let path = path.strip_prefix("/api/").or_else(|| path.strip_prefix("/apis/")).unwrap_or_default();
                let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
                match parts.as_slice() {
                    [version, ..] if version.starts_with('v') => !served.contains(*version),
                    [group, version, ..] => !served.contains(&format!("{group}/{version}")),
                    _ => false,
                }
            });
            if of_a_version_not_served {
                continue;
            }
            for (name, schema) in object(&document["components"]["schemas"]) {
                upstream.schemas.insert(short_name(name).to_owned(), schema.clone());
            }
            paths.values().for_each(|item| upstream.read_options(item));
        }
        Ok(upstream)
    }

    /// Notes the parameters of a path's operations under the options' type that they are fields of.
    fn read_options(&mut self, item: &Value) {
        for (method, operation) in object(item).iter().filter(|(method, _)| *method != "parameters") {
            let kind = operation["x-kubernetes-group-version-kind"]["kind"].as_str().unwrap_or_default();
            let ty = match operation["x-kubernetes-action"].as_str() {
                Some("list") => "meta.v1.ListOptions".to_owned(),
                Some("post") => "meta.v1.CreateOptions".to_owned(),
                Some("put") => "meta.v1.UpdateOptions".to_owned(),
                Some("patch") => "meta.v1.PatchOptions".to_owned(),
                Some("connect") => format!("core.v1.{kind}"),
                Some("get") if method == "get" && kind == "Pod" => "core.v1.PodLogOptions".to_owned(),
                _ => continue,
            };
            let all = array(&item["parameters"]).iter().chain(array(&operation["parameters"]));
            for parameter in all.filter(|p| p["in"] == "query" && p["name"] != "pretty") {
                let text = |name: &str| parameter[name].as_str().unwrap_or_default().to_owned();
                self.options.entry(ty.clone()).or_default().insert(text("name"), text("description"));
            }
        }
    }

    fn descriptions(&self) -> String {
        let mut out = "# The words of the Kubernetes API (Apache-2.0, The Kubernetes Authors), written by \
                       examples/import_openapi.rs.\n"
            .to_owned();
        let mut line = |name: &str, text: &str| {
            let text = Value::from(text).to_string();
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{name}\t{}", &text[1..text.len() - 1]);
        };
        // What every object has is said once.
        let common = |schema: &Value, field: &str| is_object(schema) && matches!(field, "apiVersion" | "kind");
        if let Some(object_type) = self.schemas.values().find(|schema| is_object(schema)) {
            line("=object", "");
            for name in ["apiVersion", "kind"] {
                line(name, object_type["properties"][name]["description"].as_str().unwrap_or_default());
            }
        }
        let names: BTreeSet<&String> = self.schemas.keys().chain(self.options.keys()).collect();
        for name in names {
            let schema = self.schemas.get(name).unwrap_or(&Value::Null);
            line(&format!("={name}"), schema["description"].as_str().unwrap_or_default());
            for (field, property) in object(&schema["properties"]).iter().filter(|(field, _)| !common(schema, field)) {
                property["description"].as_str().into_iter().for_each(|text| line(field, text));
            }
            if schema.is_null() {
                self.options[name].iter().for_each(|(field, text)| line(field, text));
            }
        }
        out
    }

    /// The table brought up to date, and the fields that need a number.
    fn fields(&self, old: &str) -> (String, Vec<String>) {
        let mut blocks: BTreeMap<&str, String> = BTreeMap::new();
        let mut new = Vec::new();
        let owners = owners(old);
        let mut of = "";
        for line in old.lines() {
            if let Some(head) = line.strip_prefix('=') {
                let (name, flags) = head.split_once('\t').unwrap_or((head, ""));
                of = name;
                let flags = self.schemas.get(name).map_or(flags.to_owned(), type_flags);
                blocks.insert(name, format!("={name}\t{flags}").trim_end().to_owned() + "\n");
                continue;
            }
            let mut columns = line.split('\t');
            let mut next = || columns.next().unwrap_or_default();
            let (field, number, code) = (next(), next(), next());
            let schema = self.schema(of, &owners);
            let property = &schema["properties"][field];
            let rest = match property.is_null() {
                true => code.to_owned(),
                false => facts(property, code, array(&schema["required"]).contains(&json!(field))),
            };
            blocks.entry(of).or_default().push_str(&format!("{field}\t{number}\t{rest}\n"));
        }
        for (name, schema) in
            self.schemas.iter().filter(|(name, schema)| schema["type"] == "object" && plain_code(name).is_none())
        {
            let known = type_of(name).map(|ty| ty.json_fields()).unwrap_or_default();
            let block = blocks.entry(name).or_insert_with(|| format!("={name}\t{}", type_flags(schema)) + "\n");
            for (field, property) in object(&schema["properties"]) {
                if known.iter().any(|known| known.name == field) || matches!(field.as_str(), "apiVersion" | "kind") {
                    continue;
                }
                let rest = facts(property, &code(property), array(&schema["required"]).contains(&json!(field)));
                block.push_str(&format!("{field}\t0\t{rest}\n"));
                new.push(format!("{name} {field}"));
            }
        }
        (blocks.into_values().collect(), new)
    }

    /// A type's schema. One whose fields stand in another's place in JSON has none of its own: its owner's says it.
    fn schema(&self, name: &str, owners: &BTreeMap<&str, &str>) -> &Value {
        match (self.schemas.get(name), owners.get(name)) {
            (Some(schema), _) => schema,
            (None, Some(owner)) => self.schema(owner, owners),
            _ => &Value::Null,
        }
    }
}

/// The types whose fields stand in another's place, each with that other.
fn owners(table: &str) -> BTreeMap<&str, &str> {
    let mut owner = "";
    let mut owners = BTreeMap::new();
    for line in table.lines() {
        match line.strip_prefix('=') {
            Some(head) => owner = head.split('\t').next().unwrap_or_default(),
            None => owners.extend(line.split_once("\t<").map(|(_, inlined)| (inlined, owner))),
        }
    }
    owners
}

/// Whether it is a kind: has `apiVersion` and `kind`.
fn is_object(schema: &Value) -> bool {
    // `WatchEvent` is one in OpenAPI, but has neither.
    schema["x-kubernetes-group-version-kind"].is_array() && schema["properties"]["kind"].is_object()
}

/// `object`, `atomic` and unions.
fn type_flags(schema: &Value) -> String {
    let mut flags = Vec::new();
    if schema["x-kubernetes-map-type"] == "atomic" {
        flags.push("atomic".to_owned());
    }
    if is_object(schema) {
        flags.push("object".to_owned());
    }
    for union in array(&schema["x-kubernetes-unions"]) {
        let fields = object(&union["fields-to-discriminateBy"]).keys().map(String::as_str);
        let parts: Vec<&str> =
            [union["discriminator"].as_str().unwrap_or_default()].into_iter().chain(fields).collect();
        flags.push(format!("union={}", parts.join(":")));
    }
    flags.join(" ")
}

/// The third and fourth column of a field: its type with flags, and how it merges and defaults.
fn facts(property: &Value, code: &str, required: bool) -> String {
    let (ty, old_flags) = code.split_once(' ').unwrap_or((code, ""));
    let structure = property["default"] == json!({});
    let flags: String = [('!', required), ('&', structure), ('*', old_flags.contains('*'))]
        .into_iter()
        .filter_map(|(flag, set)| set.then_some(flag))
        .collect();
    let mut merge = Vec::new();
    let text = |name: &str| property[name].as_str();
    if let Some(strategy) = text("x-kubernetes-patch-strategy") {
        let key = text("x-kubernetes-patch-merge-key").map(|key| format!(":{key}")).unwrap_or_default();
        merge.push(format!("p={strategy}{key}"));
    }
    if let Some(list) = text("x-kubernetes-list-type").or(text("x-kubernetes-map-type")) {
        let keys: Vec<&str> = array(&property["x-kubernetes-list-map-keys"]).iter().filter_map(Value::as_str).collect();
        merge.push(if keys.is_empty() { format!("l={list}") } else { format!("l={list}:{}", keys.join(",")) });
    }
    let implied = implied_default(property, required);
    match property.get("default") {
        default if default == implied.as_ref() || structure => {}
        Some(default) => merge.push(format!("d={default}")),
        None => merge.push("d=".to_owned()),
    }
    let ty = if flags.is_empty() { ty.to_owned() } else { format!("{ty} {flags}") };
    format!("{ty}\t{}", merge.join(" ")).trim_end().to_owned()
}

/// The code of a property's type.
fn code(property: &Value) -> String {
    let reference = property["$ref"].as_str().or(property["allOf"][0]["$ref"].as_str());
    if let Some(name) = reference.and_then(|text| text.rsplit('/').next()) {
        let name = short_name(name);
        return plain_code(name).map_or(name.to_owned(), str::to_owned);
    }
    let text = |name: &str| property[name].as_str();
    match (text("type"), text("format")) {
        (Some("string"), Some("byte")) => "y".into(),
        (Some("string"), _) => "s".into(),
        (Some("boolean"), _) => "b".into(),
        (Some("integer"), Some("int64")) => "l".into(),
        (Some("integer"), _) => "i".into(),
        (Some("number"), _) => "d".into(),
        (Some("array"), _) => format!("[]{}", code(&property["items"])),
        (Some("object"), _) if property["additionalProperties"]["type"] == "array" => "{}X".into(),
        (Some("object"), _) => format!("{{}}{}", code(&property["additionalProperties"])),
        _ => "r".into(),
    }
}

fn object(value: &Value) -> &Map<String, Value> {
    static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    value.as_object().unwrap_or(&EMPTY)
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
