//! A version's schema: `JSONSchemaProps`, read once from the definition's JSON.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

/// A schema and, below it, those of its parts. Fields that say nothing about values, such as descriptions, are
/// noticed only ([`Present`]); the published documents take them from the definition itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are JSONSchemaProps'")]
pub struct Schema {
    #[serde(rename = "type")]
    pub kind: String,
    pub format: String,
    pub nullable: bool,
    pub default: Option<Value>,
    #[serde(rename = "enum")]
    pub allowed: Vec<Value>,
    pub required: Vec<String>,
    pub properties: BTreeMap<String, Schema>,
    pub additional_properties: Option<SchemaOrBool>,
    pub items: Option<SchemaOrList>,
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub multiple_of: Option<f64>,
    pub max_length: Option<i64>,
    pub min_length: Option<i64>,
    pub max_items: Option<i64>,
    pub min_items: Option<i64>,
    pub max_properties: Option<i64>,
    pub min_properties: Option<i64>,
    pub pattern: String,
    pub unique_items: bool,
    #[serde(rename = "x-kubernetes-preserve-unknown-fields")]
    pub preserve_unknown: Option<bool>,
    #[serde(rename = "x-kubernetes-embedded-resource")]
    pub embedded: bool,
    #[serde(rename = "x-kubernetes-int-or-string")]
    pub int_or_string: bool,
    #[serde(rename = "x-kubernetes-list-type")]
    pub list_type: Option<String>,
    #[serde(rename = "x-kubernetes-list-map-keys")]
    pub list_map_keys: Vec<String>,
    #[serde(rename = "x-kubernetes-map-type")]
    pub map_type: Option<String>,
    #[serde(rename = "x-kubernetes-validations")]
    pub rules: Vec<Rule>,
    pub title: Present,
    pub description: Present,
    pub external_docs: Present,
    pub example: Present,
    pub id: Present,
    #[serde(rename = "$ref")]
    pub reference: Present,
    #[serde(rename = "$schema")]
    pub schema: Present,
    pub additional_items: Present,
    pub pattern_properties: Present,
    pub definitions: Present,
    pub dependencies: Present,
    #[serde(skip)]
    pub(super) regex: OnceLock<Option<Regex>>,
}

/// Whether a field is there and not empty; what it holds does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present(pub bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Present(match Value::deserialize(deserializer)? {
            Value::Null => false,
            Value::String(text) => !text.is_empty(),
            Value::Object(map) => !map.is_empty(),
            _ => true,
        }))
    }
}

/// `additionalProperties`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum SchemaOrBool {
    /// Whether others than those listed are allowed.
    Bool(bool),
    /// What the others must be.
    Schema(Box<Schema>),
}

/// `items`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum SchemaOrList {
    /// What each item must be.
    Schema(Box<Schema>),
    /// One schema an item, which definitions may not use.
    List(Vec<Value>),
}

/// A rule of `x-kubernetes-validations`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are ValidationRule's")]
pub struct Rule {
    pub rule: String,
    pub message: String,
    pub message_expression: String,
    pub reason: Option<String>,
    pub field_path: String,
    pub optional_old_self: Option<bool>,
}

impl Schema {
    /// Reads a schema.
    ///
    /// # Errors
    /// The parser's words, for what is no `JSONSchemaProps`.
    pub fn read(json: &Value) -> Result<Schema, String> {
        Schema::deserialize(json).map_err(|error| error.to_string())
    }

    /// Whether unknown fields stay.
    pub fn preserves(&self) -> bool {
        self.preserve_unknown == Some(true)
    }

    /// The schema of every item of a list.
    pub fn item(&self) -> Option<&Schema> {
        match &self.items {
            Some(SchemaOrList::Schema(schema)) => Some(schema),
            _ => None,
        }
    }

    /// The schema of a map's values; none where anything may stand.
    pub fn additional(&self) -> Option<&Schema> {
        match &self.additional_properties {
            Some(SchemaOrBool::Schema(schema)) => Some(schema),
            _ => None,
        }
    }

    /// Whether fields that are not listed belong to a map, rather than being unknown.
    pub fn is_map(&self) -> bool {
        !matches!(self.additional_properties, None | Some(SchemaOrBool::Bool(false)))
    }

    /// `pattern`, compiled; none if it is empty or wrong.
    pub fn regex(&self) -> Option<&Regex> {
        self.regex.get_or_init(|| Regex::new(&self.pattern).ok().filter(|_| !self.pattern.is_empty())).as_ref()
    }

    /// The types a value may have.
    pub fn types(&self) -> Vec<&str> {
        match (self.int_or_string, self.kind.as_str()) {
            (true, _) => vec!["integer", "string"],
            (false, "") => Vec::new(),
            (false, kind) => vec![kind],
        }
    }

    /// The schemas of its parts, with the names by which paths lead to them.
    pub fn parts(&self) -> Vec<(String, &Schema)> {
        let mut parts: Vec<(String, &Schema)> = Vec::new();
        let lists = [("allOf", &self.all_of), ("anyOf", &self.any_of), ("oneOf", &self.one_of)];
        parts.extend(self.properties.iter().map(|(name, schema)| (format!("properties[{name}]"), schema)));
        parts.extend(self.additional().map(|schema| ("additionalProperties".to_owned(), schema)));
        parts.extend(self.item().map(|schema| ("items".to_owned(), schema)));
        parts.extend(self.not.as_deref().map(|schema| ("not".to_owned(), schema)));
        for (name, list) in lists {
            parts.extend(list.iter().enumerate().map(|(i, schema)| (format!("{name}[{i}]"), schema)));
        }
        parts
    }

    /// Whether it or a part of it is such.
    pub fn any(&self, test: &dyn Fn(&Schema) -> bool) -> bool {
        test(self) || self.parts().iter().any(|(_, part)| part.any(test))
    }
}
