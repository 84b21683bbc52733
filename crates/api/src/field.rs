//! Field errors: what is wrong with one field of an object, worded as upstream's
//! `apimachinery/pkg/util/validation/field` words it.

use std::fmt;

use serde_json::Value;

/// What kind of wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// A required value is missing.
    Required,
    /// The value is not allowed for this field.
    Invalid,
    /// The value is not allowed, and not worth showing.
    InvalidOmitted,
    /// The value is none of those supported.
    NotSupported,
    /// The value may not be set here or now.
    Forbidden,
    /// The value appears twice where it must be unique.
    Duplicate,
    /// The value names something that does not exist.
    NotFound,
    /// The text is too long.
    TooLong,
    /// The list has too many items.
    TooMany,
    /// The value has the wrong type.
    TypeInvalid,
    /// Our fault.
    Internal,
}

impl FieldErrorKind {
    /// The `reason` of the Status cause.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid | Self::InvalidOmitted => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::Duplicate => "FieldValueDuplicate",
            Self::NotFound => "FieldValueNotFound",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::InvalidOmitted | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::Duplicate => "Duplicate value",
            Self::NotFound => "Not found",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }
}

/// One field error.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// The path, such as `spec.containers[0].image`.
    pub field: String,
    /// What kind of wrong.
    pub kind: FieldErrorKind,
    /// The offending value; null where upstream shows none.
    pub value: Value,
    /// What would be right.
    pub detail: String,
}

impl FieldError {
    /// The message without the field's path.
    pub fn body(&self) -> String {
        let label = self.kind.label();
        let mut text = match self.kind {
            FieldErrorKind::Required
            | FieldErrorKind::InvalidOmitted
            | FieldErrorKind::Forbidden
            | FieldErrorKind::TooLong
            | FieldErrorKind::Internal => label.to_owned(),
            FieldErrorKind::TooMany if self.value.is_null() => label.to_owned(),
            _ => format!("{label}: {}", show(&self.value)),
        };
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

/// A value as Go prints it in a field error: strings quoted, the rest as JSON, nothing as the word.
fn show(value: &Value) -> String {
    match value {
        Value::Null => "\"null\"".to_owned(),
        Value::String(s) => format!("{s:?}"),
        other => other.to_string(),
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// Collects field errors while a validator walks an object.
#[derive(Clone, Debug, Default)]
pub struct FieldErrors(pub Vec<FieldError>);

impl FieldErrors {
    fn push(&mut self, field: &str, kind: FieldErrorKind, value: Value, detail: impl Into<String>) {
        self.0.push(FieldError { field: field.to_owned(), kind, value, detail: detail.into() });
    }

    /// A required value is missing.
    pub fn required(&mut self, field: &str, detail: impl Into<String>) {
        self.push(field, FieldErrorKind::Required, Value::Null, detail);
    }

    /// The value is not allowed.
    pub fn invalid(&mut self, field: &str, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(field, FieldErrorKind::Invalid, value.into(), detail);
    }

    /// The value is not allowed; it is not shown.
    pub fn invalid_omitted(&mut self, field: &str, detail: impl Into<String>) {
        self.push(field, FieldErrorKind::InvalidOmitted, Value::Null, detail);
    }

    /// The value is none of `supported`.
    pub fn not_supported(&mut self, field: &str, value: impl Into<Value>, supported: &[&str]) {
        let list = supported.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(", ");
        self.push(field, FieldErrorKind::NotSupported, value.into(), format!("supported values: {list}"));
    }

    /// The value may not be set.
    pub fn forbidden(&mut self, field: &str, detail: impl Into<String>) {
        self.push(field, FieldErrorKind::Forbidden, Value::Null, detail);
    }

    /// The value appears twice.
    pub fn duplicate(&mut self, field: &str, value: impl Into<Value>) {
        self.push(field, FieldErrorKind::Duplicate, value.into(), "");
    }

    /// The value names something that does not exist.
    pub fn not_found(&mut self, field: &str, value: impl Into<Value>) {
        self.push(field, FieldErrorKind::NotFound, value.into(), "");
    }

    /// The same, and what does exist.
    pub fn not_found_in(&mut self, field: &str, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(field, FieldErrorKind::NotFound, value.into(), detail);
    }

    /// The same value twice, and what makes it the same.
    pub fn duplicate_by(&mut self, field: &str, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(field, FieldErrorKind::Duplicate, value.into(), detail);
    }

    /// The list has `count` items, more than `max`.
    pub fn too_many(&mut self, field: &str, count: usize, max: usize) {
        let noun = if max == 1 { "item" } else { "items" };
        self.push(field, FieldErrorKind::TooMany, count.into(), format!("must have at most {max} {noun}"));
    }

    /// The text is longer than `max` bytes.
    pub fn too_long(&mut self, field: &str, max: usize) {
        let noun = if max == 1 { "byte" } else { "bytes" };
        self.push(field, FieldErrorKind::TooLong, Value::Null, format!("may not be more than {max} {noun}"));
    }
}
