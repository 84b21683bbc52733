//! What is wrong with a definition, besides its schemas.
//!
//! Where all versions agree on a schema, on subresources or columns, upstream speaks of them as the definition's own
//! (`spec.validation`, …), and so do we.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::{approval, schema};
use crate::certificates::check_certificates;
use crate::custom::schema::Schema;
use crate::field::FieldErrors;
use crate::names::{check_dns_subdomain, check_dns1035_label};
use crate::validate::{list, text, webhooks};

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const MAX_SELECTABLE_FIELDS: usize = 8;
const MAX_WARNING_BYTES: usize = 256;

/// What is wrong with a definition.
pub fn validate(definition: &Value, errors: &mut FieldErrors) {
    let (meta, spec) = (&definition["metadata"], &definition["spec"]);
    let group = text(spec, "group");
    if text(meta, "name") != format!("{}.{group}", text(&spec["names"], "plural")) {
        errors.invalid("metadata.name", text(meta, "name"), "must be spec.names.plural+\".\"+spec.group");
    }
    if group.is_empty() {
        errors.required("spec.group", "");
    } else if let problems @ [_, ..] = check_dns_subdomain(group).as_slice() {
        errors.invalid("spec.group", group, problems.join(","));
    } else if !group.contains('.') {
        errors.invalid("spec.group", group, "should be a domain with at least one dot");
    }
    required_enum(spec, "spec.scope", "scope", &["Cluster", "Namespaced"], errors);
    versions(spec, errors);
    if let Some(name) = list(spec, "versions").first().map(|version| text(version, "name")) {
        label(name, "spec.version", errors);
    }
    for field in ["plural", "singular", "kind", "listKind"] {
        if text(&spec["names"], field).is_empty() {
            errors.required(&format!("spec.names.{field}"), "");
        }
    }
    names(&spec["names"], "spec.names", errors);
    shared(spec, errors);
    conversion(&spec["conversion"], errors);
    names(&definition["status"]["acceptedNames"], "status.acceptedNames", errors);
    stored_versions(definition, errors);
    if approval::protected(group) {
        let at = format!("metadata.annotations[{}]", approval::ANNOTATION);
        match approval::state(&meta["annotations"]) {
            (approval::Approval::Missing, why) => errors.required(&at, why),
            (approval::Approval::Invalid, why) => {
                errors.invalid(&at, meta["annotations"][approval::ANNOTATION].clone(), why);
            }
            _ => {}
        }
    }
    if spec["preserveUnknownFields"] == true {
        let why =
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.invalid("spec.preserveUnknownFields", true, why);
    }
}

/// What may not change.
pub fn validate_update(new: &Value, old: &Value, subresource: &str, errors: &mut FieldErrors) {
    if subresource == "status" {
        return names(&new["status"]["acceptedNames"], "status.acceptedNames", errors);
    }
    let established = crate::custom::rows::is_true(old, "Established");
    for (path, fixed) in [
        ("spec.scope", established),
        ("spec.names.kind", established),
        ("spec.group", true),
        ("spec.names.plural", true),
    ] {
        let of = |object| crate::custom::at(object, path).clone();
        if fixed && of(new) != of(old) {
            errors.invalid(path, of(new), "field is immutable");
        }
    }
    // A definition may wait for its authority until it is served, and what is wrong already may stay.
    let problem = |object: &Value| match text(&object["spec"]["conversion"]["webhook"]["clientConfig"], "caBundle") {
        "" => None,
        bundle => check_certificates(&BASE64_STANDARD.decode(bundle).unwrap_or_default()).err(),
    };
    if let Some(why) = problem(new).filter(|_| established && problem(old).is_none()) {
        let why = format!("unable to load root certificates: {why}");
        errors.invalid_omitted("spec.conversion.webhookClientConfig.caBundle", why);
    }
}

fn required_enum(object: &Value, path: &str, key: &str, allowed: &[&str], errors: &mut FieldErrors) {
    match text(object, key) {
        "" => errors.required(path, ""),
        value if !allowed.contains(&value) => errors.not_supported(path, value, allowed),
        _ => {}
    }
}

fn label(name: &str, path: &str, errors: &mut FieldErrors) {
    if let problems @ [_, ..] = check_dns1035_label(name).as_slice() {
        errors.invalid(path, name, problems.join(","));
    }
}

fn names(names: &Value, path: &str, errors: &mut FieldErrors) {
    for field in ["plural", "singular", "kind", "listKind"] {
        let name = text(names, field);
        let mixed = matches!(field, "kind" | "listKind");
        let problems = check_dns1035_label(&if mixed { name.to_lowercase() } else { name.to_owned() });
        if !name.is_empty() && !problems.is_empty() {
            let hint = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            errors.invalid(&format!("{path}.{field}"), name, format!("{hint}{}", problems.join(",")));
        }
    }
    for field in ["shortNames", "categories"] {
        for (i, name) in list(names, field).iter().enumerate() {
            label(name.as_str().unwrap_or_default(), &format!("{path}.{field}[{i}]"), errors);
        }
    }
    if !text(names, "kind").is_empty() && text(names, "kind") == text(names, "listKind") {
        errors.invalid(&format!("{path}.listKind"), text(names, "listKind"), "kind and listKind may not be the same");
    }
}

/// Whether all versions agree on a field, so that it is the definition's own.
fn is_shared(spec: &Value, field: &str) -> bool {
    let versions = list(spec, "versions");
    versions.iter().all(|version| version[field] == versions[0][field])
}

fn versions(spec: &Value, errors: &mut FieldErrors) {
    let versions = list(spec, "versions");
    for (i, version) in versions.iter().enumerate() {
        if version["schema"]["openAPIV3Schema"].is_null() {
            errors.required(&format!("spec.versions[{i}].schema.openAPIV3Schema"), "schemas are required");
        }
    }
    for (i, version) in versions.iter().enumerate() {
        let at = |field: &str| format!("spec.versions[{i}].{field}");
        label(text(version, "name"), &at("name"), errors);
        deprecation(version, &at("deprecationWarning"), errors);
        parts(spec, version, false, &at(""), errors);
    }
    let named = |name: &Value| versions.iter().filter(|version| version["name"] == *name).count();
    if versions.iter().any(|version| named(&version["name"]) > 1) {
        errors.invalid("spec.versions", spec["versions"].clone(), "must contain unique version names");
    }
    if versions.iter().filter(|version| version["storage"] == true).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.invalid("spec.versions", spec["versions"].clone(), why);
    }
}

/// The schemas of a definition and where they are: one for all versions, if they agree, or one each.
pub fn schemas(definition: &Value) -> Vec<(String, &Value)> {
    let spec = &definition["spec"];
    let documents = list(spec, "versions").iter().map(|version| &version["schema"]["openAPIV3Schema"]).enumerate();
    let documents = documents.filter(|(_, document)| !document.is_null());
    if is_shared(spec, "schema") {
        return documents
            .take(1)
            .map(|(_, document)| ("spec.validation.openAPIV3Schema".to_owned(), document))
            .collect();
    }
    documents.map(|(i, document)| (format!("spec.versions[{i}].schema.openAPIV3Schema"), document)).collect()
}

/// What all versions share, once.
fn shared(spec: &Value, errors: &mut FieldErrors) {
    if let Some(version) = list(spec, "versions").first() {
        parts(spec, version, true, "spec.", errors);
    }
}

/// The parts of a version that it shares with all others, or those that it does not.
fn parts(spec: &Value, version: &Value, shared: bool, path: &str, errors: &mut FieldErrors) {
    let document = &version["schema"]["openAPIV3Schema"];
    let here = is_shared(spec, "schema") == shared;
    let has_status = |version: &Value| !version["subresources"]["status"].is_null();
    if here && !document.is_null() {
        let status = if shared { list(spec, "versions").iter().any(has_status) } else { has_status(version) };
        let at = if shared { "spec.validation".to_owned() } else { format!("{path}schema") };
        schema::validate(document, status, &format!("{at}.openAPIV3Schema"), errors);
    }
    if is_shared(spec, "subresources") == shared {
        subresources(&version["subresources"], &format!("{path}subresources"), errors);
    }
    if is_shared(spec, "additionalPrinterColumns") == shared {
        for (i, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
            printer_column(column, &format!("{path}additionalPrinterColumns[{i}]"), errors);
        }
    }
    let selectable = list(version, "selectableFields");
    if is_shared(spec, "selectableFields") != shared || selectable.is_empty() {
        return;
    }
    let path = format!("{path}selectableFields");
    match Schema::read(document) {
        // Fields and schema must both be of one version, or both be shared.
        _ if !here || document.is_null() => {
            let where_from = if shared { "validations.schema is" } else { "version.schema.openAPIV3Schema is not" };
            errors.invalid(&path, "", format!("selectableFields may only be set when {where_from} included"));
        }
        Ok(schema) => selectable_fields(selectable, &schema, &path, errors),
        // Which is said of the schema itself.
        Err(_) => {}
    }
}

fn deprecation(version: &Value, path: &str, errors: &mut FieldErrors) {
    let Some(warning) = version["deprecationWarning"].as_str() else { return };
    let mut wrong = |why: String| errors.invalid(path, warning, why);
    if version["deprecated"] != true {
        return wrong("can only be set for deprecated versions".into());
    }
    if warning.len() > MAX_WARNING_BYTES {
        wrong(format!("must be <= {MAX_WARNING_BYTES} characters long"));
    }
    if warning.is_empty() {
        wrong("must not be an empty string".into());
    }
    if let Some((at, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
        wrong(format!("must only contain printable UTF-8 characters; non-printable character found at index {at}"));
    }
}

fn simple_path(path: &str, at: &str, errors: &mut FieldErrors) -> bool {
    if path.starts_with('.') {
        return true;
    }
    errors.invalid(at, path, "must be a simple json path starting with .");
    false
}

fn subresources(subresources: &Value, path: &str, errors: &mut FieldErrors) {
    let scale = &subresources["scale"];
    if !scale.is_object() {
        return;
    }
    for (field, under, required) in [
        ("specReplicasPath", &[".spec."][..], true),
        ("statusReplicasPath", &[".status."], true),
        ("labelSelectorPath", &[".spec.", ".status."], false),
    ] {
        let (at, value) = (format!("{path}.scale.{field}"), text(scale, field));
        if value.is_empty() {
            if required {
                errors.required(&at, "");
            }
        } else if simple_path(value, &at, errors) && !under.iter().any(|prefix| value.starts_with(prefix)) {
            let why = match under {
                [one] => format!("should be a json path under {}", one.trim_end_matches('.')),
                _ => "should be a json path under either .spec or .status".into(),
            };
            errors.invalid(&at, value, why);
        }
    }
}

fn printer_column(column: &Value, path: &str, errors: &mut FieldErrors) {
    let at = |field: &str| format!("{path}.{field}");
    if text(column, "name").is_empty() {
        errors.required(&at("name"), "");
    }
    let types = format!("must be one of {}", COLUMN_TYPES.join(","));
    match text(column, "type") {
        "" => errors.required(&at("type"), types),
        kind if !COLUMN_TYPES.contains(&kind) => errors.invalid(&at("type"), kind, types),
        _ => {}
    }
    let format = text(column, "format");
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        errors.invalid(&at("format"), format, format!("must be one of {}", COLUMN_FORMATS.join(",")));
    }
    match text(column, "jsonPath") {
        "" => errors.required(&at("JSONPath"), ""),
        json_path => drop(simple_path(json_path, &at("JSONPath"), errors)),
    }
}

fn selectable_fields(fields: &[Value], schema: &Schema, path: &str, errors: &mut FieldErrors) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, field) in fields.iter().enumerate() {
        let (at, json_path) = (format!("{path}[{i}].jsonPath"), text(field, "jsonPath"));
        if json_path.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let found = match resolve(schema, json_path, false) {
            Ok(found) => found,
            Err(why) => {
                errors.invalid(&at, json_path, format!("is an invalid path: {why}"));
                continue;
            }
        };
        if json_path == ".metadata" || json_path.starts_with(".metadata.") {
            errors.invalid(&at, json_path, "must not point to fields in metadata");
        }
        if !matches!(found.kind.as_str(), "string" | "boolean" | "integer") {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with \
                       formats are allowed.";
            errors.invalid(&at, json_path, why);
        }
        if seen.contains(&json_path) {
            errors.duplicate(&at, json_path);
        } else {
            seen.push(json_path);
        }
    }
    if seen.len() > MAX_SELECTABLE_FIELDS {
        errors.too_many(path, seen.len(), MAX_SELECTABLE_FIELDS);
    }
}

/// The schema at a path of fields and map keys: `.spec.color`, and with `quoted` names `.spec.map['k']` too.
pub(super) fn resolve<'a>(schema: &'a Schema, path: &str, quoted: bool) -> Result<&'a Schema, String> {
    const END: &str = "unexpected end of JSON path";
    let (mut schema, mut rest) = (schema, path);
    while !rest.is_empty() {
        let (name, after) = if rest.starts_with('[') && !quoted {
            return Err("array notation is not allowed".into());
        } else if let Some(inner) = rest.strip_prefix("['") {
            inner.split_once("']").ok_or(END)?
        } else if let Some(dotted) = rest.strip_prefix('.') {
            if dotted.is_empty() {
                return Err(END.into());
            }
            dotted.split_at(dotted.find(['.', '[', ']']).unwrap_or(dotted.len()))
        } else {
            let end = rest.find(['.', '[', ']']).unwrap_or(rest.len()).max(1);
            return Err(format!("expected [ or . but got: {}", &rest[..end]));
        };
        let part = if schema.properties.is_empty() { schema.additional() } else { schema.properties.get(name) };
        schema = part.ok_or("does not refer to a valid field")?;
        rest = after;
    }
    Ok(schema)
}

fn conversion(conversion: &Value, errors: &mut FieldErrors) {
    const PATH: &str = "spec.conversion";
    if conversion.is_null() {
        return;
    }
    required_enum(conversion, "spec.conversion.strategy", "strategy", &["None", "Webhook"], errors);
    let webhook = &conversion["webhook"];
    let config = &webhook["clientConfig"];
    let reviews_at = format!("{PATH}.conversionReviewVersions");
    let config_at = format!("{PATH}.webhookClientConfig");
    if text(conversion, "strategy") != "Webhook" {
        let why = "should not be set when strategy is not set to Webhook";
        if !config.is_null() {
            errors.forbidden(&config_at, why);
        }
        if !list(webhook, "conversionReviewVersions").is_empty() {
            errors.forbidden(&reviews_at, why);
        }
        return;
    }
    if config.is_null() {
        errors.required(&config_at, "required when strategy is set to Webhook");
    } else {
        webhooks::client_config(config, &config_at, errors);
    }
    if list(webhook, "conversionReviewVersions").is_empty() {
        return errors.required(&reviews_at, "");
    }
    webhooks::review_versions(webhook, &reviews_at, errors);
}

fn stored_versions(definition: &Value, errors: &mut FieldErrors) {
    const PATH: &str = "status.storedVersions";
    let stored = list(&definition["status"], "storedVersions");
    if stored.is_empty() {
        let known = list(&definition["spec"], "versions").iter().any(|version| version["storage"] == true);
        // Without a storage version nothing is stored, which is said elsewhere.
        return if known {
            errors.invalid(PATH, Value::Array(Vec::new()), "must have at least one stored version")
        };
    }
    for (i, name) in stored.iter().enumerate() {
        if !list(&definition["spec"], "versions").iter().any(|version| version["name"] == *name) {
            let name = name.as_str().unwrap_or_default();
            let why = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions \
                 until a storage migration ensures no data remains persisted in {name} and removes {name} from \
                 status.storedVersions"
            );
            errors.invalid(&format!("{PATH}[{i}]"), name, why);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// One that nothing is wrong with.
    pub(crate) fn good() -> Value {
        json!({
            "metadata": { "name": "widgets.example.com" },
            "spec": {
                "group": "example.com", "scope": "Namespaced", "conversion": { "strategy": "None" },
                "names": { "plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList" },
                "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": {
                    "type": "object", "properties": { "spec": { "type": "object", "properties": {
                        "color": { "type": "string" }, "size": { "type": "number" } } } } } } }],
            },
            "status": { "storedVersions": ["v1"] },
        })
    }

    #[test]
    fn what_objects_are_known_by_does_not_change() {
        let (mut old, mut new) = (good(), good());
        new["spec"]["scope"] = "Cluster".into();
        new["spec"]["names"]["plural"] = "others".into();
        let mut errors = FieldErrors::default();
        validate_update(&new, &old, "", &mut errors);
        assert_eq!(errors.0.len(), 1);
        old["status"]["conditions"] = json!([{ "type": "Established", "status": "True" }]);
        new["spec"]["conversion"]["webhook"]["clientConfig"]["caBundle"] = "AAAA".into();
        let mut errors = FieldErrors::default();
        validate_update(&new, &old, "", &mut errors);
        let told: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        assert_eq!(told[0], "spec.scope: Invalid value: \"Cluster\": field is immutable");
        assert!(told[2].contains("caBundle: Invalid value: unable to load root certificates: "), "{told:?}");
    }
}
