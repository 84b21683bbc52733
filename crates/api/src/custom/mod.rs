//! Custom resources: kinds that come from a CustomResourceDefinition.
//!
//! A definition becomes one [`Resource`](crate::Resource) per version ([`rows::served`]); the generic handler knows
//! them by these rows, as it knows all others. What their objects may hold is the version's [`Schema`]: unknown
//! fields go and defaults come ([`value`]), the rest is validated ([`validate`], [`lists`]), all behind the row's
//! [`Strategy`](crate::Strategy). The definition itself is judged in [`definition`]; what converts its objects by webhook is
//! asked and heard in [`conversion`].

pub mod conversion;
pub mod definition;
mod format;
mod jsonpath;
pub mod lists;
pub mod rows;
pub mod schema;
mod strategy;
pub mod validate;
pub mod value;

use serde_json::Value;

pub use jsonpath::JsonPath;
pub use rows::{Served, served};
pub use schema::Schema;

/// What a version of a definition says beyond its row.
#[derive(Debug)]
pub struct CustomKind {
    /// What objects may hold.
    pub schema: Schema,
    /// The schema as it was written, with descriptions; for OpenAPI.
    pub document: Value,
    /// Whether unknown fields stay everywhere (`spec.preserveUnknownFields`).
    pub preserves: bool,
    /// Whether `status` is a subresource.
    pub status: bool,
    /// The subresource `scale`.
    pub scale: Option<Scale>,
    /// Where the columns' cells come from.
    pub columns: Vec<PrinterColumn>,
    /// The warning that goes with every answer, of a deprecated version.
    pub deprecation: Option<String>,
    /// Who brings objects from one version into another: `spec.conversion.webhook`; nobody if only `apiVersion` changes.
    pub webhook: Option<Value>,
}

/// A column that the definition adds, or the implied age.
#[derive(Debug)]
pub struct PrinterColumn {
    /// Where the cell's value is.
    pub path: JsonPath,
    /// The value's type: `string`, `integer`, `number`, `boolean`, `date`.
    pub kind: String,
}

/// Where the numbers of a Scale are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    /// `specReplicasPath`.
    pub spec: String,
    /// `statusReplicasPath`.
    pub status: String,
    /// `labelSelectorPath`; empty for none.
    pub selector: String,
}

/// What is at a path of the simple sort, such as `.spec.replicas`; null if nothing is.
pub fn at<'a>(object: &'a Value, path: &str) -> &'a Value {
    path.split('.').filter(|part| !part.is_empty()).fold(object, |value, key| &value[key])
}

/// Puts a value at such a path, making the objects that lead there.
pub fn put_at(object: &mut Value, path: &str, value: Value) {
    let mut target = object;
    for key in path.split('.').filter(|part| !part.is_empty()) {
        if !target.is_object() {
            *target = Value::Object(serde_json::Map::new());
        }
        target = &mut target[key];
    }
    *target = value;
}
