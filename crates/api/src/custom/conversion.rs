//! `ConversionReview`: what a conversion webhook is asked, and whether what it answers can be believed.
//!
//! Objects come back as many as went out, in their order, and as the same objects: of their metadata only labels and
//! annotations may have changed.

use std::fmt;

use serde_json::{Value, json};

use super::strategy::go_type;
use crate::field::FieldErrors;
use crate::meta;
use crate::resource::Resource;

/// A question about objects of one resource.
#[derive(Debug)]
pub struct Review<'a> {
    /// Names the question; the answer must repeat it.
    pub uid: String,
    /// The version of `ConversionReview`: `v1` or `v1beta1`.
    pub version: &'a str,
    /// The version that is wanted.
    pub to: &'a Resource,
    /// The objects, at least one.
    pub objects: Vec<Value>,
}

/// Why a webhook converted nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ReviewError {
    /// How metrics call it.
    pub failure: &'static str,
    /// What upstream says.
    pub message: String,
}

/// The first of a webhook's `conversionReviewVersions` that is spoken here.
pub fn review_version(accepted: &Value) -> Option<&str> {
    let mut versions = accepted.as_array().into_iter().flatten().filter_map(Value::as_str);
    versions.find(|version| matches!(*version, "v1" | "v1beta1"))
}

impl Review<'_> {
    /// The question as it is sent.
    pub fn body(&self) -> Value {
        json!({
            "kind": "ConversionReview",
            "apiVersion": format!("apiextensions.k8s.io/{}", self.version),
            "request": { "uid": self.uid, "desiredAPIVersion": self.to.api_version(), "objects": self.objects },
        })
    }

    /// How errors name what was to be converted: group, version and kind of the object, or of the list.
    pub fn subject(&self) -> String {
        let kind = if self.objects.len() == 1 { &self.to.kind } else { &self.to.list_kind };
        format!("{}, Kind={kind}", text(&self.objects[0], "/apiVersion"))
    }

    /// The objects in an answer.
    ///
    /// # Errors
    /// What upstream says about an answer that is none, says no, or is about other objects.
    pub fn converted(&self, answer: &mut Value) -> Result<Vec<Value>, ReviewError> {
        self.succeeded(answer).map_err(|why| self.failed("conversion_webhook_malformed_response_failure", why))?;
        let mut converted = match answer.pointer_mut("/response/convertedObjects").map(Value::take) {
            Some(Value::Array(converted)) => converted,
            _ => Vec::new(),
        };
        let (count, expected) = (converted.len(), self.objects.len());
        let returned = |failure, what: String| ReviewError {
            failure,
            message: format!("conversion webhook for {} returned {what}", self.subject()),
        };
        if count != expected {
            let what = format!("{count} objects, expected {expected}");
            return Err(returned("conversion_webhook_partial_response_failure", what));
        }
        let invalid = |what| returned("conversion_webhook_invalid_converted_object_failure", what);
        for (index, (original, converted)) in self.objects.iter().zip(&mut converted).enumerate() {
            self.check(original, converted, index).map_err(invalid)?;
        }
        Ok(converted)
    }

    /// The error of a call without a usable answer.
    pub fn failed(&self, failure: &'static str, why: impl fmt::Display) -> ReviewError {
        ReviewError { failure, message: format!("conversion webhook for {} failed: {why}", self.subject()) }
    }

    fn succeeded(&self, answer: &Value) -> Result<(), String> {
        let (response, v1) = (&answer["response"], self.version == "v1");
        let (version, kind) = (text(answer, "/apiVersion"), text(answer, "/kind"));
        if v1 && (version, kind) != ("apiextensions.k8s.io/v1", "ConversionReview") {
            let slash = if version.contains('/') { "" } else { "/" };
            return Err(format!(
                "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got \
                 {slash}{version}, Kind={kind}"
            ));
        }
        if !response.is_object() {
            return Err("no response provided".into());
        }
        let uid = text(response, "/uid");
        if v1 && uid != self.uid {
            return Err(format!("expected response.uid={:?}, got {uid:?}", self.uid));
        }
        match (text(response, "/result/status"), text(response, "/result/message")) {
            ("Success", _) => Ok(()),
            (status, "") => Err(format!("response.result.status was '{status}', not 'Success'")),
            (_, message) => Err(message.to_owned()),
        }
    }

    /// Whether an object is still the same, and restores what a webhook may not change.
    fn check(&self, original: &Value, converted: &mut Value, index: usize) -> Result<(), String> {
        let single = self.objects.len() == 1;
        let invalid = if single { "invalid object" } else { "invalid converted object" };
        let at = |why: String| format!("{invalid} at index {index}: {why}");
        let (wanted, version) = (self.to.api_version(), text(converted, "/apiVersion"));
        if version != wanted {
            return Err(at(format!("invalid groupVersion (expected {wanted}, received {version})")));
        }
        let (wanted, kind) = (text(original, "/kind"), text(converted, "/kind"));
        if kind != wanted {
            return Err(at(format!("invalid kind (expected {wanted}, received {kind})")));
        }
        for (what, path) in [("name", "/metadata/name"), ("namespace", "/metadata/namespace"), ("UID", "/metadata/uid")]
        {
            let (wanted, given) = (text(original, path), text(converted, path));
            if given != wanted {
                let why = format!("must have the same {what}: {wanted} != {given}");
                return Err(if single { format!("{invalid}: {why}") } else { at(why) });
            }
        }
        restore_metadata(original, converted).map_err(|why| match single {
            true => format!("invalid metadata: {why}"),
            false => format!("invalid metadata in object at index {index}: {why}"),
        })
    }
}

fn restore_metadata(original: &Value, converted: &mut Value) -> Result<(), String> {
    let mut given = match converted.get_mut("metadata").map(Value::take) {
        Some(Value::Object(given)) => given,
        Some(other) => return Err(format!("invalid metadata of type {} in converted object", go_type(&other))),
        None => return Err("missing metadata in converted object".into()),
    };
    let mut restored = original["metadata"].as_object().cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        let before = restored.remove(field).unwrap_or_default();
        let Some(value) = given.remove(field).filter(|value| !value.is_null()) else { continue };
        let Some(map) = value.as_object() else {
            return Err(format!("invalid metadata.{field} of type {} in converted object", go_type(&value)));
        };
        if let Some((key, wrong)) = map.iter().find(|(_, value)| !value.is_string()) {
            let kind = go_type(wrong);
            return Err(format!("metadata.{field}[{key}] must be a string, but is {kind} in converted object"));
        }
        if value != before {
            let mut errors = FieldErrors::default();
            match field {
                "labels" => meta::validate_labels(&value, "metadata.labels", &mut errors),
                // Upstream's path.
                _ => meta::validate_annotations(&value, "metadata.annotation", &mut errors),
            }
            let errors: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
            match errors.as_slice() {
                [] => {}
                [one] => return Err(one.clone()),
                many => return Err(format!("[{}]", many.join(", "))),
            }
        }
        restored.insert(field.to_owned(), value);
    }
    converted["metadata"] = restored.into();
    Ok(())
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource() -> Resource {
        let mut definition = json!({
            "spec": { "group": "example.com", "scope": "Namespaced", "versions": [
                { "name": "v2", "served": true, "storage": true, "schema": { "openAPIV3Schema": { "type": "object" } } },
            ] },
            "status": { "acceptedNames": { "kind": "Widget", "listKind": "WidgetList", "plural": "widgets" } },
        });
        definition["status"]["conditions"] = json!([{ "type": "Established", "status": "True" }]);
        super::super::served(&definition).unwrap().storage.as_ref().clone()
    }

    fn widget(version: &str, name: &str) -> Value {
        json!({ "apiVersion": format!("example.com/{version}"), "kind": "Widget",
            "metadata": { "name": name, "uid": name, "generation": 3, "labels": { "a": "1" } } })
    }

    fn answered(count: usize, change: impl FnOnce(&mut Value)) -> Result<Vec<Value>, String> {
        let to = resource();
        let names = ["a", "b"];
        let objects = names[..count].iter().map(|name| widget("v1", name)).collect();
        let review = Review { uid: "7".into(), version: "v1", to: &to, objects };
        let converted: Value = names[..count].iter().map(|name| widget("v2", name)).collect();
        let mut answer = json!({ "apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
            "response": { "uid": "7", "result": { "status": "Success" }, "convertedObjects": converted } });
        change(&mut answer);
        review.converted(&mut answer).map_err(|error| error.message)
    }

    #[test]
    fn labels_and_annotations_may_change_and_nothing_else_of_metadata() {
        let object = answered(1, |answer| {
            let meta = &mut answer["response"]["convertedObjects"][0]["metadata"];
            *meta = json!({ "name": "a", "uid": "a", "generation": 9, "annotations": { "new": "x" } });
        });
        let expected = json!({ "name": "a", "uid": "a", "generation": 3, "annotations": { "new": "x" } });
        assert_eq!(object.unwrap()[0]["metadata"], expected);
    }

    #[test]
    fn an_answer_that_cannot_be_believed_is_refused_in_upstreams_words() {
        let object = "/response/convertedObjects/0";
        for (count, path, value, expected) in [
            (
                1,
                "/kind",
                json!("Other"),
                "v1, Kind=Widget failed: expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got apiextensions.k8s.io/v1, Kind=Other",
            ),
            (1, "/response", json!(null), "v1, Kind=Widget failed: no response provided"),
            (1, "/response/uid", json!("8"), "v1, Kind=Widget failed: expected response.uid=\"7\", got \"8\""),
            (1, "/response/result", json!({ "status": "Failure", "message": "no" }), "v1, Kind=Widget failed: no"),
            (1, "/response/result", json!({}), "v1, Kind=Widget failed: response.result.status was '', not 'Success'"),
            (2, "/response/convertedObjects", json!([1]), "v1, Kind=WidgetList returned 1 objects, expected 2"),
            (
                1,
                "/response/convertedObjects/0/apiVersion",
                json!("example.com/v3"),
                "v1, Kind=Widget returned invalid object at index 0: invalid groupVersion (expected example.com/v2, received example.com/v3)",
            ),
            (
                2,
                "/response/convertedObjects/1/kind",
                json!("X"),
                "v1, Kind=WidgetList returned invalid converted object at index 1: invalid kind (expected Widget, received X)",
            ),
            (
                1,
                "/response/convertedObjects/0/metadata/name",
                json!("z"),
                "v1, Kind=Widget returned invalid object: must have the same name: a != z",
            ),
            (
                1,
                "/response/convertedObjects/0/metadata/uid",
                json!("z"),
                "v1, Kind=Widget returned invalid object: must have the same UID: a != z",
            ),
            (
                2,
                "/response/convertedObjects/0/metadata/labels",
                json!({ "a": 1 }),
                "v1, Kind=WidgetList returned invalid metadata in object at index 0: metadata.labels[a] must be a string, but is int64 in converted object",
            ),
        ] {
            let error = answered(count, |answer| *answer.pointer_mut(path).unwrap() = value).unwrap_err();
            assert_eq!(error, format!("conversion webhook for example.com/{expected}"), "{path}");
        }
        let error = answered(1, |answer| {
            answer.pointer_mut(&format!("{object}/metadata")).unwrap()["labels"] = json!({ "bad key!": "x" });
        });
        assert!(error.unwrap_err().contains("returned invalid metadata: metadata.labels: Invalid value"));
    }

    #[test]
    fn the_older_review_needs_no_uid() {
        let to = resource();
        let review = Review { uid: "7".into(), version: "v1beta1", to: &to, objects: vec![widget("v1", "a")] };
        let mut answer =
            json!({ "response": { "result": { "status": "Success" }, "convertedObjects": [widget("v2", "a")] } });
        assert_eq!(review.converted(&mut answer), Ok(vec![widget("v2", "a")]));
        assert_eq!(review_version(&json!(["v9", "v1beta1", "v1"])), Some("v1beta1"));
    }
}
