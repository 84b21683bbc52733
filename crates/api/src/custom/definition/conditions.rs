//! The status of a definition: which names it got, and whether it is served.
//!
//! [`reconcile`] is the decision of upstream's naming, establishing, non-structural-schema and api-approval
//! controllers in one; the API server runs it whenever a definition changed.

use serde_json::{Value, json};

use super::approval::{self, Approval};
use super::structural;
use crate::custom::Schema;

/// Marks a definition that goes as soon as its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// The condition of that type.
pub fn condition<'a>(definition: &'a Value, kind: &str) -> Option<&'a Value> {
    definition["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// Sets a condition; the time of its last transition moves when its status does.
pub fn set(definition: &mut Value, kind: &str, status: &str, reason: &str, message: &str) {
    let before = condition(definition, kind).filter(|before| before["status"] == status);
    let since = before.map(|before| before["lastTransitionTime"].clone());
    let since = since.unwrap_or_else(|| coracle_clock::now_seconds().to_string().into());
    // As upstream, it does not say of which generation it is: what held before still holds until it is said anew.
    let new = json!({
        "type": kind, "status": status, "lastTransitionTime": since, "reason": reason, "message": message,
    });
    let conditions = &mut definition["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(list) = conditions.as_array_mut() else { return };
    match list.iter_mut().find(|condition| condition["type"] == kind) {
        Some(place) => *place = new,
        None => list.push(new),
    }
}

fn remove(definition: &mut Value, kind: &str) {
    if let Some(list) = definition["status"]["conditions"].as_array_mut() {
        list.retain(|condition| condition["type"] != kind);
    }
}

/// The definition with the status it should have; `others` are all definitions, this one's former state perhaps
/// among them.
pub fn reconcile<'a>(definition: &Value, others: impl Iterator<Item = &'a Value>) -> Value {
    let mut new = definition.clone();
    names(&mut new, definition, others);
    schema(&mut new);
    approval(&mut new);
    new
}

fn names<'a>(new: &mut Value, definition: &Value, others: impl Iterator<Item = &'a Value>) {
    let (wanted, accepted) = (&definition["spec"]["names"], &definition["status"]["acceptedNames"]);
    let (mut resources, mut kinds): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for other in others.filter(|other| {
        other["spec"]["group"] == definition["spec"]["group"]
            && other["metadata"]["name"] != definition["metadata"]["name"]
    }) {
        let names = &other["status"]["acceptedNames"];
        resources.extend(["plural", "singular"].iter().filter_map(|field| names[*field].as_str()));
        resources.extend(names["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str));
        kinds.extend(["kind", "listKind"].iter().filter_map(|field| names[*field].as_str()));
    }
    let mut got = if accepted.is_object() { accepted.clone() } else { json!({}) };
    let mut refusal: Option<(&str, String)> = None;
    let in_use = |name: &str| format!("{name:?} is already in use");
    for (field, reason, taken) in [
        ("plural", "PluralConflict", &resources),
        ("singular", "SingularConflict", &resources),
        ("shortNames", "ShortNamesConflict", &resources),
        ("kind", "KindConflict", &kinds),
        ("listKind", "ListKindConflict", &kinds),
    ] {
        let names: Vec<&str> = match &wanted[field] {
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect(),
        };
        let conflicts: Vec<String> =
            names.iter().filter(|name| taken.contains(name)).map(|name| in_use(name)).collect();
        match conflicts.as_slice() {
            [] => copy(&mut got, wanted, field),
            [one] => refusal = Some((reason, one.clone())),
            many => refusal = Some((reason, format!("[{}]", many.join(", ")))),
        }
    }
    copy(&mut got, wanted, "categories");
    new["status"]["acceptedNames"] = got;
    match &refusal {
        Some((reason, message)) => set(new, "NamesAccepted", "False", reason, message),
        None => set(new, "NamesAccepted", "True", "NoConflicts", "no conflicts found"),
    }
    let established = condition(definition, "Established").is_some_and(|condition| condition["status"] == "True");
    match refusal {
        _ if established => {}
        None => set(new, "Established", "True", "InitialNamesAccepted", "the initial names have been accepted"),
        Some(_) => set(new, "Established", "False", "NotAccepted", "not all names are accepted"),
    }
}

fn copy(to: &mut Value, from: &Value, field: &str) {
    match from.get(field) {
        Some(value) => to[field] = value.clone(),
        None => drop(to.as_object_mut().and_then(|to| to.remove(field))),
    }
}

/// `NonStructuralSchema`: old definitions may have such; new ones are refused.
fn schema(new: &mut Value) {
    let mut problems = Vec::new();
    for (i, version) in new["spec"]["versions"].as_array().into_iter().flatten().enumerate() {
        let document = &version["schema"]["openAPIV3Schema"];
        let path = format!("spec.versions[{i}].schema.openAPIV3Schema");
        match Schema::read(document) {
            _ if document.is_null() => {}
            Ok(schema) => problems.extend(structural::problems(&schema, &path).0.iter().map(ToString::to_string)),
            Err(why) => problems.push(format!("{path}: {why}")),
        }
    }
    match problems.as_slice() {
        [] => remove(new, "NonStructuralSchema"),
        [one] => set(new, "NonStructuralSchema", "True", "Violations", one),
        many => set(new, "NonStructuralSchema", "True", "Violations", &format!("[{}]", many.join(", "))),
    }
}

/// `KubernetesAPIApprovalPolicyConformant`, for groups that belong to Kubernetes.
fn approval(new: &mut Value) {
    const KIND: &str = "KubernetesAPIApprovalPolicyConformant";
    if !approval::protected(new["spec"]["group"].as_str().unwrap_or_default()) {
        return remove(new, KIND);
    }
    let (state, why) = approval::state(&new["metadata"]["annotations"]);
    let (status, reason) = match state {
        Approval::Invalid => ("False", "InvalidAnnotation"),
        Approval::Missing => ("False", "MissingAnnotation"),
        Approval::Bypassed => ("False", "UnapprovedAnnotation"),
        Approval::Approved => ("True", "ApprovedAnnotation"),
    };
    set(new, KIND, status, reason, &why);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(name: &str, kind: &str, short: &[&str]) -> Value {
        json!({
            "metadata": { "name": format!("{name}.example.com"), "generation": 1 },
            "spec": { "group": "example.com", "versions": [],
                      "names": { "plural": name, "singular": kind.to_lowercase(), "kind": kind,
                                 "listKind": format!("{kind}List"), "shortNames": short } },
            "status": {},
        })
    }

    fn reason<'a>(definition: &'a Value, kind: &str) -> (&'a str, &'a str) {
        let condition = condition(definition, kind).unwrap();
        (condition["status"].as_str().unwrap(), condition["reason"].as_str().unwrap())
    }

    #[test]
    fn fresh_names_are_accepted_and_the_definition_established() {
        let first = reconcile(&definition("widgets", "Widget", &["wd"]), [].iter());
        assert_eq!(reason(&first, "NamesAccepted"), ("True", "NoConflicts"));
        assert_eq!(reason(&first, "Established"), ("True", "InitialNamesAccepted"));
        assert_eq!(first["status"]["acceptedNames"], first["spec"]["names"]);
        assert_eq!(reconcile(&first, [first.clone()].iter()), first, "nothing left to do");
    }

    #[test]
    fn names_that_are_taken_are_not_given_twice() {
        let first = reconcile(&definition("widgets", "Widget", &["wd"]), [].iter());
        let others = [first];
        let second = reconcile(&definition("gadgets", "Widget", &["wd"]), others.iter());
        assert_eq!(reason(&second, "NamesAccepted"), ("False", "ListKindConflict"));
        assert_eq!(reason(&second, "Established"), ("False", "NotAccepted"));
        assert_eq!(second["status"]["acceptedNames"], json!({ "plural": "gadgets" }));
        let third = reconcile(&definition("gizmos", "Gizmo", &["wd"]), others.iter());
        assert_eq!(condition(&third, "NamesAccepted").unwrap()["message"], "\"wd\" is already in use");
        // When the first is gone, its names are free.
        let freed = reconcile(&third, [].iter());
        assert_eq!(reason(&freed, "Established"), ("True", "InitialNamesAccepted"));
    }

    #[test]
    fn groups_of_kubernetes_need_an_approval() {
        let mut crd = definition("widgets", "Widget", &[]);
        crd["spec"]["group"] = "widgets.k8s.io".into();
        let kind = "KubernetesAPIApprovalPolicyConformant";
        assert_eq!(reason(&reconcile(&crd, [].iter()), kind), ("False", "MissingAnnotation"));
        crd["metadata"]["annotations"] =
            json!({ "api-approved.kubernetes.io": "https://github.com/kubernetes/kubernetes/pull/1" });
        assert_eq!(reason(&reconcile(&crd, [].iter()), kind), ("True", "ApprovedAnnotation"));
    }
}
