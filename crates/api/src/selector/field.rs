//! Field selectors: `spec.nodeName=n1,status.phase!=Running`.

use serde_json::Value;

use crate::resource::Resource;
use crate::status::{ApiError, ApiResult};

/// A parsed field selector: all its terms must hold. Empty selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// Field, whether it must be equal (or must not), and the value.
    pub terms: Vec<(String, bool, String)>,
}

impl FieldSelector {
    /// Parses `a=b,c!=d,e==f`; `\,`, `\=` and `\\` stand for themselves.
    ///
    /// # Errors
    /// 400 with upstream's words.
    pub fn parse(text: &str) -> ApiResult<Self> {
        let mut terms = Vec::new();
        for part in split_terms(text) {
            let Some((field, equal, value)) = split_term(&part) else {
                return Err(ApiError::bad_request(format!("invalid selector: '{text}'; can't understand '{part}'")));
            };
            terms.push((field.to_owned(), equal, unescape(value)?));
        }
        Ok(FieldSelector { terms })
    }

    /// Refuses fields that the resource cannot be selected by.
    ///
    /// # Errors
    /// 400 `field label not supported: …`.
    pub fn check(&self, resource: &Resource) -> ApiResult<()> {
        for (field, ..) in &self.terms {
            let known = matches!(field.as_str(), "metadata.name" | "metadata.namespace")
                || resource.selectable_fields.iter().any(|f| f == field);
            if !known {
                let message = if !resource.builtin() || !resource.selectable_fields.is_empty() {
                    format!("field label not supported: {field}")
                } else {
                    format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
                };
                return Err(ApiError::bad_request(message));
            }
        }
        Ok(())
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value a field must have, if the selector says so: a list for one name need not read all.
    pub fn required(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|(f, equal, _)| *equal && f == field).map(|(.., value)| value.as_str())
    }

    /// Whether the object is selected.
    pub fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|(field, equal, value)| (field_value(object, field) == *value) == *equal)
    }
}

/// The text of a selectable field. Most are JSON paths; the exceptions are the labels that upstream maps to
/// something else. What an object lacks reads as empty (or as `false` and `0` where the type has such a zero).
pub fn field_value(object: &Value, field: &str) -> String {
    let at = |path: &str| path.split('.').fold(object, |value, key| &value[key]);
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let or = |value: String, zero: &str| if value.is_empty() { zero.to_owned() } else { value };
    match field {
        "source" => match text(at("source.component")) {
            empty if empty.is_empty() => text(at("reportingComponent")),
            component => component,
        },
        "status.successful" => or(text(at("status.succeeded")), "0"),
        "status.podIPs" => {
            let ips = at("status.podIPs").as_array().map(Vec::as_slice).unwrap_or_default();
            ips.iter().filter_map(|ip| ip["ip"].as_str()).collect::<Vec<_>>().join(",")
        }
        "status.replicas" => or(text(at(field)), "0"),
        "spec.hostNetwork" | "spec.unschedulable" => or(text(at(field)), "false"),
        path => text(at(path)),
    }
}

/// Splits at commas that no backslash protects.
fn split_terms(text: &str) -> Vec<String> {
    let (mut terms, mut term, mut escaped) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            ',' if !escaped => terms.push(std::mem::take(&mut term)),
            _ => term.push(c),
        }
        escaped = c == '\\' && !escaped;
    }
    terms.push(term);
    terms.retain(|term| !term.is_empty());
    terms
}

/// Splits at the first of `!=`, `==` and `=`.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.find(['=', '!'])?;
    let (field, rest) = term.split_at(at);
    for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
        if let Some(value) = rest.strip_prefix(operator) {
            return Some((field, equal, value));
        }
    }
    None
}

fn unescape(value: &str) -> ApiResult<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                other => {
                    let sequence = other.map(String::from).unwrap_or_default();
                    return Err(ApiError::bad_request(format!(
                        "invalid field selector: invalid escape sequence: \\{sequence}"
                    )));
                }
            },
            ',' | '=' => {
                return Err(ApiError::bad_request(format!(
                    "invalid field selector: unescaped character in value: {c}"
                )));
            }
            _ => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::lookup;

    #[test]
    fn field_selectors_compare_texts_and_zeroes() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
        for (selector, expected) in [
            ("", true),
            ("metadata.name=p", true),
            ("spec.nodeName==n1,status.phase!=Failed", true),
            ("spec.nodeName=", false),
            ("status.podIP=", true),
            ("spec.hostNetwork=false", true),
        ] {
            assert_eq!(FieldSelector::parse(selector).unwrap().matches(&pod), expected, "{selector}");
        }
    }

    #[test]
    fn unknown_fields_and_nonsense_are_refused() {
        let pods = lookup("", "v1", "pods").unwrap();
        let error = FieldSelector::parse("spec.foo=1").unwrap().check(&pods).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (400, "field label not supported: spec.foo"));
        let error = FieldSelector::parse("abc").unwrap_err();
        assert_eq!(error.message, "invalid selector: 'abc'; can't understand 'abc'");
        assert_eq!(FieldSelector::parse(r"a=b\,c").unwrap().terms[0].2, "b,c");
    }
}
