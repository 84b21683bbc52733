//! Rules in schemas: what a CustomResourceDefinition's author and a custom resource's author get to see.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use coracle_api::FieldErrors;
use coracle_cel::{RUNTIME_COST_BUDGET, Validator, check_schema};
use serde_json::{Value, json};

fn checked(schema: &Value) -> Vec<String> {
    let mut errors = FieldErrors::default();
    check_schema(schema, "schema", &mut errors);
    errors.0.iter().map(ToString::to_string).collect()
}

/// Errors and warnings.
fn validated(schema: &Value, object: &Value, old: Option<&Value>) -> (Vec<String>, Vec<String>) {
    let findings = Validator::new(schema, true).unwrap().validate("", object, old, RUNTIME_COST_BUDGET);
    (findings.errors.0.iter().map(ToString::to_string).collect(), findings.warnings)
}

/// A schema whose `spec` has these properties and rules.
fn schema(properties: Value, rules: Value) -> Value {
    json!({ "type": "object", "properties": {
        "spec": { "type": "object", "properties": properties, "x-kubernetes-validations": rules } } })
}

#[test]
fn a_rule_refuses_with_its_message_reason_and_field() {
    let schema = schema(
        json!({ "min": { "type": "integer" }, "max": { "type": "integer" } }),
        json!([
            { "rule": "self.min <= self.max", "message": "min must not exceed max" },
            { "rule": "self.min >= 0", "messageExpression": "'min is ' + string(self.min)", "reason": "FieldValueForbidden",
              "fieldPath": ".min" },
            { "rule": "self.max < 100" },
        ]),
    );
    assert_eq!(checked(&schema), [""; 0]);
    let (errors, _) = validated(&schema, &json!({ "spec": { "min": -5, "max": -6 } }), None);
    assert_eq!(errors, ["spec: Invalid value: \"object\": min must not exceed max", "spec.min: Forbidden: min is -5"]);
    let (errors, _) = validated(&schema, &json!({ "spec": { "min": 1, "max": 100 } }), None);
    assert_eq!(errors, ["spec: Invalid value: \"object\": failed rule: self.max < 100"]);
    let (errors, _) = validated(&schema, &json!({ "spec": { "min": 1 } }), None);
    assert_eq!(
        errors,
        [
            "spec: Invalid value: \"object\": no such key: max evaluating rule: min must not exceed max",
            "spec: Invalid value: \"object\": no such key: max evaluating rule: self.max < 100",
        ]
    );
}

#[test]
fn the_root_knows_its_metadata_and_nothing_else_of_it() {
    let of = |rule: &str| json!({ "type": "object", "x-kubernetes-validations": [{ "rule": rule }] });
    assert_eq!(
        checked(&of("self.metadata.name.startsWith('x') && self.kind == 'K' && self.apiVersion != ''")),
        [""; 0]
    );
    let errors = checked(&of("self.metadata.labels.size() > 0"));
    assert!(errors[0].contains("undefined field 'labels'"), "{errors:?}");
    let (errors, _) =
        validated(&of("self.metadata.name.startsWith('x')"), &json!({ "metadata": { "name": "y" } }), None);
    assert_eq!(errors, [": Invalid value: \"object\": failed rule: self.metadata.name.startsWith('x')"]);
}

#[test]
fn transition_rules_see_the_old_value_where_it_can_be_found() {
    let schema = schema(
        json!({
            "fixed": { "type": "string", "x-kubernetes-validations": [{ "rule": "self == oldSelf", "message": "is immutable" }] },
            "grows": { "type": "integer", "x-kubernetes-validations": [
                { "rule": "!oldSelf.hasValue() || self >= oldSelf.value()", "optionalOldSelf": true, "message": "must not shrink" }] },
            "list": { "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "maxItems": 5,
                "items": { "type": "object", "required": ["name"], "properties": { "name": { "type": "string" },
                    "size": { "type": "integer", "x-kubernetes-validations": [{ "rule": "self >= oldSelf" }] } } } } }),
        json!([]),
    );
    assert_eq!(checked(&schema), [""; 0]);
    let old = json!({ "spec": { "fixed": "a", "grows": 3, "list": [{ "name": "x", "size": 3 }, { "name": "y", "size": 1 }] } });
    let new = json!({ "spec": { "fixed": "b", "grows": 2, "list": [{ "name": "y", "size": 1 }, { "name": "x", "size": 2 }] } });
    assert_eq!(validated(&schema, &new, None).0, [""; 0]);
    assert_eq!(
        validated(&schema, &new, Some(&old)).0,
        [
            "spec.fixed: Invalid value: \"string\": is immutable",
            "spec.grows: Invalid value: \"integer\": must not shrink",
            "spec.list[1].size: Invalid value: \"integer\": failed rule: self >= oldSelf",
        ]
    );
}

#[test]
fn what_was_wrong_before_and_is_untouched_only_warns() {
    let schema = schema(
        json!({ "a": { "type": "integer", "x-kubernetes-validations": [{ "rule": "self < 5" }] }, "b": { "type": "integer" } }),
        json!([]),
    );
    let old = json!({ "spec": { "a": 9, "b": 1 } });
    let (errors, warnings) = validated(&schema, &json!({ "spec": { "a": 9, "b": 2 } }), Some(&old));
    assert_eq!(
        (errors.len(), warnings),
        (0, vec!["spec.a: Invalid value: \"integer\": failed rule: self < 5".to_owned()])
    );
    assert_eq!(validated(&schema, &json!({ "spec": { "a": 8, "b": 2 } }), Some(&old)).0.len(), 1);
}

#[test]
fn rules_that_make_no_sense_are_refused_with_the_schema() {
    let one = |rule: Value| {
        checked(&schema(
            json!({ "a": { "type": "integer" }, "l": { "type": "array",
        "maxItems": 3, "items": { "type": "string", "maxLength": 3 } } }),
            json!([rule]),
        ))
    };
    for (rule, wanted) in [
        (
            json!({ "rule": "self.b == 1" }),
            "rule: Invalid value: {\"rule\":\"self.b == 1\"}: compilation failed: ERROR: <input>:1:5: undefined field 'b'",
        ),
        (json!({ "rule": "self.a" }), "cel expression must evaluate to a bool"),
        (json!({ "rule": "true", "messageExpression": "1" }), "messageExpression must evaluate to a string"),
        (json!({ "rule": "true", "optionalOldSelf": true }), "may not be set if oldSelf is not used in rule"),
    ] {
        let errors = one(rule);
        assert!(errors.len() == 1 && errors[0].contains(wanted), "{wanted}: {errors:?}");
    }
    let atomic = json!({ "type": "object", "properties": { "l": { "type": "array", "maxItems": 9,
        "items": { "type": "string", "maxLength": 9, "x-kubernetes-validations": [{ "rule": "self == oldSelf" }] } } } });
    let errors = checked(&atomic);
    assert!(
        errors[0]
            .contains("oldSelf cannot be used on the uncorrelatable portion of the schema within schema.properties[l]"),
        "{errors:?}"
    );
}

#[test]
fn rules_that_may_cost_too_much_are_refused_with_the_schema() {
    let nested = |bounds: bool| {
        let mut items = json!({ "type": "string" });
        let mut list = json!({ "type": "array" });
        if bounds {
            items["maxLength"] = 10.into();
            list["maxItems"] = 10.into();
        }
        list["items"] = items;
        schema(json!({ "l": list }), json!([{ "rule": "self.l.all(a, self.l.all(b, a == b || a.contains(b)))" }]))
    };
    assert_eq!(checked(&nested(true)), [""; 0]);
    let errors = checked(&nested(false));
    let path = "schema.properties[spec].x-kubernetes-validations[0].rule: Forbidden:";
    assert_eq!(
        errors,
        [
            format!("{path} estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"),
            format!("{path} contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"),
            "schema: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)".to_owned(),
        ]
    );
    // A cheap rule on each of very many items adds up.
    let many = json!({ "type": "object", "properties": { "l": { "type": "array", "items": { "type": "string",
        "x-kubernetes-validations": [{ "rule": "self.contains('x')" }] } } } });
    assert!(
        checked(&many).iter().any(|error| error.contains("estimated rule cost exceeds budget")),
        "{:?}",
        checked(&many)
    );
}

#[test]
fn an_object_has_one_budget_for_all_its_rules() {
    let schema = json!({ "type": "object", "properties": { "l": { "type": "array", "items": { "type": "integer" },
        "x-kubernetes-validations": [{ "rule": "self.all(a, self.all(b, a <= b || a > b))" }] } } });
    let object = json!({ "l": (0..300).collect::<Vec<_>>() });
    let findings = Validator::new(&schema, true).unwrap().validate("", &object, None, RUNTIME_COST_BUDGET);
    assert_eq!(findings.errors.0.len(), 0, "{:?}", findings.errors);
    let findings = Validator::new(&schema, true).unwrap().validate("", &object, None, 1000);
    assert!(findings.errors.0[0].detail.contains("running out of cost budget"), "{:?}", findings.errors);
    let object = json!({ "l": (0..2000).collect::<Vec<_>>() });
    let findings = Validator::new(&schema, true).unwrap().validate("", &object, None, RUNTIME_COST_BUDGET);
    assert!(findings.errors.0[0].detail.contains("call cost exceeds limit"), "{:?}", findings.errors);
}
