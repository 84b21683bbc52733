//! Whether an object is what its schema says, worded as `kube-openapi`'s validator words it.
//!
//! With the object's former state at hand, what is wrong but was so before is let pass (ratcheting): a tightened
//! schema must not keep people from changing other parts of an old object.

use serde_json::Value;

use super::format;
use super::schema::{Schema, SchemaOrBool};
use crate::field::{FieldError, FieldErrorKind, FieldErrors};

/// What is wrong with a value, and how many checks it came through, which tells the closest of several alternatives.
#[derive(Debug, Default)]
struct Outcome {
    errors: Vec<FieldError>,
    score: usize,
}

impl Outcome {
    fn merge(&mut self, other: Outcome) {
        self.errors.extend(other.errors);
        self.score += other.score;
    }

    fn ok(&self) -> bool {
        self.errors.is_empty()
    }

    /// The check is over; it counts if nothing was wrong.
    fn step(&mut self, error: Option<FieldError>) {
        match error {
            Some(error) => self.errors.push(error),
            None => self.score += 1,
        }
    }

    /// What is wrong with no field in particular.
    fn general(&mut self, detail: String) {
        self.errors.push(FieldError { field: "<nil>".into(), kind: FieldErrorKind::Invalid, value: "".into(), detail });
    }
}

/// What is wrong with `value` at `path` (empty for a whole object). `old`: what was there before an update.
pub fn validate(schema: &Schema, value: &Value, old: Option<&Value>, path: &str, errors: &mut FieldErrors) {
    errors.0.extend(Check { prefix: path }.ratchet(schema, value, old, "").errors);
}

/// The name of a value's type, as JSON schema has them.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A bound as Go prints it: whole numbers without a point.
fn number(value: f64) -> String {
    format!("{value}")
}

struct Check<'a> {
    /// What stands before the paths.
    prefix: &'a str,
}

impl Check<'_> {
    fn error(&self, kind: FieldErrorKind, path: &str, value: Value, detail: String) -> FieldError {
        let path = path.trim_start_matches('.');
        let field = match (self.prefix, path) {
            ("", "") => "<nil>".to_owned(),
            ("", path) => path.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, path) => format!("{prefix}.{path}"),
        };
        FieldError { field, kind, value, detail }
    }

    fn invalid(&self, path: &str, value: &Value, text: impl std::fmt::Display) -> FieldError {
        self.error(FieldErrorKind::Invalid, path, value.clone(), format!("{path} in body {text}"))
    }

    fn wrong_type(&self, path: &str, wanted: &str, found: &str) -> FieldError {
        let detail = format!("{path} in body must be of type {wanted}: {found:?}");
        self.error(FieldErrorKind::TypeInvalid, path, found.into(), detail)
    }

    fn ratchet(&self, schema: &Schema, value: &Value, old: Option<&Value>, path: &str) -> Outcome {
        let mut outcome = self.check(schema, value, old, path);
        if old == Some(value) {
            outcome.errors.clear();
        }
        outcome
    }

    fn check(&self, schema: &Schema, value: &Value, old: Option<&Value>, path: &str) -> Outcome {
        let mut outcome = Outcome::default();
        outcome.step(self.check_type(schema, value, path));
        if value.is_null() {
            outcome.step(self.check_enum(schema, value, path));
            return outcome;
        }
        outcome.merge(self.check_alternatives(schema, value, old, path));
        match value {
            Value::String(text) => {
                outcome.step(self.check_string(schema, value, text, path));
                outcome.step(self.check_format(schema, text, path));
            }
            Value::Number(_) => self.check_number(schema, value, path, &mut outcome),
            Value::Array(items) => self.check_items(schema, items, old, path, &mut outcome),
            _ => {}
        }
        outcome.step(self.check_enum(schema, value, path));
        if let Value::Object(map) = value {
            self.check_fields(schema, map, old, path, &mut outcome);
        }
        outcome.score += 1;
        outcome
    }

    fn check_type(&self, schema: &Schema, value: &Value, path: &str) -> Option<FieldError> {
        let types = schema.types();
        let found = type_name(value);
        let fits = match found {
            _ if types.is_empty() => true,
            "null" => schema.nullable,
            // A float without a fraction is an integer, an integer is a number.
            "number" if types.contains(&"integer") && value.as_f64().is_some_and(|n| n.fract() == 0.0) => true,
            "integer" if types.contains(&"number") => true,
            found => types.contains(&found),
        };
        (!fits).then(|| self.wrong_type(path, &types.join(","), found))
    }

    fn check_enum(&self, schema: &Schema, value: &Value, path: &str) -> Option<FieldError> {
        let same = |allowed: &Value| match (allowed.as_f64(), value.as_f64()) {
            (Some(allowed), Some(value)) => allowed == value,
            _ => allowed == value,
        };
        if schema.allowed.is_empty() || schema.allowed.iter().any(same) {
            return None;
        }
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let list: Vec<String> = schema.allowed.iter().map(|value| format!("{:?}", text(value))).collect();
        let detail = format!("supported values: {}", list.join(", "));
        Some(self.error(FieldErrorKind::NotSupported, path, value.clone(), detail))
    }

    fn check_string(&self, schema: &Schema, value: &Value, text: &str, path: &str) -> Option<FieldError> {
        let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        if let Some(max) = schema.max_length.filter(|max| length > *max) {
            let noun = if max == 1 { "byte" } else { "bytes" };
            let detail = format!("may not be more than {max} {noun}");
            return Some(self.error(FieldErrorKind::TooLong, path, Value::Null, detail));
        }
        if let Some(min) = schema.min_length.filter(|min| length < *min) {
            return Some(self.invalid(path, value, format_args!("should be at least {min} chars long")));
        }
        let fails = schema.regex().is_some_and(|regex| !regex.is_match(text));
        fails.then(|| self.invalid(path, value, format_args!("should match '{}'", schema.pattern)))
    }

    fn check_format(&self, schema: &Schema, text: &str, path: &str) -> Option<FieldError> {
        if schema.format.is_empty() || format::fits(&schema.format, text) {
            return None;
        }
        let detail = format!("{path} in body must be of type {}: {text:?}", schema.format);
        Some(self.error(FieldErrorKind::TypeInvalid, path, text.into(), detail))
    }

    fn check_number(&self, schema: &Schema, value: &Value, path: &str, outcome: &mut Outcome) {
        let Some(n) = value.as_f64() else { return };
        let mut bound = |fails: bool, text: String| outcome.step(fails.then(|| self.invalid(path, value, text)));
        if let Some(step) = schema.multiple_of {
            let ratio = n / step;
            bound(ratio.fract() != 0.0, format!("should be a multiple of {}", number(step)));
        }
        if let Some(max) = schema.maximum {
            let (fails, word) = if schema.exclusive_maximum { (n >= max, "") } else { (n > max, "or equal to ") };
            bound(fails, format!("should be less than {word}{}", number(max)));
        }
        if let Some(min) = schema.minimum {
            let (fails, word) = if schema.exclusive_minimum { (n <= min, "") } else { (n < min, "or equal to ") };
            bound(fails, format!("should be greater than {word}{}", number(min)));
        }
    }

    /// How many parts something has, against the least and the most it may have.
    fn check_count(&self, count: usize, [min, max]: [Option<i64>; 2], noun: &str, path: &str) -> Option<FieldError> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        if let Some(min) = min.filter(|min| count < *min) {
            return Some(self.invalid(path, &count.into(), format_args!("should have at least {min} {noun}")));
        }
        let max = max.filter(|max| count > *max)?;
        let noun = if max == 1 { "item" } else { "items" };
        let detail = format!("{count}: must have at most {max} {noun}");
        Some(self.error(FieldErrorKind::TooMany, path, Value::Null, detail))
    }

    fn check_items(&self, schema: &Schema, items: &[Value], old: Option<&Value>, path: &str, outcome: &mut Outcome) {
        if let Some(part) = schema.item() {
            let old = old.and_then(Value::as_array);
            for (i, item) in items.iter().enumerate() {
                let was = old.and_then(|old| counterpart(schema, old, i, item));
                outcome.merge(self.ratchet(part, item, was, &format!("{path}[{i}]")));
            }
        }
        outcome.step(self.check_count(items.len(), [schema.min_items, schema.max_items], "items", path));
    }

    fn check_fields(
        &self,
        schema: &Schema,
        map: &serde_json::Map<String, Value>,
        old: Option<&Value>,
        path: &str,
        outcome: &mut Outcome,
    ) {
        let limits = [schema.min_properties, schema.max_properties];
        if let Some(error) = self.check_count(map.len(), limits, "properties", path) {
            outcome.errors.push(error);
            return;
        }
        let closed = matches!(schema.additional_properties, Some(SchemaOrBool::Bool(false)));
        for (key, value) in map {
            let at = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let was = || old.and_then(|old| old.get(key));
            match schema.properties.get(key).or_else(|| schema.additional()) {
                Some(part) => outcome.merge(self.ratchet(part, value, was(), &at)),
                None if closed => {
                    let detail = format!("{path}.{key} in body is a forbidden property");
                    outcome.errors.push(self.error(FieldErrorKind::Invalid, path, key.as_str().into(), detail));
                }
                None => {}
            }
        }
        for key in schema.required.iter().filter(|key| !map.contains_key(*key)) {
            let at = format!("{path}.{key}");
            outcome.errors.push(self.error(FieldErrorKind::Required, &at, Value::Null, String::new()));
        }
    }

    /// `anyOf`, `oneOf`, `allOf` and `not`. Of alternatives that all fail, the closest tells what is wrong.
    fn check_alternatives(&self, schema: &Schema, value: &Value, old: Option<&Value>, path: &str) -> Outcome {
        let mut outcome = Outcome::default();
        let closest = |failed: Vec<Outcome>| {
            failed.into_iter().reduce(|best, next| if next.score > best.score { next } else { best })
        };
        let try_all = |list: &[Schema]| -> (Vec<Outcome>, Vec<Outcome>) {
            list.iter().map(|part| self.check(part, value, old, path)).partition(Outcome::ok)
        };
        if !schema.any_of.is_empty() {
            let (good, bad) = try_all(&schema.any_of);
            match good.into_iter().next() {
                Some(first) => outcome.merge(first),
                None => {
                    outcome.general(format!("{path:?} must validate at least one schema (anyOf)"));
                    closest(bad).into_iter().for_each(|best| outcome.merge(best));
                }
            }
        }
        if !schema.one_of.is_empty() {
            let (good, bad) = try_all(&schema.one_of);
            match good.len() {
                1 => good.into_iter().for_each(|one| outcome.merge(one)),
                0 => {
                    let text = "must validate one and only one schema (oneOf). Found none valid";
                    outcome.general(format!("{path:?} {text}"));
                    closest(bad).into_iter().for_each(|best| outcome.merge(best));
                }
                count => outcome.general(format!(
                    "{path:?} must validate one and only one schema (oneOf). Found {count} valid alternatives"
                )),
            }
        }
        if !schema.all_of.is_empty() {
            let (good, bad) = try_all(&schema.all_of);
            let none = if good.is_empty() { ". None validated" } else { "" };
            let failed = !bad.is_empty();
            good.into_iter().chain(bad).for_each(|part| outcome.merge(part));
            if failed {
                outcome.general(format!("{path:?} must validate all the schemas (allOf){none}"));
            }
        }
        if let Some(not) = &schema.not
            && self.check(not, value, old, path).ok()
        {
            outcome.general(format!("{path:?} must not validate the schema (not)"));
        }
        outcome.score += 1;
        outcome
    }
}

/// The former state of a list's item: by its keys in a map, by its place in a list of no declared type.
fn counterpart<'a>(schema: &Schema, old: &'a [Value], index: usize, item: &Value) -> Option<&'a Value> {
    match schema.list_type.as_deref() {
        Some("map") => old.iter().find(|was| schema.list_map_keys.iter().all(|key| was[key] == item[key])),
        Some(_) => None,
        None => old.get(index),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problems(schema: Value, value: Value) -> Vec<String> {
        update(schema, value, None)
    }

    fn update(schema: Value, value: Value, old: Option<Value>) -> Vec<String> {
        let spec = json!({ "type": "object", "properties": { "spec": schema } });
        let mut errors = FieldErrors::default();
        let (value, old) = (json!({ "spec": value }), old.map(|old| json!({ "spec": old })));
        validate(&Schema::read(&spec).unwrap(), &value, old.as_ref(), "", &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_wrong_is_said_in_upstreams_words() {
        let string = |rule: Value| {
            let mut schema = json!({ "type": "string" });
            schema.as_object_mut().unwrap().extend(rule.as_object().unwrap().clone());
            schema
        };
        for (schema, value, expected) in [
            (
                json!({"type": "integer"}),
                json!("x"),
                r#"spec: Invalid value: "string": spec in body must be of type integer: "string""#,
            ),
            (
                json!({"type": "string"}),
                json!(null),
                r#"spec: Invalid value: "null": spec in body must be of type string: "null""#,
            ),
            (
                json!({"x-kubernetes-int-or-string": true}),
                json!(true),
                r#"spec: Invalid value: "boolean": spec in body must be of type integer,string: "boolean""#,
            ),
            (string(json!({"maxLength": 2})), json!("abc"), "spec: Too long: may not be more than 2 bytes"),
            (
                string(json!({"minLength": 2})),
                json!("a"),
                r#"spec: Invalid value: "a": spec in body should be at least 2 chars long"#,
            ),
            (
                string(json!({"pattern": "^[a-z]+$"})),
                json!("A1"),
                r#"spec: Invalid value: "A1": spec in body should match '^[a-z]+$'"#,
            ),
            (
                string(json!({"enum": ["a", "b"]})),
                json!("c"),
                r#"spec: Unsupported value: "c": supported values: "a", "b""#,
            ),
            (
                string(json!({"format": "date-time"})),
                json!("today"),
                r#"spec: Invalid value: "today": spec in body must be of type date-time: "today""#,
            ),
            (
                json!({"type": "integer", "minimum": 1, "maximum": 5}),
                json!(0),
                "spec: Invalid value: 0: spec in body should be greater than or equal to 1",
            ),
            (
                json!({"type": "number", "maximum": 5, "exclusiveMaximum": true}),
                json!(5),
                "spec: Invalid value: 5: spec in body should be less than 5",
            ),
            (
                json!({"type": "integer", "multipleOf": 3}),
                json!(4),
                "spec: Invalid value: 4: spec in body should be a multiple of 3",
            ),
            (
                json!({"type": "array", "maxItems": 1, "items": {"type": "string"}}),
                json!(["a", "b"]),
                "spec: Too many: 2: must have at most 1 item",
            ),
            (
                json!({"type": "array", "items": {"type": "string"}}),
                json!(["a", 1]),
                r#"spec[1]: Invalid value: "integer": spec[1] in body must be of type string: "integer""#,
            ),
            (json!({"type": "object", "required": ["a"]}), json!({}), "spec.a: Required value"),
            (
                json!({"type": "object", "additionalProperties": {"type": "boolean"}}),
                json!({"k": 1}),
                r#"spec.k: Invalid value: "integer": spec.k in body must be of type boolean: "integer""#,
            ),
            (
                json!({"type": "object", "not": {"required": ["a"]}}),
                json!({"a": 1}),
                r#"<nil>: Invalid value: "": "spec" must not validate the schema (not)"#,
            ),
        ] {
            assert_eq!(problems(schema.clone(), value.clone()), [expected], "{schema} {value}");
        }
    }

    #[test]
    fn of_several_alternatives_the_closest_tells_why() {
        let schema = json!({ "type": "object", "properties": { "a": { "type": "object" }, "b": { "type": "string" } },
            "oneOf": [{ "required": ["a"] }, { "required": ["b"], "properties": { "b": { "enum": ["x"] } } }] });
        assert_eq!(problems(schema.clone(), json!({"b": "x"})), Vec::<String>::new());
        assert_eq!(
            problems(schema.clone(), json!({"b": "y"}))[0],
            r#"<nil>: Invalid value: "": "spec" must validate one and only one schema (oneOf). Found none valid"#
        );
        assert_eq!(
            problems(schema, json!({"a": {}, "b": "x"})),
            [
                r#"<nil>: Invalid value: "": "spec" must validate one and only one schema (oneOf). Found 2 valid alternatives"#
            ]
        );
        let any = json!({ "anyOf": [{ "type": "integer" }, { "type": "string" }], "x-kubernetes-int-or-string": true });
        assert_eq!(problems(any, json!("80%")), Vec::<String>::new());
        let all = json!({ "type": "integer", "allOf": [{ "minimum": 2 }, { "maximum": 9 }] });
        assert_eq!(problems(all, json!(1)).len(), 2);
    }

    #[test]
    fn what_is_right_passes() {
        for (schema, value) in [
            (json!({"type": "integer"}), json!(1.0)),
            (json!({"type": "number"}), json!(1)),
            (json!({"type": "string", "nullable": true}), json!(null)),
            (json!({"x-kubernetes-preserve-unknown-fields": true}), json!({"a": [1]})),
            (json!({"type": "string", "format": "no-such-format"}), json!("x")),
        ] {
            assert_eq!(problems(schema, value), Vec::<String>::new());
        }
    }

    #[test]
    fn what_was_wrong_before_may_stay_as_it_is() {
        let schema = json!({ "type": "object", "properties": {
            "a": { "type": "string", "maxLength": 1 }, "b": { "type": "integer" },
            "list": { "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                      "items": { "type": "object", "properties": { "k": { "type": "string" }, "v": { "type": "integer", "minimum": 1 } } } },
        } });
        let old = json!({ "a": "long", "b": 1, "list": [{ "k": "x", "v": 0 }] });
        let mut new = json!({ "a": "long", "b": 2, "list": [{ "k": "y", "v": 1 }, { "k": "x", "v": 0 }] });
        assert_eq!(update(schema.clone(), new.clone(), Some(old.clone())), Vec::<String>::new());
        new["a"] = "other".into();
        assert_eq!(
            update(schema, new, Some(old)),
            ["spec.a: Too long: may not be more than 1 bytes".replace("bytes", "byte")]
        );
    }
}
