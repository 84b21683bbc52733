//! From a definition to the rows of the registry.

use std::cmp::Reverse;
use std::sync::Arc;

use serde_json::Value;

use super::strategy::CustomStrategy;
use super::{CustomKind, JsonPath, PrinterColumn, Scale, Schema};
use crate::resource::{Column, Resource, Scope, Subresource};

/// The rows of a definition.
#[derive(Clone, Debug)]
pub struct Served {
    /// The version in which objects are stored, served or not.
    pub storage: Arc<Resource>,
    /// Every version, served or not: objects may still lie in any.
    pub versions: Vec<Arc<Resource>>,
    /// The served versions, the one clients should prefer first.
    pub rows: Vec<Arc<Resource>>,
}

/// Whether a condition of a definition is true.
pub fn is_true(definition: &Value, condition: &str) -> bool {
    let conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == condition && c["status"] == "True")
}

/// The rows of an established definition; none of one that is not (yet).
pub fn served(definition: &Value) -> Option<Served> {
    if !is_true(definition, "Established") {
        return None;
    }
    let declared = definition["spec"]["versions"].as_array()?;
    let versions = declared.iter().map(|version| row(definition, version).map(Arc::new)).collect::<Option<Vec<_>>>()?;
    let which = |field: &'static str| declared.iter().zip(&versions).filter(move |(version, _)| version[field] == true);
    let storage = which("storage").next()?.1.clone();
    let mut rows: Vec<Arc<Resource>> = which("served").map(|(_, row)| row.clone()).collect();
    rows.sort_by_key(|row| version_order(&row.version));
    Some(Served { storage, versions, rows })
}

/// Orders versions as discovery does: `v2`, `v1`, `v2beta1`, `v1alpha1`, then any others by name.
pub fn version_order(version: &str) -> impl Ord + use<> {
    let parsed = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: u64 = rest[..digits].parse().ok()?;
        let (stage, minor) = match &rest[digits..] {
            "" => (2, "0"),
            text => ["alpha", "beta"].iter().zip(0..).find_map(|(name, i)| Some((i, text.strip_prefix(name)?)))?,
        };
        Some((stage, major, minor.parse::<u64>().ok()?))
    };
    (Reverse(parsed()), version.to_owned())
}

/// The name of a kind's schema: the group's parts backwards, `com.example.v1.Widget`.
fn definition_name(group: &str, version: &str, kind: &str) -> String {
    let parts: Vec<&str> = group.split('.').rev().collect();
    format!("{}.{version}.{kind}", parts.join("."))
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn row(definition: &Value, version: &Value) -> Option<Resource> {
    let spec = &definition["spec"];
    let names = &definition["status"]["acceptedNames"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, name, kind) = (text(&spec["group"]), text(&version["name"]), text(&names["kind"]));
    let terminating = is_true(definition, "Terminating");
    let verbs = ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
    let custom = Arc::new(custom_kind(spec, version, &group, &kind)?);
    let mut subresources = Vec::new();
    let three = || ["get", "patch", "update"].map(str::to_owned).to_vec();
    if custom.status {
        let kind = (group.clone(), name.clone(), kind.clone());
        subresources.push(Subresource { name: "status".into(), verbs: three(), kind });
    }
    if custom.scale.is_some() {
        let kind = ("autoscaling".to_owned(), "v1".to_owned(), "Scale".to_owned());
        subresources.push(Subresource { name: "scale".into(), verbs: three(), kind });
    }
    let fields = version["selectableFields"].as_array().into_iter().flatten();
    Some(Resource {
        definition: definition_name(&group, &name, &kind),
        version: name,
        list_kind: text(&names["listKind"]),
        plural: text(&names["plural"]),
        singular: text(&names["singular"]),
        short_names: strings(&names["shortNames"]),
        categories: strings(&names["categories"]),
        scope: if spec["scope"] == "Namespaced" { Scope::Namespaced } else { Scope::Cluster },
        verbs: verbs.iter().filter(|verb| !(terminating && **verb == "create")).map(|&verb| verb.to_owned()).collect(),
        subresources,
        columns: columns(version),
        selectable_fields: fields.map(|field| text(&field["jsonPath"]).trim_start_matches('.').to_owned()).collect(),
        stored: true,
        strategy: Arc::new(CustomStrategy { kind: custom.clone() }),
        custom: Some(custom),
        group,
        kind,
    })
}

fn custom_kind(spec: &Value, version: &Value, group: &str, kind: &str) -> Option<CustomKind> {
    let document = version["schema"]["openAPIV3Schema"].clone();
    let schema = if document.is_null() {
        // A definition older than schemas: anything goes.
        Schema { preserve_unknown: Some(true), ..Schema::default() }
    } else {
        Schema::read(&document).ok()?
    };
    let subresources = &version["subresources"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let scale = subresources.get("scale").filter(|scale| scale.is_object()).map(|scale| Scale {
        spec: text(&scale["specReplicasPath"]),
        status: text(&scale["statusReplicasPath"]),
        selector: text(&scale["labelSelectorPath"]),
    });
    let default_warning = || format!("{group}/{} {kind} is deprecated", text(&version["name"]));
    let warning = || version["deprecationWarning"].as_str().map_or_else(default_warning, str::to_owned);
    Some(CustomKind {
        schema,
        document,
        preserves: spec["preserveUnknownFields"] == true,
        status: subresources.get("status").is_some_and(|status| !status.is_null()),
        scale,
        columns: printers(version),
        deprecation: (version["deprecated"] == true).then(warning),
        webhook: (spec["conversion"]["strategy"] == "Webhook").then(|| spec["conversion"]["webhook"].clone()),
    })
}

/// What the definition adds to the name: its own columns, or the age.
fn added(version: &Value) -> Vec<Value> {
    match version["additionalPrinterColumns"].as_array().map(Vec::as_slice) {
        None | Some([]) => vec![serde_json::json!({
            "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
            "description": "meta.v1.ObjectMeta.creationTimestamp",
        })],
        Some(columns) => columns.to_vec(),
    }
}

fn columns(version: &Value) -> Vec<Column> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = Column {
        name: "Name".into(),
        kind: "string".into(),
        format: "name".into(),
        description: "meta.v1.ObjectMeta.name".into(),
        priority: 0,
    };
    let added = added(version).into_iter().map(|column| Column {
        name: text(&column["name"]),
        kind: text(&column["type"]),
        format: text(&column["format"]),
        description: match text(&column["description"]) {
            empty if empty.is_empty() => {
                format!("Custom resource definition column (in JSONPath format): {}", text(&column["jsonPath"]))
            }
            description => description,
        },
        priority: column["priority"].as_i64().and_then(|priority| priority.try_into().ok()).unwrap_or(0),
    });
    std::iter::once(name).chain(added).collect()
}

fn printers(version: &Value) -> Vec<PrinterColumn> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let nowhere = || JsonPath::parse(".metadata.none-such");
    let printer = |column: Value| {
        let path = JsonPath::parse(&text(&column["jsonPath"])).or_else(nowhere)?;
        Some(PrinterColumn { path, kind: text(&column["type"]) })
    };
    added(version).into_iter().filter_map(printer).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn versions_are_ordered_as_discovery_has_them() {
        let mut versions =
            ["v1alpha1", "foo1", "v10", "v1", "v2beta1", "v2", "v11beta2", "foo10", "v3beta1", "v1beta2"];
        versions.sort_by_key(|version| version_order(version));
        let expected = ["v10", "v2", "v1", "v11beta2", "v3beta1", "v2beta1", "v1beta2", "v1alpha1", "foo1", "foo10"];
        assert_eq!(versions, expected);
    }

    #[test]
    fn a_definition_becomes_a_row_for_each_served_version() {
        let mut definition = json!({
            "spec": {
                "group": "example.com", "scope": "Namespaced",
                "versions": [
                    { "name": "v1beta1", "served": true, "storage": false, "deprecated": true,
                      "schema": { "openAPIV3Schema": { "type": "object" } } },
                    { "name": "v1", "served": true, "storage": true, "subresources": { "status": {}, "scale": {
                        "specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n" } },
                      "selectableFields": [{ "jsonPath": ".spec.color" }],
                      "additionalPrinterColumns": [{ "name": "N", "type": "integer", "jsonPath": ".spec.n", "priority": 1 }],
                      "schema": { "openAPIV3Schema": { "type": "object" } } },
                    { "name": "v2", "served": false, "storage": false },
                ],
            },
            "status": { "acceptedNames": { "kind": "Widget", "listKind": "WidgetList", "plural": "widgets",
                                           "singular": "widget", "shortNames": ["wd"] } },
        });
        assert!(served(&definition).is_none(), "not established");
        definition["status"]["conditions"] = json!([{ "type": "Established", "status": "True" }]);
        let rows = served(&definition).unwrap().rows;
        assert_eq!(rows.iter().map(|row| row.version.as_str()).collect::<Vec<_>>(), ["v1", "v1beta1"]);
        let row = &rows[0];
        assert_eq!(row.key_prefix(), "/registry/example.com/widgets/");
        assert_eq!(row.definition, "com.example.v1.Widget");
        assert_eq!(row.subresource("scale").unwrap().kind.0, "autoscaling");
        assert_eq!(row.selectable_fields, ["spec.color"]);
        assert_eq!(
            row.columns.iter().map(|c| (c.name.as_str(), c.priority)).collect::<Vec<_>>(),
            [("Name", 0), ("N", 1)]
        );
        assert_eq!(rows[1].columns[1].name, "Age");
        let warning = rows[1].custom.as_ref().unwrap().deprecation.as_deref();
        assert_eq!(warning, Some("example.com/v1beta1 Widget is deprecated"));
        definition["status"]["conditions"] =
            json!([{ "type": "Established", "status": "True" }, { "type": "Terminating", "status": "True" }]);
        assert!(!served(&definition).unwrap().rows[0].verbs.contains(&"create".to_owned()));
    }
}
